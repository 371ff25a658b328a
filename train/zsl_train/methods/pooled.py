"""What the methods that look at the whole picture share: one scaled feature a picture, and batches of them.

docs/methods.md 1.3 and 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from zsl_runtime.errors import UsageError
from zsl_train.devices import tensor_of
from zsl_train.nets import PooledEmbedder

if TYPE_CHECKING:
    from zsl_train.methods.base import TrainingData
    from zsl_train.methods.session import Rng

SCALINGS = ("minmax", "standard", "l2", "l2-centred")


def generator_output(scaling: str, published: str) -> str:
    """The generator's output activation: the published one for features in [0, 1], else linear."""
    return published if scaling == "minmax" else "linear"


def at_least_one(method: str, config: object, names: tuple[str, ...]) -> None:
    """UsageError E-RECIPE when one of these settings is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise UsageError("E-RECIPE", f"{name} = {getattr(config, name)!r} of {method}; expected at least 1")


def regions_of(data: TrainingData, start: int, stop: int) -> Tensor:
    """Regions of the training pictures start:stop, float32 (n, R, V); only these are read."""
    return tensor_of(np.asarray(data.regions[data.rows[start:stop]], dtype=np.float32))


def pooled_features(data: TrainingData, scaling: str, block: int = 64) -> tuple[PooledEmbedder, Tensor]:
    """The embedder fitted to the training pictures, and their features f.

    The regions are read once, a block at a time: never more than `block` pictures' regions are in memory.

    Args:
        data: n training pictures.
        scaling: one of SCALINGS.
        block: pictures a block.

    Returns:
        the embedder and (n, V) float32.

    """
    embedder = PooledEmbedder(data.dims.channels, scaling)
    pooled = torch.empty(len(data.rows), data.dims.channels)
    for start in range(0, len(data.rows), block):
        stop = min(start + block, len(data.rows))
        pooled[start:stop] = embedder.pool(regions_of(data, start, stop))
    embedder.fit(pooled)
    return embedder, pooled.sub_(embedder.shift).div_(embedder.divisor)


@dataclass
class Batches:
    """Batches of real features: every draw is the head of a fresh random permutation (docs/methods.md 1.4).

    Attributes:
        features: (n, F) of the training pictures.
        labels: (n,) int64, rows of the class table.
        condition: (C, A), or wider, what the networks know of each class.
        size: rows a batch, at most n.
        rng: of the draws.

    """

    features: Tensor
    labels: Tensor
    condition: Tensor
    size: int
    rng: Rng

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, F), their classes' condition (B, A), labels (B,)."""
        chosen = self.rng.permutation(len(self.features))[: self.size]
        labels = self.labels[chosen]
        return self.features[chosen], self.condition[labels], labels
