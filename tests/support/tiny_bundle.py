"""A whole bundle of a model small enough to check by hand, made in milliseconds without torch.

A picture is 8 x 8: its four quarters have one colour each, 12 numbers in all, which the class's attributes decide
linearly. `model.onnx` averages each quarter and multiplies by an orthogonal matrix; `synthesizer.onnx` goes from
attributes to the same features, and `rows.onnx` to the linear classifier that takes the nearest of them. So a
photograph of a class and its synthetic features agree, and every number can be computed in NumPy (`features_of`,
`rows_of`, `lift_of`). By the rule `gaussian`, `lift.onnx` is a linear layer to D = 10 canonical coordinates in which
the drawn pictures of a class spread about as much as they should, and `means.onnx` a linear layer to where their means
lie, some way off (`canonical_of`, `means_of`, `tiny_gaussian`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.bundle.generation import Generation, Probe
from zsl_runtime.bundle.manifest import PARTS
from zsl_runtime.bundle.writing import write_bundle
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.fitting import Replay, fit_head, fitting_rows, rows_head
from zsl_runtime.head.gaussian import ClassMeans, Gaussian, evidence_of, gaussian_head
from zsl_runtime.head.head import FitSettings, View, fold
from zsl_runtime.head.readout import Readout
from zsl_runtime.head.semantic_rule import SemanticRule

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

SIDE, COLOURS, FEATURE, NOISE = 8, 12, 12, 4
PER_CLASS = 40  # synthetic features per class, and replay rows
ATTRIBUTES = ("red", "green", "blue", "bright top", "bright left", "größe")
SEEN = ("robin", "tit", "crow", "gull", "house sparrow")
UNSEEN = ("wren", "eagle owl", "übersee-ente")
RULE = SemanticRule()
SEED = 7
SHARP = 30.0  # of the rows of rows.onnx: makes the right class's probability large
CANONICAL = 10  # D by the rule gaussian
OPSET = 20  # as exports write it


def class_table() -> ClassTable:
    """5 seen and 3 unseen classes, A = 6; attributes far enough apart to be told from each other."""
    raw = np.array(
        [
            [9, 1, 1, 0, 0, 2],
            [1, 9, 1, 0, 2, 0],
            [1, 1, 9, 2, 0, 0],
            [0, 0, 1, 9, 1, 1],
            [0, 1, 0, 1, 9, 1],
            [6, 6, 0, 0, 1, 1],
            [0, 1, 6, 6, 0, 1],
            [1, 0, 0, -1, 1, 9],
        ],
        dtype=np.float64,
    )
    seen = np.array([True] * len(SEEN) + [False] * len(UNSEEN))
    return ClassTable(SEEN + UNSEEN, seen, raw, ATTRIBUTES)


def colour_matrix() -> np.ndarray:
    """(A, 12) float32: semantic vector -> the colours of the four quarters, in [0, 1]."""
    matrix = np.zeros((6, COLOURS), dtype=np.float32)
    for attribute in range(6):
        matrix[attribute, 2 * attribute : 2 * attribute + 2] = 0.7
        matrix[attribute, (2 * attribute + 5) % COLOURS] = 0.3
    return matrix


def mixing_matrix(seed: int) -> np.ndarray:
    """(12, F) float32, orthogonal: colours -> features."""
    square = np.random.default_rng([seed, 1]).standard_normal((COLOURS, FEATURE))
    return np.linalg.qr(square)[0].astype(np.float32)


def noise_matrix(seed: int) -> np.ndarray:
    """(Z, F) float32: what the synthesizer adds per unit of noise."""
    return (0.05 * np.random.default_rng([seed, 2]).standard_normal((NOISE, FEATURE))).astype(np.float32)


def draw_pictures(table: ClassTable, labels: np.ndarray, seed: int) -> np.ndarray:
    """Pictures (n, 8, 8, 3) uint8 of the classes `labels` (n,) of `table`, with noise in colours and pixels."""
    rng = np.random.default_rng([seed, 3])
    colours = RULE.apply(table.raw)[labels] @ colour_matrix()
    colours = colours + 0.03 * rng.standard_normal(colours.shape)
    quarters = colours.reshape(-1, 2, 1, 2, 1, 3)
    pixels = quarters + 0.02 * rng.standard_normal((len(labels), 2, 4, 2, 4, 3))
    return np.clip(np.rint(255 * pixels), 0, 255).astype(np.uint8).reshape(-1, SIDE, SIDE, 3)


def as_regions(pictures: np.ndarray) -> np.ndarray:
    """The four quarters' mean colours as region features (n, 4, 3) float32."""
    quarters = pictures.reshape(-1, 2, 4, 2, 4, 3).astype(np.float32) / np.float32(255)
    return quarters.mean(axis=(2, 4), dtype=np.float32).reshape(-1, 4, 3)


def features_of(pictures: np.ndarray, seed: int = 0) -> np.ndarray:
    """What model.onnx must give as features (n, F) float32."""
    return as_regions(pictures).reshape(-1, COLOURS) @ mixing_matrix(seed)


def synthesize_of(semantic: np.ndarray, noise: np.ndarray, seed: int = 0) -> np.ndarray:
    """What synthesizer.onnx must give (M, F) float32."""
    return semantic @ (colour_matrix() @ mixing_matrix(seed)) + noise @ noise_matrix(seed)


def rows_of(semantic: np.ndarray, seed: int = 0, *, lift: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """What rows.onnx must give, (M, D) and (M,) float32: f W^T + b is largest for the class of the nearest features."""
    means = semantic @ (colour_matrix() @ mixing_matrix(seed))
    weight = np.pad(np.float32(SHARP) * means, ((0, 0), (0, FEATURE if lift else 0)))
    return weight, np.float32(-SHARP / 2) * (means**2).sum(axis=1)


def lift_of(features: np.ndarray) -> np.ndarray:
    """What lift.onnx must give (M, 2F) float32: the features and their positive part."""
    return np.concatenate([features, np.maximum(features, 0)], axis=1)


def canonical_layer(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (F, D) and bias (D,) float32 of the lift by the rule `gaussian`: pictures of a class spread by 1."""
    square = np.random.default_rng([seed, 4]).standard_normal((FEATURE, FEATURE))
    weight = 30 * np.linalg.qr(square)[0][:, :CANONICAL]
    return weight.astype(np.float32), np.linspace(-1, 1, CANONICAL, dtype=np.float32)


def canonical_of(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """What lift.onnx must give (M, D) float32 by the rule `gaussian`."""
    weight, bias = canonical_layer(seed)
    return features @ weight + bias


def means_layer(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (A, D) and bias (D,) float32 of means.onnx: where the pictures lie, and a little off."""
    weight, bias = canonical_layer(seed)
    off = np.random.default_rng([seed, 5]).standard_normal((len(ATTRIBUTES), CANONICAL)).astype(np.float32)
    return colour_matrix() @ mixing_matrix(seed) @ weight + off, bias


def means_of(semantic: np.ndarray, seed: int = 0) -> np.ndarray:
    """What means.onnx must give (M, D) float32."""
    weight, bias = means_layer(seed)
    return semantic @ weight + bias


def tiny_gaussian() -> Gaussian:
    """Means told from attributes are off by about the spread of a class, more in some coordinates than in others."""
    variance = np.linspace(0.2, 2, CANONICAL)
    return Gaussian(variance, 1 / (1 + 0.5 * variance))


def tiny_held(generation: Generation, seed: int) -> np.ndarray:
    """Percentiles of how far 400 pictures that nothing was made of are from the nearest class, with loops.

    And half as much again, so that no test meets a picture of a class that is far by chance.
    """
    labels = np.arange(400) % len(generation.table)
    x = canonical_of(features_of(draw_pictures(generation.table, labels, seed + 1000), seed), seed)
    where = tiny_gaussian().posterior(generation.means)
    distances = [min(np.sqrt(np.mean((row - mean) ** 2)) for mean in where) for row in x.astype(np.float64)]
    return 1.5 * np.percentile(distances, np.arange(101))


def tiny_means(table: ClassTable, seed: int) -> ClassMeans:
    """Of Generation 1: all from their attributes, the seen ones with PER_CLASS drawn pictures each."""
    labels = np.repeat(np.flatnonzero(table.seen), PER_CLASS)
    drawn = canonical_of(features_of(draw_pictures(table, labels, seed), seed), seed)
    means = ClassMeans.without_photographs(means_of(RULE.apply(table.raw), seed))
    return means.taught(evidence_of(drawn, labels))


def tiny_views(*, lift: bool, rule: str = "fit") -> tuple[View, ...]:
    """One view of the features, and with a lift one more, with a batch that leaves a short last one.

    By the rules `rows` and `gaussian` it is one view of all columns.
    """
    if rule == "gaussian":
        return (View("canonical", 0, CANONICAL, 1.0, None),)
    if rule == "rows":
        return (View("all", 0, FEATURE * (2 if lift else 1), 1.0, None),)
    fit = FitSettings(epochs=40, batch_size=48, learning_rate=0.05)
    first = View("feature", 0, FEATURE, 1.0, fit)
    return (first, View("positive part", FEATURE, 2 * FEATURE, 0.5, fit)) if lift else (first,)


def make_tiny_bundle(
    dest: str | Path,
    *,
    seed: int = 0,
    kind: str = "images",
    rule: str = "fit",
    lift: bool = True,
    probe_images: bool = True,
    held: bool = True,
    explain: bool = False,
    centres: tuple[float, float] | None = None,
    force: bool = False,
) -> Path:
    """Write a bundle to `dest` and return its path.

    Args:
        dest: folder to make.
        seed: another model of the same sizes.
        kind: the graph's input, `images` or `backbone_features`.
        rule: of the head, `fit`, `rows` or `gaussian`.
        lift: with lift.onnx and, by the rule `fit`, two views; without, D = F and one view. The rule `gaussian` always
            has its own.
        probe_images: False leaves the pictures out of the probe.
        held: by the rule `gaussian`, with distances of held-out pictures; older bundles have none.
        explain: with a read-out and, of a model of pictures, a graph of attention over the four quarters.
        centres: of the regions of that graph, first and step in pixels; None says nothing of them.
        force: replace a bundle.

    """
    table = class_table()
    views = tiny_views(lift=lift, rule=rule)
    means = tiny_means(table, seed) if rule == "gaussian" else None
    head = fit_tiny(table, seed=seed, lift=lift, rule=rule)
    generation = Generation(1, 0, table, head, SEED, "export", means=means)
    files = {
        "model.onnx": _model_graph(seed, kind=kind, lift=lift, rule=rule).SerializeToString(),
        "probe.safetensors": _probe(generation, seed, kind=kind, lift=lift, pictures=probe_images).to_bytes(),
        "parity.json": b'{"passed": true}\n',
    }
    if rule == "fit":
        files["synthesizer.onnx"] = _synthesizer_graph(seed).SerializeToString()
        files["replay.safetensors"] = tiny_replay(table, seed).to_bytes()
    elif rule == "rows":
        files["rows.onnx"] = _rows_graph(seed, lift=lift).SerializeToString()
    else:
        files["means.onnx"] = _linear_graph("means", "semantic", "means", *means_layer(seed)).SerializeToString()
        files["lift.onnx"] = _linear_graph("lift", "features", "lifted", *canonical_layer(seed)).SerializeToString()
        gaussian = tiny_gaussian()
        if held:
            gaussian = replace(gaussian, held=tiny_held(generation, seed))
        files["gaussian.safetensors"] = gaussian.to_bytes()
    if lift and rule != "gaussian":
        files["lift.onnx"] = _lift_graph().SerializeToString()
    if explain:
        files["readout.safetensors"] = tiny_readout(seed, lift=lift, rule=rule).to_bytes()
        if kind == "images":
            files["explain.onnx"] = _explain_graph().SerializeToString()
    shape: list[Any] = ["N", SIDE, SIDE, 3] if kind == "images" else ["N", 4, 3]
    manifest = {
        "method": "tiny",
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"zsl-deploy": "0.1.0"},
        "backbone": {"name": "mean colour", "size": SIDE},
        "pixels": {"version": 1, "resize": SIDE, "crop": SIDE} if kind == "images" else None,
        "input": {"name": kind, "dtype": "uint8" if kind == "images" else "float32", "shape": shape},
        "graphs": {part: name if (name := f"{part}.onnx") in files else None for part in PARTS[rule]},
        "dims": {"F": FEATURE, "D": views[-1].stop, "A": len(ATTRIBUTES), "Z": NOISE if rule == "fit" else 0},
        "attributes": list(ATTRIBUTES),
        "semantic_rule": RULE.to_dict(),
        "head": {
            "rule": rule,
            "views": [view.to_dict() for view in views],
            "synthetic_per_class": PER_CLASS if rule == "fit" else 0,
            "seed": SEED,
        },
        "recipe": {"method": "tiny"},
        "scores": {"H": 100.0},
    }
    if explain:
        seen_by = {"graph": "explain.onnx", "regions": 4} if kind == "images" else {"graph": None, "regions": 0}
        manifest["explain"] = {"readout": "readout.safetensors", **seen_by}
        if centres is not None:
            manifest["explain"]["centres"] = list(centres)
    if rule == "gaussian":
        known = table.raw[table.seen]
        manifest["attribute_ranges"] = np.stack([known.min(axis=0), known.max(axis=0)], axis=1).tolist()
    return write_bundle(dest, manifest=manifest, files=files, generation=generation, force=force)


def tiny_readout(seed: int, *, lift: bool, rule: str) -> Readout:
    """Least squares from drawn pictures of all classes to their attributes; `größe` is said not to be read."""
    table = class_table()
    labels = np.repeat(np.arange(len(table)), PER_CLASS)
    features = features_of(draw_pictures(table, labels, seed + 7), seed)
    x = canonical_of(features, seed) if rule == "gaussian" else lift_of(features) if lift else features
    raw = np.maximum(table.raw, 0)
    rows = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1).astype(np.float64)
    found = np.linalg.lstsq(rows, raw[labels], rcond=1e-6)[0].astype(np.float32)
    quality = np.array([0.9, 0.8, 0.95, 0.7, 0.6, 0.1], np.float32)
    spread = np.ones(x.shape[1], np.float32) if rule == "gaussian" else x.std(axis=0) + np.float32(0.01)
    return Readout(
        np.ascontiguousarray(found[:-1].T),
        found[-1],
        quality,
        raw.std(axis=0).astype(np.float32),
        x.mean(axis=0),
        spread,
    )


def queries() -> np.ndarray:
    """(3, A) float32: which colour each attribute is looked for by."""
    return (8 * np.random.default_rng(11).standard_normal((3, len(ATTRIBUTES)))).astype(np.float32)


def maps_of(pictures: np.ndarray) -> np.ndarray:
    """What explain.onnx must give (n, A, 4) float32: attention over the quarters, by their colour."""
    sharp = np.exp((as_regions(pictures) @ queries()).transpose(0, 2, 1))
    return sharp / sharp.sum(axis=2, keepdims=True)


def tiny_replay(table: ClassTable, seed: int) -> Replay:
    """Features of drawn pictures of the seen classes, float16."""
    seen = np.flatnonzero(table.seen)
    labels = np.repeat(np.arange(len(seen), dtype=np.int32), PER_CLASS)
    features = features_of(draw_pictures(table, seen[labels], seed), seed).astype(np.float16)
    return Replay(features, labels, tuple(table.names[int(j)] for j in seen))


def fit_tiny(table: ClassTable, *, seed: int, lift: bool, rule: str = "fit") -> Any:
    """The head of generation 1, from NumPy's own features or rows, with a gamma and a temperature."""
    views = tiny_views(lift=lift, rule=rule)
    if rule == "rows":
        head = rows_head(table, rule=RULE, rows=lambda semantic: rows_of(semantic, seed, lift=lift), view=views[0])
        return replace(head, gamma=0.4, temperature=1.25)
    if rule == "gaussian":
        return replace(gaussian_head(tiny_means(table, seed), tiny_gaussian(), views[0]), gamma=0.4, temperature=1.25)
    x, labels = fitting_rows(
        table,
        tiny_replay(table, seed),
        rule=RULE,
        synthesize=lambda semantic, noise: synthesize_of(semantic, noise, seed),
        lift=lift_of if lift else None,
        width=views[-1].stop,
        noise_dim=NOISE,
        count=PER_CLASS,
        seed=SEED,
    )
    head = fit_head(x, labels, len(table), views, SEED)
    return replace(head, gamma=0.4, temperature=1.25)


def _probe(generation: Generation, seed: int, *, kind: str, lift: bool, pictures: bool) -> Probe:
    table = generation.table
    drawn = draw_pictures(table, np.arange(len(table)), seed + 1)
    features = features_of(drawn, seed)
    lifted = lift_of(features) if lift else features
    x = lifted if generation.means is None else canonical_of(features, seed)
    scores = fold(generation.head, table.seen).scores(x)
    return Probe(
        pixels=drawn if kind == "images" and pictures else None,
        inputs=as_regions(drawn) if kind != "images" else None,
        features=features,
        scores=scores,
        top1=scores.argmax(axis=1).astype(np.int64),
    )


def _model_graph(seed: int, *, kind: str, lift: bool, rule: str) -> ModelProto:
    """Pictures or regions, and the head as inputs -> scores, features (`zsl_runtime.graphs.ports.contract`)."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], {"mix": mixing_matrix(seed), "flat": np.array([0, COLOURS], dtype=np.int64)}
    if kind == "images":
        constants["quarters"] = np.array([0, 2, 4, 2, 4, 3], dtype=np.int64)
        constants["inside"] = np.array([2, 4], dtype=np.int64)
        constants["white"] = np.array(255, dtype=np.float32)
        nodes += [
            helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["levels", "white"], ["light"]),
            helper.make_node("Reshape", ["light", "quarters"], ["split"]),
            helper.make_node("ReduceMean", ["split", "inside"], ["colours"], keepdims=0),
        ]
        given = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])
    else:
        nodes.append(helper.make_node("Identity", ["backbone_features"], ["colours"]))
        given = helper.make_tensor_value_info("backbone_features", TensorProto.FLOAT, ["N", 4, 3])
    nodes += [
        helper.make_node("Reshape", ["colours", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "mix"], ["features"]),
    ]
    if rule == "gaussian":
        constants["lifting"], constants["shift"] = canonical_layer(seed)
        nodes.append(helper.make_node("Gemm", ["features", "lifting", "shift"], ["x"]))
    else:
        nodes += [
            helper.make_node("Relu", ["features"], ["positive"]),
            helper.make_node("Concat", ["features", "positive"] if lift else ["features"], ["x"], axis=1),
        ]
    nodes += [
        helper.make_node("Transpose", ["head_weight"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "columns"], ["product"]),
        helper.make_node("Add", ["product", "head_bias"], ["biased"]),
        helper.make_node("Add", ["biased", "class_bias"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], ["scores"], axis=1),
    ]
    width = tiny_views(lift=lift, rule=rule)[-1].stop
    graph = helper.make_graph(
        nodes,
        "model",
        [
            given,
            helper.make_tensor_value_info("head_weight", TensorProto.FLOAT, ["C", width]),
            helper.make_tensor_value_info("head_bias", TensorProto.FLOAT, ["C"]),
            helper.make_tensor_value_info("class_bias", TensorProto.FLOAT, ["C"]),
        ],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", "C"]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", FEATURE]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _checked(graph)


def _explain_graph() -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "quarters": np.array([0, 2, 4, 2, 4, 3], dtype=np.int64),
        "inside": np.array([2, 4], dtype=np.int64),
        "white": np.array(255, dtype=np.float32),
        "rows": np.array([0, 4, 3], dtype=np.int64),
        "query": queries(),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["levels", "white"], ["light"]),
            helper.make_node("Reshape", ["light", "quarters"], ["split"]),
            helper.make_node("ReduceMean", ["split", "inside"], ["colours"], keepdims=0),
            helper.make_node("Reshape", ["colours", "rows"], ["regions"]),
            helper.make_node("MatMul", ["regions", "query"], ["found"]),
            helper.make_node("Transpose", ["found"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("Softmax", ["turned"], ["maps"], axis=2),
        ],
        "explain",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", len(ATTRIBUTES), 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _checked(graph)


def _synthesizer_graph(seed: int) -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    constants = {"means": colour_matrix() @ mixing_matrix(seed), "spread": noise_matrix(seed)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["semantic", "means"], ["centre"]),
            helper.make_node("MatMul", ["noise", "spread"], ["deviation"]),
            helper.make_node("Add", ["centre", "deviation"], ["features"]),
        ],
        "synthesizer",
        [
            helper.make_tensor_value_info("semantic", TensorProto.FLOAT, ["M", len(ATTRIBUTES)]),
            helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["M", NOISE]),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["M", FEATURE])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _checked(graph)


def _rows_graph(seed: int, *, lift: bool) -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    pad = FEATURE if lift else 0
    constants = {
        "means": colour_matrix() @ mixing_matrix(seed),
        "sharp": np.array(SHARP, dtype=np.float32),
        "half": np.array(-SHARP / 2, dtype=np.float32),
        "pads": np.array([0, 0, 0, pad], dtype=np.int64),
        "across": np.array([1], dtype=np.int64),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["semantic", "means"], ["centre"]),
            helper.make_node("Mul", ["centre", "sharp"], ["narrow"]),
            helper.make_node("Pad", ["narrow", "pads"], ["weight"]),
            helper.make_node("Mul", ["centre", "centre"], ["squares"]),
            helper.make_node("ReduceSum", ["squares", "across"], ["square"], keepdims=0),
            helper.make_node("Mul", ["square", "half"], ["bias"]),
        ],
        "rows",
        [helper.make_tensor_value_info("semantic", TensorProto.FLOAT, ["M", len(ATTRIBUTES)])],
        [
            helper.make_tensor_value_info("weight", TensorProto.FLOAT, ["M", FEATURE + pad]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, ["M"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _checked(graph)


def _linear_graph(name: str, given: str, made: str, weight: np.ndarray, bias: np.ndarray) -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Gemm", [given, "weight", "bias"], [made])],
        name,
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["M", weight.shape[0]])],
        [helper.make_tensor_value_info(made, TensorProto.FLOAT, ["M", weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return _checked(graph)


def _lift_graph() -> ModelProto:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["features"], ["positive"]),
            helper.make_node("Concat", ["features", "positive"], ["lifted"], axis=1),
        ],
        "lift",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["M", FEATURE])],
        [helper.make_tensor_value_info("lifted", TensorProto.FLOAT, ["M", 2 * FEATURE])],
    )
    return _checked(graph)


def _checked(graph: Any) -> ModelProto:
    from onnx import checker, helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    checker.check_model(model)
    return model
