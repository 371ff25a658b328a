"""The classifier on top of the features: views, fitting, folding into one matrix.

A head is made by one of three rules: `gaussian`, each row from its class's mean (`zsl_runtime.gaussian`); `fit`,
softmax regression on Replay and synthetic features; or `rows`, a graph that turns a class's semantic vector into its
row.

NumPy only, float32. The same functions fit a head in training and on site, so that a class added later goes through
the code that the classes of the first day went through. Settings are those published for these methods: softmax
regression by Adam with betas (0.5, 0.999), eps 1e-8, weights from N(0, 0.02), biases 0, a new seeded permutation of
the rows each epoch, in batches of nearly equal size.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.storage import parse_tensors, tensor_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.class_table import ClassTable, SemanticRule

    Floats = NDArray[np.float32]
    Synthesize = Callable[[Floats, Floats], Floats]
    Lift = Callable[[Floats], Floats]
    Rows = Callable[[Floats], tuple[Floats, Floats]]
    Advance = Callable[[int], None]

RULES = ("fit", "rows", "gaussian")  # how a head is made from what the bundle keeps
ADAM_EPS = 1e-8
BLOCK_ROWS = 1024  # rows that go through a graph or a large matrix product at once
TOPK_ROWS = 16  # rows of scores that are partitioned at once
UPDATE_BLOCK = 1 << 15  # parameters updated at once: five float32 arrays of this length stay in the L2 cache


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
        for block in _blocks(len(head)):
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
    for block in _blocks(len(scores), TOPK_ROWS):
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
            names = json.loads(metadata["names"])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("its class names are not a list of strings")  # noqa: TRY301
            return cls(tensors["features"], tensors["labels"], tuple(names))
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
    for block in _blocks(len(rows)):
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


def rows_head(table: ClassTable, *, rule: SemanticRule, rows: Rows, view: View) -> Head:
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
    for block in _blocks(len(table)):
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


def append_rows(head: Head, new: ClassTable, *, rule: SemanticRule, rows: Rows) -> Head:
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


def _blocks(count: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


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
    if not all(np.isfinite(x[block]).all() for block in _blocks(len(x))):
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


def _exact_keys(data: Mapping[str, Any], kind: type[FitSettings | View], code: str) -> dict[str, Any]:
    expected = {field.name for field in fields(kind)}
    if set(data) != expected:
        raise UsageError(code, f"the keys are {sorted(data)}; expected exactly {sorted(expected)}")
    return dict(data)
