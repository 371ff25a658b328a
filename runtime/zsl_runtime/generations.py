"""Change the classes of a bundle: each change is a new Generation, committed at once or not at all.

Nothing here looks at a photograph or loads the model graph: heads are made from what the bundle keeps. By the rule
`fit` that is real features of the seen classes and the graph that synthesizes features from attributes; by the rule
`rows` it is the graph that gives a class's row from its attributes, and nothing is fitted or drawn.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from zsl_runtime.adding import add_rows, groups, kept_keys
from zsl_runtime.backends import open_small_graphs
from zsl_runtime.errors import UsageError
from zsl_runtime.head import Head, append_rows, fit_head, fitting_rows, fold, rows_head, silent
from zsl_runtime.row_cache import RowCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zsl_runtime.backends import Backend
    from zsl_runtime.bundle import Bundle, Generation
    from zsl_runtime.class_table import ClassTable
    from zsl_runtime.head import Advance

FITS = ("new", "full")
Fit = Literal["new", "full"]


class ClassRow(NamedTuple):
    """One class of a bundle.

    Attributes:
        name: of the class.
        split: seen (the model was trained on photographs of it) or unseen.
        row: its column in scores.

    """

    name: str
    split: str
    row: int


@dataclass(frozen=True)
class Change:
    """A committed change.

    Attributes:
        generation: now in force.
        names: the classes that came or went.
        fits: class -> share in [0, 1] of its own synthetic features that the new head, calibration included, takes for
            this class; of the classes that were added. A low share says that its attributes resemble another class.
            Empty where nothing is synthesized (the rule `rows`).
        seconds: that the change took, waiting for other writers not counted.

    """

    generation: Generation
    names: tuple[str, ...]
    fits: dict[str, float]
    seconds: float


def fit_epochs(bundle: Bundle) -> int:
    """How many epochs a fit of this bundle's head takes, all views together; 0 where nothing is fitted."""
    return sum(view.fit.epochs for view in bundle.views if view.fit is not None)


def add_steps(bundle: Bundle, count: int, fit: Fit) -> int:
    """How often `add_classes` calls `advance` for `count` new classes."""
    if fit == "new" and bundle.head_rule == "fit":
        return sum(1 for _ in groups(count))
    return fit_epochs(bundle)


def list_classes(bundle: Bundle) -> list[ClassRow]:
    """The classes of the generation in force, in the order of their columns."""
    table = bundle.current().table
    return [
        ClassRow(name, "seen" if seen else "unseen", row)
        for row, (name, seen) in enumerate(zip(table.names, table.seen, strict=True))
    ]


def add_classes(
    bundle: Bundle, table: ClassTable, *, fit: Fit = "new", seed: int | None = None, advance: Advance = silent
) -> Change:
    """Add classes from their attributes alone.

    Args:
        bundle: to change.
        table: the new classes, all unseen, with the bundle's attributes in the bundle's order.
        fit: `new` fits only the new rows, against a sample of the replay and of synthetic features of every class
            without photographs (`adding.py`); `full` fits the whole head again. Both carry gamma and temperature over.
            By the rule `rows` both append the rows of the new classes.
        seed: of synthesis and fit; None takes the one of the export, with which a class gets the very features that it
            would have had if it had been there from the start. Only recorded by the rule `rows`.
        advance: called with 1 `add_steps` times.

    Raises:
        UsageError: E-CLASS-EXISTS, E-ATTRIBUTES, E-ATTRIBUTE-ZERO, E-CLASSES-SPLIT, E-FIT, E-SEED.
        ArtefactError: the bundle is damaged.
        BackendError: nothing can run its graphs.
        SystemProblem: it cannot be written; it is unchanged then.

    """
    seed = _checked_seed(bundle, seed)
    _check_new(bundle, table, fit)
    with bundle.lock():
        started = time.perf_counter()
        old, digest = _current(bundle)
        there = set(old.table.names)
        known = [name for name in table.names if name in there]
        if known:
            raise UsageError(
                "E-CLASS-EXISTS",
                f"class {known[0]!r} is in the model already ({len(known)} of the {len(table)} given are); "
                "remove it first or leave it out",
            )
        whole = old.table.append(table)
        if bundle.head_rule == "rows":
            with closing(open_small_graphs(bundle)) as backend:
                head = append_rows(old.head, table, rule=bundle.rule, rows=backend.rows)
            generation = _next(old, digest, table=whole, head=head, seed=seed, action="add")
            return _commit(bundle, generation, table.names, started, fit="rows")
        if fit == "new":
            with closing(open_small_graphs(bundle)) as backend:
                added, cache = add_rows(bundle, backend, old.table, old.head, new=table, seed=seed, advance=advance)
            generation = _next(old, digest, table=whole, head=added.head, seed=seed, action="add")
            change = _commit(bundle, generation, table.names, started, fit=fit, fits=added.fits)
            cache.save()
            return change
        x, labels = _fitting_rows(bundle, whole, seed)
        head = _fitted(old, x, labels, seed, advance)
        generation = _next(old, digest, table=whole, head=head, seed=seed, action="add")
        fits = _own_share(generation, x, labels, range(len(old.table), len(whole)))
        return _commit(bundle, generation, table.names, started, fit=fit, fits=fits)


def remove_classes(bundle: Bundle, names: Sequence[str]) -> Change:
    """Take classes out. The rows of the others stay as they are; nothing is fitted.

    Raises:
        UsageError: E-CLASS-UNKNOWN, or E-CLASSES-EMPTY when none would be left or none is named.

    """
    with bundle.lock():
        started = time.perf_counter()
        old, digest = _current(bundle)
        column = {name: j for j, name in enumerate(old.table.names)}
        gone = {column[name] if name in column else old.table.index(name) for name in names}
        rows = np.array([j for j in range(len(old.table)) if j not in gone], dtype=np.int64)
        if not gone or not rows.size:
            raise UsageError(
                "E-CLASSES-EMPTY",
                f"removing {len(gone)} of {len(old.table)} classes; name at least one and leave at least one",
            )
        generation = _next(
            old, digest, table=old.table.take(rows), head=old.head.take(rows), seed=old.seed, action="remove"
        )
        return _commit(bundle, generation, tuple(dict.fromkeys(names)), started)


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
        before, after = set(old.table.names), set(parent.table.names)
        names = tuple(name for name in (*old.table.names, *parent.table.names) if (name in before) != (name in after))
        return _commit(bundle, generation, names, started, equals=parent.number)


def refit(bundle: Bundle, *, seed: int | None = None, advance: Advance = silent) -> Change:
    """Make the whole head again, for the classes in force; with the export's seed and classes that gives its head.

    Args:
        bundle: to change.
        seed: of synthesis and fit; None takes the one of the export. Only recorded by the rule `rows`.
        advance: called with 1 after each epoch of the fit; there are `fit_epochs` of them.

    Raises:
        UsageError: E-SEED; otherwise as `add_classes`.

    """
    seed = _checked_seed(bundle, seed)
    with bundle.lock():
        started = time.perf_counter()
        old, digest = _current(bundle)
        if bundle.head_rule == "rows":
            head, fit = _recomputed(bundle, old), "rows"
        else:
            head, fit = _fitted(old, *_fitting_rows(bundle, old.table, seed), seed, advance), "full"
        generation = _next(old, digest, table=old.table, head=head, seed=seed, action="refit")
        return _commit(bundle, generation, (), started, fit=fit)


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
        tables, kept = [generation.table], {1, generation.number}
        for _ in range(keep - 1):
            if not bundle.generation_path(generation.parent).exists():
                break
            generation = bundle.generation(generation.parent, generation.parent_sha256)
            kept.add(generation.number)
            tables.append(generation.table)
        dropped = tuple(number for number in bundle.generation_numbers() if number not in kept)
        bundle.drop(dropped)
        if dropped and bundle.head_rule == "fit":
            cache = RowCache(bundle.path, bundle.manifest_sha256, bundle.manifest["dims"]["D"])
            cache.keep_only(kept_keys(bundle, tables))
    return dropped


def _check_new(bundle: Bundle, table: ClassTable, fit: str) -> None:
    """What can be refused without reading the generation in force."""
    if fit not in FITS:
        raise UsageError("E-FIT", f"fit {fit!r} is not known; choose {' or '.join(FITS)}")
    if not len(table):
        raise UsageError("E-CLASSES-EMPTY", "there are no classes to add; give at least one")
    if table.attributes != bundle.attributes:
        raise UsageError("E-ATTRIBUTES", "the attribute columns of the new classes are not the model's, in its order")
    if table.seen.any():
        raise UsageError(
            "E-CLASSES-SPLIT", "classes added from attributes alone are unseen; a given one is marked seen"
        )
    empty = np.flatnonzero(~bundle.rule.apply(table.raw).any(axis=1))
    if empty.size:
        raise UsageError(
            "E-ATTRIBUTE-ZERO",
            f"no attribute of class {table.names[int(empty[0])]!r} is above 0, so nothing describes it; "
            "give it at least one attribute",
        )


def _checked_seed(bundle: Bundle, seed: int | None) -> int:
    if seed is not None and seed < 0:
        raise UsageError("E-SEED", f"seed {seed} is negative; give a whole number of at least 0")
    return bundle.seed if seed is None else seed


def _current(bundle: Bundle) -> tuple[Generation, str]:
    """The generation in force and the hash of its file; under the lock nobody changes it between the two reads."""
    return bundle.current(), bundle.pointer()[1]


def _next(old: Generation, digest: str, *, table: ClassTable, head: Head, seed: int, action: str) -> Generation:
    return replace(
        old,
        number=old.number + 1,
        parent=old.number,
        parent_sha256=digest,
        table=table,
        head=head,
        seed=seed,
        action=action,
    )


def _recomputed(bundle: Bundle, old: Generation) -> Head:
    """The rows of all classes computed again, with the calibration of the old head."""
    with closing(open_small_graphs(bundle)) as backend:
        head = rows_head(old.table, rule=bundle.rule, rows=backend.rows, view=bundle.views[0])
    return replace(head, gamma=old.head.gamma, temperature=old.head.temperature)


def _fitting_rows(bundle: Bundle, table: ClassTable, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`bundle_rows` with a backend for this alone: the model graph is not loaded."""
    with closing(open_small_graphs(bundle)) as backend:
        return bundle_rows(bundle, backend, table, seed)


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


def _fitted(old: Generation, x: NDArray[np.float32], labels: NDArray[np.int64], seed: int, advance: Advance) -> Head:
    """A head fitted from the start, with the calibration of the old one."""
    head = fit_head(x, labels, int(labels.max()) + 1, old.head.views, seed, advance=advance)
    return replace(head, gamma=old.head.gamma, temperature=old.head.temperature)


def _own_share(
    generation: Generation, x: NDArray[np.float32], labels: NDArray[np.int64], columns: Sequence[int]
) -> dict[str, float]:
    """Class name -> share of its rows in x that the calibrated head takes for it."""
    folded = fold(generation.head, generation.table.seen)
    return {
        generation.table.names[j]: float((folded.scores(x[labels == j]).argmax(axis=1) == j).mean()) for j in columns
    }


def _commit(bundle: Bundle, generation: Generation, names: tuple[str, ...], started: float, **entry: Any) -> Change:
    seconds = time.perf_counter() - started
    fits = entry.get("fits", {})
    bundle.commit(generation, {"names": names, "seconds": round(seconds, 3), **entry})
    return Change(generation, names, fits, seconds)
