"""Is the compiled resize and crop faster than Pillow and NumPy, for the same bytes?

Pictures of 500 x 375 pixels, decoded, become one uint8 batch (N, P, P, 3); one thread.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from zsl_runtime.pixels import PixelSpec, resize_crop, resize_crop_reference

BATCH = 8
SPECS = {"224 of 256": PixelSpec(256, 224), "260": PixelSpec(260, 260)}


def by_native(pictures, spec):
    return np.stack([resize_crop(picture, spec) for picture in pictures])


def by_pillow(pictures, spec):
    """What one writes with Pillow; for these shapes its passes come in the order of our definition."""
    out = []
    for picture in pictures:
        height, width = picture.shape[:2]
        short = min(height, width)
        size = spec.resize * width // short, spec.resize * height // short
        left, top = ((side - spec.crop) // 2 for side in size)
        image = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
        out.append(np.asarray(image.crop((left, top, left + spec.crop, top + spec.crop))))
    return np.stack(out)


def by_numpy(pictures, spec):
    """The definition itself."""
    return np.stack([resize_crop_reference(picture, spec) for picture in pictures])


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (375, 500, 3), dtype=np.uint8) for _ in range(BATCH)]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("way", [by_native, by_pillow, by_numpy], ids=["native", "pillow", "numpy"])
def bench_resize_and_crop(measure, pictures, way, spec):
    np.testing.assert_array_equal(way(pictures, SPECS[spec]), by_numpy(pictures, SPECS[spec]))
    measure(lambda: way(pictures, SPECS[spec]), things=BATCH, unit="pictures")
