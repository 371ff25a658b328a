"""A map of attention over a photograph: bright where the model looked, dark where it did not; colours stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats

DARKEST = 0.25  # of what is left of the photograph where nothing was looked at
LIFTED = 0.7  # power of what a map says beside its largest value, so that what is looked at half as much is still seen


def brightness(spread: Floats, side: int) -> Floats:
    """(side, side) in [DARKEST, 1] of a map (s, s): its largest value is 1, and in between it is smooth."""
    most = float(spread.max())
    share = spread / most if most > 0 else np.zeros_like(spread)
    smooth = Image.fromarray(np.asarray(share, np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    shown: Floats = (DARKEST + (1 - DARKEST) * np.clip(np.asarray(smooth), 0, 1) ** LIFTED).astype(np.float32)
    return shown


def lit(picture: NDArray[np.uint8], spread: Floats, side: int) -> Image.Image:
    """The photograph (P, P, 3) at `side` pixels with a map (s, s) laid over it."""
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
    light = np.asarray(small, np.float32) * brightness(spread, side)[:, :, None]
    return Image.fromarray(np.rint(light).astype(np.uint8))


def veil(spread: Floats) -> NDArray[np.uint8]:
    """(s, s) uint8, how opaque black must lie over a photograph to show a map (s, s): a page scales it up."""
    return np.rint(255 * (1 - brightness(spread, len(spread)))).astype(np.uint8)
