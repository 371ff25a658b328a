"""TF-VAEGAN: a VAE and a WGAN that share the decoder, with feedback from an attribute decoder (ECCV 2020).

Narayan et al., "Latent Embedding Feedback and Discriminative Features for Zero-Shot Classification". The networks and
steps are also stage 3 of SC-EGG, which adds guidance (`zsl_train.methods.sc_egg`). Numbers:
docs/methods.md 7.2. The classifier that is shipped looks at [f, Dec(f), hidden].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zsl_runtime.head.head import FitSettings, View
from zsl_train.devices import capturable, repeated, tensor_of
from zsl_train.losses.reconstruction import plain_l1, weighted_l1
from zsl_train.losses.vae import (
    bernoulli_reconstruction,
    gaussian_reconstruction,
    kl_to_standard_normal,
    sample_normal,
)
from zsl_train.losses.wgan_gp import critic_gradients, frozen_score
from zsl_train.methods.base import Dims, Trained, TrainingData
from zsl_train.methods.lengths import WIDE_FLOPS_PER_SECOND, Stage, step_seconds
from zsl_train.methods.pooled import Batches, at_least_one, generator_output, pooled_features
from zsl_train.methods.session import Rng, Scalar, Session
from zsl_train.nets import AttributeDecoder, Critic, Encoder, Feedback, Generator, PooledEmbedder, start_normal

Batch = tuple[Tensor, Tensor, Tensor]  # features (B, F), semantic (B, A), labels (B,)

NAME = "tf-vaegan"
HEAD = "gaussian"
AT_LEAST_ONE = ("hidden", "batch", "critic_steps", "synthetic_per_class")
SHORTEST = 240  # outer steps below which accuracy on validation classes suffers


@dataclass(frozen=True)
class Config:
    """Settings of TF-VAEGAN. [T] the published code, for CUB unless said; [P] its paper as SC-EGG cites it; [O] ours.

    Attributes:
        scaling: of the pooled features: `minmax` [T], `standard`, `l2` or `l2-centred` [O]. Other than minmax, the
            generator's output is linear and the VAE's reconstruction term is the squared error.
        hidden: width of the hidden layers of E, G, D, Dec and F, 4096 [T].
        batch: 64 [T].
        gan_epochs: 300 [T]. An epoch is n / batch outer steps in each of the two loops.
        gan_steps: when positive, outer steps in all, half of them in each loop, in place of epochs.
        critic_steps: critic updates an outer step, 5 [T].
        encoded_noise: the critic's fakes come from the encoder's latent [T on CUB, AWA2, SUN], else from N(0, 1)
            [T on FLO].
        fresh_batch: the generator step draws a batch of its own [SC-EGG's code] in place of the last critic batch [T].
        critic_weight: gamma_D = gamma_G, weight of the Wasserstein terms: 10, on SUN 1 [T].
        penalty: gradient penalty weight, 10 [T].
        adapt_penalty: multiply or divide the penalty weight by 1.1 after each outer step [T].
        reconstruction_weight: lambda_r, weight of the attribute reconstruction, 0.01, on AWA2 0.1 [T].
        reconstruction: `l1` [P] or `weighted-l1` [T].
        freeze_decoder: leave Dec out of the generator step [T on AWA2].
        feedback_train: a1, weight of the feedback while training; 1 [T].
        feedback_synthesis: a2, weight of the feedback when features are synthesized; 1 [T].
        learning_rate_gan: of E, G and D; 1e-4 [T].
        learning_rate_decoder: of Dec; 1e-4 [T].
        learning_rate_feedback: of F; 1e-5 [T].
        precision: of the large matrix products, `float32`, or `bf16` on machines that have it [O].
        synthetic_per_class: synthetic features a class without photographs; 300 [T].
        head_epochs: 25 [T].
        head_learning_rate: 1e-3 [T].
        head_batch: 0 means equal to synthetic_per_class [T].

    """

    scaling: Literal["minmax", "standard", "l2", "l2-centred"] = "minmax"
    hidden: int = 4096
    batch: int = 64
    gan_epochs: float = 300.0
    gan_steps: int = 0
    critic_steps: int = 5
    encoded_noise: bool = True
    fresh_batch: bool = False
    critic_weight: float = 10.0
    penalty: float = 10.0
    adapt_penalty: bool = False
    reconstruction_weight: float = 0.01
    reconstruction: Literal["l1", "weighted-l1"] = "weighted-l1"
    freeze_decoder: bool = False
    feedback_train: float = 1.0
    feedback_synthesis: float = 1.0
    learning_rate_gan: float = 1e-4
    learning_rate_decoder: float = 1e-4
    learning_rate_feedback: float = 1e-5
    precision: Literal["float32", "bf16"] = "float32"
    synthetic_per_class: int = 300
    head_epochs: int = 25
    head_learning_rate: float = 1e-3
    head_batch: int = 0

    def __post_init__(self) -> None:
        at_least_one(NAME, self, AT_LEAST_ONE)
        _fit_settings(self)  # refuses impossible ones now, not after an hour of training


PRESETS: dict[str, dict[str, Any]] = {
    # Ours: standardised features, and a narrower and faster learner, so that minutes on two cores train it. Lengths:
    # `size`.
    "default": {
        "scaling": "standard",
        "hidden": 1024,
        "critic_weight": 1.0,
        "learning_rate_gan": 1e-3,
        "learning_rate_feedback": 1e-4,
    },
    "paper": {"reconstruction": "l1"},
    "code": {"adapt_penalty": True},
}


# --- the shipped modules -------------------------------------------------------------------------------------------


class Lift(nn.Module):
    """f -> [f, Dec(f), hidden of Dec]: what the shipped classifier looks at (docs/methods.md 7.2)."""

    def __init__(self, decoder: AttributeDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, F + A + H)."""
        semantic, hidden = self.decoder(features)
        return torch.cat([features, semantic, hidden], dim=1)


class Synthesizer(nn.Module):
    """Semantic vector and noise -> synthetic f; with feedback, generated twice (TF-VAEGAN)."""

    def __init__(
        self, generator: Generator, decoder: AttributeDecoder | None, feedback: Feedback | None, weight: float
    ) -> None:
        super().__init__()
        self.generator = generator
        self.decoder = decoder
        self.feedback = feedback
        self.weight = weight

    def forward(self, semantic: Tensor, noise: Tensor) -> Tensor:
        """(M, A), (M, Z) -> (M, F)."""
        fake: Tensor = self.generator(noise, semantic)
        if self.decoder is None or self.feedback is None:
            return fake
        _, hidden = self.decoder(fake)
        return self.generator(noise, semantic, self.weight * self.feedback(hidden))  # type: ignore[no-any-return]


def shipped(
    config: Config, embedder: nn.Module, generator: Generator, decoder: AttributeDecoder, feedback: Feedback
) -> Trained:
    """What is kept of the trained networks: the head looks at the lift, the synthesizer generates with feedback."""
    features = generator.last.out_features
    attributes = decoder.last.out_features
    lifted = features + attributes + config.hidden
    used = config.feedback_synthesis != 0
    synthesizer = Synthesizer(
        generator, decoder if used else None, feedback if used else None, config.feedback_synthesis
    )
    return Trained(
        embedder=embedder,
        lift=Lift(decoder),
        synthesizer=synthesizer,
        noise_width=attributes,
        feature_width=features,
        lifted_width=lifted,
        views=(View("lifted", 0, lifted, 1.0, _fit_settings(config)),),
        synthetic_per_class=config.synthetic_per_class,
    )


def build_around(config: Config, embedder: nn.Module, dims: Dims) -> Trained:
    """The shipped modules with this embedder, untrained."""
    features, attributes, hidden = dims.channels, dims.attributes, config.hidden
    return shipped(
        config,
        embedder,
        Generator(attributes, attributes, hidden, features, generator_output(config.scaling, "sigmoid")),
        AttributeDecoder(features, hidden, attributes),
        Feedback(hidden),
    )


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    return build_around(config, PooledEmbedder(dims.channels, config.scaling), dims)


def _fit_settings(config: Config) -> FitSettings:
    """How the head is fitted; UsageError E-FIT-SETTINGS when that is impossible."""
    return FitSettings(
        epochs=config.head_epochs,
        batch_size=config.head_batch or config.synthetic_per_class,
        learning_rate=config.head_learning_rate,
    )


# --- how long it takes ---------------------------------------------------------------------------------------------


def outer_step_seconds(config: Config, dims: Dims) -> float:
    """Seconds of one outer step on two cores: multiply-adds of forward and backward over the measured rate."""
    channels, attributes = dims.channels, dims.attributes
    critic = config.hidden * (channels + attributes)
    generator = config.hidden * (2 * attributes + channels)
    decoder = config.hidden * (channels + attributes)
    encoder = config.hidden * (channels + 3 * attributes)
    one_critic = config.batch * (6 * critic + 3 * decoder + encoder + generator)
    one_generator = config.batch * (6 * generator + 3 * encoder + 2 * critic + 3 * decoder)
    feedback = 0.5 * config.batch * 4 * config.hidden**2 * 2 if config.feedback_train > 0 else 0
    # Adam reads and writes every parameter: as dear as a few rows of the products
    update = 12 * (config.critic_steps * (critic + decoder) + generator + encoder + decoder)
    outer = config.critic_steps * one_critic + one_generator + feedback + update
    return step_seconds(outer, config.critic_steps + 2, WIDE_FLOPS_PER_SECOND)


def stages(config: Config, dims: Dims) -> tuple[Stage, ...]:
    """The one stage, in outer steps; an epoch has two loops."""
    return (Stage("gan", config.batch, outer_step_seconds(config, dims), SHORTEST, loops=2),)


# --- training ------------------------------------------------------------------------------------------------------


class VaeGan:
    """The networks, optimisers and steps (docs/methods.md 7.2) on features f (n, F); a subclass may add losses."""

    def __init__(self, features: Tensor, data: TrainingData, config: Config, rng: Rng) -> None:
        width, attributes, hidden = features.shape[1], data.dims.attributes, config.hidden
        self.config = config
        self.features = features
        self.semantic = tensor_of(data.semantic)
        self.rng = rng
        self.batches = Batches(features, tensor_of(data.labels), self.semantic, config.batch, rng)
        self.encoder = Encoder(width, attributes, hidden, attributes)
        output = generator_output(config.scaling, "sigmoid")
        self.generator = Generator(attributes, attributes, hidden, width, output)
        self.critic = Critic(width, attributes, hidden)
        self.decoder = AttributeDecoder(width, hidden, attributes)
        self.feedback = Feedback(hidden)
        for network in (self.encoder, self.generator, self.critic, self.decoder, self.feedback):
            start_normal(network, rng.generator)
        gan, betas = config.learning_rate_gan, (0.5, 0.999)
        kept: dict[str, Any] = {"fused": True, "capturable": capturable()}
        self.adam = {
            # E alone has the default betas (docs/methods.md 7.2)
            "encoder": torch.optim.Adam(self.encoder.parameters(), lr=gan, **kept),
            "generator": torch.optim.Adam(self.generator.parameters(), lr=gan, betas=betas, **kept),
            # The critic's last bias is in every score alike: the loss does not depend on it.
            "critic": torch.optim.Adam(
                [*self.critic.first.parameters(), self.critic.last.weight], lr=gan, betas=betas, **kept
            ),
            "decoder": torch.optim.Adam(
                self.decoder.parameters(), lr=config.learning_rate_decoder, betas=betas, **kept
            ),
            "feedback": torch.optim.Adam(
                self.feedback.parameters(), lr=config.learning_rate_feedback, betas=betas, **kept
            ),
        }
        self.penalty = Scalar(config.penalty)
        self.bf16 = config.precision == "bf16"
        self.reconstruction = plain_l1 if config.reconstruction == "l1" else weighted_l1
        # Binary cross-entropy needs targets in [0, 1]
        self.likelihood = bernoulli_reconstruction if config.scaling == "minmax" else gaussian_reconstruction

    def state(self) -> dict[str, Any]:
        """All that changes while training."""
        return {
            "encoder": self.encoder,
            "generator": self.generator,
            "critic": self.critic,
            "decoder": self.decoder,
            "feedback": self.feedback,
            "penalty": self.penalty,
            "rng": self.rng,
            **{f"adam_{name}": adam for name, adam in self.adam.items()},
        }

    def outer_step(self, *, with_feedback: bool) -> dict[str, Tensor]:
        """`critic_steps` critic updates and one generator update; returns the losses."""
        weight = self.config.feedback_train if with_feedback else 0.0
        penalties, distance, decoded = [], self.features.new_zeros(()), self.features.new_zeros(())
        batch: Batch | None = None
        for _ in range(self.config.critic_steps):
            batch = self.batches.draw()
            penalty, distance, decoded = self._critic_step(batch, weight)
            penalties.append(penalty)
        if self.config.adapt_penalty:
            self._adapt_penalty(torch.stack(penalties).mean())
        if batch is None or self.config.fresh_batch:
            batch = self.batches.draw()
        return {"wasserstein": distance, "decoder": decoded, **self._generator_step(batch, weight)}

    def _adapt_penalty(self, mean: Tensor) -> None:
        # TF-VAEGAN's code (docs/methods.md 7.2): compares the unweighted mean penalty with 1.05 and 1.001
        value = self.penalty.value
        if isinstance(value, Tensor):  # on a card, which nothing waits for
            value.mul_(torch.where(mean > 1.05, 1.1, torch.where(mean < 1.001, 1 / 1.1, 1.0)))
        elif float(mean) > 1.05:
            self.penalty.value = value * 1.1
        elif float(mean) < 1.001:
            self.penalty.value = value / 1.1

    def _generate(self, noise: Tensor, semantic: Tensor, weight: float) -> Tensor:
        with self._products():
            fake: Tensor = self.generator(noise, semantic)
            if weight != 0:
                _, hidden = self.decoder(fake)
                fake = self.generator(noise, semantic, weight * self.feedback(hidden.detach()))
        return fake.float()

    def _score(self, features: Tensor, semantic: Tensor) -> Tensor:
        with self._products():
            return frozen_score(self.critic, features, semantic).float()

    def _encode(self, real: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        with self._products():
            mean, log_variance = self.encoder(real, semantic)
        return mean.float(), log_variance.float()

    def _products(self) -> torch.autocast:
        """Where the large products of E, G, F and the frozen critic are done in the precision asked for."""
        return torch.autocast(self.rng.device.type, torch.bfloat16, enabled=self.bf16)

    def _critic_step(self, batch: Batch, weight: float) -> tuple[Tensor, Tensor, Tensor]:
        real, semantic, _ = batch
        decoded = self.config.reconstruction_weight * self.reconstruction(self.decoder(real)[0], semantic)
        self.adam["decoder"].zero_grad()
        decoded.backward()  # type: ignore[no-untyped-call]
        self.adam["decoder"].step()
        with torch.no_grad():
            noise = self.rng.normal(len(real), semantic.shape[1])
            if self.config.encoded_noise:
                mean, log_variance = self._encode(real, semantic)
                noise = sample_normal(mean, log_variance, noise)
            fake = self._generate(noise, semantic, weight)
        distance, penalty = critic_gradients(
            self.critic,
            real,
            fake,
            semantic,
            self.rng.uniform(len(real), 1),
            penalty=self.penalty.value,
            weight=self.config.critic_weight,
            bf16=self.bf16,
        )
        self.adam["critic"].step()
        return penalty, distance, decoded.detach()

    def _generator_step(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        config = self.config
        real, semantic, labels = batch
        mean, log_variance = self._encode(real, semantic)
        noise = sample_normal(mean, log_variance, self.rng.normal(*mean.shape))
        fake = self._generate(noise, semantic, weight)
        lost: Tensor | float = 0.0
        if fake.is_cuda:  # nothing waits for the card; binary cross-entropy would end the whole process there
            fake, lost = fake.nan_to_num(), 0 * fake.detach().sum()
        elif not bool(fake.isfinite().all()):  # binary cross-entropy would raise; the session says what diverged
            return {"bce": fake.sum()}
        losses = {
            "bce": self.likelihood(fake, real) + lost,
            "kl": kl_to_standard_normal(mean, log_variance),
        }
        # With encoded noise off, the Wasserstein and decoder terms look at features of fresh noise
        judged = fake if config.encoded_noise else self._generate(self.rng.normal(*mean.shape), semantic, weight)
        losses["critic"] = -config.critic_weight * self._score(judged, semantic).mean()
        losses["attribute"] = config.reconstruction_weight * self.reconstruction(self.decoder(judged)[0], semantic)
        losses |= self._further_losses(fake, labels, weight)
        updated = ["encoder", "generator"]
        if weight != 0:
            updated.append("feedback")
        if not config.freeze_decoder:
            updated.append("decoder")
        for network in (self.encoder, self.generator, self.decoder, self.feedback):
            network.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        for name in updated:
            self.adam[name].step()
        return losses

    def _further_losses(self, fake: Tensor, labels: Tensor, weight: float) -> dict[str, Tensor]:  # noqa: ARG002
        """What a method adds to the generator step; nothing here.

        Args:
            fake: (B, F) reconstructed.
            labels: (B,).
            weight: of the feedback in this step.

        """
        return {}

    def train(self, session: Session, stage: str, steps: int, trained: Trained) -> None:
        """Run `steps` outer steps: two loops an epoch, the first without feedback, the second with it."""
        per_loop = max(1, min(round(len(self.features) / self.config.batch), steps // 2))  # a short one has both

        def body(step: int) -> dict[str, Tensor]:
            return self.outer_step(with_feedback=(step // per_loop) % 2 == 1)

        step = repeated(body, self.rng.generator, lambda step: (step // per_loop) % 2)
        session.loop(stage, steps, self.state(), step, trained)


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """Train TF-VAEGAN on the pooled, scaled features.

    Args:
        data: features of the training pictures and semantic vectors.
        config: settings.
        session: logs, checkpoints and snapshots.
        seed: of everything random; the same seed gives the same weights on one machine.

    Raises:
        GateError: E-DIVERGED.

    """
    embedder, features = pooled_features(data, config.scaling)
    gan = VaeGan(features, data, config, Rng(seed))
    trained = shipped(config, embedder, gan.generator, gan.decoder, gan.feedback)
    (stage,) = stages(config, data.dims)
    gan.train(session, "gan", stage.steps(config, len(features)), trained)
    return trained.eval()
