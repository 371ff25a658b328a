"""Soul samples: a few centres for each class, and how far generated features lie from the nearest (LisGAN).

Li et al., "Leveraging the Invariant Side of Generative Zero-Shot Learning", CVPR 2019, Eq. 3, 5 and 6;
docs/methods.md 5.2.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def soul_samples(features: Tensor, labels: Tensor, classes: int, *, count: int, seed: int) -> Tensor:
    """K-means centres of every class's features.

    A class with fewer different features than `count` has each of them as a soul, some of them more than once.

    Args:
        features: (n, F).
        labels: (n,) int64 in range(classes).
        classes: S; every one has at least one row.
        count: k.
        seed: of k-means (scikit-learn's random_state), the same for every class.

    Returns:
        (S, k, F).

    """
    from sklearn.cluster import KMeans

    souls = torch.empty(classes, count, features.shape[1])
    for one in range(classes):
        rows = features[labels == one].numpy()
        distinct = np.unique(rows, axis=0)
        if len(distinct) <= count:
            centres = distinct
        else:
            centres = KMeans(n_clusters=count, random_state=seed, n_init=10).fit(rows).cluster_centers_
        souls[one] = torch.from_numpy(centres)[torch.arange(count) % len(centres)]
    return souls


def soul_distance(features: Tensor, souls: Tensor) -> Tensor:
    """Squared Euclidean distance of each feature to the nearest of its own souls, mean over rows.

    Args:
        features: (B, F).
        souls: (B, k, F), those of each row's class.

    Returns:
        scalar.

    """
    return (features.unsqueeze(1) - souls).square().sum(dim=2).amin(dim=1).mean()
