"""ESZSL as a method: its rows give the paper's scores, and what it chooses it chooses on validation classes."""

from __future__ import annotations

from dataclasses import replace

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


def test_what_is_not_given_is_chosen_as_the_baseline_is_chosen(tmp_path):
    _, lines = solve(tmp_path)
    pooled = POOLED.astype(np.float32)
    folds = make_folds(np.arange(len(pooled)), DATA.labels, SEEN, count=3, seed=0)
    wanted = choose_baseline("eszsl", folds, pooled, DATA.labels, DATA.semantic)
    line = next(line for line in lines if "scaling" in line)
    assert SCALINGS[int(line["scaling"])] == wanted.scaling
    assert (line["feature_ridge"], line["semantic_ridge"]) == pytest.approx(wanted.ridges)


def test_only_what_is_left_open_is_chosen(tmp_path):
    scalings, grid = eszsl.candidates(eszsl.Config(scaling="standard", semantic_ridge=7.0))
    assert scalings == ("standard",)
    assert {one[1] for one in grid} == {7.0}
    assert len(grid) == 5
    _, lines = solve(tmp_path, scaling="standard", semantic_ridge=7.0, grid="paper")
    line = next(line for line in lines if "scaling" in line)
    assert (SCALINGS[int(line["scaling"])], line["semantic_ridge"]) == ("standard", 7.0)
    assert line["feature_ridge"] in {10.0**power for power in range(-3, 4)}


def test_a_run_with_too_few_classes_for_validation_takes_the_middle_of_the_grid(tmp_path):
    two = np.isin(DATA.labels, np.flatnonzero(SEEN)[:2])
    data = replace(
        DATA,
        rows=DATA.rows[two],
        labels=DATA.labels[two],
        table=replace(DATA.table, seen=np.isin(np.arange(8), np.flatnonzero(SEEN)[:2])),
    )
    trained, lines = solve(tmp_path, data)
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


def test_it_takes_longer_the_more_there_is_to_choose():
    dims = DATA.dims
    big = replace(dims, channels=2048, attributes=312)
    seconds = [
        estimate(eszsl.stages(eszsl.Config(**settings), big), None, 7000)
        for settings in ({"scaling": "l2", "feature_ridge": 1.0, "semantic_ridge": 1.0}, {"scaling": "l2"}, {})
    ]
    assert seconds == sorted(seconds)
    assert 1 < seconds[0] < 10 < seconds[2] < 1000
