"""The rows of new classes, fitted while the rows of the old ones stay.

Of the old classes only the log-sum-exp of their logits is needed, once for each row of features; what is left is a
softmax regression of the new rows alone, fitted as all rows were (Adam, with the view's own settings) on batches that
are every n-th row of what is given, so that each has its part of every class.

How long to go on? The published schedules count epochs over all rows, which are not there here, and a row that moves
alone stops too early by them: two rows that are fitted together both move away from what is the other's, so that their
difference, which is the boundary between the two classes, is longer than either by the root of 2. A new row does this
alone. So it is fitted until it is LENGTH times as long as the old rows are.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.errors import UsageError
from zsl_runtime.head import Adam, check_rows, fitted_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.head import FitSettings, Head

    Floats = NDArray[np.float32]

LENGTH = math.sqrt(2)  # of the new rows, relative to the old ones (root mean squares)
BATCH = 128  # rows a step
STEPS = 1250  # at most; held against 800 and 2,500 on validation classes (ARCHITECTURE.md)
SCHEDULES = 3  # as often as this may the schedule be exceeded that the view was fitted with
STRIP_BYTES = 1 << 20  # of logits that are looked at together


def extend_head(
    head: Head,
    x: Floats,
    labels: NDArray[np.integer[Any]],
    n_new: int,
    *,
    counts: Floats | None = None,
    frozen: Sequence[Floats] | None = None,
    seed: int = 0,
) -> Head:
    """Append `n_new` classes to a head; the rows of the old classes stay as they are, bit for bit.

    Args:
        head: of C classes.
        x: (N, D) lifted features of old and new classes, float32; a sample of those of the old classes will do.
        labels: (N,) in [0, C + n_new); every new class must occur.
        n_new: how many classes are new; they get the columns C, C + 1, ...
        counts: (N,) how many rows each row stands for, positive; None for 1 each.
        frozen: per view, (N,) `log_sum_exp` of the old classes' logits; None to compute them.
        seed: at least 0; view k draws first weights and the order of the batches from (seed, k).

    Returns:
        A head of C + n_new classes with the same views, gamma and temperature.

    Raises:
        UsageError: E-HEAD-ROWS and E-HEAD-RULE as in `fit_head`.

    """
    old = len(head)
    x, labels = check_rows(x, labels, old + n_new, head.views, new_from=old)
    counts = np.ones(len(x), dtype=np.float32) if counts is None else counts
    if counts.shape != (len(x),) or not (counts > 0).all():
        raise UsageError("E-HEAD-ROWS", f"counts {counts.shape} of {len(x)} rows; expected a positive number for each")
    total = float(counts.sum(dtype=np.float64))
    weights, biases = [], []
    for k, view in enumerate(head.views):
        settings = fitted_settings(view)
        columns = x[:, view.start : view.stop]
        sums = log_sum_exp(columns, head.weights[k], head.biases[k]) if frozen is None else frozen[k]
        weight, bias = _fit_new(
            Rows(columns, labels - old, (counts / total).astype(np.float32), sums),
            n_new,
            settings,
            length=LENGTH * _length(head.weights[k]),
            limit=min(STEPS, SCHEDULES * settings.epochs * math.ceil(total / settings.batch_size)),
            rng=np.random.default_rng([seed, k]),
        )
        weights.append(np.concatenate([head.weights[k], weight]))
        biases.append(np.concatenate([head.biases[k], bias]))
    return replace(head, weights=tuple(weights), biases=tuple(biases))


def log_sum_exp(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """log(sum_c exp(x W^T + b)) per row of x, in strips so that (N, C) never stands whole.

    Args:
        x: (N, D_k) float32.
        weight: (C, D_k) float32.
        bias: (C,) float32.

    Returns:
        (N,) float32.

    """
    out = np.empty(len(x), dtype=np.float32)
    for strip in _strips(len(x), 4 * max(len(weight), 1)):
        logits = x[strip] @ weight.T
        logits += bias
        top = logits.max(axis=1)
        logits -= top[:, None]
        np.exp(logits, out=logits)
        out[strip] = top + np.log(logits.sum(axis=1))
    return out


class Rows(NamedTuple):
    """What the new rows of one view are fitted on.

    Attributes:
        x: (N, D_k).
        labels: (N,) int64 of the new rows; below 0 for a row of an old class.
        shares: (N,) how much each row's loss counts.
        frozen: (N,) log-sum-exp of the logits of the old classes.

    """

    x: Floats
    labels: NDArray[np.int64]
    shares: Floats
    frozen: Floats

    def batch(self, first: int, count: int) -> Rows:
        """Every `count`-th row from `first` on, counting for all: views, no copies."""
        every = slice(first, None, count)
        return Rows(self.x[every], self.labels[every], self.shares[every] * np.float32(count), self.frozen[every])


def _fit_new(
    rows: Rows, count: int, settings: FitSettings, *, length: float, limit: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Weights (count, D_k) and biases (count,) fitted until their root mean square length is `length`.

    Args:
        rows: whose shares sum to 1.
        count: how many rows of weights are new.
        settings: of Adam and of the first weights.
        length: at which to stop; looked at after each pass over the rows.
        limit: of steps.
        rng: draws first weights and the order of the batches.

    """
    weight = rng.standard_normal((count, rows.x.shape[1]), dtype=np.float32) * np.float32(settings.init_std)
    bias = np.zeros(count, dtype=np.float32)
    update_weight, update_bias = Adam(weight, settings), Adam(bias, settings)
    out = np.empty_like(weight), np.empty_like(bias)
    batches = max(1, round(len(rows.x) / BATCH))
    steps = 0
    while steps < limit and (steps == 0 or _length(weight) < length):
        for first in rng.permutation(batches)[: limit - steps]:
            new_gradient(rows.batch(int(first), batches), weight, bias, out=out)
            update_weight.step(out[0])
            update_bias.step(out[1])
            steps += 1
    return weight, bias


def new_gradient(rows: Rows, weight: Floats, bias: Floats, *, out: tuple[Floats, Floats]) -> None:
    """Gradient of the weighted cross-entropy of the whole softmax with respect to the new rows.

    Args:
        rows: a batch.
        weight: (n, D_k), the new rows.
        bias: (n,).
        out: where the gradients (n, D_k) and (n,) are written.

    """
    x, labels, shares, frozen = rows
    logits = x @ weight.T
    logits += bias
    top = np.maximum(logits.max(axis=1), frozen)
    logits -= top[:, None]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1)
    total += np.exp(frozen - top)
    logits /= total[:, None]
    own = np.flatnonzero(labels >= 0)
    logits[own, labels[own]] -= 1
    logits *= shares[:, None]
    np.matmul(logits.T, x, out=out[0])
    logits.sum(axis=0, out=out[1])


def _length(weight: Floats) -> float:
    """Root mean square Euclidean length of the rows of `weight` (n, D_k)."""
    squares = np.einsum("ij,ij->i", weight, weight, dtype=np.float64) if len(weight) else np.zeros(1)
    return math.sqrt(float(squares.mean()))


def _strips(count: int, row_bytes: int) -> Iterator[slice]:
    size = max(16, STRIP_BYTES // max(row_bytes, 1))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
