"""Batches, order, and who waits for whom: the pipeline with readers and engines that tests can look into."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.errors import BackendError, InputError
from zsl_runtime.inputs.item import Item
from zsl_runtime.labelling.ahead import Ahead
from zsl_runtime.labelling.reading import Reader, read_ahead
from zsl_runtime.labelling.scoring import ERRORS_AT_ONCE, score
from zsl_runtime.machine.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Generator

    from zsl_runtime.labelling.snapshot import Scored


class Engine:
    """In place of a classifier: notes the batches that it gets, and gives the rows as scores."""

    def __init__(self, call=lambda rows: None):
        self.sizes = []
        self._call = call

    def score_with(self, snapshot, rows):
        self.sizes.append(len(rows))
        self._call(rows)
        return rows.astype(np.float32), rows.astype(np.float32)


SNAPSHOT = SimpleNamespace(table=["one class"])
NUMBERS = Reader(None, (1, 1))


def number_items(values) -> Generator[Item]:
    """Items of one number; None is one that cannot be read."""
    for i, value in enumerate(values):
        error = InputError("E-ROW-FILE", "no number")
        yield Item(str(i), error if value is None else np.full((1, 1), value, np.float32))


def scored(values, engine, *, batch_size=4, workers=2, stop=None) -> Generator[Scored]:
    stop = stop or Stop()
    items = number_items(values)
    with (
        read_ahead(NUMBERS, items, workers=workers, batch_size=batch_size, stop=stop) as rows,
        Ahead(score(engine, SNAPSHOT, rows, batch_size=batch_size, stop=stop), depth=1) as batches,
    ):
        yield from batches


@settings(max_examples=40)
@given(st.lists(st.none() | st.integers(0, 9), max_size=40), st.integers(1, 6), st.integers(1, 3))
def test_batches_are_full_and_answers_in_order(values, batch_size, workers):
    engine = Engine()
    batches = list(scored(values, engine, batch_size=batch_size, workers=workers))
    readable = [value for value in values if value is not None]
    assert [name for batch in batches for name, _ in batch.entries] == [str(i) for i in range(len(values))]
    errors = [error is None for batch in batches for _, error in batch.entries]
    assert errors == [value is not None for value in values]
    assert [score for batch in batches for score in batch.scores.ravel()] == readable
    full, rest = divmod(len(readable), batch_size)
    assert engine.sizes == [batch_size] * full + [rest] * (rest > 0)


def test_many_unreadable_items_do_not_pile_up():
    engine = Engine()
    batches = list(scored([None] * 1000 + [1] * 3, engine))
    assert max(len(batch.entries) for batch in batches) <= ERRORS_AT_ONCE
    assert engine.sizes == [3]


def test_reading_goes_on_while_the_engine_runs():
    """The engine ends its first batch only when the two that follow have been read."""
    read = threading.Semaphore(0)

    class Counting(Reader):
        def __call__(self, source):
            read.release()
            return super().__call__(source)

    def wait(_rows):
        if len(engine.sizes) == 1:
            for _ in range(12):
                assert read.acquire(timeout=10)

    engine = Engine(wait)
    stop = Stop()
    with read_ahead(Counting(None, (1, 1)), number_items([1] * 40), workers=1, batch_size=4, stop=stop) as rows:
        assert len(list(score(engine, SNAPSHOT, rows, batch_size=4))) == 10


def test_the_engine_runs_while_answers_are_written():
    """Nobody takes the first answers before the engine is at its second batch."""
    second = threading.Event()
    engine = Engine(lambda _rows: second.set() if len(engine.sizes) == 2 else None)
    batches = scored([1] * 12, engine)
    next(batches)
    assert second.wait(timeout=10)
    batches.close()


def test_reading_waits_for_a_slow_engine():
    made = 0

    def items():
        nonlocal made
        for item in number_items([1] * 1000):
            made += 1
            yield item

    stop = Stop()
    with read_ahead(NUMBERS, items(), workers=2, batch_size=4, stop=stop) as rows:
        for _ in range(8):
            next(rows)
        time.sleep(0.05)
        assert made <= 8 + 2 * 4 + 2 + 4 + 1  # two batches ahead, one a reader, one batch held, one in hand
        stop.request()


def test_an_error_of_the_engine_comes_behind_what_it_had_finished():
    def fail(_rows):
        if len(engine.sizes) == 3:
            raise BackendError("E-BACKEND-RUN", "no memory")

    engine = Engine(fail)
    before = threading.active_count()
    batches = scored([1] * 40, engine)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(BackendError):
        next(batches)
    assert threading.active_count() == before


def test_a_stop_ends_after_the_batch_that_is_in_the_engine():
    stop = Stop()
    engine = Engine(lambda _rows: stop.request() if len(engine.sizes) == 3 else None)
    batches = list(scored([1] * 400, engine, stop=stop))
    assert engine.sizes == [4, 4, 4]
    assert [name for batch in batches for name, _ in batch.entries] == [str(i) for i in range(12)]
