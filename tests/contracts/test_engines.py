"""Every method's graphs are taken by the real TensorRT parser and builder: a method added tomorrow by its table line.

The Gaussian head that may ship in place of a method's own has the method's synthesizer inside its means.

All graphs in all precisions, through the whole export, are in tests/export/test_methods.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch

from support.engines import needs_rtx
from support.tiny_run import DIMS, RULE, SEEN, TinyBackbone, as_gaussian, fill_gaussian, tiny_table
from zsl_export.compare import compare
from zsl_export.graphs import means_graph, model_graph, rows_graph, synthesizer_graph
from zsl_export.shapes import shape_arithmetic
from zsl_export.to_onnx import export_graph
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.graphs.ports import Port, Ports
from zsl_runtime.trt.build import build, check_header
from zsl_runtime.trt.facts import Profile
from zsl_runtime.trt.library import find_library
from zsl_train.head.modules import run_means
from zsl_train.methods import METHODS

if TYPE_CHECKING:
    from zsl_train.methods.base import Trained

PROFILES = (Profile(1, 1, 2), Profile(1, 4, 4))


def built(name: str) -> Trained:
    """The modules of a method in its first preset with random weights."""
    torch.manual_seed(0)
    method = METHODS[name]
    trained = method.build(method.Config(**next(iter(method.PRESETS.values()))), DIMS).eval()
    return as_gaussian(trained) if trained.head_rule == "gaussian" else trained  # it has no head of its own


def graphs_of(name: str) -> dict[str, object]:
    """The model of a method in its first preset with random weights, and what adds classes to it."""
    trained = built(name)
    graphs = {
        "model": model_graph(TinyBackbone(), trained),
        "synthesizer": synthesizer_graph(trained, DIMS.attributes),
        "rows": rows_graph(trained, DIMS.attributes),
        "means": means_graph(trained, DIMS.attributes),
    }
    return {part: graph for part, graph in graphs.items() if graph is not None}


def ports(given) -> tuple[Port, ...]:
    return tuple(Port(port.name, port.dtype, tuple(port.shape)) for port in given)


@needs_rtx
@pytest.mark.parametrize("name", METHODS)
def test_the_graphs_of_a_method_build_as_engines(name, tmp_path):
    library, graphs = find_library("rtx"), graphs_of(name)
    assert {"synthesizer", "rows", "means"} & set(graphs)
    for part, graph in graphs.items():
        export_graph(graph, tmp_path / "graph.onnx", {})
        assert shape_arithmetic(onnx.load(tmp_path / "graph.onnx")) == []  # ONNX Runtime would leave it to the CPU
        plan = build(
            library,
            tmp_path / "graph.onnx",
            ports=Ports(ports(graph.inputs), ports(graph.outputs)),
            profiles=PROFILES,
            max_classes=50,
            precision="fp32",
            compute_capabilities=("8.9",),
        )
        check_header(library, plan)
        assert plan.startswith(b"vtrt"), part


@needs_rtx
@pytest.mark.parametrize("name", METHODS)
def test_the_means_of_a_method_build_as_an_engine_and_are_those_of_pytorch(name, tmp_path):
    library, trained, rng = find_library("rtx"), built(name), np.random.default_rng(0)
    shipped = as_gaussian(trained, draws=0 if trained.synthesizer is None else 2)
    labels = np.repeat(np.arange(len(SEEN)), 6)
    features = rng.standard_normal((len(SEEN), shipped.feature_width))[labels]
    table = tiny_table(rng)
    fill_gaussian(shipped, table, features + 0.3 * rng.standard_normal(features.shape), labels)
    graph, path = means_graph(shipped, DIMS.attributes), tmp_path / "means.onnx"
    export_graph(graph, path, {})
    assert shape_arithmetic(onnx.load(path)) == []
    semantic = RULE.apply(table.raw)
    wanted = run_means(shipped.means, semantic)
    engine = OrtBackend({"means": path}, 1)
    for size in (1, len(table)):
        assert compare("means", wanted[:size], engine.means(semantic[:size])).passed
    engine.close()
    assert np.ptp(wanted, axis=0).max() > 0.1
    plan = build(
        library,
        path,
        ports=Ports(ports(graph.inputs), ports(graph.outputs)),
        profiles=PROFILES,
        max_classes=50,
        precision="fp32",
        compute_capabilities=("8.9",),
    )
    check_header(library, plan)
