"""Pictures of noise, files of them in memory, and the code that decoding refuses one with."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest

from zsl_runtime.errors import InputError
from zsl_runtime.pixels.decoding import decode

if TYPE_CHECKING:
    from PIL import Image


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Pictures with hard edges: rounding differences cannot hide in smooth content."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return np.where(rng.random((height, width, channels)) < 0.3, 255 * (values > 127), values).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """A file of the picture."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def code_of(source) -> str:
    """The code of the one line with which a picture is refused."""
    with pytest.raises(InputError) as caught:
        decode(source)
    assert "\n" not in str(caught.value)
    return caught.value.code
