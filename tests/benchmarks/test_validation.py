"""Validation of settings: the folds of zsl-train, not its test pictures."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from support.tiny_xlsa17 import FEATURES, make_pair
from zsl_train.cli import main as zsl_train

FILE = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "validation.py"
PLAN = """
[[rows]]
name = "linear"
method = "eszsl"
[[rows]]
name = "wide"
method = "f-clswgan"
settings = { gan_steps = 12, hidden = 8, classifier_steps = 9, head_epochs = 2, synthetic_per_class = 5 }
"""


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("accuracy_validation", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_finds_what_the_selection_of_zsl_train_finds(bench, tmp_path, monkeypatch, capsys):
    data, plan, out = make_pair(tmp_path / "data"), tmp_path / "plan.toml", tmp_path / "out.json"
    plan.write_text(PLAN)
    given = ["--data", data, "--features", FEATURES, "--runs", tmp_path / "runs", "--plan", plan, "--out", out]

    def printed(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["validation.py", *map(str, given), "--folds", "2", *more])
        bench.main()
        return capsys.readouterr().out

    text = printed()
    assert {line.split(" | ")[0] for line in text.splitlines()[2:]} == {"| linear", "| wide"}
    found = json.loads(out.read_text())["results"]
    run = tmp_path / "run"
    sets = ["gan_steps=12", "hidden=8", "classifier_steps=9", "head_epochs=2", "synthetic_per_class=5", "folds=2"]
    arguments = ["--data", data, "--features", FEATURES, "--method", "f-clswgan", "--seed", "0", "--out", run]
    assert zsl_train([str(word) for word in arguments] + [f"--set={one}" for one in sets]) == 0
    capsys.readouterr()
    scores = json.loads((run / "scores.json").read_text())
    assert found["wide"]["H"] == pytest.approx(scores["validation_H"])
    assert found["wide"]["H_crossfitted"] == pytest.approx(scores["validation_H_crossfitted"])
    assert (found["wide"]["gamma"], found["wide"]["stop_at"]) == (scores["gamma"], scores["stop_at"])
    assert found["wide"]["H_of_shares"] == pytest.approx(scores["candidates"])

    monkeypatch.setattr("zsl_train.training.trainer.Trainer.select", None)  # nothing is trained twice
    assert printed() == text
    assert printed("--report") == text
    monkeypatch.setattr(sys, "argv", ["validation.py", *map(str, given), "--folds", "3", "--report"])
    with pytest.raises(SystemExit, match="no row is finished"):
        bench.main()
