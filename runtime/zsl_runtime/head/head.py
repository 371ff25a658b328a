"""The classifier on top of the features: views, fitting, folding into one matrix.

A head is made by one of three rules: `gaussian`, each row from its class's mean (`zsl_runtime.head.gaussian`); `fit`,
softmax regression on Replay and synthetic features; or `rows`, a graph that turns a class's semantic vector into its
row.

NumPy only, float32. The same functions fit a head in training and on site, so that a class added later goes through
the code that the classes of the first day went through. Settings are those published for these methods: softmax
regression by Adam with betas (0.5, 0.999), eps 1e-8, weights from N(0, 0.02), biases 0, a new seeded permutation of
the rows each epoch, in batches of nearly equal size.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.arrays import row_blocks
from zsl_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats


RULES = ("fit", "rows", "gaussian")  # how a head is made from what the bundle keeps
TOPK_ROWS = 16  # rows of scores that are partitioned at once


@dataclass(frozen=True)
class FitSettings:
    """How the weights of one view are fitted. The defaults are the published ones (batch: see the method's recipe).

    Attributes:
        epochs: passes over the rows.
        batch_size: rows per step; published as the number of features synthesized per class.
        learning_rate: of Adam.
        beta1: decay of Adam's first moment.
        beta2: decay of Adam's second moment.
        init_std: standard deviation of the normal initial weights.

    """

    epochs: int = 25
    batch_size: int = 300
    learning_rate: float = 1e-3
    beta1: float = 0.5
    beta2: float = 0.999
    init_std: float = 0.02

    def __post_init__(self) -> None:
        whole = all(type(value) is int for value in (self.epochs, self.batch_size))
        reals = (self.learning_rate, self.beta1, self.beta2, self.init_std)
        number = all(type(value) in {int, float} and math.isfinite(value) for value in reals)
        if not (
            whole
            and number
            and self.epochs >= 1
            and self.batch_size >= 1
            and self.learning_rate > 0
            and 0 <= self.beta1 < 1
            and 0 <= self.beta2 < 1
            and self.init_std >= 0
        ):
            raise UsageError(
                "E-FIT-SETTINGS",
                f"cannot fit a head with {asdict(self)}; expected whole epochs and batch_size of at least 1, a "
                "positive learning_rate, betas in [0, 1) and an init_std of at least 0",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FitSettings:
        """Rebuild settings from plain data; UsageError E-FIT-SETTINGS for missing, unknown or impossible values."""
        return cls(**_exact_keys(data, cls, "E-FIT-SETTINGS"))


@dataclass(frozen=True)
class View:
    """One set of columns of the lifted features that has its own linear classifier.

    Attributes:
        name: shown to users, e.g. `feature`.
        start: first column in x.
        stop: one past the last column.
        weight: w_k, how much its log-probabilities count in the sum over views; positive.
        fit: how its weights are fitted; None by the rules that fit nothing.

    """

    name: str
    start: int
    stop: int
    weight: float
    fit: FitSettings | None

    def __post_init__(self) -> None:
        whole = type(self.start) is int and type(self.stop) is int
        number = type(self.weight) in {int, float} and math.isfinite(self.weight)
        if not (whole and number and 0 <= self.start < self.stop and self.weight > 0 and isinstance(self.name, str)):
            raise UsageError(
                "E-VIEW",
                f"view {self.name!r} has columns {self.start}:{self.stop} and weight {self.weight!r}; "
                "expected 0 <= start < stop and a positive weight",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> View:
        """Rebuild a view from plain data; UsageError E-VIEW or E-FIT-SETTINGS for anything else."""
        checked = _exact_keys(data, cls, "E-VIEW")
        fit = checked["fit"]
        if fit is not None and not isinstance(fit, dict):
            raise UsageError("E-VIEW", f"the fit settings of a view are {fit!r}; expected an object or null")
        return cls(**{**checked, "fit": None if fit is None else FitSettings.from_dict(fit)})


@dataclass(frozen=True)
class Head:
    """K linear classifiers over the same C classes, and their calibration.

    Attributes:
        views: K views.
        weights: K arrays W_k, float32 (C, stop - start).
        biases: K arrays b_k, float32 (C,).
        gamma: taken off the scores of seen classes (calibrated stacking), in units of the summed log-probabilities.
        temperature: divides the summed log-probabilities; positive.

    Raises:
        UsageError: E-HEAD-SHAPE when shapes or dtypes do not agree, or gamma or temperature cannot be.

    """

    views: tuple[View, ...]
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    gamma: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        count = len(self.biases[0]) if self.biases else 0
        wanted = [((count, view.stop - view.start), (count,)) for view in self.views]
        given = [(weight.shape, bias.shape) for weight, bias in zip(self.weights, self.biases, strict=False)]
        lengths = {len(self.views), len(self.weights), len(self.biases)}
        single = all(array.dtype == np.float32 for array in (*self.weights, *self.biases))
        if not self.views or len(lengths) != 1 or wanted != given or not single:
            raise UsageError(
                "E-HEAD-SHAPE",
                f"the head's weights and biases have shapes {given}; expected float32 pairs of {wanted}, one per view",
            )
        if not (math.isfinite(self.gamma) and math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(
                "E-HEAD-SHAPE",
                f"gamma {self.gamma} and temperature {self.temperature}: expected finite numbers, temperature above 0",
            )

    def __len__(self) -> int:
        return len(self.biases[0])

    @property
    def width(self) -> int:
        """D: the columns of x that the views use, from 0 to the largest stop."""
        return max(view.stop for view in self.views)

    def take(self, rows: NDArray[np.int64]) -> Head:
        """The head of the classes at `rows`, in that order; nothing is fitted again."""
        return replace(
            self,
            weights=tuple(weight[rows] for weight in self.weights),
            biases=tuple(bias[rows] for bias in self.biases),
        )


@dataclass(frozen=True)
class FoldedHead:
    """A head as one linear layer: `scores = log_softmax(x @ weight.T + bias + class_bias)`.

    Attributes:
        weight: (C, D) float32.
        bias: (C,) float32.
        class_bias: (C,) float32; calibration of the seen classes, -inf on classes left out.

    """

    weight: Floats
    bias: Floats
    class_bias: Floats

    @cached_property
    def is_finite(self) -> bool:
        """Whether weight and bias hold numbers only; looked at once."""
        return bool(np.isfinite(self.weight).all() and np.isfinite(self.bias).all())

    def only(self, keep: NDArray[np.bool_]) -> FoldedHead:
        """The head restricted to the classes where `keep` (C,) is True: the others get probability 0.

        Raises:
            UsageError: E-FILTER-EMPTY when no class is left.

        """
        if not keep.any():
            raise UsageError(
                "E-FILTER-EMPTY", "the class filter leaves no class; name at least one that is in the model"
            )
        return replace(self, class_bias=np.where(keep, self.class_bias, np.float32(-np.inf)).astype(np.float32))

    def scores(self, x: Floats) -> Floats:
        """Log-probabilities (N, C) float32 of lifted features x (N, D) float32."""
        scores: Floats = x @ self.weight.T
        scores += self.bias + self.class_bias
        return log_softmax(scores)


def fold(head: Head, seen: NDArray[np.bool_]) -> FoldedHead:
    """Turn the weighted sum of per-view log-probabilities into one linear layer.

    sum_k w_k log_softmax(W_k x_k + b_k) differs from x [w_k W_k]^T + sum_k w_k b_k only by a number per row, so its
    argmax and its softmax are the same (docs/methods.md 4.4).

    Args:
        head: of C classes.
        seen: (C,) bool; gamma is taken off these.

    Raises:
        UsageError: E-HEAD-SHAPE when `seen` has another length than the head.

    """
    if seen.shape != (len(head),):
        raise UsageError("E-HEAD-SHAPE", f"seen flags of shape {seen.shape} for a head of {len(head)} classes")
    weight = np.zeros((len(head), head.width), dtype=np.float32)
    bias = np.zeros(len(head), dtype=np.float64)
    for view, view_weight, view_bias in zip(head.views, head.weights, head.biases, strict=True):
        share = view.weight / head.temperature
        part = weight[:, view.start : view.stop]
        for block in row_blocks(len(head)):
            part[block] += np.float32(share) * view_weight[block]
        bias += share * view_bias
    class_bias = np.where(seen, -head.gamma / head.temperature, 0.0)
    return FoldedHead(weight, bias.astype(np.float32), class_bias.astype(np.float32))


def log_softmax(logits: Floats) -> Floats:
    """Log-softmax over the last axis, any real dtype and shape (..., C); -inf entries stay -inf."""
    shifted: Floats = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def best_columns(scores: Floats, count: int) -> NDArray[np.int64]:
    """The columns of the `count` largest scores of each row, largest first, ties in column order.

    Where many more columns than that are there, the rest is cut off by a partition first, in blocks of rows.

    Args:
        scores: (N, C) without NaN; -inf comes last.
        count: from 0 to C.

    Returns:
        (N, count) int64.

    """
    width = scores.shape[1]
    if count == 0 or width <= max(64, 4 * count):
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]
    out = np.empty((len(scores), count), dtype=np.int64)
    for block in row_blocks(len(scores), TOPK_ROWS):
        part = scores[block]
        # The least score that gets in; what is equal to it may or may not, by its column.
        least = np.partition(part, width - count, axis=1)[:, width - count]
        above = part > least[:, None]
        room = count - above.sum(axis=1)
        level = part == least[:, None]
        level &= np.cumsum(level, axis=1) <= room[:, None]
        columns = np.nonzero(above | level)[1].reshape(-1, count)
        order = np.argsort(-np.take_along_axis(part, columns, axis=1), axis=1, kind="stable")
        out[block] = np.take_along_axis(columns, order, axis=1)
    return out


def _exact_keys(data: Mapping[str, Any], kind: type[FitSettings | View], code: str) -> dict[str, Any]:
    expected = {field.name for field in fields(kind)}
    if set(data) != expected:
        raise UsageError(code, f"the keys are {sorted(data)}; expected exactly {sorted(expected)}")
    return dict(data)
