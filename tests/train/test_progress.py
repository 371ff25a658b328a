"""Progress of a training: one line with the time that is left, with and without a terminal."""

from __future__ import annotations

import io
import itertools

import pytest

from zsl_train import progress as module
from zsl_train.progress import LINE_SECONDS, TrainingProgress

PLAN = {"fold 1/2": {"scen": (10, 1.0), "eggn": (20, 2.0)}, "fold 2/2": {"scen": (10, 1.0), "eggn": (20, 2.0)}}
LOSSES = {"local": 1.23456, "global": 20.0}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    return clock


class Screen(io.StringIO):
    """A stderr that is a terminal, or is none."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def replace_stderr(monkeypatch, *, terminal: bool) -> Screen:
    screen = Screen(terminal=terminal)
    monkeypatch.setattr("sys.stderr", screen)
    return screen


def walk(progress, clock, seconds_a_step, *, begin=1):
    """Go through the first fold, each step in so many times what was expected; yields after each."""
    for stage, (steps, seconds) in PLAN["fold 1/2"].items():
        for step in range(begin if stage == "scen" else 1, steps + 1):
            clock.now += seconds_a_step * seconds
            progress("fold 1/2", stage, step, steps, LOSSES)
            yield


def test_the_time_left_is_what_is_left_at_the_speed_so_far(clock, monkeypatch):
    replace_stderr(monkeypatch, terminal=False)
    progress = TrainingProgress()
    assert progress.left() is None
    progress.expect(PLAN)
    assert progress.left() == pytest.approx(100.0)
    for _ in walk(progress, clock, 3.0):
        assert progress.left() == pytest.approx(300.0 - clock.now) or progress.share() <= 0.02
    assert progress.share() == pytest.approx(0.5)
    assert clock.now == pytest.approx(150.0)


def test_what_an_earlier_sitting_did_costs_no_time_in_this_one(clock, monkeypatch):
    replace_stderr(monkeypatch, terminal=False)
    progress = TrainingProgress()
    progress.expect(PLAN)
    clock.now = 2.0
    progress("fold 1/2", "eggn", 11, 20, LOSSES)  # scen and 10 steps of eggn were there
    assert progress.share() == pytest.approx((10 + 22) / 100)
    for step in range(12, 21):
        clock.now += 2.0
        progress("fold 1/2", "eggn", step, 20, LOSSES)
    assert progress.left() == pytest.approx(50.0)


def test_when_the_final_training_begins_the_folds_are_done(clock, monkeypatch):
    replace_stderr(monkeypatch, terminal=False)
    progress = TrainingProgress()
    progress.expect({**PLAN, "final": {"scen": (10, 1.0)}})
    clock.now = 1.0
    progress("final", "scen", 1, 10, LOSSES)
    assert progress.share() == pytest.approx(101 / 110)
    assert progress.left() == pytest.approx(9.0)


def test_a_last_stage_that_is_cut_short_is_done_when_it_ends(clock, monkeypatch):
    replace_stderr(monkeypatch, terminal=False)
    progress = TrainingProgress()
    progress.expect({"final": {"eggn": (10, 1.0)}})
    clock.now = 1.0
    progress("final", "eggn", 5, 5, LOSSES)
    assert progress.share() == pytest.approx(1.0)
    assert progress.left() == 0.0


def test_without_a_terminal_one_line_now_and_then(clock, monkeypatch):
    screen = replace_stderr(monkeypatch, terminal=False)
    progress = TrainingProgress()
    progress.expect(PLAN)
    for _ in walk(progress, clock, 1.0):
        pass
    progress.close()
    lines = screen.getvalue().splitlines()
    assert len(lines) == pytest.approx(50 / LINE_SECONDS, abs=2)
    assert lines[-1].startswith("training: ")
    assert "% done, " in lines[-1]
    assert lines[-1].endswith(" left")
    assert "\x1b" not in screen.getvalue()


def test_losses_are_shown_when_asked_for_and_the_end_of_each_stage(clock, monkeypatch):
    screen = replace_stderr(monkeypatch, terminal=False)
    progress = TrainingProgress(verbose=True)
    progress.expect(PLAN)
    for _ in walk(progress, clock, 0.01):
        pass
    lines = screen.getvalue().splitlines()
    assert [line for line in lines if line.endswith("left; fold 1/2, scen 10/10 local 1.23 global 20")]
    assert [line for line in lines if line.endswith("left; fold 1/2, eggn 20/20 local 1.23 global 20")]


def test_where_nothing_is_expected_the_step_is_told(clock, monkeypatch):
    screen = replace_stderr(monkeypatch, terminal=False)
    progress = TrainingProgress()
    clock.now = LINE_SECONDS + 1
    progress("fold 1/2", "solve", 1, 1, LOSSES)
    assert screen.getvalue() == "training: fold 1/2, solve 1/1\n"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(4.4, "4 s"), (59.4, "59 s"), (61, "1.0 min"), (599, "10.0 min"), (3599, "60 min")]
)
def test_lengths_are_rounded(seconds, shown):
    assert module._length(seconds) == shown


@pytest.mark.parametrize("verbose", [False, True])
def test_on_a_terminal_a_bar_that_goes_away(clock, monkeypatch, verbose):
    screen = replace_stderr(monkeypatch, terminal=True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    progress = TrainingProgress(verbose=verbose)
    progress("final", "scen", 1, 3, {"local": 0.5})  # nothing was expected yet
    progress.expect(PLAN)
    for _ in itertools.islice(walk(progress, clock, 1.0), 12):
        pass
    progress._bar.refresh()
    progress.close()
    progress.close()  # more often than needed does no harm
    shown = screen.getvalue()
    assert "% " in shown or "%," in shown
    assert "left" in shown
    assert ("local 1.23" in shown) == verbose
    assert "\x1b[?25h" in shown  # the cursor is back
