"""Rows of new classes: gradient and fit against float64 and SciPy, and what the old rows keep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from zsl_runtime.errors import UsageError
from zsl_runtime.extend import BATCH, LENGTH, Rows, extend_head, log_sum_exp, new_gradient
from zsl_runtime.head import FitSettings, Head, View, fit_head, fold

FIT = FitSettings(learning_rate=0.01)


def rows_of(n: int, d: int, c: int, *, apart: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) float32 rows around c random centres; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % c)
    return (apart * rng.standard_normal((c, d))[labels] + rng.standard_normal((n, d))).astype(np.float32), labels


def head_of(*widths: int, classes: int, seed: int = 0, scale: float = 0.5) -> Head:
    """A head that nobody fitted."""
    rng = np.random.default_rng(seed)
    stops = np.cumsum(widths).tolist()
    views = tuple(View(str(s), s - w, s, 1.0, FIT) for w, s in zip(widths, stops, strict=True))
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
def test_the_gradient_is_that_of_the_whole_softmax(seed, new):
    """In float64, against finite differences; rows of old classes are there under their old labels."""
    rng = np.random.default_rng(seed)
    head = head_of(5, classes=4, seed=seed)
    x, labels = rows_of(30, 5, 4 + new, seed=seed)
    x = x.astype(np.float64)
    shares = rng.random(30) + 0.1
    weight, bias = rng.standard_normal((new, 5)), rng.standard_normal(new)
    sums = logsumexp(x @ head.weights[0].astype(float).T + head.biases[0], axis=1)
    out = np.empty_like(weight), np.empty_like(bias)
    new_gradient(Rows(x, labels - 4, shares, sums), weight, bias, out=out)

    def loss(flat):
        return whole_loss(flat[: weight.size].reshape(new, 5), flat[weight.size :], x, labels, head, shares)

    at = np.concatenate([weight.ravel(), bias])
    numeric = [(loss(at + e) - loss(at - e)) / 2e-6 for e in 1e-6 * np.eye(at.size)]
    np.testing.assert_allclose(np.concatenate([out[0].ravel(), out[1]]), numeric, atol=1e-6)


@pytest.mark.parametrize("new", [1, 3])
def test_the_fit_is_textbook_adam_until_the_rows_are_long_enough(new):
    """Two views; the same in float64 from the formulas, with whole softmaxes."""
    head = head_of(6, 4, classes=5, scale=0.2)
    x, labels = rows_of(3 * BATCH + 20, 10, 5 + new, apart=1.5)
    counts = (1 + labels % 3).astype(np.float32)
    whole = extend_head(head, x, labels, new, counts=counts, seed=3)
    for k, view in enumerate(head.views):
        old = head.weights[k].astype(float)
        wanted = LENGTH * np.sqrt((old**2).sum(axis=1).mean())
        weight, bias, passes = textbook(
            x[:, view.start : view.stop].astype(float),
            labels,
            counts / counts.sum(),
            (old, head.biases[k].astype(float)),
            new,
            wanted,
            np.random.default_rng([3, k]),
        )
        assert passes > 2
        np.testing.assert_allclose(whole.weights[k][5:], weight, atol=2e-3)
        np.testing.assert_allclose(whole.biases[k][5:], bias, atol=2e-3)
        length = np.sqrt((whole.weights[k][5:] ** 2).sum(axis=1).mean())
        assert wanted <= length < 1.2 * wanted


def textbook(x, labels, shares, old, new, length, rng):
    """Rows, biases and passes of the fit of new rows, one line a formula; FIT's settings."""
    w = (rng.standard_normal((new, x.shape[1]), dtype=np.float32) * np.float32(FIT.init_std)).astype(float)
    b, state, step, passes, batches = np.zeros(new), {"w": [0.0, 0.0], "b": [0.0, 0.0]}, 0, 0, round(len(x) / BATCH)
    while passes == 0 or np.sqrt((w**2).sum(axis=1).mean()) < length:
        for first in rng.permutation(batches):
            rows = slice(first, None, batches)
            logits = np.hstack([x[rows] @ old[0].T + old[1], x[rows] @ w.T + b])
            p = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
            p[np.arange(len(p)), labels[rows]] -= 1
            p = p[:, len(old[1]) :] * (batches * shares[rows])[:, None]
            step += 1
            for key, values, grad in (("w", w, p.T @ x[rows]), ("b", b, p.sum(axis=0))):
                m, v = state[key]
                m = FIT.beta1 * m + (1 - FIT.beta1) * grad
                v = FIT.beta2 * v + (1 - FIT.beta2) * grad**2
                state[key] = [m, v]
                values[:] = values - FIT.learning_rate * m / (1 - FIT.beta1**step) / (
                    np.sqrt(v / (1 - FIT.beta2**step)) + 1e-8
                )
        passes += 1
    return w, b, passes


def test_it_ends_where_nothing_more_is_to_be_had():
    """Rows that say nothing do not grow: three times the schedule is the end of it."""
    head = head_of(4, classes=3, scale=50.0)
    x, labels = rows_of(40, 4, 4)
    whole = extend_head(head, np.zeros_like(x), labels, 1)
    assert np.abs(whole.weights[0][3]).max() < 0.1


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


def test_counts_that_are_none_are_refused():
    head = head_of(6, classes=3)
    x, labels = rows_of(60, 6, 4, apart=2.0)
    for wrong in (np.zeros(60, np.float32), np.ones(59, np.float32)):
        with pytest.raises(UsageError, match="E-HEAD-ROWS: counts"):
            extend_head(head, x, labels, 1, counts=wrong)


def test_given_log_sum_exps_are_used():
    head = head_of(6, classes=3)
    x, labels = rows_of(60, 6, 4)
    known = [log_sum_exp(x, head.weights[0], head.biases[0])]
    plain, given = extend_head(head, x, labels, 1), extend_head(head, x, labels, 1, frozen=known)
    np.testing.assert_array_equal(plain.weights[0], given.weights[0])
    loud = extend_head(head, x, labels, 1, frozen=[known[0] + 5])
    assert np.abs(loud.weights[0][-1] - plain.weights[0][-1]).max() > 0.01


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
