"""A large picture in parts, so that no step of its conversion holds it a second time.

What is done to each pixel by itself gives the same bytes in parts as at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from PIL import Image

# Pixels of a part: it stays in the processor's cache, so that 12 megapixels in parts take half to 0.9 of the time that
# they take at once, composed over white or not.
PART = 1 << 16
AT_ONCE = 1 << 20  # pixels of a picture that is taken as it is: small ones fit by themselves


def in_strips(image: Image.Image, convert: Callable[[Image.Image], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """A loaded picture as uint8 (H, W, 3).

    Args:
        image: of any mode.
        convert: a part of it, (h, w), to uint8 (h, w, 3); each pixel by itself.

    """
    if image.width * image.height <= AT_ONCE:
        return convert(image)
    out = np.empty((image.height, image.width, 3), np.uint8)
    for rows, columns in _parts(image.height, image.width):
        out[rows, columns] = convert(image.crop((columns.start, rows.start, columns.stop, rows.stop)))
    return out


def samples_of(image: Image.Image) -> NDArray[Any]:
    """The samples (H, W) of a loaded picture of one channel, as `numpy.asarray` gives them."""
    if image.width * image.height <= AT_ONCE:
        return np.asarray(image)
    first = np.asarray(image.crop((0, 0, 1, 1)))
    out = np.empty((image.height, image.width), first.dtype)
    for rows, columns in _parts(image.height, image.width):
        out[rows, columns] = np.asarray(image.crop((columns.start, rows.start, columns.stop, rows.stop)))
    return out


def repeated(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey (H, W) as RGB (H, W, 3)."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def _parts(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    across = min(width, PART)
    down = max(1, PART // across)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield slice(top, min(top + down, height)), slice(left, min(left + across, width))
