"""How far two arrays of rows are apart, and whether they name the same best classes: figures and limits, nothing else.

Used by the gate of an export (`zsl_export.parity`) and by the comparison of backends on a finished bundle
(`zsl_export.verify`), which runs on machines without torch: nothing here imports more than NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zsl_runtime.head.head import FoldedHead

# Largest error of a row as a share of the scale: its Euclidean length over the root mean square length of the reference
# rows. Length, because a linear head follows; single elements of sparse or min-max scaled features may be off by more.
# Measured (ONNX Runtime 1.31, PyTorch 2.13, float32, 67 photographs): EfficientNet-Lite2 under sharp attention 2e-5,
# with every feature scaled to 0..1 3e-5, ResNet-101 with random weights and short residual branches 1e-5. Defects, same
# photographs: region features rounded to half precision 2e-4, weights so rounded or a wrong normalisation 5e-2.
MAX_ROW_ERROR = 1e-4
# Rows that are short beside the others could be wrong within the limit above; their direction is held by this one.
MIN_COSINE = 0.999
# A row may change its best class only at a tie: where PyTorch prefers its own by less than the limit on an error.
MAX_TIE_MARGIN = MAX_ROW_ERROR
# Log-probabilities of 1 nat and less are compared in nats: a smaller scale would ask for more than float32 holds.
MIN_SCORE_SCALE = 1.0
BATCH_SIZES = (1, 3, 16)


@dataclass(frozen=True)
class Limits:
    """What a gate lets through.

    Attributes:
        row_error: largest error of a row, in parts of the scale.
        cosine_min: smallest cosine between a row and its reference.
        tie_margin: widest margin of a tie, in parts of the scale.

    """

    row_error: float
    cosine_min: float
    tie_margin: float


FLOAT32 = Limits(MAX_ROW_ERROR, MIN_COSINE, MAX_TIE_MARGIN)
# Half precision holds 11 bits: a weight or an activation is off by up to 5e-4 of itself, and layers add up. Measured as
# above: EfficientNet-Lite2, 64 convolutions, rounded between all layers: rows off by 9e-3 at most and 5e-3 on average,
# cosine 0.99996. What the limits are there for are overflow and lost weights, which are off by far more than 5e-2; what
# half precision costs in accuracy is measured by itself (zsl_export.accuracy).
FLOAT16 = Limits(row_error=5e-2, cosine_min=0.995, tie_margin=5e-2)


@dataclass(frozen=True)
class Comparison:
    """How far two arrays of rows are apart.

    Attributes:
        what: name of the quantity.
        rows: N, rows compared.
        scale: root mean square of the reference.
        max: largest absolute error.
        mean: mean absolute error.
        p99: 99th percentile of the absolute error.
        row_error: largest Euclidean length of a row's error, over the root mean square length of the reference rows.
        cosine_min: smallest cosine between a row and its reference.
        passed: whether `row_error` and `cosine_min` are within the limits.
        limits: those.

    """

    what: str
    rows: int
    scale: float
    max: float
    mean: float
    p99: float
    row_error: float
    cosine_min: float
    passed: bool
    limits: Limits = FLOAT32

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.rows} rows, max {self.max:.1e}, mean {self.mean:.1e}, p99 {self.p99:.1e}, "
            f"row error {self.row_error:.1e} of the scale (limit {self.limits.row_error:.0e}), "
            f"cosine {self.cosine_min:.7f}"
        )


@dataclass(frozen=True)
class Agreement:
    """Whether two arrays of scores name the same best class.

    Attributes:
        what: name of the quantity.
        rows: N, rows compared.
        share: fraction of rows whose best class is the same.
        margins: for each row that disagrees, by how much the reference prefers its own best class; widest first.
        tie: the widest margin that counts as a tie.
        passed: whether every disagreement is a tie.

    """

    what: str
    rows: int
    share: float
    margins: tuple[float, ...]
    tie: float
    passed: bool

    def __str__(self) -> str:
        differ = f", {len(self.margins)} differ by margins up to {self.margins[0]:.1e}" if self.margins else ""
        return f"{self.what}: {self.rows} rows, {self.share:.2%} agree{differ} (a tie is {self.tie:.1e})"


def compare(
    what: str, reference: NDArray[Any], given: NDArray[Any], *, min_scale: float = 0.0, limits: Limits = FLOAT32
) -> Comparison:
    """Measure `given` (N, K) against `reference` (N, K).

    Entries that are -inf in both (classes a filter left out) agree and are left out of the figures.

    Args:
        what: name of the quantity.
        reference: what is right.
        given: what is judged.
        min_scale: scale to use when the reference's is smaller.
        limits: what passes.

    Raises:
        GateError: E-PARITY-EMPTY when there is nothing to compare: no row, or a reference that is zero everywhere;
            E-PARITY-SHAPE when the shapes differ.

    """
    if reference.shape != given.shape:
        raise shape_error(what, reference.shape, given.shape)
    left, right = reference.astype(np.float64), given.astype(np.float64)
    out = np.isneginf(left) & np.isneginf(right)
    left[out] = right[out] = 0.0
    counted = int(out.size - out.sum())
    scale = max(float(np.sqrt(np.square(left).sum() / max(counted, 1))), min_scale)
    if counted == 0 or scale == 0.0:
        raise GateError(
            "E-PARITY-EMPTY",
            f"nothing to compare for {what}: {len(left)} rows, reference scale {scale:g}; the gate needs rows that are "
            "not all zero: train again",
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return Comparison(what, len(left), scale, np.inf, np.inf, np.inf, np.inf, -1.0, passed=False, limits=limits)
    errors = np.abs(left - right)[~out]
    length = scale * np.sqrt(counted / len(left))  # root mean square length of a reference row
    row_error = float(np.linalg.norm(left - right, axis=1).max() / length)
    cosine = float(_cosines(left, right).min())
    return Comparison(
        what=what,
        rows=len(left),
        scale=scale,
        max=float(errors.max()),
        mean=float(errors.mean()),
        p99=float(np.quantile(errors, 0.99)),
        row_error=row_error,
        cosine_min=cosine,
        passed=row_error <= limits.row_error and cosine >= limits.cosine_min,
        limits=limits,
    )


def shape_error(what: str, wanted: tuple[int, ...], given: tuple[int, ...]) -> GateError:
    """E-PARITY-SHAPE: an array of another shape than the reference's."""
    return GateError("E-PARITY-SHAPE", f"{what} gives {given}, the reference gives {wanted}; report this, it is a bug")


def _cosines(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) cosines of rows; 1 where both rows are zero, 0 where one is."""
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    dots: NDArray[np.float64] = (left * right).sum(axis=1)
    alike = (left == right).all(axis=1)
    return np.where(alike, 1.0, dots / np.where(lengths > 0, lengths, 1.0))


def agree(what: str, reference: NDArray[Any], given: NDArray[Any], limits: Limits = FLOAT32) -> Agreement:
    """Compare the best class of each row of two (N, C) score arrays of the same shape; limits as for `compare`."""
    rows = np.arange(len(reference))
    best, other = reference.argmax(axis=1), given.argmax(axis=1)
    margins = (reference[rows, best] - reference[rows, other])[best != other]
    finite = reference[np.isfinite(reference)].astype(np.float64)
    tie = limits.tie_margin * max(float(np.sqrt(np.mean(np.square(finite)))), MIN_SCORE_SCALE)
    return Agreement(
        what=what,
        rows=len(reference),
        share=float((best == other).mean()),
        margins=tuple(sorted((float(margin) for margin in margins), reverse=True)),
        tie=tie,
        passed=bool((margins <= tie).all()),
    )


def batches(count: int, sizes: Sequence[int] = BATCH_SIZES) -> list[slice]:
    """Cut `count` rows into blocks of `sizes` in turn; the last block is the remainder."""
    blocks: list[slice] = []
    start = 0
    for size in cycle(sizes):
        if start >= count:
            return blocks
        blocks.append(slice(start, min(start + size, count)))
        start += size
    raise AssertionError  # cycle never ends


def reference_scores(lifted: NDArray[np.float32], head: FoldedHead) -> NDArray[np.float64]:
    """(N, C) log-probabilities, written out in float64."""
    logits: NDArray[np.float64] = lifted.astype(np.float64) @ head.weight.T.astype(np.float64)
    logits += head.bias.astype(np.float64) + head.class_bias
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits
