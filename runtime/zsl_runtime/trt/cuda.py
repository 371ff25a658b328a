"""CUDA's runtime API as far as engines need it: every status is looked at, and what is reserved is given back once.

Over `cuda.bindings.runtime`, which is imported when a card is opened. Work is queued on streams of our own that do not
wait for the default stream, and all memory is explicit: on the card, or pinned in the host for copies that go on while
Python does something else.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import BackendError
from zsl_runtime.extras import wanting
from zsl_runtime.machine import cards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

EXTRA = "tensorrt"  # `rtx` brings the bindings, too
MEMORY, LOST, OTHER = "E-CUDA-MEMORY", "E-CUDA-LOST", "E-CUDA"
# After one of these every later call of the process fails, too: its context on the card is gone.
FATAL = frozenset(
    {
        "cudaErrorDeviceUninitialized",
        "cudaErrorECCUncorrectable",
        "cudaErrorNvlinkUncorrectable",
        "cudaErrorContained",
        "cudaErrorIllegalAddress",
        "cudaErrorLaunchTimeout",
        "cudaErrorContextIsDestroyed",
        "cudaErrorAssert",
        "cudaErrorHardwareStackError",
        "cudaErrorIllegalInstruction",
        "cudaErrorMisalignedAddress",
        "cudaErrorInvalidAddressSpace",
        "cudaErrorInvalidPc",
        "cudaErrorLaunchFailure",
        "cudaErrorTensorMemoryLeak",
        "cudaErrorMpsClientTerminated",
        "cudaErrorUnknown",
    }
)
HOST_ALLOC = 0  # cudaHostAllocDefault
FOR_THIS_THREAD = "cudaStreamCaptureModeThreadLocal"  # what other threads do meanwhile is no part of a capture


def import_cuda() -> Any:
    """The module `cuda.bindings.runtime`; BackendError E-BACKEND-MISSING, with the install line, without it."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError(
            "E-BACKEND-MISSING", f"running an engine needs {wanting('cuda.bindings', error, EXTRA)}"
        ) from None
    return runtime


class Cuda:
    """One card.

    Methods may be called from any thread, inside `current`.

    Args:
        index: of the card, as the driver counts.

    Attributes:
        name: such as `NVIDIA L4`.
        compute_capability: such as `8.9`.

    Raises:
        BackendError: E-BACKEND-MISSING without cuda.bindings; E-DEVICE when there is no such card.

    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.api = import_cuda()
        self._check_index()
        properties = self.call("cudaGetDeviceProperties", index, doing="ask the card for its name")
        self.name = bytes(properties.name).split(b"\0", 1)[0].decode(errors="replace")
        self.compute_capability = f"{properties.major}.{properties.minor}"

    def _check_index(self) -> None:
        try:
            count = self.call("cudaGetDeviceCount", doing="count the cards")
        except Exception as error:  # without any driver the bindings raise errors of their own
            said = error.message.partition("; ")[0] if isinstance(error, BackendError) else str(error)
            raise self._unusable(cards.driver().problem or said) from None
        if not 0 <= self.index < count:
            raise self._unusable(f"CUDA shows {count} card{'' if count == 1 else 's'}, counted from 0; choose another")

    def _unusable(self, why: str) -> BackendError:
        return BackendError(
            "E-DEVICE",
            f"cuda:{self.index} cannot be used: {why}; or run on the CPU with --device cpu and without --backend",
        )

    def call(self, name: str, *arguments: Any, doing: str) -> Any:
        """Call a function of the API.

        Args:
            name: of the function.
            arguments: passed on.
            doing: completes the sentence "could not ...".

        Returns:
            What it gives beside its status: nothing, one thing, or a tuple.

        Raises:
            BackendError: E-CUDA-MEMORY; E-CUDA-LOST when nothing on the card will work again in this process; E-CUDA
                for any other status but success.

        """
        status, *given = getattr(self.api, name)(*arguments)
        if status != self.api.cudaError_t.cudaSuccess:
            raise self._error(status, doing)
        return given[0] if len(given) == 1 else tuple(given) or None

    def _error(self, status: Any, doing: str) -> BackendError:
        self.api.cudaGetLastError()  # so that the next call does not report this one
        name = str(getattr(status, "name", status))
        _, text = self.api.cudaGetErrorString(status)
        said = f"{(text or b'').decode(errors='replace')} ({name})"
        if name == "cudaErrorMemoryAllocation":
            return BackendError(
                MEMORY,
                f"cuda:{self.index} could not {doing}: {said}; take a smaller --batch-size, --precision fp16, free "
                "memory on the card, or another --backend",
            )
        if name in FATAL:
            return BackendError(
                LOST,
                f"cuda:{self.index} could not {doing}: {said}; this process cannot use the card any more: go on with a "
                "backend of the CPU, or start again and see what nvidia-smi says",
            )
        return BackendError(
            OTHER, f"cuda:{self.index} could not {doing}: {said}; see what zsl-doctor says, or use another --backend"
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let this thread use this card inside the block, and afterwards the one that it used before."""
        before = self.call("cudaGetDevice", doing="ask which card is in use")
        if before != self.index:
            self.call("cudaSetDevice", self.index, doing="use the card")
        try:
            yield
        finally:
            if before != self.index:
                self.api.cudaSetDevice(before)

    def memory(self) -> tuple[int, int]:
        """Bytes of the card's memory that are free, and all of them."""
        free, total = self.call("cudaMemGetInfo", doing="ask how much memory is free")
        return int(free), int(total)

    def copy_to_card(self, to: int, source: int, count: int, stream: Stream) -> None:
        """Queue a copy of `count` bytes; pinned memory must stay as it is until the stream is through."""
        self._copy(to, source, count, "cudaMemcpyHostToDevice", stream, "copy to the card")

    def copy_to_host(self, to: int, source: int, count: int, stream: Stream) -> None:
        """Queue a copy of `count` bytes; what is at `to` may be read when the stream is through."""
        self._copy(to, source, count, "cudaMemcpyDeviceToHost", stream, "copy from the card")

    def _copy(self, to: int, source: int, count: int, kind: str, stream: Stream, doing: str) -> None:  # noqa: PLR0917
        direction = getattr(self.api.cudaMemcpyKind, kind)
        self.call("cudaMemcpyAsync", to, source, count, direction, stream.handle, doing=doing)


class _Held:
    """Something of the card that is given back once, by `close`."""

    _give_back = ""  # the function
    _doing = ""

    def __init__(self, cuda: Cuda, handle: Any) -> None:
        self.cuda = cuda
        self.handle = handle

    def close(self) -> None:
        """Give it back; nothing that was queued may need it any more. Further calls do nothing."""
        handle, self.handle = self.handle, None
        if handle is not None:
            self.cuda.call(self._give_back, handle, doing=self._doing)


class Stream(_Held):
    """A queue of work on a card. It waits for no other, not for the default stream either."""

    _give_back, _doing = "cudaStreamDestroy", "close a stream"

    def __init__(self, cuda: Cuda) -> None:
        flags = int(cuda.api.cudaStreamNonBlocking)
        super().__init__(cuda, cuda.call("cudaStreamCreateWithFlags", flags, doing="open a stream"))

    @property
    def address(self) -> int:
        """As TensorRT and our kernels take it."""
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait until everything that was queued is done; what failed meanwhile is raised here."""
        self.cuda.call("cudaStreamSynchronize", self.handle, doing="finish the work on the card")

    @contextmanager
    def capturing(self) -> Iterator[list[Graph]]:
        """Record what is queued inside the block, without running it; the list holds the graph afterwards.

        Where the block raises, the recording is ended and dropped.
        """
        graphs: list[Graph] = []
        mode = getattr(self.cuda.api.cudaStreamCaptureMode, FOR_THIS_THREAD)
        self.cuda.call("cudaStreamBeginCapture", self.handle, mode, doing="begin a CUDA graph")
        try:
            yield graphs
        except BaseException:
            status, recorded = self.cuda.api.cudaStreamEndCapture(self.handle)
            if status == self.cuda.api.cudaError_t.cudaSuccess:
                self.cuda.api.cudaGraphDestroy(recorded)
            self.cuda.api.cudaGetLastError()
            raise
        recorded = self.cuda.call("cudaStreamEndCapture", self.handle, doing="end a CUDA graph")
        try:
            graphs.append(Graph(self.cuda, recorded))
        finally:
            self.cuda.call("cudaGraphDestroy", recorded, doing="drop the recording of a CUDA graph")


class Graph(_Held):
    """A recorded CUDA graph that can be run; made by `Stream.capturing`."""

    _give_back, _doing = "cudaGraphExecDestroy", "drop a CUDA graph"

    def __init__(self, cuda: Cuda, recorded: Any) -> None:
        super().__init__(cuda, cuda.call("cudaGraphInstantiate", recorded, 0, doing="make a CUDA graph"))

    def launch(self, stream: Stream) -> None:
        """Queue it."""
        self.cuda.call("cudaGraphLaunch", self.handle, stream.handle, doing="run a CUDA graph")


class Event(_Held):
    """A mark in a stream. Whoever waits for it sleeps, and leaves the CPU to threads that decode."""

    _give_back, _doing = "cudaEventDestroy", "drop an event"

    def __init__(self, cuda: Cuda) -> None:
        flags = int(cuda.api.cudaEventBlockingSync) | int(cuda.api.cudaEventDisableTiming)
        super().__init__(cuda, cuda.call("cudaEventCreateWithFlags", flags, doing="make an event"))

    def record(self, stream: Stream) -> None:
        """Put the mark behind all that was queued."""
        self.cuda.call("cudaEventRecord", self.handle, stream.handle, doing="mark a place in a stream")

    def synchronize(self) -> None:
        """Wait until the stream has come to the mark; what failed meanwhile is raised here."""
        self.cuda.call("cudaEventSynchronize", self.handle, doing="finish the work on the card")


class DeviceMemory(_Held):
    """Memory on a card, aligned to 256 bytes.

    Attributes:
        bytes: its size.

    """

    _give_back, _doing = "cudaFree", "give back memory of the card"

    def __init__(self, cuda: Cuda, size: int) -> None:
        self.bytes = size
        super().__init__(cuda, cuda.call("cudaMalloc", size, doing=f"reserve {size / 2**20:.1f} MiB on the card"))

    @property
    def address(self) -> int:
        """On the card."""
        return int(self.handle)


class PinnedMemory(_Held):
    """Memory of the host that the card reads and writes by itself.

    Attributes:
        bytes: its size.

    """

    _give_back, _doing = "cudaFreeHost", "give back pinned memory"

    def __init__(self, cuda: Cuda, size: int) -> None:
        self.bytes = size
        doing = f"reserve {size / 2**20:.1f} MiB of pinned memory in the host"
        super().__init__(cuda, cuda.call("cudaHostAlloc", size, HOST_ALLOC, doing=doing))

    @property
    def address(self) -> int:
        """In the host."""
        return int(self.handle)

    def view(self, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """An array over its beginning; not to be used after `close`."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert count <= self.bytes
        return np.frombuffer((ctypes.c_uint8 * count).from_address(self.address), dtype=dtype).reshape(shape)
