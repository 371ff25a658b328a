"""What the graphs of a bundle take and give: names, types and shapes, and the checks of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from zsl_runtime.errors import ArtefactError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from zsl_runtime.head.head import FoldedHead

HEAD_INPUTS = ("head_weight", "head_bias", "class_bias")
INPUTS = {  # of each graph; either set, where there are two
    "model": ({"images", *HEAD_INPUTS}, {"backbone_features", *HEAD_INPUTS}),
    "synthesizer": ({"semantic", "noise"},),
    "rows": ({"semantic"},),
    "means": ({"semantic"},),
    "lift": ({"features"},),
}
OUTPUTS = {
    "model": {"scores", "features"},
    "synthesizer": {"features"},
    "rows": {"weight", "bias"},
    "means": {"means"},
    "lift": {"lifted"},
}


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
    """One input of a loaded graph.

    Attributes:
        name: of the input.
        dtype: `uint8`, `float32`, or what else the library calls it.
        shape: an int for a fixed axis, a name (or None) for a free one.

    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


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
    """ArtefactError E-BUNDLE-GRAPH unless the graph's inputs and outputs are those of ARCHITECTURE.md, Graphs."""
    inputs, outputs = {port.name for port in graph.inputs}, set(graph.outputs)
    if inputs not in INPUTS[part] or outputs != OUTPUTS[part]:
        wanted = " or ".join(str(sorted(names)) for names in INPUTS[part])
        raise ArtefactError(
            "E-BUNDLE-GRAPH",
            f"{path!r} goes from {sorted(inputs)} to {sorted(outputs)}; expected {wanted} to {sorted(OUTPUTS[part])}; "
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
