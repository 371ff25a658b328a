"""The ramps by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_train.losses.annealing import linear_ramp


@pytest.mark.parametrize(
    ("epoch", "start", "end", "value", "wanted"),
    [
        (0, 0, 93, 0.25, 0.0),
        (31, 0, 93, 0.25, 0.25 / 3),
        (93, 0, 93, 0.25, 0.25),
        (99, 0, 93, 0.25, 0.25),
        (20, 21, 75, 2.37, 0.0),
        (21, 21, 75, 2.37, 0.0),
        (48, 21, 75, 2.37, 1.185),
        (75, 21, 75, 2.37, 2.37),
        (14, 6, 22, 8.13, 4.065),
        (0, 0, 0, 3.0, 3.0),  # no ramp: whole from the start
        (4, 5, 5, 3.0, 0.0),
        (5, 5, 5, 3.0, 3.0),
        (5, 5, 2, 3.0, 3.0),
    ],
)
def test_a_weight_grows_in_a_straight_line(epoch, start, end, value, wanted):
    assert linear_ramp(epoch, start, end, value) == pytest.approx(wanted, rel=1e-12)


@given(*[st.floats(0, 1000) for _ in range(4)], st.floats(0, 100))
@settings(max_examples=50)
def test_a_weight_never_falls_and_stays_within_its_range(epoch, later, start, end, value):
    early, late = sorted((epoch, later))
    weights = [linear_ramp(e, start, end, value) for e in (early, late)]
    assert 0 <= weights[0] <= weights[1] * (1 + 1e-12)
    assert weights[1] <= value
