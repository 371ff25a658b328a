"""The table to fill in: what it shows of the model, and that it goes into `add` once it is filled in."""

from __future__ import annotations

import csv
import io
import sys
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_bundle import ATTRIBUTES, RULE, class_table
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes
from zsl_runtime.classes.template import EXAMPLES, MOST_EXAMPLES, Template, by_name, class_template, number_text
from zsl_runtime.errors import UsageError
from zsl_runtime.head.class_file import read_class_csv
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.names import TURNING
from zsl_runtime.head.workbook import ESCAPED

if TYPE_CHECKING:
    from pathlib import Path

TABLE = class_table()


@pytest.fixture(scope="module", params=["gaussian", "rows"])
def bundle(request, shared_bundle) -> Bundle:
    """The second one says nothing of ranges: they are those of its seen classes."""
    return Bundle.open(shared_bundle(rule=request.param))


def rows_of(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def examples(template: Template) -> list[str]:
    return list(template.examples.names)


def test_it_has_the_attributes_the_ranges_and_three_classes_above_an_empty_row(bundle):
    header, smallest, largest, *shown, row = rows_of(class_template(bundle).csv(mark=False))
    assert header == ["name", *ATTRIBUTES]
    known = TABLE.raw[TABLE.seen]
    assert (smallest[0], [float(one) for one in smallest[1:]]) == ("# smallest in training", known.min(axis=0).tolist())
    assert (largest[0], [float(one) for one in largest[1:]]) == ("# largest in training", known.max(axis=0).tolist())
    assert len(shown) == EXAMPLES
    for name, *values in shown:
        assert name.startswith("# example: ")
        raw = TABLE.raw[TABLE.index(name.removeprefix("# example: "))]
        assert [float(one) for one in values] == raw.tolist()
    assert row == ["NEW CLASS", *[""] * len(ATTRIBUTES)]


def test_without_a_name_the_examples_are_the_classes_in_the_middle(bundle):
    vectors = RULE.apply(TABLE.raw).astype(float)
    away = ((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1)
    assert examples(class_template(bundle)) == [TABLE.names[j] for j in np.argsort(away)[:3]]
    assert examples(class_template(bundle, ["Quetzalcoatlus"])) == examples(class_template(bundle))


def test_a_name_brings_the_classes_that_are_called_so(bundle):
    assert examples(class_template(bundle, ["Tree Sparrow"]))[0] == "house sparrow"
    assert examples(class_template(bundle, ["Wrens"]))[0] == "wren"
    assert examples(class_template(bundle, ["barn owl", "tree sparrow"]))[:2] == ["eagle owl", "house sparrow"]


def test_many_names_have_one_example_each_and_no_class_comes_twice(bundle):
    names = [f"sparrow {letter}" for letter in "abcdefghijklmnop"]
    shown = examples(class_template(bundle, names))
    assert len(set(shown)) == len(shown) == len(TABLE) <= MOST_EXAMPLES
    assert len(examples(class_template(bundle, names[:5]))) == 5
    assert shown[0] == "house sparrow"


def test_a_class_gives_its_values_and_stands_among_those_next_to_it(bundle):
    template = class_template(bundle, ["barn owl", "tawny owl"], like=" eagle owl ")
    first, second = rows_of(template.csv(mark=False))[-2:]
    owl = TABLE.raw[TABLE.index("eagle owl")].tolist()
    assert (first[0], [float(one) for one in first[1:]]) == ("barn owl", owl)
    assert (second[0], second[1:]) == ("tawny owl", first[1:])
    vectors = RULE.apply(TABLE.raw).astype(float)
    near = np.argsort(-(vectors @ vectors[TABLE.index("eagle owl")]))[:3]
    assert examples(template) == [TABLE.names[j] for j in near]
    assert examples(template)[0] == "eagle owl"


@pytest.mark.parametrize(
    ("names", "like", "code", "told"),
    [
        (["a/b"], None, "E-CLASS-NAME", "'a/b'"),
        (["# owl"], None, "E-CLASS-NAME", "begins as a comment does"),
        (["x", " x"], None, "E-CLASS-DUPLICATE", "'x'"),
        (["x", "wren"], None, "E-CLASS-EXISTS", "'wren' of the names given"),
        ([], "wrem", "E-CLASS-UNKNOWN", "did you mean wren?"),
    ],
)
def test_names_that_could_not_be_added_are_refused(bundle, names, like, code, told):
    with pytest.raises(UsageError) as caught:
        class_template(bundle, names, like)
    assert caught.value.code == code
    assert told in caught.value.message


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_filled_in_it_goes_into_add_and_not_filled_in_it_does_not(own_bundle, tmp_path, kind):
    bundle = Bundle.open(own_bundle(rule="gaussian"))
    heron = [0, 7, 1, 1, 7, 1.5]
    template = class_template(bundle, ["heron", "=1+1"])
    path = tmp_path / f"new.{kind}"
    for values, like in ((None, None), (np.array(heron), "wren")):
        whole = replace(class_template(bundle, ["heron", "=1+1"], like), values=values)
        path.write_bytes(whole.workbook() if kind == "xlsx" else whole.csv(mark=True))
        if values is None:
            with pytest.raises(UsageError, match=r"'heron', column 'red' is empty.*\(and 11 more such cells"):
                read_class_csv(path, attributes=bundle.attributes, need_split=False)
    table = read_class_csv(path, attributes=bundle.attributes, need_split=False)
    assert (table.names, table.raw.tolist()) == (template.names, [heron, heron])
    assert add_classes(bundle, table.take(np.array([0]))).names == ("heron",)


def test_left_as_it_is_the_row_of_a_class_is_no_class(bundle, tmp_path):
    path = tmp_path / "new.csv"
    for like in (None, "wren"):
        path.write_bytes(class_template(bundle, like=like).csv(mark=False))
        with pytest.raises(UsageError, match="is still called 'NEW CLASS', as the template calls it"):
            read_class_csv(path, attributes=bundle.attributes, need_split=False)


TEXT = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"], blacklist_characters="/\\"), max_size=10)
NAMES = TEXT.map(lambda text: unicodedata.normalize("NFC", text).strip()).filter(
    lambda name: (
        name not in {"", ".", "..", "name", "split", "NEW CLASS"}
        and not name.startswith("# ")
        and not set(name) & TURNING
    )
)
SEVERAL = st.lists(NAMES, min_size=1, max_size=4, unique=True).map(tuple)


@given(data=st.data(), attributes=SEVERAL, names=SEVERAL)
def test_whatever_it_holds_is_read_back_exactly(tmp_path_factory, data, attributes, names):
    """Formulas, quotes, semicolons and every digit; from both kinds of file, unless a workbook refuses the text."""
    rows = st.lists(st.floats(-3e38, 3e38), min_size=len(attributes), max_size=len(attributes))
    values = np.array(data.draw(rows.filter(lambda row: max(map(abs, row)) > 1e-37)))
    shown = ClassTable(("e",), np.array([True]), values[None], attributes)
    template = Template(attributes, np.stack([values, values], axis=1), shown, names, values)
    folder = tmp_path_factory.mktemp("t")
    (folder / "a.csv").write_bytes(template.csv(mark=True))
    paths = [folder / "a.csv"]
    if not any(ESCAPED.search(text) or set(text) & {"\ufffe", "\uffff"} for text in (*names, *attributes)):
        paths.append(folder / "a.xlsx")
        paths[1].write_bytes(template.workbook())
    for path in paths:
        table = read_class_csv(path, attributes=attributes, need_split=False)
        assert table.names == names
        np.testing.assert_array_equal(table.raw, np.tile(values, (len(names), 1)))


# --- the workbook ----------------------------------------------------------------------------------------------------


def book_of(template: Template, path: Path):
    path.write_bytes(template.workbook())
    return openpyxl.load_workbook(path).active


def test_the_header_stays_in_sight_comments_are_grey_and_cells_know_what_is_usual(bundle, tmp_path):
    sheet = book_of(class_template(bundle, ["heron"], like="wren"), tmp_path / "a.xlsx")
    assert sheet.freeze_panes == "B2"
    assert [cell.value for cell in sheet[1]] == ["name", *ATTRIBUTES]
    assert [sheet.cell(line, 1).value[:9] for line in range(2, 7)] == ["# smalles", "# largest", *["# example"] * 3]
    for line in range(1, 8):
        grey = [(cell.font.color and cell.font.color.rgb, cell.fill.fgColor.rgb) for cell in sheet[line]]
        assert (grey == [("FF808080", "FFF2F2F2")] * 7) == (2 <= line <= 6)
    assert [cell.value for cell in sheet[7]] == ["heron", *TABLE.raw[TABLE.index("wren")].tolist()]
    ranges = {str(check.sqref): check for check in sheet.data_validations.dataValidation}
    assert len(ranges) == len(ATTRIBUTES)
    size = ranges["G7:G1007"]
    assert (size.formula1, size.formula2, size.errorStyle, size.prompt) == ("0", "2", "warning", "0 to 2")
    assert size.showErrorMessage
    assert size.showInputMessage


def test_what_looks_like_a_formula_is_text_and_says_so(bundle, tmp_path):
    names = ["=SUM(A1:A9)", "+49", "-owl", "@home", "plain owl"]
    template = class_template(bundle, names)
    assert template.formulas == tuple(names[:4])
    sheet = book_of(template, tmp_path / "a.xlsx")
    cells = [sheet.cell(line, 1) for line in range(sheet.max_row - 4, sheet.max_row + 1)]
    assert [(cell.value, cell.data_type, cell.number_format, cell.quotePrefix) for cell in cells] == [
        (name, "s", "@", True) for name in names
    ]
    assert [row[0] for row in rows_of(template.csv(mark=True))[-5:]] == [*(f"'{name}" for name in names[:4]), names[4]]


def test_letters_beyond_ascii_bring_a_mark_where_it_may_be(bundle):
    template = class_template(bundle)  # the size is called größe
    assert template.csv(mark=True).startswith(b"\xef\xbb\xbf")
    assert not template.csv(mark=False).startswith(b"\xef\xbb\xbf")
    plain = Template(
        ("a",), np.zeros((1, 2)), ClassTable(("e",), np.array([True]), np.ones((1, 1)), ("a",)), ("x",), None
    )
    assert plain.csv(mark=True) == b"name,a\n# smallest in training,0\n# largest in training,0\n# example: e,1\nx,\n"


def test_without_the_library_the_line_that_installs_it_is_told(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UsageError, match=r'E-XLSX-MISSING: .*pip install "zsl-deploy\[xlsx\]"'):
        class_template(bundle).workbook()


# --- names and numbers -----------------------------------------------------------------------------------------------


def test_names_are_alike_by_their_words_the_last_one_above_all():
    known = ("Fox Terrier", "Song Sparrow", "House Wren", "001.Song_Thrush", "Foxglove", "Sparow")
    assert [known[row] for row in by_name("Fox Sparrow", known)] == ["Song Sparrow", "Fox Terrier", "Sparow"]
    assert [known[row] for row in by_name("Song_Wren", known)][:2] == ["House Wren", "001.Song_Thrush"]
    assert by_name("Fox Sparrow", ("Fox Sparkler", "Great Crested Sparrow")) == [1, 0]
    assert by_name("Quetzal", known) == []
    assert by_name("家麻雀", ("树麻雀", "鹰")) == [0]


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_comes_back_and_whole_ones_have_no_point(value):
    text = number_text(value)
    assert float(text) == value
    assert not text.endswith(".0") or abs(value) >= 1e15
