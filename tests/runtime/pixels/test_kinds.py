"""Files that are not read are told by what they are, not by their suffix."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zsl_runtime.errors import InputError
from zsl_runtime.pixels.decoding import SUFFIXES, decode
from zsl_runtime.pixels.kinds import HEAD, UNREAD, read_kind, recognise


def box(*brands: bytes) -> bytes:
    """The first box of an ISO media file, and some more of it."""
    return struct.pack(">I", 12 + 4 * len(brands)) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:]) + b"\0" * 64


def by_pillow(kind: str, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (32, 32)).save(stream, kind)
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.jpg", b"")
    return stream.getvalue()


PICTURES = {
    "HEIC of an iPhone": (box(b"heic", b"mif1", b"MiHE", b"heic"), "HEIC"),
    "HEIC by another first brand": (box(b"mif1", b"heic", b"miaf"), "HEIC"),
    "HEIC of 10 bits": (box(b"heix", b"mif1"), "HEIC"),
    "HEIC burst": (box(b"msf1", b"hevc"), "HEIC"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
    "JPEG XL without a container": (b"\xff\x0a" + bytes(40), "JPEG XL"),
    "JPEG XR": (b"II\xbc\x01" + bytes(40), "JPEG XR"),
    "CR3": (box(b"crx ", b"isom"), "raw file"),
    "CRW": (b"II\x1a\0\0\0HEAPCCDR" + bytes(40), "raw file"),
    "RAF": (b"FUJIFILMCCD-RAW 0201" + bytes(40), "raw file"),
    "RW2": (b"IIU\0\x18\0\0\0" + bytes(40), "raw file"),
    "ORF": (b"IIRO\x08\0\0\0" + bytes(40), "raw file"),
    "X3F": (b"FOVb" + bytes(40), "raw file"),
    "PSD": (b"8BPS\0\1" + bytes(40), "in layers"),
    "XCF": (b"gimp xcf v011\0" + bytes(40), "in layers"),
    "ICO": (by_pillow("ICO"), "an icon"),
    "EXR": (b"v/1\1" + bytes(40), "high dynamic range"),
    "DICOM": (bytes(128) + b"DICM" + bytes(40), "scientific"),
    "FITS": (b"SIMPLE  =                    T" + bytes(40), "scientific"),
    "DDS": (by_pillow("DDS"), "rare format"),
    "QOI": (b"qoif" + bytes(40), "rare format"),
    "PCX": (by_pillow("PCX"), "rare format"),
    "PAM": (b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(6), "rare format"),
    "JPEG-LS": (b"\xff\xd8\xff\xf7" + bytes(40), "rare format"),
}
OTHERS = {
    "film of a phone": (box(b"qt  "), "a film"),
    "film": (box(b"isom", b"avc1", b"mp41"), "a film"),
    "AVI": (b"RIFF\0\0\0\0AVI LIST" + bytes(40), "a film"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a document"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "a vector drawing"),
    "PostScript": (b"%!PS-Adobe-3.0\n", "a vector drawing"),
    "error page": (b"<!DOCTYPE html>\n<html><title>404 Not Found</title></html>", "a web page"),
    "error page with a mark": (b"\xef\xbb\xbf  <html></html>", "a web page"),
    "S3's error": (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>', "a web page"),
    "error in JSON": (b'{"error": "not found \xe2\x80\x94 sorry"}', "text"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS"),
    "zeros": (bytes(50_000), "zeros"),
    "placeholder": (b"bplist00\xd4\1\2" + bytes(100), "iCloud"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(40), "AppleDouble"),
    "zip": (zipped(), "an archive"),
    "gzip": (gzip.compress(b"picture"), "an archive"),
}


def refused(source) -> InputError:
    with pytest.raises(InputError) as caught:
        decode(source)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_is_not_read_is_told_by_its_kind(name, tmp_path):
    data, words = PICTURES[name]
    path = tmp_path / "photo.jpg"  # whatever it is called
    path.write_bytes(data)
    for source in (data, path):
        error = refused(source)
        assert error.code == "E-IMAGE-KIND"
        assert words in error.message
        assert "not read; " in error.message


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_picture_is_told_by_its_kind(name):
    data, words = OTHERS[name]
    error = refused(data)
    assert error.code == "E-IMAGE-FORMAT"
    assert "is not a picture but" in error.message
    assert words in error.message


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "a JPEG picture"),
        (box(b"avif", b"mif1"), "an AVIF picture"),
        (box(b"mif1", b"avif"), "an AVIF picture"),
    ],
)
def test_what_begins_like_a_picture_that_is_read_is_damaged(data, kind):
    error = refused(data)
    assert error.code == "E-IMAGE-DECODE"
    assert kind in error.message or kind.startswith("an AVIF")


def test_what_nobody_knows_is_no_picture():
    error = refused(b"\x83\x92\xc1" * 30)
    assert error.code == "E-IMAGE-FORMAT"
    assert "not a picture in a known format" in error.message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_pictures_that_are_read_are_nothing_else(kind):
    head = by_pillow(kind)[:HEAD]
    assert recognise(head) is None
    assert kind in ("BMP", "PPM") or read_kind(head) is not None


def test_no_suffix_is_read_and_left_out():
    assert not set(UNREAD) & set(SUFFIXES)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in UNREAD)


@given(st.binary(max_size=300))
def test_anything_may_come(head):
    recognise(head)
    read_kind(head)
