"""How far a training is: one line with the share that is done and the time that is left."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

LINE_SECONDS = 10.0  # between two lines where there is no terminal
FINAL = "final"  # the session that comes when all others are done
TRUSTED = 0.02  # share of the work after which its own speed counts, and no longer what was expected


class TrainingProgress:
    """Progress of the training loops on stderr: a bar on a terminal, otherwise a line every ten seconds.

    Trainings that run side by side may call from several threads. Losses are in log.jsonl.

    Args:
        verbose: also show stage and losses of each training, and say when a stage ends.

    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._bar: Any = None
        self._task: Any = None
        self._plan: dict[tuple[str, str], tuple[int, float]] = {}
        self._done: dict[tuple[str, str], float] = {}  # seconds of expected work
        self._before = 0.0  # of that, done by an earlier sitting
        self._began = self._line_at = time.monotonic()
        self._lock = threading.Lock()

    def expect(self, sessions: Mapping[str, Mapping[str, tuple[int, float]]]) -> None:
        """What is to come: session -> stage -> steps and seconds of each. Time begins to count."""
        with self._lock:
            self._plan = {(name, stage): each for name, stages in sessions.items() for stage, each in stages.items()}
            self._done, self._before = {}, 0.0
            self._began = self._line_at = time.monotonic()

    def __call__(self, session: str, stage: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        """One step is done."""
        with self._lock:
            self._note(session, stage, done, total)
            self._show(session, stage, done, total, losses)

    def share(self) -> float | None:
        """Share of the expected work that is done, in [0, 1]; None where nothing was expected."""
        total = sum(steps * seconds for steps, seconds in self._plan.values())
        return None if total <= 0 else min(sum(self._done.values()) / total, 1.0)

    def left(self) -> float | None:
        """Seconds that are left: what is expected of them, at the speed of this sitting so far."""
        total = sum(steps * seconds for steps, seconds in self._plan.values())
        done = sum(self._done.values())
        if total <= 0:
            return None
        here = done - self._before
        slower = (time.monotonic() - self._began) / here if here > TRUSTED * total else 1.0
        return max(total - done, 0.0) * slower

    def _note(self, session: str, stage: str, done: int, total: int) -> None:
        known = self._plan.get((session, stage))
        if known is None:
            return
        steps, seconds = known
        work = steps * seconds * done / total  # the last stage of the final training may be cut short
        if (session, stage) not in self._done and done > 1:
            self._before += work * (done - 1) / done
        # What comes before this stage is done, also where an earlier sitting did it and no step of it ran here.
        for other in self._plan:
            if other == (session, stage):
                break
            if session not in (other[0], FINAL):
                continue
            count, each = self._plan[other]
            self._before += count * each - self._done.get(other, 0.0)
            self._done[other] = count * each
        self._done[session, stage] = work

    def _show(self, session: str, stage: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        if sys.stderr.isatty():
            self._draw(session, stage, done, total, losses)
            return
        now = time.monotonic()
        ended = self._verbose and done == total
        if not ended and now - self._line_at <= LINE_SECONDS:
            return
        self._line_at = now
        share, left = self.share(), self.left()
        parts = [] if share is None or left is None else [f"{share:.0%} done, {_length(left)} left"]
        if self._verbose or share is None:
            parts.append(self._where(session, stage, done, total, losses))
        print(f"training: {'; '.join(parts)}", file=sys.stderr, flush=True)

    def _where(self, session: str, stage: str, done: int, total: int, losses: Mapping[str, float]) -> str:
        shown = [f"{name} {value:.3g}" for name, value in losses.items()] if self._verbose else []
        return " ".join([f"{session}, {stage} {done}/{total}", *shown])

    def _draw(self, session: str, stage: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        if self._bar is None:
            columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[left]}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=1.0, left="")
            self._bar.start()
        share, left = self.share(), self.left()
        told = "" if share is None or left is None else f"{share:4.0%}, {_length(left)} left"
        if self._verbose or share is None:
            told = f"{told}  {self._where(session, stage, done, total, losses)}"
        self._bar.update(self._task, completed=done / total if share is None else share, left=told)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _length(seconds: float) -> str:
    """Minutes and seconds, rounded as nobody would read them otherwise."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = round(seconds / 60) if seconds >= 600 else seconds / 60
    return f"{whole:.0f} min" if seconds >= 600 else f"{whole:.1f} min"
