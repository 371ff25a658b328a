"""One engine at work on one card: heads that stay there, lanes that batches go through, and the order of it all.

A `Session` holds the engine, the heads on the card and a few lanes. A `Lane` is what one batch needs for itself: a
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
from collections import OrderedDict, deque
from contextlib import contextmanager, suppress
from itertools import count as counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.backends import InputPort
from zsl_runtime.backends.answers import Answer, Best
from zsl_runtime.backends.graphs import HEAD_INPUTS, Port, check_ports
from zsl_runtime.errors import ArtefactError, BackendError, UsageError, ZslError
from zsl_runtime.trt.cuda import LOST, MEMORY, DeviceMemory, Event, PinnedMemory, Stream
from zsl_runtime.trt.library import Messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.cuda_topk import CudaTopK
    from zsl_runtime.head import FoldedHead
    from zsl_runtime.trt.cuda import Cuda, Graph
    from zsl_runtime.trt.library import Library

    Floats = NDArray[np.float32]
    Rows = NDArray[np.generic] | Sequence[NDArray[np.generic]]

LANES = 4  # at most; made when they are needed, so one thread that overlaps two batches has two
OVERLAP = 2  # batches of one caller: one is computed, the next is copied to the card
CONTEXTS = 8  # a lane: buckets x heads that are ready to run, those used last
HEADS = 2  # on the card beside those in use
SPIN_ROWS = 8  # for batches up to this the host waits without sleeping: waking up takes longer than is left to do
DTYPES = {"UINT8": "uint8", "FLOAT": "float32"}  # of TensorRT
FLOAT = 4  # bytes
ALIGNMENT = 256


class Fit(NamedTuple):
    """How a batch runs.

    Attributes:
        profile: index of the optimisation profile.
        rows: of the batch after padding.

    """

    profile: int
    rows: int


class _Range(NamedTuple):
    """Batch sizes and class counts of one optimisation profile."""

    least: int
    most: int
    most_classes: int


# --- the engine -----------------------------------------------------------------------------------------------------


class Engine:
    """A deserialised plan of a model graph.

    Args:
        library: that built it.
        plan: its bytes; they have been checked and are trusted.
        where: for messages.

    Attributes:
        inputs: as of a graph.
        outputs: their names.
        input: `images` or `backbone_features`.
        widths: D and F.
        captures: whether we record CUDA graphs; TensorRT-RTX does that itself.

    Raises:
        ArtefactError: E-ENGINE-LOAD when the library does not take it, E-BUNDLE-GRAPH when it is no model of ours.

    """

    def __init__(self, library: Library, plan: bytes, where: str) -> None:
        self._trt = library.module
        self.messages = Messages(library)
        self._runtime: Any = self._trt.Runtime(self.messages.logger)
        self._runtime.engine_host_code_allowed = False
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ArtefactError(
                "E-ENGINE-LOAD",
                f"{library} does not load {where!r}: {self.messages.text()}; build it again with --rebuild",
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        given = [name for name in names if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT]
        self.inputs = tuple(self._port(name) for name in given)
        self.outputs = tuple(name for name in names if name not in given)
        check_ports("model", self, where)
        ports = {name: self._port(name) for name in names}
        wrong = [port for port in ports.values() if port.name != "images" and port.dtype != "float32"]
        if wrong:
            raise ArtefactError(
                "E-BUNDLE-GRAPH",
                f"{where!r} has {wrong[0].name} in {wrong[0].dtype}, expected float32; export it again",
            )
        (port,) = (port for port in self.inputs if port.name not in HEAD_INPUTS)
        self.input = InputPort(port.name, port.dtype, tuple(int(axis or 0) for axis in port.shape[1:]))
        self.widths = int(ports["head_weight"].shape[1] or 0), int(ports["features"].shape[1] or 0)
        self._ranges = tuple(self._range(index) for index in range(self._engine.num_optimization_profiles))
        self.captures = not hasattr(self._trt, "CudaGraphStrategy")

    def _port(self, name: str) -> Port:
        dtype = self._engine.get_tensor_dtype(name).name
        shape = tuple(None if axis < 0 else int(axis) for axis in self._engine.get_tensor_shape(name))
        return Port(name, DTYPES.get(dtype, dtype), shape)

    def _range(self, index: int) -> _Range:
        least, _, most = (int(dims[0]) for dims in self._engine.get_tensor_profile_shape(self.input.name, index))
        classes = int(self._engine.get_tensor_profile_shape("head_weight", index)[2][0])
        return _Range(least, most, classes)

    @property
    def most_rows(self) -> int:
        """The largest batch."""
        return max(one.most for one in self._ranges)

    @property
    def most_classes(self) -> int:
        """The largest head that every profile takes."""
        return min(one.most_classes for one in self._ranges)

    def fit(self, rows: int) -> Fit:
        """The narrowest profile that takes `rows` (at most `most_rows`), and the power of two they are padded to."""
        able = [index for index, one in enumerate(self._ranges) if one.most >= rows]
        profile = min(able, key=lambda index: (self._ranges[index].most, index))
        one = self._ranges[profile]
        return Fit(profile, max(one.least, min(1 << (rows - 1).bit_length(), one.most)))

    def scratch_bytes(self, profile: int) -> int:
        """Memory that a context of this profile needs for what is between layers."""
        return int(self._engine.get_device_memory_size_for_profile_v2(profile))

    def make_context(self, profile: int, stream: Stream) -> Any:
        """A context of one profile, without memory; BackendError E-BACKEND-RUN."""
        self.messages.clear()
        unmanaged = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.captures:
            context = self._engine.create_execution_context(unmanaged)
        else:  # TensorRT-RTX compiles kernels for a shape when it first meets it, and knows when to record its graph
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(unmanaged)
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
            context = self._engine.create_execution_context(config)
        if context is None or not context.set_optimization_profile_async(profile, stream.address):
            context = None  # whoever keeps the error keeps this frame
            raise self.failure("make a context")
        return context

    def failure(self, doing: str) -> BackendError:
        """What the library logged, as our error."""
        return BackendError(
            "E-BACKEND-RUN",
            f"TensorRT could not {doing}: {self.messages.text()}; try a smaller batch, or another --backend",
        )

    def close(self) -> None:
        """Let go of the engine and then of its runtime; no context may be left."""
        self._engine = None
        self._runtime = None


# --- heads ----------------------------------------------------------------------------------------------------------


class CardHead:
    """Weight and bias of a head on the card; `Heads` makes and drops it.

    Attributes:
        serial: another one for each upload.
        classes: C.
        weight: (C, D) float32.
        bias: (C,) float32.

    """

    def __init__(self, serial: int, head: FoldedHead, weight: DeviceMemory, bias: DeviceMemory) -> None:
        self.serial = serial
        self.classes = len(head.bias)
        self.weight = weight
        self.bias = bias
        self.arrays = head.weight, head.bias  # kept, so that no other array takes their identity
        self.users = 0

    def close(self) -> None:
        """Give the memory back; nothing is raised."""
        for memory in (self.weight, self.bias):
            with suppress(BackendError):
                memory.close()


class Heads:
    """The heads on a card. One that is in use stays; of the others the HEADS used last.

    A head is told by the identity of its arrays, which nobody changes: class filters, which replace `class_bias` alone,
    are the same head here. Uploads go through a stream of their own, and calls with other heads do not wait for them.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._stream = Stream(cuda)
        self._lock = threading.Lock()
        self._uploading = threading.Lock()
        self._held: OrderedDict[tuple[int, int], CardHead] = OrderedDict()
        self._serials = counter(1)

    def acquire(self, head: FoldedHead) -> CardHead:
        """The head on the card, copied there if need be; to be released. BackendError E-CUDA-..."""
        key = id(head.weight), id(head.bias)
        found = self._use(key)
        if found is not None:
            return found
        with self._uploading:
            found = self._use(key)  # another thread may have been first
            if found is not None:
                return found
            made = self._upload(head)
            made.users = 1
            with self._lock:
                self._held[key] = made
                dropped = self._idle()
        self._drop(dropped)
        return made

    def release(self, head: CardHead) -> None:
        """The work with it is done."""
        with self._lock:
            head.users -= 1
            dropped = self._idle()
        self._drop(dropped)

    def serials(self) -> frozenset[int]:
        """Of the heads that are there."""
        with self._lock:
            return frozenset(head.serial for head in self._held.values())

    def close(self) -> None:
        """Give everything back; none may be in use."""
        with self._lock:
            dropped = list(self._held.values())
            self._held.clear()
        self._drop(dropped)
        with suppress(BackendError):
            self._stream.close()

    def _use(self, key: tuple[int, int]) -> CardHead | None:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                found.users += 1
                self._held.move_to_end(key)
            return found

    def _idle(self) -> list[CardHead]:
        """Take out what is too much, the one used longest ago first. With the lock held."""
        unused = [key for key, head in self._held.items() if head.users == 0]
        return [self._held.pop(key) for key in unused[: max(len(unused) - HEADS, 0)]]

    def _drop(self, heads: list[CardHead]) -> None:
        for head in heads:
            head.close()

    def _upload(self, head: FoldedHead) -> CardHead:
        arrays = [np.ascontiguousarray(array, np.float32) for array in (head.weight, head.bias)]
        made: list[DeviceMemory] = []
        try:
            for array in arrays:
                made.append(DeviceMemory(self._cuda, array.nbytes))
                self._cuda.copy_to_card(made[-1].address, array.ctypes.data, array.nbytes, self._stream)
            self._stream.synchronize()
        except BaseException:
            with suppress(BackendError):
                self._stream.synchronize()  # a copy that was queued still writes there
            for memory in made:
                with suppress(BackendError):
                    memory.close()
            raise
        return CardHead(next(self._serials), head, *made)


# --- lanes ----------------------------------------------------------------------------------------------------------


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

    """

    def __init__(self, cuda: Cuda, engine: Engine, topk: CudaTopK | None, *, graphs: bool) -> None:
        self._cuda, self._engine, self._topk = cuda, engine, topk
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

    def submit(self, rows: Rows, job: Job, alive: frozenset[int]) -> None:
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

    def _stage(self, rows: Rows, job: Job) -> None:
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
        while len(self._ready) >= CONTEXTS:
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
        if len(spare) < CONTEXTS:
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


# --- the session ----------------------------------------------------------------------------------------------------


class SessionClosedError(Exception):
    """The session was closed before this batch began; a new one takes it."""


class Pending:
    """A batch at work."""

    def __init__(self, session: Session, lane: Lane, job: Job) -> None:
        self._session, self._lane, self._job = session, lane, job
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
                with self._session.cuda.current():
                    answer = self._lane.collect(self._job)
            except Exception as error:
                self._session.note(error)
                self._error = error.with_traceback(None)  # whose frames would keep what is being given back
            else:
                self._answer = answer
            self._session.finished(self, self._lane, self._job.head)


class Parts:
    """A batch that is larger than the engine takes, in parts."""

    def __init__(self, parts: Sequence[Pending]) -> None:
        self._parts = parts

    def result(self) -> Answer:
        """As of `Pending`, put together."""
        answers = [part.result() for part in self._parts]
        scores = [one.scores for one in answers if one.scores is not None]
        features = [one.features for one in answers if one.features is not None]
        best = [one.best for one in answers if one.best is not None]
        return Answer(
            np.concatenate(scores) if scores else None,
            np.concatenate(features) if features else None,
            Best(*(np.concatenate(both) for both in zip(*best, strict=True))) if best else None,
        )


class Session:
    """An engine at work. Every method may be called from several threads.

    Nobody waits for ever: who finds no lane finishes the batch that has been at work longest, whosever it is, and takes
    its lane; its answer is kept for who asks for it.

    Args:
        cuda: the card.
        engine: what runs; it is closed with the session.
        topk: finds best columns; None where there are no kernels.
        graphs: record CUDA graphs.
        lanes: at most.

    """

    def __init__(
        self, cuda: Cuda, engine: Engine, topk: CudaTopK | None, *, graphs: bool = True, lanes: int = LANES
    ) -> None:
        self.cuda, self.engine = cuda, engine
        self._topk, self._graphs = topk, graphs
        self._changed = threading.Condition()
        self._idle: list[Lane] = []
        self._made, self._most, self._inside = 0, lanes, 0
        self._at_work: deque[Pending] = deque()
        self._closing = self._closed = False
        self._lost: BackendError | None = None
        with cuda.current():
            self._heads = Heads(cuda)

    def hold(self, head: FoldedHead) -> None:
        """Copy a head to the card before the first batch needs it.

        Raises:
            UsageError: E-HEAD-CLASSES.
            BackendError: E-CUDA-...
            SessionClosedError: the session is closed.

        """
        self._check(head)
        with self._entered(), self.cuda.current():
            self._heads.release(self._acquire(head))

    def begin(
        self, rows: Rows, head: FoldedHead, *, best: int = 0, scores: bool = True, features: bool = True
    ) -> Pending | Parts:
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
            SessionClosedError: the session is closed.

        """
        self._check(head)
        step = self.engine.most_rows
        parts = [rows] if len(rows) <= step else [rows[at : at + step] for at in range(0, len(rows), step)]
        with self.cuda.current():
            begun: list[Pending] = []
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

    def finished(self, pending: Pending, lane: Lane, head: CardHead) -> None:
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

    def _begin(self, rows: Rows, head: FoldedHead, best: int, *, scores: bool, features: bool) -> Pending:
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

    def _submit(self, lane: Lane, rows: Rows, head: FoldedHead, best: int, *, scores: bool, features: bool) -> Pending:
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
        pending = Pending(self, lane, job)
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
                    raise SessionClosedError
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
            return Lane(self.cuda, self.engine, self._topk, graphs=self._graphs)
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

    def _last(self) -> Pending | None:
        """While closing: a batch at work; None when all lanes are idle and nobody is inside."""
        with self._changed:
            self._changed.wait_for(lambda: self._at_work or (len(self._idle) == self._made and not self._inside))
            return self._at_work[0] if self._at_work else None

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Somebody uses the card without a lane: the session is not closed meanwhile."""
        with self._changed:
            if self._closing:
                raise SessionClosedError
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()
