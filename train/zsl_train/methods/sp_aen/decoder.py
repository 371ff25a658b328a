"""G of SP-AEN: rebuilds what was looked at from F."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_train.methods.sp_aen.config import SLOPE


class Decoder(nn.Module, ABC):
    """G with its losses: what F's embedding is rebuilt into, and how far off that is."""

    @abstractmethod
    def losses(self, embedding: Tensor, features: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Weighted losses by name.

        Args:
            embedding: F(x) (B, d).
            features: (B, V) scaled features of the pictures.
            rows: (B,) int64 positions of the pictures among the training pictures.

        """

    def rebuild(self, embedding: Tensor) -> Tensor:
        """F(x) (B, d) -> pictures (B, side, side, 3) uint8; AssertionError for a G of features."""
        raise AssertionError(embedding.shape)


class FeatureDecoder(Decoder):
    """G of features: d -> hidden -> LeakyReLU -> V (docs/methods.md 3.5)."""

    def __init__(self, attributes: int, hidden: int, channels: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.first = nn.Linear(attributes, hidden)
        self.last = nn.Linear(hidden, channels)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, d) -> (B, V)."""
        return self.last(F.leaky_relu(self.first(embedding), SLOPE))  # type: ignore[no-any-return]

    def losses(self, embedding: Tensor, features: Tensor, rows: Tensor) -> dict[str, Tensor]:  # noqa: ARG002  # Decoder
        """Squared distance between features and what is rebuilt of them, mean over rows, weighted."""
        return {"features": self.weight * (self(embedding) - features).square().sum(dim=1).mean()}
