"""JPEG through libjpeg-turbo's own interface (the extra `jpeg`: simplejpeg), only where it gives Pillow's bytes.

Pillow decodes through libjpeg-turbo, too, but keeps pictures with four bytes a pixel and packs them afterwards; the
direct way saves that, about a fifth of the time. Which bytes come out depends on the library that either was built
with (a Pillow on IJG's libjpeg differs), so both decode a few small pictures before the direct way is used at all. It
is then taken for what was compared: whole, undamaged files in grey or in YCbCr with the usual samplings. On 800
photographs of birds (4:4:4, 4:2:2, 4:2:0, grey) and on progressive, optimised and odd-sized files both gave the same
bytes. CMYK is one off in places and stays with Pillow, and so does everything that makes libjpeg-turbo warn: a damaged
file gets the answer or the error it has always had.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, JpegImagePlugin

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

COMPARED_SAMPLINGS = (0, 1, 2)  # Pillow's numbers for 4:4:4, 4:2:2 and 4:2:0


def decode_jpeg(image: Image.Image, stream: io.BytesIO | io.BufferedReader) -> NDArray[np.uint8] | None:
    """The pixels of an opened file as Pillow would give them, without orientation.

    Args:
        image: opened by Pillow and not loaded yet; it has read the header.
        stream: what it was opened from; its position may be anywhere afterwards.

    Returns:
        uint8 (H, W, 3), RGB; None where Pillow is to decode the file itself.

    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.format != "JPEG":
        return None
    sampling = JpegImagePlugin.get_sampling(image)
    untransformed = image.info.get("adobe_transform") == 0  # stored as RGB, not as YCbCr
    colour = image.mode == "RGB" and sampling in COMPARED_SAMPLINGS and not untransformed
    if not colour and image.mode != "L":
        return None
    library = _trusted_library()
    if library is None:
        return None
    stream.seek(0)
    rgb = _decode(library, stream.read())
    return rgb if rgb is not None and rgb.shape == (image.height, image.width, 3) else None


def _decode(library: ModuleType, data: bytes) -> NDArray[np.uint8] | None:
    """None for whatever the library does not decode without a warning."""
    try:
        return cast(
            "NDArray[np.uint8]",
            library.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False, strict=True),
        )
    except Exception:  # warnings and errors alike; Pillow says what is the matter
        return None


@lru_cache(maxsize=1)
def _trusted_library() -> ModuleType | None:
    """simplejpeg, if it is installed and gives Pillow's bytes for every kind of file that it would be used for."""
    try:
        import simplejpeg
    except ImportError:
        return None
    for data in samples():
        with Image.open(io.BytesIO(data)) as image:
            rgb = _decode(simplejpeg, data)
            if rgb is None or not np.array_equal(rgb, np.asarray(image.convert("RGB"))):
                return None
    return cast("ModuleType", simplejpeg)


def samples() -> list[bytes]:
    """Small JPEG files of every kind that is decoded directly: odd sizes, strong colours, all samplings."""
    noise = np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8)
    soft = np.repeat(np.repeat(noise[:12, :17], 4, axis=0), 4, axis=1)[:45, :67] // 2 + noise // 2
    picture = Image.fromarray(soft)
    kinds = [
        (picture.convert(mode), {"subsampling": sampling, "progressive": progressive, "quality": quality})
        for mode, sampling in (("RGB", 0), ("RGB", 1), ("RGB", 2), ("L", 0))
        for progressive, quality in ((False, 60), (True, 95))
    ]
    files = []
    for image, options in kinds:
        stream = io.BytesIO()
        image.save(stream, "JPEG", **options)
        files.append(stream.getvalue())
    return files
