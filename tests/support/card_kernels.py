"""A TensorRT that is none on a card that is one: the tiny bundle's model as a CUDA kernel of our own.

Everything but the engine is real here: memory, copies, streams, events, CUDA graphs, the search for best columns. So
the lanes that batches go through are tried on a card where no TensorRT can be had. What our code asks of the engine
goes through `fake_tensorrt`, which holds it against NVIDIA's documentation; the work is queued on the stream that it
names. The kernel is slow on purpose: it waits before it reads its inputs, and again before it reads what it left
between its layers, so that memory that is reused too early gives wrong answers.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from support.fake_tensorrt import VERSIONS, FakeTensorRt, make_plan
from support.tiny_bundle import COLOURS, FEATURE, SIDE, mixing_matrix
from zsl_runtime.graphs.ports import ports_of
from zsl_runtime.trt.cuda import Cuda
from zsl_runtime.trt.facts import Facts, Profile
from zsl_runtime.trt.library import Library
from zsl_runtime.trt.store import store

if TYPE_CHECKING:
    from pathlib import Path

    from support.fake_cuda import Work
    from zsl_runtime.bundle.bundle import Bundle

FLAVOUR = "tensorrt"
PROFILES = ((1, 1, 8), (1, 16, 64))
THREADS = 128
SOURCE = """
__constant__ float mix[12][12] = {%s};

__device__ void loiter(long long cycles) {
  const long long began = clock64();
  while (clock64() - began < cycles) {
  }
}

// One block a row. `given` is pictures of bytes (rows, 8, 8, 3) or regions of floats (rows, 4, 3); the rest as of the
// ports. `between` holds 12 colours of each row, as a network holds what is between its layers.
extern "C" __global__ void tiny_model(const void* given, const float* weight, const float* bias,
                                      const float* class_bias, float* scores, float* features, float* between,
                                      int pictures, int classes, int width) {
  __shared__ float x[24];
  __shared__ double part[%d];
  const int row = blockIdx.x, t = threadIdx.x;
  loiter(20000);
  if (t < 12) {
    float colour = 0;
    if (pictures) {
      const unsigned char* levels = static_cast<const unsigned char*>(given) + row * 192;
      const int quarter = t / 3;
      for (int i = 0; i < 16; ++i) {
        const int y = quarter / 2 * 4 + i / 4, column = quarter %% 2 * 4 + i %% 4;
        colour += levels[(y * 8 + column) * 3 + t %% 3] / 255.0f;
      }
      colour /= 16;
    } else {
      colour = static_cast<const float*>(given)[row * 12 + t];
    }
    between[row * 12 + t] = colour;
  }
  loiter(20000);
  __syncthreads();
  if (t < 12) {
    float sum = 0;
    for (int k = 0; k < 12; ++k) sum += between[row * 12 + k] * mix[k][t];
    features[row * 12 + t] = x[t] = sum;
    x[12 + t] = fmaxf(sum, 0);
  }
  __syncthreads();
  float* logits = scores + static_cast<long long>(row) * classes;
  float most = -INFINITY;
  for (int j = t; j < classes; j += blockDim.x) {
    float sum = 0;
    for (int k = 0; k < width; ++k) sum += x[k] * weight[static_cast<long long>(j) * width + k];
    logits[j] = sum + bias[j] + class_bias[j];
    most = fmaxf(most, logits[j]);
  }
  part[t] = most;
  __syncthreads();
  for (int i = 0; i < blockDim.x; ++i) most = fmaxf(most, static_cast<float>(part[i]));
  __syncthreads();
  double sum = 0;
  for (int j = t; j < classes; j += blockDim.x) sum += exp(static_cast<double>(logits[j]) - most);
  part[t] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < blockDim.x; ++i) sum += part[i];
  const double log_sum = log(sum);
  for (int j = t; j < classes; j += blockDim.x) logits[j] = static_cast<float>(logits[j] - most - log_sum);
}
"""


def compile_kernel(folder: Path, compute_capability: str) -> bytes:
    """Machine code for cards of a compute capability; the test is skipped where there is no nvcc."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc to compile the stand-in for an engine")
    matrix = ", ".join(f"{value.hex()}f" for value in mixing_matrix(0).ravel().astype(float).tolist())
    source, image = folder / "tiny_model.cu", folder / "tiny_model.cubin"
    source.write_text(SOURCE % (matrix, THREADS), encoding="utf-8")
    architecture = f"-arch=sm_{compute_capability.replace('.', '')}"
    subprocess.run([nvcc, "-cubin", architecture, "-o", str(image), str(source)], check=True)
    return image.read_bytes()


class CardQueue:
    """What `fake_tensorrt` queues its work with, where the card is real: streams are asked, the kernel is launched.

    Args:
        cuda: the card.
        image: the compiled kernel.

    Attributes:
        misuses: what NVIDIA's documentation forbids and was done all the same.

    """

    def __init__(self, cuda: Cuda, image: bytes) -> None:
        from cuda.bindings import driver

        self.lock = threading.RLock()
        self.misuses: list[str] = []
        self._cuda, self._driver = cuda, driver
        with cuda.current():
            cuda.call("cudaFree", 0, doing="make the card's context")
            self._module = self._call("cuModuleLoadData", image)
            self._kernel = self._call("cuModuleGetFunction", self._module, b"tiny_model")

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *given = getattr(self._driver, name)(*arguments)
        assert status == self._driver.CUresult.CUDA_SUCCESS, f"{name}: {status}"
        return given[0] if given else None

    def misuse(self, what: str) -> AssertionError:
        self.misuses.append(what)
        return AssertionError(what)

    def stream(self, handle: int) -> SimpleNamespace:
        """The stream, and whether it is captured: a list then, as of the stand-in for a card."""
        status = self._cuda.call("cudaStreamIsCapturing", handle, doing="ask whether a stream is captured")
        active = self._cuda.api.cudaStreamCaptureStatus.cudaStreamCaptureStatusActive
        return SimpleNamespace(handle=handle, recording=[] if status == active else None)

    def enqueue(self, stream: SimpleNamespace, work: Work) -> None:
        """Launch the kernel with the addresses of the work; a change of profile is nothing to the card."""
        work.check()
        if work.kind != "enqueue":
            return
        (given, size), (weight, weights), (bias, biases), (class_bias, _) = work.reads
        (scores, _), (features, found), (between, _) = work.writes
        rows, classes = found // (4 * FEATURE), biases // 4
        pictures = size == rows * SIDE * SIDE * 3
        assert pictures or size == rows * 4 * COLOURS
        places = (given, weight, bias, class_bias, scores, features, between)
        values = (*places, int(pictures), classes, weights // 4 // classes)
        types = (*[ctypes.c_void_p] * len(places), *[ctypes.c_int] * 3)
        grid, block = (rows, 1, 1), (THREADS, 1, 1)
        queue = self._driver.CUstream(stream.handle)
        self._call("cuLaunchKernel", self._kernel, *grid, *block, 0, queue, (values, types), 0)

    def close(self) -> None:
        with self._cuda.current():
            self._call("cuModuleUnload", self._module)


class CardKernels:
    """The stand-in for TensorRT on a card, as a library of our code.

    Args:
        folder: for the compiler.
        index: of the card.

    """

    def __init__(self, folder: Path, index: int = 0) -> None:
        self._cuda = Cuda(index)
        self.queue = CardQueue(self._cuda, compile_kernel(folder, self._cuda.compute_capability))
        self.trt = FakeTensorRt(self.queue)  # type: ignore[arg-type]
        self.library = Library(FLAVOUR, VERSIONS[FLAVOUR], self.trt)

    def add_engine(self, bundle: Bundle) -> Path:
        """Store an engine of a tiny bundle's model for this card."""
        name = bundle.precisions["fp32"]
        facts = Facts(
            graph_sha256=bundle.manifest["files"][name]["sha256"],
            part="model",
            flavour=FLAVOUR,
            version=VERSIONS[FLAVOUR],
            compute_capabilities=(self._cuda.compute_capability,),
            gpu=self._cuda.name,
            precision="fp32",
            profiles=tuple(Profile(*one) for one in PROFILES),
            max_classes=20_000,
        )
        return store(bundle.path, facts, make_plan(bundle.file(name), PROFILES), ports_of(bundle, "model"))

    def check(self) -> None:
        """Nothing was misused, and engines and contexts are gone."""
        assert self.queue.misuses == []
        assert not any(self.trt.alive.values()), self.trt.alive
