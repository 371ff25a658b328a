"""Calls of the compiled core with arguments of any kind: sizes, types, strides, windows and numbers of threads."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

SIZES = (0, 1, 1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 130)
HUGE = (0, -1, 1, 2, 3, 255, 65535, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 53) + 1, (1 << 62), (1 << 63) - 1)
REFUSALS = (TypeError, ValueError, MemoryError, OverflowError)


def call(data: bytes) -> None:
    """One to three calls that follow from `data`; what may be refused is."""
    draw = random.Random(data)
    for _ in range(draw.randrange(1, 4)):
        way = draw.choice((_resize, _resize, _batch, _batch, _coefficients, _card))
        try:
            way(draw)
        except REFUSALS:
            continue
        except RuntimeError as error:
            if type(error).__name__ != "CudaError":
                raise


def _core() -> Any:
    from fuzz import sanitized

    sanitized.take_place()
    from zsl_runtime import _native

    return _native


def picture(draw: random.Random) -> Any:
    """An array that is mostly a picture."""
    shape = [draw.choice(SIZES), draw.choice(SIZES), 3]
    if draw.random() < 0.1:
        shape = draw.choice(([3], shape[:2], [*shape, 3], [shape[0], shape[1], 4], [shape[0], shape[1], 1]))
    dtype = draw.choice((*[np.uint8] * 8, np.int8, np.uint16, np.float32, bool))
    array = np.arange(int(np.prod(shape)), dtype=np.int64).astype(dtype).reshape(shape)
    kind = draw.randrange(12)
    if kind == 0:
        return array[::-1]
    if kind == 1:
        return array[::2]
    if kind == 2 and array.ndim == 3:
        return array.transpose(1, 0, 2)
    if kind == 3:
        return np.asfortranarray(array)
    if kind == 4:
        array.flags.writeable = False
    if kind == 5 and array.nbytes:  # not aligned to anything, and no byte behind it is its own
        held = np.zeros(array.nbytes + 1, np.uint8)
        held[1:] = np.frombuffer(array.tobytes(), np.uint8)
        return held[1:].view(array.dtype).reshape(shape) if array.itemsize == 1 else array
    if kind == 6 and array.ndim == 3 and array.size:
        return np.broadcast_to(array[:1], array.shape)
    return draw.choice((None, array.tobytes(), array.tolist(), [array])) if kind == 7 else array


def _axis(draw: random.Random, source: int) -> tuple[Any, Any]:
    """Windows, mostly inside `source` samples."""
    count, width = draw.choice(SIZES), draw.choice((1, 2, 3, 4, 5, 8, 9, max(source, 1)))
    last = max(source - width, 0)
    first = np.array([draw.randrange(last + 1) for _ in range(count)], np.int32)
    total = 1 << 22
    taps = np.full((count, width), total // width, np.int32)
    kind = draw.randrange(14)
    if kind == 0 and count:
        first[draw.randrange(count)] = draw.choice((-1, source, source - width + 1, (1 << 31) - 1, -(1 << 31)))
    elif kind == 1:
        taps[...] = draw.choice((1 << 23, -(1 << 23), (1 << 31) - 1, -(1 << 31), 0, -1))
    elif kind == 2 and width > 1:
        taps[:, 0], taps[:, 1] = total * 5 // 4, -(total // 4)
    elif kind == 3:
        first = first[: draw.choice(SIZES)]
    elif kind == 4:
        taps = taps.astype(draw.choice((np.int64, np.float64, np.uint32)))
    elif kind == 5:
        taps = taps[:, ::2]
    elif kind == 6:
        taps = taps.reshape(-1)
    elif kind == 7:
        first = first.astype(np.int64)
    return first, taps


def _kernels(draw: random.Random) -> str:
    return draw.choice((*_core().kernels(), "", "other", "\0"))


def _resize(draw: random.Random) -> None:
    array = picture(draw)
    height, width = (*getattr(array, "shape", ()), 0, 0)[:2]
    made = _core().resize_crop(array, *_axis(draw, width), *_axis(draw, height), _kernels(draw))
    assert made.dtype == np.uint8
    int(made.astype(np.int64).sum())


def _batch(draw: random.Random) -> None:
    count, side = draw.choice((0, 1, 2, 3, 9)), draw.choice((*SIZES[1:14], 0))
    given = count if draw.random() < 0.9 else count + 1
    pictures = [picture(draw) for _ in range(count)]
    if draw.random() < 0.7:  # mostly what can be done
        sizes = [(draw.choice(SIZES[1:]), draw.choice(SIZES[1:])) for _ in range(count)]
        pictures = [np.full((*size, 3), 200, np.uint8) for size in sizes]
    out = np.zeros((given, side, side if draw.random() < 0.95 else side + 1, 3), np.uint8)
    if draw.random() < 0.1:
        out = draw.choice((out[..., ::-1], out[::2], out.astype(np.float32), np.asfortranarray(out), None))
    resize = draw.choice((side, side, side + 1, side * 2, side * 7, 0, *HUGE)) if draw.random() < 0.5 else side
    if isinstance(resize, int) and 10_000 < resize < 1 << 40:
        resize = 10_000  # more is refused by all that call this
    _core().resize_crop_batch(pictures, resize, out, draw.choice((1, 1, 2, 3, 16, 0, -1, 1 << 40)), _kernels(draw))


def _coefficients(draw: random.Random) -> None:
    numbers = [draw.choice((*HUGE, *SIZES)) for _ in range(4)]
    if numbers[3] > 1000 or numbers[0] > 1 << 24:
        numbers[3] = draw.choice((1, 2, 1000))
    first, taps = _core().coefficients(*numbers)
    assert len(first) == len(taps) == numbers[3]


def _card(draw: random.Random) -> None:
    """What needs a card, mostly without one."""
    core = _core()
    way = draw.randrange(3)
    if way == 0:
        core.CudaResizer(draw.choice((0, -1, 99, 1 << 40)))
    elif way == 1:
        core.CudaTopK(draw.choice((0, -1, 99)))
    else:
        assert core.CudaTopK.scratch_bytes(*(draw.choice(HUGE) for _ in range(3))) >= 0
