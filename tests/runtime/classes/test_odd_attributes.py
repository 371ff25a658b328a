"""Attributes that are unlike those of training are told, and honest rows are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_bundle import ATTRIBUTES
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes, undo
from zsl_runtime.classes.odd_attributes import (
    odd_attributes,
    other_sums,
    outliers,
    outside,
    ranges_of,
    smaller_unit,
    strangers,
    training_ranges,
    units,
)
from zsl_runtime.classes.similar import similar_classes
from zsl_runtime.errors import UsageError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.semantic_rule import SemanticRule
from zsl_runtime.labelling.classifier import Classifier

RULE = SemanticRule()
TICKS = np.array([[0, 1, 0, 1, 0], [1, 0, 0, 1, 1], [0, 0, 1, 0, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]], dtype=float)


def table_of(raw: object, *, seen: bool = False, prefix: str = "c") -> ClassTable:
    rows = np.asarray(raw, dtype=np.float64)
    names = tuple(f"{prefix}{j}" for j in range(len(rows)))
    return ClassTable(names, np.full(len(rows), seen), rows, tuple(f"a{k}" for k in range(rows.shape[1])))


def told(rows: object, known: np.ndarray = TICKS, rule: SemanticRule = RULE) -> dict[str, str]:
    return odd_attributes(table_of(rows), table_of(known, seen=True, prefix="k"), ranges_of(known), rule)


def test_a_slip_of_the_pen_and_another_unit_are_told_the_worst_first():
    ranges = np.array([[0, 1], [0.2, 0.8], [0, 0], [0, 2]], dtype=float)
    fine = [1.9, 1.3, 0.9, 0.0]
    slip = [11, 0.5, 0, 1]
    percent = [60, 40, 0, 100]
    constant = [0.5, 0.5, 7, 1]
    lines = outside(table_of([fine, slip, percent, constant]), ranges)
    assert list(lines) == ["c2", "c1", "c3"]
    assert lines["c2"] == (
        "attribute 'a0' of 'c2' is 60, in training it went from 0 to 1, and 2 more are outside ('a3' 100, 'a1' 40); "
        "check the cell and its unit"
    )
    assert lines["c1"] == "attribute 'a0' of 'c1' is 11, in training it went from 0 to 1; check the cell and its unit"
    assert lines["c3"] == "attribute 'a2' of 'c3' is 7, in training it was always 0; check the cell and its unit"


@pytest.mark.parametrize("value", [11, 2, 100, -1, -9999, 1e300, -1e-3])
def test_one_cell_outside_of_ticks_is_told(value):
    row = TICKS[0].copy()
    row[1] = value
    line = told([row])["c0"]
    assert line.startswith(f"attribute 'a1' of 'c0' is {value:g}, in training it went from 0 to 1;")


@pytest.mark.parametrize("value", [0, 1, 0.37, 1.5, -1e-9])
def test_what_a_tick_may_be_is_not(value):
    row = TICKS[0].copy()
    row[1] = value
    assert told([row]) == {}


def test_marks_of_what_is_missing_are_usual_where_training_has_them():
    known = TICKS.copy()
    known[2, 2] = -1
    assert told([[-1, 1, 0, 1, 0]], known) == {}
    assert "is -999, in training it went from 0 to 1" in told([[-999, 1, 0, 1, 0]], known)["c0"]


def test_what_was_rare_in_training_may_be_common_in_a_new_class():
    """Shares of a small training set: their own ranges say little, and told of nearly every honest class."""
    rng = np.random.default_rng(0)
    shares = rng.uniform(size=(40, 60)) * rng.uniform(0.02, 1, 60) ** 2
    new = rng.uniform(size=(300, 60)) * rng.uniform(0.02, 1, 60) ** 2
    assert outside(table_of(new), ranges_of(shares[:8])) == {}
    new[17, 3] = 11
    assert list(outside(table_of(new), ranges_of(shares[:8]))) == ["c17"]


def test_attributes_of_like_size_share_a_unit_and_ticks_stand_alone():
    ranges = np.array([[0, 1], [0, 0.5], [0, 80], [10, 100], [0, 0], [0, 3000]])
    found, number = units(ranges)
    assert found.tolist() == [[0, 1], [0, 1], [0, 100], [0, 100], [0, 100], [0, 3000]]
    assert number.tolist() == [0, 0, 1, 1, 1, 2]


def test_millimetres_beside_ticks_are_held_against_their_own_range():
    known = np.column_stack([TICKS, [120, 80, 200, 95, 150]])
    assert told([[0, 1, 0, 1, 0, 260]], known) == {}
    assert (
        "attribute 'a5' of 'c0' is 1200, in training it went from 80 to 200"
        in told([[0, 1, 0, 1, 0, 1200]], known)["c0"]
    )
    assert "attribute 'a0' of 'c0' is 11" in told([[11, 1, 0, 1, 0, 120]], known)["c0"]


def test_a_whole_row_in_a_smaller_unit_is_told():
    known = 100 * TICKS * np.linspace(0.5, 1, 5)
    line = told([TICKS[1]], known)["c0"]
    assert line == (
        "the largest of all attributes ('a0' ...) of 'c0' is 1, in training every class had 75 or more; check their "
        "unit"
    )
    assert told([known[2] / 2], known) == {}
    few = table_of(TICKS[:3], seen=True)
    assert smaller_unit(table_of([TICKS[1] / 100]), few, ranges_of(few.raw)) == {}


def shares(count: int, seed: int) -> np.ndarray:
    """Classes of four kinds, of 24 attributes: each has six of its own, some more than others."""
    rng = np.random.default_rng(seed)
    own = np.kron(np.eye(4), np.ones(6))[np.arange(count) % 4]
    return own * rng.uniform(0.5, 1, (count, 24)) + 0.05 * rng.uniform(size=(count, 24))


def test_a_row_whose_columns_were_swapped_is_told_though_each_value_is_usual():
    known = table_of(shares(20, 0), seen=True, prefix="k")
    new = shares(8, 1)
    assert strangers(table_of(new), known, RULE) == {}
    swapped = np.roll(new, 3, axis=1)
    lines = strangers(table_of(swapped), known, RULE)
    assert len(lines) == 8
    vectors, there = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (swapped, known.raw))
    apart = np.linalg.norm(vectors[:, None] - there, axis=2)
    order = np.argsort(-apart.min(axis=1), kind="stable")
    assert list(lines) == [f"c{j}" for j in order]
    first = int(order[0])
    assert f"the nearest, 'k{apart[first].argmin()}', is {apart[first].min():.2f} away" in lines[f"c{first}"]
    assert list(odd_attributes(table_of(swapped), known, ranges_of(known.raw), RULE)) == list(lines)


def test_a_tick_too_many_or_too_few_is_told_where_every_class_has_one():
    names = ("bill=long", "bill=short", "wing::a::x", "wing::a::y", "size", "crest=yes")
    known = np.array([[1, 0, 1, 0, 3, 1], [0, 1, 0, 1, 2, 0], [0.2, 0.8, 1, 0, 1, 1], [1, 0, 1, 1, 0, 0]])
    table = replace(table_of(known, seen=True, prefix="k"), attributes=names)
    new = [[0, 1, 0, 0, 1, 1], [0.5, 0.5, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0]]
    lines = other_sums(replace(table_of(new), attributes=names), table)
    assert list(lines) == ["c2", "c3"]  # of the wings training has classes with two
    assert lines["c2"] == (
        "the 2 attributes 'bill' of 'c2' add up to 2, those of every class of training to 1; check its row, and "
        "whether columns were swapped"
    )
    assert "add up to 0" in lines["c3"]
    assert other_sums(table_of(new), table_of(known)) == {}


def test_one_class_has_one_line():
    known = table_of(shares(20, 0), seen=True, prefix="k")
    row = np.roll(shares(1, 1), 3, axis=1)
    row[0, 0] = 500
    lines = odd_attributes(table_of(row), known, ranges_of(known.raw), RULE)
    assert list(lines) == ["c0"]
    assert "is 500" in lines["c0"]


def test_huge_numbers_and_columns_without_any_width_raise_no_warning_of_a_library():
    table = table_of([[1e308, -1e308, 0.5]])
    assert "1e+308" in outside(table, np.array([[0, 1e-300], [-1, 1], [0, 1]]))["c0"]
    constant = np.array([[0.0, 0.0], [3.0, 3.0], [0.5, 0.5]])
    assert len(outside(table, constant)) == 1
    assert outside(table_of([[0.0, 3.0, 0.5]]), constant) == {}
    assert len(outside(table, np.array([[-1e308, 1e308], [-1e308, 1e308], [0.1, 0.2]]))) == 1
    assert outside(table_of(np.empty((0, 3))), constant) == {}


def test_a_seen_class_far_from_all_others_is_told_once():
    known = TICKS.copy()
    known[3, 1] = 11
    lines = outliers(table_of(known, seen=True))
    assert lines == {
        "c3": "attribute 'a1' of 'c3' is 11, of all other seen classes it went from 0 to 1; check the cell and its unit"
    }
    assert outliers(table_of(TICKS, seen=True)) == {}
    assert outliers(table_of(known[:3], seen=True)) == {}


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 7),
    st.integers(1, 9),
    st.floats(2.5, 1e6),
)
def test_a_known_row_is_never_odd_and_a_large_number_in_it_always(seed, classes, width, factor):
    rng = np.random.default_rng(seed)
    known = rng.uniform(0.1, 1, (classes, width)) * (rng.uniform(size=(classes, width)) < 0.7)
    known *= 10.0 ** rng.integers(-3, 3)
    ranges = ranges_of(known)
    assert outside(table_of(known), ranges) == {}
    row = known[:1].copy()
    row[0, rng.integers(width)] = factor * max(known.max(), 1e-9)
    found = outside(table_of(row), ranges)
    if known.any():
        assert list(found) == ["c0"]


class Stub:
    def __init__(self, **manifest):
        self.manifest = manifest


def test_ranges_are_those_of_the_manifest_or_of_the_seen_classes():
    raw = np.array([[0.0, 1], [4, 2], [9, 9]])
    table = ClassTable(("a", "b", "c"), np.array([True, True, False]), raw, ("x", "y"))
    assert training_ranges(Stub(attribute_ranges=[[0, 1], [2, 3]]), table).tolist() == [[0, 1], [2, 3]]
    assert training_ranges(Stub(), table).tolist() == [[0, 4], [1, 2]]
    assert training_ranges(Stub(), table_of([[0, 1], [4, 2]])).tolist() == [[0, 4], [1, 2]]


def test_an_attribute_whose_own_range_says_what_is_usual_is_held_against_it():
    """Counts and sizes of many classes: 9 of something of which no class has more than 3 is another unit, or a slip."""
    rng = np.random.default_rng(0)
    known = table_of(rng.uniform(0, [3, 10, 1], (30, 3)), seen=True)
    ranges = ranges_of(known.raw)
    line = outside(table_of([[9, 5, 0.5]]), ranges, known)["c0"]
    assert line.startswith("attribute 'a0' of 'c0' is 9, in training it went from ")
    assert outside(table_of(rng.uniform(0, [4, 14, 1.4], (300, 3))), ranges, known) == {}
    assert outside(table_of([[9, 5, 0.5]]), ranges) == {}  # nothing is known but that some attributes go up to 10


@pytest.mark.parametrize(
    ("value", "wrong"), [(12, True), (20, True), (60, False), (300, False), (320, True), (0, True)]
)
def test_a_length_in_another_unit_is_told(value, wrong):
    """Between 80 and 200 mm in training: 12 is centimetres, and 0 an empty cell."""
    known = np.column_stack([TICKS, [120, 80, 200, 95, 150]])
    assert (told([[0, 1, 0, 1, 0, value]], known) != {}) is wrong


@pytest.mark.parametrize("rule", ["fit", "rows", "gaussian"])
def test_every_door_tells_it_first(own_bundle, rule):
    path = own_bundle(rule=rule)
    table = ClassTable(
        ("heron", "slip"), np.zeros(2, bool), np.array([[0.0, 7, 1, 1, 7, 1], [0, 7, 1, 1, 70, 1]]), ATTRIBUTES
    )
    line = "attribute 'bright left' of 'slip' is 70, in training it went from 0 to 9; check the cell and its unit"
    assert similar_classes(Bundle.open(path), table).notes[0] == line
    assert add_classes(Bundle.open(path), table.take(np.array([0]))).notes[:1] != (line,)
    assert add_classes(Bundle.open(path), table.take(np.array([1]))).notes[0] == line
    undo(Bundle.open(path))
    with Classifier.open(path) as classifier:
        assert classifier.add(table.take(np.array([1]))).notes[0] == line


def test_what_is_not_finite_is_refused_by_name(own_bundle):
    raw = np.array([[0.0, 7, 1, np.nan, 7, 1]])
    with pytest.raises(UsageError, match="attribute 'bright top' of class 'heron' is nan") as caught:
        add_classes(Bundle.open(own_bundle()), ClassTable(("heron",), np.zeros(1, bool), raw, ATTRIBUTES))
    assert caught.value.code == "E-ATTRIBUTE-VALUE"
