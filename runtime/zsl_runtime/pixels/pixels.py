"""From any picture to the uint8 square that a model sees: one definition for training, export and inference.

The resampling is integer arithmetic defined in docs/inside/pixels.md: a triangle filter with antialiasing,
coefficients rounded to 22 fractional bits, horizontal pass first, then vertical pass, uint8 in between. Pillow's
BILINEAR uses the same coefficients but chooses the order of its passes itself, differently in different versions; so it
is only our decoder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import ArtefactError, InputError, UsageError
from zsl_runtime.machine.native import load_native
from zsl_runtime.machine.threads import most_threads
from zsl_runtime.pixels import room
from zsl_runtime.pixels.decoding import MAX_PIXELS, SUFFIXES, ImageSource, check_array, decode

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

__all__ = [  # the names of what is decoded are found here, too
    "MAX_PIXELS",
    "MAX_SIDE",
    "PIXELS_VERSION",
    "SUFFIXES",
    "ImageSource",
    "PixelSpec",
    "check_out",
    "check_pictures",
    "coefficients",
    "decode",
    "prepare",
    "resize_crop",
    "resize_crop_batch",
    "resize_crop_reference",
]
PIXELS_VERSION = 1
MAX_SIDE = 8192  # of the resized short side: a manifest that asks for more is damaged
FRACTION_BITS = 22  # 8-bit samples times 22-bit coefficients, summed, stay inside int32
ROUNDING = 1 << (FRACTION_BITS - 1)


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
    pixels = check_array(pixels)
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
    native.resize_crop_batch([check_array(pixels)], spec.resize, out[None], 1, _kernels(native))
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
        threads: C++ threads that share the pictures, the calling one included; at least 1, cut to the machine's CPUs.
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
    native.resize_crop_batch(arrays, spec.resize, squares, min(threads, most_threads()), _kernels(native))
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
            arrays.append(check_array(picture))
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
    with room.place() as held:  # of the decoded picture, until it is small
        return resize_crop(decode(source, held), spec)
