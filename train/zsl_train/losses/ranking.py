"""Margin ranking between the right class and wrong ones."""

from __future__ import annotations

import torch
from torch import Tensor


def ranking_loss(
    scores: Tensor, labels: Tensor, *, margin: float, negatives: str, draw: Tensor | None = None
) -> Tensor:
    """Hinge between a row's right class and its violating negatives (SP-AEN paper, Eq. 2; docs/methods.md 3.3).

    A negative l violates the margin where margin - s_y + s_l > 0. Of a row's violating negatives one is taken at random
    as published, or their mean (what the random one is on average), or the largest. A row without any costs nothing.

    Args:
        scores: (B, S) of the classes that compete.
        labels: (B,) int64, the right columns.
        margin: gamma.
        negatives: `random`, `mean` or `max`.
        draw: (B, S) independent uniform numbers, for `random` only: the violating negative with the largest is taken.

    Returns:
        scalar, mean over rows.

    """
    hinge = (margin - scores.gather(1, labels[:, None]) + scores).relu()  # (B, S)
    hinge = hinge.scatter(1, labels[:, None], 0.0)
    if negatives == "max":
        return hinge.amax(dim=1).mean()
    violates = hinge > 0
    if negatives == "mean":
        return (hinge.sum(dim=1) / violates.sum(dim=1).clamp_min(1)).mean()
    assert draw is not None
    chosen = torch.where(violates, draw, -1.0).argmax(dim=1, keepdim=True)
    return hinge.gather(1, chosen).mean()
