"""Graphs that do what no export of ours does, made of a small honest one: `lifts()` has one for each way."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH = 12  # F of the tiny bundle; its lift goes to 24
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def lift() -> onnx.ModelProto:
    """An honest lift.onnx: features (M, 12) and their positive part."""
    nodes = [
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("Concat", ["features", "positive"], ["lifted"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "lift",
        [helper.make_tensor_value_info("features", FLOAT, ["M", WIDTH])],
        [helper.make_tensor_value_info("lifted", FLOAT, ["M", 2 * WIDTH])],
        [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def constant(graph: onnx.GraphProto, name: str, values: object, dtype: object = np.int64) -> str:
    """Put a constant into a graph; its name."""
    graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
    return name


def with_work(*nodes: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    """The lift with more nodes before its end: they begin at `features`, and add their `one` (a number) to the rest."""
    model = lift()
    graph = model.graph
    for name, values in constants.items():
        array = np.asarray(values)
        constant(graph, name, array, np.int64 if array.dtype.kind == "i" else np.float32)
    last = graph.node[1]
    last.output[0] = "before"
    end = helper.make_node("Add", ["before", "one"], ["lifted"])
    graph.node.extend([*nodes, end])
    return model


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    """A node; names are parted by spaces, and `-` is an input that is left out."""
    return helper.make_node(op, [name.strip("-") for name in inputs.split()], outputs.split(), **attributes)


def most(name: str, axes: str = "all") -> onnx.NodeProto:
    """One number of a value."""
    return node("ReduceMean", f"{name} {axes}", "one", keepdims=0)


def _loop() -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    nodes = [node("Identity", "c", "d"), node("Identity", "x", "y")]
    given = [info("i", INT64, []), info("c", TensorProto.BOOL, []), info("x", FLOAT, None)]
    body = helper.make_graph(nodes, "body", given, [info("d", TensorProto.BOOL, []), info("y", FLOAT, None)])
    model = with_work(node("Loop", "rounds go before", "one", body=body), rounds=2**62)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    return model


def _if() -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    branch = helper.make_graph([node("Identity", "before", "y")], "b", [], [info("y", FLOAT, None)])
    model = with_work(node("If", "go", "one", then_branch=branch, else_branch=branch))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    return model


def _function() -> onnx.ModelProto:
    model = with_work(helper.make_node("Twice", ["before"], ["one"], domain="local"))
    model.functions.append(
        helper.make_function("local", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 20)])
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def _external(where: str) -> onnx.ModelProto:
    model = with_work(node("Identity", "fone", "one"), fone=np.zeros(4))
    tensor = model.graph.initializer[0]
    if where == "attribute":
        del model.graph.initializer[0]
        model.graph.node[2].CopyFrom(helper.make_node("Constant", [], ["one"], value=tensor))
        tensor = model.graph.node[2].attribute[0].t
    elif where == "sparse":
        sparse = model.graph.sparse_initializer.add()
        sparse.values.CopyFrom(tensor)
        del model.graph.initializer[0]
        tensor = sparse.values
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    return model


def _doubling() -> onnx.ModelProto:
    """Each of 36 nodes makes twice what it is given."""
    names = ["features", *(f"d{k}" for k in range(36))]
    chain = [node("Concat", f"{a} {a}", b, axis=1) for a, b in itertools.pairwise(names)]
    return with_work(*chain, most(names[-1]), all=[0, 1])


def _many_at_once() -> onnx.ModelProto:
    """200 values of 1 MB a row, all needed at the end."""
    wide = [node("Expand", "tall size", f"w{k}") for k in range(200)]
    sums = [node("Add", f"{'w0' if k == 1 else f's{k - 1}'} w{k}", f"s{k}") for k in range(1, 200)]
    start = [node("Unsqueeze", "features last", "tall")]
    return with_work(*start, *wide, *sums, most("s199", "three"), size=[1, 1, 20_000], last=[2], three=[0, 1, 2])


def _long_work() -> onnx.ModelProto:
    """Rows of 40,000 numbers times themselves: two megabytes of file, 10^11 multiplications a row."""
    nodes = [
        node("MatMul", "features fwide", "wide"),
        node("Unsqueeze", "wide second", "column"),
        node("Unsqueeze", "wide first", "row"),
        node("MatMul", "row column", "small"),
        *(node("MatMul", f"{'row' if k == 0 else f'r{k - 1}'} fsquare", f"r{k}") for k in range(3000)),
        node("Add", "r2999 small", "sum"),
        most("sum", "three"),
    ]
    return with_work(
        *nodes, fwide=np.zeros((WIDTH, 512)), fsquare=np.zeros((512, 512)), first=[1], second=[2], three=[0, 1, 2]
    )


def _fields(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = lift()
    change(model)
    return model


def _node_metadata(model: onnx.ModelProto) -> None:
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "ep", "x"


def _training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(lift().graph)


def _quantisation(model: onnx.ModelProto) -> None:
    model.graph.quantization_annotation.add().tensor_name = "positive"


def lifts() -> dict[str, onnx.ModelProto]:
    """A graph for each way to harm, by a word for it."""
    huge, ends = 10**9, [10**9] * 2
    return {
        "loop": _loop(),
        "if": _if(),
        "function": _function(),
        "foreign operator": with_work(helper.make_node("Gelu", ["before"], ["one"], domain="com.microsoft")),
        "external constant": _external("constant"),
        "external attribute": _external("attribute"),
        "external sparse": _external("sparse"),
        "constant of shape": with_work(node("ConstantOfShape", "size", "b"), most("b"), size=[30_000] * 2, all=[0, 1]),
        "range": with_work(node("Range", "a b c", "r"), node("Cast", "r", "one", to=FLOAT), a=0, b=10**12, c=1),
        "tile": with_work(node("Tile", "features size", "b"), most("b"), size=[1, 10**7], all=[0, 1]),
        "resize": with_work(node("Resize", "before - fscales", "b"), most("b"), fscales=[1e5, 1e5], all=[0, 1]),
        "topk": with_work(node("TopK", "features k", "one indices"), k=[huge]),
        "one hot": with_work(
            node("OneHot", "places depth fpair", "b"), most("b"), places=[1], depth=huge, fpair=[0.0, 1.0], all=[0, 1]
        ),
        "random": with_work(node("RandomNormal", "", "one", shape=[1])),
        "trilu": with_work(node("Trilu", "before", "one")),
        "expand": with_work(node("Expand", "fone size", "b"), most("b"), fone=0.0, size=[30_000] * 2, all=[0, 1]),
        "expand by row": with_work(
            *(node("Unsqueeze", "features last", "t"), node("Expand", "t size", "b"), most("b", "three")),
            last=[2],
            size=[1, 1, 10**7],
            three=[0, 1, 2],
        ),
        "expand to the square of rows": with_work(
            *(node("Shape", "features", "s"), node("Gather", "s zero", "n"), node("Concat", "n n n", "cube", axis=0)),
            *(node("Expand", "fone cube", "b"), most("b", "three")),
            zero=[0],
            fone=0.0,
            three=[0, 1, 2],
        ),
        "sizes that are computed": with_work(
            *(node("Shape", "features", "s"), node("Mul", "s s", "t"), node("Expand", "fone t", "b"), most("b")),
            fone=0.0,
            all=[0, 1],
        ),
        "pad": with_work(node("Pad", "features pads", "b"), most("b"), pads=[0, 0, 0, huge], all=[0, 1]),
        "pad below nothing": with_work(node("Pad", "features pads", "b"), most("b"), pads=[0, -5, 0, 0], all=[0, 1]),
        "gather elsewhere": with_work(node("Gather", "features far", "b", axis=1), most("b"), far=[99], all=[0, 1]),
        "gather many": with_work(node("Gather", "features far", "b", axis=1), most("b"), far=[0] * 70_000, all=[0, 1]),
        "gather nd elsewhere": with_work(node("GatherND", "fone far", "one"), fone=np.zeros(3), far=[[7]]),
        "reshape to nothing": with_work(node("Reshape", "features size", "b"), most("b"), size=[0, -1, 7], all=[0, 1]),
        "reshape twice minus one": with_work(
            node("Reshape", "features size", "b"), most("b"), size=[-1, -1], all=[0, 1]
        ),
        "slice backwards": with_work(
            node("Slice", "features a b axes steps", "c"),
            most("c"),
            a=[0],
            b=[9],
            axes=[1],
            steps=[-(2**63)],
            all=[0, 1],
        ),
        "slice step of nothing": with_work(
            node("Slice", "features a b axes steps", "c"), most("c"), a=[0], b=[9], axes=[1], steps=[0], all=[0, 1]
        ),
        "axes elsewhere": with_work(node("ReduceMean", "features all", "one", keepdims=0), all=[0, 99]),
        "unsqueeze far": with_work(node("Unsqueeze", "features all", "b"), most("b"), all=ends),
        "transpose to nothing": with_work(node("Transpose", "features", "b", perm=[0, 0]), most("b"), all=[0, 1]),
        "softmax elsewhere": with_work(node("Softmax", "features", "b", axis=7), most("b"), all=[0, 1]),
        "split in parts": with_work(node("Split", "features", "a one", axis=1, num_outputs=2**40)),
        "einsum of everything": with_work(
            node("Einsum", "features fone", "b", equation="ma,cd->macd"),
            most("b", "four"),
            fone=np.zeros((200, 200)),
            four=[0, 1, 2, 3],
        ),
        "einsum of one twice": with_work(
            node("Einsum", "features features", "b", equation="mm,mm->m"), most("b"), all=[0]
        ),
        "matmul of strangers": with_work(
            node("MatMul", "features fone", "b"), most("b"), fone=np.zeros((7, 7)), all=[0, 1]
        ),
        "types that do not fit": with_work(node("Add", "features all", "b"), most("b"), all=[0, 1]),
        "doubling": _doubling(),
        "many at once": _many_at_once(),
        "long work": _long_work(),
        "too many nodes": with_work(*(node("Neg", "features", f"n{k}") for k in range(5000)), most("n0"), all=[0, 1]),
        "two nodes of a name": _fields(lambda model: [setattr(one, "name", "same") for one in model.graph.node]),
        "a name with an end in it": with_work(node("Neg", "features", "a\0b"), most("features"), all=[0, 1]),
        "unknown name": with_work(node("Neg", "nobody", "one")),
        "in a circle": with_work(node("Neg", "b", "a"), node("Neg", "a", "b"), most("a"), all=[0, 1]),
        "made twice": with_work(node("Neg", "features", "one"), node("Neg", "features", "one")),
        "output of the input": _fields(lambda model: model.graph.node[1].output.__setitem__(0, "features")),
        "constant of the name of an input": _fields(lambda model: constant(model.graph, "features", [0])),
        "two constants of a name": _fields(lambda model: [constant(model.graph, "c", [k]) for k in range(2)]),
        "no output": _fields(lambda model: model.graph.node.pop()),
        "no nodes": _fields(lambda model: model.graph.ClearField("node")),
        "input missing": _fields(lambda model: model.graph.ClearField("input")),
        "another type": _fields(lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 11)),
        "another width": _fields(
            lambda model: setattr(model.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 9)
        ),
        "one row alone": _fields(
            lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1)
        ),
        "a lie about a value": _fields(
            lambda model: model.graph.value_info.append(helper.make_tensor_value_info("positive", FLOAT, ["M", 99]))
        ),
        "metadata": _fields(lambda model: helper.set_model_props(model, {"ort_config": "{}"})),
        "metadata of a node": _fields(_node_metadata),
        "training": _fields(_training),
        "quantisation notes": _fields(_quantisation),
        "old operators": _fields(lambda model: setattr(model.opset_import[0], "version", 7)),
        "operators to come": _fields(lambda model: setattr(model.opset_import[0], "version", 2**40)),
        "no operator set": _fields(lambda model: model.ClearField("opset_import")),
        "format to come": _fields(lambda model: setattr(model, "ir_version", 99)),
        "attribute of no model": _fields(
            lambda model: model.graph.node[0].attribute.append(helper.make_attribute("alpha", 1.0))
        ),
        "text": with_work(node("Identity", "words", "one")),  # and below
    }
