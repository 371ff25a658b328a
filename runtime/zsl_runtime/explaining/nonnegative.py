"""Least squares with coefficients of at least 0, from the Gram matrix alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from zsl_runtime.arrays import Doubles

TOLERANCE = 1e-10  # of a gradient, beside the largest at the start


def nonnegative(gram: Doubles, right: Doubles) -> Doubles:
    """The g >= 0 with the least 1/2 g' gram g - right' g.

    The active set method of Lawson and Hanson (1974, chapter 23) on the Gram matrix (Bro and de Jong, 1997): the
    coefficients that are not 0 solve their own equations exactly, and one more at a time is let in.

    Args:
        gram: (n, n), positive definite.
        right: (n,).

    Returns:
        (n,) float64.

    """
    count = len(right)
    solution = np.zeros(count)
    if not count:
        return solution
    free = np.zeros(count, dtype=np.bool_)
    least = TOLERANCE * np.abs(right).max()
    for _ in range(3 * count):
        slope = right - gram @ solution
        slope[free] = -np.inf
        best = int(slope.argmax())
        if not slope[best] > least:
            break
        free[best] = True
        _solve(gram, right, solution, free)
    return solution


def _solve(gram: Doubles, right: Doubles, solution: Doubles, free: np.ndarray) -> None:
    """Move `solution` to the least of its free coefficients; those that would fall below 0 are held there."""
    while free.any():
        wanted = np.zeros_like(solution)
        wanted[free] = np.linalg.solve(gram[np.ix_(free, free)], right[free])
        below = free & (wanted <= 0)
        if not below.any():
            solution[:] = wanted
            return
        step = (solution[below] / (solution[below] - wanted[below])).min()
        solution += step * (wanted - solution)
        held = below & (solution <= np.abs(solution).max() * TOLERANCE)
        # The one that was just let in is at 0 already, where rounding alone takes it below.
        free[held if held.any() else below] = False
        solution[~free] = 0
