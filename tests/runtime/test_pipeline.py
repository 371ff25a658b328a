"""Reading ahead, batches, order: the pipeline with readers and engines that tests can look into."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.pipeline import in_order

# --- in order -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 6))
def test_results_come_in_order_and_memory_is_bounded(count, workers, ahead):
    taken, given_back = 0, 0

    def items():
        nonlocal taken
        for i in range(count):
            taken += 1
            assert taken - given_back <= workers + ahead
            yield i

    results = []
    for result in in_order(lambda i: i * i, items(), workers=workers, ahead=ahead):
        given_back += 1
        results.append(result)
    assert results == [i * i for i in range(count)]


def test_several_items_are_read_at_once():
    barrier = threading.Barrier(3, timeout=10)  # breaks unless three calls are inside together
    assert list(in_order(lambda i: (barrier.wait(), i)[1], range(6), workers=3, ahead=3)) == list(range(6))


def test_an_exception_comes_at_its_turn_and_no_thread_stays():
    before = threading.active_count()
    results = in_order(lambda i: 1 // (3 - i), range(100), workers=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


def test_leaving_early_stops_reading():
    before = threading.active_count()
    read = []
    results = in_order(lambda i: (time.sleep(0.001), read.append(i)), range(10_000), workers=2, ahead=4)
    next(results)
    results.close()
    assert len(read) < 20
    assert threading.active_count() == before
