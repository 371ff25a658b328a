"""Work that is begun before its result is wanted, in order and in bounded memory."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from typing import Self

    from zsl_runtime.graphs.answers import Answer, Pending


T = TypeVar("T")
R = TypeVar("R")
# Of files in memory that wait to be decoded; those of a folder are read when it is their turn. Of the largest that are
# read of an archive, one alone: the next one is unpacked when it is done.
WAITING_BYTES = 128 << 20


def in_order(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int,
    ahead: int,
    weigh: Callable[[T], int] = lambda _item: 0,
) -> Generator[R]:
    """Apply `function` to items in threads; results in the order of the items.

    At most `ahead + workers` items are taken before their result is wanted, fewer when they weigh more than
    WAITING_BYTES together, so memory is bounded. An exception of `function` is raised at its item's turn, one of
    `items` behind the results of the items before it; however the iteration ends, no thread is left running.
    """
    waiting: deque[tuple[Future[R], int]] = deque()
    weight = 0
    failures: list[Exception] = []
    pool, home = ThreadPoolExecutor(workers, thread_name_prefix="zsl-read"), os.getpid()
    try:
        for item in until_failure(items, failures):
            waiting.append((pool.submit(function, item), weigh(item)))
            del item  # it may be a large file, and the next one comes into memory while this one waits
            weight += waiting[-1][1]
            while waiting and (len(waiting) >= ahead + workers or weight > WAITING_BYTES):
                future, lighter = waiting.popleft()
                weight -= lighter
                yield future.result()
        while waiting:
            yield waiting.popleft()[0].result()
        for failure in failures:
            raise failure
    finally:
        if os.getpid() == home:  # a forked child has none of the threads, and their locks as they were
            pool.shutdown(wait=True, cancel_futures=True)


def until_failure(items: Iterable[T], failures: list[Exception]) -> Generator[T]:
    """The items up to an exception, which is put into `failures`: what came before it is not lost."""
    try:
        yield from items
    except Exception as error:  # raised again by the caller
        failures.append(error)


class Ahead(Generic[T]):
    """Iterates in a thread of its own, from now on, and holds what is not taken yet.

    An exception is raised at its turn. Use it in a `with` block or with `close`, which ends the thread.

    Args:
        items: closed in that thread, whatever ends the iteration.
        depth: how many to hold before the thread waits.

    Attributes:
        first: seconds that the consumer waited for the first item.
        starved: seconds that it waited for later ones, and for the end.
        blocked: seconds that the thread waited because `depth` items were not taken.

    """

    def __init__(self, items: Generator[T], depth: int) -> None:
        self._items = items
        self._depth = depth
        self._held: deque[T] = deque()
        self._failure: BaseException | None = None
        self._ended = self._closed = False
        self._changed = threading.Condition()
        self._taken = 0
        self._home = os.getpid()
        self.first = self.starved = self.blocked = 0.0
        self._thread = threading.Thread(target=self._run, name="zsl-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._changed:
            if not self._held and not self._ended:
                begin = time.perf_counter()
                self._changed.wait_for(lambda: self._held or self._ended)
                waited = time.perf_counter() - begin
                if self._taken:
                    self.starved += waited
                else:
                    self.first += waited
            if self._held:
                self._taken += 1
                self._changed.notify_all()
                return self._held.popleft()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        raise StopIteration

    def close(self) -> None:
        """Let the thread finish the item that it is at, and end it; what was not taken is dropped."""
        if os.getpid() != self._home:  # a forked child has no such thread, and its lock as it was
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            with closing(self._items):
                for item in self._items:
                    if not self._hold(item):
                        return
        except BaseException as error:  # it is the consumer's, whatever it is
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _hold(self, item: T) -> bool:
        """Keep an item for the consumer, when there is space; False when nobody wants it any more."""
        with self._changed:
            if len(self._held) >= self._depth and not self._closed:
                begin = time.perf_counter()
                self._changed.wait_for(lambda: self._closed or len(self._held) < self._depth)
                self.blocked += time.perf_counter() - begin
            if not self._closed:
                self._held.append(item)
                self._changed.notify_all()
            return not self._closed


def in_flight(
    begin: Callable[[T], Pending],
    batches: Generator[T],
    most: int,
    waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Generator[tuple[T, Answer]]:
    """Begin batches, at most `most` at once.

    Args:
        begin: begins one.
        batches: to begin.
        most: under way at once.
        waiting: a context to wait for answers in.

    Yields:
        Each batch with its answer, in order. An exception of `batches` or `begin` comes behind the answers before it.

    """
    begun: deque[tuple[T, Pending]] = deque()
    failures: list[Exception] = []

    def answered() -> tuple[T, Answer]:
        batch, pending = begun.popleft()
        with waiting():
            return batch, pending.result()

    def beginning() -> Generator[tuple[T, Pending]]:
        with closing(batches):
            for batch in batches:
                yield batch, begin(batch)

    with closing(until_failure(beginning(), failures)) as beginnings:
        for one in beginnings:
            begun.append(one)
            if len(begun) >= most:
                yield answered()
    while begun:
        yield answered()
    for failure in failures:
        raise failure
