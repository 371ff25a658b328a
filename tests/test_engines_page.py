"""docs/engines.md: its Python runs and gives our numbers, its C++ compiles, its tables say what the files hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from support.tiny_bundle import class_table, draw_pictures
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import remove_classes
from zsl_runtime.graphs.ports import ports_of
from zsl_runtime.head.head import fold
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.trt.facts import Facts, Profile
from zsl_runtime.trt.store import store

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
# What the example uses of TensorRT and CUDA, as their headers declare it.
NVINFER = """
#pragma once
#include <cstddef>
#include <cstdint>
struct CUstream_st;
using cudaStream_t = CUstream_st*;
namespace nvinfer1 {
struct ILogger {
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, char const* msg) noexcept = 0;
    virtual ~ILogger() = default;
};
struct Dims64 { int32_t nbDims; int64_t d[8]; };
using Dims = Dims64;
struct Dims2 : Dims { Dims2(int64_t a, int64_t b) : Dims{2, {a, b}} {} };
struct Dims4 : Dims { Dims4(int64_t a, int64_t b, int64_t c, int64_t e) : Dims{4, {a, b, c, e}} {} };
struct IExecutionContext {
    virtual ~IExecutionContext() noexcept = default;
    bool setOptimizationProfileAsync(int32_t profileIndex, cudaStream_t stream) noexcept;
    bool setInputShape(char const* tensorName, Dims const& dims) noexcept;
    bool setTensorAddress(char const* tensorName, void* data) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;
};
struct ICudaEngine {
    virtual ~ICudaEngine() noexcept = default;
    IExecutionContext* createExecutionContext() noexcept;
};
struct IRuntime {
    virtual ~IRuntime() noexcept = default;
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept;
};
IRuntime* createInferRuntime(ILogger& logger) noexcept;
}
"""
CUDA = """
#pragma once
#include <cstddef>
struct CUstream_st;
using cudaStream_t = CUstream_st*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
cudaError_t cudaMalloc(void** devPtr, std::size_t size);
cudaError_t cudaMemcpy(void* dst, void const* src, std::size_t count, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* dst, void const* src, std::size_t count, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(params=[True, False])
def bundle(request, own_bundle) -> Bundle:
    """A bundle whose classes were changed on site; with two views, and with one."""
    path = own_bundle(lift=request.param)
    remove_classes(Bundle.open(path), ["tit"])
    return Bundle.open(path)


def test_the_script_writes_the_head_that_the_runtime_uses(bundle, tmp_path):
    script = tmp_path / "fold_head.py"
    script.write_text(blocks("python")[0], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", script, bundle.path, tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    generation = bundle.current()
    wanted = fold(generation.head, generation.table.seen)
    assert done.stdout.split() == [str(size) for size in wanted.weight.shape]
    for name, array in (("head_weight", wanted.weight), ("head_bias", wanted.bias), ("class_bias", wanted.class_bias)):
        found = np.fromfile(tmp_path / f"{name}.bin", np.float32).reshape(array.shape)
        np.testing.assert_allclose(found, array, rtol=1e-6, atol=1e-7)
    assert (tmp_path / "names.txt").read_text(encoding="utf-8").split("\n")[:-1] == list(generation.table.names)
    (bundle.path / "classes/000002.safetensors").write_bytes(b"something else")
    done = subprocess.run([sys.executable, "-I", script, bundle.path, tmp_path], capture_output=True, check=False)
    assert b"changed after it was written" in done.stderr


def test_a_frozen_graph_gives_the_scores_of_the_bundle(bundle, tmp_path):
    names: dict = {}
    exec(compile(blocks("python")[0] + blocks("python")[1], "engines.md", "exec"), names)
    head, _ = names["fold"](bundle.path)
    frozen = names["freeze"](onnx.load(bundle.path / "model.onnx"), head)
    session = onnxruntime.InferenceSession(frozen.SerializeToString(), providers=["CPUExecutionProvider"])
    pictures = draw_pictures(class_table(), np.arange(8), seed=2)
    assert [port.name for port in session.get_inputs()] == ["images"]
    with Classifier.open(bundle) as classifier:
        wanted, _ = classifier.score(pictures)
    np.testing.assert_allclose(session.run(["scores"], {"images": pictures})[0], wanted, atol=1e-5)


def test_the_cpp_compiles(tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    (tmp_path / "NvInfer.h").write_text(NVINFER)
    (tmp_path / "cuda_runtime_api.h").write_text(CUDA)
    (source,) = blocks("cpp")
    (tmp_path / "label.cpp").write_text(source, encoding="utf-8")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{tmp_path}"]
    done = subprocess.run([compiler, *flags, tmp_path / "label.cpp"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def rows_of(heading: str) -> list[str]:
    """First cells of the table behind a heading or sentence."""
    table = PAGE.split(heading, 1)[1].split("|---", 1)[1].split("\n\n", 1)[0]
    return [line.split("|")[1].strip() for line in table.splitlines()[1:]]


def test_the_tables_say_what_the_files_hold(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    profiles = (Profile(1, 1, 8), Profile(1, 64, 64))
    sha = bundle.manifest["files"]["model.onnx"]["sha256"]
    facts = Facts(sha, "model", "tensorrt", "11.4.0.106", ("8.9",), None, "fp32", profiles, 20000)
    plan = store(bundle.path, facts, b"plan", ports_of(bundle, "model"))
    said = json.loads(plan.with_suffix(".json").read_text())
    for cell in rows_of("The file beside a plan:"):
        for key in re.findall(r"`([\w.]+)`", cell):
            value = said
            for word in key.split("."):
                value = value[word]
    assert set(said["facts"]["profiles"][0]) == {"min_batch", "opt_batch", "max_batch"}
    ports = [port["name"] for port in (*said["inputs"], *said["outputs"])]
    cells = [cell.strip("`") for cell in rows_of("## Inputs and outputs of the plan")]
    assert [cell for cell in cells if cell != "backbone_features"] == ports
    current = json.loads((bundle.path / "classes/CURRENT").read_text())
    assert set(current) == {"generation", "sha256", "manifest_sha256"}
    data = (bundle.path / f"classes/{current['generation']:06d}.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    cells = [cell.strip("`") for cell in rows_of("## Reading a generation")]
    assert {re.sub(r"\d+", "K", name) for name in header} == set(cells)
    (row,) = re.findall(r"^\| `__metadata__` .*$", PAGE, re.MULTILINE)
    for key in re.findall(r"`(\w+)`", row):
        assert key in header or key in header["__metadata__"]


def test_the_page_is_linked():
    assert "docs/engines.md" in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
