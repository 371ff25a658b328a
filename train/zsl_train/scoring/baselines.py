"""Two baselines that cost seconds: ESZSL and ridge regression to class prototypes.

Both see the mean-pooled backbone features and are given the same choices on the same validation classes as the methods:
scaling, ridge, gamma. They are printed beside every method's scores, because a method that does not beat them is not
worth its training time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Bools, Ints

    Floats = NDArray[np.floating[Any]]

SCALINGS = ("l2", "l2-centred", "standard", "minmax")
ESZSL_GRID = tuple(product((0.1, 1.0, 10.0, 100.0, 1000.0), (0.01, 0.1, 1.0, 10.0)))
PROTOTYPE_GRID = tuple((ridge,) for ridge in (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0))


def scale(features: Floats, train: Floats, scaling: str) -> Floats:
    """Scale (n, V) features by statistics of the training features only; float64.

    `l2`: unit rows; `l2-centred`: unit rows minus the mean training row; `standard`: zero mean, unit deviation;
    `minmax`: to [0, 1] on the training rows; `none`: as they are. A column that is constant in training is only
    shifted.

    Args:
        features: (n, V) to scale.
        train: (m, V) training features.
        scaling: one of SCALINGS, or `none`.

    Returns:
        (n, V) float64.

    """
    features, train = np.asarray(features, np.float64), np.asarray(train, np.float64)
    if scaling == "none":
        return features
    if scaling.startswith("l2"):
        features, train = _unit(features), _unit(train)
        return features - train.mean(axis=0) if scaling == "l2-centred" else features
    spread = np.ptp(train, axis=0)
    if scaling == "standard":
        shift, divisor = train.mean(axis=0), train.std(axis=0)
    else:
        shift, divisor = train.min(axis=0), spread
    # By the spread: the deviation of equal numbers comes out as 1e-17 rather than 0.
    scaled: Floats = (features - shift) / np.where(spread > 0, divisor, 1.0)
    return scaled


def _unit(rows: Floats) -> Floats:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = rows / np.where(norm > 0, norm, 1.0)
    return unit


def eszsl_matrix(
    features: Floats,
    labels: Ints,
    semantic: Floats,
    seen: Bools,
    *,
    feature_ridge: float,
    semantic_ridge: float,
    solve: RidgePath | None = None,
) -> Floats:
    """ESZSL's closed form (Romera-Paredes and Torr, ICML 2015, Eq. 6): scores are x M s.

    M = (X^T X + g I)^-1 X^T Y S (S^T S + l I)^-1 with Y in {-1, 1}. Solved in the smaller of the two sizes of X.

    Args:
        features: (n, V) scaled training features.
        labels: (n,) columns of `semantic`, seen classes only.
        semantic: (C, A).
        seen: (C,) bool.
        feature_ridge: g.
        semantic_ridge: l.
        solve: `RidgePath(features)`, where several ridges are tried on the same features.

    Returns:
        M (V, A): the scores of features x for a semantic vector s are x M s.

    """
    columns = np.flatnonzero(seen)
    signs = np.where(labels[:, None] == columns[None], 1.0, -1.0)  # (n, S)
    known = np.asarray(semantic[columns], np.float64)  # (S, A)
    target = signs @ known @ np.linalg.inv(known.T @ known + semantic_ridge * np.eye(known.shape[1]))  # (n, A)
    return ridge_solution(features, target, feature_ridge) if solve is None else solve(target, feature_ridge)


def eszsl(features: Floats, labels: Ints, semantic: Floats, seen: Bools, **ridges: Any) -> Floats:
    """`eszsl_matrix` times the semantic vectors, (V, C): takes scaled features to the scores of all classes."""
    return eszsl_matrix(features, labels, semantic, seen, **ridges) @ np.asarray(semantic, np.float64).T


def ridge_solution(features: Floats, target: Floats, ridge: float) -> Floats:
    """(X^T X + r I)^-1 X^T T, through the n x n system when there are fewer rows than columns: the same matrix.

    Args:
        features: X (n, V).
        target: T (n, A).
        ridge: r, positive.

    Returns:
        (V, A).

    """
    rows, width = features.shape
    if rows < width:
        solved: Floats = features.T @ np.linalg.solve(features @ features.T + ridge * np.eye(rows), target)
        return solved
    return np.linalg.solve(features.T @ features + ridge * np.eye(width), features.T @ target)


class RidgePath:
    """`ridge_solution` of the same features for many ridges and targets, from one eigendecomposition.

    With X X^T = Q diag(e) Q^T, (X^T X + r I)^-1 X^T = X^T Q diag(1 / (e + r)) Q^T; likewise with X^T X where that is
    the smaller one.

    Args:
        features: X (n, V).

    """

    def __init__(self, features: Floats) -> None:
        rows, width = features.shape
        self._features = features
        self._wide = rows < width
        values, self._vectors = np.linalg.eigh(features @ features.T if self._wide else features.T @ features)
        self._values = np.maximum(values, 0.0)  # rounding makes some of the smallest negative

    def __call__(self, target: Floats, ridge: float) -> Floats:
        """(V, A) for the target (n, A) and a positive ridge."""
        right = target if self._wide else self._features.T @ target
        solved: Floats = self._vectors @ ((self._vectors.T @ right) / (self._values + ridge)[:, None])
        return self._features.T @ solved if self._wide else solved


@dataclass(frozen=True)
class Prototypes:
    """Ridge regression from features to semantic vectors; a picture belongs to the nearest class by cosine."""

    weights: Floats  # (V, A)
    target: Floats  # (A, C) unit columns

    def __call__(self, features: Floats) -> Floats:
        """(n, V) scaled features -> (n, C) cosines."""
        return _unit(features @ self.weights) @ self.target


def fit_eszsl(
    features: Floats,
    labels: Ints,
    semantic: Floats,
    seen: Bools,
    choice: tuple[float, ...],
    *,
    solve: RidgePath | None = None,
) -> Callable[[Floats], Floats]:
    """ESZSL with choice = (feature ridge, semantic ridge); `solve` as in `eszsl_matrix`."""
    matrix = eszsl(features, labels, semantic, seen, feature_ridge=choice[0], semantic_ridge=choice[1], solve=solve)
    return lambda rows: rows @ matrix


def fit_prototypes(
    features: Floats,
    labels: Ints,
    semantic: Floats,
    seen: Bools,
    choice: tuple[float, ...],
    *,
    solve: RidgePath | None = None,
) -> Callable[[Floats], Floats]:
    """Ridge to prototypes with choice = (ridge,). `seen` is unused: the target is the class's own semantic vector."""
    del seen
    unit = _unit(np.asarray(semantic, np.float64))
    target = unit[labels]
    weights = ridge_solution(features, target, choice[0]) if solve is None else solve(target, choice[0])
    return Prototypes(weights, unit.T)


BASELINES: dict[str, tuple[Callable[..., Callable[[Floats], Floats]], tuple[tuple[float, ...], ...]]] = {
    "eszsl": (fit_eszsl, ESZSL_GRID),
    "ridge-to-prototype": (fit_prototypes, PROTOTYPE_GRID),
}
