"""Per-class accuracy, mix-ups and confusion, against counts by hand and loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.accuracy import (
    ahead,
    by_class,
    calibration_bins,
    confusion,
    expected_calibration_error,
    harmonic_mean,
    mean_over_classes,
    mixups,
    per_class_accuracy,
    spread,
)

NAMES = ("crow", "gull", "heron", "tern")
SEEN = np.array([True, True, False, False])
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 1, 1, 2, 1, 1, 3, 3, 0])


def test_each_class_says_what_it_is_mostly_mistaken_for():
    crow, gull, heron = by_class(confusion(PREDICTED, LABELS, 4), NAMES, SEEN)
    assert crow == ("crow", True, 4, 1, "gull", 2)
    assert gull == ("gull", True, 2, 2, "", 0)
    assert heron == ("heron", False, 3, 0, "tern", 2)  # no tern was labelled: it has no line of its own


def test_the_worst_mix_ups_come_first():
    worst, second, *rest = mixups(confusion(PREDICTED, LABELS, 4), NAMES, 10)
    assert worst == ("heron", "tern", 2, pytest.approx(2 / 3))
    assert second == ("crow", "gull", 2, pytest.approx(1 / 2))
    assert {(one.of, one.given) for one in rest} == {("heron", "crow"), ("crow", "heron")}
    assert len(mixups(confusion(PREDICTED, LABELS, 4), NAMES, 1)) == 1


pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=40)


@given(pairs)
def test_counts_are_those_of_a_loop(given_pairs):
    labels, predicted = (np.array([pair[k] for pair in given_pairs], dtype=np.int64) for k in (0, 1))
    found = confusion(predicted, labels, 5)
    slow = np.zeros((5, 5), int)
    for of, to in given_pairs:
        slow[of, to] += 1
    np.testing.assert_array_equal(found, slow)
    each = by_class(found, "abcde", np.ones(5, bool))
    assert sum(one.pictures for one in each) == len(given_pairs)
    if each:
        mean = 100 * np.mean([one.right / one.pictures for one in each])
        assert mean == pytest.approx(per_class_accuracy(predicted, labels))
    assert sum(one.pictures for one in mixups(found, "abcde", 100)) == sum(of != to for of, to in given_pairs)


# --- how sure a figure is ---------------------------------------------------------------------------------------------


def drawn(rng, shares, pictures):
    """Whether each of so many pictures of each class is right, with the class's probability."""
    labels = np.repeat(np.arange(len(shares)), pictures)
    return rng.random(len(labels)) < np.array(shares)[labels], labels


def of_figures(right, labels, seen):
    shares = np.array([right[labels == one].mean() for one in range(len(seen))])
    unseen, of_seen = 100 * shares[~seen].mean(), 100 * shares[seen].mean()
    return np.array([100 * shares.mean(), unseen, of_seen, harmonic_mean(unseen, of_seen)])


def test_a_class_alone_has_the_standard_error_of_its_share():
    right, labels = np.array([1, 1, 1, 0, 0, 1, 1, 0, 1, 1], bool), np.zeros(10, int)
    found = spread(right, labels, np.array([True]))
    assert found.S == found.accuracy == pytest.approx(100 * np.sqrt(0.7 * 0.3 / 9))
    assert found.U is None
    assert found.H is None


def test_the_spread_is_that_of_the_same_measurement_repeated():
    seen, shares = np.array([True, True, True, False, False]), (0.9, 0.7, 0.8, 0.5, 0.6)
    rng = np.random.default_rng(0)
    repeated = np.array([of_figures(*drawn(rng, shares, 30), seen) for _ in range(4000)])
    told = np.array([spread(*drawn(rng, shares, 30), seen) for _ in range(400)])
    np.testing.assert_allclose(told.mean(axis=0), repeated.std(axis=0), rtol=0.06)


def test_the_lead_of_one_labelling_over_another_and_its_spread():
    seen, rng = np.array([True, True, False, False]), np.random.default_rng(1)
    leads, told = [], []
    for _ in range(3000):
        one, labels = drawn(rng, (0.9, 0.8, 0.6, 0.7), 25)
        other = one & (rng.random(len(one)) < 0.85)  # often right on the same pictures
        lead, error = ahead(one, other, labels, seen)
        assert lead == pytest.approx(of_figures(one, labels, seen)[3] - of_figures(other, labels, seen)[3])
        leads.append(lead)
        told.append(error)
    assert np.mean(told) == pytest.approx(np.std(leads), rel=0.06)
    assert ahead(one, one, labels, seen) == (0.0, 0.0)
    assert ahead(one[:50], one[:50], labels[:50], seen) is None  # only pictures of seen classes
    nothing = np.zeros_like(one)
    assert ahead(nothing, nothing, labels, seen) == (0.0, 0.0)


# --- what a model says of itself --------------------------------------------------------------------------------------


def test_the_mean_over_classes_counts_classes_alike():
    right, labels = np.array([1, 1, 1, 0, 0], bool), np.array([7, 7, 7, 7, 2])
    assert mean_over_classes(right, labels) == pytest.approx(100 * (3 / 4 + 0) / 2)
    assert mean_over_classes(right[:0], labels[:0]) is None


def test_bins_say_what_was_claimed_and_what_was_so():
    probability = np.array([0.95, 0.91, 1.0, 0.55, 0.1])
    right = np.array([True, False, True, True, False])
    low, middle, high = calibration_bins(probability, right, bins=5)
    assert low == (0, 20, 1, pytest.approx(10), 0)
    assert middle == (40, 60, 1, pytest.approx(55), 100)
    assert high == (80, 100, 3, pytest.approx(100 * (0.95 + 0.91 + 1) / 3), pytest.approx(200 / 3))
    assert calibration_bins(probability[:0], right[:0]) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_bins_hold_every_picture_and_give_the_expected_error(answers, count):
    probability, right = (np.array([one[k] for one in answers]) for k in (0, 1))
    bins = calibration_bins(probability, right, count)
    assert sum(one.pictures for one in bins) == len(answers)
    error = sum(one.pictures * abs(one.right - one.confidence) for one in bins) / len(answers)
    assert error == pytest.approx(expected_calibration_error(probability, right, count), abs=1e-9)
    for one in bins:
        held = probability[(probability >= one.low / 100 - 1e-12) & (probability <= one.high / 100 + 1e-12)]
        assert len(held) >= one.pictures
        assert held.min() - 1e-9 <= one.confidence / 100 <= held.max() + 1e-9


def test_classes_with_a_single_photograph_are_taken_as_one():
    rng, seen = np.random.default_rng(2), np.arange(40) < 30
    shares = np.full(40, 0.7)
    told, leads = [], []
    for _ in range(2000):
        right, labels = drawn(rng, shares, np.where(seen, 1, 20))
        told.append(spread(right, labels, seen))
        leads.append(of_figures(right, labels, seen))
    repeated = np.std(leads, axis=0)
    np.testing.assert_allclose(np.mean(told, axis=0), repeated, rtol=0.06)  # all are as hard: nothing is too large
    right = np.array([True, False, True])
    alone = spread(right, np.arange(3), np.array([True, True, False]))
    assert pytest.approx(50) == alone.S  # 100 sqrt(0.5 / 2), the variance of two pictures being 0.5
    assert alone.U is None
    assert spread(right[:1], np.zeros(1, int), np.array([True])).S is None
