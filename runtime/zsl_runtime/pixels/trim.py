"""Pictures without what their pixels do not need: a note that is broken or too long must not cost the picture.

Pillow refuses a PNG with more than 1 MiB of compressed text or colour profile, with a wrong checksum in a note, or
with a note that is cut short, and a JPEG with a broken segment of a program. Where it does, the file is copied without
them and read again. Nothing is unpacked for it, so that no text can be a bomb, and no setting of Pillow is moved.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 1 << 30  # bytes of the copy; more than any picture of MAX_PIXELS needs
NOTE_LIMIT = 1 << 20  # bytes of a note that is kept for what it says of orientation
PNG_MARK = b"\x89PNG\r\n\x1a\n"
PNG_XMP = b"XML:com.adobe.xmp\0\0\0"  # not compressed
JPEG_MARK = b"\xff\xd8\xff"
SOS, APP0, APP1, APP14, APP15, COM = 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
SHORTEST = {APP0: 14, APP14: 12}  # bytes of JFIF and Adobe segments that say something of colours


def trimmed(stream: BinaryIO) -> bytes | None:
    """A PNG or JPEG file without notes; None for any other file, where nothing can go, and above LIMIT.

    Args:
        stream: seekable; its position may be anywhere afterwards.

    """
    stream.seek(0)
    mark = stream.read(8)
    if mark == PNG_MARK:
        return _trimmed_png(stream)
    return _trimmed_jpeg(stream) if mark.startswith(JPEG_MARK) else None


def png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and length of each chunk, the stream standing at its data; read or not, the next one is found."""
    place = len(PNG_MARK)
    while True:
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4])
        yield head[4:], length
        place += 12 + length


def significant_bits(stream: BinaryIO) -> int | None:
    """How many bits of a sample a PNG file says were there before it was written (sBIT); None where it does not."""
    stream.seek(0)
    if stream.read(8) != PNG_MARK:
        return None
    for kind, length in png_chunks(stream):
        if kind == b"sBIT" and 1 <= length <= 4:
            return max(stream.read(length))
        if kind == b"IDAT":
            return None
    return None


def _trimmed_png(stream: BinaryIO) -> bytes | None:
    copy = bytearray(PNG_MARK)
    dropped = False
    for kind, length in png_chunks(stream):
        if length > LIMIT or len(copy) + length > LIMIT:
            return None
        if not _is_needed(kind) and not (kind in (b"eXIf", b"iTXt") and length <= NOTE_LIMIT):
            dropped = True
            continue
        data = stream.read(length + 4)
        if _is_needed(kind) or _tells_orientation(kind, data):
            copy += length.to_bytes(4) + kind + data
        else:
            dropped = True
        if kind == b"IEND":
            break
    return bytes(copy) if dropped else None


def _is_needed(kind: bytes) -> bool:
    """Chunks whose type begins with a capital, and transparency: without them the picture is another one."""
    return not kind[0] & 0x20 or kind == b"tRNS"


def _tells_orientation(kind: bytes, data: bytes) -> bool:
    """Whether a note is whole and may say which way is up."""
    if kind == b"iTXt" and not data.startswith(PNG_XMP):
        return False
    return zlib.crc32(data[:-4], zlib.crc32(kind)) == int.from_bytes(data[-4:])


def _trimmed_jpeg(stream: BinaryIO) -> bytes | None:
    copy = bytearray(JPEG_MARK[:2])
    stream.seek(2)
    dropped = False
    while True:
        head = stream.read(2)
        while head[:1] == b"\xff" and head[1:] == b"\xff":  # filling
            head = b"\xff" + stream.read(1)
        if len(head) < 2 or head[0] != 0xFF:
            return None
        marker = head[1]
        if marker == SOS:
            rest = stream.read(LIMIT)
            return bytes(copy + head + rest) if dropped and not stream.read(1) else None
        size = stream.read(2)
        body = stream.read(max(0, int.from_bytes(size) - 2))
        if _keeps(marker, body):
            copy += head + size + body
        else:
            dropped = True


def _keeps(marker: int, body: bytes) -> bool:
    """Whether a segment says something of the pixels, their colours or orientation."""
    if marker in (COM, APP15) or APP1 < marker < APP14:
        return False
    if marker == APP1:
        return body.startswith(b"Exif\0\0")
    return len(body) >= SHORTEST.get(marker, 0)
