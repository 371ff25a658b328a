"""The line of the methods whose rows come from attributes: photographs to run to bundle, and a class added."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from support.tiny_data import ATTRIBUTES, make_tiny_data
from support.tiny_training import know_backbone, tiny_weights
from zsl_export.cli import main as zsl_export
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.classes import main as zsl_classes
from zsl_runtime.cli.doctor import main as zsl_doctor
from zsl_runtime.labelling.classifier import Classifier
from zsl_train.cli import main as zsl_train
from zsl_train.training.run_folder import load_run

METHODS = {
    "eszsl": {},
    "sp-aen": {
        "hidden": 16,
        "batch": 16,
        "stage1_steps": 5,
        "stage2_steps": 10,
        "reconstruction": "images",
        "decoder_channels": 8,
        "sheet_pictures": 2,
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_from_photographs_to_a_class_added_on_site(tmp_path, monkeypatch, capfd, method):
    know_backbone(monkeypatch)
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data, run, bundle = make_tiny_data(tmp_path / "data", seen=6, unseen=3), tmp_path / "run", tmp_path / "bundle"
    settings = [f"--set={key}={json.dumps(value)}" for key, value in {"folds": 2, **METHODS[method]}.items()]
    given = ["--data", data, "--backbone", "tiny", "--weights", tiny_weights(tmp_path), "--out", run, *settings]
    assert zsl_train([str(word) for word in (*given, "--method", method)]) == 0
    kept = {path.name for path in run.iterdir()} & {"reconstructions.png", "reconstructions.json"}
    assert len(kept) == (2 if method == "sp-aen" else 0)
    if kept:
        with Image.open(run / "reconstructions.png") as picture:
            assert picture.size == (4 * 256, 128)
        assert 0 < json.loads((run / "reconstructions.json").read_text())["mean_squared_error"] < 1
    scores = json.loads((run / "scores.json").read_text())
    assert scores["T1_czsl"] == pytest.approx(scores["T1"])  # the rows of the unseen classes are the same alone
    assert zsl_export([str(run), "--out", str(bundle)]) == 0
    said = capfd.readouterr().err
    assert "The bundle holds 4 of your pictures" in said
    opened = Bundle.open(bundle)
    assert (opened.head_rule, len(opened.current().head)) == ("rows", 9)
    with Classifier.open(bundle) as classifier:
        given_scores, _ = classifier.score(load_run(run).pictures[:5])
    assert np.isfinite(given_scores).all()
    (tmp_path / "new.csv").write_text(
        f"name,{','.join(ATTRIBUTES)}\nheron,{','.join('1' * len(ATTRIBUTES))}\n", encoding="utf-8"
    )
    engine = ["--engine", str(bundle)]
    assert zsl_classes(["add", *engine, "--attributes", str(tmp_path / "new.csv")]) == 0
    assert opened.current().table.names[-1] == "heron"
    assert zsl_classes(["refit", *engine]) == zsl_classes(["undo", *engine]) == zsl_classes(["undo", *engine]) == 0
    assert len(opened.current().head) == 9
    assert zsl_doctor([str(bundle)]) == 0
