"""What the graphs of a bundle take and give: names, types and shapes, and the checks of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from zsl_runtime.bundle.manifest import MODEL_INPUTS
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.graphs.parts import EXPLAIN

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.head.head import FoldedHead

HEAD_INPUTS = ("head_weight", "head_bias", "class_bias")


class InputPort(NamedTuple):
    """What the model graph takes.

    Attributes:
        name: `images` or `backbone_features`.
        dtype: `uint8` or `float32`.
        shape: of one row: (P, P, 3) or (R, V).

    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class Port(NamedTuple):
    """One named input or output of a graph.

    Attributes:
        name: in the ONNX file.
        dtype: `uint8`, `float32`, or what else a library calls it.
        shape: an int for a fixed axis; for a free one its letter (N pictures, C classes, M rows of anything else), or
            another name or None, as whoever loaded the graph tells.

    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Ports(NamedTuple):
    """All inputs and outputs of a graph, in its order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


PICTURES = Port("images", "uint8", ("N", 0, 0, 3))  # of no size in particular
_NO_DIMS = dict.fromkeys("FDAZ", 0)


def contract(part: str, dims: Mapping[str, int], given: Port = PICTURES) -> Ports:
    """What the graph of a part takes and gives: the one statement of it, for export, backends and engines.

    Args:
        part: one of `zsl_runtime.graphs.parts.PARTS`, or EXPLAIN.
        dims: F (features), D (lifted), A (attributes), Z (noise); of EXPLAIN also R (regions).
        given: of `model` and EXPLAIN, what they take: `images` uint8 (N, P, P, 3) or `backbone_features` float32
            (N, R, V).

    """
    f, d, a, z = (dims[letter] for letter in "FDAZ")
    features, semantic = _floats("features", "M", f), _floats("semantic", "M", a)
    match part:
        case "model":
            head = _floats("head_weight", "C", d), _floats("head_bias", "C"), _floats("class_bias", "C")
            return Ports((given, *head), (_floats("scores", "N", "C"), _floats("features", "N", f)))
        case "means":
            return Ports((semantic,), (_floats("means", "M", d),))
        case "synthesizer":
            return Ports((semantic, _floats("noise", "M", z)), (features,))
        case "rows":
            return Ports((semantic,), (_floats("weight", "M", d), _floats("bias", "M")))
        case "lift":
            return Ports((features,), (_floats("lifted", "M", d),))
        case "explain":
            return Ports((given,), (_floats("maps", "N", a, dims.get("R", 0)),))
        case _:
            raise AssertionError(part)


def _floats(name: str, *shape: int | str) -> Port:
    return Port(name, "float32", shape)


def ports_of(bundle: Bundle, part: str) -> Ports:
    """The contract of a graph of this bundle, from the manifest alone."""
    given, dims = bundle.manifest["input"], bundle.manifest["dims"] | {"R": bundle.regions}
    return contract(part, dims, Port(given["name"], given["dtype"], ("N", *given["shape"][1:])))


def output_names(part: str) -> tuple[str, ...]:
    """Names of the outputs of a part's graph, in order."""
    return tuple(port.name for port in contract(part, _NO_DIMS).outputs)


class Ported(Protocol):
    """Something with inputs and outputs."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> Collection[str]:
        """Names of what it gives."""
        ...


def check_head(head: FoldedHead) -> None:
    """UsageError E-INPUT-ARRAY unless weight and biases are of the same number of classes."""
    common_length("model", dict(zip(HEAD_INPUTS, (head.weight, head.bias, head.class_bias), strict=True)))


def common_length(part: str, arrays: Mapping[str, NDArray[Any]]) -> int:
    """The number of rows that these inputs have in common; UsageError E-INPUT-ARRAY when it is not one number."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise UsageError("E-INPUT-ARRAY", f"inputs of the {part} graph have different lengths: {lengths}")
    return next(iter(lengths.values()))


def check_ports(part: str, graph: Ported, path: str) -> None:
    """ArtefactError E-BUNDLE-GRAPH unless the graph has the inputs and outputs of its part's `contract`."""
    inputs, outputs = sorted(port.name for port in graph.inputs), sorted(graph.outputs)
    kinds = [PICTURES]
    if part in {"model", EXPLAIN}:
        kinds = [Port(name, dtype, ("N",)) for name, dtype in MODEL_INPUTS.items()]
    either = [sorted(port.name for port in contract(part, _NO_DIMS, given).inputs) for given in kinds]
    if inputs not in either or outputs != sorted(output_names(part)):
        wanted = " or ".join(str(names) for names in either)
        raise ArtefactError(
            "E-BUNDLE-GRAPH",
            f"{path!r} goes from {inputs} to {outputs}; expected {wanted} to {sorted(output_names(part))}; "
            "export the model again",
        )


def check_array(port: Port, array: object, known: Collection[str] = ("class_bias",)) -> None:
    """UsageError E-INPUT-ARRAY unless `array` is what the graph declares for `port`; `known` ones may be infinite."""
    given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != port.dtype
        or len(array) == 0
        or len(array.shape) != len(port.shape)
        or any(isinstance(axis, int) and axis != size for axis, size in zip(port.shape, array.shape, strict=True))
    ):
        wanted = ", ".join(str(axis) for axis in port.shape)
        raise UsageError(
            "E-INPUT-ARRAY", f"{port.name} is {given}; expected {port.dtype} ({wanted}) with at least one row"
        )
    # A class filter puts -inf into class_bias; everywhere else it would only surface as NaN in every score. Of a head
    # that has been looked at: ten thousand rows take longer to look at than to multiply.
    if port.dtype == "float32" and port.name not in known and not np.isfinite(array).all():
        raise UsageError("E-INPUT-ARRAY", f"{port.name} holds NaN or infinity; expected finite numbers")
