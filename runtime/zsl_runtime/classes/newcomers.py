"""What is worth saying about a class at the moment it is added: whom it will be mixed up with.

By the rule `gaussian` the mix-ups are known before there is a single photograph, in closed form: in canonical
coordinates a picture of class a is m_a plus noise plus what is not known of m_a, and the scores are linear. In training
the noise is of unit variance; pictures that no training saw spread wider, and the temperature says by how much, since
scores that are divided by it are calibrated: a Gaussian of T times the spread has scores divided by T.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.errors import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zsl_runtime.arrays import Doubles
    from zsl_runtime.bundle.generation import Generation
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.gaussian import ClassMeans, Gaussian
    from zsl_runtime.head.semantic_rule import SemanticRule


CANDIDATES = 8  # the nearest classes, among which the worst mix-ups are looked for
SHOWN = 3  # neighbours of each newcomer
HARDLY = 0.5  # two classes that lose more than this of each other's pictures, both shares added, are warned of
# Newcomers in all at a time whose neighbours are worked out: beyond that nobody reads the lines.
MOST_TOLD = 100


class Neighbour(NamedTuple):
    """A class that a newcomer will be mixed up with.

    Attributes:
        name: of the class.
        distance: between the two, in standard deviations of the score that tells them apart (d').
        lost: expected share of the newcomer's pictures whose score is higher for this class.
        taken: expected share of this class's pictures whose score is higher for the newcomer.

    """

    name: str
    distance: float
    lost: float
    taken: float


def neighbours(
    generation: Generation,
    gaussian: Gaussian,
    columns: Sequence[int],
    among: Sequence[int] | None = None,
    shown: int = SHOWN,
) -> dict[str, tuple[Neighbour, ...]]:
    """Name of each class at `columns` -> at most `shown` classes that it will be mixed up with most, worst first.

    Pairwise and in closed form: with a third class near, both lose to it as well. The first MOST_TOLD are worked out.

    Args:
        generation: of the rule `gaussian`; gamma counts.
        gaussian: of its bundle.
        columns: which classes.
        among: columns of the classes that may be neighbours, those of `columns` included; None for all.
        shown: how many, at most CANDIDATES.

    """
    means, table = generation.means, generation.table
    assert means is not None
    others = np.arange(len(table)) if among is None else np.array(among, dtype=np.int64)
    if len(others) < 2:
        return {}
    seen = table.seen.astype(np.float64)
    spread = generation.head.temperature
    found = {}
    told = list(columns)[:MOST_TOLD]
    for j, apart in zip(told, _apart(means, gaussian, told), strict=True):
        apart[j] = np.inf
        near = np.sort(others[np.argsort(apart[others], kind="stable")[: min(CANDIDATES, len(others) - 1)]])
        these = np.append(near, j)
        variance, where = spread + gaussian.remaining(means.counts[these]), gaussian.posterior(means.take(these))
        step = gaussian.scale * (where[-1] - where[:-1])  # difference of the two rows, (k, D)
        margin = 0.5 * (step * (where[-1] - where[:-1])).sum(axis=1)  # of the newcomer's own mean, without gamma
        bias = generation.head.gamma * (seen[near] - seen[j])
        lost = _below(margin + bias, np.sqrt((step**2 * variance[-1]).sum(axis=1)))
        taken = _below(margin - bias, np.sqrt((step**2 * variance[:-1]).sum(axis=1)))
        distance = between(where[-1], where[:-1], gaussian, spread)
        worst = np.argsort(-(lost + taken), kind="stable")[:shown]
        found[table.names[j]] = tuple(
            Neighbour(table.names[int(near[k])], float(distance[k]), float(lost[k]), float(taken[k])) for k in worst
        )
    return found


def between(one: Doubles, others: Doubles, gaussian: Gaussian, temperature: float) -> Doubles:
    """How far a mean (D,) lies from others (k, D): (k,) float64, in standard deviations of the score that tells them.

    Args:
        one: in canonical coordinates, as `Gaussian.posterior` gives them.
        others: as well.
        gaussian: of their bundle.
        temperature: of the head: the variance of pictures that no training saw.

    """
    away = one - others
    step = gaussian.scale * away  # difference of the two rows
    plain = np.sqrt(temperature * (step**2).sum(axis=1))
    found: Doubles = np.divide((step * away).sum(axis=1), plain, out=np.zeros_like(plain), where=plain > 0)
    return found


def _apart(means: ClassMeans, gaussian: Gaussian, told: Sequence[int]) -> Doubles:
    """Squared distances of the n classes `told` to all others (n, C), each row up to a number."""
    root = np.sqrt(gaussian.scale)
    here = gaussian.posterior(means.take(np.array(told, dtype=np.int64))) * root
    apart = np.empty((len(told), len(means)))
    for block, where in gaussian.posterior_blocks(means):
        scaled = where * root
        apart[:, block] = (scaled**2).sum(axis=1) - 2 * here @ scaled.T
    return apart


def _below(mean: Doubles, deviation: Doubles) -> Doubles:
    """Probability that a normal variable is below 0; half where it does not vary and is 0 itself."""
    sure = np.where(mean > 0, np.inf, np.where(mean < 0, -np.inf, 0.0))
    ratio = np.divide(mean, deviation, out=sure, where=deviation > 0)
    return np.array([0.5 * math.erfc(one / math.sqrt(2)) for one in ratio])


def confusable(found: Mapping[str, tuple[Neighbour, ...]]) -> dict[str, str]:
    """A line for each class that can hardly be told from one of its neighbours."""
    lines = {}
    for name, near in found.items():
        worst = [one for one in near if one.lost + one.taken >= HARDLY]
        if worst:
            shares = f"{worst[0].lost:.0%} of its photographs are expected to go there, {worst[0].taken:.0%} to come"
            lines[name] = (
                f"{name!r} can hardly be told from {listed(tuple(one.name for one in worst))}: {shares}; describe what "
                "sets it apart, or teach it with photographs"
            )
    return lines


def twins(new: ClassTable, old: ClassTable, rule: SemanticRule) -> dict[str, str]:
    """A line for each new class whose attributes are those of a class before it: nothing can tell the two apart."""
    first: dict[bytes, str] = {}
    for name, row in zip(old.names, rule.apply(old.raw), strict=True):
        first.setdefault(row.tobytes(), name)
    lines = {}
    for name, row in zip(new.names, rule.apply(new.raw), strict=True):
        before = first.setdefault(row.tobytes(), name)
        if before != name:
            lines[name] = (
                f"{name!r} has the very attributes of {before!r}: they cannot tell the two apart; check its row of the "
                "table, or teach it with photographs"
            )
    return lines
