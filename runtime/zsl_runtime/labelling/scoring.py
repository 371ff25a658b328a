"""From things to label to their labels: read ahead in threads, full batches for the model, answers in input order.

    items --(one thread lists; a pool decodes)--> rows --(one thread: the model)--> scores --(the caller)--> answers

Each arrow holds a bounded number of things and makes whoever is ahead wait, so memory does not depend on how many
items there are, and the slowest stage sets the pace while the others are idle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import InputError
from zsl_runtime.graphs.answers import Answer, Best, Done
from zsl_runtime.labelling.ahead import in_flight, until_failure
from zsl_runtime.labelling.numbers import Judge
from zsl_runtime.labelling.profiling import HEAD, MODEL, NO_PROFILE, NoProfile
from zsl_runtime.labelling.snapshot import Labelled, Scored

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.graphs.answers import Pending
    from zsl_runtime.labelling.model import Model
    from zsl_runtime.labelling.reading import ReadItem
    from zsl_runtime.labelling.snapshot import Snapshot
    from zsl_runtime.machine.stop import Stop


ERRORS_AT_ONCE = 256  # unreadable items that may wait for the batch around them to fill up


# --- labelling ------------------------------------------------------------------------------------------------------


def score(
    model: Model,
    snapshot: Snapshot,
    rows: Iterable[ReadItem],
    *,
    batch_size: int,
    stop: Stop | None = None,
    profile: NoProfile = NO_PROFILE,
    judge: Judge | None = None,
    keep: bool = False,
) -> Generator[Scored]:
    """Score rows in full batches.

    Args:
        model: scores.
        snapshot: of it, with the class filter; one for the whole run.
        rows: what was read, in input order.
        batch_size: rows in the model at once; only the last batch has fewer, unless ERRORS_AT_ONCE items in a row
            cannot be read, which are told then and not kept for ever.
        stop: ends it after the batch that is in the model.
        profile: takes notes.
        judge: of answers that are no numbers; None for a new one.
        keep: what the model was given comes with the answers.

    Yields:
        Items in input order, those that cannot be read among them, and those whose answer is no number.

    Raises:
        BackendError: E-BACKEND-VALUE, at the end, where no answer was a number.

    """
    judge = judge or Judge()
    empty = np.empty((0, len(snapshot.table)), np.float32), np.empty((0, 0), np.float32)
    for batch in _batches(rows, batch_size):
        if stop is not None and stop.requested:
            return
        readable = [value for _, value in batch if not isinstance(value, InputError)]
        inputs = np.stack(readable) if readable else None
        with profile.stage(MODEL):
            scores, features = empty if inputs is None else model.score_with(snapshot, inputs)
        yield _judged(judge, batch, Answer(scores, features), empty, inputs if keep else None)
    judge.end()


def score_ahead(
    model: Model,
    snapshot: Snapshot,
    rows: Iterable[ReadItem],
    *,
    batch_size: int,
    topk: int | None,
    stop: Stop | None = None,
    profile: NoProfile = NO_PROFILE,
    judge: Judge | None = None,
) -> Generator[Scored]:
    """As `score`, on a card: while it works on a batch, the next one is put together and copied there.

    Args:
        model: scores.
        snapshot: of it.
        rows: as of `score`.
        batch_size: as of `score`.
        topk: only the best so many classes are wanted; None wants scores and features.
        stop: ends it after the batches that are at work.
        profile: takes notes.
        judge: as of `score`.

    Yields:
        As `score`; with `best` in place of scores where the card finds the best classes, and features where distances
        are told.

    Raises:
        BackendError: as `score`.

    """
    judge = judge or Judge()
    empty = np.empty((0, len(snapshot.table)), np.float32), np.empty((0, 0), np.float32)

    def begin(batch: list[ReadItem]) -> Pending:
        readable = [value for _, value in batch if not isinstance(value, InputError)]
        with profile.stage(MODEL):
            return model.begin(snapshot, readable, topk) if readable else Done(Answer(*empty))

    def wanted() -> Generator[list[ReadItem]]:
        for batch in _batches(rows, batch_size):
            if stop is not None and stop.requested:
                return
            yield batch

    for batch, answer in in_flight(begin, wanted(), model.in_flight, lambda: profile.stage(MODEL)):
        yield _judged(judge, batch, answer, empty)
    if stop is None or not stop.requested:
        judge.end()


def _judged(
    judge: Judge,
    batch: list[ReadItem],
    answer: Answer,
    empty: tuple[Floats, Floats],
    inputs: NDArray[np.generic] | None = None,
) -> Scored:
    """A batch with its answer, without the rows of it that are no numbers; `empty` stands for what was not wanted."""
    entries, good = judge.sort(batch, answer)
    scores, features, best = answer
    if good is not None:
        scores = None if scores is None else scores[good]
        features = None if features is None else features[good]
        best = None if best is None else Best(best.columns[good], best.scores[good])
        inputs = None if inputs is None else inputs[good]
    scores, features = (empty[0] if scores is None else scores), (empty[1] if features is None else features)
    return Scored(entries, scores, features, best, inputs)


def _batches(rows: Iterable[ReadItem], batch_size: int) -> Generator[list[ReadItem]]:
    """Groups with `batch_size` readable rows, except the last; an exception of `rows` comes behind it."""
    batch: list[ReadItem] = []
    readable = 0
    failures: list[Exception] = []
    for row in until_failure(rows, failures):
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
    model: Model, snapshot: Snapshot, batches: Iterable[Scored], *, topk: int, profile: NoProfile = NO_PROFILE
) -> Generator[list[Labelled]]:
    """The `topk` best classes of each item that `model` scored with `snapshot`, and how far it is from all of them."""
    for entries, scores, features, best, _ in batches:
        with profile.stage(HEAD):
            found = model.measure(snapshot, features)
            named = snapshot.best(scores, topk, found) if best is None else snapshot.named(best, found)
            answers = Scored.fill(entries, named)
        yield answers
