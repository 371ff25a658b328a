"""The tables of README.md are those of benchmarks/results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "tools" / "figures.py"


@pytest.fixture
def figures():
    spec = importlib.util.spec_from_file_location("figures", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_readme_are_those_of_the_results(figures):
    text = figures.README.read_text(encoding="utf-8")
    marked = [found["name"] for found in figures.BLOCK.finditer(text)]
    assert sorted(marked) == sorted(figures.TABLES)
    assert figures.written(text) == text, "run: python tools/figures.py"


def test_a_figure_written_by_hand_is_found(figures):
    text = figures.README.read_text(encoding="utf-8")
    table = figures.BLOCK.search(text)[0]
    cell = next(part for part in table.split("|") if part.strip().replace(".", "").isdigit())
    changed = text.replace(table, table.replace(cell, " 99.9 ", 1), 1)
    assert changed != text
    assert figures.written(changed) == text


def test_cells(figures):
    assert figures.spread({"mean": 41.25, "std": 2.06}) == "41.2 ± 2.1"
    assert figures.spread({"mean": 41.0, "std": None}) == "41.0"
    assert figures.spread(None) == figures.one(None) == "-"
