"""What is kept of how far held-out photographs are from the nearest class (`zsl_runtime.head.distance`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import UsageError

if TYPE_CHECKING:
    from zsl_runtime.arrays import Doubles

PERCENTILES = 101  # that are kept: the 0th to the 100th
LEAST = 100  # photographs of which one in a hundred can be told


def percentiles(distances: Doubles) -> Doubles | None:
    """What is kept of the distances (n,) of held-out photographs: (PERCENTILES,); None of fewer than LEAST."""
    if len(distances) < LEAST:
        return None
    return np.quantile(distances, np.linspace(0, 1, PERCENTILES))


def check_percentiles(held: Doubles) -> None:
    """UsageError E-GAUSSIAN unless these are distances in ascending order."""
    good = held.dtype == np.float64 and held.shape == (PERCENTILES,) and np.isfinite(held).all()
    if not (good and held[0] >= 0 and (np.diff(held) >= 0).all()):
        raise UsageError(
            "E-GAUSSIAN",
            f"distances of held-out photographs {held.dtype} {held.shape}; expected float64 ({PERCENTILES},), finite, "
            "ascending and not below 0",
        )
