"""How often labels are right: per-class accuracy, mix-ups, calibration; for training and for labelled photographs.

Definitions (docs/methods.md 1.5): accuracy is the mean over classes of per-class top-1, so that every class counts
alike, however many photographs of it there are. Shares are percentages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.arrays import Bools, Floats, Ints

CALIBRATION_BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks", ICML 2017


def per_class_accuracy(predicted: Ints, labels: Ints) -> float | None:
    """Mean over the classes that occur in `labels` of the share predicted right, in percent; None without labels.

    Args:
        predicted: (n,).
        labels: (n,).

    """
    if len(labels) == 0:
        return None
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    right = np.bincount(index, weights=predicted == labels, minlength=len(counts))
    return float(100 * (right / counts).mean())


def harmonic_mean(unseen: float | None, seen: float | None) -> float | None:
    """2US / (U + S); 0 when both are 0, None when one is unknown."""
    if unseen is None or seen is None:
        return None
    return 2 * unseen * seen / (unseen + seen) if unseen + seen > 0 else 0.0


def expected_calibration_error(probability: Floats, right: Bools, bins: int = CALIBRATION_BINS) -> float:
    """Mean |accuracy - confidence| over equal-width confidence bins, weighted by their size, in percent.

    Args:
        probability: (n,) of the predicted class.
        right: (n,) whether the prediction is right.
        bins: number of bins.

    """
    index = np.minimum((probability * bins).astype(int), bins - 1)
    counts = np.bincount(index, minlength=bins)
    confidence = np.bincount(index, weights=probability, minlength=bins)
    accuracy = np.bincount(index, weights=right, minlength=bins)
    return float(100 * np.abs(accuracy - confidence).sum() / max(counts.sum(), 1))


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
    """The pairs of classes that take most pictures the wrong way: by their share of the class, then by number.

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
    order = np.lexsort((-wrong[of, given], -share))[:most]
    return [MixUp(names[int(of[k])], names[int(given[k])], int(wrong[of[k], given[k]]), float(share[k])) for k in order]
