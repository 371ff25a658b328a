"""Direct JPEG decoding gives Pillow's bytes or leaves the file to Pillow; nothing else changes by installing it."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zsl_runtime.errors import InputError
from zsl_runtime.pixels import decoding, jpeg
from zsl_runtime.pixels.decoding import decode

DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture(scope="module")
def simplejpeg():
    return pytest.importorskip("simplejpeg")


@pytest.fixture(autouse=True)
def forget_the_library():
    """What a test makes of the library is not kept for the next one."""
    jpeg._trusted_library.cache_clear()
    yield
    jpeg._trusted_library.cache_clear()


def picture(height: int = 61, width: int = 87, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ramp = np.arange(width, dtype=np.uint8)[None, :, None] * 3
    return Image.fromarray(noise // 3 + ramp // 2).convert(mode)


def encoded(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def directly(data: bytes) -> np.ndarray | None:
    stream = io.BytesIO(data)
    with Image.open(stream) as image:
        return jpeg.decode_jpeg(image, stream)


def by_pillow(data: bytes) -> np.ndarray | str:
    """What `decode` gives without the extra: pixels, or the code of its error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "decode_jpeg", lambda *_: None)
        return outcome(data)


def outcome(data: bytes) -> np.ndarray | str:
    try:
        return decode(data)
    except InputError as error:
        return error.code


OPTIONS = [
    {"subsampling": 0},
    {"subsampling": 1},
    {"subsampling": 2},
    {"progressive": True},
    {"progressive": True, "subsampling": 2, "quality": 30},
    {"quality": 100},
    {"quality": 1},
    {"optimize": True},
    {"restart_marker_blocks": 1},
    {"comment": b"a comment"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(61, 87), (1, 1), (2, 3), (16, 16), (17, 33), (64, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_is_decoded_directly_is_what_pillow_gives(simplejpeg, options, size, mode):
    data = encoded(picture(*size, mode), **options)
    result = directly(data)
    assert result is not None
    assert np.array_equal(result, by_pillow(data))
    assert np.array_equal(decode(data), result)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(simplejpeg, orientation):
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = orientation
    data = encoded(picture(), exif=exif)
    assert directly(data) is not None
    assert np.array_equal(decode(data), by_pillow(data))


def test_files_are_decoded_like_their_bytes(simplejpeg, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture()))
    assert np.array_equal(decode(path), by_pillow(path.read_bytes()))


@pytest.mark.parametrize(
    "data",
    [
        encoded(picture(mode="CMYK")),
        encoded(picture(), keep_rgb=True),
        encoded(picture())[:-2],
        encoded(picture())[:900],
    ],
    ids=["CMYK", "RGB without a transform", "without its end", "half"],
)
def test_everything_else_is_left_to_pillow(simplejpeg, data):
    assert directly(data) is None
    result, expected = outcome(data), by_pillow(data)
    assert type(result) is type(expected)
    assert np.array_equal(result, expected)


def test_other_formats_are_left_to_pillow(simplejpeg):
    stream = io.BytesIO()
    picture().save(stream, "PNG")
    assert directly(stream.getvalue()) is None
    assert np.array_equal(decode(stream.getvalue()), np.asarray(picture()))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(OPTIONS[:5]), st.sampled_from(["RGB", "L"]), st.data())
def test_damaged_files_have_the_outcome_they_have_without_it(options, mode, data):
    pytest.importorskip("simplejpeg")
    file = bytearray(encoded(picture(23, 31, mode), **options))
    for _ in range(data.draw(st.integers(0, 3))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(file)), st.integers(1, len(file))))
    damaged = bytes(file[:cut]) + data.draw(st.sampled_from([b"", b"more"]))
    result, expected = outcome(damaged), by_pillow(damaged)
    assert type(result) is type(expected)
    assert np.array_equal(result, expected)


@pytest.mark.needs_data
@pytest.mark.skipif(not (DATA / "cub20").is_dir(), reason="cub20 is not there ($ZSL_TEST_DATA)")
def test_real_photographs(simplejpeg):
    files = sorted((DATA / "cub20" / "images").glob("*/*.jpg"))[::40]
    assert len(files) >= 10
    for file in files:
        data = file.read_bytes()
        result = directly(data)
        assert result is not None
        assert np.array_equal(result, by_pillow(data))


# --- trust ----------------------------------------------------------------------------------------------------------


def test_the_samples_cover_every_kind_that_is_decoded_directly():
    found = set()
    for data in jpeg.samples():
        with Image.open(io.BytesIO(data)) as image:
            sampling = jpeg.JpegImagePlugin.get_sampling(image) if image.mode == "RGB" else None
            found.add((image.mode, sampling, bool(image.info.get("progressive"))))
    samplings = [("RGB", sampling) for sampling in jpeg.COMPARED_SAMPLINGS] + [("L", None)]
    assert found == {(*kind, progressive) for kind in samplings for progressive in (False, True)}


def test_a_library_that_gives_other_bytes_is_not_used(monkeypatch):
    asked = []

    def off_by_one(data, **options):
        asked.append(options)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) ^ 1

    monkeypatch.setitem(sys.modules, "simplejpeg", SimpleNamespace(decode_jpeg=off_by_one))
    data = encoded(picture())
    assert directly(data) is None
    assert np.array_equal(decode(data), by_pillow(data))
    assert len(asked) == 1  # the first sample was enough, and it is not asked again
    assert asked[0] == {"colorspace": "RGB", "fastdct": False, "fastupsample": False, "strict": True}


def test_without_the_library_pillow_decodes(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    data = encoded(picture())
    assert directly(data) is None
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


def test_an_answer_of_another_shape_is_not_taken(monkeypatch):
    data = encoded(picture())

    def right_but_once(given, **_):
        if given == data:
            return np.zeros((1, 1, 3), dtype=np.uint8)
        return np.asarray(Image.open(io.BytesIO(given)).convert("RGB"))

    monkeypatch.setitem(sys.modules, "simplejpeg", SimpleNamespace(decode_jpeg=right_but_once))
    assert directly(encoded(picture(), quality=50)) is not None
    assert directly(data) is None
    assert np.array_equal(decode(data), by_pillow(data))
