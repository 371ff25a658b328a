"""From any picture to the uint8 square that a model sees: one definition for training, export and inference.

The resampling is integer arithmetic defined in docs/inside/pixels.md: a triangle filter with antialiasing,
coefficients rounded to 22 fractional bits, horizontal pass first, then vertical pass, uint8 in between. Pillow's
BILINEAR uses the same coefficients but chooses the order of its passes itself, differently in different versions; so it
is only our decoder.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from zsl_runtime.errors import ArtefactError, InputError, UsageError
from zsl_runtime.machine.native import load_native
from zsl_runtime.pixels.jpeg import decode_jpeg

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

PIXELS_VERSION = 1
MAX_PIXELS = 89_478_485  # Pillow's own warning limit; fixed here so that a user's Pillow settings cannot move it
MAX_SIDE = 8192  # of the resized short side: a manifest that asks for more is damaged
FRACTION_BITS = 22  # 8-bit samples times 22-bit coefficients, summed, stay inside int32
ROUNDING = 1 << (FRACTION_BITS - 1)
ORIENTATION_TAG = 0x0112
# Raster formats only: Pillow would hand a PostScript file to Ghostscript, whatever the file is called.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".tif", ".tiff", ".gif", ".bmp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpx"),
)
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]"
# We refuse what the warning is about ourselves. Appended, so that a program with an opinion of its own (such as
# "error") keeps it; done once, because warnings.catch_warnings is not safe between threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


@dataclass(frozen=True)
class PixelSpec:
    """How a decoded picture becomes the square that the graph takes.

    Attributes:
        resize: length of the short side after resizing, in pixels; the long side is `resize * long // short`.
        crop: side of the centred square, in pixels; at most `resize`.
        version: of the definition in docs/inside/pixels.md.

    Raises:
        UsageError: E-PIXELS, for sizes that are not whole numbers with 1 <= crop <= resize <= 8192, or another version.

    """

    resize: int
    crop: int
    version: int = PIXELS_VERSION

    def __post_init__(self) -> None:
        sizes = (self.resize, self.crop, self.version)
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in sizes):
            raise UsageError("E-PIXELS", f"pixels need whole numbers for resize, crop and version, got {sizes!r}")
        if self.version != PIXELS_VERSION:
            raise UsageError(
                "E-PIXELS",
                f"pixels version {self.version} is unknown, this zsl-deploy knows {PIXELS_VERSION}; upgrade zsl-deploy",
            )
        if not 1 <= self.crop <= self.resize <= MAX_SIDE:
            raise UsageError(
                "E-PIXELS",
                f"resize {self.resize} and crop {self.crop} do not fit; expected 1 <= crop <= resize <= {MAX_SIDE}",
            )

    def to_dict(self) -> dict[str, int]:
        """Plain data for the manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> PixelSpec:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactError: E-BUNDLE-PIXELS, for anything that `to_dict` cannot have written.

        """
        expected = {"resize", "crop", "version"}
        if not isinstance(data, Mapping) or set(data) != expected:
            raise ArtefactError(
                "E-BUNDLE-PIXELS",
                f"`pixels` is {data!r}, expected the keys {', '.join(sorted(expected))}; export the bundle again",
            )
        try:
            return cls(**data)
        except UsageError as error:
            raise ArtefactError("E-BUNDLE-PIXELS", f"{error.message}; or export the bundle again") from None


def decode(source: ImageSource) -> NDArray[np.uint8]:
    """Decode one picture.

    EXIF orientation is applied, transparency is composited over white, 16-bit and 32-bit grey is divided by 256, and of
    an animation the first frame is taken (of an open PIL image, its current frame).

    Args:
        source: a path, the bytes of a file, a PIL image, or a decoded uint8 array (H, W, 3) in RGB.

    Returns:
        uint8 (H, W, 3), RGB, C-contiguous. An array given as such is not copied.

    Raises:
        InputError: E-IMAGE-OPEN (missing, not a file, no permission), E-IMAGE-EMPTY, E-IMAGE-FORMAT (not a picture),
            E-IMAGE-DECODE (truncated or damaged), E-IMAGE-HUGE (over MAX_PIXELS, refused before decoding),
            E-IMAGE-FLOAT (floating-point grey), E-IMAGE-ARRAY (dtype or shape), E-IMAGE-TYPE (something else).

    """
    if isinstance(source, np.ndarray):
        return _check_array(source)
    if isinstance(source, Image.Image):
        return _decode_image(source, f"PIL image of mode {source.mode}")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode_bytes(bytes(source))
    if isinstance(source, (str, os.PathLike)):
        return _decode_file(os.fspath(source))
    raise InputError(
        "E-IMAGE-TYPE", f"got {type(source).__name__}; expected a path, bytes, a PIL image or a uint8 array (H, W, 3)"
    )


def _check_array(array: NDArray[Any]) -> NDArray[np.uint8]:
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


def _decode_bytes(data: bytes) -> NDArray[np.uint8]:
    name = f"picture of {len(data)} bytes"
    if not data:
        raise InputError("E-IMAGE-EMPTY", "got zero bytes; expected the bytes of a picture file")
    return _decode_stream(io.BytesIO(data), name)


def _decode_file(path: str) -> NDArray[np.uint8]:
    name = repr(path)
    try:
        status = os.stat(path)  # noqa: PTH116  # os.stat takes undecodable names as they are
        # A pipe or a device could block for ever.
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise InputError("E-IMAGE-OPEN", f"{name} is {kind}; expected a picture file")
        if status.st_size == 0:
            raise InputError("E-IMAGE-EMPTY", f"{name} has zero bytes; copy it again from its source")
        with open(path, "rb") as stream:
            return _decode_stream(stream, name)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            "E-IMAGE-OPEN", f"{name} cannot be read: {reason}; check the path and its permissions"
        ) from None


def _decode_stream(stream: io.BytesIO | io.BufferedReader, name: str) -> NDArray[np.uint8]:
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        raise InputError(
            "E-IMAGE-FORMAT",
            f"{name} is not a picture in a known format; expected JPEG, PNG, WebP, TIFF, GIF or the like",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            "E-IMAGE-HUGE", f"{name} has more than the {MAX_PIXELS:,} pixels that are decoded; make it smaller first"
        ) from None
    except Exception as error:
        raise _damaged(name, error) from None
    with image:
        return _decode_image(image, name, stream)


def _damaged(name: str, error: Exception) -> InputError:
    reason = str(error) or type(error).__name__
    return InputError("E-IMAGE-DECODE", f"{name} is damaged or truncated: {reason}; replace the file")


def _decode_image(
    image: Image.Image, name: str, stream: io.BytesIO | io.BufferedReader | None = None
) -> NDArray[np.uint8]:
    """`stream` is what the image was opened from, when it was opened here and is not loaded yet."""
    width, height = image.size
    _check_size(width, height, name)
    if width == 0 or height == 0:
        raise InputError("E-IMAGE-EMPTY", f"{name} has {width} x {height} pixels; expected at least one")
    if image.mode == "F":
        raise InputError(
            "E-IMAGE-FLOAT",
            f"{name} is floating-point grey, whose white is unknown; save it with 8 or 16 bits a sample",
        )
    try:
        rgb = None if stream is None else decode_jpeg(image, stream)
        if rgb is None:
            image.load()
            rgb = _to_rgb(image)
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise _damaged(name, error) from None
    return np.ascontiguousarray(_upright(rgb, _orientation(image)))


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _wide_grey_to_rgb(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return np.asarray(white)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _wide_grey_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Pillow's own conversion clips at 255, which turns a 16-bit photograph white."""
    samples = np.asarray(image)
    grey = np.clip(samples >> 8, 0, 255).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[samples == clear] = 255
    return np.repeat(grey[:, :, None], 3, axis=2)


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


@lru_cache(maxsize=64)
def coefficients(source: int, target: int, start: int, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Resampling coefficients of one axis, for the `count` outputs from `start` on.

    The triangle filter of Pillow's BILINEAR: support 1 source pixel, times the shrink factor when shrinking; weights
    normalised in float64, then rounded half away from zero to FRACTION_BITS fractional bits.

    Args:
        source: pixels along the axis of the source.
        target: pixels along the axis of the whole resized picture.
        start: first output wanted, >= 0.
        count: outputs wanted; start + count <= target.

    Returns:
        `first` int32 (count,) and `taps` int32 (count, T): output i is the sum over t of
        `taps[i, t] * source[first[i] + t]`. Every window lies inside the source; both arrays are read-only.

    """
    scale = source / target
    support = max(scale, 1.0)
    centre = (np.arange(start, start + count) + 0.5) * scale
    low = np.maximum(np.trunc(centre - support + 0.5), 0).astype(np.int64)
    high = np.minimum(np.trunc(centre + support + 0.5), source).astype(np.int64)
    width = int((high - low).max())
    first = np.minimum(low, source - width)
    index = first[:, None] + np.arange(width)
    weight = np.maximum(1.0 - np.abs((index - centre[:, None] + 0.5) * (1.0 / support)), 0.0)
    weight[(index < low[:, None]) | (index >= high[:, None])] = 0.0
    # cumsum adds in order of index, as a plain loop does; np.sum would add pairwise and round otherwise.
    weight /= np.cumsum(weight, axis=1)[:, -1:]
    taps = np.trunc(weight * (1 << FRACTION_BITS) + 0.5).astype(np.int32)
    first = first.astype(np.int32)
    first.flags.writeable = taps.flags.writeable = False
    return first, taps


def _axes(height: int, width: int, spec: PixelSpec) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """The arguments of `coefficients` for rows and for columns: only the cropped outputs are ever computed."""
    short = min(height, width)

    def axis(source: int) -> tuple[int, int, int, int]:
        target = spec.resize * source // short
        return source, target, (target - spec.crop) // 2, spec.crop

    return axis(height), axis(width)


def resize_crop_reference(pixels: NDArray[np.uint8], spec: PixelSpec) -> NDArray[np.uint8]:
    """Resize and crop in NumPy: the definition, slow and obviously right.

    Args:
        pixels: uint8 (H, W, 3).
        spec: sizes.

    Returns:
        uint8 (P, P, 3) with P = spec.crop.

    Raises:
        InputError: E-IMAGE-ARRAY, E-IMAGE-HUGE.

    """
    pixels = _check_array(pixels)
    rows, columns = _axes(pixels.shape[0], pixels.shape[1], spec)
    first, taps = coefficients(*rows)
    top, bottom = int(first.min()), int(first.max()) + taps.shape[1]
    wide = _resample_rows(pixels[top:bottom].transpose(1, 0, 2), *coefficients(*columns))  # (P, rows, 3)
    return np.ascontiguousarray(_resample_rows(wide.transpose(1, 0, 2), first - top, taps))


def _resample_rows(source: NDArray[np.uint8], first: NDArray[np.int32], taps: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Resample axis 0 of uint8 (N, M, 3) to uint8 (len(first), M, 3)."""
    out = np.empty((len(first), *source.shape[1:]), dtype=np.uint8)
    for i, begin in enumerate(first):
        window = source[begin : begin + taps.shape[1]].astype(np.int64)
        total = np.tensordot(taps[i].astype(np.int64), window, axes=1)
        out[i] = np.clip((total + ROUNDING) >> FRACTION_BITS, 0, 255)
    return out


def resize_crop(pixels: NDArray[np.uint8], spec: PixelSpec) -> NDArray[np.uint8]:
    """Resize and crop in C++ with the interpreter lock released; the same bytes as `resize_crop_reference`.

    Args:
        pixels: uint8 (H, W, 3); copied first when it is not C-contiguous.
        spec: sizes.

    Returns:
        uint8 (P, P, 3) with P = spec.crop.

    Raises:
        InputError: E-IMAGE-ARRAY, E-IMAGE-HUGE.
        UsageError: E-PIXELS-SIMD, when $ZSL_SIMD names kernels that this machine cannot run.
        BackendError: E-NATIVE, when the compiled core is not installed.

    """
    native = load_native()
    out = np.empty((spec.crop, spec.crop, 3), dtype=np.uint8)
    native.resize_crop_batch([_check_array(pixels)], spec.resize, out[None], 1, _kernels(native))
    return out


def resize_crop_batch(
    pictures: Sequence[NDArray[np.uint8]],
    spec: PixelSpec,
    threads: int = 1,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Resize and crop a list of decoded pictures of any sizes, in one call of the compiled core.

    The interpreter lock is released once, for all of them. Each picture becomes the same bytes as by `resize_crop`.

    Args:
        pictures: N arrays uint8 (H, W, 3), each with a size of its own; N may be 0.
        spec: sizes.
        threads: C++ threads that share the pictures, the calling one included; at least 1.
        out: where to write: uint8 (N, P, P, 3), C-contiguous, writable, no memory in common with a picture. None
            makes a new array.

    Returns:
        `out`, uint8 (N, P, P, 3) with P = spec.crop.

    Raises:
        InputError: E-IMAGE-ARRAY, E-IMAGE-HUGE; the message says which picture. Nothing has been written then.
        UsageError: E-PIXELS-OUT for an `out` that cannot be written to as described, E-PIXELS-THREADS for threads
            below 1, E-PIXELS-SIMD as `resize_crop`.
        BackendError: E-NATIVE, when the compiled core is not installed.

    """
    native = load_native()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError("E-PIXELS-THREADS", f"got threads={threads!r}; expected a whole number of at least 1")
    arrays = check_pictures(pictures)
    squares = check_out(out, arrays, spec)
    native.resize_crop_batch(arrays, spec.resize, squares, threads, _kernels(native))
    return squares


def check_pictures(pictures: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Every picture as C-contiguous uint8 (H, W, 3).

    Raises:
        InputError: E-IMAGE-ARRAY, E-IMAGE-HUGE, with the picture's place in the list.

    """
    arrays = []
    for place, picture in enumerate(pictures):
        if not isinstance(picture, np.ndarray):
            raise InputError(
                "E-IMAGE-ARRAY",
                f"picture {place}: got {type(picture).__name__}; expected a decoded picture, uint8 (H, W, 3)",
            )
        try:
            arrays.append(_check_array(picture))
        except InputError as error:
            raise InputError(error.code, f"picture {place}: {error.message}") from None
    return arrays


def check_out(
    out: NDArray[np.uint8] | None, pictures: Sequence[NDArray[np.uint8]], spec: PixelSpec
) -> NDArray[np.uint8]:
    """`out` itself, or a new array uint8 (N, P, P, 3) where it is None.

    Raises:
        UsageError: E-PIXELS-OUT.

    """
    shape = (len(pictures), spec.crop, spec.crop, 3)
    if out is None:
        return np.empty(shape, dtype=np.uint8)
    if not isinstance(out, np.ndarray) or out.dtype != np.uint8 or out.shape != shape:
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise UsageError("E-PIXELS-OUT", f"`out` is {got}; expected an array uint8 {shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise UsageError("E-PIXELS-OUT", "`out` is strided or read-only; expected a C-contiguous array to write to")
    # Both are one block of memory each, so that comparing their bounds is exact.
    if any(np.may_share_memory(out, picture) for picture in pictures):
        raise UsageError("E-PIXELS-OUT", "`out` shares memory with a picture; give memory of its own")
    return out


def _kernels(native: ModuleType) -> str:
    """Which kernels to use: "" for the fastest. All of them give the same bytes; $ZSL_SIMD is there to show it."""
    name = os.environ.get("ZSL_SIMD", "")
    if name and name not in native.kernels():
        raise UsageError(
            "E-PIXELS-SIMD",
            f"ZSL_SIMD is {name!r}; expected one of {', '.join(native.kernels())} on this machine, or unset it",
        )
    return name


def prepare(source: ImageSource, spec: PixelSpec) -> NDArray[np.uint8]:
    """Decode, resize and crop one picture: everything between a file and the graph.

    Args:
        source: as for `decode`.
        spec: sizes.

    Returns:
        uint8 (P, P, 3), RGB.

    Raises:
        InputError: as `decode`.

    """
    return resize_crop(decode(source), spec)
