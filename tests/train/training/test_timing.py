"""How long a training will take: a few steps are timed, and what follows from them is checked against sums by hand."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from support.tiny_prepared import CONFIG, PUBLISHED, RECIPE
from zsl_train.methods import eszsl, sc_egg
from zsl_train.methods.session import Session
from zsl_train.training import timing
from zsl_train.training.timing import ENOUGH_SECONDS, LEAST_STEPS, Expected, Stopwatch, Timed, expect
from zsl_train.training.trainer import Trainer, validation_folds

FOLD = Timed({"scen": 100, "eggn": 50}, {"scen": 0.1, "eggn": 0.4}, 3.0)
FINAL = Timed({"scen": 120, "eggn": 60}, {"scen": 0.05, "eggn": 0.2}, 2.0)
WHOLE = Expected(FOLD, FINAL, rounds=2, last=0.5, heads=7.0)


def test_a_run_takes_its_folds_in_turn_its_final_training_and_its_heads():
    fold, final = 3 + 10 + 20, 2 + 6 + 0.5 * 12
    assert FOLD.total() == pytest.approx(fold)
    assert FINAL.total(0.5) == pytest.approx(final)
    assert WHOLE.seconds == pytest.approx(2 * fold + final + 7)


def test_stages_can_be_sized_to_a_time():
    fixed = 2 * 3 + 2 + 7
    assert WHOLE.scaled(0.0) == pytest.approx(fixed)
    assert WHOLE.scaled(1.0) == pytest.approx(WHOLE.seconds)
    for seconds in (20.0, 50.0, 300.0):
        assert WHOLE.scaled(WHOLE.longest(seconds)) == pytest.approx(seconds)
    assert WHOLE.longest(fixed - 1) == 0.0
    half = replace(WHOLE, fold=FOLD.shortened(0.5), final=FINAL.shortened(0.5))
    assert half.seconds == pytest.approx(WHOLE.scaled(0.5))


def test_progress_is_told_of_every_session_and_its_share_of_the_time():
    sessions = WHOLE.sessions(4)  # two at a time
    assert list(sessions) == ["fold 1/4", "fold 2/4", "fold 3/4", "fold 4/4", "heads", "final"]
    steps = sum(count * each for name in list(sessions)[:4] for count, each in sessions[name].values())
    assert steps == pytest.approx(2 * (10 + 20))
    assert sessions["final"] == {"scen": (120, 0.05), "eggn": (30, 0.2)}
    assert sessions["heads"] == {"choice": (1, 7.0)}
    assert list(WHOLE.sessions(0)) == ["heads", "final"]


def test_a_stopwatch_runs_a_few_steps_and_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "ENOUGH_SECONDS", 0.0)
    ran = []

    def body(step):
        ran.append(step)
        time.sleep(0.05 if step == 0 else 0.01)  # the first one sets things up
        return {"loss": torch.tensor(1.0)}

    watch = Stopwatch(tmp_path)
    watch.loop("scen", 1000, {}, body)
    assert len(ran) == LEAST_STEPS + 1
    assert watch.steps == {"scen": 1000}
    assert 0.009 < watch.seconds["scen"] < 0.03
    ran.clear()
    watch.loop("eggn", 2, {}, body)
    assert len(ran) == 2
    assert not list(tmp_path.iterdir())
    assert ENOUGH_SECONDS > 0


@pytest.mark.parametrize("recipe", [RECIPE, PUBLISHED], ids=lambda recipe: recipe.head)
def test_what_is_expected_is_what_a_training_of_these_lengths_then_runs(prepared, tmp_path, recipe):
    folds = validation_folds(prepared, recipe)
    config = replace(CONFIG, stage1_steps=30, stage2_steps=40, stage3_steps=20)
    found = expect(prepared, recipe, config, folds)
    assert found.fold.steps == found.final.steps == {"scen": 30, "guide": 40, "eggn": 20}
    assert found.rounds == -(-len(folds) // min(torch.get_num_threads(), len(folds)))
    assert found.last == pytest.approx((0.25 + 0.5 + 1.0) / 3)
    assert found.heads > 0
    # A step is timed as the session would run it.
    data = timing.training_data(
        prepared,
        prepared.training_rows(),
        prepared.images.table,
        prepared.images.labels[prepared.training_rows()],
        prepared.semantic,
    )
    lines: list[dict] = []
    sc_egg.fit(data, config, Session(tmp_path, lines.append), 0)
    took = {line["stage"]: line["seconds"] for line in lines if "seconds" in line}
    for stage, seconds in took.items():
        assert (
            found.final.steps[stage] * found.final.seconds[stage] < 20 * seconds + 1
        )  # the same order, on any machine


def test_without_folds_only_the_final_training_counts(prepared):
    found = expect(prepared, RECIPE, CONFIG, [])
    assert found.rounds == 0
    assert found.seconds == pytest.approx(found.final.total() + found.heads)


@pytest.mark.parametrize("recipe", [RECIPE, PUBLISHED], ids=lambda recipe: recipe.head)
def test_a_head_is_timed_where_classes_are_more_than_the_pictures_looked_at(prepared, monkeypatch, recipe):
    monkeypatch.setattr(timing, "MOST_ROWS", 2)
    assert expect(prepared, recipe, CONFIG, []).heads > 0


def test_a_closed_form_is_timed_too(prepared):
    recipe = replace(RECIPE, method="eszsl", head="preset")
    found = expect(prepared, recipe, eszsl.Config(), validation_folds(prepared, recipe))
    assert found.final.steps == {"solve": 1}
    assert 0 < found.seconds < 60


@pytest.mark.parametrize("cap", [0, 2])
def test_a_head_that_was_timed_on_some_rows_is_reckoned_for_all_of_them(prepared, cap):
    """Synthetic rows are as many in both; a recipe that caps real rows caps them here."""
    trainer = Trainer(prepared, replace(PUBLISHED, replay_per_class=cap), CONFIG, checkpoints=None, log=lambda _: None)
    trained = sc_egg.build(CONFIG, prepared.dims)
    labels = prepared.images.labels[prepared.training_rows()]
    real = len(labels) if cap == 0 else 2 * 6
    synthetic = 3 * CONFIG.synthetic_per_class
    wanted = (real + synthetic) / (10 + synthetic)
    assert timing._rows_by(trainer, trained, 10) == pytest.approx(wanted)
    assert timing._rows_by(trainer, trained, 10**6) == 1.0
    assert timing._rows_by(trainer, replace(trained, replay=torch.nn.Identity()), 10) == 1.0


def test_the_other_head_is_reckoned_with_where_both_are_made(prepared, monkeypatch):
    """If making a case took a second and a setting as much: a case a snapshot and one for the final training."""
    folds = validation_folds(prepared, PUBLISHED)
    snapshots = 3 * len(folds)
    heads = {}
    for compare in (False, True):
        monkeypatch.setattr(timing, "timed", lambda work: (1.0, work()))
        monkeypatch.setattr(timing, "_fit_seconds", lambda *_: 0.0)
        heads[compare] = expect(prepared, replace(PUBLISHED, compare_heads=compare), CONFIG, folds).heads
    assert heads[True] - heads[False] == pytest.approx(snapshots + 1 + snapshots * timing.SETTINGS_TRIED)
