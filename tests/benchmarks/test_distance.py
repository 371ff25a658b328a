"""The measurement of what is unlike anything known: its pictures, its other measures, its figures."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score

from support.tiny_bundle import class_table, draw_pictures
from support.tiny_xlsa17 import FEATURES, make_pair
from zsl_runtime.labelling.classifier import Classifier
from zsl_train.cli import main as zsl_train

FILE = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "distance.py"
TABLE = class_table()
LABELS = np.arange(24) % len(TABLE)


@pytest.fixture(scope="module")
def distance():
    spec = importlib.util.spec_from_file_location("distance", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["distance"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["distance"]


@pytest.fixture
def seen_by(distance, shared_bundle):
    """What a bundle sees of pictures of its classes, and of noise."""
    with Classifier.open(shared_bundle(rule="gaussian"), "ort", threads=1) as classifier:
        snapshot = classifier.snapshot()
        known = distance.Looked(classifier, snapshot, list(draw_pictures(TABLE, LABELS, 3)))
        strange = distance.Looked(classifier, snapshot, distance.noise()[:9])
    return snapshot, known, strange


def test_far_pictures_are_pictures_and_the_same_every_time(distance):
    for make in (distance.noise, distance.flat_colours, distance.pages):
        made, again = make(), make()
        assert len(made) == distance.MADE
        assert all(one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3 for one in made)
        assert all(np.array_equal(one, other) for one, other in zip(made, again, strict=True))
    assert len({one.tobytes() for one in distance.pages()}) == distance.MADE
    assert all((one == one[0, 0]).all() for one in distance.flat_colours())
    assert distance.of_packages()  # scikit-learn has two photographs


def test_figures_are_those_of_the_shipped_distance(distance, seen_by):
    _, known, strange = seen_by
    found = distance.figures(strange, known)
    truth = np.repeat([0, 1], [24, 9])
    auroc = roc_auc_score(truth, np.concatenate([known.distance, strange.distance]))
    assert found["pictures"] == 9
    assert found["auroc"] == round(auroc, 3)
    assert found["far"] == round(100 * strange.far.mean(), 1)
    sure = roc_auc_score(truth, -np.concatenate([known.probability, strange.probability]))
    assert found["auroc_probability"] == round(sure, 3)


def test_other_measures_by_their_definitions(distance, seen_by):
    """With general matrices and densities of SciPy."""
    snapshot, known, _ = seen_by
    generation, gaussian = snapshot.generation, snapshot.distances.gaussian
    means, x = gaussian.posterior(generation.means), known.x.astype(np.float64)
    width = means.shape[1]
    found = distance.Rivals(snapshot).measures(known.x)
    plain = ((x[:, None] - means) ** 2).sum(axis=2)
    np.testing.assert_allclose(found["nearest mean"], plain.min(axis=1), rtol=1e-6)
    np.testing.assert_allclose(known.distance, np.sqrt(plain.min(axis=1) / width), rtol=1e-5)
    wider = 1 + gaussian.remaining(generation.means.counts)
    np.testing.assert_allclose(
        found["nearest mean, wider where it is uncertain"],
        ((x[:, None] - means) ** 2 / wider).sum(axis=2).min(axis=1),
        rtol=1e-6,
    )
    differences = means[1:] - means[0]  # their span is where classes differ
    inside = np.linalg.pinv(differences) @ differences
    within = ((((x[:, None] - means) @ inside) ** 2).sum(axis=2)).min(axis=1)
    np.testing.assert_allclose(found["only where classes differ"], within, rtol=1e-5, atol=1e-6)
    whole = np.eye(width) + np.cov(means.T)
    background = multivariate_normal(means.mean(axis=0), whole)
    constant = -2 * background.logpdf(means.mean(axis=0))
    relative = plain.min(axis=1) - (-2 * background.logpdf(x) - constant)
    name = "less the distance from everything (Ren et al. 2021)"
    np.testing.assert_allclose(found[name], relative, rtol=1e-6, atol=1e-6)
    logits = x @ generation.head.weights[0].astype(np.float64).T + generation.head.biases[0]
    np.testing.assert_allclose(found["largest score"], -logits.max(axis=1), rtol=1e-4)


def test_a_run_on_a_feature_file_is_measured_from_end_to_end(distance, tmp_path, monkeypatch):
    data, out, run = make_pair(tmp_path / "data"), tmp_path / "out.json", tmp_path / "run"
    assert zsl_train(["--data", str(data), "--features", FEATURES, "--method", "gfzsl", "--out", str(run)]) == 0
    words = ["--run", str(run), "--work", str(tmp_path / "work"), "--out", str(out), "--name", "tiny"]
    monkeypatch.setattr(sys, "argv", ["distance.py", *words])
    distance.main()
    distance.main()  # the entry of the same seed is replaced
    (found,) = json.loads(out.read_text())["tiny, gfzsl"]
    scores = json.loads((run / "scores.json").read_text())
    assert found["scores"] == {key: round(scores[key], 1) for key in ("U", "S", "H")}
    assert set(found["far"]) == set(found["rivals"]) == {"rows shuffled", "noise"}
    assert found["undescribed"]["pictures"] == found["test"]["unseen"]["pictures"] > 0
    assert found["cost"]["distances_ms"] > 0
    assert found["far"]["noise"]["auroc"] == pytest.approx(found["rivals"]["noise"]["nearest mean"], abs=1e-3)
