"""Terms of a variational auto-encoder on features scaled to [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812  # the name used everywhere with torch

if TYPE_CHECKING:
    from torch import Tensor


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)), summed over dimensions, mean over rows.

    -1/2 sum(1 + log_variance - mean^2 - exp(log_variance)); Kingma and Welling 2014, appendix B.

    Args:
        mean: (B, Z).
        log_variance: (B, Z).

    Returns:
        scalar.

    """
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=1).mean()


def bernoulli_reconstruction(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of a reconstruction in (0, 1) against features in [0, 1], summed over dims, mean over rows.

    The reconstruction term of TF-VAEGAN (Narayan et al., ECCV 2020, Eq. 2 with its published code).

    Args:
        reconstruction: (B, F) in (0, 1), the output of a sigmoid.
        target: (B, F); values outside [0, 1] (test rows are never used here) would be clamped.

    Returns:
        scalar.

    """
    loss = F.binary_cross_entropy(reconstruction, target.clamp(0, 1), reduction="sum")
    return loss / len(target)


def gaussian_reconstruction(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Half the squared error summed over dims, mean over rows: minus the log-likelihood of N(reconstruction, 1).

    Ours, in place of `bernoulli_reconstruction` for features that are not in [0, 1] (standardised, unit L2 norm).

    Args:
        reconstruction: (B, F).
        target: (B, F).

    Returns:
        scalar.

    """
    return 0.5 * (reconstruction - target).square().sum(dim=1).mean()


def sample_normal(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Reparameterised sample: mean + exp(log_variance / 2) * noise, all (B, Z)."""
    return mean + torch.exp(0.5 * log_variance) * noise


def sample_by_variance(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A sample as CADA-VAE's code draws it: mean + exp(log_variance) * noise (docs/methods.md 6.2).

    The factor is the variance, not the deviation: the published numbers were reached with it.

    Args:
        mean: (B, Z).
        log_variance: (B, Z).
        noise: (B, Z), or (B, 1) for one number shared by all dimensions of a row, as there.

    """
    return mean + torch.exp(log_variance) * noise


def wasserstein_of_diagonals(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log: Tensor) -> Tensor:
    """2-Wasserstein distance of two diagonal Gaussians, mean over rows.

    sqrt(||m1 - m2||^2 + ||s1 - s2||^2) with deviations s = exp(log_variance / 2): CADA-VAE (Schoenfeld et al., CVPR
    2019) and ACMR (Eq. 4). Where both are equal the gradient is 0, not NaN.

    Args:
        mean: (B, Z).
        log_variance: (B, Z).
        other_mean: (B, Z).
        other_log: (B, Z), the other log-variance.

    Returns:
        scalar.

    """
    apart = torch.cat([mean - other_mean, torch.exp(0.5 * log_variance) - torch.exp(0.5 * other_log)], dim=1)
    # vector_norm has the subgradient 0 at 0, where a square root of a sum of squares has none
    return torch.linalg.vector_norm(apart, dim=1).mean()  # type: ignore[no-any-return]
