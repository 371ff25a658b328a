"""Photographs to the uint8 squares that models take: decode, resize, crop; one definition, several implementations.

    from zsl_runtime.pixels import PixelSpec, prepare

    prepare("photo.jpg", PixelSpec(resize=288, crop=260))  # uint8 (260, 260, 3)

Each name brings its module in when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsl_runtime.pixels.pixels import (
        PIXELS_VERSION,
        SUFFIXES,
        ImageSource,
        PixelSpec,
        decode,
        prepare,
        resize_crop,
        resize_crop_batch,
        resize_crop_reference,
    )

__all__ = [
    "PIXELS_VERSION",
    "SUFFIXES",
    "ImageSource",
    "PixelSpec",
    "decode",
    "prepare",
    "resize_crop",
    "resize_crop_batch",
    "resize_crop_reference",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'zsl_runtime.pixels' has no attribute {name!r}")
    return getattr(import_module("zsl_runtime.pixels.pixels"), name)
