"""LisGAN: a WGAN whose fakes stay near soul samples of their class (Li et al., CVPR 2019).

On top of f-CLSWGAN (`zsl_train.methods.f_clswgan`): every seen class has k soul samples, the k-means centres of its
features. R1 pulls each fake to the nearest soul of its class, R2 pulls the fake souls of each class: the centres of its
clustered fakes in the paper, the plain mean of them in the published code (docs/methods.md 5.2). The generator is held
to the classes by a second branch of the critic in the paper, by a frozen classifier in the code (5.1). This is the
first stage; the cascade classifier works at prediction time, on what is labelled then (5.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_train.devices import tensor_of
from zsl_train.losses.souls import cluster_soul_distance, soul_distance, soul_samples
from zsl_train.methods import f_clswgan
from zsl_train.methods.f_clswgan import ClsWgan
from zsl_train.methods.lengths import Stage, plan
from zsl_train.methods.pooled import Batches, at_least_one, pooled_features
from zsl_train.methods.session import Rng
from zsl_train.nets import start_normal

if TYPE_CHECKING:
    from zsl_train.methods.base import Dims, Trained, TrainingData
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
        classifier: what holds generated features to their classes: a `branch` of the critic, trained with it on real
            and generated features [P], or a linear one that is `frozen` after a stage of its own [C].
        classification_weight: lambda, weight of its loss, 0.01 [P, C].
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
        fake_souls: of a class, for R2: the centres of its fakes in as many `clusters` as it has souls [P], or the plain
            `mean` of them [C].
        soul_fakes: fakes a class that R2 looks at, 20 [C].
        soul_classes: classes drawn for R2 in each step, an estimate of the mean over all; 0 takes every seen class [C].

    """

    souls: int = 3
    soul_seed: int = 3
    sample_weight: float = 1e-3
    class_weight: float = 1e-2
    fake_souls: Literal["mean", "clusters"] = "mean"
    soul_fakes: int = 20
    soul_classes: int = 0
    classifier: Literal["frozen", "branch"] = "frozen"

    def __post_init__(self) -> None:
        at_least_one(NAME, self, AT_LEAST_ONE)
        f_clswgan.fit_settings(self)  # refuses impossible ones now, not after an hour of training


PRESETS: dict[str, dict[str, Any]] = {
    # Ours: narrower and faster, and R2 on a few classes a step: on all it costs more than all the rest.
    "default": {**f_clswgan.PRESETS["default"], "soul_classes": 4},
    "paper": {"sample_weight": 0.01, "fake_souls": "clusters", "classifier": "branch"},
    "code": {},
}


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    return f_clswgan.build(config, dims)


# --- how long it takes ---------------------------------------------------------------------------------------------


def stages(config: Config, dims: Dims) -> tuple[Stage, ...]:
    """The stages of f-CLSWGAN, with R2's fakes in the generator's step; a branch of the critic has no stage before."""
    fakes = config.soul_fakes * (config.soul_classes or dims.classes) if config.class_weight > 0 else 0
    further = 3.0 * fakes * config.hidden * (2 * dims.attributes + dims.channels)
    if config.classifier == "branch":
        branch = 3 * 2 * config.batch * config.hidden * (dims.channels + dims.classes)
        further += config.critic_steps * branch
    both = f_clswgan.stages(config, dims, further)
    return both[1:] if config.classifier == "branch" else both


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
        """R2: the fake souls of each class to the nearest of its souls, mean over the classes looked at."""
        count = self.config.soul_classes
        chosen = torch.arange(len(self.seen), device=self.seen.device)
        if 0 < count < len(self.seen):
            chosen = self.rng.permutation(len(self.seen))[:count]
        condition = self.batches.condition[self.seen[chosen]]
        made = self.generate(condition.repeat_interleave(self.config.soul_fakes, dim=0))
        fakes = made.view(len(chosen), self.config.soul_fakes, -1)
        if self.config.fake_souls == "clusters":
            return cluster_soul_distance(fakes, self.souls[chosen])
        return soul_distance(fakes.mean(dim=1), self.souls[chosen])


class BranchGan(SoulGan):
    """With the paper's critic of two branches, both on its hidden layer: the score, and the class (Eq. 1 and 2).

    P(y | x) knows the feature alone: what the branch sees of the hidden layer is without the condition, from which the
    class could be read. In the generator's step it stands still like the critic.

    Args:
        batches: real features.
        column: (C,) int64, a class's place among the seen ones.
        seen: (S,) int64, the seen classes.
        config: settings.

    """

    def __init__(self, batches: Batches, column: Tensor, seen: Tensor, config: Config) -> None:
        branch = nn.Linear(config.hidden, len(seen))
        super().__init__(batches, branch, column, seen, config)
        self.branch = branch.requires_grad_()  # unlike a frozen classifier it is trained, as a part of the critic
        start_normal(branch, self.rng.generator)
        self.adam_critic.add_param_group({"params": list(branch.parameters())})

    def state(self) -> dict[str, Any]:
        """All that changes while training."""
        return super().state() | {"branch": self.branch}

    def class_scores(self, fake: Tensor) -> Tensor:
        """(B, F) -> scores of the seen classes (B, S), by networks that stand still."""
        return self._branch_scores(fake, *(one.detach() for one in self._branch_weights()))

    def further_critic_losses(self, real: Tensor, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The classification terms of Eq. 2: of generated and of real features."""
        if self.weight == 0:
            return {}
        self.branch.zero_grad()
        scores = self._branch_scores(torch.cat([fake, real]), *self._branch_weights())
        of_fake, of_real = (F.cross_entropy(half, self.column[labels]) for half in scores.chunk(2))
        return {"critic_classification": self.weight * (of_fake + of_real)}

    def _branch_weights(self) -> tuple[Tensor, ...]:
        first = self.critic.first
        return first.weight, first.bias, self.branch.weight, self.branch.bias

    def _branch_scores(self, features: Tensor, weight: Tensor, bias: Tensor, last: Tensor, last_bias: Tensor) -> Tensor:
        of_feature = weight[:, : features.shape[1]]
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self.settings.bf16):
            hidden = F.leaky_relu(F.linear(features, of_feature, bias), self.critic.negative_slope)
            return F.linear(hidden, last, last_bias).float()


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """Train LisGAN's first stage: the classifier unless it is a branch of the critic, the souls, the GAN.

    Args:
        data: features of the training pictures and semantic vectors.
        config: settings.
        session: logs, checkpoints and snapshots.
        seed: of everything random; the same seed gives the same weights on one machine.

    Raises:
        GateError: E-DIVERGED.

    """
    seen = tensor_of(data.table.seen).nonzero().squeeze(1)
    if config.classifier == "branch":
        embedder, features = pooled_features(data, config.scaling)
        batches = f_clswgan.real_batches(features, data, config.batch, Rng(seed + 1))
        gan = BranchGan(batches, f_clswgan.seen_columns(data), seen, config)
        (steps,) = plan(stages(config, data.dims), config, len(features)).values()
        return f_clswgan.train_gan(gan, embedder, config, session, steps=steps)

    def soul_gan(batches: Batches, classifier: nn.Linear, column: Tensor, config: Config) -> SoulGan:
        return SoulGan(batches, classifier, column, seen, config)

    return f_clswgan.train(data, config, session, seed, soul_gan)
