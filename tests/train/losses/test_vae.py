"""The terms of the auto-encoder against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from zsl_train.losses.vae import (
    bernoulli_reconstruction,
    kl_to_standard_normal,
    sample_by_variance,
    sample_normal,
    wasserstein_of_diagonals,
)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_kl_is_the_closed_form_and_the_integral():
    mean, log_variance = draw(7, 3), draw(7, 3, seed=1)
    variance = np.exp(log_variance)
    wanted = (0.5 * (variance + mean**2 - 1 - log_variance)).sum(axis=1).mean()
    got = kl_to_standard_normal(torch.from_numpy(mean), torch.from_numpy(log_variance))
    np.testing.assert_allclose(got.item(), wanted, rtol=1e-12)
    x = np.linspace(-14, 14, 20001)
    m, v = mean[0, 0], variance[0, 0]
    density = np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
    ratio = (x**2 - (x - m) ** 2 / v - np.log(v)) / 2
    single = kl_to_standard_normal(torch.tensor([[m]]), torch.tensor([[np.log(v)]]))
    np.testing.assert_allclose(single.item(), np.trapezoid(density * ratio, x), rtol=1e-6)


def test_kl_is_zero_only_at_the_standard_normal():
    zero = torch.zeros(4, 2, dtype=torch.float64)
    assert kl_to_standard_normal(zero, zero).item() == 0
    assert kl_to_standard_normal(zero + 0.1, zero).item() > 0
    assert kl_to_standard_normal(zero, zero - 0.1).item() > 0


def test_reconstruction_is_the_cross_entropy_summed_over_columns():
    guess = 1 / (1 + np.exp(-draw(5, 4)))
    target = 1 / (1 + np.exp(-draw(5, 4, seed=1)))
    wanted = -(target * np.log(guess) + (1 - target) * np.log(1 - guess)).sum() / 5
    got = bernoulli_reconstruction(torch.from_numpy(guess), torch.from_numpy(target))
    np.testing.assert_allclose(got.item(), wanted, rtol=1e-12)


def test_targets_outside_the_unit_range_count_as_its_ends():
    guess = torch.full((1, 2), 0.3, dtype=torch.float64)
    outside, ends = torch.tensor([[-0.2, 1.7]]).double(), torch.tensor([[0.0, 1.0]]).double()
    assert bernoulli_reconstruction(guess, outside) == bernoulli_reconstruction(guess, ends)


def test_a_sample_is_the_mean_plus_the_deviation_times_the_noise_and_carries_gradients():
    mean, log_variance, noise = draw(3, 2), draw(3, 2, seed=1), draw(3, 2, seed=2)
    parts = [torch.from_numpy(a).requires_grad_() for a in (mean, log_variance)]
    sample = sample_normal(*parts, torch.from_numpy(noise))
    deviation = np.sqrt(np.exp(log_variance))
    np.testing.assert_allclose(sample.detach().numpy(), mean + deviation * noise, rtol=1e-12)
    sample.sum().backward()
    np.testing.assert_allclose(parts[0].grad.numpy(), np.ones((3, 2)))
    np.testing.assert_allclose(parts[1].grad.numpy(), 0.5 * deviation * noise, rtol=1e-12)


def test_a_wide_sample_is_the_mean_plus_the_variance_times_the_noise():
    mean, log_variance = draw(3, 2), draw(3, 2, seed=1)
    parts = torch.from_numpy(mean), torch.from_numpy(log_variance)
    for noise in (draw(3, 2, seed=2), draw(3, 1, seed=2)):  # one number a dimension, or one a row
        got = sample_by_variance(*parts, torch.from_numpy(noise))
        np.testing.assert_allclose(got.numpy(), mean + np.exp(log_variance) * noise, rtol=1e-12)


def test_the_distance_is_the_wasserstein_distance_of_gaussians():
    """Against the general formula with matrix square roots (Givens and Shortt 1984), one row at a time."""
    m1, m2, v1, v2 = draw(5, 3), draw(5, 3, seed=1), np.exp(draw(5, 3, seed=2)), np.exp(draw(5, 3, seed=3))
    total = 0.0
    for row in range(5):
        a, b = np.diag(v1[row]), np.diag(v2[row])
        root = sqrtm(a)
        trace = np.trace(a + b - 2 * sqrtm(root @ b @ root)).real
        total += np.sqrt(((m1[row] - m2[row]) ** 2).sum() + trace)
    got = wasserstein_of_diagonals(*(torch.from_numpy(x) for x in (m1, np.log(v1), m2, np.log(v2))))
    np.testing.assert_allclose(got.item(), total / 5, rtol=1e-10)


def test_the_distance_in_one_dimension_is_that_of_sorted_samples():
    """W2 of two distributions on a line is the distance of their quantiles."""
    level = (np.arange(200000) + 0.5) / 200000
    z = torch.special.ndtri(torch.from_numpy(level)).numpy()
    wanted = np.sqrt(np.mean(((0.3 + 1.5 * z) - (-0.9 + 0.4 * z)) ** 2))
    logs = 2 * np.log([1.5, 0.4])
    got = wasserstein_of_diagonals(*(torch.tensor([[x]]).double() for x in (0.3, logs[0], -0.9, logs[1])))
    assert got.item() == pytest.approx(wanted, rel=1e-4)


def test_the_distance_has_the_gradient_of_differences_and_none_at_zero():
    rows = [torch.from_numpy(draw(4, 3, seed=s)).requires_grad_() for s in range(4)]
    assert torch.autograd.gradcheck(wasserstein_of_diagonals, rows)
    same = [rows[0].detach().clone().requires_grad_() for _ in range(2)]
    loss = wasserstein_of_diagonals(same[0], rows[1], same[1], rows[1])
    loss.backward()
    assert loss.item() == 0
    assert all(not one.grad.any() for one in same)
