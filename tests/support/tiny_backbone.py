"""A backbone of one fixed convolution, for tests of what surrounds backbones; it can be slow on purpose."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from zsl_train.backbones.base import Backbone


class FixedBackbone(Backbone):
    """(N, 16, 16, 3) uint8 -> (N, 16, 5); the same weights every time."""

    name: ClassVar[str] = "fixed"
    sizes: ClassVar[tuple[int, ...]] = (16,)
    stride: ClassVar[int] = 4
    channels: ClassVar[int] = 5
    grey_mean: ClassVar[tuple[float, float, float]] = (120.0, 110.0, 100.0)
    grey_std: ClassVar[tuple[float, float, float]] = (64.0, 64.0, 64.0)
    classifier: ClassVar[str] = "fc."

    def __init__(self, size: int = 16, *, seconds: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(size)
        self.seconds = seconds
        self.calls = 0
        self.conv = nn.Conv2d(3, 5, 4, stride=4, bias=False)
        weight = torch.randn(self.conv.weight.shape, generator=torch.Generator().manual_seed(3))
        self.load_weights({"conv.weight": scale * weight}, "the test")

    @classmethod
    def find_weights(cls, weights: str | Path | None) -> Path:
        return Path(weights or "fixed.pth")

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        time.sleep(self.seconds)
        return self.conv(x)
