"""The compiled core checks what it is given before it touches memory, and runs without the interpreter lock."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.ticking import others_run_during
from zsl_runtime import _native
from zsl_runtime.pixels.pixels import FRACTION_BITS, coefficients

ONE = 1 << FRACTION_BITS
ROOT = Path(__file__).parents[3]


def axis(*windows: tuple[int, list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(first, taps) from (begin, taps) of each output."""
    first = np.array([begin for begin, _ in windows], dtype=np.int32)
    return first, np.array([taps for _, taps in windows], dtype=np.int32)


PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
ROW = axis((1, [ONE]))
COLUMN = axis((2, [ONE]))


def test_one_tap_of_one_picks_a_pixel():
    assert _native.resize_crop(PICTURE, *COLUMN, *ROW).tolist() == [[PICTURE[1, 2].tolist()]]


def test_halves_round_up_and_results_are_clipped():
    halves = axis((0, [ONE // 2, ONE // 2]))
    same = axis((0, [ONE]))
    pair = np.array([[[1, 10, 255], [2, 10, 254]]], dtype=np.uint8)
    assert _native.resize_crop(pair, *halves, *same).tolist() == [[[2, 10, 255]]]
    sharp = axis((0, [5 * ONE // 4, -ONE // 4]))
    steep = np.array([[[0, 250, 100], [255, 10, 100]]], dtype=np.uint8)
    assert _native.resize_crop(steep, *sharp, *same).tolist() == [[[0, 255, 100]]]


def test_the_result_is_its_own_writable_array():
    result = _native.resize_crop(PICTURE, *COLUMN, *ROW)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert not np.shares_memory(result, PICTURE)


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (axis((3, [ONE])), ROW),
        (axis((-1, [ONE])), ROW),
        (axis((2, [ONE, 0])), ROW),
        (axis((0, [ONE, 0, 0, 0])), ROW),
        (COLUMN, axis((2, [ONE]))),
        (COLUMN, axis((0, [2**30]))),
        (COLUMN, axis((0, [-(2**31)]))),
        (COLUMN, (np.zeros(0, dtype=np.int32), np.zeros((0, 1), dtype=np.int32))),
        (COLUMN, (np.zeros(1, dtype=np.int32), np.zeros((1, 0), dtype=np.int32))),
        (COLUMN, (np.zeros(2, dtype=np.int32), np.full((1, 1), ONE, dtype=np.int32))),
    ],
)
def test_a_window_that_leaves_the_picture_is_refused(columns, rows):
    with pytest.raises(ValueError, match=r"columns|rows|lengths"):
        _native.resize_crop(PICTURE, *columns, *rows)


def test_an_empty_picture_is_refused():
    with pytest.raises(ValueError, match="source of 0"):
        _native.resize_crop(np.zeros((0, 3, 3), dtype=np.uint8), *COLUMN, *ROW)


@pytest.mark.parametrize(
    "picture",
    [
        PICTURE.astype(np.float32),
        PICTURE.astype(np.int8),
        PICTURE[0],
        PICTURE[:, :, :2],
        PICTURE[:, ::-1],
        np.asfortranarray(PICTURE),
        PICTURE.tolist(),
        None,
    ],
)
def test_other_types_and_layouts_are_not_converted(picture):
    with pytest.raises(TypeError):
        _native.resize_crop(picture, *COLUMN, *ROW)


def test_taps_of_another_type_are_not_converted():
    with pytest.raises(TypeError):
        _native.resize_crop(PICTURE, COLUMN[0], COLUMN[1].astype(np.int64), *ROW)


def test_read_only_input_is_taken():
    picture = PICTURE.copy()
    picture.flags.writeable = False
    assert _native.resize_crop(picture, *COLUMN, *ROW).shape == (1, 1, 3)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 600), st.data())
def test_every_coefficient_window_is_inside_and_sums_to_one(source, target, data):
    start = data.draw(st.integers(0, target - 1))
    count = data.draw(st.integers(1, target - start))
    first, taps = coefficients(source, target, start, count)
    assert (first >= 0).all()
    assert (first + taps.shape[1] <= source).all()
    assert (taps >= 0).all()
    assert np.abs(taps.astype(np.int64).sum(axis=1) - ONE).max() <= taps.shape[1] / 2
    whole_first, whole_taps = coefficients(source, target, 0, target)
    for i in range(count):
        dense = np.zeros((2, source), dtype=np.int64)
        dense[0, first[i] : first[i] + taps.shape[1]] = taps[i]
        dense[1, whole_first[start + i] : whole_first[start + i] + whole_taps.shape[1]] = whole_taps[start + i]
        assert np.array_equal(dense[0], dense[1])


def test_coefficients_are_the_triangle_written_out():
    """5 pixels to 2: scale 2.5, centres 1.25 and 3.75, weights 1 - |distance| / 2.5 before normalising."""
    first, taps = coefficients(5, 2, 0, 2)
    left = np.array([1 - 0.75 / 2.5, 1 - 0.25 / 2.5, 1 - 1.25 / 2.5, 1 - 2.25 / 2.5])
    expected = np.floor(left / left.sum() * ONE + 0.5).astype(np.int64)
    assert first.tolist() == [0, 1]
    assert taps.tolist() == [expected.tolist(), expected[::-1].tolist()]


def test_the_stub_is_what_nanobind_tells_of_the_core():
    from nanobind.stubgen import StubGen

    (pinned,) = re.findall(r"^nanobind==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if version("nanobind") != pinned:
        pytest.skip(f"nanobind {version('nanobind')} may write other stubs than {pinned} of constraints.txt")
    told = StubGen(_native)
    told.put(_native)
    stub = (ROOT / "runtime" / "zsl_runtime" / "_native.pyi").read_text(encoding="utf-8")
    assert told.get() == stub, "the bindings have changed: make stubs"


def test_other_threads_run_meanwhile():
    """A thread that only counts keeps counting during one long call: the interpreter lock is not held."""
    picture = np.zeros((3000, 6000, 3), dtype=np.uint8)
    columns, rows = coefficients(6000, 200, 0, 200), coefficients(3000, 100, 0, 100)
    assert others_run_during(lambda: _native.resize_crop(picture, *columns, *rows), calls=20)


def test_axes_that_no_picture_has_are_refused_and_take_no_memory():
    for axis_ in ((1 << 31, 3, 0, 3), (1 << 62, 1, 0, 1), (1 << 24, 1 << 40, 0, 1 << 33)):
        with pytest.raises(ValueError, match="expected at most"):
            _native.coefficients(*axis_)
    with pytest.raises(ValueError, match="taps: expected at most"):
        _native.coefficients(1 << 30, 1 << 10, 0, 1 << 10)
    with pytest.raises(ValueError, match="taps: expected at most"):
        _native.coefficients((1 << 31) - 1, 1, 0, 1)
    out = np.zeros((1, 4, 4, 3), np.uint8)
    for side in (1 << 31, (1 << 62) + 1, (1 << 63) - 1):
        with pytest.raises(ValueError, match="expected sizes from 1 to 2147483647"):
            _native.resize_crop_batch([PICTURE], side, out)
