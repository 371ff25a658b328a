"""The choice of stopping point, calibration and head of a training, on validation classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zsl_train.scoring.evaluate import (
    Held,
    best_held,
    choose_gamma,
    crossfitted,
    fit_temperature,
    held_out,
    seen_unseen_curve,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zsl_runtime.arrays import Bools, Floats, Ints
    from zsl_train.head.gaussian import HeadChoice


@dataclass(frozen=True)
class Choice:
    """What the validation classes chose.

    Attributes:
        stop_at: share of the last stage that is trained.
        gamma: subtracted from seen classes' scores.
        temperature: of the probabilities.
        validation_H: mean H over the folds at that choice, in percent.
        candidates: share -> its best mean H.
        head: what was chosen for the Gaussian head, gamma and temperature among it; None for a published head.
        variant: of the method's settings, where it has several to choose from.
        held: every fold with what the others choose; empty where that was not asked for.

    Where there was nothing to choose on, validation_H is None and the rest is neutral.

    """

    stop_at: float
    gamma: float
    temperature: float
    validation_H: float | None  # noqa: N815  # the metric's name
    candidates: dict[float, float]
    head: HeadChoice | None = None
    variant: int = 0
    held: tuple[Held | None, ...] = ()

    @property
    def validation_H_crossfitted(self) -> float | None:  # noqa: N802  # the metric's name
        """Mean H over the folds, each with what the others chose; None where that cannot be known."""
        return crossfitted(self.held)


def choose(snapshots: Mapping[float, Sequence[Floats]], labels: Sequence[Ints], seen: Sequence[Bools]) -> Choice:
    """The share of the last stage and the gamma with the highest mean H over the folds, then the temperature.

    Args:
        snapshots: share -> scores (n, C) of each fold's held-out pictures, without gamma.
        labels: columns of each fold's held-out pictures.
        seen: seen flags of each fold.

    """
    candidates: dict[float, tuple[float, float]] = {}
    held = []
    for share, logits in sorted(snapshots.items()):
        curves = [seen_unseen_curve(z, y, s) for z, y, s in zip(logits, labels, seen, strict=True)]
        held.append([held_out(curves, place) for place in range(len(curves))])
        usable = [curve for curve in curves if curve is not None]
        if usable:
            candidates[share] = choose_gamma(usable)
    if not candidates:
        return Choice(max(snapshots, default=1.0), 0.0, 1.0, None, {})
    best = max(candidates, key=lambda share: (candidates[share][1], -share))
    gamma, value = candidates[best]
    temperature = fit_temperature(snapshots[best], labels, seen, gamma)
    by_share = {share: found[1] for share, found in candidates.items()}
    return Choice(best, gamma, temperature, value, by_share, held=best_held(held))


def quality(validation_H: float | None) -> float:  # the metric's name
    """What candidates are compared by: their H on validation classes; one that could not be validated is worst."""
    return -1.0 if validation_H is None else validation_H
