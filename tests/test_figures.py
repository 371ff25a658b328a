"""The tables of README.md and of docs/ are those of benchmarks/results."""

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


def test_cells(figures):
    assert figures.spread({"mean": 41.25, "std": 2.06}) == "41.2 ± 2.1"
    assert figures.spread({"mean": 41.0, "std": None}) == "41.0"
    assert figures.spread(None) == figures.one(None) == "-"
