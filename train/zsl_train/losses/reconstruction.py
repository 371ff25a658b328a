"""How far a decoded vector lies from the one it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-12


def weighted_l1(decoded: Tensor, semantic: Tensor) -> Tensor:
    """The published code's weighted L1: per row, w = diff^2 / ||diff||_2 and loss = sum(w * |diff|); mean over rows.

    TF-VAEGAN's code (docs/methods.md 7.2). The weight carries gradient, as there.

    Args:
        decoded: (B, A).
        semantic: (B, A).

    Returns:
        scalar.

    """
    diff = (decoded - semantic).abs()
    norm = (diff.square().sum(dim=1, keepdim=True) + EPSILON).sqrt()  # eps: the square root at 0 has no gradient
    return (diff.square() / norm * diff).sum(dim=1).mean()


def plain_l1(decoded: Tensor, semantic: Tensor) -> Tensor:
    """L1 distance summed over attributes, mean over rows (SC-EGG paper, Eq. 12).

    Args:
        decoded: (B, A).
        semantic: (B, A).

    Returns:
        scalar.

    """
    return (decoded - semantic).abs().sum(dim=1).mean()


def squared_l2(decoded: Tensor, target: Tensor) -> Tensor:
    """Squared Euclidean distance, summed over columns, mean over rows.

    Args:
        decoded: (B, X).
        target: (B, X).

    Returns:
        scalar.

    """
    return (decoded - target).square().sum(dim=1).mean()
