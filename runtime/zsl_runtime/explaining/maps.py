"""A map of attention over a photograph: bright where the model looked, dark where it did not; colours stay."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats

DARKEST = 0.25  # of what is left of the photograph where nothing was looked at
HALF = 0.5  # of the largest value: there runs the line, which shows a map on birds that are dark themselves as well
FINER = 4  # points of the line for each region
LIFTED = 0.7  # power of what a map says beside its largest value, so that what is looked at half as much is still seen


Segment = tuple[float, float, float, float]  # from (x, y) to (x, y), in shares of the square's side


def evened(maps: Floats, first: float, step: float, side: int) -> Floats:
    """Maps over the regions of a backbone as maps over equal tiles of the square, two for each region along a side.

    Regions of a backbone are centred where its paddings and strides put them. Drawn as tiles, a map of ResNet-101 would
    lie half a region too far to the lower right.

    Args:
        maps: (..., s, s) float32, each of which sums to 1.
        first: centre of the first region, in pixels of the square.
        step: pixels from one centre to the next.
        side: P of the square.

    Returns:
        (..., 2 s, 2 s) float32: interpolated between centres, as at the last of them beyond; each sums to 1.

    """
    count = maps.shape[-1]
    middles = (np.arange(2 * count) + 0.5) * side / (2 * count)
    place = np.clip((middles - first) / step, 0, count - 1)
    before = np.minimum(place.astype(np.int64), max(count - 2, 0))
    share = place - before
    take = np.zeros((2 * count, count))
    take[np.arange(2 * count), before] += 1 - share
    take[np.arange(2 * count), np.minimum(before + 1, count - 1)] += share
    wide = take @ maps.astype(np.float64) @ take.T
    even: Floats = (wide / wide.sum(axis=(-2, -1), keepdims=True)).astype(np.float32)
    return even


def _smooth(spread: Floats, side: int) -> Floats:
    """(side, side) of a map (s, s) in shares of its largest value."""
    most = float(spread.max())
    share = spread / most if most > 0 else np.zeros_like(spread)
    wide = Image.fromarray(np.asarray(share, np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(wide, np.float32)


def brightness(spread: Floats, side: int) -> Floats:
    """(side, side) in [DARKEST, 1] of a map (s, s): its largest value is 1, and in between it is smooth."""
    shown: Floats = (DARKEST + (1 - DARKEST) * np.clip(_smooth(spread, side), 0, 1) ** LIFTED).astype(np.float32)
    return shown


def line(spread: Floats) -> list[Segment]:
    """The line within which a map (s, s) is at least HALF of its largest value: marching squares, piece by piece."""
    side = FINER * len(spread)
    values = _smooth(spread, side) - HALF
    inside = values >= 0
    corners = inside[:-1, :-1] * 1 + inside[:-1, 1:] + inside[1:, :-1] + inside[1:, 1:]
    return [
        piece
        for row, column in np.argwhere((corners > 0) & (corners < 4))  # some corners, but not all four
        for piece in _pieces(values[row : row + 2, column : column + 2], int(row), int(column), side)
    ]


def _pieces(square: Floats, row: int, column: int, side: int) -> Iterator[Segment]:
    """The line's pieces between four neighbouring values (2, 2): one, or two at a saddle."""
    around = ((0, 0), (0, 1), (1, 1), (1, 0), (0, 0))
    crossings = []
    for (top, left), (bottom, right) in itertools.pairwise(around):
        one, other = float(square[top, left]), float(square[bottom, right])
        if (one >= 0) != (other >= 0):
            part = one / (one - other)
            x = column + left + part * (right - left) + 0.5
            y = row + top + part * (bottom - top) + 0.5
            crossings.append((x / side, y / side))
    for first, second in zip(crossings[::2], crossings[1::2], strict=True):
        yield (*first, *second)


def lit(picture: NDArray[np.uint8], spread: Floats, side: int) -> Image.Image:
    """The photograph (P, P, 3) at `side` pixels with a map (s, s) laid over it, and the map's line."""
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
    light = np.asarray(small, np.float32) * brightness(spread, side)[:, :, None]
    shown = Image.fromarray(np.rint(light).astype(np.uint8))
    pieces = [tuple(2 * side * value for value in piece) for piece in line(spread)]
    for width, colour in ((8, "black"), (4, "white")):  # drawn at twice the size, and made smooth by halving it
        mask = Image.new("L", (2 * side, 2 * side))
        draw = ImageDraw.Draw(mask)
        for piece in pieces:
            draw.line(piece, fill=255, width=width)
        shown.paste(colour, mask=mask.reduce(2))
    return shown


def veil(spread: Floats) -> NDArray[np.uint8]:
    """(s, s) uint8, how opaque black must lie over a photograph to show a map (s, s): a page scales it up."""
    return np.rint(255 * (1 - brightness(spread, len(spread)))).astype(np.uint8)
