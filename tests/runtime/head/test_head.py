"""The head: gradients, Adam, fitting, folding, replay and noise, each against an independent computation."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax
from sklearn.linear_model import LogisticRegression

from support.softmax import naive_fit
from zsl_runtime.arrays import BLOCK_ROWS
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.fitting import (
    UPDATE_BLOCK,
    Replay,
    append_rows,
    class_noise,
    fit_head,
    fitting_rows,
    gradient,
    rows_head,
)
from zsl_runtime.head.head import FitSettings, FoldedHead, Head, View, best_columns, fold, log_softmax
from zsl_runtime.head.semantic_rule import SemanticRule

FAST = FitSettings(epochs=3, batch_size=7, learning_rate=0.01)


def make_rows(n: int, d: int, c: int, *, seed: int = 0, apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) float32 rows around c random centres; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % c)
    centres = apart * rng.standard_normal((c, d))
    return (centres[labels] + rng.standard_normal((n, d))).astype(np.float32), labels


def views_of(*widths: int, fit: FitSettings = FAST) -> tuple[View, ...]:
    stops = np.cumsum(widths).tolist()
    return tuple(
        View(f"view {k}", stop - width, stop, 1.0 / (k + 1), fit)
        for k, (width, stop) in enumerate(zip(widths, stops, strict=True))
    )


def test_the_gradient_is_that_of_the_loss():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((9, 4))
    weight, bias = rng.standard_normal((2, 4)), rng.standard_normal(2)
    labels = np.array([0, 1, 0, 1, 1, 0, 1, 1, 0])

    def loss(parameters: np.ndarray) -> float:
        w, b = parameters[:8].reshape(2, 4), parameters[8:]
        return -scipy_log_softmax(x @ w.T + b, axis=1)[np.arange(9), labels].mean()

    at = np.concatenate([weight.ravel(), bias])
    numeric = np.array([(loss(at + e) - loss(at - e)) / 2e-6 for e in 1e-6 * np.eye(10)])
    out = np.empty((2, 4)), np.empty(2)
    gradient(x, labels, weight, bias, out=out)
    np.testing.assert_allclose(np.concatenate([out[0].ravel(), out[1]]), numeric, atol=1e-8)


def test_the_first_adam_step_by_hand():
    """With one step, m_hat = g and v_hat = g^2: every weight moves by rate * g / (|g| + eps), biases too."""
    x = np.array([[1.0, -2.0], [0.5, 0.25]], dtype=np.float32)
    labels = np.array([0, 1])
    fit = FitSettings(epochs=1, batch_size=2, learning_rate=0.1, init_std=0.0)
    head = fit_head(x, labels, 2, views_of(2, fit=fit), 0)
    # Equal logits: p = 1/2 each, so g_0 = mean of (-1/2 x_0, +1/2 x_1), and g_1 = -g_0; bias gradients cancel.
    g = (-x[0] + x[1]) / 4
    np.testing.assert_allclose(head.weights[0], [-0.1 * np.sign(g), 0.1 * np.sign(g)], rtol=1e-5)
    np.testing.assert_allclose(head.biases[0], [0, 0], atol=1e-12)


def test_a_whole_fit_equals_the_textbook_in_float64():
    """Two views, several epochs, a short last batch, more weights than one update block."""
    width = UPDATE_BLOCK // 4 + 5
    x, labels = make_rows(23, width + 3, 5)
    views = views_of(width, 3)
    head = fit_head(x, labels, 5, views, seed=11)
    for k, view in enumerate(views):
        expected = naive_fit(x[:, view.start : view.stop], labels, 5, view.fit, np.random.default_rng([11, k]))
        np.testing.assert_allclose(head.weights[k], expected[0], atol=2e-4)
        np.testing.assert_allclose(head.biases[k], expected[1], atol=2e-4)
    assert (head.gamma, head.temperature) == (0.0, 1.0)


def test_every_epoch_of_every_view_is_told():
    x, labels = make_rows(12, 6, 3)
    told: list[int] = []
    fit_head(x, labels, 3, views_of(4, 2), 0, advance=told.append)
    assert told == [1] * 2 * FAST.epochs


def test_a_batch_larger_than_the_data_is_one_step_an_epoch():
    x, labels = make_rows(10, 4, 2)
    fit = FitSettings(epochs=4, batch_size=10_000, learning_rate=0.05)
    head = fit_head(x, labels, 2, views_of(4, fit=fit), seed=0)
    expected = naive_fit(x, labels, 2, fit, np.random.default_rng([0, 0]))
    np.testing.assert_allclose(head.weights[0], expected[0], atol=1e-5)


def test_fitted_long_enough_it_is_logistic_regression():
    """On overlapping classes, where the optimum is finite, it agrees with an exact solver."""
    x, labels = make_rows(600, 6, 3, apart=0.8)
    fit = FitSettings(epochs=1500, batch_size=600, learning_rate=0.02)
    head = fit_head(x, labels, 3, views_of(6, fit=fit), seed=0)
    exact = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(x, labels)
    centred = head.weights[0] - head.weights[0].mean(axis=0)
    wanted = exact.coef_ - exact.coef_.mean(axis=0)
    cosine = (centred * wanted).sum() / np.linalg.norm(centred) / np.linalg.norm(wanted)
    assert cosine > 0.9999
    ours = np.exp(fold(head, np.zeros(3, dtype=bool)).scores(x))
    np.testing.assert_allclose(ours, exact.predict_proba(x), atol=5e-3)


def test_the_same_seed_gives_the_same_head_and_another_seed_another():
    x, labels = make_rows(50, 8, 4)
    first, second, third = (fit_head(x, labels, 4, views_of(8), seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.weights[0], second.weights[0])
    assert np.abs(first.weights[0] - third.weights[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x[:0], y[:0]), "at least one row"),
        (lambda x, y: (x, y[:-1]), r"\(11,\)"),
        (lambda x, y: (x[:, :3], y), r"\(N, 4\)"),
        (lambda x, y: (x[0], y), "E-HEAD-ROWS"),
        (lambda x, y: (np.where(x == x[3, 2], np.nan, x), y), "NaN"),
        (lambda x, y: (np.where(x == x[3, 2], np.inf, x), y), "infinity"),
        (lambda x, y: (x, y + 1), "from 1 to 3"),
        (lambda x, y: (x, y - 1), "from -1"),
        (lambda x, y: (x, np.where(y == 1, 0, y)), "class 1 has no rows"),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused(change, told):
    x, labels = change(*make_rows(12, 4, 3))
    with pytest.raises(UsageError, match=told) as caught:
        fit_head(x, labels, 3, views_of(4), seed=0)
    assert caught.value.code == "E-HEAD-ROWS"


@st.composite
def heads(draw) -> tuple[Head, np.ndarray, np.ndarray]:
    """A head of overlapping or separate views, seen flags, and rows to score."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, width = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    bounds = draw(st.lists(st.tuples(st.integers(0, width - 1), st.integers(1, width)), min_size=1, max_size=3))
    views = tuple(
        View(str(k), min(a, b - 1), max(a + 1, b), draw(st.floats(0.1, 3)), FAST) for k, (a, b) in enumerate(bounds)
    )
    head = Head(
        views,
        tuple((2 * rng.standard_normal((count, v.stop - v.start))).astype(np.float32) for v in views),
        tuple(rng.standard_normal(count).astype(np.float32) for _ in views),
        gamma=draw(st.floats(-1, 3)),
        temperature=draw(st.floats(0.2, 4)),
    )
    x = rng.standard_normal((draw(st.integers(1, 9)), head.width)).astype(np.float32)
    return head, rng.random(count) < 0.5, x


@settings(deadline=None)
@given(case=heads())
def test_a_folded_head_is_the_weighted_sum_of_log_softmaxes(case):
    """Calibration included: gamma is taken off the seen classes, then all is divided by the temperature."""
    head, seen, x = case
    total = np.zeros((len(x), len(head)))
    for view, weight, bias in zip(head.views, head.weights, head.biases, strict=True):
        logits = x[:, view.start : view.stop].astype(np.float64) @ weight.astype(np.float64).T + bias
        total += view.weight * scipy_log_softmax(logits, axis=1)
    expected = scipy_log_softmax((total - head.gamma * seen) / head.temperature, axis=1)
    scores = fold(head, seen).scores(x)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=2e-4, rtol=1e-5)
    best = np.sort(expected, axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-3 if len(head) > 1 else np.ones(len(x), dtype=bool)
    np.testing.assert_array_equal(scores.argmax(axis=1)[clear], expected.argmax(axis=1)[clear])


def test_columns_between_views_do_not_count():
    view = View("middle", 2, 4, 1.0, FAST)
    head = Head((view,), (np.ones((2, 2), dtype=np.float32),), (np.zeros(2, dtype=np.float32),))
    assert fold(head, np.zeros(2, dtype=bool)).weight.tolist() == [[0, 0, 1, 1]] * 2


def test_a_filtered_head_gives_the_others_no_probability():
    head = FoldedHead(np.eye(3, dtype=np.float32), np.zeros(3, dtype=np.float32), np.zeros(3, dtype=np.float32))
    x = np.array([[5, 1, 0]], dtype=np.float32)
    scores = head.only(np.array([False, True, True])).scores(x)
    np.testing.assert_allclose(np.exp(scores), [[0, 1 / (1 + np.exp(-1)), 1 / (1 + np.e)]], rtol=1e-6)
    with pytest.raises(UsageError, match="E-FILTER-EMPTY"):
        head.only(np.zeros(3, dtype=bool))


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=6), st.floats(-100, 100, width=32))
def test_log_softmax_is_that_of_scipy_and_does_not_feel_a_shift(row, shift):
    logits = np.array([row], dtype=np.float64)
    np.testing.assert_allclose(log_softmax(logits), scipy_log_softmax(logits, axis=1), atol=1e-9)
    np.testing.assert_allclose(log_softmax(logits + shift), log_softmax(logits), atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 400), st.data())
@settings(max_examples=60)
def test_the_best_columns_are_those_of_a_whole_stable_sort(seed, n, c, data):
    """Few different scores, so that ties fall on the border, and some classes left out."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, data.draw(st.sampled_from([2, 5, 10**6])), (n, c)).astype(np.float32)
    scores[:, rng.random(c) < 0.2] = -np.inf
    count = data.draw(st.integers(0, c))
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(best_columns(scores, count), expected)


def test_seen_flags_of_another_length_are_refused():
    head = fit_head(*make_rows(12, 4, 3), 3, views_of(4), 0)
    with pytest.raises(UsageError, match="E-HEAD-SHAPE"):
        fold(head, np.zeros(2, dtype=bool))


@pytest.mark.parametrize(
    "change",
    [
        {"views": ()},
        {"weights": ()},
        {"weights": (np.zeros((3, 5), dtype=np.float32),)},
        {"weights": (np.zeros((2, 4), dtype=np.float32),)},
        {"weights": (np.zeros((3, 4)),)},
        {"biases": (np.zeros((3, 1), dtype=np.float32),)},
        {"biases": (np.zeros(3, dtype=np.float32),) * 2},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"gamma": float("inf")},
    ],
)
def test_a_head_whose_parts_do_not_fit_is_refused(change):
    good = fit_head(*make_rows(12, 4, 3), 3, views_of(4), 0)
    with pytest.raises(UsageError) as caught:
        replace(good, **change)
    assert caught.value.code == "E-HEAD-SHAPE"


def test_taking_rows_changes_no_score_of_the_others_but_the_sum():
    head = fit_head(*make_rows(40, 6, 4), 4, views_of(4, 2), 0)
    part = head.take(np.array([3, 1]))
    assert len(part) == 2
    np.testing.assert_array_equal(part.weights[1], head.weights[1][[3, 1]])
    np.testing.assert_array_equal(part.biases[0], head.biases[0][[3, 1]])


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"epochs": 2.0},
        {"epochs": True},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": "fast"},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"init_std": -1.0},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(UsageError) as caught:
        FitSettings.from_dict({**FitSettings().to_dict(), **change})
    assert caught.value.code == "E-FIT-SETTINGS"


def test_settings_and_views_survive_as_plain_data_and_other_keys_are_refused():
    view = View("feature", 3, 9, 0.5, FitSettings(epochs=7))
    assert View.from_dict(view.to_dict()) == view
    assert FitSettings.from_dict(view.fit.to_dict()) == view.fit
    computed = View("feature", 0, 9, 1.0, None)
    assert View.from_dict(computed.to_dict()) == computed
    with pytest.raises(UsageError, match="E-FIT-SETTINGS"):
        FitSettings.from_dict({"epochs": 3})
    for change in ({"start": 9}, {"start": -1}, {"weight": 0}, {"name": 3}, {"fit": 3}, {"more": 1}, {"stop": "9"}):
        with pytest.raises(UsageError, match="E-VIEW"):
            View.from_dict({**view.to_dict(), **change})


def test_a_view_that_is_not_fitted_is_not_fitted():
    views = (View("all", 0, 2, 1.0, None),)
    x, labels = np.eye(2, dtype=np.float32), np.arange(2)
    with pytest.raises(UsageError, match="E-HEAD-RULE: view 'all' is not fitted"):
        fit_head(x, labels, 2, views, 0)


@given(st.integers(1, 3 * BLOCK_ROWS // 2), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_computed_rows_are_those_of_the_formula_in_table_order(classes, attributes, width):
    rng = np.random.default_rng(classes)
    matrix = rng.standard_normal((attributes, width)).astype(np.float32)
    raw = rng.random((classes, attributes)) + 0.1
    names = tuple(map(str, range(classes)))
    table = ClassTable(names, rng.random(classes) > 0.5, raw, tuple(f"a{n}" for n in range(attributes)))
    sizes = []

    def rows(semantic):
        sizes.append(len(semantic))
        return semantic @ matrix, semantic.sum(axis=1)

    view = View("all", 0, width, 2.0, None)
    head = rows_head(table, rule=SemanticRule(), rows=rows, view=view)
    semantic = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(head.weights[0], semantic @ matrix, atol=1e-5)
    np.testing.assert_allclose(head.biases[0], semantic.sum(axis=1), atol=1e-5)
    assert (head.views, head.gamma, head.temperature) == ((view,), 0.0, 1.0)
    assert (sum(sizes), max(sizes) <= BLOCK_ROWS) == (classes, True)
    first = np.arange(max(1, classes // 2))
    start = replace(head.take(first), gamma=0.3, temperature=0.5)
    whole = append_rows(start, table.take(np.arange(len(first), classes)), rule=SemanticRule(), rows=rows)
    np.testing.assert_allclose(whole.weights[0], head.weights[0], atol=1e-6)
    assert np.array_equal(whole.weights[0][: len(first)], start.weights[0])
    assert (whole.gamma, whole.temperature, len(whole)) == (0.3, 0.5, classes)


@pytest.mark.parametrize(
    "given", [np.zeros((2, 3)), np.zeros((3, 2)), np.full((2, 2), np.nan), np.full((2, 2), np.inf)]
)
def test_rows_that_cannot_be_are_refused(given):
    table = ClassTable(("a", "b"), np.array([True, False]), np.ones((2, 1)), ("x",))
    rows = given.astype(np.float32)
    with pytest.raises(ArtefactError, match="E-GRAPH-OUTPUT: the rows of classes"):
        rows_head(
            table,
            rule=SemanticRule(),
            rows=lambda semantic: (rows, np.zeros(len(rows), np.float32)),
            view=View("all", 0, 2, 1.0, None),
        )


def test_noise_depends_on_the_seed_and_the_name_alone():
    noise = class_noise(3, "übersee-ente", 500, 16)
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(class_noise(3, "übersee-ente", 20, 16), noise[:20])
    others = [class_noise(4, "übersee-ente", 500, 16), class_noise(3, "wren", 500, 16)]
    assert all(abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.05 for other in others)
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


def test_noise_is_numpy_s_generator_on_the_documented_seed():
    digest = int(hashlib.sha256(b"wren").hexdigest(), 16)
    expected = np.random.default_rng([9, digest]).standard_normal((4, 3), dtype=np.float32)
    np.testing.assert_array_equal(class_noise(9, "wren", 4, 3), expected)


def make_table() -> ClassTable:
    raw = np.array([[1.0, 0], [0, 2], [3, 4], [1, 1]])
    return ClassTable(("a", "b", "c", "d"), np.array([True, False, True, False]), raw, ("p", "q"))


def make_replay(names=("c", "a", "gone"), labels=(0, 1, 2, 1, 0)) -> Replay:
    rows = len(labels)
    features = np.arange(3 * rows).reshape(rows, 3).astype(np.float16)
    return Replay(features, np.array(labels, dtype=np.int32), names)


def rows_of(table: ClassTable, replay: Replay, **changes):
    settings = {
        "rule": SemanticRule(),
        "synthesize": lambda semantic, noise: np.hstack([semantic, noise]),
        "lift": lambda features: np.hstack([features, -features]),
        "width": 6,
        "noise_dim": 1,
        "count": 2,
        "seed": 5,
    }
    return fitting_rows(table, replay, **{**settings, **changes})


def test_rows_to_fit_on_are_replay_then_the_unseen_classes_in_table_order():
    x, labels = rows_of(make_table(), make_replay())
    # replay rows of c (2), a (0), a (0), c (2): the row of a class that is gone is left out; then b and d, twice each
    assert labels.tolist() == [2, 0, 0, 2, 1, 1, 3, 3]
    np.testing.assert_array_equal(x[:4, :3], [[0, 1, 2], [3, 4, 5], [9, 10, 11], [12, 13, 14]])
    np.testing.assert_array_equal(x[4:6, :2], [[0, 1], [0, 1]])  # unit length
    np.testing.assert_allclose(x[6:, :2], np.full((2, 2), 0.5**0.5), rtol=1e-6)
    np.testing.assert_array_equal(x[4:6, 2:3], class_noise(5, "b", 2, 1))
    np.testing.assert_array_equal(x[:, 3:], -x[:, :3])


def test_a_class_without_photographs_gets_the_same_rows_whatever_else_is_in_the_table():
    table = make_table()
    alone, labels = rows_of(table.take(np.array([0, 2, 3])), make_replay())
    both, both_labels = rows_of(table, make_replay())
    np.testing.assert_array_equal(alone[labels == 2], both[both_labels == 3])


def test_a_class_that_came_back_without_photographs_does_not_use_its_old_replay():
    table = make_table()
    table = replace(table, seen=np.array([True, False, False, False]))
    _, labels = rows_of(table, make_replay())
    assert np.bincount(labels).tolist() == [2, 2, 2, 2]


def test_without_a_lift_the_features_themselves_are_fitted():
    x, _ = rows_of(make_table(), make_replay(), lift=None, width=3)
    assert x.shape == (8, 3)


def test_replay_of_more_rows_than_one_block_is_lifted_whole():
    labels = np.zeros(2 * BLOCK_ROWS + 3, dtype=int)
    labels[-1] = 1
    replay = make_replay(names=("c", "a"), labels=labels.tolist())
    x, _ = rows_of(make_table(), replay)
    np.testing.assert_array_equal(x[: len(labels), :3], replay.features.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"width": 7}, "E-GRAPH-OUTPUT"),
        ({"lift": lambda features: np.hstack([features, features])[:-1]}, "E-GRAPH-OUTPUT"),
        ({"lift": lambda features: np.full((len(features), 6), np.nan, dtype=np.float32)}, "E-GRAPH-OUTPUT"),
        ({"synthesize": lambda semantic, noise: np.hstack([semantic, np.inf * noise])}, "E-GRAPH-OUTPUT"),
        ({"synthesize": lambda semantic, noise: np.hstack([semantic, noise])[:-1]}, "E-GRAPH-OUTPUT"),
    ],
)
def test_graphs_that_do_not_fit_the_bundle_are_refused(changes, code):
    with pytest.raises(ArtefactError) as caught:
        rows_of(make_table(), make_replay(), **changes)
    assert caught.value.code == code


def test_a_seen_class_without_replay_is_refused_by_name():
    with pytest.raises(ArtefactError, match="'a'") as caught:
        rows_of(make_table(), make_replay(names=("c", "gone"), labels=(0, 1)))
    assert caught.value.code == "E-REPLAY-CLASS"


def test_replay_survives_its_file():
    replay = make_replay()
    back = Replay.from_bytes(replay.to_bytes(), where="here")
    assert back.names == replay.names
    np.testing.assert_array_equal(back.features, replay.features)
    np.testing.assert_array_equal(back.labels, replay.labels)
    sparse = Replay(replay.features[::2], replay.labels[::2], replay.names)  # strided: not one block of memory
    np.testing.assert_array_equal(Replay.from_bytes(sparse.to_bytes(), where="here").features, replay.features[::2])


@pytest.mark.parametrize(
    "change",
    [
        {"features": np.zeros((5, 3), dtype=np.float32)},
        {"features": np.zeros(5, dtype=np.float16)},
        {"features": np.full((5, 3), np.nan, dtype=np.float16)},
        {"labels": np.zeros(5, dtype=np.int64)},
        {"labels": np.zeros(4, dtype=np.int32)},
        {"labels": np.full(5, 3, dtype=np.int32)},
        {"labels": np.full(5, -1, dtype=np.int32)},
    ],
)
def test_a_replay_whose_parts_do_not_fit_is_refused(change):
    with pytest.raises(UsageError) as caught:
        replace(make_replay(), **change)
    assert caught.value.code == "E-REPLAY"
