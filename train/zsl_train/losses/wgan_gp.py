"""Wasserstein critic with gradient penalty, for the two-layer critics of this family of methods.

Gulrajani et al., "Improved Training of Wasserstein GANs", 2017, Eq. 3; the conditional form for features is
f-CLSWGAN (Xian et al., CVPR 2018, Eq. 2). The penalty is taken with respect to the feature only: the condition is a
constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from zsl_train.nets import Critic


def critic_input_gradient(critic: Critic, features: Tensor, condition: Tensor) -> Tensor:
    """Gradient of each critic score with respect to its own feature row, in closed form.

    D(x, a) = w2 . leaky(W1 [x, a] + b1) + b2 has the gradient W1x^T (w2 * slope), where W1x are the columns of W1
    that meet x and slope is 1 or `negative_slope` by the sign of the hidden unit. That is one matrix product, and it is
    differentiable with respect to W1 and w2 (the slope is constant almost everywhere), so the penalty
    needs no double backward.

    Args:
        critic: two-layer critic.
        features: (B, F).
        condition: (B, A).

    Returns:
        (B, F).

    """
    width = features.shape[1]
    with torch.no_grad():
        hidden = critic.first(torch.cat([features, condition], dim=1))  # (B, H)
        slope = torch.ones_like(hidden).masked_fill_(hidden <= 0, critic.negative_slope)
    return (slope * critic.last.weight) @ critic.first.weight[:, :width]  # (B, H) @ (H, F)


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, condition: Tensor, mix: Tensor) -> Tensor:
    """Mean over rows of (||grad_x D(x_hat, a)||_2 - 1)^2 at x_hat = mix * real + (1 - mix) * fake.

    Args:
        critic: two-layer critic.
        real: (B, F).
        fake: (B, F), detached.
        condition: (B, A).
        mix: (B, 1) uniform in [0, 1].

    Returns:
        scalar; the caller multiplies by the penalty weight (10 as published).

    """
    between = mix * real + (1 - mix) * fake
    gradient = critic_input_gradient(critic, between, condition)
    penalty: Tensor = (gradient.norm(dim=1) - 1) ** 2  # (B,)
    return penalty.mean()
