"""Every method's graphs are taken by the real TensorRT parser and builder: a method added tomorrow by its table line.

All graphs in all precisions, through the whole export, are in tests/export/test_methods.py.
"""

from __future__ import annotations

import onnx
import pytest
import torch

from support.engines import needs_rtx
from support.tiny_run import DIMS, TinyBackbone
from zsl_export.graphs import model_graph, rows_graph, synthesizer_graph
from zsl_export.shapes import shape_arithmetic
from zsl_export.to_onnx import export_graph
from zsl_runtime.trt.build import build, check_header
from zsl_runtime.trt.engines import Port, Ports, Profile
from zsl_runtime.trt.library import find_library
from zsl_train.methods import METHODS

PROFILES = (Profile(1, 1, 2), Profile(1, 4, 4))


def graphs_of(name: str) -> dict[str, object]:
    """The model of a method in its first preset with random weights, and what adds classes to it."""
    torch.manual_seed(0)
    method = METHODS[name]
    trained = method.build(method.Config(**next(iter(method.PRESETS.values()))), DIMS).eval()
    graphs = {
        "model": model_graph(TinyBackbone(), trained),
        "synthesizer": synthesizer_graph(trained, DIMS.attributes),
        "rows": rows_graph(trained, DIMS.attributes),
    }
    return {part: graph for part, graph in graphs.items() if graph is not None}


def ports(given) -> tuple[Port, ...]:
    return tuple(Port(port.name, port.dtype, tuple(port.shape)) for port in given)


@needs_rtx
@pytest.mark.parametrize("name", METHODS)
def test_the_graphs_of_a_method_build_as_engines(name, tmp_path):
    library, graphs = find_library("rtx"), graphs_of(name)
    assert {"synthesizer", "rows"} & set(graphs)
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
