"""Who runs a model on a CPU: ours in each precision, the libraries alone on the same files, and torch.

ResNet-101 at 224 px and EfficientNet-Lite2 at 260 px, batches of 8, 200 classes, all CPUs. `ours` are the backends
`ort` and `openvino`. `plain` is the same file with the library's own defaults; but OpenVINO's default is bf16 where the
CPU has it, so its precision is given. `torch` is eager and compiled. ResNet-101 has random weights, with BatchNorm's
statistics measured on the pictures: its features are alive.

The int8 file is made here, from 32 smooth random pictures: good for its speed only, and checked only against the same
file without any rewriting. What int8 costs in accuracy is measured by the export, on real models.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import nn

from support.random_resnet import random_resnet101
from support.smooth_pictures import draw_smooth
from zsl_export.graphs import Graph, ModelGraph, input_port
from zsl_export.to_onnx import export_graph, quiet
from zsl_runtime.backends.opening import open_graphs
from zsl_runtime.backends.openvino import import_openvino
from zsl_runtime.errors import BackendError
from zsl_runtime.graphs.ports import contract
from zsl_runtime.head.head import FoldedHead
from zsl_runtime.machine.processor import processor
from zsl_runtime.machine.threads import usable_cpus
from zsl_train.backbones import EfficientNetLite2, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BATCH, CLASSES = 8, 200
CALIBRATION = 32  # pictures
SIDES = {"resnet101": 224, "efficientnet_lite2": EfficientNetLite2.sizes[0]}
# Of a row of features, in root mean square lengths of the rows, by what is computed in.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "int8": 0.15}
SCORE_TOLERANCE = {"fp32": 1e-3, "bf16": 0.2, "int8": 0.2}
PAUSE = 0.1  # seconds before each call: threads of ONNX Runtime's and torch's defaults spin on for some 50 ms

OURS = tuple(f"ours {backend} {precision}" for backend in ("ort", "openvino") for precision in ("fp32", "bf16", "int8"))
PLAIN = tuple(name.replace("ours", "plain") for name in OURS)
CONTENDERS = tuple(name for name in ("torch eager", "torch compile", *PLAIN, *OURS) if "ort bf16" not in name)
Answer = tuple[np.ndarray, np.ndarray]  # scores (N, C), features (N, F)


class NotHereError(Exception):
    """A contender cannot be run on this machine; the message says why."""


class Network(NamedTuple):
    """A model as an export writes it, and what torch says about one batch.

    Attributes:
        graph: the module.
        files: precision -> ONNX file; bf16 runs from that of fp32.
        pictures: (8, P, P, 3) uint8.
        head: of 200 classes.
        features: precision -> (8, F) float32: by torch, and for int8 by the file as it was written.

    """

    graph: nn.Module
    files: dict[str, Path]
    pictures: np.ndarray
    head: FoldedHead
    features: dict[str, np.ndarray]

    def feeds(self) -> dict[str, np.ndarray]:
        """All inputs of the graph by name."""
        head = {"head_weight": self.head.weight, "head_bias": self.head.bias, "class_bias": self.head.class_bias}
        return {"images": self.pictures, **head}


class MeanPool(nn.Module):
    """Region features (N, R, V) -> (N, V)."""

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        return regions.mean(dim=1)


def quantise(source: Path, target: Path, network: Network, pictures: np.ndarray) -> None:
    """Static QDQ: uint8 activations, symmetric int8 weights per channel, of what convolutions and additions read.

    Not of what they write: a pair between a convolution and its activation keeps OpenVINO from fusing either.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = iter([{**network.feeds(), "images": part} for part in np.split(pictures, len(pictures) // BATCH)])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    prepared = target.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv", "Add"],
        extra_options={"OpTypesToExcludeOutputQuantization": ["Conv", "Add"]},
    )
    prepared.unlink()


def make_network(name: str, folder: Path) -> Network:
    """Export one of SIDES to `folder`, in fp32 and in int8."""
    pictures = draw_smooth(CALIBRATION, SIDES[name])
    backbone = random_resnet101(pictures[:BATCH]) if name == "resnet101" else build(name)
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((CLASSES, backbone.channels)).astype(np.float32) / 10
    head = FoldedHead(weight, np.zeros(CLASSES, np.float32), np.zeros(CLASSES, np.float32))
    graph = Graph(
        ModelGraph(backbone, MeanPool(), None).eval(),
        *contract("model", {"F": backbone.channels, "D": backbone.channels, "A": 0, "Z": 0}, input_port(backbone)),
    )
    files = {"fp32": folder / "model.onnx", "int8": folder / "model.int8-cpu.onnx"}
    files["bf16"] = files["fp32"]
    export_graph(graph, files["fp32"], {})
    with torch.inference_mode():
        features = graph.module.embedder(backbone(torch.from_numpy(pictures[:BATCH]))).numpy()
    found = Network(graph.module, files, pictures[:BATCH], head, {"fp32": features, "bf16": features})
    with quiet():
        quantise(files["fp32"], files["int8"], found, pictures)
    rough = open_graphs("reference", {"model": files["int8"]}, usable_cpus(), "int8")
    found.features["int8"] = rough.features(found.pictures)
    rough.close()
    return found


def precision_of(contender: str) -> str:
    """What a contender computes in."""
    return "fp32" if contender.startswith("torch") else contender.rpartition(" ")[2]


@contextmanager
def opened(network: Network, contender: str) -> Iterator[Callable[[], Answer]]:
    """A call that labels the batch, and nothing of it in memory afterwards; NotHereError when it cannot be run."""
    kind, library, *_ = contender.split()
    precision = precision_of(contender)
    if kind == "ours":
        try:
            backend = open_graphs(library, {"model": network.files[precision]}, usable_cpus(), precision)
        except BackendError as error:  # not installed, or not on this CPU
            raise NotHereError(str(error)) from None
        yield lambda: backend.run(network.pictures, network.head)
        backend.close()
    elif kind == "torch":
        yield torch_call(network, compiled=library == "compile")
    elif library == "ort":
        session = onnxruntime.InferenceSession(str(network.files[precision]))
        yield lambda: tuple(session.run(["scores", "features"], network.feeds()))
    else:
        yield openvino_call(network, precision)


def openvino_call(network: Network, precision: str) -> Callable[[], Answer]:
    """The library alone, in a precision: left to itself it takes bf16 where the CPU has it, whatever is asked for."""
    if precision == "bf16" and not processor().bf16:
        raise NotHereError("this CPU has no bf16 instructions")
    try:
        openvino = import_openvino()
    except BackendError as error:
        raise NotHereError(str(error)) from None
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    compiled = openvino.Core().compile_model(str(network.files[precision]), "CPU", hint)

    def infer() -> Answer:
        found = compiled(network.feeds())
        return found["scores"], found["features"]

    return infer


def torch_call(network: Network, *, compiled: bool) -> Callable[[], Answer]:
    """The module behind the graph, eager or compiled, on as many threads as the others have."""
    if compiled and not (shutil.which("g++") or shutil.which("clang++")):
        raise NotHereError("torch.compile needs a C++ compiler")
    torch.set_num_threads(usable_cpus())
    inputs = [torch.from_numpy(array) for array in network.feeds().values()]
    module = torch.compile(network.graph) if compiled else network.graph

    def call() -> Answer:
        with torch.inference_mode():
            scores, features = module(*inputs)
        return scores.numpy(), features.numpy()

    return call


def check(network: Network, contender: str, answer: Answer) -> None:
    """AssertionError unless an answer is right, and the pictures can be told apart."""
    scores, features = answer
    precision = precision_of(contender)
    expected = network.features[precision]
    off = np.linalg.norm(features - expected, axis=1).max()
    assert off <= TOLERANCE[precision] * np.sqrt((expected**2).sum(axis=1).mean()), f"{contender}: off by {off}"
    assert np.std(expected, axis=0).max() > 0.01 * np.abs(expected).max(), "pictures do not differ"
    np.testing.assert_allclose(scores, network.head.scores(features), atol=SCORE_TOLERANCE[precision])
