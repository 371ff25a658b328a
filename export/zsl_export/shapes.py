"""Shape arithmetic: nodes of a graph that compute sizes. A card's runtime leaves them to the CPU.

torch writes `x / norm.expand_as(x)` with the size of x computed at run time, though division broadcasts by itself. ONNX
Runtime places what computes sizes on the CPU, and a session that must not fall back to the CPU then refuses the whole
graph (microsoft/onnxruntime#17930). So expansions that change nothing are taken out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div"})
SIZES = frozenset({"Shape", "Size"})
# Which inputs are sizes that a card's kernel itself takes from the CPU; all other readers of sizes compute with them.
TAKES_SIZES = {"Expand": 1, "Reshape": 1, "ConstantOfShape": 0}


def drop_expansions(model: onnx.ModelProto) -> int:
    """Remove, in place, every Expand whose readers broadcast to the same shape without it, and what only it needed.

    Returns:
        How many were removed.

    """
    graph = model.graph
    shapes = _shapes(graph)
    outputs = {value.name for value in graph.output}
    dropped = 0
    for node in [one for one in graph.node if one.op_type == "Expand"]:
        (name,) = node.output
        readers = [one for one in graph.node if name in one.input]
        if name in outputs or not readers or not all(_broadcasts(one, name, shapes) for one in readers):
            continue
        for reader in readers:
            for at, given in enumerate(reader.input):
                if given == name:
                    reader.input[at] = node.input[0]
        graph.node.remove(node)
        dropped += 1
    if dropped:
        _drop_unread(graph)
    return dropped


def shape_arithmetic(model: onnx.ModelProto) -> list[str]:
    """Operators that compute with sizes, in the graph's order: what a card's runtime would leave to the CPU."""
    sizes: set[str] = set()
    found = []
    for node in model.graph.node:
        if node.op_type in SIZES:
            sizes |= set(node.output)
            continue
        computes = any(name in sizes for at, name in enumerate(node.input) if at != TAKES_SIZES.get(node.op_type))
        if computes:
            sizes |= set(node.output)
            found.append(node.op_type)
    return found


def _broadcasts(reader: onnx.NodeProto, name: str, shapes: dict[str, tuple[int | str, ...]]) -> bool:
    """Whether the other operand of a reader has the shape of `name` already."""
    if reader.op_type not in BROADCASTING:
        return False
    others = [given for given in reader.input if given != name]
    return len(others) == 1 and name in shapes and shapes.get(others[0]) == shapes[name]


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | str, ...]]:
    """Shapes of values that are known in every axis, as a number or a name."""
    found: dict[str, tuple[int | str, ...]] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        axes = tuple(axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim)
        if all(axes):
            found[value.name] = axes
    return found


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes, constants and descriptions of values that nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        unread = [node for node in graph.node if not read & set(node.output)]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    for values in (graph.initializer, graph.value_info):
        for value in [one for one in values if one.name not in read]:
            values.remove(value)
