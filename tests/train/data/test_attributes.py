"""Odd attributes of a data set, and which semantic rule they get."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.semantic_rule import AttributeScale
from zsl_train.data.attributes import MOST_ODD, extremes, odd_notes, rule_notes, semantic_rule

TICKS = np.array(
    [[0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 0]], dtype=float
)  # four seen classes, two unseen ones


def table_of(raw: np.ndarray, seen: int = 4) -> ClassTable:
    names = tuple(f"c{j}" for j in range(len(raw)))
    return ClassTable(names, np.arange(len(raw)) < seen, raw, tuple(f"a{k}" for k in range(raw.shape[1])))


def in_unit(factor: float, shift: float = 0.0) -> ClassTable:
    raw = TICKS.copy()
    raw[:, 1] = factor * raw[:, 1] + shift
    return table_of(raw)


def rule_of(table: ClassTable, scale: str = "auto", *, clamp: bool = True, unit: bool = True):
    return semantic_rule(table, clamp_negative=clamp, unit_l2=unit, attribute_scale=scale)


def test_attributes_are_scaled_where_units_differ_or_where_it_is_asked_for():
    plain, millimetres = table_of(TICKS), in_unit(40, 80)
    assert rule_of(plain).scale is None
    assert rule_of(millimetres, "none").scale is None
    assert rule_of(plain, "range").scale == AttributeScale((0.0,) * 4, (1.0,) * 4)
    assert rule_of(millimetres).scale == AttributeScale((0.0, 80.0, 0.0, 0.0), (1.0, 40.0, 1.0, 1.0))
    assert (rule_of(plain, clamp=False).clamp_negative, rule_of(plain, unit=False).unit_l2) == (False, False)


def test_the_range_is_that_of_seen_classes_alone():
    table = in_unit(40)
    table.raw[4, 1] = 4000
    assert rule_of(table).scale.width[1] == 40


@pytest.mark.parametrize("unit", [(1000.0, 0.0), (0.01, 0.0), (100.0, 280.0)])
def test_vectors_of_scaled_attributes_are_those_of_any_other_unit(unit):
    table = in_unit(*unit)
    np.testing.assert_allclose(
        rule_of(table, "range").apply(table.raw), rule_of(table_of(TICKS), "range").apply(TICKS), rtol=1e-5, atol=1e-6
    )


def test_what_is_done_about_units_is_told():
    table = in_unit(120)
    (line,) = rule_notes(rule_of(table), table)
    assert line == (
        "attributes seem to be in different units ('a1' 0 to 120 and 'a0' 0 to 1): each is divided by its range over "
        "the seen classes; --set attribute_scale=none leaves them as they are"
    )
    assert rule_notes(rule_of(table_of(TICKS)), table_of(TICKS)) == ()
    assert rule_notes(rule_of(table_of(TICKS), "range"), table_of(TICKS)) == ()


def test_the_attribute_that_drowns_the_others_is_named_where_they_are_left_as_they_are():
    table = in_unit(120)
    (line,) = rule_notes(rule_of(table, "none"), table)
    squares = TICKS[:4] * [1, 120, 1, 1]
    squares = squares**2 / (squares**2).sum(axis=1, keepdims=True)
    assert f"'a1' alone makes up to {squares[:, 1].max():.0%} of the squared length of a class vector" in line
    assert "--set attribute_scale=auto" in line


def test_a_number_three_times_as_large_as_the_others_is_told_and_left_as_it_is():
    """Percents with one column of millimetres: too near for another unit to be sure, and H falls by ten points."""
    raw = 100 * TICKS
    raw[:, 1] = 300 * TICKS[:, 1] + 20
    table = table_of(raw)
    rule = rule_of(table)
    assert rule.scale is None
    # c1 is 100, 20, 0, 100 and c3 is 100, 320, 100, 0: the latter's second number is the largest share.
    (line,) = rule_notes(rule, table)
    assert line == (
        "'a1': up to 320, all other attributes up to 100; so large a number makes up to 91% of the squared length of a "
        "class vector; if its unit is another one, --set attribute_scale=range divides each attribute by its range"
    )
    assert rule_notes(rule_of(table, "range"), table) == ()


@pytest.mark.parametrize("factors", [(0, 0, 0, 1), (1, 1, 1, 1), (0.1, 0.3, 0.5, 1), (1, 2.4, 1, 1)])
def test_shares_of_all_sizes_are_not_told(factors):
    table = table_of(TICKS * factors)
    assert rule_notes(rule_of(table, "none"), table) == ()


def test_a_mark_of_what_is_missing_is_told_where_attributes_are_scaled():
    table = in_unit(120)
    table.raw[0, 0] = -1
    units, mark = rule_notes(rule_of(table), table)
    assert units.startswith("attributes seem to be in different units")
    assert mark == (
        "the one negative number of 'a0' is taken for a mark of what is missing and becomes 0; --set "
        "clamp_negative=false keeps it"
    )
    assert len(rule_notes(rule_of(table, clamp=False), table)) == 1


def test_a_slip_in_an_unseen_and_in_a_seen_class_is_told():
    raw = np.concatenate([np.tile(TICKS[:4], (2, 1)), TICKS[4:]])
    raw[2, 3], raw[9, 0] = 11, 60
    table = table_of(raw, seen=8)
    assert odd_notes(rule_of(table), table) == (
        "attribute 'a3' of 'c2' is 11, of all other seen classes it went from 0 to 1; check the cell and its unit",
        "attribute 'a0' of 'c9' is 60, in training it went from 0 to 1; check the cell and its unit",
    )
    clean = replace(table, raw=np.minimum(raw, 1))
    assert odd_notes(rule_of(clean), clean) == ()
    many = table_of(np.concatenate([raw, 100 + raw]), seen=8)
    lines = odd_notes(rule_of(many), many)
    assert lines[MOST_ODD:] == ("and 7 more classes with odd attributes",)


def test_extremes_name_the_widest_and_the_narrowest():
    known = np.array([[0.0, 3, 0.1, 5], [100, 3, 0.3, 7]])
    assert extremes(known, ("mm", "same", "share", "count")) == "'mm' 0 to 100 and 'share' 0.1 to 0.3"
    assert extremes(known[:, 1:2], ("same",)) == "'same' 3 to 3"
