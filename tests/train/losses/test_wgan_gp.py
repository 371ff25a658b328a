"""The critic's gradient in closed form against autograd, double backward and differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zsl_train.losses.wgan_gp import critic_gradients, critic_input_gradient, frozen_score, gradient_penalty
from zsl_train.nets import Critic, start_normal

ROWS, FEATURES, CONDITION, HIDDEN = 9, 5, 3, 11


@pytest.fixture
def critic() -> Critic:
    """In float64, with biases that are not zero, so that hidden units of both signs occur in every row."""
    generator = torch.Generator().manual_seed(0)
    network = start_normal(Critic(FEATURES, CONDITION, HIDDEN), generator, std=0.8).double()
    with torch.no_grad():
        network.first.bias.normal_(0, 0.5, generator=generator)
        network.last.bias.fill_(0.3)
    return network


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_penalty(critic, real, fake, condition, mix) -> torch.Tensor:
    """Gulrajani et al., Eq. 3, by double backward."""
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, condition).sum(), between, create_graph=True)
    return ((gradient.norm(2, dim=1) - 1) ** 2).mean()


def test_the_critic_is_two_layers_with_a_leaky_slope(critic):
    x, a = draw(ROWS, FEATURES, seed=1), draw(ROWS, CONDITION, seed=2)
    w1, b1, w2, b2 = (p.detach().numpy() for p in critic.parameters())
    hidden = np.concatenate([x, a], axis=1) @ w1.T + b1
    assert (hidden > 0).any(axis=1).all()
    assert (hidden < 0).any(axis=1).all()
    wanted = np.where(hidden > 0, hidden, 0.2 * hidden) @ w2[0] + b2[0]
    np.testing.assert_allclose(critic(x, a).detach().numpy(), wanted, rtol=1e-12)


def test_the_gradient_is_that_of_autograd_and_of_differences(critic):
    x, a = draw(ROWS, FEATURES, seed=1).requires_grad_(), draw(ROWS, CONDITION, seed=2)
    got = critic_input_gradient(critic, x.detach(), a)
    (wanted,) = torch.autograd.grad(critic(x, a).sum(), x)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)
    step = 1e-6
    for column in range(FEATURES):
        shift = step * torch.eye(FEATURES, dtype=torch.float64)[column]
        with torch.no_grad():
            slope = (critic(x + shift, a) - critic(x - shift, a)) / (2 * step)
        torch.testing.assert_close(got[:, column], slope, rtol=1e-6, atol=1e-9)


def test_the_penalty_and_its_gradients_are_those_of_double_backward(critic):
    real, fake = draw(ROWS, FEATURES, seed=1), draw(ROWS, FEATURES, seed=2)
    condition, mix = draw(ROWS, CONDITION, seed=3), draw(ROWS, 1, seed=4).sigmoid()
    got = gradient_penalty(critic, real, fake, condition, mix)
    wanted = slow_penalty(critic, real, fake, condition, mix)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)
    weights = [critic.first.weight, critic.last.weight]
    ours, theirs = torch.autograd.grad(got, weights), torch.autograd.grad(wanted, weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)
        assert one.abs().sum() > 0
    assert ours[0][:, FEATURES:].abs().sum() == 0  # the condition is a constant


def test_the_penalty_is_taken_at_the_mixture(critic):
    real, fake, condition = (draw(ROWS, width, seed=s) for width, s in ((FEATURES, 1), (FEATURES, 2), (CONDITION, 3)))
    one = torch.ones(ROWS, 1, dtype=torch.float64)
    for mix, point in ((one, real), (0 * one, fake)):
        norm = critic_input_gradient(critic, point, condition).norm(dim=1)
        torch.testing.assert_close(gradient_penalty(critic, real, fake, condition, mix), ((norm - 1) ** 2).mean())


@pytest.mark.parametrize(("penalty", "weight"), [(10.0, 1.0), (0.7, 3.0)])
def test_gradients_by_hand_are_those_of_autograd_and_of_differences(critic, penalty, weight):
    real, fake = draw(ROWS, FEATURES, seed=1), draw(ROWS, FEATURES, seed=2)
    condition, mix = draw(ROWS, CONDITION, seed=3), draw(ROWS, 1, seed=4).sigmoid()

    def loss() -> torch.Tensor:
        gap = critic(real, condition).mean() - critic(fake, condition).mean()
        return weight * (penalty * slow_penalty(critic, real, fake, condition, mix) - gap)

    parameters = list(critic.parameters())
    wanted = torch.autograd.grad(loss(), parameters)
    for again in range(2):  # into new memory, and over what an earlier step left
        distance, squared = critic_gradients(critic, real, fake, condition, mix, penalty=penalty, weight=weight)
        gap = critic(real, condition).mean() - critic(fake, condition).mean()
        torch.testing.assert_close(distance, gap.detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(squared, slow_penalty(critic, real, fake, condition, mix).detach())
        for parameter, one in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(parameter.grad, one, rtol=1e-10, atol=1e-13, msg=str(again))
    step = 1e-6
    for parameter in parameters:
        at = (0,) * parameter.ndim
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[at] += sign * step
            values.append(loss().item())
            with torch.no_grad():
                parameter[at] -= sign * step
        assert parameter.grad[at].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_a_gradient_of_length_zero_pulls_nowhere_and_stays_finite(critic):
    with torch.no_grad():
        critic.last.weight.zero_()
    x, a = draw(ROWS, FEATURES, seed=1), draw(ROWS, CONDITION, seed=2)
    _, squared = critic_gradients(critic, x, x, a, draw(ROWS, 1, seed=4).sigmoid(), penalty=10.0)
    assert squared == 1
    assert all(bool(p.grad.isfinite().all()) for p in critic.parameters())


def test_half_precision_products_are_near():
    generator = torch.Generator().manual_seed(0)
    network = start_normal(Critic(40, 8, 64), generator, std=0.3)
    real, fake, a = (torch.randn(16, width, generator=generator) for width in (40, 40, 8))
    mix = torch.rand(16, 1, generator=generator)
    found = []
    for bf16 in (False, True):
        figures = critic_gradients(network, real, fake, a, mix, penalty=10.0, bf16=bf16)
        found.append([*figures, *(p.grad.clone() for p in network.parameters())])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert (one - other).norm() <= 0.02 * one.norm()
    assert not torch.equal(found[0][2], found[1][2])


def test_a_frozen_critic_judges_alike_and_gets_no_gradient(critic):
    x, a = draw(ROWS, FEATURES, seed=1).requires_grad_(), draw(ROWS, CONDITION, seed=2)
    (wanted,) = torch.autograd.grad(critic(x, a).sum(), x)
    score = frozen_score(critic, x, a)
    torch.testing.assert_close(score, critic(x, a).detach())
    score.sum().backward()
    torch.testing.assert_close(x.grad, wanted)
    assert all(p.grad is None for p in critic.parameters())
