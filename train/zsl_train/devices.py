"""The device that a training computes on: the CPU, or one NVIDIA card.

`computing(device)` is entered around a method's `fit`: networks, random numbers and what `tensor_of` makes of arrays
then lie there, and so does all that follows from them. Heads, scores and what ships are computed on the CPU.
"""

from __future__ import annotations

import contextlib
import platform
from typing import TYPE_CHECKING, Any

import torch

from zsl_runtime.errors import UsageError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import Tensor

CPU = torch.device("cpu")


def find_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` names; `auto` is a card where torch can use one.

    Raises:
        UsageError: E-DEVICE for another name, or for a card that is not there.

    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    kind, _, number = name.partition(":")
    if kind not in {"auto", "cuda"} or (number and not number.isdecimal()) or (kind == "auto" and number):
        raise UsageError("E-DEVICE", f"--device {shown(name, 40)}; expected auto, cpu, cuda, or cuda:N for card N")
    if not torch.cuda.is_available():
        why = "this torch was built for the CPU alone" if torch.version.cuda is None else "it finds no card it can use"
        raise UsageError("E-DEVICE", f"--device {name}: torch {torch.__version__} has no card here ({why}); give cpu")
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        cards = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0"
        raise UsageError("E-DEVICE", f"--device {name}: this machine has {count} card(s); give {cards}")
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
