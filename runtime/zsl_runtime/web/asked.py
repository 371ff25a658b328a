"""What the page asks for, checked: whoever speaks to the port may send anything."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import UsageError, shown
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.machine.untrusted import UnfitError, parse_object
from zsl_runtime.web.vectors import DIGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_CLASSES = 2000  # at a time: for more there is zsl-classes
MOST_PHOTOGRAPHS = 200  # on one page


def object_in(data: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Raises:
        UsageError: E-PAGE-REQUEST, when it holds something else.

    """
    try:
        return parse_object(data)
    except UnfitError as error:
        raise UsageError("E-PAGE-REQUEST", f"what the page asked {error}; expected a JSON object") from None


def names(value: object) -> list[str]:
    """Names of classes."""
    found = [one for one in _list(value, "names", MOST_CLASSES) if isinstance(one, str)]
    if len(found) != len(value):  # type: ignore[arg-type]  # it is a list
        raise _wrong("names of classes", value)
    return found


def digests(value: object) -> list[str]:
    """Photographs, each by the digest that it was answered with; one that is given twice counts once."""
    found = _list(value, "photographs", MOST_PHOTOGRAPHS)
    if not all(isinstance(one, str) and DIGEST.fullmatch(one) for one in found):
        raise _wrong("photographs by their digests", value)
    return list(dict.fromkeys(found))


def by_class(value: object) -> dict[str, list[str]]:
    """Class -> its photographs; classes without any are left out."""
    given = _object(value, "photographs")
    if len(given) > MOST_CLASSES:
        raise _wrong(f"at most {MOST_CLASSES} classes", f"{len(given)} classes")
    found = {name: digests(one) for name, one in given.items()}
    return {name: one for name, one in found.items() if one}


def count(value: object, what: str) -> int:
    """A whole number of at least 1."""
    if type(value) is not int or not 1 <= value < 10**15:
        raise _wrong(f"{what} as a whole number of at least 1", value)
    return value


def class_table(value: object, attributes: Sequence[str]) -> ClassTable:
    """New classes with their values: [{"name": ..., "values": [A numbers]}, ...]."""
    found = [_object(one, "a class") for one in _list(value, "classes", MOST_CLASSES)]
    called = [one.get("name") for one in found]
    if not all(isinstance(name, str) for name in called):
        raise _wrong("a name for each class", called)
    rows = np.array([_numbers(one.get("values"), len(attributes)) for one in found], dtype=np.float64)
    return ClassTable(
        tuple(str(name).strip() for name in called),
        np.zeros(len(found), np.bool_),
        rows.reshape(len(found), len(attributes)),
        tuple(attributes),
    )


def _numbers(value: object, length: int) -> list[float]:
    given = _list(value, "values", length)
    if len(given) != length or not all(type(one) in {int, float} for one in given):
        raise _wrong(f"{length} numbers", value)
    try:
        found = [float(one) for one in given]
    except OverflowError:
        raise _wrong(f"{length} numbers that a float holds", value) from None
    if not all(map(math.isfinite, found)):  # 1e999 is JSON
        raise _wrong(f"{length} finite numbers", value)
    return found


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{what} as an object", value)
    return value


def _list(value: object, what: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(f"{what} as a list", value)
    if len(value) > most:
        raise _wrong(f"at most {most} {what}", f"{len(value)} {what}")
    return value


def _wrong(expected: str, given: object) -> UsageError:
    return UsageError("E-PAGE-REQUEST", f"the page asked with {shown(given)}; expected {expected}; load it again")
