"""Change the classes of a bundle: each change is a new Generation, committed at once or not at all.

Heads are made from what the bundle keeps. By the rule `gaussian` every class is a mean, told from its attributes by a
graph and sharpened by photographs: a row depends on its own class alone, and nothing is fitted. By the rule `fit` the
whole head is fitted again, on real features of the seen classes and on features synthesized from attributes. By the
rule `rows` a graph gives a class's row. Nothing here loads the model graph: what photographs say is worked out before,
by `zsl_runtime.labelling.photographs`.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.backends.opening import open_small_graphs
from zsl_runtime.classes.newcomers import confusable, neighbours, twins
from zsl_runtime.classes.odd_attributes import odd_attributes, training_ranges
from zsl_runtime.errors import ArtefactError, UsageError, listed
from zsl_runtime.head.class_table import check_class_name, check_numbers, in_stored_form, refuse_duplicates
from zsl_runtime.head.distance import Distances
from zsl_runtime.head.fitting import append_rows, fit_head, fitting_rows, rows_head, silent
from zsl_runtime.head.gaussian import ClassMeans, gaussian_head, grown_head, prior_means, taught_head
from zsl_runtime.head.names import doubtful, perhaps, stored_form
from zsl_runtime.machine.memory import memory_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Advance, Floats
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.bundle.generation import Generation
    from zsl_runtime.classes.newcomers import Neighbour
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.gaussian import Evidence
    from zsl_runtime.head.head import Head

    Evidences = Mapping[str, Evidence]


TEACHABLE = "is in the model (add it first)"


class ClassRow(NamedTuple):
    """One class of a bundle.

    Attributes:
        name: of the class.
        split: seen (the model was trained on photographs of it) or unseen.
        row: its column in scores.
        photographs: that its mean rests on, those of training included; None where the head rule keeps no count.

    """

    name: str
    split: str
    row: int
    photographs: int | None


@dataclass(frozen=True)
class Change:
    """A committed change.

    Attributes:
        generation: now in force.
        names: the classes that came, went, or have other photographs now.
        photographs: of these, class -> how many its mean rests on now, where some came, or went by an undo.
        neighbours: by the rule `gaussian`, added or taught class -> those that it is expected to be mixed up with.
        notes: what the user should know about these classes, a line each.
        seconds: that the change took, waiting for other writers not counted.

    """

    generation: Generation
    names: tuple[str, ...]
    seconds: float
    photographs: Mapping[str, int] = field(default_factory=dict)
    neighbours: Mapping[str, tuple[Neighbour, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def fit_epochs(bundle: Bundle) -> int:
    """How many epochs a fit of this bundle's head takes, all views together; 0 where nothing is fitted."""
    return sum(view.fit.epochs for view in bundle.views if view.fit is not None)


def list_classes(bundle: Bundle) -> list[ClassRow]:
    """The classes of the generation in force, in the order of their columns."""
    generation = bundle.current()
    table, means = generation.table, generation.means
    return [
        ClassRow(name, "seen" if seen else "unseen", row, None if means is None else int(means.counts[row]))
        for row, (name, seen) in enumerate(zip(table.names, table.seen, strict=True))
    ]


def add_classes(
    bundle: Bundle,
    table: ClassTable,
    *,
    photographs: Evidences | None = None,
    seed: int | None = None,
    advance: Advance = silent,
) -> Change:
    """Add classes from their attributes, and from photographs where there are some.

    Args:
        bundle: to change.
        table: the new classes, all unseen, with the bundle's attributes in the bundle's order.
        photographs: name of a new class -> what its photographs say (`zsl_runtime.labelling.photographs.gather`);
            only by the rule `gaussian`.
        seed: of synthesis and fit by the rule `fit`; None takes the one of the export. Only recorded by the others.
        advance: called with 1 after each of `fit_epochs` epochs.

    Raises:
        UsageError: E-CLASS-EXISTS, E-ATTRIBUTES, E-ATTRIBUTE-ZERO, E-ATTRIBUTE-VALUE, E-CLASSES-SPLIT, E-CLASSES-EMPTY,
            E-CLASS-UNKNOWN (photographs of another class), E-HEAD-RULE (photographs by another rule), E-EVIDENCE,
            E-SEED.
        ArtefactError: the bundle is damaged.
        BackendError: nothing can run its graphs.
        SystemProblem: it cannot be written; it is unchanged then.

    """
    seed = _checked_seed(bundle, seed)
    photographs = in_stored_form(photographs or {})
    check_new(bundle, table, photographs)
    with bundle.lock():
        started = time.perf_counter()
        old, digest = _current(bundle)
        check_absent(table, old.table)
        generation = grown(bundle, old, digest, table, photographs=photographs, seed=seed, advance=advance)
        notes = (
            *table.notes,
            *doubtful(table.names, old.table.names),
            *odd_attributes(table, old.table, training_ranges(bundle, old.table), bundle.rule).values(),
            *twins(table, old.table, bundle.rule).values(),
        )
        columns = range(len(old.table), len(generation.table))
        return _commit(bundle, generation, table.names, started, taught=photographs, columns=columns, notes=notes)


def grown(
    bundle: Bundle,
    old: Generation,
    digest: str,
    table: ClassTable,
    *,
    photographs: Evidences,
    seed: int,
    advance: Advance = silent,
) -> Generation:
    """The generation with some classes more; nothing is committed.

    Args:
        bundle: only read.
        old: a generation of it.
        digest: hash of that one's file.
        table: of `add_classes`, as the others, checked.
        photographs: of some of the new classes.
        seed: of synthesis and fit.
        advance: called after each epoch of a fit.

    Raises:
        UsageError: E-EVIDENCE.
        ArtefactError: the bundle is damaged.
        BackendError: nothing can run its graphs.

    """
    whole = old.table.append(table)
    means = old.means
    if means is not None:
        new = ClassMeans.without_photographs(priors(bundle, table)).taught(_by_row(table, photographs))
        head, means = grown_head(old.head, new, bundle.gaussian()), means.append(new)
    elif bundle.head_rule == "rows":
        with closing(open_small_graphs(bundle)) as backend:
            head = append_rows(old.head, table, rule=bundle.rule, rows=backend.rows)
    else:
        head = _fitted(bundle, old, whole, seed, advance)
    return _next(old, digest, table=whole, head=head, means=means, seed=seed, action="add")


def teach_classes(bundle: Bundle, photographs: Evidences) -> Change:
    """Move the means of classes that are there towards their photographs; the rows of all others stay, bit for bit.

    Photographs may come in portions: what counts is how many there were and their sum. Nothing else of them is kept.

    Args:
        bundle: to change, with the head rule `gaussian`.
        photographs: class -> what its photographs say (`zsl_runtime.labelling.photographs.gather`).

    Raises:
        UsageError: E-CLASS-UNKNOWN, E-CLASSES-EMPTY when there is nothing to learn, E-HEAD-RULE, E-EVIDENCE.
        ArtefactError: the bundle is damaged.
        SystemProblem: it cannot be written; it is unchanged then.

    """
    check_teachable(bundle)
    if not photographs:
        raise UsageError("E-CLASSES-EMPTY", "there is nothing to learn; give photographs of at least one class")
    photographs = in_stored_form(photographs)
    with bundle.lock():
        started = time.perf_counter()
        old, digest = _current(bundle)
        assert old.means is not None
        _check_known(photographs, old.table.names, TEACHABLE)
        taught = _by_row(old.table, photographs)
        rows = np.array(sorted(taught), dtype=np.int64)
        means = old.means.taught(taught)
        head = taught_head(old.head, means, bundle.gaussian(), rows)
        generation = _next(old, digest, table=old.table, head=head, means=means, seed=old.seed, action="teach")
        names = tuple(old.table.names[j] for j in rows)
        return _commit(bundle, generation, names, started, taught=photographs, columns=rows.tolist())


def check_teachable(bundle: Bundle) -> None:
    """UsageError E-HEAD-RULE unless the bundle keeps what photographs can sharpen."""
    if bundle.head_rule != "gaussian":
        raise UsageError(
            "E-HEAD-RULE",
            f"{bundle.path} holds no statistics that photographs could sharpen: its head is made by the rule "
            f"{bundle.head_rule!r}; train it again with --preset default and export it, or add the class from its "
            "attributes alone",
        )


def check_taught(bundle: Bundle, names: Iterable[str]) -> None:
    """Refuse what `teach_classes` would refuse, before anybody looks at a photograph.

    Args:
        bundle: only read.
        names: of the classes that have photographs.

    Raises:
        UsageError: E-HEAD-RULE, E-CLASS-UNKNOWN.

    """
    check_teachable(bundle)
    _check_known(names, bundle.current().table.names, TEACHABLE)


def _check_known(names: Iterable[str], known: Sequence[str], instead: str) -> None:
    """UsageError E-CLASS-UNKNOWN when there are photographs of a class that is none of the `known` ones."""
    there = set(known)
    strangers = tuple(name for name in map(stored_form, names) if name not in there)
    if strangers:
        hint = perhaps(strangers[0], known) if len(strangers) == 1 else ""
        raise UsageError(
            "E-CLASS-UNKNOWN",
            f"there are photographs of {listed(strangers)}{hint}, and no class of that name {instead}; expected some "
            f"of the {len(there)}: {listed(known)}",
        )


def check_addable(bundle: Bundle, table: ClassTable, photographs: Iterable[str] = ()) -> None:
    """Refuse what `add_classes` would refuse, before anybody looks at a photograph.

    Args:
        bundle: only read.
        table: of `add_classes`.
        photographs: names of the classes that have some.

    Raises:
        UsageError: as `add_classes`, but E-EVIDENCE and E-SEED.

    """
    check_new(bundle, table, photographs)
    check_absent(table, bundle.current().table)


def distances_with(bundle: Bundle, table: ClassTable) -> Distances:
    """How far pictures are from the classes in force and from new ones, as far as their attributes tell.

    Args:
        bundle: only read; of the rule `gaussian`.
        table: of `add_classes`.

    Raises:
        ArtefactError: the bundle is damaged.
        BackendError: nothing can run its graphs.

    """
    gaussian = bundle.gaussian()
    new = ClassMeans.without_photographs(priors(bundle, table))
    return Distances(grown_head(bundle.current().head, new, gaussian), gaussian)


def remove_classes(bundle: Bundle, names: Sequence[str]) -> Change:
    """Take classes out. The rows of the others stay as they are; nothing is fitted.

    Raises:
        UsageError: E-CLASS-UNKNOWN, or E-CLASSES-EMPTY when none would be left or none is named.

    """
    with bundle.lock():
        started = time.perf_counter()
        old, digest = _current(bundle)
        gone = {old.table.index(name): None for name in names}  # in the order given
        rows = np.array([j for j in range(len(old.table)) if j not in gone], dtype=np.int64)
        if not gone or not rows.size:
            raise UsageError(
                "E-CLASSES-EMPTY",
                f"removing {len(gone)} of {len(old.table)} classes; name at least one and leave at least one",
            )
        generation = _next(
            old,
            digest,
            table=old.table.take(rows),
            head=old.head.take(rows),
            means=None if old.means is None else old.means.take(rows),
            seed=old.seed,
            action="remove",
        )
        return _commit(bundle, generation, tuple(old.table.names[j] for j in gone), started)


def undo(bundle: Bundle) -> Change:
    """Go back: a new generation with the classes and the head of the parent of the one in force, bit for bit.

    It takes over its model's own parent, so a second undo goes one change further back, down to the export. Undo
    cannot be undone; the history tells what was there.

    Raises:
        UsageError: E-UNDO-NONE at the exported state, E-UNDO-PRUNED when the parent was pruned.

    """
    with bundle.lock():
        started = time.perf_counter()
        old, _ = _current(bundle)
        if old.parent == 0:
            raise UsageError("E-UNDO-NONE", f"{bundle.path} is as it was exported; there is nothing to undo")
        if not bundle.generation_path(old.parent).exists():
            raise UsageError(
                "E-UNDO-PRUNED", f"generation {old.parent} of {bundle.path} was pruned, so undo cannot go back to it"
            )
        parent = bundle.generation(old.parent, old.parent_sha256)
        generation = replace(parent, number=old.number + 1, action="undo")
        before, after = _counts(old), _counts(parent)
        names = tuple(name for name in (before | after) if before.get(name, -1) != after.get(name, -1))
        taught = {name: count for name in names if name in before and (count := after.get(name)) is not None}
        return _commit(bundle, generation, names, started, photographs=taught, equals=parent.number)


def refit(bundle: Bundle, *, seed: int | None = None, advance: Advance = silent) -> Change:
    """Make the whole head again, for the classes in force; with the export's seed and classes that gives its head.

    Args:
        bundle: to change.
        seed: of synthesis and fit by the rule `fit`; None takes the one of the export. Only recorded by the others.
        advance: called with 1 after each epoch of the fit; there are `fit_epochs` of them.

    Raises:
        UsageError: E-SEED; otherwise as `add_classes`.

    """
    seed = _checked_seed(bundle, seed)
    with bundle.lock():
        started = time.perf_counter()
        old, digest = _current(bundle)
        means = old.means
        if means is not None:
            means = replace(means, prior=priors(bundle, old.table))
            head = _calibrated(gaussian_head(means, bundle.gaussian(), bundle.views[0]), old.head)
        elif bundle.head_rule == "rows":
            with closing(open_small_graphs(bundle)) as backend:
                made = rows_head(old.table, rule=bundle.rule, rows=backend.rows, view=bundle.views[0])
            head = _calibrated(made, old.head)
        else:
            head = _fitted(bundle, old, old.table, seed, advance)
        generation = _next(old, digest, table=old.table, head=head, means=means, seed=seed, action="refit")
        return _commit(bundle, generation, (), started)


def prune(bundle: Bundle, keep: int) -> tuple[int, ...]:
    """Delete old generations.

    Kept are the one in force, the `keep - 1` that undo would go back to first, and the exported one, to which the
    probe's expected scores belong.

    Returns:
        The numbers that were deleted, ascending.

    Raises:
        UsageError: E-PRUNE when keep is below 1.

    """
    if keep < 1:
        raise UsageError("E-PRUNE", f"--keep {keep}: at least the generation in force is kept; give 1 or more")
    with bundle.lock():
        generation, _ = _current(bundle)
        kept = {1, generation.number}
        for _ in range(keep - 1):
            if not bundle.generation_path(generation.parent).exists():
                break
            generation = bundle.generation(generation.parent, generation.parent_sha256)
            kept.add(generation.number)
        dropped = tuple(number for number in bundle.generation_numbers() if number not in kept)
        bundle.drop(dropped)
    return dropped


def check_new(bundle: Bundle, table: ClassTable, photographs: Iterable[str]) -> None:
    """What can be refused without reading the generation in force; `photographs` are names of classes."""
    if not len(table):
        raise UsageError("E-CLASSES-EMPTY", "there are no classes to add; give at least one")
    refuse_duplicates(map(check_class_name, table.names), code="E-CLASS-DUPLICATE", what="new classes")
    if table.attributes != bundle.attributes:
        raise UsageError("E-ATTRIBUTES", "the attribute columns of the new classes are not the model's, in its order")
    if table.seen.any():
        raise UsageError("E-CLASSES-SPLIT", "classes added on site are unseen; a given one is marked seen")
    check_numbers(table, "the new classes")
    semantic = bundle.rule.apply(table.raw)
    endless = np.flatnonzero(~np.isfinite(semantic).all(axis=1))
    if endless.size:
        row = int(endless[0])
        worst = int(np.abs(np.nan_to_num(table.raw[row], nan=np.inf)).argmax())
        raise UsageError(
            "E-ATTRIBUTE-VALUE",
            f"attribute {table.attributes[worst]!r} of class {table.names[row]!r} is {table.raw[row, worst]:g}: NaN, "
            "infinite or beyond float32; expected numbers of the kind that the model was trained on",
        )
    # Where attributes are scaled, 0 is the smallest of training, which describes a class like any other number.
    empty = np.flatnonzero(~semantic.any(axis=1)) if bundle.rule.scale is None else np.empty(0, np.int64)
    if empty.size:
        raise UsageError(
            "E-ATTRIBUTE-ZERO",
            f"no attribute of class {table.names[int(empty[0])]!r} is above 0, so nothing describes it; "
            "give it at least one attribute",
        )
    named = tuple(photographs)
    if named:
        check_teachable(bundle)
        _check_known(named, table.names, "is being added")


def check_absent(table: ClassTable, old: ClassTable) -> None:
    """UsageError E-CLASS-EXISTS when one of the new classes is there already."""
    there = set(old.names)
    known = [name for name in table.names if name in there]
    if known:
        raise UsageError(
            "E-CLASS-EXISTS",
            f"class {known[0]!r} is in the model already ({len(known)} of the {len(table)} given are); "
            "remove it first or leave it out",
        )


def _counts(generation: Generation) -> dict[str, int | None]:
    """Class -> its photographs, None where the head rule keeps no count."""
    means = generation.means
    counts = [None] * len(generation.table) if means is None else means.counts.tolist()
    return dict(zip(generation.table.names, counts, strict=True))


def _by_row(table: ClassTable, photographs: Evidences) -> dict[int, Evidence]:
    """Row of `table` -> what the photographs of its class say."""
    return {table.index(name): evidence for name, evidence in photographs.items()}


def _checked_seed(bundle: Bundle, seed: int | None) -> int:
    if seed is not None and seed < 0:
        raise UsageError("E-SEED", f"seed {seed} is negative; give a whole number of at least 0")
    return bundle.seed if seed is None else seed


def _current(bundle: Bundle) -> tuple[Generation, str]:
    """The generation in force and the hash of its file; under the lock nobody changes it between the two reads."""
    return bundle.current(), bundle.pointer()[1]


def _next(old: Generation, digest: str, **changed: Any) -> Generation:
    return replace(old, number=old.number + 1, parent=old.number, parent_sha256=digest, **changed)


def _calibrated(head: Head, old: Head) -> Head:
    """The head with the calibration of the old one."""
    return replace(head, gamma=old.gamma, temperature=old.temperature)


def priors(bundle: Bundle, table: ClassTable) -> Floats:
    """Means of classes as their attributes tell them (C, D) float32, by the rule `gaussian`.

    Raises:
        ArtefactError: E-GRAPH-OUTPUT, E-BUNDLE-GRAPH.
        BackendError: nothing can run the graph.

    """
    with closing(open_small_graphs(bundle)) as backend:
        return prior_means(table, rule=bundle.rule, means=backend.means, width=bundle.manifest["dims"]["D"])


def _fitted(bundle: Bundle, old: Generation, table: ClassTable, seed: int, advance: Advance) -> Head:
    """A head of `table` fitted from the start, with the calibration of the old one; the model graph is not loaded."""
    with closing(open_small_graphs(bundle)) as backend:
        x, labels = bundle_rows(bundle, backend, table, seed)
    return _calibrated(fit_head(x, labels, len(table), old.head.views, seed, advance=advance), old.head)


def bundle_rows(
    bundle: Bundle, backend: Backend, table: ClassTable, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What a head of `table` is fitted on, from what a bundle with the head rule `fit` keeps.

    Returns:
        Lifted rows (N, D) float32 and labels (N,) int64.

    Raises:
        ArtefactError: E-REPLAY-CLASS, E-GRAPH-OUTPUT, E-BUNDLE-...: the bundle is damaged.
        BackendError: the backend cannot run its graphs.

    """
    dims = bundle.manifest["dims"]
    _check_fits(bundle, len(table))
    return fitting_rows(
        table,
        bundle.replay(),
        rule=bundle.rule,
        synthesize=backend.synthesize,
        lift=backend.lift if bundle.graph("lift") else None,
        width=dims["D"],
        noise_dim=dims["Z"],
        count=bundle.manifest["head"]["synthetic_per_class"],
        seed=seed,
    )


def _check_fits(bundle: Bundle, classes: int) -> None:
    """ArtefactError E-BUNDLE-SIZE where the rows that a head would be fitted on cannot be in memory."""
    dims, count = bundle.manifest["dims"], bundle.manifest["head"]["synthetic_per_class"]
    wanted, held = 4 * classes * count * (dims["F"] + dims["D"]), memory_bytes()
    if held is not None and wanted > held:
        raise ArtefactError(
            "E-BUNDLE-SIZE",
            f"a head of {classes} classes is fitted on {classes * count:,} rows of {bundle.path}, which take "
            f"{wanted / 1e9:,.1f} GB where {held / 1e9:,.1f} GB are; add fewer classes, or on a larger machine",
        )


def _commit(
    bundle: Bundle,
    generation: Generation,
    names: tuple[str, ...],
    started: float,
    *,
    photographs: Mapping[str, int] | None = None,
    taught: Evidences | None = None,
    columns: Sequence[int] = (),
    notes: Sequence[str] = (),
    **entry: Any,
) -> Change:
    """Commit, and work out what is to be said.

    Args:
        bundle: to change.
        generation: the new one.
        names: of `Change`.
        started: when the change began.
        photographs: of `Change`; None for those of `taught`.
        taught: what new photographs said.
        columns: of the classes whose neighbours are wanted.
        notes: what is to be said about them.
        entry: more for the history.

    """
    near: dict[str, tuple[Neighbour, ...]] = {}
    if generation.means is not None and columns:
        near = neighbours(generation, bundle.gaussian(), columns)
    if taught:
        now = _counts(generation)
        photographs = {name: now[name] or 0 for name in taught}
        entry["photographs"] = {name: int(evidence.count) for name, evidence in taught.items()}
    seconds = time.perf_counter() - started
    bundle.commit(generation, {"names": names, "rule": bundle.head_rule, "seconds": round(seconds, 3), **entry})
    seconds = time.perf_counter() - started
    return Change(generation, names, seconds, photographs or {}, near, (*notes, *confusable(near).values()))
