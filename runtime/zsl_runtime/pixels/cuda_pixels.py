"""Resize and crop on an NVIDIA card: the same bytes as `zsl_runtime.pixels`, for pictures that are there already.

The kernels are inside the compiled core where nvcc was found when it was built, and are loaded through the driver alone
(libcuda), so that nothing of CUDA has to be installed beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zsl_runtime.errors import UsageError
from zsl_runtime.machine.native import driver_errors, load_kernels
from zsl_runtime.pixels.pixels import check_out, check_pictures

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.pixels.pixels import PixelSpec


class DevicePicture(NamedTuple):
    """A decoded picture in the card's memory: uint8 (height, width, 3), row-major, without gaps."""

    pointer: int
    height: int
    width: int


class CudaPixels:
    """Resize and crop on one card, in its primary context (the one that other libraries use, too).

    Args:
        device: the card, as the driver counts.

    Raises:
        BackendError: E-NATIVE; E-CUDA-KERNELS, when zsl-deploy was built without nvcc; E-CUDA, when there is no driver
            or no such card, or the driver refuses the kernels.

    """

    def __init__(self, device: int = 0) -> None:
        native = load_kernels("resize on the CPU")
        with driver_errors():
            self._resizer = native.CudaResizer(device)

    def resize_crop_batch(
        self, pictures: Sequence[NDArray[np.uint8]], spec: PixelSpec, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Copy pictures to the card, resize and crop them there, copy the squares back.

        Args:
            pictures: N arrays uint8 (H, W, 3), each with a size of its own.
            spec: sizes.
            out: as for `zsl_runtime.pixels.resize_crop_batch`.

        Returns:
            `out`, uint8 (N, P, P, 3) with P = spec.crop.

        Raises:
            InputError: E-IMAGE-ARRAY, E-IMAGE-HUGE.
            UsageError: E-PIXELS-OUT.
            BackendError: E-CUDA, when the driver fails, for example without memory.

        """
        arrays = check_pictures(pictures)
        squares = check_out(out, arrays, spec)
        with driver_errors():
            self._resizer.resize_crop_batch(arrays, spec.resize, squares)
        return squares

    def resize_crop_pointers(
        self, pictures: Sequence[DevicePicture], spec: PixelSpec, out: int, stream: int = 0
    ) -> None:
        """Resize and crop pictures in the card's memory; queued on a stream and not waited for.

        Args:
            pictures: N pictures. Their memory must stay until the stream is through; it cannot be checked.
            spec: sizes.
            out: pointer to N * P * P * 3 bytes on the card that overlap no picture.
            stream: a CUstream as a number; 0 is the default stream.

        Raises:
            UsageError: E-PIXELS-POINTER, for a null pointer or a size below 1.
            BackendError: E-CUDA.

        """
        for place, (pointer, height, width) in enumerate(pictures):
            if min(pointer, height, width) < 1:
                raise UsageError(
                    "E-PIXELS-POINTER",
                    f"picture {place} is {height} x {width} at {pointer:#x}; expected memory and at least one pixel",
                )
        if out < 1:
            raise UsageError("E-PIXELS-POINTER", f"`out` is {out:#x}; expected memory on the card")
        with driver_errors():
            self._resizer.resize_crop_pointers([tuple(one) for one in pictures], spec.resize, spec.crop, out, stream)
