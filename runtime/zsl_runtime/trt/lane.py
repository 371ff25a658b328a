"""What one batch at a time goes through on the card: a stream, memory, contexts, CUDA graphs."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.errors import BackendError
from zsl_runtime.graphs.answers import Answer, Best
from zsl_runtime.trt.cuda import LOST, DeviceMemory, Event, PinnedMemory, Stream

if TYPE_CHECKING:
    from zsl_runtime.arrays import Batch, Floats
    from zsl_runtime.trt.cuda import Cuda, Graph
    from zsl_runtime.trt.engine import Engine, Fit
    from zsl_runtime.trt.heads import CardHead
    from zsl_runtime.trt.topk import CudaTopK


SPIN_ROWS = 8  # for batches up to this the host waits without sleeping: waking up takes longer than is left to do
FLOAT = 4  # bytes
ALIGNMENT = 256


class Job(NamedTuple):
    """What is wanted of a batch.

    Attributes:
        rows: of the batch, before padding.
        head: on the card.
        class_bias: (C,) float32.
        best: how many best columns, found on the card; 0 for none.
        scores: whether all scores are wanted.
        features: whether the features are.

    """

    rows: int
    head: CardHead
    class_bias: Floats
    best: int
    scores: bool
    features: bool


class _Ready:
    """A context with its shapes and addresses, and its CUDA graph when there is one.

    Nothing else refers to the context, so that it is gone when this says so: frames that an error keeps refer to this.
    """

    def __init__(self, context: Any, profile: int) -> None:
        self.context = context
        self.profile = profile
        self.graph: Graph | None = None
        self.runs = 0

    def retire(self) -> None:
        """Drop the graph; the context may then be made ready for something else. BackendError E-CUDA-..."""
        graph, self.graph, self.runs = self.graph, None, 0
        if graph is not None:
            graph.close()

    def close(self) -> None:
        """Drop the graph and then the context; nothing is raised."""
        with suppress(BackendError):
            self.retire()
        self.context = None


class Lane:
    """What one batch at a time goes through.

    Args:
        cuda: the card.
        engine: what runs.
        topk: finds best columns; None where there are no kernels.
        graphs: record CUDA graphs.
        contexts: buckets x heads that are ready to run at most, those used last.

    """

    def __init__(self, cuda: Cuda, engine: Engine, topk: CudaTopK | None, *, graphs: bool, contexts: int) -> None:
        self._cuda, self._engine, self._topk = cuda, engine, topk
        self._most = contexts
        self._graphs = graphs and engine.captures
        self._memory: dict[str, DeviceMemory] = {}
        self._pinned: dict[str, PinnedMemory] = {}
        self._ready: OrderedDict[tuple[int, ...], _Ready] = OrderedDict()
        self._spare: dict[int, list[_Ready]] = {}  # of a profile: contexts that were made ready for something else
        self._class_bias: Floats | None = None  # what is on the card
        self._stream = Stream(cuda)
        try:
            self._event = Event(cuda)
        except BaseException:
            self._stream.close()
            raise

    def submit(self, rows: Batch, job: Job, alive: frozenset[int]) -> None:
        """Queue a batch; `collect` waits for it and has the answer. Only one batch at a time.

        Args:
            rows: array (n, ...) or n rows, checked.
            job: what is wanted.
            alive: serials of the heads that are on the card; contexts of others are dropped.

        Raises:
            BackendError: E-CUDA-..., E-BACKEND-RUN. Then nothing is queued any more, unless the card is lost.

        """
        try:
            self._forget(alive)
            fit = self._engine.fit(job.rows)
            self._reserve(fit, job)
            self._stage(rows, job)
            self._run(self._context(fit, job), fit, job)
            for name, size in self._wanted(job).items():
                self._cuda.copy_to_host(self._pinned[name].address, self._memory[name].address, size, self._stream)
            self._event.record(self._stream)
        except BaseException:
            self._recover()
            raise

    def collect(self, job: Job) -> Answer:
        """Wait for the batch; BackendError E-CUDA-... when it failed on the card."""
        try:
            if job.rows <= SPIN_ROWS:
                self._stream.synchronize()
            else:
                self._event.synchronize()
        except BackendError:
            self._recover()
            raise
        count = job.rows
        found = {
            name: np.array(self._pinned[name].view(dtype, (count, width)))  # the lane's memory is the next batch's
            for name, (dtype, width) in self._outputs(job).items()
        }
        columns = found.get("columns")
        best = None if columns is None else Best(columns.astype(np.int64), found["values"])
        return Answer(found.get("scores"), found.get("features"), best)

    def close(self) -> None:
        """Give everything back; graphs, then contexts, then memory. Nothing is raised."""
        with suppress(BackendError):
            self._stream.synchronize()
        self._drop_contexts()
        for held in (*self._memory.values(), *self._pinned.values(), self._event, self._stream):
            with suppress(BackendError):
                held.close()
        self._memory.clear()
        self._pinned.clear()

    def _outputs(self, job: Job) -> dict[str, tuple[type, int]]:
        """Dtype and width of what is copied back."""
        wanted: dict[str, tuple[type, int]] = {}
        if job.scores:
            wanted["scores"] = np.float32, job.head.classes
        if job.features:
            wanted["features"] = np.float32, self._engine.widths[1]
        if job.best:
            wanted |= {"columns": (np.int32, job.best), "values": (np.float32, job.best)}
        return wanted

    def _wanted(self, job: Job) -> dict[str, int]:
        """Bytes of what is copied back."""
        return {name: job.rows * width * FLOAT for name, (_, width) in self._outputs(job).items()}

    def _reserve(self, fit: Fit, job: Job) -> None:
        """Have all memory that a batch needs."""
        classes, features = job.head.classes, self._engine.widths[1]
        row = int(np.prod(self._engine.input.shape)) * np.dtype(self._engine.input.dtype).itemsize
        sizes = {
            "input": fit.rows * row,
            "class_bias": classes * FLOAT,
            "scores": fit.rows * classes * FLOAT,
            "features": fit.rows * features * FLOAT,
            "between": self._engine.scratch_bytes(fit.profile),
        }
        if job.best and self._topk is not None:
            sizes |= {
                "columns": fit.rows * job.best * FLOAT,
                "values": fit.rows * job.best * FLOAT,
                "search": self._topk.scratch_bytes(fit.rows, classes, job.best),
            }
        for name, size in sizes.items():
            self._grow(self._memory, DeviceMemory, name, size)
        pinned = {"input": job.rows * row, "class_bias": classes * FLOAT, **self._wanted(job)}
        for name, size in pinned.items():
            self._grow(self._pinned, PinnedMemory, name, size)

    def _grow(self, held: dict[str, Any], kind: type[DeviceMemory | PinnedMemory], name: str, size: int) -> None:
        """Have at least `size` bytes under `name`; what was there is lost."""
        before = held.get(name)
        if before is not None and before.bytes >= size:
            return
        if before is not None:
            if kind is DeviceMemory:
                self._retire_contexts()  # they know the old addresses
            del held[name]
            before.close()
        if name == "class_bias":
            self._class_bias = None
        # Rounded up, so that a class more is not new memory; what is between layers has its size from the engine.
        rounded = size if name == "between" else 1 << max(size - 1, 1).bit_length()
        held[name] = kind(self._cuda, max(rounded, ALIGNMENT))

    def _stage(self, rows: Batch, job: Job) -> None:
        """Copy rows and class bias to pinned memory, and from there to the card."""
        port = self._engine.input
        staged = self._pinned["input"].view(port.dtype, (job.rows, *port.shape))
        if isinstance(rows, np.ndarray):
            np.copyto(staged, rows)
        else:
            np.stack(rows, out=staged)
        self._copy("input", staged.nbytes)
        if self._class_bias is not job.class_bias:
            bias = self._pinned["class_bias"].view(np.float32, job.class_bias.shape)
            np.copyto(bias, job.class_bias)
            self._class_bias = None
            self._copy("class_bias", bias.nbytes)
            self._class_bias = job.class_bias

    def _copy(self, name: str, size: int) -> None:
        self._cuda.copy_to_card(self._memory[name].address, self._pinned[name].address, size, self._stream)

    def _context(self, fit: Fit, job: Job) -> _Ready:
        """The context of this bucket and head, made when there is none."""
        key = (*fit, job.head.serial, job.best)
        found = self._ready.get(key)
        if found is not None:
            self._ready.move_to_end(key)
            return found
        while len(self._ready) >= self._most:
            self._retire(self._ready.popitem(last=False)[1])
        spare = self._spare.get(fit.profile)
        ready = spare.pop() if spare else _Ready(self._engine.make_context(fit.profile, self._stream), fit.profile)
        self._ready[key] = ready
        self._prepare(ready, fit, job)
        return ready

    def _prepare(self, ready: _Ready, fit: Fit, job: Job) -> None:
        """Give a context its memory, shapes and addresses."""
        port, classes, (width, features) = self._engine.input, job.head.classes, self._engine.widths
        between = self._memory["between"]
        ready.context.set_device_memory(between.address, between.bytes)
        shapes = {
            port.name: (fit.rows, *port.shape),
            "head_weight": (classes, width),
            "head_bias": (classes,),
            "class_bias": (classes,),
        }
        addresses = {
            port.name: self._memory["input"].address,
            "head_weight": job.head.weight.address,
            "head_bias": job.head.bias.address,
            **{name: self._memory[name].address for name in ("class_bias", "scores", "features")},
        }
        self._engine.messages.clear()
        for name, shape in shapes.items():
            if not ready.context.set_input_shape(name, shape):
                raise self._engine.failure(f"take {name} of shape {shape}")
        for name, address in addresses.items():
            if not ready.context.set_tensor_address(name, address):
                raise self._engine.failure(f"use the memory of {name}")
        missing = ready.context.infer_shapes()
        if missing:
            raise self._engine.failure(f"find out the shapes that follow from {', '.join(missing)}")
        for name, expected in {"scores": (fit.rows, classes), "features": (fit.rows, features)}.items():
            found = tuple(ready.context.get_tensor_shape(name))
            if found != expected:
                raise BackendError(
                    "E-BACKEND-RUN",
                    f"the engine makes {name} of shape {found}, expected {expected}; build it again with --rebuild",
                )

    def _run(self, ready: _Ready, fit: Fit, job: Job) -> None:
        """Queue the computation: as it is the first time, recorded the second, from then on as one CUDA graph."""
        if ready.graph is None and ready.runs and self._graphs:
            self._record(ready, fit, job)
        if ready.graph is not None:
            ready.graph.launch(self._stream)
        else:
            self._enqueue(ready, fit, job)
        ready.runs += 1

    def _record(self, ready: _Ready, fit: Fit, job: Job) -> None:
        """Record the CUDA graph; where that does not work, this lane goes on without."""
        try:
            with self._stream.capturing() as graphs:
                self._enqueue(ready, fit, job)
        except BackendError as error:
            if error.code == LOST:
                raise
            self._graphs = False
            return
        ready.graph = graphs[0]

    def _enqueue(self, ready: _Ready, fit: Fit, job: Job) -> None:
        self._engine.messages.clear()
        if not ready.context.execute_async_v3(self._stream.address):
            raise self._engine.failure(f"run a batch of {job.rows}")
        if job.best and self._topk is not None:
            at = {name: self._memory[name].address for name in ("scores", "search", "columns", "values")}
            self._topk.launch(
                at["scores"],
                fit.rows,
                job.head.classes,
                job.best,
                at["search"],
                at["columns"],
                at["values"],
                self._stream.address,
            )

    def _forget(self, alive: frozenset[int]) -> None:
        """Retire the contexts of heads that are gone."""
        for key in [key for key in self._ready if key[2] not in alive]:
            self._retire(self._ready.pop(key))

    def _retire(self, ready: _Ready) -> None:
        """Keep a context to be made ready for something else. Nothing of it is queued."""
        spare = self._spare.setdefault(ready.profile, [])
        if len(spare) < self._most:
            spare.append(ready)
            ready.retire()
        else:
            ready.close()

    def _retire_contexts(self) -> None:
        while self._ready:
            self._retire(self._ready.popitem()[1])

    def _drop_contexts(self) -> None:
        """Graphs, then contexts; nothing is raised."""
        for ready in (*self._ready.values(), *(one for spare in self._spare.values() for one in spare)):
            ready.close()
        self._ready.clear()
        self._spare.clear()

    def _recover(self) -> None:
        """After a failure: nothing of it is queued any more, and no context that may be half set up is used again."""
        with suppress(BackendError):
            self._stream.synchronize()
        self._class_bias = None
        self._drop_contexts()
