"""Classifiers inside SC-EGG, scored beside what ships: the local network, and the guide on real features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from zsl_train.methods.sc_egg.embedder import Embedder
    from zsl_train.methods.sc_egg.guide import Guide
    from zsl_train.methods.sc_egg.scen import Scen
    from zsl_train.nets import PooledEmbedder


class LocalNetwork(nn.Module):
    """The local network as stage 1 left it: p_l = e . a (paper Eq. 2 and 3)."""

    def __init__(self, scen: Scen) -> None:
        super().__init__()
        with torch.no_grad():
            self.register_buffer("centre", scen.embedder.centre.clone())
            self.register_buffer("query", scen.words @ scen.w_alpha)  # (A, V)
            self.register_buffer("keys", scen.words @ scen.w_beta)  # (A, V)
        self.centre: Tensor
        self.query: Tensor
        self.keys: Tensor

    def forward(self, regions: Tensor, semantic: Tensor) -> Tensor:
        """Regions (B, R, V), semantic vectors (C, A) of any classes -> scores (B, C)."""
        regions = nn.functional.normalize(regions, dim=2) - self.centre
        attention = (regions @ self.query.T).softmax(dim=1)  # (B, R, A)
        evidence = (attention * (regions @ self.keys.T)).sum(dim=1)
        return evidence @ semantic.T


class GuideOnPictures(nn.Module):
    """The guide, asked about the compressed features of real pictures.

    Args:
        embedder: of region features, or of plain vectors.
        guide: of their scaled features.
        semantic: (C, A) of the classes that the training knew.

    """

    def __init__(self, embedder: Embedder | PooledEmbedder, guide: Guide, semantic: Tensor) -> None:
        super().__init__()
        self.embedder = embedder
        self.guide = guide
        self.register_buffer("known", semantic.clone())
        self.known: Tensor

    def forward(self, regions: Tensor, semantic: Tensor) -> Tensor:
        """Regions (B, R, V), semantic vectors (C, A) of any classes -> scores (B, C).

        A guide that gives scores of the known classes, not evidence, has none of others. Theirs are those of the
        evidence of least length that gives the known ones: e = pinv(a) p.
        """
        scaled = getattr(self.embedder, "scaled", self.embedder)
        scores: Tensor = self.guide(scaled(regions), semantic)
        if self.guide.evidence or torch.equal(semantic, self.known):
            return scores
        evidence: Tensor = scores @ torch.linalg.pinv(self.known).T
        return evidence @ semantic.T


def parts_of(scen: Scen, guide: Guide, semantic: Tensor) -> dict[str, nn.Module]:
    """Name -> classifier, of a training on regions; `semantic` (C, A) of its classes."""
    return {"local network": LocalNetwork(scen), "guide": GuideOnPictures(scen.embedder, guide, semantic)}
