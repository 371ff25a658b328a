"""Inputs and outputs of a bundle's graphs, as the manifest tells them, against the files."""

from __future__ import annotations

import pytest

from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.graphs.parts import PARTS
from zsl_runtime.graphs.ports import Port, ports_of


@pytest.mark.parametrize("kind", ["images", "backbone_features"])
@pytest.mark.parametrize("rule", ["fit", "rows", "gaussian"])
def test_ports_are_those_of_the_files(shared_bundle, kind, rule):
    import onnx

    bundle = Bundle.open(shared_bundle(kind=kind, rule=rule))
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}

    def ports(values):
        return {
            Port(
                value.name,
                types[value.type.tensor_type.elem_type],
                tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim),
            )
            for value in values
        }

    for part in [name for name in PARTS if bundle.graph(name) is not None]:
        graph = onnx.load(bundle.graph(part)).graph
        found = ports_of(bundle, part)
        assert (set(found.inputs), set(found.outputs)) == (ports(graph.input), ports(graph.output))
