"""Every name that the stand-ins answer to is in the real bindings, with as many arguments: they import without a card.

What our code calls, the stand-ins must have, or their tests fail; so what our code calls is there.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module

import pytest

from support import fake_cuda, fake_tensorrt
from support.fake_cuda import FakeCuda, FakeTopK
from zsl_runtime.trt.cuda import FATAL
from zsl_runtime.trt.topk import CudaTopK

FUNCTIONS = [name for name in dir(FakeCuda) if name.startswith("cuda") and inspect.isfunction(getattr(FakeCuda, name))]
CONSTANTS = ["cudaStreamNonBlocking", "cudaEventBlockingSync", "cudaEventDisableTiming"]
ENUMS = ["cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"]
SHARED = ["Runtime", "ICudaEngine", "IExecutionContext"]
TRT_ENUMS = ["DataType", "TensorIOMode", "ExecutionContextAllocationStrategy"]
RTX_ONLY = {"CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy"}
LIBRARIES = ["tensorrt_lean_bindings", "tensorrt_rtx_bindings"]


@pytest.fixture(scope="module")
def cudart():
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    return import_module("cuda.bindings.runtime")


@pytest.fixture(scope="module", params=LIBRARIES)
def trt(request):
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


def public(thing: object) -> list[str]:
    return [name for name in vars(thing) if not name.startswith("_")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_cuda_is_there_with_as_many_arguments(cudart, name):
    real = getattr(cudart, name)
    head = (inspect.getdoc(real) or "").splitlines()[0]
    (given,) = re.fullmatch(rf"{name}\((.*)\)", head).groups()  # how Cython tells a signature
    wanted = [text for text in given.split(",") if text.strip()]
    assert len(wanted) == len(inspect.signature(getattr(FakeCuda, name)).parameters) - 1


def test_the_constants_and_errors_of_cuda_have_their_values(cudart):
    for name in CONSTANTS:
        assert int(getattr(cudart, name)) == getattr(FakeCuda, name)
    for enum in ENUMS:
        for member in getattr(fake_cuda, enum):
            assert int(getattr(getattr(cudart, enum), member.name)) == member.value
    assert set(cudart.cudaError_t.__members__) >= FATAL


def test_without_a_card_the_real_bindings_say_so_in_their_way(cudart):
    """What `Cuda` builds on: a status and nothing, or an error of the bindings where there is no driver at all."""
    try:
        status, count = cudart.cudaGetDeviceCount()
    except Exception as error:
        pytest.skip(f"no driver can be loaded: {error}")
    assert status == cudart.cudaError_t.cudaSuccess or count is None


@pytest.mark.parametrize("name", SHARED)
def test_the_names_of_tensorrt_are_there(trt, name):
    real = getattr(trt, name)
    for member in public(getattr(fake_tensorrt, name)):
        assert hasattr(real, member), f"{trt.__name__}.{name} has no {member}"
        fake, doc = getattr(getattr(fake_tensorrt, name), member), inspect.getdoc(getattr(real, member)) or ""
        signatures = re.findall(rf"{member}\(self: [^)]*?\)(?= ->)", doc)
        if inspect.isfunction(fake) and signatures:
            counts = {text.count(": ") for text in signatures}  # `self` is one of them, as it is in ours
            assert len(inspect.signature(fake).parameters) in counts, signatures


@pytest.mark.parametrize("name", TRT_ENUMS)
def test_the_enumerations_of_tensorrt_have_our_members(trt, name):
    for member in getattr(fake_tensorrt, name):
        assert getattr(getattr(trt, name), member.name).name == member.name


def test_the_logger_is_a_class_to_derive_from_with_its_severities(trt):
    for member in fake_tensorrt.Severity:
        assert hasattr(trt.ILogger.Severity, member.name)


def test_what_only_one_library_has_is_there_and_not_in_the_other(trt):
    for name in RTX_ONLY:
        assert hasattr(trt, name) is (trt.__name__ == "tensorrt_rtx_bindings")
        if hasattr(trt, name):
            assert {one.name for one in getattr(fake_tensorrt, name)} <= set(getattr(trt, name).__members__)
    if trt.__name__ == "tensorrt_rtx_bindings":
        for member in (*public(fake_tensorrt.IRuntimeConfig), "set_execution_context_allocation_strategy"):
            assert member == "strategy" or hasattr(trt.IRuntimeConfig, member)


def test_a_runtime_of_the_real_library_takes_our_settings(trt):
    """Without a card a runtime cannot be made; the attribute that we set is one that can be set."""
    assert isinstance(inspect.getattr_static(trt.Runtime, "engine_host_code_allowed"), property)


def test_the_search_on_the_card_takes_what_its_stand_in_takes():
    for name in ("scratch_bytes", "launch"):
        assert list(inspect.signature(getattr(CudaTopK, name)).parameters) == list(
            inspect.signature(getattr(FakeTopK, name)).parameters
        )
