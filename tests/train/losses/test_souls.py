"""Soul samples against brute force, and the distance to the nearest of them against loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from zsl_train.losses.souls import soul_distance, soul_samples


def best_centres(rows: np.ndarray, count: int) -> np.ndarray:
    """The means of the split into `count` parts with the least squared error, over all splits there are."""
    best = None
    for parts in itertools.product(range(count), repeat=len(rows)):
        if len(set(parts)) < count:
            continue
        groups = [rows[np.array(parts) == one] for one in range(count)]
        error = sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups)
        if best is None or error < best[0]:
            best = error, np.stack([group.mean(axis=0) for group in groups])
    return best[1]


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


def test_souls_are_the_best_centres_of_each_class():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 6 + [1] * 5)[rng.permutation(11)]
    features = rng.random((11, 3)) + labels[:, None]
    souls = soul_samples(torch.from_numpy(features).float(), torch.from_numpy(labels), 2, count=3, seed=3)
    assert souls.shape == (2, 3, 3)
    for one in range(2):
        wanted = best_centres(features[labels == one], 3)
        np.testing.assert_allclose(in_order(souls[one].numpy()), in_order(wanted), rtol=1e-5)


@pytest.mark.parametrize("rows", [[[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0]] * 5 + [[3.0, 4.0]] * 4])
def test_a_class_with_few_different_features_has_each_as_a_soul(rows):
    souls = soul_samples(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64), 1, count=3, seed=3)
    assert {tuple(row) for row in souls[0].tolist()} == {tuple(row) for row in rows}
    assert souls.shape == (1, 3, 2)


def test_the_distance_is_squared_and_to_the_nearest():
    rng = np.random.default_rng(1)
    features, souls = rng.random((5, 4)), rng.random((5, 3, 4))
    wanted = np.mean([min(((f - s) ** 2).sum() for s in own) for f, own in zip(features, souls, strict=True)])
    got = soul_distance(x := torch.from_numpy(features).requires_grad_(), torch.from_numpy(souls))
    assert float(got.detach()) == pytest.approx(wanted, rel=1e-12)
    got.backward()
    nearest = [min(own, key=lambda s, f=f: ((f - s) ** 2).sum()) for f, own in zip(features, souls, strict=True)]
    np.testing.assert_allclose(x.grad.numpy(), 2 * (features - np.array(nearest)) / 5, rtol=1e-12)
