"""Reconstruction against loops over rows and attributes."""

from __future__ import annotations

import math

import numpy as np
import torch

from zsl_train.losses.reconstruction import plain_l1, squared_l2, weighted_l1


def rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((6, 5))


def test_weighted_l1_is_the_published_formula():
    decoded, semantic = rows(0), rows(1)
    total = 0.0
    for x, a in zip(decoded, semantic, strict=True):
        norm = math.sqrt(sum((p - q) ** 2 for p, q in zip(x, a, strict=True)))
        total += sum((p - q) ** 2 / norm * abs(p - q) for p, q in zip(x, a, strict=True))
    got = weighted_l1(torch.from_numpy(decoded), torch.from_numpy(semantic))
    np.testing.assert_allclose(got.item(), total / 6, rtol=1e-9)


def test_plain_l1_is_the_sum_of_distances():
    decoded, semantic = rows(0), rows(1)
    got = plain_l1(torch.from_numpy(decoded), torch.from_numpy(semantic))
    np.testing.assert_allclose(got.item(), sum(abs(decoded - semantic).sum(axis=1)) / 6, rtol=1e-12)


def test_the_weight_carries_gradient_which_is_that_of_differences():
    semantic = torch.from_numpy(rows(1))
    decoded = torch.from_numpy(rows(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: weighted_l1(x, semantic), (decoded,))


def test_a_perfect_reconstruction_costs_nothing_and_has_a_gradient():
    semantic = torch.from_numpy(rows(1))
    decoded = semantic.clone().requires_grad_()
    loss = weighted_l1(decoded, semantic)
    loss.backward()
    assert loss.item() == 0
    np.testing.assert_array_equal(decoded.grad.numpy(), np.zeros((6, 5)))


def test_squared_l2_is_the_sum_of_squares():
    decoded, target = rows(0), rows(1)
    total = sum((p - q) ** 2 for x, a in zip(decoded, target, strict=True) for p, q in zip(x, a, strict=True))
    got = squared_l2(torch.from_numpy(decoded), torch.from_numpy(target))
    np.testing.assert_allclose(got.item(), total / 6, rtol=1e-12)
