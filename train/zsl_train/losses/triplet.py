"""Batch-all triplet loss (Hermans et al., "In Defense of the Triplet Loss", 2017), as in DCR-GAN."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-12  # the square root at 0 has no gradient


def batch_all_triplet(embedded: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Mean of d(anchor, positive) - d(anchor, negative) + margin over the triplets where that is positive.

    d is the Euclidean distance, not squared. A triplet is an anchor, another row of its class, and a row of another
    class. docs/methods.md 4.1.

    Args:
        embedded: (B, L).
        labels: (B,).
        margin: m.

    Returns:
        the loss, 0 (with gradient 0) where no triplet is positive or there is none, and the share of all triplets
        that are positive: scalars.

    """
    squared = (embedded.unsqueeze(1) - embedded.unsqueeze(0)).square().sum(dim=2)  # (B, B)
    distance = (squared + EPSILON).sqrt()
    same = labels.unsqueeze(1) == labels.unsqueeze(0)
    if embedded.is_cuda:
        return all_at_once(distance, same, margin)
    anchor, positive = (same & ~torch.eye(len(labels), dtype=torch.bool)).nonzero(as_tuple=True)  # P pairs, few of B^2
    violation = (distance[anchor, positive].unsqueeze(1) - distance[anchor] + margin).relu()  # (P, B)
    violation = violation * ~same[anchor]
    wrong = int((violation > 0).sum())
    triplets = int((~same[anchor]).sum())
    return violation.sum() / max(wrong, 1), violation.new_tensor(wrong / max(triplets, 1))


def all_at_once(distance: Tensor, same: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The same of distances and `same` (B, B), over all B^3 triplets: more work, but nothing waits for a card."""
    positive = same.clone().fill_diagonal_(fill_value=False)
    valid = positive.unsqueeze(2) & ~same.unsqueeze(1)  # anchor, positive, negative
    violation = (distance.unsqueeze(2) - distance.unsqueeze(1) + margin).relu() * valid
    wrong = (violation > 0).sum()
    return violation.sum() / wrong.clamp_min(1), wrong / valid.sum().clamp_min(1)
