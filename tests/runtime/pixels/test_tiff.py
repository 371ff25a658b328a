"""Which picture of a TIFF file is the photograph, and how it is stored; the files are built tag by tag."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from support.tiffs import BYTE, LONG, SHORT, page, tiff
from zsl_runtime.errors import InputError
from zsl_runtime.pixels.decoding import decode

OLD = int(PIL.__version__.split(".")[0]) < 12  # Pillow knows fewer kinds of TIFF
SMALL = bytes([10, 20, 30, 40])  # 4 x 1
LARGE = page(bytes(range(64)), 8, 8)
CFA = page(bytes(128), 8, 8, 16, t262=32803)


def small(**tags) -> dict:
    return page(SMALL, 4, 1, **tags)


def refused(source) -> InputError:
    with pytest.raises(InputError) as caught:
        decode(source)
    assert "\n" not in str(caught.value)
    return caught.value


# --- which picture --------------------------------------------------------------------------------------------------


PREVIEWS = {
    "nef": ([small(t254=1, t330=[CFA])], "a camera's raw file"),
    "dng": ([small(t254=1, t50706=(BYTE, [1, 4, 0, 0]), t330=[LARGE])], "a camera's raw file"),
    "dng that marks nothing": ([small(t50706=(BYTE, [1, 4, 0, 0]))], "a camera's raw file"),
    "raw as second page": ([small(), CFA], "a camera's raw file"),
    "linear raw": ([small(t330=[page(bytes(384), 8, 8, (16,) * 3, t262=34892)])], "a camera's raw file"),
    "reduced": ([small(t254=1), LARGE], "marked as reduced, a preview of one of 8 x 8 pixels"),
    "reduced and alone": ([small(t254=1)], "marked as reduced, a preview; "),
    "reduced and a page": ([small(t254=3)], "marked as reduced"),
    "reduced, said the old way": ([small(t255=2), LARGE], "marked as reduced"),
    "mask": ([small(t254=4), LARGE], "transparency mask"),
    "larger inside": ([small(t330=[LARGE])], "of 8 x 8 pixels, behind it"),
    "larger behind": ([small(), page(bytes(16), 4, 4)], "of 4 x 4 pixels, behind it"),
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("name", PREVIEWS)
def test_a_first_picture_that_is_not_the_photograph_is_refused(name, big, order):
    pages, words = PREVIEWS[name]
    error = refused(tiff(pages, order, big=big))
    if big and order == ">":
        assert error.code == "E-IMAGE-KIND"  # Pillow reads none of these
        return
    assert error.code == "E-IMAGE-PREVIEW"
    assert words in error.message


def test_canons_raw_file_is_known_by_its_mark():
    assert refused(tiff([small()], magic=b"CR\2\0")).code == "E-IMAGE-PREVIEW"


@pytest.mark.parametrize("suffix", [".NEF", ".dng", ".arw"])
def test_a_tiff_that_is_called_a_raw_file_is_one(tmp_path, suffix):
    path = tmp_path / f"DSC_0001{suffix}"
    path.write_bytes(tiff([small()]))
    error = refused(path)
    assert error.code == "E-IMAGE-PREVIEW"
    assert path.name in error.message
    assert "export as JPEG" in error.message


def test_a_jpeg_that_is_called_a_raw_file_is_still_a_jpeg(tmp_path):
    path = tmp_path / "a.nef"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path, "JPEG", quality=100)
    assert decode(path).shape == (8, 8, 3)


@pytest.mark.parametrize("first", [CFA, page(bytes(384), 8, 8, (16, 16, 16), t262=34892)])
def test_a_raw_picture_that_pillow_does_not_open_is_called_one(first):
    error = refused(tiff([first]))
    assert error.code == "E-IMAGE-KIND"
    assert "a camera's raw file" in error.message


@pytest.mark.parametrize(
    "pages",
    [
        [small()],
        [small(t254=2, t255=3)],
        [small(t254=2), small(t254=2), small(t254=2)],  # scans of one size
        [small(), page(bytes(12), 4, 3)],  # another sheet
        [small(t330=[page(b"\1", 1, 1, t254=1)])],  # a pyramid: the reduced ones come later
        [small(), page(b"\1", 1, 1, t254=1)],
        [small(), page(bytes(64), 8, 8, t254=4)],  # its mask, of a finer grain
    ],
)
def test_what_begins_with_the_photograph_is_read(pages):
    assert decode(tiff(pages))[0, :, 0].tolist() == list(SMALL)


def test_directories_in_a_circle_end():
    data = bytearray(tiff([small(), small()]))
    first = struct.unpack("<I", data[4:8])[0]
    second = struct.unpack("<I", data[first + 2 + 8 * 12 + 12 :][:4])[0]
    assert second > first
    data[second + 2 + 9 * 12 : second + 6 + 9 * 12] = data[4:8]
    assert decode(bytes(data))[0, :, 0].tolist() == list(SMALL)


def test_an_open_pil_image_tells_of_itself():
    with Image.open(io.BytesIO(tiff([small(t254=1), LARGE]))) as image:
        assert refused(image).code == "E-IMAGE-PREVIEW"
    with Image.open(io.BytesIO(tiff([small(t50706=(BYTE, [1, 4, 0, 0]))]))) as image:
        assert "a camera's raw file" in refused(image).message
    with Image.open(io.BytesIO(tiff([small(t254=1), LARGE]))) as image:
        image.seek(1)
        assert decode(image)[..., 0].ravel().tolist() == list(range(64))


# --- how it is stored -----------------------------------------------------------------------------------------------


def test_colours_written_as_bytes_are_not_black():
    """As libtiff: a colour map without a number above 255 is one of bytes."""
    colours = [0, 255, 0, 7, 0, 0, 255, 8, 0, 0, 0, 255]  # red, then green, then blue
    expected = [[0, 0, 0], [255, 0, 0], [0, 255, 0], [7, 8, 255]]
    for numbers in (colours, [257 * one for one in colours]):
        for compression, samples in ((1, b"\x1b"), (8, zlib.compress(b"\x1b"))):
            data = tiff([page(samples, 4, 1, 2, t259=compression, t262=3, t320=(SHORT, numbers))])
            assert decode(data)[0].tolist() == expected


def planes(compress: bool, bits: int) -> bytes:
    values = np.array([[[0x12, 0x34], [0x56, 0x78], [0x9A, 0xFE]]], dtype=np.uint16)[0]  # 3 planes, 2 pixels
    values = values * 257 if bits == 16 else values.astype(np.uint8)
    strips = [zlib.compress(one.tobytes()) if compress else one.tobytes() for one in values]

    def file(offsets: list[int]) -> bytes:
        counts = (LONG, [len(one) for one in strips])
        code = 8 if compress else 1
        return tiff([page(b"", 2, 1, (bits,) * 3, t284=2, t259=code, t273=(LONG, offsets), t279=counts)])

    start = len(file([0, 0, 0]))
    return file([start + sum(map(len, strips[:place])) for place in range(3)]) + b"".join(strips)


@pytest.mark.parametrize(("compress", "bits"), [(True, 8), (False, 8), (True, 16)])
def test_planes_are_read(compress, bits):
    assert decode(planes(compress, bits))[0].tolist() == [[0x12, 0x56, 0x9A], [0x34, 0x78, 0xFE]]


MISREAD = {
    "16 bits in planes": planes(compress=False, bits=16),
    "subsampled YCbCr": tiff([page(bytes([76, 76, 76, 76, 85, 255]), 2, 2, (8, 8, 8), t262=6)]),
    "samples below zero": tiff([page(SMALL, 4, 1, t339=2)]),
    "10 bits": tiff([page(bytes(5), 4, 1, 10)]),
    "64 bits": tiff([page(bytes(32), 4, 1, 64, t339=3)]),
}


@pytest.mark.parametrize("name", MISREAD)
def test_what_pillow_would_get_wrong_is_told(name):
    error = refused(MISREAD[name])
    assert error.code == "E-IMAGE-KIND"
    assert "is a TIFF picture" in error.message
    assert "8 bits a sample" in error.message


def test_ycbcr_without_subsampling_is_read_or_told():
    """The primaries of BT.601 in full range, worked out by hand: red is (76, 85, 255), green (150, 44, 21)."""
    data = tiff([page(bytes([76, 85, 255, 150, 44, 21]), 2, 1, (8, 8, 8), t262=6, t530=(SHORT, [1, 1]))])
    if OLD:
        assert refused(data).code == "E-IMAGE-KIND"
    else:
        assert np.abs(decode(data)[0].astype(int) - [[255, 0, 0], [0, 255, 0]]).max() <= 1


def test_premultiplied_grey_is_composited_over_white_or_told():
    data = tiff([page(bytes([0x40, 0x80, 0x10, 0xFF]), 2, 1, (8, 8), t262=1, t338=1)])
    if OLD:
        assert refused(data).code == "E-IMAGE-KIND"
    else:
        assert decode(data)[0].tolist() == [[191] * 3, [16] * 3]  # 64 + 255 - 128


def test_libtiff_says_nothing_of_its_own():
    """It prints to the process's stderr, so it takes a process; without us it does print."""
    data = bytearray(tiff([page(zlib.compress(bytes(range(64))), 8, 8, t259=8)]))
    data[8 + 20] ^= 0xFF
    program = (
        "import sys, io\n{}\ntry:\n {}(sys.stdin.buffer.read())\nexcept Exception as error:\n print(type(error))\n"
    )
    ours = program.format("from zsl_runtime.pixels.decoding import decode", "decode")
    theirs = program.format("from PIL import Image", "(lambda data: Image.open(io.BytesIO(data)).load())")
    told = [
        subprocess.run([sys.executable, "-c", code], input=bytes(data), capture_output=True, check=True)
        for code in (ours, theirs)
    ]
    assert b"InputError" in told[0].stdout
    assert told[0].stderr == b""
    assert told[1].stderr != b""


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_directories_give_a_picture_or_our_error(data):
    original = bytearray(tiff([small(t254=0, t330=[LARGE, CFA]), small()], data.draw(st.sampled_from("<>"))))
    for _ in range(data.draw(st.integers(1, 5))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(original)))
    try:
        result = decode(bytes(original[:cut]))
    except InputError:
        return
    assert result.ndim == 3
