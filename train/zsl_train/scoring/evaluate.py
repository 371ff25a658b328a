"""Scores: per-class accuracy, the seen-unseen curve, calibration; and how gamma and the temperature are chosen.

Definitions (docs/methods.md 1.5): accuracy is the mean over classes of per-class top-1. U: unseen pictures, label space
seen and unseen. S: seen test pictures, same label space. H = 2US / (U + S). T1: unseen pictures, unseen label space.
Every figure is a percentage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.accuracy import expected_calibration_error, harmonic_mean, per_class_accuracy
from zsl_runtime.head.head import log_softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Bools, Ints

    Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Curve:
    """The seen-unseen curve: accuracies when gamma is subtracted from every seen class's score.

    Between two neighbouring thresholds nothing changes: entry i holds for gamma in (edges[i], edges[i + 1]].

    Attributes:
        edges: (k + 1,) ascending; the first is -inf, the last +inf.
        unseen: (k,) U in percent.
        seen: (k,) S in percent.

    """

    edges: Floats
    unseen: Floats
    seen: Floats

    @property
    def harmonic(self) -> Floats:
        """(k,) H in percent."""
        total = self.unseen + self.seen
        return np.divide(2 * self.unseen * self.seen, total, out=np.zeros_like(total), where=total > 0)

    @property
    def area(self) -> float:
        """AUSUC: area under U over S by trapezoids, 0 to 100 (Chao et al., ECCV 2016)."""
        return float(np.trapezoid(self.unseen[::-1], self.seen[::-1]) / 100)

    def at(self, gamma: Floats) -> Floats:
        """H at each gamma, (m,) -> (m,)."""
        return self.harmonic[np.searchsorted(self.edges, gamma, side="left") - 1]


def seen_unseen_curve(logits: Floats, labels: Ints, seen: Bools) -> Curve | None:
    """All points of the seen-unseen curve, exactly: one threshold for each picture.

    A picture is given to its best seen class while gamma <= (best seen score - best unseen score).

    Args:
        logits: (n, C) scores before gamma.
        labels: (n,) columns.
        seen: (C,) bool.

    Returns:
        None when there is no seen or no unseen class, or no picture of one of the two.

    """
    of_seen = seen[labels]
    if seen.all() or not seen.any() or of_seen.all() or not of_seen.any():
        return None
    seen_columns, unseen_columns = np.flatnonzero(seen), np.flatnonzero(~seen)
    best_seen = seen_columns[logits[:, seen_columns].argmax(axis=1)]
    best_unseen = unseen_columns[logits[:, unseen_columns].argmax(axis=1)]
    rows = np.arange(len(labels))
    threshold = logits[rows, best_seen].astype(np.float64) - logits[rows, best_unseen]
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    classes_of = np.array([len(np.unique(labels[of_seen == kind])) for kind in (False, True)])
    weight = 100 / (counts[index] * classes_of[of_seen.astype(int)])
    order = np.argsort(threshold, kind="stable")
    edges, first = np.unique(threshold[order], return_index=True)
    # gamma in (edges[i-1], edges[i]]: pictures with threshold >= edges[i], those from first[i] on, go to seen classes.
    gain_seen = np.where(of_seen & (best_seen == labels), weight, 0.0)[order]
    gain_unseen = np.where(~of_seen & (best_unseen == labels), weight, 0.0)[order]
    tail = np.concatenate([np.cumsum(gain_seen[::-1])[::-1], [0.0]])
    head = np.concatenate([[0.0], np.cumsum(gain_unseen)])
    cut = np.concatenate([first, [len(labels)]])
    return Curve(np.concatenate([[-np.inf], edges, [np.inf]]), head[cut], tail[cut])


def choose_gamma(curves: Sequence[Curve]) -> tuple[float, float]:
    """The gamma with the highest mean H over the curves (one a validation fold), and that mean H.

    H is constant between thresholds: the middle of the best stretch is taken, the widest of equals. Neighbouring
    pieces of equal H are one stretch.

    Args:
        curves: at least one.

    """
    inner = np.unique(np.concatenate([curve.edges[1:-1] for curve in curves]))
    bounds = np.concatenate([[inner[0] - 2.0], inner, [inner[-1] + 2.0]])
    mean = np.mean([curve.at((bounds[:-1] + bounds[1:]) / 2) for curve in curves], axis=0)
    good = np.concatenate([[False], mean >= mean.max() - 1e-9, [False]]).astype(int)
    first, last = np.flatnonzero(np.diff(good) == 1), np.flatnonzero(np.diff(good) == -1)  # of every stretch, in bounds
    widest = (bounds[last] - bounds[first]).argmax()
    return float((bounds[first[widest]] + bounds[last[widest]]) / 2), float(mean.max())


class Held(NamedTuple):
    """A fold with what the other folds chose for it.

    Attributes:
        others: mean H of the others at their choice, in percent: what choices are compared by.
        own: H of this fold at that choice; nothing of it had a part in the choice.

    """

    others: float
    own: float


def held_out(curves: Sequence[Curve | None], place: int) -> Held | None:
    """A fold at the gamma that the others choose; None where it, or all others, have no curve.

    Args:
        curves: of every fold, all of one candidate.
        place: of the fold.

    """
    own = curves[place]
    others = [curve for k, curve in enumerate(curves) if k != place and curve is not None]
    if own is None or not others:
        return None
    gamma, value = choose_gamma(others)
    return Held(value, float(own.at(np.array([gamma]))[0]))


def best_held(candidates: Sequence[Sequence[Held | None]]) -> tuple[Held | None, ...]:
    """For every fold the candidate that the others find best, the first of equals.

    Args:
        candidates: of each a Held for every fold.

    """
    found = []
    for of_fold in zip(*candidates, strict=True):
        known = [one for one in of_fold if one is not None]
        found.append(max(known, key=lambda one: one.others) if known else None)
    return tuple(found)


def crossfitted(held: Sequence[Held | None]) -> float | None:
    """Mean H over folds, each with what the others chose; None where fewer than two have pictures of both kinds."""
    known = [one.own for one in held if one is not None]
    return float(np.mean(known)) if len(known) > 1 else None


def balanced_weights(labels: Ints, seen: Bools) -> Floats:
    """(n,) weights that sum to 1: seen and unseen pictures half each (where both occur), every class alike within."""
    of_seen = seen[labels]
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weight: Floats = 1 / counts[index]
    for kind in (False, True):
        part = of_seen == kind
        if part.any():
            weight[part] /= weight[part].sum()
    weight /= weight.sum()
    return weight


def fit_temperature(logits: Sequence[Floats], labels: Sequence[Ints], seen: Sequence[Bools], gamma: float) -> float:
    """The temperature that minimises the balanced negative log-likelihood of the calibrated scores over all folds.

    Args:
        logits: (n, C) a fold.
        labels: (n,) a fold.
        seen: (C,) a fold.
        gamma: subtracted from seen classes first.

    """
    from scipy.optimize import minimize_scalar

    shifted = [part - gamma * mask for part, mask in zip(logits, seen, strict=True)]
    weights = [balanced_weights(y, mask) for y, mask in zip(labels, seen, strict=True)]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(
            np.mean(
                [
                    -(w * log_softmax((part * scale).astype(np.float32))[np.arange(len(y)), y]).sum()
                    for part, y, w in zip(shifted, labels, weights, strict=True)
                ]
            )
        )

    found = minimize_scalar(loss, bounds=(np.log(1e-4), np.log(1e3)), method="bounded")
    return float(np.exp(found.x))


def best_classes(logits: Floats, seen: Bools, gamma: float) -> Ints:
    """(n,) column of the best class of each picture, gamma taken off the seen ones; temperature changes no label."""
    best: Ints = (logits - gamma * seen).argmax(axis=1)
    return best


def score(logits: Floats, labels: Ints, seen: Bools, gamma: float, temperature: float) -> dict[str, float | None]:
    """T1, U, S, H at `gamma`, H without gamma, AUSUC and the calibration error, in percent.

    Args:
        logits: (n, C) scores of test pictures before gamma and temperature.
        labels: (n,) columns.
        seen: (C,) bool.
        gamma: chosen on validation classes.
        temperature: likewise.

    Returns:
        Figures without pictures to compute them from are None.

    """
    of_seen = seen[labels]
    calibrated = (logits - gamma * seen) / temperature
    predicted, plain = calibrated.argmax(axis=1), logits.argmax(axis=1)
    unseen_columns = np.flatnonzero(~seen)
    unseen_rows = ~of_seen
    first = None
    if unseen_rows.any():
        first = per_class_accuracy(
            unseen_columns[logits[np.ix_(unseen_rows, ~seen)].argmax(axis=1)], labels[unseen_rows]
        )
    unseen = per_class_accuracy(predicted[unseen_rows], labels[unseen_rows])
    seen_accuracy = per_class_accuracy(predicted[of_seen], labels[of_seen])
    curve = seen_unseen_curve(logits, labels, seen)
    probability = np.exp(log_softmax(calibrated.astype(np.float32))).max(axis=1)
    return {
        "T1": first,
        "U": unseen,
        "S": seen_accuracy,
        "H": harmonic_mean(unseen, seen_accuracy),
        "H_uncalibrated": harmonic_mean(
            per_class_accuracy(plain[unseen_rows], labels[unseen_rows]),
            per_class_accuracy(plain[of_seen], labels[of_seen]),
        ),
        "AUSUC": None if curve is None else curve.area,
        "ECE": expected_calibration_error(probability, predicted == labels) if len(labels) else None,
    }
