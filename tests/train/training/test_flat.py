"""Two axes out of many: held against scikit-learn's discriminant analysis, and against planted directions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from zsl_train.training.flat import SHRINKAGE, make_axes, placed


def clouds(classes: int = 6, width: int = 8, each: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes apart along two planted directions that a third, noisy one drowns."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    turn, _ = np.linalg.qr(rng.standard_normal((width, width)))
    means = np.zeros((classes, width))
    means[:, :2] = rng.standard_normal((classes, 2)) * [3.0, 1.5]
    noise = rng.standard_normal((len(labels), width)) * np.r_[0.3, 0.3, 20.0, np.ones(width - 3)]
    return ((means[labels] + noise) @ turn).astype(np.float32), labels


def test_the_axes_are_those_of_discriminant_analysis():
    x, labels = clouds()
    axes = make_axes(x, labels, canonical=False)
    ours = placed(x, axes)
    analysis = LinearDiscriminantAnalysis(solver="eigen", n_components=2, shrinkage=SHRINKAGE).fit(x, labels)
    theirs = analysis.transform(x)
    for k in range(2):  # the sign of an axis is free
        assert abs(np.corrcoef(ours[:, k], theirs[:, k])[0, 1]) > 0.999


def test_pictures_of_a_class_spread_by_about_one():
    x, labels = clouds(each=500)
    ours = placed(x, make_axes(x, labels, canonical=False))
    rest = ours - np.stack([ours[labels == one].mean(axis=0) for one in range(6)])[labels]
    assert np.all(rest.std(axis=0) < 1.1)


def test_in_canonical_coordinates_they_are_the_principal_axes_of_the_means():
    x, labels = clouds()
    axes = make_axes(x, labels, canonical=True)
    means = np.stack([x[labels == one].mean(axis=0) for one in range(6)]).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(means.T))
    ours = placed(means, axes)
    wanted = (means - means.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(ours), np.abs(wanted), atol=1e-6)
    np.testing.assert_allclose(axes.shares, values[::-1][:2] / values.sum(), atol=1e-6)


def test_other_means_have_axes_of_their_own_in_the_same_coordinates():
    x, labels = clouds()
    axes = make_axes(x, labels, canonical=True)
    means = np.eye(8)[:4].astype(np.float32) * [1, 5, 3, 0.1, 1, 1, 1, 1]
    other = axes.of_means(means)
    flat = placed(means, other)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-9)
    values = np.linalg.eigvalsh(np.cov(means.astype(np.float64).T))[::-1]
    np.testing.assert_allclose((flat**2).sum(axis=0) / 3, values[:2], rtol=1e-5)


@pytest.mark.parametrize(("classes", "width"), [(3, 1), (4, 2), (3, 300)])
def test_few_directions_and_more_of_them_than_pictures(classes, width):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 4)
    x = rng.standard_normal((len(labels), width)).astype(np.float32)
    for canonical in (False, True):
        flat = placed(x, make_axes(x, labels, canonical=canonical))
        assert flat.shape == (len(labels), 2)
        assert np.isfinite(flat).all()


def test_two_classes_lie_on_no_plane():
    assert make_axes(np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1]), canonical=True) is None


def test_pictures_that_are_all_alike_lie_on_one_point():
    flat = placed(np.ones((9, 5)), make_axes(np.ones((9, 5), np.float32), np.arange(9) // 3, canonical=False))
    np.testing.assert_allclose(flat, 0, atol=1e-9)
