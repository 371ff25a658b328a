"""The real small backbone on real photographs, in every precision: minutes, so only with `make test-slow`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.line import FEW_STEPS, succeed
from zsl_export.cli import main as zsl_export
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.infer import main as zsl_infer
from zsl_train.cli import main as zsl_train

DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cub20"


@pytest.mark.slow
@pytest.mark.needs_data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the photographs of {DATA.name} in $ZSL_TEST_DATA")
def test_cub20_in_every_precision(tmp_path):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    few = [word for name, value in FEW_STEPS.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    words = ("--data", DATA, "--backbone", "efficientnet_lite2", "--method", "sc-egg", "--preset", "code", *few)
    succeed(zsl_train, *words, "--out", run)
    # Trained for seconds, so a few pictures that change their label weigh more than they would: the limit is wide.
    said = succeed(zsl_export, run, "--out", bundle, "--precision", "fp32,fp16,int8", "--max-drop", 5)
    assert "accuracy on 410 of 410 held-out test photographs" in said.err
    report = json.loads((bundle / "parity.json").read_text())["precisions"]
    assert report["int8-cpu"]["calibration"]["pictures"] == 390
    scores = json.loads((run / "scores.json").read_text())
    found = report["accuracy"]["precisions"]
    for name in ("T1", "U", "S", "H"):  # the store's features are half precision, so a picture may change sides
        assert found["fp32"][name] == pytest.approx(scores[name], abs=1.0)
    assert found["fp16"]["agreement"] > 0.99
    assert min(found["int8-cpu"]["agreement"], found["int8-trt"]["agreement"]) > 0.85
    sizes = {key: (bundle / name).stat().st_size for key, name in Bundle.open(bundle).manifest["precisions"].items()}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    picture = next((DATA / "images").rglob("*.jpg"))
    assert succeed(zsl_infer, picture, "--engine", bundle).out.startswith(b"path,rank,class")
