"""Notes in a file do not cost the picture: too long, broken or cut short, they are left out, and nothing else is."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from zsl_runtime.errors import InputError
from zsl_runtime.pixels import trim
from zsl_runtime.pixels.decoding import ORIENTATION_TAG, decode

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
LONG = zlib.compress(b"a" * (2 << 20))  # 2 MiB of text in 2 kB


def chunk(kind: bytes, body: bytes, *, broken: bool = False) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ broken)


def png(before: bytes = b"", after: bytes = b"", *, colour: int = 2, body: bytes | None = None) -> bytes:
    height, width = PICTURE.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in PICTURE) if body is None else body
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(rows)) + after + chunk(b"IEND", b"")


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(*segments: bytes, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "JPEG", **options)
    data = stream.getvalue()
    return data[:2] + b"".join(segments) + data[2:]


NOTES = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + LONG),
    "64 MiB of short ones": b"".join(chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * (1 << 20))) for _ in range(70)),
    "wrong checksum": chunk(b"tEXt", b"Comment\0text", broken=True),
    "unknown compression": chunk(b"zTXt", b"Comment\0\7text"),
    "empty profile": chunk(b"iCCP", b""),
    "short gAMA": chunk(b"gAMA", b""),
    "short cHRM": chunk(b"cHRM", b"abc"),
    "short pHYs": chunk(b"pHYs", b"a"),
    "short sRGB": chunk(b"sRGB", b""),
    "short acTL": chunk(b"acTL", b"\0"),
    "no frames": chunk(b"acTL", bytes(8)),
    "private": chunk(b"vpAg", b"\0" * 9, broken=True),
    "broken eXIf": chunk(b"eXIf", b"MM\0*garbage", broken=True),
}


@pytest.mark.parametrize("name", NOTES)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_note_does_not_cost_a_png(name, place):
    assert np.array_equal(decode(png(**{place: NOTES[name]})), PICTURE)


def test_a_file_is_read_like_its_bytes(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(NOTES["zTXt"]))
    assert np.array_equal(decode(path), PICTURE)


SEGMENTS = {
    "profile without a number": segment(0xE2, b"ICC_PROFILE\0"),
    "cut Photoshop block": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "broken MPF": segment(0xE2, b"MPF\0garbage"),
    "comments": segment(0xFE, b"x" * 65_000) * 3 + segment(0xE0, b"JFIF\0"),
    "filled up": b"\xff\xff\xff" + segment(0xE0, b"JFIF\0"),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segment_does_not_cost_a_jpeg(name):
    assert np.array_equal(decode(jpeg(SEGMENTS[name])), decode(jpeg()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_says_where_up_is_stays(orientation):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    note = exif.tobytes()
    data = png(chunk(b"eXIf", note.removeprefix(b"Exif\0\0")) + NOTES["zTXt"])
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(png(chunk(b"eXIf", note[6:]))))))
    assert np.array_equal(decode(data), upright)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="%d"/></x:xmpmeta>' % orientation
    assert np.array_equal(decode(png(chunk(b"iTXt", trim.PNG_XMP + b"\0\0" + xmp) + NOTES["zTXt"])), upright)
    data = jpeg(segment(0xEE, b"Adobe"), exif=exif)
    assert np.array_equal(decode(data), decode(jpeg(exif=exif)))


def test_transparency_and_palette_stay():
    indices = b"".join(b"\0" + bytes([row % 4] * 32) for row in range(24))
    needed = chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", b"\0\xff")
    plain, noted = (png(notes + needed, colour=3, body=indices) for notes in (b"", NOTES["zTXt"]))
    assert decode(plain)[:4, 0].tolist() == [[255] * 3, [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert np.array_equal(decode(noted), decode(plain))


def test_cmyk_keeps_what_says_that_it_is_inverted():
    stream = io.BytesIO()
    Image.fromarray(PICTURE).convert("CMYK").save(stream, "JPEG")
    data = stream.getvalue()
    assert b"Adobe" in data
    assert np.array_equal(decode(data[:2] + SEGMENTS["cut Photoshop block"] + data[2:]), decode(data))


def test_damage_to_the_picture_itself_is_still_damage():
    whole = png(NOTES["zTXt"])
    for data in (
        whole[: len(whole) // 2],
        png(NOTES["zTXt"], body=b"\0" * 10),
        png(NOTES["zTXt"] + chunk(b"PLTE", b"\0\0\0", broken=True)),
        jpeg(segment(0xE0, b"JFIF\0"))[:-200],
    ):
        with pytest.raises(InputError) as caught:
            decode(data)
        assert caught.value.code == "E-IMAGE-DECODE"


def test_the_first_reason_is_told():
    with pytest.raises(InputError, match="MAX_TEXT_CHUNK"):
        decode(png(NOTES["zTXt"], body=b""))


def test_text_is_not_unpacked_and_no_setting_is_moved():
    """A gigabyte of text in a megabyte: what is traced are Python's own bytes, of which zlib's output would be some."""
    bomb = zlib.compress(bytes(64 << 20))
    notes = chunk(b"zTXt", b"a\0\0" + bomb) * 16
    before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, ImageFile.LOAD_TRUNCATED_IMAGES
    data = png(notes)
    tracemalloc.start()
    try:
        assert np.array_equal(decode(data), PICTURE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    after = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, ImageFile.LOAD_TRUNCATED_IMAGES
    assert after == before


def test_threads_read_noted_pictures_at_once():
    data = png(NOTES["zTXt"])
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(one, PICTURE) for one in pool.map(decode, [data] * 40))


def test_a_copy_has_a_bound(monkeypatch):
    monkeypatch.setattr(trim, "LIMIT", 100)
    assert trim.trimmed(io.BytesIO(png(NOTES["zTXt"]))) is None
    assert trim.trimmed(io.BytesIO(jpeg(SEGMENTS["short JFIF"]))) is None


def test_nothing_is_copied_where_nothing_can_go():
    for data in (png(), b"GIF89a", b"", b"\xff\xd8\xff"):
        assert trim.trimmed(io.BytesIO(data)) is None


def test_pillows_warnings_do_not_reach_the_user():
    """In a process that has no opinion of its own; the same pictures warn without us."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff"
    files = [png(NOTES["no frames"]), jpeg(SEGMENTS["broken MPF"]), jpeg(segment(0xE1, exif))]
    program = (
        "import sys, io, pickle\n"
        "from PIL import Image\n"
        "from zsl_runtime.pixels.decoding import decode\n"
        "for data in pickle.load(sys.stdin.buffer):\n decode(data)\n"
    )
    for line, silent in (("", True), (" image = Image.open(io.BytesIO(data))\n image.getexif()\n", False)):
        code = program if silent else program.replace("from zsl_runtime.pixels.decoding import decode\n", "")
        code = code if silent else code.replace(" decode(data)\n", line)
        done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(files), capture_output=True, check=True)
        assert (done.stderr.count(b"Warning") == 0) is silent, done.stderr
        assert not (silent and done.stderr)
