"""The class means of the Gaussian head as a module: what `means.onnx` is exported from."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn


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
