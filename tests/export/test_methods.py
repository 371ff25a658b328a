"""Every method in the table, in every preset, exports through the same gate: one test over all of them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from scipy.ndimage import map_coordinates

from support.engines import needs_rtx
from support.tiny_run import DIMS, make_tiny_run
from zsl_export import accuracy
from zsl_export.bundle_of_run import export_run
from zsl_export.parity import measure_maps, reference_rows, reference_scores
from zsl_export.shapes import shape_arithmetic
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes, refit, undo
from zsl_runtime.graphs.parts import SMALL_PARTS
from zsl_runtime.graphs.ports import ports_of
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.head import fold
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.trt.build import Shape, build_for_bundle
from zsl_runtime.trt.library import find_library
from zsl_runtime.trt.store import find, read_plan
from zsl_train.methods import METHODS, dcr_gan

if TYPE_CHECKING:
    from zsl_train.training.run_folder import Run

# Settings that make each method small; a method that is not listed fails here until it is.
VAE = {
    "latent": 8,
    "visual_encoder_hidden": 16,
    "visual_decoder_hidden": 16,
    "semantic_encoder_hidden": 16,
    "semantic_decoder_hidden": 16,
    "synthetic_per_class": 20,
    "head_epochs": 10,
}
SMALL = {
    "sc-egg": {"hidden": 16, "synthetic_per_class": 20, "head_learning_rate": 0.05},
    "cada-vae": VAE,
    "acmr": {**VAE, "gate_hidden": 6, "gate_orders": 3},
    "eszsl": {},
    "gfzsl": {},
    "sp-aen": {"hidden": 16},
    "f-clswgan": {"hidden": 16, "synthetic_per_class": 20, "head_learning_rate": 0.05},
    "lisgan": {"hidden": 16, "synthetic_per_class": 20, "head_learning_rate": 0.05},
    "dcr-gan": {
        "hidden": 16,
        "regressor_hidden": 12,
        "searched_width": 3,
        "synthetic_per_class": 20,
        "head_learning_rate": 0.05,
        "head_batch": 40,
        "head_searched_learning_rate": 0.05,
    },
    # Random weights with a linear output make features so large that a faster fit amplifies every rounding.
    "tf-vaegan": {"hidden": 16, "synthetic_per_class": 20, "head_learning_rate": 0.01},
}
PRECISIONS = ("fp32", "fp16", "int8")
CASES = [(name, preset) for name, method in METHODS.items() for preset in method.PRESETS]


class Exported(NamedTuple):
    """A run of random weights and its bundle."""

    run: Run
    bundle: Bundle


def shaken(trained):
    """The modules with every weight drawn anew: initial zeros would hide what a graph does with them.

    Of modules without weights, whose numbers are solved for, the tensors.
    """
    generator = torch.Generator().manual_seed(5)
    for module in trained.modules().values():
        for name, tensor in list(module.named_parameters()) or list(module.named_buffers()):
            tensor.data.normal_(0, 0.5, generator=generator)
            if name.endswith("divisor"):  # near 0 it makes features so large that a fit amplifies every rounding
                tensor.data.abs_().add_(0.5)
    return trained.eval()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(case, marks=[pytest.mark.slow] if i else [], id="-".join(case)) for i, case in enumerate(CASES)
    ],
)
def exported_method(request, tmp_path_factory) -> Exported:
    """A method in one of its presets, exported in every precision."""
    name, preset = request.param
    method = METHODS[name]
    config = method.Config(**{**method.PRESETS[preset], **SMALL[name]})
    run = make_tiny_run(trained=shaken(method.build(config, DIMS)))
    run.scores = {**run.scores, "protocol": {"pictures": {"train": len(run.pictures)}}}  # they calibrate int8
    path = tmp_path_factory.mktemp("method") / "bundle"
    with pytest.MonkeyPatch.context() as patch:  # weights are random
        patch.setattr(accuracy, "LEAST_AGREEMENT", dict.fromkeys(accuracy.LEAST_AGREEMENT, 0.0))
        export_run(run, path, precisions=PRECISIONS)
    return Exported(run, Bundle.open(path))


def test_a_method_exports_and_its_bundle_answers_as_pytorch_does(exported_method):
    run, bundle = exported_method
    loads_in_every_precision(bundle, run)
    _, lifted = reference_rows(run)
    wanted = reference_scores(lifted, fold(run.generation.head, run.generation.table.seen))
    with Classifier.open(bundle.path) as classifier:
        scores, _ = classifier.score(run.pictures)
    np.testing.assert_allclose(scores, wanted, atol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 0.05  # a graph that ignores its pictures would agree with itself
    for given, expected in zip(refit(bundle).generation.head.weights, run.generation.head.weights, strict=True):
        np.testing.assert_allclose(given, expected, atol=1e-3)
    adds_and_undoes(bundle, run)


def test_a_method_s_labels_are_explained_and_its_attention_is_pytorch_s(exported_method):
    run, bundle = exported_method
    names = [str(place) for place in range(len(run.pictures))]
    with Classifier.open(bundle.path, "ort") as classifier:
        snapshot = classifier.snapshot()
        answers = classifier.score_with(snapshot, run.pictures)
        found = classifier.explained(snapshot, names, run.pictures, answers)
    for one, scores in zip(found, np.sort(answers[0].astype(np.float64), axis=1), strict=True):
        said = [spoken.contribution for spoken in one.spoken]
        scale = 1 + np.abs(said).sum() + abs(one.rest)
        assert sum(said) + one.rest + one.seen_handicap == pytest.approx(scores[-1] - scores[-2], abs=1e-4 * scale)
    state = run.trained.embedder.state_dict()
    if "compression.query" not in state:  # of all methods one has attention
        assert bundle.explain_graph is None
        assert all(one.maps is None for one in found)
        return
    with torch.inference_mode():
        regions = run.backbone(torch.from_numpy(run.pictures)).numpy()
    unit = regions / np.linalg.norm(regions, axis=2, keepdims=True) - state["centre"].numpy()
    sharp = np.exp(np.einsum("brv,av->bar", unit, state["compression.query"].numpy()))
    wanted = (sharp / sharp.sum(axis=2, keepdims=True)).reshape(len(found), DIMS.attributes, 4, 4)
    assert bundle.manifest["explain"]["centres"] == [0.5, 4.0]
    # Kernels of 5 padded by 2: regions are centred 0.5, 4.5, 8.5 and 12.5 pixels into the square of 16, shown as 8 x 8.
    place = (np.arange(8) * 2 + 1 - 0.5) / 4
    where = np.stack(np.meshgrid(place, place, indexing="ij"))
    for one, maps in zip(found, wanted, strict=True):
        shown = np.stack([map_coordinates(each, where, order=1, mode="nearest") for each in maps])
        shown /= shown.sum(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(np.stack(list(one.maps.values())), shown, atol=1e-5)
    assert np.ptp(wanted, axis=(2, 3)).max() > 0.01


def test_attention_that_is_not_pytorch_s_fails_the_gate(exported_method):
    run, bundle = exported_method
    if bundle.explain_graph is None:
        pytest.skip("this method has no attention")
    backend = OrtBackend({"explain": bundle.explain_graph}, 1)
    assert measure_maps(run, backend).faults() == []
    query = run.trained.embedder.compression.query
    with torch.no_grad():
        query.mul_(1.05)
        try:
            assert "maps" in measure_maps(run, backend).faults()[0]
        finally:
            query.div_(1.05)


def test_a_dead_view_that_ships_as_a_prior_exports(tmp_path, monkeypatch):
    """Its one column is the same for all pictures; its bias is in the head, and new classes get theirs."""
    config = dcr_gan.Config(**SMALL["dcr-gan"])
    trained = shaken(dcr_gan.build(config, DIMS))
    networks = trained.embedder, trained.lift.silence(prior=True), trained.synthesizer
    run = make_tiny_run(trained=dcr_gan.method.shipped(config, *networks, trained.noise_width).eval())
    assert run.trained.views[1].stop - run.trained.views[1].start == 1
    assert run.generation.head.biases[1].any()
    monkeypatch.setattr(accuracy, "LEAST_AGREEMENT", dict.fromkeys(accuracy.LEAST_AGREEMENT, 0.0))
    export_run(run, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    wanted = reference_scores(reference_rows(run)[1], fold(run.generation.head, run.generation.table.seen))
    with Classifier.open(bundle.path) as classifier:
        np.testing.assert_allclose(classifier.score(run.pictures)[0], wanted, atol=1e-4)
    adds_and_undoes(bundle, run)


@needs_rtx
def test_a_method_s_graphs_build_as_engines_for_cards_that_are_not_here(exported_method, tmp_path, monkeypatch):
    """Real engines: parsed, compared with the manifest, built, their header looked at, kept and found again."""
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path))
    library, (_, bundle) = find_library("rtx"), exported_method
    small = [part for part in SMALL_PARTS if bundle.graph(part) is not None]
    cases = [("model", precision) for precision in PRECISIONS] + [(part, "fp32") for part in small]
    assert {"synthesizer", "rows", "means"} & set(small)
    hashes = set()
    for part, precision in cases:
        shape = Shape(max_batch=4, max_classes=50)
        made = build_for_bundle(bundle, library, precision, part=part, shape=shape, compute_capabilities=("8.9",))
        found = find(
            bundle,
            flavour="tensorrt-rtx",
            version=library.version,
            compute_capability="8.9",
            precision=precision,
            part=part,
        )
        assert found == made
        assert read_plan(made).startswith(b"vtrt")
        assert made.ports == ports_of(bundle, part)
        hashes.add(made.sha256)
    assert len(hashes) == len(cases)
    shutil.rmtree(bundle.path / "engines")


def loads_in_every_precision(bundle: Bundle, run) -> None:
    """Each model graph takes and gives the same, at another batch size than it was traced with."""
    head = fold(run.generation.head, run.generation.table.seen)
    for name in bundle.manifest["precisions"].values():
        engine = OrtBackend({"model": bundle.path / name}, 1)
        scores, features = engine.run(run.pictures[:5], head)
        assert scores.shape == (5, len(run.generation.table))
        assert features.shape == (5, run.trained.feature_width)
        assert scores.dtype == features.dtype == np.float32
        assert shape_arithmetic(onnx.load(bundle.path / name)) == []  # or no card would run all of it
        np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-4)
        engine.close()


def adds_and_undoes(bundle: Bundle, run) -> None:
    """A class nobody has photographed, from its attributes through the exported synthesizer."""
    before, known = bundle.current(), run.generation.table
    raw = (known.raw[:1] + known.raw[-1:]) / 2
    add_classes(bundle, ClassTable(("stranger",), np.array([False]), raw, known.attributes))
    with Classifier.open(bundle.path) as classifier:
        scores, _ = classifier.score(run.pictures)
    assert scores.shape == (len(run.pictures), len(known) + 1)
    assert np.isfinite(scores).all()
    for old, new in zip(before.head.weights, bundle.current().head.weights, strict=True):
        assert bundle.head_rule == "fit" or np.array_equal(new[:-1], old)  # a head that is fitted is fitted as a whole
        assert new[-1].any()
    undo(bundle)
    assert bundle.current().table.names == before.table.names
    for old, new in zip(before.head.weights, bundle.current().head.weights, strict=True):
        np.testing.assert_array_equal(new, old)
