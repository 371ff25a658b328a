"""Which backends give the same bits whatever batch size, order, neighbours and threads, and how far off others are.

    python benchmarks/determinism.py BUNDLE PICTURES... [--out FILE]

Each answer is compared with that of the first run: one thread, batches of 8, pictures in order. It says of every way to
run the same pictures whether scores and features are the same bits, the largest difference of a probability, that of a
feature in shares of the largest one, and how many best classes are others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import ZslError
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.machine.threads import usable_cpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

WAYS = (("ort", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("ort", "int8"), ("openvino", "int8"))
SIZES, FIRST = (1, 2, 3, 5, 7, 16, 48), 8


def answers(
    classifier: Classifier, pictures: NDArray[Any], order: NDArray[np.int64], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores and features of the pictures in their own order, run in another one in batches of `size`."""
    snapshot = classifier.snapshot()
    blocks = [order[start : start + size] for start in range(0, len(order), size)]
    parts = [classifier.score_with(snapshot, pictures[block]) for block in blocks]
    back = np.argsort(order)
    scores, features = (np.concatenate(one)[back] for one in zip(*parts, strict=True))
    return scores, features


def measure(bundle: str, paths: list[str], backend: str, precision: str) -> dict[str, Any]:
    """By each way to run them: the same bits or not, and how far off."""
    first, found = None, {}
    for threads in (1, usable_cpus()):
        with Classifier.open(bundle, backend, "cpu", threads, precision=precision) as classifier:
            pictures = np.stack([classifier.read(path) for path in paths])
            given = np.arange(len(paths))
            ways = {"again": (given, FIRST), "another order": (np.random.default_rng(0).permutation(given), FIRST)}
            ways |= {f"batches of {size}": (given, size) for size in SIZES}
            first = answers(classifier, pictures, given, FIRST) if first is None else first
            for name, (order, size) in ways.items():
                found[f"{name}, {threads} threads"] = compared(answers(classifier, pictures, order, size), first)
    return found


def compared(got: tuple[NDArray[Any], NDArray[Any]], wanted: tuple[NDArray[Any], NDArray[Any]]) -> dict[str, Any]:
    """How answers differ."""
    chances, before = (np.exp(scores.astype(np.float64)) for scores in (got[0], wanted[0]))
    return {
        "same_bits": all(one.tobytes() == other.tobytes() for one, other in zip(got, wanted, strict=True)),
        "probability": float(np.abs(chances - before).max()),
        "feature": float(np.abs(got[1] - wanted[1]).max() / np.abs(wanted[1]).max()),
        "other_best": int((got[0].argmax(axis=1) != wanted[0].argmax(axis=1)).sum()),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for backend, precision in WAYS:
        try:
            found[f"{backend} {precision}"] = measure(given.bundle, given.pictures, backend, precision)
        except ZslError as error:
            found[f"{backend} {precision}"] = {"not_run": str(error)}
        print(backend, precision, json.dumps(found[f"{backend} {precision}"]), file=sys.stderr, flush=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "machine": f"{usable_cpus()} CPUs",
        "command": "python benchmarks/determinism.py BUNDLE PICTURES",
        "pictures": len(given.pictures),
        "against": f"batches of {FIRST} in order, 1 thread",
        "by": found,
    }
    text = json.dumps(report, indent=1) + "\n"
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
