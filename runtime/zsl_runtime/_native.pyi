import numpy as np
from numpy.typing import NDArray

def resize_crop(
    pixels: NDArray[np.uint8],
    column_first: NDArray[np.int32],
    column_taps: NDArray[np.int32],
    row_first: NDArray[np.int32],
    row_taps: NDArray[np.int32],
) -> NDArray[np.uint8]: ...
