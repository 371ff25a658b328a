"""A table to fill in for new classes: the attributes of the model, what training saw of them, classes as examples."""

from __future__ import annotations

import csv
import difflib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.classes.odd_attributes import training_ranges
from zsl_runtime.classes.similar import unit_rows
from zsl_runtime.errors import UsageError, listed
from zsl_runtime.head.class_file import PLACEHOLDER
from zsl_runtime.head.class_table import check_class_name, refuse_duplicates
from zsl_runtime.head.names import as_cell, doubtful
from zsl_runtime.head.workbook import COMMENT, check_writable, library

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from zsl_runtime.arrays import Doubles, Ints
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.semantic_rule import SemanticRule

EXAMPLES = 3  # classes that are there, shown above those to be filled in
MOST_EXAMPLES = 12  # where there are many names, one for each, up to so many
SMALLEST, LARGEST, EXAMPLE = "# smallest in training", "# largest in training", "# example: "
# Of names: letters only, so that the numbers of folders such as 001.Black_footed_Albatross do not count.
WORD = re.compile(r"[^\W\d_]{3,}")
ALIKE = 0.6  # of difflib; what it takes for close matches
# Of the workbook: rows to which the checks of cells reach, so that classes can be added below; widths in letters.
CHECKED_ROWS, NAME_WIDTH, VALUE_WIDTH = 1000, 32, 14
GREY, LIGHT = "FF808080", "FFF2F2F2"


@dataclass(frozen=True)
class Template:
    """A table that `read_class_csv` reads once it is filled in.

    Attributes:
        attributes: A names, in the model's order.
        ranges: (A, 2) smallest and largest value of each in training.
        examples: classes of the model, shown in comments.
        names: of the rows to fill in.
        values: (A,) of each of these rows, to be edited; None leaves them empty.
        notes: on names that look like others, a line each.
        remarks: more rows for comments, a text for each attribute, behind what the row is called.

    """

    attributes: tuple[str, ...]
    ranges: Doubles
    examples: ClassTable
    names: tuple[str, ...]
    values: Doubles | None
    notes: tuple[str, ...] = ()
    remarks: tuple[tuple[str, ...], ...] = ()

    @property
    def header(self) -> list[str]:
        """The column names."""
        return ["name", *self.attributes]

    def comments(self) -> Iterator[list[str]]:
        """The rows above those to fill in; their names begin with COMMENT."""
        yield [SMALLEST, *map(number_text, self.ranges[:, 0])]
        yield [LARGEST, *map(number_text, self.ranges[:, 1])]
        for name, raw in zip(self.examples.names, self.examples.raw, strict=True):
            yield [f"{EXAMPLE}{name}", *map(number_text, raw)]

    def rows(self) -> Iterator[list[str]]:
        """The rows to fill in."""
        cells = [""] * len(self.attributes) if self.values is None else list(map(number_text, self.values))
        yield from ([name, *cells] for name in self.names)

    @property
    def formulas(self) -> tuple[str, ...]:
        """Texts that a spreadsheet program would take for formulas in a CSV file, did they stand there as they are."""
        return tuple(text for text in (*self.names, *self.attributes) if as_cell(text) != text)

    def csv(self, *, mark: bool) -> bytes:
        """The table as CSV in UTF-8; with a byte-order mark, by which spreadsheet programs know that, if one is needed.

        No cell is taken for a formula: what looks like one has an apostrophe before it, which `read_class_csv` drops.

        Args:
            mark: whether it may have one.

        """
        text = io.StringIO(newline="")
        rows = ((as_cell(name), *cells) for name, *cells in self.rows())
        remarks = ([f"{COMMENT}{name}", *map(as_cell, cells)] for name, *cells in self.remarks)
        csv.writer(text, lineterminator="\n").writerows([map(as_cell, self.header), *self.comments(), *remarks, *rows])
        whole = text.getvalue()
        return whole.encode("utf-8-sig" if mark and not whole.isascii() else "utf-8")

    def workbook(self) -> bytes:
        """The table as an .xlsx workbook: the header stays in sight, comments are grey, cells know what is usual.

        Raises:
            UsageError: E-XLSX-MISSING; E-XLSX for a name that a cell cannot hold.

        """
        openpyxl = library()
        book = openpyxl.Workbook()
        sheet = book.active
        sheet.title = "classes"
        bold = openpyxl.styles.Font(bold=True)
        grey = openpyxl.styles.Font(color=GREY)
        light = openpyxl.styles.PatternFill("solid", fgColor=LIGHT)
        for column, text in enumerate(self.header, start=1):
            _write_text(sheet.cell(1, column), text).font = bold
        for line, cells in enumerate(self.comments(), start=2):
            for cell in _write_row(sheet, line, cells):
                cell.font, cell.fill = grey, light
        for line, (name, *cells) in enumerate(self.remarks, start=sheet.max_row + 1):
            for column, text in enumerate((f"{COMMENT}{name}", *cells), start=1):
                cell = _write_text(sheet.cell(line, column), text)
                cell.font, cell.fill = grey, light
        first = sheet.max_row + 1
        for line, cells in enumerate(self.rows(), start=first):
            _write_row(sheet, line, cells)
        sheet.freeze_panes = "B2"
        self._guard(openpyxl, sheet, first)
        stream = io.BytesIO()
        book.save(stream)
        return stream.getvalue()

    def _guard(self, openpyxl: Any, sheet: Any, first: int) -> None:
        """Let a cell say what training saw, and a spreadsheet program warn of what lies outside."""
        letter = openpyxl.utils.get_column_letter
        sheet.column_dimensions["A"].width = NAME_WIDTH
        for column, (low, high) in enumerate(self.ranges, start=2):
            usual = f"{number_text(low)} to {number_text(high)}"
            check = openpyxl.worksheet.datavalidation.DataValidation(
                "decimal",
                operator="between",
                formula1=number_text(low),
                formula2=number_text(high),
                allow_blank=True,
                errorStyle="warning",
                errorTitle="Outside training",
                error=f"In training this attribute went from {usual}.",
                promptTitle="In training",
                prompt=usual,
            )
            check.showInputMessage = check.showErrorMessage = True
            check.add(f"{letter(column)}{first}:{letter(column)}{first + CHECKED_ROWS}")
            sheet.add_data_validation(check)
            sheet.column_dimensions[letter(column)].width = VALUE_WIDTH


def class_template(bundle: Bundle, names: Sequence[str] = (), like: str | None = None) -> Template:
    """The table to fill in for new classes.

    Args:
        bundle: only read.
        names: of the new classes; without any, one row is called PLACEHOLDER, which must be changed.
        like: a class of the model, whose values the rows are filled with, to be edited.

    Raises:
        UsageError: E-CLASS-NAME, E-CLASS-DUPLICATE; E-CLASS-EXISTS for a class that is there; E-CLASS-UNKNOWN when
            `like` is not.
        ArtefactError: the bundle is damaged.

    """
    table = bundle.current().table
    stored = tuple(_new_name(name) for name in names)
    refuse_duplicates(stored, code="E-CLASS-DUPLICATE", what="classes")
    known = tuple(name for name in stored if name in set(table.names))
    if known:
        raise UsageError(
            "E-CLASS-EXISTS",
            f"{listed(known)} of the names given are in the model already; leave them out (zsl-classes template --like "
            "takes the values of a class that is there)",
        )
    alike = None if like is None else table.index(like)
    return Template(
        bundle.attributes,
        training_ranges(bundle, table),
        table.take(_examples(table, bundle.rule, stored, alike)),
        stored or (PLACEHOLDER,),
        None if alike is None else table.raw[alike],
        doubtful(stored, table.names),
    )


def _new_name(name: str) -> str:
    stored = check_class_name(name)
    if stored.startswith(COMMENT):
        raise UsageError("E-CLASS-NAME", f"class name {name!r} begins as a comment does, with '# '; rename it")
    return stored


def _examples(table: ClassTable, rule: SemanticRule, names: Sequence[str], like: int | None) -> Ints:
    """Rows of the classes to show: `like` and those next to it, or those whose names are like the new ones."""
    if like is not None:
        unit = unit_rows(table, rule)
        cosine = unit @ unit[like]
        cosine[like] = np.inf  # itself first, whatever is as near
        return np.argsort(-cosine, kind="stable")[:EXAMPLES]
    central = _central(table, rule)
    ranked = [[*by_name(name, table.names), *central] for name in names] or [central]
    wanted = min(len(table), max(EXAMPLES, min(len(names), MOST_EXAMPLES)))
    found: dict[int, None] = {}
    while len(found) < wanted:  # in turns; each ranking has every class
        for one in ranked:
            fresh = next((row for row in one if row not in found), None)
            if fresh is not None and len(found) < wanted:
                found[fresh] = None
    return np.array(list(found), dtype=np.int64)


def _central(table: ClassTable, rule: SemanticRule) -> list[int]:
    """Rows of all classes, those next to the mean of the semantic vectors first."""
    vectors = rule.apply(table.raw).astype(np.float64)
    away = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    return [int(row) for row in np.argsort(away, kind="stable")]


def by_name(name: str, known: Sequence[str]) -> list[int]:
    """Which of the known names are like a name, most alike first: by the words that both have, then by their letters.

    The last word says most: a Fox Sparrow is rather a Song Sparrow than a Fox Terrier. What shares no word and few
    letters is not among them.
    """
    words, plain = _words(name), name.casefold()
    ranked = []
    for row, other in enumerate(known):
        theirs = _words(other)
        shared = len(set(words) & set(theirs))
        same_kind = bool(words and theirs and words[-1] == theirs[-1])
        letters = difflib.SequenceMatcher(None, plain, other.casefold()).ratio()
        if shared or letters >= ALIKE:
            ranked.append((-(shared + same_kind), -letters, row))
    return [row for _, _, row in sorted(ranked)]


def _words(name: str) -> list[str]:
    return WORD.findall(name.casefold())


def number_text(value: float) -> str:
    """The shortest text that gives a number back; whole numbers without a point."""
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _write_row(sheet: Any, line: int, cells: Iterable[str]) -> list[Any]:
    """A name and numbers, or nothing, in a line of a sheet."""
    name, *numbers = cells
    written = [_write_text(sheet.cell(line, 1), name)]
    for column, text in enumerate(numbers, start=2):
        cell = sheet.cell(line, column)
        if text:
            cell.value = text
            cell.data_type = "n"  # a number of text is written as it stands, with all its digits
        written.append(cell)
    return written


def _write_text(cell: Any, text: str) -> Any:
    """Text that stays text, also when it looks like a formula and is edited."""
    cell.value = check_writable(text)
    cell.data_type = "s"
    cell.number_format = "@"
    cell.quotePrefix = True
    return cell
