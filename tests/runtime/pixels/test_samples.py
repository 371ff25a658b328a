"""Grey of more than 8 bits: the right values were worked out from what each file says, not by the code."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from support.tiffs import page, tiff
from zsl_runtime.errors import InputError
from zsl_runtime.pixels.decoding import decode

TWELVE = [0, 1000, 2048, 4095]  # of 4096 steps
IN_EIGHT = [0, 62, 128, 255]  # the same times 256 / 4096, cut


def expected(samples: list[int], black: int, white: int) -> list[int]:
    """The definition in docs/inside/pixels.md, in exact fractions."""
    steps = [Fraction(256 * (value - black), white + 1 - black) for value in samples]
    return [min(255, max(0, floor(step))) for step in steps]


def grey_of(data) -> list[int]:
    rgb = decode(data)
    assert rgb.shape[0] == 1
    assert (rgb == rgb[..., :1]).all()
    return rgb[0, :, 0].tolist()


def code_of(data) -> str:
    with pytest.raises(InputError) as caught:
        decode(data)
    assert "8 bits a sample" in caught.value.message
    return caught.value.code


def packed(samples: list[int], bits: int) -> bytes:
    """Samples of any number of bits one behind the other, the highest bit first."""
    text = "".join(f"{value:0{bits}b}" for value in samples)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))


def grey(samples: list[int], order: str = "<", letter: str = "H", *, compress: bool = False, **tags) -> bytes:
    """A TIFF of one row."""
    data = struct.pack(f"{order}{len(samples)}{letter}", *samples)
    bits = 8 * struct.calcsize(letter)
    code = {"t259": 8} if compress else {}
    body = zlib.compress(data) if compress else data
    return tiff([page(body, len(samples), 1, bits, **code, **tags)], order)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: list[int], colour: int = 0, notes: bytes = b"") -> bytes:
    """16 bits a sample, one row."""
    width = len(samples) // (3 if colour == 2 else 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, 16, colour, 0, 0, 0))
    body = zlib.compress(b"\0" + struct.pack(f">{len(samples)}H", *samples))
    return b"\x89PNG\r\n\x1a\n" + header + notes + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# --- what the file says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_twelve_bits_are_not_dark(compress):
    body = packed(TWELVE, 12)
    data = tiff([page(zlib.compress(body) if compress else body, 4, 1, 12, t259=8 if compress else 1)])
    assert grey_of(data) == IN_EIGHT


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compress", [False, True])
def test_the_highest_sample_that_a_tiff_names_is_white(order, compress):
    assert grey_of(grey(TWELVE, order, compress=compress, t281=4095)) == IN_EIGHT
    assert grey_of(grey([0, 500, 1000], order, compress=compress, t280=0, t281=1000)) == expected(
        [0, 500, 1000], 0, 1000
    )


def test_the_lowest_sample_that_a_tiff_names_is_black():
    samples = [0, 1000, 3000, 4999, 6000]
    assert grey_of(grey(samples, t280=1000, t281=4999)) == expected(samples, 1000, 4999) == [0, 0, 128, 255, 255]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20_000), st.integers(1, 12_000), st.lists(st.integers(0, 65_535), min_size=1, max_size=9))
def test_every_range_is_brought_to_eight_bits(black, span, samples):
    white = black + span
    assert grey_of(grey(samples, t280=black, t281=white)) == expected(samples, black, white)


def test_a_highest_sample_that_needs_all_bits_is_only_the_brightest():
    samples = [0, 1000, 30_000, 61_234]
    assert grey_of(grey(samples, t280=0, t281=61_234)) == [value // 256 for value in samples]


def test_a_range_of_samples_below_zero_is_used():
    samples = [-1024, 0, 1024, 3071]
    data = bytearray(grey(samples, letter="h", t339=2, t340=64_512, t341=3071))
    at = data.index(struct.pack("<HHI", 340, 3, 1))
    data[at : at + 12] = struct.pack("<HHIhh", 340, 8, 1, -1024, 0)  # a field with a sign
    assert grey_of(bytes(data)) == expected(samples, -1024, 3071) == [0, 64, 128, 255]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compress", [False, True])
def test_signed_samples_have_half_the_range(order, compress):
    """Also packed ones with the highest byte first, which Pillow 13 turns round twice."""
    samples = [0, 1000, 8000, 32_767]
    assert grey_of(grey(samples, order, "h", compress=compress, t339=2)) == [value // 128 for value in samples]
    samples = [0, 2**23, 2**30, 2**31 - 1]
    assert grey_of(grey(samples, order, "i", compress=compress, t339=2)) == [value >> 23 for value in samples]


def test_white_may_be_zero():
    samples = [0, 1000, 30_000, 65_535]
    assert grey_of(grey(samples, t262=0)) == [255 - value // 256 for value in samples]
    assert grey_of(grey(TWELVE, t262=0, t281=4095)) == [255 - value for value in IN_EIGHT]


def test_32_bits_without_a_sign_are_read_to_their_end():
    samples = [0, 2**24, 2**31, 2**32 - 1]
    assert grey_of(grey(samples, letter="I")) == [0, 1, 128, 255]


@pytest.mark.parametrize("maxval", [256, 1000, 1023, 4095, 16_383, 65_535])
@pytest.mark.parametrize("colour", [False, True])
def test_the_maxval_of_netpbm_is_white(maxval, colour):
    samples = [0, maxval // 3, maxval // 2, maxval, 0, maxval]
    head = f"P{6 if colour else 5} {2 if colour else 6} 1 {maxval}\n".encode()
    found = decode(head + struct.pack(">6H", *samples))[0]
    found = found.ravel() if colour else found[:, 0]
    assert np.abs(found - np.array(samples) * 255 / maxval).max() <= 1


def test_a_dark_netpbm_that_names_its_white_is_dark():
    assert grey_of(b"P5 3 1 4095\n" + struct.pack(">3H", 0, 160, 320)) == [0, 10, 20]  # of 4095


def test_the_significant_bits_of_a_png_count_where_the_samples_are_so_low():
    told = chunk(b"sBIT", b"\x0c")
    assert grey_of(png(TWELVE, notes=told)) == IN_EIGHT
    # As the specification wants it, stretched to 16 bits: sBIT changes nothing.
    assert grey_of(png([0, 16_004, 32_776, 65_535], notes=told)) == [0, 62, 128, 255]


# --- where it says nothing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_fewer_bits_than_the_file_has_are_told(bits):
    samples = [0, 1, (1 << bits) - 1]
    for data in (grey(samples), grey(samples, ">"), grey(samples, letter="I"), png(samples)):
        assert code_of(data) == "E-IMAGE-RANGE"
    assert code_of(b"P5 3 1 65535\n" + struct.pack(">3H", *samples)) == "E-IMAGE-RANGE"
    assert code_of(Image.fromarray(np.array([samples], dtype=np.uint16))) == "E-IMAGE-RANGE"
    assert code_of(Image.fromarray(np.array([samples], dtype=np.int32))) == "E-IMAGE-RANGE"


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_fewer_bits_of_colour_than_the_file_has_are_told(bits):
    samples = [0, 1, 2, (1 << bits) - 1, 0, 0]
    body = struct.pack("<6H", *samples)
    for data in (
        png(samples, colour=2),
        tiff([page(body, 2, 1, (16, 16, 16))]),
        tiff([page(zlib.compress(body), 2, 1, (16, 16, 16), t259=8)]),
        b"P6 2 1 65535\n" + struct.pack(">6H", *samples),
    ):
        assert code_of(data) == "E-IMAGE-RANGE"


@pytest.mark.parametrize("shift", [1, 2, 4, 6])
def test_eight_bits_shifted_into_more_are_told(shift):
    """Zeros behind could be those of 16 bits from a camera's 12, too; read as that they come out black."""
    samples = [0, 16 << shift, 255 << shift]
    for data in (grey(samples), png(samples), Image.fromarray(np.array([samples], dtype=np.int32))):
        assert code_of(data) == "E-IMAGE-RANGE"


def test_the_line_says_how_many_bits_are_used():
    with pytest.raises(InputError, match=r"uses 12 of them at most \(no sample is above 4,095\)"):
        decode(grey(TWELVE))


@pytest.mark.parametrize(
    "samples",
    [
        [0, 1, 3, 16_384],  # a night with a lamp
        [0, 257, 514, 5140],  # 8 bits that fill 16
        [0, 0, 0, 0],  # black by any range
    ],
)
def test_dark_pictures_of_16_bits_are_read(samples):
    wanted = [value // 256 for value in samples]
    assert grey_of(grey(samples)) == wanted
    assert grey_of(png(samples)) == wanted


def test_a_transparent_sample_is_not_what_makes_a_picture_bright():
    data = png([0, 1000, 65_535], notes=chunk(b"tRNS", b"\xff\xff"))
    assert code_of(data) == "E-IMAGE-RANGE"


@pytest.mark.parametrize("letter", "hi")
def test_samples_below_zero_without_a_range_are_told(letter):
    assert code_of(grey([-5, 0, 20_000], letter=letter, t339=2)) == "E-IMAGE-RANGE"


def test_a_large_picture_of_32_bits_is_computed_in_blocks(monkeypatch):
    monkeypatch.setattr("zsl_runtime.pixels.samples.BLOCK", 50)
    samples = np.random.default_rng(0).integers(0, 65_536, (17, 13), dtype=np.int32)
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, "TIFF")
    assert np.array_equal(decode(stream.getvalue())[..., 1], samples >> 8)
