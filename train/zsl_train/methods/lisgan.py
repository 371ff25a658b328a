"""LisGAN: a WGAN whose fakes stay near soul samples of their class (Li et al., CVPR 2019).

On top of f-CLSWGAN (`zsl_train.methods.f_clswgan`): every seen class has k soul samples, the k-means centres of its
features. R1 pulls each fake to the nearest soul of its class, R2 pulls the mean of each class's fakes to the nearest
(docs/methods.md 5.2). Where the paper clusters the fakes of a class into k fake souls, the published code takes their
plain mean: so do we. This is the first stage; the cascade classifier works at prediction time, on what is labelled
then (docs/methods.md 5.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zsl_train.losses.souls import soul_distance, soul_samples
from zsl_train.methods import f_clswgan
from zsl_train.methods.f_clswgan import ClsWgan
from zsl_train.methods.pooled import Batches, at_least_one

if TYPE_CHECKING:
    from zsl_train.methods.base import Dims, Trained, TrainingData
    from zsl_train.methods.lengths import Stage
    from zsl_train.methods.session import Session

NAME = "lisgan"
HEAD = "gaussian"
AT_LEAST_ONE = (*f_clswgan.AT_LEAST_ONE, "souls", "soul_fakes")


@dataclass(frozen=True)
class Config(f_clswgan.Config):
    """Settings of LisGAN. [P] paper, [C] published code for generalized CUB, [O] ours.

    Attributes:
        scaling: of the pooled features: `minmax` [C], `standard`, `l2` or `l2-centred` [O]. The generator's output is
            then linear in place of ReLU.
        hidden: width of the hidden layers of G and D, 4096 [C].
        batch: 64 [C].
        gan_epochs: 56 [C]. An epoch is n / batch outer steps.
        gan_steps: when positive, outer steps in place of epochs.
        critic_steps: critic updates an outer step, 5 [C].
        penalty: gradient penalty weight, 10 [P, C].
        learning_rate_gan: of G and D, 1e-4 [C].
        classification_weight: lambda, weight of the frozen classifier's loss, 0.01 [P, C].
        classifier_epochs: of the frozen classifier, 100 [C].
        classifier_steps: when positive, in place of its epochs.
        classifier_batch: 100 [C].
        learning_rate_classifier: 1e-3 [C].
        precision: of the large matrix products, `float32`, or `bf16` on machines that have it [O].
        synthetic_per_class: synthetic features a class without photographs; 300 [C].
        head_epochs: 50 [C].
        head_learning_rate: 1e-3 [C].
        head_batch: 0 means twice synthetic_per_class [C].
        souls: k, soul samples a class, 3 [P, C].
        soul_seed: of k-means, 3 [C].
        sample_weight: of R1; 0.01 [P], 1e-3 [C].
        class_weight: of R2; 0.01 [P], 1e-2 [C].
        soul_fakes: fakes a class whose mean R2 looks at, 20 [C].
        soul_classes: classes drawn for R2 in each step, an estimate of the mean over all; 0 takes every seen class [C].

    """

    souls: int = 3
    soul_seed: int = 3
    sample_weight: float = 1e-3
    class_weight: float = 1e-2
    soul_fakes: int = 20
    soul_classes: int = 0

    def __post_init__(self) -> None:
        at_least_one(NAME, self, AT_LEAST_ONE)
        f_clswgan.fit_settings(self)  # refuses impossible ones now, not after an hour of training


PRESETS: dict[str, dict[str, Any]] = {
    # Ours: narrower and faster, and R2 on a few classes a step: on all it costs more than all the rest.
    "default": {**f_clswgan.PRESETS["default"], "soul_classes": 4},
    "paper": {"sample_weight": 0.01},
    "code": {},
}


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    return f_clswgan.build(config, dims)


# --- how long it takes ---------------------------------------------------------------------------------------------


def stages(config: Config, dims: Dims) -> tuple[Stage, ...]:
    """The stages of f-CLSWGAN, with R2's fakes in the generator's step."""
    fakes = config.soul_fakes * (config.soul_classes or dims.classes) if config.class_weight > 0 else 0
    return f_clswgan.stages(config, dims, 3.0 * fakes * config.hidden * (2 * dims.attributes + dims.channels))


# --- training ------------------------------------------------------------------------------------------------------


class SoulGan(ClsWgan):
    """f-CLSWGAN's networks and step with both regularisers.

    Args:
        batches: real features.
        classifier: F -> S, frozen.
        column: (C,) int64, a class's place among the seen ones.
        seen: (S,) int64, the seen classes.
        config: settings.

    """

    def __init__(self, batches: Batches, classifier: nn.Linear, column: Tensor, seen: Tensor, config: Config) -> None:
        super().__init__(batches, classifier, column, config)
        self.config = config
        self.seen = seen
        self.souls = soul_samples(
            batches.features, column[batches.labels], len(seen), count=config.souls, seed=config.soul_seed
        )

    def further_losses(self, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Classification, R1 on the batch, R2 on fakes of their own."""
        losses = super().further_losses(fake, labels)
        if self.config.sample_weight > 0:
            near = soul_distance(fake, self.souls[self.column[labels]])
            losses["samples"] = self.config.sample_weight * near
        if self.config.class_weight > 0:
            losses["classes"] = self.config.class_weight * self._class_distance()
        return losses

    def _class_distance(self) -> Tensor:
        """R2: each class's mean fake to the nearest of its souls, mean over the classes looked at."""
        count = self.config.soul_classes
        chosen = torch.arange(len(self.seen))
        if 0 < count < len(self.seen):
            chosen = self.rng.permutation(len(self.seen))[:count]
        condition = self.batches.condition[self.seen[chosen]]
        fakes = self.generate(condition.repeat_interleave(self.config.soul_fakes, dim=0))
        return soul_distance(fakes.view(len(chosen), self.config.soul_fakes, -1).mean(dim=1), self.souls[chosen])


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """Train LisGAN's first stage: the classifier, the souls, the GAN.

    Args:
        data: features of the training pictures and semantic vectors.
        config: settings.
        session: logs, checkpoints and snapshots.
        seed: of everything random; the same seed gives the same weights on one machine.

    Raises:
        GateError: E-DIVERGED.

    """
    seen = torch.from_numpy(data.table.seen).nonzero().squeeze(1)

    def soul_gan(batches: Batches, classifier: nn.Linear, column: Tensor, config: Config) -> SoulGan:
        return SoulGan(batches, classifier, column, seen, config)

    return f_clswgan.train(data, config, session, seed, soul_gan)
