"""What an ONNX file says of itself, read without the onnx package: its operators and where its weights are.

TensorRT's parser answers a file that it does not take with one node after the other; this names all operators at once,
before the library does anything. ONNX files are protocol buffers: a sequence of fields, each a number, a kind, and a
value of known length, so what is not of interest is stepped over without being understood.
(https://protobuf.dev/programming-guides/encoding, onnx.proto)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zsl_runtime.errors import ArtefactError

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields
_DEEPEST = 32  # graphs inside attributes of nodes of graphs ...
_EXTERNAL = 1  # TensorProto.DataLocation


class OnnxFile(NamedTuple):
    """What was found.

    Attributes:
        operators: of ONNX's own set, in all graphs of the file.
        foreign: `domain::operator` of other sets.
        external: names of tensors whose data is in another file.

    """

    operators: frozenset[str]
    foreign: frozenset[str]
    external: frozenset[str]


class _Found(NamedTuple):
    operators: set[tuple[str, str]]  # domain, name
    external: set[str]


def read_onnx(data: bytes, *, where: str) -> OnnxFile:
    """Read a model file in memory.

    Args:
        data: the whole file.
        where: its name for messages.

    Raises:
        ArtefactError: E-BUNDLE-GRAPH when it is not an ONNX model, or one without nodes.

    """
    found = _Found(set(), set())
    functions: set[tuple[str, str]] = set()  # of the file itself: not the library's concern, their nodes are
    try:
        for number, kind, value in _fields(memoryview(data)):
            if number == 7 and kind == _BYTES:
                _graph(value, found, 0)
            elif number == 25 and kind == _BYTES:
                functions.add(_function(value, found))
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtefactError(
            "E-BUNDLE-GRAPH", f"{where} is not an ONNX model ({error}); copy or export the bundle again"
        ) from None
    used = found.operators - functions
    if not used:
        raise ArtefactError("E-BUNDLE-GRAPH", f"{where} holds no graph; copy or export the bundle again")
    own = {name for domain, name in used if domain in {"", "ai.onnx"}}
    foreign = {f"{domain}::{name}" for domain, name in used if domain not in {"", "ai.onnx"}}
    return OnnxFile(frozenset(own), frozenset(foreign), frozenset(found.external))


def _graph(data: memoryview, found: _Found, depth: int) -> None:
    """GraphProto: node 1, initializer 5."""
    if depth > _DEEPEST:
        raise ValueError(f"graphs are nested more than {_DEEPEST} deep")
    for number, kind, value in _fields(data):
        if kind == _BYTES and number == 1:
            _node(value, found, depth)
        elif kind == _BYTES and number == 5:
            _tensor(value, found)


def _function(data: memoryview, found: _Found) -> tuple[str, str]:
    """FunctionProto: name 1, node 7, domain 10."""
    name = domain = ""
    for number, kind, value in _fields(data):
        if kind == _BYTES and number == 7:
            _node(value, found, 0)
        elif kind == _BYTES and number == 1:
            name = _text(value)
        elif kind == _BYTES and number == 10:
            domain = _text(value)
    return domain, name


def _node(data: memoryview, found: _Found, depth: int) -> None:
    """NodeProto: op_type 4, attribute 5, domain 7."""
    name = domain = ""
    for number, kind, value in _fields(data):
        if kind != _BYTES:
            continue
        if number == 4:
            name = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            _attribute(value, found, depth)
    if not name:
        raise ValueError("a node has no operator")
    found.operators.add((domain, name))


def _attribute(data: memoryview, found: _Found, depth: int) -> None:
    """AttributeProto: t 5, g 6, tensors 10, graphs 11."""
    for number, kind, value in _fields(data):
        if kind == _BYTES and number in {5, 10}:
            _tensor(value, found)
        elif kind == _BYTES and number in {6, 11}:
            _graph(value, found, depth + 1)


def _tensor(data: memoryview, found: _Found) -> None:
    """TensorProto: name 8, external_data 13, data_location 14."""
    name, external = "", False
    for number, kind, value in _fields(data):
        if kind == _BYTES and number == 8:
            name = _text(value)
        elif kind == _BYTES and number == 13:
            external = True
        elif kind == _VARINT and number == 14:
            external = external or _varint(value, 0)[0] == _EXTERNAL
    if external:
        found.external.add(name)


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, kind and bytes of each field; ValueError where they do not fill `data` exactly."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        start = at
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, start = _varint(data, at)
            at = start + length
        elif kind in {_FIXED32, _FIXED64}:
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        if number == 0 or at > len(data):
            raise ValueError("it is cut off" if number else "a field without a number")
        yield number, kind, data[start:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number of up to 64 bits at `at`, and where it ends."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("it is cut off")


def _text(value: memoryview) -> str:
    return bytes(value).decode()
