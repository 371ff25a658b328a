"""The ordered classes of a model, and what may be the name of one."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import UsageError, listed
from zsl_runtime.head.names import OVERRIDING, TURNING, perhaps, stored_form
from zsl_runtime.head.numbers import LARGEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeVar

    from numpy.typing import NDArray

    Given = TypeVar("Given")

# Kinds of letters that do not come back from a CSV file: control characters, line separators, and the halves of
# surrogate pairs that Python makes of bytes that are not UTF-8.
UNWRITABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True)
class ClassTable:
    """Ordered classes: column j of every score is row j here.

    Attributes:
        names: C class names, unique, in their stored form (`stored_form`), whatever form they were given in.
        seen: (C,) bool; True where the model was trained on photographs of the class.
        raw: (C, A) float64 attribute vectors exactly as given.
        attributes: A attribute names, the columns of `raw`.
        notes: what the user should know of the file that this was read from, a line each.

    """

    names: tuple[str, ...]
    seen: NDArray[np.bool_]
    raw: NDArray[np.float64]
    attributes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(map(stored_form, self.names)))
        count = len(self.names)
        if self.seen.shape != (count,) or self.raw.shape != (count, len(self.attributes)):
            raise UsageError(
                "E-CLASSES-SHAPE",
                f"{count} class names, seen flags {self.seen.shape} and attributes {self.raw.shape} do not agree; "
                f"expected ({count},) and ({count}, {len(self.attributes)})",
            )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _columns(self) -> dict[str, int]:
        """Name -> column; made once, so that looking all names up is not quadratic."""
        return {name: j for j, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """Column of class `name`, in whatever form it is given; UsageError E-CLASS-UNKNOWN, E-CLASS-NAME (no text)."""
        try:
            return self._columns[stored_form(name)]
        except KeyError:
            raise UsageError(
                "E-CLASS-UNKNOWN",
                f"class {str(name)!r} is not in this model{perhaps(name, self.names)}; it knows {len(self)} classes",
            ) from None

    def append(self, other: ClassTable) -> ClassTable:
        """Return this table followed by `other`, whose attributes must be the same columns in the same order."""
        if other.attributes != self.attributes:
            raise UsageError("E-ATTRIBUTES", "the new classes have other attribute columns than the model")
        return ClassTable(
            self.names + other.names,
            np.concatenate([self.seen, other.seen]),
            np.concatenate([self.raw, other.raw]),
            self.attributes,
        )

    def take(self, rows: NDArray[np.int64]) -> ClassTable:
        """The classes at `rows`, in that order."""
        names = tuple(self.names[int(i)] for i in rows)
        return replace(self, names=names, seen=self.seen[rows], raw=self.raw[rows], notes=())


def check_class_name(name: str) -> str:
    """Return the class name as it is stored (`stored_form`).

    Args:
        name: as typed, or as a folder is called. Spaces inside and any script are fine.

    Raises:
        UsageError: E-CLASS-NAME when it is empty, '.', '..', or holds a slash, a backslash, a control character, a
            line separator or a half of a surrogate pair: such a name cannot be a folder or a CSV cell everywhere. Or a
            letter that turns the direction of others, by which one name is made to look like another.

    """
    stored = check_holdable(name)
    turning = next((letter for letter in stored if letter in TURNING), None)
    if turning is not None:
        raise _turned(name, turning)
    return stored


def _turned(name: str, letter: str) -> UsageError:
    return UsageError(
        "E-CLASS-NAME",
        f"class name {name!r} holds U+{ord(letter):04X}, which cannot be seen and turns the direction of letters; "
        "remove it from the name",
    )


def check_holdable(name: str) -> str:
    """As `check_class_name`, for a name that a bundle holds: older versions let marks of direction through.

    Overrides and embeddings of direction, which no name needs, are refused here as well.
    """
    stored = stored_form(name)
    if not stored or stored in {".", ".."}:
        raise UsageError("E-CLASS-NAME", f"a class is called {name!r}; expected a name that can also name a folder")
    turning = next((letter for letter in stored if letter in OVERRIDING), None)
    if turning is not None:
        raise _turned(name, turning)
    for letter in stored:
        if letter in "/\\" or unicodedata.category(letter) in UNWRITABLE:
            raise UsageError(
                "E-CLASS-NAME",
                f"class name {name!r} holds the character {letter!r}; "
                "slashes, backslashes and control characters are not allowed in class names; rename it",
            )
    return stored


def in_stored_form(given: Mapping[str, Given]) -> dict[str, Given]:
    """What is given for classes, by the stored forms of their names.

    Raises:
        UsageError: E-CLASS-DUPLICATE when two of the names are one.

    """
    names = [stored_form(name) for name in given]
    refuse_duplicates(names, code="E-CLASS-DUPLICATE", what="classes")
    return dict(zip(names, given.values(), strict=True))


def check_numbers(table: ClassTable, where: str) -> None:
    """UsageError E-ATTRIBUTE-VALUE for an attribute that is NaN, infinite or larger than float32 holds.

    Args:
        table: whose attributes.
        where: they come from, for messages.

    """
    bad = np.argwhere(~(np.abs(table.raw) <= LARGEST))
    if len(bad):
        row, column = (int(one) for one in bad[0])
        more = f" (and {len(bad) - 1} more such values)" if len(bad) > 1 else ""
        raise UsageError(
            "E-ATTRIBUTE-VALUE",
            f"{where}: attribute {table.attributes[column]!r} of class {table.names[row]!r} is "
            f"{table.raw[row, column]:g}; expected a finite number below 3.4e38, as models compute with{more}",
        )


def refuse_duplicates(names: Iterable[str], *, code: str, what: str) -> None:
    """UsageError `code` that lists the names given more than once; `what` completes 'these ... are given ...'."""
    known: set[str] = set()
    twice: dict[str, None] = {}
    for name in names:
        if name in known:
            twice[name] = None
        known.add(name)
    if twice:
        raise UsageError(code, f"these {what} are given more than once: {listed(tuple(twice))}; each must be unique")
