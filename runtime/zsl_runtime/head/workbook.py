"""Tables in .xlsx workbooks, by openpyxl, which the extra `xlsx` brings and which nobody imports before one is met.

A workbook is a zip archive of XML, so a small file may hold a huge table: what is unpacked is bounded.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import UsageError, ZslError, from_os_error
from zsl_runtime.extras import wanting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

SUFFIX = ".xlsx"
# A cell of 17 digits takes some 45 bytes, so these are about 5 million cells: 16,000 classes of 312 attributes.
MOST_BYTES = 256 << 20  # of all parts of a workbook, unpacked
MOST_ROWS = 1 << 20  # what spreadsheet programs have at most; most of them may be blank
MOST_CELLS = 8_000_000
LONGEST = 32_767  # letters of a cell
# What the format cannot hold as it is: it writes control characters as _x000D_, and reads that as one of them.
ESCAPED = re.compile(r"x[0-9A-Fa-f]{4}_")


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


def workbook_rows(path: str | PathLike[str]) -> list[tuple[int, list[str]]]:
    """Read the first sheet of a workbook, values in place of formulas.

    Args:
        path: an .xlsx file.

    Returns:
        (row number, cells as text) of every row that is not blank, all of the width of the first, which names the
        columns. A number is the shortest text that gives it back.

    Raises:
        UsageError: E-XLSX when it is no workbook, is damaged or too large, or has a cell beyond the named columns;
            E-XLSX-MISSING.
        SystemProblem: the file cannot be opened.

    """
    where = f"{str(path)!r}"
    openpyxl = library()
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise from_os_error(error, "read the table") from error
    try:
        _check_size(data, where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a sheet has besides its cells
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
            return _rows(book, where)
    except (ZslError, MemoryError):
        raise
    except Exception as error:  # damaged files fail in as many ways as the format has parts
        raise _refused(
            f"{where} is no .xlsx workbook, or is damaged or locked by a password ({type(error).__name__}); save it "
            "again as .xlsx or as 'CSV UTF-8'"
        ) from error


def _check_size(data: bytes, where: str) -> None:
    """Refuse what would take too much memory; what a part says of its size, unpacking holds it to."""
    import zipfile  # slow to import, and a CSV file has no use for it

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = max(len(data), sum(part.file_size for part in archive.infolist()))
    if size > MOST_BYTES:
        raise _refused(
            f"{where} holds {size >> 20} MiB when it is unpacked, and at most {MOST_BYTES >> 20} are read; leave only "
            "the table in it, or save that as 'CSV UTF-8'"
        )


def _refused(problem: str) -> UsageError:
    return UsageError("E-XLSX", problem)


def _rows(book: Any, where: str) -> list[tuple[int, list[str]]]:
    """The rows of the first sheet that are not blank."""
    if not book.worksheets:
        raise _refused(f"{where} has no sheet of cells; put the table into the first sheet")
    sheet = book.worksheets[0]
    sheet.reset_dimensions()  # what the file says of its size may be wrong, and huge
    rows: list[tuple[int, list[str]]] = []
    for number, cells in _filled(sheet.iter_rows(values_only=True), where):
        if rows and len(cells) > len(rows[0][1]):
            raise _refused(
                f"{where}, cell {cell_name(number, len(cells) - 1)} holds {cells[-1][:40]!r}, and the row of column "
                f"names ends at {cell_name(rows[0][0], len(rows[0][1]) - 1)}; name that column or clear the cell"
            )
        rows.append((number, cells + [""] * (len(rows[0][1]) - len(cells) if rows else 0)))
        if len(rows) * len(rows[0][1]) > MOST_CELLS:
            raise _refused(f"{where} has more than {MOST_CELLS} cells; split the table, or save it as 'CSV UTF-8'")
    return rows


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
