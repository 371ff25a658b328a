"""How many pictures a second does the network alone take, on ready arrays, against what else one would run it with?

ResNet-101 at 224 px and EfficientNet-Lite2 at 260 px, batches of 8, 200 classes, all CPUs. Ours are the backends `ort`
and `openvino` in each precision; `torch` is eager and compiled, `plain` is the same file with the library's own
defaults. ResNet-101 has random weights, with BatchNorm's statistics measured on the pictures: its features are alive.

The int8 file is made here, from 32 smooth random pictures: good for its speed only, and checked only against the same
file without any rewriting. What int8 costs in accuracy is measured by the export, on real models.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnxruntime
import pytest
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
from zsl_runtime.machine.threads import usable_cpus
from zsl_train.backbones import EfficientNetLite2, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BATCH, CLASSES = 8, 200
CALIBRATION = 32  # pictures
# Of a row of features, in root mean square lengths of the rows, by what is computed in.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "int8": 0.15}

OURS = [(backend, precision) for backend in ("ort", "openvino") for precision in ("fp32", "bf16", "int8")]
OURS.remove(("ort", "bf16"))
CONTENDERS = [
    *(f"ours {backend} {precision}" for backend, precision in OURS),
    "torch eager",
    "torch compile",
    *(f"plain {library} {precision}" for library in ("ort", "openvino") for precision in ("fp32", "int8")),
]
Answer = tuple[np.ndarray, np.ndarray]  # scores (N, C), features (N, F)


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


@pytest.fixture(scope="module", params=["resnet101", "efficientnet_lite2"])
def network(request, tmp_path_factory) -> Network:
    side = {"resnet101": 224, "efficientnet_lite2": EfficientNetLite2.sizes[0]}[request.param]
    pictures = draw_smooth(CALIBRATION, side)
    backbone = random_resnet101(pictures[:BATCH]) if request.param == "resnet101" else build(request.param)
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((CLASSES, backbone.channels)).astype(np.float32) / 10
    head = FoldedHead(weight, np.zeros(CLASSES, np.float32), np.zeros(CLASSES, np.float32))
    graph = Graph(
        ModelGraph(backbone, MeanPool(), None).eval(),
        *contract("model", {"F": backbone.channels, "D": backbone.channels, "A": 0, "Z": 0}, input_port(backbone)),
    )
    folder = tmp_path_factory.mktemp(request.param)
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
    return found


@contextmanager
def opened(network: Network, contender: str) -> Iterator[Callable[[], Answer]]:
    """A call that labels the batch, and nothing of it in memory afterwards."""
    kind, library, *rest = contender.split()
    if kind == "ours":
        try:
            backend = open_graphs(library, {"model": network.files[rest[0]]}, usable_cpus(), rest[0])
        except BackendError as error:  # not installed, or not on this CPU
            pytest.skip(str(error))
        yield lambda: backend.run(network.pictures, network.head)
        backend.close()
    elif kind == "torch":
        yield torch_call(network, compiled=library == "compile")
    elif library == "ort":
        session = onnxruntime.InferenceSession(str(network.files[rest[0]]))
        yield lambda: tuple(session.run(["scores", "features"], network.feeds()))
    else:
        try:
            compiled = import_openvino().Core().compile_model(str(network.files[rest[0]]), "CPU")
        except BackendError as error:
            pytest.skip(str(error))

        def infer() -> Answer:
            found = compiled(network.feeds())
            return found["scores"], found["features"]

        yield infer


def torch_call(network: Network, *, compiled: bool) -> Callable[[], Answer]:
    """The module behind the graph, eager or compiled, on as many threads as the others have."""
    if compiled and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler")
    torch.set_num_threads(usable_cpus())
    inputs = [torch.from_numpy(array) for array in network.feeds().values()]
    module = torch.compile(network.graph) if compiled else network.graph

    def call() -> Answer:
        with torch.inference_mode():
            scores, features = module(*inputs)
        return scores.numpy(), features.numpy()

    return call


# The compiler of torch uses what torch itself deprecates.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("contender", CONTENDERS)
def bench_engine(measure, network, contender):
    with opened(network, contender) as call:
        scores, features = call()
        precision = contender.split()[-1] if not contender.startswith("torch") else "fp32"
        expected = network.features[precision]
        # Plain OpenVINO computes in bf16 by itself where the CPU has it.
        allowed = TOLERANCE["bf16" if contender == "plain openvino fp32" else precision]
        off = np.linalg.norm(features - expected, axis=1).max()
        assert off <= allowed * np.sqrt((expected**2).sum(axis=1).mean())
        assert np.std(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # pictures differ
        np.testing.assert_allclose(
            scores, network.head.scores(features), atol=1e-3 if allowed == TOLERANCE["fp32"] else 0.2
        )
        measure(call, things=BATCH, unit="pictures")
