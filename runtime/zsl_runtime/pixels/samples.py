"""Grey of more than 8 bits: which sample is black and which is white, and what to say where nothing tells.

Pillow gives the samples as they are stored. A camera of 12 bits fills a sixteenth of 16 bits, and looked at as 16 bits
its picture is black.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import ImageFile, TiffImagePlugin

from zsl_runtime.errors import InputError
from zsl_runtime.pixels import tiff
from zsl_runtime.pixels.strips import samples_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from PIL import Image

BLOCK = 1 << 18  # samples that are computed at once, in 8 bytes each


class Range(NamedTuple):
    """The samples that stand for black and for white."""

    black: int
    white: int


SIXTEEN = Range(0, 0xFFFF)
QUARTER = 64  # of 256 levels


class Stored(NamedTuple):
    """How a file holds its samples, by Pillow's word for it.

    Attributes:
        raw: Pillow's raw mode, such as `RGB;16B`; '' where it is not known.
        dark: of colour of 16 bits a sample of which nothing is said, the level of 8 bits that the brightest sample must
            reach; 0 for all else.
        stretched: the file told its white, and Pillow has stretched the samples to 16 bits.

    """

    raw: str
    dark: int
    stretched: bool


def wide_grey(image: Image.Image, name: str, held: Stored, significant: Callable[[], int | None]) -> NDArray[np.uint8]:
    """Grey of 16 or 32 bits as 8 bits: `(sample - black) * 256 // (white + 1 - black)`, cut at 0 and 255.

    What the file says of its range is used (12 bits a sample, MinSampleValue and MaxSampleValue of a TIFF, sBIT of a
    PNG, maxval of a PGM). Where it says nothing, its range is that of its type, unless the picture would be dark: with
    no sample in the upper three quarters of the range it is either nearly black or of fewer bits, and is refused.

    Args:
        image: of mode I or I;16..., loaded.
        name: for messages.
        held: of the image before it was loaded.
        significant: asks the file for its sBIT.

    Returns:
        uint8 (H, W).

    Raises:
        InputError: E-IMAGE-RANGE.

    """
    samples = samples_of(image)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if samples.dtype == np.int32 and tags and tiff.first_number(tags, tiff.FORMAT, 1) == 1:
        samples = samples.view(np.uint32)  # Pillow has no mode for these
    clear = image.info.get("transparency")
    clear = clear if isinstance(clear, int) else None
    bits = _bits(image, tags)
    known = _of_tiff(tags, bits) if tags else None
    if held.stretched:
        known = SIXTEEN
    if known is None:
        known = _found(samples if clear is None else samples[samples != clear], bits, significant, name)
    grey = _to_bytes(samples, known)
    if tags.get(tiff.PHOTOMETRIC) == 0:  # white is zero: Pillow turns round what has up to 8 bits only
        grey = 255 - grey
    if clear is not None:
        grey[samples == clear] = 255
    return grey


def stored(image: Image.Image) -> Stored:
    """What is known of the samples of a picture that is not loaded yet."""
    args = image.tile[0][3] if isinstance(image, ImageFile.ImageFile) and image.tile else ()
    args = args if isinstance(args, tuple) else (args,)
    raw = args[0] if args and isinstance(args[0], str) else ""
    netpbm = image.format == "PPM"
    full = netpbm and (args[-1] == SIXTEEN.white or raw == "I;16B")
    dark = (
        QUARTER if ";16" in raw else QUARTER + 1 if full else 0
    )  # of Netpbm's colours Pillow rounds, of others it cuts
    return Stored(raw, dark, stretched=netpbm and not full)


def check_wide_colour(image: Image.Image, name: str, held: Stored) -> None:
    """Refuse colour of 16 bits a sample, of which Pillow keeps the upper 8, where that is dark.

    Args:
        image: of mode RGB or RGBA, loaded.
        name: for messages.
        held: of the image before it was loaded.

    Raises:
        InputError: E-IMAGE-RANGE.

    """
    top = max(int(high) for _, high in image.getextrema()[:3])  # type: ignore[misc]
    if top < held.dark:
        raise _dark(name, "colour of 16 bits a sample", min(256 * top + 255, 256 * QUARTER - 1))


def _bits(image: Image.Image, tags: Any) -> int:
    """Bits of a sample as stored, a sign not counted."""
    if tags:
        return tiff.first_number(tags, tiff.BITS, 1) - (tiff.first_number(tags, tiff.FORMAT, 1) == 2)
    return 16 if image.mode.startswith("I;16") else 31


def _of_tiff(tags: Any, bits: int) -> Range | None:
    """What the tags say: fewer bits than 16, or the lowest and the highest sample.

    A highest sample that needs all bits of the type is the brightest one of this picture, not a white.
    """
    highest = max(tiff.first_number(tags, tag) for tag in (tiff.HIGHEST, tiff.SIGNED_HIGHEST))
    lowest = tiff.first_number(tags, tiff.SIGNED_LOWEST if tiff.SIGNED_LOWEST in tags else tiff.LOWEST)
    if lowest < highest and (lowest < 0 or highest < 1 << (bits - 1)):
        return Range(lowest, highest)
    return Range(0, (1 << bits) - 1) if bits < 15 else None


def _found(samples: NDArray[Any], bits: int, significant: Callable[[], int | None], name: str) -> Range:
    """The range by the type and the samples.

    Args:
        samples: integers.
        bits: of the type, a sign not counted.
        significant: asks the file for its sBIT.
        name: for messages.

    Raises:
        InputError: E-IMAGE-RANGE.

    """
    if samples.size == 0:
        return SIXTEEN
    low, top = int(samples.min()), int(samples.max())
    if low < 0:
        raise InputError(
            "E-IMAGE-RANGE",
            f"{name} is grey with samples below zero ({low:,} to {top:,}), whose black and white are unknown; "
            "save it with 8 bits a sample",
        )
    for size in sorted({bits, min(bits, 16)}, reverse=True):  # 32 bits may hold what is meant as 16
        if 1 << (size - 2) <= top < 1 << size:
            return Range(0, (1 << size) - 1)
    said = significant()
    if said and top < 1 << said < 1 << bits:
        return Range(0, (1 << said) - 1)
    if top < 1 << 16 and _is_stretched(samples):
        return SIXTEEN
    raise _dark(name, "grey of more than 8 bits a sample", top)


def _is_stretched(samples: NDArray[Any]) -> bool:
    """Whether samples were 8 bits that fill 16 (times 257): a dark picture.

    Zeros at their ends say nothing: 8 bits made 12 or 14 by a shift have them, and fill a sixteenth or a quarter.
    """
    flat = samples.reshape(-1)
    return not any((flat[begin : begin + BLOCK] % 257).any() for begin in range(0, flat.size, BLOCK))


def _dark(name: str, what: str, top: int) -> InputError:
    return InputError(
        "E-IMAGE-RANGE",
        f"{name} is {what} and uses {max(1, top.bit_length())} of them at most (no sample is above {top:,}): whether "
        "it is so dark or its white is lower cannot be told; save it with 8 bits a sample",
    )


def _to_bytes(samples: NDArray[Any], known: Range) -> NDArray[np.uint8]:
    """Integers (H, W) to uint8 of the same shape."""
    grey = np.empty(samples.shape, dtype=np.uint8)
    rows = max(1, BLOCK // max(1, samples.shape[1]))
    for begin in range(0, samples.shape[0], rows):
        block = samples[begin : begin + rows]
        short = samples.dtype.itemsize == 2
        grey[begin : begin + rows] = _table(known)[block] if short else _scaled(block.astype(np.int64), known)
    return grey


@lru_cache(maxsize=4)
def _table(known: Range) -> NDArray[np.uint8]:
    """The byte of each sample of 16 bits."""
    return _scaled(np.arange(1 << 16, dtype=np.int64), known)


def _scaled(values: NDArray[np.int64], known: Range) -> NDArray[np.uint8]:
    return np.clip((values - known.black) * 256 // (known.white + 1 - known.black), 0, 255).astype(np.uint8)
