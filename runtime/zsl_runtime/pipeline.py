"""From things to label to their labels: read ahead in threads, full batches for the engine, answers in input order.

    items --(one thread lists; a pool decodes)--> rows --(one thread: the engine)--> scores --(the caller)--> answers

Each arrow holds a bounded number of things and makes whoever is ahead wait, so memory does not depend on how many
items there are, and the slowest stage sets the pace while the others are idle.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, cast

import numpy as np

from zsl_runtime.backends.answers import Answer, Done
from zsl_runtime.errors import InputError
from zsl_runtime.pixels import decode, prepare, resize_crop
from zsl_runtime.profiling import DECODE, ENGINE, FIND, HEAD, NO_PROFILE, PIXELS, NoProfile
from zsl_runtime.rows import check_row

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from typing import Self

    from numpy.typing import NDArray

    from zsl_runtime.backends.answers import Best, Pending
    from zsl_runtime.classifier import Classifier, Prediction, Snapshot, Source
    from zsl_runtime.inputs import Item
    from zsl_runtime.pixels import ImageSource, PixelSpec
    from zsl_runtime.stop import Stop

    Floats = NDArray[np.float32]

T = TypeVar("T")
R = TypeVar("R")

# Read and waiting for the engine: one batch that it takes next, and one so that a slow picture does not make it wait.
BATCHES_AHEAD = 2
WAITING_BYTES = (
    256 << 20
)  # of files in memory that wait to be decoded; those of a folder are read when it is their turn
ERRORS_AT_ONCE = 256  # unreadable items that may wait for the batch around them to fill up


class Row(NamedTuple):
    """One thing that was read: as the engine takes it, or why it could not be read."""

    name: str
    value: NDArray[np.generic] | InputError


class Labelled(NamedTuple):
    """One line of the answer."""

    name: str
    result: Prediction | InputError


class Scored(NamedTuple):
    """What the graph says about one batch.

    Attributes:
        entries: the items in input order, each with the error that it could not be read for, or None.
        scores: (n, C) float32 of the n items that could be read, in the same order.
        features: (n, F) float32; (0, 0) when none could be read.
        best: where the card has found them, the best classes of these items; then there are no scores or features.

    """

    entries: list[tuple[str, InputError | None]]
    scores: Floats
    features: Floats
    best: Best | None = None

    @classmethod
    def fill(cls, entries: Iterable[tuple[str, InputError | None]], results: Iterable[Prediction]) -> list[Labelled]:
        """Put the results of the items that could be read in their places."""
        following = iter(results)
        return [Labelled(name, next(following) if error is None else error) for name, error in entries]


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Reads one thing as the engine takes it.

    Attributes:
        pixels: how pictures are prepared; None for a model of feature vectors.
        shape: (R, V) of such a model's rows.
        like: name of the feature file that it was trained on, for messages; '' where it is not known.

    """

    pixels: PixelSpec | None
    shape: tuple[int, ...]
    like: str = ""

    def __call__(self, source: Source) -> NDArray[np.generic]:
        """uint8 (P, P, 3), or float32 (R, V).

        Raises:
            InputError: E-IMAGE-..., or E-ROW-SHAPE, E-ROW-VALUE for a model of feature vectors.

        """
        if self.pixels is None:
            return check_row(source, self.shape, self.like)
        return prepare(cast("ImageSource", source), self.pixels)

    def profiled(self, source: Source, profile: NoProfile) -> NDArray[np.generic]:
        """The same, the two halves of it noted one by one."""
        if self.pixels is None:
            with profile.stage(DECODE):
                return check_row(source, self.shape, self.like)
        with profile.stage(DECODE):
            picture = decode(cast("ImageSource", source))
        with profile.stage(PIXELS):
            return resize_crop(picture, self.pixels)

    def row(self, item: Item, profile: NoProfile = NO_PROFILE) -> Row:
        """Read an item; what cannot be read is an answer, too."""
        if isinstance(item.source, InputError):
            return Row(item.name, item.source)
        try:
            if profile is NO_PROFILE:
                return Row(item.name, self(item.source))
            return Row(item.name, self.profiled(item.source, profile))
        except InputError as error:
            known = isinstance(item.source, str)  # the message has the path then
            return Row(item.name, error if known else InputError(error.code, f"{item.name!r}: {error.message}"))


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
    pool = ThreadPoolExecutor(workers, thread_name_prefix="zsl-read")
    try:
        for item in _until_failure(items, failures):
            waiting.append((pool.submit(function, item), weigh(item)))
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
        pool.shutdown(wait=True, cancel_futures=True)


def _until_failure(items: Iterable[T], failures: list[Exception]) -> Generator[T]:
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


def read_ahead(
    reader: Reader,
    items: Generator[Item],
    *,
    workers: int,
    batch_size: int,
    stop: Stop,
    profile: NoProfile = NO_PROFILE,
) -> Ahead[Row]:
    """Begin to read items in threads; some batches are ready before they are wanted, and no more.

    Args:
        reader: of the model.
        items: what to read; taken in a thread of its own, so that neither listing a folder nor unpacking a shard makes
            the engine wait.
        workers: threads that decode.
        batch_size: items that are wanted at once.
        stop: ends it early.
        profile: takes notes.

    """

    def wanted() -> Generator[Item]:
        with closing(profile.over(FIND, items)) as found:
            for item in found:
                if stop.requested:
                    return
                yield item

    def weigh(item: Item) -> int:
        return len(item.source) if isinstance(item.source, bytes) else 0

    def rows() -> Generator[Row]:
        ahead = BATCHES_AHEAD * batch_size
        with closing(wanted()) as found:
            yield from in_order(
                lambda item: reader.row(item, profile), found, workers=workers, ahead=ahead, weigh=weigh
            )

    return Ahead(rows(), depth=batch_size)


# --- labelling ------------------------------------------------------------------------------------------------------


def score(
    classifier: Classifier,
    snapshot: Snapshot,
    rows: Iterable[Row],
    *,
    batch_size: int,
    stop: Stop | None = None,
    profile: NoProfile = NO_PROFILE,
) -> Generator[Scored]:
    """Score rows in full batches.

    Args:
        classifier: scores.
        snapshot: of it, with the class filter; one for the whole run.
        rows: what was read, in input order.
        batch_size: rows in the engine at once; only the last batch has fewer, unless ERRORS_AT_ONCE items in a row
            cannot be read, which are told then and not kept for ever.
        stop: ends it after the batch that is in the engine.
        profile: takes notes.

    Yields:
        Items in input order, those that cannot be read among them.

    """
    empty = np.empty((0, len(snapshot.table)), np.float32), np.empty((0, 0), np.float32)
    for batch in _batches(rows, batch_size):
        if stop is not None and stop.requested:
            return
        readable = [value for _, value in batch if not isinstance(value, InputError)]
        with profile.stage(ENGINE):
            scores, features = classifier.score_with(snapshot, np.stack(readable)) if readable else empty
        entries = [(name, value if isinstance(value, InputError) else None) for name, value in batch]
        yield Scored(entries, scores, features)


def score_ahead(
    classifier: Classifier,
    snapshot: Snapshot,
    rows: Iterable[Row],
    *,
    batch_size: int,
    topk: int,
    stop: Stop | None = None,
    profile: NoProfile = NO_PROFILE,
) -> Generator[Scored]:
    """As `score`, on a card: while it works on a batch, the next one is put together and copied there.

    Args:
        classifier: scores.
        snapshot: of it.
        rows: as of `score`.
        batch_size: as of `score`.
        topk: only the best so many classes are wanted.
        stop: ends it after the batches that are at work.
        profile: takes notes.

    Yields:
        As `score`; with `best` in place of scores and features where the card finds the best classes.

    """
    empty = np.empty((0, len(snapshot.table)), np.float32), np.empty((0, 0), np.float32)

    def begin(batch: list[Row]) -> Pending:
        readable = [value for _, value in batch if not isinstance(value, InputError)]
        with profile.stage(ENGINE):
            return classifier.begin(snapshot, readable, topk) if readable else Done(Answer(*empty))

    def wanted() -> Generator[list[Row]]:
        for batch in _batches(rows, batch_size):
            if stop is not None and stop.requested:
                return
            yield batch

    for batch, answer in in_flight(begin, wanted(), classifier.in_flight, lambda: profile.stage(ENGINE)):
        entries = [(name, value if isinstance(value, InputError) else None) for name, value in batch]
        scores = empty[0] if answer.scores is None else answer.scores
        features = empty[1] if answer.features is None else answer.features
        yield Scored(entries, scores, features, answer.best)


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

    with closing(_until_failure(beginning(), failures)) as beginnings:
        for one in beginnings:
            begun.append(one)
            if len(begun) >= most:
                yield answered()
    while begun:
        yield answered()
    for failure in failures:
        raise failure


def _batches(rows: Iterable[Row], batch_size: int) -> Generator[list[Row]]:
    """Groups with `batch_size` readable rows, except the last; an exception of `rows` comes behind it."""
    batch: list[Row] = []
    readable = 0
    failures: list[Exception] = []
    for row in _until_failure(rows, failures):
        batch.append(row)
        readable += not isinstance(row.value, InputError)
        if readable == batch_size or len(batch) - readable >= ERRORS_AT_ONCE:
            yield batch
            batch, readable = [], 0
    if batch:
        yield batch
    for failure in failures:
        raise failure


def label(
    snapshot: Snapshot, batches: Iterable[Scored], *, topk: int, profile: NoProfile = NO_PROFILE
) -> Generator[list[Labelled]]:
    """The `topk` best classes of each item that was scored with `snapshot`."""
    for entries, scores, _, best in batches:
        with profile.stage(HEAD):
            found = snapshot.best(scores, topk) if best is None else snapshot.named(best)
            answers = Scored.fill(entries, found)
        yield answers
