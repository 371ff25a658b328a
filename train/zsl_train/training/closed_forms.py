"""The baselines of a run: closed forms of seconds, chosen on the run's own folds, that every method has to beat."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.errors import UsageError
from zsl_train.head.gaussian import Spectrum, choose_settings, logits, make_case, solve
from zsl_train.methods import gfzsl
from zsl_train.scoring.baselines import BASELINES, scale
from zsl_train.scoring.evaluate import best_classes, score
from zsl_train.scoring.folds import choose_baseline
from zsl_train.training.choice import quality

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Ints
    from zsl_train.scoring.folds import Fold
    from zsl_train.training.prepared import Prepared


class Tested(NamedTuple):
    """What a classifier gave the test pictures.

    Attributes:
        figures: of scores.json, in percent.
        predicted: (n,) column of each picture, all classes competing.

    """

    figures: dict[str, Any]
    predicted: Ints


def tested(scores: NDArray[np.floating[Any]], prepared: Prepared, gamma: float, temperature: float) -> Tested:
    """Figures and answers of scores (n, C) of the test pictures, before gamma and temperature."""
    labels, seen = prepared.images.labels[prepared.rows("test")], prepared.images.table.seen
    return Tested(score(scores, labels, seen, gamma, temperature), best_classes(scores, seen, gamma))


def closed_forms(
    prepared: Prepared,
    method: str,
    folds: Sequence[Fold],
    newcomers: Sequence[Fold],
    log: Callable[[dict[str, Any]], None],
) -> dict[str, Tested]:
    """Every baseline with its own choices on the validation classes, scored on the test pictures.

    Args:
        prepared: pictures and features.
        method: that is trained: it is no baseline of itself.
        folds: of the run.
        newcomers: folds with newcomers, which the Gaussian head is chosen on whatever head the run ships.
        log: takes a line where a baseline cannot be made.

    """
    found: dict[str, Tested] = {}
    if method != gfzsl.NAME:
        try:
            found[gfzsl.NAME] = _gfzsl(prepared, newcomers)
        except UsageError as error:
            if not error.code.startswith("E-GAUSSIAN-"):
                raise
            log({"note": f"no baseline {gfzsl.NAME}: {error.message}"})
    return found | {name: _linear(name, prepared, folds) for name in BASELINES}


def _gfzsl(prepared: Prepared, folds: Sequence[Fold]) -> Tested:
    """The Gaussian head on the mean-pooled features."""
    began = time.monotonic()
    pooled, test = prepared.store.pooled(), prepared.rows("test")
    semantic, labels, final = prepared.semantic, prepared.images.labels, prepared.training_rows()

    def spectrum(train: Ints, held: Ints, scaling: str) -> Spectrum:
        x, h = (scale(pooled[rows], pooled[train], scaling).astype(np.float32) for rows in (train, held))
        return Spectrum(make_case(x, labels[train], semantic), h, labels[held])

    choices = {
        scaling: choose_settings(
            [(spectrum(fold.train, fold.held_out, scaling), labels[fold.held_out], fold.seen) for fold in folds]
        )
        for scaling in gfzsl.SCALINGS
    }
    scaling = max(choices, key=lambda one: quality(choices[one].validation_H))
    head = choices[scaling]
    made = spectrum(final, test, scaling)
    z = logits(made, head.settings, solve(made, head.settings), head.errors)
    found = tested(z, prepared, head.gamma, head.temperature)
    chosen = _apart(found, prepared) | {
        "scaling": scaling,
        **head.to_dict(),
        "gamma": head.gamma,
        "validation_H": head.validation_H,
    }
    return _with(found, chosen | {"seconds": round(time.monotonic() - began, 2)})


def _linear(name: str, prepared: Prepared, folds: Sequence[Fold]) -> Tested:
    """A baseline of `scoring.baselines`."""
    began = time.monotonic()
    pooled, test, final = prepared.store.pooled(), prepared.rows("test"), prepared.training_rows()
    table, semantic, labels = prepared.images.table, prepared.semantic, prepared.images.labels
    choice = choose_baseline(name, folds, pooled, labels, semantic)
    train = pooled[final]
    predict = BASELINES[name][0](
        scale(train, train, choice.scaling), labels[final], semantic, table.seen, choice.ridges
    )
    found = tested(predict(scale(pooled[test], train, choice.scaling)), prepared, choice.gamma, 1.0)
    found.figures.pop("ECE")  # a baseline's scores are no probabilities
    chosen = _apart(found, prepared) | {
        "scaling": choice.scaling,
        "ridges": list(choice.ridges),
        "gamma": choice.gamma,
        "validation_H": choice.validation_H,
    }
    return _with(found, chosen | {"seconds": round(time.monotonic() - began, 2)})


def _apart(found: Tested, prepared: Prepared) -> dict[str, Any]:
    """T1_czsl of scores of classes that do not depend on each other: T1, where two unseen classes can be told apart."""
    return {"T1_czsl": found.figures["T1"] if (~prepared.images.table.seen).sum() > 1 else None}


def _with(found: Tested, more: dict[str, Any]) -> Tested:
    """The same answers with more figures."""
    return found._replace(figures=found.figures | more)
