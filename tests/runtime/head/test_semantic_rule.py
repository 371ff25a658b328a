"""The rule that makes semantic vectors of attributes."""

from __future__ import annotations

import numpy as np
import pytest

from zsl_runtime.errors import UsageError
from zsl_runtime.head.semantic_rule import SemanticRule


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


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("unit", [True, False])
def test_the_semantic_rule_survives_as_plain_data(clamp, unit):
    rule = SemanticRule(clamp_negative=clamp, unit_l2=unit)
    assert SemanticRule.from_dict(rule.to_dict()) == rule


@pytest.mark.parametrize("data", [{}, {"clamp_negative": True}, {"clamp_negative": 1, "unit_l2": True}, {"a": True}])
def test_another_semantic_rule_is_refused(data):
    with pytest.raises(UsageError) as caught:
        SemanticRule.from_dict(data)
    assert caught.value.code == "E-SEMANTIC-RULE"
