"""Soul samples against brute force, and the distance to the nearest of them against loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zsl_train.losses.souls import cluster_members, cluster_soul_distance, soul_distance, soul_samples


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


# --- fake souls ------------------------------------------------------------------------------------------------------


def lloyd(rows: np.ndarray, count: int) -> np.ndarray:
    """The cluster of each row: Lloyd's algorithm to its end, from the first row and those farthest away."""
    chosen = [0]
    while len(chosen) < count:
        chosen.append(int(np.argmax([min(((row - rows[c]) ** 2).sum() for c in chosen) for row in rows])))
    centres, before = rows[chosen], None
    while True:
        of = np.array([np.argmin([((row - c) ** 2).sum() for c in centres]) for row in rows])
        if before is not None and (of == before).all():
            return of
        before = of
        centres = np.stack([rows[of == k].mean(axis=0) if (of == k).any() else centres[k] for k in range(count)])


@given(
    arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 3)), elements=st.floats(-50, 50)),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_clusters_are_a_partition_and_no_row_is_nearer_to_another_mean(rows, count):
    members = cluster_members(torch.from_numpy(rows), count, steps=40)
    assert members.shape == (*rows.shape[:2], count)
    assert set(members.unique().tolist()) <= {0.0, 1.0}
    assert bool((members.sum(dim=2) == 1).all())
    for of, own in zip(members.numpy(), rows, strict=True):
        means = {k: own[of[:, k] == 1].mean(axis=0) for k in range(count) if of[:, k].any()}
        for row, which in zip(own, of.argmax(axis=1), strict=True):
            nearest = min(((row - mean) ** 2).sum() for mean in means.values())
            assert ((row - means[which]) ** 2).sum() <= nearest + 1e-6


def test_clusters_are_those_of_lloyd_set_by_set():
    rows = np.random.default_rng(4).random((6, 20, 5))
    members = cluster_members(torch.from_numpy(rows), 3)
    for got, own in zip(members, rows, strict=True):
        assert got.argmax(dim=1).tolist() == lloyd(own, 3).tolist()


def test_fake_souls_are_means_of_clusters_each_near_its_nearest_real_soul():
    rng = np.random.default_rng(5)
    fakes, souls = rng.random((4, 9, 3)), rng.random((4, 3, 3))
    x = torch.from_numpy(fakes).requires_grad_()
    got = cluster_soul_distance(x, torch.from_numpy(souls))
    wanted, gradient = [], np.zeros_like(fakes)
    for one, (own, real) in enumerate(zip(fakes, souls, strict=True)):
        of = lloyd(own, 3)
        for k in set(of.tolist()):
            mean = own[of == k].mean(axis=0)
            near = min(real, key=lambda s, mean=mean: ((mean - s) ** 2).sum())
            wanted.append(((mean - near) ** 2).sum() / len(set(of.tolist())) / 4)
            gradient[one, of == k] = 2 * (mean - near) / (of == k).sum() / len(set(of.tolist())) / 4
    assert float(got.detach()) == pytest.approx(sum(wanted), rel=1e-12)
    got.backward()
    np.testing.assert_allclose(x.grad.numpy(), gradient, rtol=1e-10)


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_with_fewer_different_fakes_than_souls_has_fewer_fake_souls(count):
    fakes = torch.tensor([[[0.0, 1.0], [2.0, 3.0]][:count] * 4], requires_grad=True)
    souls = torch.tensor([[[0.0, 0.0], [2.0, 2.0], [9.0, 9.0]]])
    distance = cluster_soul_distance(fakes, souls)
    assert float(distance.detach()) == 1.0
    distance.backward()
    assert bool(fakes.grad.isfinite().all())


def test_one_fake_soul_is_the_plain_mean():
    rng = np.random.default_rng(6)
    fakes, souls = torch.from_numpy(rng.random((4, 9, 3))), torch.from_numpy(rng.random((4, 1, 3)))
    torch.testing.assert_close(cluster_soul_distance(fakes, souls), soul_distance(fakes.mean(dim=1), souls))
