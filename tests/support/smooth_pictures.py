"""Pictures for whoever only needs some."""

from __future__ import annotations

import numpy as np
from PIL import Image


def draw_smooth(count: int, side: int, seed: int = 5) -> np.ndarray:
    """Smooth random pictures (count, side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)) for grid in grids]
    )
