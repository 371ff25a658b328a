"""The small reader of ONNX files against the onnx package, and against bytes that are no ONNX file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from zsl_runtime.errors import ArtefactError
from zsl_runtime.trt import onnx_file
from zsl_runtime.trt.onnx_file import OnnxFile, read_onnx

VALUE = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
OUT = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])


def model(nodes, initializers=(), functions=(), domains=("",)) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", [VALUE], [OUT], list(initializers))
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(domain, 20) for domain in domains], functions=list(functions)
    )


def small() -> onnx.ModelProto:
    """A model with every kind of place where a node or a tensor can be."""
    inner = helper.make_graph([helper.make_node("Neg", ["x"], ["z"])], "then", [], [OUT])
    other = helper.make_graph([helper.make_node("Foo", ["x"], ["z"], domain="my.own")], "else", [], [OUT])
    value = numpy_helper.from_array(np.arange(500, dtype=np.float32), "constant")
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=other),
        helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx"),
        helper.make_node("Twice", ["x"], ["e"], domain="local"),
    ]
    return model(nodes, [value], [function], ("", "my.own", "local"))


def test_all_operators_are_found_wherever_they_are():
    found = read_onnx(small().SerializeToString(), where="it")
    assert found == OnnxFile(
        frozenset({"Constant", "If", "Neg", "Relu", "Add"}), frozenset({"my.own::Foo"}), frozenset()
    )


def test_data_in_another_file_is_named(tmp_path):
    big = numpy_helper.from_array(np.zeros(1000, dtype=np.float32), "weights")
    whole = model([helper.make_node("Add", ["x", "weights"], ["y"])], [big])
    onnx.save_model(whole, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert read_onnx((tmp_path / "m.onnx").read_bytes(), where="it").external == {"weights"}


@pytest.mark.parametrize(
    "data", [b"", b"not a model", b"\x00" * 20, b"\xff" * 20, b"<html>", b"PK\x03\x04", b"\x08\x07", b"\x3a\x05\x0a"]
)
def test_what_is_no_model(data):
    with pytest.raises(ArtefactError, match=r"^E-BUNDLE-GRAPH: it ") as caught:
        read_onnx(data, where="it")
    assert caught.value.exit_code == 5


def test_a_node_without_an_operator():
    with pytest.raises(ArtefactError, match="a node has no operator"):
        read_onnx(model([onnx.NodeProto()]).SerializeToString(), where="it")


def test_graphs_in_graphs_without_end(monkeypatch):
    monkeypatch.setattr(onnx_file, "_DEEPEST", 5)  # the package itself ends at about 33
    inner = [helper.make_node("Neg", ["x"], ["z"])]
    for _ in range(7):
        inner = [helper.make_node("If", ["x"], ["z"], then_branch=helper.make_graph(inner, "deeper", [], [OUT]))]
    with pytest.raises(ArtefactError, match="nested more than"):
        read_onnx(model(inner).SerializeToString(), where="it")


def code_of(data: bytes) -> str:
    """Of the error that these bytes give; '' when they are a model."""
    try:
        read_onnx(data, where="it")
    except ArtefactError as error:
        return error.code
    return ""


@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_are_not(data):
    assert code_of(data) in {"", "E-BUNDLE-GRAPH"}


@given(st.data())
def test_a_damaged_model_is_read_or_refused(data):
    whole = bytearray(small().SerializeToString())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        assert code_of(damaged) in {"", "E-BUNDLE-GRAPH"}
