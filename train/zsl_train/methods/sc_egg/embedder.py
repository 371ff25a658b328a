"""What ships of SCEN: the attention over regions, the compressed feature, and the evidence beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_train.methods.sc_egg.config import MLP_SLOPE
from zsl_train.nets import MinMaxScaler

if TYPE_CHECKING:
    from zsl_train.methods.base import Trained


class Compression(nn.Module):
    """Attention over regions and the semantic compression of the attended features, without the (B, A, V) tensor.

    Buffers and parameters are all it needs to run: `query` (A, V) is V W_alpha. With `mlp` pooling the two layers
    run along the attribute axis: A -> A/2 -> LeakyReLU -> 1, for each channel.
    """

    def __init__(self, attributes: int, channels: int, pooling: str, *, evidence: bool = False) -> None:
        super().__init__()
        self.pooling = pooling
        self.query = nn.Parameter(torch.zeros(attributes, channels))
        if evidence:
            self.keys = nn.Parameter(torch.zeros(attributes, channels))  # V W_beta
        if pooling == "mlp":
            self.first = nn.Linear(attributes, max(1, attributes // 2))
            self.last = nn.Linear(max(1, attributes // 2), 1)

    def forward(self, regions: Tensor) -> Tensor:
        """Normalised regions (B, R, V) -> compressed feature g (B, V)."""
        attention = (regions @ self.query.T).softmax(dim=1)  # (B, R, A)
        return self.pool(attention, regions)

    def pool(self, attention: Tensor, regions: Tensor) -> Tensor:
        """Attention (B, R, A) and regions (B, R, V) -> g (B, V)."""
        if self.pooling == "mean":
            return (attention.mean(dim=2).unsqueeze(1) @ regions).squeeze(1)
        return compress_mlp(attention, regions, self.first, self.last)


def compress_mlp(attention: Tensor, regions: Tensor, first: nn.Linear, last: nn.Linear) -> Tensor:
    """The compression MLP along the attribute axis, as last(leaky((W1 alpha^T) r + b1)).

    Args:
        attention: (B, R, A), softmax over R.
        regions: (B, R, V).
        first: A -> A/2.
        last: A/2 -> 1.

    Returns:
        (B, V).

    """
    mixed = (attention @ first.weight.T).transpose(1, 2)  # (B, A/2, R)
    hidden = F.leaky_relu(mixed @ regions + first.bias[:, None], MLP_SLOPE)  # (B, A/2, V)
    return (last.weight @ hidden).squeeze(1) + last.bias


class Beside(nn.Module):
    """The compressed feature g and the evidence e as one feature: each divided by its spread, so that neither hides."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spreads", torch.ones(2))
        self.spreads: Tensor

    def fit(self, compressed: Tensor, evidence: Tensor) -> None:
        """Take the spreads from training pictures: g (n, V), e (n, A)."""
        for place, rows in enumerate((compressed, evidence)):
            spread = (rows - rows.mean(dim=0)).square().mean().sqrt()
            self.spreads[place] = spread if spread > 0 else 1.0

    def forward(self, compressed: Tensor, evidence: Tensor) -> Tensor:
        """Rows (B, V) and (B, A) -> (B, V + A)."""
        return torch.cat([compressed / self.spreads[0], evidence / self.spreads[1]], dim=1)


class Embedder(nn.Module):
    """Region features -> f: channel L2 norm at each region, attention, compression, MinMax (docs/methods.md 1.3)."""

    def __init__(self, attributes: int, channels: int, pooling: str, *, evidence: bool = False) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(channels))
        self.centre: Tensor
        self.compression = Compression(attributes, channels, pooling, evidence=evidence)
        self.scaler = MinMaxScaler(channels)
        self.beside = Beside() if evidence else None

    def normalise(self, regions: Tensor) -> Tensor:
        """(B, R, V) -> (B, R, V), each region of unit L2 norm, minus the centre (zero unless asked for)."""
        return F.normalize(regions, dim=2) - self.centre

    def attention(self, regions: Tensor) -> Tensor:
        """(B, R, V) -> (B, R, A): how each attribute's attention is spread over the regions; sums to 1 over R."""
        return (self.normalise(regions) @ self.compression.query.T).softmax(dim=1)

    def attend(self, regions: Tensor) -> Tensor:
        """(B, R, V) -> (B, A, R): where each attribute is looked for; over the regions it sums to 1."""
        return (self.compression.query @ self.normalise(regions).transpose(1, 2)).softmax(dim=2)

    def compress(self, regions: Tensor) -> Tensor:
        """(B, R, V) -> g (B, V), before scaling."""
        return self.compression(self.normalise(regions))  # type: ignore[no-any-return]

    def scaled(self, regions: Tensor) -> Tensor:
        """(B, R, V) -> the compressed feature (B, V) as stage 3 and the guide have it, whatever stands beside it."""
        return self.scaler(self.compress(regions))  # type: ignore[no-any-return]

    def both(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R, V) -> g (B, V) and the evidence e (B, A), from one attention."""
        regions = self.normalise(regions)
        attention = (regions @ self.compression.query.T).softmax(dim=1)  # (B, R, A)
        evidence = (attention * (regions @ self.compression.keys.T)).sum(dim=1)
        return self.compression.pool(attention, regions), evidence

    def forward(self, regions: Tensor) -> Tensor:
        """(B, R, V) float32 -> f (B, F); F is V, with the evidence V + A."""
        if self.beside is not None:
            return self.beside(*self.both(regions))  # type: ignore[no-any-return]
        return self.scaled(regions)


class SynthesizerBeside(nn.Module):
    """A synthesizer of the scaled compressed feature, made one of [g, e]: the guide says what the evidence would be."""

    def __init__(self, synthesizer: nn.Module, guide: nn.Module, scaler: MinMaxScaler, beside: Beside) -> None:
        super().__init__()
        self.synthesizer, self.guide, self.scaler, self.beside = synthesizer, guide, scaler, beside

    def forward(self, semantic: Tensor, noise: Tensor) -> Tensor:
        """(M, A), (M, Z) -> (M, V + A)."""
        scaled = self.synthesizer(semantic, noise)
        joined: Tensor = self.beside(self.scaler.back(scaled), self.guide(scaled))
        return joined


class LiftBeside(nn.Module):
    """The published lift of the scaled compressed feature, applied to [g, e]."""

    def __init__(self, lift: nn.Module, scaler: MinMaxScaler, beside: Beside) -> None:
        super().__init__()
        self.lift, self.scaler, self.beside = lift, scaler, beside

    def forward(self, features: Tensor) -> Tensor:
        """(B, V + A) -> (B, D)."""
        compressed = features[:, : len(self.scaler.low)] * self.beside.spreads[0]
        lifted: Tensor = self.lift(self.scaler(compressed))
        return lifted


def beside(trained: Trained, embedder: Embedder, guide: nn.Module) -> Trained:
    """What ships where the evidence stands beside the compressed feature.

    Args:
        trained: as TF-VAEGAN's stage gave it, on the scaled compressed feature.
        embedder: with evidence.
        guide: scaled compressed feature (B, V) -> evidence (B, A).

    """
    assert embedder.beside is not None
    assert trained.synthesizer is not None
    assert trained.lift is not None
    return replace(
        trained,
        synthesizer=SynthesizerBeside(trained.synthesizer, guide, embedder.scaler, embedder.beside),
        lift=LiftBeside(trained.lift, embedder.scaler, embedder.beside),
        feature_width=trained.feature_width + len(embedder.compression.query),
    )
