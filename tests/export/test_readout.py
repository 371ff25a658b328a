"""The read-out that an export fits: against regressions that were really done again without a class, and by rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from zsl_export.readout import STRENGTHS, _left_out, fit_readout


def drawn(seed: int, classes: int, width: int, attributes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 1, (classes, attributes))
    means = values @ rng.standard_normal((attributes, width)) * 5 + rng.standard_normal((classes, width))
    return means, values, rng.uniform(0.5, 2, width)


@given(seed=st.integers(0, 2**31), classes=st.integers(3, 12), width=st.integers(1, 20), attributes=st.integers(1, 5))
@settings(max_examples=30)
def test_weights_and_qualities_are_those_of_regressions_that_left_each_class_out(
    seed: int, classes: int, width: int, attributes: int
) -> None:
    means, values, spread = drawn(seed, classes, width, attributes)
    found = fit_readout(means, values, spread)
    z = (means - means.mean(axis=0)) / spread
    best, wanted, whole = -1.0, None, None
    for strength in STRENGTHS:
        left = np.empty_like(values)
        for one in range(classes):
            others = np.arange(classes) != one
            left[one] = Ridge(strength * classes).fit(z[others], values[others]).predict(z[one : one + 1])[0]
        quality = np.array([np.corrcoef(left[:, at], values[:, at])[0, 1] for at in range(attributes)])
        if np.maximum(quality, 0).mean() > best + 1e-12:
            best, wanted, whole = np.maximum(quality, 0).mean(), quality, Ridge(strength * classes).fit(z, values)
    assert found.quality == pytest.approx(wanted, abs=1e-4)
    x = np.random.default_rng(seed).standard_normal((4, width)).astype(np.float32)
    read = whole.predict((x - means.mean(axis=0)) / spread).reshape(4, attributes)
    assert found.read(x) == pytest.approx(read, rel=1e-3, abs=1e-3)
    assert found.unit == pytest.approx(values.std(axis=0), rel=1e-5)


def test_an_attribute_that_never_differs_and_a_single_class_cannot_be_read() -> None:
    means, values, spread = drawn(1, 8, 5, 3)
    values[:, 1] = 0.25
    found = fit_readout(means, values, spread)
    assert found.readable.tolist() == [True, False, True]
    assert found.read(np.zeros((1, 5), np.float32))[0, 1] == pytest.approx(0.25)
    alone = fit_readout(means[:1], values[:1], spread)
    assert alone.quality.tolist() == [0, 0, 0]
    assert alone.read(means[:1].astype(np.float32))[0] == pytest.approx(values[0])
    assert not _left_out(values[:1], np.zeros((1, 1))).any()


def test_what_is_not_in_the_picture_is_not_said_to_be_readable() -> None:
    rng = np.random.default_rng(3)
    means, values = rng.standard_normal((40, 6)), rng.standard_normal((40, 50))
    found = fit_readout(means, values, np.ones(6))
    assert found.readable.mean() < 0.1
