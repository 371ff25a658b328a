"""A ResNet-101 whose features are alive though nobody trained it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from zsl_train.backbones import ResNet101

if TYPE_CHECKING:
    import numpy as np


def random_resnet101(pictures: np.ndarray) -> ResNet101:
    """With He et al.'s initialisation, and the statistics that BatchNorm would have learnt on `pictures`."""
    torch.manual_seed(3)
    network = ResNet101(224).requires_grad_(requires_grad=False)

    def take_statistics(module: nn.Module, given: tuple[torch.Tensor]) -> None:
        module.running_mean.copy_(given[0].mean(dim=(0, 2, 3)))
        module.running_var.copy_(given[0].var(dim=(0, 2, 3)))

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            module.weight.fill_(0.3 if name.endswith("bn3") else 1.0)  # as trained: a block adds little to its shortcut
            hooks.append(module.register_forward_pre_hook(take_statistics))
    with torch.inference_mode():
        network(torch.from_numpy(pictures))
    for hook in hooks:
        hook.remove()
    return network
