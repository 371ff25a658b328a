"""Stage 2: the guide, a classifier of the compressed feature that learns the local network's scores or evidence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zsl_train.devices import repeated, tensor_of
from zsl_train.methods.sc_egg.config import MLP_SLOPE, Config
from zsl_train.methods.sc_egg.scen import BalancedBatches, RegionBatches, Scen, embed_all, embedding_optimiser
from zsl_train.methods.sc_egg.steps import stage_steps
from zsl_train.methods.session import Rng, Session
from zsl_train.nets import MinMaxScaler

if TYPE_CHECKING:
    from zsl_train.methods.base import TrainingData


class Guide(nn.Module):
    """A classifier of the scaled feature f: what guides the generator.

    Args:
        layers: f (B, F) -> scores of the known classes (B, C), or with `evidence` attribute evidence (B, A).
        scaler: takes f back to the feature before scaling, on which the paper's classifier was trained.
        evidence: what the layers give.

    """

    def __init__(self, layers: nn.Module, scaler: MinMaxScaler | None = None, *, evidence: bool = False) -> None:
        super().__init__()
        self.layers = layers
        self.scaler = scaler
        self.evidence = evidence

    def forward(self, features: Tensor, semantic: Tensor) -> Tensor:
        """Scores (B, C) of features f (B, F) for classes (C, A); without evidence these must be the known classes."""
        if self.scaler is not None:
            features = self.scaler.back(features)
        given: Tensor = self.layers(features)
        return given @ semantic.T if self.evidence else given


def guide_layers(config: Config, channels: int, outputs: int) -> nn.Sequential:
    """The separate guide (the published code's): two layers on the scaled compressed feature, yet to be drawn."""
    first, last = nn.Linear(channels, config.guide_hidden), nn.Linear(config.guide_hidden, outputs)
    return nn.Sequential(first, nn.LeakyReLU(MLP_SLOPE), last)


def _evidence_of_all(data: TrainingData, scen: Scen, block: int = 64) -> Tensor:
    """Evidence e of every training picture (n, A): fixed while LEN is frozen, so computed once."""
    return embed_all(data, lambda regions: scen.evidence(*scen.maps(scen.embedder.normalise(regions))), block)


def _regression(scores: Tensor, target: Tensor, reduction: str) -> Tensor:
    squared = (scores - target) ** 2
    return squared.mean() if reduction == "mean" else squared.sum(dim=1).mean()


def train_guide(data: TrainingData, scen: Scen, config: Config, session: Session, seed: int) -> tuple[Guide, Tensor]:
    """Stage 2 (paper Eq. 8 and 17), then the scaler. Returns the guide and the scaled features f (n, F)."""
    steps = stage_steps("stage2", config, data)
    evidence = _evidence_of_all(data, scen)
    target = evidence if config.guide_target == "evidence" else evidence @ tensor_of(data.semantic).T
    if config.guide == "shared":
        return _train_shared_guide(data, scen, target, config, session=session, steps=steps, seed=seed)
    scen.write_embedder()
    features = scen.embedder.scaler.fit(raw := embed_all(data, scen.embedder.compress))(raw)
    if scen.embedder.beside is not None:
        scen.embedder.beside.fit(raw, evidence)
    guide = _train_separate_guide(features, target, data, config, session=session, steps=steps, seed=seed)
    return guide, features


def _train_separate_guide(
    features: Tensor, target: Tensor, data: TrainingData, config: Config, *, session: Session, steps: int, seed: int
) -> Guide:
    """The published code: everything of stage 1 frozen, a new two-layer classifier of f."""
    rng = Rng(seed)
    layers = guide_layers(config, features.shape[1], target.shape[1])
    for layer in (one for one in layers if isinstance(one, nn.Linear)):
        bound = 1 / math.sqrt(layer.in_features)
        with torch.no_grad():
            layer.weight.copy_((2 * rng.uniform(*layer.weight.shape) - 1) * bound)
            layer.bias.copy_((2 * rng.uniform(*layer.bias.shape) - 1) * bound)
    optimiser = embedding_optimiser(list(layers.parameters()), config)
    batches = BalancedBatches(data.labels, config.embedding_batch, rng)

    def body(_: int) -> dict[str, Tensor]:
        chosen = batches.draw()
        loss = _regression(layers(features[chosen]), target[chosen], config.regression)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return {"regression": loss}

    step = repeated(body, rng.generator)
    session.loop("guide", steps, {"guide": layers, "optimiser": optimiser, "rng": rng}, step)
    return Guide(layers, evidence=config.guide_target == "evidence")


def _train_shared_guide(
    data: TrainingData, scen: Scen, target: Tensor, config: Config, *, session: Session, steps: int, seed: int
) -> tuple[Guide, Tensor]:
    """The paper: LEN frozen, GEN (the compression and its classifier) learns p_l; the same classifier guides EGGN."""
    rng = Rng(seed)
    judge: nn.Module = _scaled_classifier(data, scen) if config.guide_feature == "scaled" else scen.classifier
    trained = [*scen.classifier.parameters()]
    if config.pooling == "mlp":
        trained += [*scen.first.parameters(), *scen.last.parameters()]
    optimiser = embedding_optimiser(trained, config)
    batches, read = BalancedBatches(data.labels, config.embedding_batch, rng), RegionBatches(data)

    def body(_: int) -> dict[str, Tensor]:
        chosen = batches.draw()
        regions = scen.embedder.normalise(read(chosen))
        with torch.no_grad():
            attention = scen.maps(regions)[0]
        if config.pooling == "mlp":
            feature = scen.global_feature(attention, regions)
        else:
            feature = scen.embedder.compression.pool(attention, regions)
        loss = _regression(judge(feature), target[chosen], config.regression)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return {"regression": loss}

    step = read.repeated(body, rng)
    session.loop("guide", steps, {"scen": scen, "optimiser": optimiser, "rng": rng}, step)
    scen.write_embedder()
    raw = embed_all(data, scen.embedder.compress)
    features = scen.embedder.scaler.fit(raw)(raw)
    return Guide(judge, scen.embedder.scaler), features


def _scaled_classifier(data: TrainingData, scen: Scen) -> nn.Sequential:
    """The shared classifier behind a scaler of stage 1's features; what it says of a feature stays what it was.

    Unscaled, the numbers of a feature differ by hundredths, and a classifier at the published rate learns little of
    them. The scaler stays when stage 2 trains the compression on.
    """
    scen.write_embedder()
    scaler = MinMaxScaler(scen.classifier.in_features).fit(embed_all(data, scen.embedder.compress))
    with torch.no_grad():
        scen.classifier.bias.add_(scen.classifier.weight @ scaler.low)
        scen.classifier.weight.mul_(scaler.range)
    return nn.Sequential(scaler, scen.classifier)
