"""zsl-train and zsl-export on a tiny feature file, once for all tests that look at what comes out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.line import Line, succeed
from support.tiny_training import QUICK
from support.tiny_xlsa17 import FEATURES, make_pair
from zsl_export.cli import main as zsl_export
from zsl_train.cli import main as zsl_train

if TYPE_CHECKING:
    from pathlib import Path


def feature_arguments(data: Path, out: Path, *more: object, features: object = FEATURES, **settings: Any) -> list[str]:
    """Arguments of zsl-train for a quick run on a feature file; `settings` go before those of QUICK."""
    chosen = [f"--set={key}={json.dumps(value)}" for key, value in {"method": "sc-egg", **QUICK, **settings}.items()]
    return [str(word) for word in ("--data", data, "--features", features, "--out", out, *chosen, *more)]


def make_feature_line(folder: Path) -> Line:
    """A pair in `folder`/data, the run trained on it, and the bundle exported from that."""
    data, run, bundle = make_pair(folder / "data"), folder / "run", folder / "bundle"
    training = feature_arguments(data, run)
    assert succeed(zsl_train, *training).out == f"{run}\n".encode()
    assert succeed(zsl_export, run, "--out", bundle).out == f"{bundle}\n".encode()
    return Line(data, run, bundle, json.loads((run / "scores.json").read_text(encoding="utf-8")), tuple(training))
