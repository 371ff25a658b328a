"""The few networks that several methods share (docs/methods.md 1.4 and 7.2).

All linear layers start at N(0, 0.02), bias 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Callable

INIT_STD = 0.02
GAN_SLOPE = 0.2  # negative slope of every LeakyReLU in the GAN networks (docs/methods.md 1.4)


def start_normal(module: nn.Module, generator: torch.Generator, std: float = INIT_STD) -> nn.Module:
    """Draw every linear layer of `module` from N(0, std) with zero bias; returns the module."""
    return start_layers(module, lambda layer: layer.weight.normal_(0.0, std, generator=generator))


def start_layers(
    module: nn.Module, draw: Callable[[Any], object], kinds: tuple[type[nn.Module], ...] = (nn.Linear,)
) -> nn.Module:
    """Let `draw` fill the weight of every layer of these kinds that is trained, in order, and set biases to 0.

    Args:
        module: of which the layers are.
        draw: given a layer, fills its weight in place.
        kinds: of layers.

    Returns:
        The module.

    """
    layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, kinds)]
    for layer in layers:
        if layer.weight.requires_grad:
            with torch.no_grad():
                draw(layer)
                if layer.bias is not None:
                    layer.bias.zero_()
    return module


class MinMaxScaler(nn.Module):
    """Per-dimension scaling to [0, 1] by the minimum and range of the training features; never clipped.

    A dimension that is constant in training has range 1 (docs/methods.md 1.3).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(width))
        self.register_buffer("range", torch.ones(width))
        self.low: Tensor
        self.range: Tensor

    def fit(self, features: Tensor) -> MinMaxScaler:
        """Take minimum and range from training features (n, F); returns self."""
        low = features.amin(dim=0)
        spread = features.amax(dim=0) - low
        self.low.copy_(low)
        self.range.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        return self

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, F)."""
        return (features - self.low) / self.range

    def back(self, scaled: Tensor) -> Tensor:
        """From scaled features (B, F) to those before scaling."""
        return scaled * self.range + self.low


class PooledEmbedder(nn.Module):
    """Region features -> one scaled vector: mean over the regions, perhaps unit L2 norm, then shift and divide.

    The feature space of every method that looks at the whole picture. Published code scales by `minmax`
    (docs/methods.md 1.3); the other scalings are those of the baselines (`zsl_train.scoring.baselines.scale`).

    Args:
        channels: V, which is also F.
        scaling: one of SCALINGS, or `none`: the mean over the regions as it is.

    """

    def __init__(self, channels: int, scaling: str) -> None:
        super().__init__()
        self.unit = scaling.startswith("l2")
        self.scaling = scaling
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("divisor", torch.ones(channels))
        self.shift: Tensor
        self.divisor: Tensor

    def pool(self, regions: Tensor) -> Tensor:
        """(B, R, V) -> (B, V), before scaling."""
        pooled = regions.mean(dim=1)
        return F.normalize(pooled, dim=1) if self.unit else pooled

    def fit(self, pooled: Tensor) -> PooledEmbedder:
        """Take shift and divisor from the training pictures' `pool` (n, V); returns self.

        A dimension that is constant in training is only shifted.
        """
        low, spread = pooled.amin(dim=0), pooled.amax(dim=0) - pooled.amin(dim=0)
        zero, one = torch.zeros_like(low), torch.ones_like(low)
        shift = {"minmax": low, "l2": zero, "none": zero}.get(self.scaling, pooled.double().mean(dim=0).float())
        divisor = {"minmax": spread, "standard": pooled.double().std(dim=0, correction=0).float()}.get(
            self.scaling, one
        )
        self.shift.copy_(shift)
        self.divisor.copy_(torch.where(spread > 0, divisor, one))
        return self

    def forward(self, regions: Tensor) -> Tensor:
        """(B, R, V) float32 -> f (B, F), F = V."""
        return (self.pool(regions) - self.shift) / self.divisor


class Critic(nn.Module):
    """D(x, a): concat -> hidden -> LeakyReLU -> 1 score, no final activation."""

    def __init__(self, features: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.negative_slope = GAN_SLOPE
        self.first = nn.Linear(features + condition, hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(B, F), (B, A) -> (B,)."""
        hidden = F.leaky_relu(self.first(torch.cat([features, condition], dim=1)), self.negative_slope)
        return self.last(hidden).squeeze(1)  # type: ignore[no-any-return]


class Generator(nn.Module):
    """G(z, a): concat -> hidden -> LeakyReLU (+ weighted feedback) -> F -> output activation.

    The decoder of the VAE and the generator of the GAN at once (TF-VAEGAN).

    Args:
        noise: Z.
        condition: width of what the noise is joined with, A or more.
        hidden: H.
        features: F.
        output: `sigmoid` (TF-VAEGAN, SC-EGG) or `relu` (f-CLSWGAN, LisGAN, DCR-GAN) for features scaled to [0, 1],
            `linear` for features of both signs.

    """

    def __init__(self, noise: int, condition: int, hidden: int, features: int, output: str = "sigmoid") -> None:
        super().__init__()
        self.output = output
        self.first = nn.Linear(noise + condition, hidden)
        self.last = nn.Linear(hidden, features)

    def forward(self, noise: Tensor, condition: Tensor, feedback: Tensor | None = None) -> Tensor:
        """(B, Z), (B, A), feedback (B, H) already weighted or None -> (B, F) in the range of the output."""
        hidden = F.leaky_relu(self.first(torch.cat([noise, condition], dim=1)), GAN_SLOPE)
        if feedback is not None:
            hidden = hidden + feedback
        features: Tensor = self.last(hidden)
        if self.output == "sigmoid":
            return torch.sigmoid(features)
        return features.relu() if self.output == "relu" else features


class Encoder(nn.Module):
    """E(x, a): concat -> hidden -> LeakyReLU -> 2 Z -> LeakyReLU -> two linear heads, mean and log-variance."""

    def __init__(self, features: int, condition: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.first = nn.Linear(features + condition, hidden)
        self.second = nn.Linear(hidden, 2 * latent)
        self.mean = nn.Linear(2 * latent, latent)
        self.log_variance = nn.Linear(2 * latent, latent)

    def forward(self, features: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F), (B, A) -> mean (B, Z), log-variance (B, Z)."""
        hidden = F.leaky_relu(self.first(torch.cat([features, condition], dim=1)), GAN_SLOPE)
        hidden = F.leaky_relu(self.second(hidden), GAN_SLOPE)
        return self.mean(hidden), self.log_variance(hidden)


class AttributeDecoder(nn.Module):
    """Dec(x): x -> hidden -> LeakyReLU -> A, divided by its own L2 norm; the hidden layer is exposed as well."""

    def __init__(self, features: int, hidden: int, attributes: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, hidden)
        self.last = nn.Linear(hidden, attributes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) -> unit-norm semantic (B, A), hidden (B, H)."""
        hidden = F.leaky_relu(self.first(features), GAN_SLOPE)
        # normalize() guards the norm with an epsilon: an all-zero output stays finite
        return F.normalize(self.last(hidden), dim=1), hidden


class Feedback(nn.Module):
    """F(h): the decoder's hidden layer -> two layers, each with LeakyReLU -> what is added to G's hidden layer."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, H) -> (B, H)."""
        return F.leaky_relu(self.last(F.leaky_relu(self.first(hidden), GAN_SLOPE)), GAN_SLOPE)
