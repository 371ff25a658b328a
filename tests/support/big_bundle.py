"""A bundle of the sizes that users have, made without training: graphs of random weights, a head of nearest means.

Its labels mean nothing, but everything has the shape and the cost of a real one: a synthesizer with a hidden layer, a
lift that widens, a Replay, and a head that takes most features for the class that they were made for. By the rule
`gaussian`: a kernel regression from attributes to means, a linear lift, and statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from support.tiny_bundle import OPSET
from zsl_runtime.bundle.generation import Generation, Probe
from zsl_runtime.bundle.manifest import PARTS
from zsl_runtime.bundle.writing import write_bundle
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.fitting import Replay
from zsl_runtime.head.gaussian import ClassMeans, Gaussian, gaussian_head
from zsl_runtime.head.head import FitSettings, Head, View, fold
from zsl_runtime.head.semantic_rule import SemanticRule

if TYPE_CHECKING:
    from pathlib import Path

LENGTH = 1.5  # of a row of weights without what is left of its first, random ones; as in heads that were fitted
LEFT = 0.02  # standard deviation of those
SPREAD = 0.3  # of the synthesizer's noise against its means


@dataclass(frozen=True)
class Sizes:
    """How large the model is; the defaults are those of 2048-d features and a lift 4096 wide."""

    seen: int = 150
    unseen: int = 50
    replay: int = 100  # rows of each seen class
    features: int = 2048
    lift: int = 4096  # columns beside the features; 0 for a bundle without a lift
    hidden: int = 4096
    attributes: int = 312
    noise: int = 312
    synthetic: int = 300

    @property
    def width(self) -> int:
        """D."""
        return self.features + self.lift


class Networks:
    """The weights of the graphs, and what the graphs compute, in NumPy."""

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)

        def matrix(rows: int, columns: int) -> np.ndarray:
            return rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(np.sqrt(rows))

        # Semantic vectors have length 1, noise has length sqrt(Z).
        self.semantic = np.float32(np.sqrt(sizes.attributes)) * matrix(sizes.attributes, sizes.hidden)
        self.noise = np.float32(SPREAD) * matrix(sizes.noise, sizes.hidden)
        self.out = matrix(sizes.hidden, sizes.features)
        self.lifting = matrix(sizes.features, sizes.lift) if sizes.lift else None

    def synthesize(self, semantic: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """(M, A), (M, Z) -> (M, F)."""
        return np.maximum(np.maximum(semantic @ self.semantic + noise @ self.noise, 0) @ self.out, 0)

    def lift(self, features: np.ndarray) -> np.ndarray:
        """(M, F) -> (M, D)."""
        if self.lifting is None:
            return features
        return np.concatenate([features, np.maximum(features @ self.lifting, 0)], axis=1)


def random_table(sizes: Sizes, seed: int = 1, prefix: str = "class") -> ClassTable:
    """Classes with a random third of the attributes each."""
    rng = np.random.default_rng(seed)
    count = sizes.seen + sizes.unseen
    raw = rng.uniform(0.2, 1.0, (count, sizes.attributes)) * (rng.random((count, sizes.attributes)) < 1 / 3)
    raw[:, 0] += 0.1
    names = tuple(f"{prefix} {j}" for j in range(count))
    return ClassTable(names, np.arange(count) < sizes.seen, raw, tuple(f"a{k}" for k in range(sizes.attributes)))


def make_big_bundle(dest: Path, sizes: Sizes) -> Path:
    """Write the bundle; returns its folder."""
    table, networks, rule = random_table(sizes), Networks(sizes), SemanticRule()
    semantic = rule.apply(table.raw)
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(sizes.seen, dtype=np.int32), sizes.replay)
    noise = rng.standard_normal((len(labels), sizes.noise), dtype=np.float32)
    replay = Replay(networks.synthesize(semantic[labels], noise).astype(np.float16), labels, table.names[: sizes.seen])
    means = networks.lift(networks.synthesize(semantic, np.zeros((len(table), sizes.noise), dtype=np.float32)))
    view = View("lifted", 0, sizes.width, 1.0, FitSettings(batch_size=sizes.synthetic))
    generation = Generation(1, 0, table, nearest_mean(means, view), 0, "export")
    inputs = replay.features[:: max(1, len(labels) // 4)][:4].astype(np.float32)
    scores = fold(generation.head, table.seen).scores(networks.lift(inputs))
    probe = Probe(None, inputs[:, None], inputs, scores, scores.argmax(axis=1).astype(np.int64))
    files = {
        "model.onnx": _model(sizes, networks),
        "synthesizer.onnx": _synthesizer(sizes, networks),
        "replay.safetensors": replay.to_bytes(),
        "probe.safetensors": probe.to_bytes(),
        "parity.json": b'{"passed": true}\n',
    }
    if sizes.lift:
        files["lift.onnx"] = _lift(sizes, networks)
    manifest = {
        "method": "random",
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"zsl-deploy": "0.1.0"},
        "backbone": {"name": "features", "file": "random.mat"},
        "pixels": None,
        "input": {"name": "backbone_features", "dtype": "float32", "shape": ["N", 1, sizes.features]},
        "graphs": {part: name if (name := f"{part}.onnx") in files else None for part in PARTS["fit"]},
        "dims": {"F": sizes.features, "D": sizes.width, "A": sizes.attributes, "Z": sizes.noise},
        "attributes": list(table.attributes),
        "semantic_rule": rule.to_dict(),
        "head": {
            "rule": "fit",
            "views": [view.to_dict()],
            "synthetic_per_class": sizes.synthetic,
            "seed": 0,
        },
        "recipe": {},
        "scores": {},
    }
    return write_bundle(dest, manifest=manifest, files=files, generation=generation)


def make_gaussian_bundle(
    dest: Path, *, seen: int = 150, unseen: int = 50, features: int = 2048, width: int = 256
) -> Path:
    """Write a bundle of the rule `gaussian`, 312 attributes; returns its folder."""
    sizes = Sizes(seen=seen, unseen=unseen, features=features, lift=0)
    table, rule = random_table(sizes), SemanticRule()
    rng = np.random.default_rng(4)
    lifting = rng.standard_normal((features, width), dtype=np.float32) / np.float32(np.sqrt(features))
    variance = rng.uniform(0.1, 3, width)
    gaussian = Gaussian(variance, 1 / (1 + variance))
    counts = np.where(table.seen, 60, 0).astype(np.int64)
    prior = regression(rule.apply(table.raw), *_regression_weights(seen, sizes.attributes, width))
    means = ClassMeans(prior, counts, 60 * prior[table.seen].astype(np.float64))
    view = View("canonical", 0, width, 1.0, None)
    generation = Generation(1, 0, table, gaussian_head(means, gaussian, view), 0, "export", means=means)
    inputs = rng.standard_normal((4, features), dtype=np.float32)
    scores = fold(generation.head, table.seen).scores(inputs @ lifting)
    probe = Probe(None, inputs[:, None], inputs, scores, scores.argmax(axis=1).astype(np.int64))
    files = {
        "model.onnx": _linear_model(lifting),
        "means.onnx": means_graph(seen, sizes.attributes, width),
        "lift.onnx": _linear_lift(lifting),
        "gaussian.safetensors": gaussian.to_bytes(),
        "probe.safetensors": probe.to_bytes(),
        "parity.json": b'{"passed": true}\n',
    }
    manifest = {
        "method": "random",
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"zsl-deploy": "0.1.0"},
        "backbone": {"name": "features", "file": "random.mat"},
        "pixels": None,
        "input": {"name": "backbone_features", "dtype": "float32", "shape": ["N", 1, features]},
        "graphs": {part: f"{part}.onnx" for part in PARTS["gaussian"]},
        "dims": {"F": features, "D": width, "A": sizes.attributes, "Z": 0},
        "attributes": list(table.attributes),
        "attribute_ranges": [[0.0, 1.1]] * sizes.attributes,
        "semantic_rule": rule.to_dict(),
        "head": {"rule": "gaussian", "views": [view.to_dict()], "synthetic_per_class": 0, "seed": 0},
        "recipe": {},
        "scores": {},
    }
    return write_bundle(dest, manifest=manifest, files=files, generation=generation)


def _regression_weights(anchors: int, attributes: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Anchors (S, A), semantic vectors, and coefficients (S, D), float32."""
    table = random_table(Sizes(seen=anchors, unseen=0, attributes=attributes))
    coefficients = np.random.default_rng(5).standard_normal((anchors, width), dtype=np.float32)
    return SemanticRule().apply(table.raw), coefficients


def regression(semantic: np.ndarray, anchors: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Kernel regression with a Gaussian kernel, exp(-|a - b|^2) of vectors of length 1: (M, A) -> (M, D) float32."""
    return np.exp(2 * semantic @ anchors.T - 2) @ coefficients


def means_graph(anchors: int, attributes: int, width: int) -> bytes:
    """A means.onnx that computes `regression`."""
    from onnx import helper

    known, coefficients = _regression_weights(anchors, attributes, width)
    nodes = [
        helper.make_node("MatMul", ["semantic", "anchors"], ["near"]),
        helper.make_node("Mul", ["near", "two"], ["twice"]),
        helper.make_node("Sub", ["twice", "two"], ["apart"]),
        helper.make_node("Exp", ["apart"], ["kernel"]),
        helper.make_node("MatMul", ["kernel", "coefficients"], ["means"]),
    ]
    constants = {"anchors": known.T.copy(), "two": np.array(2, np.float32), "coefficients": coefficients}
    return _bytes("means", nodes, [_tensor("semantic", "M", attributes)], [_tensor("means", "M", width)], constants)


def nearest_mean(means: np.ndarray, view: View) -> Head:
    """The linear classifier that takes the nearest mean (C, D), with rows as long as fitted ones are.

    How long the fast fit goes on depends on that length.
    """
    centred = means - means.mean(axis=0)
    squares = np.einsum("ij,ij->i", centred, centred)
    sharp = np.float32(LENGTH / max(2 * float(np.sqrt(squares.mean())), 1e-6))
    weight = 2 * sharp * centred
    bias = -sharp * squares - weight @ means.mean(axis=0)
    weight = weight + np.float32(LEFT) * np.random.default_rng(3).standard_normal(weight.shape, dtype=np.float32)
    return Head((view,), (weight.astype(np.float32),), (bias.astype(np.float32),))


def _tensor(name: str, *shape: object):
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _bytes(name: str, nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> bytes:
    import onnx
    from onnx import helper, numpy_helper

    held = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _lift_nodes(sizes: Sizes, source: str, target: str) -> list:
    from onnx import helper

    if not sizes.lift:
        return [helper.make_node("Identity", [source], [target])]
    return [
        helper.make_node("MatMul", [source, "lifting"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("Concat", [source, "positive"], [target], axis=1),
    ]


def _lifting(networks: Networks) -> dict[str, np.ndarray]:
    return {} if networks.lifting is None else {"lifting": networks.lifting}


def _model(sizes: Sizes, networks: Networks) -> bytes:
    from onnx import helper

    nodes = [
        helper.make_node("Reshape", ["backbone_features", "flat"], ["features"]),
        *_lift_nodes(sizes, "features", "x"),
        helper.make_node("Transpose", ["head_weight"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "columns"], ["product"]),
        helper.make_node("Add", ["product", "head_bias"], ["biased"]),
        helper.make_node("Add", ["biased", "class_bias"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], ["scores"], axis=1),
    ]
    inputs = [
        _tensor("backbone_features", "N", 1, sizes.features),
        _tensor("head_weight", "C", sizes.width),
        _tensor("head_bias", "C"),
        _tensor("class_bias", "C"),
    ]
    outputs = [_tensor("scores", "N", "C"), _tensor("features", "N", sizes.features)]
    constants = {"flat": np.array([0, sizes.features], dtype=np.int64), **_lifting(networks)}
    return _bytes("model", nodes, inputs, outputs, constants)


def _linear_model(lifting: np.ndarray) -> bytes:
    from onnx import helper

    features, width = lifting.shape
    nodes = [
        helper.make_node("Reshape", ["backbone_features", "flat"], ["features"]),
        helper.make_node("MatMul", ["features", "lifting"], ["x"]),
        helper.make_node("Transpose", ["head_weight"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "columns"], ["product"]),
        helper.make_node("Add", ["product", "head_bias"], ["biased"]),
        helper.make_node("Add", ["biased", "class_bias"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], ["scores"], axis=1),
    ]
    head = [_tensor("head_weight", "C", width), _tensor("head_bias", "C"), _tensor("class_bias", "C")]
    inputs = [_tensor("backbone_features", "N", 1, features), *head]
    outputs = [_tensor("scores", "N", "C"), _tensor("features", "N", features)]
    return _bytes("model", nodes, inputs, outputs, {"flat": np.array([0, features], np.int64), "lifting": lifting})


def _linear_lift(lifting: np.ndarray) -> bytes:
    from onnx import helper

    features, width = lifting.shape
    nodes = [helper.make_node("MatMul", ["features", "lifting"], ["lifted"])]
    inputs, outputs = [_tensor("features", "M", features)], [_tensor("lifted", "M", width)]
    return _bytes("lift", nodes, inputs, outputs, {"lifting": lifting})


def _synthesizer(sizes: Sizes, networks: Networks) -> bytes:
    from onnx import helper

    nodes = [
        helper.make_node("MatMul", ["semantic", "first"], ["a"]),
        helper.make_node("MatMul", ["noise", "second"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "out"], ["e"]),
        helper.make_node("Relu", ["e"], ["features"]),
    ]
    inputs = [_tensor("semantic", "M", sizes.attributes), _tensor("noise", "M", sizes.noise)]
    constants = {"first": networks.semantic, "second": networks.noise, "out": networks.out}
    return _bytes("synthesizer", nodes, inputs, [_tensor("features", "M", sizes.features)], constants)


def _lift(sizes: Sizes, networks: Networks) -> bytes:
    inputs, outputs = [_tensor("features", "M", sizes.features)], [_tensor("lifted", "M", sizes.width)]
    return _bytes("lift", _lift_nodes(sizes, "features", "lifted"), inputs, outputs, _lifting(networks))
