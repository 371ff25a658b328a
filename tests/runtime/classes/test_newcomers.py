"""What is said of a newcomer: mix-ups against a seeded draw, and twins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support.traced import peak_of
from zsl_runtime.arrays import BLOCK_ROWS
from zsl_runtime.bundle.generation import Generation
from zsl_runtime.classes.newcomers import (
    CANDIDATES,
    MOST_TOLD,
    SHOWN,
    Neighbour,
    confusable,
    neighbours,
    twins,
)
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.gaussian import ClassMeans, Gaussian, gaussian_head
from zsl_runtime.head.head import View
from zsl_runtime.head.semantic_rule import SemanticRule

D = 4
RULE = SemanticRule()


def table_of(raw: np.ndarray, *, seen=0, prefix: str = "c") -> ClassTable:
    raw = np.asarray(raw, dtype=np.float64)
    names = tuple(f"{prefix}{j}" for j in range(len(raw)))
    return ClassTable(names, np.arange(len(raw)) < seen, raw, tuple(f"a{k}" for k in range(raw.shape[1])))


def generation_of(
    means: ClassMeans, gaussian: Gaussian, *, seen: int = 0, gamma: float = 0.0, temperature: float = 1.0
) -> Generation:
    head = gaussian_head(means, gaussian, View("canonical", 0, means.prior.shape[1], 1.0, None))
    table = table_of(np.ones((len(means), 2)), seen=seen)
    return Generation(1, 0, table, replace(head, gamma=gamma, temperature=temperature), 0, "export", means=means)


@pytest.mark.parametrize(("gamma", "temperature"), [(0.0, 1.0), (0.8, 1.0), (0.8, 2.5)])
def test_expected_mix_ups_are_those_of_a_draw(gamma, temperature):
    """A class's true mean is drawn around what is known of it, a picture around that; scores as the head gives them.

    The temperature is the variance of pictures around their mean.
    """
    rng = np.random.default_rng(0)
    gaussian = Gaussian(np.array([0.0, 0.3, 1.0, 2.0]), np.array([1.0, 0.8, 0.5, 0.4]))
    counts = np.array([30, 2, 0, 0])
    prior = 1.5 * rng.standard_normal((4, D)).astype(np.float32)
    means = ClassMeans(prior, counts, counts[:2, None] * (prior[:2] + 0.3 * rng.standard_normal((2, D))))
    generation = generation_of(means, gaussian, seen=2, gamma=gamma, temperature=temperature)
    found = {one.name: one for one in neighbours(generation, gaussian, [3])["c3"]}
    assert len(found) == SHOWN
    where, left = gaussian.posterior(means), gaussian.remaining(counts)
    weight, bias = generation.head.weights[0].astype(float), generation.head.biases[0].astype(float)
    bias = bias - gamma * generation.table.seen
    draws = 200_000
    for j in range(3):
        of_new = where[3] + np.sqrt(temperature + left[3]) * rng.standard_normal((draws, D))
        of_old = where[j] + np.sqrt(temperature + left[j]) * rng.standard_normal((draws, D))
        difference, shift = weight[j] - weight[3], bias[j] - bias[3]
        assert found[f"c{j}"].lost == pytest.approx((of_new @ difference + shift > 0).mean(), abs=0.005)
        assert found[f"c{j}"].taken == pytest.approx((of_old @ difference + shift < 0).mean(), abs=0.005)
        scores = (where[3] + np.sqrt(temperature) * rng.standard_normal((draws, D))) @ difference
        apart = ((where[j] - where[3]) @ difference) / scores.std()
        assert found[f"c{j}"].distance == pytest.approx(apart, rel=0.01)
    assert list(found.values()) == sorted(found.values(), key=lambda one: -(one.lost + one.taken))


def test_among_some_classes_alone_each_pair_is_as_far_apart_as_among_all():
    rng = np.random.default_rng(4)
    gaussian = Gaussian(np.ones(D), np.full(D, 0.5))
    means = ClassMeans.without_photographs(rng.standard_normal((6, D)).astype(np.float32))
    generation = generation_of(means, gaussian, seen=2, gamma=0.3, temperature=1.5)
    few = neighbours(generation, gaussian, [2, 4], [4, 5, 2])
    assert {name: {one.name for one in near} for name, near in few.items()} == {"c2": {"c4", "c5"}, "c4": {"c2", "c5"}}
    for keep in ([2, 4], [2, 5], [4, 5]):  # of two classes, nobody can come between
        rows = np.array(keep)
        bare = replace(
            generation, table=generation.table.take(rows), means=means.take(rows), head=generation.head.take(rows)
        )
        pair = neighbours(bare, gaussian, [0])
        if keep[0] in {2, 4}:
            (one,) = pair[f"c{keep[0]}"]
            assert one in few[f"c{keep[0]}"]
    assert neighbours(generation, gaussian, [3], [3]) == {}


def test_a_photograph_makes_a_class_surer_of_itself():
    gaussian = Gaussian(np.full(D, 2.0), np.full(D, 0.5))
    prior = np.zeros((2, D), np.float32)
    prior[1] = 1
    shares = []
    for count in (0, 1, 50):
        totals = count * prior[1:].astype(np.float64)[: bool(count)]
        means = ClassMeans(prior, np.array([0, count]), totals)
        shares.append(neighbours(generation_of(means, gaussian), gaussian, [1])["c1"][0].lost)
    assert shares[0] > shares[1] > shares[2]


def test_the_worst_of_many_are_named_and_few_classes_have_few_neighbours():
    rng = np.random.default_rng(1)
    gaussian = Gaussian(np.ones(D), np.full(D, 0.5))
    prior = 3 * rng.standard_normal((60, D)).astype(np.float32)
    prior[7] = prior[59] + 0.01
    generation = generation_of(ClassMeans.without_photographs(prior), gaussian)
    near = neighbours(generation, gaussian, [59])["c59"]
    assert near[0].name == "c7"
    assert near[0].lost == pytest.approx(0.5, abs=0.01)
    assert len(near) == SHOWN < CANDIDATES
    assert neighbours(generation_of(ClassMeans.without_photographs(prior[:1]), gaussian), gaussian, [0]) == {}
    pair = neighbours(generation_of(ClassMeans.without_photographs(prior[:2]), gaussian), gaussian, [1])
    assert [one.name for one in pair["c1"]] == ["c0"]


def test_equal_means_are_half_and_half_whatever_is_known_of_them():
    for variance in (0.0, 3.0):
        gaussian = Gaussian(np.full(D, variance), np.ones(D))
        means = ClassMeans.without_photographs(np.ones((2, D), np.float32))
        assert neighbours(generation_of(means, gaussian), gaussian, [1])["c1"] == (Neighbour("c0", 0.0, 0.5, 0.5),)
        biased = neighbours(generation_of(means, gaussian, seen=1, gamma=0.5), gaussian, [1])["c1"]
        assert biased == (Neighbour("c0", 0.0, 0.0, 1.0),)  # the seen one pays gamma, so the newcomer takes all


def test_beyond_so_many_nobody_s_neighbours_are_worked_out():
    rng = np.random.default_rng(2)
    gaussian = Gaussian(np.ones(D), np.full(D, 0.5))
    prior = rng.standard_normal((MOST_TOLD + 30, D)).astype(np.float32)
    found = neighbours(generation_of(ClassMeans.without_photographs(prior), gaussian), gaussian, range(10, len(prior)))
    assert list(found) == [f"c{j}" for j in range(10, 10 + MOST_TOLD)]


def test_classes_that_can_hardly_be_told_apart_are_warned_of():
    found = {
        "clear": (Neighbour("x", 5.0, 0.01, 0.01),),
        "blurred": (Neighbour("x", 0.4, 0.42, 0.4), Neighbour("y", 0.6, 0.3, 0.25), Neighbour("z", 3.0, 0.1, 0.1)),
        "alone": (),
    }
    told = confusable(found)
    assert list(told) == ["blurred"]
    line = told["blurred"]
    assert line.startswith(
        "'blurred' can hardly be told from 'x', 'y': 42% of its photographs are expected to go there,"
    )
    assert "40% to come" in line


def test_a_copy_of_a_row_is_told_whoever_has_it():
    """What counts is the semantic vector: with unit length, the double of a row is the row."""
    old = table_of([[1, 0, 2], [0, 1, 0]])
    new = table_of([[2, 0, 4], [1, 1, 1], [0, 3, -1], [5, 5, 5], [1, 2, 3]], prefix="n")
    lines = twins(new, old, RULE)
    assert list(lines) == ["n0", "n2", "n3"]
    assert lines["n0"].startswith("'n0' has the very attributes of 'c0'")
    assert lines["n2"].startswith("'n2' has the very attributes of 'c1'")
    assert lines["n3"].startswith("'n3' has the very attributes of 'n1'")


def test_of_many_classes_the_nearest_are_found_and_little_is_held():
    """More classes than are looked at at once, against all of them at once; memory of a part of what all means take."""
    rng = np.random.default_rng(5)
    count, width = 24 * BLOCK_ROWS + 7, 64
    gaussian = Gaussian(rng.uniform(0, 2, width), rng.uniform(0.2, 1, width))
    counts = np.where(rng.random(count) < 0.3, 4, 0)
    prior = rng.standard_normal((count, width)).astype(np.float32)
    totals = 4 * rng.standard_normal((np.count_nonzero(counts), width))
    generation = generation_of(ClassMeans(prior, counts, totals), gaussian)
    told = [0, BLOCK_ROWS - 1, BLOCK_ROWS, count - 1]
    found, peak = peak_of(lambda: neighbours(generation, gaussian, told))
    where = gaussian.posterior(generation.means)
    for j in told:
        apart = (gaussian.scale * (where - where[j]) ** 2).sum(axis=1)
        apart[j] = np.inf
        near = {f"c{k}" for k in np.argsort(apart)[:CANDIDATES]}
        assert {one.name for one in found[f"c{j}"]} <= near
        for one in found[f"c{j}"]:
            k = int(one.name[1:])
            assert one.distance == pytest.approx(apart[k] / np.linalg.norm(gaussian.scale * (where[k] - where[j])))
    assert peak < where.nbytes, (peak, where.nbytes)
