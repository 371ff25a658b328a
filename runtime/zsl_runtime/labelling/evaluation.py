"""How often a model is right on labelled photographs, and what it takes for what.

    (class, photograph) --(read ahead, full batches)--> scores --> what is noted of each photograph --> Evaluation

Of a photograph a few numbers are kept, so any number of them can be looked at.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.accuracy import (
    Bin,
    ClassAccuracy,
    MixUp,
    by_class,
    calibration_bins,
    confusion,
    expected_calibration_error,
    harmonic_mean,
    mean_over_classes,
    mixups,
    spread,
)
from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.head.fitting import silent
from zsl_runtime.head.head import best_columns
from zsl_runtime.inputs.item import Item
from zsl_runtime.labelling.how_far import Looks, how_far
from zsl_runtime.labelling.reading import batch_of, check_counts, read_ahead, reader_of
from zsl_runtime.labelling.scoring import score, score_ahead
from zsl_runtime.machine.stop import Stop
from zsl_runtime.machine.threads import readers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from zsl_runtime.arrays import Advance, Bools, Doubles, Ints
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.distance import Found
    from zsl_runtime.inputs.item import Source
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.labelling.how_far import HowFar
    from zsl_runtime.labelling.reading import ReadItem
    from zsl_runtime.labelling.snapshot import Scored, Snapshot

BEST = 5  # classes that a photograph's own may be among for top-5
MIXUPS = 50  # pairs of classes at most
LETTERS = ("accuracy", "S", "U", "H", "T1", "top5")


class Figure(NamedTuple):
    """One accuracy, in percent.

    Attributes:
        value: the figure; None where there are no photographs, or too few classes, for it.
        spread: its standard error in points: how far it moves with the photographs of the classes at hand.
        chance: what guessing would give.
        photographs: that it rests on.
        classes: of these photographs.
        competing: classes that an answer could have been.

    """

    value: float | None
    spread: float | None
    chance: float | None
    photographs: int
    classes: int
    competing: int


@dataclass(frozen=True)
class Calibration:
    """What a model says of itself, beside what is so; in percent.

    Attributes:
        error: expected calibration error.
        confidence: mean probability of the class that was given.
        right: share of the photographs that are right.
        bins: the table behind it.

    """

    error: float
    confidence: float
    right: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Evaluation:
    """How accurate a model is on labelled photographs (docs/methods.md 1.5).

    Attributes:
        figures: by letter. Each is the mean over classes of the share of a class's photographs that are right, all
            classes competing: `accuracy` over all classes, `S` over those that the model was trained on photographs of,
            `U` over the others, `H` = 2US / (U + S); `T1` over the others when only they compete; `top5`, where there
            are more than five classes, of the share whose class is among the first five.
        calibration: whether it is as often right as it says.
        classes: those that have photographs, in the model's order.
        mixups: pairs of classes that are mixed up most, the worst first.
        names: classes that occur, as truth or as an answer, in the model's order; those of `counts`.
        counts: (K, K) int64, how many photographs of the row's class were given the column's.
        photographs: that could be read.
        unreadable: name and error of each one that could not be; they are left out.
        distances: how far they are from the nearest class, and photographs of what is no class; None where neither is
            known.

    """

    figures: dict[str, Figure]
    calibration: Calibration
    classes: tuple[ClassAccuracy, ...]
    mixups: tuple[MixUp, ...]
    names: tuple[str, ...]
    counts: Ints
    photographs: int
    unreadable: tuple[tuple[str, InputError], ...]
    distances: HowFar | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `zsl-eval --format json` writes it; shares are percentages."""
        return {
            **{letter: self.figures[letter].value for letter in LETTERS},
            "ECE": self.calibration.error,
            "figures": {letter: self.figures[letter]._asdict() for letter in LETTERS},
            "calibration": {
                "error": self.calibration.error,
                "confidence": self.calibration.confidence,
                "right": self.calibration.right,
                "bins": [
                    {
                        "from": one.low,
                        "to": one.high,
                        "photographs": one.pictures,
                        "confidence": one.confidence,
                        "right": one.right,
                    }
                    for one in self.calibration.bins
                ],
            },
            "classes": [
                {
                    "class": one.name,
                    "split": "seen" if one.seen else "unseen",
                    "photographs": one.pictures,
                    "right": one.right,
                    "accuracy": 100 * one.right / one.pictures,
                    "mistaken_for": one.mistaken_for or None,
                    "mistaken": one.mistaken,
                }
                for one in self.classes
            ],
            "mixups": [
                {"class": one.of, "given": one.given, "photographs": one.pictures, "percent": 100 * one.share}
                for one in self.mixups
            ],
            "confusion": {"classes": list(self.names), "counts": self.counts.tolist()},
            "unreadable": [
                {"path": name, "code": error.code, "message": error.message} for name, error in self.unreadable
            ],
            "distances": None if self.distances is None else self.distances.to_dict(),
        }


def evaluate(
    classifier: Classifier,
    pairs: Iterable[tuple[Source, str]],
    batch_size: int | None = None,
    advance: Advance = silent,
) -> Evaluation:
    """Label photographs whose class is known, and compare.

    Args:
        classifier: to be judged, with the classes that it has in use now; those added on site count as unseen.
        pairs: (photograph, its class), taken in a thread of its own; photographs are what `Classifier.predict` takes.
            One that cannot be read is left out and told.
        batch_size: photographs in memory and in the graph at once; None for BATCH_SIZE.
        advance: called with a number of photographs that are done.

    Raises:
        UsageError: E-CLASS-UNKNOWN; E-PHOTOS-EMPTY when no photograph can be read; E-BATCH, E-CLOSED.
        BackendError: E-BACKEND-RUN.

    """
    check_counts(1, batch_size)
    reader = reader_of(classifier.bundle)
    size = batch_of(batch_size, reader)
    snapshot = classifier.snapshot()
    labels = Labels()

    def named() -> Iterator[tuple[str, Item]]:
        for number, (source, name) in enumerate(pairs):
            stored = snapshot.table.names[snapshot.table.index(name)]
            path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
            yield stored, Item(f"photograph {number}", source) if path is None else Item(path, path)

    with ExitStack() as stack:
        stop = stack.enter_context(Stop())
        items = labels.noted(named())
        rows = stack.enter_context(
            read_ahead(reader, items, workers=readers(classifier.threads), batch_size=size, stop=stop)
        )
        stack.callback(stop.request)
        return compare(classifier, snapshot, rows, labels, batch_size=size, advance=advance)


class Labels:
    """The classes of photographs that are being read, in order; one thread adds, another one takes."""

    def __init__(self) -> None:
        self._names: deque[str] = deque()

    def noted(self, pairs: Iterable[tuple[str, Item]]) -> Generator[Item]:
        """The photographs; the class of each is noted before it goes on."""
        for name, item in pairs:
            self._names.append(name)
            yield item

    def take(self) -> str:
        """The class of the next photograph."""
        return self._names.popleft()


def compare(
    classifier: Classifier,
    snapshot: Snapshot,
    rows: Iterable[ReadItem],
    labels: Labels,
    *,
    batch_size: int,
    advance: Advance = silent,
    tell: Callable[[InputError], None] = lambda _error: None,
    unknown: Callable[[], tuple[Looks, list[tuple[str, InputError]]]] | None = None,
) -> Evaluation:
    """Score photographs that are being read, and compare.

    Args:
        classifier: scores.
        snapshot: of it, without a class filter.
        rows: what was read.
        labels: their classes.
        batch_size: photographs in the graph at once.
        advance: called with a number of photographs that are done.
        tell: called with the error of each one that cannot be read, in order.
        unknown: looks, when all that is done, at photographs of what is no class (`zsl_runtime.labelling.how_far`).

    Raises:
        UsageError: E-CLASS-UNKNOWN, E-PHOTOS-EMPTY, E-CLOSED.
        BackendError: E-BACKEND-RUN.

    """
    if classifier.in_flight == 1:
        scored = score(classifier, snapshot, rows, batch_size=batch_size)
    else:
        scored = score_ahead(classifier, snapshot, rows, batch_size=batch_size, topk=None)
    table = snapshot.table
    notes: list[Noted] = []
    unreadable: list[tuple[str, InputError]] = []
    with closing(scored):
        for batch in scored:
            names = [labels.take() for _ in batch.entries]
            for name, error in batch.entries:
                if error is not None:
                    unreadable.append((name, error))
                    tell(error)
            read = [name for name, (_, error) in zip(names, batch.entries, strict=True) if error is None]
            labelled = np.array([table.index(name) for name in read], np.int64)
            notes.append(note(batch, labelled, table.seen, classifier.measure(snapshot, batch.features)))
            advance(len(batch.entries))
    if not any(len(one.labels) for one in notes):
        first = f"; the first one: {unreadable[0][1]}" if unreadable else ""
        raise UsageError("E-PHOTOS-EMPTY", f"none of {len(unreadable)} photographs can be read{first}")
    noted = Noted(*(np.concatenate(parts) for parts in zip(*notes, strict=True)))
    strange = None
    if unknown is not None:
        strange, more = unknown()
        unreadable += more
    beyond = None if snapshot.distances is None else snapshot.distances.beyond
    known = Looks(noted.distance, noted.probability)
    return replace(
        evaluation(noted, table, unreadable), distances=how_far(known, table.seen[noted.labels], strange, beyond)
    )


class Noted(NamedTuple):
    """What is kept of n photographs.

    Attributes:
        labels: (n,) their classes' columns.
        predicted: (n,) the best column.
        probability: (n,) float64 of it.
        alone: (n,) the best column of an unseen class; -1 where there is none.
        best: (n,) whether the class is among the BEST first.
        distance: (n,) float64 to the nearest class, in standard deviations; NaN where the head does not tell.

    """

    labels: Ints
    predicted: Ints
    probability: Doubles
    alone: Ints
    best: Bools
    distance: Doubles


def note(batch: Scored, labels: Ints, seen: Bools, found: Found | None = None) -> Noted:
    """What is kept of the photographs of a batch that could be read.

    Args:
        batch: with scores.
        labels: (n,) columns.
        seen: (C,).
        found: how far they are.

    """
    scores, unseen = batch.scores, np.flatnonzero(~seen)
    if not len(labels):
        nothing = np.empty(0, np.int64)
        return Noted(nothing, nothing, np.empty(0), nothing, np.empty(0, np.bool_), np.empty(0))
    order = best_columns(scores, min(BEST, scores.shape[1]))
    alone = unseen[scores[:, unseen].argmax(axis=1)] if len(unseen) else np.full(len(labels), -1)
    chance = np.exp(np.take_along_axis(scores, order[:, :1], axis=1)[:, 0].astype(np.float64))
    distance = np.full(len(labels), np.nan) if found is None else found.distances
    return Noted(labels, order[:, 0], chance, alone, (order == labels[:, None]).any(axis=1), distance)


def evaluation(noted: Noted, table: ClassTable, unreadable: Iterable[tuple[str, InputError]] = ()) -> Evaluation:
    """The figures of photographs, of which there is at least one.

    Args:
        noted: of all photographs.
        table: the classes.
        unreadable: photographs that are left out.

    """
    right = noted.predicted == noted.labels
    occurring = np.unique(np.concatenate([noted.labels, noted.predicted]))
    names = tuple(table.names[int(j)] for j in occurring)
    given, of = (np.searchsorted(occurring, one).astype(np.int64) for one in (noted.predicted, noted.labels))
    counts = confusion(given, of, len(occurring))
    probability = np.minimum(noted.probability, 1.0)  # rounding of float32 may go beyond
    calibration = Calibration(
        expected_calibration_error(probability, right),
        float(100 * probability.mean()),
        float(100 * right.mean()),
        tuple(calibration_bins(probability, right)),
    )
    return Evaluation(
        figures=_figures(noted, right, table.seen),
        calibration=calibration,
        classes=tuple(by_class(counts, names, table.seen[occurring])),
        mixups=tuple(mixups(counts, names, MIXUPS)),
        names=names,
        counts=counts,
        photographs=len(noted.labels),
        unreadable=tuple(unreadable),
    )


def _figures(noted: Noted, right: Bools, seen: Bools) -> dict[str, Figure]:
    """By LETTERS."""
    labels, alone = noted.labels, noted.alone == noted.labels
    of_seen, everything = seen[labels], np.ones(len(labels), np.bool_)
    total, unseen = len(seen), int((~seen).sum())
    found = {
        "accuracy": _figure(right, labels, everything, total),
        "S": _figure(right, labels, of_seen, total),
        "U": _figure(right, labels, ~of_seen, total),
        "T1": _figure(alone, labels, ~of_seen, unseen),
        "top5": _figure(noted.best, labels, everything, total, BEST),
    }
    both = harmonic_mean(found["U"].value, found["S"].value)
    if both is None:
        found["H"] = found["accuracy"]._replace(value=None, spread=None, chance=None)
    else:
        found["H"] = found["accuracy"]._replace(value=both, spread=spread(right, labels, seen).H)
    if total <= BEST:
        found["top5"] = found["top5"]._replace(value=None, spread=None, chance=None)
    return {letter: found[letter] for letter in LETTERS}


def _figure(right: Bools, labels: Ints, own: Bools, competing: int, tries: int = 1) -> Figure:
    """The mean over the classes of the photographs `own` (n,), with `tries` answers for each."""
    right, labels = right[own], labels[own]
    _, counts = np.unique(labels, return_counts=True)
    value = mean_over_classes(right, labels)
    if value is None:
        return Figure(None, None, None, 0, 0, competing)
    sure = spread(right, labels, np.ones(int(labels.max()) + 1, np.bool_)).accuracy
    return Figure(value, sure, 100 * min(tries / competing, 1), len(labels), len(counts), competing)
