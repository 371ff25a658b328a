"""ESZSL: "An embarrassingly simple approach to zero-shot learning" (Romera-Paredes and Torr, ICML 2015).

One bilinear form between features and semantic vectors, in closed form: scores are f M s (Eq. 6;
`baselines.eszsl_matrix`). The same classifier as the baseline of that name, made to be shipped: a class's row of the
head is M s, so that a class added on site gets the row that it would have had at training.

Scaling and the two ridges are settings. What is not given is chosen once for all folds of the run and together with
gamma, by the code that chooses for the baseline (`settle`): scores of folds with settings of their own would not
compare, and no gamma could be chosen on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from zsl_runtime.head.head import View
from zsl_train.devices import tensor_of
from zsl_train.methods.base import Dims, Trained, TrainingData
from zsl_train.methods.lengths import Once
from zsl_train.methods.pooled import pooled_features
from zsl_train.nets import PooledEmbedder
from zsl_train.scoring.baselines import ESZSL_GRID, SCALINGS, eszsl_matrix, scale
from zsl_train.scoring.folds import Fold, choose_baseline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.arrays import Floats, Ints
    from zsl_train.methods.session import Session

NAME = "eszsl"
PAPER_GRID = tuple(product(*[tuple(10.0**power for power in range(-3, 4))] * 2))
GRIDS = {"ours": ESZSL_GRID, "paper": PAPER_GRID}
FLOPS_PER_SECOND = 30e9  # two cores in float64, eigendecomposition included
CHOSEN = "chosen"
Scaling = Literal["chosen", "none", "l2", "l2-centred", "standard", "minmax"]


@dataclass(frozen=True)
class Config:
    """Settings of ESZSL. [P] paper, [O] ours.

    Attributes:
        scaling: of the features: one of the baselines', `none` [P], or `chosen` on validation classes [O].
        feature_ridge: gamma, the ridge of the feature side; 0 is chosen on validation classes [P].
        semantic_ridge: lambda, the ridge of the semantic side; 0 is chosen on validation classes [P].
        grid: ridges to choose from: `paper`, 10^-3 to 10^3 for both [P], or `ours`, 0.1 to 1000 and 0.01 to 10, where
            validation classes of the data sets at hand found the best [O].

    """

    scaling: Scaling = "chosen"
    feature_ridge: float = 0.0
    semantic_ridge: float = 0.0
    grid: Literal["ours", "paper"] = "ours"


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Ridges by validation over the published range, features as they are. There are no other published settings for
    # features of a deep network, so `code` is the same.
    "paper": {"scaling": "none", "grid": "paper"},
    "code": {"scaling": "none", "grid": "paper"},
}


RETIRED = ("validation_folds",)  # of runs of older versions, whose folds each chose settings of their own


class Rows(nn.Module):
    """Semantic vector s -> M s, the weights that give its class the score f M s; bias 0."""

    def __init__(self, features: int, attributes: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.zeros(features, attributes))
        self.matrix: Tensor

    def forward(self, semantic: Tensor) -> tuple[Tensor, Tensor]:
        """(M, A) -> (M, F), (M,)."""
        weight = semantic @ self.matrix.T
        return weight, torch.zeros_like(weight[:, 0])


class Embedder(nn.Module):
    """Mean over the regions, scaled: `PooledEmbedder`, but which scaling is among its tensors, for it may be chosen."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("unit", torch.zeros(1))
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("divisor", torch.ones(channels))
        self.unit: Tensor  # 1 where rows are made of unit L2 norm first, else 0
        self.shift: Tensor
        self.divisor: Tensor

    def fit(self, pooled: Tensor, scaling: str) -> None:
        """Take the scaling from the training pictures' means over the regions (n, V)."""
        fitted = PooledEmbedder(pooled.shape[1], scaling)
        fitted.fit(fitted.pool(pooled[:, None]))
        self.unit.fill_(float(fitted.unit))
        self.shift.copy_(fitted.shift)
        self.divisor.copy_(fitted.divisor)

    def forward(self, regions: Tensor) -> Tensor:
        """(B, R, V) float32 -> f (B, F), F = V."""
        mean = regions.mean(dim=1)
        length = mean.norm(dim=1, keepdim=True).clamp_min(1e-12)
        # Not `unit * length + 1 - unit`, which rounds a length near zero, and a row of zeros, to a division by zero.
        rows: Tensor = mean / (self.unit * length + (1 - self.unit))
        return (rows - self.shift) / self.divisor


def build(config: Config, dims: Dims) -> Trained:  # noqa: ARG001  # the same for every method
    """The shipped modules for these sizes, untrained."""
    return _trained(Embedder(dims.channels), Rows(dims.channels, dims.attributes))


def _trained(embedder: Embedder, rows: Rows) -> Trained:
    width = rows.matrix.shape[0]
    return Trained(
        embedder=embedder,
        lift=None,
        synthesizer=None,
        noise_width=0,
        feature_width=width,
        lifted_width=width,
        views=(View("feature", 0, width, 1.0, None),),
        synthetic_per_class=0,
        rows=rows,
    )


def candidates(config: Config) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """Scalings, and pairs of ridges, that the settings leave to be chosen from."""
    scalings = SCALINGS if config.scaling == CHOSEN else (config.scaling,)
    grid = GRIDS[config.grid]
    feature = (config.feature_ridge,) if config.feature_ridge > 0 else tuple(dict.fromkeys(g for g, _ in grid))
    semantic = (config.semantic_ridge,) if config.semantic_ridge > 0 else tuple(dict.fromkeys(s for _, s in grid))
    return scalings, tuple(product(feature, semantic))


def settle(config: Config, folds: Sequence[Fold], pooled: Floats, labels: Ints, semantic: Floats) -> Config:
    """The settings with what they leave open chosen: the same for all folds, by mean H at the best common gamma.

    Args:
        config: settings; one that leaves nothing open comes back as it is.
        folds: of the run; where there are none, the first scaling and the middle of the ridges are taken.
        pooled: (n, V) means over the regions of all pictures.
        labels: (n,) rows of `semantic`.
        semantic: (C, A).

    """
    scalings, grid = candidates(config)
    if len(scalings) * len(grid) == 1:
        return config
    choice = choose_baseline(NAME, folds, pooled, labels, semantic, scalings=scalings, grid=grid)
    feature, attribute = choice.ridges
    return replace(config, scaling=cast("Scaling", choice.scaling), feature_ridge=feature, semantic_ridge=attribute)


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:  # noqa: ARG001  # nothing is drawn
    """Solve (docs/methods.md 7.4).

    Args:
        data: features of any R: their mean over the regions is what is looked at.
        config: settings; what they leave open is the first scaling and the middle of the ridges (see `settle`).
        session: logs, checkpoints and snapshots.
        seed: unused: nothing is random.

    Raises:
        GateError: E-DIVERGED when the features are not finite.

    """
    trained = build(config, data.dims)
    embedder, rows = trained.embedder, trained.rows
    assert isinstance(embedder, Embedder)
    assert isinstance(rows, Rows)
    scalings, grid = candidates(config)
    scaling, (feature_ridge, semantic_ridge) = scalings[0], grid[len(grid) // 2]

    def body(_: int) -> dict[str, Tensor]:
        pooled = pooled_features(data, "none")[1].numpy(force=True)
        if not np.isfinite(pooled).all():
            return {"squared_error": torch.tensor(torch.nan)}
        x = scale(pooled, pooled, scaling)
        matrix = eszsl_matrix(
            x,
            data.labels,
            data.semantic,
            data.table.seen,
            feature_ridge=feature_ridge,
            semantic_ridge=semantic_ridge,
        )
        embedder.fit(tensor_of(pooled), scaling)
        rows.matrix.copy_(tensor_of(matrix))
        known = np.flatnonzero(data.table.seen)
        signs = np.where(data.labels[:, None] == known, 1.0, -1.0)
        errors = (x @ matrix @ data.semantic[known].T - signs) ** 2
        return {
            "squared_error": torch.tensor(errors.mean()),
            "feature_ridge": torch.tensor(feature_ridge),
            "semantic_ridge": torch.tensor(semantic_ridge),
            "scaling": torch.tensor(float((*SCALINGS, "none").index(scaling))),
        }

    session.loop("solve", 1, {"embedder": embedder, "rows": rows}, body, trained)
    return trained.eval()


# --- how long it takes ---------------------------------------------------------------------------------------------


def stages(config: Config, dims: Dims) -> tuple[Once]:  # noqa: ARG001  # the same for every method
    """A closed form: one system of the smaller size."""

    def seconds(count: int) -> float:
        side, other = sorted((dims.channels, count))
        return 1 + (2 * side**2 * other + side**3) / FLOPS_PER_SECOND

    return (Once(seconds),)
