"""How far pictures are from the nearest class, against plain loops and chi-squared; what is kept of held-out ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2

from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.head.distance import FAR, Distances, shown
from zsl_runtime.head.gaussian import ClassMeans, Evidence, Gaussian, gaussian_head
from zsl_runtime.head.head import View
from zsl_runtime.head.held_out import LEAST, PERCENTILES, percentiles
from zsl_runtime.machine.storage import tensor_bytes

D, C = 7, 6
HELD = np.linspace(0.5, 2.5, PERCENTILES)


def a_gaussian(rng: np.random.Generator, held: np.ndarray | None = HELD, width: int = D) -> Gaussian:
    variance = rng.uniform(0, 2, width)
    return Gaussian(variance, 1 / (1 + 0.7 * variance), held)


def some_means(rng: np.random.Generator, count: int = C, width: int = D) -> ClassMeans:
    prior = (3 * rng.standard_normal((count, width))).astype(np.float32)
    evidence = {row: Evidence(3, rng.standard_normal(width)) for row in range(0, count, 2)}
    return ClassMeans.without_photographs(prior).taught(evidence)


def made(gaussian: Gaussian, means: ClassMeans) -> Distances:
    return Distances(gaussian_head(means, gaussian, View("x", 0, means.prior.shape[1], 1.0, None)), gaussian)


def slowly(x: np.ndarray, where: np.ndarray) -> tuple[list[float], list[int]]:
    """Distance and column of the nearest of some means, one after the other."""
    distances, columns = [], []
    for row in x.astype(np.float64):
        squares = [sum((a - b) ** 2 for a, b in zip(row, mean, strict=True)) / len(row) for mean in where]
        distances.append(min(squares) ** 0.5)
        columns.append(squares.index(min(squares)))
    return distances, columns


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_distance_to_the_nearest_posterior_mean_in_standard_deviations(seed):
    rng = np.random.default_rng(seed)
    gaussian, means = a_gaussian(rng), some_means(rng)
    x = (3 * rng.standard_normal((200, D))).astype(np.float32)  # more than are looked at at once
    found = made(gaussian, means)(x)
    distances, columns = slowly(x, gaussian.posterior(means))
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    assert found.nearest.tolist() == columns
    assert len(set(columns)) > 3
    assert found.far.tolist() == [one > HELD[FAR] for one in found.distances]
    assert 0 < found.far.sum() < 200


def test_pictures_of_a_class_are_one_standard_deviation_away_and_as_far_as_chi_squared_says():
    rng = np.random.default_rng(1)
    prior = np.zeros((2, 50), np.float32)
    prior[1] = 100
    gaussian = a_gaussian(rng, held=None, width=50)
    found = made(gaussian, ClassMeans.without_photographs(prior))(rng.standard_normal((5000, 50)).astype(np.float32))
    assert found.far is None
    assert (found.nearest == 0).all()
    assert np.sqrt((found.distances**2).mean()) == pytest.approx(1, abs=0.01)
    for share in (0.05, 0.5, 0.95):
        assert np.quantile(found.distances, share) == pytest.approx(np.sqrt(chi2.ppf(share, 50) / 50), abs=0.01)


def test_a_class_that_comes_nearer_is_the_one_that_counts():
    rng = np.random.default_rng(2)
    gaussian, means = a_gaussian(rng), some_means(rng)
    x = np.full((1, D), 50, np.float32)
    before = made(gaussian, means)(x)
    assert before.far.tolist() == [True]
    more = made(gaussian, means.append(ClassMeans.without_photographs(x + np.float32(0.5))))(x)
    assert more.nearest.tolist() == [C]
    assert more.distances == pytest.approx([0.5])
    assert more.far.tolist() == [False]


@given(st.integers(0, 1000), st.lists(st.integers(1, 90), min_size=1, max_size=4))
def test_which_pictures_come_together_does_not_matter_to_what_is_shown(seed, sizes):
    rng = np.random.default_rng(seed)
    measure = made(a_gaussian(rng), some_means(rng, 20))
    x = rng.standard_normal((sum(sizes), D)).astype(np.float32)
    whole = measure(x)
    parts = [measure(part) for part in np.split(x, np.cumsum(sizes)[:-1])]
    np.testing.assert_allclose(np.concatenate([one.distances for one in parts]), whole.distances, rtol=1e-6)


@given(arrays(np.float32, (3, D), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_of_any_numbers_distances_are_numbers(x):
    rng = np.random.default_rng(0)
    found = made(a_gaussian(rng), some_means(rng))(x)
    assert np.isfinite(found.distances).all()
    assert (found.distances >= 0).all()
    assert found.far.tolist() == (found.distances > HELD[FAR]).tolist()


def test_nothing_to_measure_is_nothing():
    rng = np.random.default_rng(0)
    found = made(a_gaussian(rng), some_means(rng))(np.empty((0, D), np.float32))
    assert found.distances.shape == found.nearest.shape == found.far.shape == (0,)


def test_what_is_kept_of_held_out_photographs():
    distances = np.random.default_rng(0).permutation(np.arange(1001) / 100)
    kept = percentiles(distances)
    np.testing.assert_allclose(kept, np.arange(PERCENTILES) / 10)
    assert kept[FAR] == pytest.approx(9.9)
    assert (distances > kept[FAR]).mean() == pytest.approx(0.01, abs=1e-3)
    assert percentiles(distances[: LEAST - 1]) is None
    assert percentiles(distances[:LEAST]) is not None


@pytest.mark.parametrize(("distance", "text"), [(1.23456, "1.235"), (0.0, "0.0"), (1234.56, "1235.0"), (2e30, "2e+30")])
def test_four_digits_are_written(distance, text):
    assert repr(shown(distance)) == text


WRONG = [
    HELD[:-1],
    HELD[None],
    HELD.astype(np.float32),
    HELD[::-1].copy(),
    HELD - 1,
    np.where(HELD > 2, np.nan, HELD),
    np.where(HELD > 2, np.inf, HELD),
]


@pytest.mark.parametrize("held", WRONG, ids=str)
def test_distances_that_cannot_be_are_refused(held):
    good = {"variance": np.ones(3), "scale": np.ones(3)}
    with pytest.raises(UsageError, match=r"E-GAUSSIAN: distances of held-out photographs .* expected float64 \(101,\)"):
        Gaussian(**good, held=held)
    data = tensor_bytes({**good, "held": held}, {})
    with pytest.raises(ArtefactError, match=r"E-BUNDLE-GAUSSIAN: x is not a statistics file: .* export the model"):
        Gaussian.from_bytes(data, where="x")


def test_they_travel_in_the_statistics_file_and_are_absent_from_older_ones():
    rng = np.random.default_rng(0)
    gaussian = a_gaussian(rng)
    np.testing.assert_array_equal(Gaussian.from_bytes(gaussian.to_bytes(), where="x").held, HELD)
    old = tensor_bytes({"variance": gaussian.variance, "scale": gaussian.scale}, {})
    read = Gaussian.from_bytes(old, where="x")
    assert read.held is None
    assert read.to_bytes() == old
