from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def kernels() -> list[str]: ...
def coefficients(source: int, target: int, start: int, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]: ...
def resize_crop(
    pixels: NDArray[np.uint8],
    column_first: NDArray[np.int32],
    column_taps: NDArray[np.int32],
    row_first: NDArray[np.int32],
    row_taps: NDArray[np.int32],
    kernels: str = "",
) -> NDArray[np.uint8]: ...
def resize_crop_batch(
    pictures: Sequence[NDArray[np.uint8]],
    resize: int,
    out: NDArray[np.uint8],
    threads: int = 1,
    kernels: str = "",
) -> None: ...
def has_cuda_kernels() -> bool: ...

class CudaError(RuntimeError): ...

class CudaResizer:
    def __init__(self, device: int) -> None: ...
    def resize_crop_batch(self, pictures: Sequence[NDArray[np.uint8]], resize: int, out: NDArray[np.uint8]) -> None: ...
    def resize_crop_pointers(
        self, pictures: Sequence[tuple[int, int, int]], resize: int, crop: int, out: int, stream: int = 0
    ) -> None: ...

class CudaTopK:
    def __init__(self, device: int) -> None: ...
    @staticmethod
    def scratch_bytes(rows: int, columns: int, count: int) -> int: ...
    def launch(
        self,
        scores: int,
        rows: int,
        columns: int,
        count: int,
        scratch: int,
        out_columns: int,
        out_scores: int,
        stream: int,
    ) -> None: ...
    def best_copied(
        self, scores: NDArray[np.float32], out_columns: NDArray[np.int32], out_scores: NDArray[np.float32]
    ) -> None: ...
