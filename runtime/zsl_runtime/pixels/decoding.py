"""From a file, its bytes, a PIL image or an array to RGB pixels: what is read, what is refused, and why."""

from __future__ import annotations

import io
import logging
import os
import stat
import warnings
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import BmpImagePlugin, Image, ImagePalette, TiffImagePlugin, UnidentifiedImageError

from zsl_runtime.errors import InputError
from zsl_runtime.pixels import samples, tiff
from zsl_runtime.pixels.jpeg import decode_jpeg
from zsl_runtime.pixels.kinds import HEAD, RAW, UNREAD, read_kind, recognise
from zsl_runtime.pixels.room import Place, place
from zsl_runtime.pixels.strips import in_strips, repeated
from zsl_runtime.pixels.trim import significant_bits, trimmed
from zsl_runtime.pixels.weight import SMALL, length, read_whole, weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PIXELS = 89_478_485  # Pillow's own warning limit; fixed here so that a user's Pillow settings cannot move it
ORIENTATION_TAG = 0x0112
# Raster formats only: Pillow would hand a PostScript file to Ghostscript, whatever the file is called.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".gif", ".bmp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
)
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]"
Stream: TypeAlias = "io.BytesIO | io.BufferedReader"
LEVELS = {"1": 255, "L;2": 85, "L;4": 17}  # Pillow stretches these samples, but not the one that is transparent
NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS"}  # libtiff has turned these bytes round already, and Pillow does again
# We refuse what the first warning is about ourselves, and what else Pillow warns of (notes that it cannot read, a
# palette that it has to convert) does not change the pixels. Appended, so that a program with an opinion of its own
# (such as "error") keeps it; done once, because warnings.catch_warnings is not safe between threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.", append=True)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else what it logs goes to stderr in a program without logs


def decode(source: ImageSource, room: Place | None = None) -> NDArray[np.uint8]:
    """Decode one picture.

    EXIF orientation is applied, transparency is composited over white, grey of more than 8 bits is brought to 8 by the
    range that the file tells (else by that of its type), and of an animation the first frame is taken (of an open PIL
    image, its current frame). What it takes is reckoned from the header and waited for: all threads of a process
    together take no more than `zsl_runtime.pixels.room.bound`.

    Args:
        source: a path, the bytes of a file, a PIL image, or a decoded uint8 array (H, W, 3) in RGB.
        room: what the picture takes its room in, as long as that lasts; None for until this returns.

    Returns:
        uint8 (H, W, 3), RGB, C-contiguous. An array given as such is not copied.

    Raises:
        InputError: E-IMAGE-OPEN (missing, not a file, no permission), E-IMAGE-EMPTY (also transparent everywhere),
            E-IMAGE-FORMAT (not a picture), E-IMAGE-KIND (a picture of a kind that is not read), E-IMAGE-PREVIEW (what
            could be read is a preview or a mask), E-IMAGE-RANGE (which sample is white is unknown), E-IMAGE-DECODE
            (truncated or damaged), E-IMAGE-HUGE (over MAX_PIXELS, or more than there is room for; refused before
            decoding), E-IMAGE-SCANS, E-IMAGE-FLOAT (floating-point grey), E-IMAGE-ARRAY (dtype or shape), E-IMAGE-TYPE
            (something else).
        UsageError: E-DECODE-MEMORY.

    """
    if room is None:
        with place() as own:
            return decode(source, own)
    if isinstance(source, np.ndarray):
        return check_array(source)
    if isinstance(source, Image.Image):
        return _decode_image(source, f"PIL image of mode {source.mode}", room)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode_bytes(bytes(source), room)
    if isinstance(source, (str, os.PathLike)):
        return _decode_file(os.fspath(source), room)
    raise InputError(
        "E-IMAGE-TYPE", f"got {type(source).__name__}; expected a path, bytes, a PIL image or a uint8 array (H, W, 3)"
    )


def check_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """A decoded picture, C-contiguous.

    Raises:
        InputError: E-IMAGE-ARRAY, E-IMAGE-HUGE.

    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise InputError(
            "E-IMAGE-ARRAY",
            f"got an array {array.dtype} {array.shape}; expected uint8 (H, W, 3), RGB, with at least one pixel",
        )
    _check_size(array.shape[1], array.shape[0], "array")
    return np.ascontiguousarray(array)


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            "E-IMAGE-HUGE",
            f"{name} has {width} x {height} pixels, at most {MAX_PIXELS:,} are decoded; make it smaller first",
        )


# --- files ----------------------------------------------------------------------------------------------------------


def _decode_bytes(data: bytes, room: Place) -> NDArray[np.uint8]:
    name = f"picture of {len(data)} bytes"
    if not data:
        raise InputError("E-IMAGE-EMPTY", "got zero bytes; expected the bytes of a picture file")
    return _decode_stream(io.BytesIO(data), name, room)


def _decode_file(path: str, room: Place) -> NDArray[np.uint8]:
    name = repr(path)
    try:
        status = os.stat(path)  # noqa: PTH116  # os.stat takes undecodable names as they are
        _check_regular(status, name)
        if status.st_size == 0:
            raise InputError("E-IMAGE-EMPTY", f"{name} has zero bytes; copy it again from its source")
        raw = UNREAD.get(os.path.splitext(path)[1].lower()) is RAW  # noqa: PTH122
        with open(path, "rb", opener=_at_once) as stream:
            _check_regular(os.fstat(stream.fileno()), name)  # it may be another one by now
            return _decode_stream(stream, name, room, raw=raw)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            "E-IMAGE-OPEN", f"{name} cannot be read: {reason}; check the path and its permissions"
        ) from None


def _check_regular(status: os.stat_result, name: str) -> None:
    """A pipe or a device could block for ever."""
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise InputError("E-IMAGE-OPEN", f"{name} is {kind}; expected a picture file")


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for whoever writes into a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _decode_stream(stream: Stream, name: str, room: Place, *, raw: bool = False) -> NDArray[np.uint8]:
    """`raw` says that the file is called as cameras' raw files are."""
    try:
        return _decode_opened(stream, name, room, raw=raw)
    except InputError as error:
        if error.code != "E-IMAGE-DECODE":
            raise
        room.take(length(stream), name)
        rest = trimmed(stream)
        if rest is None:
            raise
        damage = error
    try:
        return _decode_opened(io.BytesIO(rest), name, room, raw=raw)
    except InputError:
        raise damage from None


def _decode_opened(stream: Stream, name: str, room: Place, *, raw: bool) -> NDArray[np.uint8]:
    whole = read_whole(stream)
    if whole > SMALL:
        room.take(whole, name)
    stream.seek(0)
    try:
        image = Image.open(stream, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            "E-IMAGE-HUGE", f"{name} has more than the {MAX_PIXELS:,} pixels that are decoded; make it smaller first"
        ) from None
    except Exception as error:
        raise _unread(stream, name, error) from None
    with image:
        if image.format == "TIFF":
            _hush_libtiff()
            tiff.check_first_page(stream, name, raw=raw, mode=image.mode)
        return _decode_image(image, name, room, stream, whole)


@lru_cache(maxsize=1)
def _hush_libtiff() -> None:
    """Libtiff prints what is wrong with a file to stderr, beside our error; Pillow has no word for "do not"."""
    with suppress(Exception):  # a Pillow that was built in another way goes on printing
        import ctypes

        from PIL import _imaging

        library = ctypes.CDLL(_imaging.__file__)
        for setter in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)


def _unread(stream: Stream, name: str, error: Exception) -> InputError:
    """What a file is that Pillow does not open."""
    stream.seek(0)
    head = stream.read(HEAD)
    kind, readable = recognise(head), read_kind(head)
    if kind is not None:
        if kind.picture:
            return InputError("E-IMAGE-KIND", f"{name} is {kind.one}, which is not read; {kind.remedy}")
        return InputError("E-IMAGE-FORMAT", f"{name} is not a picture but {kind.one}; {kind.remedy}")
    if not (isinstance(error, UnidentifiedImageError) or head.startswith(tiff.UNREAD_MARK)):
        return _damaged(name, error)
    if layout := tiff.unread_layout(stream):
        remedy = RAW.remedy if layout == RAW.one else tiff.REMEDY
        return InputError("E-IMAGE-KIND", f"{name} is {layout}, which is not read; {remedy}")
    if readable is not None:
        return InputError(
            "E-IMAGE-DECODE",
            f"{name} begins like {readable} and cannot be read: it is damaged, truncated or of a rare sort; "
            "replace the file, or save it anew",
        )
    return InputError(
        "E-IMAGE-FORMAT",
        f"{name} is not a picture in a known format; expected JPEG, PNG, WebP, TIFF, GIF or the like",
    )


def _damaged(name: str, error: Exception) -> InputError:
    reason = str(error) or type(error).__name__
    return InputError("E-IMAGE-DECODE", f"{name} is damaged or truncated: {reason}; replace the file")


# --- images ---------------------------------------------------------------------------------------------------------


def _decode_image(
    image: Image.Image, name: str, room: Place, stream: Stream | None = None, whole: int = 0
) -> NDArray[np.uint8]:
    """`stream` is what the image was opened from, when it was opened here and is not loaded yet; `whole` its bytes."""
    width, height = image.size
    _check_size(width, height, name)
    if width == 0 or height == 0:
        raise InputError("E-IMAGE-EMPTY", f"{name} has {width} x {height} pixels; expected at least one")
    if image.mode == "F":
        raise InputError(
            "E-IMAGE-FLOAT",
            f"{name} is floating-point grey, whose white is unknown; save it with 8 or 16 bits a sample",
        )
    room.take(weight(image, stream, name, whole), f"{name}, {width} x {height} pixels,")
    try:
        rgb = None if stream is None else decode_jpeg(image, stream)
        if rgb is None:
            rgb = _load(image, name, stream)
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise _damaged(name, error) from None
    orientation = _orientation(image)
    if stream is not None:  # it is ours: its pixels need not be there beside two copies
        image.close()
    return np.ascontiguousarray(_upright(rgb, orientation))


def _load(image: Image.Image, name: str, stream: Stream | None) -> NDArray[np.uint8]:
    """Let Pillow decode.

    Raises:
        InputError: E-IMAGE-PREVIEW, E-IMAGE-RANGE, E-IMAGE-EMPTY; Pillow raises others.

    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _mend_tiff(image, name)
    held = samples.stored(image)
    image.load()
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = samples.wide_grey(image, name, held, lambda: None if stream is None else significant_bits(stream))
        return repeated(grey)
    if held.dark and image.mode in ("RGB", "RGBA"):
        samples.check_wide_colour(image, name, held)
    return _to_rgb(image, name, held)


def _mend_tiff(image: TiffImagePlugin.TiffImageFile, name: str) -> None:
    """What an open PIL image tells of itself is looked at, too; and what Pillow gets wrong about samples is mended."""
    if image.tell() == 0:
        tiff.check_subfile(image.tag_v2, name)
    tile = image.tile[0] if image.tile else None
    if tile is not None and tile[0] == "libtiff" and isinstance(tile[3], tuple) and tile[3][0] in NATIVE:
        image.tile = [tile._replace(args=(NATIVE[tile[3][0]], *tile[3][1:]))]
    colours = image.tag_v2.get(tiff.COLOURS)
    # As libtiff does: the numbers should have 16 bits, and Pillow takes the upper 8.
    if tile is not None and image.mode in ("P", "PA") and colours and max(colours) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def _to_rgb(image: Image.Image, name: str, held: samples.Stored) -> NDArray[np.uint8]:
    if not image.has_transparency_data:
        return in_strips(image, _opaque)
    clear = image.info.get("transparency")
    if held.raw in LEVELS and isinstance(clear, int):
        return in_strips(image, lambda part: _over_white(part.convert("L"), clear * LEVELS[held.raw]))
    visible = False

    def composed(part: Image.Image) -> NDArray[np.uint8]:
        nonlocal visible
        rgba = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
        alpha = rgba.getchannel("A")
        low, high = alpha.getextrema()
        visible = visible or high != 0
        if low == 255:  # white is seen nowhere
            return np.asarray(rgba.convert("RGB"))
        white = Image.new("RGB", part.size, (255, 255, 255))
        white.paste(rgba, mask=alpha)
        return np.asarray(white)

    rgb = in_strips(image, composed)
    if visible:
        return rgb
    if isinstance(image, BmpImagePlugin.BmpImageFile):  # bytes that nobody filled in: shown as if they were not there
        return in_strips(image, _opaque)
    raise InputError(
        "E-IMAGE-EMPTY", f"{name} is transparent everywhere: there is nothing to see; save it without transparency"
    )


def _opaque(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _over_white(image: Image.Image, clear: int) -> NDArray[np.uint8]:
    """Grey, with one of its values transparent."""
    grey = np.array(image)
    grey[grey == clear] = 255
    return repeated(grey)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; a picture whose EXIF cannot be read is still a picture."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def _upright(rgb: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo EXIF orientation 1..8 (TIFF 6.0, tag 274: where row 0 and column 0 of the file are in the scene)."""
    if orientation >= 5:  # rows and columns are swapped
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb
