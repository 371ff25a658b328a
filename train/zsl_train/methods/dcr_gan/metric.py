"""DCR-GAN: the searched space. The metric network MN, and the rectifying network SRN that finds a class in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zsl_train.devices import capturable, repeated
from zsl_train.losses.triplet import batch_all_triplet
from zsl_train.methods.dcr_gan.networks import METRIC_SLOPE, TwoLayers, rectifier
from zsl_train.nets import start_layers

if TYPE_CHECKING:
    from zsl_train.methods.dcr_gan.config import Config
    from zsl_train.methods.pooled import Batches
    from zsl_train.methods.session import Rng, Session

METRIC_BETAS = (0.5, 0.9)  # of Adam for MN and SRN
BLOCK = 1024  # rows that go through a frozen network at once


def train_metric(batches: Batches, config: Config, session: Session, steps: int) -> TwoLayers:
    """Stage 1: MN, concat(feature F, semantic A) -> 2 (F + A) -> L, by the batch-all triplet loss."""
    width = batches.features.shape[1] + batches.condition.shape[1]
    metric = TwoLayers(width, 2 * width, config.searched_width, METRIC_SLOPE)
    _start_xavier(metric, batches.rng)
    adam = _metric_adam(metric, config, config.metric_decay)

    def body(_step: int) -> dict[str, Tensor]:
        features, semantic, labels = batches.draw()
        embedded = metric(torch.cat([features, semantic], dim=1))
        loss, violated = batch_all_triplet(embedded, labels, config.margin)
        adam.zero_grad()
        _with_decay(loss, metric, config, config.metric_decay).backward()  # type: ignore[no-untyped-call]
        adam.step()
        return {"triplet": loss, "violated": violated}

    step = repeated(body, batches.rng.generator)
    session.loop("metric", steps, {"metric": metric, "adam": adam, "rng": batches.rng}, step)
    return metric


@torch.no_grad()
def searched_targets(metric: TwoLayers, batches: Batches, *, scaled: bool = True) -> tuple[Tensor, Tensor]:
    """What SRN learns: each class's mean output of MN over all training pictures.

    Args:
        metric: MN.
        batches: all training features, labels and semantic vectors.
        scaled: every dimension to [0, 1] by its range over the pictures first.

    Returns:
        (S, L), and the classes (S,) they belong to.

    """
    outputs = []
    for start in range(0, len(batches.features), BLOCK):
        rows = slice(start, start + BLOCK)
        outputs.append(metric(torch.cat([batches.features[rows], batches.condition[batches.labels[rows]]], dim=1)))
    found = torch.cat(outputs)
    if scaled:
        low, spread = found.amin(dim=0), found.amax(dim=0) - found.amin(dim=0)
        found = (found - low) / torch.where(spread > 0, spread, torch.ones_like(spread))
    classes, position, counts = torch.unique(batches.labels, return_inverse=True, return_counts=True)
    sums = found.new_zeros(len(classes), found.shape[1]).index_add_(0, position, found)
    return sums / counts.unsqueeze(1), classes


def train_rectifier(metric: TwoLayers, batches: Batches, config: Config, session: Session, *, steps: int) -> TwoLayers:
    """Stage 2: SRN learns the mean of each seen class in MN's space, of all classes in every step or of a few."""
    targets, classes = searched_targets(metric, batches, scaled=config.rectify_targets == "scaled")
    semantic = batches.condition[classes]
    rectify = rectifier(config, semantic.shape[1])
    _start_xavier(rectify, batches.rng)
    adam = _metric_adam(rectify, config, config.rectify_decay)

    def body(_step: int) -> dict[str, Tensor]:
        if config.rectify_classes:
            chosen = batches.rng.permutation(len(targets))[: config.rectify_classes]
            loss = (rectify(semantic[chosen]) - targets[chosen]).norm(dim=1).mean()
        else:
            loss = (rectify(semantic) - targets).norm() / len(targets)
        adam.zero_grad()
        _with_decay(loss, rectify, config, config.rectify_decay).backward()  # type: ignore[no-untyped-call]
        adam.step()
        return {"distance": loss}

    step = repeated(body, batches.rng.generator)
    session.loop("rectify", steps, {"rectify": rectify, "adam": adam, "rng": batches.rng}, step)
    return rectify


def _metric_adam(network: TwoLayers, config: Config, decay: float) -> torch.optim.Adam:
    """Adam for MN or SRN; a weighted sum of squared weights is its weight decay (twice it: the gradient)."""
    weights = [network.first.weight, network.last.weight]
    biases = [network.first.bias, network.last.bias]
    twice = 2 * decay if config.decay == "squares" else 0.0
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": twice}, {"params": biases}]
    rate = config.learning_rate_metric
    return torch.optim.Adam(groups, lr=rate, betas=METRIC_BETAS, fused=True, capturable=capturable())


def _with_decay(loss: Tensor, network: TwoLayers, config: Config, decay: float) -> Tensor:
    """The loss and, where it is no part of the optimiser, the weighted norm of all parameters."""
    if config.decay == "squares":
        return loss
    return loss + decay * torch.stack([one.square().sum() for one in network.parameters()]).sum().sqrt()


def _start_xavier(network: TwoLayers, rng: Rng) -> None:
    start_layers(network, lambda layer: nn.init.xavier_normal_(layer.weight, generator=rng.generator))
