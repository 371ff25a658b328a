"""A run that ships the Gaussian head: what its bundle holds, answers and learns, and what the gate stops."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import closing
from copy import deepcopy as copy_of
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx
import pytest

from support import tiny_run as tiny
from support.engines import needs_rtx
from support.tiny_photographs import lay_out_photographs
from zsl_export import bundle_of_run
from zsl_export.bundle_of_run import export_run
from zsl_export.cli import _whose_data, main
from zsl_export.parity import MEANS, measure, reference_rows, reference_scores
from zsl_export.shapes import shape_arithmetic
from zsl_export.verify import verify_bundle
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes, list_classes, refit, teach_classes, undo
from zsl_runtime.errors import GateError
from zsl_runtime.graphs.ports import ports_of
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.gaussian import Evidence
from zsl_runtime.head.head import fold
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.trt.build import Shape, build_for_bundle
from zsl_runtime.trt.library import find_library
from zsl_runtime.trt.store import find, read_plan
from zsl_train.training.run_folder import Run, load_run

SMALL = ("means", "lift")
PRECISIONS = ("fp32", "fp16", "int8")
NEW = ClassTable(
    names=("heron",),
    seen=np.array([False]),
    raw=np.array([[90.0, 1, 50, 2, 70, 5]]),
    attributes=tuple(f"attribute {letter}" for letter in "abcdef"),
)


class Shipped(NamedTuple):
    """A run with the Gaussian head, its bundle, and what the export told the user."""

    run: Run
    bundle: Bundle
    told: str

    def engine(self, **graphs) -> OrtBackend:
        """ONNX Runtime over the exported graphs, some of them replaced."""
        return OrtBackend({**{part: self.bundle.graph(part) for part in ("model", *SMALL)}, **graphs}, 1)


@pytest.fixture(scope="module")
def regression(tmp_path_factory) -> Shipped:
    """Means from attributes by regression alone."""
    run, told = tiny.make_tiny_run(rule="gaussian"), []
    path = export_run(run, tmp_path_factory.mktemp("regression") / "b", tell=told.append)
    return Shipped(run, Bundle.open(path), "\n".join(told))


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Shipped:
    """Means with the method's synthesizer inside, in every precision."""
    run, told, folder = tiny.make_tiny_run(rule="gaussian", draws=tiny.DRAWS), [], tmp_path_factory.mktemp("generator")
    head = run.generation.head
    lay_out_photographs(run, folder / "data", folder / "run")
    run.generation = replace(run.generation, head=head)  # the one that follows from its means
    path = export_run(run, folder / "b", precisions=PRECISIONS, max_drop=100.0, tell=told.append)
    return Shipped(run, Bundle.open(path), "\n".join(told))


@pytest.fixture(params=["regression", "generator"])
def shipped(request) -> Shipped:
    return request.getfixturevalue(request.param)


@pytest.fixture
def copy(shipped, tmp_path) -> Bundle:
    """A bundle that may be changed."""
    return Bundle.open(shutil.copytree(shipped.bundle.path, tmp_path / "copy"))


def rows_of(bundle: Bundle) -> np.ndarray:
    """Weights and biases of the head in force, (C, D + 1)."""
    head = bundle.current().head
    return np.column_stack([head.weights[0], head.biases[0]])


# What is in it.


def test_it_holds_means_and_statistics_and_nobody_s_features(shipped):
    run, manifest = shipped.run, shipped.bundle.manifest
    models = {name for name in manifest["files"] if name.startswith("model.")}
    assert set(manifest["files"]) - models == {
        *("means.onnx", "lift.onnx", "gaussian.safetensors", "probe.safetensors"),
        "readout.safetensors",  # a regression on the classes' means
    }
    assert manifest["format_version"] == 3
    assert manifest["graphs"] == {part: f"{part}.onnx" for part in ("model", *SMALL)}
    assert manifest["dims"] == {"F": tiny.FEATURE, "D": tiny.CANONICAL, "A": tiny.ATTRIBUTES, "Z": 0}
    view = {"name": "canonical", "start": 0, "stop": tiny.CANONICAL, "weight": 1.0, "fit": None}
    assert manifest["head"] == {"rule": "gaussian", "views": [view], "synthetic_per_class": 0, "seed": run.seed}
    given, wanted = shipped.bundle.gaussian(), run.trained.gaussian
    assert np.array_equal(given.variance, wanted.variance)
    assert np.array_equal(given.scale, wanted.scale)
    means = shipped.bundle.current().means
    assert np.array_equal(means.prior, run.generation.means.prior)
    assert np.array_equal(means.totals, run.generation.means.totals)
    counted = {row.name: row.photographs for row in list_classes(shipped.bundle)}
    seen = np.bincount(run.picture_labels, minlength=len(tiny.SEEN))
    assert counted == dict(zip(tiny.SEEN, seen.tolist(), strict=True)) | dict.fromkeys(tiny.UNSEEN, 0)


@pytest.mark.parametrize("name", ["exported", "regression"])
def test_ranges_of_attributes_are_those_of_the_classes_with_photographs(name, request):
    """Under every rule; an unseen class whose attributes lie outside does not widen them."""
    run, bundle = request.getfixturevalue(name)[:2]
    table = run.generation.table
    found = np.array(Bundle.open(bundle.path if name == "regression" else bundle).manifest["attribute_ranges"])
    np.testing.assert_array_equal(found, np.stack([table.raw[:5].min(axis=0), table.raw[:5].max(axis=0)], axis=1))
    assert (found[:, 1] < table.raw.max(axis=0)).any()


def test_what_was_compared_is_told_and_kept(shipped):
    assert "means.onnx: 70 random rows, batches of 1/3/6/16" in shipped.told
    assert "exported means.onnx (" in shipped.told
    said = json.loads((shipped.bundle.path / "parity.json").read_text())
    results = {one["what"]: one for section in said["sections"] for one in section["results"]}
    assert (results["means"]["limits"]["row_error"], results["means"]["rows"]) == (MEANS.row_error, 70)
    assert results["means of generation 1"]["rows"] == 7
    assert "limits" not in results["view canonical"]  # those of the whole verdict


# What it answers.


def test_it_scores_as_pytorch_does(shipped):
    run = shipped.run
    features, lifted = reference_rows(run)
    wanted = reference_scores(lifted, fold(run.generation.head, run.generation.table.seen))
    with Classifier.open(shipped.bundle.path) as classifier:
        for count in (1, 5, 70):
            scores, given = classifier.score(run.pictures[:count])
            np.testing.assert_allclose(given, features[:count], atol=1e-5)
            np.testing.assert_allclose(scores, wanted[:count], atol=1e-2)
    assert (wanted.argmax(axis=1) == run.picture_labels).mean() > 0.6  # by chance 0.14


def test_a_class_added_on_site_has_the_row_that_training_would_have_given_it(shipped, copy):
    run, before = shipped.run, copy.current()
    old = rows_of(copy)
    add_classes(copy, NEW)
    means = tiny.tiny_means(run.trained, NEW, np.zeros((0, tiny.FEATURE), np.float32), np.zeros(0, np.int64))
    weight, bias = run.trained.gaussian.rows(means)
    added = rows_of(copy)
    np.testing.assert_allclose(added[-1], np.append(weight, bias), rtol=1e-4, atol=1e-4)
    assert np.array_equal(added[:-1], old)
    undo(copy)
    assert np.array_equal(rows_of(copy), old)
    assert np.array_equal(copy.current().means.totals, before.means.totals)
    refit(copy)
    np.testing.assert_allclose(rows_of(copy), old, rtol=1e-4, atol=1e-4)


def test_photographs_move_their_own_class_and_no_other(shipped, copy):
    """What is taught comes through the bundle's own lift; the class is then where its photographs are."""
    add_classes(copy, NEW)
    old = rows_of(copy)
    table = copy.current().table
    pictures = tiny.draw_pictures(np.random.default_rng(8), np.full(20, 6))
    with closing(shipped.engine()) as engine:
        x = engine.lift(engine.features(pictures)).astype(np.float64)
    teach_classes(copy, {"heron": Evidence(len(x), x.sum(axis=0))})
    taught = rows_of(copy)
    row = table.index("heron")
    others = np.arange(len(table)) != row
    assert np.array_equal(taught[others], old[others])
    gaussian = copy.gaussian()
    apart = [np.linalg.norm(one[row, :-1] / gaussian.scale - x.mean(axis=0)) for one in (old, taught)]
    assert apart[1] < 0.2 * apart[0]
    undo(copy)
    assert np.array_equal(rows_of(copy), old)


# What the gate stops.


def damaged(path, name: str, tmp_path):
    """A copy of a graph in which the tensor `name` is a little off."""
    model = onnx.load(path)
    (tensor,) = (one for one in model.graph.initializer if one.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] += 0.05 * max(np.abs(values).max(), 0.1)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "damaged.onnx")
    return tmp_path / "damaged.onnx"


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        *(("regression", one) for one in ("anchors", "coefficients", "sharpness")),
        *(("generator", one) for one in ("coefficients", "share", "noise", "canonical.weight")),
        ("generator", "synthesizer.outer.weight"),
    ],
)
def test_a_graph_of_other_means_than_the_run_s_fails_the_gate(name, tensor, request):
    """Any tensor of the two may differ: one number of it, by a twentieth of the largest."""
    run, engine = request.getfixturevalue(name).run, request.getfixturevalue(name).engine()
    assert measure(run, engine).faults() == []
    means = copy_of(run.trained.means)
    values = means.state_dict()[tensor].view(-1)
    values[0] += 0.05 * values.abs().max()
    other = replace(run, trained=replace(run.trained, means=means))
    (fault,) = measure(other, engine).faults()
    assert fault.startswith("means.onnx means: 70 rows")


def test_a_generation_that_rests_on_other_means_fails_the_gate(regression):
    """As of another checkpoint: `refit` would give another head than the one that ships."""
    means = regression.run.generation.means
    generation = replace(regression.run.generation, means=replace(means, prior=means.prior[::-1].copy()))
    (fault,) = measure(replace(regression.run, generation=generation), regression.engine()).faults()
    assert fault.startswith("means.onnx means of generation 1: 7 rows")


def test_a_lift_that_differs_from_the_run_s_fails_the_gate(regression, tmp_path):
    wrong = damaged(regression.bundle.graph("lift"), "lift.bias", tmp_path)
    (fault,) = measure(regression.run, regression.engine(lift=wrong)).faults()
    assert fault.startswith("lift.onnx view canonical: 70 rows")


def test_without_parity_there_is_no_bundle(regression, tmp_path, monkeypatch):
    def wrong(graph, path, metadata) -> None:
        source = regression.bundle.path / path.name
        shutil.copyfile(damaged(source, "means.coefficients", tmp_path) if path.stem == "means" else source, path)

    monkeypatch.setattr(bundle_of_run, "export_graph", wrong)
    with pytest.raises(GateError, match=r"E-PARITY.*means\.onnx means.*no bundle was written"):
        export_run(regression.run, tmp_path / "b")
    assert not (tmp_path / "b").exists()


# From a run folder, and in other precisions.


@pytest.mark.parametrize("pictures", [True, False])
def test_a_run_folder_becomes_a_bundle_and_whose_data_is_in_it_is_said(shipped, tmp_path, monkeypatch, capfd, pictures):
    def copied(graph, path, metadata) -> None:
        shutil.copyfile(shipped.bundle.path / path.name, path)

    tiny.know_tiny(monkeypatch)
    monkeypatch.setattr(bundle_of_run, "export_graph", copied)
    folder = tiny.save_tiny_run(shipped.run, tmp_path / "run")
    assert load_run(folder).trained.means.shape == shipped.run.trained.means.shape
    options = [] if pictures else ["--no-probe-images"]
    assert main([str(folder), "--out", str(tmp_path / "b"), *options]) == 0
    assert Bundle.open(tmp_path / "b").current().means.counts.sum() == 70
    said = capfd.readouterr().err
    assert "and of 70 training pictures each class's mean, count and sum alone" in said
    assert ("The bundle holds 6 of your pictures" in said) == pictures
    assert ("features of the probe's pictures" in said) != pictures
    assert ("Pass it on only to whom you would give those." in said) == pictures


def test_a_class_with_one_training_picture_is_told_as_its_features(regression, tmp_path, monkeypatch):
    means = regression.run.generation.means
    counts = means.counts.copy()
    counts[0] = 1
    run = replace(regression.run, generation=replace(regression.run.generation, means=replace(means, counts=counts)))
    assert "(1 with one of them, whose own features the sum is)" in _whose_data(run, probe_images=False)


def test_every_precision_is_near_and_verifies_on_the_spot(generator):
    run, bundle = generator.run, generator.bundle
    assert bundle.manifest["precisions"].keys() == {"fp32", "fp16", "int8-cpu", "int8-trt"}
    head = fold(run.generation.head, run.generation.table.seen)
    _, lifted = reference_rows(run)
    best = reference_scores(lifted, head).argmax(axis=1)
    for name in bundle.precisions.values():
        with closing(OrtBackend({"model": bundle.path / name}, 1)) as engine:
            scores, _ = engine.run(run.pictures, head)
        assert (scores.argmax(axis=1) == best).mean() >= 0.9, name
    found = verify_bundle(bundle)
    assert found.passed, found.lines()
    assert {one.precision for one in found.judged} >= {"fp32", "fp16", "int8"}


def test_whitening_stays_in_float32(generator):
    model = onnx.load(generator.bundle.path / "model.fp16.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["embedder.project.linear.weight"] == onnx.TensorProto.FLOAT16
    assert kinds["lift.weight"] == kinds["lift.bias"] == onnx.TensorProto.FLOAT


# Engines.


def test_no_graph_computes_with_sizes(shipped):
    for name in shipped.bundle.manifest["files"]:
        if name.endswith(".onnx"):
            assert shape_arithmetic(onnx.load(shipped.bundle.path / name)) == [], name


@needs_rtx
def test_real_engines_stay_the_same_while_classes_come_and_learn(shipped, copy, tmp_path, monkeypatch):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    library, capability = find_library("rtx"), ("8.9",)
    shape = Shape(max_batch=4)
    made = build_for_bundle(copy, library, "fp32", shape=shape, compute_capabilities=capability)
    for part in SMALL:
        stored = build_for_bundle(copy, library, "fp32", part=part, shape=shape, compute_capabilities=capability)
        assert read_plan(stored).startswith(b"vtrt")
        assert stored.ports == ports_of(copy, part)
    raw = np.random.default_rng(0).uniform(0, 90, (100, tiny.ATTRIBUTES))
    names = tuple(f"new {i}" for i in range(100))
    add_classes(copy, ClassTable(names, np.zeros(100, dtype=bool), raw, NEW.attributes))
    teach_classes(copy, {"new 7": Evidence(2, np.ones(tiny.CANONICAL))})
    again = Bundle.open(copy.path)
    found = find(
        again,
        flavour="tensorrt-rtx",
        version=library.version,
        compute_capability="8.9",
        precision="fp32",
        classes=len(again.current().table),
    )
    assert len(again.current().table) == 107
    assert (found.path, hashlib.sha256(read_plan(found)).hexdigest()) == (made.path, made.sha256)
    assert [port.shape for port in found.ports.inputs[1:]] == [("C", tiny.CANONICAL), ("C",), ("C",)]
