"""How attribute vectors become the semantic vectors that graphs take."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class SemanticRule:
    """How a raw attribute vector becomes a semantic vector (docs/methods.md 1.3).

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
            (C, A) float32. A row of zeros stays a row of zeros; without `unit_l2`, what float32 cannot hold becomes
            infinite.

        """
        out = np.asarray(raw, dtype=np.float64)
        if self.clamp_negative:
            out = np.maximum(out, 0.0)
        if self.unit_l2:
            with np.errstate(over="ignore"):
                norm = np.linalg.norm(out, axis=1, keepdims=True)
            if not np.isfinite(norm).all():  # huge numbers, whose squares overflow; all others keep their bits
                with np.errstate(invalid="ignore"):
                    out = np.where(np.isfinite(norm), out, out / np.abs(out).max(axis=1, keepdims=True, initial=1.0))
                norm = np.linalg.norm(out, axis=1, keepdims=True)
            out = out / np.where(norm > 0, norm, 1.0)
        with np.errstate(over="ignore"):
            return out.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SemanticRule:
        """Rebuild a rule from plain data; UsageError E-SEMANTIC-RULE for other keys or values that are not bools."""
        expected = {field.name for field in fields(cls)}
        if set(data) != expected or not all(isinstance(value, bool) for value in data.values()):
            raise UsageError(
                "E-SEMANTIC-RULE",
                f"the semantic rule is {dict(data)!r}; expected true or false for each of {sorted(expected)}; "
                "it was written by another version of zsl-deploy",
            )
        return cls(**data)
