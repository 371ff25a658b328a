"""The batch-all triplet loss against a triple loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_train.losses.triplet import all_at_once, batch_all_triplet


def slow_triplet(embedded, labels, margin):
    """Loss and share of positive triplets, one triplet after the other."""
    rows = range(len(labels))
    values = [
        math.dist(embedded[a], embedded[p]) - math.dist(embedded[a], embedded[n]) + margin
        for a in rows
        for p in rows
        for n in rows
        if a != p and labels[a] == labels[p] != labels[n]
    ]
    positive = [value for value in values if value > 0]
    return sum(positive) / max(len(positive), 1), len(positive) / max(len(values), 1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.floats(0, 3), st.integers(0, 1000))
def test_it_is_the_triple_loop(labels, margin, seed):
    embedded = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss, share = batch_all_triplet(embedded.requires_grad_(), torch.tensor(labels), margin)
    wanted, wanted_share = slow_triplet(embedded.tolist(), labels, margin)
    assert loss.item() == pytest.approx(wanted, rel=1e-9, abs=1e-6)
    assert share.item() == pytest.approx(wanted_share)
    loss.backward()
    assert bool(embedded.grad.isfinite().all())
    kinds, distance = torch.tensor(labels), torch.cdist(embedded.detach(), embedded.detach())
    loss, share = all_at_once(distance, kinds[:, None] == kinds[None], margin)  # what a card does
    assert loss.item() == pytest.approx(wanted, rel=1e-9, abs=1e-6)
    assert share.item() == pytest.approx(wanted_share)


def test_its_gradient_is_that_of_differences():
    embedded = torch.randn(7, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 2])
    batch_all_triplet(embedded, labels, 1.0)[0].backward()
    shift = torch.zeros_like(embedded)
    shift[2, 1] = 1e-6
    with torch.no_grad():
        up, down = (slow_triplet((embedded + sign * shift).tolist(), labels.tolist(), 1.0)[0] for sign in (1, -1))
    assert embedded.grad[2, 1].item() == pytest.approx((up - down) / 2e-6, rel=1e-5)


def test_equal_rows_have_a_gradient_and_numbers_that_are_none_are_not_hidden():
    embedded = torch.ones(4, 2).requires_grad_()
    loss, _ = batch_all_triplet(embedded, torch.tensor([0, 0, 1, 1]), 1.0)
    assert loss.item() == pytest.approx(1.0)
    loss.backward()
    assert bool(embedded.grad.isfinite().all())
    assert batch_all_triplet(torch.full((4, 2), float("nan")), torch.tensor([0, 0, 1, 1]), 1.0)[0].isnan()
