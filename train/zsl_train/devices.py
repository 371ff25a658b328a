"""The device that a training computes on: the CPU, or one NVIDIA card.

`computing(device)` is entered around a method's `fit`: networks, random numbers and what `tensor_of` makes of arrays
then lie there, and so does all that follows from them. Heads, scores and what ships are computed on the CPU.
"""

from __future__ import annotations

import contextlib
import platform
import threading
from typing import TYPE_CHECKING, Any

import torch

from zsl_runtime.errors import UsageError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import Tensor

CODE = "E-TRAIN-DEVICE"
CPU = torch.device("cpu")


def find_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` names; `auto` is a card where torch can use one.

    Raises:
        UsageError: E-TRAIN-DEVICE for another name, or for a card that is not there.

    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    kind, _, number = name.partition(":")
    if kind not in {"auto", "cuda"} or (number and not number.isdecimal()) or (kind == "auto" and number):
        raise UsageError(CODE, f"--device {shown(name, 40)}; expected auto, cpu, cuda, or cuda:N for card N")
    if not torch.cuda.is_available():
        why = "this torch was built for the CPU alone" if torch.version.cuda is None else "it finds no card it can use"
        raise UsageError(CODE, f"--device {name}: torch {torch.__version__} has no card here ({why}); give cpu")
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        cards = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0"
        raise UsageError(CODE, f"--device {name}: this machine has {count} card(s); give {cards}")
    return torch.device("cuda", int(number or 0))


def computing(device: torch.device) -> AbstractContextManager[Any]:
    """Make what is made in this thread lie on `device`; nothing changes for the CPU."""
    return contextlib.nullcontext() if device.type == "cpu" else torch.device(device)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Keep convolutions on a card in float32: cuDNN's TF32 has 10 bits where features are said to have 23."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def current() -> torch.device:
    """The device of `computing` in this thread."""
    return torch.get_default_device()


def tensor_of(array: NDArray[Any]) -> Tensor:
    """A NumPy array as a tensor of the same dtype on the current device; on the CPU it shares the memory."""
    return torch.from_numpy(array).to(current())


def described(device: torch.device) -> str:
    """The card's name, or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


RECORDING = threading.Lock()  # folds go side by side in threads; one records at a time
MOST_GRAPHS = 2  # phases of one step that are kept
WARM = 3  # steps before a step is recorded: libraries choose their kernels, optimisers make their state


def capturable() -> bool:
    """Whether optimisers that are made now must keep their step count on the card, as recorded steps need it."""
    return current().type == "cuda"


def repeated(
    body: Callable[[int], Mapping[str, Tensor]],
    generator: torch.Generator,
    phase: Callable[[int], object] = lambda _step: None,
) -> Callable[[int], Mapping[str, Tensor]]:
    """A step that does the same every time, made fast where it runs on a card; elsewhere the step as it is.

    A step of small networks is hundreds of launches, which take longer than what they compute. So it is recorded once
    as a CUDA graph and played from then on. That needs a step that never waits for the card, whose optimisers are
    `capturable`, and whose randomness comes from `generator` alone; Python in it runs only while it is recorded.

    Args:
        body: the step; returns its losses, scalars by name.
        generator: of the step's randomness.
        phase: of a step, by its number: steps of another phase are recorded apart.

    Returns:
        A function that takes the number of the step. The losses it returns are overwritten by the next step.

    """
    return Recorded(body, generator, phase) if generator.device.type == "cuda" else body


class Recorded:
    """The step of `repeated` on a card."""

    def __init__(
        self,
        body: Callable[[int], Mapping[str, Tensor]],
        generator: torch.Generator,
        phase: Callable[[int], object],
    ) -> None:
        self._body, self._generator, self._phase = body, generator, phase
        # One stream for all: gradients are added up in the stream in which a weight was first used.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._warmed: dict[object, int] = {}  # phase -> its steps before it is recorded
        self._graphs: dict[object, tuple[torch.cuda.CUDAGraph, Mapping[str, Tensor]]] = {}

    def __call__(self, step: int) -> Mapping[str, Tensor]:
        """Do one step."""
        phase = self._phase(step)
        warmed = self._warmed.get(phase, 0)
        if warmed < WARM:
            self._warmed[phase] = warmed + 1
            return self._warm(step)
        if phase not in self._graphs:
            if len(self._graphs) == MOST_GRAPHS:  # phases that are over would keep their memory
                del self._graphs[next(iter(self._graphs))]
            self._graphs[phase] = self._record(step)
        graph, losses = self._graphs[phase]
        graph.replay()
        return losses

    def _warm(self, step: int) -> Mapping[str, Tensor]:
        """Do a step beside the usual stream, as CUDA wants it before one is recorded."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            losses = self._body(step)
        here.wait_stream(self._stream)
        return losses

    def _record(self, step: int) -> tuple[torch.cuda.CUDAGraph, Mapping[str, Tensor]]:
        """Record a step, which is not done by that; other threads may use the card meanwhile."""
        with RECORDING:
            return self._record_alone(step)

    def _record_alone(self, step: int) -> tuple[torch.cuda.CUDAGraph, Mapping[str, Tensor]]:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            losses = self._body(step)
        return graph, losses
