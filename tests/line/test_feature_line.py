"""From a feature file to a bundle that takes features in place of photographs, and classes added to it."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image
from safetensors.numpy import load_file

from support.feature_line import feature_arguments, make_feature_line
from support.line import Line, call, label, read_csv, succeed
from support.tiny_xlsa17 import (
    ATTRIBUTES,
    CLASSES,
    FEATURES,
    PER_CLASS,
    SEEN,
    WIDTH,
    feature_rows,
    labels_of_rows,
    make_pair,
)
from zsl_export import cli
from zsl_export.bundle_of_run import make_probe
from zsl_export.cli import main as zsl_export
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.classes import main as zsl_classes
from zsl_runtime.cli.doctor import main as zsl_doctor
from zsl_runtime.cli.evaluate import main as zsl_eval
from zsl_runtime.errors import InputError
from zsl_runtime.labelling.classifier import Classifier
from zsl_train.cli import main as zsl_train
from zsl_train.data.given import GivenFeatures
from zsl_train.data.open import open_image_set
from zsl_train.recipe import Recipe, read_recipe
from zsl_train.training.prepared import prepare
from zsl_train.training.run_folder import load_run

if TYPE_CHECKING:
    from pathlib import Path

ROWS = feature_rows().astype(np.float32)


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Line:
    return make_feature_line(tmp_path_factory.mktemp("features"))


@pytest.fixture
def rows(tmp_path) -> Path:
    np.save(tmp_path / "rows.npy", ROWS)
    return tmp_path / "rows.npy"


def refused(said, code: str, *parts: str) -> None:
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"error: {code}: ")
    for part in parts:
        assert part in said.err


def test_scores_say_which_features_and_which_split_they_stand_on(line):
    said = line.scores["protocol"]
    run = load_run(line.run)
    sha256 = run.backbone.sha256
    assert said["features"] == f"{FEATURES}, {WIDTH} wide, sha256 {sha256[:12]}"
    assert said["feature_file"] == {
        "name": "features",
        "file": FEATURES,
        "sha256": sha256,
        "regions": 1,
        "channels": WIDTH,
    }
    assert "PS v1" in said["split"]
    assert said["attributes"] == "6 class attributes (att)"
    assert "no picture of test_seen_loc is ever looked at before the test" in said["published_folds"]
    assert said["pictures"] == {"train": 42, "test_seen": 18, "test_unseen": 2 * PER_CLASS, "unreadable": 0}
    assert set(line.scores["baselines"]) == {"eszsl", "gfzsl", "ridge-to-prototype"}
    recipe = read_recipe(line.run / "recipe.toml")
    assert recipe["backbone"] == "features"


def test_the_run_keeps_training_rows_of_every_class_in_turn(line):
    run = load_run(line.run)
    assert run.pictures.dtype == np.float32
    assert run.pictures.shape == (80, 1, WIDTH)  # all there are; 100 were asked for
    first = run.picture_labels[: SEEN.sum()]
    assert sorted(first) == np.flatnonzero(SEEN).tolist()
    halves = {row.astype(np.float16).tobytes() for row in ROWS}
    assert {row[0].astype(np.float16).tobytes() for row in run.pictures} == halves


def test_the_bundle_says_what_it_takes(line):
    manifest = json.loads((line.bundle / "manifest.json").read_text())
    assert manifest["pixels"] is None
    assert manifest["input"] == {"name": "backbone_features", "dtype": "float32", "shape": ["N", 1, WIDTH]}
    assert manifest["backbone"]["file"] == FEATURES
    assert "extracted in the same way" in manifest["backbone"]["note"]
    probe = load_file(line.bundle / "probe.safetensors")
    assert probe["inputs"].shape == (4, 1, WIDTH)
    assert "pixels" not in probe
    parity = json.loads((line.bundle / "parity.json").read_text())
    assert parity["passed"]
    said = succeed(zsl_doctor, line.bundle).out.decode()
    assert f"takes rows of features (N, 1, {WIDTH}), features as in {FEATURES}" in said
    assert "4 of 4 top-1 answers are as shipped" in said


def test_rows_of_npy_and_mat_files_get_the_same_labels(line, rows, tmp_path):
    np.save(tmp_path / "deep.npy", ROWS[:, None])
    for name, compressed in (("plain.mat", False), ("packed.mat", True)):
        scipy.io.savemat(tmp_path / name, {"labels": np.eye(2), "features": ROWS.T}, do_compression=compressed)
    wanted = read_csv(label(line.bundle, [rows], "--topk", 1))
    assert [row["path"] for row in wanted] == [f"{rows}#{i}" for i in range(len(ROWS))]
    for name in ("deep.npy", "plain.mat", "packed.mat"):
        found = read_csv(label(line.bundle, [tmp_path / name], "--topk", 1))
        assert [row["path"] for row in found] == [f"{tmp_path / name}#{i}" for i in range(len(ROWS))]
        assert [row["class"] for row in found] == [row["class"] for row in wanted]
    together = read_csv(label(line.bundle, [tmp_path], "--topk", 1))
    assert len(together) == 4 * len(ROWS)


def test_a_file_of_whole_numbers_that_trains_is_labelled_by_its_own_bundle(tmp_path):
    """mat7.3#28: features as uint8 trained, and their bundle refused them. The answers are those of the same floats."""
    data, run, bundle = make_pair(tmp_path / "data"), tmp_path / "run", tmp_path / "bundle"
    numbers = np.clip(np.round(feature_rows() * 100 + 60), 0, 255).astype(np.uint8)
    (data / FEATURES).unlink()
    with h5py.File(data / "whole.mat", "w") as file:  # version 7.3, too
        file["features"], file["labels"] = numbers, labels_of_rows()[None] + 1.0
    succeed(
        zsl_train, "--data", data, "--features", "whole.mat", "--out", run, "--set", "method=gfzsl", "--set", "folds=2"
    )
    succeed(zsl_export, run, "--out", bundle)
    np.save(tmp_path / "floats.npy", numbers.astype(np.float32))
    found, wanted = (label(bundle, [path], "--topk", 3) for path in (data / "whole.mat", tmp_path / "floats.npy"))
    assert found.decode().replace(str(data / "whole.mat"), str(tmp_path / "floats.npy")) == wanted.decode()
    assert len(read_csv(found)) == 3 * len(numbers)


def test_zsl_eval_gives_the_scores_again_from_a_table_of_the_rows_of_the_file(line, tmp_path):
    shutil.copy(line.data / FEATURES, tmp_path)
    labels = [f"{FEATURES}#{row},{CLASSES[label]}" for row, label in enumerate(labels_of_rows())]
    (tmp_path / "labels.csv").write_text("\n".join(["path,class", *labels]))
    words = (line.bundle, tmp_path / "labels.csv", "--split", line.run / "split.csv", "--format", "json")
    found = json.loads(succeed(zsl_eval, *words).out)
    for figure in ("T1", "U", "S", "H"):
        assert found[figure] == pytest.approx(line.scores[figure], abs=1e-6)
    counts = line.scores["protocol"]["pictures"]
    assert found["protocol"]["photographs"] == counts["test_seen"] + counts["test_unseen"]


def test_the_scores_come_out_again_from_what_is_shipped(line, tmp_path):
    """U and S of scores.json, by labelling the rows that split.csv calls test rows."""
    split = {row["image"]: row["role"] for row in read_csv(line.run / "split.csv")}
    data = scipy.io.loadmat(line.data / FEATURES)
    test = np.array([int(name.partition("#")[2]) for name, role in split.items() if role == "test"])
    np.save(tmp_path / "test.npy", data["features"].T[test].astype(np.float16).astype(np.float32))
    best = read_csv(label(line.bundle, [tmp_path / "test.npy"], "--topk", 1))
    truth = np.ravel(data["labels"])[test].astype(int) - 1
    right = np.array([row["class"] == CLASSES[one] for row, one in zip(best, truth, strict=True)])
    for figure, kind in (("S", SEEN), ("U", ~SEEN)):
        means = [right[truth == one].mean() for one in np.flatnonzero(kind)]
        assert 100 * np.mean(means) == pytest.approx(line.scores[figure])


def test_arrays_are_predicted_from_python(line):
    with Classifier.open(line.bundle, threads=1) as classifier:
        assert classifier.pixels is None
        assert classifier.feature_file == FEATURES
        found = classifier.predict(ROWS)
        assert found == classifier.predict(list(ROWS[:, None]))
        assert len(found) == len(ROWS)
        with pytest.raises(InputError, match=rf"\(1, {WIDTH}\), features as in res101\.mat"):
            classifier.predict([ROWS[0, :5]])
        with pytest.raises(InputError, match="E-ROW-VALUE"):
            classifier.predict([ROWS[0] * np.nan])


def test_photographs_are_refused_in_one_line(line, rows, tmp_path):
    from zsl_runtime.cli.infer import main as zsl_infer

    Image.new("RGB", (8, 8)).save(tmp_path / "bird.jpg")
    wanted = f"takes rows of features (N, {WIDTH}) as in {FEATURES} in .npy or .mat files, not pictures"
    for paths in ([tmp_path / "bird.jpg"], [rows, tmp_path / "bird.jpg"]):
        refused(call(zsl_infer, *paths, "--engine", line.bundle), "E-INPUT-KIND", "bird.jpg", wanted)
    (tmp_path / "album").mkdir()
    shutil.move(tmp_path / "bird.jpg", tmp_path / "album")
    refused(call(zsl_infer, tmp_path / "album", "--engine", line.bundle), "E-NO-IMAGES", wanted)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("turned.mat", {"features": ROWS}, "it is transposed"),
        ("narrow.mat", {"features": ROWS[:, :5].T}, f"takes numbers ({WIDTH}, N), features as in {FEATURES}"),
        ("other.mat", {"x": ROWS.T}, "it holds 'x', and no matrix 'features'"),
        ("complex.mat", {"features": np.ones((WIDTH, 2), np.complex128)}, "cannot be read: 'features'"),
        ("narrow.npy", ROWS[:, :5], f"or (N, {WIDTH}), features as in {FEATURES}"),
    ],
)
def test_files_that_do_not_fit_are_named_and_the_others_are_done(line, rows, tmp_path, name, content, part):
    from zsl_runtime.cli.infer import main as zsl_infer

    if name.endswith(".mat"):
        scipy.io.savemat(tmp_path / name, content)
    else:
        np.save(tmp_path / name, content)
    said = call(zsl_infer, tmp_path / name, rows, "--engine", line.bundle, "--topk", 1)
    assert said.code == 6
    assert part in said.err
    assert len(read_csv(said.out)) == len(ROWS)


def test_classes_are_added_undone_and_refitted(line, rows, tmp_path):
    bundle = shutil.copytree(line.bundle, tmp_path / "bundle")
    before = label(bundle, [rows])
    names = [f"attribute {i + 1}" for i in range(ATTRIBUTES)]
    with (tmp_path / "new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name", *names], ["yak", 1, 0, 0, 1, 0, 0]])
    succeed(zsl_classes, "add", "--engine", bundle, "--attributes", tmp_path / "new.csv")
    added = read_csv(label(bundle, [rows], "--topk", 20))
    assert {row["class"] for row in added} == {*CLASSES, "yak"}
    succeed(zsl_classes, "undo", "--engine", bundle)
    assert label(bundle, [rows]) == before
    succeed(zsl_classes, "refit", "--engine", bundle)
    # PyTorch synthesized what the head was first fitted on, ONNX Runtime does now: the same but for rounding.
    for old, new in zip(read_csv(before), read_csv(label(bundle, [rows])), strict=True):
        assert new["class"] == old["class"]
        assert float(new["probability"]) == pytest.approx(float(old["probability"]), rel=1e-3, abs=1e-6)


def test_the_probe_without_its_rows(line):
    run, bundle = load_run(line.run), Bundle.open(line.bundle)
    probe = make_probe(run, open_backend("ort", bundle, threads=1), pictures=False)
    assert probe.inputs is None
    assert probe.pixels is None
    np.testing.assert_array_equal(probe.scores, bundle.probe().scores)
    assert "and none of your feature rows." in cli._whose_data(run, probe_images=False)


def test_the_recipe_of_a_run_gives_the_same_run_from_npy(line, tmp_path):
    data = make_pair(tmp_path / "data")
    np.save(data / "rows.npy", feature_rows())
    words = ("--recipe", line.run / "recipe.toml", "--features", data / "rows.npy")
    succeed(zsl_train, "--data", data, "--out", tmp_path / "run", *words)
    for name in ("weights.safetensors", "generation.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (line.run / name).read_bytes()


def test_regions_from_a_file_are_trained_on_too(tmp_path):
    data = make_pair(tmp_path / "data")
    regions = np.stack([ROWS, 0.5 * ROWS, ROWS[:, ::-1]], axis=1).astype(np.float16)
    np.save(data / "regions.npy", regions)
    said = succeed(zsl_train, *feature_arguments(data, tmp_path / "run", features="regions.npy"))
    assert "random ones are learned from scratch" in said.err
    run = load_run(tmp_path / "run")
    assert run.dims.regions == 3
    assert run.pictures.shape[1:] == (3, WIDTH)


@pytest.mark.parametrize(
    ("more", "code", "parts"),
    [
        (["--backbone", "resnet101"], "E-USAGE", ["--backbone contradict --features"]),
        (["--weights", "x", "--image-size", "224"], "E-USAGE", ["--image-size and --weights contradict"]),
        (["--features", "nowhere.mat"], "E-FEATURES-FILE", ["there are 'res101.mat'"]),
        (["--splits", "nowhere.mat"], "E-SPLITS", ["nowhere.mat"]),
        (["--set", "attributes=original"], "E-ATTRIBUTES", ["neither att nor original_att"]),
    ],
)
def test_a_wrong_command_is_one_line(line, tmp_path, more, code, parts):
    refused(call(zsl_train, *feature_arguments(line.data, tmp_path / "run", *more)), code, *parts)
    assert not (tmp_path / "run" / "run.json").exists()


def test_what_does_not_suit_the_recipe_is_warned_of(tmp_path):
    sentences = np.random.default_rng(0).standard_normal((9, len(CLASSES)))
    images = open_image_set(make_pair(tmp_path, splits={"att": sentences}), features=FEATURES)
    backbone, recipe = GivenFeatures.of(images.features), Recipe("sc-egg", data_set="CUB")
    notes = "\n".join(prepare(images, backbone, recipe).notes)
    assert "was made for CUB; this data is none of the published data sets" in notes
    assert "of the attributes are negative and become 0" in notes
    assert "add --set clamp_negative=false" in notes
    assert "random ones are learned" not in notes  # one region: words have nothing to look for
    quiet = Recipe("sc-egg", data_set="CUB", clamp_negative=False)
    notes = "\n".join(prepare(replace(images, data_set="CUB"), backbone, quiet).notes)
    assert "was made for" not in notes
    assert "negative" not in notes
    preset = "\n".join(prepare(images, backbone, Recipe("sc-egg", preset="code")).notes)
    assert "the preset code was made for SUN; this data is none of the published data sets" in preset
    assert "was made for" not in "\n".join(prepare(images, backbone, Recipe("sc-egg", preset="default")).notes)
    other = "\n".join(prepare(replace(images, data_set="SUN"), backbone, recipe).notes)
    assert "was made for CUB; this data looks like SUN" in other
