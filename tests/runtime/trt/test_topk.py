"""The card's search for best columns gives the CPU's answer: on a card, else through a driver that is none.

As in test_cuda_pixels.py: the same device functions run on the CPU, last thread first.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from support.fake_driver import run_with
from zsl_runtime import _native
from zsl_runtime.errors import BackendError, UsageError
from zsl_runtime.head.head import best_columns
from zsl_runtime.machine.native import has_kernels
from zsl_runtime.trt.topk import CudaTopK


def log_probabilities(rows: int, columns: int, seed: int) -> np.ndarray:
    """With ties, zeros of both signs and -inf, as class filters give."""
    rng = np.random.default_rng(seed)
    scores = -np.abs(rng.standard_normal((rows, columns))).astype(np.float32)
    scores = np.where(rng.random(scores.shape) < 0.3, np.round(scores), scores).astype(np.float32)  # many ties
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    scores[:, rng.integers(0, columns, 2)] = [0.0, -0.0]
    return scores


# --- on a card ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_card() -> CudaTopK:
    try:
        return CudaTopK()
    except BackendError as error:
        if re.search(r"E-CUDA-KERNELS|no NVIDIA driver|start the NVIDIA|find the card", str(error)):
            pytest.skip(str(error))
        raise


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("rows", "columns", "count"), [(1, 1, 1), (1, 20_000, 5), (256, 200, 5), (64, 20_000, 64), (70_000, 17, 3)]
)
def test_a_card_gives_the_cpu_s_best_columns(on_card, rows, columns, count):
    scores = log_probabilities(rows, columns, columns)
    found, values = on_card.best(scores, count)
    expected = best_columns(scores, count)
    assert np.array_equal(found, expected)
    assert np.array_equal(values, np.take_along_axis(scores, expected, axis=1))


# --- with a driver that is none -------------------------------------------------------------------------------------

PROGRAM = """
import ctypes, sys
import numpy as np
from zsl_runtime.trt.topk import CudaTopK
from zsl_runtime.errors import ZslError
from zsl_runtime.head.head import best_columns

held = ctypes.CDLL("libcuda.so.1").fake_cuda_held
rng = np.random.default_rng(7)
try:
    card = CudaTopK()
    for rows, columns in [(1, 1), (3, 2), (5, 15), (2, 16), (2, 17), (4, 200), (1, 2048), (1, 2049), (2, 5000)]:
        scores = -np.abs(rng.standard_normal((rows, columns))).astype(np.float32)
        scores = np.where(rng.random(scores.shape) < 0.4, np.round(scores), scores).astype(np.float32)
        scores[rng.random(scores.shape) < 0.1] = -np.inf
        for count in sorted({1, min(2, columns), min(7, columns), min(64, columns)}):
            expected = best_columns(scores, count)
            found, values = card.best(scores, count)
            assert np.array_equal(found, expected), (rows, columns, count)
            assert np.array_equal(values, np.take_along_axis(scores, expected, axis=1))
    # addresses, as TensorRT's backend gives them; here the card's memory is the host's
    scores = rng.standard_normal((6, 40)).astype(np.float32)
    scratch = np.empty(card.scratch_bytes(6, 40, 4), np.uint8)
    found, values = np.full((7, 4), -7, np.int32), np.full((7, 4), -7, np.float32)
    at = [array.ctypes.data for array in (scores, scratch, found, values)]
    card.launch(at[0], 6, 40, 4, at[1], at[2], at[3], 0)
    assert np.array_equal(found[:6], best_columns(scores, 4))
    assert (found[6] == -7).all() and (values[6] == -7).all()
    # what is not a number comes last, and everything has a place
    scores = np.array([[np.nan, 1, -np.inf, np.nan, 2, 0.0, -0.0]], np.float32)
    assert card.best(scores, 7)[0].tolist() == [[4, 1, 5, 6, 2, 0, 3]]
    many = np.zeros((66_000, 3), np.float32)
    many[np.arange(66_000), np.arange(66_000) % 3] = 1
    assert np.array_equal(card.best(many, 1)[0][:, 0], np.arange(66_000) % 3)
    assert held() == 2  # the context and the module
    print("equal")
except ZslError as error:
    print(error)
card = None
print("held", held())
"""


def test_the_device_functions_and_launches_give_the_cpu_s_best_columns(driver_folder):
    assert run_with(driver_folder, PROGRAM) == ["equal", "held 0"]


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ("cuInit", "no CUDA-capable device"),
        ("cuModuleLoadData", "load the kernels"),
        ("cuMemAllocAsync", "reserve memory"),
        ("cuLaunchKernel", "start the search"),
    ],
)
def test_a_driver_that_fails_is_told_and_nothing_is_kept(driver_folder, failing, said):
    line, held = run_with(driver_folder, PROGRAM, failing)
    assert line.startswith("E-CUDA: could not ")
    assert said in line
    assert held == "held 0"


# --- without a card -------------------------------------------------------------------------------------------------


def test_without_kernels_or_driver_the_error_says_so(monkeypatch):
    monkeypatch.setattr(_native, "has_cuda_kernels", lambda: False)
    assert not has_kernels()
    with pytest.raises(BackendError, match="built without nvcc") as caught:
        CudaTopK()
    assert (caught.value.code, caught.value.exit_code) == ("E-CUDA-KERNELS", 4)


@pytest.mark.parametrize(("rows", "columns", "count"), [(0, 4, 1), (2, 4, 0), (2, 4, 5), (2, 0, 0)])
def test_impossible_counts_are_refused_before_the_card_sees_them(rows, columns, count):
    made = object.__new__(CudaTopK)
    made._error = _native.CudaError
    with pytest.raises(UsageError, match="E-TOPK"):
        made.best(np.zeros((rows, columns), np.float32), count)
    with pytest.raises(UsageError, match="E-TOPK"):
        made.launch(256, rows, columns, count, 256, 256, 256, 0)
