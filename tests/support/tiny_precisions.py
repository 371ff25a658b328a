"""The tiny bundle with its model graph in more precisions, written by hand: every number can be computed in NumPy."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from support.tiny_bundle import COLOURS, as_regions, mixing_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STEP = 0.0043  # between two levels of the quantised colours, which lie in [0, 1]; no mean of 16 bytes is a tie


def add_precisions(path: Path, kinds: Sequence[str] = ("fp32", "fp16", "int8-cpu"), default: str = "fp32") -> Path:
    """Let a tiny bundle hold its model graph in these precisions, as an export would have written it."""
    manifest = json.loads((path / "manifest.json").read_text())
    files = {
        "fp32": "model.onnx",
        "fp16": "model.fp16.onnx",
        "int8-cpu": "model.int8-cpu.onnx",
        "int8-trt": "model.int8-trt.onnx",
    }
    makers = {"fp16": _half, "int8-cpu": _quantised, "int8-trt": _quantised}
    for kind in kinds:
        if kind in makers:
            content = makers[kind]((path / "model.onnx").read_bytes())
            (path / files[kind]).write_bytes(content)
            manifest["files"][files[kind]] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest["precisions"] = {kind: files[kind] for kind in kinds}
    manifest["default_precision"] = default
    manifest["graphs"]["model"] = files["fp32" if "fp32" in kinds else kinds[0]]
    (path / "manifest.json").write_text(json.dumps(manifest))
    pointer = json.loads((path / "classes/CURRENT").read_text())
    pointer["manifest_sha256"] = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    (path / "classes/CURRENT").write_text(json.dumps(pointer) + "\n")
    return path


def quantised_matrix(seed: int = 0) -> tuple[np.ndarray, np.float32]:
    """(12, F) int8, symmetric, and its scale."""
    mix = mixing_matrix(seed)
    scale = np.float32(np.abs(mix).max() / 127)
    return np.rint(mix / scale).astype(np.int8), scale


def quantised_features_of(pictures: np.ndarray, seed: int = 0) -> np.ndarray:
    """What the int8 graph must give as features (n, F)."""
    levels = np.rint(as_regions(pictures).reshape(-1, COLOURS).astype(np.float64) / STEP)
    weight, scale = quantised_matrix(seed)
    return (levels * STEP) @ (weight.astype(np.float64) * scale)


def _half(model: bytes) -> bytes:
    """The multiplication in half precision."""
    import onnx

    cast, half, single = onnx.helper.make_node, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    nodes = [
        cast("Cast", ["row"], ["half row"], to=half),
        cast("MatMul", ["half row", "half mix"], ["half features"]),
        cast("Cast", ["half features"], ["features"], to=single),
    ]
    return _with(model, nodes, {"half mix": mixing_matrix(0).astype(np.float16)})


def _quantised(model: bytes) -> bytes:
    """The multiplication in int8, as pairs of QuantizeLinear and DequantizeLinear."""
    import onnx

    node = onnx.helper.make_node
    weight, scale = quantised_matrix()
    nodes = [
        node("QuantizeLinear", ["row", "row scale", "row zero"], ["levels of the row"]),
        node("DequantizeLinear", ["levels of the row", "row scale", "row zero"], ["rough row"]),
        node("DequantizeLinear", ["int8 mix", "mix scale", "mix zero"], ["rough mix"]),
        node("MatMul", ["rough row", "rough mix"], ["features"]),
    ]
    constants = {
        "row scale": np.array(STEP, np.float32),
        "row zero": np.array(0, np.uint8),
        "int8 mix": weight,
        "mix scale": np.array(scale, np.float32),
        "mix zero": np.array(0, np.int8),
    }
    return _with(model, nodes, constants)


def _with(model: bytes, nodes: list, constants: dict[str, np.ndarray]) -> bytes:
    """The graph with `nodes` in place of the one that gives the features."""
    import onnx

    loaded = onnx.load_model_from_string(model)
    (at,) = (i for i, node in enumerate(loaded.graph.node) if list(node.output) == ["features"])
    kept = list(loaded.graph.node)
    del loaded.graph.node[:]
    loaded.graph.node.extend([*kept[:at], *nodes, *kept[at + 1 :]])
    loaded.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(loaded)
    return loaded.SerializeToString()
