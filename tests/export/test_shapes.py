"""Expansions that change nothing are taken out of a graph, and nothing else is; what is left gives the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from zsl_export.shapes import drop_expansions, shape_arithmetic


def graph(readers: list, outputs: list[str], *, sizes: str = "x") -> onnx.ModelProto:
    """norm (N, 1) of x (N, 4), expanded to the size of x as torch writes it, and `readers` of what comes of it."""
    node = helper.make_node
    nodes = [
        node("Shape", [sizes], ["n"], start=0, end=1),
        node("Concat", ["n", "four"], ["size"], axis=0),
        node("ReduceL2", ["x", "last"], ["norm"], keepdims=1),
        node("Expand", ["norm", "size"], ["wide"]),
        *readers,
    ]
    value = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))  # noqa: E731
    constants = [("four", [4]), ("last", [1])]
    made = helper.make_graph(
        nodes,
        "g",
        [value("x", "N", 4), value("other", "N", 4)],
        [value(name, "N", 4) for name in outputs],
        [onnx.numpy_helper.from_array(np.array(numbers, np.int64), name) for name, numbers in constants],
        value_info=[value("wide", "N", 4), value("norm", "N", 1)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {port.name: rng.standard_normal((3, 4), dtype=np.float32) for port in session.get_inputs()}
    return session.run(None, feeds)


@pytest.mark.parametrize("op", ["Div", "Mul", "Add", "Sub"])
@pytest.mark.parametrize("swapped", [False, True])
def test_what_broadcasts_needs_no_expansion(op, swapped):
    operands = ["wide", "x"] if swapped else ["x", "wide"]
    model = graph([helper.make_node(op, operands, ["y"]), helper.make_node(op, ["other", "wide"], ["z"])], ["y", "z"])
    before = run(model)
    assert shape_arithmetic(model) == ["Concat"]
    assert drop_expansions(model) == 1
    assert [node.op_type for node in model.graph.node] == ["ReduceL2", op, op]
    assert [constant.name for constant in model.graph.initializer] == ["last"]
    assert shape_arithmetic(model) == []
    for found, wanted in zip(run(model), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("readers", "outputs"),
    [
        ([helper.make_node("Div", ["x", "wide"], ["y"])], ["y", "wide"]),  # it is an output itself
        ([helper.make_node("Mul", ["wide", "wide"], ["y"])], ["y"]),  # nothing else gives the shape
        ([helper.make_node("Mul", ["norm", "wide"], ["y"])], ["y"]),  # the other one is as narrow
        ([helper.make_node("Max", ["x", "wide"], ["y"])], ["y"]),  # an operator that is not known to broadcast
        (
            [helper.make_node("Div", ["x", "wide"], ["y"]), helper.make_node("Relu", ["wide"], ["z"])],
            ["y", "z"],
        ),  # another reader needs it
    ],
)
def test_an_expansion_that_is_needed_stays(readers, outputs):
    model = graph(readers, outputs)
    before = model.SerializeToString()
    assert drop_expansions(model) == 0
    assert model.SerializeToString() == before


def test_sizes_of_unknown_axes_stay():
    model = graph([helper.make_node("Div", ["x", "wide"], ["y"])], ["y"])
    del model.graph.value_info[:]
    assert drop_expansions(model) == 0


def test_sizes_that_are_only_read_as_sizes_are_no_arithmetic():
    node = helper.make_node
    nodes = [node("Shape", ["x"], ["size"]), node("Expand", ["one", "size"], ["y"])]
    value = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))  # noqa: E731
    made = helper.make_graph(nodes, "g", [value("x", "N", 4), value("one", 1, 1)], [value("y", "N", 4)])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    assert shape_arithmetic(model) == []
    assert drop_expansions(model) == 0
