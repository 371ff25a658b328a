"""What a run prints: the table, and progress with and without a terminal."""

from __future__ import annotations

import io
import itertools

import pytest

from zsl_train import report
from zsl_train.report import COLUMNS, PROGRESS_SECONDS, TrainingProgress, beaten, cell, scores_table


def scores(**changes) -> dict:
    figures = dict(zip(COLUMNS, (61.24, 50.0, 70.06, 58.3, 40.0, 33.333), strict=True))
    return {
        **figures,
        "T1_czsl": 63.0,
        "ECE": 4.21,
        "method": "sc-egg",
        "preset": "paper",
        "null": {},
        "baselines": {"eszsl": dict.fromkeys(COLUMNS, 9.96), "other": dict.fromkeys(COLUMNS, 100.0)},
        "protocol": {"split": "given", "features": "resnet", "selection": "3 folds", "seed": 5},
        **changes,
    }


def test_cells_have_one_decimal_or_a_dash():
    assert [cell(value) for value in (61.24, 9.96, 0.0, None)] == ["61.2", "10.0", "0.0", "-"]


def test_the_table_lines_up_and_says_where_its_figures_come_from():
    lines = scores_table(scores()).splitlines()
    assert lines[0].split() == list(COLUMNS)
    assert lines[1].split() == ["sc-egg", "(paper)", "61.2", "50.0", "70.1", "58.3", "40.0", "33.3"]
    assert lines[2].split() == ["eszsl", *["10.0"] * 6]
    assert lines[3].split() == ["other", *["100.0"] * 6]
    assert len({len(line) for line in lines[:4]}) == 1
    ends = [lines[0].index(name) + len(name) for name in COLUMNS]
    assert all(
        line[end - 1] in "0123456789" and line[end : end + 1] in {"", " "} for line in lines[1:4] for end in ends
    )
    assert lines[4] == "percent, mean of per-class top-1; T1_czsl 63.0, expected calibration error 4.2"
    assert lines[5].startswith("warning: other does better")
    assert lines[6] == "given; resnet; 3 folds; seed 5"
    assert len(lines) == 7


def test_a_model_that_a_closed_form_of_seconds_beats_says_so():
    worse, better = dict.fromkeys(COLUMNS, 58.2), dict.fromkeys(COLUMNS, 61.0)
    assert beaten(scores(baselines={"gfzsl": worse})) == []
    found = beaten(scores(baselines={"gfzsl": better, "eszsl": worse}))
    assert found == ["warning: gfzsl does better here in seconds: H 61.0 against 58.3; take --method gfzsl"]
    unknown = dict.fromkeys(COLUMNS)
    assert beaten(scores(H=None, baselines={"gfzsl": unknown})) == []


def test_what_is_null_gets_a_dash_and_a_reason_told_once():
    why = "no photographs of unseen classes"
    lines = scores_table(scores(T1=None, U=None, H=None, null={"T1": why, "U": why, "H": why, "S": "no others"}))
    assert lines.splitlines()[1].split()[2:6] == ["-", "-", "70.1", "-"]
    assert lines.splitlines()[-2:] == [f"no T1, U, H: {why}", "no S: no others"]


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


def test_without_a_terminal_a_line_now_and_then_and_at_the_end_of_a_stage(monkeypatch):
    screen = replace_stderr(monkeypatch, terminal=False)
    clock = itertools.count(0.0, PROGRESS_SECONDS / 4)
    monkeypatch.setattr(report.time, "monotonic", lambda: next(clock))
    progress = TrainingProgress()
    for step in range(1, 11):
        progress("fold 1/2", "scen", step, 10, {"local": 1.23456, "global": 20.0})
    progress.close()
    lines = screen.getvalue().splitlines()
    assert lines[-1] == "fold 1/2: scen 10/10 local 1.23 global 20"
    assert 2 <= len(lines) <= 4
    assert "\x1b" not in screen.getvalue()


def test_a_short_stage_is_told_once_when_it_ends(monkeypatch):
    screen = replace_stderr(monkeypatch, terminal=False)
    monkeypatch.setattr(report.time, "monotonic", lambda: 0.0)
    progress = TrainingProgress()
    for step in range(1, 4):
        progress("final", "eggn", step, 3, {"kl": float(step)})
    assert screen.getvalue() == "final: eggn 3/3 kl 3\n"


def test_on_a_terminal_a_bar_that_changes_with_the_stage_and_goes_away(monkeypatch):
    screen = replace_stderr(monkeypatch, terminal=True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    progress = TrainingProgress()
    for stage in ("scen", "guide"):
        for step in range(1, 4):
            progress("final", stage, step, 3, {"local": 0.5})
    progress.close()
    progress.close()  # more often than needed does no harm
    shown = screen.getvalue()
    assert "final: guide" in shown
    assert "3/3" in shown
    assert "local 0.5" in shown
    assert "\x1b[?25h" in shown  # the cursor is back
    assert "final: scen 3/3" not in shown  # no plain lines


@pytest.mark.parametrize("terminal", [True, False])
def test_a_progress_that_showed_nothing_leaves_nothing_behind(monkeypatch, terminal):
    screen = replace_stderr(monkeypatch, terminal=terminal)
    TrainingProgress().close()
    assert screen.getvalue() == ""  # no bar was drawn, and none is taken away
