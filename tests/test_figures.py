"""The tables of README.md and of docs/ are those of benchmarks/results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "tools" / "figures.py"


@pytest.fixture
def figures():
    spec = importlib.util.spec_from_file_location("figures", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_all_pages_are_those_of_the_results(figures):
    marked = set()
    for page in figures.PAGES:
        text = page.read_text(encoding="utf-8")
        named = [found["name"] for found in figures.BLOCK.finditer(text)]
        assert len(named) == text.count("<!-- figures:") == text.count("<!-- end -->"), page.name
        assert figures.written(text) == text, f"{page.name}: run: python tools/figures.py"
        marked |= set(named)
    assert marked == set(figures.TABLES)


def test_every_table_has_rows_of_one_width(figures):
    for name, table in figures.TABLES.items():
        lines = table().splitlines()
        assert len(lines) > 2, name
        assert len({line.count("|") for line in lines}) == 1, name


def test_a_figure_written_by_hand_is_found(figures):
    page = next(page for page in figures.PAGES if page.name == "accuracy.md")
    text = page.read_text(encoding="utf-8")
    table = figures.BLOCK.search(text)[0]
    cell = next(part for part in table.split("|") if part.strip().replace(".", "").isdigit())
    changed = text.replace(table, table.replace(cell, " 99.9 ", 1), 1)
    assert changed != text
    assert figures.written(changed) == text


def test_networks_that_were_measured_in_turns_have_their_ratios(figures, tmp_path, monkeypatch):
    """The file of `make bench-cpu` takes the place of the one before, as soon as it is there."""
    peer = {"name": "plain openvino fp32", "times_as_fast": {"median": 0.994, "low": 0.98, "high": 1.01}}
    of = {
        "torch eager": {"pictures_per_second": 19.8},
        "plain openvino fp32": {"pictures_per_second": 31.0},
        "ours openvino fp32": {"pictures_per_second": 30.8, "best_peer": peer},
    }
    content = {"networks": {"resnet101": {"contenders": of, "missing": {}}}}
    (tmp_path / figures.IN_TURNS).write_text(json.dumps(content))
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    assert figures.network().splitlines() == [
        "| pictures a second, batches of 8 | ResNet-101, 224 px | times the best peer |",
        "|---|---|---|",
        "| torch, eager | 19.8 | - |",
        "| fp32: plain OpenVINO | 31.0 | - |",
        "| fp32: ours, `openvino` | 30.8 | 0.99 (0.98 to 1.01) |",
    ]


def test_cells(figures):
    assert figures.spread({"mean": 41.25, "std": 2.06}) == "41.2 ± 2.1"
    assert figures.spread({"mean": 41.0, "std": None}) == "41.0"
    assert figures.spread(None) == figures.one(None) == "-"
