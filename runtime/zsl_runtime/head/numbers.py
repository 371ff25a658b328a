"""Numbers in the cells of tables, and what to say of cells that hold none."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LARGEST = float(np.finfo(np.float32).max)  # what models compute with
SMALLEST = float(np.finfo(np.float32).tiny)  # a row of smaller numbers is a row of zeros to them
# Letters for what a number begins with that mean the same, and those that cannot be seen.
SIGNS = str.maketrans({"\u2212": "-", "\uff0d": "-", "\uff0b": "+", "\uff0e": "."}) | dict.fromkeys(
    (0x200B, 0x2060, 0xFEFF)
)
COMMA = re.compile(r"\s*[+\-\u2212]?\d+,\d+([eE][+-]?\d+)?\s*")
THOUSANDS = re.compile(r"\s*[+\-\u2212]?[1-9]\d{0,2}(,\d{3})+\s*")
GROUPED = re.compile(r"[+\-\u2212]?\d{1,3}([ \u00a0\u202f.,'\u2019]\d{3})+([.,]\d+)?")
DATE = re.compile(
    r"\d{1,4}[-/]\d{1,2}([-/]\d{1,4})?( \d\d:.*)?|\d{1,2}\.\d{1,2}\.\d{2,4}|\d{1,2}:\d\d(:\d\d)?"
    r"|(\d{1,2}[-. ])?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?[- ]\d{1,4}",
    re.IGNORECASE,
)


def numbers(cells: Sequence[str]) -> list[float]:
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
        return float(cell.translate(SIGNS))
    except ValueError:
        return math.nan


def with_decimal_commas(cells: Iterable[str]) -> bool:
    """Whether the commas in these cells, which are separated by something else, can only be decimal ones.

    They are where every cell with a comma is such a number, none has a point, and one at least cannot be thousands.
    """
    sure = False
    for cell in cells:
        if "." in cell:
            return False
        if "," in cell:
            if not COMMA.fullmatch(cell):
                return False
            sure = sure or not THOUSANDS.fullmatch(cell)
    return sure


def may_be_thousands(cells: Iterable[str]) -> bool:
    """Whether every point in these cells may separate thousands, as it does where semicolons are between cells."""
    pointed = False
    for cell in cells:
        if "." in cell:
            if not THOUSANDS.fullmatch(cell.strip().replace(".", ",")):
                return False
            pointed = True
    return pointed


def instead(cell: str) -> str:
    """What a cell seems to be that holds no number, or one that is too large, and what to write; '' when that is open.

    In brackets, with a space in front, for the middle of a message.
    """
    text = cell.strip()
    number = _number(cell)
    if not math.isnan(number) and any(letter.isdecimal() for letter in text):
        return " (beyond 3.4e38, the largest number that a model can hold)"
    if text.startswith("#") and text[1:2].isalpha():
        return " (an error of the spreadsheet program: mend the formula)"
    if text.upper() in {"TRUE", "FALSE", "YES", "NO"}:
        return " (write 1 or 0)"
    if text.endswith("%"):
        return " (a percentage: write it as in training, such as 0.5 or 50)"
    if text.startswith("="):
        return " (a formula: save values)"
    if text[:1] in {"'", "\u2018", "\u2019", "`"} and math.isfinite(_number(text[1:])):
        return " (leave the apostrophe out)"
    if THOUSANDS.fullmatch(text):
        small = text.replace(",", ".") if text.count(",") == 1 else "a fraction"
        return f" (is this {small} or {text.replace(',', '')}?)"
    if COMMA.fullmatch(text):
        return f" (a decimal comma: write {text.replace(',', '.')})"
    if GROUPED.fullmatch(text):
        return " (leave out what separates thousands)"
    if DATE.fullmatch(text):
        return " (a date, as spreadsheet programs make of some numbers: format the cells as text, then enter it)"
    return ""
