"""Attribute evidence of features by a linear layer, fitted in closed form: a guide that needs no attention.

ESZSL (Romera-Paredes and Torr, ICML 2015, Eq. 6) on standardised features; its two ridges and the temperature of its
scores are chosen on seen classes that are left out. Evidence e(f) (A,) scores any class by e(f) . a, known or not.
Ours: SC-EGG's guide learns from the local network, which looks at regions; with one region a picture that network is
itself a bilinear classifier, and this is its regularised optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

FEATURE_RIDGES = (10.0, 100.0, 1000.0, 10000.0, 100000.0)
SEMANTIC_RIDGES = (0.01, 0.1, 1.0, 10.0)
TEMPERATURES = tuple(10 ** (step / 4) for step in range(-4, 13))  # 0.1 to 1000: what scores are multiplied by
LEFT_OUT = 5  # one seen class in five is left out for the choice
MINIMUM_SEEN = 4  # fewer seen classes cannot lend two for the choice and keep two


@dataclass(frozen=True)
class Choice:
    """What the left-out classes chose.

    Attributes:
        feature_ridge: g.
        semantic_ridge: l.
        temperature: the scores are multiplied by it.

    """

    feature_ridge: float
    semantic_ridge: float
    temperature: float


def semantic_guide(features: Tensor, labels: Tensor, semantic: Tensor, seen: Tensor) -> tuple[nn.Linear, Choice]:
    """Fit the guide.

    Args:
        features: (n, F) of the training pictures, any scaling.
        labels: (n,) int64, rows of `semantic`; seen classes only.
        semantic: (C, A).
        seen: (C,) bool.

    Returns:
        F -> A float32, whose products with semantic vectors are class scores; and what was chosen.

    """
    mean, spread = features.mean(dim=0), features.amax(dim=0) - features.amin(dim=0)
    deviation = torch.where(spread > 0, features.std(dim=0, correction=0), torch.ones_like(mean))
    rows = (features - mean) / deviation
    known = seen.nonzero().squeeze(1)
    choice = Choice(1000.0, 1.0, 10.0)
    if len(known) >= MINIMUM_SEEN:
        choice = _choose(rows, labels, semantic, known)
    solved = _solutions(rows, labels, semantic[known], known, (choice.feature_ridge,))[0]
    weight = choice.temperature * (solved @ _inverse(semantic[known], choice.semantic_ridge)).T  # (A, F)
    guide = nn.Linear(features.shape[1], semantic.shape[1])
    with torch.no_grad():
        guide.weight.copy_(weight / deviation)
        guide.bias.copy_(-(weight / deviation) @ mean.double())
    return guide, choice


def _solutions(
    rows: Tensor, labels: Tensor, semantic: Tensor, classes: Tensor, ridges: tuple[float, ...]
) -> list[Tensor]:
    """(X^T X + g I)^-1 X^T Y S for every g, Y in {-1, 1}: (F, A) float64 each. X^T X is made once."""
    gram = (rows.T @ rows).double()
    # X^T Y = 2 (sum of each class's rows) - (sum of all rows)
    sums = torch.stack([rows[labels == one].sum(dim=0) for one in classes]).double()  # (S, F)
    signed = (2 * sums - rows.double().sum(dim=0)).T @ semantic.double()
    identity = torch.eye(len(gram), dtype=gram.dtype)
    return [torch.linalg.solve(gram + ridge * identity, signed) for ridge in ridges]


def _inverse(semantic: Tensor, ridge: float) -> Tensor:
    known = semantic.double()
    inverse: Tensor = torch.linalg.inv(known.T @ known + ridge * torch.eye(known.shape[1], dtype=known.dtype))
    return inverse


def _choose(rows: Tensor, labels: Tensor, semantic: Tensor, known: Tensor) -> Choice:
    """The ridges with the best per-class accuracy among the left-out classes, then the temperature of least loss."""
    aside = known[:: min(LEFT_OUT, len(known) // 2)].contiguous()
    kept = known[~torch.isin(known, aside)]
    train, held = torch.isin(labels, kept), torch.isin(labels, aside)
    target = torch.searchsorted(aside, labels[held])
    solved = _solutions(rows[train], labels[train], semantic[kept], kept, FEATURE_RIDGES)
    best, found = (-1.0, FEATURE_RIDGES[0], SEMANTIC_RIDGES[0]), torch.zeros(len(target), len(aside))
    for (ridge, one), semantic_ridge in product(zip(FEATURE_RIDGES, solved, strict=True), SEMANTIC_RIDGES):
        scores = rows[held].double() @ (one @ _inverse(semantic[kept], semantic_ridge)) @ semantic[aside].double().T
        right = (scores.argmax(dim=1) == target).double()
        accuracy = float(torch.stack([right[target == position].mean() for position in range(len(aside))]).mean())
        if accuracy > best[0]:
            best, found = (accuracy, ridge, semantic_ridge), scores
    temperature = min(TEMPERATURES, key=lambda factor: float(F.cross_entropy(factor * found, target)))
    return Choice(best[1], best[2], temperature)
