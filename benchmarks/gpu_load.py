"""Classes are added and taken over by `reload()` while threads label: is any answer wrong, and how long is a pause?"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime import Classifier

if TYPE_CHECKING:
    from pathlib import Path

THREADS = 4
PER_ADDITION = 5  # classes

ADD = "import sys; from zsl_runtime.cli.classes import main; sys.exit(main(sys.argv[1:]))"


class Load(NamedTuple):
    """What was seen.

    Attributes:
        calls: that labelled a batch.
        failed: what calls raised.
        wrong: calls whose scores are not those of the head they worked with.
        generations: generations that answered.
        additions: how many times classes were added.
        longest_ms: of any call while classes were added and reloaded.
        longest_before_ms: of any call before that, under the same load.
        reload_ms: of each `reload()`.

    """

    calls: int
    failed: list[str]
    wrong: int
    generations: list[int]
    additions: int
    longest_ms: float
    longest_before_ms: float
    reload_ms: list[float]


def reload_under_load(
    bundle: Path, pictures: np.ndarray, *, backend: str, device: str, precision: str, additions: int, seconds: float
) -> Load:
    """Label from some threads, as fast as it goes; add classes by `zsl-classes` in another process; reload; repeat.

    Args:
        bundle: which is changed.
        pictures: one batch, without a lift in the model; each thread labels it again and again.
        backend: of the classifier.
        device: likewise.
        precision: likewise.
        additions: how many times.
        seconds: of load before the first addition and after each reload.

    """
    with Classifier.open(bundle, backend=backend, device=device, precision=precision) as classifier:
        classifier.score(pictures)
        _, features = classifier.score(pictures)
        stop, marks = threading.Event(), [time.perf_counter()]
        seen: list[tuple[float, float, int, bool]] = []  # begin, end, generation, right
        failed: list[str] = []

        def label() -> None:
            while not stop.is_set():
                snapshot = classifier.snapshot()
                begin = time.perf_counter()
                try:
                    scores, _ = classifier.score_with(snapshot, pictures)
                except Exception as error:  # that is what is counted
                    failed.append(f"{type(error).__name__}: {error}")
                    continue
                end = time.perf_counter()
                wanted = snapshot.head.scores(features)
                right = scores.shape == wanted.shape and bool(np.abs(scores - wanted).max() <= 0.05)
                seen.append((begin, end, snapshot.generation.number, right))

        threads = [threading.Thread(target=label, daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        reloads: list[float] = []
        try:
            time.sleep(seconds)
            marks.append(time.perf_counter())
            for number in range(additions):
                _add(bundle, classifier.class_table, number)
                begin = time.perf_counter()
                if not classifier.reload():
                    failed.append(f"reload {number} took nothing over")
                reloads.append(round(1000 * (time.perf_counter() - begin), 3))
                time.sleep(seconds)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    before = [end - begin for begin, end, _, _ in seen if end <= marks[1]]
    after = [end - begin for begin, end, _, _ in seen if end > marks[1]]
    return Load(
        calls=len(seen),
        failed=sorted(set(failed)),
        wrong=sum(not right for *_, right in seen),
        generations=sorted({number for _, _, number, _ in seen}),
        additions=additions,
        longest_ms=round(1000 * max(after, default=float("inf")), 3),
        longest_before_ms=round(1000 * max(before, default=float("inf")), 3),
        reload_ms=reloads,
    )


def _add(bundle: Path, table: Any, number: int) -> None:
    """Add a few classes between two that are there, as a user does."""
    rng = np.random.default_rng(number)
    lines = [",".join(("name", *(f'"{name}"' for name in table.attributes)))]
    for at in range(PER_ADDITION):
        pair = rng.integers(0, len(table), 2)
        lines.append(",".join((f"added {number} {at}", *(f"{value:.6f}" for value in table.raw[pair].mean(axis=0)))))
    path = bundle.parent / f"added-{number}.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["add", "--engine", str(bundle), "--attributes", str(path)]
    done = subprocess.run([sys.executable, "-c", ADD, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"zsl-classes add failed: {done.stderr}")
