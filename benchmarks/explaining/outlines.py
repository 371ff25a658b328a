"""How much of each region of a backbone lies inside an outline: exact areas, no rasters.

Outlines are polygons and boxes in pixels of the photograph, x to the right and y down; the photograph is resized and
cropped to the square that the model sees (docs/inside/pixels.md), and so are they. A region stands for the part of the
square that is nearer to its centre than to any other's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zsl_runtime.pixels.pixels import PixelSpec
    from zsl_train.backbones.base import Backbone


@dataclass(frozen=True)
class Grid:
    """Where the regions of a square are.

    Attributes:
        side: P, of the square, in pixels.
        first: centre of the first region, in pixels from the left and from the top.
        step: pixels from one centre to the next.
        count: regions along one side.

    """

    side: int
    first: float
    step: float
    count: int

    @property
    def centres(self) -> NDArray[np.float64]:
        """(count,) from the first to the last."""
        return self.first + self.step * np.arange(self.count)

    @property
    def bounds(self) -> NDArray[np.float64]:
        """(count + 1,) where one region ends and the next begins."""
        centres = self.centres
        return np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [float(self.side)]])


def grid_of(backbone: Backbone) -> Grid:
    """Where the regions of a backbone are."""
    first, step = backbone.centres()
    return Grid(backbone.pixels.crop, first, step, round(backbone.regions**0.5))


def tiles(side: int, count: int) -> Grid:
    """The square cut into equal tiles, as a map is drawn that knows nothing of the backbone."""
    return Grid(side, side / count / 2, side / count, count)


def to_square(points: Sequence[Sequence[float]], size: tuple[int, int], pixels: PixelSpec) -> NDArray[np.float64]:
    """Points (n, 2) of a photograph of `size` (width, height) in pixels of the square that the model sees."""
    short = min(size)
    target = np.array([pixels.resize * side // short for side in size])
    return np.asarray(points, np.float64) * (target / np.array(size)) - (target - pixels.crop) // 2


def corners(box: Sequence[float]) -> list[tuple[float, float]]:
    """The box (left, top, right, bottom) as a polygon."""
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def area(polygon: NDArray[np.float64]) -> float:
    """Of a polygon (n, 2) that does not cross itself; 0 where less than three points are left."""
    if len(polygon) < 3:
        return 0.0
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def clip(polygon: NDArray[np.float64], box: Sequence[float]) -> NDArray[np.float64]:
    """The part of a polygon (n, 2) inside a box (left, top, right, bottom), by Sutherland and Hodgman (1974).

    A hollow polygon that falls into pieces comes back as one, with its pieces joined along the sides of the box, where
    they have no area.
    """
    for axis, limit, sign in ((0, box[0], 1), (1, box[1], 1), (0, box[2], -1), (1, box[3], -1)):
        kept = []
        depth = sign * (polygon[:, axis] - limit) if len(polygon) else np.empty(0)
        for i in range(len(polygon)):
            j = i - 1
            if (depth[i] >= 0) != (depth[j] >= 0):
                kept.append(polygon[j] + (polygon[i] - polygon[j]) * (depth[j] / (depth[j] - depth[i])))
            if depth[i] >= 0:
                kept.append(polygon[i])
        polygon = np.array(kept).reshape(-1, 2)
    return polygon


def covered(polygons: Sequence[NDArray[np.float64]], grid: Grid) -> NDArray[np.float64]:
    """The share of each region that polygons cover, which do not overlap each other: (count, count) from 0 to 1."""
    bounds = grid.bounds
    found = np.zeros((grid.count, grid.count))
    for row in range(grid.count):
        for column in range(grid.count):
            box = (bounds[column], bounds[row], bounds[column + 1], bounds[row + 1])
            inside = sum(area(clip(polygon, box)) for polygon in polygons)
            found[row, column] = inside / ((box[2] - box[0]) * (box[3] - box[1]))
    return found


def covered_by_mask(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float64]:
    """The same of a mask (H, W) that is stretched over the square; pixels that bounds cut count by their parts."""
    rows, columns = (_weights(length, grid) for length in mask.shape)
    return rows @ mask.astype(np.float64) @ columns.T


def _weights(length: int, grid: Grid) -> NDArray[np.float64]:
    """(count, length): each region's mean over the pixels of one axis."""
    edges = np.linspace(0, grid.side, length + 1)
    bounds = grid.bounds
    low = np.maximum(bounds[:-1, None], edges[None, :-1])
    high = np.minimum(bounds[1:, None], edges[None, 1:])
    overlap = np.maximum(high - low, 0)
    return overlap / overlap.sum(axis=1, keepdims=True)


def part_of(boxes: Sequence[Sequence[float]], bird: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """What of a bird's polygons lies in boxes (left, top, right, bottom), which do not overlap each other."""
    return [clip(polygon, box) for box in boxes for polygon in bird]
