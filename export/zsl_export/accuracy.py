"""What a lower precision costs, in points, and the gate that refuses a bundle when it costs too much.

Measured on the run's test photographs, which chose nothing: neither while training nor among ways to quantise. T1, U,
S and H are those of scores.json, computed from what ONNX Runtime makes of each graph under the head that ships.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_export.photographs import BLOCK, MOST_HELD_OUT, TEST
from zsl_runtime.errors import GateError
from zsl_train.scoring.evaluate import score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from zsl_export.photographs import Photographs, Source
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.head.head import FoldedHead
    from zsl_train.training.run_folder import Run

FIGURES = ("T1", "U", "S", "H")
DECIDING = ("H", "T1", "S")  # the first that can be known decides
MAX_DROP = {
    "fp16": 0.5,
    "int8-cpu": 1.0,
    "int8-trt": 1.0,
}  # points; rounding noise of 8 bits is some 100 times that of 16
LEAST_AGREEMENT = {"fp16": 0.99, "int8-cpu": 0.95, "int8-trt": 0.95}  # with fp32, where nothing labelled is at hand


@dataclass(frozen=True)
class Measured:
    """One precision.

    Attributes:
        figures: T1, U, S, H in percent, None where there is nothing to compute them from; empty without labels.
        agreement: share of pictures with the same best class as fp32.
        drop: points lost in the deciding figure; None without labels and for fp32.
        limit: of the drop in points, or without labels the least agreement; None for fp32.
        passed: whether it is within the limit.

    """

    figures: dict[str, float | None]
    agreement: float
    drop: float | None
    limit: float | None
    passed: bool


@dataclass(frozen=True)
class Accuracy:
    """All precisions side by side.

    Attributes:
        pictures: how many were labelled.
        of: how many there were.
        held_out: they are the run's test photographs; otherwise pictures that the run keeps, most of them trained on.
        reason: why they are not.
        deciding: the figure whose drop is judged; None where it is the agreement.
        measured: by key of the manifest's `precisions`, `fp32` first.

    """

    pictures: int
    of: int
    held_out: bool
    reason: str
    deciding: str | None
    measured: dict[str, Measured]

    def lines(self) -> list[str]:
        """The table shown to the user."""
        head = (
            f"accuracy on {self.pictures} of {self.of} held-out test photographs, by which nothing was chosen:"
            if self.held_out
            else f"no labelled photographs that were held out: {self.reason}; top-1 agreement with fp32 on "
            f"{self.pictures} pictures that the run keeps:"
        )
        names = (*(name for name in FIGURES if self.deciding), "as fp32")
        out = [head, f"  {'':9}" + "".join(f"{name:>9}" for name in names)]
        for key, one in self.measured.items():
            cells = [one.figures[name] for name in FIGURES if self.deciding]
            row = "".join("        -" if cell is None else f"{cell:9.2f}" for cell in cells)
            verdict = "" if one.limit is None else f"   {'ok' if one.passed else 'FAIL'} {self.judged(key)}"
            out.append(f"  {key:9}{row}{one.agreement:>9.1%}{verdict}")
        return out

    def judged(self, key: str) -> str:
        """What was held against which limit."""
        one = self.measured[key]
        if one.drop is None:
            return f"({one.agreement:.1%} agree, at least {one.limit:.0%})"
        return (
            f"({self.deciding} {'falls' if one.drop >= 0 else 'rises'} by {abs(one.drop):.2f}, at most {one.limit:g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for parity.json."""
        return {
            "pictures": self.pictures,
            "of": self.of,
            "held_out": self.held_out,
            "note": "test photographs of the run; nothing was chosen by them"
            if self.held_out
            else f"{self.reason}: agreement with fp32 on pictures that the run keeps, most of them trained on",
            "deciding": self.deciding or "agreement",
            "precisions": {
                key: {
                    **one.figures,
                    "agreement": one.agreement,
                    "drop": one.drop,
                    "limit": one.limit,
                    "passed": one.passed,
                }
                for key, one in self.measured.items()
            },
        }


def measure_accuracy(
    run: Run, backends: Mapping[str, Backend], head: FoldedHead, source: Source, max_drop: float | None
) -> Accuracy:
    """Label the same pictures in every precision.

    Args:
        run: knows the classes, and keeps pictures for the fallback.
        backends: by key of the manifest's `precisions`; `fp32` must be there.
        head: of the generation that ships.
        source: the run's photographs, if they can be had.
        max_drop: points that may be lost; None takes MAX_DROP.

    """
    held = _labelled(source.photographs, backends, head) if source.photographs is not None else None
    if held is not None:
        scores, labels, of = held
        seen = run.generation.table.seen
        # gamma and temperature are in the folded head, so the scores are calibrated already.
        figures = {
            key: {name: score(rows, labels, seen, 0.0, 1.0)[name] for name in FIGURES} for key, rows in scores.items()
        }
        deciding = next(name for name in DECIDING if figures["fp32"][name] is not None)
        return Accuracy(len(labels), of, True, "", deciding, _judge(scores, figures, deciding, max_drop))
    blocks = range(0, len(run.pictures), BLOCK)
    scores = {
        key: np.concatenate([backend.run(run.pictures[start : start + BLOCK], head)[0] for start in blocks])
        for key, backend in backends.items()
    }
    reason = source.reason or "the run has no test photographs that can be read"
    return Accuracy(len(run.pictures), len(run.pictures), False, reason, None, _judge(scores, {}, None, max_drop))


def _labelled(
    photographs: Photographs, backends: Mapping[str, Backend], head: FoldedHead
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64], int] | None:
    """Scores by precision, labels, and how many photographs there were; None when none can be read."""
    rows = photographs.draw(TEST, MOST_HELD_OUT)
    parts: dict[str, list[NDArray[np.float32]]] = {key: [] for key in backends}
    labels = []
    for pictures, of_block in photographs.read(rows):
        labels.append(of_block)
        for key, backend in backends.items():
            parts[key].append(backend.run(pictures, head)[0])
    if not labels:
        return None
    there = int(np.isin(photographs.role, TEST).sum())
    return {key: np.concatenate(blocks) for key, blocks in parts.items()}, np.concatenate(labels), there


def _judge(
    scores: Mapping[str, NDArray[np.float32]],
    figures: Mapping[str, dict[str, float | None]],
    deciding: str | None,
    max_drop: float | None,
) -> dict[str, Measured]:
    best = scores["fp32"].argmax(axis=1)
    found = {}
    for key, rows in scores.items():
        # A row of NaN has no best class, whatever argmax says.
        agreement = float(((rows.argmax(axis=1) == best) & ~np.isnan(rows).any(axis=1)).mean())
        drop, limit, passed = None, None, True
        if key != "fp32" and deciding is not None:
            before, after = figures["fp32"][deciding], figures[key][deciding]
            assert before is not None
            assert after is not None  # the same labels
            drop, limit = before - after, MAX_DROP[key] if max_drop is None else max_drop
            passed = drop <= limit and not np.isnan(rows).any()
        elif key != "fp32":
            limit = LEAST_AGREEMENT[key]
            passed = agreement >= limit
        found[key] = Measured(figures.get(key, {}), agreement, drop, limit, passed)
    return found


def accuracy_gate(accuracy: Accuracy) -> None:
    """GateError E-ACCURACY when a precision costs more than its limit."""
    failed = [f"{key} {accuracy.judged(key)}" for key, one in accuracy.measured.items() if not one.passed]
    if failed:
        remedy = (
            "allow more with --max-drop POINTS"
            if accuracy.deciding
            else "give labelled photographs with --data DIR to have the accuracy itself measured"
        )
        raise GateError(
            "E-ACCURACY",
            f"lower precision costs too much accuracy on {accuracy.pictures} pictures: {'; '.join(failed)}; no bundle "
            f"was written: leave the precision out of --precision, or {remedy}",
        )
