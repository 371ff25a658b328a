"""Margin ranking between the right class and wrong ones."""

from __future__ import annotations

import torch
from torch import Tensor


def ranking_loss(
    scores: Tensor, labels: Tensor, *, margin: float, negatives: str, draw: Tensor | None = None
) -> Tensor:
    """Hinge between a row's right class and wrong ones (SP-AEN paper, Eq. 2; docs/methods.md 3.3).

    A negative l violates the margin where margin - s_y + s_l > 0. The paper takes one of all wrong classes at random,
    which often costs nothing; the published code one of those that violate. Their mean is what the latter is on
    average. A row without any that violates costs nothing.

    Args:
        scores: (B, S) of the classes that compete.
        labels: (B,) int64, the right columns.
        margin: gamma.
        negatives: `any` wrong class, at random; of the violating ones one at `random`, their `mean`, or the `max`.
        draw: (B, S) independent uniform numbers, for `any` and `random`: the class with the largest is taken.

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
    may = torch.ones_like(violates).scatter(1, labels[:, None], value=False) if negatives == "any" else violates
    chosen = torch.where(may, draw, -1.0).argmax(dim=1, keepdim=True)
    return hinge.gather(1, chosen).mean()
