"""What is kept of photographs: bounded, by digest, those not asked for the longest go first."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from zsl_runtime.errors import UsageError
from zsl_runtime.web.vectors import Vectors, digest_of


def row(value: float) -> np.ndarray:
    return np.full(4, value, np.float32)


def test_a_photograph_is_known_by_the_sha256_of_its_file():
    assert digest_of(b"x") == hashlib.sha256(b"x").hexdigest()


def test_those_not_asked_for_the_longest_go_first():
    held = Vectors(4, most=3 * 16)
    for name in "abc":
        held.put(name, row(ord(name)))
    held.get("a")
    held.put("d", row(0))
    assert held.get("b") is None
    assert {name for name in "acd" if held.get(name) is not None} == set("acd")
    assert len(held) == 3


def test_however_little_may_be_kept_one_is():
    held = Vectors(1000, most=1)
    held.put("a", row(1))
    assert len(held) == 1


def test_all_or_an_error_that_counts():
    held = Vectors(4)
    held.put("a", row(1))
    np.testing.assert_array_equal(held.all_of(["a"])[0], row(1))
    with pytest.raises(UsageError, match="2 of 3 photographs") as caught:
        held.all_of(["b", "a", "c"])
    assert caught.value.code == "E-PAGE-FORGOTTEN"


def test_many_threads_at_once_leave_it_bounded():
    held = Vectors(4, most=50 * 16)

    def work(seed: int) -> None:
        for k in range(300):
            held.put(f"{seed}-{k % 60}", row(k))
            held.get(f"{seed}-{(k + 7) % 60}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(held) == 50
