"""One generation of a bundle: classes, head and what heads are made of, checked when it is read."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.bundle.manifest import (
    require,
)
from zsl_runtime.errors import ArtefactError, UsageError, listed
from zsl_runtime.head.class_table import ClassTable, check_holdable
from zsl_runtime.head.gaussian import ClassMeans
from zsl_runtime.head.head import Head, View
from zsl_runtime.machine.storage import (
    parse_tensors,
    tensor_bytes,
)
from zsl_runtime.machine.untrusted import parse_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Generation:
    """One immutable state of a bundle's classes and head.

    Attributes:
        number: 1 at export, then counting up.
        parent: the number of the generation that `undo` goes back to; 0 when there is none.
        table: C classes.
        head: of the same C classes.
        seed: with which the head was fitted; only recorded where nothing is fitted.
        action: what made it: export, add, teach, remove, undo or refit.
        parent_sha256: of the parent's file, so that going back is checked as well; empty when there is no parent.
        means: of the rule `gaussian`, what is known of each class; None by the other rules.

    """

    number: int
    parent: int
    table: ClassTable
    head: Head
    seed: int
    action: str
    parent_sha256: str = ""
    means: ClassMeans | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.table), len(self.head), *(() if self.means is None else (len(self.means),))}
        if len(self.table) == 0 or len(sizes) > 1 or not 0 <= self.parent < self.number:
            raise UsageError(
                "E-GENERATION",
                f"generation {self.number} with parent {self.parent}, {len(self.table)} classes, a head of "
                f"{len(self.head)}{'' if self.means is None else f' and {len(self.means)} means'}; expected at least "
                "one class, a head (and means) of the same size and 0 <= parent < number",
            )

    def to_bytes(self) -> bytes:
        """The safetensors file (docs/formats.md)."""
        tensors: dict[str, NDArray[Any]] = {"seen": self.table.seen.astype(np.uint8), "raw": self.table.raw}
        for k, (weight, bias) in enumerate(zip(self.head.weights, self.head.biases, strict=True)):
            tensors[f"head.{k}.weight"] = weight
            tensors[f"head.{k}.bias"] = bias
        if self.means is not None:
            tensors |= {f"means.{one.name}": getattr(self.means, one.name) for one in fields(ClassMeans)}
        metadata = {
            "number": str(self.number),
            "parent": str(self.parent),
            "parent_sha256": self.parent_sha256,
            "names": json.dumps(self.table.names, ensure_ascii=False),
            "attributes": json.dumps(self.table.attributes, ensure_ascii=False),
            "gamma": repr(float(self.head.gamma)),
            "temperature": repr(float(self.head.temperature)),
            "seed": str(self.seed),
            "action": self.action,
        }
        return tensor_bytes(tensors, metadata)

    @classmethod
    def from_bytes(cls, data: bytes, views: Sequence[View], *, where: str) -> Generation:
        """Read what `to_bytes` wrote.

        Args:
            data: the whole file.
            views: the K views of the head; they are in the manifest (or the run), not in the file.
            where: file name for messages.

        Raises:
            ArtefactError: E-BUNDLE-GENERATION for anything `to_bytes` cannot have written with these views.

        """
        code = "E-BUNDLE-GENERATION"
        tensors, metadata = parse_tensors(data, code=code, where=where)
        try:
            names, attributes = _names(metadata["names"]), _names(metadata["attributes"])
            _check_writable(names, attributes)
            known = any(name.startswith("means.") for name in tensors)
            _check_tensors(tensors, _generation_layout(len(names), len(attributes), views, means=known))
            table = ClassTable(names, tensors["seen"].astype(np.bool_), tensors["raw"], attributes)
            head = Head(
                tuple(views),
                tuple(tensors[f"head.{k}.weight"] for k in range(len(views))),
                tuple(tensors[f"head.{k}.bias"] for k in range(len(views))),
                float(metadata["gamma"]),
                float(metadata["temperature"]),
            )
            return cls(
                number=int(metadata["number"]),
                parent=int(metadata["parent"]),
                table=table,
                head=head,
                seed=int(metadata["seed"]),
                action=metadata["action"],
                parent_sha256=metadata["parent_sha256"],
                means=ClassMeans(*(tensors[f"means.{one.name}"] for one in fields(ClassMeans))) if known else None,
            )
        except (KeyError, ValueError, UsageError) as error:
            reason = f"no {error} in its metadata" if isinstance(error, KeyError) else getattr(error, "message", error)
            raise ArtefactError(code, f"{where} is not a generation of this model: {reason}; export it again") from None


class Probe(NamedTuple):
    """A few inputs with what the exported model made of them under Generation 1.

    Attributes:
        pixels: (n, P, P, 3) uint8, or None (no pictures kept, or a model of feature vectors).
        inputs: (n, R, V) float32 of a model of feature vectors, or None.
        features: (n, F) float32.
        scores: (n, C) float32.
        top1: (n,) int64.

    """

    pixels: NDArray[np.uint8] | None
    inputs: NDArray[np.float32] | None
    features: NDArray[np.float32]
    scores: NDArray[np.float32]
    top1: NDArray[np.int64]

    def to_bytes(self) -> bytes:
        """The safetensors file."""
        return tensor_bytes({name: value for name, value in self._asdict().items() if value is not None}, {})

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Probe:
        """Read what `to_bytes` wrote; ArtefactError E-BUNDLE-PROBE for anything else."""
        code = "E-BUNDLE-PROBE"
        tensors, _ = parse_tensors(data, code=code, where=where)
        layout: dict[str, tuple[Any, tuple[int | None, ...]]] = {
            "features": (np.float32, (None, None)),
            "scores": (np.float32, (None, None)),
            "top1": (np.int64, (None,)),
        }
        if "pixels" in tensors:
            layout["pixels"] = (np.uint8, (None, None, None, 3))
        if "inputs" in tensors:
            layout["inputs"] = (np.float32, (None, None, None))
        try:
            _check_tensors(tensors, layout)
        except ValueError as error:
            raise ArtefactError(code, f"{where}: {error}; export it again") from None
        if len({len(array) for array in tensors.values()}) != 1:
            raise ArtefactError(code, f"the tensors of {where} have different numbers of rows; export it again")
        return cls(tensors.get("pixels"), tensors.get("inputs"), *(tensors[k] for k in ("features", "scores", "top1")))


def _names(text: str) -> tuple[str, ...]:
    """Different strings from their JSON list."""
    names = parse_names(text)
    require(len(set(names)) == len(names), "names are not unique")
    return names


def _check_writable(names: Sequence[str], attributes: Sequence[str]) -> None:
    """Hold names to what may be one: they go to terminals and files. UsageError, or ValueError for attributes."""
    stored = [check_holdable(name) for name in names]
    require(len(set(stored)) == len(stored), "names are not unique")
    odd = [name for name in attributes if any(letter < " " and letter not in "\t\n\v\f\r" for letter in name)]
    require(not odd, f"attributes are called {listed(odd)}")


def _generation_layout(
    count: int, attributes: int, views: Sequence[View], *, means: bool
) -> dict[str, tuple[Any, tuple[int | None, ...]]]:
    layout: dict[str, tuple[Any, tuple[int | None, ...]]] = {
        "seen": (np.uint8, (count,)),
        "raw": (np.float64, (count, attributes)),
    }
    for k, view in enumerate(views):
        layout[f"head.{k}.weight"] = (np.float32, (count, view.stop - view.start))
        layout[f"head.{k}.bias"] = (np.float32, (count,))
    if means:
        width = max(view.stop for view in views)
        layout |= {
            "means.prior": (np.float32, (count, width)),
            "means.counts": (np.int64, (count,)),
            "means.totals": (np.float64, (None, width)),
        }
    return layout


def _check_tensors(
    tensors: Mapping[str, NDArray[Any]], layout: Mapping[str, tuple[Any, tuple[int | None, ...]]]
) -> None:
    """ValueError unless the tensors are exactly those of the layout, and finite; None in a shape is any length."""
    require(set(tensors) == set(layout), f"the tensors are {sorted(tensors)}, expected {sorted(layout)}")
    for name, (dtype, shape) in layout.items():
        array = tensors[name]
        fits = array.ndim == len(shape) and all(b in {None, a} for a, b in zip(array.shape, shape, strict=True))
        text = f"{name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        require(array.dtype == dtype and fits, text.replace("None", "any"))
        require(np.isfinite(array).all(), f"{name} holds NaN or infinity")
