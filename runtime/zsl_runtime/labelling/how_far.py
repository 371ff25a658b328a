"""How far labelled photographs are from the nearest class, and how well that tells what no class is from the rest."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.accuracy import auroc
from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.head.fitting import silent
from zsl_runtime.labelling.scoring import score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zsl_runtime.arrays import Advance, Bools, Doubles
    from zsl_runtime.head.distance import Found
    from zsl_runtime.labelling.model import Model
    from zsl_runtime.labelling.reading import ReadItem
    from zsl_runtime.labelling.snapshot import Snapshot


class Looks(NamedTuple):
    """What is kept of n photographs.

    Attributes:
        distance: (n,) to the nearest class, in standard deviations; NaN where the head does not tell.
        probability: (n,) of the best class.

    """

    distance: Doubles
    probability: Doubles

    @classmethod
    def of(cls, found: Found | None, probability: Doubles) -> Looks:
        """Of a batch."""
        return cls(np.full(len(probability), np.nan) if found is None else found.distances, probability)

    @classmethod
    def joined(cls, parts: Iterable[Looks]) -> Looks:
        """Of all batches."""
        return cls(*(np.concatenate([np.empty(0), *arrays]) for arrays in zip(*parts, strict=True)))

    def take(self, chosen: Bools) -> Looks:
        """Some of them."""
        return Looks(self.distance[chosen], self.probability[chosen])


class Group(NamedTuple):
    """Photographs of one kind.

    Attributes:
        photographs: how many, at least one.
        median: of their distances.
        far: how many are unlike anything known; None where that is not known.

    """

    photographs: int
    median: float
    far: int | None


@dataclass(frozen=True)
class HowFar:
    """How far photographs are from the nearest class.

    Attributes:
        beyond: what is farther is unlike anything known; None where that is not known.
        seen: photographs of seen classes; None where there are none, or the head does not tell.
        unseen: photographs of the other classes; likewise.
        unknown: photographs of what is no class of the bundle; likewise.
        by_distance: area under the ROC curve, in [0, 1]: how often an unknown photograph is farther away than one of a
            class; None without either, or where the head does not tell.
        by_probability: how often it has a less probable best class.

    """

    beyond: float | None
    seen: Group | None
    unseen: Group | None
    unknown: Group | None
    by_distance: float | None = None
    by_probability: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `zsl-eval --format json` writes it."""
        groups = {"seen": self.seen, "unseen": self.unseen, "unknown": self.unknown}
        return {**asdict(self), **{name: None if one is None else one._asdict() for name, one in groups.items()}}


def how_far(known: Looks, seen: Bools, unknown: Looks | None, beyond: float | None) -> HowFar | None:
    """What distances say; None where the head does not tell and nothing unknown was looked at.

    Args:
        known: n photographs of classes.
        seen: (n,) whether their classes are seen ones.
        unknown: of what is no class; None for none.
        beyond: what is farther is unlike anything known; None where that is not known.

    """
    nothing = Looks(np.empty(0), np.empty(0))
    strange = nothing if unknown is None else unknown
    told = not np.isnan(known.distance).any()
    if not told and unknown is None:
        return None

    def group(looks: Looks) -> Group | None:
        return _group(looks, beyond) if told else None

    return HowFar(
        beyond,
        group(known.take(seen)),
        group(known.take(~seen)),
        group(strange),
        by_distance=auroc(strange.distance, known.distance) if told else None,
        by_probability=auroc(-strange.probability, -known.probability),
    )


def _group(looks: Looks, beyond: float | None) -> Group | None:
    count = len(looks.distance)
    far = None if beyond is None else int((looks.distance > beyond).sum())
    return Group(count, float(np.median(looks.distance)), far) if count else None


def look_at(
    model: Model,
    snapshot: Snapshot,
    rows: Iterable[ReadItem],
    *,
    batch_size: int,
    advance: Advance = silent,
    tell: Callable[[InputError], None] = lambda _error: None,
) -> tuple[Looks, list[tuple[str, InputError]]]:
    """Look at photographs of what is no class.

    Args:
        model: scores.
        snapshot: of it, without a class filter.
        rows: what was read.
        batch_size: photographs in the graph at once.
        advance: called with a number of photographs that are done.
        tell: called with the error of each one that cannot be read, in order.

    Returns:
        What is kept of them, and name and error of each one that could not be read.

    Raises:
        UsageError: E-PHOTOS-EMPTY, none can be read; E-CLOSED.
        BackendError: E-BACKEND-RUN.

    """
    looks: list[Looks] = []
    unreadable: list[tuple[str, InputError]] = []
    with closing(score(model, snapshot, rows, batch_size=batch_size)) as scored:
        for batch in scored:
            errors = [(name, error) for name, error in batch.entries if error is not None]
            unreadable += errors
            for _, error in errors:
                tell(error)
            if len(batch.scores):
                chance = np.exp(batch.scores.max(axis=1).astype(np.float64))
                looks.append(Looks.of(model.measure(snapshot, batch.features), chance))
            advance(len(batch.entries))
    if not looks:
        first = f"; the first one: {unreadable[0][1]}" if unreadable else ""
        raise UsageError("E-PHOTOS-EMPTY", f"none of {len(unreadable)} unknown photographs can be read{first}")
    return Looks.joined(looks), unreadable
