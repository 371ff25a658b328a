"""Rows of new classes: loss, gradient and optimum against float64 and SciPy, and what the old rows keep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp

from zsl_runtime.errors import UsageError
from zsl_runtime.extend import LENGTH, LENGTH_TOLERANCE, NewRows, extend_head, log_sum_exp
from zsl_runtime.head import FitSettings, Head, View, fit_head, fold


def rows_of(n: int, d: int, c: int, *, apart: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) float32 rows around c random centres; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % c)
    return (apart * rng.standard_normal((c, d))[labels] + rng.standard_normal((n, d))).astype(np.float32), labels


def head_of(*widths: int, classes: int, seed: int = 0, scale: float = 0.5) -> Head:
    """A head that nobody fitted."""
    rng = np.random.default_rng(seed)
    stops = np.cumsum(widths).tolist()
    views = tuple(View(str(s), s - w, s, 1.0, FitSettings()) for w, s in zip(widths, stops, strict=True))
    weights = tuple((scale * rng.standard_normal((classes, w))).astype(np.float32) for w in widths)
    return Head(views, weights, tuple(rng.standard_normal(classes).astype(np.float32) for _ in widths), 0.7, 1.5)


def whole_loss(weight, bias, x, labels, head, shares):
    """Cross-entropy of the whole softmax of a one-view head and the new rows, float64; labels count all classes."""
    x = x.astype(np.float64)
    logits = np.hstack([x @ head.weights[0].astype(float).T + head.biases[0], x @ weight.T + bias])
    return float((shares * (logsumexp(logits, axis=1) - logits[np.arange(len(x)), labels])).sum())


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 6), st.integers(1, 5), st.floats(0.1, 200))
@settings(max_examples=30)
def test_log_sum_exp_is_that_of_scipy_also_where_exp_overflows(seed, n, d, c, scale):
    rng = np.random.default_rng(seed)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, d), (c, d), (c,)))
    w *= np.float32(scale)
    expected = logsumexp(x.astype(float) @ w.astype(float).T + b, axis=1)
    np.testing.assert_allclose(log_sum_exp(x, w, b), expected, rtol=1e-5, atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=20)
def test_loss_and_gradient_are_those_of_the_whole_softmax(seed, new):
    rng = np.random.default_rng(seed)
    head = head_of(5, classes=4, seed=seed)
    x, labels = rows_of(30, 5, 4 + new, seed=seed)
    shares = rng.random(30) + 0.1
    shares /= shares.sum()
    sums = log_sum_exp(x, head.weights[0], head.biases[0])
    problem = NewRows(x, labels - 4, shares.astype(np.float32), sums, new)
    at = rng.standard_normal((new, 6))
    middle = rng.standard_normal(5).astype(np.float32)

    def loss(flat):
        rows = flat.reshape(new, 6)
        return whole_loss(rows[:, :-1], rows[:, -1] - rows[:, :-1] @ middle, x, labels, head, shares)

    value, slope = problem.value(at.astype(np.float32), middle)
    # Rows of old classes differ by a constant: their own logit against the log-sum-exp of all old ones.
    old = labels < 4
    own = (x.astype(float) @ head.weights[0].astype(float).T + head.biases[0])[old, labels[old]]
    constant = float((shares[old] * (sums[old] - own)).sum())
    assert value + constant == pytest.approx(loss(at.ravel()), rel=1e-4, abs=1e-4)
    numeric = [(loss(at.ravel() + e) - loss(at.ravel() - e)) / 2e-5 for e in 1e-5 * np.eye(at.size)]
    np.testing.assert_allclose(slope.ravel(), numeric, atol=2e-4)


@pytest.mark.parametrize("new", [1, 3])
def test_the_answer_is_the_optimum_for_its_length(new):
    """At the answer the loss's slope is -penalty * w for one penalty; SciPy, given that penalty, finds the same."""
    head = head_of(8, classes=5)
    x, labels = rows_of(400, 8, 5 + new, apart=1.5)
    whole = extend_head(head, x, labels, new)
    weight, bias = whole.weights[0][5:].astype(float), whole.biases[0][5:].astype(float)
    wanted = LENGTH * np.sqrt((head.weights[0].astype(float) ** 2).sum(axis=1).mean())
    length = np.sqrt((weight**2).sum(axis=1).mean())
    assert abs(length / wanted - 1) < 1.5 * LENGTH_TOLERANCE
    shares = np.full(400, 1 / 400)
    sums = log_sum_exp(x, head.weights[0], head.biases[0])
    problem = NewRows(x, labels - 5, shares.astype(np.float32), sums, new)
    at = np.concatenate([weight, bias[:, None]], axis=1).astype(np.float32)
    _, slope = problem.value(at, np.zeros(8, np.float32))
    penalty = -float((slope[:, :-1] * weight).sum() / (weight**2).sum())
    assert penalty > 0

    def objective(flat):
        rows = flat.reshape(new, 9)
        return whole_loss(rows[:, :-1], rows[:, -1], x, labels, head, shares) + penalty / 2 * (rows[:, :-1] ** 2).sum()

    exact = minimize(objective, at.ravel().astype(float), method="BFGS", options={"gtol": 1e-7}).x.reshape(new, 9)
    np.testing.assert_allclose(weight, exact[:, :-1], atol=0.05 * wanted)
    np.testing.assert_allclose(bias, exact[:, -1], atol=0.1)


def test_the_old_rows_stay_bit_for_bit_and_calibration_is_carried_over():
    head = head_of(8, 4, classes=5)
    x, labels = rows_of(90, 12, 7)
    whole = extend_head(head, x, labels, 2)
    assert (len(whole), whole.gamma, whole.temperature) == (7, 0.7, 1.5)
    for k in range(2):
        np.testing.assert_array_equal(whole.weights[k][:5], head.weights[k])
        np.testing.assert_array_equal(whole.biases[k][:5], head.biases[k])
    again = extend_head(head, x, labels, 2)
    np.testing.assert_array_equal(whole.weights[1], again.weights[1])


def test_a_row_that_stands_for_three_is_three_rows():
    head = head_of(6, classes=3)
    x, labels = rows_of(60, 6, 4, apart=2.0)
    counts = np.where(labels == 1, 3, 1)
    counted = extend_head(head, x, labels, 1, counts=counts.astype(np.float32))
    repeated = extend_head(head, np.repeat(x, counts, axis=0), np.repeat(labels, counts), 1)
    np.testing.assert_allclose(counted.weights[0], repeated.weights[0], atol=2e-2)
    with pytest.raises(UsageError, match="E-HEAD-ROWS: counts"):
        extend_head(head, x, labels, 1, counts=np.zeros(60, np.float32))


def test_given_log_sum_exps_are_used():
    head = head_of(6, classes=3)
    x, labels = rows_of(60, 6, 4)
    known = [log_sum_exp(x, head.weights[0], head.biases[0])]
    plain, given = extend_head(head, x, labels, 1), extend_head(head, x, labels, 1, frozen=known)
    np.testing.assert_array_equal(plain.weights[0], given.weights[0])
    loud = extend_head(head, x, labels, 1, frozen=[known[0] + 5])
    assert loud.biases[0][-1] > plain.biases[0][-1] + 2


def test_an_added_class_is_found_and_the_others_stay():
    x, labels = rows_of(1200, 16, 8, apart=3.0)
    views = (View("all", 0, 16, 1.0, FitSettings(epochs=25, batch_size=100, learning_rate=1e-2)),)
    old = fit_head(x[labels < 7], labels[labels < 7], 7, views, seed=0)
    head = extend_head(old, x, labels, 1)
    found = fold(head, np.zeros(8, dtype=bool)).scores(x).argmax(axis=1)
    assert all((found[labels == j] == j).mean() > 0.97 for j in range(8))


def test_logits_that_overflow_and_old_rows_of_zeros_are_no_trouble():
    head = head_of(6, classes=3)
    x, labels = rows_of(300, 6, 4, apart=4.0)
    for scale in (100, 0):
        odd = replace(head, weights=(np.float32(scale) * head.weights[0],))
        whole = extend_head(odd, x, labels, 1)
        assert np.isfinite(whole.weights[0]).all()
        assert np.isfinite(whole.biases[0]).all()
        assert np.abs(whole.weights[0][3]).max() > 0


def test_rows_are_needed_of_every_new_class_but_not_of_the_old_ones():
    head = head_of(4, classes=3)
    x, _ = rows_of(30, 4, 3)
    only_new = np.full(30, 3)
    assert len(extend_head(head, x, only_new, 1)) == 4
    with pytest.raises(UsageError, match="class 4 has no rows"):
        extend_head(head, x, only_new, 2)
