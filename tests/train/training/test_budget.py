"""--budget: what fits is tried on the same folds, the best of it is kept, and an interruption costs nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_prepared import RECIPE
from support.tiny_run import TinyBackbone
from support.tiny_training import know_backbone
from zsl_runtime.errors import ArtefactError, GateError, UsageError
from zsl_train.methods import METHODS
from zsl_train.training import budget
from zsl_train.training.budget import BOARD, CLOSED, ITERATED, Board, Trial, alternative, parse_length, run_budget
from zsl_train.training.run_folder import CHECKPOINT, RunWriter, load_run
from zsl_train.training.timing import Expected, Timed
from zsl_train.training.trainer import Trainer, validation_folds

BASE = replace(RECIPE, method="gfzsl")


@pytest.fixture(autouse=True)
def _known(monkeypatch) -> None:
    know_backbone(monkeypatch)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("20 min", 1200), ("1.5h", 5400), ("15", 900), (" .5M ", 30)]
)
def test_lengths_of_time_are_read(text, seconds):
    assert parse_length(text) == seconds


@given(st.text(max_size=12))
def test_anything_else_is_refused_in_one_line(text):
    found = budget.LENGTH.fullmatch(text.strip().lower())
    if found and 0 < float(found[1]) < 500:  # hours, at most
        assert 0 < parse_length(text) <= budget.LONGEST
    elif not found:
        with pytest.raises(UsageError, match=r"E-BUDGET.*such as 90s, 20m or 1\.5h"):
            parse_length(text)


@pytest.mark.parametrize("text", ["", "0", "-5m", "5d", "nan", "inf", "1e9h", "20 m 5"])
def test_what_is_no_length_of_time(text):
    with pytest.raises(UsageError, match="E-BUDGET"):
        parse_length(text)


def test_every_method_that_is_tried_is_there():
    assert {*CLOSED, *(name for names in ITERATED.values() for name in names)} <= METHODS.keys()
    assert {names[0] for names in ITERATED.values()} == budget.FOR.keys()


class Fake:
    """What a trial costs and finds, in place of training: method -> (seconds of its folds at full length, H)."""

    def __init__(self, monkeypatch, **costs) -> None:
        self.costs, self.tried, self.settings, self.now = costs, [], {}, 0.0
        monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(budget, "expect", self.expect)
        monkeypatch.setattr(budget, "_try", self.attempt)

    def expect(self, prepared, recipe, config, folds):
        seconds, _ = self.costs[recipe.method]
        timed = Timed({"all": 100}, {"all": seconds / 100}, 0.0)
        return Expected(timed, timed, 1, 1.0, 0.0)

    def attempt(self, task, trial, folder, log, progress):
        self.tried.append(trial.method)
        self.settings[trial.method] = trial.settings
        seconds, trial.validation_H = self.costs[trial.method]
        whole = budget.make_task(task.prepared, replace(BASE, method=trial.method), folds=task.folds).config
        share = task.config.stage3_steps / whole.stage3_steps if trial.method == "sc-egg" else 1.0
        self.now += seconds * share


def go(prepared, out, seconds, **options):
    lines: list[str] = []
    writer = RunWriter(out, force=False)
    with writer.exclusive():
        scores = run_budget(
            prepared,
            TinyBackbone(),
            options.pop("recipe", BASE),
            writer,
            seconds=seconds,
            began=budget.time.monotonic(),
            say=lines.append,
            **options,
        )
    return scores, lines


def costs(**changes):
    found = {"gfzsl": (0, 50.0), "eszsl": (0, 60.0), "sc-egg": (600, 55.0), "dcr-gan": (600, 30.0)}
    return found | {"acmr": (600, 20.0), "lisgan": (600, 10.0)} | changes


def test_the_best_by_validation_classes_is_kept_and_everything_is_on_the_board(prepared, tmp_path, monkeypatch):
    fake = Fake(monkeypatch, **costs())
    scores, lines = go(prepared, tmp_path / "run", 1500.0)
    assert fake.tried == ["gfzsl", "eszsl", "sc-egg", "dcr-gan"]  # 900 s are left for the fourth, 600 of them final
    board = {one["method"]: one for one in scores["leaderboard"]}
    assert board["sc-egg"]["validation_H"] == 55.0
    # A quarter of its folds takes 150 s, and the longest final training 600.
    assert board["acmr"]["why"] == "needs 12 minutes at least, 4 minutes were left"
    assert scores["method"] == "eszsl"
    assert "eszsl is the best on validation classes, and is kept" in lines
    assert not [line for line in lines if "were given" in line]
    run = load_run(tmp_path / "run")
    assert run.method == "eszsl"
    assert run.recipe["method"] == "eszsl"
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_a_method_is_as_long_as_the_time_allows_and_left_out_where_it_would_not_be_itself(
    prepared, tmp_path, monkeypatch
):
    config = METHODS["sc-egg"].Config()
    fake = Fake(monkeypatch, **costs())
    # 0.9 of 667 s are 600; folds and final training of full length would take 1200: half of it fits.
    go(prepared, tmp_path / "half", 667.0)
    whole = {name: stage for name, stage in fake.settings["sc-egg"].items() if name.endswith("_steps")}
    full = budget.make_task(prepared, replace(BASE, method="sc-egg"), folds=validation_folds(prepared, BASE)).config
    for name, steps in whole.items():
        assert steps == pytest.approx(getattr(full, name) / 2, rel=0.03), name
    assert config.stage1_steps == 0
    fake.tried.clear()
    board = Board(tmp_path / "x" / BOARD)
    monkeypatch.setattr(budget, "Board", lambda _path: board)
    monkeypatch.setattr(budget, "carry_out", lambda *_, **__: {})
    go(prepared, tmp_path / "none", 300.0)
    assert fake.tried == ["gfzsl", "eszsl"]
    assert board.trials["sc-egg"].why.startswith("needs 5 minutes at least, ")


def test_what_is_hopeless_is_not_even_timed(prepared, tmp_path, monkeypatch):
    fake = Fake(monkeypatch, **costs(gfzsl=(9, 50.0)))
    monkeypatch.setattr(budget, "expect", lambda *_: pytest.fail("timed"))
    monkeypatch.setattr(budget, "carry_out", lambda *_, **__: {})
    board = Board(tmp_path / "x" / BOARD)
    monkeypatch.setattr(budget, "Board", lambda _path: board)
    go(prepared, tmp_path / "run", 8.0)
    assert fake.tried == ["gfzsl", "eszsl"]
    assert {one.why.partition(" at least, ")[2] for one in board.trials.values() if one.why} == {"no time was left"}


def test_a_budget_that_was_overrun_says_so(prepared, tmp_path, monkeypatch):
    fake = Fake(monkeypatch, **costs(gfzsl=(400, 90.0)))
    monkeypatch.setattr(budget, "carry_out", lambda *_, **__: {})
    _, lines = go(prepared, tmp_path / "run", 300.0)
    assert fake.tried == ["gfzsl", "eszsl"]
    assert lines[-1] == "note: it took 7 minutes where 5 minutes were given; on a busy machine give more"


def test_an_interrupted_run_goes_on_with_the_plan_it_had(prepared, tmp_path, monkeypatch):
    fake = Fake(monkeypatch, **costs())
    attempt = fake.attempt

    def interrupted(task, trial, *rest):
        attempt(task, trial, *rest)
        if trial.method == "sc-egg":
            trial.validation_H = None
            raise KeyboardInterrupt

    monkeypatch.setattr(budget, "_try", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(prepared, tmp_path / "run", 1500.0)
    lengths = fake.settings["sc-egg"]
    board = Board(tmp_path / "run" / CHECKPOINT / BOARD)
    assert board.trials["eszsl"].validation_H == 60.0
    assert board.trials["sc-egg"].settings == lengths
    assert board.final == board.trials["sc-egg"].final == 600  # the next sitting leaves room for it
    assert board.used == pytest.approx(fake.now)  # the time of the trial that was interrupted counts
    fake.tried.clear()
    monkeypatch.setattr(budget, "_try", attempt)
    fake.costs["sc-egg"] = (6000, 70.0)  # the machine is slower now: the plan stands
    kept = []
    monkeypatch.setattr(budget, "carry_out", lambda task, *_, **options: kept.append((task, options)) or {})
    go(prepared, tmp_path / "run", 1500.0, recipe=replace(BASE))
    assert fake.tried == ["sc-egg"]
    assert fake.settings["sc-egg"] == lengths
    ((task, options),) = kept
    assert task.recipe.method == "sc-egg"
    assert options["checkpoints"] == tmp_path / "run" / CHECKPOINT / "sc-egg"
    assert {name: getattr(task.config, name) for name in lengths} == lengths


def test_another_budget_is_another_run(prepared, tmp_path, monkeypatch):
    fake = Fake(monkeypatch, **costs())
    monkeypatch.setattr(budget, "carry_out", lambda *_, **__: {})
    go(prepared, tmp_path / "run", 300.0)
    with pytest.raises(UsageError, match="E-RUN-RECIPE"):
        go(prepared, tmp_path / "run", 301.0)
    fake.tried.clear()
    go(prepared, tmp_path / "run", 300.0)
    assert fake.tried == []


def test_a_damaged_board_says_how_to_start_over(prepared, tmp_path):
    (tmp_path / BOARD).write_text('{"used": 1, "trials": [{"method": "eszsl"')
    with pytest.raises(ArtefactError, match=r"E-CHECKPOINT.*with --force to start over"):
        Board(tmp_path / BOARD)
    (tmp_path / BOARD).write_text('{"used": 1, "trials": [{"what": 3}]}')
    with pytest.raises(ArtefactError, match="E-CHECKPOINT"):
        Board(tmp_path / BOARD)


def test_where_nothing_can_be_compared_a_method_is_asked_for(tmp_path):
    board = Board(tmp_path / BOARD)
    board.trials["gfzsl"] = Trial("gfzsl", {}, why="no spread")
    with pytest.raises(UsageError, match=r"E-BUDGET.*gfzsl: no spread.*name a --method"):
        board.best()


def test_a_trial_that_diverges_is_left_out_with_the_reason(prepared, tmp_path, monkeypatch):
    def diverge(self, folds):
        raise GateError("E-DIVERGED", "the loss is not finite")

    monkeypatch.setattr(Trainer, "select", diverge)
    task = budget.make_task(prepared, BASE, folds=[])
    trial = Trial("gfzsl", {})
    budget._try(task, trial, tmp_path, lambda _line: None, None)
    assert trial.over
    assert (trial.validation_H, trial.why) == (None, "the loss is not finite")


def test_the_whole_thing_for_real(prepared, tmp_path, monkeypatch):
    """Every candidate trains on the same folds, with a few steps each; nothing is pretended."""
    monkeypatch.setitem(budget.ITERATED, "photographs", ("sc-egg",))
    monkeypatch.setattr(budget, "LEAST_SHARE", 0.0)
    monkeypatch.setattr(budget, "lengthen", lambda stages, config, share, count: short(config))
    seen = []
    select = Trainer.select
    monkeypatch.setattr(Trainer, "select", lambda self, folds, **how: seen.append(folds) or select(self, folds, **how))
    scores, _ = go(prepared, tmp_path / "run", 600.0)
    assert len(seen) == 4  # three trials and the winner's, which finds its folds where the trial left them
    assert all(one is seen[0] for one in seen)
    best = max(scores["leaderboard"], key=lambda one: one["validation_H"])
    assert scores["method"] == best["method"]
    assert scores["validation_H"] == pytest.approx(best["validation_H"])
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["budget_seconds"] == 600.0


def short(config):
    return replace(config, stage1_steps=5, stage2_steps=5, stage3_steps=5, hidden=8, guide_hidden=8)


def test_what_a_longer_training_takes_is_said_in_one_line(prepared, monkeypatch):
    timed = Timed({"all": 100}, {"all": 6.0}, 0.0)
    monkeypatch.setattr(budget, "expect", lambda *_: Expected(timed, timed, 1, 0.5, 0.0))
    line = alternative(prepared, BASE)
    assert line.startswith("--method sc-egg would take about 15 minutes here, measured just now: ")
    assert "\n" not in line
    monkeypatch.setattr(budget, "make_task", lambda *_: (_ for _ in ()).throw(UsageError("E-X", "no spread")))
    assert alternative(prepared, BASE) == "--method sc-egg cannot be trained on this data: no spread"
