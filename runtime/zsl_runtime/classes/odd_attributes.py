"""Attributes that are unlike those of training: a slip of the pen, another unit, columns that were swapped.

Nothing is refused by them: a whale is longer than every bird. But one 11 for a 1 turns a class's vector away from all
that it should be near, and no picture is ever given its name; so each such class has a line that names the attribute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.head.semantic_rule import FEW, GAP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zsl_runtime.arrays import Bools, Doubles
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.semantic_rule import SemanticRule

FAR = 1.0  # widths of a unit's range beyond which a value outside of it is told
FAR_KNOWN = 3.0  # the same for a seen class against the other seen ones: of few classes one may well be extreme
LEAST_KNOWN = 4  # fewer seen classes say nothing about what is usual
SELDOM = 0.1  # attributes of a class that may be far outside of all others' own ranges, where these are to count
POSITIVE = 0.01  # share of a unit's largest value that its smallest has, of measures such as lengths: never near 0
NOISE = 1e-6  # widths below 0 that are rounding
LEAST_SHARED = 3  # attributes of one unit from which a whole row can be said to be in another
STRANGE = 1.25  # times as far from the nearest seen class as any of these is from its own nearest
SEPARATORS = ("=", "::")  # between what an attribute is about and its value: bill_shape=hooked
UNLIKE = 0.25  # share by which a sum may differ that was the same for all classes of training
SHOWN = 2  # more attributes of a class that are named


def training_ranges(bundle: Bundle, table: ClassTable) -> Doubles:
    """(A, 2) least and largest value of every attribute in training.

    Bundles of older versions do not say it: then of the seen classes of `table`.
    """
    given = bundle.manifest.get("attribute_ranges")
    if given is not None:
        return np.array(given, dtype=np.float64)
    return ranges_of(table.raw[table.seen] if table.seen.any() else table.raw)


def ranges_of(raw: Doubles) -> Doubles:
    """(A, 2) least and largest value of every attribute of (C, A), C at least 1."""
    return np.stack([raw.min(axis=0), raw.max(axis=0)], axis=1)


def odd_attributes(new: ClassTable, old: ClassTable, ranges: Doubles, rule: SemanticRule) -> dict[str, str]:
    """A line for each new class with attributes unlike those of training, the worst first.

    Args:
        new: the classes.
        old: classes that are there; its seen ones are those of training.
        ranges: (A, 2) of training.
        rule: attributes -> semantic vectors.

    """
    known = old.take(np.flatnonzero(old.seen))
    lines = outside(new, ranges, known)
    for more in (smaller_unit(new, known, ranges), other_sums(new, known), strangers(new, known, rule)):
        lines |= {name: line for name, line in more.items() if name not in lines}
    return lines


def units(ranges: Doubles) -> tuple[Doubles, Doubles]:
    """What is usual for the unit of each attribute, and which ones share it.

    An attribute is rare in training and common in a new class without being wrong, so its own range says little. What
    counts is the range of all attributes of like size: those whose largest numbers follow each other without a gap of
    GAP times. A few rare ones below such a gap belong to those above it. What went from 0 to 1 has 1 for its end.

    Args:
        ranges: (A, 2) of training.

    Returns:
        The range of the unit (A, 2), and its number (A,), the same for those of like size.

    """
    size = np.abs(ranges).max(axis=1)
    present = size[size > 0]
    size = np.where(size > 0, size, np.median(present) if present.size else 1.0)
    order = np.argsort(size, kind="stable")
    with np.errstate(over="ignore"):
        gaps = size[order][1:] / size[order][:-1] >= GAP
    gaps[: int(np.ceil(FEW * len(size))) - 1] = False
    number = np.zeros(len(size))
    number[order[1:]] = np.cumsum(gaps)
    whole = np.array([[ranges[number == one, 0].min(), ranges[number == one, 1].max()] for one in np.unique(number)])
    found = whole[number.astype(np.int64)]
    found[(ranges == [0.0, 1.0]).all(axis=1), 1] = 1.0
    return found, number


def _away(raw: Doubles, ranges: Doubles) -> Doubles:
    """How far (n, A) lie outside of ranges (A, 2) or (n, A, 2), in widths of these.

    A huge number divided by a tiny width is infinitely far, which is far, and nothing is far from a range that is
    itself beyond what a float holds.
    """
    low, high = ranges[..., 0], ranges[..., 1]
    with np.errstate(over="ignore", invalid="ignore"):
        width = high - low
        usual = float(np.median(width[width > 0])) if (width > 0).any() else 1.0
        away: Doubles = np.maximum(low - raw, raw - high) / np.where(width > 0, width, usual)
    return away


def _wrong(raw: Doubles, ranges: Doubles) -> Doubles:
    """(n, A): how far outside of their unit's range; at least FAR for what is of another kind than any in training.

    That is a negative number where none was, and of a measure that never came near 0, such as a length, one that is
    GAP times smaller than the smallest.
    """
    unit, _ = units(ranges)
    away = _away(raw, unit)
    with np.errstate(over="ignore"):
        negative = (unit[:, 0] >= 0) & (raw < -NOISE * (unit[:, 1] - unit[:, 0]))
        measure = (unit[:, 0] > POSITIVE * unit[:, 1]) & (ranges[:, 0] < ranges[:, 1])
    small = measure & (raw <= ranges[:, 0] / GAP)
    return np.where(negative | small, np.maximum(away, FAR), away)


def _others(raw: Doubles) -> Doubles:
    """(C, A, 2): for each class of (C, A), C at least 2, the ranges of all others."""
    ordered = np.sort(raw, axis=0)
    low = np.where(raw == ordered[0], ordered[1], ordered[0])
    high = np.where(raw == ordered[-1], ordered[-2], ordered[-1])
    return np.stack([low, high], axis=2)


def _own_count(known: ClassTable) -> bool:
    """Whether an attribute's own range says what is usual: hardly a seen class is far outside of all others'.

    It is not so where there are few classes and attributes that are rare.
    """
    if len(known) < LEAST_KNOWN:
        return False
    far = _away(known.raw, _others(known.raw)) >= FAR
    return float(far.sum(axis=1).mean()) <= SELDOM


def outside(new: ClassTable, ranges: Doubles, known: ClassTable | None = None) -> dict[str, str]:
    """A line for each new class with attributes far outside what training saw, the worst first.

    Far is FAR widths of the range of the attribute's unit (`units`), or of its own where that says what is usual; or of
    another kind than any number in training.

    Args:
        new: the classes.
        ranges: (A, 2) of training.
        known: the seen classes, by which it is told whether own ranges count; None where they are not known.

    """
    if not len(new):
        return {}
    away = _wrong(new.raw, ranges)
    if known is not None and _own_count(known):
        away = np.where(ranges[:, 0] < ranges[:, 1], np.maximum(away, _away(new.raw, ranges)), away)
    worst_first = np.argsort(-away.max(axis=1), kind="stable")
    return dict(_outside_lines(new, ranges, away, worst_first.tolist()))


def _outside_lines(new: ClassTable, ranges: Doubles, away: Doubles, rows: list[int]) -> Iterator[tuple[str, str]]:
    for row in rows:
        odd = np.flatnonzero(away[row] >= FAR)
        if not odd.size:
            continue
        values = new.raw[row]
        worst, *others = odd[np.argsort(-away[row, odd], kind="stable")].tolist()
        line = (
            f"attribute {new.attributes[worst]!r} of {new.names[row]!r} is {values[worst]:g}, in training it "
            f"{_went(ranges[worst])}{_more(new, others, values)}; check the cell and its unit"
        )
        yield new.names[row], line


def _went(pair: Doubles) -> str:
    low, high = pair
    return f"went from {low:g} to {high:g}" if low < high else f"was always {low:g}"


def _more(new: ClassTable, others: list[int], values: Doubles) -> str:
    """The other attributes of a class that are outside."""
    if not others:
        return ""
    shown = ", ".join(f"{new.attributes[j]!r} {values[j]:g}" for j in others[:SHOWN])
    rest = ", ..." if len(others) > SHOWN else ""
    return f", and {len(others)} more are outside ({shown}{rest})"


def outliers(known: ClassTable) -> dict[str, str]:
    """A line for each seen class with an attribute far outside the range of all other seen classes."""
    if len(known) < LEAST_KNOWN:
        return {}
    lines = {}
    for name, row, ranges in zip(known.names, known.raw, _others(known.raw), strict=True):
        outer = np.flatnonzero((row < ranges[:, 0]) | (row > ranges[:, 1]))
        if not outer.size:
            continue
        away = _away(row, units(ranges)[0])
        worst = int(outer[away[outer].argmax()])
        if away[worst] >= FAR_KNOWN:
            lines[name] = (
                f"attribute {known.attributes[worst]!r} of {name!r} is {row[worst]:g}, of all other seen classes it "
                f"{_went(ranges[worst])}; check the cell and its unit"
            )
    return lines


def smaller_unit(new: ClassTable, known: ClassTable, ranges: Doubles) -> dict[str, str]:
    """A line for each new class whose numbers are all small: shares where training has percents."""
    if len(known) < LEAST_KNOWN or not len(new):
        return {}
    _, number = units(ranges)
    lines: dict[str, str] = {}
    for one in np.unique(number):
        columns = np.flatnonzero(number == one)
        if len(columns) < LEAST_SHARED:
            continue
        largest, usual = np.abs(new.raw[:, columns]).max(axis=1), np.abs(known.raw[:, columns]).max(axis=1)
        for row in np.flatnonzero((largest > 0) & (largest * GAP < usual.min())).tolist():
            which = "all attributes" if len(columns) == len(ranges) else f"{len(columns)} attributes"
            lines.setdefault(
                new.names[row],
                f"the largest of {which} ({new.attributes[int(columns[0])]!r} ...) of {new.names[row]!r} is "
                f"{largest[row]:g}, in training every class had {usual.min():g} or more; check their unit",
            )
    return lines


def other_sums(new: ClassTable, known: ClassTable) -> dict[str, str]:
    """A line for each new class with another sum of attributes than all classes of training have.

    Where each class has one of several values, such as bill_shape=hooked, =conical and =dagger, the sum of these is the
    same for all. A tick too many or too few, or swapped columns, change it.
    """
    if len(known) < LEAST_KNOWN or not len(new):
        return {}
    about: dict[str, list[int]] = {}
    for column, name in enumerate(known.attributes):
        mark = max(SEPARATORS, key=name.rfind)
        if mark in name:
            about.setdefault(name.rpartition(mark)[0], []).append(column)
    lines: dict[str, str] = {}
    for subject, columns in about.items():
        sums, usual = new.raw[:, columns].sum(axis=1), known.raw[:, columns].sum(axis=1)
        if len(columns) < 2 or usual[0] <= 0 or not np.allclose(usual, usual[0], rtol=NOISE, atol=0):
            continue
        for row in np.flatnonzero(np.abs(sums - usual[0]) > UNLIKE * usual[0]).tolist():
            lines.setdefault(
                new.names[row],
                f"the {len(columns)} attributes {subject!r} of {new.names[row]!r} add up to {sums[row]:g}, those of "
                f"every class of training to {usual[0]:g}; check its row, and whether columns were swapped",
            )
    return lines


def strangers(new: ClassTable, known: ClassTable, rule: SemanticRule) -> dict[str, str]:
    """A line for each new class that is farther from every seen class than these are from each other.

    So are rows whose columns were swapped, which no single value shows.
    """
    if len(known) < LEAST_KNOWN or not len(new):
        return {}
    there, come = rule.apply(known.raw).astype(np.float64), rule.apply(new.raw).astype(np.float64)
    apart = _squares(there, there)
    np.fill_diagonal(apart, np.inf)
    usual = float(np.sqrt(apart.min(axis=1).max()))
    lines = {}
    squares = _squares(come, there)
    nearest = squares.argmin(axis=1)
    distance = np.sqrt(squares.min(axis=1))
    far: Bools = distance > STRANGE * usual
    for row in np.flatnonzero(far)[np.argsort(-distance[far], kind="stable")].tolist():
        lines[new.names[row]] = (
            f"{new.names[row]!r} is described unlike every class of training: the nearest, "
            f"{known.names[int(nearest[row])]!r}, is {distance[row]:.2f} away, where each of these has another within "
            f"{usual:.2f}; check whether columns were swapped, and units"
        )
    return lines


def _squares(left: Doubles, right: Doubles) -> Doubles:
    """Squared distances between rows (n, A) and (m, A), (n, m)."""
    with np.errstate(invalid="ignore"):
        found: Doubles = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
    return np.clip(found, 0.0, None)
