"""
Compiled core of zsl_runtime: fixed-point resize and crop. Used through zsl_runtime.pixels.pixels.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


def kernels() -> list[str]:
    """Names of the kernels that this CPU can run, fastest first."""

def coefficients(source: int, target: int, start: int, count: int) -> tuple[Annotated[NDArray[numpy.int32], dict(shape=(None,))], Annotated[NDArray[numpy.int32], dict(shape=(None, None))]]:
    """What zsl_runtime.pixels.pixels.coefficients computes, bit for bit."""

def resize_crop(pixels: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, 3), order='C', device='cpu', writable=False)], column_first: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], column_taps: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], row_first: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], row_taps: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], kernels: str = '') -> Annotated[NDArray[numpy.uint8], dict(shape=(None, None, 3))]:
    """
    Resample columns, then rows, of uint8 (H, W, 3) with int32 taps of 22 fractional bits.

    column_first (P,), column_taps (P, T), row_first (Q,), row_taps (Q, U); returns uint8 (Q, P, 3).
    Raises TypeError for other dtypes or layouts, ValueError for a window outside the picture.
    """

def resize_crop_batch(pictures: Sequence[Annotated[NDArray[numpy.uint8], dict(shape=(None, None, 3), order='C', device='cpu', writable=False)]], resize: int, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu')], threads: int = 1, kernels: str = '') -> None:
    """
    Resize and crop a list of uint8 (H, W, 3) into `out` (N, P, P, 3), which must not overlap them.

    Raises TypeError for other dtypes or layouts, ValueError for sizes that do not fit.
    """

class CudaError(RuntimeError):
    pass

def has_cuda_kernels() -> bool:
    """Whether this build holds kernels for NVIDIA cards."""

class CudaResizer:
    """
    `resize_crop_batch` on an NVIDIA card, numbered as the driver does. Raises CudaError.
    """

    def __init__(self, device: int) -> None: ...

    def resize_crop_batch(self, pictures: Sequence[Annotated[NDArray[numpy.uint8], dict(shape=(None, None, 3), order='C', device='cpu', writable=False)]], resize: int, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, 3), order='C', device='cpu')]) -> None:
        """From and to ordinary memory: copies there and back, and waits."""

    def resize_crop_pointers(self, pictures: Sequence[tuple[int, int, int]], resize: int, crop: int, out: int, stream: int = 0) -> None:
        """
        Pictures (address, height, width) and `out` are on the card; queued on `stream`, not waited for.
        """

class CudaTopK:
    """
    The best columns of each row of scores on an NVIDIA card, numbered as the driver does.

    Largest first, equal ones in the order of columns. Raises CudaError.
    """

    def __init__(self, device: int) -> None: ...

    @staticmethod
    def scratch_bytes(rows: int, columns: int, count: int) -> int:
        """Memory that `launch` needs beside its results."""

    def launch(self, scores: int, rows: int, columns: int, count: int, scratch: int, out_columns: int, out_scores: int, stream: int) -> None:
        """Addresses are the card's; queued on `stream`, not waited for."""

    def best_copied(self, scores: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], out_columns: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], out_scores: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """From and to ordinary memory: copies there and back, and waits."""
