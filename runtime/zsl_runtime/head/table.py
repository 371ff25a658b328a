"""Tables that users write: CSV of any program, or .xlsx workbooks. Every door that takes a table reads it here.

Read is what can be meant in one way only: which letters (a byte-order mark, else UTF-8), which separator (a first line
`sep=;`, else the one by which the columns that must be there are there), cells that stick out and are blank. All else
is refused in one line that says what it is. What numbers and names may be, callers know.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from zsl_runtime.errors import UsageError, from_os_error, listed
from zsl_runtime.head.names import alike
from zsl_runtime.head.packed import PackedRows
from zsl_runtime.head.workbook import (
    ARCHIVE,
    COMMENT,
    FIRST_BYTES,
    MOST_COLUMNS,
    OLD,
    TITLES,
    cell_name,
    is_workbook,
    no_workbook,
    read_sheet,
    workbook_inside,
)
from zsl_runtime.machine.untrusted import UnfitError, read_given

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from os import PathLike

    from zsl_runtime.head.packed import Row

MOST_TABLE = 512 << 20  # bytes of a text: 5 million photographs, or 50,000 classes of 1,024 attributes
MOST_MEMORY = 2 << 30  # bytes that a table may take; by a reckoning from what is in it, before it is taken apart
ROW_BYTES, NUMBER_BYTES = 250, 8  # of memory for each line, and for each cell
NAMES_BYTES = 32 << 20  # for the names of MOST_COLUMNS columns
LONGEST_LINE = 16 << 20  # bytes; of MOST_COLUMNS names with 250 letters
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# What spreadsheet programs write and read in the first line; the same separator may follow, where one filled the line.
DECLARED = re.compile(
    r"""([ \t]*(\r\n|\r|\n))*[ ]*["']?sep[ ]?=[ ]?(?P<sep>\\t|[^\w"' \r\n])["']?(?P<rest>[^\r\n]*)(\r\n|\r|\n|$)""",
    re.IGNORECASE,
)
LINE_END = re.compile(r"\r\n|\r|\n")
ENDED = re.compile(r"\x1a\s*\Z")  # by Ctrl-Z, as old programs ended a text
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
JSON = re.compile(r'\s*(\[\s*[\[{"\d\]]|\{\s*["}])')
MARKS = (  # those of 4 bytes first: the one of UTF-16 is the beginning of the one of UTF-32
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
TWICE = "\u00ef\u00bb\u00bf"  # what the mark of UTF-8 becomes where it is taken for letters
SAVE = "save it as 'CSV UTF-8'"
# Files of other kinds by their first bytes, and what to do about them.
OTHERS = (
    (OLD, f"an old Excel workbook (.xls), or one with a password; save it as .xlsx or {SAVE[8:]}"),
    (b"PAR1", f"a Parquet file; {SAVE}"),
    (b"ARROW1", f"an Arrow (Feather) file; {SAVE}"),
    (b"\x89HDF", f"an HDF5 file; {SAVE}"),
    (b"MATLAB 5.0", f"a .mat file; {SAVE}"),
    (b"\x93NUMPY", f"an .npy file; {SAVE}"),
    (b"SQLite format 3", f"a database (SQLite); {SAVE}"),
    (b"\x1f\x8b", "packed by gzip; unpack it"),
    (b"BZh", "packed by bzip2; unpack it"),
    (b"\xfd7zXZ", "packed by xz; unpack it"),
    (b"7z\xbc\xaf", "packed by 7-Zip; unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd; unpack it"),
    (b"%PDF", f"a PDF; {SAVE}"),
    (b"{\\rtf", f"a text with formats (RTF); {SAVE}"),
    (b"\x89PNG", "a picture; give the table"),
    (b"\xff\xd8\xff", "a picture; give the table"),
)
FIRST_LETTERS = 1 << 20  # among which the rows of column names are looked for
NULS = 4  # text has fewer NUL bytes than one in so many
CONTROLS = [bytes([one]) for one in (*range(1, 9), *range(14, 26), *range(28, 32))]  # no text has them
CONTROLLED = 20  # but perhaps one in so many bytes
CONTEXT = 12  # letters around one that is not UTF-8


@dataclass(frozen=True)
class Table:
    """A table as its user wrote it.

    Attributes:
        name: of the file, quoted, for messages.
        book: whether it is a workbook, whose cells have names.
        separator: between cells; empty in a workbook.
        rows: (line or row number, cells) of every row that is not blank; the first names the columns, all have its
            width. Empty where nothing is there.
        notes: what the user should know, a line each.
        padded: of a workbook, column -> the first of its numbers that are shown with zeros in front, in words.

    """

    name: str
    book: bool
    separator: str
    rows: Sequence[Row]
    notes: tuple[str, ...] = ()
    padded: Mapping[int, str] = field(default_factory=dict)

    def at(self, line: int, column: int | None = None) -> str:
        """Where a line is, or a cell of it; columns count from 0."""
        if not self.book:
            return f"{self.name}, line {line}"
        return f"{self.name}, row {line}" if column is None else f"{self.name}, cell {cell_name(line, column)}"

    @property
    def header(self) -> list[str]:
        """The cells of the first row."""
        return self.rows[0][1] if self.rows else []

    def find(self, name: str) -> list[int]:
        """The columns that are called so: letter by letter, or else but for case and what cannot be seen."""
        return _find(self.header, name)

    def columns(self, names: tuple[str, str]) -> list[tuple[int, tuple[str, str]]]:
        """(line number, the two named cells, stripped) of every row below the first; other columns are ignored.

        Raises:
            UsageError: E-CSV when one of the columns is not there, or twice.

        """
        places = [self.find(name) for name in names]
        if any(len(found) != 1 for found in places):
            begins = f"its first line is {listed([cell.strip() for cell in self.header])}"
            raise UsageError(
                "E-CSV",
                f"{self.name} must have one column {names[0]!r} and one {names[1]!r}, separated by commas; "
                f"{begins if self.rows else 'it is empty'}",
            )
        (one,), (other,) = places
        return [(line, (cells[one].strip(), cells[other].strip())) for line, cells in self.rows[1:]]


def read_table(
    path: str | PathLike[str], columns: Sequence[str], *, comments: bool = False, data: bytes | None = None
) -> Table:
    """Read a table: UTF-8, or UTF-16 or UTF-32 with a byte-order mark; any line ending; or the first sheet of a .xlsx.

    Cells are separated by commas, semicolons, tabs or bars, and may be quoted. A workbook is one by its name or by what
    is in it.

    Args:
        path: the file.
        columns: that it must have. Whether it has them is for the caller to say, who has the words; here they tell by
            what the cells are separated, and which line names them.
        comments: whether lines that begin with a number sign and a space may stand above the column names, and be of
            any width below.
        data: the file, where it is in memory: then `path` is only what it is called.

    Raises:
        UsageError: E-CSV for what is no table, E-CSV-COLUMNS for column names below other rows; of a workbook E-XLSX
            and E-XLSX-MISSING.
        SystemProblem: the file cannot be opened.

    """
    where = f"{str(path)!r}"
    try:
        data = read_given(path, MOST_TABLE) if data is None else data
    except UnfitError as error:
        raise UsageError("E-XLSX" if is_workbook(path) else "E-CSV", f"{where} {error}; give a table") from None
    except OSError as error:
        raise from_os_error(error, "read the table") from error
    _refuse_others(data[:FIRST_BYTES], where, book=is_workbook(path))
    if data.startswith(ARCHIVE) or is_workbook(path):
        workbook_inside(data, where, called=is_workbook(path))
        sheet = read_sheet(data, where, lambda cells: _fits(cells, columns))
        table = Table(where, True, "", sheet.rows, sheet.notes, sheet.padded)
    else:
        _check_memory(data, where)
        text = _decoded(data, where)
        del data  # what is large is in memory twice at most
        table = _text_table(text, where, columns, comments=comments)
    table = replace(table, rows=_below_comments(table.rows, columns) if comments else table.rows)
    _refuse_titles(table, columns)
    return table if table.book else replace(table, rows=_rectangle(table, comments=comments))


def separated_by(separator: str) -> str:
    """What stands between cells, in words."""
    return SEPARATORS.get(separator, repr(separator))


def _find(header: Sequence[str], name: str) -> list[int]:
    exact = [k for k, cell in enumerate(header) if cell.strip() == name]
    return exact or [k for k, cell in enumerate(header) if alike(cell, name)]


def _fits(header: Sequence[str], columns: Sequence[str]) -> bool:
    return all(_find(header, name) for name in columns)


# --- memory -----------------------------------------------------------------------------------------------------------


def memory_of(data: bytes) -> int:
    """Bytes of memory that reading a text of a table takes at most: as bytes and as letters, then as letters and rows.

    Letters take one byte each, or two or four where one of them does not fit.
    """
    wide = 2 if data.startswith(tuple(mark for mark, *_ in MARKS[1:])) else 1
    if wide == 1 and not data.isascii():
        wide = 4 if re.search(rb"[\xf0-\xff]", data) else 2
    lines = data.count(b"\n") + data.count(b"\r")
    declared = DECLARED.match(data[:FIRST_BYTES].decode("utf-8", "ignore"))
    cells = lines + max(data.count(one.encode()) for one in {*SEPARATORS, declared["sep"] if declared else ","})
    return len(data) * (1 + wide) + lines * ROW_BYTES + cells * NUMBER_BYTES + NAMES_BYTES


def _check_memory(data: bytes, where: str) -> None:
    """UsageError E-CSV for a text that would take more memory than a table may, or has a line that no table has."""
    wanted = memory_of(data)
    if wanted > MOST_MEMORY:
        raise UsageError(
            "E-CSV",
            f"{where} would take {wanted / 1e9:.1f} GB of memory, and a table may take {MOST_MEMORY / 1e9:.1f}; split "
            "it",
        )
    start = 0
    while len(data) - start > LONGEST_LINE:
        stop = start + LONGEST_LINE
        start = max(data.rfind(b"\n", start, stop), data.rfind(b"\r", start, stop)) + 1
        if start <= stop - LONGEST_LINE:
            raise UsageError(
                "E-CSV",
                f"{where} has a line of more than {LONGEST_LINE:,} bytes; give a table, with a line of column names "
                "and one row per line",
            )


# --- letters ----------------------------------------------------------------------------------------------------------


def _refuse_others(data: bytes, where: str, *, book: bool) -> None:
    """UsageError for a file that is known, by its first bytes, to be something else."""
    other = next((what for magic, what in OTHERS if data.startswith(magic)), None)
    if other is None:
        text = data.lstrip(codecs.BOM_UTF8).lstrip().lower()
        if text.startswith((b"<!doctype", b"<html", b"<table", b"<?xml", b"<head", b"<meta")):
            kind = "XML" if text.startswith(b"<?xml") else "HTML, as of a page of the web"
            other = f"{kind}; open it in a spreadsheet program and {SAVE}"
    if other is not None:
        raise UsageError("E-XLSX" if book else "E-CSV", f"{where} is {other}")
    if book and data[:2] != ARCHIVE[:2]:
        what = "text, not a workbook: if it is CSV, let its name end in .csv"
        raise no_workbook(where, what if data else "empty")


def _decoded(data: bytes, where: str) -> str:
    """The text; UsageError E-CSV when it is not what its mark says, or not UTF-8."""
    for mark, encoding, name in MARKS:
        if data.startswith(mark):
            try:
                text = str(memoryview(data)[len(mark) :], encoding)
            except UnicodeDecodeError as error:
                if encoding == "utf-8":
                    _refuse_letters(data[len(mark) :], error, where)
                raise UsageError(
                    "E-CSV",
                    f"{where} begins as {name} does and is not {name} (byte {error.start + len(mark)} of {len(data)}); "
                    f"copy it again, or {SAVE}",
                ) from None
            break
    else:
        _refuse_nuls(data, where)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            _refuse_letters(data, error, where)
    if text.startswith(TWICE):
        if not text[len(TWICE) :].isascii():
            raise UsageError(
                "E-CSV", f"{where} was made UTF-8 twice (it begins {text[:20]!r}); {SAVE} once, from its source"
            )
        text = text[len(TWICE) :]
    text = text.lstrip("\ufeff")
    ended = ENDED.search(text, max(len(text) - FIRST_BYTES, 0))
    return text[: ended.start()] if ended else text


def _refuse_nuls(data: bytes, where: str) -> None:
    """UsageError E-CSV for what is no text of bytes."""
    begin = data[:FIRST_BYTES].rstrip(b"\0")
    if sum(map(begin.count, CONTROLS)) * CONTROLLED > len(begin):
        raise UsageError("E-CSV", f"{where} is no text (it begins {begin[:12]!r}); {SAVE}")
    text = data.rstrip(b"\0")
    if text and len(text) < len(data) and 0 not in text:
        raise UsageError("E-CSV", f"{where} ends in NUL bytes, as files do that were not written whole; copy it again")
    count = data.count(0)
    if count * NULS > len(data):
        state = "holds NUL bytes and no text"
        first = (len(data) - len(data.lstrip(b"\0"))) % len(data)
        if 0 not in data[first::4] or (0 not in data[first::2] and first < 2):
            kind = "UTF-32" if count * 3 >= len(data) * 2 else "UTF-16"
            state = f"seems to be {kind} without a byte-order mark"
        raise UsageError("E-CSV", f"{where} {state}; {SAVE}")


def _refuse_letters(data: bytes, error: UnicodeDecodeError, where: str) -> NoReturn:
    """UsageError E-CSV for text that is not UTF-8, with how other encodings would read the first place."""
    line = data.count(b"\n", 0, error.start) + data.count(b"\r", 0, error.start)
    line = line - data.count(b"\r\n", 0, error.start) + 1
    around = data[max(0, error.start - CONTEXT) : error.start + CONTEXT]
    before = data[max(0, error.start - CONTEXT) : error.start]
    start = max(before.rfind(one) for one in b',;\t|\r\n"') + 1
    cell = re.split(rb'[,;\t|\r\n"]', around[start:], maxsplit=1)[0]
    kinds = (("Windows-1252 (ANSI)", "cp1252"), ("Mac Roman", "mac_roman"))
    shown = " and ".join(f"{cell.decode(code, 'replace')!r} in {name}" for name, code in kinds)
    raise UsageError(
        "E-CSV",
        f"{where} is not UTF-8 (byte {error.start} of {len(data)}), line {line}: this would be {shown}; open it so "
        f"that names are right and {SAVE}",
    ) from None


# --- separators -------------------------------------------------------------------------------------------------------


def _text_table(text: str, where: str, columns: Sequence[str], *, comments: bool) -> Table:
    """The rows of a CSV file, of any widths."""
    declared = DECLARED.match(text)
    if declared:
        separator = declared["sep"].replace("\\t", "\t")
        if not declared["rest"].strip(f"{separator} "):
            above = len(LINE_END.findall(declared[0])) or 1
            return Table(where, False, separator, _rows(text, separator, where, above))
    named = {one: _named_by(text, one, columns, comments=comments) for one in SEPARATORS}
    fitting = [one for one, row in named.items() if row == 0] or [one for one, row in named.items() if row is not None]
    if len(fitting) > 1:
        fitting = [one for one in fitting if _even(text, one, where)] or fitting[:1]
    if len(fitting) > 1:
        kinds = " and ".join(SEPARATORS[one] for one in fitting)
        raise UsageError(
            "E-CSV", f"{where} can be read with {kinds} between its cells; say which in a first line such as sep=,"
        )
    if not fitting and JSON.match(text):
        raise UsageError("E-CSV", f"{where} seems to be JSON; {SAVE}")
    separator = fitting[0] if fitting else ","
    return Table(where, False, separator, _rows(text, separator, where))


def _named_by(text: str, separator: str, columns: Sequence[str], *, comments: bool) -> int | None:
    """Which of the first rows, cut so, has the columns; None for none of them."""
    rows = [(0, cells) for cells in _first_rows(text, separator)]
    for number, (_, cells) in enumerate(_below_comments(rows, columns) if comments else rows):
        if _fits(cells, columns) and (len(cells) > 1 or separator == ","):
            return number
    return None


def _first_rows(text: str, separator: str) -> list[list[str]]:
    """At most TITLES rows that are not blank, as far as they can be read."""
    found: list[list[str]] = []
    try:
        for cells in csv.reader(io.StringIO(text[:FIRST_LETTERS], newline=""), delimiter=separator, strict=True):
            if len(cells) > MOST_COLUMNS:
                break
            if any(cell.strip() for cell in cells):
                found.append(cells)
            if len(found) == TITLES:
                break
    except csv.Error:
        pass
    return found


def _even(text: str, separator: str, where: str) -> bool:
    """Whether all rows, cut so, are of one width."""
    try:
        return len({len(cells) for _, cells in _read(text, separator, where)}) == 1
    except UsageError:
        return False


def _rows(text: str, separator: str, where: str, above: int = 0) -> PackedRows:
    """The rows of `_read` below the line `above`."""
    rows = PackedRows()
    for line, cells in _read(text, separator, where):
        if line > above:
            rows.append(line, cells)
    return rows


def _read(text: str, separator: str, where: str) -> Iterator[Row]:
    """(number of its last line, cells) of every row that is not blank; UsageError E-CSV."""
    lines = _Lines(text, separator, where)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    begun = 1
    try:
        for cells in reader:
            if len(cells) > MOST_COLUMNS:
                raise lines.too_wide(reader.line_num, len(cells))
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
            begun = reader.line_num + 1
            lines.cells = 0
    except csv.Error as error:
        begins = f" (the row begins in line {begun})" if begun < reader.line_num else ""
        raise UsageError(
            "E-CSV",
            f"{where}, line {reader.line_num}: {error}{begins}; expected cells separated by {separated_by(separator)}, "
            'every quote closed, and a quote inside a cell written twice ("")',
        ) from None


class _Lines:
    """The lines of a text with their ends, for a reader of rows.

    Attributes:
        cells: that the row which is being read can have so far; whoever has got one puts it back to 0.

    """

    def __init__(self, text: str, separator: str, where: str) -> None:
        self._found = enumerate(LINE.finditer(text), start=1)
        self._separator, self._where = separator, where
        self.cells = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        """The next line; UsageError E-CSV before a row of more cells than any table has is taken apart."""
        number, match = next(self._found)
        line = match[0]
        self.cells += line.count(self._separator) + 1
        if self.cells > MOST_COLUMNS + csv.field_size_limit():  # a quote that is not closed is told by the reader
            raise self.too_wide(number, self.cells)
        return line

    def too_wide(self, line: int, cells: int) -> UsageError:
        """What to say of a row with so many cells."""
        return UsageError(
            "E-CSV",
            f"{self._where}, line {line} has {cells:,} cells, separated by {separated_by(self._separator)}, and a "
            f"table may have {MOST_COLUMNS:,} columns; give a table with a row per line",
        )


# --- widths -----------------------------------------------------------------------------------------------------------


def _below_comments(rows: Sequence[Row], columns: Sequence[str]) -> Sequence[Row]:
    """The rows without comments above the column names."""
    for k, (_, cells) in enumerate(rows):
        if _fits(cells, columns) or not cells[0].lstrip().startswith(COMMENT):
            return rows[k:]
    return []


def _refuse_titles(table: Table, columns: Sequence[str]) -> None:
    """UsageError E-CSV-COLUMNS when the columns are named further below."""
    if _fits(table.header, columns):
        return
    for line, cells in table.rows[1:TITLES]:
        if _fits(cells, columns):
            raise UsageError(
                "E-CSV-COLUMNS",
                f"{table.at(line)} seems to name the columns ({listed([cell.strip() for cell in cells])}); remove the "
                "rows above it",
            )


def _rectangle(table: Table, *, comments: bool) -> Sequence[Row]:
    """All rows of the width of the first; cells beyond it must be blank, and missing ones be of columns without a name.

    Raises:
        UsageError: E-CSV.

    """
    if not table.rows:
        return []
    header = table.header
    assert isinstance(table.rows, PackedRows)
    if len(table.rows.widths()) == 1:
        return table.rows
    named = max((k + 1 for k, cell in enumerate(header) if cell.strip()), default=0)
    rows = PackedRows()
    for line, cells in table.rows:
        if len(cells) == len(header):
            rows.append(line, cells)
            continue
        beyond = len(cells) < named or any(cell.strip() for cell in cells[len(header) :])
        if not beyond or (comments and cells[0].lstrip().startswith(COMMENT)):
            rows.append(line, (cells + [""] * len(header))[: len(header)])
        else:
            raise UsageError("E-CSV", f"{table.at(line)} has {_wrong_width(table, len(cells))}")
    return rows


def _wrong_width(table: Table, width: int) -> str:
    """What to say of a row of another width than the first."""
    wide = len(table.header)
    told = f"{width} cells, the line of column names has {wide}; give every row one cell per column"
    if len({len(cells) for _, cells in table.rows[1:]}) == 1 and width == wide + 1:
        return f"{told} (every row has one more: perhaps the first column has no name)"
    if width > wide and table.separator == ",":
        return f"{told} (a comma inside a cell needs quotes around it; a decimal comma must be a point)"
    return f"{told} (cells are separated by {separated_by(table.separator)})"
