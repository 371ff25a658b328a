"""Work done ahead on other threads: order, bounds, errors at their turn, and no thread that stays."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.labelling.ahead import WAITING_BYTES, Ahead, in_order


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


def test_an_exception_of_the_items_comes_behind_the_results_before_it():
    def items():
        yield from range(5)
        raise KeyError("sixth")

    results = in_order(lambda i: i, items(), workers=2, ahead=20)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(KeyError, match="sixth"):
        next(results)


def test_leaving_early_stops_reading():
    before = threading.active_count()
    read = []
    results = in_order(lambda i: (time.sleep(0.001), read.append(i)), range(10_000), workers=2, ahead=4)
    next(results)
    results.close()
    assert len(read) < 20
    assert threading.active_count() == before


def test_heavy_items_wait_for_each_other():
    taken, given_back = [], 0

    def items():
        for share in [60, 60, 10, 10, 10, 500, 10]:  # percent of what may wait
            taken.append(share)
            assert sum(taken[given_back:-1]) <= 100
            yield share

    for _ in in_order(
        lambda share: share, items(), workers=2, ahead=50, weigh=lambda share: share * WAITING_BYTES // 100
    ):
        given_back += 1
    assert given_back == 7


def test_ahead_gives_everything_in_order_and_no_more_than_its_depth():
    made = []

    def items():
        for i in range(50):
            made.append(i)
            yield i

    taken = []
    with Ahead(items(), depth=3) as ahead:
        for i in ahead:
            taken.append(i)
            assert len(made) <= len(taken) + 3 + 1  # one is in the making
    assert taken == list(range(50))


def test_ahead_begins_before_it_is_asked_and_works_while_the_consumer_does():
    made = threading.Semaphore(0)

    def items():
        for i in range(4):
            made.release()
            yield i

    with Ahead(items(), depth=4) as ahead:
        for _ in range(4):
            assert made.acquire(timeout=10)  # nobody has asked for anything yet
        assert list(ahead) == [0, 1, 2, 3]


def test_an_exception_in_ahead_comes_at_its_turn():
    def items():
        yield 1
        raise KeyError("second")

    with Ahead(items(), depth=5) as ahead:
        assert next(ahead) == 1
        with pytest.raises(KeyError, match="second"):
            next(ahead)
        with pytest.raises(StopIteration):
            next(ahead)


def test_closing_ahead_ends_its_thread_and_closes_what_it_iterates():
    before = threading.active_count()
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    ahead = Ahead(items(), depth=2)
    next(ahead)
    ahead.close()
    assert closed.is_set()
    assert threading.active_count() == before
