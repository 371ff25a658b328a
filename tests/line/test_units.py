"""One attribute in millimetres among ticks: training, export and additions give what they give without units."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np

from support.tiny_data import make_tiny_data
from support.tiny_training import know_backbone, tiny_weights
from zsl_export.cli import main as zsl_export
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.classes import main as zsl_classes
from zsl_train.cli import main as zsl_train
from zsl_train.training.run_folder import load_run

if TYPE_CHECKING:
    from pathlib import Path

FACTOR = 1024.0  # a power of two: no digit changes


def in_millimetres(table: Path, column: str) -> None:
    """The same table with one attribute in another unit."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row[column] = repr(FACTOR * float(row[column]))
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_another_unit_of_an_attribute_changes_nothing(tmp_path, monkeypatch, capfd):
    know_backbone(monkeypatch)
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runs = {}
    weights, data = tiny_weights(tmp_path), make_tiny_data(tmp_path / "data", seen=6, unseen=3)
    for scale in ("range", "auto"):
        words = ["--data", data, "--backbone", "tiny", "--weights", weights, "--out", tmp_path / scale]
        given = [*words, "--method", "gfzsl", "--set", "folds=1", "--set", f"attribute_scale={scale}"]
        assert zsl_train([str(word) for word in given]) == 0
        runs[scale] = load_run(tmp_path / scale)
        in_millimetres(data / "classes.csv", "color_red")
    assert "note: attributes seem to be in different units ('color_red' 0 to" in capfd.readouterr().err
    plain, units = runs.values()
    for one, other in zip(plain.generation.head.weights, units.generation.head.weights, strict=True):
        np.testing.assert_array_equal(other, one)
    assert units.scores["H"] == plain.scores["H"]

    assert zsl_export([str(tmp_path / "auto"), "--out", str(tmp_path / "bundle")]) == 0
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest["format_version"] == 4
    assert bundle.rule == units.semantic_rule
    width = bundle.manifest["semantic_rule"]["attribute_scale"]["width"]
    red = bundle.attributes.index("color_red")
    assert width[red] > 500
    assert max(np.delete(width, red)) <= 1

    table = units.generation.table
    unseen = table.names.index(next(name for name, seen in zip(table.names, table.seen, strict=True) if not seen))
    cells = [repr(float(value)) for value in table.raw[unseen]]
    slip = [repr(11 * FACTOR) if j == red else cell for j, cell in enumerate(cells)]
    rows = [("name", *bundle.attributes), ("twin", *cells), ("slip", *slip)]
    (tmp_path / "new.csv").write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    capfd.readouterr()
    assert zsl_classes(["add", "--engine", str(bundle.path), "--attributes", str(tmp_path / "new.csv")]) == 0
    err = capfd.readouterr().err
    assert f"warning: attribute 'color_red' of 'slip' is {11 * FACTOR:g}, in training it went from 0 to" in err
    after = bundle.current()
    np.testing.assert_allclose(after.head.weights[0][9], after.head.weights[0][unseen], rtol=1e-4, atol=1e-4)
    assert len(after.table) == 11
