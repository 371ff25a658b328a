"""The read-out of a run: what its head looks at, turned into attribute values by ridge regression on class means.

No photograph is read for it. By the rule `gaussian` pictures of a class spread by 1 in every coordinate, so that counts
and sums of the classes, which the run keeps, are all that a regression on its training pictures would need. By the rule
`fit` the features that heads are fitted on stand for them, by the rule `rows` the hundred pictures that a run keeps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_export.compare import batches
from zsl_runtime.head.readout import LEAST_QUALITY, Readout
from zsl_train.methods.base import run_batched

if TYPE_CHECKING:
    from zsl_runtime.arrays import Bools, Doubles, Floats, Ints
    from zsl_runtime.backends.base import Backend
    from zsl_train.training.run_folder import Run

# In units of the number of classes. 1 is what the spread of single pictures around their class comes to, when they are
# read one by one; more shrinks what is read towards the average.
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
FLAT = 1e-3  # a coordinate that spreads by less than this share of the one that spreads most is taken to spread so much


class Lying(NamedTuple):
    """Where the classes of training lie in what the head looks at.

    Attributes:
        rows: (S,) of the class table.
        means: (S, D) float64.
        spread: (D,) float64, of pictures around their class.

    """

    rows: Ints
    means: Doubles
    spread: Doubles


def make_readout(run: Run, backend: Backend) -> Readout:
    """The read-out of a run.

    Args:
        run: finished.
        backend: runs its graphs, where the head's rule is `rows`.

    """
    found = _lying(run, backend)
    table = run.generation.table
    missing = run.semantic_rule.missing(table.raw)
    values = np.where(missing, 0.0, table.raw)[found.rows]
    readout = fit_readout(found.means, values, found.spread)
    # Of attributes of one unit, shares or ticks, one that hardly differs anywhere is no better for it; where units
    # differ, training has scaled them, and each has its own.
    return readout if run.semantic_rule.scale is not None else replace(readout, unit=_common(readout.unit))


def _common(unit: Floats) -> Floats:
    """(A,) no unit smaller than the one in the middle; 0 stays 0, for there nothing was to be learnt."""
    varying = unit[unit > 0]
    return np.where(unit > 0, np.maximum(unit, np.median(varying)), 0).astype(np.float32) if len(varying) else unit


def readable(readout: Readout) -> str:
    """How well attributes are read, in a line."""
    count = int(readout.readable.sum())
    return (
        f"read-out of attributes: {count} of {len(readout.quality)} have a say in explanations, with a correlation of "
        f"{LEAST_QUALITY:g} or more on classes left out"
    )


def fit_readout(means: Doubles, values: Doubles, spread: Doubles) -> Readout:
    """Ridge regression from class means to attribute values, of the strength at which classes left out are read best.

    Args:
        means: (S, D) where classes lie.
        values: (S, A) their attributes.
        spread: (D,) of pictures around their class.

    """
    count, centre = len(means), means.mean(axis=0)
    z = (means - centre) / spread  # (S, D)
    middle, unit = values.mean(axis=0), values.std(axis=0)
    squares, vectors = np.linalg.eigh(z @ z.T)
    squares = np.maximum(squares, 0.0)
    best, quality, strength = -1.0, np.zeros(values.shape[1]), STRENGTHS[0] * count
    for one in STRENGTHS:
        found = _correlations(_left_out(values, vectors * (squares / (squares + one * count)) @ vectors.T), values)
        if float(np.maximum(found, 0).mean()) > best:
            best, quality, strength = float(np.maximum(found, 0).mean()), found, one * count
    weight = (vectors / (squares + strength) @ vectors.T @ (values - middle)).T @ z / spread  # (A, D)
    return Readout(
        weight.astype(np.float32),
        (middle - weight @ centre).astype(np.float32),
        quality.astype(np.float32),
        unit.astype(np.float32),
        centre.astype(np.float32),
        spread.astype(np.float32),
    )


def _left_out(values: Doubles, smoother: Doubles) -> Doubles:
    """(S, A) what is read of each class by a regression that did not know it: in closed form, with a free offset."""
    if len(values) < 2:
        return np.zeros_like(values)
    hat = smoother + 1 / len(values)
    return np.asarray(values - (values - hat @ values) / (1 - np.diag(hat))[:, None])


def _correlations(read: Doubles, values: Doubles) -> Doubles:
    """(A,) correlations of columns; 0 where one of the two is constant."""
    read, values = read - read.mean(axis=0), values - values.mean(axis=0)
    lengths = np.linalg.norm(read, axis=0) * np.linalg.norm(values, axis=0)
    varying = lengths > np.finfo(np.float64).tiny
    found = (read * values).sum(axis=0) / np.where(varying, lengths, 1.0)
    return np.asarray(np.where(varying, found, 0.0).clip(-1, 1))


def _lying(run: Run, backend: Backend) -> Lying:
    """Where the classes of a run lie, from what it keeps."""
    generation = run.generation
    if generation.means is not None:
        has: Bools = generation.means.counts > 0
        means = generation.means.totals / generation.means.counts[has][:, None]
        return Lying(np.flatnonzero(has), means, np.ones(means.shape[1]))
    if run.trained.head_rule == "fit":
        features = run.replay.features.astype(np.float32)
        lift = run.trained.lift
        rows = np.array([generation.table.index(name) for name in run.replay.names], np.int64)
        lifted = features if lift is None else run_batched(lift, features)
        return _measured(lifted[:, : run.trained.lifted_width], rows[run.replay.labels])
    blocks = [backend.lift(backend.features(run.pictures[block])) for block in batches(len(run.pictures))]
    return _measured(np.concatenate(blocks), run.picture_labels)


def _measured(x: Floats, labels: Ints) -> Lying:
    """Where classes lie by rows x (n, D) and their labels (n,), and how far rows spread around their class."""
    rows, place = np.unique(labels, return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    wide = x.astype(np.float64)
    sums = np.zeros((len(rows), x.shape[1]))
    np.add.at(sums, place, wide)
    means = sums / counts[:, None]
    free = len(x) - len(rows)
    # Where most classes have a single row, nothing tells how far they spread; all of them together do, roughly.
    around = wide - means[place] if free >= len(rows) else wide - wide.mean(axis=0)
    spread = np.sqrt(np.square(around).sum(axis=0) / max(free if free >= len(rows) else len(x), 1))
    return Lying(rows, means, np.maximum(spread, FLAT * spread.max()) if spread.max() > 0 else np.ones_like(spread))
