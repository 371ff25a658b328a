"""The ranking loss against a plain loop in float64, and what its options have to do with each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_train.losses.ranking import ranking_loss


def violations(scores, labels, margin) -> list[dict[int, float]]:
    """Row by row: wrong class -> its hinge, where that is positive."""
    found = []
    for row, label in zip(scores, labels, strict=True):
        hinges = {j: margin - row[label] + row[j] for j in range(len(row)) if j != label}
        found.append({j: hinge for j, hinge in hinges.items() if hinge > 0})
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(2, 7), st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 1.0, 5.0]))
def test_it_is_the_plain_loop(rows, classes, seed, margin):
    rng = np.random.default_rng(seed)
    scores, labels = rng.standard_normal((rows, classes)), rng.integers(0, classes, rows)
    draw = rng.random((rows, classes))
    found = violations(scores, labels, margin)
    wrong = [[j for j in range(classes) if j != label] for label in labels]
    of_any = [max(one, key=row.__getitem__) for one, row in zip(wrong, draw, strict=True)]
    wanted = {
        "any": [one.get(j, 0.0) for one, j in zip(found, of_any, strict=True)],
        "max": [max(one.values(), default=0.0) for one in found],
        "mean": [np.mean(list(one.values())) if one else 0.0 for one in found],
        "random": [one[max(one, key=row.__getitem__)] if one else 0.0 for one, row in zip(found, draw, strict=True)],
    }
    for name, values in wanted.items():
        got = ranking_loss(
            torch.tensor(scores), torch.tensor(labels), margin=margin, negatives=name, draw=torch.tensor(draw)
        )
        assert float(got) == pytest.approx(np.mean(values), abs=1e-12), name


def test_any_negative_is_every_wrong_one_alike_and_its_expectation_is_the_sum_over_their_number():
    """The paper's Eq. 2 is the sum; one of all wrong classes, drawn alike, is an estimate of it over S - 1."""
    rng = np.random.default_rng(0)
    scores, label, many = torch.tensor([[0.0, 1.0, -3.0, 0.5, -0.4]]), torch.tensor([0]), 4000
    draws = torch.tensor(rng.random((many, 5)), dtype=torch.float32)
    drawn = [float(ranking_loss(scores, label, margin=0.2, negatives="any", draw=draw[None])) for draw in draws]
    for hinge, share in ((1.2, 1 / 4), (0.7, 1 / 4), (0.0, 2 / 4)):
        assert np.isclose(drawn, hinge).mean() == pytest.approx(share, abs=0.03)
    assert np.mean(drawn) == pytest.approx((1.2 + 0.7) / 4, abs=0.03)


@pytest.mark.parametrize("negatives", ["any", "random", "mean", "max"])
def test_one_class_alone_has_no_negative(negatives):
    loss = ranking_loss(
        torch.tensor([[-2.0]]), torch.tensor([0]), margin=0.2, negatives=negatives, draw=torch.ones(1, 1)
    )
    assert float(loss) == 0


def test_the_random_negative_is_every_violating_one_alike_and_the_mean_is_its_expectation():
    rng = np.random.default_rng(0)
    scores = torch.tensor([[0.0, 1.0, -3.0, 0.5, 0.4]])
    hinges = {1: 1.2, 3: 0.7, 4: 0.6}  # of label 0 with margin 0.2; class 2 is far below
    many, label = 4000, torch.tensor([0])
    drawn = [
        float(
            ranking_loss(
                scores,
                label,
                margin=0.2,
                negatives="random",
                draw=torch.tensor(rng.random((1, 5)), dtype=torch.float32),
            )
        )
        for _ in range(many)
    ]
    for hinge in hinges.values():
        assert np.isclose(drawn, hinge).mean() == pytest.approx(1 / 3, abs=0.04)
    mean = ranking_loss(scores, label, margin=0.2, negatives="mean")
    assert float(mean) == pytest.approx(np.mean(list(hinges.values())))
    assert np.mean(drawn) == pytest.approx(float(mean), abs=0.02)


@pytest.mark.parametrize("negatives", ["any", "random", "mean", "max"])
def test_without_a_violation_there_is_no_loss_and_no_gradient(negatives):
    scores = torch.tensor([[3.0, 1.0, -1.0], [0.0, 2.0, 1.0]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([0, 1]), margin=0.2, negatives=negatives, draw=torch.rand(2, 3))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not scores.grad.any()
