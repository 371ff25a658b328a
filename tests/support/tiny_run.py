"""A run of a method too small to be good, but whole: everything zsl-export touches, made in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from zsl_train.backbones.base import Backbone

SIDE, REGIONS, CHANNELS = 16, 16, 12
ATTRIBUTES, NOISE, FEATURE, HIDDEN = 6, 4, 10, 8


class TinyBackbone(Backbone):
    """One convolution with BatchNorm at stride 4: (N, 16, 16, 3) uint8 -> (N, 16, 12)."""

    name: ClassVar[str] = "tiny"
    sizes: ClassVar[tuple[int, ...]] = (SIDE,)
    channels: ClassVar[int] = CHANNELS
    classifier: ClassVar[str] = "fc."

    def __init__(self, size: int = SIDE) -> None:
        super().__init__(size, stride=4, mean=[120.0, 115.0, 100.0], std=[60.0] * 3)
        self.conv = nn.Conv2d(3, CHANNELS, 5, stride=4, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        # Statistics unlike the initial 0 and 1, so that folding them wrongly shows.
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        self.eval().requires_grad_(requires_grad=False)

    @classmethod
    def find_weights(cls, weights: str | Path | None) -> Path:
        return Path(weights or "tiny.pth")

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu6(self.norm(self.conv(x)))


class TinyEmbedder(nn.Module):
    """Attention over regions by one query an attribute, then a scaler, as real embedders do: (B, R, V) -> (B, F)."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(ATTRIBUTES, CHANNELS))
        self.project = nn.Linear(CHANNELS, FEATURE)

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        unit = nn.functional.normalize(regions, dim=2)
        weights = torch.softmax(torch.einsum("brv,av->bar", unit, self.queries), dim=2).mean(dim=1)  # (B, R)
        return torch.sigmoid(self.project(torch.einsum("br,brv->bv", weights, regions)))


class TinyLift(nn.Module):
    """f and a hidden layer over it, side by side: (B, F) -> (B, F + H)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURE, HIDDEN)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([features, nn.functional.leaky_relu(self.hidden(features), 0.2)], dim=1)


class TinySynthesizer(nn.Module):
    """(M, A) and (M, Z) -> (M, F) in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(ATTRIBUTES + NOISE, 16)
        self.outer = nn.Linear(16, FEATURE)

    def forward(self, semantic: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.leaky_relu(self.inner(torch.cat([semantic, 0.1 * noise], dim=1)), 0.2)
        return torch.sigmoid(4 * self.outer(hidden))
