"""The modules that hold exactly what runs outside torch, each with its contract (`zsl_runtime.graphs.ports.contract`).

A `Graph` is a module with its named inputs and outputs. The same `Port`s give the exporter its example and its
dynamic axes, and give the checker what the written file must look like, so the two cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from zsl_runtime.graphs.parts import EXPLAIN
from zsl_runtime.graphs.ports import Port, contract

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zsl_train.backbones.base import Backbone
    from zsl_train.data.given import GivenFeatures
    from zsl_train.methods.base import Trained

# Sizes of the dynamic axes while tracing. Not 1: torch.export has specialised axes of size 1 (pytorch#157621).
EXAMPLE_SIZES = {"N": 2, "C": 3, "M": 2}


@dataclass(frozen=True)
class Graph:
    """A module and the contract of the ONNX file made from it.

    Attributes:
        module: takes the inputs in order and returns the outputs in order (one tensor, or a tuple of them).
        inputs: its inputs; the names are also the names of the arguments of `module.forward`.
        outputs: its outputs.

    """

    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def example(self) -> dict[str, torch.Tensor]:
        """Seeded example inputs; the keys are the input names."""
        generator = torch.Generator().manual_seed(0)
        return {port.name: example(port, generator) for port in self.inputs}


def example(port: Port, generator: torch.Generator) -> torch.Tensor:
    """A tensor for a port, its free axes at `EXAMPLE_SIZES`: random bytes, or standard normal numbers."""
    shape = [axis if isinstance(axis, int) else EXAMPLE_SIZES[str(axis)] for axis in port.shape]
    if port.dtype == "uint8":
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.randn(shape, generator=generator)


class ModelGraph(nn.Module):
    """Pictures and a folded head to scores and features: `model.onnx` of a model of pictures."""

    def __init__(self, backbone: nn.Module, embedder: nn.Module, lift: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedder = embedder
        self.lift = nn.Identity() if lift is None else lift

    def forward(
        self, images: torch.Tensor, head_weight: torch.Tensor, head_bias: torch.Tensor, class_bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and features of pictures.

        Args:
            images: (N, P, P, 3) uint8.
            head_weight: (C, D) float32, folded.
            head_bias: (C,) float32, folded.
            class_bias: (C,) float32; -inf leaves a class out.

        Returns:
            scores (N, C) float32 log-probabilities, features (N, F) float32.

        """
        return self.scored(self.backbone(images), head_weight, head_bias + class_bias)

    def scored(
        self, regions: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (N, C) and features (N, F) of region features (N, R, V) under a head (C, D), (C,)."""
        features = self.embedder(regions)
        # One bias, added up before, leaves one Gemm for the head.
        logits = nn.functional.linear(self.lift(features), weight, bias)
        # In float32 whatever the rest runs in: half precision cannot hold the log-probability of an unlikely class.
        return torch.log_softmax(logits, dim=1, dtype=torch.float32), features


class FeatureModelGraph(ModelGraph):
    """Given features and a folded head to scores and features: `model.onnx` of a model trained on a feature file."""

    def forward(  # the names of the arguments are those of the graph's inputs
        self,
        backbone_features: torch.Tensor,
        head_weight: torch.Tensor,
        head_bias: torch.Tensor,
        class_bias: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of a model of pictures, with rows (N, R, V) float32 in their place."""
        return self.scored(self.backbone(backbone_features), head_weight, head_bias + class_bias)


class ExplainGraph(nn.Module):
    """Pictures to where each attribute is looked for: `explain.onnx` of a model of pictures with attention."""

    def __init__(self, backbone: nn.Module, embedder: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedder = embedder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, P, P, 3) uint8 to (N, A, R) float32."""
        maps: torch.Tensor = self.embedder.attend(self.backbone(images))  # type: ignore[operator]
        return maps


class SynthesizerGraph(nn.Module):
    """Semantic vectors and noise to synthetic features: `synthesizer.onnx`. The caller draws the noise."""

    def __init__(self, synthesizer: nn.Module) -> None:
        super().__init__()
        self.synthesizer = synthesizer

    def forward(self, semantic: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """(M, A) and (M, Z) float32 to (M, F) float32."""
        features: torch.Tensor = self.synthesizer(semantic, noise)
        return features


class RowsGraph(nn.Module):
    """Semantic vectors to the rows of a head: `rows.onnx`."""

    def __init__(self, rows: nn.Module) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, semantic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(M, A) float32 to weights (M, D) and biases (M,) float32."""
        weight, bias = self.rows(semantic)
        return weight, bias


class MeansGraph(nn.Module):
    """Semantic vectors to class means in canonical coordinates: `means.onnx`."""

    def __init__(self, means: nn.Module) -> None:
        super().__init__()
        self.means = means

    def forward(self, semantic: torch.Tensor) -> torch.Tensor:
        """(M, A) float32 to (M, D) float32."""
        means: torch.Tensor = self.means(semantic)
        return means


class LiftGraph(nn.Module):
    """Features to the views a head looks at: `lift.onnx`."""

    def __init__(self, lift: nn.Module) -> None:
        super().__init__()
        self.lift = lift

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(M, F) float32 to (M, D) float32."""
        lifted: torch.Tensor = self.lift(features)
        return lifted


def input_port(backbone: Backbone | GivenFeatures) -> Port:
    """What the model takes: pictures, or rows of features like those of the file it was trained on."""
    if backbone.pixels is None:
        return Port("backbone_features", "float32", ("N", backbone.regions, backbone.channels))
    side = backbone.pixels.crop
    return Port("images", "uint8", ("N", side, side, 3))


def model_graph(backbone: Backbone | GivenFeatures, trained: Trained) -> Graph:
    """The graph behind `model.onnx`, in eval mode."""
    kind = ModelGraph if backbone.pixels is not None else FeatureModelGraph
    module = kind(backbone, trained.embedder, trained.lift).eval()
    return Graph(module, *contract("model", _dims(trained), input_port(backbone)))


def explain_graph(backbone: Backbone | GivenFeatures, trained: Trained, attributes: int, regions: int) -> Graph | None:
    """The graph behind `explain.onnx`, in eval mode: A attributes over R regions. None for models without attention.

    None, too, where there are no pictures, or no regions to tell apart: then there is nothing to see.
    """
    if backbone.pixels is None or regions < 2 or not hasattr(trained.embedder, "attend"):
        return None
    module = ExplainGraph(backbone, trained.embedder).eval()
    dims = _dims(trained, attributes) | {"R": regions}
    return Graph(module, *contract(EXPLAIN, dims, input_port(backbone)))


def synthesizer_graph(trained: Trained, attributes: int) -> Graph | None:
    """The graph behind `synthesizer.onnx`, in eval mode; `attributes` is A. None but for the head rule `fit`."""
    return _small_graph("synthesizer", SynthesizerGraph, trained.synthesizer, _dims(trained, attributes))


def rows_graph(trained: Trained, attributes: int) -> Graph | None:
    """The graph behind `rows.onnx`, in eval mode; `attributes` is A. None but for the head rule `rows`."""
    return _small_graph("rows", RowsGraph, trained.rows, _dims(trained, attributes))


def means_graph(trained: Trained, attributes: int) -> Graph | None:
    """The graph behind `means.onnx`, in eval mode; `attributes` is A. None but for the head rule `gaussian`."""
    return _small_graph("means", MeansGraph, trained.means, _dims(trained, attributes))


def lift_graph(trained: Trained) -> Graph | None:
    """The graph behind `lift.onnx`, in eval mode; None when the head looks at the features themselves."""
    return _small_graph("lift", LiftGraph, trained.lift, _dims(trained))


def _small_graph(
    part: str, kind: Callable[[nn.Module], nn.Module], module: nn.Module | None, dims: Mapping[str, int]
) -> Graph | None:
    if module is None:
        return None
    return Graph(kind(module).eval(), *contract(part, dims))


def _dims(trained: Trained, attributes: int = 0) -> dict[str, int]:
    return {"F": trained.feature_width, "D": trained.lifted_width, "A": attributes, "Z": trained.noise_width}
