"""Stage 3: EGGN, TF-VAEGAN on the compressed feature, its generator guided on seen and on unseen or virtual classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_train.devices import tensor_of
from zsl_train.methods import tf_vaegan
from zsl_train.methods.sc_egg.config import Config, gan_settings
from zsl_train.methods.sc_egg.embedder import Embedder, beside
from zsl_train.methods.sc_egg.steps import stage_steps
from zsl_train.methods.session import Rng, Session
from zsl_train.methods.tf_vaegan import VaeGan

if TYPE_CHECKING:
    from zsl_train.methods.base import Trained, TrainingData
    from zsl_train.methods.sc_egg.guide import Guide


class VirtualClasses:
    """Attribute vectors of classes that are none: mixed from those of seen classes.

    Where attributes are 0 or 1 each is taken from one of three seen classes, so that it stays 0 or 1; shares and other
    numbers are mixed in convex combinations of three. Unit vectors are made of unit length again.
    """

    def __init__(self, seen: Tensor, rng: Rng) -> None:
        self.seen = seen  # (S, A)
        self.rng = rng
        lengths = seen.norm(dim=1)
        # A class that has the smallest value of every scaled attribute is all 0.
        self.unit = bool((((lengths - 1).abs() < 1e-4) | (lengths == 0)).all())
        # A unit vector of a 0/1 row has two values, 0 and one that is its own
        top = seen.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
        self.binary = bool(((seen == 0) | ((seen - top).abs() < 1e-6 * top)).all())

    def draw(self, count: int) -> Tensor:
        """(count, A)."""
        parents = self.seen[self.rng.integers(len(self.seen), 3 * count)].view(count, 3, -1)
        if self.binary:
            which = self.rng.integers(3, count * parents.shape[2]).view(count, 1, -1)
            mixed = (parents != 0).to(parents.dtype).gather(1, which).squeeze(1)
            some = mixed.any(dim=1, keepdim=True)  # of sparse parents: what has no attribute is no class
            # Not by a mask as an index: a card would be waited for, to know how many rows that is
            mixed = torch.where(some, mixed, (parents[:, 0] != 0).to(mixed.dtype))
            if not self.unit:
                return mixed * self.seen.amax()
        else:
            # Uniform on the simplex: gaps between sorted uniform numbers
            cuts = self.rng.uniform(count, 2).sort(dim=1).values
            ends = torch.cat([torch.zeros(count, 1), cuts, torch.ones(count, 1)], dim=1)
            mixed = (parents * ends.diff(dim=1).unsqueeze(2)).sum(dim=1)
        return F.normalize(mixed, dim=1) if self.unit else mixed


class Eggn(VaeGan):
    """TF-VAEGAN on f, its generator guided by a classifier (paper Eq. 13-15)."""

    def __init__(self, features: Tensor, data: TrainingData, guide: Guide, config: Config, rng: Rng) -> None:
        super().__init__(features, data, gan_settings(config, data.dims.regions), rng)
        self.unseen = tensor_of(np.flatnonzero(~data.table.seen))
        self.virtual: VirtualClasses | None = None
        if config.guided_on == "virtual":
            self.virtual = VirtualClasses(self.semantic[tensor_of(data.table.seen)], rng)
        self.guide = guide.eval().requires_grad_(requires_grad=False)
        self.seen_guidance, self.unseen_guidance = config.seen_guidance, config.unseen_guidance

    def _further_losses(self, fake: Tensor, labels: Tensor, weight: float) -> dict[str, Tensor]:
        losses = {}
        if self.seen_guidance > 0:
            losses["seen_guidance"] = self.seen_guidance * F.cross_entropy(self.guide(fake, self.semantic), labels)
        if self.unseen_guidance > 0 and (self.virtual is not None or len(self.unseen) > 0):
            losses["unseen_guidance"] = self.unseen_guidance * self._unseen_guidance(weight)
        return losses

    def _unseen_guidance(self, weight: float) -> Tensor:
        """The guide's loss on features generated for random unseen classes (paper Eq. 15), or for virtual ones."""
        if self.virtual is None:
            labels = self.unseen[self.rng.integers(len(self.unseen), self.config.batch)]
            semantic, rivals = self.semantic[labels], self.semantic
        else:
            # Told from all classes that are known and from the other virtual ones of the batch
            semantic = self.virtual.draw(self.config.batch)
            labels = len(self.semantic) + torch.arange(len(semantic))
            rivals = torch.cat([self.semantic, semantic])
        fake = self._generate(self.rng.normal(len(labels), semantic.shape[1]), semantic, weight)
        return F.cross_entropy(self.guide(fake, rivals), labels)


def train_eggn(
    features: Tensor,
    data: TrainingData,
    guide: Guide,
    embedder: nn.Module,
    config: Config,
    *,
    parts: dict[str, nn.Module],
    session: Session,
    seed: int,
) -> Trained:
    """Stage 3: two loops an epoch, the first without feedback, the second with it; `parts` as `Trained` has them."""
    eggn = Eggn(features, data, guide, config, Rng(seed))
    trained = tf_vaegan.shipped(eggn.config, embedder, eggn.generator, eggn.decoder, eggn.feedback)
    if isinstance(embedder, Embedder) and embedder.beside is not None:
        trained = beside(trained, embedder, guide.layers)
    trained.parts = parts
    eggn.train(session, "eggn", stage_steps("stage3", config, data), trained)
    return trained
