"""The tables of README.md and of docs/ are those of benchmarks/results."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "tools" / "figures.py"


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.syspath_prepend(FILE.parent)
    spec = importlib.util.spec_from_file_location("tools_figures", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
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
        tables = re.findall(r"(?:^\|.*\n)+", table(), re.MULTILINE)
        assert tables, name
        for lines in (one.splitlines() for one in tables):
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
    monkeypatch.setattr(figures.figure_tables, "RESULTS", tmp_path)
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


def row(height: float, *, seeds: int = 3, **more) -> dict:
    values = [height + n for n in range(seeds)]
    figure = {"mean": sum(values) / seeds, "std": 1.0 if seeds > 1 else None, "values": values}
    figures = dict.fromkeys(("T1", "T1_czsl", "U", "S", "H", "AUSUC"), figure)
    content = {"method": "sc-egg", "preset": "default", "head": ["gaussian"], "seeds": list(range(seeds))}
    content |= {"setting": "inductive", "reference": "", "figures": figures}
    if "of" not in more:
        figures["train_seconds"] = {"mean": 30.0 if more.get("preset") == "" else 600.0}
    return content | more


def shown(figures, monkeypatch, tmp_path, results: dict) -> tuple[list[list[dict]], str]:
    """The tables of results, each row by its headings, and the whole text."""
    (tmp_path / "t.json").write_text(json.dumps({"results": results}))
    monkeypatch.setattr(figures.figure_tables, "RESULTS", tmp_path)
    text = figures.scores("t.json")
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        tables.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return tables, text


def test_rows_of_one_seed_stand_by_themselves_with_what_was_scored_on_their_trainings(figures, monkeypatch, tmp_path):
    results = {
        "A": row(60),
        "B": row(50, seeds=1, reference="47.0", machine=["NVIDIA X"], head=["fit"], preset="code"),
        "A: published head": row(45, of="A", name="published head", head=["fit"]),
        "B: local network": row(51, seeds=1, of="B", name="local network", head=[], preset="code"),
        "eszsl (closed form)": row(49, method="eszsl", preset="", head=["rows"]),
    }
    (several, single), text = shown(figures, monkeypatch, tmp_path, results)
    assert [one[""] for one in several] == ["A", "↳ published head ‡", "eszsl (closed form)"]
    assert [one[""] for one in single] == ["B", "↳ local network"]
    assert [one["head"] for one in several + single] == ["Gaussian", "softmax", "rows", "softmax", "-"]
    assert [one["preset"] for one in several + single] == ["default", "default", "-", "code", "code"]
    assert [one["minutes"] for one in several] == ["10", "-", "under 1"]
    assert [one["seeds"] for one in several + single] == ["3", "3", "3", "1", "1"]
    assert several[0]["H"] == "61.0 ± 1.0"
    assert [(one["authors' code, H"], one["trained on"]) for one in single] == [("47.0", "NVIDIA X"), ("-", "CPU")]
    assert "trained on" not in several[0]  # no card had a part in it
    assert "authors' code, H" not in several[0]
    assert text.index("One seed each:") < text.index("T1: photographs of unseen classes") < text.index("‡ H below")
    assert "no preset `default` is among them" in text


def test_a_row_says_where_its_seeds_were_trained(figures):
    def trained_on(*machines: str) -> str:
        return figures.cards_of(figures.line_of("A", row(50, machine=list(machines)), {}))

    assert trained_on("x86_64", "aarch64") == ""
    assert trained_on("NVIDIA X") == "NVIDIA X"
    assert trained_on("NVIDIA X", "NVIDIA Y", "x86_64") == "NVIDIA X, NVIDIA Y, CPU"


def test_defaults_under_the_closed_form_are_named(figures, monkeypatch, tmp_path):
    results = {
        "A": row(48),
        "B": row(40, preset="code"),
        "C": row(60),
        "ESZSL": row(30, method="eszsl"),
        "eszsl (closed form)": row(50, method="eszsl", preset="", head=["rows"]),
        "gfzsl (closed form)": row(45, method="gfzsl", preset=""),
    }
    (table,), text = shown(figures, monkeypatch, tmp_path, results)
    marked = [one[""].removesuffix(" ‡") for one in table if one[""].endswith(" ‡")]
    assert marked == ["A", "B"]
    assert "‡ H below that of ESZSL (51.0), a closed form of seconds; of preset `default`: A." in text
    del results["A"], results["B"]
    assert "‡" not in shown(figures, monkeypatch, tmp_path, results)[1]


def test_what_older_results_do_not_say_is_read_from_titles_and_options(figures):
    old = row(40)
    for key in ("method", "preset", "head"):
        del old[key]
    recipe = "train/recipes/cub/acmr_code.toml"
    titles = ("X", "X: published head, same features", "X, cascade", "eszsl (closed form)")
    options = ["--method", "acmr", "--recipe", recipe, "--set=literature=true"]
    own, head, two, closed = (figures.line_of(t, old | {"options": options}, titles) for t in titles)
    assert (own.of, own.method, own.preset, own.head) == ("", "acmr", "code", ("fit",))
    assert [(one.of, one.name) for one in (head, two)] == [("X", "published head"), ("X", "cascade")]
    closed = figures.line_of("eszsl (closed form)", old, titles)
    assert (closed.method, closed.preset, closed.head, closed.closed) == ("eszsl", "", ("rows",), True)
    aen = old | {"options": ["--method", "sp-aen", "--preset", "paper"]}
    assert figures.line_of("Y", aen, titles).head == ("rows",)
    assert figures.line_of("Y", aen, titles).preset == "paper"


def test_a_method_is_shown_by_its_default_else_by_its_code(figures):
    lines = [
        figures.line_of(title, found, ())
        for title, found in {
            "a": row(1, preset="paper"),
            "b": row(1, preset="code"),
            "c": row(1, method="acmr"),
            "d": row(1, method="acmr", preset="code"),
            "e": row(1, method="lisgan", preset="paper"),
            "f": row(1, method="sc-egg", of="b", preset="default"),
        }.items()
    ]
    assert [figures.shown_of(lines, method).title for method in ("sc-egg", "acmr", "lisgan")] == ["b", "c", "e"]
    assert figures.shown_of(lines, "gfzsl") is None


def test_what_was_not_survived_is_counted(figures, monkeypatch, tmp_path):
    """A crash, a lost bundle, a wrong answer: none of the tables hides it."""
    tables = figures.figures_of_reliability.TABLES
    folder = tmp_path / "reliability"
    folder.mkdir()
    for name in ("kills", "faults", "fuzz", "triton_soak", "long_run", "triton", "scale"):
        source = figures.figure_tables.RESULTS / "reliability" / f"{name}.json"
        found = json.loads(source.read_text(encoding="utf-8"))
        if name == "kills":
            found["cases"]["add"]["survived"] -= 2
        if name == "fuzz":
            found["doors"]["mat"]["changed"]["crash"] += 3
        if name == "triton_soak":
            found["failed"], found["wrong"] = 4, 5
        if name == "long_run":
            found["infer"]["wrong"] = 6
        (folder / f"{name}.json").write_text(json.dumps(found))
    monkeypatch.setattr(figures.figure_tables, "RESULTS", tmp_path)
    told = tables["survived"]()
    assert "| 2 bundles or runs lost |" in told
    assert "| 3 crashes, hangs or bugs |" in told
    assert "| 4 failed, 5 wrong |" in told
    assert "| 6 wrong; " in told
    assert re.search(r"^\| add \| 1,000 \| 998 \|", tables["kills"](), re.MULTILINE)
    assert re.search(r"^\| `mat` \|.*\| 3 \|", tables["doors"](), re.MULTILINE)
