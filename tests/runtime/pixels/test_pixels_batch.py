"""A batch gives each picture the bytes it gets alone, whatever the threads; wrong arguments change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.ticking import others_run_during
from zsl_runtime import _native
from zsl_runtime.errors import InputError, UsageError, ZslError
from zsl_runtime.pixels.pixels import PixelSpec, resize_crop, resize_crop_batch, resize_crop_reference

SPEC = PixelSpec(16, 12)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=9), st.integers(1, 4))
def test_a_batch_is_its_pictures_one_by_one(sizes, threads):
    pictures = [picture(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    result = resize_crop_batch(pictures, SPEC, threads=threads)
    assert (result.shape, result.dtype) == ((len(sizes), 12, 12, 3), np.uint8)
    for square, one in zip(result, pictures, strict=True):
        assert np.array_equal(square, resize_crop(one, SPEC))
        assert np.array_equal(square, resize_crop_reference(one, SPEC))


def test_many_pictures_on_many_threads_come_in_order():
    pictures = [picture(20 + i % 7, 30 + i % 11, i) for i in range(200)]
    expected = np.stack([resize_crop_reference(one, SPEC) for one in pictures])
    for threads in (2, 16, 1000):
        assert np.array_equal(resize_crop_batch(pictures, SPEC, threads=threads), expected)


def test_out_is_filled_and_returned():
    pictures = [picture(30, 40), picture(50, 20, 1)]
    store = np.zeros((4, 12, 12, 3), dtype=np.uint8)
    result = resize_crop_batch(pictures, SPEC, out=store[1:3])
    assert np.shares_memory(result, store)
    assert np.array_equal(store[1:3], [resize_crop_reference(one, SPEC) for one in pictures])
    assert not store[[0, 3]].any()


def test_strided_and_repeated_pictures_are_taken():
    one = picture(60, 80)
    pictures = [one[::-1, ::2], one, one[:, :, ::-1], one]
    result = resize_crop_batch(pictures, SPEC, threads=2)
    assert np.array_equal(result, [resize_crop_reference(np.ascontiguousarray(p), SPEC) for p in pictures])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (np.zeros((8, 8), dtype=np.uint8), "E-IMAGE-ARRAY"),
        (np.zeros((8, 8, 3), dtype=np.float32), "E-IMAGE-ARRAY"),
        (np.zeros((0, 8, 3), dtype=np.uint8), "E-IMAGE-ARRAY"),
        (np.broadcast_to(np.uint8(0), (9460, 9460, 3)), "E-IMAGE-HUGE"),
        ("a.jpg", "E-IMAGE-ARRAY"),
        (None, "E-IMAGE-ARRAY"),
        ([[[1, 2, 3]]], "E-IMAGE-ARRAY"),
    ],
)
def test_a_wrong_picture_is_named_by_its_place_and_nothing_is_written(bad, code):
    out = np.zeros((3, 12, 12, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="picture 2") as caught:
        resize_crop_batch([picture(9, 9), picture(9, 8), bad], SPEC, out=out)
    assert caught.value.code == code
    assert not out.any()


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((1, 12, 12, 3), dtype=np.uint8),
        np.zeros((2, 12, 13, 3), dtype=np.uint8),
        np.zeros((2, 16, 16, 3), dtype=np.uint8),
        np.zeros((2, 12, 12, 3), dtype=np.int8),
        np.zeros((2, 12, 12, 4), dtype=np.uint8),
        np.zeros((2, 12, 12, 3), dtype=np.uint8)[:, ::-1],
        np.zeros((12, 12, 3, 2), dtype=np.uint8).transpose(3, 0, 1, 2),
        np.broadcast_to(np.uint8(0), (2, 12, 12, 3)),
        [],
        7,
    ],
)
def test_an_out_of_another_kind_is_refused(out):
    with pytest.raises(UsageError, match="expected") as caught:
        resize_crop_batch([picture(9, 9), picture(9, 8)], SPEC, out=out)
    assert caught.value.code == "E-PIXELS-OUT"


def test_an_out_that_overlaps_a_picture_is_refused():
    memory = np.zeros(4000, dtype=np.uint8)
    out, inside = memory[: 12 * 12 * 3].reshape(1, 12, 12, 3), memory[400:700].reshape(10, 10, 3)
    with pytest.raises(UsageError, match="shares memory") as caught:
        resize_crop_batch([inside], SPEC, out=out)
    assert caught.value.code == "E-PIXELS-OUT"
    beside = memory[12 * 12 * 3 :][:300].reshape(10, 10, 3)
    assert resize_crop_batch([beside], SPEC, out=out) is out


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, None, "2"])
def test_impossible_threads_are_refused(threads):
    with pytest.raises(UsageError) as caught:
        resize_crop_batch([picture(9, 9)], SPEC, threads=threads)
    assert caught.value.code == "E-PIXELS-THREADS"


anything = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.text(max_size=3),
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 4)).map(lambda shape: np.zeros(shape, np.uint8)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda shape: np.zeros((*shape, 3), np.float64)),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(anything, max_size=3), anything, anything)
def test_whatever_is_given_the_answer_is_a_batch_or_our_error(pictures_given, threads, out):
    try:
        result = resize_crop_batch(pictures_given, SPEC, threads=threads, out=out)
    except ZslError:
        return
    assert result.shape == (len(pictures_given), 12, 12, 3)


@settings(max_examples=100, deadline=None)
@given(st.lists(anything, max_size=3), st.integers(-1, 2**40), anything, st.integers(0, 3), st.text(max_size=2))
def test_the_compiled_core_itself_refuses_by_python_s_own_errors(pictures_given, resize, out, threads, kernels):
    with pytest.raises((TypeError, ValueError)):
        _native.resize_crop_batch([*pictures_given, None], resize, out, threads, kernels)
    with pytest.raises((TypeError, ValueError)):
        _native.resize_crop_batch([picture(5, 5)], resize, np.zeros((1, 4, 3, 3), np.uint8), threads)


def test_sizes_that_do_not_fit_are_refused_by_the_core():
    out = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    for pictures_given, resize in [([picture(5, 5)], 3), ([picture(5, 5)[:0]], 8), ([], 8), ([picture(5, 5)] * 2, 8)]:
        with pytest.raises(ValueError, match=r"expected|not one square"):
            _native.resize_crop_batch(pictures_given, resize, out, threads=2)
    assert not out.any()


def test_other_threads_run_during_a_batch():
    """The interpreter lock is not held: a thread that only counts goes on meanwhile."""
    pictures = [np.zeros((2000, 3000, 3), dtype=np.uint8)] * 4
    assert others_run_during(lambda: resize_crop_batch(pictures, PixelSpec(256, 224)), calls=100)


def test_pillow_gives_the_same_where_its_passes_come_in_our_order():
    from PIL import Image

    spec = PixelSpec(256, 224)
    one = picture(375, 500)
    image = Image.fromarray(one).resize((256 * 500 // 375, 256), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    expected = np.asarray(image.crop((left, top, left + 224, top + 224)))
    assert np.array_equal(resize_crop_batch([one], spec)[0], expected)
