# ruff: noqa: N801, N802, N815, N818  # CUDA's names, and a word that reads better without Error
"""A CUDA runtime that is none: it stands where `cuda.bindings.runtime` would, and is stricter than a card.

The card's memory is ordinary memory under invented addresses. What is queued on a stream is done when somebody waits
for it, or by chance somewhat earlier: a program that does not wait, or that reuses memory too early, gives wrong
answers here, or is told. `Misuse` is raised, and kept in `misuses`, for what NVIDIA's documentation forbids:
memory that is not there or too small, memory given back while queued work needs it, two streams at the same memory
without waiting for each other, another card than the thread's, a capture that is not ended, anything given back twice.
"""

from __future__ import annotations

import ctypes
import random
import threading
from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

POISON = 0xA5
GAP = 4096  # between two pieces of the card's memory
FIRST_ADDRESS = 0x7F00_0000_0000


class Misuse(AssertionError):
    """What a real card would answer with a crash, or with wrong numbers now and then."""


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorECCUncorrectable = 214
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureWrongThread = 908


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


OK = cudaError_t.cudaSuccess


@dataclass
class Block:
    """A piece of memory, on a card or pinned in the host."""

    address: int
    data: np.ndarray
    device: int | None
    alive: bool = True


@dataclass(eq=False)
class Work:
    """Something queued.

    Attributes:
        run: does it.
        reads: (address, bytes) on the card that it reads.
        writes: those that it writes.
        pinned: those of the host that it reads or writes.
        kind: for the injection of failures.
        check: raises Misuse when it must not be queued (any more).

    """

    run: Callable[[], None]
    reads: list[tuple[int, int]] = field(default_factory=list)
    writes: list[tuple[int, int]] = field(default_factory=list)
    pinned: list[tuple[int, int]] = field(default_factory=list)
    kind: str = ""
    check: Callable[[], None] = lambda: None
    stream: Any = None
    done: bool = False


@dataclass(eq=False)
class FakeStream:
    handle: int
    device: int
    queue: deque[Work] = field(default_factory=deque)
    alive: bool = True
    recording: list[Work] | None = None
    recorder: int = 0
    spoiled: bool = False


class FakeCuda:
    """The functions of `cuda.bindings.runtime` that we call, and what a test needs to look inside.

    Args:
        devices: compute capability of each card.
        memory: bytes of each card.
        seed: of the chance by which queued work is done before anybody waits; None: never.

    """

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaEventBlockingSync = 1
    cudaEventDisableTiming = 2

    def __init__(self, devices: tuple[str, ...] = ("8.9",), memory: int = 1 << 30, seed: int | None = 0) -> None:
        self.devices, self.memory = devices, memory
        self.lock = threading.RLock()
        self.misuses: list[str] = []
        self.calls: list[str] = []
        self.launched = 0  # CUDA graphs
        self._chance = None if seed is None else random.Random(seed)
        self._local = threading.local()
        self._blocks: dict[int, Block] = {}
        self._sorted: list[int] = []
        self._next = FIRST_ADDRESS
        self._handles = 1000
        self.streams: dict[int, FakeStream] = {}
        self._events: dict[int, Work | None] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._executables: dict[int, list[Work]] = {}
        self._failures: dict[str, list[cudaError_t]] = {}
        self._broken: dict[str, cudaError_t] = {}
        self.lost: cudaError_t | None = None

    # --- for tests --------------------------------------------------------------------------------------------------

    def fail(self, function: str, status: cudaError_t, times: int = 1) -> None:
        """Let the next calls of a function do nothing but return a status."""
        self._failures.setdefault(function, []).extend([status] * times)

    def break_down(self, kind: str, status: cudaError_t = cudaError_t.cudaErrorIllegalAddress) -> None:
        """Let the next queued work of a kind (`enqueue`, `copy`, `topk`) fail: the card is lost from then on."""
        self._broken[kind] = status

    def held(self) -> dict[str, int]:
        """What was not given back."""
        counts = {
            "memory": sum(block.alive for block in self._blocks.values()),
            "streams": sum(stream.alive for stream in self.streams.values()),
            "events": len(self._events),
            "graphs": len(self._graphs) + len(self._executables),
        }
        return {name: count for name, count in counts.items() if count}

    def used(self, device: int = 0) -> int:
        """Bytes of a card's memory that are taken."""
        return sum(block.data.size for block in self._blocks.values() if block.alive and block.device == device)

    def misuse(self, what: str) -> Misuse:
        self.misuses.append(what)
        return Misuse(what)

    # --- memory -----------------------------------------------------------------------------------------------------

    def view(self, address: int, size: int) -> np.ndarray:
        """The bytes at an address, wherever they are; Misuse unless all of them are there."""
        at = bisect_right(self._sorted, address) - 1
        block = self._blocks[self._sorted[at]] if at >= 0 else None
        if block is None or address + size > block.address + block.data.size:
            raise self.misuse(f"{size} bytes at {address:#x} are not inside one piece of memory")
        if not block.alive:
            raise self.misuse(f"{size} bytes at {address:#x} were given back")
        return block.data[address - block.address : address - block.address + size]

    def device_of(self, address: int) -> int | None:
        at = bisect_right(self._sorted, address) - 1
        return self._blocks[self._sorted[at]].device if at >= 0 else None

    def _is_pinned(self, address: int) -> bool:
        at = bisect_right(self._sorted, address) - 1
        block = self._blocks[self._sorted[at]] if at >= 0 else None
        return block is not None and block.device is None and address < block.address + block.data.size

    def _add(self, block: Block) -> None:
        self._blocks[block.address] = block
        insort(self._sorted, block.address)

    # --- queues -----------------------------------------------------------------------------------------------------

    def enqueue(self, stream: FakeStream, work: Work) -> None:
        """Queue work, or record it while the stream is captured."""
        work.check()
        for address, size in (*work.reads, *work.writes):
            self.view(address, size)
            if self.device_of(address) != stream.device:
                raise self.misuse(f"{work.kind} on card {stream.device} uses memory of {self.device_of(address)}")
        for address, size in work.pinned:
            self.view(address, size)
        if stream.recording is not None:
            if stream.recorder != threading.get_ident():
                raise self.misuse("a stream is used by another thread than the one that captures it")
            stream.recording.append(work)
            return
        queued = Work(work.run, work.reads, work.writes, work.pinned, work.kind, work.check, stream)
        for other in self._unfinished():
            if other.stream is not stream and (
                _meet(queued.writes, [*other.reads, *other.writes, *other.pinned])
                or _meet(other.writes, [*queued.reads, *queued.pinned])
            ):
                raise self.misuse(f"{queued.kind} meets {other.kind} of another stream at the same memory")
        stream.queue.append(queued)

    def _unfinished(self) -> list[Work]:
        return [work for stream in self.streams.values() for work in stream.queue]

    def _do_one(self, stream: FakeStream) -> None:
        """The next thing of a stream; the card may break down at it."""
        work = stream.queue.popleft()
        work.done = True
        status = self._broken.pop(work.kind, None)
        if status is not None:
            self.lost = status
        if self.lost is None:
            work.run()

    def _perhaps_work(self) -> None:
        """Some queued work is done by now, by chance."""
        if self._chance is None:
            return
        for stream in self.streams.values():
            while stream.queue and self._chance.random() < 0.3:
                self._do_one(stream)

    def stream(self, handle: Any, *, capturing: bool = True) -> FakeStream:
        """The stream of a handle, on this thread's card."""
        found = self.streams.get(int(handle))
        if found is None or not found.alive:
            raise self.misuse(f"stream {handle} is not there")
        if found.device != self._current():
            raise self.misuse(f"a stream of card {found.device} is used while {self._current()} is the thread's card")
        if found.recording is not None and not capturing:
            found.spoiled = True
        return found

    def _current(self) -> int:
        return getattr(self._local, "device", 0)

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def _enter(self, name: str) -> cudaError_t | None:
        """At the beginning of a call: what it must return at once, if anything."""
        self.calls.append(name)
        self._perhaps_work()
        if self._failures.get(name):
            return self._failures[name].pop(0)
        return self.lost

    def _unsafe(self) -> cudaError_t | None:
        """For calls that must not be made by a thread that captures."""
        for stream in self.streams.values():
            if stream.recording is not None and stream.recorder == threading.get_ident():
                stream.spoiled = True
                return cudaError_t.cudaErrorStreamCaptureUnsupported
        return None

    # --- the functions ----------------------------------------------------------------------------------------------

    def cudaGetDeviceCount(self):
        status = self._enter("cudaGetDeviceCount")
        return (status, None) if status else (OK, len(self.devices))

    def cudaSetDevice(self, device):
        if not 0 <= device < len(self.devices):
            return (cudaError_t.cudaErrorInvalidDevice,)
        self._local.device = device
        return (OK,)

    def cudaGetDevice(self):
        return OK, self._current()

    def cudaGetDeviceProperties(self, device):
        major, minor = map(int, self.devices[device].split("."))
        return OK, SimpleNamespace(name=f"Fake {device}".encode() + b"\0" * 9, major=major, minor=minor)

    def cudaGetErrorString(self, error):
        return OK, f"an invented {cudaError_t(error).name.removeprefix('cudaError')}".encode()

    def cudaGetLastError(self):
        return (OK,)

    def cudaMemGetInfo(self):
        device = self._current()
        return OK, self.memory - self.used(device), self.memory

    def cudaMalloc(self, size):
        with self.lock:
            status = self._enter("cudaMalloc") or self._unsafe()
            if status:
                return status, None
            if size < 1:
                raise self.misuse(f"{size} bytes of memory are asked for")
            if self.used(self._current()) + size > self.memory:
                return cudaError_t.cudaErrorMemoryAllocation, None
            block = Block(self._next, np.full(size, POISON, np.uint8), self._current())
            self._next += -(-(size + GAP) // GAP) * GAP
            self._add(block)
            return OK, block.address

    def cudaFree(self, address):
        return self._free("cudaFree", address, pinned=False)

    def cudaHostAlloc(self, size, flags):
        with self.lock:
            status = self._enter("cudaHostAlloc") or self._unsafe()
            if status:
                return status, None
            assert flags == 0
            data = np.full(size, POISON, np.uint8)
            self._add(Block(data.ctypes.data, data, None))
            return OK, data.ctypes.data

    def cudaFreeHost(self, address):
        return self._free("cudaFreeHost", address, pinned=True)

    def _free(self, name, address, *, pinned):
        with self.lock:
            status = self._enter(name) or self._unsafe()
            block = self._blocks.get(int(address))
            if block is None or not block.alive or (block.device is None) is not pinned:
                raise self.misuse(f"{name} of {int(address):#x}, which is not there or was given back before")
            if block.device not in {None, self._current()}:
                raise self.misuse(f"{name} on another card")
            own = [(block.address, block.data.size)]
            for work in self._unfinished() if self.lost is None else ():  # a lost card does nothing any more
                if _meet(own, [*work.reads, *work.writes, *work.pinned]):
                    raise self.misuse(f"memory is given back while a queued {work.kind} needs it")
            block.alive = False  # the data stays, so that what still looks at it sees poison and does not crash
            block.data[:] = POISON
            return (status or OK,)

    def cudaMemcpyAsync(self, to, source, count, kind, stream):
        with self.lock:
            status = self._enter("cudaMemcpyAsync")
            if status:
                return (status,)
            queue = self.stream(stream)
            if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
                if self._is_pinned(source):
                    work = Work(lambda: self._move(to, source, count), writes=[(to, count)], pinned=[(source, count)])
                else:  # all of it is read when the call returns
                    kept = np.frombuffer(ctypes.string_at(source, count), np.uint8)
                    work = Work(lambda: self._fill(to, kept), writes=[(to, count)])
            else:
                assert kind == cudaMemcpyKind.cudaMemcpyDeviceToHost
                if not self._is_pinned(to):
                    raise self.misuse("a copy to memory that is not pinned would wait")
                work = Work(lambda: self._move(to, source, count), reads=[(source, count)], pinned=[(to, count)])
            work.kind = "copy"
            self.enqueue(queue, work)
            return (OK,)

    def _move(self, to, source, count):
        self.view(to, count)[:] = self.view(source, count)

    def _fill(self, to, content):
        self.view(to, content.size)[:] = content

    def cudaStreamCreateWithFlags(self, flags):
        with self.lock:
            status = self._enter("cudaStreamCreateWithFlags")
            if status:
                return status, None
            if flags != self.cudaStreamNonBlocking:
                raise self.misuse("a stream that waits for the default stream")
            made = FakeStream(self._handle(), self._current())
            self.streams[made.handle] = made
            return OK, made.handle

    def cudaStreamSynchronize(self, stream):
        with self.lock:
            status = self._enter("cudaStreamSynchronize")
            if status:
                return (status,)
            queue = self.stream(stream, capturing=False)
            if queue.recording is not None:
                return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
            while queue.queue:
                self._do_one(queue)
            return (self.lost or OK,)

    def cudaStreamDestroy(self, stream):
        with self.lock:
            status = self._enter("cudaStreamDestroy")
            found = self.stream(stream)
            if found.queue and self.lost is None:
                raise self.misuse("a stream is closed while work is queued")
            if found.recording is not None:
                raise self.misuse("a stream is closed while it is captured")
            found.queue.clear()
            found.alive = False
            return (status or OK,)

    def cudaEventCreateWithFlags(self, flags):
        with self.lock:
            status = self._enter("cudaEventCreateWithFlags")
            if status:
                return status, None
            handle = self._handle()
            self._events[handle] = None
            return OK, handle

    def cudaEventRecord(self, event, stream):
        with self.lock:
            status = self._enter("cudaEventRecord")
            if status:
                return (status,)
            if event not in self._events:
                raise self.misuse("an event that is not there")
            queue = self.stream(stream)
            mark = Work(lambda: None, kind="event")
            self.enqueue(queue, mark)
            self._events[event] = queue.queue[-1]
            return (OK,)

    def cudaEventSynchronize(self, event):
        with self.lock:
            status = self._enter("cudaEventSynchronize") or self._unsafe()
            if status:
                return (status,)
            mark = self._events[event]
            while mark is not None and not mark.done:
                self._do_one(mark.stream)
            return (self.lost or OK,)

    def cudaEventDestroy(self, event):
        with self.lock:
            status = self._enter("cudaEventDestroy")
            if event not in self._events:
                raise self.misuse("an event is given back twice")
            del self._events[event]
            return (status or OK,)

    def cudaStreamBeginCapture(self, stream, mode):
        with self.lock:
            status = self._enter("cudaStreamBeginCapture")
            if status:
                return (status,)
            if mode == cudaStreamCaptureMode.cudaStreamCaptureModeGlobal:
                raise self.misuse("a capture that other threads' calls would spoil")
            found = self.stream(stream)
            if found.recording is not None:
                raise self.misuse("a capture inside a capture")
            found.recording, found.recorder, found.spoiled = [], threading.get_ident(), False
            return (OK,)

    def cudaStreamEndCapture(self, stream):
        with self.lock:
            status = self._enter("cudaStreamEndCapture")
            found = self.stream(stream)
            if found.recording is None or found.recorder != threading.get_ident():
                raise self.misuse("the end of a capture that this thread did not begin")
            recorded, found.recording = found.recording, None
            if status or found.spoiled:
                return status or cudaError_t.cudaErrorStreamCaptureInvalidated, None
            handle = self._handle()
            self._graphs[handle] = recorded
            return OK, handle

    def cudaGraphInstantiate(self, graph, flags):
        with self.lock:
            status = self._enter("cudaGraphInstantiate")
            if status:
                return status, None
            assert flags == 0
            handle = self._handle()
            self._executables[handle] = list(self._graphs[graph])
            return OK, handle

    def cudaGraphDestroy(self, graph):
        with self.lock:
            status = self._enter("cudaGraphDestroy")
            if graph not in self._graphs:
                raise self.misuse("a graph is given back twice")
            del self._graphs[graph]
            return (status or OK,)

    def cudaGraphLaunch(self, graph, stream):
        with self.lock:
            status = self._enter("cudaGraphLaunch")
            if status:
                return (status,)
            if graph not in self._executables:
                raise self.misuse("a graph that is not there is run")
            queue = self.stream(stream)
            self.launched += 1
            for work in self._executables[graph]:
                self.enqueue(queue, work)
            return (OK,)

    def cudaGraphExecDestroy(self, graph):
        with self.lock:
            status = self._enter("cudaGraphExecDestroy")
            if graph not in self._executables:
                raise self.misuse("a graph is given back twice")
            del self._executables[graph]
            return (status or OK,)


def _meet(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> bool:
    return any(a < d + m and d < a + n for a, n in some for d, m in others)


class FakeTopK:
    """Stands where `zsl_runtime.trt.topk.CudaTopK` would: the same search, in NumPy, on the fake card."""

    def __init__(self, cuda: FakeCuda, device: int) -> None:
        self._cuda, self._device = cuda, device

    def scratch_bytes(self, rows: int, columns: int, count: int) -> int:
        return 4 * rows * count * 3

    def launch(self, scores, rows, columns, count, scratch, out_columns, out_scores, stream) -> None:
        from zsl_runtime.head.head import best_columns

        cuda = self._cuda

        def search() -> None:
            given = cuda.view(scores, 4 * rows * columns).view(np.float32).reshape(rows, columns)
            given = np.nan_to_num(given, nan=-np.inf, neginf=-np.inf)
            best = best_columns(given, count)
            cuda.view(scratch, self.scratch_bytes(rows, columns, count))[:] = POISON
            cuda.view(out_columns, 4 * rows * count)[:] = best.astype(np.int32).view(np.uint8).ravel()
            values = np.take_along_axis(given, best, axis=1)
            cuda.view(out_scores, 4 * rows * count)[:] = values.view(np.uint8).ravel()

        with cuda.lock:
            work = Work(
                search,
                reads=[(scores, 4 * rows * columns)],
                writes=[
                    (scratch, self.scratch_bytes(rows, columns, count)),
                    (out_columns, 4 * rows * count),
                    (out_scores, 4 * rows * count),
                ],
                kind="topk",
            )
            cuda.enqueue(cuda.stream(stream), work)
