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
