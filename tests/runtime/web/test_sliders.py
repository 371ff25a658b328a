"""Attributes as sliders: names as published sets have them become groups and words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_bundle import ATTRIBUTES, class_table
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.web.sliders import of_ranges, sliders


@pytest.mark.parametrize(
    ("name", "group", "label"),
    [
        ("has_bill_shape::hooked_seabird", "bill shape", "hooked seabird"),
        ("body_color=brown", "body color", "brown"),
        ("furry", "", "furry"),
        ("a=b::c", "a=b", "c"),
        ("=x", "", "=x"),
        ("size::", "", "size::"),
        ("größe", "", "größe"),
        ("_", "", "_"),
    ],
)
def test_groups_and_labels(name, group, label):
    (one,) = of_ranges([name], np.array([[0.0, 1.0]]))
    assert (one.name, one.group, one.label) == (name, group, label)


def test_an_attribute_that_never_varied_can_be_moved_all_the_same():
    ranges = np.array([[0.0, 0.0], [5.0, 5.0], [-2.0, -2.0], [0.2, 0.7]])
    ends = [(one.bottom, one.top) for one in of_ranges("abcd", ranges)]
    assert ends == [(0.0, 1.0), (0.0, 5.0), (-2.0, 1.0), (0.2, 0.7)]


def test_ranges_are_those_of_the_seen_classes(shared_bundle):
    found = sliders(Bundle.open(shared_bundle(rule="gaussian")))
    known = class_table().raw[:5]
    assert [one.name for one in found] == list(ATTRIBUTES)
    assert [(one.low, one.high) for one in found] == list(zip(known.min(axis=0), known.max(axis=0), strict=True))


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5))
def test_no_name_is_lost(names):
    found = of_ranges(names, np.tile([0.0, 1.0], (len(names), 1)))
    assert [one.name for one in found] == names
    assert all(one.label for one in found)
