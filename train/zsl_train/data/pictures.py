"""The pictures themselves, small, for a method that rebuilds them: decoded once, when they are first asked for."""

from __future__ import annotations

import tempfile
import threading
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import from_os_error
from zsl_runtime.labelling.ahead import in_order
from zsl_runtime.machine.cache import needed_cache
from zsl_runtime.machine.storage import allocate, mapped_or_read
from zsl_runtime.machine.threads import usable_cpus
from zsl_runtime.pixels.pixels import PixelSpec, prepare
from zsl_train.backbones.base import Comparator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zsl_train.backbones.base import Backbone
    from zsl_train.data.image_set import ImageSet

SIDE = 128  # pixels; the published method rebuilds 256 (docs/methods.md 3.5)


class Pictures:
    """The pictures of an ImageSet at `side` px, and what tells how alike two pictures are.

    What was decoded is kept in a file without a name in the cache folder, which is gone with this process: memory
    stays free and nothing stale is left. Several threads may read at once.

    Args:
        images: the pictures.
        backbone: frozen; its early map is the comparator.
        side: of the square picture; short side resized to it, centre cropped, with the pixels of `zsl_runtime.pixels`.

    """

    def __init__(self, images: ImageSet, backbone: Backbone, side: int = SIDE) -> None:
        self.side = side
        self.comparator = Comparator(backbone)
        self._images = images
        self._spec = PixelSpec(side, side)
        self._lock = threading.Lock()
        self._levels: NDArray[np.uint8] | None = None  # (n, side, side, 3), once somebody asked
        self._done = np.zeros(len(images), dtype=np.bool_)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures `rows` (B,) of the image set: (B, side, side, 3) uint8 RGB.

        Raises:
            InputError: E-IMAGE-... for a picture that cannot be read.
            SystemProblem: the cache folder has no room for them.

        """
        with self._lock:
            if self._levels is None:
                self._levels = _room((len(self._images), self.side, self.side, 3))
            absent = np.unique(rows[~self._done[rows]])
            decoded = in_order(self._decode, absent.tolist(), workers=usable_cpus(), ahead=32)
            for row, picture in zip(absent.tolist(), decoded, strict=True):
                self._levels[row] = picture
                self._done[row] = True
            return self._levels[rows]

    def _decode(self, row: int) -> NDArray[np.uint8]:
        return prepare(self._images.root / self._images.paths[row], self._spec)


def _room(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A map of a new file that has no name; its space is claimed at once, so that a full disk is told now."""
    size = int(np.prod(shape))
    try:
        folder = needed_cache()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            allocate(file.fileno(), size)
            return mapped_or_read(
                lambda: np.memmap(file, np.uint8, "r+", shape=shape), lambda: np.zeros(shape, dtype=np.uint8)
            )
    except OSError as error:
        raise from_os_error(error, f"keep {size / 1e6:,.0f} MB of small pictures in the cache folder") from error
