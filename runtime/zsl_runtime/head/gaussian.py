"""Every class is a mean: the rows of a tied-covariance Gaussian classifier, and photographs as evidence.

Linear discriminant analysis in canonical coordinates x, in which pictures of one class spread with unit covariance and
the errors of a mean that was told from attributes have the variances d. A class's row of the head follows from its own
mean alone, so classes come, go and learn without a look at the others (deep SLDA: Hayes and Kanan, CVPR workshops 2020;
class means from attributes: Verma and Rai, ECML 2017).

NumPy only. Training makes Generation 1 with these functions, and the site goes on with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.arrays import row_blocks
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.head.head import Head
from zsl_runtime.head.held_out import check_percentiles
from zsl_runtime.machine.storage import parse_tensors, tensor_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Doubles, Floats
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.head import View
    from zsl_runtime.head.semantic_rule import SemanticRule

    Means = Callable[[Floats], Floats]

# Semantic vectors that go through the graph at once, the last block padded: a product of another height may round
# otherwise, and a class's mean must not depend on which classes come with it.
MEANS_BLOCK = 8
MOST_PHOTOGRAPHS = 2**53  # of one class; beyond that a count is not exact in float64


@dataclass(frozen=True, eq=False)
class Evidence:
    """What photographs of one class say: all that is kept of them.

    Attributes:
        count: photographs, at least 1.
        total: (D,) float64, the sum of their canonical coordinates.

    """

    count: int
    total: Doubles


@dataclass(frozen=True)
class ClassMeans:
    """What is known of where each class lies.

    Attributes:
        prior: (C, D) float32, means as the attributes tell them.
        counts: (C,) int64, photographs of each class, those of training included.
        totals: (k, D) float64, sums of canonical coordinates, of the k classes that have photographs, in their order.

    Raises:
        UsageError: E-MEANS when shapes, dtypes or counts do not agree, or a number is not finite.

    """

    prior: Floats
    counts: NDArray[np.int64]
    totals: Doubles

    def __post_init__(self) -> None:
        shapes = self.prior.ndim == 2 and self.counts.shape == self.prior.shape[:1]
        dtypes = self.prior.dtype == np.float32 and self.counts.dtype == np.int64 and self.totals.dtype == np.float64
        good = shapes and dtypes and bool(((self.counts >= 0) & (self.counts <= MOST_PHOTOGRAPHS)).all())
        good = good and self.totals.shape == (np.count_nonzero(self.counts), self.prior.shape[1])
        if not (good and np.isfinite(self.prior).all() and np.isfinite(self.totals).all()):
            raise UsageError(
                "E-MEANS",
                f"means {self.prior.dtype} {self.prior.shape}, counts {self.counts.dtype} {self.counts.shape} and sums "
                f"{self.totals.dtype} {self.totals.shape} do not go together; expected finite float32 (C, D), int64 "
                f"(C,) from 0 to {MOST_PHOTOGRAPHS}, and float64 (k, D) for the k classes whose count is not 0",
            )

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def without_photographs(cls, prior: Floats) -> ClassMeans:
        """Classes known by their attributes alone; prior is (C, D) float32."""
        return cls(prior, np.zeros(len(prior), np.int64), np.zeros((0, prior.shape[1]), np.float64))

    def take(self, rows: NDArray[np.int64]) -> ClassMeans:
        """The classes at `rows`, in that order."""
        place = np.cumsum(self.counts > 0) - 1
        return ClassMeans(self.prior[rows], self.counts[rows], self.totals[place[rows[self.counts[rows] > 0]]])

    def append(self, other: ClassMeans) -> ClassMeans:
        """These classes followed by those of `other`."""
        return ClassMeans(
            np.concatenate([self.prior, other.prior]),
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.totals, other.totals]),
        )

    def taught(self, evidence: Mapping[int, Evidence]) -> ClassMeans:
        """These classes with more photographs.

        Args:
            evidence: row of a class -> what its new photographs say.

        Raises:
            UsageError: E-EVIDENCE for a count below 1 or beyond MOST_PHOTOGRAPHS in all, or a sum that is not (D,) of
                finite numbers, by itself and with the one before.

        """
        counts = self.counts.copy()
        totals = np.zeros(self.prior.shape, np.float64)
        totals[self.counts > 0] = self.totals
        for row, one in evidence.items():
            count = one.count
            whole = isinstance(count, (int, np.integer)) and 1 <= count <= MOST_PHOTOGRAPHS - int(counts[row])
            summed = np.asarray(one.total)
            with np.errstate(over="ignore"):
                fits = summed.shape == totals[row].shape and np.isfinite(totals[row] + summed).all()
            if not whole or not fits:
                raise UsageError(
                    "E-EVIDENCE",
                    f"{count!r} photographs with a sum of shape {summed.shape}; expected a whole number of at least 1, "
                    f"no more than {MOST_PHOTOGRAPHS} for one class in all, and {self.prior.shape[1]} finite numbers",
                )
            counts[row] += int(count)
            totals[row] += summed
        return ClassMeans(self.prior, counts, totals[counts > 0])


@dataclass(frozen=True)
class Gaussian:
    """What turns means into rows; fixed at training.

    Attributes:
        variance: d (D,) float64, how far means told from attributes are off, in units of the spread within a class.
        scale: s (D,) float64 in (0, 1], weight of each coordinate: the same for all classes.
        held: (101,) float64, percentiles 0 to 100 of how far held-out photographs are from the nearest class
            (`zsl_runtime.head.distance`); None where they are not known.

    """

    variance: Doubles
    scale: Doubles
    held: Doubles | None = None

    def __post_init__(self) -> None:
        same = self.variance.ndim == 1 and self.variance.shape == self.scale.shape and len(self.scale) > 0
        double = self.variance.dtype == self.scale.dtype == np.float64
        finite = np.isfinite(self.variance).all() and np.isfinite(self.scale).all()
        if not (same and double and finite and (self.variance >= 0).all() and (self.scale > 0).all()):
            raise UsageError(
                "E-GAUSSIAN",
                f"variances {self.variance.dtype} {self.variance.shape} and scales {self.scale.dtype} "
                f"{self.scale.shape}; expected float64 (D,) each, finite, at least 0 and above 0",
            )
        if self.held is not None:
            check_percentiles(self.held)

    def to_bytes(self) -> bytes:
        """The safetensors file kept in a bundle; a runtime that knows nothing of `held` passes over it."""
        held = {} if self.held is None else {"held": self.held}
        return tensor_bytes({"variance": self.variance, "scale": self.scale, **held}, {})

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Gaussian:
        """Read what `to_bytes` wrote; ArtefactError E-BUNDLE-GAUSSIAN for anything else. `where` names the file."""
        code = "E-BUNDLE-GAUSSIAN"
        tensors, _ = parse_tensors(data, code=code, where=where)
        try:
            return cls(tensors["variance"], tensors["scale"], tensors.get("held"))
        except (KeyError, UsageError) as error:
            reason = f"it holds no {error}" if isinstance(error, KeyError) else getattr(error, "message", error)
            raise ArtefactError(code, f"{where} is not a statistics file: {reason}; export the model again") from None

    def posterior(self, means: ClassMeans) -> Doubles:
        """Where each class lies, attributes and photographs taken together: (C, D) float64.

        With n photographs of mean x_bar: m + d / (d + 1/n) (x_bar - m), coordinate by coordinate; the conjugate update
        of a normal mean.
        """
        where = means.prior.astype(np.float64)
        has = means.counts > 0
        count = means.counts[has][:, None].astype(np.float64)
        share = self.variance / (self.variance + 1 / count)
        where[has] += share * (means.totals / count - where[has])
        return where

    def posterior_blocks(self, means: ClassMeans) -> Iterator[tuple[slice, Doubles]]:
        """`posterior` of BLOCK_ROWS classes at a time, and which ones: of many, all of it takes twice what is kept."""
        for block in row_blocks(len(means)):
            yield block, self.posterior(means.take(np.arange(block.start, block.stop)))

    def remaining(self, counts: NDArray[np.int64]) -> Doubles:
        """Variance that is left of each mean after `counts` (n,) photographs: (n, D) float64, d / (1 + n d)."""
        with np.errstate(over="ignore"):  # then nothing is left
            left: Doubles = self.variance / (1 + counts[:, None].astype(np.float64) * self.variance)
        return left

    def rows(self, means: ClassMeans) -> tuple[Floats, Floats]:
        """The classes' rows of the head: weights s*m (C, D) and biases -1/2 sum(s*m*m) (C,), float32.

        A row does not depend on the classes beside it, bit for bit.

        Raises:
            UsageError: E-EVIDENCE when a mean lies so far away that its row is beyond float32.

        """
        weight = np.empty(means.prior.shape, np.float32)
        bias = np.empty(len(means), np.float32)
        for block, where in self.posterior_blocks(means):
            with np.errstate(over="ignore", invalid="ignore"):
                scaled = self.scale * where
                weight[block] = scaled
                bias[block] = -0.5 * np.einsum("cd,cd->c", scaled, where)
            if not (np.isfinite(weight[block]).all() and np.isfinite(bias[block]).all()):
                raise UsageError(
                    "E-EVIDENCE",
                    f"a class's mean is {np.abs(where).max():.1e} away, beyond what a row of the head can hold; check "
                    "that its photographs went through this very model",
                )
        return weight, bias


def prior_means(table: ClassTable, *, rule: SemanticRule, means: Means, width: int) -> Floats:
    """Means of classes as their attributes tell them.

    A class's mean does not depend on the classes beside it, bit for bit.

    Args:
        table: C classes.
        rule: turns raw attributes into semantic vectors.
        means: semantic vectors (M, A) -> means (M, D), float32; always called with MEANS_BLOCK rows.
        width: D.

    Returns:
        (C, D) float32.

    Raises:
        ArtefactError: E-GRAPH-OUTPUT when the graph gives another shape or numbers that are not finite.

    """
    semantic = rule.apply(table.raw)
    prior = np.empty((len(table), width), np.float32)
    for start, block in _padded(semantic):
        found = means(block)
        if found.shape != (MEANS_BLOCK, width) or not np.isfinite(found).all():
            raise ArtefactError(
                "E-GRAPH-OUTPUT",
                f"the means of classes have shape {found.shape}, expected {(MEANS_BLOCK, width)} of finite numbers; "
                "the bundle's graphs do not fit its manifest, export it again",
            )
        stop = min(start + MEANS_BLOCK, len(table))
        prior[start:stop] = found[: stop - start]
    return prior


def _padded(semantic: Floats) -> Iterator[tuple[int, Floats]]:
    """Blocks of MEANS_BLOCK rows with the number of their first; the last one is filled up with its last row."""
    for start in range(0, len(semantic), MEANS_BLOCK):
        block = semantic[start : start + MEANS_BLOCK]
        yield start, np.concatenate([block, np.repeat(block[-1:], MEANS_BLOCK - len(block), axis=0)])


def gaussian_head(means: ClassMeans, gaussian: Gaussian, view: View) -> Head:
    """The head of these classes: gamma 0 and temperature 1.

    Args:
        means: of C classes.
        gaussian: what turns them into rows.
        view: the head's only one, columns 0 to D.

    """
    weight, bias = gaussian.rows(means)
    return Head((view,), (weight,), (bias,))


def taught_head(head: Head, means: ClassMeans, gaussian: Gaussian, rows: NDArray[np.int64]) -> Head:
    """The head with the rows of some classes made again; all others stay as they are, bit for bit.

    Args:
        head: of C classes.
        means: of the same classes, those at `rows` changed.
        gaussian: what turns them into rows.
        rows: which classes.

    """
    weight, bias = head.weights[0].copy(), head.biases[0].copy()
    weight[rows], bias[rows] = gaussian.rows(means.take(rows))
    return replace(head, weights=(weight,), biases=(bias,))


def grown_head(head: Head, new: ClassMeans, gaussian: Gaussian) -> Head:
    """The head with the rows of new classes behind the others, which stay as they are, bit for bit."""
    weight, bias = gaussian.rows(new)
    return replace(
        head,
        weights=(np.concatenate([head.weights[0], weight]),),
        biases=(np.concatenate([head.biases[0], bias]),),
    )


def evidence_of(x: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> dict[int, Evidence]:
    """Label -> what its rows of canonical coordinates x (n, D) say."""
    return {
        int(one): Evidence(int(np.count_nonzero(labels == one)), x[labels == one].sum(axis=0, dtype=np.float64))
        for one in np.unique(labels)
    }
