"""What is read of ONNX files without their library, against the onnx package; and protocol buffers against bytes."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from support.hostile_graphs import lift
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.graphs import onnx_file
from zsl_runtime.graphs.onnx_file import SIZES, Tensor, read_model
from zsl_runtime.graphs.parts import PARTS
from zsl_runtime.graphs.protobuf import BYTES, FIXED32, VARINT, Field, Reader, signed, varint, whole_numbers

if TYPE_CHECKING:
    from pathlib import Path

NUMPY = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 10: np.float16}


def values_of(tensor: Tensor) -> np.ndarray:
    """A constant's numbers, by NumPy."""
    if tensor.raw is not None:
        return np.frombuffer(tensor.raw, NUMPY[tensor.dtype]).reshape(tensor.dims)
    if tensor.dtype == 1:
        return np.frombuffer(b"".join(tensor.written), "<f4").reshape(tensor.dims)
    numbers = np.array(whole_numbers(tensor.written, 1 << 20, "it"))
    if tensor.dtype == 10:
        return numbers.astype(np.uint16).view(np.float16).reshape(tensor.dims)
    return numbers.astype(NUMPY[tensor.dtype]).reshape(tensor.dims)


def same_as_the_package(data: bytes) -> None:
    """Hold what is read against what the onnx package reads."""
    found, wanted = read_model(data), onnx.load_model_from_string(data)
    graph = wanted.graph
    assert (found.ir_version, found.opset) == (wanted.ir_version, wanted.opset_import[0].version)
    assert len(found.nodes) == len(graph.node)
    for node, other in zip(found.nodes, graph.node, strict=True):
        assert (node.op, node.name) == (other.op_type, other.name)
        assert (list(node.inputs), list(node.outputs)) == (list(other.input), list(other.output))
        attributes = {one.name: helper.get_attribute_value(one) for one in other.attribute}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in node.attributes.items()}
        assert plain == attributes
    for tensor, other in zip(found.constants, graph.initializer, strict=True):
        assert (tensor.name, tensor.dtype, list(tensor.dims)) == (other.name, other.data_type, list(other.dims))
        array = numpy_helper.to_array(other)
        np.testing.assert_array_equal(values_of(tensor), array)
        if array.dtype.kind == "f":
            np.testing.assert_array_equal(tensor.floats(), array.reshape(-1))
        if array.dtype == np.int64:
            assert tensor.whole_numbers(array.size) == tuple(array.reshape(-1))
    pairs = [(found.inputs, graph.input), (found.outputs, graph.output), (found.values, graph.value_info)]
    for values, others in pairs:
        for value, other in zip(values, others, strict=True):
            kind = other.type.tensor_type
            dims = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None for axis in kind.shape.dim]
            assert (value.name, value.dtype, list(value.dims or ())) == (other.name, kind.elem_type, dims)


@pytest.mark.parametrize("rule", ["fit", "rows", "gaussian"])
def test_graphs_are_read_as_the_package_reads_them(shared_bundle, rule):
    bundle = Bundle.open(shared_bundle(rule=rule, precisions=("fp32", "fp16", "int8-cpu")))
    files: list[Path] = [bundle.path / name for name in bundle.precisions.values()]
    files += [path for part in PARTS if (path := bundle.graph(part)) is not None]
    for path in files:
        same_as_the_package(path.read_bytes())


def with_constants(*tensors: onnx.TensorProto) -> bytes:
    model = lift()
    model.graph.initializer.extend(tensors)
    return model.SerializeToString()


@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_constants_in_bytes_and_in_numbers(dtype, shape):
    values = (np.arange(int(np.prod(shape))) - (dtype in {3, 6, 7}) * 2).astype(NUMPY[dtype]).reshape(shape)
    written = helper.make_tensor("c", dtype, shape, values.reshape(-1).tolist())
    assert not written.raw_data
    same_as_the_package(with_constants(written, numpy_helper.from_array(values, "d")))


def field(number: int, value: bytes | int) -> bytes:
    """One field, as protocol buffers write it."""
    if isinstance(value, int):
        return number_bytes(number << 3) + number_bytes(value % (1 << 64))
    return number_bytes(number << 3 | 2) + number_bytes(len(value)) + value


def number_bytes(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def test_lists_of_numbers_may_be_packed_or_not():
    loose = b"".join(field(1, size) for size in (2, 3)) + field(2, 7)
    numbers = b"".join(field(7, value) for value in (-5, 0, 1, 2, 3, 2**40))
    packed = field(1, b"\x02\x03") + field(2, 7)
    packed_numbers = field(7, b"".join(number_bytes(value % (1 << 64)) for value in (-5, 0, 1, 2, 3, 2**40)))
    for dims in (loose, packed):
        for values in (numbers, packed_numbers):
            tensor = dims + field(8, b"c") + values
            graph = lift().graph.SerializeToString() + field(5, tensor)
            data = field(1, 10) + field(8, field(1, b"") + field(2, 20)) + field(7, graph)
            same_as_the_package(data)
            assert read_model(data).constants[0].whole_numbers(6) == (-5, 0, 1, 2, 3, 2**40)


GRAPH = lift().graph.SerializeToString()
HEAD = field(1, 10) + field(8, field(1, b"") + field(2, 20))
TENSOR = field(1, 2) + field(2, 1) + field(8, b"c")
EIGHT = field(9, bytes(8))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it holds no graph"),
        (b"not a model", "of unknown kind|that none of ours has|another kind"),
        (b"\x00" * 20, "a field 0 that none of ours has"),
        (b"\xff" * 20, "it is cut off"),
        (b"\x0b\x0c", "a field of unknown kind 3"),
        (b"\x08", "it is cut off"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "more than 64 bits"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "it is cut off"),
        (b"\x3a\x05\x0a", "it is cut off"),
        (HEAD + field(7, GRAPH) + field(7, GRAPH), "field graph is there twice"),
        (HEAD + field(7, b"") + field(7, GRAPH), "field graph is there twice"),
        (HEAD + field(1, 10) + field(7, GRAPH), "field ir_version is there twice"),
        (HEAD + field(8, field(2, 20)) + field(7, GRAPH), "its operators are of the sets"),
        (HEAD + field(7, GRAPH) + field(99, b""), "a field 99 that none of ours has"),
        (HEAD + field(7, GRAPH) + field(20, b""), "training"),
        (HEAD + field(7, GRAPH) + field(25, b""), "functions"),
        (HEAD + field(7, GRAPH + field(15, b"")), "sparse"),
        (HEAD + field(7, GRAPH + field(5, TENSOR + EIGHT + field(13, b""))), "its numbers lie in another file"),
        (HEAD + field(7, GRAPH + field(5, TENSOR + EIGHT + field(14, 1))), "'c' lies in another file"),
        (HEAD + field(7, GRAPH + field(5, TENSOR + EIGHT + field(3, b""))), "a field 3 "),
        (HEAD + field(7, GRAPH + field(5, TENSOR + EIGHT + EIGHT)), "raw_data is there twice"),
        (HEAD + field(7, GRAPH + field(5, TENSOR + EIGHT + field(4, bytes(8)))), "has its numbers in"),
        (HEAD + field(7, GRAPH + field(5, TENSOR)), "has its numbers in no field"),
        (HEAD + field(7, GRAPH + field(5, TENSOR + field(9, bytes(7)))), "has not as many numbers"),
        (HEAD + field(7, GRAPH + field(5, TENSOR + field(4, bytes(7)))), "has not as many numbers"),
        (HEAD + field(7, GRAPH + field(5, TENSOR + field(7, b"\x01\x01"))), "has its numbers in"),
        (HEAD + field(7, GRAPH + field(5, field(1, -2) + TENSOR + EIGHT)), "is of the shape"),
        (HEAD + field(7, GRAPH + field(5, field(1, 0) + field(2, 1) + field(9, b""))), "is of the shape"),
        (HEAD + field(7, GRAPH + field(5, field(1, 2**40) * 6 + field(2, 1) + EIGHT)), "has not as many numbers"),
        (HEAD + field(7, GRAPH + field(5, field(1, 1) * 7 + field(2, 1) + field(9, bytes(4)))), "more than 6 numbers"),
        (HEAD + field(7, GRAPH + field(5, field(2, 2**32 + 1) + EIGHT)), "unknown type 4294967297"),
        (HEAD + field(7, GRAPH + field(5, field(2, 14) + EIGHT)), "unknown type 14"),
        (HEAD + field(7, GRAPH + field(1, b"")), "a node has no operator"),
        (HEAD + field(7, GRAPH + field(1, field(4, b"\xff"))), "a name is not UTF-8"),
        (HEAD + field(7, GRAPH + field(1, field(4, b"A" * 9999))), "a name of 9,999 bytes"),
        (HEAD + field(7, GRAPH + field(1, field(4, b"Relu") + field(7, b"x"))), "'x::Relu' is none of ONNX's own"),
        (HEAD + field(7, GRAPH + field(1, field(4, b"A") + field(5, field(1, b"a")))), "not of the type that it says"),
        (
            HEAD + field(7, GRAPH + field(1, field(4, b"A") + field(5, field(1, b"a") + field(6, b"") + field(20, 5)))),
            "a graph inside a node",
        ),
        (
            HEAD
            + field(7, GRAPH + field(1, field(4, b"A") + 2 * field(5, field(1, b"a") + field(3, 1) + field(20, 2)))),
            "has the attribute 'a' twice",
        ),
        (HEAD + field(7, GRAPH + field(1, field(4, b"A") + field(1, b"x") * 100)), "entries of input at a node"),
        (HEAD + field(7, GRAPH + field(11, field(1, b"x"))), "value 'x' is no tensor"),
        (HEAD + field(14, field(1, b"graph") + field(2, b"")) * 2 + field(7, GRAPH), "it has metadata 'graph'"),
    ],
)
def test_what_is_no_graph_of_ours_is_said_in_words(data, said):
    with pytest.raises(ValueError, match=said):
        read_model(data)


def test_fields_without_end_end():
    many = HEAD + field(7, GRAPH + field(10, b"") * (onnx_file.MOST_NODES * 100))
    with pytest.raises(ValueError, match="it has more than 400,000 fields"):
        read_model(many)


# --- protocol buffers -----------------------------------------------------------------------------------------------

KNOWN: dict[int, Field | str] = {
    1: Field("whole", VARINT),
    2: Field("word", BYTES),
    3: Field("part", FIXED32),
    4: Field("wholes", VARINT, many=True),
    5: "not this one",
    6: Field("note", BYTES, skipped=True),
}


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_a_value_error(data):
    found: dict[str, object] = {}
    with contextlib.suppress(ValueError):
        found = Reader(50).message(memoryview(data), KNOWN)
    assert set(found) <= {"whole", "word", "part", "wholes"}


@given(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=20), st.lists(st.integers(0, 2**63 - 1), max_size=5))
def test_what_was_written_is_read(whole, word, wholes):
    data = field(1, whole) + field(2, word) + b"\x1d" + struct.pack("<f", 1.5) + field(6, b"x") + field(6, b"y")
    data += b"".join(field(4, one) for one in wholes)
    found = Reader().message(memoryview(data), KNOWN)
    assert (signed(found["whole"]), bytes(found["word"])) == (whole, word)
    assert struct.unpack("<f", found["part"]) == (1.5,)
    assert whole_numbers(found.get("wholes", []), 5, "it") == tuple(wholes)
    packed = Reader().message(memoryview(field(4, b"".join(map(number_bytes, wholes)))), KNOWN)
    assert whole_numbers(packed["wholes"], 5, "it") == tuple(wholes)
    if wholes:
        with pytest.raises(ValueError, match=f"it has more than {len(wholes) - 1} numbers"):
            whole_numbers(packed["wholes"], len(wholes) - 1, "it")


def test_a_number_that_is_longer_than_ten_bytes():
    with pytest.raises(ValueError, match="it is cut off"):
        varint(memoryview(b"\x80" * 11 + b"\x01"), 0)
    assert varint(memoryview(b"\xff" * 9 + b"\x01"), 0) == (2**64 - 1, 10)
    assert signed(2**64 - 1) == -1
