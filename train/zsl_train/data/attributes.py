"""What is odd about the attributes of a data set: one value among all others, or one attribute in another unit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.classes.odd_attributes import odd_attributes, outliers, ranges_of
from zsl_runtime.errors import listed
from zsl_runtime.head.semantic_rule import AttributeScale, SemanticRule, by_nature, mixed_units
from zsl_train.data.image_set import MANY_NEGATIVE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zsl_runtime.arrays import Doubles
    from zsl_runtime.head.class_table import ClassTable

MOST_ODD = 5  # classes that are told of; beyond that the table as a whole is odd
MIXED = "attributes seem to be in different units"
LOUD = 2.5  # times as large as the next in size: of the published sets it is 2 at most; below a gap that means units


def semantic_rule(table: ClassTable, *, clamp_negative: bool, unit_l2: bool, attribute_scale: str) -> SemanticRule:
    """The rule for a table of classes.

    Args:
        table: what attributes are divided by is of its seen classes alone.
        clamp_negative: as of the rule.
        unit_l2: as of the rule.
        attribute_scale: `none`, `range`, or `auto`: `range` where attributes seem to be in different units.

    """
    known = table.raw[table.seen]
    scaled = attribute_scale == "range"
    if attribute_scale == "auto":
        scaled = mixed_units(known, clamp_negative=clamp_negative)
    scale = AttributeScale.of(known, clamp_negative=clamp_negative) if scaled else None
    return SemanticRule(clamp_negative=clamp_negative, unit_l2=unit_l2, scale=scale)


def odd_notes(rule: SemanticRule, table: ClassTable) -> tuple[str, ...]:
    """Attributes of a class that are far from those of the others: a slip of the pen, or another unit."""
    unseen = table.take(np.flatnonzero(~table.seen))
    known = table.take(np.flatnonzero(table.seen))
    odd = odd_attributes(unseen, known, ranges_of(known.raw), rule)
    lines = [*outliers(known).values(), *odd.values()]
    more = len(lines) - MOST_ODD
    return (*lines[:MOST_ODD], *([f"and {more} more classes with odd attributes"] if more > 0 else []))


def rule_notes(rule: SemanticRule, table: ClassTable) -> tuple[str, ...]:
    """What the semantic rule does to attributes, where that is more than usual."""
    return (*_unit_notes(rule, table), *_negative_notes(rule, table))


def _unit_notes(rule: SemanticRule, table: ClassTable) -> Iterator[str]:
    """Which attributes are in another unit, and what is done about it."""
    known = table.raw[table.seen]
    if not mixed_units(known, clamp_negative=rule.clamp_negative):
        if rule.scale is None:
            yield from _loud_notes(rule, table)
        return
    units = f"{MIXED} ({extremes(known, table.attributes)})"
    if rule.scale is not None:
        yield (
            f"{units}: each is divided by its range over the seen classes; --set attribute_scale=none leaves them as "
            "they are"
        )
        return
    squares = SemanticRule(rule.clamp_negative, unit_l2=True).apply(known).astype(np.float64) ** 2
    most = int(squares.mean(axis=0).argmax())
    yield (
        f"{units}: {table.attributes[most]!r} alone makes up to {squares[:, most].max():.0%} of the squared length of "
        "a class vector, and the others count for what is left; --set attribute_scale=auto divides each by its range"
    )


def _loud_notes(rule: SemanticRule, table: ClassTable) -> Iterator[str]:
    """Attributes that are not surely in another unit, and yet so large that the others count for little.

    They are told and left as they are: in one unit, dividing by ranges makes what is rare as loud as what is common.
    """
    values = replace(rule, unit_l2=False).apply(table.raw[table.seen]).astype(np.float64)
    size = np.abs(values).max(axis=0)
    order = np.argsort(size, kind="stable")
    half = len(size) // 2
    upper = size[order][half:]
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = np.flatnonzero(upper[1:] / upper[:-1] >= LOUD)
    if half == 0 or not gaps.size or upper[gaps[-1]] == 0:
        return
    loud = order[half + int(gaps[-1]) + 1 :]
    squares = values**2 / np.maximum((values**2).sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    names = listed(tuple(table.attributes[j] for j in sorted(loud)))
    yield (
        f"{names}: up to {size[loud].max():g}, all other attributes up to {upper[gaps[-1]]:g}; so large a number makes "
        f"up to {squares[:, loud].sum(axis=1).max():.0%} of the squared length of a class vector; if its unit is "
        "another one, --set attribute_scale=range divides each attribute by its range"
    )


def extremes(known: Doubles, attributes: Sequence[str]) -> str:
    """The attribute of the widest range and that of the narrowest one that is none of a single value."""
    low, high = known.min(axis=0), known.max(axis=0)
    with np.errstate(over="ignore"):
        width = high - low
    widest, narrowest = int(width.argmax()), int(np.where(width > 0, width, np.inf).argmin())
    return " and ".join(f"{attributes[j]!r} {low[j]:g} to {high[j]:g}" for j in dict.fromkeys((widest, narrowest)))


def _negative_notes(rule: SemanticRule, table: ClassTable) -> Iterator[str]:
    """Negative numbers that are set to 0, where they may be meant."""
    if not rule.clamp_negative:
        return
    negative = table.raw < 0
    if rule.scale is None and negative.mean() > MANY_NEGATIVE:
        yield (
            f"{negative.mean():.0%} of the attributes are negative and become 0 by the semantic rule; for sentence "
            "vectors, which are negative by nature, add --set clamp_negative=false"
        )
    marked = np.flatnonzero(negative[table.seen].any(axis=0) & ~by_nature(table.raw[table.seen]))
    if rule.scale is not None and marked.size:
        yield (
            f"the one negative number of {listed(tuple(table.attributes[j] for j in marked))} is taken for a mark of "
            "what is missing and becomes 0; --set clamp_negative=false keeps it"
        )
