"""Tables as spreadsheet programs and others write them: read where they can be meant in one way, else told."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.traced import peak_of
from zsl_runtime.errors import UsageError, ZslError
from zsl_runtime.head import table as table_module
from zsl_runtime.head.class_file import read_class_csv
from zsl_runtime.head.packed import PackedRows
from zsl_runtime.head.table import NAMES_BYTES, memory_of, read_table

if TYPE_CHECKING:
    from pathlib import Path

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
PLAIN = "name,a,b\nx,1,0.5\nwren,2,-3\n"
VALUES = [[1.0, 0.5], [2.0, -3.0]]


def read(folder: Path, data: str | bytes, attributes: tuple[str, ...] | None = ("a", "b"), name: str = "t.csv"):
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_class_csv(path, attributes=attributes, need_split=False)


def refused(folder: Path, data: str | bytes, attributes=("a", "b"), name: str = "t.csv") -> str:
    with pytest.raises(UsageError) as caught:
        read(folder, data, attributes, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- separators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first", ["sep=,", '"sep=,"', "SEP=,", "sep=,,", "\ufeffsep=,", "sep=, ", " sep = ,", "\n \nsep=,", "'sep=,'"]
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_first_line_that_says_the_separator_is_none_of_the_table(tmp_path, first, ending):
    table = read(tmp_path, f"{first}\n{PLAIN}".replace("\n", ending))
    assert (table.names, table.raw.tolist(), table.notes) == (("x", "wren"), VALUES, ())


@pytest.mark.parametrize(
    ("first", "mark"),
    [
        ("sep=;", ";"),
        ("sep=\t", "\t"),
        ("sep=\\t", "\t"),
        ("sep=:", ":"),
        ("sep=^", "^"),
        ("", ";"),
        ("", "\t"),
        ("", "|"),
    ],
)
def test_other_separators_are_seen_by_the_columns_that_must_be_there(tmp_path, first, mark):
    text = PLAIN.replace(",", mark)
    assert read(tmp_path, f"{first}\n{text}" if first else text).raw.tolist() == VALUES


def test_a_comma_stays_the_separator_where_names_hold_semicolons(tmp_path):
    table = read(tmp_path, "name,a;b,b\nx;y;z,1,2\n", ("a;b", "b"))
    assert (table.names, table.raw.tolist()) == (("x;y;z",), [[1, 2]])


def test_what_can_be_cut_in_two_ways_is_refused_until_it_says_which(tmp_path):
    text = "a;name;b,name,c;d\n1;x;1,2,3;4\n"
    with pytest.raises(UsageError, match="can be read with commas and semicolons between its cells; say which in a f"):
        read(tmp_path, text, None)
    (tmp_path / "t.csv").write_text(f"sep=;\n{text}")
    assert read_table(tmp_path / "t.csv", ("name",)).rows[1] == (3, ["1", "x", "1,2,3", "4"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"sep=x\n{PLAIN}", "line 2 seems to name the columns ('name', 'a', 'b'); remove the rows above it"),
        (f"sep=;\n{PLAIN}", "no column 'name' (it begins 'name,a,b'); cells are separated by semicolons"),
        ("sep=,\n", "is empty"),
        ('"name,a,b"\n"x,1,2"\n', "and the first line is one cell: leave out quotes around whole lines"),
        ("name:a:b\nx:1:2\n", "no column 'name' (it begins 'name:a:b'); cells are separated by commas"),
        ("Birds of 2026\n\nname,a,b\nx,1,2\n", "line 3 seems to name the columns ('name', 'a', 'b'); remove the rows"),
        ('[{"name": "x", "a": 1}]', "seems to be JSON; save it as 'CSV UTF-8'"),
        ('name,a,b\n"x,1,2\ny,1,2\n', "line 3: unexpected end of data (the row begins in line 2)"),
        ('name,a,b\n"x' + ",1,2\n" * 40_000, "field larger than field limit (131072) (the row begins in line 2)"),
    ],
)
def test_what_is_cut_otherwise_is_told(tmp_path, text, told):
    assert told in refused(tmp_path, text)


# --- widths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "name,a,b,,\nx,1,0.5,,\nwren,2,-3,,\n",
        "name,a,b\nx,1,0.5,\nwren,2,-3,,,\n",
        "name,a,b,,\nx,1,0.5\nwren,2,-3,\n",
        "name,,a,b\nx,,1,0.5\nwren, ,2,-3\n",
        PLAIN + ",,\n,,,,\n",
        "\n,,\n" + PLAIN,
        PLAIN + "\x1a\r\n",
        "# made by a program\n# with, commas\n" + PLAIN,
        "name,a,b\n# a note\nx,1,0.5\n# another, longer, one, here\nwren,2,-3\n",
        ",name,a,b\n0,x,1,0.5\n1,wren,2,-3\n",
        "Unnamed: 0,name,a,b\n0,x,1,0.5\n1,wren,2,-3\n",
        '"","name","a","b"\n"1","x",1,0.5\n"2","wren",2,-3\n',
        "Unnamed: 0,name,a,Unnamed: 3,b\n0,x,1,,0.5\n1,wren,2,,-3\n",
    ],
    ids=[
        "columns at the end",
        "longer rows",
        "a longer header",
        "a column in the middle",
        "rows of commas",
        "blank rows first",
        "Ctrl-Z",
        "comments first",
        "comments of any width",
        "pandas' index",
        "pandas' index, read and written again",
        "R's row names",
        "an empty column that pandas named",
    ],
)
def test_what_is_blank_or_only_numbers_the_rows_is_passed_over(tmp_path, text):
    for attributes in (("a", "b"), None):
        table = read(tmp_path, text, attributes)
        assert (table.names, table.attributes, table.raw.tolist()) == (("x", "wren"), ("a", "b"), VALUES)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,a,b,\nx,1,2,\ny,1,2,note\n", "column 4 of 't.csv' has no name, and 't.csv', line 3 holds 'note' there"),
        (",name,a,b\n7,x,1,2\n", "column 1 of 't.csv' has no name, and 't.csv', line 2 holds '7' there"),
        ("Unnamed: 0,name,a,b\n7,x,1,2\n", "has no name ('Unnamed: 0')"),
        ("name,a,b\n1,x,1,2\n2,y,1,2\n", "every row has one more: perhaps the first column has no name"),
        ("name,a,b\nx,0,5,1\ny,1,2\n", "a decimal comma must be a point"),
        ("name,a,b\nx,1\n", "line 2 has 2 cells, the line of column names has 3"),
    ],
)
def test_what_is_not_blank_is_not_passed_over(tmp_path, text, told):
    assert told in refused(tmp_path, text, None).replace(f"{tmp_path}/", "")


# --- letters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_with_a_mark_is_read_in_its_encoding(tmp_path, encoding):
    table = read(tmp_path, "name\ta\tb\nGrüne Möwe 🐦\t1\t0,5\n".encode(encoding))
    assert (table.names, table.raw.tolist()) == (("Grüne Möwe 🐦",), [[1, 0.5]])


def test_big_endian_text_with_a_mark(tmp_path):
    assert read(tmp_path, b"\xfe\xff" + PLAIN.encode("utf-16-be")).raw.tolist() == VALUES
    assert read(tmp_path, b"\x00\x00\xfe\xff" + PLAIN.encode("utf-32-be")).raw.tolist() == VALUES


@pytest.mark.parametrize("header", ["\ufeff\ufeffname,a,b", '"\ufeffname",a,b', "\u00ef\u00bb\u00bfname,a,b"])
def test_a_mark_more_than_one_belongs_to_no_name(tmp_path, header):
    assert read(tmp_path, f"\ufeff{header}\nx,1,0.5\nwren,2,-3\n").raw.tolist() == VALUES
    assert read(tmp_path, f"{header}\nx,1,0.5\nwren,2,-3\n").raw.tolist() == VALUES


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            "name,a\nMüller,1\n".encode("cp1252"),
            "line 2: this would be 'Müller' in Windows-1252 (ANSI) and 'M¸ller' in",
        ),
        (
            "name,a\r\nx,1\r\nMüller,1\r\n".encode("mac_roman"),
            "line 3: this would be 'MŸller' in Windows-1252 (ANSI) and '",
        ),
        (PLAIN.encode("utf-16-le"), "seems to be UTF-16 without a byte-order mark"),
        (PLAIN.encode("utf-16-be"), "seems to be UTF-16 without a byte-order mark"),
        (PLAIN.encode("utf-32-le"), "seems to be UTF-32 without a byte-order mark"),
        (PLAIN.encode("utf-16") + b"x", "begins as UTF-16 does and is not UTF-16 (byte"),
        (PLAIN.encode() + bytes(4096), "ends in NUL bytes, as files do that were not written whole; copy it again"),
        (bytes(512), "holds NUL bytes and no text"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "is no text"),
        (b"GIF89a\x01\x02" + bytes(50), "is no text (it begins b'GIF89a\\x01\\x02')"),
        (b"\x80\x04\x95\x06\x8c\x02\x01", "is no text"),
        ("\u00ef\u00bb\u00bfname,a,b\nM\u00c3\u00bcller,1,2\n", "was made UTF-8 twice"),
    ],
)
def test_letters_that_cannot_be_sure_are_told_what_they_seem_to_be(tmp_path, data, told):
    message = refused(tmp_path, data)
    assert message.startswith("E-CSV: ")
    assert told in message
    assert "save it as 'CSV UTF-8'" in message or "copy it again" in message or "from its source" in message


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1.5 ", 1.5),
        ("\u22120.5", -0.5),
        ("\uff10\uff0e\uff15", 0.5),
        ("\u00a02\u00a0", 2),
        ("\u200b3", 3),
        ("-0.0", 0),
    ],
)
def test_numbers_in_other_letters_are_the_numbers_they_are(tmp_path, cell, value):
    assert read(tmp_path, f"name,a,b\nx,{cell},1\n").raw.tolist() == [[value, 1]]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("0,5", "holds '0,5' (a decimal comma: write 0.5)"),
        ("1,000", "(is this 1.000 or 1000?)"),
        ("1,234,567", "(is this a fraction or 1234567?)"),
        ("1 234,5", "(leave out what separates thousands)"),
        ("1'000", "(leave out what separates thousands)"),
        ("50%", "(a percentage: write it as in training, such as 0.5 or 50)"),
        ("TRUE", "(write 1 or 0)"),
        ("#DIV/0!", "(an error of the spreadsheet program: mend the formula)"),
        ("#N/A", "(an error of the spreadsheet program"),
        ("'0.5", "(leave the apostrophe out)"),
        ("=1/2", "(a formula: save values)"),
        ("Mar-1", "(a date, as spreadsheet programs make of some numbers"),
        ("01.02.2026", "(a date"),
        ("1e300", "(beyond 3.4e38, the largest number that a model can hold)"),
        ("-1e39", "(beyond 3.4e38"),
        ("9" * 400, "(beyond 3.4e38"),
        ("0x10", "holds '0x10'; expected"),
        ("\u00bd", "holds '\u00bd'; expected"),
        ("5\u00b2", "holds '5\u00b2'; expected"),
        ("Infinity", "holds 'Infinity'; expected"),
    ],
)
def test_what_is_no_number_is_told_what_it_seems_to_be(tmp_path, cell, told):
    message = refused(tmp_path, f'name,a,b\nx,1,"{cell}"\n')
    assert message.startswith("E-ATTRIBUTE-VALUE: ")
    assert told in message
    assert "line 2, class 'x', column 'b'" in message


@pytest.mark.parametrize(
    ("rows", "values"),
    [
        ("x;1;0,5\ny;1,25;3\n", [[1, 0.5], [1.25, 3]]),
        ("x;1,000;0,5\n", [[1, 0.5]]),
        ("x;1,5E-3;-2,5\n", [[0.0015, -2.5]]),
        ("x;1;2\n", [[1, 2]]),
        ("x;1.5;2\n", [[1.5, 2]]),
        ("x;1.000;0.500\n", [[1, 0.5]]),
    ],
)
def test_between_semicolons_a_comma_that_can_only_be_decimal_is_one(tmp_path, rows, values):
    table = read(tmp_path, f"name;a;b\n{rows}")
    assert table.raw.tolist() == values
    assert [note.partition(" has decimal commas: ")[1] != "" for note in table.notes] == [True] * ("," in rows)


@pytest.mark.parametrize(
    "rows", ["x;1,000;2\n", "x;1,5;0.5\n", "x;1.234,5;1\n", "x;1,000;0,5\ny;1,2,3;1\n", "x;,5;1\n", "x;1.000;2\n"]
)
def test_a_comma_that_may_be_something_else_is_not_guessed(tmp_path, rows):
    assert refused(tmp_path, f"name;a;b\n{rows}").startswith("E-ATTRIBUTE-VALUE: ")


def test_a_row_of_numbers_too_small_for_a_model_is_a_row_of_zeros(tmp_path):
    assert "is 0 or as good as 0 (below 1.2e-38), so" in refused(tmp_path, "name,a,b\nx,5e-324,1e-300\n")
    assert read(tmp_path, "name,a,b\nx,5e-324,2e-38\n").raw.tolist() == [[5e-324, 2e-38]]


# --- column names -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_seen_and_case_of_name_and_split_do_not_count(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('\u200bNAME,\u00a0Split ,long\u00a0tail,"long\nbill",\u2060b\nx,Seen,1,2,3\ny, UNSEEN,1,2,3\n')
    wanted = ("long tail", "long bill", "b")
    table = read_class_csv(path, attributes=wanted, need_split=True)
    assert (table.attributes, table.seen.tolist()) == (wanted, [True, False])
    assert read_class_csv(path, need_split=True).attributes[1] == "long bill"


def test_an_attribute_that_is_called_as_a_column_but_for_case_stays_one(tmp_path):
    table = read(tmp_path, "name,Name,SPLIT\nx,1,2\n", ("SPLIT", "Name"))
    assert (table.names, table.raw.tolist()) == (("x",), [[2, 1]])
    assert "'Name', 'NAME'" in refused(tmp_path, "Name,NAME,a\nx,y,1\n", None)


def test_columns_that_differ_from_attributes_in_case_or_underscores_are_told(tmp_path):
    told = refused(tmp_path, "name,Long_Tail,b\nx,1,2\n", ("long tail", "b"))
    assert "call 'Long_Tail' as 'long tail'" in told


def test_control_characters_are_no_part_of_a_column_name(tmp_path):
    assert "E-CSV-COLUMNS" in refused(tmp_path, "name,a,b\x1b[2J\nx,1,2\n", None)


# --- files of other kinds ---------------------------------------------------------------------------------------------


def packed(**parts: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name.replace("__", "/").replace("_xml", ".xml").replace("_bin", ".bin"), text)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "an old Excel workbook (.xls), or one with a password"),
        (packed(mimetype="application/vnd.oasis.opendocument.spreadsheet"), "an OpenDocument file (.ods)"),
        (packed(xl__workbook_bin="x"), "a binary Excel workbook (.xlsb)"),
        (packed(**{"Index/Document.iwa": "x"}), "a Numbers document"),
        (packed(word__document_xml="x"), "a Word document"),
        (b"PAR1" + bytes(50), "a Parquet file"),
        (b"\x1f\x8b\x08", "packed by gzip; unpack it"),
        (b"%PDF-1.7", "a PDF"),
        (b"\n<!DOCTYPE html><table>", "HTML, as of a page of the web"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><Workbook>', "XML"),
        (b"SQLite format 3\0", "a database"),
        (b"\x93NUMPY\x01\0", "an .npy file"),
    ],
)
def test_a_file_of_another_kind_is_told_what_it_is(tmp_path, name, data, told):
    message = refused(tmp_path, data, name=name)
    assert message.startswith("E-XLSX: " if name == "t.xlsx" else "E-CSV: ")
    assert f"' is {told}" in message


def test_a_pipe_without_a_writer_a_device_and_a_giant_are_no_tables(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.xlsx").symlink_to("/dev/zero")
    (tmp_path / "giant.csv").write_text("name,a,b\n")
    os.truncate(tmp_path / "giant.csv", 1 << 40)
    for name, told in (
        ("pipe.csv", "E-CSV: .*' is a pipe that nobody writes to"),
        ("zero.xlsx", "E-XLSX: .*' is a device"),
        ("giant.csv", "E-CSV: .*' has 1,099,511,627,776 bytes or more"),
    ):
        with pytest.raises(UsageError, match=told):
            read_table(tmp_path / name, ("name",))


def test_a_workbook_is_read_whatever_it_is_called_and_text_that_is_called_so_is_told(tmp_path):
    book = openpyxl.Workbook()
    for row in (["name", "a", "b"], ["x", 1, 0.5], ["wren", 2, -3]):
        book.active.append(row)
    book.save(tmp_path / "b.xlsx")
    for name in ("t.csv", "t.xlsm", "t"):
        assert read(tmp_path, (tmp_path / "b.xlsx").read_bytes(), name=name).raw.tolist() == VALUES
    assert "is text, not a workbook: if it is CSV, let its name end in .csv" in refused(tmp_path, PLAIN, name="t.xlsx")
    assert read(tmp_path, PLAIN.replace(",", "\t"), name="t.xls").raw.tolist() == VALUES


# --- any table --------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=8)
DIALECTS = [
    (mark, declared, encoding)
    for mark in (",", ";", "\t", "|")
    for declared in (True, False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
]


@SAME_FOLDER
@given(
    cells=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(TEXT.map(str.strip).filter(bool), min_size=width, max_size=width), min_size=0, max_size=4
        )
    ),
    dialect=st.sampled_from(DIALECTS),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    blank=st.integers(0, 2),
    place=st.integers(0, 4),
)
def test_every_dialect_reads_back_exactly(tmp_path, cells, dialect, ending, quoting, blank, place):
    mark, declared, encoding = dialect
    width = len(cells[0]) if cells else 2
    header = [f"column {k}" for k in range(width)]
    header.insert(min(place, width), "name")
    rows = [[*row[: min(place, width)], f"n{k}", *row[min(place, width) :]] for k, row in enumerate(cells)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=mark, lineterminator=ending, quoting=quoting)
    writer.writerows([*row, *[""] * blank] for row in (header, *rows))
    whole = (f"sep={mark}{ending}" if declared else "") + text.getvalue()
    path = tmp_path / "t.csv"
    path.write_bytes(whole.encode(encoding))
    table = read_table(path, ("name",))
    assert [row[: width + 1] for _, row in table.rows] == [header, *rows]


@SAME_FOLDER
@given(
    raw=st.lists(st.tuples(*[st.floats(-1e30, 1e30)] * 2).filter(lambda row: max(map(abs, row)) > 1e-30), min_size=1),
    mark=st.sampled_from([";", "\t"]),
)
def test_numbers_with_decimal_commas_are_read_exactly_or_refused(tmp_path, raw, mark):
    """As programs write them in countries with decimal commas; refused where every comma is before three digits."""
    written = [[repr(one).replace(".", ",") for one in row] for row in raw]
    rows = "".join(f"c{k}{mark}{mark.join(row)}\n" for k, row in enumerate(written))
    (tmp_path / "t.csv").write_text(f"name{mark}a{mark}b\n{rows}")
    commas = [cell.lstrip("-").split(",") for row in written for cell in row if "," in cell]
    open_to_doubt = all(len(after) == 3 and len(before) <= 3 and before[0] != "0" for before, after in commas)
    if commas and open_to_doubt:
        with pytest.raises(UsageError, match="E-ATTRIBUTE-VALUE"):
            read_class_csv(tmp_path / "t.csv", attributes=("a", "b"), need_split=False)
    else:
        table = read_class_csv(tmp_path / "t.csv", attributes=("a", "b"), need_split=False)
        np.testing.assert_array_equal(table.raw, np.array(raw))


@SAME_FOLDER
@given(
    data=st.binary(max_size=200)
    | st.text(max_size=120).map(lambda text: ("name;a\n" + text).encode())
    | st.tuples(
        st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "cp1252"]), st.text("nameab;,\t\"'\n\r\0 é1.", max_size=60)
    ).map(lambda one: ("sep=;\nname" + one[1]).encode(one[0]))
)
def test_no_bytes_lead_to_anything_but_rows_of_one_width_or_our_error(tmp_path, data):
    (tmp_path / "t.csv").write_bytes(data)
    told = ""
    try:
        table = read_table(tmp_path / "t.csv", ("name",), comments=True)
        assert len({len(cells) for _, cells in table.rows}) <= 1
    except ZslError as error:
        told = str(error)
    assert "\n" not in told


# --- memory -----------------------------------------------------------------------------------------------------------


def lines_of(rows: int, columns: int, cell: str, mark: str = ",", name: str = "c") -> str:
    header = mark.join(["name", *(f"a{k}" for k in range(columns))])
    return "\n".join([header, *(mark.join([f"{name}{k}", *[cell] * columns]) for k in range(rows))]) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        lines_of(1000, 1024, "0.123456"),
        lines_of(1000, 1024, "1"),
        lines_of(40_000, 1, "1"),
        lines_of(1000, 1024, "0.25", name="größe 猫 🐦 "),
        lines_of(1000, 512, "0,123456", mark=";"),
        lines_of(1000, 512, "0.1234", mark=";"),
        "sep=:\n" + lines_of(1000, 512, "1", mark=":"),
        lines_of(20, 60_000, "1"),
    ],
    ids=["numbers", "digits", "rows", "letters", "decimal commas", "semicolons", "colons", "columns"],
)
def test_a_table_takes_no_more_memory_than_is_reckoned_before(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    table, peak = peak_of(lambda: read_class_csv(path, need_split=False))
    reckoned = memory_of(path.read_bytes())
    assert len(table) == text.count("\n") - text.startswith("sep") - 1
    names = 500 * max(len(table.attributes), 4000)
    assert peak < reckoned - NAMES_BYTES + names, (peak, reckoned)
    assert names <= NAMES_BYTES


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_a_table_of_more_memory_than_there_may_be_is_refused_before_it_is_taken_apart(tmp_path, monkeypatch, encoding):
    text = lines_of(200, 50, "1").encode(encoding)
    wanted = memory_of(text)
    monkeypatch.setattr(table_module, "MOST_MEMORY", wanted)
    assert len(read(tmp_path, text, None)) == 200
    monkeypatch.setattr(table_module, "MOST_MEMORY", wanted - 1)
    monkeypatch.setattr(table_module, "_decoded", None)
    assert "GB of memory, and a table may take 0.0; split it" in refused(tmp_path, text)


@pytest.mark.parametrize("text", ["name," + "x" * 9000, "name,a\nx," + "1" * 9000, "name,a\r" + "x,1" * 3000])
def test_a_line_that_no_table_has_is_refused_before_it_is_taken_apart(tmp_path, monkeypatch, text):
    monkeypatch.setattr(table_module, "LONGEST_LINE", 8000)
    monkeypatch.setattr(table_module, "_decoded", None)
    assert "has a line of more than 8,000 bytes" in refused(tmp_path, text)


@pytest.mark.parametrize("ending", ["\n", "\r", "\r\n"])
def test_lines_that_tables_have_are_read_wherever_they_end(tmp_path, monkeypatch, ending):
    text = lines_of(300, 40, "1").replace("\n", ending)
    monkeypatch.setattr(table_module, "LONGEST_LINE", max(map(len, text.split(ending))) + len(ending))
    assert read(tmp_path, text, None).raw.shape == (300, 40)


def test_a_giant_of_one_line_takes_its_own_bytes_alone(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"name," + b"x" * (20 << 20))
    told, peak = peak_of(lambda: refused(tmp_path, (tmp_path / "t.csv").read_bytes()))
    assert "has a line of more than 16,777,216 bytes" in told
    assert peak < 42 << 20  # what the test reads, and what is read


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name" + ",a" * 70_000 + "\nx" + ",1" * 70_000, 1),
        ("name,a\nx" + ",1" * 70_000, 2),
        ("name,a\nx" + ",1" * 400_000, 2),
        ("name,a\n" + '"\n1",' * 200_000, 98_306),
    ],
)
def test_a_row_of_more_columns_than_any_table_has_is_refused(tmp_path, text, line):
    told = refused(tmp_path, text, None)
    assert f"line {line} has " in told
    assert "a table may have 65,536 columns" in told


def test_many_columns_without_a_name_are_passed_over_at_once(tmp_path):
    """As spreadsheet programs leave them; each had been looked for in all rows."""
    blank = "," * 30_000
    table = read(tmp_path, f"name,a{blank}\n" + "".join(f"c{k},1{blank}\n" for k in range(40)), ("a",))
    assert (len(table), table.attributes) == (40, ("a",))
    assert "column 30000 of" in refused(tmp_path, f"name,a{blank}\nx,1{blank[:-2]}z,\n", ("a",))


CELLS = st.lists(
    st.text(st.characters(codec=None) | st.sampled_from("\x1f\ud800,\n"), max_size=5), min_size=1, max_size=5
)


@given(rows=st.lists(st.tuples(st.integers(0, 2**40), CELLS), max_size=8), cut=st.slices(8))
def test_packed_rows_are_rows(rows, cut):
    packed = PackedRows()
    for row in rows:
        packed.append(*row)
    assert list(packed) == rows
    assert (list(packed[cut]), packed.widths()) == (rows[cut], {len(cells) for _, cells in rows})
    assert list(packed.where(lambda row: len(row[1]) > 2)) == [row for row in rows if len(row[1]) > 2]
    assert all(packed[k] == rows[k] for k in range(-len(rows), len(rows)))
