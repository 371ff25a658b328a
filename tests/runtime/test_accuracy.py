"""Per-class accuracy, mix-ups and confusion, against counts by hand and loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.accuracy import by_class, confusion, mixups, per_class_accuracy

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
