"""What another unit costs: the closed forms of zsl-train, of attributes in other units."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from support.tiny_xlsa17 import FEATURES, make_pair
from zsl_train.cli import main as zsl_train

FILE = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "units.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("accuracy_units", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_as_given_it_finds_what_zsl_train_finds_and_ranges_do_not_depend_on_units(bench, tmp_path, monkeypatch):
    data, out, run = make_pair(tmp_path / "data"), tmp_path / "out.json", tmp_path / "run"
    words = ["--data", str(data), "--features", FEATURES, "--name", "tiny", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["units.py", *words, "--only", "as-given", "one-x1000"])
    bench.main()
    found = json.loads(out.read_text())["tiny"]
    assert zsl_train(["--data", str(data), "--features", FEATURES, "--method", "gfzsl", "--out", str(run)]) == 0
    scores = json.loads((run / "scores.json").read_text())
    plain = found["as-given"]["none"]["0"]
    assert plain["gfzsl"]["validation_H"] == pytest.approx(scores["validation_H"])
    assert plain["auto"] is False
    assert found["one-x1000"]["none"]["0"]["auto"] is True
    before, after = found["as-given"]["range"]["0"], found["one-x1000"]["range"]["0"]
    assert {**after, "auto": False} == before
