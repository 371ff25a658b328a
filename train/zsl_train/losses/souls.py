"""Soul samples: a few centres for each class, and how far generated features lie from the nearest (LisGAN).

Li et al., "Leveraging the Invariant Side of Generative Zero-Shot Learning", CVPR 2019, Eq. 3, 5 and 6;
docs/methods.md 5.2.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LLOYD_STEPS = 5  # so few rows hardly ever change their cluster after the third


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

    souls = features.new_empty(classes, count, features.shape[1])
    for one in range(classes):
        rows = features[labels == one].numpy(force=True)
        distinct = np.unique(rows, axis=0)
        if len(distinct) <= count:
            centres = distinct
        else:
            centres = KMeans(n_clusters=count, random_state=seed, n_init=10).fit(rows).cluster_centers_
        souls[one] = torch.from_numpy(centres[np.arange(count) % len(centres)])
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


@torch.no_grad()
def cluster_members(rows: Tensor, count: int, steps: int = LLOYD_STEPS) -> Tensor:
    """Which cluster each row is in, of many small sets at once: Lloyd's algorithm from rows that lie far apart.

    The first centre is a set's first row, each further one the row farthest from the centres so far (Gonzalez 1985):
    nothing is drawn, and only a set with fewer different rows than clusters leaves one empty at the start.

    Args:
        rows: (C, n, F), C sets of n rows.
        count: k, clusters a set.
        steps: of Lloyd's algorithm.

    Returns:
        (C, n, k) float: 1 where the row is in the cluster, else 0. A cluster may be empty.

    """
    rows = rows - rows.mean(dim=1, keepdim=True)  # small numbers, or squares would cancel
    centres = rows[:, :1]
    for _ in range(1, count):
        apart = rows.square().sum(dim=2) - 2 * _nearness(rows, centres).amax(dim=2)  # (C, n), squared
        chosen = apart.argmax(dim=1)  # (C,)
        centres = torch.cat([centres, rows.gather(1, chosen[:, None, None].expand(-1, 1, rows.shape[2]))], dim=1)
    for _ in range(steps):
        members = _nearest(rows, centres)
        size = members.sum(dim=1).unsqueeze(2)  # (C, k, 1)
        centres = torch.where(size > 0, members.transpose(1, 2) @ rows / size.clamp_min(1), centres)
    return _nearest(rows, centres)


def _nearness(rows: Tensor, centres: Tensor) -> Tensor:
    """Of each row and centre x c - c c / 2, which is (x x - |x - c|^2) / 2: (C, n, F), (C, k, F) -> (C, n, k)."""
    return rows @ centres.transpose(1, 2) - centres.square().sum(dim=2).unsqueeze(1) / 2


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """(C, n, F), (C, k, F) -> (C, n, k): 1 at the nearest centre, the first of equals."""
    nearness = _nearness(rows, centres)
    return torch.zeros_like(nearness).scatter_(2, nearness.argmax(dim=2, keepdim=True), 1.0)


def cluster_soul_distance(fakes: Tensor, souls: Tensor) -> Tensor:
    """Distance of the fake souls of each class, the means of its clustered fakes, to the nearest real soul (Eq. 4, 6).

    Eq. 6 is printed with one index for fake and real soul, though clusters have no common order; this is what its text
    says: each fake soul should be close to at least one real soul of its class. A class counts once: the mean over its
    fake souls, an empty cluster being none. The gradient flows through the means, not through who is in which cluster.

    Args:
        fakes: (C, n, F) generated features of C classes.
        souls: (C, k, F) their real souls; as many fake ones are made.

    Returns:
        scalar, the mean over classes of squared Euclidean distances.

    """
    members = cluster_members(fakes.detach(), souls.shape[1])
    size = members.sum(dim=1)  # (C, k)
    fake_souls = members.transpose(1, 2) @ fakes / size.clamp_min(1).unsqueeze(2)  # (C, k, F)
    nearest = (fake_souls.unsqueeze(2) - souls.unsqueeze(1)).square().sum(dim=3).amin(dim=2)  # (C, k)
    there = (size > 0).to(nearest.dtype)
    return ((nearest * there).sum(dim=1) / there.sum(dim=1)).mean()
