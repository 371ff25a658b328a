"""SC-EGG: semantic compression embedding guided generation (Hong et al., IJCAI 2022).

Three stages. (1) SCEN: attention over regions, one map an attribute, trained by the local (Eq. 6) and the global
(Eq. 7) classification loss. (2) The guide: a classifier of the compressed feature f learns to give the local network's
class scores (Eq. 8), those of the unseen classes included. (3) EGGN: TF-VAEGAN on f, its generator guided by the guide
on seen and on unseen classes (Eq. 13-15). The published classifier looks at [f, Dec(f), hidden].

Ours, in preset `default`: the guide learns the local network's attribute evidence e in place of the class scores e . a,
so that it can judge features of any attribute vector; and the generator is guided on virtual classes, whose attributes
are mixed from those of seen ones, in place of the unseen classes that happen to be known: a class that comes later is
then like one that was known (compare Elhoseiny and Elfeki, ICCV 2019; Zhang et al., IGCZSL, 2023). The feature is the
compressed one before scaling and the evidence beside it, [g, e]: the generator alone loses what the local network has.

Where the paper and the published code differ, both are options of `Config`; the values of each are in docs/methods.md 2
(paper [P], code [C]). The (B, A, V) tensor of attribute-level features h is never made: with q_n = v_n W_alpha and
k_n = v_n W_beta, the attribute score is e_n = sum_r alpha_nr (k_n . r_r), and mean pooling is
sum_r (mean_n alpha_nr) r_r. Only `mlp` pooling needs a hidden layer of width A/2 per channel, and even that is
computed as (W1 alpha) r, with the sum over regions after the product with W1.

On plain feature vectors (one region a picture) there is nothing to attend to: stages 1 and 2 are skipped, f is the
vector itself, scaled, and EGGN is trained alone. Its guide is then attribute evidence by closed-form semantic
regression (`zsl_train.methods.semantic_guide`); the log says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_runtime.errors import UsageError
from zsl_train.methods import tf_vaegan
from zsl_train.methods.lengths import Stage, plan, step_seconds
from zsl_train.methods.pooled import at_least_one, pooled_features
from zsl_train.methods.semantic_guide import semantic_guide
from zsl_train.methods.session import Rng, Session
from zsl_train.methods.tf_vaegan import VaeGan
from zsl_train.nets import MinMaxScaler, PooledEmbedder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zsl_train.methods.base import Dims, Trained, TrainingData

NAME = "sc-egg"
HEAD = "gaussian"
WORDS = True  # attention of attributes to regions begins with them
AT_LEAST_ONE = ("embedding_batch", "guide_hidden", "hidden", "batch", "critic_steps", "synthetic_per_class")
MLP_SLOPE = 0.01  # negative slope in the semantic compression MLP and in the guide (docs/methods.md 2.2 and 2.3)


@dataclass(frozen=True)
class Config:
    """Settings of SC-EGG. [P] paper, [C] published code (SUN), [T] TF-VAEGAN's code, [D] DAZLE's code, [O] ours.

    Attributes:
        scaling: of plain feature vectors (one region): `minmax` as the published feature, `standard`, `l2` or
            `l2-centred` [O]. Attended features are always scaled by minmax.
        normalise_words: start V from unit word vectors: yes on AWA2 and SUN [C, D], no on CUB [D].
        centre_regions: subtract the mean training region before anything else [O]. Not in the paper or the code.
        w_beta_std: standard deviation of W_beta's initial values; 1 [C].
        pooling: how h (A, V) becomes the feature: `mlp` [P], `mean` over attributes [C].
        optimiser: of stages 1 and 2: `adam` [P], `rmsprop` with momentum [C].
        learning_rate_embedding: of stages 1 and 2; 1e-4 [P, C].
        weight_decay: of stages 1 and 2; 0 [P], 1e-4 [C].
        momentum: of rmsprop; 0.9 [C], 0 on AWA2 [D].
        classes_in_softmax: stage 1's softmax over `all` classes [P] or the `seen` ones [C].
        feature: what heads look at: the `compressed` feature, scaled [P, C], or `evidence` beside it as well, both
            unscaled [O]; the latter needs a guide that learns it. Nothing is beside plain feature vectors.
        global_weight: weight of the global classification loss, 1 [P, C]; 0 leaves the MLP out.
        guide: stage 2 trains the compression and its `shared` classifier, LEN frozen [P]; or a `separate`
            two-layer classifier of the frozen feature [C].
        guide_hidden: hidden width of the separate guide, 1024 [C].
        guide_target: the separate guide learns the local network's class `scores` [P, C] or attribute `evidence` [O].
        regression: stage 2's squared error `sum`med over classes [P, Eq. 8] or its `mean` [C].
        embedding_batch: pictures a step in stages 1 and 2, class-balanced; 64 [P, C].
        stage1_epochs: 20 [P]. An epoch is n / batch steps.
        stage1_steps: when positive, used in place of epochs; 2000 [C].
        stage2_epochs: 20 [P].
        stage2_steps: when positive, used in place of epochs; 4000 [C].
        stage3_epochs: 200 at most [P]; 50 [C]. An epoch is n / batch outer steps in each of the two loops.
        stage3_steps: when positive, outer steps in all, half of them in each loop, in place of epochs.
        hidden: width of the hidden layers of E, G, D, Dec and F, 4096 [T].
        batch: of stage 3, 64 [P, C].
        critic_steps: critic updates an outer step, 5 [T].
        encoded_noise: the critic's fakes come from the encoder's latent [T on CUB, AWA2, SUN], else from N(0, 1).
        critic_weight: gamma_D = gamma_G, weight of the Wasserstein terms: 10 [P, T on CUB], 1 [C on SUN].
        penalty: gradient penalty weight, 10 [T].
        adapt_penalty: multiply or divide the penalty weight by 1.1 after each outer step, as the code does [T].
        reconstruction_weight: lambda_r, weight of the attribute reconstruction, 0.01 [P, T].
        reconstruction: `l1` [P, Eq. 12] or `weighted-l1` [T].
        freeze_decoder: leave Dec out of the generator step [T on AWA2].
        feedback_train: a1, weight of the feedback while training; 1 [T on CUB], 0 [C on SUN].
        feedback_synthesis: a2, weight of the feedback when features are synthesized.
        seen_guidance: weight of the guide's loss on reconstructed seen features; 0.1 [P], 1 [C].
        unseen_guidance: weight of the guide's loss on generated unseen features; 0.1 [P], 0.001 [C].
        guided_on: those features are of the `unseen` classes [P, C] or of `virtual` ones [O], which needs evidence.
        learning_rate_gan: of E, G and D; 1e-4 [P, T on CUB], 1e-3 [C on SUN].
        learning_rate_decoder: of Dec; 1e-4 [T, C].
        learning_rate_feedback: of F; 1e-5 [T on CUB], 1e-4 [C].
        synthetic_per_class: synthetic features a class without photographs; 300 [T on CUB], 400 [C on SUN].
        head_epochs: 25 [T].
        head_learning_rate: 1e-3 [T on CUB], 5e-4 [C on SUN].
        head_batch: 0 means equal to synthetic_per_class [T].

    """

    scaling: Literal["minmax", "standard", "l2", "l2-centred"] = "minmax"
    normalise_words: bool = True
    centre_regions: bool = False
    w_beta_std: float = 1.0
    pooling: Literal["mlp", "mean"] = "mean"
    optimiser: Literal["adam", "rmsprop"] = "rmsprop"
    learning_rate_embedding: float = 1e-4
    weight_decay: float = 1e-4
    momentum: float = 0.9
    classes_in_softmax: Literal["all", "seen"] = "seen"
    feature: Literal["compressed", "evidence"] = "compressed"
    global_weight: float = 1.0
    guide: Literal["shared", "separate"] = "separate"
    guide_hidden: int = 1024
    guide_target: Literal["scores", "evidence"] = "scores"
    regression: Literal["sum", "mean"] = "mean"
    embedding_batch: int = 64
    stage1_epochs: float = 20.0
    stage1_steps: int = 0
    stage2_epochs: float = 20.0
    stage2_steps: int = 0
    stage3_epochs: float = 50.0
    stage3_steps: int = 0
    hidden: int = 4096
    batch: int = 64
    critic_steps: int = 5
    encoded_noise: bool = True
    critic_weight: float = 10.0
    penalty: float = 10.0
    adapt_penalty: bool = False
    reconstruction_weight: float = 0.01
    reconstruction: Literal["l1", "weighted-l1"] = "weighted-l1"
    freeze_decoder: bool = False
    feedback_train: float = 1.0
    feedback_synthesis: float = 1.0
    seen_guidance: float = 0.1
    unseen_guidance: float = 0.1
    guided_on: Literal["unseen", "virtual"] = "unseen"
    learning_rate_gan: float = 1e-4
    learning_rate_decoder: float = 1e-4
    learning_rate_feedback: float = 1e-5
    synthetic_per_class: int = 300
    head_epochs: int = 25
    head_learning_rate: float = 1e-3
    head_batch: int = 0

    def __post_init__(self) -> None:
        at_least_one(NAME, self, AT_LEAST_ONE)
        gan_settings(self, 1)  # refuses impossible ones now, not after an hour of training
        if self.guide == "shared" and self.global_weight == 0 and self.pooling == "mlp":
            raise UsageError(
                "E-RECIPE",
                "guide = 'shared' with pooling = 'mlp' needs global_weight > 0: stage 1 trains the compression with it",
            )
        evidence = self.guide == "separate" and self.guide_target == "evidence"
        if (self.guided_on == "virtual" or self.feature == "evidence") and not evidence:
            raise UsageError(
                "E-RECIPE",
                f"guided_on = {self.guided_on!r} and feature = {self.feature!r} with guide = {self.guide!r} and "
                f"guide_target = {self.guide_target!r}: virtual classes, and evidence in the feature, need a separate "
                "guide that learns the evidence",
            )


PRESETS: dict[str, dict[str, Any]] = {
    # Ours, chosen on validation classes of small photograph sets: the published weights of the guidance are too weak
    # to place the unseen classes within minutes of training. Lengths: `size`.
    "default": {
        "centre_regions": True,
        "feature": "evidence",
        "guide_target": "evidence",
        "guided_on": "virtual",
        "hidden": 1024,
        "critic_weight": 1.0,
        "seen_guidance": 1.0,
        "unseen_guidance": 10.0,
        "learning_rate_gan": 1e-3,
        "learning_rate_feedback": 1e-4,
    },
    "paper": {
        "pooling": "mlp",
        "optimiser": "adam",
        "weight_decay": 0.0,
        "momentum": 0.0,
        "classes_in_softmax": "all",
        "guide": "shared",
        "regression": "sum",
        "stage3_epochs": 200.0,
        "reconstruction": "l1",
    },
    "code": {
        "stage1_steps": 2000,
        "stage2_steps": 4000,
        "critic_weight": 1.0,
        "adapt_penalty": True,
        "feedback_train": 0.0,
        "feedback_synthesis": 0.0,
        "seen_guidance": 1.0,
        "unseen_guidance": 0.001,
        "learning_rate_gan": 1e-3,
        "learning_rate_feedback": 1e-4,
        "synthetic_per_class": 400,
        "head_learning_rate": 5e-4,
    },
}

PRESETS_FOR = {"code": ("SUN",)}  # the only configuration that was published with the code

# --- the shipped modules ------------------------------------------------------------------------------------------


class Compression(nn.Module):
    """Attention over regions and the semantic compression of the attended features, without the (B, A, V) tensor.

    Buffers and parameters are all it needs to run: `query` (A, V) is V W_alpha. With `mlp` pooling the two layers
    run along the attribute axis: A -> A/2 -> LeakyReLU -> 1, for each channel.
    """

    def __init__(self, attributes: int, channels: int, pooling: str, *, evidence: bool = False) -> None:
        super().__init__()
        self.pooling = pooling
        self.query = nn.Parameter(torch.zeros(attributes, channels))
        if evidence:
            self.keys = nn.Parameter(torch.zeros(attributes, channels))  # V W_beta
        if pooling == "mlp":
            self.first = nn.Linear(attributes, max(1, attributes // 2))
            self.last = nn.Linear(max(1, attributes // 2), 1)

    def forward(self, regions: Tensor) -> Tensor:
        """Normalised regions (B, R, V) -> compressed feature g (B, V)."""
        attention = (regions @ self.query.T).softmax(dim=1)  # (B, R, A)
        return self.pool(attention, regions)

    def pool(self, attention: Tensor, regions: Tensor) -> Tensor:
        """Attention (B, R, A) and regions (B, R, V) -> g (B, V)."""
        if self.pooling == "mean":
            return (attention.mean(dim=2).unsqueeze(1) @ regions).squeeze(1)
        return compress_mlp(attention, regions, self.first, self.last)


def compress_mlp(attention: Tensor, regions: Tensor, first: nn.Linear, last: nn.Linear) -> Tensor:
    """The compression MLP along the attribute axis, as last(leaky((W1 alpha^T) r + b1)).

    Args:
        attention: (B, R, A), softmax over R.
        regions: (B, R, V).
        first: A -> A/2.
        last: A/2 -> 1.

    Returns:
        (B, V).

    """
    mixed = (attention @ first.weight.T).transpose(1, 2)  # (B, A/2, R)
    hidden = F.leaky_relu(mixed @ regions + first.bias[:, None], MLP_SLOPE)  # (B, A/2, V)
    return (last.weight @ hidden).squeeze(1) + last.bias


class Beside(nn.Module):
    """The compressed feature g and the evidence e as one feature: each divided by its spread, so that neither hides."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spreads", torch.ones(2))
        self.spreads: Tensor

    def fit(self, compressed: Tensor, evidence: Tensor) -> None:
        """Take the spreads from training pictures: g (n, V), e (n, A)."""
        for place, rows in enumerate((compressed, evidence)):
            spread = (rows - rows.mean(dim=0)).square().mean().sqrt()
            self.spreads[place] = spread if spread > 0 else 1.0

    def forward(self, compressed: Tensor, evidence: Tensor) -> Tensor:
        """Rows (B, V) and (B, A) -> (B, V + A)."""
        return torch.cat([compressed / self.spreads[0], evidence / self.spreads[1]], dim=1)


class Embedder(nn.Module):
    """Region features -> f: channel L2 norm at each region, attention, compression, MinMax (docs/methods.md 1.3)."""

    def __init__(self, attributes: int, channels: int, pooling: str, *, evidence: bool = False) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(channels))
        self.centre: Tensor
        self.compression = Compression(attributes, channels, pooling, evidence=evidence)
        self.scaler = MinMaxScaler(channels)
        self.beside = Beside() if evidence else None

    def normalise(self, regions: Tensor) -> Tensor:
        """(B, R, V) -> (B, R, V), each region of unit L2 norm, minus the centre (zero unless asked for)."""
        return F.normalize(regions, dim=2) - self.centre

    def compress(self, regions: Tensor) -> Tensor:
        """(B, R, V) -> g (B, V), before scaling."""
        return self.compression(self.normalise(regions))  # type: ignore[no-any-return]

    def both(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R, V) -> g (B, V) and the evidence e (B, A), from one attention."""
        regions = self.normalise(regions)
        attention = (regions @ self.compression.query.T).softmax(dim=1)  # (B, R, A)
        evidence = (attention * (regions @ self.compression.keys.T)).sum(dim=1)
        return self.compression.pool(attention, regions), evidence

    def forward(self, regions: Tensor) -> Tensor:
        """(B, R, V) float32 -> f (B, F); F is V, with the evidence V + A."""
        if self.beside is not None:
            return self.beside(*self.both(regions))  # type: ignore[no-any-return]
        return self.scaler(self.compress(regions))  # type: ignore[no-any-return]


class SynthesizerBeside(nn.Module):
    """A synthesizer of the scaled compressed feature, made one of [g, e]: the guide says what the evidence would be."""

    def __init__(self, synthesizer: nn.Module, guide: nn.Module, scaler: MinMaxScaler, beside: Beside) -> None:
        super().__init__()
        self.synthesizer, self.guide, self.scaler, self.beside = synthesizer, guide, scaler, beside

    def forward(self, semantic: Tensor, noise: Tensor) -> Tensor:
        """(M, A), (M, Z) -> (M, V + A)."""
        scaled = self.synthesizer(semantic, noise)
        joined: Tensor = self.beside(self.scaler.back(scaled), self.guide(scaled))
        return joined


class LiftBeside(nn.Module):
    """The published lift of the scaled compressed feature, applied to [g, e]."""

    def __init__(self, lift: nn.Module, scaler: MinMaxScaler, beside: Beside) -> None:
        super().__init__()
        self.lift, self.scaler, self.beside = lift, scaler, beside

    def forward(self, features: Tensor) -> Tensor:
        """(B, V + A) -> (B, D)."""
        compressed = features[:, : len(self.scaler.low)] * self.beside.spreads[0]
        lifted: Tensor = self.lift(self.scaler(compressed))
        return lifted


def beside(trained: Trained, embedder: Embedder, guide: nn.Module) -> Trained:
    """What ships where the evidence stands beside the compressed feature.

    Args:
        trained: as TF-VAEGAN's stage gave it, on the scaled compressed feature.
        embedder: with evidence.
        guide: scaled compressed feature (B, V) -> evidence (B, A).

    """
    assert embedder.beside is not None
    assert trained.synthesizer is not None
    assert trained.lift is not None
    return replace(
        trained,
        synthesizer=SynthesizerBeside(trained.synthesizer, guide, embedder.scaler, embedder.beside),
        lift=LiftBeside(trained.lift, embedder.scaler, embedder.beside),
        feature_width=trained.feature_width + len(embedder.compression.query),
    )


def guide_layers(config: Config, channels: int, outputs: int) -> nn.Sequential:
    """The separate guide (the published code's): two layers on the scaled compressed feature, yet to be drawn."""
    first, last = nn.Linear(channels, config.guide_hidden), nn.Linear(config.guide_hidden, outputs)
    return nn.Sequential(first, nn.LeakyReLU(MLP_SLOPE), last)


def gan_settings(config: Config, regions: int) -> tf_vaegan.Config:
    """Stage 3's settings as those of TF-VAEGAN; the generator step draws a batch of its own, as the code does."""
    own = {one.name: getattr(config, one.name) for one in fields(tf_vaegan.Config) if hasattr(config, one.name)}
    if regions > 1:
        own["scaling"] = "minmax"
    return tf_vaegan.Config(**own, fresh_batch=True)


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    settings = gan_settings(config, dims.regions)
    if dims.regions == 1:
        return tf_vaegan.build_around(settings, PooledEmbedder(dims.channels, config.scaling), dims)
    embedder = Embedder(dims.attributes, dims.channels, config.pooling, evidence=config.feature == "evidence")
    trained = tf_vaegan.build_around(settings, embedder, dims)
    if config.feature == "compressed":
        return trained
    return beside(trained, embedder, guide_layers(config, dims.channels, dims.attributes))


# --- how long it takes ---------------------------------------------------------------------------------------------

SHORTEST = (300, 400, 240)  # steps of the stages below which accuracy on validation classes suffers


def stages(config: Config, dims: Dims) -> list[Stage]:
    """The three stages, the third in outer steps; of plain feature vectors (one region) the third alone."""
    third = tf_vaegan.outer_step_seconds(gan_settings(config, dims.regions), dims)
    eggn = Stage("stage3", config.batch, third, SHORTEST[2], loops=2)
    if dims.regions == 1:
        return [eggn]
    regions, channels, attributes = dims.regions, dims.channels, dims.attributes
    maps = 2 * regions * channels * attributes
    mlp = regions * (attributes // 2) * (attributes + channels) if config.global_weight > 0 else 0
    scen = config.embedding_batch * (2 * maps + 3 * mlp)
    if config.guide == "separate":
        outputs = attributes if config.guide_target == "evidence" else dims.classes
        guide = config.embedding_batch * 3.0 * config.guide_hidden * (channels + outputs)
    else:
        guide = config.embedding_batch * (maps / 2 + 3 * mlp)
    return [
        Stage("stage1", config.embedding_batch, step_seconds(scen), SHORTEST[0]),
        Stage("stage2", config.embedding_batch, step_seconds(guide), SHORTEST[1]),
        eggn,
    ]


def _steps(stage: str, config: Config, data: TrainingData) -> int:
    return plan(stages(config, data.dims), config, len(data.rows))[stage]


# --- stage 1: SCEN ------------------------------------------------------------------------------------------------


class Scen(nn.Module):
    """Local and global embedding network (LEN and GEN; paper Eq. 1-5)."""

    def __init__(self, words: Tensor, embedder: Embedder, classes: int, config: Config, rng: Rng) -> None:
        super().__init__()
        attributes, width = words.shape
        channels = embedder.compression.query.shape[1]
        self.embedder = embedder
        self.words = nn.Parameter(F.normalize(words, dim=1) if config.normalise_words else words.clone())
        self.w_alpha = nn.Parameter(torch.zeros(width, channels))  # attention starts uniform (docs/methods.md 2.2)
        self.w_beta = nn.Parameter(config.w_beta_std * rng.normal(width, channels))
        self.classifier = nn.Linear(channels, classes)
        self.first = nn.Linear(attributes, max(1, attributes // 2))
        self.last = nn.Linear(max(1, attributes // 2), 1)
        for layer in (self.classifier, self.first, self.last):
            # torch's default for linear layers, drawn from our generator so that it can be reproduced
            bound = 1 / math.sqrt(layer.in_features)
            with torch.no_grad():
                layer.weight.copy_((2 * rng.uniform(*layer.weight.shape) - 1) * bound)
                layer.bias.copy_((2 * rng.uniform(*layer.bias.shape) - 1) * bound)

    def maps(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised regions (B, R, V) -> attention (B, R, A) and attribute evidence k_n . r (B, R, A)."""
        attributes = len(self.words)
        both = regions @ torch.cat([self.words @ self.w_alpha, self.words @ self.w_beta]).T  # one product for both
        return both[..., :attributes].softmax(dim=1), both[..., attributes:]

    def evidence(self, attention: Tensor, regional: Tensor) -> Tensor:
        """Paper Eq. 2: e_n = sum_r alpha_nr (k_n . r_r), from both (B, R, A) of `maps`.  -> (B, A)."""
        return (attention * regional).sum(dim=1)

    def local_scores(self, attention: Tensor, regional: Tensor, semantic: Tensor) -> Tensor:
        """Paper Eq. 3: p_l = a(y) . e.  -> (B, C)."""
        return self.evidence(attention, regional) @ semantic.T

    def global_feature(self, attention: Tensor, regions: Tensor) -> Tensor:
        """The compression that stage 1's global loss trains: always the MLP (docs/methods.md 2.2). -> (B, V)."""
        return compress_mlp(attention, regions, self.first, self.last)

    def write_embedder(self) -> None:
        """Copy what inference needs (V W_alpha and the MLP) into the embedder."""
        compression = self.embedder.compression
        with torch.no_grad():
            compression.query.copy_(self.words @ self.w_alpha)
            if self.embedder.beside is not None:
                compression.keys.copy_(self.words @ self.w_beta)
            if compression.pooling == "mlp":
                compression.first.load_state_dict(self.first.state_dict())
                compression.last.load_state_dict(self.last.state_dict())


class BalancedBatches:
    """Class-balanced batches: min(batch, #classes) classes, max(1, batch // #classes) pictures of each.

    Published code's rule (docs/methods.md 2.3), for any number of classes; a class with fewer pictures repeats some.
    """

    def __init__(self, labels: NDArray[np.int64], batch: int, rng: Rng) -> None:
        self.members = [torch.from_numpy(np.flatnonzero(labels == c)) for c in np.unique(labels)]
        self.batch = batch
        self.rng = rng

    def draw(self) -> Tensor:
        """Positions into `labels`, int64."""
        count = len(self.members)
        chosen = self.rng.permutation(count)[: min(self.batch, count)]
        each = max(1, self.batch // count)
        return torch.cat([self._some(self.members[int(c)], each) for c in chosen])

    def _some(self, members: Tensor, each: int) -> Tensor:
        if each <= len(members):
            return members[self.rng.permutation(len(members))[:each]]
        return members[self.rng.integers(len(members), each)]


def _embedding_optimiser(parameters: list[nn.Parameter], config: Config) -> torch.optim.Optimizer:
    if config.optimiser == "adam":
        return torch.optim.Adam(
            parameters, lr=config.learning_rate_embedding, weight_decay=config.weight_decay, fused=True
        )
    return torch.optim.RMSprop(
        parameters,
        lr=config.learning_rate_embedding,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )


def _regions(data: TrainingData, positions: Tensor) -> Tensor:
    rows = data.rows[positions.numpy()]
    return torch.from_numpy(np.asarray(data.regions[rows], dtype=np.float32))


def region_mean(data: TrainingData, embedder: Embedder, block: int = 64) -> Tensor:
    """Mean over all training regions after channel normalisation: (V,)."""
    total = torch.zeros(data.dims.channels, dtype=torch.float64)
    for start in range(0, len(data.rows), block):
        positions = torch.arange(start, min(start + block, len(data.rows)))
        total += embedder.normalise(_regions(data, positions)).double().mean(dim=1).sum(dim=0)
    return (total / len(data.rows)).float()


def train_scen(data: TrainingData, config: Config, session: Session, seed: int) -> Scen:
    """Stage 1: local and global classification loss, class-balanced batches."""
    rng = Rng(seed)
    evidence = config.feature == "evidence"
    embedder = Embedder(data.dims.attributes, data.dims.channels, config.pooling, evidence=evidence)
    if config.centre_regions:
        embedder.centre.copy_(region_mean(data, embedder))
    scen = Scen(torch.from_numpy(data.word_vectors), embedder, data.dims.classes, config, rng)
    semantic = torch.from_numpy(data.semantic)
    keep = torch.ones(len(data.table), dtype=torch.bool)
    if config.classes_in_softmax == "seen":
        keep = torch.from_numpy(data.table.seen)
    column = torch.cumsum(keep, 0) - 1  # class -> its column among the kept ones
    labels = column[torch.from_numpy(data.labels)]
    own = [p for name, p in scen.named_parameters() if not name.startswith("embedder.")]
    optimiser = _embedding_optimiser(own, config)
    batches = BalancedBatches(data.labels, config.embedding_batch, rng)

    def body(_: int) -> dict[str, Tensor]:
        chosen = batches.draw()
        regions = embedder.normalise(_regions(data, chosen))
        target = labels[chosen]
        attention, evidence = scen.maps(regions)
        losses = {"local": F.cross_entropy(scen.local_scores(attention, evidence, semantic)[:, keep], target)}
        if config.global_weight > 0:
            scores = scen.classifier(scen.global_feature(attention, regions))
            losses["global"] = config.global_weight * F.cross_entropy(scores[:, keep], target)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return losses

    steps = _steps("stage1", config, data)
    session.loop("scen", steps, {"scen": scen, "optimiser": optimiser, "rng": rng}, body)
    return scen


# --- stage 2: semantic consistent regression ------------------------------------------------------------------------


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


def _evidence_of_all(data: TrainingData, scen: Scen, block: int = 64) -> Tensor:
    """Evidence e of every training picture (n, A): fixed while LEN is frozen, so computed once."""
    return embed_all(data, lambda regions: scen.evidence(*scen.maps(scen.embedder.normalise(regions))), block)


def embed_all(data: TrainingData, embed: Callable[[Tensor], Tensor], block: int = 64) -> Tensor:
    """`embed` applied to the regions of every training picture, in order: (n, F)."""
    with torch.no_grad():
        return torch.cat(
            [
                embed(_regions(data, torch.arange(start, min(start + block, len(data.rows)))))
                for start in range(0, len(data.rows), block)
            ]
        )


def _regression(scores: Tensor, target: Tensor, reduction: str) -> Tensor:
    squared = (scores - target) ** 2
    return squared.mean() if reduction == "mean" else squared.sum(dim=1).mean()


def train_guide(data: TrainingData, scen: Scen, config: Config, session: Session, seed: int) -> tuple[Guide, Tensor]:
    """Stage 2 (paper Eq. 8 and 17), then the scaler. Returns the guide and the scaled features f (n, F)."""
    steps = _steps("stage2", config, data)
    evidence = _evidence_of_all(data, scen)
    target = evidence if config.guide_target == "evidence" else evidence @ torch.from_numpy(data.semantic).T
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
    optimiser = _embedding_optimiser(list(layers.parameters()), config)
    batches = BalancedBatches(data.labels, config.embedding_batch, rng)

    def body(_: int) -> dict[str, Tensor]:
        chosen = batches.draw()
        loss = _regression(layers(features[chosen]), target[chosen], config.regression)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return {"regression": loss}

    session.loop("guide", steps, {"guide": layers, "optimiser": optimiser, "rng": rng}, body)
    return Guide(layers, evidence=config.guide_target == "evidence")


def _train_shared_guide(
    data: TrainingData, scen: Scen, target: Tensor, config: Config, *, session: Session, steps: int, seed: int
) -> tuple[Guide, Tensor]:
    """The paper: LEN frozen, GEN (the compression and its classifier) learns p_l; the same classifier guides EGGN."""
    rng = Rng(seed)
    trained = [*scen.classifier.parameters()]
    if config.pooling == "mlp":
        trained += [*scen.first.parameters(), *scen.last.parameters()]
    optimiser = _embedding_optimiser(trained, config)
    batches = BalancedBatches(data.labels, config.embedding_batch, rng)

    def body(_: int) -> dict[str, Tensor]:
        chosen = batches.draw()
        regions = scen.embedder.normalise(_regions(data, chosen))
        with torch.no_grad():
            attention = scen.maps(regions)[0]
        if config.pooling == "mlp":
            feature = scen.global_feature(attention, regions)
        else:
            feature = scen.embedder.compression.pool(attention, regions)
        loss = _regression(scen.classifier(feature), target[chosen], config.regression)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return {"regression": loss}

    session.loop("guide", steps, {"scen": scen, "optimiser": optimiser, "rng": rng}, body)
    scen.write_embedder()
    raw = embed_all(data, scen.embedder.compress)
    features = scen.embedder.scaler.fit(raw)(raw)
    return Guide(scen.classifier, scen.embedder.scaler), features


# --- stage 3: EGGN ------------------------------------------------------------------------------------------------


class VirtualClasses:
    """Attribute vectors of classes that are none: mixed from those of seen classes.

    Where attributes are 0 or 1 each is taken from one of three seen classes, so that it stays 0 or 1; shares and other
    numbers are mixed in convex combinations of three. Unit vectors are made of unit length again.
    """

    def __init__(self, seen: Tensor, rng: Rng) -> None:
        self.seen = seen  # (S, A)
        self.rng = rng
        lengths = seen.norm(dim=1)
        # A class that has the smallest value of every scaled attribute is all 0.
        self.unit = bool((((lengths - 1).abs() < 1e-4) | (lengths == 0)).all())
        # A unit vector of a 0/1 row has two values, 0 and one that is its own
        top = seen.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
        self.binary = bool(((seen == 0) | ((seen - top).abs() < 1e-6 * top)).all())

    def draw(self, count: int) -> Tensor:
        """(count, A)."""
        parents = self.seen[self.rng.integers(len(self.seen), 3 * count)].view(count, 3, -1)
        if self.binary:
            which = self.rng.integers(3, count * parents.shape[2]).view(count, 1, -1)
            mixed = (parents != 0).to(parents.dtype).gather(1, which).squeeze(1)
            nothing = ~mixed.any(dim=1)  # of sparse parents: what has no attribute is no class
            mixed[nothing] = (parents[nothing, 0] != 0).to(mixed.dtype)
            if not self.unit:
                return mixed * self.seen.amax()
        else:
            # Uniform on the simplex: gaps between sorted uniform numbers
            cuts = self.rng.uniform(count, 2).sort(dim=1).values
            ends = torch.cat([torch.zeros(count, 1), cuts, torch.ones(count, 1)], dim=1)
            mixed = (parents * ends.diff(dim=1).unsqueeze(2)).sum(dim=1)
        return F.normalize(mixed, dim=1) if self.unit else mixed


class Eggn(VaeGan):
    """TF-VAEGAN on f, its generator guided by a classifier (paper Eq. 13-15)."""

    def __init__(self, features: Tensor, data: TrainingData, guide: Guide, config: Config, rng: Rng) -> None:
        super().__init__(features, data, gan_settings(config, data.dims.regions), rng)
        self.unseen = torch.from_numpy(np.flatnonzero(~data.table.seen))
        self.virtual: VirtualClasses | None = None
        if config.guided_on == "virtual":
            self.virtual = VirtualClasses(self.semantic[torch.from_numpy(data.table.seen)], rng)
        self.guide = guide.eval().requires_grad_(requires_grad=False)
        self.seen_guidance, self.unseen_guidance = config.seen_guidance, config.unseen_guidance

    def _further_losses(self, fake: Tensor, labels: Tensor, weight: float) -> dict[str, Tensor]:
        losses = {}
        if self.seen_guidance > 0:
            losses["seen_guidance"] = self.seen_guidance * F.cross_entropy(self.guide(fake, self.semantic), labels)
        if self.unseen_guidance > 0 and (self.virtual is not None or len(self.unseen) > 0):
            losses["unseen_guidance"] = self.unseen_guidance * self._unseen_guidance(weight)
        return losses

    def _unseen_guidance(self, weight: float) -> Tensor:
        """The guide's loss on features generated for random unseen classes (paper Eq. 15), or for virtual ones."""
        if self.virtual is None:
            labels = self.unseen[self.rng.integers(len(self.unseen), self.config.batch)]
            semantic, rivals = self.semantic[labels], self.semantic
        else:
            # Told from all classes that are known and from the other virtual ones of the batch
            semantic = self.virtual.draw(self.config.batch)
            labels = len(self.semantic) + torch.arange(len(semantic))
            rivals = torch.cat([self.semantic, semantic])
        fake = self._generate(self.rng.normal(len(labels), semantic.shape[1]), semantic, weight)
        return F.cross_entropy(self.guide(fake, rivals), labels)


def train_eggn(
    features: Tensor,
    data: TrainingData,
    guide: Guide,
    embedder: nn.Module,
    config: Config,
    *,
    session: Session,
    seed: int,
) -> Trained:
    """Stage 3: two loops an epoch, the first without feedback, the second with it."""
    eggn = Eggn(features, data, guide, config, Rng(seed))
    trained = tf_vaegan.shipped(eggn.config, embedder, eggn.generator, eggn.decoder, eggn.feedback)
    if isinstance(embedder, Embedder) and embedder.beside is not None:
        trained = beside(trained, embedder, guide.layers)
    eggn.train(session, "eggn", _steps("stage3", config, data), trained)
    return trained


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """Train SC-EGG: stages 1 to 3 (paper, Algorithm 1), or on plain vectors (R = 1) the third alone.

    Args:
        data: region features, word vectors and semantic vectors of seen and unseen classes.
        config: settings.
        session: logs, checkpoints and snapshots.
        seed: of everything random; the same seed gives the same weights on one machine.

    Raises:
        GateError: E-DIVERGED.

    """
    if data.dims.regions == 1:
        return fit_plain(data, config, session, seed + 2)
    scen = train_scen(data, config, session, seed)
    guide, features = train_guide(data, scen, config, session, seed + 1)
    return train_eggn(features, data, guide, scen.embedder, config, session=session, seed=seed + 2).eval()


def fit_plain(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """The EGGN half on plain feature vectors, guided by closed-form semantic regression."""
    embedder, features = pooled_features(data, config.scaling)
    labels, semantic = torch.from_numpy(data.labels), torch.from_numpy(data.semantic)
    layers: nn.Module = nn.Identity()
    if config.seen_guidance > 0 or config.unseen_guidance > 0:
        layers, choice = semantic_guide(features, labels, semantic, torch.from_numpy(data.table.seen))
        session.note(f"the guide is attribute evidence by semantic regression: {choice}")
    session.note("one region a picture, nothing to attend to: only the third stage of SC-EGG, EGGN, is trained")
    guide = Guide(layers, evidence=True)
    return train_eggn(features, data, guide, embedder, config, session=session, seed=seed).eval()
