"""Decoding is documented mode by mode, and the resize is the one definition, bit for bit."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from support.noise import encoded, noise
from zsl_runtime.errors import ArtefactError, BackendError, InputError, UsageError
from zsl_runtime.pixels.pixels import PixelSpec, decode, prepare, resize_crop, resize_crop_reference

DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
sides = st.integers(1, 70)
resizes = st.integers(1, 60)


# --- resize ---------------------------------------------------------------------------------------------------------


def pillow_two_passes(picture: np.ndarray, spec: PixelSpec) -> np.ndarray:
    """The same numbers from Pillow's C code: one pass at a time, so that its choice of order does not matter."""
    height, width = picture.shape[:2]
    short = min(height, width)
    tall, wide = spec.resize * height // short, spec.resize * width // short
    image = Image.fromarray(picture).resize((wide, height), Image.Resampling.BILINEAR)
    image = image.resize((wide, tall), Image.Resampling.BILINEAR)
    left, top = (wide - spec.crop) // 2, (tall - spec.crop) // 2
    return np.asarray(image.crop((left, top, left + spec.crop, top + spec.crop)))


@settings(max_examples=150, deadline=None)
@given(sides, sides, resizes, st.data())
def test_reference_equals_pillow_and_native_equals_reference(height, width, resize, data):
    spec = PixelSpec(resize, data.draw(st.integers(1, resize)))
    picture = noise(height, width, seed=height * 71 + width)
    expected = pillow_two_passes(picture, spec)
    assert np.array_equal(resize_crop_reference(picture, spec), expected)
    assert np.array_equal(resize_crop(picture, spec), expected)


@pytest.mark.parametrize(
    ("height", "width", "resize", "crop"),
    [
        (375, 500, 256, 224),
        (500, 375, 256, 224),
        (224, 224, 224, 224),
        (1, 1, 256, 224),
        (1, 300, 64, 64),
        (301, 2, 64, 33),
        (1200, 17, 32, 32),
        (97, 1100, 8, 1),
        (2, 2, 1, 1),
    ],
)
def test_usual_and_odd_sizes_equal_pillow(height, width, resize, crop):
    spec = PixelSpec(resize, crop)
    picture = noise(height, width, seed=3)
    expected = pillow_two_passes(picture, spec)
    assert np.array_equal(resize_crop_reference(picture, spec), expected)
    assert np.array_equal(resize_crop(picture, spec), expected)


@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1), (1, 1_000_000), (9_000_000, 2)])
def test_extreme_strips_compute_only_the_crop(shape):
    """The whole resized strip would be up to 9e11 bytes; Pillow is asked about shorter strips above."""
    spec = PixelSpec(256, 224)
    picture = np.zeros((*shape, 3), dtype=np.uint8)
    picture[...] = 7
    middle = shape[0] // 2, shape[1] // 2
    picture[max(0, middle[0] - 2) : middle[0] + 2, max(0, middle[1] - 2) : middle[1] + 2] = noise(1, 1)
    result = resize_crop(picture, spec)
    assert np.array_equal(result, resize_crop_reference(picture, spec))


@pytest.mark.needs_data
@pytest.mark.skipif(not (DATA / "cub20").is_dir(), reason="cub20 is not there ($ZSL_TEST_DATA)")
def test_real_photographs_equal_pillow():
    files = sorted((DATA / "cub20" / "images").glob("*/*.jpg"))[::90]
    assert len(files) >= 5
    for file in files:
        picture = decode(file)
        for spec in (PixelSpec(256, 224), PixelSpec(260, 260)):
            expected = pillow_two_passes(picture, spec)
            assert np.array_equal(prepare(file, spec), expected)
            assert np.array_equal(resize_crop_reference(picture, spec), expected)


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_flat_picture_stays_flat(value):
    picture = np.full((37, 53, 3), value, dtype=np.uint8)
    assert (resize_crop(picture, PixelSpec(29, 23)) == value).all()


def test_strided_and_read_only_pictures_are_taken():
    picture = noise(60, 80)
    spec = PixelSpec(32, 24)
    expected = resize_crop(np.ascontiguousarray(picture[::-1, ::2]), spec)
    assert np.array_equal(resize_crop(picture[::-1, ::2], spec), expected)
    picture.flags.writeable = False
    assert np.array_equal(resize_crop(picture[::-1, ::2], spec), expected)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), dtype=np.float32),
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((8, 8, 4), dtype=np.uint8),
        np.zeros((3, 8, 8), dtype=np.uint8),
        np.zeros((1, 8, 8, 3), dtype=np.uint8),
        np.zeros((0, 8, 3), dtype=np.uint8),
        np.zeros((8, 0, 3), dtype=np.uint8),
    ],
)
@pytest.mark.parametrize("function", [resize_crop, resize_crop_reference, prepare])
def test_wrong_arrays_are_refused(array, function):
    with pytest.raises(InputError, match="uint8") as caught:
        function(array, PixelSpec(8, 8))
    assert caught.value.code == "E-IMAGE-ARRAY"


def test_missing_compiled_core_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "zsl_runtime._native", None)
    with pytest.raises(BackendError, match="pip install") as caught:
        resize_crop(noise(4, 4), PixelSpec(4, 4))
    assert caught.value.code == "E-NATIVE"


# --- PixelSpec ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [(224, 256), (0, 0), (256, 0), (9000, 224), (256, 224, 2), (256.0, 224), (True, True), ("256", 224)]
)
def test_impossible_specs_are_refused(arguments):
    with pytest.raises(UsageError) as caught:
        PixelSpec(*arguments)
    assert caught.value.code == "E-PIXELS"


def test_spec_survives_the_manifest():
    spec = PixelSpec(256, 224)
    assert spec.to_dict() == {"resize": 256, "crop": 224, "version": 1}
    assert PixelSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"resize": 256, "crop": 224},
        {"resize": 256, "crop": 224, "version": 1, "mean": 0},
        {"resize": 256, "crop": 224, "version": 2},
        {"resize": "256", "crop": 224, "version": 1},
        {"resize": 224, "crop": 256, "version": 1},
    ],
)
def test_a_damaged_manifest_entry_is_refused(data):
    with pytest.raises(ArtefactError) as caught:
        PixelSpec.from_dict(data)
    assert caught.value.code == "E-BUNDLE-PIXELS"


def test_prepare_is_decode_and_resize_crop_from_many_threads():
    data = encoded(Image.fromarray(noise(90, 120)), "PNG")
    spec = PixelSpec(64, 56)
    expected = resize_crop_reference(noise(90, 120), spec)
    results = []

    def work() -> None:
        results.extend(prepare(data, spec) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 40
    assert all(np.array_equal(result, expected) for result in results)
