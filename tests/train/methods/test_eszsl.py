"""ESZSL as a method: its rows give the paper's scores, and what it chooses it chooses on validation classes."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from support.tiny_features import SEEN, tiny_training_data
from zsl_train.methods import eszsl
from zsl_train.methods.base import run_batched, run_rows
from zsl_train.methods.lengths import estimate
from zsl_train.methods.session import Session
from zsl_train.scoring.baselines import SCALINGS, RidgePath, eszsl_matrix, ridge_solution, scale
from zsl_train.scoring.folds import choose_baseline, make_folds

DATA = tiny_training_data()
POOLED = DATA.regions[DATA.rows].astype(np.float64).mean(axis=1)


def solve(folder, data=DATA, **settings):
    lines = []
    return eszsl.fit(data, eszsl.Config(**settings), Session(folder, lines.append), 0), lines


@pytest.mark.parametrize("scaling", [*SCALINGS, "none"])
def test_scores_are_the_papers_closed_form_whatever_the_scaling(tmp_path, scaling):
    trained, _ = solve(tmp_path, scaling=scaling, feature_ridge=2.0, semantic_ridge=0.3)
    f = run_batched(trained.embedder, DATA.regions[DATA.rows])
    x = scale(POOLED, POOLED, scaling)
    np.testing.assert_allclose(f, x, atol=3e-4)
    weight, bias = run_rows(trained.rows, DATA.semantic)
    known = DATA.semantic[SEEN].astype(np.float64)
    signs = np.where(DATA.labels[:, None] == np.flatnonzero(SEEN), 1.0, -1.0)
    left = np.linalg.inv(x.T @ x + 2.0 * np.eye(x.shape[1]))
    right = np.linalg.inv(known.T @ known + 0.3 * np.eye(known.shape[1]))
    matrix = left @ x.T @ signs @ known @ right
    np.testing.assert_allclose(weight, DATA.semantic @ matrix.T, atol=2e-3 * np.abs(matrix).max())
    np.testing.assert_array_equal(bias, 0)


def settle(folds, **settings):
    return eszsl.settle(eszsl.Config(**settings), folds, POOLED.astype(np.float32), DATA.labels, DATA.semantic)


def test_what_is_not_given_is_chosen_as_the_baseline_is_chosen_and_then_used(tmp_path):
    pooled = POOLED.astype(np.float32)
    folds = make_folds(np.arange(len(pooled)), DATA.labels, SEEN, count=3, seed=0)
    wanted = choose_baseline("eszsl", folds, pooled, DATA.labels, DATA.semantic)
    found = settle(folds)
    assert (found.scaling, found.feature_ridge, found.semantic_ridge) == (wanted.scaling, *wanted.ridges)
    assert settle(folds, **asdict(found)) == found  # nothing is left to choose
    _, lines = solve(tmp_path, **asdict(found))
    line = next(line for line in lines if "scaling" in line)
    assert SCALINGS[int(line["scaling"])] == wanted.scaling
    assert (line["feature_ridge"], line["semantic_ridge"]) == pytest.approx(wanted.ridges)


def test_only_what_is_left_open_is_chosen():
    scalings, grid = eszsl.candidates(eszsl.Config(scaling="standard", semantic_ridge=7.0))
    assert scalings == ("standard",)
    assert {one[1] for one in grid} == {7.0}
    assert len(grid) == 5
    folds = make_folds(np.arange(len(POOLED)), DATA.labels, SEEN, count=2, seed=0)
    found = settle(folds, scaling="standard", semantic_ridge=7.0, grid="paper")
    assert (found.scaling, found.semantic_ridge) == ("standard", 7.0)
    assert found.feature_ridge in {10.0**power for power in range(-3, 4)}


def test_a_run_with_too_few_classes_for_validation_takes_the_middle_of_the_grid(tmp_path):
    found = settle([])
    assert (found.scaling, found.feature_ridge, found.semantic_ridge) == ("l2", 10.0, 1.0)
    trained, lines = solve(tmp_path)
    assert next(line for line in lines if "scaling" in line)["feature_ridge"] == 10.0
    assert torch.isfinite(trained.rows.matrix).all()


@pytest.mark.parametrize(("rows", "width"), [(30, 7), (9, 20), (12, 12), (4, 4)])
@pytest.mark.parametrize("ridge", [1e-3, 0.4, 1e3])
def test_a_ridge_path_is_the_ridge_solution_of_every_ridge(rows, width, ridge):
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((rows, width)), rng.standard_normal((rows, 3))
    x[:, 0] = x[:, -1]  # a column twice: an eigenvalue of 0
    np.testing.assert_allclose(RidgePath(x)(target, ridge), ridge_solution(x, target, ridge), rtol=1e-6, atol=1e-9)
    labels, semantic, seen = np.arange(rows) % 3, rng.random((4, 5)), np.array([True, True, True, False])
    ridges = {"feature_ridge": ridge, "semantic_ridge": 0.3}
    np.testing.assert_allclose(
        eszsl_matrix(x, labels, semantic, seen, **ridges, solve=RidgePath(x)),
        eszsl_matrix(x, labels, semantic, seen, **ridges),
        rtol=1e-6,
        atol=1e-8,
    )


def test_it_takes_longer_the_more_pictures_there_are():
    seconds = [estimate(eszsl.stages(eszsl.Config(), DATA.dims), None, count) for count in (10, 10_000, 10_000_000)]
    assert seconds == sorted(seconds)
    assert 1 <= seconds[0] < seconds[-1] < 2


def test_rows_of_unit_length_are_those_of_torch_also_near_zero():
    """A row of zeros has no length, and stays a row of zeros as in `torch.nn.functional.normalize`."""
    embedder = eszsl.Embedder(3)
    regions = torch.tensor([[[0.0, 0, 0]], [[3e-13, 0, 4e-13]], [[1e-6, 2e-6, 0]], [[3.0, 0, 4.0]]])
    for unit in (0.0, 1.0):
        embedder.unit.fill_(unit)
        mean = regions.mean(dim=1)
        wanted = torch.nn.functional.normalize(mean, dim=1) if unit else mean
        np.testing.assert_allclose(embedder(regions), wanted, rtol=1e-6)
