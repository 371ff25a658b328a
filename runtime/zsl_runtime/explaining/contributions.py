"""The difference of two classes' scores, split into what each attribute says, and what none does.

The head is linear in what it looks at, x: the difference is u.x and a constant, u the difference of the two rows. The
read-out is linear in x, too. So u is written as a sum of the read-out's rows as far as it goes, each attribute with a
factor whose sign the class table decides: it speaks for the class that has more of it, and not at all where the two do
not differ. What it says of a picture is that factor times how far the picture lies from halfway between the classes,
as the model holds them. Table values would not do as the ends of that way: a read-out is drawn towards the average, so
the way between two classes of the table is longer than that between what is read of them, and the sum of all
contributions would have little to do with the difference of scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.explaining.explanation import Spoken
from zsl_runtime.explaining.nonnegative import nonnegative

if TYPE_CHECKING:
    from zsl_runtime.arrays import Doubles, Floats, Ints
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.head import FoldedHead
    from zsl_runtime.head.readout import Readout

# Attributes that go together share what they say, instead of one saying all of it; the more so the less the classes
# differ in them, so that what is told first are attributes in which they do.
RIDGE = 0.1
MOST_PENALTY = 1e4  # of an attribute in which classes hardly differ


class Pair(NamedTuple):
    """How two classes are told apart, whatever the picture.

    Attributes:
        answer: row of the class table.
        rival: row of the other.
        attributes: (n,) columns of the class table that have a say.
        factor: (n,) float64: the contribution of one unit of each attribute.
        shift: (n,) float64, by how much more is read halfway between the classes than the table has halfway.
        rest: (D,) float64, what is left of the difference of rows.
        constant: what is left of the difference of biases.
        seen_handicap: the difference that calibration makes.

    """

    answer: int
    rival: int
    attributes: Ints
    factor: Doubles
    shift: Doubles
    rest: Doubles
    constant: float
    seen_handicap: float


def pair_of(
    head: FoldedHead, table: ClassTable, readout: Readout, both: tuple[int, int], means: Doubles | None = None
) -> Pair:
    """Split what tells two classes apart by attributes.

    Args:
        head: folded, of C classes; both must be among those that its filter leaves.
        table: of the same C classes; NaN where an attribute of a class is not known, which then says nothing.
        readout: of the model.
        both: rows of the answer and of its rival.
        means: (2, D) where the two lie, by the head rule `gaussian`; None where that is not known.

    """
    answer, rival = both
    difference = head.weight[answer].astype(np.float64) - head.weight[rival]  # (D,)
    bias = float(head.bias[answer]) - float(head.bias[rival])
    apart = table.raw[answer] - table.raw[rival]  # (A,)
    said = np.flatnonzero((apart != 0) & np.isfinite(apart) & readout.readable)
    rows = readout.weight[said].astype(np.float64)  # (n, D)
    if means is None:
        halfway = _nearest(difference, bias, readout)
    else:
        halfway = means.mean(axis=0)
        # An attribute that the model holds the wrong way round for these two says nothing of them.
        right = (rows @ (means[0] - means[1])) * apart[said] > 0
        said, rows = said[right], rows[right]
    factor = _factors(difference, rows, apart[said], readout, said)
    said, rows, factor = said[factor != 0], rows[factor != 0], factor[factor != 0]
    there = rows @ halfway  # what is read halfway, but for the offset
    middle = (table.raw[answer, said] + table.raw[rival, said]) / 2
    return Pair(
        answer,
        rival,
        said,
        factor,
        there + readout.offset[said] - middle,
        difference - factor @ rows,
        bias + float(factor @ there),
        float(head.class_bias[answer]) - float(head.class_bias[rival]),
    )


def _factors(difference: Doubles, rows: Doubles, apart: Doubles, readout: Readout, said: Ints) -> Doubles:
    """(n,) by how much each row counts in `difference` (D,), with the sign of `apart` (n,) or 0."""
    spread = readout.spread.astype(np.float64)
    # Each attribute's direction, from the rival to the answer, in units of the spread within a class, and of length 1.
    ways = rows * spread * np.sign(apart)[:, None]
    lengths = np.linalg.norm(ways, axis=1)
    felt = lengths > 0
    ways = ways[felt] / lengths[felt, None]
    penalty = np.minimum((readout.unit[said[felt]] / apart[felt]) ** 2, MOST_PENALTY)
    factor = np.zeros(len(rows))
    shares = nonnegative(ways @ ways.T + RIDGE * np.diag(penalty), ways @ (difference * spread))
    factor[felt] = shares / lengths[felt] * np.sign(apart[felt])
    return factor


def _nearest(difference: Doubles, bias: float, readout: Readout) -> Doubles:
    """(D,) where both classes have one score, nearest to an average class."""
    centre = readout.centre.astype(np.float64)
    way = difference * readout.spread.astype(np.float64) ** 2
    length = float(difference @ way)
    return centre if length <= 0 else centre - (difference @ centre + bias) / length * way


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
    values = read[pair.attributes] - pair.shift
    ends = table.raw[[pair.answer, pair.rival]][:, pair.attributes]  # (2, n)
    contributions = pair.factor * (values - ends.mean(axis=0))
    order = np.argsort(-np.abs(contributions), kind="stable")
    spoken = tuple(
        Spoken(
            table.attributes[int(pair.attributes[place])],
            float(contributions[place]),
            float(values[place]),
            float(ends[0, place]),
            float(ends[1, place]),
        )
        for place in order
    )
    return spoken, float(pair.rest @ x.astype(np.float64)) + pair.constant
