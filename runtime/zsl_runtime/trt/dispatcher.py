"""One engine at work on one card: heads that stay there, lanes that batches go through, and the order of it all.

A `Dispatcher` holds the engine, the heads on the card and a few lanes. A `Lane` is what one batch needs for itself: a
stream, memory, and execution contexts. Batches in different lanes overlap: one is copied while another is computed.

What NVIDIA's documentation asks for, and what follows from it here:
- Shapes are set and every tensor has an address before anything is queued; the optimisation profile is chosen on the
  stream that the work is queued on.
- A CUDA graph is good for one shape, one set of addresses and one state of its context. So a context belongs to one
  bucket of batch sizes and one head, and is never changed while it has a graph. It has run once before it is recorded,
  for a change of shapes leaves work behind that a recording must not hold. The contexts of a lane run one after the
  other, so they share the memory for what is between layers.
- What is queued uses memory until the stream is through: a lane takes no other batch, and no head is given back, first.
- Graphs go before contexts, contexts before the engine, the engine before its runtime.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.errors import BackendError, UsageError, ZslError
from zsl_runtime.graphs.answers import Answer, Best
from zsl_runtime.trt.cuda import LOST, MEMORY
from zsl_runtime.trt.heads import CardHead, Heads
from zsl_runtime.trt.lane import Job, Lane

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zsl_runtime.arrays import Batch
    from zsl_runtime.head.head import FoldedHead
    from zsl_runtime.trt.cuda import Cuda
    from zsl_runtime.trt.engine import Engine
    from zsl_runtime.trt.topk import CudaTopK


OVERLAP = 2  # batches of one caller: one is computed, the next is copied to the card


# --- the dispatcher -------------------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """How much is kept on a card.

    Attributes:
        lanes: at most; made when they are needed, so one thread that overlaps two batches has two.
        contexts: of a lane: buckets x heads that are ready to run, those used last.
        heads: beside those in use, those used last.

    """

    lanes: int = 4
    contexts: int = 8
    heads: int = 2


LIMITS = Limits()


class DispatcherClosedError(Exception):
    """The dispatcher was closed before this batch began; a new one takes it."""


class Dispatched:
    """A batch at work."""

    def __init__(self, dispatcher: Dispatcher, lane: Lane, job: Job) -> None:
        self._dispatcher, self._lane, self._job = dispatcher, lane, job
        self._lock = threading.Lock()
        self._answer: Answer | None = None
        self._error: Exception | None = None

    def result(self) -> Answer:
        """Wait for the answer; may be called again. BackendError E-CUDA-... when it failed on the card."""
        self.finish()
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def finish(self) -> None:
        """Wait, keep the answer or the error, and give the lane to whoever wants it; from any thread."""
        with self._lock:
            if self._answer is not None or self._error is not None:
                return
            try:
                with self._dispatcher.cuda.current():
                    answer = self._lane.collect(self._job)
            except Exception as error:
                self._dispatcher.note(error)
                self._error = error.with_traceback(None)  # whose frames would keep what is being given back
            else:
                self._answer = answer
            self._dispatcher.finished(self, self._lane, self._job.head)


class Parts:
    """A batch that is larger than the engine takes, in parts."""

    def __init__(self, parts: Sequence[Dispatched]) -> None:
        self._parts = parts

    def result(self) -> Answer:
        """As of `Dispatched`, put together."""
        answers = [part.result() for part in self._parts]
        scores = [one.scores for one in answers if one.scores is not None]
        features = [one.features for one in answers if one.features is not None]
        best = [one.best for one in answers if one.best is not None]
        return Answer(
            np.concatenate(scores) if scores else None,
            np.concatenate(features) if features else None,
            Best(*(np.concatenate(both) for both in zip(*best, strict=True))) if best else None,
        )


class Dispatcher:
    """An engine at work. Every method may be called from several threads.

    Nobody waits for ever: who finds no lane finishes the batch that has been at work longest, whosever it is, and takes
    its lane; its answer is kept for who asks for it.

    Args:
        cuda: the card.
        engine: what runs; it is closed with the dispatcher.
        topk: finds best columns; None where there are no kernels.
        graphs: record CUDA graphs.
        limits: how much is kept on the card.

    """

    def __init__(
        self, cuda: Cuda, engine: Engine, topk: CudaTopK | None, *, graphs: bool = True, limits: Limits = LIMITS
    ) -> None:
        self.cuda, self.engine = cuda, engine
        self._topk, self._graphs, self._limits = topk, graphs, limits
        self._changed = threading.Condition()
        self._idle: list[Lane] = []
        self._made, self._most, self._inside = 0, limits.lanes, 0
        self._at_work: deque[Dispatched] = deque()
        self._closing = self._closed = False
        self._lost: BackendError | None = None
        with cuda.current():
            self._heads = Heads(cuda, limits.heads)

    def hold(self, head: FoldedHead) -> None:
        """Copy a head to the card before the first batch needs it.

        Raises:
            UsageError: E-HEAD-CLASSES.
            BackendError: E-CUDA-...
            DispatcherClosedError: the dispatcher is closed.

        """
        self._check(head)
        with self._entered(), self.cuda.current():
            self._heads.release(self._acquire(head))

    def begin(
        self, rows: Batch, head: FoldedHead, *, best: int = 0, scores: bool = True, features: bool = True
    ) -> Dispatched | Parts:
        """Queue a batch of any size.

        Args:
            rows: array (n, ...) or n rows, checked; they are copied before this returns.
            head: of C classes.
            best: this many best columns of each row, found on the card; 0 for none.
            scores: all scores are wanted, too.
            features: the features are.

        Raises:
            UsageError: E-HEAD-CLASSES for more classes than the engine takes.
            BackendError: E-CUDA-..., E-BACKEND-RUN.
            DispatcherClosedError: the dispatcher is closed.

        """
        self._check(head)
        step = self.engine.most_rows
        parts = [rows] if len(rows) <= step else [rows[at : at + step] for at in range(0, len(rows), step)]
        with self.cuda.current():
            begun: list[Dispatched] = []
            for part in parts:
                if len(begun) >= OVERLAP:
                    begun[-OVERLAP].finish()
                begun.append(self._begin(part, head, best, scores=scores, features=features))
        return begun[0] if len(begun) == 1 else Parts(begun)

    def close(self) -> None:
        """Finish what is at work, and give everything back: graphs, contexts, memory, heads, engine, runtime."""
        with self._changed:
            if self._closing:
                self._changed.wait_for(lambda: self._closed)
                return
            self._closing = True
            self._changed.notify_all()
        while (pending := self._last()) is not None:
            pending.finish()
        with suppress(BackendError), self.cuda.current():
            for lane in self._idle:
                lane.close()
            self._heads.close()
        self._idle.clear()
        self.engine.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def note(self, error: Exception) -> None:
        """Remember that the card is lost, when that is what happened."""
        if isinstance(error, BackendError) and error.code == LOST:
            self._lost = BackendError(error.code, error.message)

    def finished(self, pending: Dispatched, lane: Lane, head: CardHead) -> None:
        """A batch is done: its lane is free, and its head is not used any more."""
        with suppress(BackendError), self.cuda.current():
            self._heads.release(head)
        with self._changed:
            self._at_work.remove(pending)
            self._idle.append(lane)
            self._changed.notify_all()

    def _check(self, head: FoldedHead) -> None:
        if self._lost is not None:
            raise BackendError(self._lost.code, self._lost.message)
        if len(head.bias) > self.engine.most_classes:
            raise UsageError(
                "E-HEAD-CLASSES",
                f"there are {len(head.bias)} classes, and the engine takes {self.engine.most_classes}; build one for "
                "more, or use another --backend",
            )

    def _begin(self, rows: Batch, head: FoldedHead, best: int, *, scores: bool, features: bool) -> Dispatched:
        """One batch of at most `most_rows` rows."""
        while True:
            lane = self._lease()
            try:
                return self._submit(lane, rows, head, best, scores=scores, features=features)
            except BackendError as error:
                if error.code != MEMORY or not self._do_without(lane):
                    self._put_back(lane)
                    raise
            except BaseException:
                self._put_back(lane)
                raise

    def _submit(
        self, lane: Lane, rows: Batch, head: FoldedHead, best: int, *, scores: bool, features: bool
    ) -> Dispatched:
        on_card = self._acquire(head)
        job = Job(len(rows), on_card, head.class_bias, best, scores, features)
        try:
            try:
                lane.submit(rows, job, self._heads.serials())
            except ZslError:
                raise
            except Exception as error:  # TensorRT raises errors of the bindings for what it does not take
                raise BackendError(
                    "E-BACKEND-RUN", f"TensorRT failed: {' '.join(str(error).split())[:300]}; use another --backend"
                ) from error
        except BaseException as error:
            if isinstance(error, BackendError):
                self.note(error)
            self._heads.release(on_card)
            raise
        pending = Dispatched(self, lane, job)
        with self._changed:
            self._at_work.append(pending)
            self._changed.notify_all()
        return pending

    def _acquire(self, head: FoldedHead) -> CardHead:
        try:
            return self._heads.acquire(head)
        except BackendError as error:
            self.note(error)
            raise

    def _lease(self) -> Lane:
        """A lane that nobody uses: an idle one, a new one, or that of the batch that has been at work longest."""
        while True:
            with self._changed:
                if self._closing:
                    raise DispatcherClosedError
                if self._idle:
                    return self._idle.pop()
                if self._made < self._most:
                    self._made += 1
                    break
                oldest = self._at_work[0] if self._at_work else None
                if oldest is None:
                    self._changed.wait()
                    continue
            oldest.finish()
        try:
            return Lane(self.cuda, self.engine, self._topk, graphs=self._graphs, contexts=self._limits.contexts)
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify_all()
            raise

    def _put_back(self, lane: Lane) -> None:
        with self._changed:
            self._idle.append(lane)
            self._changed.notify_all()

    def _do_without(self, lane: Lane) -> bool:
        """Close a lane for which there is no memory, unless it is the only one; there will be no more than are left."""
        with self._changed:
            if self._made == 1:
                return False
            self._made -= 1
            self._most = self._made
        lane.close()
        with self._changed:
            self._changed.notify_all()
        return True

    def _last(self) -> Dispatched | None:
        """While closing: a batch at work; None when all lanes are idle and nobody is inside."""
        with self._changed:
            self._changed.wait_for(lambda: self._at_work or (len(self._idle) == self._made and not self._inside))
            return self._at_work[0] if self._at_work else None

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Somebody uses the card without a lane: the dispatcher is not closed meanwhile."""
        with self._changed:
            if self._closing:
                raise DispatcherClosedError
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()
