"""The compiled core, and the kernels for NVIDIA cards inside it, where nvcc was found when it was built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import BackendError

if TYPE_CHECKING:
    from types import ModuleType, TracebackType


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


class driver_errors:  # noqa: N801  # read as a phrase: with driver_errors()
    """The driver's words in our kind of error: BackendError E-CUDA.

    Not made of a generator: from Python 3.12 on its frame and the driver's error would hold each other, and with them
    all that the caller has, pictures and the card's modules, until the next collection of garbage.
    """

    def __enter__(self) -> None:
        """Nothing is to be made ready."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Raise BackendError E-CUDA in the place of the core's error."""
        if isinstance(error, load_native().CudaError):
            raise BackendError(
                "E-CUDA",
                f"{error}; see to it that nvidia-smi shows the card, with a driver as new as CUDA 13, or use cpu",
            ) from None
