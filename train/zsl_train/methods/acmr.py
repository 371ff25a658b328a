"""ACMR: aligned cross-modal representations (Fang et al., AAAI 2022; docs/methods.md 6).

The two auto-encoders of CADA-VAE without its cross reconstruction. Instead (1) an information enhancement module (IEM)
of each modality looks at the encoder's mean and log-variance and gates both; (2) vision-semantic alignment (VSA) mixes
the latents of a picture and its class by a joint weighting and classifies both mixtures. The weights of the terms grow
by annealing.

The IEM sees its inputs in an order that is drawn anew at every call, at test time too in the published code: there the
same picture gets another answer each time. What we ship is deterministic: the gate averaged over a few fixed orders,
which estimates the mean over all orders (`gate_orders`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_train.devices import capturable, repeated, tensor_of
from zsl_train.losses.annealing import linear_ramp
from zsl_train.losses.vae import kl_to_standard_normal, wasserstein_of_diagonals
from zsl_train.methods import dual_vae
from zsl_train.methods.dual_vae import (
    SAMPLING,
    DualVae,
    assemble,
    draw_noise,
    reconstruction_of,
    schedule_epoch,
    start_xavier,
)
from zsl_train.methods.lengths import plan
from zsl_train.methods.pooled import Batches, at_least_one, pooled_features
from zsl_train.methods.session import Rng
from zsl_train.nets import PooledEmbedder

if TYPE_CHECKING:
    from zsl_train.methods.base import Dims, Trained, TrainingData
    from zsl_train.methods.lengths import Stage
    from zsl_train.methods.session import Session

NAME = "acmr"
HEAD = "gaussian"
ORDERS_SEED = 6  # of the fixed orders the shipped gate is averaged over: the same in every model


@dataclass(frozen=True)
class Config(dual_vae.Settings):
    """Settings of ACMR. [P] paper, [C] published code (CUB), [O] ours; values in docs/methods.md 6.2 to 6.4.

    Attributes:
        scaling: of the pooled features: `minmax` [C], `standard`, `l2` or `l2-centred` [O].
        latent: width of the latent, which is the feature space; 64 [P, C].
        visual_encoder_hidden: 1560 [P, C].
        visual_decoder_hidden: 1680 [P]; 1665 on CUB, 1660 SUN, 1680 AWA1 and AWA2 [C].
        semantic_encoder_hidden: 1450 [P, C].
        semantic_decoder_hidden: 665 [P, C].
        spread: what multiplies the noise of a sample: the `variance`, exp(log-variance) [C], or the `deviation` [P].
        noise: one number a sample, `shared` by its dimensions [C], or one for `each` [P].
        reconstruction: `l1` [C] or `l2` [O], summed over dimensions.
        epochs: 100 [P, C]. An epoch is n / batch steps.
        steps: when positive, used in place of epochs.
        batch: 50 [P, C].
        learning_rate: of the auto-encoders; 1.5e-4 [P, C].
        amsgrad: Adam's second moment never falls [C]; the paper says Adam and no more.
        learning_rate_gate: of the IEM; 3.3e-5 [P, C].
        learning_rate_classifiers: of the two classifiers of the VSA; 7.4e-3 [P, C].
        alignment: what the products in VSA are divided by before the softmax: `plain`, nothing [C], or `scaled`, the
            root of the latent's width [P: a normalisation factor d_x, without its value].
        schedule_epochs: epochs that the ramps below are counted in: a training of another length goes through the same
            ramps, stretched or squeezed [O]. 100 with 100 epochs is the published schedule.
        gate: leave the IEM out with `none` (the paper's VSA-VAE); `iem` [P, C].
        gate_hidden: hidden width of the IEM, 99 [P, C].
        gate_orders: fixed orders the shipped gate is averaged over [O]; 0 takes the features in their own order. The
            published code draws an order at every call, at test time too.
        kl_weight: alpha; 2.555 on CUB, 2.455 SUN, 7/3 AWA1, 3.554 AWA2 [C]; constant from the start in the paper.
        kl_start: epoch; 0 [C].
        kl_end: epoch; 93 [C].
        distance_weight: beta; 8.21 on CUB, 10.1 SUN, 8.11 AWA1, 12 AWA2 [C]; 1 to 12 [P].
        distance_start: epoch; 7, 7, 6, 6 [C].
        distance_end: epoch; 22, 22, 23, 22 [C].
        class_weight: lambda, beside sums over a batch of `batch` rows; 310.5 on CUB, 305.555 SUN, 290.13 AWA1, 100.5
            AWA2 [C]; 285 to 305, 70 to 90 on AWA2 [P].
        class_start: epoch; 0 [C].
        class_end: epoch; 21, 22, 16, 19 [C].
        latents_per_seen_class: latents sampled from pictures of each seen class for the head, 200 [C]; the recipe's
            `replay_per_class` caps them.
        synthetic_per_class: latents sampled for each class without photographs; 390 on CUB, 410 SUN, 460 AWA1, 480
            AWA2 [C].
        head_epochs: 50 on CUB, SUN and AWA1, 300 on AWA2 [C].
        head_learning_rate: 5e-4 [P, C].
        head_beta1: of the head's Adam; 0.3 [C].
        head_batch: 32 [P, C].

    """

    visual_decoder_hidden: int = 1665
    learning_rate_gate: float = 3.3e-5
    learning_rate_classifiers: float = 7.4e-3
    gate: Literal["iem", "none"] = "iem"
    gate_hidden: int = 99
    gate_orders: int = 16
    kl_weight: float = 2.555
    kl_start: float = 0.0
    kl_end: float = 93.0
    distance_weight: float = 8.21
    distance_start: float = 7.0
    distance_end: float = 22.0
    class_weight: float = 310.5
    class_start: float = 0.0
    class_end: float = 21.0
    synthetic_per_class: int = 390
    head_epochs: int = 50
    head_learning_rate: float = 5e-4
    head_beta1: float = 0.3
    amsgrad: bool = True
    alignment: Literal["plain", "scaled"] = "plain"

    def __post_init__(self) -> None:
        at_least_one(NAME, self, (*dual_vae.AT_LEAST_ONE, "gate_hidden"))
        super().__post_init__()


PRESETS: dict[str, dict[str, Any]] = {
    "default": {"scaling": "standard"},  # else the code's settings, sized to the data: `size`
    "paper": {
        "visual_decoder_hidden": 1680,
        "spread": "deviation",
        "noise": "each",
        "amsgrad": False,
        "alignment": "scaled",
        "kl_end": 0.0,  # only beta and lambda are annealed there
        "class_weight": 305.0,  # the end of the paper's range that the code lies beyond
    },
    "code": {},
}


# --- networks ---------------------------------------------------------------------------------------------------------


class InformationEnhancement(nn.Module):
    """IEM: a gate in (0, 1) for each latent dimension, from mean and log-variance in a permuted order (paper Eq. 5).

    mean, log-variance -> side by side -> permuted -> hidden -> ReLU -> Z -> sigmoid = W; W * mean and W * log-variance.
    Called as a module it is deterministic: W is the mean over the fixed orders in `orders`.

    Args:
        latent: Z.
        hidden: width of the hidden layer.
        orders: how many fixed orders; 0 for the one order in which nothing is permuted.

    """

    def __init__(self, latent: int, hidden: int, orders: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * latent, hidden)
        self.last = nn.Linear(hidden, latent)
        generator = torch.Generator().manual_seed(ORDERS_SEED)
        drawn = [torch.randperm(2 * latent, generator=generator, device=generator.device) for _ in range(orders)]
        self.register_buffer("orders", torch.stack(drawn or [torch.arange(2 * latent)]))  # (K, 2 Z) int64
        self.orders: Tensor

    def gate(self, joined: Tensor) -> Tensor:
        """Permuted means and log-variances (..., 2 Z) -> (..., Z) in (0, 1)."""
        return torch.sigmoid(self.last(torch.relu(self.first(joined))))

    def shuffled(self, mean: Tensor, log_variance: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, Z), gated with the features in this order, a permutation (2 Z,) for the whole batch."""
        gate = self.gate(torch.cat([mean, log_variance], dim=1)[:, order])
        return gate * mean, gate * log_variance

    def forward(self, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, Z), gated by the mean over the fixed orders."""
        joined = torch.cat([mean, log_variance], dim=1)[:, self.orders]  # (B, K, 2 Z)
        gate = self.gate(joined).mean(dim=1)
        return gate * mean, gate * log_variance


class VisionSemanticAlignment(nn.Module):
    """VSA: both latents of a row, mixed by their joint weighting, classified over all classes (paper Eq. 8, Fig. 4).

    Args:
        latent: Z.
        classes: C.
        divisor: of the products, d_x.

    """

    def __init__(self, latent: int, classes: int, divisor: float = 1.0) -> None:
        super().__init__()
        self.divisor = divisor
        self.visual = nn.Linear(latent, classes)
        self.semantic = nn.Linear(latent, classes)

    def mix(self, z_visual: Tensor, z_semantic: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, Z) -> R z_visual and R z_semantic (B, Z), R = softmax over i of z_visual_i z_semantic_j / d_x."""
        products = z_visual.unsqueeze(2) * (z_semantic / self.divisor).unsqueeze(1)
        weights = products.softmax(dim=1)  # (B, Z, Z)
        both = weights @ torch.stack([z_visual, z_semantic], dim=2)  # (B, Z, 2): one product for the two
        return both[..., 0], both[..., 1]

    def forward(self, z_visual: Tensor, z_semantic: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, Z) -> class scores of the two mixtures (B, C)."""
        visual, semantic = self.mix(z_visual, z_semantic)
        return self.visual(visual), self.semantic(semantic)


class Acmr(nn.Module):
    """Everything that is trained: auto-encoders, gates, alignment."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__()
        self.vae = DualVae(config, dims.channels, dims.attributes)
        self.visual_gate = self._gate(config)
        self.semantic_gate = self._gate(config)
        divisor = math.sqrt(config.latent) if config.alignment == "scaled" else 1.0
        self.alignment = VisionSemanticAlignment(config.latent, dims.classes, divisor)

    @staticmethod
    def _gate(config: Config) -> InformationEnhancement | None:
        if config.gate == "none":
            return None
        return InformationEnhancement(config.latent, config.gate_hidden, config.gate_orders)

    def groups(self, config: Config) -> list[dict[str, Any]]:
        """Parameters by learning rate."""
        gates = [p for gate in (self.visual_gate, self.semantic_gate) if gate is not None for p in gate.parameters()]
        groups = [
            {"params": list(self.vae.parameters()), "lr": config.learning_rate},
            {"params": gates, "lr": config.learning_rate_gate},
            {"params": list(self.alignment.parameters()), "lr": config.learning_rate_classifiers},
        ]
        return [group for group in groups if group["params"]]


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    return _shipped(config, PooledEmbedder(dims.channels, config.scaling), Acmr(config, dims))


def _shipped(config: Config, pooled: PooledEmbedder, network: Acmr) -> Trained:
    return assemble(
        config,
        pooled,
        network.vae,
        enhance_visual=network.visual_gate,
        enhance_semantic=network.semantic_gate,
    )


# --- how long it takes ------------------------------------------------------------------------------------------------


def stages(config: Config, dims: Dims) -> tuple[Stage]:
    """The one stage."""
    gates = 2 * config.gate_hidden * 3 * config.latent
    alignment = 3 * config.latent**2 + 2 * config.latent * dims.classes
    seconds = dual_vae.step_seconds(config, dims, decodings=1, more=gates + alignment)
    return dual_vae.only_stage(config, seconds)


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """What is random in one step.

    Attributes:
        noise: of the visual and of the semantic sample, (B, Z).
        orders: of the features before the visual and the semantic gate, permutations (2 latent,).

    """

    noise: tuple[Tensor, Tensor]
    orders: tuple[Tensor, Tensor]


def weighted_losses(
    network: Acmr, features: Tensor, semantic: Tensor, labels: Tensor, draw: Draw, *, epoch: float, config: Config
) -> dict[str, Tensor]:
    """The terms of the loss (paper Eq. 9), each with its weight at `epoch`; sums over dimensions, means over rows.

    Published code sums over the batch, but for the two classification terms, which are means there: hence their weight
    is divided by the number of rows. All terms see mean and log-variance after the IEM.

    Args:
        network: everything.
        features: (B, V), scaled.
        semantic: (B, A), of the rows' classes.
        labels: (B,) among all C classes.
        draw: noise and orders.
        epoch: on the clock of the ramps.
        config: weights and ramps.

    """
    vae, distance, sample = network.vae, reconstruction_of(config), SAMPLING[config.spread]
    mean_v, log_v = _gated(vae.visual_encoder(features), network.visual_gate, draw.orders[0])
    mean_a, log_a = _gated(vae.semantic_encoder(semantic), network.semantic_gate, draw.orders[1])
    z_v, z_a = sample(mean_v, log_v, draw.noise[0]), sample(mean_a, log_a, draw.noise[1])
    scores_v, scores_a = network.alignment(z_v, z_a)
    kl = linear_ramp(epoch, config.kl_start, config.kl_end, config.kl_weight)
    apart = linear_ramp(epoch, config.distance_start, config.distance_end, config.distance_weight)
    classes = linear_ramp(epoch, config.class_start, config.class_end, config.class_weight) / len(features)
    return {
        "visual": distance(vae.visual_decoder(z_v), features),
        "attribute": distance(vae.semantic_decoder(z_a), semantic),
        "kl": kl * (kl_to_standard_normal(mean_v, log_v) + kl_to_standard_normal(mean_a, log_a)),
        "distance": apart * wasserstein_of_diagonals(mean_v, log_v, mean_a, log_a),
        "classes": classes * (F.cross_entropy(scores_v, labels) + F.cross_entropy(scores_a, labels)),
    }


def _gated(encoded: tuple[Tensor, Tensor], gate: InformationEnhancement | None, order: Tensor) -> tuple[Tensor, Tensor]:
    return encoded if gate is None else gate.shuffled(*encoded, order)


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """Train ACMR in one stage.

    Args:
        data: region features, pooled here, and semantic vectors of seen classes.
        config: settings.
        session: logs, checkpoints and snapshots.
        seed: of everything random; the same seed gives the same weights on one machine.

    Raises:
        GateError: E-DIVERGED.

    """
    rng = Rng(seed)
    pooled, features = pooled_features(data, config.scaling)
    network = Acmr(config, data.dims)
    start_xavier(network, rng)
    groups, amsgrad = network.groups(config), config.amsgrad
    optimiser = torch.optim.Adam(groups, amsgrad=amsgrad, fused=True, capturable=capturable())
    labels, semantic = tensor_of(data.labels), tensor_of(data.semantic)
    batches = Batches(features, labels, semantic, config.batch, rng)
    (steps,) = plan(stages(config, data.dims), config, len(features)).values()
    width = 2 * config.latent

    def body(step: int) -> dict[str, Tensor]:
        x, a, y = batches.draw()
        draw = Draw(
            noise=(draw_noise(config, len(x), rng), draw_noise(config, len(x), rng)),
            orders=(rng.permutation(width), rng.permutation(width)),
        )
        epoch = schedule_epoch(config, step, steps)
        losses = weighted_losses(network, x, a, y, draw, epoch=epoch, config=config)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return losses

    trained = _shipped(config, pooled, network)
    step = repeated(body, rng.generator, lambda step: schedule_epoch(config, step, steps))
    session.loop("align", steps, {"network": network, "optimiser": optimiser, "rng": rng}, step, trained)
    return trained.eval()
