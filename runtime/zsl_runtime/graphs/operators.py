"""The operators of our graphs: what each may be given, and of what size its answer is.

A table of what the exports write, and no more: an export that needs another one fails (`zsl_export.to_onnx.check`), and
tests/export/test_methods.py exports every method. Of each: how many inputs, which attributes with which values, and a
function from the kinds of its inputs to those of its outputs. All sizes are numbers here, at some number of pictures
and classes; whoever asks does so at two. Where a library reads something from an attribute or a constant (axes, a
shape, borders), it is looked at, so that none meets what it was never tried with. (onnx.ai/onnx/operators, set 20)
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from zsl_runtime.graphs.onnx_file import FLOAT, FLOAT16, INT8, INT32, INT64, MOST_AXES, TYPES, UINT8

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zsl_runtime.graphs.onnx_file import Attribute, Node, Tensor

FLOATS = frozenset({FLOAT, FLOAT16})
NUMBERS = frozenset(TYPES)
MOST_SIZES = 64  # of a constant that is read as sizes, axes or places
MOST_PLACES = 1 << 16  # of the indices of GatherND
LARGEST = 1 << 40  # of a size, however it comes about


class Kind(NamedTuple):
    """What is known of a value.

    Attributes:
        dtype: a key of TYPES.
        shape: its sizes.
        numbers: the values themselves, of small int64 ones that do not depend on what is computed.
        fixed: it depends on constants alone.
        tensor: the constant that it is.

    """

    dtype: int
    shape: tuple[int, ...]
    numbers: tuple[int, ...] | None = None
    fixed: bool = False
    tensor: Tensor | None = None

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


class Made(NamedTuple):
    """What an operator gives.

    Attributes:
        outputs: their kinds.
        work: multiplications, or readings of numbers.
        scratch: bytes that a library may need meanwhile.

    """

    outputs: tuple[Kind, ...]
    work: int
    scratch: int = 0


Given: TypeAlias = "Sequence[Kind | None]"  # None where an optional input is left out
Infer: TypeAlias = "Callable[[Node, Given], Made]"
Rule: TypeAlias = "Callable[[Attribute], bool]"  # whether an attribute may have this value


class Operator(NamedTuple):
    """One line of the table.

    Attributes:
        infer: kinds of the inputs -> of the outputs; ValueError for what does not fit.
        least: inputs that must be there.
        most: inputs that may be.
        attributes: name -> which values.
        required: attributes that must be there.
        gaps: an optional input may be left out before another.

    """

    infer: Infer
    least: int
    most: int
    attributes: Mapping[str, Rule]
    required: frozenset[str] = frozenset()
    gaps: bool = False


def infer(node: Node, given: Given) -> Made:
    """What a node gives for inputs of these kinds; ValueError where it may not stand in a graph of ours."""
    operator = OPERATORS.get(node.op)
    if operator is None:
        raise ValueError(f"operator {node.op[:80]!r} is in no graph of ours")
    if not operator.least <= len(given) <= operator.most:
        raise ValueError(f"{node.op} has {len(given)} inputs, expected {operator.least} to {operator.most}")
    if any(kind is None for kind in (given[: operator.least] if operator.gaps else given)):
        raise ValueError(f"{node.op} has an input that is left out")
    for name, value in node.attributes.items():
        rule = operator.attributes.get(name)
        if rule is None or not rule(value):
            raise ValueError(f"{node.op} has {name[:80]!r} {str(value)[:80]!r}, as in no graph of ours")
    missing = operator.required - set(node.attributes)
    if missing:
        raise ValueError(f"{node.op} has no {', '.join(sorted(missing))}")
    made = operator.infer(node, given)
    if len(made.outputs) != len(node.outputs):
        raise ValueError(f"{node.op} has {len(node.outputs)} outputs, expected {len(made.outputs)}")
    for kind in made.outputs:
        if len(kind.shape) > MOST_AXES or any(not 1 <= size <= LARGEST for size in kind.shape):
            raise ValueError(f"{node.op} gives something of the shape {shown(kind.shape)}")
    return made


def shown(shape: Sequence[int]) -> str:
    """A shape in a message."""
    return f"({', '.join(str(size) if size <= LARGEST else 'huge' for size in shape[:8])})"


# --- attributes -----------------------------------------------------------------------------------------------------


def _whole(low: int, high: int) -> Rule:
    return lambda value: type(value) is int and low <= value <= high


def _one_of(*words: bytes | int) -> Rule:
    return lambda value: type(value) in {bytes, int} and value in words


def _list_of(low: int, high: int, lengths: Sequence[int]) -> Rule:
    return lambda value: type(value) is tuple and len(value) in lengths and all(low <= one <= high for one in value)


def _finite(value: Attribute) -> bool:
    return type(value) is float and math.isfinite(value)


_AXIS = _whole(-MOST_AXES, MOST_AXES)
_FLAG = _one_of(0, 1)
_SIDE = 64  # of a kernel; ours have 7
_LEAST_SCALE = 1e-36  # one part of it is a number, too; ours have 1e-32 where nothing varies
_WINDOW: dict[str, Rule] = {
    "auto_pad": _one_of(b"NOTSET"),
    "dilations": _list_of(1, 1, (2,)),
    "kernel_shape": _list_of(1, _SIDE, (2,)),
    "pads": _list_of(0, _SIDE, (4,)),
    "strides": _list_of(1, _SIDE, (2,)),
}


def _number(node: Node, name: str, default: int) -> int:
    value = node.attributes.get(name, default)
    assert isinstance(value, int)
    return value


def _numbers(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = node.attributes.get(name, default)
    assert isinstance(value, tuple)
    return value


def _axis(axis: int, rank: int, op: str) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise ValueError(f"{op} names axis {axis} of {rank}")
    return axis % rank


def _axes(axes: Sequence[int], rank: int, op: str) -> tuple[int, ...]:
    """Axes counted from the front, ascending, each once."""
    found = sorted(_axis(axis, rank, op) for axis in axes)
    if not found or len(set(found)) != len(found):
        raise ValueError(f"{op} names the axes {shown(axes)}")
    return tuple(found)


# --- inputs ---------------------------------------------------------------------------------------------------------


def _there(given: Given, at: int) -> Kind:
    kind = given[at]
    assert kind is not None  # `infer` looked
    return kind


def _of(kind: Kind, dtypes: frozenset[int], op: str) -> Kind:
    if kind.dtype not in dtypes:
        raise ValueError(f"{op} is given {TYPES[kind.dtype]}")
    return kind


def _told(given: Given, at: int, op: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Numbers that are known before anything is computed: a constant list, or sizes of another value."""
    kind = given[at] if at < len(given) else None
    if kind is None:
        if default is None:
            raise ValueError(f"{op} is not told what it needs to know")
        return default
    if kind.numbers is None or len(kind.shape) != 1 or not kind.numbers:
        raise ValueError(f"{op} depends on numbers that are not a short list of constants")
    return kind.numbers


def _alike(given: Given, op: str, dtypes: frozenset[int] = FLOATS) -> list[Kind]:
    """All inputs, of one type."""
    kinds = [_of(_there(given, at), dtypes, op) for at in range(len(given))]
    if len({kind.dtype for kind in kinds}) != 1:
        raise ValueError(f"{op} is given {' and '.join(TYPES[kind.dtype] for kind in kinds)}")
    return kinds


def _fixed(given: Given) -> bool:
    return all(kind is None or kind.fixed for kind in given)


def _broadcast(shapes: Sequence[tuple[int, ...]], op: str) -> tuple[int, ...]:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    found = []
    for sizes in zip(*padded, strict=True):
        wanted = {size for size in sizes if size != 1}
        if len(wanted) > 1:
            raise ValueError(f"{op} is given the shapes {' and '.join(map(shown, shapes))}")
        found.append(wanted.pop() if wanted else 1)
    return tuple(found)


def _one(given: Given, dtype: int, shape: tuple[int, ...], work: int | None = None, scratch: int = 0) -> Made:
    kind = Kind(dtype, shape, fixed=_fixed(given))
    return Made((kind,), kind.size if work is None else work, scratch)


# --- numbers one by one ---------------------------------------------------------------------------------------------


def _unary(node: Node, given: Given) -> Made:
    x = _of(_there(given, 0), FLOATS, node.op)
    return _one(given, x.dtype, x.shape)


def _identity(_: Node, given: Given) -> Made:
    x = _there(given, 0)
    return Made((x._replace(tensor=None),), x.size)


def _elementwise(node: Node, given: Given) -> Made:
    kinds = _alike(given, node.op)
    return _one(given, kinds[0].dtype, _broadcast([kind.shape for kind in kinds], node.op))


def _clip(node: Node, given: Given) -> Made:
    x = _of(_there(given, 0), FLOATS, node.op)
    limits = [-math.inf, math.inf]
    for at, limit in enumerate(given[1:]):
        if limit is not None:
            if limit.dtype != x.dtype or limit.shape != () or limit.tensor is None:
                raise ValueError("Clip has a limit that is no constant number of its type")
            limits[at] = float(limit.tensor.floats()[0])
    if not limits[0] <= limits[1]:
        raise ValueError(f"Clip has the limits {limits[0]:g} and {limits[1]:g}")
    return _one(given, x.dtype, x.shape)


def _cast(node: Node, given: Given) -> Made:
    x = _there(given, 0)
    return _one(given, _number(node, "to", 0), x.shape)


def _softmax(node: Node, given: Given) -> Made:
    x = _of(_there(given, 0), FLOATS, node.op)
    _axis(_number(node, "axis", -1), len(x.shape), node.op)
    return _one(given, x.dtype, x.shape, 4 * x.size)


def _quantize(node: Node, given: Given) -> Made:
    """QuantizeLinear and DequantizeLinear."""
    x, scale = _there(given, 0), _of(_there(given, 1), frozenset({FLOAT}), node.op)
    zero = given[2] if len(given) > 2 else None
    into = node.op == "QuantizeLinear"
    _of(x, frozenset({FLOAT}) if into else frozenset({UINT8, INT8, INT32}), node.op)
    dtype = UINT8 if zero is None else _of(zero, frozenset({UINT8, INT8, INT32}), node.op).dtype
    if into and dtype == INT32:
        raise ValueError("QuantizeLinear gives int32")
    if not into and zero is not None and dtype != x.dtype:
        raise ValueError(f"DequantizeLinear is given {TYPES[x.dtype]} and {TYPES[dtype]}")
    if scale.tensor is None or (zero is not None and (zero.tensor is None or zero.shape != scale.shape)):
        raise ValueError(f"{node.op} has a scale and a zero that are no constants of one shape")
    steps = scale.tensor.floats()
    if not ((steps >= _LEAST_SCALE) & (steps <= 1 / _LEAST_SCALE)).all():
        raise ValueError(f"{node.op} has a scale that is not above 0, or beyond any")
    if scale.shape not in {(), (1,)}:
        axis = _axis(_number(node, "axis", 1), len(x.shape), node.op)
        if scale.shape != (x.shape[axis],):
            raise ValueError(f"{node.op} has scales {shown(scale.shape)} for {shown(x.shape)}")
    return _one(given, dtype if into else FLOAT, x.shape)


# --- shapes ---------------------------------------------------------------------------------------------------------


def _transpose(node: Node, given: Given) -> Made:
    x, perm = _there(given, 0), _numbers(node, "perm", ())
    if sorted(perm) != list(range(len(x.shape))):
        raise ValueError(f"Transpose orders {len(x.shape)} axes as {shown(perm)}")
    return _one(given, x.dtype, tuple(x.shape[axis] for axis in perm))


def _reshape(node: Node, given: Given) -> Made:
    x, wanted = _there(given, 0), list(_told(given, 1, node.op))
    if len(wanted) > MOST_AXES or wanted.count(-1) > 1 or any(size < -1 for size in wanted):
        raise ValueError(f"Reshape makes the shape {shown(wanted)}")
    if not _number(node, "allowzero", 0):
        if any(size == 0 and at >= len(x.shape) for at, size in enumerate(wanted)):
            raise ValueError(f"Reshape makes the shape {shown(wanted)} of {shown(x.shape)}")
        wanted = [x.shape[at] if size == 0 else size for at, size in enumerate(wanted)]
    if -1 in wanted:
        rest = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = x.size // rest if rest else 0
    if math.prod(wanted) != x.size or 0 in wanted:
        raise ValueError(f"Reshape makes the shape {shown(wanted)} of {shown(x.shape)}")
    return Made((Kind(x.dtype, tuple(wanted), x.numbers, x.fixed),), x.size)


def _flatten(node: Node, given: Given) -> Made:
    x, axis = _there(given, 0), _number(node, "axis", 1)
    if not -len(x.shape) <= axis <= len(x.shape):
        raise ValueError(f"Flatten names axis {axis} of {len(x.shape)}")
    axis = axis + len(x.shape) if axis < 0 else axis
    return _one(given, x.dtype, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _squeeze(node: Node, given: Given) -> Made:
    x = _there(given, 0)
    axes = _axes(_told(given, 1, node.op), len(x.shape), node.op)
    if any(x.shape[axis] != 1 for axis in axes):
        raise ValueError(f"Squeeze takes the axes {shown(axes)} out of {shown(x.shape)}")
    shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    return Made((Kind(x.dtype, shape, x.numbers, x.fixed),), x.size)


def _unsqueeze(node: Node, given: Given) -> Made:
    x, axes = _there(given, 0), _told(given, 1, node.op)
    rank = len(x.shape) + len(axes)
    axes = _axes(axes, rank, node.op)
    left = iter(x.shape)
    shape = tuple(1 if axis in axes else next(left) for axis in range(rank))
    return Made((Kind(x.dtype, shape, x.numbers, x.fixed),), x.size)


def _concat(node: Node, given: Given) -> Made:
    kinds = _alike(given, node.op, FLOATS | {INT64})
    axis = _axis(_number(node, "axis", 0), len(kinds[0].shape), node.op)
    rests = {kind.shape[:axis] + kind.shape[axis + 1 :] for kind in kinds}
    if len({len(kind.shape) for kind in kinds}) != 1 or len(rests) != 1:
        raise ValueError(f"Concat is given the shapes {' and '.join(shown(kind.shape) for kind in kinds[:5])}")
    first = kinds[0].shape
    shape = (*first[:axis], sum(kind.shape[axis] for kind in kinds), *first[axis + 1 :])
    lists = [kind.numbers for kind in kinds if kind.numbers is not None and len(kind.shape) == 1]
    numbers = tuple(one for numbers in lists for one in numbers) if len(lists) == len(kinds) else None
    kind = Kind(kinds[0].dtype, shape, numbers if numbers and len(numbers) <= MOST_SIZES else None, _fixed(given))
    return Made((kind,), kind.size)


def _slice(node: Node, given: Given) -> Made:
    x = _there(given, 0)
    starts, ends = _told(given, 1, node.op), _told(given, 2, node.op)
    axes = _told(given, 3, node.op, tuple(range(len(starts))))
    steps = _told(given, 4, node.op, (1,) * len(starts))
    places = [_axis(axis, len(x.shape), node.op) for axis in axes]
    lengths = {len(starts), len(ends), len(axes), len(steps)}
    if len(lengths) != 1 or len(set(places)) != len(places) or any(step < 1 for step in steps):
        raise ValueError(f"Slice takes the axes {shown(axes)} in steps of {shown(steps)}")
    shape = list(x.shape)
    for axis, start, end, step in zip(places, starts, ends, steps, strict=True):
        shape[axis] = len(range(*slice(start, end, step).indices(x.shape[axis])))
    return _one(given, x.dtype, tuple(shape))


def _split(node: Node, given: Given) -> Made:
    x = _there(given, 0)
    axis = _axis(_number(node, "axis", 0), len(x.shape), node.op)
    size, parts = x.shape[axis], len(node.outputs)
    if len(given) > 1:
        sizes = _told(given, 1, node.op)
    else:
        if _number(node, "num_outputs", 0) != parts or size % parts:
            raise ValueError(f"Split makes {parts} parts of {size}")
        sizes = (size // parts,) * parts
    if len(sizes) != parts or sum(sizes) != size or min(sizes) < 1:
        raise ValueError(f"Split makes parts of {shown(sizes)} of {size}")
    made = tuple(Kind(x.dtype, (*x.shape[:axis], one, *x.shape[axis + 1 :]), fixed=x.fixed) for one in sizes)
    return Made(made, x.size)


def _shape(node: Node, given: Given) -> Made:
    x = _there(given, 0)
    sizes = x.shape[slice(_number(node, "start", 0), _number(node, "end", len(x.shape)))]
    return Made((Kind(INT64, (len(sizes),), sizes, fixed=x.fixed),), 1)


def _expand(node: Node, given: Given) -> Made:
    x, wanted = _there(given, 0), _told(given, 1, node.op)
    if any(size < 1 for size in wanted):
        raise ValueError(f"Expand makes the shape {shown(wanted)}")
    return _one(given, x.dtype, _broadcast([x.shape, wanted], node.op))


def _gather(node: Node, given: Given) -> Made:
    x, places = _there(given, 0), _there(given, 1)
    axis = _axis(_number(node, "axis", 0), len(x.shape), node.op)
    if places.numbers is None or not all(-x.shape[axis] <= one < x.shape[axis] for one in places.numbers):
        raise ValueError(f"Gather takes places that are not known to be among {x.shape[axis]}")
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    sizes = x.numbers
    taken = None if sizes is None or len(x.shape) != 1 else tuple(sizes[at] for at in places.numbers)
    kind = Kind(x.dtype, shape, taken, _fixed(given))
    return Made((kind,), kind.size)


def _gather_nd(_: Node, given: Given) -> Made:
    x, places = _there(given, 0), _there(given, 1)
    width = places.shape[-1] if places.shape else 0
    if places.numbers is None or not 1 <= width <= len(x.shape):
        raise ValueError("GatherND takes places that are no constants")
    for axis in range(width):
        if not all(-x.shape[axis] <= one < x.shape[axis] for one in places.numbers[axis::width]):
            raise ValueError(f"GatherND takes places beyond {shown(x.shape)}")
    return _one(given, x.dtype, (*places.shape[:-1], *x.shape[width:]))


def _pad(node: Node, given: Given) -> Made:
    x, pads = _of(_there(given, 0), FLOATS, node.op), _told(given, 1, node.op)
    value = given[2] if len(given) > 2 else None
    rank = len(x.shape)
    if len(pads) != 2 * rank or any(not 0 <= one <= _SIDE for one in pads):
        raise ValueError(f"Pad adds {shown(pads)} to {shown(x.shape)}")
    if value is not None and (value.dtype != x.dtype or value.shape not in {(), (1,)} or value.tensor is None):
        raise ValueError("Pad fills with what is no constant number of its type")
    return _one(given, x.dtype, tuple(pads[at] + size + pads[at + rank] for at, size in enumerate(x.shape)))


# --- sums -----------------------------------------------------------------------------------------------------------


def _reduce(node: Node, given: Given) -> Made:
    x = _of(_there(given, 0), FLOATS, node.op)
    axes = _axes(_told(given, 1, node.op), len(x.shape), node.op)
    keep = _number(node, "keepdims", 1)
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
    return _one(given, x.dtype, tuple(shape), x.size)


def _matmul(node: Node, given: Given) -> Made:
    a, b = _alike(given, node.op)
    if min(len(a.shape), len(b.shape)) < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"MatMul is given the shapes {shown(a.shape)} and {shown(b.shape)}")
    shape = (*_broadcast([a.shape[:-2], b.shape[:-2]], node.op), a.shape[-2], b.shape[-1])
    return _one(given, a.dtype, shape, math.prod(shape) * a.shape[-1])


def _gemm(node: Node, given: Given) -> Made:
    kinds = _alike(given, node.op)
    a, b = (kind.shape for kind in kinds[:2])
    if len(a) != 2 or len(b) != 2:
        raise ValueError(f"Gemm is given the shapes {shown(a)} and {shown(b)}")
    a = a[::-1] if _number(node, "transA", 0) else a
    b = b[::-1] if _number(node, "transB", 0) else b
    shape = (a[0], b[1])
    if a[1] != b[0] or any(_broadcast([kind.shape, shape], node.op) != shape for kind in kinds[2:]):
        raise ValueError(f"Gemm is given the shapes {' and '.join(shown(kind.shape) for kind in kinds)}")
    return _one(given, kinds[0].dtype, shape, math.prod(shape) * a[1])


_EQUATION = re.compile(rb"([a-z]{1,6}),([a-z]{1,6})->([a-z]{1,6})")


def _einsum(node: Node, given: Given) -> Made:
    kinds = _alike(given, node.op)
    equation = node.attributes["equation"]
    match = _EQUATION.fullmatch(equation) if isinstance(equation, bytes) else None
    assert match is not None  # the rule of the attribute
    sizes: dict[int, int] = {}
    for letters, kind in zip(match.groups(), kinds, strict=False):
        if len(letters) != len(kind.shape):
            raise ValueError(f"Einsum is given the shape {shown(kind.shape)}")
        for letter, size in zip(letters, kind.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"Einsum is given {size} and {sizes[letter]} for one letter")
    if not set(match[3]) <= set(sizes):
        raise ValueError("Einsum gives a letter that it is not given")
    shape = tuple(sizes[letter] for letter in match[3])
    copies = 4 * sum(kind.size for kind in kinds)  # its inputs in another order
    return _one(given, kinds[0].dtype, shape, math.prod(sizes.values()), copies)


def _is_equation(value: Attribute) -> bool:
    match = _EQUATION.fullmatch(value) if isinstance(value, bytes) else None
    return match is not None and all(len(set(letters)) == len(letters) for letters in match.groups())


# --- pictures -------------------------------------------------------------------------------------------------------


def _window(node: Node, shape: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width behind a window that is moved over (N, V, height, width)."""
    pads, strides = _numbers(node, "pads", (0,) * 4), _numbers(node, "strides", (1,) * 2)
    sizes = tuple((shape[2 + at] + pads[at] + pads[2 + at] - kernel[at]) // strides[at] + 1 for at in range(2))
    if any(pads[at] >= kernel[at % 2] for at in range(4) if pads[at]) or min(sizes) < 1:
        raise ValueError(f"{node.op} moves a window {shown(kernel)} with borders {shown(pads)} over {shown(shape)}")
    return sizes


def _conv(node: Node, given: Given) -> Made:
    kinds = _alike(given, node.op)
    x, weight = kinds[0].shape, kinds[1].shape
    groups = _number(node, "group", 1)
    if len(x) != 4 or len(weight) != 4 or not kinds[1].fixed:
        raise ValueError(f"Conv is given the shapes {shown(x)} and {shown(weight)}")
    kernel = _numbers(node, "kernel_shape", weight[2:])
    fits = weight[1] * groups == x[1] and weight[0] % groups == 0 and kernel == weight[2:] and max(kernel) <= _SIDE
    if not fits or any(kind.shape != weight[:1] or not kind.fixed for kind in kinds[2:]):
        raise ValueError(f"Conv in {groups} groups is given {' and '.join(shown(kind.shape) for kind in kinds)}")
    height, width = _window(node, x, kernel)
    taps = math.prod(weight[1:])
    # One picture's windows side by side, as libraries without a kernel of their own do.
    unrolled = 0 if math.prod(kernel) == 1 else 4 * taps * height * width
    return _one(
        given, kinds[0].dtype, (x[0], weight[0], height, width), x[0] * weight[0] * height * width * taps, unrolled
    )


def _max_pool(node: Node, given: Given) -> Made:
    x = _of(_there(given, 0), FLOATS | {UINT8, INT8}, node.op)
    if len(x.shape) != 4:
        raise ValueError(f"MaxPool is given the shape {shown(x.shape)}")
    kernel = _numbers(node, "kernel_shape", ())
    shape = (*x.shape[:2], *_window(node, x.shape, kernel))
    return _one(given, x.dtype, shape, math.prod(shape) * math.prod(kernel))


def _global_pool(node: Node, given: Given) -> Made:
    x = _of(_there(given, 0), FLOATS, node.op)
    if len(x.shape) != 4:
        raise ValueError(f"{node.op} is given the shape {shown(x.shape)}")
    return _one(given, x.dtype, (*x.shape[:2], 1, 1), x.size)


_REDUCE = Operator(_reduce, 2, 2, {"keepdims": _FLAG, "noop_with_empty_axes": _one_of(0)})
_UNARY = Operator(_unary, 1, 1, {})
_ELEMENTWISE = Operator(_elementwise, 2, 2, {})
_SOFTMAX = Operator(_softmax, 1, 1, {"axis": _AXIS})
_QUANTIZE = Operator(_quantize, 2, 3, {"axis": _AXIS})
_GEMM_RULES: dict[str, Rule] = {"alpha": _finite, "beta": _finite, "transA": _FLAG, "transB": _FLAG}

OPERATORS: dict[str, Operator] = {
    "Add": _ELEMENTWISE,
    "Cast": Operator(_cast, 1, 1, {"to": _one_of(FLOAT, FLOAT16)}, frozenset({"to"})),
    "Clip": Operator(_clip, 1, 3, {}, gaps=True),
    "Concat": Operator(_concat, 1, 64, {"axis": _AXIS}, frozenset({"axis"})),
    "Conv": Operator(_conv, 2, 3, {**_WINDOW, "group": _whole(1, 1 << 16)}),
    "DequantizeLinear": _QUANTIZE,
    "Div": _ELEMENTWISE,
    "Einsum": Operator(_einsum, 2, 2, {"equation": _is_equation}, frozenset({"equation"})),
    "Exp": _UNARY,
    "Expand": Operator(_expand, 2, 2, {}),
    "Flatten": Operator(_flatten, 1, 1, {"axis": _AXIS}),
    "Gather": Operator(_gather, 2, 2, {"axis": _AXIS}),
    "GatherND": Operator(_gather_nd, 2, 2, {"batch_dims": _one_of(0)}),
    "Gemm": Operator(_gemm, 2, 3, _GEMM_RULES),
    "GlobalAveragePool": Operator(_global_pool, 1, 1, {}),
    "Identity": Operator(_identity, 1, 1, {}),
    "LeakyRelu": Operator(_unary, 1, 1, {"alpha": _finite}),
    "LogSoftmax": _SOFTMAX,
    "MatMul": Operator(_matmul, 2, 2, {}),
    "MaxPool": Operator(
        _max_pool, 1, 1, {**_WINDOW, "ceil_mode": _one_of(0), "storage_order": _one_of(0)}, frozenset({"kernel_shape"})
    ),
    "Mul": _ELEMENTWISE,
    "Neg": _UNARY,
    "Pad": Operator(_pad, 2, 3, {"mode": _one_of(b"constant")}),
    "Pow": _ELEMENTWISE,
    "QuantizeLinear": _QUANTIZE,
    "ReduceL2": _REDUCE,
    "ReduceMean": _REDUCE,
    "ReduceSum": _REDUCE,
    "Relu": _UNARY,
    "Reshape": Operator(_reshape, 2, 2, {"allowzero": _FLAG}),
    "Shape": Operator(_shape, 1, 1, {"start": _AXIS, "end": _AXIS}),
    "Sigmoid": _UNARY,
    "Slice": Operator(_slice, 3, 5, {}),
    "Softmax": _SOFTMAX,
    "Split": Operator(_split, 1, 2, {"axis": _AXIS, "num_outputs": _whole(1, 64)}),
    "Squeeze": Operator(_squeeze, 2, 2, {}),
    "Sub": _ELEMENTWISE,
    "Transpose": Operator(
        _transpose, 1, 1, {"perm": _list_of(0, MOST_AXES, range(1, MOST_AXES + 1))}, frozenset({"perm"})
    ),
    "Unsqueeze": Operator(_unsqueeze, 2, 2, {}),
}
