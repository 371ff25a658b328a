"""The ordered classes of a model, and what may be the name of one."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import UsageError, listed, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

# Kinds of letters that do not come back from a CSV file: control characters, line separators, and the halves of
# surrogate pairs that Python makes of bytes that are not UTF-8.
UNWRITABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True)
class ClassTable:
    """Ordered classes: column j of every score is row j here.

    Attributes:
        names: C class names, unique.
        seen: (C,) bool; True where the model was trained on photographs of the class.
        raw: (C, A) float64 attribute vectors exactly as given.
        attributes: A attribute names, the columns of `raw`.

    """

    names: tuple[str, ...]
    seen: NDArray[np.bool_]
    raw: NDArray[np.float64]
    attributes: tuple[str, ...]

    def __post_init__(self) -> None:
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
        """Column of class `name`; UsageError E-CLASS-UNKNOWN when it is not there."""
        try:
            return self._columns[name]
        except KeyError:
            raise UsageError(
                "E-CLASS-UNKNOWN",
                f"class {name!r} is not in this model{nearest(name, self.names)}; it knows {len(self.names)} classes",
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
        return replace(self, names=tuple(self.names[int(i)] for i in rows), seen=self.seen[rows], raw=self.raw[rows])


def check_class_name(name: str) -> str:
    """Return the class name as it is stored: stripped and NFC-normalised.

    Args:
        name: as typed, or as a folder is called. Spaces inside and any script are fine.

    Raises:
        UsageError: E-CLASS-NAME when it is empty, '.', '..', or holds a slash, a backslash, a control character, a
            line separator or a half of a surrogate pair: such a name cannot be a folder or a CSV cell everywhere.

    """
    stored = unicodedata.normalize("NFC", name).strip()
    if not stored or stored in {".", ".."}:
        raise UsageError("E-CLASS-NAME", f"a class is called {name!r}; expected a name that can also name a folder")
    for letter in stored:
        if letter in "/\\" or unicodedata.category(letter) in UNWRITABLE:
            raise UsageError(
                "E-CLASS-NAME",
                f"class name {name!r} holds the character {letter!r}; "
                "slashes, backslashes and control characters are not allowed in class names; rename it",
            )
    return stored


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
