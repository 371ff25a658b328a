"""Accuracies, the seen-unseen curve, gamma, temperature, calibration: each against a slower way to the same number."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.accuracy import expected_calibration_error, harmonic_mean, per_class_accuracy
from zsl_train.scoring.evaluate import (
    Held,
    balanced_weights,
    best_held,
    choose_gamma,
    crossfitted,
    fit_temperature,
    held_out,
    score,
    seen_unseen_curve,
)


def slow_accuracy(predicted, labels) -> float:
    """Mean over classes of the share predicted right, in percent."""
    shares = []
    for one in sorted(set(labels)):
        own = [p == one for p, y in zip(predicted, labels, strict=True) if y == one]
        shares.append(Fraction(sum(own), len(own)))
    return float(100 * sum(shares) / len(shares))


def slow_point(logits, labels, seen, gamma) -> tuple[float, float]:
    """(U, S) when gamma is taken off the seen classes; ties between the kinds go to the seen class."""
    predicted = []
    for row in logits:
        best = {kind: max(j for j in range(len(row)) if seen[j] == kind) for kind in (True, False)}
        for j in reversed(range(len(row))):
            if row[j] >= row[best[seen[j]]]:
                best[seen[j]] = j
        predicted.append(best[row[best[True]] - gamma >= row[best[False]]])
    parts = []
    for kind in (False, True):
        rows = [i for i, y in enumerate(labels) if seen[y] == kind]
        parts.append(slow_accuracy([predicted[i] for i in rows], [labels[i] for i in rows]))
    return parts[0], parts[1]


@st.composite
def scored(draw):
    """Logits that are small whole numbers, so that ties are everywhere; both kinds of classes have pictures."""
    seen = [True, False, *draw(st.lists(st.booleans(), max_size=4))]
    labels = [0, 1, *draw(st.lists(st.integers(0, len(seen) - 1), max_size=10))]
    row = st.lists(st.integers(-4, 4), min_size=len(seen), max_size=len(seen))
    logits = draw(st.lists(row, min_size=len(labels), max_size=len(labels)))
    order = draw(st.permutations(range(len(seen))))
    columns = np.argsort(order)
    return np.array(logits, np.float32)[:, columns], np.argsort(columns)[labels], np.array(seen)[columns]


GAMMAS = np.arange(-20, 21) / 2  # whole numbers are thresholds, halves lie between them


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_accuracy_is_the_mean_over_the_classes_that_occur(pairs):
    predicted, labels = np.array(pairs).T
    assert per_class_accuracy(predicted, labels) == pytest.approx(slow_accuracy(predicted, labels))


def test_accuracy_gives_a_class_of_one_picture_the_weight_of_a_class_of_three():
    assert per_class_accuracy(np.array([5, 2, 2, 9]), np.array([5, 2, 2, 2])) == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert per_class_accuracy(np.zeros(0, int), np.zeros(0, int)) is None


def test_harmonic_mean():
    assert harmonic_mean(30.0, 60.0) == pytest.approx(40.0)
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(None, 50.0) is None
    assert harmonic_mean(50.0, None) is None


@given(scored())
@settings(max_examples=60)
def test_the_curve_is_exact_at_every_gamma(case):
    logits, labels, seen = case
    curve = seen_unseen_curve(logits, labels, seen)
    wanted = np.array([slow_point(logits, labels, seen, gamma) for gamma in GAMMAS])
    place = np.searchsorted(curve.edges, GAMMAS, side="left") - 1
    np.testing.assert_allclose(np.stack([curve.unseen[place], curve.seen[place]], axis=1), wanted, atol=1e-9)
    np.testing.assert_allclose(curve.at(GAMMAS), [harmonic_mean(*point) for point in wanted], atol=1e-9)


@given(scored())
@settings(max_examples=60)
def test_the_area_is_that_of_the_trapezoids_between_the_points_of_all_gammas(case):
    logits, labels, seen = case
    points = [slow_point(logits, labels, seen, gamma) for gamma in GAMMAS[::-1]]  # seen accuracy ascends
    area = sum((s1 - s0) * (u0 + u1) / 2 for (u0, s0), (u1, s1) in itertools.pairwise(points))
    assert seen_unseen_curve(logits, labels, seen).area == pytest.approx(area / 100, abs=1e-9)


def test_the_area_of_a_perfect_and_of_a_useless_classifier():
    seen = np.array([True, True, False, False])
    labels = np.array([0, 1, 2, 3])
    perfect = 9 * np.eye(4, dtype=np.float32)[labels]
    assert seen_unseen_curve(perfect, labels, seen).area == pytest.approx(100)
    wrong = perfect[[1, 0, 3, 2]]
    assert seen_unseen_curve(wrong, labels, seen).area == 0


def test_there_is_no_curve_without_pictures_of_both_kinds():
    logits, seen = np.zeros((2, 3), np.float32), np.array([True, True, False])
    assert seen_unseen_curve(logits, np.array([0, 1]), seen) is None
    assert seen_unseen_curve(logits, np.array([2, 2]), seen) is None
    assert seen_unseen_curve(logits, np.array([0, 1]), np.ones(3, bool)) is None
    assert seen_unseen_curve(logits, np.array([0, 1]), np.zeros(3, bool)) is None
    assert seen_unseen_curve(logits[:0], np.zeros(0, int), seen) is None


@given(st.lists(scored(), min_size=1, max_size=3))
@settings(max_examples=50)
def test_gamma_is_as_good_as_the_best_of_all(cases):
    curves = [seen_unseen_curve(*case) for case in cases]
    gamma, value = choose_gamma(curves)

    def mean(at: float) -> float:
        return float(np.mean([harmonic_mean(*slow_point(*case, at)) for case in cases]))

    assert value == pytest.approx(max(mean(at) for at in GAMMAS), abs=1e-9)
    assert mean(gamma) == pytest.approx(value, abs=1e-9)


@given(st.lists(scored(), min_size=2, max_size=3), st.data())
@settings(max_examples=50)
def test_a_fold_is_scored_at_the_gamma_of_the_others(cases, data):
    curves = [seen_unseen_curve(*case) for case in cases]
    place = data.draw(st.integers(0, len(cases) - 1))
    held = held_out(curves, place)
    gamma, value = choose_gamma([curve for k, curve in enumerate(curves) if k != place])
    assert held.others == value
    assert held.own == pytest.approx(harmonic_mean(*slow_point(*cases[place], gamma)), abs=1e-9)
    assert held.own <= choose_gamma([curves[place]])[1] + 1e-9  # no better than its own best


def test_a_fold_without_a_curve_or_without_others_is_not_scored():
    seen, labels = np.array([True, False]), np.array([0, 1])
    curve = seen_unseen_curve(np.array([[1.0, 0.0], [0.5, 0.0]]), labels, seen)
    assert held_out([curve], 0) is None
    assert held_out([curve, None], 0) is None
    assert held_out([curve, None, curve], 1) is None
    assert held_out([curve, None, curve], 2) is not None


def test_the_cross_fitted_figure_is_that_of_the_candidates_which_the_others_prefer():
    first = [Held(50.0, 10.0), Held(40.0, 20.0), None, None]
    second = [Held(50.0, 90.0), Held(41.0, 30.0), Held(1.0, 50.0), None]
    held = best_held([first, second])
    assert held == (Held(50.0, 10.0), Held(41.0, 30.0), Held(1.0, 50.0), None)  # the first of equals
    assert crossfitted(held) == pytest.approx(30.0)
    assert crossfitted(held[2:]) is None  # a single one is no cross-fit
    assert crossfitted(()) is None
    assert best_held([]) == ()


def test_gamma_is_the_middle_of_the_widest_of_the_best_stretches():
    seen, labels = np.array([True, False]), np.array([0, 0, 1, 1])
    thresholds = np.array([1.0, 9.0, 0.0, 8.0])  # seen pictures want gamma below, unseen ones above
    logits = np.stack([thresholds, np.zeros(4)], axis=1).astype(np.float32)
    # Right pictures of (unseen, seen): (1, 2) of 2 in (0, 1], (1, 1) in (1, 8], (2, 1) in (8, 9].
    gamma, value = choose_gamma([seen_unseen_curve(logits, labels, seen)])
    assert value == pytest.approx(200 / 3)
    assert gamma == pytest.approx(0.5)
    wider = logits + np.array([[0, 0], [2, 0], [0, 0], [0, 0]], np.float32)
    assert choose_gamma([seen_unseen_curve(wider, labels, seen)])[0] == pytest.approx(9.5)  # (8, 11]


def test_gamma_sees_neighbouring_pieces_of_equal_harmonic_mean_as_one_stretch():
    """The threshold of a picture that is wrong on both sides cuts (1, 4] in two without changing H."""
    seen, labels = np.array([True, False, False]), np.array([1, 0, 2])
    logits = np.array([[1.0, 0, -9], [4, 0, -9], [2.5, 0, -9]], np.float32)
    gamma, value = choose_gamma([seen_unseen_curve(logits, labels, seen)])
    assert value == pytest.approx(harmonic_mean(50, 100))
    assert gamma == pytest.approx(2.5)


def test_weights_share_the_kinds_alike_and_the_classes_within():
    weight = balanced_weights(np.array([0, 0, 0, 1, 2]), np.array([True, True, False]))
    np.testing.assert_allclose(weight, [1 / 12, 1 / 12, 1 / 12, 1 / 4, 1 / 2])
    alone = balanced_weights(np.array([0, 1, 1]), np.array([True, True, False]))
    np.testing.assert_allclose(alone, [1 / 2, 1 / 4, 1 / 4])


def slow_likelihood(temperature, folds, gamma) -> float:
    """Mean over folds of the weighted negative log-likelihood, in float64."""
    total = 0.0
    for logits, labels, seen in folds:
        z = (logits.astype(np.float64) - gamma * seen) / temperature
        z -= z.max(axis=1, keepdims=True)
        log_chance = z[np.arange(len(labels)), labels] - np.log(np.exp(z).sum(axis=1))
        total -= (balanced_weights(labels, seen) * log_chance).sum()
    return total / len(folds)


@pytest.mark.parametrize("scale", [0.3, 1.0, 20.0])
def test_the_temperature_is_as_good_as_the_best_of_a_fine_grid(scale):
    rng = np.random.default_rng(4)
    folds = []
    for _ in range(2):
        seen = np.array([True, True, True, False, False])
        labels = rng.integers(0, 5, 60)
        logits = (scale * (rng.standard_normal((60, 5)) + 1.5 * np.eye(5)[labels])).astype(np.float32)
        folds.append((logits, labels, seen))
    found = fit_temperature(*zip(*folds, strict=True), gamma=0.4 * scale)
    grid = np.exp(np.linspace(np.log(1e-2), np.log(1e3), 700))
    best = min(slow_likelihood(t, folds, 0.4 * scale) for t in grid)
    assert slow_likelihood(found, folds, 0.4 * scale) <= best + 1e-6
    assert 1.01e-2 < found < 990  # the minimum lies inside


def test_the_temperature_finds_the_factor_on_probabilities_that_were_right():
    rng = np.random.default_rng(0)
    chance = rng.dirichlet(np.ones(4), size=4000)
    labels = np.array([rng.choice(4, p=p) for p in chance])
    seen = np.array([True, True, False, False])
    assert fit_temperature([3 * np.log(chance)], [labels], [seen], 0.0) == pytest.approx(3.0, rel=0.06)


def test_the_calibration_error_by_hand():
    probability = np.array([0.05, 0.15, 0.55, 0.58, 1.0])
    right = np.array([False, False, True, False, True])
    # Five bins of a fifth: (0.05, 0.15) 0 of 2 right, (0.55, 0.58) 1 of 2, (1.0) in the last bin.
    expected = 100 * (2 * 0.10 + 2 * abs(0.5 - 0.565) + 1 * 0.0) / 5
    assert expected_calibration_error(probability, right, bins=5) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_the_calibration_error_is_the_sum_over_bins(pairs, bins):
    total = 0.0
    for number in range(bins):
        inside = [(p, r) for p, r in pairs if min(math.floor(p * bins), bins - 1) == number]
        if inside:
            total += abs(sum(r for _, r in inside) - sum(p for p, _ in inside))
    probability, right = np.array([p for p, _ in pairs]), np.array([r for _, r in pairs])
    assert expected_calibration_error(probability, right, bins) == pytest.approx(100 * total / len(pairs), abs=1e-9)


def test_scores_by_hand():
    seen = np.array([True, True, False, False])
    labels = np.array([0, 0, 1, 2, 3])
    logits = np.array(
        [
            [5.0, 0.0, 0.0, 0.0],  # seen, right with either gamma
            [0.0, 4.0, 0.0, 0.0],  # seen, wrong class
            [0.0, 2.0, 1.5, 0.0],  # seen, right only without gamma
            [3.0, 0.0, 2.5, 0.0],  # unseen, right only with gamma
            [9.0, 0.0, 1.0, 0.5],  # unseen, wrong in every label space
        ],
        dtype=np.float32,
    )
    found = score(logits, labels, seen, gamma=1.0, temperature=2.0)
    assert found["T1"] == pytest.approx(50.0)  # the fourth
    assert found["U"] == pytest.approx(50.0)
    assert found["S"] == pytest.approx(25.0)  # class 0 half, class 1 none
    assert found["H"] == pytest.approx(100 / 3)
    assert found["H_uncalibrated"] == 0.0  # S 75, U 0
    z = (logits - np.array([1, 1, 0, 0])) / 2.0
    chance = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    right = np.array([True, False, False, True, False])
    assert found["ECE"] == pytest.approx(expected_calibration_error(chance.max(axis=1), right), abs=1e-4)
    assert found["AUSUC"] == pytest.approx(seen_unseen_curve(logits, labels, seen).area)


@pytest.mark.parametrize(
    ("labels", "known"),
    [([0, 1], {"S", "ECE"}), ([2, 2], {"T1", "U", "ECE"}), ([], set())],
)
def test_figures_without_pictures_are_none(labels, known):
    logits = np.arange(3, dtype=np.float32)[None].repeat(len(labels), axis=0)
    found = score(logits, np.array(labels, int), np.array([True, True, False]), 0.5, 1.0)
    assert set(found) == {"T1", "U", "S", "H", "H_uncalibrated", "AUSUC", "ECE"}
    assert {name for name, value in found.items() if value is not None} == known
