"""Tables in workbooks: the same as in CSV files, whatever wrote them, and no harm from those made to harm."""

from __future__ import annotations

import csv
import datetime as dt
import io
import random
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.sheets import MAIN, sheet, text_row, write_book
from support.traced import peak_of
from zsl_runtime.errors import SystemProblem, UsageError, ZslError
from zsl_runtime.head import workbook
from zsl_runtime.head.class_file import read_class_csv
from zsl_runtime.head.workbook import cell_name, check_writable, read_sheet

if TYPE_CHECKING:
    from pathlib import Path

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def save(path: Path, rows: list[list[object]]) -> Path:
    """As the library writes it."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def read(path: Path, *attributes: str):
    return read_class_csv(path, attributes=attributes or None, need_split=False)


def refused(path: Path, *attributes: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read(path, *attributes)
    assert "\n" not in str(caught.value)
    return caught.value


# --- what is read ----------------------------------------------------------------------------------------------------


def test_columns_in_any_order_comments_blank_rows_and_another_sheet(tmp_path):
    path = save(
        tmp_path / "new.XLSX",
        [
            [],
            ["größe", "name", "red"],
            [0, "# smallest in training", "anything"],
            [None, None, " "],
            [1.5, " Übersee-Ente ", "1e-3"],
            [3, 12, 0],
        ],
    )
    book = openpyxl.load_workbook(path)
    book.create_sheet("other")["A1"] = "not read"
    book.save(path)
    table = read(path, "red", "größe")
    assert table.names == ("Übersee-Ente", "12")
    assert table.raw.tolist() == [[1e-3, 1.5], [0, 3]]
    assert not table.seen.any()


@pytest.mark.parametrize("dimension", ["A1:XFD1048576", "A1", "A1:A2", ""])
def test_values_stand_in_for_formulas_and_styled_blank_cells_are_none(tmp_path, dimension):
    """Written by hand: the library writes no value beside a formula. What the sheet says of its size is wrong."""
    rows = (
        text_row(1, ["name", "a"]),
        '<row r="3"><c r="A3" t="str"><f>"cr"&amp;"ow"</f><v>crow</v></c><c r="B3"><f>1/8</f><v>0.125</v></c></row>',
        '<row r="5"><c r="A5"/><c r="D5"/></row>',
    )
    path = write_book(tmp_path / "a.xlsx", sheet("".join(rows), dimension=dimension))
    assert read_sheet(path.read_bytes(), "a", bool) == ([(1, ["name", "a"]), (3, ["crow", "0.125"])], (), {})
    assert read(path, "a").raw.tolist() == [[0.125]]


NUMBERS = st.floats(-1e38, 1e38).filter(lambda one: abs(one) > 1e-37)


@SAME_FOLDER
@given(
    raw=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=5)
    ),
    seed=st.integers(0, 99),
)
def test_the_same_table_comes_from_a_workbook_and_from_csv(tmp_path, raw, seed):
    """Numbers to 16 digits, which is what the library writes of a float."""
    columns = ["name", *(f"a {k}" for k in range(len(raw[0])))]
    order = random.Random(seed).sample(range(len(columns)), len(columns))
    rows = [columns, *([f"bird {j}", *(float(f"{one:.16g}") for one in row)] for j, row in enumerate(raw))]
    rows = [[row[k] for k in order] for row in rows]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    first, second = read(tmp_path / "a.csv", *columns[1:]), read(save(tmp_path / "a.xlsx", rows), *columns[1:])
    assert first.names == second.names
    np.testing.assert_array_equal(first.raw, second.raw)


@given(row=st.integers(1, 10**6), column=st.integers(0, 16_000))
def test_cells_are_called_as_a_spreadsheet_calls_them(row, column):
    assert cell_name(row, column) == f"{openpyxl.utils.get_column_letter(column + 1)}{row}"


def changed(path: Path, rows: list[list[object]], change) -> Path:
    """A workbook that somebody went on with."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    change(book)
    book.save(path)
    return path


TABLE = [["name", "a", "b"], ["x", 1, 0.5], ["y", 2, 3]]


def test_how_numbers_are_shown_is_told_where_it_misleads(tmp_path):
    def percent(book):
        book.active["C2"].number_format = "0.00%"
        book.active["B2"].number_format = "#,##0.00"
        book.active["H9"].number_format = "0%"  # blank

    table = read(changed(tmp_path / "a.xlsx", TABLE, percent), "a", "b")
    assert table.raw.tolist() == [[1, 0.5], [2, 3]]
    assert [note.partition("a.xlsx' ")[2] for note in table.notes] == [
        "shows numbers as percent in 'b': what it shows as 50% is read as 0.5"
    ]


def test_rows_and_columns_that_are_hidden_are_read_and_told(tmp_path):
    def hide(book):
        book.active.row_dimensions[3].hidden = True
        book.active.row_dimensions[9].hidden = True  # below the table
        book.active.column_dimensions["B"].hidden = True

    table = read(changed(tmp_path / "a.xlsx", TABLE, hide), "a", "b")
    assert table.names == ("x", "y")
    assert [note.partition("a.xlsx': ")[2] for note in table.notes] == [
        "row 3 and column B of the table cannot be seen (hidden), and is read as well"
    ]


def test_the_first_sheet_that_can_be_seen_is_read(tmp_path):
    def hide(book):
        book.active.sheet_state = "hidden"
        for row in (["name", "a", "b"], ["shown", 7, 8]):
            book.create_sheet("two").append(row) if "two" not in book.sheetnames else book["two"].append(row)
        book.active = 1

    assert read(changed(tmp_path / "a.xlsx", TABLE, hide), "a", "b").names == ("shown",)


@pytest.mark.parametrize("first", [[], [["Notes on birds"]], [["Notes", "x"], ["a", 1, 2]]])
def test_a_table_in_another_sheet_or_below_a_title_is_told(tmp_path, first):
    def second(book):
        for row in TABLE:
            (book["Data"] if "Data" in book.sheetnames else book.create_sheet("Data")).append(row)

    error = refused(changed(tmp_path / "a.xlsx", first, second), "a", "b")
    assert "the table seems to be in the sheet 'Data', and the first one, 'Sheet', is read" in error.message
    error = refused(save(tmp_path / "a.xlsx", [*first, [], *TABLE]), "a", "b") if first else error
    assert not first or f"row {len(first) + 2} seems to name the columns" in error.message


def test_comments_above_the_column_names_are_passed_over(tmp_path):
    assert read(save(tmp_path / "a.xlsx", [["# birds"], ["# of", "2026", "x", "y"], *TABLE]), "a", "b").names == (
        "x",
        "y",
    )


def test_columns_without_a_name_and_the_index_of_pandas(tmp_path):
    rows = [[None, "name", None, "a"], [0, "x", None, 1], [1, "y", " ", 2]]
    assert read(save(tmp_path / "a.xlsx", rows), "a").raw.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("name", "form", "told"),
    [
        ("#REF!", "General", "cell A2 holds '#REF!', an error of the spreadsheet program; mend the formula"),
        ("#N/A", "General", "cell A2 holds '#N/A', an error of the spreadsheet program; mend the formula"),
        (7, "000", "cell A2 holds the number 7 and shows zeros in front of it; enter it as text, with its zeros"),
        (dt.date(2026, 3, 1), "d-mmm", "cell A2 holds a date, '2026-03-01 00:00:00', as spreadsheet programs make of"),
    ],
)
def test_a_name_that_the_program_made_a_number_or_a_date_of_is_told(tmp_path, name, form, told):
    def change(book):
        book.active["A2"].value = name
        book.active["A2"].number_format = form

    error = refused(changed(tmp_path / "a.xlsx", TABLE, change), "a", "b")
    assert error.code == "E-CLASS-NAME"
    assert told in error.message


def test_merged_cells_are_told_where_they_leave_something_out(tmp_path):
    path = changed(tmp_path / "a.xlsx", TABLE, lambda book: book.active.merge_cells("A2:A3"))
    assert "cell A3: the name is empty" in refused(path, "a", "b").message
    path = changed(tmp_path / "a.xlsx", TABLE, lambda book: book.active.merge_cells("B2:C2"))
    assert (
        "cell C2, class 'x', column 'b' is empty, or a formula that was saved without its value, or merged"
        in refused(path, "a", "b").message
    )


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "code", "told"),
    [
        ([], "E-CLASSES-EMPTY", ["is empty"]),
        ([["name", "a"]], "E-CLASSES-EMPTY", ["no classes"]),
        ([["name", "a"], ["# x", 1]], "E-CLASSES-EMPTY", ["no classes"]),
        ([["title", "a"], ["x", 1]], "E-CSV-COLUMNS", ["'name'", "'title'"]),
        ([["name", None, "a"], ["x", 1, 1]], "E-CSV-COLUMNS", ["column 2"]),
        ([["name", "a", "a"], ["x", 1, 1]], "E-CSV-COLUMNS", ["'a'", "more than once"]),
        ([["name", "b"], ["x", 1]], "E-ATTRIBUTES", ["'b'"]),
        ([["name", "a"], ["x", 1, None, 7]], "E-XLSX", ["cell D2 holds '7'", "ends at B1"]),
        ([["name", "a"], ["x", 1], [None, 2]], "E-CLASS-NAME", ["cell A3", "the name is empty"]),
        ([["name", "a"], ["a/b", 1]], "E-CLASS-NAME", ["cell A2", "'a/b'"]),
        ([["name", "a"], ["NEW CLASS", 1]], "E-CLASS-NAME", ["cell A2", "still called 'NEW CLASS'"]),
        ([["name", "a"], ["x", 1], ["x", 2]], "E-CLASS-DUPLICATE", ["'x'"]),
        ([["name", "a", "split"], ["x", 1, "seen"]], "E-CLASSES-SPLIT", ["cell C2"]),
        ([["name", "a"], ["x", None]], "E-ATTRIBUTE-VALUE", ["cell B2", "'x'", "'a' is empty, or a formula"]),
        ([["name", "a"], ["x", "=1/8"]], "E-ATTRIBUTE-VALUE", ["cell B2", "saved without its value"]),
        ([["name", "a"], ["x", "0,5"]], "E-ATTRIBUTE-VALUE", ["cell B2", "'0,5'"]),
        ([["a", "name"], [True, "x"]], "E-ATTRIBUTE-VALUE", ["cell A2", "'TRUE'"]),
        ([["name", "a"], ["x", "#DIV/0!"]], "E-ATTRIBUTE-VALUE", ["cell B2", "'#DIV/0!'"]),
        ([["name", "a"], ["x", dt.date(2026, 2, 1)]], "E-ATTRIBUTE-VALUE", ["cell B2", "'2026-02-01"]),
        ([["name", "a"], ["x", 0]], "E-ATTRIBUTE-ZERO", ["row 2", "'x'"]),
    ],
)
def test_what_cannot_be_meant_is_refused_and_the_cell_is_named(tmp_path, rows, code, told):
    error = refused(save(tmp_path / "a.xlsx", rows), "a")
    assert error.code == code
    assert all(word in error.message for word in told), error.message


ENTITIES = "".join(f'<!ENTITY l{k + 1} "{f"&l{k};" * 10}">' for k in range(9))
LAUGHS = f'<!DOCTYPE x [<!ENTITY l0 "ha">{ENTITIES}]>'


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda path: path.write_text("name,a\nx,1\n"),
            "is text, not a workbook: if it is CSV, let its name end in .csv",
        ),
        (lambda path: path.write_bytes(b""), "is empty; a .xlsx workbook was expected"),
        (
            lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)),
            "(.xls), or one with a password",
        ),
        (lambda path: zipfile.ZipFile(path, "w").close(), "KeyError"),
        (lambda path: write_book(path, "<worksheet"), "ParseError"),
        (lambda path: write_book(path, sheet(text_row(1, ["&"])).replace("&amp;", "&l9;")), "ParseError"),
        (
            lambda path: write_book(path, sheet(text_row(1, ["LOL"]), prologue=LAUGHS).replace("LOL", "&l9;")),
            "is damaged or locked by a password (",  # by the reader of XML that there is
        ),
        (lambda path: write_book(path, sheet('<row r="1"><c><v>NaN</v></c></row>')), "ValueError"),
        (lambda path: write_book(path, sheet(f'<row r="1"><c><v>{"1" * 5000}</v></c></row>')), "ValueError"),
        (lambda path: write_book(path, sheet('<row r="1"><c r="ZZZZ1"><v>1</v></c></row>')), "no .xlsx workbook"),
        (lambda path: write_book(path, sheet(text_row(1, ["name"]) + text_row(10**9, ["x"]))), "beyond number 1048576"),
    ],
    ids=[
        "CSV",
        "nothing",
        "a container of passwords and old formats",
        "an empty zip",
        "cut off",
        "an entity that is not there",
        "a billion laughs",
        "no number",
        "too long a number",
        "no column",
        "a row far away",
    ],
)
def test_a_file_that_is_no_workbook_or_a_damaged_one_is_one_line(tmp_path, make, told):
    make(tmp_path / "a.xlsx")
    error = refused(tmp_path / "a.xlsx", "a")
    assert error.code == "E-XLSX"
    assert told in error.message


def test_a_workbook_without_cells_is_refused(tmp_path):
    path = write_book(tmp_path / "a.xlsx", "", xl__workbook_xml=f'<workbook xmlns="{MAIN}"><sheets/></workbook>')
    assert "has no sheet of cells" in refused(path).message


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(workbook, "MOST_BYTES", 1 << 20)
    blanks = " " * (2 << 20)
    path = write_book(tmp_path / "a.xlsx", sheet(text_row(1, ["name", "a"])), xl__other=blanks)
    assert path.stat().st_size < 20_000
    error = refused(path)
    assert error.code == "E-XLSX"
    assert "holds 2 MiB when it is unpacked, and at most 1 are read" in error.message


def test_a_part_that_lies_about_its_size_does_not_get_through(tmp_path, monkeypatch):
    """The sizes in the directory of the archive are made small: what is unpacked stops there and is damaged."""
    monkeypatch.setattr(workbook, "MOST_BYTES", 1 << 20)
    rows = text_row(1, ["name", "a"]) + text_row(2, ["x", "1"])
    path = write_book(tmp_path / "a.xlsx", sheet(rows + " " * (2 << 20)))
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("xl/worksheets/sheet1.xml").file_size
    assert data.count(size.to_bytes(4, "little")) == 2
    path.write_bytes(data.replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    assert refused(path).code == "E-XLSX"


def test_a_table_with_too_many_cells_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(workbook, "MOST_CELLS", 9)
    rows = [["name", "a", "b"], ["x", 1, 1], ["y", 1, 1]]
    assert len(read(save(tmp_path / "a.xlsx", rows))) == 2
    assert "more than 9 cells" in refused(save(tmp_path / "a.xlsx", [*rows, ["z", 1, 1]])).message


CELL = "<c><v>1</v></c>"


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"first": sheet(f"<row>{'<c/>' * 3_000_000}</row>")}, "a row of more than 16,384 cells"),
        ({"first": sheet(f"<row>{CELL * 16_385}</row>")}, "a row of more than 16,384 cells"),
        ({"first": sheet(f"<row>{'<x:c/>' * 16_385}</row>")}, "a row of more than 16,384 cells"),
        ({"first": sheet("<row/>" * (1 << 20) + "<row/>")}, "more than 1,048,576 rows"),
        ({"first": sheet(""), "xl__sharedStrings_xml": "<si/>" * ((1 << 21) + 1)}, "more than 2,097,152 texts"),
        ({"first": sheet(""), "xl__other": "<xf/>" * ((1 << 17) + 1)}, "more than 131,072 elements 'xf'"),
        ({"first": sheet(""), **{f"p{k}": "" for k in range(10_000)}}, "more than 10,000 parts"),
    ],
    ids=["3 million cells", "one too many", "with a prefix", "rows", "texts", "formats", "parts"],
)
def test_a_workbook_that_would_keep_the_library_busy_is_refused_before_it_begins(tmp_path, monkeypatch, parts, told):
    monkeypatch.setattr(openpyxl, "load_workbook", None)  # nobody gets there
    path = write_book(tmp_path / "a.xlsx", parts.pop("first"), **parts)
    error = refused(path)
    assert (error.code, told in error.message) == ("E-XLSX", True), error


def test_as_many_cells_as_a_row_can_have_are_read(tmp_path):
    names = ["name", *(f"a{k}" for k in range(16_383))]
    table = read(write_book(tmp_path / "a.xlsx", sheet(text_row(1, names) + text_row(2, ["x", *["1"] * 16_383]))))
    assert table.raw.shape == (1, 16_383)


def test_a_mimetype_that_is_huge_is_not_unpacked(tmp_path):
    """It is looked at to tell other documents, before anything is known of the archive."""
    with zipfile.ZipFile(tmp_path / "a.csv", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", b"application/vnd.oasis.opendocument.spreadsheet" + bytes(64 << 20))
    (error, peak) = peak_of(lambda: refused(tmp_path / "a.csv"))
    assert "an OpenDocument file" in error.message
    assert peak < 4 << 20


def test_of_a_book_of_many_sheets_some_are_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr(workbook, "MOST_SHEETS", 3)
    book = openpyxl.Workbook()
    for _ in range(5):
        book.create_sheet()
    for row in (["name", "a"], ["x", 1]):
        book.worksheets[2].append(row)
    book.save(tmp_path / "a.xlsx")
    assert "the table seems to be in the sheet" in refused(tmp_path / "a.xlsx").message
    book.move_sheet(book.worksheets[2], 3)
    book.save(tmp_path / "a.xlsx")
    assert refused(tmp_path / "a.xlsx").code == "E-CLASSES-EMPTY"


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    (tmp_path / "folder.xlsx").mkdir()
    for name in ("none.xlsx", "folder.xlsx"):
        with pytest.raises(SystemProblem, match="read the table"):
            read(tmp_path / name)


@SAME_FOLDER
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_is_damaged_gives_a_table_or_our_error(tmp_path, changes):
    data = bytearray(save(tmp_path / "good.xlsx", [["name", "a"], ["x", 1]]).read_bytes())
    for place, value in changes:
        data[int(place * len(data))] = value
    (tmp_path / "a.xlsx").write_bytes(data)
    told = ""
    try:
        assert np.isfinite(read(tmp_path / "a.xlsx").raw).all()
    except ZslError as error:
        told = str(error)
    assert "\n" not in told


# --- the library -----------------------------------------------------------------------------------------------------


def test_without_the_library_the_line_that_installs_it_is_told(tmp_path, monkeypatch):
    path = save(tmp_path / "a.xlsx", [["name", "a"], ["x", 1]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    error = refused(path)
    assert error.code == "E-XLSX-MISSING"
    assert 'pip install "zsl-deploy[xlsx]"' in error.message


def test_a_csv_file_brings_no_library_in(tmp_path):
    (tmp_path / "a.csv").write_text("name,a\nx,1\n")
    program = f"""
import sys
from zsl_runtime.head.class_file import read_class_csv
read_class_csv({str(tmp_path / "a.csv")!r}, need_split=False)
assert "openpyxl" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))})


@pytest.mark.parametrize("text", ["a\nb", "a\x00", "\ud800", "\uffff", "_x0041_", "x005F_", "a" * 32_768])
def test_what_a_cell_would_not_give_back_is_not_written(text):
    with pytest.raises(UsageError, match=r"E-XLSX: .* write a CSV file"):
        check_writable(text)


@given(text=st.text(st.characters(blacklist_categories=["Cc", "Cs"]), min_size=1, max_size=20))
def test_what_may_be_written_comes_back(text):
    try:
        check_writable(text)
    except UsageError:
        return
    stream = io.BytesIO()
    book = openpyxl.Workbook()
    cell = book.active["A1"]
    cell.value, cell.data_type = text, "s"
    book.save(stream)
    assert openpyxl.load_workbook(stream).active["A1"].value == text
