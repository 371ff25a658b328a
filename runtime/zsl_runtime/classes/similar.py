"""What new classes would be mixed up with, told before they are added; the bundle is only read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.classes.changes import check_absent, check_new, grown
from zsl_runtime.classes.newcomers import (
    MOST_TOLD,
    SHOWN,
    Neighbour,
    confusable,
    neighbours,
    twins,
)
from zsl_runtime.classes.odd_attributes import odd_attributes, training_ranges
from zsl_runtime.errors import listed
from zsl_runtime.head.names import doubtful

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zsl_runtime.arrays import Doubles
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.semantic_rule import SemanticRule


class Alike(NamedTuple):
    """A class with attributes like those of a newcomer, where nothing is known of mix-ups.

    Attributes:
        name: of the class.
        cosine: between the two semantic vectors, 1 for the same direction.

    """

    name: str
    cosine: float


@dataclass(frozen=True)
class Similar:
    """What new classes would be mixed up with.

    Attributes:
        table: the classes in force and the new ones behind them.
        names: of the new classes.
        expected: whether mix-ups are known: by the head rule `gaussian` alone.
        neighbours: new class -> at most SHOWN classes, old or new, that it would be mixed up with most, worst first:
            Neighbours where mix-ups are known, else Alikes. The first MOST_TOLD new classes are worked out.
        newcomers: the same among the new classes alone; empty where there is one.
        odd: new class -> a line about attributes unlike those of training, the worst first.
        twins: new class -> a line about the class before it with the very same attributes.
        confusable: new class -> a line about the classes that it can hardly be told from.
        doubtful: lines about the file and about names that look like others.

    """

    table: ClassTable
    names: tuple[str, ...]
    expected: bool
    neighbours: Mapping[str, tuple[Neighbour | Alike, ...]]
    newcomers: Mapping[str, tuple[Neighbour | Alike, ...]]
    odd: Mapping[str, str]
    twins: Mapping[str, str]
    confusable: Mapping[str, str]
    doubtful: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes that adding these classes would give."""
        return (*self.doubtful, *self.odd.values(), *self.twins.values(), *self.confusable.values())

    @property
    def advice(self) -> str:
        """In one line: whether the classes may be added as they are, and else what to do."""
        todo = []
        if self.odd:
            todo.append(f"check the attributes of {listed(tuple(self.odd))} that are far outside training")
        if self.twins:
            todo.append(f"give {listed(tuple(self.twins))} attributes of their own")
        close = tuple(name for name in self.confusable if name not in self.twins)
        if close:
            todo.append(f"describe what sets {listed(close)} apart, or add them with photographs (--photos)")
        if todo:
            return f"before you add them: {'; '.join(todo)}"
        several = len(self.names) > 1
        if self.expected:
            return "these classes may be added as they are" if several else "this class may be added as it is"
        return f"nothing in the attributes stands against adding {'these classes' if several else 'this class'}"


def similar_classes(bundle: Bundle, table: ClassTable) -> Similar:
    """What classes would be mixed up with if they were added now, from their attributes alone.

    By the head rule `gaussian` the neighbours and notes are those of the Change that `zsl_runtime.add_classes` of the
    same classes would give. By other rules nothing is known of mix-ups, and likeness is that of attributes.

    Args:
        bundle: only read.
        table: the new classes, as for `zsl_runtime.add_classes`.

    Raises:
        UsageError: as `zsl_runtime.add_classes`.
        ArtefactError: the bundle is damaged.
        BackendError: nothing can run its graphs.

    """
    check_new(bundle, table, ())
    old = bundle.current()
    check_absent(table, old.table)
    whole = old.table.append(table)
    columns = range(len(old.table), len(whole))
    near: Mapping[str, tuple[Neighbour | Alike, ...]]
    among: Mapping[str, tuple[Neighbour | Alike, ...]]
    mixed: dict[str, str] = {}
    if old.means is None:
        near, among = alike(whole, bundle.rule, columns), alike(whole, bundle.rule, columns, columns)
    else:
        after = grown(bundle, old, "", table, photographs={}, seed=old.seed)
        gaussian = bundle.gaussian()
        expected = neighbours(after, gaussian, columns)
        near, among, mixed = expected, neighbours(after, gaussian, columns, columns), confusable(expected)
    return Similar(
        whole,
        table.names,
        old.means is not None,
        near,
        among,
        odd_attributes(table, old.table, training_ranges(bundle, old.table), bundle.rule),
        twins(table, old.table, bundle.rule),
        mixed,
        (*table.notes, *doubtful(table.names, old.table.names)),
    )


def unit_rows(table: ClassTable, rule: SemanticRule) -> Doubles:
    """Semantic vectors of classes (C, A) float64, of length 1, or 0 where there is nothing."""
    vectors = rule.apply(table.raw).astype(np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Doubles = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return unit


def alike(
    table: ClassTable,
    rule: SemanticRule,
    columns: Sequence[int],
    among: Sequence[int] | None = None,
    shown: int = SHOWN,
) -> dict[str, tuple[Alike, ...]]:
    """As `neighbours`, by the cosine of semantic vectors; ties in table order."""
    others = np.arange(len(table)) if among is None else np.array(among, dtype=np.int64)
    unit = unit_rows(table, rule)
    found = {}
    for j in list(columns)[:MOST_TOLD]:
        rest = others[others != j]
        cosine = unit[rest] @ unit[j]
        best = np.argsort(-cosine, kind="stable")[:shown]
        found[table.names[j]] = tuple(Alike(table.names[int(rest[k])], float(cosine[k])) for k in best)
    return found if len(others) > 1 else {}
