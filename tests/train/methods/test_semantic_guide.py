"""The closed-form guide against the baseline's ESZSL, and what it is for: unseen classes it was never shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zsl_train.methods.semantic_guide import semantic_guide
from zsl_train.scoring.baselines import eszsl, scale

ATTRIBUTES, WIDTH, CLASSES = 6, 15, 24


def drawn(count: int = CLASSES, seed: int = 0):
    """Features that follow attributes, of every class; a quarter of the classes is unseen."""
    rng = np.random.default_rng(seed)
    semantic = rng.random((count, ATTRIBUTES))
    labels = np.repeat(np.arange(count), 12)
    features = 3 * semantic[labels] @ rng.standard_normal((ATTRIBUTES, WIDTH))
    features += 0.3 * rng.standard_normal(features.shape) + 5
    features[:, 3] = 1.0  # constant
    return features, labels, semantic, np.arange(count) % 4 != 1


def fitted(features, labels, semantic, seen):
    known = seen[labels]
    return semantic_guide(
        torch.from_numpy(features[known]).float(),
        torch.from_numpy(labels[known]),
        torch.from_numpy(semantic).float(),
        torch.from_numpy(seen),
    )


@pytest.mark.parametrize("count", [CLASSES, 3])
def test_it_is_eszsl_on_standardised_features(count):
    features, labels, semantic, seen = drawn(count)
    guide, choice = fitted(features, labels, semantic, seen)
    known = seen[labels]
    x = scale(features[known], features[known], "standard")
    matrix = eszsl(
        x, labels[known], semantic, seen, feature_ridge=choice.feature_ridge, semantic_ridge=choice.semantic_ridge
    )
    evidence = guide(torch.from_numpy(features[known]).float()).detach().numpy()
    assert evidence.shape == (known.sum(), ATTRIBUTES)  # it scores any class, and knows none
    got = evidence.astype(np.float64) @ semantic.T
    np.testing.assert_allclose(got, choice.temperature * x @ matrix, atol=2e-3 * choice.temperature)


def test_it_knows_unseen_classes_and_its_scores_are_of_use_as_logits():
    features, labels, semantic, seen = drawn()
    guide, _ = fitted(features, labels, semantic, seen)
    new = ~seen[labels]
    unseen = np.flatnonzero(~seen)
    logits = guide(torch.from_numpy(features[new]).float()) @ torch.from_numpy(semantic[unseen]).float().T
    target = torch.from_numpy(np.searchsorted(unseen, labels[new]))
    assert (logits.argmax(dim=1) == target).float().mean() > 0.8
    assert torch.nn.functional.cross_entropy(logits, target) < 0.8 * np.log(len(unseen))
