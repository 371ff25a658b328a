"""How often labels are right: per-class accuracy, mix-ups, calibration; for training and for labelled photographs.

Definitions (docs/methods.md 1.5): accuracy is the mean over classes of per-class top-1, so that every class counts
alike, however many photographs of it there are. Shares are percentages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.arrays import Bools, Doubles, Floats, Ints

CALIBRATION_BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks", ICML 2017


def per_class_accuracy(predicted: Ints, labels: Ints) -> float | None:
    """Mean over the classes that occur in `labels` of the share predicted right, in percent; None without labels.

    Args:
        predicted: (n,).
        labels: (n,).

    """
    return mean_over_classes(predicted == labels, labels)


def mean_over_classes(right: Bools, labels: Ints) -> float | None:
    """Mean over the classes that occur in `labels` of the share that is right, in percent; None without labels.

    Args:
        right: (n,) whether the answer is right.
        labels: (n,).

    """
    if len(labels) == 0:
        return None
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    hits = np.bincount(index, weights=right, minlength=len(counts))
    return float(100 * (hits / counts).mean())


def harmonic_mean(unseen: float | None, seen: float | None) -> float | None:
    """2US / (U + S); 0 when both are 0, None when one is unknown."""
    if unseen is None or seen is None:
        return None
    return 2 * unseen * seen / (unseen + seen) if unseen + seen > 0 else 0.0


def auroc(higher: Doubles, lower: Doubles) -> float | None:
    """Area under the ROC curve: how often one of `higher` (n,) is above one of `lower` (m,), a tie being half of it.

    None without either; 0.5 is chance, 1 is always.
    """
    if not len(higher) or not len(lower):
        return None
    order = np.sort(lower)
    below, up_to = np.searchsorted(order, higher, "left"), np.searchsorted(order, higher, "right")
    return float((below + up_to).mean() / 2 / len(order))


class Bin(NamedTuple):
    """Pictures that a model was about equally sure of; all but their number in percent.

    Attributes:
        low: least probability of the predicted class.
        high: what it stays below; 100 belongs to the last bin.
        pictures: how many, at least one.
        confidence: mean probability.
        right: share that is right.

    """

    low: float
    high: float
    pictures: int
    confidence: float
    right: float


def calibration_bins(probability: Floats | Doubles, right: Bools, bins: int = CALIBRATION_BINS) -> list[Bin]:
    """What a model says of itself beside what is so, for each of equal-width bins that holds pictures.

    Args:
        probability: (n,) of the predicted class.
        right: (n,) whether the prediction is right.
        bins: number of bins, empty ones included.

    """
    counts, confidence, hits = _binned(probability, right, bins)
    return [
        Bin(
            100 * k / bins,
            100 * (k + 1) / bins,
            int(counts[k]),
            float(100 * confidence[k] / counts[k]),
            float(100 * hits[k] / counts[k]),
        )
        for k in map(int, np.flatnonzero(counts))
    ]


def expected_calibration_error(probability: Floats | Doubles, right: Bools, bins: int = CALIBRATION_BINS) -> float:
    """Mean |accuracy - confidence| over equal-width confidence bins, weighted by their size, in percent.

    Args:
        probability: (n,) of the predicted class.
        right: (n,) whether the prediction is right.
        bins: number of bins.

    """
    counts, confidence, hits = _binned(probability, right, bins)
    return float(100 * np.abs(hits - confidence).sum() / max(counts.sum(), 1))


def _binned(probability: Floats | Doubles, right: Bools, bins: int) -> Doubles:
    """(3, bins): pictures, the sum of their probabilities, how many are right."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    sums = [np.bincount(index, weights=one, minlength=bins) for one in (np.ones(len(index)), probability, right)]
    return np.stack(sums).astype(np.float64)


class Spread(NamedTuple):
    """Standard errors in points: how far a figure moves with which photographs of the classes happen to be labelled.

    Attributes:
        accuracy: of the mean over all classes; None for a single photograph, of which nothing is known.
        U: over unseen classes; None without photographs of any. The other two likewise.
        S: over seen classes.
        H: of both.

    """

    accuracy: float | None
    U: float | None
    S: float | None
    H: float | None


def spread(right: Bools, labels: Ints, seen: Bools) -> Spread:
    """How sure accuracy, U, S and H are, from the photographs that they were measured on.

    Each class's share is a mean of independent photographs; H is taken as linear in U and S around where they are. A
    class with a single photograph says nothing of its own spread: all such classes of a kind are taken as one, whose
    photographs then differ by class as well, so that the error is rather too large than too small.

    Args:
        right: (n,) whether each photograph was labelled rightly, all classes competing.
        labels: (n,) columns.
        seen: (C,).

    """
    of_seen = seen[labels]
    every = np.ones(len(labels), np.bool_)
    whole = np.full(len(labels), 100.0) / max(len(np.unique(labels)), 1)
    weights = _weights(labels, of_seen)
    slopes = _slopes(right, labels, of_seen)
    of_h = None if slopes is None else _standard_error(slopes * weights * right, labels, of_seen)

    def error(weight: Doubles, rows: Bools) -> float | None:
        return _standard_error((weight * right)[rows], labels[rows], of_seen[rows])

    return Spread(error(whole, every), error(weights, ~of_seen), error(weights, of_seen), of_h)


def ahead(one: Bools, other: Bools, labels: Ints, seen: Bools) -> tuple[float, float] | None:
    """Points of H that one labelling is above another of the same photographs, and the standard error of that.

    Args:
        one: (n,) whether each photograph was labelled rightly by the one.
        other: (n,) likewise by the other.
        labels: (n,) columns.
        seen: (C,).

    Returns:
        None where there is no H: without photographs of seen, or of unseen classes.

    """
    of_seen = seen[labels]
    weights = _weights(labels, of_seen)
    slopes = [_slopes(right, labels, of_seen) for right in (one, other)]
    if slopes[0] is None or slopes[1] is None:
        return None
    first, second = (harmonic_mean(*_shares(right, labels, of_seen)) for right in (one, other))
    assert first is not None
    assert second is not None
    error = _standard_error(weights * (slopes[0] * one - slopes[1] * other), labels, of_seen)
    return first - second, error or 0.0


def _weights(labels: Ints, of_seen: Bools) -> Doubles:
    """(n,) points that each photograph's class adds to U or S when all its photographs are right."""
    classes = [max(len(np.unique(labels[of_seen == kind])), 1) for kind in (False, True)]
    weights: Doubles = 100.0 / np.array(classes, np.float64)[of_seen.astype(int)]
    return weights


def _shares(right: Bools, labels: Ints, of_seen: Bools) -> tuple[float | None, float | None]:
    """U and S."""
    return (
        per_class_accuracy(np.where(right, labels, -1)[~of_seen], labels[~of_seen]),
        per_class_accuracy(np.where(right, labels, -1)[of_seen], labels[of_seen]),
    )


def _slopes(right: Bools, labels: Ints, of_seen: Bools) -> Doubles | None:
    """(n,) points of H for a point of U or of S, whichever the photograph belongs to; None where there is no H."""
    unseen, seen = _shares(right, labels, of_seen)
    if unseen is None or seen is None:
        return None
    total = max(unseen + seen, 1e-9)
    return np.where(of_seen, 2 * (unseen / total) ** 2, 2 * (seen / total) ** 2)


def _standard_error(values: Doubles, labels: Ints, of_seen: Bools) -> float | None:
    """Of the sum over the classes of the mean of values (n,) within each; None where no photograph has another."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    alone = counts[index] == 1
    known = [float(values[index == one].var(ddof=1) / counts[one]) for one in np.flatnonzero(counts > 1)]
    for kind in (False, True):
        single = values[alone & (of_seen == kind)]
        if len(single) > 1:
            known.append(float(single.var(ddof=1) * len(single)))
    return float(np.sqrt(sum(known))) if known else None


def confusion(predicted: Ints, labels: Ints, classes: int) -> Ints:
    """(C, C) int64: how many pictures of the row's class were given the column's.

    Args:
        predicted: (n,) columns.
        labels: (n,) rows.
        classes: C.

    """
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


class ClassAccuracy(NamedTuple):
    """One class.

    Attributes:
        name: of the class.
        seen: whether the model was trained on photographs of it.
        pictures: how many were labelled.
        right: how many rightly.
        mistaken_for: the class that most of the others were given; '' where all are right.
        mistaken: how many of them.

    """

    name: str
    seen: bool
    pictures: int
    right: int
    mistaken_for: str
    mistaken: int


class MixUp(NamedTuple):
    """Pictures of one class that were given another."""

    of: str
    given: str
    pictures: int
    share: float  # of the pictures of `of`, in [0, 1]


def by_class(counts: Ints, names: Sequence[str], seen: Bools) -> list[ClassAccuracy]:
    """Each class that has pictures, in the order of its row.

    Args:
        counts: (C, C) of `confusion`.
        names: C.
        seen: (C,).

    """
    found = []
    for row in map(int, np.flatnonzero(counts.sum(axis=1))):
        wrong = counts[row].copy()
        wrong[row] = 0
        worst = int(wrong.argmax())
        found.append(
            ClassAccuracy(
                names[row],
                bool(seen[row]),
                int(counts[row].sum()),
                int(counts[row, row]),
                names[worst] if wrong[worst] else "",
                int(wrong[worst]),
            )
        )
    return found


def mixups(counts: Ints, names: Sequence[str], most: int) -> list[MixUp]:
    """The pairs of classes that take most pictures the wrong way, worst first.

    What counts is their number times their share of the class: one picture of two is no pattern yet.

    Args:
        counts: (C, C) of `confusion`.
        names: C.
        most: pairs at most.

    """
    totals = counts.sum(axis=1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    of, given = np.nonzero(wrong)
    share = wrong[of, given] / totals[of]
    order = np.argsort(-share * wrong[of, given], kind="stable")[:most]
    return [MixUp(names[int(of[k])], names[int(given[k])], int(wrong[of[k], given[k]]), float(share[k])) for k in order]
