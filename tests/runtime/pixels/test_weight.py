"""What decoding takes is no more than what is reckoned from the header: measured, each kind in a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from zsl_runtime.errors import InputError
from zsl_runtime.pixels import decode, strips
from zsl_runtime.pixels.strips import in_strips, samples_of
from zsl_runtime.pixels.weight import MOST_SCANS, scans_of, weight

SIDE = 1600
# Reads one file after the other, each in a forked child, and prints what it took at the highest and was reckoned to.
MEASURE = """
import gc, json, os, sys
from PIL import Image
from zsl_runtime.pixels import jpeg, room, decode
def memory(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1]) << 10
Image.init()
jpeg._trusted_library()
decode(sys.argv[1])
for path in sys.argv[1:]:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        asked, real = [], room.Place.take
        room.Place.take = lambda place, size, what: (asked.append(size), real(place, size, what))
        gc.collect()
        before = memory("VmRSS")
        decode(path)
        os.write(writer, json.dumps([memory("VmHWM") - before, max(asked)]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    print(os.read(reader, 1000).decode())
"""


def picture(mode: str) -> Image.Image:
    step = np.linspace(0, 255, SIDE).astype(np.uint8)
    samples = np.broadcast_to(step[:, None], (SIDE, SIDE))
    if mode in ("I;16", "I"):
        return Image.fromarray(samples.astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    grey = Image.fromarray(np.ascontiguousarray(samples))
    return Image.merge(mode, [grey] * 4) if mode == "CMYK" else grey.convert(mode)


KINDS = {
    "png, grey": ("L", "PNG", {"compress_level": 1}),
    "png, 16 bits": ("I;16", "PNG", {"compress_level": 1}),
    "png, palette and transparency": ("P", "PNG", {"compress_level": 1, "transparency": 3}),
    "png, alpha": ("RGBA", "PNG", {"compress_level": 1}),
    "jpeg": ("RGB", "JPEG", {}),
    "jpeg, progressive": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "jpeg, ink, progressive": ("CMYK", "JPEG", {"progressive": True}),
    "tiff, one strip": ("RGBA", "TIFF", {"compression": "tiff_lzw", "tiffinfo": {278: SIDE}}),
    "tiff, 32 bits": ("I", "TIFF", {"compression": "tiff_adobe_deflate", "tiffinfo": {278: SIDE}}),
    "gif": ("L", "GIF", {}),
    "bmp": ("RGB", "BMP", {}),
    "webp": ("RGB", "WEBP", {"method": 0}),
    "jpeg 2000": ("RGBA", "JPEG2000", {}),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_kind_takes_more_than_is_reckoned(tmp_path):
    paths = {}
    for name, (mode, format_, options) in KINDS.items():
        library = {"WEBP": "webp", "JPEG2000": "jpg_2000"}.get(format_)
        if library is None or features.check(library):
            paths[name] = str(tmp_path / f"{len(paths)}.bin")
            picture(mode).save(paths[name], format_, **options)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths.values()], capture_output=True, check=True, text=True, timeout=500
    )
    took = dict(zip(paths, map(json.loads, done.stdout.splitlines()), strict=True))
    pixels = SIDE * SIDE
    for name, (peak, reckoned) in took.items():
        assert 3 * pixels < peak < reckoned + (3 << 20), name  # what a process takes beside it is not all ours
        assert reckoned < 2.2 * peak + (4 << 20), name


def jpeg(**options) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", **options)
    return stream.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive file whose last scan comes again and again."""
    whole = jpeg(progressive=True)
    _, _, there = scans_of(io.BytesIO(whole))
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + (count - there) * whole[last:-2] + whole[-2:]


@pytest.mark.parametrize("count", [MOST_SCANS + 1, 5000])
def test_a_file_that_goes_over_the_picture_for_ever_is_refused_before_it_is_decoded(count):
    with pytest.raises(InputError, match=f"E-IMAGE-SCANS: picture of .* has {count:,} scans"):
        decode(with_scans(count))


def test_scans_are_counted_by_the_markers_of_the_picture_and_not_of_its_thumbnail():
    thumbnail = jpeg(progressive=True)
    segment = b"Exif\0\0" + thumbnail
    whole = jpeg(progressive=True)
    with_thumbnail = whole[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2) + segment + whole[2:]
    assert scans_of(io.BytesIO(whole)) == scans_of(io.BytesIO(with_thumbnail)) == (3, 3, whole.count(b"\xff\xda"))
    assert scans_of(io.BytesIO(jpeg())) == (3, 3, 1)
    assert scans_of(io.BytesIO(with_scans(MOST_SCANS))) == (3, 3, MOST_SCANS)
    assert scans_of(io.BytesIO(whole[:30])) == (0, 0, 0)


def test_a_file_in_separate_scans_is_reckoned_as_libjpeg_keeps_it():
    """Sequential, each component in a scan of its own: libjpeg holds all coefficients, as of a progressive file."""
    whole = jpeg(subsampling=0)
    at = whole.rindex(b"\xff\xda")
    assert whole[at + 4] == 3
    separate = whole[: at + 2] + bytes([0, 8, 1]) + whole[at + 5 : at + 7] + whole[at + 11 : at + 14] + whole[at + 14 :]
    kinds = {"whole": whole, "separate": separate, "progressive": jpeg(subsampling=0, progressive=True)}
    found = {}
    for kind, data in kinds.items():
        stream = io.BytesIO(data)
        with Image.open(stream) as image:
            image._size = (4000, 3000)  # as if it were large
            found[kind] = weight(image, stream, kind)
    assert found["separate"] == found["progressive"] > found["whole"] + 2 * 4000 * 3000


@given(st.binary(max_size=300), st.integers(0, 600))
def test_counting_scans_ends_whatever_the_file(junk, cut):
    components, first, scans = scans_of(io.BytesIO(jpeg()[:cut] + junk))
    assert min(components, first, scans) >= 0


def test_a_small_picture_in_a_tile_without_bounds_is_reckoned_by_the_tile():
    """libtiff unpacks a tile as a whole, whatever part of it is in the picture."""
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, "TIFF", compression="tiff_lzw")
    with Image.open(stream) as image:
        small = weight(image, stream, "it")
        for tag, value in ((322, 20_000), (323, 30_000)):
            image.tag_v2[tag] = value
        assert weight(image, stream, "it") >= 20_000 * 30_000
        assert small < 2 << 20


SHAPES = st.tuples(st.integers(1, 700), st.integers(1, 700))


@given(SHAPES, st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"]))
def test_parts_give_the_bytes_of_the_whole(shape, mode):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "AT_ONCE", 1)
        check_parts(shape, mode)


def check_parts(shape, mode):
    noise = np.random.default_rng(shape).integers(0, 256, (*shape, 4), dtype=np.uint8)
    image = (
        Image.fromarray(noise).convert("RGB").convert(mode)
        if mode not in ("RGBA", "LA")
        else Image.fromarray(noise).convert(mode)
    )

    def convert(part: Image.Image) -> np.ndarray:
        return np.asarray(part.convert("RGB"))

    np.testing.assert_array_equal(in_strips(image, convert), convert(image))
    wide = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 250)
    np.testing.assert_array_equal(samples_of(wide), np.asarray(wide))


def test_a_picture_composed_in_parts_is_that_composed_at_once(monkeypatch):
    """Against Pillow's own composition of the whole, in each mode that has transparency; wider than a part, too."""
    monkeypatch.setattr(strips, "AT_ONCE", 1)
    rng = np.random.default_rng(1)
    for height, width in ((300, 400), (2, 70_000), (70_000, 2)):
        rgba = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
        palette = rgba.convert("RGB").quantize(32)
        palette.info["transparency"] = bytes(range(0, 256, 8))
        opaque = rgba.copy()
        opaque.putalpha(255)
        for image in (rgba, rgba.convert("LA"), palette, opaque):
            whole = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            white.paste(whole, mask=whole.getchannel("A"))
            np.testing.assert_array_equal(decode(image), np.asarray(white)[:, :, :3])
