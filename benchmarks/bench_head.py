"""How long does it take to fit a head, to add one class to it, and to fold it, at 20 and at 200 classes?

2048 features, 20 rows a class, 5 epochs of batches of 300; published schedules have 25 epochs and more rows.
"""

from __future__ import annotations

import numpy as np
import pytest

from zsl_runtime.head import FitSettings, View, extend_head, fit_head, fold

WIDTH, ROWS = 2048, 20
VIEWS = (View("feature", 0, WIDTH, 1.0, FitSettings(epochs=5)),)


@pytest.fixture(scope="module", params=[20, 200])
def rows(request):
    """Features around one centre a class: x (N, D) float32 and labels (N,)."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(request.param), ROWS)
    centres = rng.standard_normal((request.param, WIDTH), dtype=np.float32)
    return centres[labels] + rng.standard_normal((len(labels), WIDTH), dtype=np.float32), labels


@pytest.fixture(scope="module")
def head(rows):
    x, labels = rows
    return fit_head(x, labels, int(labels[-1]) + 1, VIEWS, 0)


def accuracy(head, x, labels):
    logits = x @ head.weights[0].T + head.biases[0]
    return (logits.argmax(axis=1) == labels).mean()


def bench_fit(measure, rows, head):
    x, labels = rows
    assert accuracy(head, x, labels) > 0.99
    measure(lambda: fit_head(x, labels, len(head), VIEWS, 0), things=len(head), unit="classes")


def bench_extend_by_one_class(measure, rows):
    x, labels = rows
    known = labels < labels[-1]
    old = fit_head(x[known], labels[known], int(labels[-1]), VIEWS, 0)
    new = extend_head(old, x, labels, 1, 0)
    np.testing.assert_array_equal(new.weights[0][:-1], old.weights[0])
    assert accuracy(new, x, labels) > 0.99
    measure(lambda: extend_head(old, x, labels, 1, 0), things=1, unit="classes")


def bench_fold(measure, rows, head):
    seen = np.arange(len(head)) % 2 == 0
    folded = fold(head, seen)
    np.testing.assert_array_equal(folded.weight, head.weights[0])
    np.testing.assert_array_equal(folded.bias, head.biases[0])
    measure(lambda: fold(head, seen), things=len(head), unit="classes")
