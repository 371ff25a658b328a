"""The modules of a model that ships the Gaussian head: one linear layer to canonical coordinates, and class means.

`zsl_train.gaussian` works out what is in them; the rows of classes are made by `zsl_runtime.gaussian`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zsl_runtime.head import View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.gaussian import Gaussian
    from zsl_train.methods.base import Trained

VIEW = "canonical"


@dataclass(frozen=True)
class Shape:
    """The sizes that fix the modules.

    Attributes:
        anchors: S, seen classes that the regression rests on.
        width: D, canonical coordinates.
        draws: K, features synthesized for the mean of a class; 0 where the generator has no part in it.

    """

    anchors: int
    width: int
    draws: int

    def to_dict(self) -> dict[str, int]:
        """Plain data for run.json."""
        return asdict(self)


class Means(nn.Module):
    """Semantic vectors -> class means in canonical coordinates.

    `regression` is kernel ridge regression with a Gaussian kernel from the semantic vectors of the seen classes to
    their means (Verma and Rai, ECML 2017, section 3); `generator` the mean of K features that the method's synthesizer
    makes. What is shipped is (1 - share) regression + share generator.

    Args:
        shape: sizes.
        attributes: A.
        features: F.
        synthesizer: semantic (M, A), noise (M, Z) -> features (M, F); None where `shape.draws` is 0.
        noise_width: Z.

    """

    def __init__(
        self, shape: Shape, attributes: int, features: int, synthesizer: nn.Module | None, noise_width: int
    ) -> None:
        super().__init__()
        assert (synthesizer is None) == (shape.draws == 0)
        self.shape = shape
        self.register_buffer("anchors", torch.zeros(shape.anchors, attributes))
        self.register_buffer("coefficients", torch.zeros(shape.anchors, shape.width))
        self.register_buffer("sharpness", torch.zeros(()))  # 1 / (2 width^2) of the kernel
        self.register_buffer("share", torch.zeros(()))  # of the generator
        self.anchors: Tensor
        self.coefficients: Tensor
        self.sharpness: Tensor
        self.share: Tensor
        self.synthesizer = synthesizer
        self.canonical: nn.Linear | None = None
        if synthesizer is not None:
            self.register_buffer("noise", torch.zeros(shape.draws, noise_width))
            self.noise: Tensor
            self.canonical = nn.Linear(features, shape.width)

    def forward(self, semantic: Tensor) -> Tensor:
        """(M, A) -> (M, D)."""
        lengths = (semantic**2).sum(dim=1, keepdim=True) + (self.anchors**2).sum(dim=1)
        apart = lengths - 2 * semantic @ self.anchors.T
        regression: Tensor = torch.exp(-self.sharpness * apart.clamp_min(0)) @ self.coefficients
        if self.synthesizer is None or self.canonical is None:
            return regression
        # One draw after the other, each broadcast by adding it to zeros: no arithmetic with shapes in the graph.
        nothing = 0 * semantic[:, :1]
        drawn = [self.synthesizer(semantic, nothing + one) for one in self.noise]
        generated = self.canonical(torch.stack(drawn).mean(dim=0))
        mixed: Tensor = (1 - self.share) * regression + self.share * generated
        return mixed


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
        means=Means(shape, attributes, trained.feature_width, synthesizer, trained.noise_width),
        gaussian=gaussian,
    )


def run_means(module: nn.Module, semantic: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply the `means` of a Trained: semantic (M, A) -> means (M, D), float32."""
    with torch.inference_mode():
        found: NDArray[np.float32] = module(torch.from_numpy(semantic.copy())).numpy()
    return found
