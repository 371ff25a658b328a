"""What decoding a picture takes, reckoned from its header: bytes at the highest, the array that is given back included.

The numbers are those of Pillow, of the libraries under it and of our own conversion, which works in parts. Those of
each kind were measured, and tests/runtime/pixels/test_weight.py measures them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image, JpegImagePlugin, TiffImagePlugin

from zsl_runtime.errors import InputError
from zsl_runtime.pixels import tiff
from zsl_runtime.pixels.strips import AT_ONCE, PART

if TYPE_CHECKING:
    from typing import BinaryIO

RGB = 3  # bytes of a pixel of what is given back
SMALL, OF_PART = 1 << 20, 20  # of the rest; of the conversion, for each pixel that is taken at once
# Of Pillow's own picture, by its mode; four where it is not named.
STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
# What the libraries keep while they decode, and copies that Pillow takes of it, in bytes a pixel.
KEPT = {"WEBP": 13, "AVIF": 13}
KEPT_OF_BAND, KEPT_BESIDE = 4, 5  # of JPEG 2000, whose samples are whole numbers of 32 bits meanwhile
WHOLE = (b"\xff\xd8\xff", b"RIFF")  # beginnings of files that are read into memory as a whole
BRANDED = b"ftyp"  # at byte 4: likewise
MOST_SCANS = 100  # of a JPEG, as libtiff has it; a photograph has up to a dozen, and each goes over all of the picture
SOF, SOS, ALONE = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, 0xDA, {0x01, *range(0xD0, 0xD9)}
CHUNK = 1 << 20


def read_whole(stream: BinaryIO) -> int:
    """Bytes of the file if opening it reads all of them, else 0."""
    stream.seek(0)
    head = stream.read(12)
    whole = head.startswith(WHOLE) or head[4:8] == BRANDED
    return length(stream) if whole else 0


def length(stream: BinaryIO) -> int:
    """Bytes of a file, which stands at its beginning afterwards."""
    size = stream.seek(0, 2)
    stream.seek(0)
    return size


def weight(image: Image.Image, stream: BinaryIO | None, name: str, held: int = 0) -> int:
    """Bytes that decoding takes.

    Args:
        image: opened, and not loaded unless `stream` is None.
        stream: what it was opened from, as Pillow has left it; its position may be anywhere afterwards.
        name: for messages.
        held: of the file, where it is read as a whole.

    Raises:
        InputError: E-IMAGE-SCANS for a JPEG with more than MOST_SCANS scans.

    """
    pixels = image.width * image.height
    stored = STORED.get(image.mode, 4)
    if image.mode == "I" or image.mode.startswith("I;16"):
        clear = stored + 1 if "transparency" in image.info else 0
        converting = 2 * stored + 1 + RGB + clear
    else:
        converting = max(stored + RGB, 2 * RGB)  # in the end it may be turned
    converting = pixels * converting + SMALL + OF_PART * (pixels if pixels <= AT_ONCE else PART)
    if stream is None:
        return converting
    return max(pixels * stored + _kept(image, stream, name) + SMALL, converting) + held


def _kept(image: Image.Image, stream: BinaryIO, name: str) -> int:
    """Bytes beside Pillow's own picture while it decodes."""
    pixels = image.width * image.height
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return _coefficients(image, stream, name)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _strip(image.tag_v2, length(stream))
    if image.format == "JPEG2000":
        return pixels * (KEPT_OF_BAND * len(image.getbands()) + KEPT_BESIDE)
    return pixels * KEPT.get(image.format or "", 0)


def _coefficients(image: JpegImagePlugin.JpegImageFile, stream: BinaryIO, name: str) -> int:
    """Bytes that libjpeg keeps of a file in several scans: two for each coefficient of the whole picture."""
    layers = [(h, v) for _, h, v, _ in image.layer]
    if not image.info.get("progressive") and _holds_all(stream, len(layers)):
        return 0
    components, first, scans = scans_of(stream)
    if scans > MOST_SCANS:
        raise InputError(
            "E-IMAGE-SCANS",
            f"{name} has {scans:,} scans, each of which goes over the whole picture, and at most {MOST_SCANS} are "
            "decoded; save it anew",
        )
    if scans <= 1 and first >= components and not image.info.get("progressive"):
        return 0
    layers = layers or [(1, 1)] * 4
    widest, highest = (max(1, *(layer[axis] for layer in layers), 1) for axis in (0, 1))
    blocks = sum(
        -(-image.width * h // (8 * widest) + -h) * -(-image.height * v // (8 * highest) + -v) for h, v in layers
    )
    return 128 * blocks


def _holds_all(stream: BinaryIO, components: int) -> bool:
    """Whether the scan whose header Pillow has just read holds all components: then libjpeg reads no other."""
    size = 6 + 2 * components
    end = stream.tell()
    stream.seek(max(0, end - size))
    header = stream.read(min(size, end))
    return header[:3] == size.to_bytes(2) + bytes([components])


def scans_of(stream: BinaryIO) -> tuple[int, int, int]:
    """Of a JPEG: its components, how many of them the first scan holds, and how many scans there are."""
    components = first = 0
    stream.seek(2)
    while True:
        mark = stream.read(2)
        if len(mark) < 2 or mark[0] != 0xFF:
            return components, first, 0
        if mark[1] == 0xFF:
            stream.seek(-1, 1)
            continue
        if mark[1] in ALONE:
            continue
        size = int.from_bytes(stream.read(2))
        if mark[1] == SOS:
            first = int.from_bytes(stream.read(1))
            break
        body = stream.read(max(0, size - 2))
        if mark[1] in SOF and len(body) > 5:
            components = body[5]
    return components, first, 1 + _count(stream)


def _count(stream: BinaryIO) -> int:
    """How many more scans begin; inside the data of one, 0xFF never stands before their mark."""
    count, last = 0, b""
    while data := stream.read(CHUNK):
        count += (last + data).count(b"\xff\xda") if last == b"\xff" else data.count(b"\xff\xda")
        last = data[-1:]
    return count


def _strip(tags: Any, size: int) -> int:
    """Bytes of the largest strip or tile of a TIFF of `size` bytes, which libtiff unpacks as one, and of it packed."""
    samples, bits = tiff.first_number(tags, tiff.SAMPLES, 1), tiff.first_number(tags, tiff.BITS, 1)
    width, height = tiff.first_number(tags, tiff.WIDTH), tiff.first_number(tags, tiff.HEIGHT)
    across, down = tiff.first_number(tags, tiff.TILE_WIDTH), tiff.first_number(tags, tiff.TILE_HEIGHT)
    if not (across and down):
        across, down = width, min(tiff.first_number(tags, tiff.ROWS, height), height)
    unpacked = max(across * down, 0) * max(samples, 1) * -(-max(bits, 1) // 8)
    return unpacked + min(size, unpacked) if tiff.first_number(tags, tiff.COMPRESSION, 1) != 1 else 0
