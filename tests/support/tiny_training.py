"""zsl-train on a few drawn pictures with a backbone of one convolution: a whole run in about a second."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from support.tiny_run import TinyBackbone
from zsl_train import backbones

if TYPE_CHECKING:
    from pathlib import Path

# Small networks and few steps; every stage has several, so that it can be interrupted.
QUICK = {
    "hidden": 8,
    "guide_hidden": 8,
    "stage1_steps": 6,
    "stage2_steps": 6,
    "stage3_steps": 6,
    "synthetic_per_class": 12,
    "head_epochs": 4,
    "head_learning_rate": 0.02,
    "folds": 2,
    "word_width": 5,
}
PROGRAM = (
    "import sys, support.tiny_training as tiny, zsl_train.backbones as b, zsl_train.cli as c;"
    "b.BACKBONES['tiny'] = tiny.TinyBackbone; sys.exit(c.main())"
)


def know_backbone(monkeypatch) -> None:
    """Enter the backbone of one convolution into the table."""
    monkeypatch.setitem(backbones.BACKBONES, "tiny", TinyBackbone)


def tiny_weights(folder: Path) -> Path:
    """Write the backbone's weights, the same every time, to a file which --weights can name."""
    path = folder / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(2)
        save_file(TinyBackbone().state_dict(), path)
    return path


def arguments(data: Path, weights: Path, out: Path, *more: object, **settings: Any) -> list[str]:
    """Arguments of zsl-train for a quick run; `settings` go before those of QUICK."""
    chosen = [f"--set={key}={json.dumps(value)}" for key, value in {"method": "sc-egg", **QUICK, **settings}.items()]
    given = ["--data", data, "--backbone", "tiny", "--weights", weights, "--out", out, *chosen, *more]
    return [str(argument) for argument in given]


def command(*given: str) -> list[str]:
    """A command line that runs zsl-train with that backbone in a process of its own."""
    return [sys.executable, "-c", PROGRAM, *given]


def environment(cache: Path) -> dict[str, str]:
    """For such a process: this one's import path, one thread, a cache folder of its own."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ZSL_CACHE": str(cache)}


def figures(run: Path) -> dict[str, Any]:
    """Content of scores.json without how long it took."""
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    del scores["train_seconds"]
    for baseline in scores["baselines"].values():
        del baseline["seconds"]
    return scores
