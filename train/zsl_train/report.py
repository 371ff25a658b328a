"""What a run says to a person: the table of scores and the progress of training."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = ("T1", "U", "S", "H", "AUSUC", "H_uncalibrated")
SHIPPED = ("gfzsl", "eszsl")  # baselines that are methods as well
PROGRESS_SECONDS = 10.0  # between two progress lines where there is no terminal


def cell(value: float | None) -> str:
    """One figure of a table: one decimal, or a dash where it cannot be known."""
    return "-" if value is None else f"{value:.1f}"


def scores_table(scores: Mapping[str, Any]) -> str:
    """The run's scores beside the baselines', as aligned text.

    Args:
        scores: content of scores.json.

    """
    rows = [("", *COLUMNS), (f"{scores['method']} ({scores['preset']})", *(cell(scores[name]) for name in COLUMNS))]
    rows += [(name, *(cell(found[key]) for key in COLUMNS)) for name, found in scores["baselines"].items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.append(
        f"percent, mean of per-class top-1; T1_czsl {cell(scores['T1_czsl'])}, "
        f"expected calibration error {cell(scores['ECE'])}"
    )
    lines += beaten(scores)
    protocol = scores["protocol"]
    lines.append(f"{protocol['split']}; {protocol['features']}; {protocol['selection']}; seed {protocol['seed']}")
    figures: dict[str, list[str]] = {}
    for figure, why in scores["null"].items():
        figures.setdefault(why, []).append(figure)
    lines += [f"no {', '.join(which)}: {why}" for why, which in figures.items()]
    return "\n".join(lines)


def beaten(scores: Mapping[str, Any]) -> list[str]:
    """A line that says so where a baseline of seconds does better than what was trained."""
    own, known = scores["H"], {name: found["H"] for name, found in scores["baselines"].items()}
    better = {name: value for name, value in known.items() if None not in (own, value) and value > own}
    if not better:
        return []
    best = max(better, key=lambda name: better[name])
    advice = f"; take --method {best}" if best in SHIPPED else ""
    return [f"warning: {best} does better here in seconds: H {cell(better[best])} against {cell(own)}{advice}"]


class TrainingProgress:
    """Progress of the training loops on stderr: bars on a terminal, otherwise a line every ten seconds.

    Trainings that run side by side each have a bar; they may call from several threads.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, tuple[str, Any]] = {}  # session -> stage and its bar
        self._line_at = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, session: str, stage: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        """Show one step."""
        with self._lock:
            self._show(session, stage, done, total, losses)

    def _show(self, session: str, stage: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        shown = " ".join(f"{name} {value:.3g}" for name, value in losses.items())
        if sys.stderr.isatty():
            self._draw(session, stage, done, total, shown)
        elif done == total or time.monotonic() - self._line_at > PROGRESS_SECONDS:
            self._line_at = time.monotonic()
            print(f"{session}: {stage} {done}/{total} {shown}", file=sys.stderr, flush=True)

    def _draw(self, session: str, stage: str, done: int, total: int, shown: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[shown]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        before, task = self._tasks.get(session, ("", None))
        if stage != before:
            if task is not None:
                self._bar.remove_task(task)
            task = self._bar.add_task(f"{session}: {stage}", total=total, shown="")
            self._tasks[session] = stage, task
        self._bar.update(task, completed=done, shown=shown)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
