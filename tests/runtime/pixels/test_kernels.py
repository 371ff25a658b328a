"""Every kernel this CPU can run gives the reference's bytes, and touches no byte that is not its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zsl_runtime import _native
from zsl_runtime.errors import UsageError
from zsl_runtime.pixels import pixels
from zsl_runtime.pixels.pixels import (
    FRACTION_BITS,
    ROUNDING,
    PixelSpec,
    coefficients,
    resize_crop,
    resize_crop_reference,
)

KERNELS = _native.kernels()
ONE = 1 << FRACTION_BITS
LARGEST = 2 * ONE - 1  # of the sum of an output's absolute taps


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Uniform noise with many pure blacks and whites, where clipping happens."""
    values = np.random.default_rng(seed).integers(-100, 356, (height, width, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def by(kernels: str, picture: np.ndarray, spec: PixelSpec) -> np.ndarray:
    out = np.full((1, spec.crop, spec.crop, 3), 99, dtype=np.uint8)
    _native.resize_crop_batch([picture], spec.resize, out, kernels=kernels)
    return out[0]


def test_the_plain_kernels_are_always_there_and_come_last():
    assert KERNELS[-1] == "scalar"
    assert set(KERNELS) <= {"scalar", "avx2", "avx512", "neon"}


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo to ask")
def test_the_cpu_s_own_kernels_are_chosen():
    found = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = set(next((line for line in found.splitlines() if line.startswith("flags")), "").split())
    assert ("avx2" in KERNELS) == ("avx2" in flags)
    assert ("avx512" in KERNELS) == ({"avx512f", "avx512bw"} <= flags)


# Thin strips, so that ten thousand pixels stay fast, and small pictures of any shape, up and down.
sides = st.one_of(st.integers(1, 40), st.integers(1, 10_000))


@settings(max_examples=120, deadline=None)
@given(sides, sides, st.integers(1, 80), st.data())
@example(1, 10_000, 256, None)
@example(10_000, 1, 256, None)
@example(3, 10_000, 2, None)
@example(10_000, 2, 3, None)
def test_every_kernel_equals_the_reference(height, width, resize, data):
    if min(height, width) > 40:  # one side of a strip is thin
        height, width = (height % 7 + 1, width) if height < width else (height, width % 7 + 1)
    spec = PixelSpec(resize, data.draw(st.integers(1, resize)) if data else resize)
    picture = noise(height, width, seed=height + width)
    expected = resize_crop_reference(picture, spec)
    for kernels in KERNELS:
        assert np.array_equal(by(kernels, picture, spec), expected), kernels


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    ("height", "width", "resize", "crop"),
    [
        (375, 500, 256, 224),
        (500, 375, 256, 256),
        (97, 131, 300, 299),
        (1, 1, 8192, 5),
        (900, 1201, 32, 32),
        (64, 64, 64, 64),
        (5, 4, 64, 61),
    ],
)
def test_usual_sizes_by_every_kernel(kernels, height, width, resize, crop):
    spec = PixelSpec(resize, crop)
    picture = noise(height, width)
    assert np.array_equal(by(kernels, picture, spec), resize_crop_reference(picture, spec))


# --- taps that no filter has ----------------------------------------------------------------------------------------


def split(total: int, parts: int, rng: np.random.Generator) -> list[int]:
    """`parts` whole numbers whose absolute values sum to `total`, with random signs."""
    cuts = np.sort(rng.integers(0, total + 1, parts - 1))
    sizes = np.diff(np.concatenate([[0], cuts, [total]]))
    return [int(size) * int(rng.choice([-1, 1])) for size in sizes]


def weighted(source: np.ndarray, first: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Axis 0 of (N, M, 3), in Python's unbounded whole numbers."""
    window = source.astype(object)[first[:, None] + np.arange(taps.shape[1])]
    total = (taps.astype(object)[:, :, None, None] * window).sum(axis=1)
    return np.clip((total + ROUNDING) // ONE, 0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 11), st.integers(1, 13), st.integers(1, 9), st.booleans())
def test_any_taps_that_are_accepted_give_exact_sums(seed, wide, width, count, largest):
    rng = np.random.default_rng(seed)
    picture = rng.choice([0, 1, 254, 255], (6, width + wide - 1, 3)).astype(np.uint8)
    total = LARGEST if largest else int(rng.integers(0, LARGEST + 1))
    column_taps = np.array([split(total, width, rng) for _ in range(count)], dtype=np.int32)
    column_first = rng.integers(0, wide, count).astype(np.int32)
    row_taps = np.array([split(total, 3, rng) for _ in range(4)], dtype=np.int32)
    row_first = np.array([3, 0, 1, 2], dtype=np.int32)
    between = weighted(picture.transpose(1, 0, 2), column_first, column_taps).transpose(1, 0, 2)
    expected = weighted(between, row_first, row_taps)
    for kernels in KERNELS:
        result = _native.resize_crop(picture, column_first, column_taps, row_first, row_taps, kernels)
        assert np.array_equal(result, expected), kernels


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("tap", [LARGEST, -LARGEST, ONE, 1, -1, 2047, 2048, -2048, -2049, 0])
def test_one_tap_at_the_edges_of_its_parts(kernels, tap):
    picture = np.array([[[255, 1, 0]]], dtype=np.uint8)
    first, same = np.zeros(1, dtype=np.int32), np.array([[ONE]], dtype=np.int32)
    taps = np.array([[tap]], dtype=np.int32)
    expected = [max(0, min(255, (tap * sample + ROUNDING) // ONE)) for sample in (255, 1, 0)]
    assert _native.resize_crop(picture, first, taps, first, same, kernels).tolist() == [[expected]]
    assert _native.resize_crop(picture, first, same, first, taps, kernels).tolist() == [[expected]]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("half", "expected"), [(ONE // 2, 127), (ONE // 2 + 8400, 128)])
def test_sums_of_parts_may_leave_32_bits(kernels, half, expected):
    """The parts of -1 are -1 and 2047: the sum over 8,400 low parts is 8400 * 2047 * 255, more than 2^32."""
    picture = np.full((1, 8401, 3), 255, dtype=np.uint8)
    first, same = np.zeros(1, dtype=np.int32), np.array([[ONE]], dtype=np.int32)
    taps = np.array([[half] + [-1] * 8400], dtype=np.int32)
    assert _native.resize_crop(picture, first, taps, first, same, kernels).tolist() == [[[expected] * 3]]
    tall = picture.transpose(1, 0, 2).copy()
    assert _native.resize_crop(tall, first, same, first, taps, kernels).tolist() == [[[expected] * 3]]


# --- memory ---------------------------------------------------------------------------------------------------------

GUARDED = """
import ctypes, mmap, sys
import numpy as np
from zsl_runtime import _native
from zsl_runtime.pixels.pixels import PixelSpec, resize_crop_reference

libc = ctypes.CDLL(None, use_errno=True)

def between_guards(array, at_the_end):
    '''A copy that begins or ends where memory ends: one byte further is the end of this process.'''
    pages = -(-array.nbytes // mmap.PAGESIZE)
    block = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    for guard in (0, pages + 1):
        assert libc.mprotect(ctypes.c_void_p(address + guard * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    start = (pages + 1) * mmap.PAGESIZE - array.nbytes if at_the_end else mmap.PAGESIZE
    copy = np.frombuffer(block, np.uint8, array.nbytes, start).reshape(array.shape)
    copy[...] = array
    return copy

rng = np.random.default_rng(0)
SIZES = [(1, 1, 9, 9), (2, 1, 5, 3), (1, 2, 7, 7), (3, 3, 8, 5), (17, 23, 9, 7), (40, 1, 4, 4), (1, 40, 4, 4)]
SIZES += [(5, 6, 33, 31), (64, 64, 22, 22), (30, 9, 9, 9), (8, 4, 65, 64)]
for height, width, resize, crop in SIZES:
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = resize_crop_reference(picture, PixelSpec(resize, crop))
    for at_the_end in (True, False):
        out = between_guards(np.zeros((1, crop, crop, 3), np.uint8), at_the_end)
        _native.resize_crop_batch([between_guards(picture, at_the_end)], resize, out, kernels=sys.argv[1])
        assert np.array_equal(out[0], expected)
print("done")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory protection is asked for the Linux way")
@pytest.mark.parametrize("kernels", KERNELS)
def test_no_byte_outside_the_picture_is_touched(kernels):
    done = subprocess.run([sys.executable, "-c", GUARDED, kernels], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory protection is asked for the Linux way")
def test_the_guards_of_that_test_do_guard():
    program = GUARDED.partition("rng =")[0] + (
        "guarded = between_guards(np.zeros((3, 3, 3), np.uint8), True)\n"
        "print(ctypes.string_at(guarded.ctypes.data, 28))"
    )
    done = subprocess.run([sys.executable, "-c", program, "-"], capture_output=True, text=True, check=False)
    assert done.returncode < 0
    assert done.stdout == ""


# --- coefficients ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000), st.data())
def test_compiled_coefficients_are_the_reference_s(source, target, data):
    start = data.draw(st.integers(0, target - 1))
    count = data.draw(st.integers(1, min(target - start, 50)))
    first, taps = _native.coefficients(source, target, start, count)
    expected_first, expected_taps = coefficients(source, target, start, count)
    assert (first.dtype, taps.dtype) == (np.int32, np.int32)
    assert np.array_equal(first, expected_first)
    assert np.array_equal(taps, expected_taps)


def test_compiled_coefficients_of_the_longest_strip():
    """1 x 89,478,485 pixels to a short side of 8192: the resized strip has 7e11 pixels."""
    source, target = pixels.MAX_PIXELS, pixels.MAX_SIDE * pixels.MAX_PIXELS
    for start in (0, target // 2, target - 7):
        for mine, theirs in zip(
            _native.coefficients(source, target, start, 7), coefficients(source, target, start, 7), strict=True
        ):
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("arguments", [(0, 1, 0, 1), (1, 0, 0, 1), (1, 1, -1, 1), (1, 1, 0, 0), (5, 5, 3, 3)])
def test_impossible_axes_are_refused(arguments):
    with pytest.raises(ValueError, match="outside"):
        _native.coefficients(*arguments)


# --- choosing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_environment_chooses_kernels(kernels, monkeypatch):
    asked = []
    original = _native.resize_crop_batch

    def watched(pictures, resize, out, threads, name):
        asked.append(name)
        original(pictures, resize, out, threads, name)

    monkeypatch.setattr(_native, "resize_crop_batch", watched)
    monkeypatch.setenv("ZSL_SIMD", kernels)
    picture, spec = noise(20, 30), PixelSpec(16, 12)
    assert np.array_equal(resize_crop(picture, spec), resize_crop_reference(picture, spec))
    monkeypatch.delenv("ZSL_SIMD")
    resize_crop(picture, spec)
    assert asked == [kernels, ""]


def test_unknown_kernels_are_refused(monkeypatch):
    monkeypatch.setenv("ZSL_SIMD", "sse9")
    with pytest.raises(UsageError, match="scalar") as caught:
        resize_crop(noise(4, 4), PixelSpec(4, 4))
    assert caught.value.code == "E-PIXELS-SIMD"
    with pytest.raises(ValueError, match="sse9"):
        by("sse9", noise(4, 4), PixelSpec(4, 4))
