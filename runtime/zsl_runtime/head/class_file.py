"""Classes and their attributes in tables of users: CSV files and .xlsx workbooks."""

from __future__ import annotations

import re
import unicodedata
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import UsageError, listed
from zsl_runtime.head.class_table import ClassTable, check_class_name, refuse_duplicates
from zsl_runtime.head.names import alike, look, of_cell, visible_form
from zsl_runtime.head.numbers import DATE, LARGEST, SMALLEST, instead, may_be_thousands, numbers, with_decimal_commas
from zsl_runtime.head.packed import select
from zsl_runtime.head.table import read_table, separated_by
from zsl_runtime.head.workbook import COMMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from numpy.typing import NDArray

    from zsl_runtime.head.packed import Row
    from zsl_runtime.head.table import Table

SPLITS = ("seen", "unseen")
PLACEHOLDER = "NEW CLASS"  # what the template calls a class that nobody has named yet
WRONG = re.compile(r"#(N/A|REF!|VALUE!|DIV/0!|NAME\?|NUM!|NULL!|SPILL!|CALC!|FIELD!)")  # of spreadsheet programs
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?")  # of a date in a workbook
UNNAMED = re.compile(r"Unnamed: \d+")  # how pandas calls a column without a name


def read_class_csv(
    path: str | PathLike[str],
    *,
    attributes: Sequence[str] | None = None,
    need_split: bool,
    data: bytes | None = None,
) -> ClassTable:
    """Read classes and their attribute vectors from a CSV file, or from the first sheet of an .xlsx workbook.

    The first line names the columns: `name`, perhaps `split` (seen|unseen), and one column per attribute; for what else
    is read see `zsl_runtime.head.table`. Passed over are blank lines, blank columns without a name, a first column that
    only numbers the rows, and comments: lines whose name begins with a number sign and a space.

    Args:
        path: the file; a workbook when its name ends in .xlsx, or when it is one.
        attributes: attribute names of an existing model. Columns are matched by name in any order; the table gets
            this order. None takes the file's own columns in the file's order.
        need_split: True for a data folder's classes.csv, whose column `split` is required. False for classes to be
            added to a model: they are unseen, so `split` may be absent, or say `unseen` in every row.
        data: the file, where it is in memory: then `path` is only what messages call it.

    Returns:
        The classes in the file's order; `raw` is float64, exactly the numbers of the file. Its notes say what the user
        should know of the file.

    Raises:
        UsageError: E-CSV (unreadable as CSV), E-XLSX (unreadable as a workbook), E-XLSX-MISSING, E-CLASSES-EMPTY,
            E-CSV-COLUMNS, E-ATTRIBUTES, E-CLASS-NAME, E-CLASS-DUPLICATE, E-CLASSES-SPLIT, E-ATTRIBUTE-VALUE or
            E-ATTRIBUTE-ZERO.
        SystemProblem: the file cannot be opened.

    """
    table = read_table(path, ("name",), comments=True, data=data)
    where = table.name
    if not table.rows:
        raise UsageError("E-CLASSES-EMPTY", f"{where} is empty; expected a line of column names and a row per class")
    name_column = _name_column(table, attributes)
    rows = select(table.rows[1:], lambda row: not row[1][name_column].lstrip().startswith(COMMENT))
    columns = _check_columns(table, rows, attributes, need_split=need_split)
    given = tuple(column for column in columns if column not in {"name", "split", ""})
    wanted = given if attributes is None else tuple(attributes)
    columns = as_called(columns, wanted)
    _check_attributes([column for column in columns if column not in {"name", "split", ""}], wanted, where)
    if not rows:
        raise UsageError("E-CLASSES-EMPTY", f"{where} has a line of column names and no classes; add one row per class")
    if name_column in table.padded:
        raise UsageError("E-CLASS-NAME", table.padded[name_column])
    names = tuple(_class_name(cells[name_column], table, line, name_column) for line, cells in rows)
    if not need_split and PLACEHOLDER in names:
        raise UsageError(
            "E-CLASS-NAME",
            f"{table.at(rows[names.index(PLACEHOLDER)][0], name_column)}: the class is still called {PLACEHOLDER!r}, "
            "as the template calls it; give it its name",
        )
    refuse_duplicates(names, code="E-CLASS-DUPLICATE", what=f"classes in {where}")
    seen = np.zeros(len(names), dtype=np.bool_)
    if "split" in columns:
        column = columns.index("split")
        for row, (line, cells) in enumerate(rows):
            at = f"{table.at(line, column)}, class {names[row]!r}"
            seen[row] = _is_seen(cells[column], at, need_split=need_split)
    raw, notes = _attribute_values(rows, [columns.index(name) for name in wanted], names, wanted, table)
    return ClassTable(names, seen, raw, wanted, (*table.notes, *notes, *_date_note(names, table)))


def _name_column(table: Table, attributes: Sequence[str] | None) -> int:
    """Where the names are; UsageError E-CSV-COLUMNS."""
    found = table.find("name")
    if len(found) > 1:  # `Name` beside `NAME`: attributes of the model are none
        found = [k for k in found if table.header[k].strip() not in set(attributes or ())] or found
    if not found:
        header = [cell.strip() for cell in table.header]
        hint = "" if table.book else f"; cells are separated by {separated_by(table.separator)}"
        if hint and len(header) == 1 and table.separator in header[0]:
            hint += ", and the first line is one cell: leave out quotes around whole lines"
        raise UsageError("E-CSV-COLUMNS", f"{table.name} has no column 'name' (it begins {listed(header)}){hint}")
    if len(found) > 1:
        called = listed([table.header[k].strip() for k in found])
        raise UsageError(
            "E-CSV-COLUMNS", f"these columns of {table.name} are given more than once: {called}; each must be unique"
        )
    return found[0]


def _check_columns(
    table: Table, rows: Sequence[Row], attributes: Sequence[str] | None, *, need_split: bool
) -> list[str]:
    """The column names; '' for columns to be passed over. UsageError E-CSV-COLUMNS."""
    where = table.name
    cells = table.header if table.book else map(of_cell, map(str.strip, table.header))
    columns = [_column_name(cell, number, where) for number, cell in enumerate(cells, start=1)]
    columns[_name_column(table, attributes)] = "name"
    if "split" not in columns:
        known = set(attributes or ())
        called = [k for k, column in enumerate(columns) if alike(column, "split") and column not in known]
        columns = ["split" if called == [k] else column for k, column in enumerate(columns)]
    unnamed = [k for k, column in enumerate(columns) if not column or UNNAMED.fullmatch(column)]
    if unnamed[:1] == [0] and _numbers_rows([cells[0] for _, cells in rows]):
        columns[unnamed.pop(0)] = ""
    first = _first_held(rows, unnamed)
    for k in unnamed:
        if k in first:
            line, cell = first[k]
            raise UsageError(
                "E-CSV-COLUMNS",
                f"column {k + 1} of {where} has no name{f' ({columns[k]!r})' if columns[k] else ''}, and "
                f"{table.at(line, k)} holds {cell[:40]!r} there; name it or remove it",
            )
        columns[k] = ""
    refuse_duplicates([column for column in columns if column], code="E-CSV-COLUMNS", what=f"columns of {where}")
    if need_split and "split" not in columns:
        raise UsageError("E-CSV-COLUMNS", f"{where} has no column 'split'; add it with seen or unseen in every row")
    return columns


def _first_held(rows: Sequence[Row], columns: Sequence[int]) -> dict[int, tuple[int, str]]:
    """Column -> line and content of the first cell in it that is not blank, of the columns that have one."""
    found: dict[int, tuple[int, str]] = {}
    for line, cells in rows if columns else ():
        for k in columns:
            if cells[k] and k not in found and cells[k].strip():
                found[k] = line, cells[k]
    return found


def _column_name(cell: str, number: int, where: str) -> str:
    """A column's name as it is stored: letters composed, a line break as a space, nothing blank at its ends."""
    text = unicodedata.normalize("NFC", cell).strip().strip("\ufeff").strip()
    text = " ".join(part.strip() for part in re.split(r"[\r\n\v\f]+", text))
    if any(unicodedata.category(letter) in {"Cc", "Cs"} and letter != "\t" for letter in text):
        raise UsageError(
            "E-CSV-COLUMNS", f"the name of column {number} of {where}, {text!r}, holds control characters; name it anew"
        )
    return text


def _numbers_rows(cells: Sequence[str]) -> bool:
    """Whether these are 0, 1, 2, ... or 1, 2, 3, ...: what pandas and R write in front of rows."""
    return any(
        [cell.strip() for cell in cells] == [str(k) for k in range(first, first + len(cells))] for first in (0, 1)
    )


def as_called(columns: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The columns, called as the wanted ones where they differ from one in nothing that can be seen."""
    there = set(columns)
    hidden: dict[str, list[str]] = {}
    for name in wanted:
        if name not in there:
            hidden.setdefault(visible_form(name), []).append(name)
    known = set(wanted)
    called = [
        column if column in known else (hidden.get(visible_form(column)) or [column])[0] if column else ""
        for column in columns
    ]
    return called if len(set(filter(None, called))) == len(list(filter(None, called))) else list(columns)


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
        parts += meant(missing, extra)
        raise UsageError(
            "E-ATTRIBUTES",
            f"the attribute columns of {where} are not the model's {len(wanted)} ({'; '.join(parts)}); "
            "columns are matched by name, in any order",
        )


def meant(missing: Sequence[str], extra: Sequence[str]) -> list[str]:
    """What to call the unknown names by, of which some look like missing ones; in words, or nothing."""
    looks = {look(name): name for name in missing}
    pairs = [f"{name!r} as {looks[look(name)]!r}" for name in extra if look(name) in looks]
    return [f"call {', '.join(pairs[:5])}"] if pairs else []


def _class_name(cell: str, table: Table, line: int, column: int) -> str:
    where = table.at(line, column)
    if WRONG.fullmatch(cell.strip()):
        raise UsageError(
            "E-CLASS-NAME", f"{where} holds {cell!r}, an error of the spreadsheet program; mend the formula"
        )
    if table.book and TIME.fullmatch(cell):
        raise UsageError(
            "E-CLASS-NAME",
            f"{where} holds a date, {cell!r}, as spreadsheet programs make of some names; format it as text, then "
            "enter the name",
        )
    if not cell.strip():
        raise UsageError("E-CLASS-NAME", f"{where}: the name is empty; give every class a name")
    try:
        return check_class_name(cell if table.book else of_cell(cell.strip()))
    except UsageError as error:
        raise UsageError(error.code, f"{where}: {error.message}") from None


def _date_note(names: Sequence[str], table: Table) -> tuple[str, ...]:
    dates = tuple(name for name in names if DATE.fullmatch(name))
    made = "spreadsheet programs make dates of some names"
    return (f"{table.name} has classes that are called as dates are: {listed(dates)}; {made}",) if dates else ()


def _is_seen(cell: str, where: str, *, need_split: bool) -> bool:
    split = next((split for split in SPLITS if alike(cell, split)), None)
    if split is None:
        raise UsageError("E-CLASSES-SPLIT", f"{where}: split is {cell.strip()!r}; expected 'seen' or 'unseen'")
    if split == "seen" and not need_split:
        raise UsageError(
            "E-CLASSES-SPLIT",
            f"{where}: split is 'seen', but classes added from attributes alone are unseen; "
            "write 'unseen' or remove the column",
        )
    return split == "seen"


def _attribute_values(
    rows: Sequence[Row],
    places: Sequence[int],
    names: Sequence[str],
    attributes: Sequence[str],
    table: Table,
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The (C, A) numbers of the cells at `places`, and notes; one error names the first bad cell, counts the others."""
    pick = itemgetter(*places) if len(places) > 1 else lambda cells: (cells[places[0]],)

    def every() -> Iterator[str]:
        return (cell for _, cells in rows for cell in pick(cells))

    comma = _decimal_comma(every, table)
    grouped = table.separator == ";" and may_be_thousands(every())
    raw = np.empty((len(rows), len(places)), dtype=np.float64)
    bad: list[str] = []
    empty: list[int] = []
    for row, (line, cells) in enumerate(rows):
        chosen = pick(cells)
        # Ten thousand classes of 312 attributes are 3 million cells: most rows hold nothing but numbers.
        raw[row] = numbers([cell.replace(",", ".") for cell in chosen] if comma else chosen)
        if grouped:
            raw[row, ["." in cell for cell in chosen]] = np.nan
        if not (np.abs(raw[row]) >= SMALLEST).any():
            empty.append(row)
        bad += [
            f"{table.at(line, places[int(k)])}, class {names[row]!r}, column {attributes[int(k)]!r} "
            f"{_held(chosen[int(k)], table, grouped=grouped)}"
            for k in np.flatnonzero(~(np.abs(raw[row]) <= LARGEST))
        ]
    if bad:
        more = f" (and {len(bad) - 1} more such cells)" if len(bad) > 1 else ""
        raise UsageError("E-ATTRIBUTE-VALUE", f"{bad[0]}; expected a finite number such as 0.25{more}")
    if empty:
        tiny = " or as good as 0 (below 1.2e-38)" if raw[empty[0]].any() else ""
        raise UsageError(
            "E-ATTRIBUTE-ZERO",
            f"{table.at(rows[empty[0]][0])}: every attribute of class {names[empty[0]]!r} is 0{tiny}, so "
            "nothing describes it; give it at least one attribute",
        )
    return raw, (f"{table.name} has decimal commas: '{comma}' is read as {comma.replace(',', '.')}",) if comma else ()


def _decimal_comma(cells: Callable[[], Iterator[str]], table: Table) -> str:
    """A cell with a decimal comma, where commas can only be such; '' elsewhere."""
    if table.book or table.separator == ",":
        return ""
    return next(cell.strip() for cell in cells() if "," in cell) if with_decimal_commas(cells()) else ""


def _held(cell: str, table: Table, *, grouped: bool) -> str:
    """What is wrong with a cell that holds no number."""
    if not cell.strip():
        return f"is empty{', or a formula that was saved without its value, or merged' if table.book else ''}"
    told = instead(cell)
    if grouped and "." in cell:
        told = f" (is this {cell.strip()} or {cell.strip().replace('.', '')}? Put commas between cells, or no point)"
    return f"holds {cell if len(cell) <= 40 else f'{cell[:37]}...'!r}{told}"
