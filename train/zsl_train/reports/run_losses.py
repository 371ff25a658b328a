"""Of a run's page: how its losses went, stage by stage, of each fold and of the final training."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_train.reports.charts import INK, LINES, MUTED, SEEN, THIRD, UNSEEN, drawing, finished, thinned
from zsl_train.reports.page import Html, figure, joined, said, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from zsl_runtime.arrays import Doubles

NO_LOSS = {"t", "session", "stage", "step", "of", "steps", "seconds", "note"}
FINAL = "final"
MOST_LOSSES, MOST_SESSIONS, MOST_STAGES = 12, 9, 12
LOG_FROM = 30.0  # times that the largest value is above the smallest where the axis becomes logarithmic

Curves = dict[str, dict[str, dict[str, "Doubles"]]]


def read_losses(lines: Iterable[Mapping[str, Any]]) -> Curves:
    """Stage -> loss -> session -> (n, 2) steps and values, in the order of the log.

    A sitting that went on from a checkpoint repeats some steps: what it said last counts.
    """
    found: dict[str, dict[str, dict[str, dict[float, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for line in lines:
        session, stage, step = line.get("session"), line.get("stage"), line.get("step")
        if not isinstance(session, str) or not isinstance(stage, str) or not _number(step):
            continue
        for key, value in line.items():
            if key not in NO_LOSS and _number(value):
                found[stage][key][session][float(step)] = float(value)  # type: ignore[arg-type]
    return {
        stage: {
            loss: {session: np.array(sorted(points.items())) for session, points in sessions.items()}
            for loss, sessions in losses.items()
        }
        for stage, losses in found.items()
    }


def _number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
    )


def losses_part(lines: Iterable[Mapping[str, Any]]) -> Html:
    """A drawing for each stage; a closed form has none."""
    curves = {
        stage: losses
        for stage, losses in read_losses(lines).items()
        if any(points[-1, 0] > 1 for of in losses.values() for points in of.values())  # a closed form has a single step
    }
    if not curves:
        return said("Nothing was trained in steps: a closed form has no losses.")
    parts = [
        said(
            "Thick: the training that ships. Thin and broken: the folds of the selection, which trained on fewer "
            "classes. A loss says whether a training went on, not whether it is any good: adversarial losses have no "
            "goal."
        )
    ]
    for number, (stage, losses) in enumerate(curves.items()):
        if number == MOST_STAGES:
            parts.append(said(f"{len(curves) - number} more stages are in log.jsonl."))
            break
        shown = dict(list(losses.items())[:MOST_LOSSES])
        more = "" if len(shown) == len(losses) else f" {len(losses) - len(shown)} more are in log.jsonl."
        parts.append(figure(_stage(stage, shown), joined([text(f"Stage {stage}: {', '.join(shown)}.{more}")])))
    return joined(parts)


def _stage(stage: str, losses: Mapping[str, Mapping[str, Doubles]]) -> Html:
    """One small drawing a loss, side by side."""
    from matplotlib.ticker import NullFormatter

    columns = min(3, len(losses))
    rows = -(-len(losses) // columns)
    sessions = list(dict.fromkeys(session for of in losses.values() for session in of))
    # The final one is drawn last, and always.
    sessions = [one for one in sessions if one != FINAL][:MOST_SESSIONS] + [one for one in sessions if one == FINAL]
    width = max(2.5 * columns + 0.3, 4.4)
    with drawing(width, 0.55 + 1.75 * rows) as (sheet, words):
        grid = sheet.subplots(rows, columns, squeeze=False)
        drawn = {}
        for place, (loss, of) in enumerate(losses.items()):
            axes = grid[place // columns][place % columns]
            for number, session in enumerate(sessions):
                if session in of:
                    drawn[session] = _line(axes, of[session], session, number, words)
            values = np.concatenate([points[:, 1] for points in of.values()])
            if values.min() > 0 and values.max() > LOG_FROM * values.min():
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_title(words(loss, 24))
            axes.grid()
            if place // columns == rows - 1 or place + columns >= len(losses):
                axes.set_xlabel("step")
        for place in range(len(losses), rows * columns):
            grid[place // columns][place % columns].set_axis_off()
        sheet.legend(handles=list(drawn.values()), loc="outside upper right", ncols=int(width / 1.4))
        return finished(sheet, words, f"Losses of stage {stage}", _told(losses))


def _line(axes: Any, points: Doubles, session: str, number: int, words: Any) -> Any:
    final = session == FINAL
    line = thinned(points, 400)
    (drawn,) = axes.plot(
        line[:, 0],
        line[:, 1],
        color=INK if final else (SEEN, UNSEEN, THIRD, MUTED)[number % 4],
        linestyle="-" if final else LINES[1:][number % (len(LINES) - 1)],
        linewidth=1.9 if final else 1.0,
        marker="." if len(line) == 1 else None,
        label=words(session, 20),
    )
    return drawn


def _told(losses: Mapping[str, Mapping[str, Doubles]]) -> str:
    parts = []
    for loss, of in losses.items():
        session = FINAL if FINAL in of else next(iter(of))
        points = of[session]
        parts.append(f"{loss} ({session}) from {points[0, 1]:.3g} to {points[-1, 1]:.3g} in {points[-1, 0]:.0f} steps")
    return "; ".join(parts) + "."
