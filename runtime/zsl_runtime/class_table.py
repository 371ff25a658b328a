"""The ordered classes of a model and the rule that turns their attributes into semantic vectors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SemanticRule:
    """How a raw attribute vector becomes a semantic vector (DESIGN.md section 5).

    Attributes:
        clamp_negative: set negative entries (AWA's -1 for "missing") to 0 first.
        unit_l2: divide each class vector by its L2 norm (`att` of the xlsa17 files is stored so).

    """

    clamp_negative: bool = True
    unit_l2: bool = True

    def apply(self, raw: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the semantic vectors of raw attribute vectors.

        Args:
            raw: (C, A) float64, as the user gave them.

        Returns:
            (C, A) float32. A row of zeros stays a row of zeros.

        """
        out = np.asarray(raw, dtype=np.float64)
        if self.clamp_negative:
            out = np.maximum(out, 0.0)
        if self.unit_l2:
            norm = np.linalg.norm(out, axis=1, keepdims=True)
            out = out / np.where(norm > 0, norm, 1.0)
        return out.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)


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

    def index(self, name: str) -> int:
        """Column of class `name`; UsageError E-CLASS-UNKNOWN when it is not there."""
        try:
            return self.names.index(name)
        except ValueError:
            raise UsageError(
                "E-CLASS-UNKNOWN", f"class {name!r} is not in this model; it knows {len(self.names)} classes"
            ) from None

    def append(self, other: ClassTable) -> ClassTable:
        """This table followed by `other`, whose attributes must be the same columns in the same order."""
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
        return replace(
            self, names=tuple(self.names[int(i)] for i in rows), seen=self.seen[rows], raw=self.raw[rows]
        )
