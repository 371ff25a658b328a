"""f-CLSWGAN: a conditional WGAN on features, its generator held to the classes by a frozen classifier (CVPR 2018).

Xian et al., "Feature Generating Networks for Zero-Shot Learning": the critic of a WGAN-GP sees feature and semantic
vector (Eq. 2), and the generator also minimises the loss of a softmax classifier of real seen features on what it
generates (Eq. 4 and 5, weight beta = 0.01). The networks are in docs/methods.md 1.4, the method in docs/methods.md 7.1.
Its published settings by data set are not at hand: where the paper gives none, they are the GAN columns of LisGAN
(docs/methods.md 5.2), which was built on its code, and are marked [L].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_runtime.head.head import FitSettings, View
from zsl_train.devices import capturable, repeated, tensor_of
from zsl_train.methods.base import Dims, Trained, TrainingData
from zsl_train.methods.lengths import WIDE_FLOPS_PER_SECOND, Stage, plan, step_seconds
from zsl_train.methods.pooled import Batches, at_least_one, generator_output, pooled_features
from zsl_train.methods.session import Rng
from zsl_train.methods.wgan import BETAS, Synthesizer, Wgan, WganSettings, outer_multiply_adds
from zsl_train.nets import Generator, PooledEmbedder, start_normal

if TYPE_CHECKING:
    from collections.abc import Callable

    from zsl_train.methods.session import Session

NAME = "f-clswgan"
HEAD = "gaussian"
AT_LEAST_ONE = ("hidden", "batch", "critic_steps", "classifier_batch", "synthetic_per_class")
SHORTEST = (300, 240)  # steps of the stages below which accuracy suffers


@dataclass(frozen=True)
class Config:
    """Settings of f-CLSWGAN. [P] its paper and docs/methods.md 1.4, [L] LisGAN's for CUB, [O] ours.

    Attributes:
        scaling: of the pooled features: `minmax` [P], `standard`, `l2` or `l2-centred` [O]. The generator's output is
            then linear in place of ReLU.
        hidden: width of the hidden layers of G and D, 4096 [P].
        batch: 64 [P].
        gan_epochs: 56 [L]. An epoch is n / batch outer steps.
        gan_steps: when positive, outer steps in place of epochs.
        critic_steps: critic updates an outer step, 5 [P].
        penalty: gradient penalty weight, 10 [P].
        learning_rate_gan: of G and D, 1e-4 [P].
        classification_weight: beta, weight of the frozen classifier's loss, 0.01 [P].
        classifier_epochs: of the frozen classifier, 100 [L].
        classifier_steps: when positive, in place of its epochs.
        classifier_batch: 100 [L].
        learning_rate_classifier: 1e-3 [L].
        precision: of the large matrix products, `float32`, or `bf16` on machines that have it [O].
        synthetic_per_class: synthetic features a class without photographs; 300 [L].
        head_epochs: 50 [L].
        head_learning_rate: 1e-3 [L].
        head_batch: 0 means twice synthetic_per_class [L].

    """

    scaling: Literal["minmax", "standard", "l2", "l2-centred"] = "minmax"
    hidden: int = 4096
    batch: int = 64
    gan_epochs: float = 56.0
    gan_steps: int = 0
    critic_steps: int = 5
    penalty: float = 10.0
    learning_rate_gan: float = 1e-4
    classification_weight: float = 0.01
    classifier_epochs: float = 100.0
    classifier_steps: int = 0
    classifier_batch: int = 100
    learning_rate_classifier: float = 1e-3
    precision: Literal["float32", "bf16"] = "float32"
    synthetic_per_class: int = 300
    head_epochs: int = 50
    head_learning_rate: float = 1e-3
    head_batch: int = 0

    def __post_init__(self) -> None:
        at_least_one(NAME, self, AT_LEAST_ONE)
        fit_settings(self)  # refuses impossible ones now, not after an hour of training


PRESETS: dict[str, dict[str, Any]] = {
    # Ours: standardised features, which networks of a short training learn better (docs/explanation/accuracy.md);
    # narrower and faster, so that minutes on two cores train it. Lengths: `size`.
    "default": {"scaling": "standard", "hidden": 1024, "learning_rate_gan": 5e-4, "classifier_epochs": 30.0},
    "paper": {},
    "code": {},
}


def fit_settings(config: Config) -> FitSettings:
    """How the head is fitted; UsageError E-FIT-SETTINGS when that is impossible."""
    return FitSettings(
        epochs=config.head_epochs,
        batch_size=config.head_batch or 2 * config.synthetic_per_class,
        learning_rate=config.head_learning_rate,
    )


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    output = generator_output(config.scaling, "relu")
    generator = Generator(dims.attributes, dims.attributes, config.hidden, dims.channels, output)
    return shipped(config, PooledEmbedder(dims.channels, config.scaling), generator)


def shipped(config: Config, embedder: PooledEmbedder, generator: Generator) -> Trained:
    """What is kept: one view of the feature itself."""
    width = generator.last.out_features
    return Trained(
        embedder=embedder,
        lift=None,
        synthesizer=Synthesizer(generator),
        noise_width=generator.first.in_features // 2,
        feature_width=width,
        lifted_width=width,
        views=(View("feature", 0, width, 1.0, fit_settings(config)),),
        synthetic_per_class=config.synthetic_per_class,
    )


# --- how long it takes ---------------------------------------------------------------------------------------------


def stages(config: Config, dims: Dims, further: float = 0.0) -> tuple[Stage, ...]:
    """The two stages.

    Args:
        config: settings.
        dims: sizes.
        further: multiply-adds that a method adds to the generator's step.

    """
    attributes, channels = dims.attributes, dims.channels
    outer = outer_multiply_adds(config.batch, config.critic_steps, config.hidden, channels, attributes, attributes)
    linear = config.classifier_batch * 2 * channels * dims.classes
    return (
        Stage("classifier", config.classifier_batch, step_seconds(linear, 1) / 2, SHORTEST[0]),
        Stage(
            "gan",
            config.batch,
            step_seconds(outer + further, config.critic_steps + 1, WIDE_FLOPS_PER_SECOND),
            SHORTEST[1],
        ),
    )


# --- training ------------------------------------------------------------------------------------------------------


class ClsWgan(Wgan):
    """The WGAN whose generator is held to its classes by a frozen classifier of real features.

    Args:
        batches: real features.
        classifier: F -> S, frozen here.
        column: (C,) int64, a class's column in the classifier; anything for unseen classes.
        config: settings.

    """

    def __init__(self, batches: Batches, classifier: nn.Linear, column: Tensor, config: Config) -> None:
        super().__init__(batches, wgan_settings(config, batches.condition.shape[1]))
        self.classifier = classifier.requires_grad_(requires_grad=False)
        self.column = column
        self.weight = config.classification_weight

    def further_losses(self, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The classifier's negative log-likelihood of the generated features (Eq. 4)."""
        if self.weight == 0:
            return {}
        return {"classification": self.weight * F.cross_entropy(self.class_scores(fake), self.column[labels])}

    def class_scores(self, fake: Tensor) -> Tensor:
        """(B, F) -> scores of the seen classes (B, S), by networks that stand still."""
        return self.classifier(fake)  # type: ignore[no-any-return]


def wgan_settings(config: Config, noise: int) -> WganSettings:
    """The shared step's settings; G and D have one learning rate."""
    return WganSettings(
        noise=noise,
        hidden=config.hidden,
        output=generator_output(config.scaling, "relu"),
        critic_steps=config.critic_steps,
        penalty=config.penalty,
        learning_rate_generator=config.learning_rate_gan,
        learning_rate_critic=config.learning_rate_gan,
        bf16=config.precision == "bf16",
    )


def seen_columns(data: TrainingData) -> Tensor:
    """(C,) int64: a seen class's position among the seen ones; 0 for unseen classes."""
    seen = tensor_of(data.table.seen)
    return (torch.cumsum(seen, 0) - 1).clamp_min(0)


def train_classifier(batches: Batches, column: Tensor, config: Config, session: Session, *, steps: int) -> nn.Linear:
    """Softmax regression of the seen classes on real features, for the generator's classification loss.

    Args:
        batches: of classifier_batch features.
        column: (C,) int64, see `seen_columns`.
        config: settings.
        session: runs the stage `classifier`.
        steps: of the stage.

    Returns:
        F -> S.

    """
    classifier = nn.Linear(batches.features.shape[1], int(column.max()) + 1)
    start_normal(classifier, batches.rng.generator)
    rate = config.learning_rate_classifier
    adam = torch.optim.Adam(classifier.parameters(), lr=rate, betas=BETAS, fused=True, capturable=capturable())

    def body(_: int) -> dict[str, Tensor]:
        features, _condition, labels = batches.draw()
        loss = F.cross_entropy(classifier(features), column[labels])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        return {"likelihood": loss}

    step = repeated(body, batches.rng.generator)
    session.loop("classifier", steps, {"classifier": classifier, "adam": adam, "rng": batches.rng}, step)
    return classifier


def real_batches(features: Tensor, data: TrainingData, size: int, rng: Rng) -> Batches:
    """Batches of the training pictures' features with their classes' semantic vectors as condition."""
    return Batches(features, tensor_of(data.labels), tensor_of(data.semantic), size, rng)


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """Train f-CLSWGAN: the classifier, then the GAN.

    Args:
        data: features of the training pictures and semantic vectors.
        config: settings.
        session: logs, checkpoints and snapshots.
        seed: of everything random; the same seed gives the same weights on one machine.

    Raises:
        GateError: E-DIVERGED.

    """
    return train(data, config, session, seed, ClsWgan)


def train(data: TrainingData, config: Any, session: Session, seed: int, gan_of: Callable[..., ClsWgan]) -> Trained:
    """The classifier, then the GAN that `gan_of` (batches, classifier, column, config) makes."""
    embedder, features = pooled_features(data, config.scaling)
    first, second = plan(stages(config, data.dims), config, len(features)).values()
    column = seen_columns(data)
    rows = real_batches(features, data, config.classifier_batch, Rng(seed))
    classifier = train_classifier(rows, column, config, session, steps=first)
    gan = gan_of(real_batches(features, data, config.batch, Rng(seed + 1)), classifier, column, config)
    return train_gan(gan, embedder, config, session, steps=second)


def train_gan(gan: Wgan, embedder: PooledEmbedder, config: Any, session: Session, *, steps: int) -> Trained:
    """The stage `gan`, and what ships of it."""
    trained = shipped(config, embedder, gan.generator)
    session.loop("gan", steps, gan.state(), repeated(lambda _: gan.outer_step(), gan.rng.generator), trained)
    return trained.eval()
