"""What an ONNX file says, read without any library of it; nothing is copied and nothing is believed.

Only what our exports write is taken: one graph of ONNX's own operators with whole numbers, numbers and words as their
attributes, and constants that lie in the file. Functions, graphs inside nodes, training, sparse tensors and data in
other files are refused here; whether the graph makes sense is `zsl_runtime.graphs.check`. (onnx.proto)
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from zsl_runtime.graphs.protobuf import BYTES, FIXED32, VARINT, Field, Reader, signed, text, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MOST_NODES = 4096  # int8 of ResNet-101 has some 900
MOST_TENSORS = 8192
MOST_AXES = 6
MOST_INPUTS = 64  # of a node
MOST_WRITTEN = 1 << 16  # numbers of a constant that are looked at, where they are not written as bytes
MOST_NUMBERS = 64  # of an attribute
LONGEST_WORD = 256  # of an attribute
FLOAT, UINT8, INT8, INT32, INT64, FLOAT16 = 1, 2, 3, 6, 7, 10  # TensorProto.DataType
SIZES = {FLOAT: 4, UINT8: 1, INT8: 1, INT32: 4, INT64: 8, FLOAT16: 2}  # bytes of a number
TYPES = {
    FLOAT: "float32",
    UINT8: "uint8",
    INT8: "int8",
    INT32: "int32",
    INT64: "int64",
    FLOAT16: "float16",
}
METADATA = frozenset({"graph", "pixels", "dims", "versions", "exporter"})  # what the export writes (metadata_props)

# Of each message, the fields by number. What may be there and means nothing to a graph is skipped; all others, such as
# FunctionProto, GraphProto in AttributeProto and external_data, are refused.
Fields: TypeAlias = "dict[int, Field | str]"
_DOC = Field("doc_string", BYTES, skipped=True)
_MODEL: Fields = {
    1: Field("ir_version", VARINT),
    2: Field("producer_name", BYTES, skipped=True),
    3: Field("producer_version", BYTES, skipped=True),
    4: Field("domain", BYTES, skipped=True),
    5: Field("model_version", VARINT, skipped=True),
    6: _DOC,
    7: Field("graph", BYTES),
    8: Field("opset_import", BYTES, many=True),
    14: Field("metadata_props", BYTES, many=True),
    20: "it has training information",
    25: "it has functions of its own",
}
_OPSET: Fields = {1: Field("domain", BYTES), 2: Field("version", VARINT)}
_ENTRY: Fields = {1: Field("key", BYTES), 2: Field("value", BYTES)}
_GRAPH: Fields = {
    1: Field("node", BYTES, many=True),
    2: Field("name", BYTES, skipped=True),
    5: Field("initializer", BYTES, many=True),
    10: _DOC,
    11: Field("input", BYTES, many=True),
    12: Field("output", BYTES, many=True),
    13: Field("value_info", BYTES, many=True),
    15: "it has sparse constants",
}
_NODE: Fields = {
    1: Field("input", BYTES, many=True),
    2: Field("output", BYTES, many=True),
    3: Field("name", BYTES),
    4: Field("op_type", BYTES),
    5: Field("attribute", BYTES, many=True),
    6: _DOC,
    7: Field("domain", BYTES),
}
_ATTRIBUTE: Fields = {
    1: Field("name", BYTES),
    2: Field("f", FIXED32),
    3: Field("i", VARINT),
    4: Field("s", BYTES),
    5: "a tensor as an attribute",
    6: "a graph inside a node",
    8: Field("ints", VARINT, many=True),
    10: "tensors as an attribute",
    11: "graphs inside a node",
    13: _DOC,
    20: Field("type", VARINT),
}
_ATTRIBUTE_KINDS = {1: "f", 2: "i", 3: "s", 7: "ints"}  # AttributeProto.AttributeType
_TENSOR: Fields = {
    1: Field("dims", VARINT, many=True),
    2: Field("data_type", VARINT),
    4: Field("float_data", FIXED32, many=True),
    5: Field("int32_data", VARINT, many=True),
    6: "it holds text",
    7: Field("int64_data", VARINT, many=True),
    8: Field("name", BYTES),
    9: Field("raw_data", BYTES),
    12: _DOC,
    13: "its numbers lie in another file",
    14: Field("data_location", VARINT),
}
_TENSOR_DATA = {FLOAT: "float_data", INT64: "int64_data", **dict.fromkeys((UINT8, INT8, INT32, FLOAT16), "int32_data")}
_VALUE: Fields = {1: Field("name", BYTES), 2: Field("type", BYTES), 3: _DOC}
_TYPE: Fields = {1: Field("tensor_type", BYTES)}
_TENSOR_TYPE: Fields = {1: Field("elem_type", VARINT), 2: Field("shape", BYTES)}
_SHAPE: Fields = {1: Field("dim", BYTES, many=True)}
_DIM: Fields = {1: Field("dim_value", VARINT), 2: Field("dim_param", BYTES)}

Attribute = int | float | bytes | tuple[int, ...]


class Tensor(NamedTuple):
    """A constant of the file.

    Attributes:
        name: in the graph.
        dtype: one of SIZES.
        dims: its shape.
        raw: its bytes as they lie in the file, little-endian; None where they are written as numbers.
        written: these, as the file has them.

    """

    name: str
    dtype: int
    dims: tuple[int, ...]
    raw: memoryview | None
    written: list[Any]

    def whole_numbers(self, most: int) -> tuple[int, ...]:
        """The values of an int64 tensor of at most `most`; ValueError for another."""
        count = math.prod(self.dims)
        if self.dtype != INT64 or count > most:
            raise ValueError(f"constant {self.name!r} is not of at most {most} int64 numbers")
        if self.raw is not None:
            return tuple(np.frombuffer(self.raw, "<i8").tolist())
        return whole_numbers(self.written, most, f"constant {self.name!r}")

    def floats(self) -> NDArray[Any]:
        """The values of a float32 or float16 tensor, in one row; ValueError for another."""
        if self.dtype not in {FLOAT, FLOAT16}:
            raise ValueError(f"constant {self.name[:80]!r} is not of floats")
        if self.raw is not None:
            return np.frombuffer(self.raw, "<f4" if self.dtype == FLOAT else "<f2")
        if self.dtype == FLOAT:
            return np.frombuffer(b"".join(self.written), "<f4")
        # As the bits of whole numbers.
        bits = whole_numbers(self.written, MOST_WRITTEN, f"constant {self.name[:80]!r}")
        return np.array([one & 0xFFFF for one in bits], np.uint16).view(np.float16)


class Node(NamedTuple):
    """One operator; names of inputs are '' where an optional one is left out."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]


class Value(NamedTuple):
    """An input or output of the graph, or what the file says of a value inside.

    Attributes:
        name: in the graph.
        dtype: one of SIZES.
        dims: of each axis its size, its letter, or None; None where no shape is told.

    """

    name: str
    dtype: int
    dims: tuple[int | str | None, ...] | None


class Model(NamedTuple):
    """What a file holds.

    Attributes:
        ir_version: of the format.
        opset: of ONNX's own operators.
        nodes: in the file's order.
        constants: the initializers.
        inputs: of the graph.
        outputs: of it.
        values: types that are told of values inside.

    """

    ir_version: int
    opset: int
    nodes: tuple[Node, ...]
    constants: tuple[Tensor, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    values: tuple[Value, ...]


def read_model(data: bytes | memoryview) -> Model:
    """Read a whole file.

    Raises:
        ValueError: what is wrong with it, in words.

    """
    reader = Reader()
    said = reader.message(memoryview(data), _MODEL)
    if "graph" not in said:
        raise ValueError("it holds no graph")
    opsets = [reader.message(entry, _OPSET) for entry in said.get("opset_import", ())]
    domains = [text(entry["domain"]) if "domain" in entry else "" for entry in opsets]
    if domains != [""]:
        raise ValueError(
            f"its operators are of the sets {[name or 'ONNX' for name in domains][:5]}, expected ONNX's own"
        )
    _check_metadata(reader, said.get("metadata_props", ()))
    graph = reader.message(said["graph"], _GRAPH)
    _at_most(graph.get("node", ()), MOST_NODES, "nodes")
    for kind in ("initializer", "input", "output", "value_info"):
        _at_most(graph.get(kind, ()), MOST_TENSORS, f"entries of {kind}")
    return Model(
        ir_version=signed(said.get("ir_version", 0)),
        opset=signed(opsets[0].get("version", 0)),
        nodes=tuple(_node(reader, one) for one in graph.get("node", ())),
        constants=tuple(_tensor(reader, one) for one in graph.get("initializer", ())),
        inputs=tuple(_value(reader, one) for one in graph.get("input", ())),
        outputs=tuple(_value(reader, one) for one in graph.get("output", ())),
        values=tuple(_value(reader, one) for one in graph.get("value_info", ())),
    )


def _at_most(entries: Any, most: int, what: str) -> None:
    if len(entries) > most:
        raise ValueError(f"it has {len(entries):,} {what}, where {most:,} are the most")


def _check_metadata(reader: Reader, entries: Any) -> None:
    """Keys of the export alone: libraries look for some of their own."""
    keys = []
    for entry in entries:
        said = reader.message(entry, _ENTRY)
        keys.append(text(said["key"]) if "key" in said else "")
    unknown = [key for key in keys if key not in METADATA]
    if unknown or len(set(keys)) != len(keys):
        raise ValueError(f"it has metadata {(unknown or keys)[0][:80]!r}, which no export of ours writes so")


def _node(reader: Reader, data: memoryview) -> Node:
    said = reader.message(data, _NODE)
    op = text(said["op_type"]) if "op_type" in said else ""
    if not op:
        raise ValueError("a node has no operator")
    domain = text(said["domain"]) if "domain" in said else ""
    if domain:
        raise ValueError(f"operator {f'{domain}::{op}'[:80]!r} is none of ONNX's own")
    for kind in ("input", "output", "attribute"):
        _at_most(said.get(kind, ()), MOST_INPUTS, f"entries of {kind} at a node")
    attributes: dict[str, Attribute] = {}
    for entry in said.get("attribute", ()):
        name, value = _attribute(reader, entry, op)
        if name in attributes:
            raise ValueError(f"operator {op[:80]!r} has the attribute {name[:80]!r} twice")
        attributes[name] = value
    return Node(
        op=op,
        name=text(said["name"]) if "name" in said else "",
        inputs=tuple(text(name) for name in said.get("input", ())),
        outputs=tuple(text(name) for name in said.get("output", ())),
        attributes=attributes,
    )


def _attribute(reader: Reader, data: memoryview, op: str) -> tuple[str, Attribute]:
    try:
        said = reader.message(data, _ATTRIBUTE)
    except ValueError as error:
        raise ValueError(f"an attribute of operator {op[:80]!r}: {error}") from None
    name = text(said["name"]) if "name" in said else ""
    kind = _ATTRIBUTE_KINDS.get(said.get("type", 0), "")
    if not name or not kind or not set(said) <= {"name", "type", kind} or (kind != "ints" and kind not in said):
        raise ValueError(f"attribute {name[:80]!r} of operator {op[:80]!r} is not of the type that it says")
    if kind == "f":
        return name, float(struct.unpack("<f", said["f"])[0])
    if kind == "i":
        return name, signed(said["i"])
    if kind == "s":
        if len(said["s"]) > LONGEST_WORD:
            raise ValueError(f"attribute {name[:80]!r} of operator {op[:80]!r} has more than {LONGEST_WORD} bytes")
        return name, bytes(said["s"])
    return name, whole_numbers(said.get("ints", []), MOST_NUMBERS, f"attribute {name[:80]!r}")


def _tensor(reader: Reader, data: memoryview) -> Tensor:
    try:
        said = reader.message(data, _TENSOR)
    except ValueError as error:
        raise ValueError(f"a constant: {error}") from None
    name = text(said["name"]) if "name" in said else ""
    dtype = said.get("data_type", 0)
    if dtype not in SIZES:
        raise ValueError(f"constant {name[:80]!r} is of the unknown type {dtype}")
    if said.get("data_location", 0) != 0:
        raise ValueError(f"constant {name[:80]!r} lies in another file")
    dims = whole_numbers(said.get("dims", []), MOST_AXES, f"the shape of constant {name[:80]!r}")
    if any(size < 1 for size in dims):
        raise ValueError(f"constant {name[:80]!r} is of the shape {dims}")
    held = [kind for kind in ("raw_data", "float_data", "int32_data", "int64_data") if kind in said]
    if held not in (["raw_data"], [_TENSOR_DATA[dtype]]):
        raise ValueError(f"constant {name[:80]!r} has its numbers in {held or 'no field'}")
    count = math.prod(dims)
    if held == ["raw_data"]:
        raw: memoryview | None = said["raw_data"]
        written: list[Any] = []
        fits = len(said["raw_data"]) == count * SIZES[dtype]
    else:
        raw, written = None, said[held[0]]
        fits = sum(_count(piece, held[0]) for piece in written) == count
    if not fits:
        raise ValueError(f"constant {name[:80]!r} has not as many numbers as its shape {dims}")
    return Tensor(name, dtype, dims, raw, written)


def _count(piece: Any, kind: str) -> int:
    """How many numbers a value of a repeated field holds."""
    if isinstance(piece, int):
        return 1
    if kind == "float_data":
        return len(piece) // 4 if len(piece) % 4 == 0 else -1
    ends = np.frombuffer(piece, np.uint8) < 0x80  # the last byte of each
    return int(np.count_nonzero(ends)) if len(ends) and ends[-1] else -1


def _value(reader: Reader, data: memoryview) -> Value:
    said = reader.message(data, _VALUE)
    name = text(said["name"]) if "name" in said else ""
    try:
        kind = reader.message(reader.message(said.get("type", memoryview(b"")), _TYPE)["tensor_type"], _TENSOR_TYPE)
        dtype = kind["elem_type"]
    except (ValueError, KeyError):
        raise ValueError(f"value {name[:80]!r} is no tensor") from None
    if dtype not in SIZES:
        raise ValueError(f"value {name[:80]!r} is of the unknown type {dtype}")
    if "shape" not in kind:
        return Value(name, dtype, None)
    axes = reader.message(kind["shape"], _SHAPE).get("dim", [])
    if len(axes) > MOST_AXES:
        raise ValueError(f"value {name[:80]!r} has {len(axes)} axes")
    return Value(name, dtype, tuple(_axis(reader, axis, name) for axis in axes))


def _axis(reader: Reader, data: memoryview, name: str) -> int | str | None:
    said: Mapping[str, Any] = reader.message(data, _DIM)
    if len(said) > 1:
        raise ValueError(f"value {name[:80]!r} has an axis of a size and of a letter")
    if "dim_value" in said:
        size = signed(said["dim_value"])
        if size < 1:
            raise ValueError(f"value {name[:80]!r} has an axis of the size {size}")
        return size
    return text(said["dim_param"]) if "dim_param" in said else None
