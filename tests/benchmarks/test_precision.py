"""The table of what lower precision costs says what the export measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "precision.py"


def load():
    spec = importlib.util.spec_from_file_location("precision_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_gives_figures_and_changes_in_points():
    one = {"T1": 50.0, "U": None, "S": 40.0, "H": 44.5, "agreement": 1.0}
    other = {"T1": 49.25, "U": None, "S": 40.5, "H": 44.5, "agreement": 0.975}
    found = {
        "accuracy": {"precisions": {"fp32": one, "int8-cpu": other}},
        "int8-cpu": {"layers_in_float": ["a", "b"]},
        "bytes": {"fp32": 27_300_000, "int8-cpu": 7_000_000},
    }
    rows = load().table({"cub20": found}).splitlines()
    assert rows[2] == "| cub20 | fp32 | 50.00 | - | 40.00 | 44.50 | 100.0% | 27.3 |  |"
    assert rows[3] == "| cub20 | int8-cpu | 49.25 (-0.75) | - | 40.50 (+0.50) | 44.50 (+0.00) | 97.5% | 7.0 | 2 |"
    assert {row.count("|") for row in rows} == {10}
