"""The rows of new classes, fitted while the rows of the old ones stay: a small convex problem, solved as one.

Of the old classes only the log-sum-exp of their logits is needed, once for each row of features; what is left is a
softmax regression of the new rows alone. It is minimised by L-BFGS (Nocedal and Wright 2006, algorithms 7.4 and 7.5),
which needs some thirty passes over the rows, where the stochastic steps of `fit_head` need thousands for the same.

An optimum, unlike a schedule that ends early, has to be told how far to go: separable rows have none at all. The old
rows tell it. The L2 penalty is chosen so that the new rows of weights are LENGTH times as long as those of the other
classes (root mean square), so neither scale of the features nor schedule of the first fit has to be known here.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import UsageError
from zsl_runtime.head import check_rows, fitted_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.head import Head

    Floats = NDArray[np.float32]

PASSES = 48  # over the rows, at most, in a fit of one view
MEMORY = 8  # pairs of steps that L-BFGS remembers
STRIP_BYTES = 1 << 20  # rows read from memory once and used twice while they lie in the cache
# The rows of two classes that were fitted together both move away from what is the other's; a new row does it alone.
LENGTH = 1.25  # of the new rows, relative to the old ones
LENGTH_TOLERANCE = 0.03  # of the new rows against the old ones, relative
SLOPE_TOLERANCE = 2e-3  # of the gradient against the one at the start, relative
RETUNE = 6  # iterations between two looks at the length
LENGTH_POWER = 3.0  # the penalty has to change by about this power of the length's ratio


def extend_head(
    head: Head,
    x: Floats,
    labels: NDArray[np.integer[Any]],
    n_new: int,
    *,
    counts: Floats | None = None,
    frozen: Sequence[Floats] | None = None,
) -> Head:
    """Append `n_new` classes to a head; the rows of the old classes stay as they are, bit for bit.

    Args:
        head: of C classes.
        x: (N, D) lifted features of old and new classes, float32; a sample of those of the old classes will do.
        labels: (N,) in [0, C + n_new); every new class must occur.
        n_new: how many classes are new; they get the columns C, C + 1, ...
        counts: (N,) how many rows each row stands for, positive; None for 1 each.
        frozen: per view, (N,) `log_sum_exp` of the old classes' logits; None to compute them.

    Returns:
        A head of C + n_new classes with the same views, gamma and temperature. Nothing is drawn.

    Raises:
        UsageError: E-HEAD-ROWS and E-HEAD-RULE as in `fit_head`.

    """
    old = len(head)
    x, labels = check_rows(x, labels, old + n_new, head.views, new_from=old)
    counts = np.ones(len(x), dtype=np.float32) if counts is None else counts
    if counts.shape != (len(x),) or not (counts > 0).all():
        raise UsageError("E-HEAD-ROWS", f"counts {counts.shape} of {len(x)} rows; expected a positive number for each")
    shares = (counts / counts.sum(dtype=np.float64)).astype(np.float32)
    weights, biases = [], []
    for k, view in enumerate(head.views):
        fitted_settings(view)
        columns = x[:, view.start : view.stop]
        sums = log_sum_exp(columns, head.weights[k], head.biases[k]) if frozen is None else frozen[k]
        problem = NewRows(columns, labels - old, shares, sums, n_new)
        weight, bias = problem.solve(LENGTH * _length(head.weights[k]))
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


@dataclass(frozen=True)
class NewRows:
    """The loss of the new rows of one view, as a function of their weights and biases.

    sum_i share_i (log(exp(frozen_i) + sum_j exp z_ij) - z_i,label) + penalty / 2 sum_j |w_j|^2, with z = x W^T + b;
    for a row of an old class `frozen_i` stands in the place of z_i,label, which changes the loss by a constant.

    Attributes:
        x: (N, D_k) float32.
        labels: (N,) int64; below 0 for a row of an old class.
        shares: (N,) float32, sums to 1.
        frozen: (N,) float32, log-sum-exp of the old classes' logits.
        count: how many rows of weights are new, n.

    """

    x: Floats
    labels: NDArray[np.int64]
    shares: Floats
    frozen: Floats
    count: int

    def value(self, parameters: Floats, middle: Floats) -> tuple[float, Floats]:
        """Loss without its penalty, and its gradient.

        Args:
            parameters: (n, D_k + 1) float32; the last column holds the biases at `middle`.
            middle: (D_k,) float32, taken off every x: with it weights and biases hardly pull at each other.

        Returns:
            The loss and the gradient (n, D_k + 1) float32.

        """
        weight = np.ascontiguousarray(parameters[:, :-1])
        bias = parameters[:, -1] - weight @ middle
        slope = np.zeros_like(weight)
        residual_sum = np.zeros(self.count, dtype=np.float64)
        loss = 0.0
        for strip in _strips(len(self.x), 4 * self.x.shape[1]):
            x, frozen = self.x[strip], self.frozen[strip]
            logits = x @ weight.T
            logits += bias
            top = np.maximum(logits.max(axis=1), frozen)
            chances = np.exp(logits - top[:, None])
            total = np.exp(frozen - top) + chances.sum(axis=1)
            own = np.flatnonzero(self.labels[strip] >= 0)
            label = self.labels[strip][own]
            target = frozen.copy()
            target[own] = logits[own, label]
            losses = top + np.log(total) - target
            loss += float(self.shares[strip].astype(np.float64) @ losses)
            chances /= total[:, None]
            chances[own, label] -= 1
            chances *= self.shares[strip][:, None]
            slope += chances.T @ x
            residual_sum += chances.sum(axis=0, dtype=np.float64)
        short = residual_sum.astype(np.float32)
        slope -= short[:, None] * middle
        return loss, np.concatenate([slope, short[:, None]], axis=1)

    def solve(self, length: float) -> tuple[Floats, Floats]:
        """Weights (n, D_k) and biases (n,), float32, of least loss among those of root mean square length `length`.

        Where the least loss of all is shorter than that, it is the answer.

        Args:
            length: positive; 0 means that there is nothing to go by, and stands for a length of 1.

        """
        length = length or 1.0
        middle = (self.shares @ self.x).astype(np.float32)
        at = self._start()
        loss, slope = self.value(at, middle)
        first = float(np.linalg.norm(slope[:, :-1])) or 1.0
        penalty = 0.05 * first / (length * math.sqrt(self.count))
        least, memory = 1e-4 * penalty, _Memory()
        passes = 1
        loss, slope = _penalised(loss, slope, at, penalty)
        start = float(np.linalg.norm(slope)) or 1.0
        step = length * math.sqrt(self.count) / (2 * first)
        iteration = 0
        while passes < PASSES:
            direction = memory.direction(slope) if memory else slope * np.float32(-step)
            move, gain, tried = 1.0, float(np.vdot(slope, direction)), False
            while True:
                there = at + np.float32(move) * direction
                new_loss, new_slope = _penalised(*self.value(there, middle), there, penalty)
                passes += 1
                # Losses are float32 sums: a step that is right may seem to gain nothing at the very end.
                if new_loss <= loss + 1e-4 * move * gain + 1e-7 * abs(loss) or passes >= PASSES:
                    tried = new_loss <= loss + 1e-7 * abs(loss)
                    break
                move *= 0.3
            if not tried:
                break
            memory.add(there - at, new_slope - slope)
            at, loss, slope = there, new_loss, new_slope
            iteration += 1
            ratio = _length(at[:, :-1]) / length
            flat = float(np.linalg.norm(slope)) <= SLOPE_TOLERANCE * start
            right = abs(ratio - 1) <= LENGTH_TOLERANCE or (ratio < 1 and penalty <= least)
            if flat and right:
                break
            if (flat or iteration % RETUNE == 0) and not right:
                wanted = max(penalty * float(np.clip(ratio, 0.4, 2.5)) ** LENGTH_POWER, least)
                memory.penalty_changed(wanted - penalty)
                loss += (wanted - penalty) / 2 * float(np.square(at[:, :-1], dtype=np.float64).sum())
                slope[:, :-1] += np.float32(wanted - penalty) * at[:, :-1]
                penalty = wanted
        weight = np.ascontiguousarray(at[:, :-1])
        return weight, (at[:, -1] - weight @ middle).astype(np.float32)

    def _start(self) -> Floats:
        """Weights 0 and the biases at which each class has as much probability, over all rows, as it has rows."""
        at = np.zeros((self.count, self.x.shape[1] + 1), dtype=np.float32)
        mass = np.bincount(self.labels[self.labels >= 0], self.shares[self.labels >= 0], minlength=self.count)
        at[:, -1] = np.log(mass) + np.median(self.frozen) - math.log1p(-min(float(mass.sum()), 0.999))
        return at


class _Memory:
    """The last steps of L-BFGS and what each changed of the gradient."""

    def __init__(self) -> None:
        self._pairs: deque[tuple[Floats, Floats]] = deque(maxlen=MEMORY)

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, step: Floats, change: Floats) -> None:
        """Keep a pair, unless rounding has eaten its curvature."""
        if float(np.vdot(step, change)) > 1e-10 * float(np.vdot(change, change)):
            self._pairs.append((step, change))

    def direction(self, slope: Floats) -> Floats:
        """Minus the inverse Hessian, as far as it is known, times the gradient."""
        out, parts = slope.copy(), []
        for step, change in reversed(self._pairs):
            curvature = float(np.vdot(step, change))
            part = float(np.vdot(step, out)) / curvature
            out -= np.float32(part) * change
            parts.append((part, curvature))
        step, change = self._pairs[-1]
        out *= np.float32(parts[0][1] / float(np.vdot(change, change)))
        for (step, change), (part, curvature) in zip(self._pairs, reversed(parts), strict=True):
            out += np.float32(part - float(np.vdot(change, out)) / curvature) * step
        out *= np.float32(-1)
        return out

    def penalty_changed(self, by: float) -> None:
        """The gradient of the penalty is linear, so that old pairs hold for a new one after this."""
        for step, change in self._pairs:
            change[:, :-1] += np.float32(by) * step[:, :-1]
        kept = [pair for pair in self._pairs if float(np.vdot(*pair)) > 0]
        self._pairs = deque(kept, maxlen=MEMORY)


def _penalised(loss: float, slope: Floats, at: Floats, penalty: float) -> tuple[float, Floats]:
    slope[:, :-1] += np.float32(penalty) * at[:, :-1]
    return loss + penalty / 2 * float(np.square(at[:, :-1], dtype=np.float64).sum()), slope


def _length(weight: Floats) -> float:
    """Root mean square Euclidean length of the rows of `weight` (n, D_k)."""
    squares = np.einsum("ij,ij->i", weight, weight, dtype=np.float64) if len(weight) else np.zeros(1)
    return math.sqrt(float(squares.mean()))


def _strips(count: int, row_bytes: int) -> Iterator[slice]:
    size = max(16, STRIP_BYTES // max(row_bytes, 1))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
