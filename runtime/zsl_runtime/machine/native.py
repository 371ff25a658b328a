"""The compiled core, and the kernels for NVIDIA cards inside it, where nvcc was found when it was built."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def load_native() -> ModuleType:
    """The compiled core; BackendError E-NATIVE where it is not installed."""
    try:
        import zsl_runtime._native as native
    except ImportError as error:
        raise BackendError(
            "E-NATIVE",
            f"the compiled part of zsl-deploy cannot be loaded ({error}); install it with `pip install zsl-deploy`, "
            "or `pip install .` in a clone",
        ) from None
    return native


def has_kernels() -> bool:
    """Whether this zsl-deploy was built with nvcc; BackendError E-NATIVE without its compiled core."""
    return bool(load_native().has_cuda_kernels())


def load_kernels(otherwise: str) -> Any:
    """The compiled core with its kernels.

    Args:
        otherwise: what can be done without them, for the message.

    Raises:
        BackendError: E-NATIVE; E-CUDA-KERNELS, when zsl-deploy was built without nvcc.

    """
    if not has_kernels():
        raise BackendError(
            "E-CUDA-KERNELS",
            "this zsl-deploy was built without nvcc and has no kernels for a card; install the CUDA toolkit and "
            f"build it again, or {otherwise}",
        )
    return load_native()


@contextmanager
def driver_errors() -> Iterator[None]:
    """The driver's words in our kind of error: BackendError E-CUDA."""
    try:
        yield
    except load_native().CudaError as error:
        raise BackendError(
            "E-CUDA", f"{error}; see to it that nvidia-smi shows the card, with a driver as new as CUDA 13, or use cpu"
        ) from None
