"""The conditional WGAN-GP that f-CLSWGAN, LisGAN and DCR-GAN share: two networks, one outer step (docs/methods.md 1.4).

Nothing is computed twice: the generator stands still while the critic is trained, so that the fakes of all critic steps
are one pass; the critic's gradients are written by hand (`zsl_train.losses.wgan_gp.critic_gradients`); the generator's
step takes the critic and every guiding network as constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zsl_train.devices import capturable
from zsl_train.losses.wgan_gp import critic_gradients, frozen_score
from zsl_train.nets import Critic, Generator, start_normal

if TYPE_CHECKING:
    from zsl_train.methods.pooled import Batches

BETAS = (0.5, 0.999)  # of Adam for G and D


@dataclass(frozen=True)
class WganSettings:
    """What the shared step depends on.

    Attributes:
        noise: Z.
        hidden: width of the hidden layers of G and D.
        output: of the generator (`zsl_train.nets.Generator`).
        critic_steps: critic updates an outer step.
        penalty: gradient penalty weight.
        learning_rate_generator: of Adam.
        learning_rate_critic: of Adam.
        bf16: large matrix products in bfloat16.
        critic_condition: whether the critic looks at the condition beside the feature.

    """

    noise: int
    hidden: int
    output: str
    critic_steps: int
    penalty: float
    learning_rate_generator: float
    learning_rate_critic: float
    bf16: bool
    critic_condition: bool = True


class Wgan:
    """Generator, critic, optimisers and the outer step; a method adds losses to the generator's step.

    Args:
        batches: real features, and the condition of every class.
        settings: see there.

    """

    def __init__(self, batches: Batches, settings: WganSettings) -> None:
        width, condition = batches.features.shape[1], batches.condition.shape[1]
        self.batches = batches
        self.settings = settings
        self.rng = batches.rng
        self.generator = Generator(settings.noise, condition, settings.hidden, width, settings.output)
        self.critic = Critic(width, condition if settings.critic_condition else 0, settings.hidden)
        for network in (self.generator, self.critic):
            start_normal(network, self.rng.generator)
        rates = settings.learning_rate_generator, settings.learning_rate_critic
        kept: dict[str, Any] = {"betas": BETAS, "fused": True, "capturable": capturable()}
        self.adam_generator = torch.optim.Adam(self.generator.parameters(), lr=rates[0], **kept)
        # The critic's last bias is in every score alike: the loss does not depend on it.
        moved = [*self.critic.first.parameters(), self.critic.last.weight]
        self.adam_critic = torch.optim.Adam(moved, lr=rates[1], **kept)

    def state(self) -> dict[str, Any]:
        """All that changes while training."""
        return {
            "generator": self.generator,
            "critic": self.critic,
            "adam_generator": self.adam_generator,
            "adam_critic": self.adam_critic,
            "rng": self.rng,
        }

    def generate(self, condition: Tensor) -> Tensor:
        """Features for conditions (B, A) and fresh noise: (B, F) float32."""
        noise = self.rng.normal(len(condition), self.settings.noise)
        with torch.autocast(self.rng.device.type, torch.bfloat16, enabled=self.settings.bf16):
            return self.generator(noise, condition).float()  # type: ignore[no-any-return]

    def outer_step(self) -> dict[str, Tensor]:
        """`critic_steps` critic updates and one generator update; returns the losses."""
        drawn = [self.batches.draw() for _ in range(self.settings.critic_steps)]
        with torch.no_grad():
            conditions = torch.cat([condition for _, condition, _ in drawn])
            fakes = torch.chunk(self.generate(conditions), len(drawn))
        penalties = []
        for (real, condition, labels), fake in zip(drawn, fakes, strict=True):
            distance, penalty = critic_gradients(
                self.critic,
                real,
                fake,
                self._told(condition),
                self.rng.uniform(len(real), 1),
                penalty=self.settings.penalty,
                bf16=self.settings.bf16,
            )
            further = self.further_critic_losses(real, fake, labels)
            if further:  # on top of the gradients that were written
                torch.stack(list(further.values())).sum().backward()  # type: ignore[no-untyped-call]
            self.adam_critic.step()
            penalties.append(penalty)
        _, condition, labels = drawn[-1]  # the generator's step takes the last critic batch again (docs/methods.md 1.4)
        losses = self._generator_step(condition, labels)
        return {"wasserstein": distance, "penalty": torch.stack(penalties).mean(), **further, **losses}

    def _generator_step(self, condition: Tensor, labels: Tensor) -> dict[str, Tensor]:
        fake = self.generate(condition)
        with torch.autocast(self.rng.device.type, torch.bfloat16, enabled=self.settings.bf16):
            score = frozen_score(self.critic, fake, self._told(condition)).float()
        losses = {"critic": -score.mean(), **self.further_losses(fake, labels)}
        self.adam_generator.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.adam_generator.step()
        return losses

    def further_critic_losses(self, real: Tensor, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """What a method adds to the critic's loss, weighted; nothing here.

        Called when the critic's own gradients lie in `.grad`: those of these losses are added to them.

        Args:
            real: (B, F) of `labels`.
            fake: (B, F) generated for `labels`.
            labels: (B,) rows of the class table.

        """
        return {}

    def _told(self, condition: Tensor) -> Tensor:
        """What of conditions (B, A) the critic looks at."""
        return condition if self.settings.critic_condition else condition[:, :0]

    def further_losses(self, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """What a method adds to the generator's loss, weighted; nothing here.

        Args:
            fake: (B, F) generated for `labels`.
            labels: (B,) rows of the class table.

        """
        return {}


class Synthesizer(nn.Module):
    """Semantic vector and noise -> synthetic f by one pass of the generator."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, semantic: Tensor, noise: Tensor) -> Tensor:
        """(M, A), (M, Z) -> (M, F)."""
        return self.generator(noise, semantic)  # type: ignore[no-any-return]


def outer_multiply_adds(  # noqa: PLR0917
    batch: int, critic_steps: int, hidden: int, features: int, condition: int, noise: int
) -> float:
    """Multiply-adds of `Wgan.outer_step` without a method's own losses, updates included."""
    critic, generator = hidden * (features + condition), hidden * (noise + condition + features)
    # Adam reads and writes every parameter: as dear as a few rows of the products
    one_critic = batch * (6 * critic + generator) + 12 * critic
    return critic_steps * one_critic + batch * (3 * generator + 2 * critic) + 12 * generator
