"""What one call works with, and what it says of each picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.graphs.answers import Best
from zsl_runtime.head.head import FoldedHead, best_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.bundle.generation import Generation
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.distance import Distances, Found


Classes: TypeAlias = "str | Sequence[str]"
CLASS_FILTERS = ("all", "seen", "unseen")


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one picture, best first; none where it could not be read (`error`).

    Attributes:
        names: class names.
        seen: for each, whether the model was trained on photographs of it.
        probabilities: for each, in [0, 1]; over all classes that the filter let through they sum to 1.
        confident: of a cascade, whose labels are transductive: True when the first pass's label was kept and helped to
            label the others, False for the others. None outside a cascade.
        error: why the picture could not be read, after `errors="skip"`: there are no names then. Else None.
        distance: to the nearest of all classes, in standard deviations (`zsl_runtime.head.distance`); it need not be
            the first of `names`. None where the head is not Gaussian.
        far: whether that is farther than 99 % of the photographs were that training held out: unlike anything known.
            None where that is not known.

    """

    names: tuple[str, ...]
    seen: tuple[bool, ...]
    probabilities: tuple[float, ...]
    confident: bool | None = None
    error: InputError | None = None
    distance: float | None = None
    far: bool | None = None


@dataclass(frozen=True)
class Snapshot:
    """What one call works with from its beginning to its end, whatever is reloaded meanwhile.

    Attributes:
        generation: classes and head as stored.
        head: folded, with a class filter or without.
        distances: tells how far pictures are from all classes, whatever the filter; None where the head is not
            Gaussian.

    """

    generation: Generation
    head: FoldedHead
    distances: Distances | None = None

    @property
    def table(self) -> ClassTable:
        """The classes; column j of the scores is row j."""
        return self.generation.table

    def only(self, classes: Classes) -> Snapshot:
        """The snapshot restricted to some classes.

        Args:
            classes: `all`, `seen`, `unseen`, or a sequence of class names.

        Raises:
            UsageError: E-FILTER (another word), E-CLASS-UNKNOWN, E-FILTER-EMPTY when no class is left.

        """
        if isinstance(classes, str) and classes == "all":
            return self
        return replace(self, head=self.head.only(self._keep(classes)))

    def _keep(self, classes: Classes) -> NDArray[np.bool_]:
        if isinstance(classes, str) or not hasattr(classes, "__iter__"):
            if classes not in CLASS_FILTERS:
                raise UsageError(
                    "E-FILTER",
                    f"class filter {classes!r}: expected {', '.join(CLASS_FILTERS)} or class names",
                )
            return self.table.seen if classes == "seen" else ~self.table.seen
        keep = np.zeros(len(self.table), dtype=np.bool_)
        keep[[self.table.index(name) for name in classes]] = True
        return keep

    def best(self, scores: Floats, topk: int, found: Found | None = None) -> list[Prediction]:
        """The `topk` best classes of each row of scores (N, C), or all that the filter leaves; ties in table order."""
        order = best_columns(scores, self.count(topk))  # (N, k)
        return self.named(Best(order, np.take_along_axis(scores, order, axis=1)), found)

    def count(self, topk: int) -> int:
        """`topk`, or as many classes as the filter leaves."""
        return min(topk, int(np.isfinite(self.head.class_bias).sum()))

    def named(self, best: Best, found: Found | None = None) -> list[Prediction]:
        """The classes of the best columns, with their probabilities; `found` is how far the pictures are."""
        probabilities = np.exp(best.scores.astype(np.float64))
        names, seen = self.table.names, self.table.seen.tolist()
        nothing = [None] * len(probabilities)
        distances = nothing if found is None else found.distances.tolist()
        far = nothing if found is None or found.far is None else found.far.tolist()
        return [
            Prediction(
                tuple(names[j] for j in row), tuple(seen[j] for j in row), tuple(chances), distance=distance, far=beyond
            )
            for row, chances, distance, beyond in zip(
                best.columns.tolist(), probabilities.tolist(), distances, far, strict=True
            )
        ]


class Labelled(NamedTuple):
    """One line of the answer."""

    name: str
    result: Prediction | InputError

    def prediction(self) -> Prediction:
        """The result; an error as a Prediction without names."""
        return self.result if isinstance(self.result, Prediction) else Prediction((), (), (), error=self.result)


class Scored(NamedTuple):
    """What the graph says about one batch.

    Attributes:
        entries: the items in input order, each with the error that it could not be read for, or None.
        scores: (n, C) float32 of the n items that could be read, in the same order.
        features: (n, F) float32; (0, 0) when none could be read, or nobody wants them.
        best: where the card has found them, the best classes of these items; then there are no scores.
        inputs: (n, ...) what the model was given, where that is wanted.

    """

    entries: list[tuple[str, InputError | None]]
    scores: Floats
    features: Floats
    best: Best | None = None
    inputs: NDArray[np.generic] | None = None

    @classmethod
    def fill(cls, entries: Iterable[tuple[str, InputError | None]], results: Iterable[Prediction]) -> list[Labelled]:
        """Put the results of the items that could be read in their places."""
        following = iter(results)
        return [Labelled(name, next(following) if error is None else error) for name, error in entries]
