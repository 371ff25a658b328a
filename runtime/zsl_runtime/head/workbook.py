"""Tables in .xlsx workbooks, by openpyxl, which the extra `xlsx` brings and which nobody imports before one is met.

A workbook is a zip archive of XML, so a small file may hold a huge table: what is unpacked is bounded.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections import Counter
from itertools import islice
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from zsl_runtime.errors import UsageError, ZslError, listed
from zsl_runtime.extras import wanting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from os import PathLike

SUFFIX = ".xlsx"
# A cell of 17 digits takes some 45 bytes, so these are about 5 million cells: 16,000 classes of 312 attributes.
MOST_BYTES = 256 << 20  # of all parts of a workbook, unpacked
COMMENT = "# "  # a row whose name begins so is none
TITLES = 20  # rows among which the one of column names is looked for, to be told
MOST_ROWS = 1 << 20  # what spreadsheet programs have at most; most of them may be blank
MOST_CELLS = 8_000_000
MOST_COLUMNS = 1 << 16  # of any table; spreadsheet programs have a quarter of it
MOST_SHEET_COLUMNS = 1 << 14  # what they have at most
LONGEST = 32_767  # letters of a cell
# What the format cannot hold as it is: it writes control characters as _x000D_, and reads that as one of them.
ESCAPED = re.compile(r"x[0-9A-Fa-f]{4}_")
ARCHIVE, OLD = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # how zip archives and .xls files begin
FIRST_BYTES = 4096  # by which files of other kinds are known
ZEROS = re.compile(r"0{2,}($|;)")  # a format of numbers that shows zeros in front
# What a library makes objects of, and how many of them a part may have; honest workbooks are far below.
MOST_ELEMENTS = {"row": MOST_ROWS, "c": MOST_CELLS, "si": 1 << 21}
MOST_OTHER_ELEMENTS = 1 << 17  # spreadsheet programs have at most 65,490 formats of cells
ELEMENT = re.compile(
    rb"<(?:\w{1,40}:)?(row|c|si|xf|font|fill|border|numFmt|cellStyle|dxf|sheet|definedName|Override|Default|Relationship"
    rb"|property)[\s/>]"
)
MOST_PARTS = 10_000  # of the archive
MOST_SHEETS = 20  # that are looked into for the table
PART = b"PK\x01\x02"  # how the entry of a part in the archive's directory begins
CHUNK = 1 << 20
HIDDEN = re.compile(rb'<(?:\w+:)?(row|col)\b([^>]*\bhidden="(?:1|true)"[^>]*)>')


def is_workbook(path: str | PathLike[str]) -> bool:
    """Whether a file is a workbook by its name."""
    return PurePath(path).suffix.lower() == SUFFIX


def library() -> Any:
    """Openpyxl; UsageError E-XLSX-MISSING when it is not installed."""
    try:
        import openpyxl
    except ImportError as error:
        raise UsageError(
            "E-XLSX-MISSING", f"tables in .xlsx files need {wanting('openpyxl', error, 'xlsx')}, or use a CSV file"
        ) from None
    return openpyxl


class Sheet(NamedTuple):
    """What a workbook holds.

    Attributes:
        rows: (row number, cells as text) of every row that is not blank, all of the width of the first, which names the
            columns. A number is the shortest text that gives it back.
        notes: what the user should know, a line each.
        padded: column -> the first of its numbers that are shown with zeros in front, in words.

    """

    rows: list[tuple[int, list[str]]]
    notes: tuple[str, ...]
    padded: dict[int, str]


def read_sheet(data: bytes, where: str, named: Callable[[Sequence[str]], bool]) -> Sheet:
    """Read the first sheet of a workbook that is not hidden, values in place of formulas.

    Args:
        data: the .xlsx file.
        where: its name, quoted, for messages.
        named: whether these cells name the columns. If the first row does not, and one further below does, what lies
            between is of any width, and that row is the last.

    Raises:
        UsageError: E-XLSX when it is no workbook, is damaged or too large, has a cell beyond the named columns, or its
            table in another sheet; E-XLSX-MISSING.

    """
    openpyxl = library()
    try:
        _check_size(data, where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a sheet has besides its cells
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
            sheet = _sheet(book, where, named)
            formats = _Formats(set(), {})
            rows = _rows(sheet, where, named, formats)
            notes = (*_percent_note(rows, formats.percent, where), *_hidden_note(data, sheet, rows, where))
            return Sheet(rows, notes, formats.padded)
    except (ZslError, MemoryError):
        raise
    except Exception as error:  # damaged files fail in as many ways as the format has parts
        raise _refused(
            f"{where} is no .xlsx workbook, or is damaged or locked by a password ({type(error).__name__}); save it "
            "again as .xlsx or as 'CSV UTF-8'"
        ) from error


def workbook_inside(data: bytes, where: str, *, called: bool) -> None:
    """UsageError when an archive is something else than a workbook: what it is, and what to do.

    Args:
        data: the archive.
        where: its name, quoted.
        called: whether its name is that of a workbook: then E-XLSX, and what is no archive is for others to say; else
            E-CSV.

    """
    import zipfile

    if data.count(PART) > MOST_PARTS:
        raise UsageError(
            "E-XLSX" if called else "E-CSV",
            f"{where} is an archive of more than {MOST_PARTS:,} parts, and no workbook has so many; give the table",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            kind = b""
            if "mimetype" in names:
                with archive.open("mimetype") as part:  # which may be huge when it is unpacked
                    kind = part.read(100)
    except Exception:  # damaged in any way
        names, kind = [], b""
    if "xl/workbook.xml" in names:
        return
    what = "" if called else "a zip archive; unpack it and give the table"
    if b"opendocument" in kind:
        what = "an OpenDocument file (.ods); save it as .xlsx or as 'CSV UTF-8'"
    elif "xl/workbook.bin" in names:
        what = "a binary Excel workbook (.xlsb); save it as .xlsx or as 'CSV UTF-8'"
    elif any(name.endswith(".iwa") or name == "Index.zip" for name in names):
        what = "a Numbers document; export it as .xlsx or as CSV"
    elif any(name.startswith("word/") for name in names):
        what = "a Word document; save its table as .xlsx or as 'CSV UTF-8'"
    if what:
        raise UsageError("E-XLSX" if called else "E-CSV", f"{where} is {what}")


def no_workbook(where: str, what: str) -> UsageError:
    """What to say of a file whose name is a workbook's and whose content is not."""
    return _refused(f"{where} is {what}; a .xlsx workbook was expected")


def _check_size(data: bytes, where: str) -> None:
    """Refuse what would take too much memory; what a part says of its size, unpacking holds it to."""
    import zipfile  # slow to import, and a CSV file has no use for it

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
        size = max(len(data), sum(part.file_size for part in parts))
        if size > MOST_BYTES:
            raise _refused(
                f"{where} holds {size >> 20} MiB when it is unpacked, and at most {MOST_BYTES >> 20} are read; leave "
                "only the table in it, or save that as 'CSV UTF-8'"
            )
        for part in parts:
            with archive.open(part) as file:
                _check_elements(file, where)


def _check_elements(file: IO[bytes], where: str) -> None:
    """Refuse a part of more rows, cells and the like than there can be, before the library makes objects of them."""
    counts: Counter[str] = Counter()
    row, rest = 0, b""
    more = True
    while more:
        chunk = file.read(CHUNK)
        data, more = rest + chunk, bool(chunk)
        end = max(data.rfind(b"<"), 0) if more else len(data)  # an element may go on in the next chunk
        for found in ELEMENT.finditer(data, 0, end):
            kind = found[1].decode()
            counts[kind] += 1
            row = 0 if kind == "row" else row + (kind == "c")
            if counts[kind] > MOST_ELEMENTS.get(kind, MOST_OTHER_ELEMENTS):
                kinds = {"c": "cells", "row": "rows", "si": "texts"}.get(kind, f"elements {kind!r}")
                raise _refused(
                    f"{where} has more than {counts[kind] - 1:,} {kinds}; leave only the table in it, split it, or "
                    "save it as 'CSV UTF-8'"
                )
            if row > MOST_SHEET_COLUMNS:
                raise _refused(
                    f"{where} has a row of more than {MOST_SHEET_COLUMNS:,} cells, which is what a sheet can have; "
                    "save the table as 'CSV UTF-8'"
                )
        rest = data[end:] if len(data) - end < CHUNK else b""


def _refused(problem: str) -> UsageError:
    return UsageError("E-XLSX", problem)


class _Formats(NamedTuple):
    """How numbers are shown: columns with some as percent, and of columns with zeros in front the first, in words."""

    percent: set[int]
    padded: dict[int, str]


def _sheet(book: Any, where: str, named: Callable[[Sequence[str]], bool]) -> Any:
    """The first sheet of cells that is not hidden; UsageError E-XLSX when the columns are named in another one only."""
    shown = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or list(book.worksheets)
    if not shown:
        raise _refused(f"{where} has no sheet of cells; put the table into the first sheet")
    for sheet in shown:
        sheet.reset_dimensions()  # what the file says of its size may be wrong, and huge
    several = shown[:MOST_SHEETS] if len(shown) > 1 else []
    table = next((sheet for sheet in several if _names_columns(sheet, where, named)), shown[0])
    if table is not shown[0]:
        raise _refused(
            f"{where}: the table seems to be in the sheet {table.title[:40]!r}, and the first one, "
            f"{shown[0].title[:40]!r}, is read; move the table's sheet to the front"
        )
    return shown[0]


def _names_columns(sheet: Any, where: str, named: Callable[[Sequence[str]], bool]) -> bool:
    first = islice(_filled(sheet.iter_rows(values_only=True), where), TITLES)
    return any(named(cells) for _, cells in first)


def _rows(
    sheet: Any, where: str, named: Callable[[Sequence[str]], bool], formats: _Formats
) -> list[tuple[int, list[str]]]:
    """The rows of a sheet that are not blank; `formats` is told how numbers are shown."""
    rows: list[tuple[int, list[str]]] = []
    headed = False
    for number, cells in _filled(_values(sheet, where, formats), where):
        if not rows:
            headed = named(cells)
            if not headed and cells[0].lstrip().startswith(COMMENT):
                continue
        elif not headed and len(rows) < TITLES and named(cells):
            return [*rows, (number, cells)]
        if rows and len(cells) > len(rows[0][1]):
            if not headed and len(rows) < TITLES:
                rows.append((number, cells))
                continue
            raise _refused(
                f"{where}, cell {cell_name(number, len(cells) - 1)} holds {cells[-1][:40]!r}, and the row of column "
                f"names ends at {cell_name(rows[0][0], len(rows[0][1]) - 1)}; name that column or clear the cell"
            )
        rows.append((number, cells + [""] * (len(rows[0][1]) - len(cells) if rows else 0)))
        if len(rows) * len(rows[0][1]) > MOST_CELLS:
            raise _refused(f"{where} has more than {MOST_CELLS} cells; split the table, or save it as 'CSV UTF-8'")
    return rows


def _values(sheet: Any, where: str, formats: _Formats) -> Iterator[tuple[object, ...]]:
    """The values of each row; `formats` is told how numbers are shown."""
    styles: dict[int, str] = {}
    for row in sheet.iter_rows():
        for cell in row:
            if isinstance(cell.value, (int, float)) and cell.has_style:
                number = cell._style_id  # noqa: SLF001  # formats by number: to look each up takes long
                if number not in styles:
                    styles[number] = cell.number_format
                column = cell.column - 1
                if "%" in styles[number]:
                    formats.percent.add(column)
                elif ZEROS.match(styles[number]):
                    where_it_is = f"{where}, cell {cell_name(cell.row, column)}"
                    shown = f"holds the number {cell.value!r} and shows zeros in front of it"
                    formats.padded.setdefault(column, f"{where_it_is} {shown}; enter it as text, with its zeros")
        yield tuple(cell.value for cell in row)


def _percent_note(rows: list[tuple[int, list[str]]], percent: set[int], where: str) -> tuple[str, ...]:
    if not rows or not percent:
        return ()
    names = [rows[0][1][column].strip() for column in sorted(percent) if column < len(rows[0][1])]
    return (f"{where} shows numbers as percent in {listed(names)}: what it shows as 50% is read as 0.5",)


def _hidden_note(data: bytes, sheet: Any, rows: list[tuple[int, list[str]]], where: str) -> tuple[str, ...]:
    """A note on rows and columns of the table that are hidden; they count."""
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        tags = HIDDEN.findall(archive.read(sheet._worksheet_path))  # noqa: SLF001  # the library does not tell
    there = {number for number, _ in rows}
    width = len(rows[0][1]) if rows else 0
    lines = [row for kind, tag in tags if kind == b"row" and (row := _attribute(tag, b"r")) in there]
    columns = [first for kind, tag in tags if kind == b"col" and 0 < (first := _attribute(tag, b"min")) <= width]
    told = [f"row {lines[0]}{f' and {len(lines) - 1} more' if len(lines) > 1 else ''}"] if lines else []
    told += [f"column {cell_name(1, columns[0] - 1)[:-1]}"] if columns else []
    return (f"{where}: {' and '.join(told)} of the table cannot be seen (hidden), and is read as well",) if told else ()


def _attribute(tag: bytes, name: bytes) -> int:
    found = re.search(rb"\b" + name + rb'="(\d+)"', tag)
    return int(found[1]) if found else 0


def _filled(values: Iterable[tuple[object, ...]], where: str) -> Iterator[tuple[int, list[str]]]:
    """Number and text of each row that is not blank, without the blank cells at its end."""
    for number, row in enumerate(values, start=1):
        if number > MOST_ROWS:
            raise _refused(f"{where} has a row beyond number {MOST_ROWS}; it is damaged, save it again")
        cells = [_text(value) for value in row]
        while cells and not cells[-1].strip():
            cells.pop()
        if cells:
            yield number, cells


def _text(value: object) -> str:
    """The value of a cell as a CSV file would have it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    return str(value).upper() if isinstance(value, bool) else str(value)


def cell_name(row: int, column: int) -> str:
    """Name of a cell as spreadsheet programs show it, `AB12`; rows count from 1, columns from 0."""
    letters = ""
    column += 1
    while column:
        column, place = divmod(column - 1, 26)
        letters = chr(ord("A") + place) + letters
    return f"{letters}{row}"


def check_writable(text: str) -> str:
    """Return a text that a cell gives back as it is; UsageError E-XLSX for others."""
    kinds = {unicodedata.category(letter) for letter in text}
    if kinds & {"Cc", "Cs"} or {"\ufffe", "\uffff"} & set(text) or len(text) > LONGEST or ESCAPED.search(text):
        raise _refused(f"{text[:40]!r} cannot be a cell of an .xlsx file; write a CSV file")
    return text
