"""The best columns of each row of scores on an NVIDIA card, so that only they are copied from it.

The same answer as `zsl_runtime.head.head.best_columns`, which is the definition: largest first, ties in column order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import UsageError
from zsl_runtime.machine.native import driver_errors, load_kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats


MOST = 64  # columns wanted of a row; beyond, copying all scores and sorting them on the CPU is as good


class CudaTopK:
    """Finds the best columns on one card, in its primary context (the one that TensorRT uses, too).

    Args:
        device: the card, as the driver counts.

    Raises:
        BackendError: E-NATIVE; E-CUDA-KERNELS, when zsl-deploy was built without nvcc; E-CUDA, when there is no driver
            or no such card, or the driver refuses the kernels.

    """

    def __init__(self, device: int = 0) -> None:
        native = load_kernels("find the best classes on the CPU")
        with driver_errors():
            self._native = native.CudaTopK(device)

    def scratch_bytes(self, rows: int, columns: int, count: int) -> int:
        """Memory on the card that `launch` needs beside its results."""
        return int(self._native.scratch_bytes(rows, columns, count))

    def launch(  # noqa: PLR0917  # addresses in the order of the work
        self,
        scores: int,
        rows: int,
        columns: int,
        count: int,
        scratch: int,
        out_columns: int,
        out_scores: int,
        stream: int,
    ) -> None:
        """Queue the search on a stream; nothing is reserved or waited for, so that a CUDA graph may hold it.

        Args:
            scores: address on the card of float32 (rows, columns).
            rows: at least 1.
            columns: at least `count`.
            count: from 1 to `columns`.
            scratch: address of `scratch_bytes` bytes on the card.
            out_columns: address of int32 (rows, count) on the card.
            out_scores: address of float32 (rows, count) on the card.
            stream: a CUstream as a number.

        Raises:
            UsageError: E-TOPK for another count, or without rows.
            BackendError: E-CUDA.

        """
        _check(rows, columns, count)
        with driver_errors():
            self._native.launch(scores, rows, columns, count, scratch, out_columns, out_scores, stream)

    def best(self, scores: Floats, count: int) -> tuple[NDArray[np.int32], Floats]:
        """Copy scores (N, C) float32 to the card; columns (N, count) int32 and their scores (N, count) float32.

        Raises:
            UsageError: E-TOPK.
            BackendError: E-CUDA.

        """
        rows, columns = scores.shape
        _check(rows, columns, count)
        found = np.empty((rows, count), np.int32), np.empty((rows, count), np.float32)
        with driver_errors():
            self._native.best_copied(np.ascontiguousarray(scores, np.float32), *found)
        return found


def _check(rows: int, columns: int, count: int) -> None:
    if rows < 1 or not 1 <= count <= columns:
        raise UsageError(
            "E-TOPK", f"{count} best of {columns} columns in {rows} rows; expected 1 to {columns}, and rows"
        )
