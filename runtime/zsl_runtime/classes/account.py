"""What is known of one class of a bundle: whom it is near, what sets it apart, what it rests on, how it came."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.classes.newcomers import Neighbour, between, neighbours
from zsl_runtime.classes.odd_attributes import ranges_of, units
from zsl_runtime.classes.similar import Alike, alike
from zsl_runtime.errors import ArtefactError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.arrays import Doubles
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.bundle.generation import Generation
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.gaussian import Gaussian
    from zsl_runtime.head.readout import Readout

NEAR = 5  # classes that are shown as near
MOST_APART = 8  # attributes that set a class apart
LEAST_APART = 0.1  # of the range of an attribute's unit, below which a difference is none
CONTRADICTED = 3.0  # standard deviations of what a read-out gets wrong, from which photographs contradict the table
MOST_CONTRADICTED = 8
LEAST_OTHERS = 5  # classes that say what is usual
AHEAD = 10  # photographs more, whose worth is told


class Apart(NamedTuple):
    """An attribute of which a class has more or less than those near it.

    Attributes:
        attribute: its name.
        own: the class's value in the table.
        near: mean of the nearest classes.
        all: mean of all classes.
        difference: own - near, as a share of the range of the attribute's unit: of all attributes of like size.

    """

    attribute: str
    own: float
    near: float
    all: float
    difference: float


class Rests(NamedTuple):
    """What a class's mean rests on, by the head rule `gaussian`.

    Attributes:
        photographs: all of them.
        trained: of these, those of training; None where the exported state cannot tell any more.
        moved: how far they have moved the mean from where attributes put it, in standard deviations as `Neighbour`.
        moved_less: share of the other classes of its split with photographs whose means moved less; None where there
            are fewer than LEAST_OTHERS. Means of seen classes are told better than others: the model learnt of them.
        left: share of the uncertainty about the mean that is left, 1 without photographs.
        left_then: the same after AHEAD photographs more.

    """

    photographs: int
    trained: int | None
    moved: float
    moved_less: float | None
    left: float
    left_then: float


class Step(NamedTuple):
    """One change of the history that names the class.

    Attributes:
        number: of the generation that it made.
        action: export, add, teach, remove or undo.
        when: in UTC, as the history has it.
        photographs: of the class that came with it; 0 for none.

    """

    number: int
    action: str
    when: str
    photographs: int


class Contradicted(NamedTuple):
    """An attribute of which the photographs say something else than the table.

    Attributes:
        attribute: its name.
        table: its value in the table.
        read: what the class's photographs read, on average.
        deviations: between the two, in standard deviations of what such a reading gets wrong.
        quality: how well the attribute is read of classes that the read-out does not know: a correlation.

    """

    attribute: str
    table: float
    read: float
    deviations: float
    quality: float


@dataclass(frozen=True)
class Account:
    """What is known of one class.

    Attributes:
        name: of the class.
        split: seen or unseen.
        row: its column in scores.
        rule: of the head.
        attributes: how many there are.
        neighbours: the nearest classes: Neighbours where mix-ups are known, by the rule `gaussian`; else Alikes.
        apart: what sets it apart from these, most first; at most MOST_APART.
        rests: what its mean rests on; None by other head rules.
        history: the changes that name it, in their order.
        unreadable: lines of the history that cannot be read, and might name it.
        contradicted: attributes of which its photographs say something else than the table, most first; None where
            there is no read-out, or no photograph.
        readable: how many attributes the read-out reads well enough to say so; None as well.

    """

    name: str
    split: str
    row: int
    rule: str
    attributes: int
    neighbours: tuple[Neighbour | Alike, ...]
    apart: tuple[Apart, ...]
    rests: Rests | None
    history: tuple[Step, ...]
    unreadable: int
    contradicted: tuple[Contradicted, ...] | None
    readable: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        lists = ("neighbours", "apart", "history", "contradicted")
        plain: dict[str, Any] = asdict(self)
        for key in lists:
            items = getattr(self, key)
            plain[key] = None if items is None else [one._asdict() for one in items]
        plain["rests"] = None if self.rests is None else self.rests._asdict()
        return plain


def accounts(bundle: Bundle, names: Sequence[str], readout: Readout | None = None) -> list[Account]:
    """What is known of some classes; no model is loaded, and nothing is changed.

    Args:
        bundle: only read.
        names: of classes of the generation in force; each is told once.
        readout: of the bundle, for what photographs say of attributes.

    Raises:
        UsageError: E-CLASS-UNKNOWN; E-CLASSES-EMPTY without a name.
        ArtefactError: the bundle is damaged.

    """
    if not names:
        raise UsageError("E-CLASSES-EMPTY", "there is no class to explain; give the name of at least one")
    generation = bundle.current()
    columns = dict.fromkeys(generation.table.index(name) for name in names)
    gaussian = None if generation.means is None else bundle.gaussian()
    entries, broken = bundle.history()
    exported = _exported(bundle, entries, generation)
    moved = None if gaussian is None else _moved(generation, gaussian)
    found = []
    for j in columns:
        name = generation.table.names[j]
        near = _near(bundle, generation, gaussian, j)
        rests = contradicted = None
        if gaussian is not None and moved is not None:
            rests = _rests(generation, gaussian, j, moved, exported)
            contradicted = None if readout is None else _contradicted(generation, readout, j)
        found.append(
            Account(
                name,
                "seen" if generation.table.seen[j] else "unseen",
                j,
                bundle.head_rule,
                len(generation.table.attributes),
                near,
                set_apart(generation.table, j, [one.name for one in near]),
                rests,
                _steps(entries, name),
                len(broken),
                contradicted,
                None if contradicted is None or readout is None else int(np.count_nonzero(readout.readable)),
            )
        )
    return found


def set_apart(table: ClassTable, row: int, near: Sequence[str]) -> tuple[Apart, ...]:
    """What sets the class at `row` apart from others, by the table alone: at most MOST_APART attributes, most first.

    A difference counts by the range of all attributes of like size: one of a rare attribute that is hardly ever above 0
    would else count most, and of shares it says least.
    """
    if not near:
        return ()
    raw = table.raw
    unit, _ = units(ranges_of(raw))
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest float32
        beside = raw[[table.index(name) for name in near]].mean(axis=0)
        width = unit[:, 1] - unit[:, 0]
        away = np.divide(raw[row] - beside, width, out=np.zeros_like(width), where=width > 0)
    order = np.argsort(-np.abs(away), kind="stable")[:MOST_APART]
    average = raw.mean(axis=0)
    return tuple(
        Apart(table.attributes[n], float(raw[row, n]), float(beside[n]), float(average[n]), float(away[n]))
        for n in map(int, order)
        if abs(away[n]) >= LEAST_APART
    )


def _near(bundle: Bundle, generation: Generation, gaussian: Gaussian | None, j: int) -> tuple[Neighbour | Alike, ...]:
    found: dict[str, tuple[Neighbour, ...]] | dict[str, tuple[Alike, ...]]
    if gaussian is None:
        found = alike(generation.table, bundle.rule, [j], shown=NEAR)
    else:
        found = neighbours(generation, gaussian, [j], shown=NEAR)
    return found.get(generation.table.names[j], ())


def _moved(generation: Generation, gaussian: Gaussian) -> Doubles:
    """How far photographs have moved each class's mean (C,), in standard deviations; 0 without any."""
    means = generation.means
    assert means is not None
    found = np.zeros(len(means))
    for block, where in gaussian.posterior_blocks(means):
        for j, one in enumerate(where, start=block.start):
            if means.counts[j]:
                prior = means.prior[j].astype(np.float64)
                found[j] = between(one, prior[None], gaussian, generation.head.temperature)[0]
    return found


def _rests(
    generation: Generation, gaussian: Gaussian, j: int, moved: Doubles, exported: Generation | None
) -> Rests | None:
    means, name = generation.means, generation.table.names[j]
    assert means is not None
    count = int(means.counts[j])
    trained: int | None = 0
    if generation.table.seen[j] and count:
        known = exported is not None and exported.means is not None and name in exported.table.names
        trained = int(exported.means.counts[exported.table.index(name)]) if known else None  # type: ignore[union-attr]
    seen = generation.table.seen
    others = (means.counts > 0) & (seen == seen[j]) & (np.arange(len(means)) != j)
    left = _left(gaussian, np.array([count, count + AHEAD]))
    return Rests(
        count,
        trained,
        float(moved[j]),
        float((moved[others] < moved[j]).mean()) if count and others.sum() >= LEAST_OTHERS else None,
        float(left[0]),
        float(left[1]),
    )


def _left(gaussian: Gaussian, counts: np.ndarray[Any, np.dtype[np.int64]]) -> Doubles:
    """Share of the uncertainty about a mean that is left after so many photographs, coordinates by their weight."""
    whole = float(gaussian.scale @ gaussian.variance)
    if whole == 0:
        return np.zeros(len(counts))
    share: Doubles = gaussian.remaining(counts) @ gaussian.scale / whole
    return share


def _exported(bundle: Bundle, entries: Sequence[dict[str, Any]], current: Generation) -> Generation | None:
    """Generation 1, which tells how many photographs are of training; None where it cannot be read."""
    if current.number == 1:
        return current
    digest = next((str(one.get("sha256")) for one in entries if one.get("number") == 1), None)
    if digest is None or len(digest) != len(hashlib.sha256().hexdigest()):
        return None
    try:
        return bundle.generation(1, digest)
    except ArtefactError:
        return None


def _steps(entries: Sequence[dict[str, Any]], name: str) -> tuple[Step, ...]:
    """The changes that name a class. Others may have written to the history, so nothing in it is taken as sure."""
    steps = []
    for entry in entries:
        names, counts = entry.get("names"), entry.get("photographs")
        if not isinstance(names, list) or name not in names:
            continue
        count = counts.get(name) if isinstance(counts, dict) else 0
        number = entry.get("number")
        steps.append(
            Step(
                number if type(number) is int else 0,
                str(entry.get("action", "?")),
                str(entry.get("when", "?")),
                count if type(count) is int else 0,
            )
        )
    return tuple(steps)


def _contradicted(generation: Generation, readout: Readout, j: int) -> tuple[Contradicted, ...] | None:
    """Attributes of which a class's photographs say something else than the table; None without photographs.

    What a reading gets wrong of a class that it does not know follows from its quality q: a spread of sqrt(1 - q^2) of
    the attribute's own; and few photographs add what one differs from another. Attributes that are read badly have no
    say, and neither have those that all classes of the fit have alike.
    """
    means, table = generation.means, generation.table
    assert means is not None
    count = int(means.counts[j])
    if count == 0:
        return None
    mean = means.totals[np.count_nonzero(means.counts[:j])] / count
    weight = readout.weight.astype(np.float64)
    read = weight @ mean + readout.offset
    quality = readout.quality.astype(np.float64)
    noise = generation.head.temperature * (weight**2 @ readout.spread.astype(np.float64) ** 2) / count
    wrong = np.sqrt((1 - quality**2) * readout.unit.astype(np.float64) ** 2 + noise)
    usable = readout.readable & (wrong > 0)
    away = np.divide(np.abs(read - table.raw[j]), wrong, out=np.zeros_like(wrong), where=usable)
    order = np.argsort(-away, kind="stable")[:MOST_CONTRADICTED]
    return tuple(
        Contradicted(
            table.attributes[n], float(table.raw[j, n]), float(read[n]), float(away[n]), float(readout.quality[n])
        )
        for n in map(int, order)
        if away[n] >= CONTRADICTED
    )
