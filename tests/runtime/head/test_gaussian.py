"""Means to rows, against scikit-learn and brute-force densities; and what must hold bit for bit when classes come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from support.big_bundle import means_graph
from support.traced import peak_of
from zsl_runtime.arrays import BLOCK_ROWS
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.gaussian import (
    MEANS_BLOCK,
    ClassMeans,
    Evidence,
    Gaussian,
    evidence_of,
    gaussian_head,
    grown_head,
    prior_means,
    taught_head,
)
from zsl_runtime.head.head import View, fold
from zsl_runtime.head.semantic_rule import SemanticRule
from zsl_runtime.machine.storage import tensor_bytes

D = 6
VIEW = View("canonical", 0, D, 1.0, None)
RULE = SemanticRule()


def random_gaussian(rng, width: int = D) -> Gaussian:
    variance = rng.uniform(0, 3, width) * (rng.random(width) < 0.9)
    return Gaussian(variance, 1 / (1 + 0.7 * variance))


def random_means(rng, classes: int, width: int = D, most: int = 4) -> ClassMeans:
    prior = rng.standard_normal((classes, width)).astype(np.float32)
    counts = rng.integers(0, most + 1, classes)
    return ClassMeans(
        prior, counts, counts[counts > 0][:, None] * rng.standard_normal((np.count_nonzero(counts), width))
    )


class Given(BaseEstimator):
    """The covariance that scikit-learn is to work with."""

    def __init__(self, covariance=None):
        self.covariance = covariance

    def fit(self, x):
        self.covariance_ = self.covariance
        return self


# --- rows ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(3, 6))
@settings(max_examples=15)
def test_decisions_are_those_of_scikit_learn_up_to_a_number_for_each_picture(seed, classes):
    """In coordinates weighted by s, the classifier is LDA with a covariance of diag(1 / s)."""
    rng = np.random.default_rng(seed)
    gaussian = random_gaussian(rng)
    labels = np.repeat(np.arange(classes), 4)
    x = rng.standard_normal((len(labels), D)) + 2 * rng.standard_normal((classes, D))[labels]
    means = np.stack([x[labels == j].mean(axis=0) for j in range(classes)]).astype(np.float32)
    weight, bias = gaussian.rows(ClassMeans.without_photographs(means))
    theirs = LinearDiscriminantAnalysis(
        solver="lsqr", priors=np.full(classes, 1 / classes), covariance_estimator=Given(np.diag(1 / gaussian.scale))
    ).fit(x, labels)
    new = rng.standard_normal((20, D))
    apart = new @ weight.T.astype(float) + bias - theirs.decision_function(new)
    np.testing.assert_allclose(apart, np.broadcast_to(apart[:, :1], apart.shape), atol=1e-4)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_probabilities_are_those_of_the_densities(seed):
    """Bayes' rule over normal densities in float64, without and with photographs."""
    rng = np.random.default_rng(seed)
    gaussian, means = random_gaussian(rng), random_means(rng, 5)
    x = rng.standard_normal((30, D)).astype(np.float32)
    scores = fold(gaussian_head(means, gaussian, VIEW), np.zeros(5, bool)).scores(x)
    densities = np.stack(
        [multivariate_normal(mean, np.diag(1 / gaussian.scale)).logpdf(x) for mean in gaussian.posterior(means)], axis=1
    )
    expected = densities - np.log(np.exp(densities).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(0.01, 5))
@settings(max_examples=20)
def test_the_posterior_is_the_product_of_densities_on_a_grid(seed, count, variance):
    """Prior N(m, d), photographs N(mean, 1): mean and variance of their product, summed up numerically."""
    rng = np.random.default_rng(seed)
    prior, photographs = float(np.float32(rng.normal())), rng.normal(size=count)
    grid = np.linspace(-12, 12, 40_001)
    logs = norm(prior, np.sqrt(variance)).logpdf(grid) + sum(norm(grid, 1).logpdf(one) for one in photographs)
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    mean = (weight * grid).sum()
    gaussian = Gaussian(np.array([variance]), np.ones(1))
    means = ClassMeans(np.float32([[prior]]), np.array([count]), np.array([[photographs.sum()]]))
    np.testing.assert_allclose(gaussian.posterior(means), [[mean]], atol=1e-4)
    np.testing.assert_allclose(gaussian.remaining(means.counts), [[(weight * (grid - mean) ** 2).sum()]], rtol=1e-3)


def test_the_two_ends_of_what_is_known_beforehand():
    """d = 0: attributes tell all, photographs nothing; d huge: photographs tell all; and no overflow on the way."""
    gaussian = Gaussian(np.array([0.0, 1e308]), np.ones(2))
    means = ClassMeans(np.float32([[1, 1], [1, 1]]), np.array([2**53, 0]), np.array([[2.0**54, 2.0**54]]))
    np.testing.assert_array_equal(gaussian.posterior(means), [[1, 2], [1, 1]])
    np.testing.assert_array_equal(gaussian.remaining(means.counts), [[0, 0], [0, 1e308]])


# --- bit for bit -----------------------------------------------------------------------------------------------------


def same(first, second) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([1, 3, 8, 17, 64, 257]))
@settings(max_examples=60)
def test_a_row_depends_on_its_own_class_alone(seed, classes, width):
    rng = np.random.default_rng(seed)
    gaussian, means = random_gaussian(rng, width), random_means(rng, classes, width)
    weight, bias = gaussian.rows(means)
    order = rng.permutation(classes)[: 1 + classes // 2]
    assert same(gaussian.rows(means.take(order)), (weight[order], bias[order]))
    for j in range(classes):
        assert same(gaussian.rows(means.take(np.array([j]))), (weight[j : j + 1], bias[j : j + 1]))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=30)
def test_the_order_of_additions_does_not_matter_and_what_came_goes_without_a_trace(seed, first, second):
    rng = np.random.default_rng(seed)
    gaussian = random_gaussian(rng)
    known, a, b = (random_means(rng, n) for n in (4, first, second))
    head = replace(gaussian_head(known, gaussian, VIEW), gamma=0.3, temperature=1.5)
    one = grown_head(grown_head(head, a, gaussian), b, gaussian)
    other = grown_head(grown_head(head, b, gaussian), a, gaussian)
    assert (len(one), one.gamma, one.temperature) == (4 + first + second, 0.3, 1.5)
    order = np.r_[0:4, 4 + second : 4 + second + first, 4 : 4 + second]
    assert same(other.take(order).weights + other.take(order).biases, one.weights + one.biases)
    together = known.append(a).append(b)
    assert same(gaussian.rows(together), (one.weights[0], one.biases[0]))
    left = together.take(np.arange(4))
    assert same((left.prior, left.counts, left.totals), (known.prior, known.counts, known.totals))
    assert same(one.take(np.arange(4)).weights, head.weights)


@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=8))
@settings(max_examples=40)
def test_portions_of_photographs_add_up_in_any_order(seed, portions):
    """Sums of eighths are exact in float64, so that the order cannot show."""
    rng = np.random.default_rng(seed)
    gaussian, means = random_gaussian(rng), random_means(rng, 4, most=0)
    lessons = [(row, Evidence(count, rng.integers(-99, 99, D) / 8)) for row, count in portions]
    forward, backward = means, means
    for row, lesson in lessons:
        forward = forward.taught({row: lesson})
    for row, lesson in reversed(lessons):
        backward = backward.taught({row: lesson})
    assert same((forward.counts, forward.totals), (backward.counts, backward.totals))
    assert forward.counts.tolist() == [sum(n for row, n in portions if row == j) for j in range(4)]
    rows = np.array(sorted({row for row, _ in portions}))
    head = taught_head(gaussian_head(means, gaussian, VIEW), forward, gaussian, rows)
    whole = gaussian_head(forward, gaussian, VIEW)
    assert same(head.weights + head.biases, whole.weights + whole.biases)


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    """The means graph of a kernel regression of real sizes, with ONNX Runtime."""
    path = tmp_path_factory.mktemp("means") / "means.onnx"
    path.write_bytes(means_graph(anchors=150, attributes=312, width=256))
    return OrtBackend({"means": path}, 1).means


def classes(count: int, seed: int = 0) -> ClassTable:
    rng = np.random.default_rng(seed)
    names = tuple(f"c{j}" for j in range(count))
    return ClassTable(names, np.zeros(count, bool), rng.random((count, 312)), tuple(f"a{k}" for k in range(312)))


def test_a_mean_told_from_attributes_depends_on_its_own_class_alone(regression):
    """Alone, in every place of a block, in another order, and among many: the same bits."""
    table = classes(2 * MEANS_BLOCK + 5)
    whole = prior_means(table, rule=RULE, means=regression, width=256)
    assert np.ptp(whole) > 0
    for rows in ([3], [*range(9, 20)], [*range(len(table))][::-1], [len(table) - 1, 0]):
        found = prior_means(table.take(np.array(rows)), rule=RULE, means=regression, width=256)
        assert same((found,), (whole[rows],))
    for place in range(MEANS_BLOCK):
        among = table.take(np.array([*range(1, place + 1), 0]))
        assert same((prior_means(among, rule=RULE, means=regression, width=256)[-1],), (whole[0],))


def test_the_graph_is_called_with_whole_blocks_and_its_answers_are_checked():
    seen = []

    def means(semantic):
        seen.append(semantic.shape)
        return semantic[:, :D]

    table = classes(2 * MEANS_BLOCK + 1)
    assert prior_means(table, rule=RULE, means=means, width=D).shape == (2 * MEANS_BLOCK + 1, D)
    assert seen == [(MEANS_BLOCK, 312)] * 3
    for wrong in (lambda s: s[:, :5], lambda s: s[:2, :D], lambda s: s[:, :D] * np.float32(np.nan)):
        with pytest.raises(ArtefactError, match="E-GRAPH-OUTPUT: the means of classes"):
            prior_means(table, rule=RULE, means=wrong, width=D)


def test_the_rows_of_many_classes_take_little_beyond_themselves():
    """And are those of each class by itself, bit for bit."""
    rng = np.random.default_rng(3)
    gaussian, means = random_gaussian(rng, 96), random_means(rng, 24 * BLOCK_ROWS + 5, 96)
    (weight, bias), peak = peak_of(lambda: gaussian.rows(means))
    assert peak < 2 * weight.nbytes, (peak, weight.nbytes)
    for j in (0, BLOCK_ROWS - 1, BLOCK_ROWS, len(means) - 1):
        own, shift = gaussian.rows(means.take(np.array([j])))
        assert (own[0].tobytes(), shift[0]) == (weight[j].tobytes(), bias[j])


def test_evidence_is_count_and_sum():
    x, labels = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([7, 2, 7, 7])
    found = evidence_of(x, labels)
    assert {label: (one.count, one.total.tolist()) for label, one in found.items()} == {
        2: (1, [3, 4, 5]),
        7: (3, [15, 18, 21]),
    }
    assert found[7].total.dtype == np.float64


# --- damage ----------------------------------------------------------------------------------------------------------


def test_statistics_come_back_from_their_file(tmp_path):
    gaussian = random_gaussian(np.random.default_rng(0))
    again = Gaussian.from_bytes(gaussian.to_bytes(), where="gaussian.safetensors")
    assert same((again.variance, again.scale), (gaussian.variance, gaussian.scale))


@pytest.mark.parametrize(
    "tensors",
    [
        {"variance": np.ones(3)},
        {"scale": np.ones(3)},
        {"variance": np.ones(3), "scale": np.ones(4)},
        {"variance": np.ones((1, 3)), "scale": np.ones((1, 3))},
        {"variance": np.ones(0), "scale": np.ones(0)},
        {"variance": np.ones(3, np.float32), "scale": np.ones(3, np.float32)},
        {"variance": np.array([1, -1e-9, 1]), "scale": np.ones(3)},
        {"variance": np.array([1, np.nan, 1]), "scale": np.ones(3)},
        {"variance": np.array([1, np.inf, 1]), "scale": np.ones(3)},
        {"variance": np.ones(3), "scale": np.array([1, 0, 1.0])},
        {"variance": np.ones(3), "scale": np.array([1, np.nan, 1.0])},
    ],
)
def test_a_statistics_file_that_is_none_is_refused(tensors):
    with pytest.raises(ArtefactError, match=r"E-BUNDLE-GAUSSIAN: x\.safetensors is not a statistics file") as caught:
        Gaussian.from_bytes(tensor_bytes(tensors, {}), where="x.safetensors")
    assert "\n" not in str(caught.value)
    assert caught.value.message.endswith("export the model again")


@given(st.integers(0, 400), st.integers(0, 255))
@example(-1, 0xBF)  # the last number becomes negative
@example(0, 0)
@settings(max_examples=60)
def test_a_changed_byte_gives_statistics_or_one_line(place, value):
    data = bytearray(random_gaussian(np.random.default_rng(1)).to_bytes())
    data[place % len(data)] = value
    try:
        read = Gaussian.from_bytes(bytes(data), where="x")
    except ArtefactError as error:
        assert str(error).startswith("E-BUNDLE-GAUSSIAN: x is not a ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert read.variance.shape == read.scale.shape
        assert np.isfinite(read.variance).all()
        assert (read.variance >= 0).all()
        assert np.isfinite(read.scale).all()
        assert (read.scale > 0).all()


def test_means_that_do_not_go_together_are_refused():
    with pytest.raises(UsageError, match="E-MEANS"):
        ClassMeans(np.zeros((2, 3), np.float32), np.array([0, 1]), np.zeros((0, 3)))
