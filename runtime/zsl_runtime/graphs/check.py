"""A graph is looked at before a library sees it: operators, attributes, inputs, outputs, constants and sizes.

ONNX files are programs, and the libraries that run them trust them: a loop never ends, a constant of two numbers makes
a tensor of gigabytes, an attribute that no model has ends the process. So what is given to a library is of the kind
that our exports write, and no more: their operators (`zsl_runtime.graphs.operators`), everything in the one file,
inputs and outputs as the contract says, and all sizes known and within bounds that follow from the manifest. Nothing is
computed.

The sizes are worked out twice, for few and for many pictures and classes, so that one that grows with their square or
fits one number alone is seen. The bounds, for each picture or row: no value of more than ROW bytes and PIXEL bytes for
every pixel of a picture, together at one moment no more than PEAK times that; and so many multiplications.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from zsl_runtime.errors import ArtefactError, listed
from zsl_runtime.graphs.onnx_file import INT64, SIZES, TYPES, Model, Tensor, Value, read_model
from zsl_runtime.graphs.operators import MOST_PLACES, Kind, infer, shown
from zsl_runtime.graphs.parts import EXPLAIN
from zsl_runtime.graphs.ports import HEAD_INPUTS, PICTURES, Port, Ports, contract

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROWS = Port("backbone_features", "float32", ("N", 0, 0))  # of no size in particular
IR_VERSIONS = range(8, 11)
OPSETS = range(20, 21)
POINTS = ({"N": 2, "M": 2, "C": 3}, {"N": 4093, "M": 4093, "C": 20011})  # primes fit nothing by accident
MIB = 1 << 20
ROW = MIB  # bytes of one value for one row; a layer of 2048 takes 8 KiB
PIXEL = 512  # and for each pixel; EfficientNet-Lite2 takes 96, ResNet-101 64, and unrolled for its windows 150
MOST_PIXELS = MIB  # that this is reckoned for
WIDTH = 64  # bytes for each number of a row that is given, kept or made
FIXED = 4 * MIB  # bytes of what depends on constants alone, all together, and so many times the constants' own:
FIXED_TIMES = 8
PEAK, TOTAL = 4, 64  # times the bound of one value: at one moment, and all that is made one after the other
WORK_ROW, WORK_PIXEL = 1 << 28, 1 << 19  # multiplications for one row and each pixel; ResNet-101 has 2^17.3
WORK_WEIGHT = 1024  # and for each number of a constant: regions of a picture that go through one layer
NUMBERS_PER_CLASS = 16  # of one value, for each number of the head


class Checked(NamedTuple):
    """What a graph is, that may be given to a library.

    Attributes:
        operators: of ONNX's own set.
        nodes: how many.
        row_bytes: the largest value, for one row (of two), with what a library may need to make it.
        peak_bytes: all values at one moment, likewise.
        work: multiplications for one row.

    """

    operators: frozenset[str]
    nodes: int
    row_bytes: int
    peak_bytes: int
    work: int


def check_graph(data: bytes | memoryview, *, where: str, part: str = "model", ports: Ports | None = None) -> Checked:
    """Hold the bytes of a graph against what our exports write.

    Args:
        data: the whole file.
        where: the file's name for messages.
        part: that the graph plays, one of `zsl_runtime.graphs.parts.PARTS`, or EXPLAIN.
        ports: its contract, as the manifest tells it; None where only names, types and free axes are known.

    Raises:
        ArtefactError: E-BUNDLE-GRAPH.

    """
    try:
        model = read_model(data)
        return _check(model, part, ports)
    except ValueError as error:
        raise ArtefactError(
            "E-BUNDLE-GRAPH",
            f"{where!r} is not a graph that may be run: {error}; copy or export the bundle again",
        ) from None


def _check(model: Model, part: str, ports: Ports | None) -> Checked:
    if model.ir_version not in IR_VERSIONS or model.opset not in OPSETS:
        raise ValueError(
            f"it is of ONNX's format {model.ir_version} and operator set {model.opset}, expected "
            f"{IR_VERSIONS[0]} to {IR_VERSIONS[-1]} and {OPSETS[0]}"
        )
    if not model.nodes:
        raise ValueError("it has no nodes")
    given, made = _ports(model, part, ports)
    _check_names(model)
    constants = {one.name: _constant(one) for one in model.constants}
    sums = [_reckon(model, constants, given, made, point) for point in POINTS]
    for point, found in zip(POINTS, sums, strict=True):
        _check_sums(found, _bounds(model, given, made, point))
    few = sums[0]
    return Checked(
        operators=frozenset(node.op for node in model.nodes),
        nodes=len(model.nodes),
        row_bytes=few.largest // 2,
        peak_bytes=few.peak // 2,
        work=few.work // 2,
    )


# --- inputs and outputs ---------------------------------------------------------------------------------------------


def _ports(model: Model, part: str, ports: Ports | None) -> tuple[dict[str, Port], dict[str, Port]]:
    """Inputs and outputs by name with the sizes that the file tells, held against the contract."""
    if ports is None:
        rows = part in {"model", EXPLAIN} and any(value.name == ROWS.name for value in model.inputs)
        ports = contract(part, dict.fromkeys("FDAZ", 0), ROWS if rows else PICTURES)
    return _held(model.inputs, ports.inputs, "input"), _held(model.outputs, ports.outputs, "output")


def _held(values: Sequence[Value], wanted: Sequence[Port], kind: str) -> dict[str, Port]:
    """Values of a file as ports, which must be those of the contract; 0 is any size there."""
    names = [value.name for value in values]
    if sorted(names) != sorted(port.name for port in wanted):
        raise ValueError(f"its {kind}s are {listed(sorted(names))}, expected {listed([port.name for port in wanted])}")
    ports = {port.name: port for port in wanted}
    found: dict[str, Port] = {}
    for value in values:
        port, dims = ports[value.name], value.dims or ()
        fits = len(dims) == len(port.shape) and TYPES[value.dtype] == port.dtype
        if not fits or not all(_is(size, axis) for size, axis in zip(dims, port.shape, strict=True)):
            told = ", ".join(str(axis or "*") for axis in port.shape)
            given = ascii(", ".join(str(size)[:40] for size in dims))[1:-1]
            raise ValueError(f"{kind} {port.name!r} is {TYPES[value.dtype]} ({given}), expected {port.dtype} ({told})")
        found[port.name] = port._replace(shape=dims)
    return found


def _is(size: int | str | None, axis: int | str | None) -> bool:
    """Whether a file's axis is that of the contract."""
    if isinstance(axis, str) and axis not in POINTS[0]:
        return False
    return isinstance(size, int) if axis == 0 else size == axis


# --- names ----------------------------------------------------------------------------------------------------------


def _check_names(model: Model) -> None:
    """Every value is made once, and before it is used."""
    known: set[str] = set()

    def made(name: str) -> None:
        if not name or name in known:
            raise ValueError(f"{name[:80]!r} is made twice" if name else "a value has no name")
        known.add(name)

    for name in [value.name for value in model.inputs] + [tensor.name for tensor in model.constants]:
        made(name)
    names = [node.name for node in model.nodes if node.name]
    if len(set(names)) != len(names):
        raise ValueError("two nodes have one name")
    outputs = {value.name for value in model.outputs}
    for name in outputs & known:
        raise ValueError(f"output {name!r} is given or constant")
    for node in model.nodes:
        for name in node.inputs:
            if name and name not in known:
                raise ValueError(f"operator {node.op[:80]!r} is given {name[:80]!r} before that is made")
        for name in node.outputs:
            made(name)
    missing = sorted(outputs - known)
    if missing:
        raise ValueError(f"output {missing[0]!r} is not made")
    told: set[str] = set()
    for value in model.values:
        if value.name not in known or value.name in told:
            raise ValueError(f"it tells the type of {value.name[:80]!r}, which is not there or was told")
        told.add(value.name)


# --- sizes ----------------------------------------------------------------------------------------------------------


class _Sums(NamedTuple):
    """What running a graph takes, at some number of pictures and classes.

    Attributes:
        largest: bytes of the largest value that depends on what is given, with what it may take to make it.
        peak: bytes of all such values at one moment.
        total: bytes of all of them.
        fixed: bytes of all values that depend on constants alone.
        work: multiplications.

    """

    largest: int
    peak: int
    total: int
    fixed: int
    work: int


def _constant(tensor: Tensor) -> Kind:
    """What is known of a constant; ValueError."""
    numbers = None
    if tensor.dtype == INT64 and math.prod(tensor.dims) <= MOST_PLACES:
        numbers = tensor.whole_numbers(MOST_PLACES)
    return Kind(tensor.dtype, tensor.dims, numbers, fixed=True, tensor=tensor)


def _reckon(
    model: Model,
    constants: Mapping[str, Kind],
    given: Mapping[str, Port],
    made: Mapping[str, Port],
    point: Mapping[str, int],
) -> _Sums:
    """Work out the kind of every value at a point, and what they take together; ValueError where they do not fit."""
    kinds = dict(constants)
    dtypes = {name: number for number, name in TYPES.items()}
    for port in given.values():
        kinds[port.name] = Kind(dtypes[port.dtype], _at(port.shape, point))
    kept = _last_uses(model)
    largest = peak = total = fixed = work = now = 0
    for place, node in enumerate(model.nodes):
        try:
            step = infer(node, [kinds[name] if name else None for name in node.inputs])
        except ValueError as error:
            raise ValueError(f"{error} (node {node.name[:80]!r})") from None
        work += step.work
        now += step.scratch
        for name, kind in zip(node.outputs, step.outputs, strict=True):
            kinds[name] = kind
            taken = kind.size * SIZES[kind.dtype]
            if kind.fixed:
                fixed += taken
            else:
                largest, now, total = max(largest, taken + step.scratch), now + taken, total + taken
        peak = max(peak, now)
        now -= step.scratch
        for name in kept[place]:
            now -= 0 if kinds[name].fixed else kinds[name].size * SIZES[kinds[name].dtype]
    for port in made.values():
        _check_kind(kinds[port.name], Value(port.name, dtypes[port.dtype], port.shape), point)
    for value in model.values:
        _check_kind(kinds[value.name], value, point)
    return _Sums(largest, peak, total, fixed, work)


def _at(shape: Sequence[int | str | None], point: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(point[axis] if isinstance(axis, str) else int(axis or 0) for axis in shape)


def _last_uses(model: Model) -> list[list[str]]:
    """For each node the values that nobody needs behind it; of outputs and constants none."""
    ends = {value.name for value in (*model.outputs, *model.inputs)} | {one.name for one in model.constants}
    found: list[list[str]] = [[] for _ in model.nodes]
    for place in range(len(model.nodes) - 1, -1, -1):
        node = model.nodes[place]
        for name in (*node.inputs, *node.outputs):
            if name and name not in ends:
                ends.add(name)
                found[place].append(name)
    return found


def _check_kind(kind: Kind, value: Value, point: Mapping[str, int]) -> None:
    """ValueError unless a value is of the type and shape that the file tells of it."""
    fits = kind.dtype == value.dtype
    if fits and value.dims is not None:
        fits = len(value.dims) == len(kind.shape) and all(
            size == (axis if isinstance(axis, int) else point.get(axis or "", size))
            for size, axis in zip(kind.shape, value.dims, strict=True)
        )
    if not fits:
        told = "" if value.dims is None else f" {tuple(str(axis)[:40] for axis in value.dims)!a}"
        raise ValueError(
            f"it tells that {value.name[:80]!r} is {TYPES[value.dtype]}{told}, and it is {TYPES[kind.dtype]} "
            f"{shown(kind.shape)}"
        )


# --- bounds ---------------------------------------------------------------------------------------------------------


class _Bounds(NamedTuple):
    """The most that a graph may take at some number of pictures and classes: bytes of one value, of constants, work."""

    value: int
    fixed: int
    work: int


def _bounds(model: Model, given: Mapping[str, Port], made: Mapping[str, Port], point: Mapping[str, int]) -> _Bounds:
    numbers = sum(math.prod(one.dims) for one in model.constants)
    held = sum(math.prod(one.dims) * SIZES[one.dtype] for one in model.constants)
    pictures = [port.shape for port in given.values() if port.name == PICTURES.name]
    pixels = min(int(pictures[0][1] or 0) * int(pictures[0][2] or 0), MOST_PIXELS) if pictures else 0
    ports = [port.shape for port in (*given.values(), *made.values()) if "C" not in port.shape]
    widths = 0 if pictures else sum(math.prod(axis for axis in shape if isinstance(axis, int)) for shape in ports)
    rows, classes = point["N"], point["C"] if "class_bias" in given else 0
    width = next((int(port.shape[1] or 0) for port in given.values() if port.name == HEAD_INPUTS[0]), 0)
    value = rows * (ROW + PIXEL * pixels + WIDTH * widths)
    value += NUMBERS_PER_CLASS * classes * (width + rows)
    work = rows * (WORK_ROW + WORK_PIXEL * pixels + WORK_WEIGHT * numbers)
    work += NUMBERS_PER_CLASS * classes * (width + 1) * rows
    return _Bounds(value, FIXED + FIXED_TIMES * held, work)


def _check_sums(found: _Sums, most: _Bounds) -> None:
    for what, taken, allowed in (
        ("a value of", found.largest, most.value),
        ("values at one moment of", found.peak, PEAK * most.value),
        ("values of", found.total, TOTAL * most.value),
        ("values that are always the same, of", found.fixed, most.fixed),
    ):
        if taken > allowed:
            raise ValueError(
                f"it makes {what} {taken / MIB:,.0f} MiB, where such a model takes at most {allowed / MIB:,.0f}"
            )
    if found.work > most.work:
        raise ValueError(f"it takes {found.work:.1e} multiplications, where such a model takes at most {most.work:.1e}")
