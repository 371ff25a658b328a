"""What is said about the figures: why one is missing, what chose the settings, on what they stand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.tiny_prepared import CONFIG, PUBLISHED, RECIPE
from support.tiny_run import TinyBackbone
from zsl_train.scoring.evaluate import Held
from zsl_train.training.beside import conventional
from zsl_train.training.choice import Choice
from zsl_train.training.closed_forms import closed_forms
from zsl_train.training.protocol import crossfit_reason, head_rows, null_reasons, protocol, selection_rule
from zsl_train.training.trainer import Trainer, validation_folds

if TYPE_CHECKING:
    from zsl_train.training.prepared import Prepared


def only(prepared: Prepared, keep) -> Prepared:
    """The pictures for which `keep(seen, role)` holds; the others become unreadable."""
    images = prepared.images
    ok = np.array([keep(bool(images.table.seen[y]), r) for y, r in zip(images.labels, images.role, strict=True)])
    return replace(prepared, store=replace(prepared.store, ok=ok))


ALL = {"T1", "U", "S", "H", "H_uncalibrated", "AUSUC", "T1_czsl", "ECE"}


@pytest.mark.parametrize(
    ("keep", "null"),
    [
        (lambda seen, role: True, set()),
        (lambda seen, role: seen, ALL - {"S", "ECE"}),
        (lambda seen, role: not seen or role == "train", {"S", "H", "H_uncalibrated", "AUSUC"}),
        (lambda seen, role: role == "train", ALL),
    ],
)
def test_every_null_figure_has_a_reason(prepared, tmp_path, keep, null):
    data = only(prepared, keep)
    trainer = Trainer(data, PUBLISHED, CONFIG, checkpoints=tmp_path, log=lambda _: None)
    shipped = trainer.train(Choice(0.5, 0.1, 1.0, None, {}))
    scores = trainer.test(shipped.trained, shipped.head).figures | {"T1_czsl": conventional(trainer, shipped.trained)}
    assert {name for name, value in scores.items() if value is None} == null
    assert set(null_reasons(data)) == null
    for baseline in closed_forms(data, "sc-egg", [], [], lambda _: None).values():
        assert {name for name, value in baseline.figures.items() if value is None} == (null | {"validation_H"}) & set(
            baseline.figures
        )


def test_the_reason_tells_missing_classes_from_missing_photographs(prepared):
    without = only(prepared, lambda seen, role: seen)
    assert null_reasons(without)["U"] == "no photographs of unseen classes"
    table = prepared.images.table
    keep = np.flatnonzero(table.seen)
    rows = np.isin(prepared.images.labels, keep)
    images = replace(
        prepared.images,
        table=table.take(keep),
        paths=tuple(itertools.compress(prepared.images.paths, rows)),
        labels=np.searchsorted(keep, prepared.images.labels[rows]),
        role=prepared.images.role[rows],
    )
    none = replace(prepared, images=images, store=replace(prepared.store, ok=prepared.store.ok[rows]))
    assert null_reasons(none)["U"] == "no unseen classes"
    one = replace(prepared, images=replace(prepared.images, table=replace(table, seen=np.arange(9) != 8)))
    assert null_reasons(one) == {"T1_czsl": "a single unseen class"}


def test_a_figure_that_cannot_be_cross_fitted_has_a_reason():
    chosen = Choice(1.0, 0.0, 1.0, 50.0, {})
    assert crossfit_reason(replace(chosen, held=(Held(50, 40), Held(50, 44))), 2) == {}
    assert crossfit_reason(replace(chosen, validation_H=None), 0) == {}
    assert crossfit_reason(chosen, 1)["validation_H_crossfitted"].startswith("1 fold: there are no others")
    assert "one alone of 3 folds" in crossfit_reason(chosen, 3)["validation_H_crossfitted"]


@pytest.mark.parametrize("cap", [0, 3])
def test_how_many_real_rows_the_head_saw_is_told(prepared, tmp_path, cap):
    """All of them, unless the recipe caps them."""
    recipe, rows = replace(PUBLISHED, replay_per_class=cap), prepared.training_rows()
    trainer = Trainer(prepared, recipe, CONFIG, checkpoints=tmp_path / "published", log=lambda _: None)
    shipped = trainer.train(Choice(1.0, 0.0, 1.0, None, {}))
    counts = np.bincount(prepared.images.labels[rows])
    wanted = int(np.minimum(counts, cap or 10**9).sum())
    assert (wanted == len(rows)) == (cap == 0)
    assert len(shipped.replay.features) == wanted
    assert head_rows(shipped, len(rows)) == {"real": wanted, "synthetic": 3 * CONFIG.synthetic_per_class}
    gaussian = Trainer(prepared, RECIPE, CONFIG, checkpoints=tmp_path / "gaussian", log=lambda _: None)
    made = gaussian.train(Choice(1.0, 0.0, 1.0, None, {}))
    assert head_rows(made, len(rows)) == {"real": len(rows), "synthetic": 0}


def test_the_selection_rule_says_what_chose_or_why_nothing_did(prepared):
    folds = validation_folds(prepared, RECIPE)
    nothing = Choice(1.0, 0.0, 1.0, None, {})
    assert selection_rule(RECIPE, folds, replace(nothing, validation_H=50.0)).startswith(
        "2 folds of validation classes"
    )
    for recipe, given, why in (
        (replace(RECIPE, folds=0), [], "folds = 0"),
        (RECIPE, [], "fewer than 4 seen classes"),
        (RECIPE, folds, "no photographs of training classes to hold out"),
    ):
        assert selection_rule(recipe, given, nothing).startswith(f"nothing was selected ({why}): gamma 0")
    said = protocol(prepared, RECIPE, TinyBackbone(), [], nothing)
    assert said["pictures"] == {"train": 29, "test_seen": 6, "test_unseen": 18, "unreadable": 1}
    assert said["classes"] == {"seen": 6, "unseen": 3}
    assert "our own seeded split" in said["split"]
    assert said["features"].startswith("tiny at 16 px, weights ")
