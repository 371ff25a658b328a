"""Tables of classes that users write."""

from __future__ import annotations

import csv
import io
import unicodedata
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zsl_runtime.errors import SystemProblem, UsageError, ZslError
from zsl_runtime.head.class_file import read_class_csv
from zsl_runtime.head.class_table import ClassTable, check_class_name
from zsl_runtime.head.names import TURNING

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = "name,split,red,long tail\nrobin,seen,1,0.5\nwren,unseen,0,1e-3\n"
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "classes.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(folder: Path, text: str | bytes, *, attributes=None, need_split: bool = True) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_class_csv(write(folder, text), attributes=attributes, need_split=need_split)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.encode("utf-8-sig"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        '"name","split","red","long tail"\n"robin","seen","1","0.5"\n\n , , ,\nwren , unseen , 0 , 1e-3',
    ],
    ids=["plain", "byte-order mark", "CRLF", "CR", "quoted, blank lines, spaces, no last newline"],
)
def test_the_same_table_whatever_the_program_that_saved_it(tmp_path, text):
    table = read_class_csv(write(tmp_path, text), need_split=True)
    assert table.names == ("robin", "wren")
    assert table.seen.tolist() == [True, False]
    assert table.attributes == ("red", "long tail")
    assert table.raw.dtype == np.float64
    assert table.raw.tolist() == [[1.0, 0.5], [0.0, 1e-3]]


def test_columns_are_matched_by_name_in_any_order(tmp_path):
    path = write(tmp_path, "long tail,name,red\n0.5,crow,-1\n")
    table = read_class_csv(path, attributes=("red", "long tail"), need_split=False)
    assert table.attributes == ("red", "long tail")
    assert table.raw.tolist() == [[-1.0, 0.5]]
    assert table.seen.tolist() == [False]


def test_decomposed_and_composed_letters_are_the_same_name_and_column(tmp_path):
    text = unicodedata.normalize("NFD", "name,größe\n Übersee-Ente ,1\n")
    table = read_class_csv(write(tmp_path, text), attributes=("größe",), need_split=False)
    assert table.names == ("Übersee-Ente",)
    assert check_class_name("  house  sparrow ") == "house  sparrow"


@pytest.mark.parametrize("split", ["unseen", " unseen "])
def test_a_split_column_may_stand_in_a_file_of_new_classes_if_all_are_unseen(tmp_path, split):
    table = read_class_csv(write(tmp_path, f"name,split,a\nx,{split},1\n"), attributes=("a",), need_split=False)
    assert not table.seen.any()


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("", "E-CLASSES-EMPTY", ["empty"]),
        ("\n , \n", "E-CLASSES-EMPTY", ["empty"]),
        ("name,split,a\n", "E-CLASSES-EMPTY", ["no classes"]),
        ("title,split,a\nx,seen,1\n", "E-CSV-COLUMNS", ["'name'", "'title'"]),
        ("name,a\nx,1\n", "E-CSV-COLUMNS", ["'split'"]),
        ("name,split,a,a\nx,seen,1,1\n", "E-CSV-COLUMNS", ["'a'", "more than once"]),
        ("name,split,a,\nx,seen,1,1\n", "E-CSV-COLUMNS", ["column 4"]),
        ("name,split\nx,seen\n", "E-ATTRIBUTES", ["no attribute columns"]),
        ("name,split,a\nx,seen\n", "E-CSV", ["line 2", "2 cells", "3"]),
        ("name,split,a\nx,seen,1\ny,seen,1,2\n", "E-CSV", ["line 3", "4 cells"]),
        ('name,split,a\n"x,seen,1\n', "E-CSV", ["line 2"]),
        ('name,split,a\n"x"y,seen,1\n', "E-CSV", ["line 2"]),
        (b"name,split,a\nM\xfcller,seen,1\n", "E-CSV", ["UTF-8", "byte 14"]),
        ("name,split,a\n ,seen,1\n", "E-CLASS-NAME", ["line 2"]),
        ("name,split,a\nx,seen,1\n..,seen,1\n", "E-CLASS-NAME", ["line 3", "'..'"]),
        ("name,split,a\na/b,seen,1\n", "E-CLASS-NAME", ["'a/b'", "'/'"]),
        ("name,split,a\na\\b,seen,1\n", "E-CLASS-NAME", ["line 2"]),
        ("name,split,a\na\0b,seen,1\n", "E-CLASS-NAME", ["line 2"]),
        ('name,split,a\n"a\nb",seen,1\n', "E-CLASS-NAME", ["line 3"]),
        ("name,split,a\nx,seen,1\n x,unseen,1\n", "E-CLASS-DUPLICATE", ["'x'"]),
        ("name,split,a\nx,both,1\n", "E-CLASSES-SPLIT", ["line 2", "'x'", "'both'"]),
        ("name,split,a\nx,,1\n", "E-CLASSES-SPLIT", ["''"]),
        ("name,split,a,b\nx,seen,1,1\ny,seen,,1\n", "E-ATTRIBUTE-VALUE", ["line 3", "'y'", "'a' is empty;"]),
        ("name,split,a,b\nx,seen, ,\n", "E-ATTRIBUTE-VALUE", ["line 2", "'a' is empty;", "1 more"]),
        ("name,split,a\nx,seen,lots\n", "E-ATTRIBUTE-VALUE", ["line 2", "'x'", "'a'", "'lots'"]),
        ("name,split,a\nx,seen,1_0\n", "E-ATTRIBUTE-VALUE", ["'1_0'"]),
        ("name,split,a\nx,seen,nan\n", "E-ATTRIBUTE-VALUE", ["'nan'"]),
        ("name,split,a\nx,seen,-inf\n", "E-ATTRIBUTE-VALUE", ["'-inf'"]),
        ("name,split,a\nx,seen,1e999\n", "E-ATTRIBUTE-VALUE", ["'1e999'"]),
        ('name,split,a,b\nx,seen,"0,5",NaN\n', "E-ATTRIBUTE-VALUE", ["'0,5'", "1 more"]),
        ("name,split,a,b\nx,seen,0,0\n", "E-ATTRIBUTE-ZERO", ["line 2", "'x'"]),
    ],
)
def test_what_cannot_be_meant_is_refused_and_named(tmp_path, text, code, told):
    error = refused(tmp_path, text)
    assert error.code == code
    assert all(word in error.message for word in told), error.message


def test_missing_and_extra_columns_are_named(tmp_path):
    error = refused(tmp_path, "name,red,tall\nx,1,1\n", attributes=("red", "long tail"), need_split=False)
    assert error.code == "E-ATTRIBUTES"
    assert "'long tail'" in error.message
    assert "'tall'" in error.message
    many = tuple(f"a{i}" for i in range(9))
    assert "and 4 more" in refused(tmp_path, "name,b\nx,1\n", attributes=many, need_split=False).message


def test_a_seen_class_cannot_be_added(tmp_path):
    assert refused(tmp_path, "name,split,a\nx,seen,1\n", attributes=("a",), need_split=False).code == "E-CLASSES-SPLIT"


def test_rows_whose_name_begins_with_a_number_sign_and_a_space_are_passed_over(tmp_path):
    """Whatever else they hold; a number sign alone is part of a name."""
    text = "a,name,split\n1,# smallest,\nx, # a note,seen\n2,#1,seen\n,#,unseen\n3,# ,\n"
    error = refused(tmp_path, text)
    assert (error.code, "line 5, class '#', column 'a' is empty" in error.message) == ("E-ATTRIBUTE-VALUE", True)
    table = read_class_csv(write(tmp_path, text.replace("\n,#,", "\n4,#,")), need_split=True)
    assert (table.names, table.raw.tolist()) == (("#1", "#"), [[2], [4]])
    assert refused(tmp_path, "name,split,a\n# x,seen,1\n").code == "E-CLASSES-EMPTY"


def test_the_name_that_the_template_gives_must_be_changed(tmp_path):
    error = refused(tmp_path, "name,a\nx,1\n NEW CLASS ,1\n", attributes=("a",), need_split=False)
    assert error.code == "E-CLASS-NAME"
    assert "line 3: the class is still called 'NEW CLASS'" in error.message
    assert read_class_csv(write(tmp_path, "name,split,a\nNEW CLASS,seen,1\n"), need_split=True).names == ("NEW CLASS",)


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(SystemProblem, match="read the table"):
            read_class_csv(path, need_split=True)


NAMES = st.text(
    st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"], blacklist_characters="/\\"), min_size=1, max_size=12
).filter(
    lambda name: name.strip() not in {"", ".", ".."} and not name.strip().startswith("# ") and not set(name) & TURNING
)
NUMBERS = st.floats(-3e38, 3e38)


@st.composite
def tables(draw) -> ClassTable:
    def unique(least, most):
        key = lambda text: unicodedata.normalize("NFC", text).strip()  # noqa: E731
        return st.lists(NAMES, min_size=least, max_size=most, unique_by=key).map(lambda names: tuple(map(key, names)))

    names = draw(unique(1, 5))
    attributes = draw(unique(1, 4).filter(lambda names: not {"name", "split"} & set(names)))
    rows = st.lists(NUMBERS, min_size=len(attributes), max_size=len(attributes)).filter(
        lambda row: max(map(abs, row)) > 1e-37
    )
    raw = np.array([draw(rows) for _ in names], dtype=np.float64)
    seen = np.array([draw(st.booleans()) for _ in names])
    return ClassTable(names, seen, raw, attributes)


@SAME_FOLDER
@given(
    table=tables(),
    order=st.randoms(use_true_random=False),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    mark=st.booleans(),
)
def test_what_csv_writer_wrote_is_read_back_exactly(tmp_path, table, order, ending, quoting, mark):
    columns = ["name", "split", *table.attributes]
    order.shuffle(columns)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=ending, quoting=quoting)
    writer.writerow(columns)
    for name, seen, raw in zip(table.names, table.seen, table.raw, strict=True):
        cells = {"name": name, "split": "seen" if seen else "unseen"} | dict(zip(table.attributes, raw, strict=True))
        writer.writerow([repr(float(cells[c])) if c in table.attributes else cells[c] for c in columns])
    path = write(tmp_path, text.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    back = read_class_csv(path, attributes=table.attributes, need_split=True)
    assert back.names == table.names
    assert back.attributes == table.attributes
    np.testing.assert_array_equal(back.seen, table.seen)
    np.testing.assert_array_equal(back.raw, table.raw)


@SAME_FOLDER
@given(data=st.binary(max_size=300) | st.text(max_size=200).map(lambda text: ("name,split,a\n" + text).encode()))
def test_no_bytes_lead_to_anything_but_a_table_or_our_error(tmp_path, data):
    told = ""
    try:
        table = read_class_csv(write(tmp_path, data), need_split=True)
        assert np.isfinite(table.raw).all()
        assert len(set(table.names)) == len(table)
    except ZslError as error:
        told = str(error)
    assert "\n" not in told
