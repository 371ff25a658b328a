"""Selection on validation classes: how long to train, gamma and temperature, and the baselines' scaling and ridge.

Some seen classes play the unseen ones. In each fold a few of the seen classes are left out of training (validation
classes), and of the other classes a fifth of the training pictures is held out. A model trained on the rest is scored
on both, as the final model is scored on the test set. The truly unseen classes stay in every fold's label space, known
by their attributes alone, as they are to the final model: without them a fold is an easier problem with another balance
of seen and unseen classes, and the gamma it chooses does not fit the final model. No test picture is ever looked at
(docs/methods.md 1.5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from zsl_train.scoring.baselines import BASELINES, SCALINGS, RidgePath, scale
from zsl_train.scoring.evaluate import choose_gamma, seen_unseen_curve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.arrays import Bools, Floats, Ints

HELD_OUT = 5  # one training picture in five of a training class is held out in a fold, at least one of two or more
MINIMUM_SEEN = 4  # fewer seen classes cannot lend two for validation and keep two to train on


@dataclass(frozen=True)
class Fold:
    """One split of the seen classes, in rows of the picture list.

    Attributes:
        seen: (C,) bool over all classes: True for those trained on, False for validation and for unseen classes.
        train: picture rows to train on.
        held_out: picture rows to score, of training and of validation classes.
        newcomers: (C,) bool, validation classes of which the training does not even know the attributes: they come
            when it is done, as a user's classes do.

    """

    seen: Bools
    train: Ints
    held_out: Ints
    newcomers: Bools


def make_folds(
    rows: Ints,
    labels: Ints,
    seen: Bools,
    *,
    count: int,
    seed: int,
    marked: Bools | None = None,
    newcomers: bool = False,
    pairs: bool = False,
) -> list[Fold]:
    """Draw `count` folds.

    Together the folds leave out each seen class once, as far as that needs no larger share of them in one fold than the
    share of unseen classes in the whole table: the fewer are left out, the nearer a fold is to the final training. At
    least two are, because one class cannot be told from another. Validation classes of different folds do not
    overlap while there are enough classes.

    Args:
        rows: (n,) picture rows that may be trained on.
        labels: (n,) their classes, rows of the full table.
        seen: (C,) bool of the full table.
        count: folds wanted; 0 gives none.
        seed: of the draw.
        marked: (n,) bool, pictures the user marked for validation (role `val`): held out in place of a drawn fifth.
        newcomers: half of each fold's validation classes are unknown to its training. What is selected then is what a
            user meets, who adds classes later. It comes with `pairs`.
        pairs: a fold has two training pictures of some class: the Gaussian head needs the spread within one. Folds that
            cannot are left out.

    Returns:
        An empty list when fewer than four classes are seen: nothing can be selected then.

    """
    known = np.flatnonzero(seen)
    if len(known) < MINIMUM_SEEN or count <= 0:
        return []
    rng = np.random.default_rng([seed, 71])
    share = (~seen).mean() if not seen.all() else 0.25
    left_out = int(np.clip(min(round(share * len(known)), len(known) // count), 2, len(known) - 2))
    order = np.concatenate([rng.permutation(known) for _ in range(count)])
    folds: list[Fold | None] = []
    for index in range(count):
        chosen = order[index * left_out : (index + 1) * left_out]
        if len(np.unique(chosen)) < left_out:  # the slice runs over the end of one permutation
            chosen = rng.permutation(known)[:left_out]
        fold = _fold(rows, labels, seen & ~np.isin(np.arange(len(seen)), chosen), rng=rng, marked=marked)
        unknown = np.isin(np.arange(len(seen)), chosen[: len(chosen) // 2]) & newcomers
        fold = replace(fold, newcomers=unknown)
        folds.append(_with_pairs(fold, rows, labels) if newcomers or pairs else fold)
    return [fold for fold in folds if fold is not None]


def _with_pairs(fold: Fold, rows: Ints, labels: Ints) -> Fold | None:
    """The fold with two training pictures of some class, without which the spread within a class is unknown.

    Where no class keeps two, every other one gets a held-out picture back; None where none has any.
    """
    trained = np.isin(rows, fold.train)
    if np.bincount(labels[trained]).max() > 1:
        return fold
    aside = [np.flatnonzero(~trained & (labels == one))[:1] for one in np.flatnonzero(fold.seen)]
    back = rows[np.concatenate(aside)[::2]]
    if len(back) == 0:
        return None
    train = np.sort(np.concatenate([fold.train, back]))
    return replace(fold, train=train, held_out=np.setdiff1d(fold.held_out, back))


def _fold(rows: Ints, labels: Ints, training: Bools, *, rng: np.random.Generator, marked: Bools | None) -> Fold:
    train: list[Ints] = []
    held: list[Ints] = [rows[~training[labels]]]
    for one in np.flatnonzero(training):
        of_class = np.flatnonzero(labels == one)
        aside = of_class[marked[of_class]] if marked is not None else of_class[:0]
        if len(aside) in (0, len(of_class)):
            shuffled = rng.permutation(of_class)
            aside = shuffled[: max(len(shuffled) // HELD_OUT, min(1, len(shuffled) - 1))]
        held.append(rows[aside])
        train.append(rows[np.setdiff1d(of_class, aside)])
    nobody = np.zeros(len(training), dtype=np.bool_)
    return Fold(training, np.sort(np.concatenate(train)), np.sort(np.concatenate(held)), nobody)


@dataclass(frozen=True)
class BaselineChoice:
    """Scaling, ridge(s) and gamma of a baseline, chosen on the same validation classes."""

    scaling: str
    ridges: tuple[float, ...]
    gamma: float
    validation_H: float | None  # noqa: N815


def choose_baseline(
    name: str,
    folds: Sequence[Fold],
    pooled: Floats,
    labels: Ints,
    semantic: Floats,
    *,
    scalings: Sequence[str] = SCALINGS,
    grid: Sequence[tuple[float, ...]] = (),
) -> BaselineChoice:
    """Try every scaling and ridge of a baseline on the folds.

    Args:
        name: key of BASELINES.
        folds: as the method got them.
        pooled: (n_all, V) mean-pooled features of all pictures.
        labels: (n_all,) rows of the full table.
        semantic: (C, A) of the full table.
        scalings: that are tried; without folds the first is taken.
        grid: ridges that are tried; without folds the middle one is taken. Empty is the baseline's own.

    """
    fit, own = BASELINES[name]
    grid = grid or own
    best = BaselineChoice(scalings[0], grid[len(grid) // 2], 0.0, None)
    for scaling in scalings if folds else ():
        prepared = [
            (
                x := scale(pooled[fold.train], pooled[fold.train], scaling),
                RidgePath(x),
                labels[fold.train],
                scale(pooled[fold.held_out], pooled[fold.train], scaling),
                labels[fold.held_out],
                fold,
            )
            for fold in folds
        ]
        for ridges in grid:
            curves = [
                seen_unseen_curve(fit(x, y, semantic, fold.seen, ridges, solve=solve)(held), held_labels, fold.seen)
                for x, solve, y, held, held_labels, fold in prepared
            ]
            usable = [curve for curve in curves if curve is not None]
            if not usable:  # no fold has held-out pictures of both kinds: every class has one picture
                continue
            gamma, value = choose_gamma(usable)
            if best.validation_H is None or value > best.validation_H:
                best = BaselineChoice(scaling, ridges, gamma, value)
    return best
