"""The read-out: what a model sees of each attribute in a picture, as a linear map from what its head looks at."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.machine.storage import parse_tensors, tensor_bytes

if TYPE_CHECKING:
    from zsl_runtime.arrays import Bools, Doubles, Floats

LEAST_QUALITY = 0.3  # an attribute that is read worse has no say


@dataclass(frozen=True, eq=False)
class Readout:
    """What attributes are read by: read = x @ weight.T + offset, in the units of the class table.

    Attributes:
        weight: (A, D) float32.
        offset: (A,) float32.
        quality: (A,) float32 in [-1, 1]: correlation of what is read with the class table over classes that the fit
            did not know; 0 where that cannot be told.
        unit: (A,) float32, by how much two classes must differ in an attribute to differ: the standard deviation of the
            classes of the fit, or of those of other attributes of the same unit where that is more; 0 for an attribute
            that was the same in all.
        centre: (D,) float32, where an average class lies.
        spread: (D,) float32, how far pictures of one class spread in each coordinate of x; 1 in canonical coordinates.

    Raises:
        UsageError: E-READOUT when shapes, dtypes or numbers cannot be.

    """

    weight: Floats
    offset: Floats
    quality: Floats
    unit: Floats
    centre: Floats
    spread: Floats

    def __post_init__(self) -> None:
        arrays = tuple(vars(self).values())
        rows, columns = self.weight.shape[:1], self.weight.shape[1:]
        shapes = self.weight.ndim == 2 and all(one.shape == rows for one in (self.offset, self.quality, self.unit))
        good = shapes and self.centre.shape == self.spread.shape == columns
        good = good and all(one.dtype == np.float32 and bool(np.isfinite(one).all()) for one in arrays)
        if not (good and (np.abs(self.quality) <= 1).all() and (self.unit >= 0).all() and (self.spread > 0).all()):
            raise UsageError(
                "E-READOUT",
                f"a read-out of {', '.join(f'{name} {one.dtype} {one.shape}' for name, one in vars(self).items())}; "
                "expected finite float32 (A, D), (A,) three times, (D,) twice, with qualities from -1 to 1, units of 0 "
                "or more and spreads above 0",
            )

    @property
    def readable(self) -> Bools:
        """(A,) which attributes are read well enough to have a say."""
        good: Bools = (self.quality >= LEAST_QUALITY) & (self.unit > 0)
        return good

    def read(self, x: Floats) -> Doubles:
        """Attribute values (N, A) float64 of lifted features x (N, D)."""
        found: Doubles = x.astype(np.float64) @ self.weight.T.astype(np.float64) + self.offset
        return found

    def to_bytes(self) -> bytes:
        """The safetensors file kept in a bundle."""
        return tensor_bytes(vars(self), {})

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Readout:
        """Read what `to_bytes` wrote; ArtefactError E-BUNDLE-READOUT for anything else. `where` names the file."""
        code = "E-BUNDLE-READOUT"
        tensors, _ = parse_tensors(data, code=code, where=where)
        try:
            return cls(*(tensors[one.name] for one in fields(cls)))
        except (KeyError, UsageError) as error:
            reason = f"it holds no {error}" if isinstance(error, KeyError) else getattr(error, "message", error)
            raise ArtefactError(code, f"{where} is not a read-out: {reason}; export the model again") from None
