"""Kinds of arrays and of functions on them that many files speak of, and how long ones are taken in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]
    Synthesize = Callable[[Floats, Floats], Floats]  # semantic vectors (M, A), noise (M, Z) -> features (M, F)
    Lift = Callable[[Floats], Floats]  # features (M, F) -> (M, D)
    ComputeRows = Callable[[Floats], tuple[Floats, Floats]]  # semantic vectors (M, A) -> weights (M, D), biases (M,)
    Batch = NDArray[np.generic] | Sequence[NDArray[np.generic]]  # an array (n, ...), or n arrays of one shape
    Advance = Callable[[int], None]  # told how many steps of a long piece of work are done

BLOCK_ROWS = 1024  # rows that go through a graph or a large matrix product at once


def row_blocks(count: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices of at most `size` that cover `count` rows in order; the last one is shorter."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
