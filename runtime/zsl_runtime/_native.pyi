"""Compiled core of zsl_runtime: fixed-point resize and crop. Used through zsl_runtime.pixels."""

import numpy as np
from numpy.typing import NDArray

def resize_crop(
    pixels: NDArray[np.uint8],
    column_first: NDArray[np.int32],
    column_taps: NDArray[np.int32],
    row_first: NDArray[np.int32],
    row_taps: NDArray[np.int32],
) -> NDArray[np.uint8]:
    """Resample columns, then rows, of uint8 (H, W, 3) with int32 taps of 22 fractional bits.

    column_first (P,), column_taps (P, T), row_first (Q,), row_taps (Q, U); returns uint8 (Q, P, 3).
    Raises TypeError for other dtypes or layouts, ValueError for a window outside the picture.
    """
