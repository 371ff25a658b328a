"""The difference of two classes' scores, split into what each attribute says, and what none does.

The head is linear in what it looks at, x: the difference is u.x and a constant, u the difference of the two rows. The
read-out is linear in x, too. So u is written as a sum of the read-out's rows as far as it goes, each attribute with a
factor whose sign the class table decides: it speaks for the class that has more of it, and not at all where the two do
not differ. What it says of a picture is that factor times how far the picture lies from halfway between the classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.explaining.explanation import Spoken
from zsl_runtime.explaining.nonnegative import nonnegative

if TYPE_CHECKING:
    from zsl_runtime.arrays import Doubles, Floats, Ints
    from zsl_runtime.explaining.readout import Readout
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.head import FoldedHead

RIDGE = 1e-2  # attributes that go together share what they say, instead of one saying all of it


class Pair(NamedTuple):
    """How two classes are told apart, whatever the picture.

    Attributes:
        answer: row of the class table.
        rival: row of the other.
        attributes: (n,) columns of the class table that have a say.
        factor: (n,) float64: the contribution of one unit of each attribute.
        halfway: (n,) float64, its value halfway between the classes.
        rest: (D,) float64, what is left of the difference of rows.
        constant: what is left of the difference of biases.
        seen_handicap: the difference that calibration makes.

    """

    answer: int
    rival: int
    attributes: Ints
    factor: Doubles
    halfway: Doubles
    rest: Doubles
    constant: float
    seen_handicap: float


def pair_of(head: FoldedHead, table: ClassTable, readout: Readout, answer: int, rival: int) -> Pair:
    """Split what tells two classes apart by attributes.

    Args:
        head: folded, of C classes; both must be among those that its filter leaves.
        table: of the same C classes.
        readout: of the model.
        answer: row of a class.
        rival: row of another.

    """
    difference = head.weight[answer].astype(np.float64) - head.weight[rival]  # (D,)
    apart = table.raw[answer] - table.raw[rival]  # (A,)
    said = np.flatnonzero((apart != 0) & readout.readable)
    rows = readout.weight[said].astype(np.float64)  # (n, D)
    spread = readout.spread.astype(np.float64)
    # Each attribute's direction, from the rival to the answer, in units of the spread within a class, and of length 1.
    ways = rows * spread * np.sign(apart[said])[:, None]
    lengths = np.linalg.norm(ways, axis=1)
    felt = lengths > 0
    said, rows, ways, lengths = said[felt], rows[felt], ways[felt] / lengths[felt, None], lengths[felt]
    shares = nonnegative(ways @ ways.T + RIDGE * np.eye(len(said)), ways @ (difference * spread))
    kept = shares > 0
    said, rows = said[kept], rows[kept]
    factor = shares[kept] / lengths[kept] * np.sign(apart[said])
    halfway = (table.raw[answer, said] + table.raw[rival, said]) / 2
    bias = float(head.bias[answer]) - float(head.bias[rival])
    return Pair(
        answer,
        rival,
        said,
        factor,
        halfway,
        difference - factor @ rows,
        bias - float(factor @ (readout.offset[said] - halfway)),
        float(head.class_bias[answer]) - float(head.class_bias[rival]),
    )


def split(pair: Pair, table: ClassTable, x: Floats, read: Doubles) -> tuple[tuple[Spoken, ...], float]:
    """What each attribute says of a picture, largest first, and what none does.

    Args:
        pair: of the answer and its rival.
        table: of the classes.
        x: (D,) lifted features of the picture.
        read: (A,) what is read of its attributes.

    Returns:
        Those that have a say, and the rest. Both together and the seen handicap are the difference of scores.

    """
    contributions = pair.factor * (read[pair.attributes] - pair.halfway)
    order = np.argsort(-np.abs(contributions), kind="stable")
    spoken = tuple(
        Spoken(
            table.attributes[column],
            float(contributions[place]),
            float(read[column]),
            float(table.raw[pair.answer, column]),
            float(table.raw[pair.rival, column]),
        )
        for place, column in ((int(place), int(pair.attributes[place])) for place in order)
    )
    return spoken, float(pair.rest @ x.astype(np.float64)) + pair.constant
