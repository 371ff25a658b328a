"""CADA-VAE: cross and distribution aligned variational auto-encoders (Schoenfeld et al., CVPR 2019).

Two auto-encoders, one of pooled features and one of class attributes, share a latent: each decoder must also
reconstruct from the other's latent (cross alignment), and the two Gaussians of a picture and its class are drawn
together (2-Wasserstein distribution alignment). A softmax head is fitted on latents sampled from pictures of the seen
classes and from attributes of the unseen ones. The base of ACMR (`zsl_train.methods.acmr`). Numbers:
docs/methods.md 7.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

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
    from torch import Tensor

    from zsl_train.methods.base import Dims, Trained, TrainingData
    from zsl_train.methods.lengths import Stage
    from zsl_train.methods.session import Session

NAME = "cada-vae"
HEAD = "gaussian"


@dataclass(frozen=True)
class Config(dual_vae.Settings):
    """Settings of CADA-VAE. [P] paper, [C] published code, [O] ours; values in docs/methods.md 7.3 and 1.6.

    Attributes:
        scaling: of the pooled features: `minmax` [C], `standard`, `l2` or `l2-centred` [O].
        latent: width of the latent, which is the feature space; 64 [P, C].
        visual_encoder_hidden: 1560 [P, C].
        visual_decoder_hidden: 1660 [P, C].
        semantic_encoder_hidden: 1450 [P, C].
        semantic_decoder_hidden: 665 [P, C].
        spread: what multiplies the noise of a sample: the `variance`, exp(log-variance) [C], or the `deviation` [P].
        noise: one number a sample, `shared` by its dimensions [C], or one for `each` [P].
        reconstruction: `l1` [P, C] or `l2` [O], summed over dimensions.
        epochs: 100 [P, C]. An epoch is n / batch steps.
        steps: when positive, used in place of epochs.
        batch: 50 [P, C].
        learning_rate: of Adam with amsgrad; 1.5e-4 [P, C].
        schedule_epochs: epochs that the ramps below are counted in: a training of another length goes through the same
            ramps, stretched or squeezed [O]. 100 with 100 epochs is the published schedule.
        kl_weight: 0.25 [P, C], the weight of the Kullback-Leibler term at the end of its ramp.
        kl_start: epoch; 0 [P, C].
        kl_end: epoch; 93 [P, C].
        cross_weight: 2.37 [P, C], of the reconstruction from the other modality's latent.
        cross_start: epoch; 21 [P, C].
        cross_end: epoch; 75 [P, C].
        distance_weight: 8.13 [P, C], of the Wasserstein distance.
        distance_start: epoch; 6 [P, C].
        distance_end: epoch; 22 [P, C].
        latents_per_seen_class: latents sampled from pictures of each seen class for the head, 200 [P, C]; the recipe's
            `replay_per_class` caps them.
        synthetic_per_class: latents sampled for each class without photographs, 400 [P, C].
        head_epochs: 23 on CUB, 21 SUN, 33 AWA1, 29 AWA2 [C].
        head_learning_rate: 1e-3 [C].
        head_beta1: of the head's Adam; 0.5 [C].
        head_batch: 32 [C].

    """

    kl_weight: float = 0.25
    kl_start: float = 0.0
    kl_end: float = 93.0
    cross_weight: float = 2.37
    cross_start: float = 21.0
    cross_end: float = 75.0
    distance_weight: float = 8.13
    distance_start: float = 6.0
    distance_end: float = 22.0

    def __post_init__(self) -> None:
        at_least_one(NAME, self, dual_vae.AT_LEAST_ONE)
        super().__post_init__()


PRESETS: dict[str, dict[str, Any]] = {
    "default": {"scaling": "standard"},  # else the code's settings, sized to the data: `size`
    "paper": {"spread": "deviation", "noise": "each"},
    "code": {},
}


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    pooled = PooledEmbedder(dims.channels, config.scaling)
    return assemble(config, pooled, DualVae(config, dims.channels, dims.attributes))


def stages(config: Config, dims: Dims) -> tuple[Stage]:
    """The one stage."""
    return dual_vae.only_stage(config, dual_vae.step_seconds(config, dims, decodings=2))


def weighted_losses(
    vae: DualVae, features: Tensor, semantic: Tensor, noise: tuple[Tensor, Tensor], *, epoch: float, config: Config
) -> dict[str, Tensor]:
    """The terms of the loss, each with its weight at `epoch`; sums over dimensions, means over rows.

    Published code sums over the batch as well: a factor that Adam does not see.

    Args:
        vae: the networks.
        features: (B, V), scaled.
        semantic: (B, A), of the rows' classes.
        noise: of the visual and of the semantic sample, (B, Z).
        epoch: on the clock of the ramps.
        config: weights and ramps.

    """
    distance = reconstruction_of(config)
    sample = SAMPLING[config.spread]
    mean_v, log_v = vae.visual_encoder(features)
    mean_a, log_a = vae.semantic_encoder(semantic)
    z_v, z_a = sample(mean_v, log_v, noise[0]), sample(mean_a, log_a, noise[1])
    kl = linear_ramp(epoch, config.kl_start, config.kl_end, config.kl_weight)
    cross = linear_ramp(epoch, config.cross_start, config.cross_end, config.cross_weight)
    apart = linear_ramp(epoch, config.distance_start, config.distance_end, config.distance_weight)
    losses: dict[str, Tensor] = {}
    if cross > 0:  # both latents through each decoder at once
        decoded = vae.visual_decoder(torch.cat([z_v, z_a])).chunk(2)
        described = vae.semantic_decoder(torch.cat([z_a, z_v])).chunk(2)
        losses["cross"] = cross * (distance(decoded[1], features) + distance(described[1], semantic))
    else:
        decoded, described = (vae.visual_decoder(z_v),), (vae.semantic_decoder(z_a),)
    losses["visual"] = distance(decoded[0], features)
    losses["attribute"] = distance(described[0], semantic)
    losses["kl"] = kl * (kl_to_standard_normal(mean_v, log_v) + kl_to_standard_normal(mean_a, log_a))
    losses["distance"] = apart * wasserstein_of_diagonals(mean_v, log_v, mean_a, log_a)
    return losses


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """Train CADA-VAE in one stage.

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
    vae = DualVae(config, data.dims.channels, data.dims.attributes)
    start_xavier(vae, rng)
    rate = config.learning_rate
    optimiser = torch.optim.Adam(vae.parameters(), lr=rate, amsgrad=True, fused=True, capturable=capturable())
    labels, semantic = tensor_of(data.labels), tensor_of(data.semantic)
    batches = Batches(features, labels, semantic, config.batch, rng)
    (steps,) = plan(stages(config, data.dims), config, len(features)).values()

    def body(step: int) -> dict[str, Tensor]:
        x, a, _ = batches.draw()
        noise = (draw_noise(config, len(x), rng), draw_noise(config, len(x), rng))
        losses = weighted_losses(vae, x, a, noise, epoch=schedule_epoch(config, step, steps), config=config)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return losses

    trained = assemble(config, pooled, vae)
    step = repeated(body, rng.generator, lambda step: schedule_epoch(config, step, steps))
    session.loop("align", steps, {"vae": vae, "optimiser": optimiser, "rng": rng}, step, trained)
    return trained.eval()
