"""Lines and the bar on stderr."""

from __future__ import annotations

import io
import time

import pytest

from zsl_runtime.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_bar_without_a_terminal():
    stream = io.StringIO()
    progress = Progress(3, "pictures", stream)
    progress.advance(2)
    progress.line("error: one")
    progress.advance(1)
    progress.clear()
    assert stream.getvalue() == "error: one\n"


def test_a_terminal_gets_a_bar_with_a_rate_that_lines_do_not_break(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = Terminal()
    progress = Progress(7500, "rows", stream)
    clock[0] += 2
    progress.advance(10)
    assert stream.getvalue() == f"\r\x1b[K[{'-' * 24}] 10/7500 5.0 rows/s, 24:58 left"
    progress.line("error: one")
    assert stream.getvalue().endswith("\r\x1b[Kerror: one\n")
    clock[0] += 1000
    progress.advance(3750)
    assert progress.rate == pytest.approx(3760 / 1002)
    assert f"[{'#' * 12}{'-' * 12}] 3760/7500 3.8 rows/s, 16:36 left" in stream.getvalue()
    progress.clear()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_the_bar_is_not_drawn_more_often_than_needed(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = Terminal()
    progress = Progress(1000, "rows", stream)
    for _ in range(1000):
        clock[0] += 0.001
        progress.advance(1)
    assert 5 <= stream.getvalue().count("\r") <= 12
    assert "1000/1000" in stream.getvalue()


def test_hours_are_shown(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = Terminal()
    progress = Progress(10_001, "pictures", stream)
    clock[0] += 1
    progress.advance(1)
    assert "2:46:40 left" in stream.getvalue()
