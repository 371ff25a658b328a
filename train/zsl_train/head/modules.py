"""The modules of a model that ships the Gaussian head: one linear layer to canonical coordinates, and class means.

`zsl_train.head.gaussian` works out what is in them; the rows of classes are made by `zsl_runtime.head.gaussian`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from zsl_runtime.head.head import View
from zsl_train.means import Means, Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.head.gaussian import Gaussian
    from zsl_train.methods.base import Trained

VIEW = "canonical"


def shipped(trained: Trained, shape: Shape, attributes: int, gaussian: Gaussian) -> Trained:
    """What ships in place of the method's own head: its embedder, canonical coordinates and means, yet to be filled.

    Args:
        trained: as the method gave it.
        shape: sizes.
        attributes: A.
        gaussian: what turns means into rows.

    """
    synthesizer = trained.synthesizer if shape.draws else None
    return replace(
        trained,
        lift=nn.Linear(trained.feature_width, shape.width),
        synthesizer=None,
        rows=None,
        noise_width=0,
        lifted_width=shape.width,
        views=(View(VIEW, 0, shape.width, 1.0, None),),
        synthetic_per_class=0,
        replay=None,
        replay_per_class=0,
        parts={},
        means=Means(shape, attributes, trained.feature_width, synthesizer, trained.noise_width),
        gaussian=gaussian,
    )


def run_means(module: nn.Module, semantic: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply the `means` of a Trained: semantic (M, A) -> means (M, D), float32."""
    with torch.inference_mode():
        found: NDArray[np.float32] = module(torch.from_numpy(semantic.copy())).numpy()
    return found
