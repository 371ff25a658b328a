"""Classes and their attributes in tables of users: CSV files and .xlsx workbooks."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.errors import UsageError, from_os_error, listed
from zsl_runtime.head.class_table import ClassTable, check_class_name, refuse_duplicates
from zsl_runtime.head.workbook import cell_name, is_workbook, workbook_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from numpy.typing import NDArray

SPLITS = ("seen", "unseen")
COMMENT = "# "  # a row whose name begins so is no class
PLACEHOLDER = "NEW CLASS"  # what the template calls a class that nobody has named yet


def read_class_csv(
    path: str | PathLike[str], *, attributes: Sequence[str] | None = None, need_split: bool
) -> ClassTable:
    """Read classes and their attribute vectors from a CSV file, or from the first sheet of an .xlsx workbook.

    The first line names the columns: `name`, perhaps `split` (seen|unseen), and one column per attribute. UTF-8 with
    or without byte-order mark, any line ending, quoted cells. Passed over are blank lines, and comments: lines whose
    name begins with a number sign and a space.

    Args:
        path: the file; a workbook when its name ends in .xlsx.
        attributes: attribute names of an existing model. Columns are matched by name in any order; the table gets
            this order. None takes the file's own columns in the file's order.
        need_split: True for a data folder's classes.csv, whose column `split` is required. False for classes to be
            added to a model: they are unseen, so `split` may be absent, or say `unseen` in every row.

    Returns:
        The classes in the file's order; `raw` is float64, exactly the numbers of the file.

    Raises:
        UsageError: E-CSV (unreadable as CSV), E-XLSX (unreadable as a workbook), E-XLSX-MISSING, E-CLASSES-EMPTY,
            E-CSV-COLUMNS, E-ATTRIBUTES, E-CLASS-NAME, E-CLASS-DUPLICATE, E-CLASSES-SPLIT, E-ATTRIBUTE-VALUE or
            E-ATTRIBUTE-ZERO.
        SystemProblem: the file cannot be opened.

    """
    file = _File(f"{str(path)!r}", book=is_workbook(path))
    where = file.name
    rows = workbook_rows(path) if file.book else csv_rows(path)
    if not rows:
        raise UsageError("E-CLASSES-EMPTY", f"{where} is empty; expected a line of column names and a row per class")
    columns = _check_columns(rows[0][1], where, need_split=need_split)
    given = tuple(column for column in columns if column not in {"name", "split"})
    wanted = given if attributes is None else tuple(attributes)
    _check_attributes(given, wanted, where)
    name_column = columns.index("name")
    rows = [(line, cells) for line, cells in rows[1:] if not cells[name_column].lstrip().startswith(COMMENT)]
    if not rows:
        raise UsageError("E-CLASSES-EMPTY", f"{where} has a line of column names and no classes; add one row per class")
    names = tuple(_class_name(cells[name_column], file.at(line, name_column)) for line, cells in rows)
    if not need_split and PLACEHOLDER in names:
        raise UsageError(
            "E-CLASS-NAME",
            f"{file.at(rows[names.index(PLACEHOLDER)][0], name_column)}: the class is still called {PLACEHOLDER!r}, as "
            "the template calls it; give it its name",
        )
    refuse_duplicates(names, code="E-CLASS-DUPLICATE", what=f"classes in {where}")
    seen = np.zeros(len(names), dtype=np.bool_)
    if "split" in columns:
        column = columns.index("split")
        for row, (line, cells) in enumerate(rows):
            at = f"{file.at(line, column)}, class {names[row]!r}"
            seen[row] = _is_seen(cells[column], at, need_split=need_split)
    raw = _attribute_values(rows, [columns.index(name) for name in wanted], names, wanted, file)
    return ClassTable(names, seen, raw, wanted)


class _File(NamedTuple):
    """What messages say of a file of classes.

    Attributes:
        name: of the file, quoted.
        book: whether it is a workbook, whose cells have names.

    """

    name: str
    book: bool

    def at(self, line: int, column: int | None = None) -> str:
        """Where a line is, or a cell of it; columns count from 0."""
        if not self.book:
            return f"{self.name}, line {line}"
        return f"{self.name}, row {line}" if column is None else f"{self.name}, cell {cell_name(line, column)}"

    def held(self, cell: str) -> str:
        """What is wrong with a cell that holds no number."""
        if not cell.strip():
            return f"is empty{', or a formula that was saved without its value' if self.book else ''}"
        return f"holds {cell!r}" if len(cell) <= 40 else f"holds {cell[:37]!r}..."


def csv_rows(path: str | PathLike[str]) -> list[tuple[int, list[str]]]:
    """Read a CSV file: UTF-8 with or without byte-order mark, any line ending, quoted cells.

    Returns:
        (line number, cells) of every line that is not blank, all of the width of the first, which names the columns.

    Raises:
        UsageError: E-CSV when it is not UTF-8, not CSV, or has a row of another width.
        SystemProblem: the file cannot be opened.

    """
    where = f"{str(path)!r}"
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise from_os_error(error, "read the table") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            "E-CSV", f"{where} is not UTF-8 (byte {error.start} of {len(data)}); save it as 'CSV UTF-8'"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        rows.extend((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise UsageError("E-CSV", f"{where}, line {reader.line_num}: {error}; expected comma-separated cells") from None
    width = len(rows[0][1]) if rows else 0
    for line, cells in rows[1:]:
        if len(cells) != width:
            raise UsageError(
                "E-CSV",
                f"{where}, line {line} has {len(cells)} cells, the line of column names has {width}; "
                "give every row one cell per column (a comma inside a cell needs quotes around it)",
            )
    return rows


def _check_columns(header: Sequence[str], where: str, *, need_split: bool) -> tuple[str, ...]:
    """The column names, stripped and NFC-normalised."""
    columns = tuple(unicodedata.normalize("NFC", cell).strip() for cell in header)
    if "name" not in columns:
        hint = "; the cells seem to be separated by ';', use commas" if any(";" in cell for cell in columns) else ""
        raise UsageError("E-CSV-COLUMNS", f"{where} has no column 'name' (it begins {listed(columns)}){hint}")
    if "" in columns:
        number = columns.index("") + 1
        raise UsageError("E-CSV-COLUMNS", f"column {number} of {where} has no name; name it or remove it")
    refuse_duplicates(columns, code="E-CSV-COLUMNS", what=f"columns of {where}")
    if need_split and "split" not in columns:
        raise UsageError("E-CSV-COLUMNS", f"{where} has no column 'split'; add it with seen or unseen in every row")
    return columns


def _check_attributes(given: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Refuse a file whose attribute columns are not exactly the wanted ones, in any order."""
    if not given:
        raise UsageError("E-ATTRIBUTES", f"{where} has no attribute columns; expected one column per attribute")
    known, present = set(wanted), set(given)
    missing = tuple(name for name in wanted if name not in present)
    extra = tuple(name for name in given if name not in known)
    if missing or extra:
        parts = [f"{len(missing)} missing: {listed(missing)}"] if missing else []
        parts += [f"{len(extra)} unknown: {listed(extra)}"] if extra else []
        raise UsageError(
            "E-ATTRIBUTES",
            f"the attribute columns of {where} are not the model's {len(wanted)} ({'; '.join(parts)}); "
            "columns are matched by name, in any order",
        )


def _class_name(cell: str, where: str) -> str:
    if not cell.strip():
        raise UsageError("E-CLASS-NAME", f"{where}: the name is empty; give every class a name")
    try:
        return check_class_name(cell)
    except UsageError as error:
        raise UsageError(error.code, f"{where}: {error.message}") from None


def _is_seen(cell: str, where: str, *, need_split: bool) -> bool:
    split = cell.strip()
    if split not in SPLITS:
        raise UsageError("E-CLASSES-SPLIT", f"{where}: split is {split!r}; expected 'seen' or 'unseen'")
    if split == "seen" and not need_split:
        raise UsageError(
            "E-CLASSES-SPLIT",
            f"{where}: split is 'seen', but classes added from attributes alone are unseen; "
            "write 'unseen' or remove the column",
        )
    return split == "seen"


def _attribute_values(
    rows: Sequence[tuple[int, list[str]]],
    places: Sequence[int],
    names: Sequence[str],
    attributes: Sequence[str],
    file: _File,
) -> NDArray[np.float64]:
    """The (C, A) numbers of the cells at `places`; one error names the first bad cell and counts the others."""
    pick = itemgetter(*places) if len(places) > 1 else lambda cells: (cells[places[0]],)
    raw = np.empty((len(rows), len(places)), dtype=np.float64)
    bad: list[str] = []
    for row, (line, cells) in enumerate(rows):
        chosen = pick(cells)
        # Ten thousand classes of 312 attributes are 3 million cells: most rows hold nothing but numbers.
        raw[row] = _numbers(chosen)
        bad += [
            f"{file.at(line, places[int(k)])}, class {names[row]!r}, column {attributes[int(k)]!r} "
            f"{file.held(chosen[int(k)])}"
            for k in np.flatnonzero(~np.isfinite(raw[row]))
        ]
    if bad:
        more = f" (and {len(bad) - 1} more such cells)" if len(bad) > 1 else ""
        raise UsageError("E-ATTRIBUTE-VALUE", f"{bad[0]}; expected a finite number such as 0.25{more}")
    empty = np.flatnonzero(~raw.any(axis=1))
    if empty.size:
        raise UsageError(
            "E-ATTRIBUTE-ZERO",
            f"{file.at(rows[int(empty[0])][0])}: every attribute of class {names[int(empty[0])]!r} is 0, so "
            "nothing describes it; give it at least one attribute",
        )
    return raw


def _numbers(cells: Sequence[str]) -> list[float]:
    """The numbers in cells; NaN where there is none."""
    try:
        if "_" not in "".join(cells):
            return list(map(float, cells))
    except ValueError:
        pass
    return [_number(cell) for cell in cells]


def _number(cell: str) -> float:
    """The number in a cell, NaN when there is none. Python's own `1_000` is text to everybody else."""
    if "_" in cell:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return math.nan
