"""What does an outer step of the feature-generating GAN cost, ours beside the plain formulation?

f-CLSWGAN as published on CUB: 5 critic steps and 1 generator step, batch 64, hidden layers of 4096, 2048 features, 312
attributes, 150 classes. Plain: fakes made for each critic step anew, the gradient penalty by autograd's double
backward, the generator's step through critic and classifier with all their gradients, Adam unfused. Both start from
the same weights and the same random numbers, and agree in losses and weights before anything is timed, in
turns.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional
from turns import Contender

from zsl_train.methods.f_clswgan import ClsWgan, Config
from zsl_train.methods.pooled import Batches
from zsl_train.methods.session import Rng
from zsl_train.nets import start_normal

PICTURES, FEATURES, ATTRIBUTES, CLASSES = 2000, 2048, 312, 150


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(PICTURES, FEATURES, generator=generator)
    labels = torch.randint(CLASSES, (PICTURES,), generator=generator)
    semantic = functional.normalize(torch.rand(CLASSES, ATTRIBUTES, generator=generator), dim=1)
    classifier = start_normal(torch.nn.Linear(FEATURES, CLASSES), generator)
    return features, labels, semantic, classifier


def ours(data) -> ClsWgan:
    features, labels, semantic, classifier = data
    config = Config()
    batches = Batches(features, labels, semantic, config.batch, Rng(1))
    return ClsWgan(batches, copy.deepcopy(classifier), torch.arange(CLASSES), config)


class Plain:
    """The outer step as it is usually written, with the weights and random numbers of `ours`."""

    def __init__(self, gan: ClsWgan) -> None:
        self.generator, self.critic = copy.deepcopy(gan.generator), copy.deepcopy(gan.critic)
        self.classifier = copy.deepcopy(gan.classifier).requires_grad_()
        self.batches = copy.deepcopy(gan.batches)
        self.rng = self.batches.rng
        self.adam_critic, self.adam_generator = (
            torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.5, 0.999), foreach=False)
            for network in (self.critic, self.generator)
        )

    def outer_step(self) -> dict[str, torch.Tensor]:
        drawn = [self.batches.draw() for _ in range(5)]
        noises = self.rng.normal(5 * len(drawn[0][0]), ATTRIBUTES).chunk(5)
        for (real, condition, _), noise in zip(drawn, noises, strict=True):
            self.critic.zero_grad()
            score_real = self.critic(real, condition).mean()
            fake = self.generator(noise, condition).detach()
            score_fake = self.critic(fake, condition).mean()
            mix = self.rng.uniform(len(real), 1)
            between = (mix * real + (1 - mix) * fake).requires_grad_()
            score = self.critic(between, condition)
            (slope,) = torch.autograd.grad(score.sum(), between, create_graph=True)
            penalty = ((slope.norm(2, dim=1) - 1) ** 2).mean()
            (score_fake - score_real + 10 * penalty).backward()
            self.adam_critic.step()
        _, condition, labels = drawn[-1]
        self.generator.zero_grad()
        fake = self.generator(self.rng.normal(len(labels), ATTRIBUTES), condition)
        judged = -self.critic(fake, condition).mean()
        likelihood = 0.01 * functional.cross_entropy(self.classifier(fake), labels)
        (judged + likelihood).backward()
        self.adam_generator.step()
        wasserstein = (score_real - score_fake).detach()
        return {"wasserstein": wasserstein, "critic": judged.detach(), "classification": likelihood.detach()}


@pytest.fixture(scope="module")
def agreed(data):
    """Both, after two outer steps in which they did the same."""
    gan = ours(data)
    plain = Plain(gan)
    start = copy.deepcopy((gan.generator, gan.critic))
    for _ in range(2):
        one, two = gan.outer_step(), plain.outer_step()
        for name, value in two.items():
            torch.testing.assert_close(one[name].detach(), value, rtol=1e-3, atol=1e-5, msg=name)
    for before, mine, theirs in zip(start, (gan.generator, gan.critic), (plain.generator, plain.critic), strict=True):
        for (name, p), q, first in zip(mine.named_parameters(), theirs.parameters(), before.parameters(), strict=True):
            if name != "last.bias" or mine is gan.generator:  # the critic's last bias does not matter: ours leaves it
                assert (p - q).abs().mean() < 0.01 * (q - first).abs().mean(), name
    return {"ours": gan, "plain": plain}


def bench_outer_step(measure_in_turns, agreed):
    measure_in_turns(
        {name: Contender(gan.outer_step) for name, gan in agreed.items()},
        things=1,
        unit="steps",
        against="plain",
        named=lambda name: f"bench_outer_step[{name}]",
    )
