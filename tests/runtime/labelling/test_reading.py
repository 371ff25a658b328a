"""A reader of one item: what it says of bytes that are no picture, and that a profile changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from zsl_runtime.errors import InputError
from zsl_runtime.inputs.item import Item
from zsl_runtime.labelling.profiling import Profile
from zsl_runtime.labelling.reading import Reader
from zsl_runtime.pixels.pixels import PixelSpec

NUMBERS = Reader(None, (1, 1))


def test_bytes_that_cannot_be_read_are_told_by_the_name_of_the_item():
    reader = Reader(PixelSpec(8, 8), (8, 8, 3))
    row = reader.row(Item("birds.zip/a.jpg", b"no picture"))
    assert str(row.value).startswith("E-IMAGE-FORMAT: 'birds.zip/a.jpg': picture of 10 bytes is not")


def test_a_profiled_reader_reads_the_same(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    reader, profile = Reader(PixelSpec(8, 8), (8, 8, 3)), Profile()
    assert np.array_equal(reader.profiled(picture, profile), reader(picture))
    assert np.array_equal(NUMBERS.profiled(np.ones((1, 1)), profile), [[1]])
    with pytest.raises(InputError):
        reader.profiled(b"", profile)
