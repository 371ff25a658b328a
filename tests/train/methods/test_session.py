"""The loop of every stage: it logs, saves, resumes, takes snapshots, and stops when numbers leave the earth."""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from support.forked import allow_fork, forked
from zsl_runtime.errors import ArtefactError, GateError, SystemProblem
from zsl_train.methods import session as session_module
from zsl_train.methods.session import DIVERGED, Rng, Scalar, Session, write_atomic

if TYPE_CHECKING:
    from pathlib import Path


class CutError(Exception):
    """What a test interrupts a loop with."""


def counting(folder: Path, log: list, **options) -> Session:
    return Session(folder, log.append, **options)


def counted(total: Scalar, rng: Rng):
    """A body whose state is a running sum of random numbers: it shows every step that was skipped or repeated."""

    def body(step: int) -> dict[str, torch.Tensor]:
        total.value += step + float(rng.uniform(1))
        return {"number": torch.tensor(float(step))}

    return body


def run(session: Session, steps: int, *, stage: str = "one", seed: int = 3, **options) -> float:
    total, rng = Scalar(0.0), Rng(seed)
    session.loop(stage, steps, {"total": total, "rng": rng}, counted(total, rng), **options)
    return total.value


# --- randomness ------------------------------------------------------------------------------------------------------


def test_a_generator_goes_on_exactly_where_its_state_was_taken():
    rng = Rng(5)
    rng.normal(3)
    state = rng.state_dict()

    def some():
        return [rng.normal(2, 2), rng.uniform(3), rng.integers(9, 4), rng.permutation(7)]

    first = some()
    rng.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(first, some(), strict=True))
    assert torch.equal(Rng(5).normal(3), Rng(5).normal(3))
    assert not torch.equal(Rng(5).normal(3), Rng(6).normal(3))


def test_draws_have_the_shape_and_range_that_was_asked_for():
    rng = Rng(0)
    assert rng.normal(2, 3).shape == (2, 3)
    many = rng.uniform(1000)
    assert 0 <= many.min() < 0.01
    assert 0.99 < many.max() < 1
    assert set(rng.integers(3, 200).tolist()) == {0, 1, 2}
    assert sorted(rng.permutation(6).tolist()) == list(range(6))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    Rng(1).normal(5)
    assert torch.equal(before, torch.get_rng_state())


# --- whole files -----------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.pt"
    write_atomic(path, lambda temporary: temporary.write_bytes(b"old"))

    def half(temporary: Path) -> None:
        temporary.write_bytes(b"ne")
        raise CutError

    with pytest.raises(CutError):
        write_atomic(path, half)
    assert path.read_bytes() == b"old"
    write_atomic(path, lambda temporary: temporary.write_bytes(b"new"))
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


@allow_fork
def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"old")
    content = {"x": torch.zeros(50_000)}

    def save() -> int:
        try:
            write_atomic(path, lambda temporary: torch.save(content, temporary))
        except SystemProblem as error:
            print(error)
            return error.exit_code
        return 0

    outcome = forked(save, file_limit=10_000)
    assert outcome.code == 2, outcome.stderr
    assert outcome.stdout.startswith("E-SYSTEM: could not write")
    assert len(outcome.stdout.splitlines()) == 1
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


# --- running and resuming --------------------------------------------------------------------------------------------


def test_every_step_runs_once_and_progress_hears_of_it(tmp_path):
    log, heard = [], []
    session = counting(tmp_path, log, name="fold 1/2", progress=lambda *told: heard.append(told))
    value = run(session, 5)
    rng = Rng(3)
    assert value == sum(range(5)) + sum(float(rng.uniform(1)) for _ in range(5))
    assert [told[:4] for told in heard] == [("fold 1/2", "one", step, 5) for step in range(1, 6)]
    assert heard[2][4] == {"number": 2.0}


def test_the_log_has_means_over_twenty_steps_and_the_time(tmp_path):
    log = []
    run(counting(tmp_path, log), 45)
    lines = [line for line in log if "step" in line]
    assert [(line["step"], line["of"]) for line in lines] == [(20, 45), (40, 45), (45, 45)]
    means = [sum(part) / len(part) for part in (range(20), range(20, 40), range(40, 45))]
    assert [line["number"] for line in lines] == pytest.approx(means)
    assert [line["steps"] for line in log if "seconds" in line] == [45]
    assert {line["session"] for line in log} == {"final"}
    assert {line["stage"] for line in log} == {"one"}


def test_means_after_a_resume_are_those_of_the_steps_that_ran(tmp_path):
    def stop(session, stage, done, total, losses):
        if done == 26:
            raise CutError

    log = []
    with pytest.raises(CutError):
        run(counting(tmp_path, log, progress=stop, save_seconds=-1), 30)
    run(counting(tmp_path, log), 30)
    assert [line["step"] for line in log if "number" in line] == [20, 30]
    assert log[-2]["number"] == pytest.approx(sum(range(25, 30)) / 5)  # 25 were saved


@pytest.mark.parametrize("at", [1, 2, 7, 8])
def test_an_interrupted_loop_goes_on_where_it_was_saved(tmp_path, at):
    whole = run(counting(tmp_path / "whole", []), 8)
    log = []

    def stop(session, stage, done, total, losses):
        if done == at:
            raise CutError

    with pytest.raises(CutError):
        run(counting(tmp_path / "cut", log, progress=stop, save_seconds=-1), 8)
    seen = []
    resumed = counting(tmp_path / "cut", log, progress=lambda *told: seen.append(told[2]))
    assert run(resumed, 8, seed=3 if at == 1 else 99) == whole  # the seed comes from the checkpoint, if there is one
    assert seen == list(range(at, 9))  # step `at` was done and not yet saved
    assert run(counting(tmp_path / "cut", log, progress=stop), 8, seed=99) == whole  # nothing is left to run


def test_checkpoints_are_written_by_time_and_at_the_end(tmp_path, monkeypatch):
    clock = itertools.count(0.0, 1.0)
    monkeypatch.setattr(session_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    path, found = tmp_path / "one.pt", []

    def look(*_) -> None:
        found.append(torch.load(path)["step"] if path.exists() else 0)

    run(counting(tmp_path, [], save_seconds=3.5, progress=look), 10)
    look()
    assert found[0] == 0
    assert found[-1] == 10
    assert 2 <= len(set(found) - {0}) <= 4


@pytest.mark.parametrize("change", ["steps", "state", "bytes", "short", "empty"])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, change):
    run(counting(tmp_path, []), 4)
    path = tmp_path / "one.pt"
    if change == "bytes":
        path.write_bytes(bytes(255 - b for b in path.read_bytes()))
    elif change == "short":
        path.write_bytes(path.read_bytes()[:-200])
    elif change == "empty":
        path.write_bytes(b"")
    state = {"other": Scalar(0.0)} if change == "state" else {"total": Scalar(0.0), "rng": Rng(0)}
    with pytest.raises(ArtefactError) as caught:
        counting(tmp_path, []).loop("one", 5 if change == "steps" else 4, state, lambda _: {})
    assert caught.value.code == "E-CHECKPOINT"
    assert caught.value.exit_code == 5
    assert "--force" in caught.value.message


class Trap:
    """Runs code when it is unpickled by something careless."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_never_runs_code(tmp_path):
    torch.save({"step": 1, "steps": 4, "state": {"total": Trap(tmp_path / "ran"), "rng": {}}}, tmp_path / "one.pt")
    with pytest.raises(ArtefactError, match="cannot be resumed"):
        run(counting(tmp_path, []), 4)
    assert not (tmp_path / "ran").exists()


# --- snapshots and the end of the last stage -------------------------------------------------------------------------


def taken(folder: Path, steps: int, shares: tuple[float, ...], stop_at: float = 1.0, **options) -> tuple[list, list]:
    """(share, step) of every snapshot, and the steps that ran."""
    snapshots, seen, here = [], [], []

    def snapshot(share, trained) -> None:
        assert trained == "the modules"
        snapshots.append((share, here[-1] + 1))

    def body(step: int) -> dict[str, torch.Tensor]:
        here.append(step)
        return {"x": torch.tensor(0.0)}

    session = counting(
        folder, [], snapshot_at=shares, snapshot=snapshot, stop_at=stop_at, progress=lambda *t: seen.append(t[3])
    )
    session.loop("last", steps, {"n": Scalar(0.0)}, body, **({"trained": "the modules"} | options))
    return snapshots, seen


def test_snapshots_are_taken_at_their_share_of_the_last_stage(tmp_path):
    snapshots, seen = taken(tmp_path, 8, (0.25, 0.5, 1.0))
    assert snapshots == [(0.25, 2), (0.5, 4), (1.0, 8)]
    assert len(seen) == 8


def test_a_short_stage_takes_every_snapshot(tmp_path):
    assert taken(tmp_path / "one", 1, (0.25, 0.5, 1.0))[0] == [(0.25, 1), (0.5, 1), (1.0, 1)]
    assert taken(tmp_path / "three", 3, (0.25, 0.3, 0.5, 1.0))[0] == [(0.25, 1), (0.3, 1), (0.5, 2), (1.0, 3)]


def test_the_last_stage_ends_at_the_chosen_share_and_others_do_not(tmp_path):
    assert taken(tmp_path / "last", 8, (), stop_at=0.25)[1] == [2, 2]
    assert taken(tmp_path / "short", 1, (), stop_at=0.25)[1] == [1]
    assert taken(tmp_path / "odd", 7, (0.5,), stop_at=0.5) == ([(0.5, 4)], [4] * 4)  # where the snapshot was
    assert taken(tmp_path / "other", 8, (0.5,), stop_at=0.25, trained=None) == ([], [8] * 8)


@pytest.mark.parametrize(("made_on", "told"), [("cuda", True), ("cpu", False), (None, False)])
def test_a_checkpoint_of_another_device_says_where_it_can_be_gone_on_with(tmp_path, made_on, told):
    """Random numbers of a card cannot be gone on with on the CPU; those of older versions are all the CPU's."""
    run(counting(tmp_path, [], stop_at=0.5), 8, trained="modules")
    path = tmp_path / "one.pt"
    content = torch.load(path, weights_only=True)
    assert content.pop("device") == "cpu"
    torch.save(content | ({} if made_on is None else {"device": made_on}), path)
    if not told:
        run(counting(tmp_path, []), 8, trained="modules")
        return
    with pytest.raises(ArtefactError, match=r"E-CHECKPOINT.*on cuda, this one is on cpu.*--device cuda, or .*--force"):
        run(counting(tmp_path, []), 8, trained="modules")


# --- divergence ------------------------------------------------------------------------------------------------------


def test_a_shortened_stage_can_be_gone_on_with_but_not_be_taken_back(tmp_path):
    uninterrupted = run(counting(tmp_path / "whole", []), 8, trained="modules")
    run(counting(tmp_path / "half", [], stop_at=0.5), 8, trained="modules")
    log: list = []
    assert run(counting(tmp_path / "half", log), 8, trained="modules") == uninterrupted
    assert log[-1]["steps"] == 4
    with pytest.raises(ArtefactError, match="E-CHECKPOINT"):
        run(counting(tmp_path / "half", [], stop_at=0.5), 8, trained="modules")


def test_what_diverged_on_a_card_is_in_no_checkpoint(tmp_path, monkeypatch):
    """There losses are looked at when a line of the log is due, after 20 steps; and before a checkpoint is kept."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True), raising=False)
    total, ran = Scalar(0.0), []

    def body(step: int) -> dict[str, torch.Tensor]:
        ran.append(step)
        total.value = float("nan") if step >= 3 else float(step)
        return {"loss": torch.tensor(total.value)}

    with pytest.raises(GateError, match=r"E-DIVERGED.*step 4"):
        counting(tmp_path, [], save_seconds=0.0).loop("one", 10, {"total": total}, body)
    assert ran == [0, 1, 2, 3]
    kept = torch.load(tmp_path / "one.pt", weights_only=True)
    assert (kept["step"], kept["state"]["total"]["value"]) == (3, 2.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1.01 * DIVERGED, -1.01 * DIVERGED])
def test_a_loss_that_left_the_earth_stops_the_stage(tmp_path, value):
    ran = []

    def body(step: int) -> dict[str, torch.Tensor]:
        ran.append(step)
        return {"good": torch.tensor(1.0), "bad": torch.tensor(value if step == 2 else 0.5)}

    with pytest.raises(GateError) as caught:
        counting(tmp_path, [], name="fold 2/3").loop("guide", 9, {"n": Scalar(0.0)}, body)
    assert caught.value.code == "E-DIVERGED"
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith("E-DIVERGED: fold 2/3, stage guide, step 3: ")
    assert '"bad"' in str(caught.value)
    assert '"good"' not in str(caught.value)
    assert "lower the learning rate" in str(caught.value)
    assert ran == [0, 1, 2]


def test_a_large_loss_goes_on(tmp_path):
    log, losses = [], [0.99 * DIVERGED, -0.99 * DIVERGED, 1.0]
    counting(tmp_path, log).loop("s", 3, {"n": Scalar(0.0)}, lambda step: {"x": torch.tensor(losses[step])})
    assert [line["x"] for line in log if "x" in line] == pytest.approx([1 / 3])
    assert [line["steps"] for line in log if "seconds" in line] == [3]


@pytest.mark.parametrize("with_snapshot", [False, True])
def test_weights_that_the_last_step_broke_stop_the_stage(tmp_path, with_snapshot):
    layer, shots = nn.Linear(2, 1), []

    def body(_: int) -> dict[str, torch.Tensor]:
        layer.weight.data.fill_(float("inf"))
        return {"x": torch.tensor(0.0)}

    session = counting(tmp_path, [], snapshot_at=(1.0,), snapshot=lambda *a: shots.append(a))
    with pytest.raises(GateError, match=r"E-DIVERGED.*layer has weights that are not finite"):
        session.loop("s", 1, {"layer": layer}, body, **({"trained": "modules"} if with_snapshot else {}))
    assert shots == []
    assert not (tmp_path / "s.pt").exists()
