"""How far a picture is from the nearest class, in standard deviations: what is far from all is unlike anything known.

In canonical coordinates pictures of a class spread around its mean with variance 1 in each of D coordinates. So what
parts a picture from a mean, as a root mean square over the coordinates, counts standard deviations: about 1 for a
picture that lies where the model expects one of its class. (It is the Mahalanobis distance by the square root of D.)

The nearest class is found among all that the head has, whatever filter chooses among them, and gamma has no part in it:
it need not be the one that a picture is called. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.arrays import row_blocks

if TYPE_CHECKING:
    from zsl_runtime.arrays import Bools, Doubles, Floats, Ints
    from zsl_runtime.head.gaussian import Gaussian
    from zsl_runtime.head.head import Head

FAR = 99  # a picture is far when it is farther than this percentage of held-out photographs
ROWS = 64  # pictures whose distances to all classes are in memory at once
DIGITS = 4  # of a distance that is shown or written; rounding of float32 does not reach them


class Found(NamedTuple):
    """What is known of n pictures.

    Attributes:
        distances: (n,) float64, to the nearest class, in standard deviations.
        nearest: (n,) int64, the class's column.
        far: (n,) whether each is farther than FAR percent of held-out photographs; None where no such are known.

    """

    distances: Doubles
    nearest: Ints
    far: Bools | None


@dataclass(frozen=True, eq=False)
class Distances:
    """Tells how far pictures are from the classes of one head.

    Attributes:
        head: of the rule `gaussian`; its rows, means m times s, hold all that is to be known of where classes lie.
        gaussian: what its rows are made with, and the distances of held-out photographs.

    """

    head: Head
    gaussian: Gaussian

    @property
    def beyond(self) -> float | None:
        """A picture that is farther than this is far; None where no held-out photographs are known."""
        return None if self.gaussian.held is None else float(self.gaussian.held[FAR])

    @cached_property
    def _squares(self) -> Floats:
        """Squared lengths of the means (C,); worked out when the first picture comes."""
        weight = self.head.weights[0]
        squares = np.empty(len(weight), np.float32)
        for block in row_blocks(len(weight)):
            means = weight[block] / self.gaussian.scale
            squares[block] = np.einsum("cd,cd->c", means, means)
        return squares

    def __call__(self, x: Floats) -> Found:
        """Distances of canonical coordinates x (n, D), of finite numbers.

        The nearest class is found in float32, the distance to it is worked out in float64: so it is the same, to
        rounding far below what is shown, whichever pictures come in one batch.
        """
        weight, scale, beyond = self.head.weights[0], self.gaussian.scale, self.beyond
        distances, nearest = np.empty(len(x)), np.empty(len(x), np.int64)
        for block in row_blocks(len(x), ROWS):
            rows = x[block].astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest; then all are as far
                apart = (rows * (-2 / scale)).astype(np.float32) @ weight.T
                apart += self._squares
            nearest[block] = apart.argmin(axis=1)
            off = rows - weight[nearest[block]] / scale
            distances[block] = np.sqrt(np.einsum("nd,nd->n", off, off) / off.shape[1])
        return Found(distances, nearest, None if beyond is None else distances > beyond)


def shown(distance: float) -> float:
    """A distance as it is written: with DIGITS significant digits."""
    return float(f"{distance:.{DIGITS}g}")
