"""ESZSL and ridge to prototypes against the textbook forms, solved the long way in float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from zsl_train.scoring.baselines import (
    BASELINES,
    SCALINGS,
    Prototypes,
    eszsl,
    fit_eszsl,
    fit_prototypes,
    ridge_solution,
    scale,
)

CLASSES, ATTRIBUTES = 6, 4
SEEN = np.array([True, False, True, True, False, True])


def problem(rows: int, width: int, seed: int = 0):
    """Features, labels of seen classes, semantic vectors."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.flatnonzero(SEEN), rows)
    return rng.standard_normal((rows, width)), labels, rng.random((CLASSES, ATTRIBUTES))


@pytest.mark.parametrize(("rows", "width"), [(30, 7), (9, 20), (12, 12)])
def test_eszsl_is_the_papers_closed_form(rows, width):
    x, labels, semantic = problem(rows, width)
    got = eszsl(x, labels, semantic, SEEN, feature_ridge=0.7, semantic_ridge=0.3)
    known = semantic[SEEN]  # (S, A)
    signs = np.array([[1.0 if label == c else -1.0 for c in np.flatnonzero(SEEN)] for label in labels])
    # Eq. 6, the V x V way: (X X^T + g I)^-1 X Y S^T (S S^T + l I)^-1 in the paper's column convention.
    left = np.linalg.inv(x.T @ x + 0.7 * np.eye(width))
    right = np.linalg.inv(known.T @ known + 0.3 * np.eye(ATTRIBUTES))
    wanted = left @ x.T @ signs @ known @ right @ semantic.T
    np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-10)


def test_eszsl_minimises_its_objective():
    x, labels, semantic = problem(15, 5)
    known = semantic[SEEN]
    signs = np.where(labels[:, None] == np.flatnonzero(SEEN), 1.0, -1.0)
    scores = eszsl(
        x,
        labels,
        np.vstack([semantic, np.eye(ATTRIBUTES)]),
        np.r_[SEEN, [False] * ATTRIBUTES],
        feature_ridge=2.0,
        semantic_ridge=0.5,
    )
    matrix = scores[:, CLASSES:]  # the columns of unit semantic vectors are those of M itself

    def objective(m) -> float:
        """Eq. 4 and 5: squared loss and the regulariser of both sides."""
        penalty = 2.0 * (m @ known.T) ** 2
        return ((x @ m @ known.T - signs) ** 2).sum() + penalty.sum() + 0.5 * ((x @ m) ** 2).sum() + (m**2).sum()

    best, rng = objective(matrix), np.random.default_rng(1)
    for _ in range(20):
        assert objective(matrix + 1e-3 * rng.standard_normal(matrix.shape)) > best


@pytest.mark.parametrize(("rows", "width"), [(30, 7), (9, 20), (12, 12)])
def test_ridge_is_the_same_in_both_sizes_and_the_least_squares_of_the_extended_system(rows, width):
    x, _, _ = problem(rows, width)
    target = np.random.default_rng(2).standard_normal((rows, 3))
    got = ridge_solution(x, target, 0.4)
    extended = np.vstack([x, np.sqrt(0.4) * np.eye(width)])
    wanted = np.linalg.lstsq(extended, np.vstack([target, np.zeros((width, 3))]), rcond=None)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-10)


def test_prototypes_score_by_the_cosine_with_every_class():
    x, labels, semantic = problem(40, 6)
    predict = fit_prototypes(x, labels, semantic, SEEN, (0.2,))
    unit = semantic / np.linalg.norm(semantic, axis=1, keepdims=True)
    projected = x @ np.linalg.solve(x.T @ x + 0.2 * np.eye(6), x.T @ unit[labels])
    wanted = [[p @ u / np.linalg.norm(p) for u in unit] for p in projected]
    np.testing.assert_allclose(predict(x), wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(predict(7 * x), predict(x), rtol=1e-9, atol=1e-12)


def test_a_picture_that_projects_to_nothing_scores_nothing():
    blank = Prototypes(np.zeros((5, 3)), np.eye(3))
    np.testing.assert_array_equal(blank(np.ones((2, 5))), np.zeros((2, 3)))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_recognises_unseen_classes_of_attributes_it_has_seen(name):
    rng = np.random.default_rng(0)
    semantic = np.array([np.eye(3)[list(values)].ravel() for values in product(range(3), repeat=3)]) / np.sqrt(3)
    seen = np.arange(27) % 5 != 4
    labels = np.repeat(np.arange(27), 10)
    x = semantic[labels] @ rng.standard_normal((9, 20)) + 0.05 * rng.standard_normal((270, 20))
    training = seen[labels]
    fit, grid = BASELINES[name]
    predict = fit(x[training], labels[training], semantic, seen, grid[0])
    unseen = np.flatnonzero(~seen)
    found = unseen[predict(x[~training])[:, ~seen].argmax(axis=1)]
    assert (found == labels[~training]).mean() > 0.95


def test_every_scaling_uses_the_training_rows_only():
    train, other = problem(11, 4)[0], problem(5, 4, seed=3)[0]
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    other_unit = other / np.linalg.norm(other, axis=1, keepdims=True)
    wanted = {
        "l2": other_unit,
        "l2-centred": other_unit - unit.mean(axis=0),
        "standard": (other - train.mean(axis=0)) / train.std(axis=0),
        "minmax": (other - train.min(axis=0)) / (train.max(axis=0) - train.min(axis=0)),
    }
    assert set(wanted) == set(SCALINGS)
    for name, values in wanted.items():
        np.testing.assert_allclose(scale(other, train, name), values, rtol=1e-12, err_msg=name)
        assert scale(other.astype(np.float32), train.astype(np.float32), name).dtype == np.float64


@pytest.mark.parametrize("scaling", SCALINGS)
def test_constant_columns_and_empty_rows_stay_finite_and_small(scaling):
    train = problem(11, 4)[0]
    train[:, 1] = 0.1  # whose deviation in floating point is not 0
    train[3] = 0
    train[3, 1] = 0.1
    other = np.zeros((2, 4))
    got = scale(other, train, scaling)
    assert np.isfinite(got).all()
    assert abs(got).max() < 10


def test_eszsl_takes_both_ridges_from_its_choice():
    x, labels, semantic = problem(20, 5)
    predict = fit_eszsl(x, labels, semantic, SEEN, (3.0, 0.2))
    wanted = x @ eszsl(x, labels, semantic, SEEN, feature_ridge=3.0, semantic_ridge=0.2)
    np.testing.assert_array_equal(predict(x), wanted)
