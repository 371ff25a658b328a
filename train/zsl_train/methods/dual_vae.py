"""What the methods with two aligned variational auto-encoders share: networks, shipped modules, lengths, batches.

One auto-encoder reads pooled features, the other semantic vectors; both have a latent of the same width, and the latent
is the feature space f. Shipped are the two encoders: the visual one is the Embedder (f is its mean), the semantic one
the Synthesizer (f is a sample), so that a class added on site goes through the encoder that its seen classes were
aligned by. A head is fitted on samples of both, never on means (docs/methods.md 6.4): `LatentSampler` fills Replay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn

from zsl_runtime.head.head import FitSettings, View
from zsl_train.losses.reconstruction import plain_l1, squared_l2
from zsl_train.losses.vae import sample_by_variance, sample_normal
from zsl_train.methods.base import Dims, Trained
from zsl_train.methods.lengths import Stage
from zsl_train.nets import start_layers

if TYPE_CHECKING:
    from collections.abc import Callable

    from zsl_train.methods.session import Rng
    from zsl_train.nets import PooledEmbedder

XAVIER_GAIN = 0.5  # docs/methods.md 6.2
SAMPLING = {"deviation": sample_normal, "variance": sample_by_variance}
RECONSTRUCTION = {"l1": plain_l1, "l2": squared_l2}


@dataclass(frozen=True)
class Settings:
    """What the methods' Configs have in common; each documents them with its own sources."""

    scaling: Literal["minmax", "standard", "l2", "l2-centred"] = "minmax"
    latent: int = 64
    visual_encoder_hidden: int = 1560
    visual_decoder_hidden: int = 1660
    semantic_encoder_hidden: int = 1450
    semantic_decoder_hidden: int = 665
    spread: Literal["variance", "deviation"] = "variance"
    noise: Literal["shared", "each"] = "shared"
    reconstruction: Literal["l1", "l2"] = "l1"
    epochs: float = 100.0
    steps: int = 0
    batch: int = 50
    learning_rate: float = 1.5e-4
    schedule_epochs: float = 100.0
    latents_per_seen_class: int = 200
    synthetic_per_class: int = 400
    head_epochs: int = 23
    head_learning_rate: float = 1e-3
    head_beta1: float = 0.5
    head_batch: int = 32

    def __post_init__(self) -> None:
        self.fit_settings()  # refuses impossible ones now, not after an hour of training

    def fit_settings(self) -> FitSettings:
        """How the head is fitted; UsageError E-FIT-SETTINGS when that is impossible."""
        return FitSettings(self.head_epochs, self.head_batch, self.head_learning_rate, self.head_beta1)

    @property
    def noise_width(self) -> int:
        """Z: one number a sample where its dimensions share it."""
        return 1 if self.noise == "shared" else self.latent


AT_LEAST_ONE = (
    "latent",
    "visual_encoder_hidden",
    "visual_decoder_hidden",
    "semantic_encoder_hidden",
    "semantic_decoder_hidden",
    "batch",
    "schedule_epochs",
    "latents_per_seen_class",
    "synthetic_per_class",
)
AnySettings = TypeVar("AnySettings", bound=Settings)


# --- networks ---------------------------------------------------------------------------------------------------------


class GaussianEncoder(nn.Module):
    """x -> hidden -> ReLU -> mean and log-variance, the two heads as one product."""

    def __init__(self, width: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.heads = nn.Linear(hidden, 2 * latent)

    def joined(self, x: Tensor) -> Tensor:
        """(B, X) -> mean and log-variance side by side, (B, 2 Z)."""
        return self.heads(torch.relu(self.first(x)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, X) -> mean (B, Z), log-variance (B, Z)."""
        mean, log_variance = self.joined(x).chunk(2, dim=1)
        return mean, log_variance


class Decoder(nn.Module):
    """z -> hidden -> ReLU -> X, linear output."""

    def __init__(self, latent: int, hidden: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(latent, hidden)
        self.last = nn.Linear(hidden, width)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, X)."""
        return self.last(torch.relu(self.first(z)))  # type: ignore[no-any-return]


class DualVae(nn.Module):
    """The two auto-encoders."""

    def __init__(self, config: Settings, channels: int, attributes: int) -> None:
        super().__init__()
        latent = config.latent
        self.visual_encoder = GaussianEncoder(channels, config.visual_encoder_hidden, latent)
        self.visual_decoder = Decoder(latent, config.visual_decoder_hidden, channels)
        self.semantic_encoder = GaussianEncoder(attributes, config.semantic_encoder_hidden, latent)
        self.semantic_decoder = Decoder(latent, config.semantic_decoder_hidden, attributes)


def start_xavier(module: nn.Module, rng: Rng, gain: float = XAVIER_GAIN) -> None:
    """Draw every linear layer uniformly within gain * sqrt(6 / (fan in + fan out)), biases 0.

    Glorot and Bengio 2010. The two heads of a `GaussianEncoder` count as two layers.
    """
    double = {layer.heads for layer in module.modules() if isinstance(layer, GaussianEncoder)}

    def draw(layer: nn.Linear) -> None:
        fan_out = layer.out_features // 2 if layer in double else layer.out_features
        bound = gain * math.sqrt(6 / (layer.in_features + fan_out))
        layer.weight.copy_((2 * rng.uniform(*layer.weight.shape) - 1) * bound)

    start_layers(module, draw)


# --- the shipped modules ----------------------------------------------------------------------------------------------


class LatentEmbedder(nn.Module):
    """Region features -> the mean of the visual latent.

    Args:
        pooled: regions to one scaled vector.
        encoder: its mean and log-variance.
        enhance: what is done to both before they are used, deterministic: (mean, log-variance) -> the same; None for
            nothing.

    """

    def __init__(self, pooled: PooledEmbedder, encoder: GaussianEncoder, enhance: nn.Module | None = None) -> None:
        super().__init__()
        self.pooled = pooled
        self.encoder = encoder
        self.enhance = enhance

    def distribution(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R, V) -> mean (B, F), log-variance (B, F), F = Z of the auto-encoder."""
        mean, log_variance = self.encoder(self.pooled(regions))
        return (mean, log_variance) if self.enhance is None else self.enhance(mean, log_variance)

    def forward(self, regions: Tensor) -> Tensor:
        """(B, R, V) float32 -> f (B, F)."""
        return self.distribution(regions)[0]


class LatentSampler(nn.Module):
    """Samples of the visual latent: what Replay holds (`Trained.replay`)."""

    def __init__(self, embedder: LatentEmbedder, spread: str) -> None:
        super().__init__()
        self.embedder = embedder
        self.spread = spread

    def forward(self, regions: Tensor, noise: Tensor) -> Tensor:
        """Regions (B, R, V), noise (B, K, F or 1) -> K samples of each picture (B, K, F)."""
        mean, log_variance = self.embedder.distribution(regions)
        return SAMPLING[self.spread](mean.unsqueeze(1), log_variance.unsqueeze(1), noise)


class LatentSynthesizer(nn.Module):
    """Semantic vector and noise -> a sample of the semantic latent."""

    def __init__(self, encoder: GaussianEncoder, spread: str, enhance: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.enhance = enhance
        self.spread = spread

    def forward(self, semantic: Tensor, noise: Tensor) -> Tensor:
        """(M, A), (M, F or 1) -> (M, F)."""
        mean, log_variance = self.encoder(semantic)
        if self.enhance is not None:
            mean, log_variance = self.enhance(mean, log_variance)
        return SAMPLING[self.spread](mean, log_variance, noise)


def assemble(
    config: Settings,
    pooled: PooledEmbedder,
    vae: DualVae,
    *,
    enhance_visual: nn.Module | None = None,
    enhance_semantic: nn.Module | None = None,
) -> Trained:
    """What is shipped of the two auto-encoders: the encoders."""
    embedder = LatentEmbedder(pooled, vae.visual_encoder, enhance_visual)
    return Trained(
        embedder=embedder,
        lift=None,
        synthesizer=LatentSynthesizer(vae.semantic_encoder, config.spread, enhance_semantic),
        noise_width=config.noise_width,
        feature_width=config.latent,
        lifted_width=config.latent,
        views=(View("latent", 0, config.latent, 1.0, config.fit_settings()),),
        synthetic_per_class=config.synthetic_per_class,
        replay=LatentSampler(embedder, config.spread),
        replay_per_class=config.latents_per_seen_class,
    )


# --- training ---------------------------------------------------------------------------------------------------------


def draw_noise(config: Settings, rows: int, rng: Rng) -> Tensor:
    """Standard normal (rows, Z)."""
    return rng.normal(rows, config.noise_width)


def reconstruction_of(config: Settings) -> Callable[[Tensor, Tensor], Tensor]:
    """The reconstruction loss."""
    return RECONSTRUCTION[config.reconstruction]


# --- how long it takes ------------------------------------------------------------------------------------------------

# Measured on one core of a current server: folds train side by side, so a training rarely has two to itself.
FLOPS_PER_SECOND = 100e9  # of these products
STEP_SECONDS = 0.005  # of a step besides its products and the update: drawing, small tensors, Python
UPDATE_SECONDS = 1.6e-9  # of Adam with amsgrad for one parameter: five arrays are read, four written
# The least steps `size` gives a small set, not tuned: after a quarter of the published schedule on CUB, 3500 steps,
# CADA-VAE's H was 38.1 of the 40.8 it ended with.
SHORTEST = 4000


def schedule_epoch(config: Settings, step: int, steps: int) -> int:
    """The whole epoch, on the clock the ramps are counted in, of step `step` of `steps`."""
    return math.floor(step * config.schedule_epochs / steps)


def step_seconds(config: Settings, dims: Dims, decodings: int, more: float = 0.0) -> float:
    """Seconds of one step: multiply-adds of forward and backward over the measured rate, and the update.

    Args:
        config: settings.
        dims: sizes.
        decodings: how many latents of a row each decoder reconstructs from.
        more: multiply-adds of a row's forward pass besides the auto-encoders.

    """
    channels, attributes, latent = dims.channels, dims.attributes, config.latent
    encoders = config.visual_encoder_hidden * (channels + 2 * latent)
    encoders += config.semantic_encoder_hidden * (attributes + 2 * latent)
    decoders = config.visual_decoder_hidden * (channels + latent)
    decoders += config.semantic_decoder_hidden * (attributes + latent)
    products = 3 * config.batch * (encoders + decodings * decoders + more)
    return 2 * products / FLOPS_PER_SECOND + UPDATE_SECONDS * (encoders + decoders) + STEP_SECONDS


def only_stage(config: Settings, seconds: float) -> tuple[Stage]:
    """The one stage of these methods, whose step takes that many seconds."""
    return (Stage("", config.batch, seconds, SHORTEST),)
