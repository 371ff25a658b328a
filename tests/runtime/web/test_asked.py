"""What whoever speaks to the port may send: anything. It is taken as it should be, or refused in one line."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zsl_runtime.errors import UsageError
from zsl_runtime.web import asked

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DIGEST = "0" * 64


def taken(call, *given):
    """What a call gives, or None where it refuses as it should."""
    code = "E-PAGE-REQUEST"
    try:
        return call(*given)
    except UsageError as error:
        code = error.code
    assert code == "E-PAGE-REQUEST"
    return None


def refused(call, *given) -> str:
    with pytest.raises(UsageError) as caught:
        call(*given)
    assert caught.value.code == "E-PAGE-REQUEST"
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    return caught.value.message


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"7", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"{", b"\xff\xfe", b"[" * 10_000, b'{"a":' * 5000]
)
def test_bodies_that_hold_no_object(data):
    refused(asked.object_in, data)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_refused(data):
    found = taken(asked.object_in, data)
    assert found is None or isinstance(found, dict)


@given(st.dictionaries(st.text(max_size=8), ANY, max_size=4))
@example({"": 2**63})
def test_objects_come_through(value):
    text = json.dumps(value)
    try:
        assert asked.object_in(text.encode()) == json.loads(text)
    except UsageError:  # half a letter, no number, or one beyond 64 bits
        assert "\\ud" in text or "Infinity" in text or re.search(r"\d{19}", text)


@given(ANY)
def test_anything_in_place_of_classes_photographs_and_names_is_refused_or_right(value):
    for call in (asked.names, asked.digests, asked.by_class):
        found = taken(call, value)
        assert found is None or len(found) <= len(value)
    table = taken(lambda: asked.class_table(value, ("a", "b")))
    assert table is None or table.raw.shape == (len(value), 2)


@given(st.lists(st.lists(st.floats(-1e30, 1e30), min_size=3, max_size=3), max_size=5))
def test_values_come_through_exactly(rows):
    given = [{"name": f" bird {k} ", "values": row} for k, row in enumerate(rows)]
    table = asked.class_table(json.loads(json.dumps(given)), ("a", "b", "c"))
    assert table.names == tuple(f"bird {k}" for k in range(len(rows)))
    np.testing.assert_array_equal(table.raw, np.array(rows, np.float64).reshape(-1, 3))
    assert not table.seen.any()


@pytest.mark.parametrize("values", [[1], [1, 2, 3], [1, "2"], [1, True], [1, None], [1, 10**400], [1, float("inf")], 3])
def test_rows_that_are_none(values):
    refused(asked.class_table, [{"name": "x", "values": values}], ("a", "b"))


def test_photographs_count_once_and_classes_without_any_are_left_out():
    other = "f" * 64
    assert asked.digests([DIGEST, other, DIGEST]) == [DIGEST, other]
    assert asked.by_class({"tit": [], "jay": [other, other]}) == {"jay": [other]}
    assert "at most 200" in refused(asked.digests, [DIGEST] * 201)
    for wrong in ("g" * 64, "0" * 63, DIGEST + "\n", DIGEST.upper().replace("0", "A"), 7):
        refused(asked.digests, [wrong])


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None, 10**15])
def test_counts_are_whole_numbers_from_1(value):
    assert asked.count(1, "steps") == 1
    refused(asked.count, value, "steps")
