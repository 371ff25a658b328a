"""The line of a model whose classes are means: photographs to run to bundle, a class added, photographs as evidence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from support.line import call, label, read_csv, succeed
from support.tiny_data import ATTRIBUTES, CLASSES, class_name, draw_picture, make_tiny_data
from support.tiny_training import know_backbone, tiny_weights
from zsl_export.cli import main as zsl_export
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.classes import main as zsl_classes
from zsl_runtime.cli.doctor import main as zsl_doctor
from zsl_train.cli import main as zsl_train

NEW = 9  # the first class that make_tiny_data(seen=6, unseen=3) leaves out


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("means")
    with pytest.MonkeyPatch.context() as patch:
        know_backbone(patch)
        patch.setenv("ZSL_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        data = make_tiny_data(folder / "data", seen=6, unseen=3)
        given = ["--data", data, "--backbone", "tiny", "--weights", tiny_weights(folder), "--out", folder / "run"]
        succeed(zsl_train, *given, "--method", "gfzsl", "--set", "folds=2")
        succeed(zsl_export, folder / "run", "--out", folder / "bundle")
    scores = json.loads((folder / "run" / "scores.json").read_text())
    assert 0 <= scores["H"] <= 100
    return folder / "bundle"


def save(folder, kind, count, seed):
    """Photographs of a class."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for number in range(count):
        draw_picture(kind, 40, draw).save(folder / f"{number}.png")
    return folder


def chance(engine, pictures, name):
    """Mean probability of a class on pictures."""
    rows = read_csv(label(engine, sorted(pictures.iterdir()), "--topk", 99))
    return np.mean([float(row["probability"]) for row in rows if row["class"] == name])


def test_a_class_comes_from_attributes_and_is_sharpened_by_photographs(bundle, tmp_path):
    assert Bundle.open(bundle).head_rule == "gaussian"
    engine, name, kind = ["--engine", bundle], class_name(NEW), CLASSES[NEW]
    test, photos = save(tmp_path / "test", kind, 8, 1), tmp_path / "photos"
    save(photos / name, kind, 6, 2)
    known = label(bundle, sorted(test.iterdir()), "--topk", 99)
    row = [str(float(attribute.split("_")[1] in kind)) for attribute in ATTRIBUTES]
    (tmp_path / "new.csv").write_text(f"name,{','.join(ATTRIBUTES)}\n{name},{','.join(row)}\n", encoding="utf-8")
    said = succeed(zsl_classes, "add", *engine, "--attributes", tmp_path / "new.csv").out.decode()
    assert said.startswith(f"added {name}: from its attributes; most like ")
    alone = chance(bundle, test, name)
    said = succeed(zsl_classes, "teach", *engine, "--photos", photos).out.decode()
    assert said.startswith(f"taught {name}: 6 photographs, 6 in all; most like ")
    taught = chance(bundle, test, name)
    assert taught > alone
    listed = read_csv(succeed(zsl_classes, "list", *engine, "--format", "csv").out)
    assert [row["photographs"] for row in listed] == ["5"] * 6 + ["0"] * 3 + ["6"]

    for _ in range(2):
        succeed(zsl_classes, "undo", *engine)
    assert label(bundle, sorted(test.iterdir()), "--topk", 99) == known
    (photos / name / "bad.png").write_bytes(b"no picture")
    both = call(zsl_classes, "add", *engine, "--attributes", tmp_path / "new.csv", "--photos", photos)
    assert both.code == 6
    assert chance(bundle, test, name) == pytest.approx(taught, rel=1e-4)
    assert "BROKEN" not in succeed(zsl_doctor, bundle).out.decode()
    succeed(zsl_classes, "refit", *engine)
    assert chance(bundle, test, name) == pytest.approx(taught, rel=1e-3)
