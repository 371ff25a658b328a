"""Two axes out of many: the plane on which class means lie furthest apart, for pictures of features.

Linear discriminant analysis: in coordinates in which pictures of one class spread by 1 in every direction, the
principal axes of the class means. The canonical coordinates of a Gaussian head are such coordinates already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from zsl_runtime.arrays import Doubles, Floats, Ints

SHRINKAGE = 0.2  # of the spread within classes towards its mean, where it is estimated of few pictures
MOST_DIRECTIONS = 128  # principal ones that the spread is estimated in
SMALLEST = 1e-12


@dataclass(frozen=True)
class Axes:
    """Two directions.

    Attributes:
        centre: (D,) what lies at (0, 0).
        directions: (D, Q): coordinates in which the spread within a class is 1; the first two are the axes.
        shares: (2,) of the spread between the class means they were made of, in [0, 1].

    """

    centre: Doubles
    directions: Doubles
    shares: Doubles

    def of_means(self, means: Floats) -> Axes:
        """Axes in the same coordinates that tell these means (k, D) apart best."""
        inside = (means.astype(np.float64) - self.centre) @ self.directions
        turned, shares = _principal(inside)
        return Axes(means.astype(np.float64).mean(axis=0), self.directions @ turned, shares)


def make_axes(x: Floats, labels: Ints, *, canonical: bool) -> Axes | None:
    """The axes that tell the classes of x (n, D) apart best; None for fewer than three classes.

    Args:
        x: rows.
        labels: (n,) their classes.
        canonical: distances in x are standard deviations within a class already.

    """
    classes, index = np.unique(labels, return_inverse=True)
    if len(classes) < 3:
        return None
    rows = x.astype(np.float64)
    means = np.stack([rows[index == place].mean(axis=0) for place in range(len(classes))])
    centre = means.mean(axis=0)
    directions = np.eye(rows.shape[1]) if canonical else _whitening(rows, means[index])
    turned, shares = _principal((means - centre) @ directions)
    return Axes(centre, directions @ turned, shares)


def placed(rows: Floats, axes: Axes) -> Doubles:
    """(n, 2) of rows (n, D); NaN where they are."""
    found = np.zeros((len(rows), 2))
    inside = (rows.astype(np.float64) - axes.centre) @ axes.directions[:, :2]
    found[:, : inside.shape[1]] = inside  # there may be a single direction
    return found


def _whitening(rows: Doubles, own: Doubles) -> Doubles:
    """(D, q) directions in which pictures spread by 1 around `own` (n, D), the means of their classes."""
    _, values, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    rank = int((values > SMALLEST * max(values[0], SMALLEST)).sum())
    kept = right[: max(2, min(MOST_DIRECTIONS, rank))].T
    rest = (rows - own) @ kept
    spread, vectors = np.linalg.eigh(rest.T @ rest / max(len(rest) - 1, 1))
    shrunk = (1 - SHRINKAGE) * np.maximum(spread, 0) + SHRINKAGE * max(spread.mean(), SMALLEST)
    whitened: Doubles = kept @ (vectors / np.sqrt(shrunk))
    return whitened


def _principal(means: Doubles) -> tuple[Doubles, Doubles]:
    """(Q, Q) rotation to the principal axes of means (k, Q), and the share of their spread on the first two."""
    _, values, right = np.linalg.svd(means - means.mean(axis=0), full_matrices=True)
    power = np.zeros(max(2, right.shape[0]))
    power[: len(values)] = values**2
    turned: Doubles = right.T * np.where(right.sum(axis=1) < 0, -1.0, 1.0)  # which way is up is nobody's choice
    return turned, power[:2] / max(power.sum(), SMALLEST)
