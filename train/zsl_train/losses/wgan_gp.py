"""Wasserstein critic with gradient penalty, for the two-layer critics of this family of methods.

Gulrajani et al., "Improved Training of Wasserstein GANs", 2017, Eq. 3; the conditional form for features is
f-CLSWGAN (Xian et al., CVPR 2018, Eq. 2). The penalty is taken with respect to the feature only: the condition is a
constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

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


def frozen_score(critic: Critic, features: Tensor, condition: Tensor) -> Tensor:
    """D(x, a) with the critic as a constant: what the generator's step needs, without gradients of the critic.

    Args:
        critic: two-layer critic.
        features: (B, F), with gradient.
        condition: (B, A).

    Returns:
        (B,).

    """
    weight, bias = critic.first.weight.detach(), critic.first.bias.detach()
    hidden = F.linear(torch.cat([features, condition], dim=1), weight, bias)
    last = critic.last
    return F.linear(F.leaky_relu(hidden, critic.negative_slope), last.weight.detach(), last.bias.detach()).squeeze(1)


@torch.no_grad()
def critic_gradients(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    condition: Tensor,
    mix: Tensor,
    *,
    penalty: float | Tensor,
    weight: float = 1.0,
    bf16: bool = False,
) -> tuple[Tensor, Tensor]:
    """Write the gradients of weight * (penalty * GP - mean D(real) + mean D(fake)) into the critic's `.grad`, by hand.

    The same numbers as autograd's to rounding, with 6 products of the size B x F x H in place of 10. W1 meets the
    mixtures nowhere: the first layer is affine, so that its output for mix * real + (1 - mix) * fake is that mixture of
    its outputs. With u = w2 * slope at the mixture and its gradient g = u W1x (`critic_input_gradient`), the
    penalty's part is u^T dg for W1x and sum_b slope_b (W1x dg_b) for w2, where dg = 2 penalty (|g| - 1) g / (|g| B).
    All rows that W1's gradient sums over go through one product. `.grad` is overwritten and its memory is reused; the
    last bias gets 0, which is what it has in this loss.

    Args:
        critic: two-layer critic.
        real: (B, F).
        fake: (B, F).
        condition: (B, A).
        mix: (B, 1) uniform in [0, 1].
        penalty: weight of the gradient penalty (10 as published).
        weight: of the whole loss.
        bf16: do the products in bfloat16, sums and everything else in float32.

    Returns:
        mean D(real) - mean D(fake), and the unweighted penalty: scalars.

    """
    rows, width = real.shape
    first, last = critic.first.weight, critic.last.weight[0]
    operand = first.bfloat16() if bf16 else first
    of_feature, of_condition = operand[:, :width], operand[:, width:]

    def times(left: Tensor, right: Tensor) -> Tensor:
        return (left.bfloat16() @ right).float() if bf16 else left @ right

    both = torch.cat([real, fake])
    hidden = times(both, of_feature.T).view(2, rows, -1)  # (2, B, H)
    hidden += times(condition, of_condition.T) + critic.first.bias
    between = torch.lerp(hidden[1], hidden[0], mix)  # (B, H)
    slopes = torch.cat([hidden.view(2 * rows, -1), between]).gt_(0).mul_(1 - critic.negative_slope)
    slopes += critic.negative_slope  # (3 B, H): 1 where the hidden unit is positive
    active = slopes[: 2 * rows].view(2, rows, -1) * hidden  # leaky(hidden)
    mean_real, mean_fake = active.mean(dim=1)  # (H,) each
    distance = (mean_real - mean_fake) @ last
    gradient = times(upstream := slopes[2 * rows :] * last, of_feature)  # (B, F)
    norm = gradient.norm(dim=1, keepdim=True)
    tiny = torch.finfo(norm.dtype).tiny
    pull = gradient * ((2 * weight * penalty / rows) * (norm - 1) / norm.clamp_min(tiny))  # (B, F)
    signs = real.new_full((2 * rows, 1), weight / rows)
    signs[:rows] *= -1
    left = torch.cat([slopes[: 2 * rows] * (signs * last), upstream])  # (3 B, H)
    right = torch.cat([torch.cat([both, pull]), torch.cat([condition, condition, torch.zeros_like(condition)])], dim=1)
    if bf16:
        _keep(critic.first.weight, times(left.T, right.bfloat16()))
    else:
        torch.mm(left.T, right, out=_room(critic.first.weight))
    _keep(critic.first.bias, left[: 2 * rows].sum(dim=0))
    of_penalty = (slopes[2 * rows :] * times(pull, of_feature.T)).sum(dim=0)
    _keep(critic.last.weight, (weight * (mean_fake - mean_real) + of_penalty)[None])
    _keep(critic.last.bias, torch.zeros_like(critic.last.bias))
    return distance, ((norm - 1) ** 2).mean()


def _room(parameter: Tensor) -> Tensor:
    """Where a gradient goes: the memory of the last one, or new memory."""
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    return parameter.grad


def _keep(parameter: Tensor, gradient: Tensor) -> None:
    _room(parameter).copy_(gradient)
