"""Decoding is documented mode by mode; what cannot be read is an error with a code each."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from support.noise import code_of, encoded, noise
from zsl_runtime.errors import InputError
from zsl_runtime.pixels.decoding import ORIENTATION_TAG, decode

# --- decode: what is read -------------------------------------------------------------------------------------------


def test_rgb_comes_as_it_is_from_path_bytes_image_and_array(tmp_path):
    picture = noise(5, 7)
    image = Image.fromarray(picture)
    path = tmp_path / "a.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), image, picture):
        result = decode(source)
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous
        assert np.array_equal(result, picture)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV", "LAB", "P", "RGBX"])
def test_opaque_modes_go_through_pillows_conversion(mode):
    image = Image.fromarray(noise(6, 9)).convert("RGB")
    image = image.convert("LAB") if mode == "LAB" else image.convert(mode)
    assert image.mode == mode
    assert np.array_equal(decode(image), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_file_is_read():
    data = encoded(Image.fromarray(noise(16, 16)).convert("CMYK"), "JPEG", quality=95)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Rounded a * rgb + (1 - a) * white, in exact integers."""
    a = alpha.astype(np.int64)[..., None]
    return ((2 * (rgb.astype(np.int64) * a + 255 * (255 - a)) + 255) // 510).astype(np.uint8)


def test_alpha_is_composited_over_white():
    rgba = noise(40, 40, channels=4)
    expected = over_white(rgba[..., :3], rgba[..., 3])
    assert np.array_equal(decode(Image.fromarray(rgba)), expected)
    assert np.array_equal(decode(encoded(Image.fromarray(rgba), "PNG")), expected)
    assert np.array_equal(decode(encoded(Image.fromarray(rgba), "WEBP", lossless=True, exact=True)), expected)


def test_grey_with_alpha_is_composited_over_white():
    la = noise(40, 40, channels=2)
    expected = over_white(np.repeat(la[..., :1], 3, axis=2), la[..., 1])
    assert np.array_equal(decode(Image.frombytes("LA", (40, 40), la.tobytes())), expected)


def test_premultiplied_alpha_is_composited_over_white():
    image = Image.new("RGBA", (2, 1), (200, 100, 0, 128)).convert("RGBa")
    straight = np.asarray(image.convert("RGBA"))
    assert np.array_equal(decode(image), over_white(straight[..., :3], straight[..., 3]))


@pytest.mark.parametrize("transparency", [2, bytes([255, 128, 0, 64])])
def test_transparent_palette_is_composited_over_white(transparency):
    image = Image.new("P", (4, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    image.putdata([0, 1, 2, 3])
    data = encoded(image, "PNG", transparency=transparency)
    alpha = [255, 255, 0, 255] if isinstance(transparency, int) else list(transparency)
    colours = np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]]], dtype=np.uint8)
    assert np.array_equal(decode(data), over_white(colours, np.array([alpha])))


@pytest.mark.parametrize(("mode", "colour", "clear"), [("L", 77, 77), ("RGB", (1, 2, 3), (1, 2, 3))])
def test_a_transparent_colour_becomes_white(mode, colour, clear):
    image = Image.new(mode, (2, 1), colour)
    image.putpixel((1, 0), 200 if mode == "L" else (200, 200, 200))
    result = decode(encoded(image, "PNG", transparency=clear))
    assert result.tolist() == [[[255, 255, 255], [200, 200, 200]]]


def png_of(depth: int, rows: bytes, notes: bytes) -> bytes:
    body = png_chunk(b"IDAT", zlib.compress(b"\0" + rows)) + png_chunk(b"IEND", b"")
    return png_header(4, 1, depth, 0) + notes + body


@pytest.mark.parametrize(("depth", "rows", "levels"), [(1, b"\xa0", 1), (2, b"\x1b", 3), (4, b"\x01\x23", 15)])
def test_a_transparent_grey_of_few_bits_becomes_white(depth, rows, levels):
    """tRNS names the sample as it is stored, in 1, 2 or 4 bits; clear is the second sample, whatever it is."""
    bits = "".join(f"{byte:08b}" for byte in rows)
    samples = [int(bits[at : at + depth], 2) for at in range(0, 4 * depth, depth)]
    clear = samples[1]
    data = png_of(depth, rows, png_chunk(b"tRNS", struct.pack(">H", clear)))
    assert decode(data)[0, :, 0].tolist() == [255 if one == clear else one * 255 // levels for one in samples]


def bmp(samples: bytes, alpha: int) -> bytes:
    """2 x 1 with 32 bits a pixel and a mask for alpha."""
    head = struct.pack("<IiiHHIIiiII", 108, 2, 1, 1, 32, 3, len(samples), 0, 0, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, alpha) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(samples), 0, 0, 14 + len(head)) + head + samples


def test_alpha_that_nobody_filled_in_does_not_turn_a_bmp_white():
    assert decode(bmp(bytes([1, 2, 3, 0, 4, 5, 6, 0]), 0xFF000000))[0].tolist() == [[3, 2, 1], [6, 5, 4]]
    assert decode(bmp(bytes([1, 2, 3, 0, 4, 5, 6, 255]), 0xFF000000))[0].tolist() == [[255] * 3, [6, 5, 4]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_a_picture_without_anything_to_see_is_refused(kind):
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert code_of(image) == "E-IMAGE-EMPTY"
    assert code_of(encoded(image, kind)) == "E-IMAGE-EMPTY"


def test_16_bit_grey_is_divided_by_256():
    samples = np.array([[0, 255, 256, 511, 512, 32768, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(samples), "PNG")
    assert decode(data)[0].tolist() == [[value // 256] * 3 for value in samples[0].tolist()]
    assert np.array_equal(decode(Image.fromarray(samples)), decode(data))
    big_endian = Image.frombytes("I;16B", (7, 1), samples.astype(">u2").tobytes())
    assert np.array_equal(decode(big_endian), decode(data))


def test_a_transparent_16_bit_grey_becomes_white():
    samples = np.array([[1000, 2000, 40_000]], dtype=np.uint16)
    data = encoded(Image.fromarray(samples), "PNG", transparency=1000)
    assert decode(data)[0].tolist() == [[255] * 3, [7] * 3, [156] * 3]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [([0, 256, 20_000, 65_535], [0, 1, 78, 255]), ([0, 2**23, 2**30, 2**31 - 1], [0, 1, 128, 255])],
)
def test_32_bit_grey_holds_16_bits_or_all_that_it_has(samples, expected):
    image = Image.fromarray(np.array([samples], dtype=np.int32))
    if samples[-1] < 65_536:
        assert decode(image)[0, :, 0].tolist() == expected
    assert decode(encoded(image, "TIFF"))[0, :, 2].tolist() == expected


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def test_16_bit_colour_keeps_the_high_byte():
    samples = np.array([[[0x1234, 0x00FF, 0xFF00], [0x7FFF, 0x8000, 0xFFFF]]], dtype=">u2")
    body = zlib.compress(b"\0" + samples.tobytes())
    data = png_header(2, 1, depth=16) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    assert decode(data).tolist() == [[[0x12, 0x00, 0xFF], [0x7F, 0x80, 0xFF]]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    data = encoded(Image.fromarray(noise(24, 40)), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    assert np.array_equal(decode(data), expected)
    assert decode(data).flags.c_contiguous


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_none(orientation):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    picture = noise(4, 6)
    assert np.array_equal(decode(encoded(Image.fromarray(picture), "PNG", exif=exif)), picture)


def test_damaged_exif_does_not_cost_the_picture():
    picture = noise(4, 6)
    data = encoded(Image.fromarray(picture), "PNG", exif=b"Exif\0\0MM\0*garbage garbage")
    assert np.array_equal(decode(data), picture)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_taken(kind):
    first = Image.new("RGB", (8, 8), (0, 0, 255))
    second = Image.new("RGB", (8, 8), (255, 0, 0))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], duration=50, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert decode(data).reshape(-1, 3).tolist() == [[0, 0, 255]] * 64


def test_an_undecodable_file_name_is_read(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(encoded(Image.fromarray(noise(3, 3)), "PNG"))
    assert np.array_equal(decode(os.fsdecode(name)), noise(3, 3))


# --- decode: what is refused ----------------------------------------------------------------------------------------


def test_bad_files_have_a_code_each(tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("This is not a photograph.\n" * 20)
    empty = tmp_path / "empty.png"
    empty.touch()
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    script = tmp_path / "script.jpg"
    script.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert code_of(text) == "E-IMAGE-FORMAT"
    assert code_of(text.read_bytes()) == "E-IMAGE-FORMAT"
    assert code_of(script) == "E-IMAGE-FORMAT"
    assert code_of(empty) == "E-IMAGE-EMPTY"
    assert code_of(b"") == "E-IMAGE-EMPTY"
    assert code_of(tmp_path) == "E-IMAGE-OPEN"
    assert code_of(pipe) == "E-IMAGE-OPEN"
    assert code_of(tmp_path / "missing.jpg") == "E-IMAGE-OPEN"
    assert code_of("nul\0.jpg") == "E-IMAGE-OPEN"
    assert code_of(17) == "E-IMAGE-TYPE"
    assert code_of(None) == "E-IMAGE-TYPE"


def test_the_line_names_the_file(tmp_path):
    path = tmp_path / "line\nbreak.jpg"
    path.write_text("no")
    with pytest.raises(InputError, match=r"line\\nbreak\.jpg' is not a picture"):
        decode(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_truncated_files_are_refused(kind):
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    assert code_of(data[: len(data) // 2]) in {"E-IMAGE-DECODE", "E-IMAGE-FORMAT"}


def test_float_grey_is_refused():
    assert code_of(Image.new("F", (3, 3))) == "E-IMAGE-FLOAT"
    assert code_of(encoded(Image.new("F", (3, 3)), "TIFF")) == "E-IMAGE-FLOAT"


def test_an_image_without_pixels_is_refused():
    assert code_of(Image.new("RGB", (0, 5))) == "E-IMAGE-EMPTY"


def test_a_closed_image_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.close()
    assert code_of(image) == "E-IMAGE-DECODE"


@pytest.mark.parametrize("size", [(9460, 9460), (13_000, 13_000), (65_000, 65_000)])
def test_a_decompression_bomb_is_refused_by_its_header(size):
    """Nothing but the header is there, so anything that decoded first would say `truncated`."""
    data = png_header(*size) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    assert code_of(data) == "E-IMAGE-HUGE"


def test_the_largest_allowed_header_passes_the_size_check():
    data = png_header(9459, 9459) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    assert code_of(data) == "E-IMAGE-DECODE"


def test_large_arrays_are_refused_too():
    array = np.broadcast_to(np.zeros(3, dtype=np.uint8), (9460, 9460, 3))
    assert code_of(array) == "E-IMAGE-HUGE"


def test_pillows_bomb_warning_is_silent_in_a_fresh_process_and_kept_for_who_wants_it():
    program = (
        "import sys, warnings\n"
        "from PIL import Image\n"
        "from zsl_runtime.errors import InputError\n"
        "from zsl_runtime.pixels.decoding import decode\n"
        "try:\n decode(sys.stdin.buffer.read())\n"
        "except InputError as error:\n print(error.code)\n"
    )
    data = png_header(9500, 9500) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    for flags in ([], ["-W", "error"]):
        done = subprocess.run([sys.executable, *flags, "-c", program], input=data, capture_output=True, check=True)
        assert (done.stdout.strip(), done.stderr) == (b"E-IMAGE-HUGE", b"")


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"]), st.data())
def test_damaged_files_give_a_picture_or_our_error(kind, data):
    """Flipped bytes anywhere: never another exception, never another shape of answer."""
    original = bytearray(encoded(Image.fromarray(noise(17, 23)), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(original)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = decode(bytes(original[:cut]))
        except InputError:
            return
    assert result.dtype == np.uint8
    assert result.ndim == 3
    assert result.shape[2] == 3
