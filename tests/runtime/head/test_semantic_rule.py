"""The rule that makes semantic vectors of attributes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.errors import UsageError
from zsl_runtime.head.semantic_rule import AttributeScale, SemanticRule, by_nature, mixed_units

MEASURED = np.array([[0.0, 120, -20, 5], [1.0, 80, 15, 5], [1.0, 200, 40, 5]])  # a tick, mm, degrees, always the same


def scaled(known: np.ndarray, *, clamp: bool = True, unit: bool = True) -> SemanticRule:
    return SemanticRule(clamp, unit, AttributeScale.of(known, clamp_negative=clamp))


def test_the_semantic_rule_clamps_then_normalises():
    raw = np.array([[3.0, -1.0, 4.0], [0.0, -2.0, 0.0]])
    np.testing.assert_allclose(SemanticRule().apply(raw), [[0.6, 0, 0.8], [0, 0, 0]], rtol=1e-7)
    np.testing.assert_array_equal(SemanticRule(clamp_negative=False, unit_l2=False).apply(raw), raw)
    assert SemanticRule().apply(raw).dtype == np.float32


def test_huge_attributes_have_a_direction_too():
    """Their squares overflow, without a warning; the rows beside them keep their bits."""
    raw = np.array([[1e300, -5.0, 1e300], [3.0, 0.0, 4.0]])
    found = SemanticRule().apply(raw)
    np.testing.assert_allclose(found, [[np.sqrt(0.5), 0, np.sqrt(0.5)], [0.6, 0, 0.8]], rtol=1e-6)
    np.testing.assert_array_equal(found[1:], SemanticRule().apply(raw[1:]))
    assert np.isinf(SemanticRule(unit_l2=False).apply(raw)[0, 0])


def test_a_scale_puts_every_attribute_between_its_smallest_and_largest_value():
    rule = scaled(MEASURED, clamp=False, unit=False)
    wanted = [[0, 1 / 3, 0, 0], [1, 0, 35 / 60, 0], [1, 1, 1, 0]]
    np.testing.assert_allclose(rule.apply(MEASURED), wanted, rtol=1e-6)
    rows = scaled(MEASURED, clamp=False).apply(MEASURED)
    np.testing.assert_allclose(rows, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), rtol=1e-6)


def test_a_newcomer_is_scaled_by_the_numbers_of_training_and_may_lie_outside_of_them():
    rule = scaled(MEASURED, unit=False)
    found = rule.apply(np.array([[2.0, 20, 100, 7], [-1.0, 320, -50, 5]]))
    np.testing.assert_allclose(found, [[2, -0.5, 2, 0], [0, 2, -0.5, 0]], rtol=1e-6)


def test_one_negative_number_is_a_mark_of_what_is_missing_and_several_are_not():
    known = np.array([[-1.0, -1, 3], [-1, 4, -2], [8, 2, -5]])
    assert by_nature(known).tolist() == [False, False, True]
    others = np.array([[-20.0, -0.004, -99, -1], [40, 0.2, 0.1, 0], [10, 0.3, 0.2, -2]])
    assert by_nature(others).tolist() == [True, False, False, True]
    rule = scaled(known, unit=False)
    assert rule.scale == AttributeScale((0.0, 0.0, -5.0), (8.0, 4.0, 8.0))
    np.testing.assert_array_equal(rule.apply(known), [[0, 0, 1], [0, 1, 3 / 8], [1, 0.5, 0]])
    kept = scaled(known, clamp=False, unit=False)
    np.testing.assert_allclose(kept.apply(known)[:, 1], [0, 1, 3 / 5], rtol=1e-6)


def test_what_a_float_can_hold_at_most_has_a_range_too():
    known = np.array([[-1.5e308, 0.0], [1.5e308, 5e-324], [0.0, 0.0], [-1e308, 0.0]])
    found = scaled(known).apply(known)
    assert np.isfinite(found).all()
    assert (found[1, 0], found[0].any()) == (1, False)


@given(
    st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 5), st.integers(-60, 60), st.booleans(), st.booleans()
)
def test_any_unit_of_any_attribute_gives_the_same_vectors(seed, classes, width, power, clamp, unit):
    """A power of two changes no digit, so the vectors are the same bit for bit."""
    rng = np.random.default_rng(seed)
    raw = np.round(rng.normal(1, 2, (classes + 2, width)), 1)
    if clamp:  # in training; what a mark of a missing number is called has no unit
        raw[:classes] = np.abs(raw[:classes])
    factor = np.where(rng.uniform(size=width) < 0.5, 2.0**power, 1.0)
    plain, other = (
        scaled(raw[:classes], clamp=clamp, unit=unit),
        scaled((raw * factor)[:classes], clamp=clamp, unit=unit),
    )
    np.testing.assert_array_equal(other.apply(raw * factor), plain.apply(raw))


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6), st.floats(-100, 100))
def test_any_factor_and_any_zero_of_an_attribute_give_the_same_vectors_up_to_rounding(seed, factor, shift):
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0, 10, (7, 4))
    changed = raw.copy()
    changed[:, 1] = factor * (raw[:, 1] + shift)
    plain, other = scaled(raw[:5], clamp=False), scaled(changed[:5], clamp=False)
    np.testing.assert_allclose(other.apply(changed), plain.apply(raw), atol=1e-5)


@pytest.mark.parametrize("scale", [None, AttributeScale((0.0, -2.5), (1.0, 0.0))])
@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("unit", [True, False])
def test_the_semantic_rule_survives_as_plain_data(clamp, unit, scale):
    rule = SemanticRule(clamp, unit, scale)
    assert SemanticRule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    assert set(SemanticRule(clamp, unit).to_dict()) == {"clamp_negative", "unit_l2"}  # as older versions wrote it


PLAIN = {"clamp_negative": True, "unit_l2": True}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"clamp_negative": True},
        {"clamp_negative": 1, "unit_l2": True},
        {"a": True},
        PLAIN | {"a": True},
        *(
            PLAIN | {"attribute_scale": wrong}
            for wrong in (
                None,
                True,
                {},
                {"low": [0]},
                {"low": [0], "width": [1], "more": 1},
                {"low": [0, 0], "width": [1]},
                {"low": [0], "width": [-1]},
                {"low": [float("nan")], "width": [1]},
                {"low": ["0"], "width": [1]},
                {"low": [], "width": []},
                {"low": 0, "width": 1},
            )
        ),
    ],
)
def test_another_semantic_rule_is_refused(data):
    with pytest.raises(UsageError) as caught:
        SemanticRule.from_dict(data)
    assert caught.value.code == "E-SEMANTIC-RULE"


def ticks(rng: np.random.Generator, classes: int = 12, width: int = 20) -> np.ndarray:
    rows = (rng.uniform(size=(classes, width)) < 0.4).astype(float)
    rows[:2] = [[0], [1]]  # each varies
    return rows


def shares(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(size=(12, 60)) * np.geomspace(0.03, 1, 60)


@pytest.mark.parametrize("make", [ticks, shares, lambda rng: 100 * shares(rng), lambda rng: rng.normal(size=(12, 40))])
@pytest.mark.parametrize("clamp", [True, False])
def test_attributes_of_one_unit_are_left_as_they_are(make, clamp):
    assert not any(mixed_units(make(np.random.default_rng(seed)), clamp_negative=clamp) for seed in range(20))


@pytest.mark.parametrize(
    "other",
    [
        lambda tick: 120 * tick,  # millimetres
        lambda tick: 1 + 4 * tick,  # 1 to 5
        lambda tick: 100 * tick,  # percents
        lambda tick: tick / 1000,  # metres of a beetle
        lambda tick: 280 + tick,  # kelvins, or years
        lambda tick: np.where(np.arange(len(tick)) % 2, tick, -tick - 0.3),  # degrees, standardised numbers
    ],
)
@pytest.mark.parametrize("columns", [1, 6, 14])
def test_attributes_of_different_units_are_found(other, columns):
    known = ticks(np.random.default_rng(0))
    changed = [other(known[:, j]) for j in range(columns)]
    mixed = np.column_stack([*changed, known[:, columns:]])
    few_small = columns == 1 and changed[0].max() < 1 and changed[0].min() >= 0
    natural_most = columns == 14 and changed[0].min() < 0
    assert mixed_units(mixed, clamp_negative=True) is not (few_small or natural_most)


def test_one_rare_attribute_or_one_that_is_always_the_same_is_no_other_unit():
    known = shares(np.random.default_rng(0))
    known[:, 3] *= 1e-4
    known[:, 4] = 0
    known[:, 5] = 1
    assert not mixed_units(known, clamp_negative=True)
    assert not mixed_units(np.ones((3, 2)), clamp_negative=True)
