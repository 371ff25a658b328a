"""The ordered classes of a model, and their names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.errors import UsageError
from zsl_runtime.head.class_table import ClassTable, check_class_name


@given(name=st.text(max_size=20))
def test_a_stored_name_is_stored_unchanged_the_next_time(name):
    try:
        stored = check_class_name(name)
    except UsageError:
        stored = "refused"
    assert check_class_name(stored) == stored


def test_tables_append_take_and_find():
    first = ClassTable(("a", "b"), np.array([True, False]), np.eye(2), ("p", "q"))
    second = ClassTable(("c",), np.array([False]), np.ones((1, 2)), ("p", "q"))
    both = first.append(second)
    assert (both.names, both.seen.tolist(), len(both)) == (("a", "b", "c"), [True, False, False], 3)
    taken = both.take(np.array([2, 0]))
    assert (taken.names, taken.raw.tolist()) == (("c", "a"), [[1.0, 1.0], [1.0, 0.0]])
    assert both.index("c") == 2
    with pytest.raises(UsageError, match="E-CLASS-UNKNOWN"):
        both.index("d")
    with pytest.raises(UsageError, match=r"'crows' is not in this model \(did you mean Crow\?\); it knows 1 classes"):
        ClassTable(("Crow",), np.array([False]), np.ones((1, 2)), ("p", "q")).index("crows")
    with pytest.raises(UsageError, match="E-ATTRIBUTES"):
        first.append(ClassTable(("c",), np.array([False]), np.ones((1, 2)), ("q", "p")))
    with pytest.raises(UsageError, match="E-CLASSES-SHAPE"):
        ClassTable(("a",), np.array([True]), np.eye(2), ("p", "q"))
