"""Heads that are fitted or computed by a graph: softmax regression on Replay and synthetic features, and `rows`."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.arrays import row_blocks
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.head.head import FitSettings, Head, View
from zsl_runtime.machine.storage import parse_tensors, tensor_bytes
from zsl_runtime.machine.untrusted import parse_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Advance, ComputeRows, Floats, Lift, Synthesize
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.semantic_rule import SemanticRule


ADAM_EPS = 1e-8
UPDATE_BLOCK = 1 << 15  # parameters updated at once: five float32 arrays of this length stay in the L2 cache


@dataclass(frozen=True)
class Replay:
    """Real features of seen classes, kept so that heads can be fitted again without photographs.

    Attributes:
        features: (n, F) float16.
        labels: (n,) int32 into `names`.
        names: the seen classes at training time.

    """

    features: NDArray[np.float16]
    labels: NDArray[np.int32]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        rows = len(self.features)
        in_range = self.labels.size == 0 or (self.labels.min() >= 0 and self.labels.max() < len(self.names))
        if (
            self.features.ndim != 2
            or self.features.dtype != np.float16
            or self.labels.shape != (rows,)
            or self.labels.dtype != np.int32
            or not in_range
            or not np.isfinite(self.features).all()
        ):
            raise UsageError(
                "E-REPLAY",
                f"replay features {self.features.dtype} {self.features.shape} and labels {self.labels.dtype} "
                f"{self.labels.shape} over {len(self.names)} classes; expected finite float16 (n, F) and int32 (n,) "
                "that index the class names",
            )

    def to_bytes(self) -> bytes:
        """The safetensors file kept in a bundle."""
        return tensor_bytes(
            {"features": self.features, "labels": self.labels}, {"names": json.dumps(self.names, ensure_ascii=False)}
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Replay:
        """Read what `to_bytes` wrote; ArtefactError E-BUNDLE-REPLAY for anything else. `where` names the file."""
        code = "E-BUNDLE-REPLAY"
        tensors, metadata = parse_tensors(data, code=code, where=where)
        try:
            return cls(tensors["features"], tensors["labels"], parse_names(metadata["names"]))
        except (KeyError, ValueError, UsageError) as error:
            reason = f"it holds no {error}" if isinstance(error, KeyError) else getattr(error, "message", error)
            raise ArtefactError(code, f"{where} is not a replay file: {reason}; export the model again") from None

    def rows_for(self, table: ClassTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows whose class is in `table` and still seen there, and their columns in `table`; both int64 (m,)."""
        column = {name: j for j, name in enumerate(table.names) if table.seen[j]}
        per_name = np.array([column.get(name, -1) for name in self.names], dtype=np.int64)
        target = per_name[self.labels] if len(self.names) else np.zeros(0, dtype=np.int64)
        rows = np.flatnonzero(target >= 0)
        return rows, target[rows]


def class_noise(seed: int, name: str, count: int, width: int) -> Floats:
    """Standard normal noise of one class: the same for a seed and a name, whatever other classes there are.

    Args:
        seed: of the head, at least 0.
        name: the class; its UTF-8 sha256 is mixed into the seed.
        count: rows. A larger count begins with the rows of a smaller one.
        width: Z.

    Returns:
        (count, width) float32.

    """
    digest = hashlib.sha256(name.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest, "big")])
    return rng.standard_normal((count, width), dtype=np.float32)


def fitting_rows(
    table: ClassTable,
    replay: Replay,
    *,
    rule: SemanticRule,
    synthesize: Synthesize,
    lift: Lift | None,
    width: int,
    noise_dim: int,
    count: int,
    seed: int,
) -> tuple[Floats, NDArray[np.int64]]:
    """The rows that a head of `table` is fitted on: Replay of the seen classes, synthetic features of the others.

    Training and the site call this same function, which is why a refit with the same seed gives the same head.

    Args:
        table: C classes.
        replay: real features; rows of classes that are not seen classes of `table` are left out.
        rule: turns raw attributes into semantic vectors.
        synthesize: (semantic (M, A), noise (M, Z)) -> features (M, F), all float32.
        lift: features (M, F) -> (M, D); None when D is F and nothing is lifted.
        width: D.
        noise_dim: Z.
        count: synthetic features per class without photographs.
        seed: of `class_noise`.

    Returns:
        x (N, D) float32 and labels (N,) int64: Replay rows in their order, then `count` rows per unseen class in
        table order.

    Raises:
        ArtefactError: E-REPLAY-CLASS when a seen class has no Replay row; E-GRAPH-OUTPUT when the graphs give another
            shape or numbers that are not finite.

    """
    rows, targets = replay.rows_for(table)
    absent = np.setdiff1d(np.flatnonzero(table.seen), targets)
    if absent.size:
        raise ArtefactError(
            "E-REPLAY-CLASS",
            f"no replay features are kept for the seen class {table.names[int(absent[0])]!r} "
            f"({absent.size} such classes), so a head cannot be fitted; export the model again",
        )
    unseen = np.flatnonzero(~table.seen)
    x = np.empty((len(rows) + count * len(unseen), width), dtype=np.float32)
    labels = np.concatenate([targets, np.repeat(unseen, count)])
    for block in row_blocks(len(rows)):
        x[block] = lifted(replay.features[rows[block]].astype(np.float32), lift, x[block].shape, "the replay")
    semantic = rule.apply(table.raw)
    for place, j in enumerate(unseen):
        noise = class_noise(seed, table.names[int(j)], count, noise_dim)
        features = synthesize(np.repeat(semantic[j : j + 1], count, axis=0), noise)
        start = len(rows) + place * count
        x[start : start + count] = lifted(features, lift, (count, width), f"class {table.names[int(j)]!r}")
    return x, labels


def lifted(features: Floats, lift: Lift | None, shape: tuple[int, ...], of: str) -> Floats:
    """Lifted features of `shape`; ArtefactError E-GRAPH-OUTPUT for another shape or numbers that are not finite."""
    x = features if lift is None else lift(features)
    if x.shape != shape or not np.isfinite(x).all():
        raise ArtefactError(
            "E-GRAPH-OUTPUT",
            f"the lifted features of {of} have shape {x.shape}, expected {shape} of finite numbers; "
            "the bundle's graphs do not fit its manifest, export it again",
        )
    return x


def silent(_count: int) -> None:
    """Nobody wants to know how far a fit is."""


def fit_head(
    x: Floats,
    labels: NDArray[np.integer[Any]],
    n_classes: int,
    views: Sequence[View],
    seed: int,
    *,
    advance: Advance = silent,
) -> Head:
    """Fit every view from the start by softmax regression.

    Args:
        x: (N, D) lifted features, float32.
        labels: (N,) in [0, n_classes); every class must occur.
        n_classes: C.
        views: K views.
        seed: at least 0; view k draws weights and permutations from (seed, k).
        advance: called with 1 after each epoch of each view.

    Returns:
        The head, gamma 0 and temperature 1.

    Raises:
        UsageError: E-HEAD-ROWS when x and labels do not agree, are not finite or a class has no row; E-HEAD-RULE for a
            view that is not fitted.

    """
    x, labels = _check_rows(x, labels, n_classes, views)
    weights, biases = [], []
    for k, view in enumerate(views):
        columns = x[:, view.start : view.stop]
        rng = np.random.default_rng([seed, k])
        settings = _fitted_settings(view)
        weight, bias = _fit_view(columns, labels, settings, n_rows=n_classes, rng=rng, advance=advance)
        weights.append(weight)
        biases.append(bias)
    return Head(tuple(views), tuple(weights), tuple(biases))


def rows_head(table: ClassTable, *, rule: SemanticRule, rows: ComputeRows, view: View) -> Head:
    """The head whose rows are computed from semantic vectors: the rule `rows`. Nothing is fitted or drawn.

    Training and the site call this same function.

    Args:
        table: C classes.
        rule: turns raw attributes into semantic vectors.
        rows: semantic vectors (M, A) -> weights (M, D) and biases (M,), all float32.
        view: the head's only one, columns 0 to D.

    Returns:
        A head of C classes, gamma 0 and temperature 1.

    Raises:
        ArtefactError: E-GRAPH-OUTPUT when the graph gives other shapes or numbers that are not finite.

    """
    semantic = rule.apply(table.raw)
    weight = np.empty((len(table), view.stop - view.start), dtype=np.float32)
    bias = np.empty(len(table), dtype=np.float32)
    for block in row_blocks(len(table)):
        given_weight, given_bias = rows(semantic[block])
        shapes = (given_weight.shape, given_bias.shape), (weight[block].shape, bias[block].shape)
        if shapes[0] != shapes[1] or not (np.isfinite(given_weight).all() and np.isfinite(given_bias).all()):
            raise ArtefactError(
                "E-GRAPH-OUTPUT",
                f"the rows of classes have weights and biases of shapes {shapes[0]}, expected {shapes[1]} of finite "
                "numbers; the bundle's graphs do not fit its manifest, export it again",
            )
        weight[block], bias[block] = given_weight, given_bias
    return Head((view,), (weight,), (bias,))


def append_rows(head: Head, new: ClassTable, *, rule: SemanticRule, rows: ComputeRows) -> Head:
    """Append the rows of new classes to a head of the rule `rows`; the others stay as they are, bit for bit.

    Args:
        head: of C classes, one view.
        new: the classes to append.
        rule: as in `rows_head`.
        rows: as in `rows_head`.

    Returns:
        A head of C + len(new) classes with the same view, gamma and temperature.

    Raises:
        ArtefactError: as `rows_head`.

    """
    more = rows_head(new, rule=rule, rows=rows, view=head.views[0])
    return replace(
        head,
        weights=(np.concatenate([head.weights[0], more.weights[0]]),),
        biases=(np.concatenate([head.biases[0], more.biases[0]]),),
    )


def _fit_view(
    x: Floats,
    labels: NDArray[np.int64],
    settings: FitSettings,
    *,
    n_rows: int,
    rng: np.random.Generator,
    advance: Advance,
) -> tuple[Floats, Floats]:
    """Weights (n_rows, D_k) and biases (n_rows,)."""
    weight = rng.standard_normal((n_rows, x.shape[1]), dtype=np.float32) * np.float32(settings.init_std)
    bias = np.zeros(n_rows, dtype=np.float32)
    update_weight = Adam(weight, settings)
    update_bias = Adam(bias, settings)
    # Of nearly equal size: a short batch at the end would move the weights as far as a full one, on few rows.
    batches = math.ceil(len(x) / settings.batch_size)
    out = np.empty_like(weight), np.empty_like(bias)
    for _ in range(settings.epochs):
        for chosen in np.array_split(rng.permutation(len(x)), batches):
            gradient(x[chosen], labels[chosen], weight, bias, out=out)
            update_weight.step(out[0])
            update_bias.step(out[1])
        advance(1)
    return weight, bias


def gradient(x: Floats, labels: NDArray[np.int64], weight: Floats, bias: Floats, *, out: tuple[Floats, Floats]) -> None:
    """Gradient of the mean cross-entropy with respect to the rows being fitted.

    Args:
        x: (B, D_k).
        labels: (B,) int64 rows of `weight`.
        weight: (n, D_k), the rows being fitted.
        bias: (n,).
        out: where the gradients (n, D_k) and (n,) are written.

    """
    logits = x @ weight.T
    logits += bias
    logits -= logits.max(axis=1)[:, None]
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1)[:, None]
    logits[np.arange(len(x)), labels] -= 1
    logits /= x.dtype.type(len(x))
    np.matmul(logits.T, x, out=out[0])
    logits.sum(axis=0, out=out[1])


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) on one array, in place, in blocks that fit the cache."""

    def __init__(self, values: Floats, settings: FitSettings) -> None:
        self._values = values.reshape(-1)
        self._first = np.zeros_like(self._values)
        self._second = np.zeros_like(self._values)
        self._settings = settings
        self._steps = 0
        self._work = np.empty(min(UPDATE_BLOCK, self._values.size), dtype=values.dtype)

    def step(self, grad: Floats) -> None:
        """Move the values against `grad`, an array of their shape, which is used as working space."""
        self._steps += 1
        settings = self._settings
        scale_second = 1 / math.sqrt(1 - settings.beta2**self._steps)
        rate = settings.learning_rate / (1 - settings.beta1**self._steps)
        flat = grad.reshape(-1)
        for start in range(0, flat.size, UPDATE_BLOCK):
            block = slice(start, start + UPDATE_BLOCK)
            g, first, second = flat[block], self._first[block], self._second[block]
            work = self._work[: g.size]
            first *= settings.beta1
            np.multiply(g, 1 - settings.beta1, out=work)
            first += work
            second *= settings.beta2
            np.multiply(g, g, out=g)
            g *= 1 - settings.beta2
            second += g
            np.sqrt(second, out=work)
            work *= scale_second
            work += ADAM_EPS
            np.divide(first, work, out=work)
            work *= rate
            self._values[block] -= work


def _check_rows(
    x: Floats, labels: NDArray[np.integer[Any]], n_classes: int, views: Sequence[View]
) -> tuple[Floats, NDArray[np.int64]]:
    """Give x as float32 and labels as int64, after checking that they can be fitted; UsageError E-HEAD-ROWS."""
    width = max(view.stop for view in views)
    if x.ndim != 2 or len(x) == 0 or x.shape[1] < width or labels.shape != (len(x),):
        raise UsageError(
            "E-HEAD-ROWS",
            f"features {x.shape} and labels {labels.shape}; expected (N, {width}) and (N,) with at least one row",
        )
    if not all(np.isfinite(x[block]).all() for block in row_blocks(len(x))):
        raise UsageError("E-HEAD-ROWS", "the features to fit on hold NaN or infinity; check the model that made them")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise UsageError(
            "E-HEAD-ROWS", f"labels go from {labels.min()} to {labels.max()}; expected 0 to {n_classes - 1}"
        )
    absent = np.setdiff1d(np.arange(n_classes), labels)
    if absent.size:
        raise UsageError("E-HEAD-ROWS", f"class {absent[0]} has no rows to fit on ({absent.size} such classes)")
    return np.asarray(x, dtype=np.float32), labels.astype(np.int64)


def _fitted_settings(view: View) -> FitSettings:
    """The view's fit settings; UsageError E-HEAD-RULE when it is not fitted at all."""
    if view.fit is None:
        raise UsageError("E-HEAD-RULE", f"view {view.name!r} is not fitted: its rows come from attributes alone")
    return view.fit
