"""DCR-GAN: a WGAN conditioned on a second, searched semantic space, with a classifier in each of three (TMM 2022).

Ye et al., "Disentangling Semantic-to-visual Confusion for Zero-shot Learning". Five stages (docs/methods.md 4). (1)
The metric network MN: picture and semantic vector to L dimensions, batch-all triplet loss. (2) The semantic rectifying
network SRN: semantic vector to R(a), the mean of its class in MN's space, scaled to [0, 1]. (3), (4) Two regressors of
real seen features, then frozen: F1 to the semantic vector, F2 to R(a). (5) The GAN, conditioned on [a, R(a)]; F1 and
F2 of its fakes for every seen and every unseen class are held to the classes' own vectors. The head has three views,
of [f, F1(f), F2(f)], and one pair of ensemble weights for all pictures: the published CUB figure takes one pair for
pictures of seen classes and another for unseen ones, which needs the test label (docs/methods.md 4.4): not a preset.

The published F1 ends in a ReLU and can die: a constant output on all training pictures, whose view then only says how
many rows a class had. A dead F1 is found after its stage, said in the log, and its view is not shipped:
`Trained.views` leaves it out, and the run folder keeps the views. The `default` preset gives F1 a linear output, which
cannot die.

Unlike the paper, as in the published code: the regressors are trained before the GAN and not with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_runtime.errors import UsageError
from zsl_runtime.head.head import FitSettings, View
from zsl_train.devices import tensor_of
from zsl_train.losses.triplet import batch_all_triplet
from zsl_train.methods.base import Dims, Trained, TrainingData
from zsl_train.methods.lengths import WIDE_FLOPS_PER_SECOND, Stage, plan, step_seconds
from zsl_train.methods.pooled import Batches, at_least_one, generator_output, pooled_features
from zsl_train.methods.session import Rng
from zsl_train.methods.wgan import BETAS, Wgan, WganSettings, outer_multiply_adds
from zsl_train.nets import GAN_SLOPE, Generator, PooledEmbedder, start_layers, start_normal

if TYPE_CHECKING:
    from zsl_train.methods.session import Session

NAME = "dcr-gan"
HEAD = "gaussian"
AT_LEAST_ONE = (
    *("searched_width", "metric_batch", "regressor_hidden", "regressor_batch", "hidden", "batch", "critic_steps"),
    *("guide_fakes", "synthetic_per_class"),
)
STAGES = ("metric", "rectify", "semantic", "searched", "gan")
SHORTEST = (300, 1000, 400, 400, 240)  # steps of the stages below which accuracy suffers
METRIC_SLOPE = 0.01  # negative slope in MN and SRN (docs/methods.md 4.1)
METRIC_BETAS = (0.5, 0.9)  # of Adam for MN and SRN
BLOCK = 1024  # rows that go through a frozen network at once
CONSTANT = 1e-6  # an output that moves less than this over the training pictures is dead


@dataclass(frozen=True)
class Config:
    """Settings of DCR-GAN. [P] paper, [C] published code for CUB unless said, [O] ours.

    Attributes:
        scaling: of the pooled features: `minmax` [C], `standard`, `l2` or `l2-centred` [O]. The generator's output is
            then linear in place of ReLU.
        searched_width: L, width of the searched space; 20 [C].
        margin: of the triplet loss, 1 [C].
        metric_batch: 64 [C].
        metric_epochs: of MN, where metric_steps is 0.
        metric_steps: 100001 [C].
        rectify_epochs: of SRN, whose steps see all seen classes, where rectify_steps is 0.
        rectify_steps: 20000: the checkpoint that is used [C].
        rectify_output: of SRN: `sigmoid` [C] or `linear` [P].
        learning_rate_metric: of MN and SRN; 1e-4 [C].
        metric_decay: weight of MN's squared weights, 5e-5 [C].
        rectify_decay: weight of SRN's squared weights, 5e-6 [C].
        regressor_hidden: f_hid, hidden width of F1 and F2; 7000 [C].
        regressor_batch: 64 [C].
        semantic_epochs: of F1, 50 [C].
        semantic_steps: when positive, in place of epochs.
        searched_epochs: of F2, 100 [C].
        searched_steps: when positive, in place of epochs.
        semantic_output: of F1: `relu` [C] or `linear` [O].
        regression: of F1 and F2, in all stages: `mse` [C] or `l1` [P].
        learning_rate_regressor: 1e-4 [C].
        hidden: width of the hidden layers of G and D, 4096 [C].
        batch: 64 [C].
        gan_epochs: 100 [C]. An epoch is n / batch outer steps.
        gan_steps: when positive, outer steps in place of epochs.
        critic_steps: critic updates an outer step, 5 [C].
        penalty: gradient penalty weight, 10 [C].
        learning_rate_generator: 1e-4 [C].
        learning_rate_critic: 1e-4 [C].
        guide_fakes: fakes a class that F1 and F2 look at in each step; 5 [C].
        guide_classes: seen, and unseen, classes drawn for that in each step; 0 takes all [C].
        seen_semantic: c1, weight of F1 on fakes of seen classes; 1 [C].
        unseen_semantic: c2, of F1 on fakes of unseen classes; 1 [C].
        seen_searched: c3, of F2 on fakes of seen classes; 1 [C].
        unseen_searched: c4, of F2 on fakes of unseen classes; 1 [C].
        precision: of the large matrix products, `float32`, or `bf16` on machines that have it [O].
        synthetic_per_class: synthetic features a class without photographs; 150 [C].
        head_epochs: of the visual view, 25 [C].
        head_learning_rate: of the visual view, 1e-3 [C].
        head_batch: of the visual view, 150 [C].
        head_other_epochs: of the semantic and the searched view, 20 [C].
        head_other_batch: of the semantic and the searched view, 100 [C].
        head_semantic_learning_rate: 1e-3 [C].
        head_searched_learning_rate: 0.1 [C].
        semantic_weight: w1, of the semantic view; 0.8 [C on CUB without seen classes: with them, an oracle].
        searched_weight: w2, of the searched view; 0.05 [C on CUB without seen classes].

    """

    scaling: Literal["minmax", "standard", "l2", "l2-centred"] = "minmax"
    searched_width: int = 20
    margin: float = 1.0
    metric_batch: int = 64
    metric_epochs: float = 100.0
    metric_steps: int = 100001
    rectify_epochs: float = 20000.0
    rectify_steps: int = 20000
    rectify_output: Literal["sigmoid", "linear"] = "sigmoid"
    learning_rate_metric: float = 1e-4
    metric_decay: float = 5e-5
    rectify_decay: float = 5e-6
    regressor_hidden: int = 7000
    regressor_batch: int = 64
    semantic_epochs: float = 50.0
    semantic_steps: int = 0
    searched_epochs: float = 100.0
    searched_steps: int = 0
    semantic_output: Literal["relu", "linear"] = "relu"
    regression: Literal["mse", "l1"] = "mse"
    learning_rate_regressor: float = 1e-4
    hidden: int = 4096
    batch: int = 64
    gan_epochs: float = 100.0
    gan_steps: int = 0
    critic_steps: int = 5
    penalty: float = 10.0
    learning_rate_generator: float = 1e-4
    learning_rate_critic: float = 1e-4
    guide_fakes: int = 5
    guide_classes: int = 0
    seen_semantic: float = 1.0
    unseen_semantic: float = 1.0
    seen_searched: float = 1.0
    unseen_searched: float = 1.0
    precision: Literal["float32", "bf16"] = "float32"
    synthetic_per_class: int = 150
    head_epochs: int = 25
    head_learning_rate: float = 1e-3
    head_batch: int = 150
    head_other_epochs: int = 20
    head_other_batch: int = 100
    head_semantic_learning_rate: float = 1e-3
    head_searched_learning_rate: float = 0.1
    semantic_weight: float = 0.8
    searched_weight: float = 0.05

    def __post_init__(self) -> None:
        at_least_one(NAME, self, AT_LEAST_ONE)
        for name in ("semantic_weight", "searched_weight"):
            if not getattr(self, name) > 0:
                raise UsageError("E-RECIPE", f"{name} = {getattr(self, name)!r} of {NAME}; expected a positive number")
        head_views(self, 1, 1)  # refuses impossible settings now, not after an hour of training


PRESETS: dict[str, dict[str, Any]] = {
    # Ours: narrower and faster, so that minutes on two cores train it, and an F1 that cannot die. Lengths: `size`.
    "default": {
        "metric_steps": 1500,
        "rectify_steps": 3000,
        "learning_rate_metric": 5e-4,
        "regressor_hidden": 1024,
        "semantic_epochs": 20.0,
        "searched_epochs": 20.0,
        "semantic_output": "linear",
        "hidden": 1024,
        "learning_rate_generator": 5e-4,
        "learning_rate_critic": 5e-4,
        "guide_classes": 10,
        "head_searched_learning_rate": 5e-3,
    },
    "paper": {"rectify_output": "linear", "regression": "l1"},
    "code": {},
}


# --- networks ------------------------------------------------------------------------------------------------------


class TwoLayers(nn.Module):
    """inputs -> hidden -> LeakyReLU -> outputs -> output activation: MN, SRN, F1 and F2 alike."""

    def __init__(self, inputs: int, hidden: int, outputs: int, slope: float, output: str = "linear") -> None:
        super().__init__()
        self.slope = slope
        self.output = output
        self.first = nn.Linear(inputs, hidden)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs)."""
        found: Tensor = self.last(F.leaky_relu(self.first(rows), self.slope))
        if self.output == "sigmoid":
            return found.sigmoid()
        return found.relu() if self.output == "relu" else found


def rectifier(config: Config, attributes: int) -> TwoLayers:
    """SRN: A -> 2 A -> L."""
    return TwoLayers(attributes, 2 * attributes, config.searched_width, METRIC_SLOPE, config.rectify_output)


def regressors(config: Config, dims: Dims) -> tuple[TwoLayers, TwoLayers]:
    """F1: F -> A and F2: F -> L."""
    hidden = config.regressor_hidden
    semantic = TwoLayers(dims.channels, hidden, dims.attributes, GAN_SLOPE, config.semantic_output)
    return semantic, TwoLayers(dims.channels, hidden, config.searched_width, GAN_SLOPE)


class Lift(nn.Module):
    """f -> [f, F1(f), F2(f)], the columns of the three views."""

    def __init__(self, semantic: TwoLayers, searched: TwoLayers) -> None:
        super().__init__()
        self.semantic = semantic
        self.searched = searched

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, F + A + L)."""
        return torch.cat([features, self.semantic(features), self.searched(features)], dim=1)


class Synthesizer(nn.Module):
    """Semantic vector and noise -> synthetic f, by way of the rectified vector."""

    def __init__(self, generator: Generator, rectify: TwoLayers) -> None:
        super().__init__()
        self.generator = generator
        self.rectify = rectify

    def forward(self, semantic: Tensor, noise: Tensor) -> Tensor:
        """(M, A), (M, Z) -> (M, F)."""
        return self.generator(noise, torch.cat([semantic, self.rectify(semantic)], dim=1))  # type: ignore[no-any-return]


def head_views(config: Config, features: int, attributes: int) -> tuple[View, View, View]:
    """The three classifiers and their weights in the ensemble (docs/methods.md 4.4)."""
    middle, end = features + attributes, features + attributes + config.searched_width
    visual = FitSettings(config.head_epochs, config.head_batch, config.head_learning_rate)
    epochs, batch = config.head_other_epochs, config.head_other_batch
    semantic = FitSettings(epochs, batch, config.head_semantic_learning_rate)
    searched = FitSettings(epochs, batch, config.head_searched_learning_rate)
    return (
        View("visual", 0, features, 1.0, visual),
        View("semantic", features, middle, config.semantic_weight, semantic),
        View("searched", middle, end, config.searched_weight, searched),
    )


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    condition = dims.attributes + config.searched_width
    output = generator_output(config.scaling, "relu")
    generator = Generator(dims.attributes, condition, config.hidden, dims.channels, output)
    lift = Lift(*regressors(config, dims))
    embedder = PooledEmbedder(dims.channels, config.scaling)
    return _shipped(config, embedder, lift, Synthesizer(generator, rectifier(config, dims.attributes)))


def _shipped(config: Config, embedder: PooledEmbedder, lift: Lift, synthesizer: Synthesizer) -> Trained:
    features, attributes = synthesizer.generator.last.out_features, lift.semantic.last.out_features
    return Trained(
        embedder=embedder,
        lift=lift,
        synthesizer=synthesizer,
        noise_width=attributes,
        feature_width=features,
        lifted_width=features + attributes + config.searched_width,
        views=head_views(config, features, attributes),
        synthetic_per_class=config.synthetic_per_class,
    )


# --- how long it takes ---------------------------------------------------------------------------------------------


def stages(config: Config, dims: Dims) -> tuple[Stage, ...]:
    """The five stages in order, names as in STAGES."""
    channels, attributes, hidden = dims.channels, dims.attributes, config.hidden
    condition, wide = attributes + config.searched_width, config.regressor_hidden
    metric = (3 * config.metric_batch + 12) * 2.0 * (channels + attributes) ** 2
    rectify = 6.0 * dims.classes * attributes * condition
    one = wide * (channels + attributes)
    two = wide * (channels + config.searched_width)
    rows = 3 * config.regressor_batch + 12
    outer = outer_multiply_adds(config.batch, config.critic_steps, hidden, channels, condition, attributes)
    classes = min(dims.classes, 2 * config.guide_classes or dims.classes)
    fakes = config.guide_fakes * classes * (3 * hidden * (attributes + condition + channels) + 2 * (one + two))
    seconds = (
        step_seconds(metric),
        step_seconds(rectify, 1) / 2,
        step_seconds(rows * one, rate=WIDE_FLOPS_PER_SECOND),
        step_seconds(rows * two, rate=WIDE_FLOPS_PER_SECOND),
        step_seconds(outer + fakes, config.critic_steps + 1, WIDE_FLOPS_PER_SECOND),
    )
    batches = (config.metric_batch, 0, config.regressor_batch, config.regressor_batch, config.batch)
    return tuple(
        Stage(name, batch, each, least)
        for name, batch, each, least in zip(STAGES, batches, seconds, SHORTEST, strict=True)
    )


# --- stages one to four ----------------------------------------------------------------------------------------------


def _metric_adam(network: TwoLayers, config: Config, decay: float) -> torch.optim.Adam:
    """Adam for MN or SRN; the weighted sum of squared weights is its weight decay (twice it: the gradient)."""
    weights = [network.first.weight, network.last.weight]
    biases = [network.first.bias, network.last.bias]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": 2 * decay}, {"params": biases}]
    return torch.optim.Adam(groups, lr=config.learning_rate_metric, betas=METRIC_BETAS, fused=True)


def _start_xavier(network: TwoLayers, rng: Rng) -> None:
    start_layers(network, lambda layer: nn.init.xavier_normal_(layer.weight, generator=rng.generator))


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
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        return {"triplet": loss, "violated": violated}

    session.loop("metric", steps, {"metric": metric, "adam": adam, "rng": batches.rng}, body)
    return metric


@torch.no_grad()
def searched_targets(metric: TwoLayers, batches: Batches) -> tuple[Tensor, Tensor]:
    """What SRN learns: each class's mean output of MN, every dimension scaled to [0, 1] over all training pictures.

    Args:
        metric: MN.
        batches: all training features, labels and semantic vectors.

    Returns:
        (S, L), and the classes (S,) they belong to.

    """
    outputs = []
    for start in range(0, len(batches.features), BLOCK):
        rows = slice(start, start + BLOCK)
        outputs.append(metric(torch.cat([batches.features[rows], batches.condition[batches.labels[rows]]], dim=1)))
    found = torch.cat(outputs)
    low, spread = found.amin(dim=0), found.amax(dim=0) - found.amin(dim=0)
    scaled = (found - low) / torch.where(spread > 0, spread, torch.ones_like(spread))
    classes, position, counts = torch.unique(batches.labels, return_inverse=True, return_counts=True)
    sums = scaled.new_zeros(len(classes), scaled.shape[1]).index_add_(0, position, scaled)
    return sums / counts.unsqueeze(1), classes


def train_rectifier(metric: TwoLayers, batches: Batches, config: Config, session: Session, *, steps: int) -> TwoLayers:
    """Stage 2: SRN learns the mean of each seen class in MN's space; every step sees all classes."""
    targets, classes = searched_targets(metric, batches)
    semantic = batches.condition[classes]
    rectify = rectifier(config, semantic.shape[1])
    _start_xavier(rectify, batches.rng)
    adam = _metric_adam(rectify, config, config.rectify_decay)

    def body(_step: int) -> dict[str, Tensor]:
        loss = (rectify(semantic) - targets).norm() / len(targets)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return {"distance": loss}

    session.loop("rectify", steps, {"rectify": rectify, "adam": adam, "rng": batches.rng}, body)
    return rectify


def regression_loss(found: Tensor, wanted: Tensor, kind: str) -> Tensor:
    """Mean squared (`mse`) or absolute (`l1`) difference over all elements."""
    return F.mse_loss(found, wanted) if kind == "mse" else F.l1_loss(found, wanted)


def train_regressor(
    stage: str, network: TwoLayers, targets: Tensor, batches: Batches, config: Config, *, session: Session, steps: int
) -> None:
    """Stages 3 and 4: a regressor of real features to each class's vector.

    Args:
        stage: its name.
        network: F1 or F2, trained in place.
        targets: (C, A) or (C, L).
        batches: real features.
        config: settings.
        session: runs the stage.
        steps: of the stage.

    """
    start_normal(network, batches.rng.generator)
    adam = torch.optim.Adam(network.parameters(), lr=config.learning_rate_regressor, betas=BETAS, fused=True)

    def body(_step: int) -> dict[str, Tensor]:
        features, _, labels = batches.draw()
        loss = regression_loss(network(features), targets[labels], config.regression)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        return {"regression": loss}

    session.loop(stage, steps, {"network": network, "adam": adam, "rng": batches.rng}, body)


@torch.no_grad()
def moving_outputs(network: TwoLayers, features: Tensor) -> int:
    """How many outputs of a regressor are not constant over these features (n, F); 0: it is dead."""
    outputs = torch.cat([network(block) for block in features.split(BLOCK)])  # type: ignore[no-untyped-call]
    return int((outputs.amax(dim=0) - outputs.amin(dim=0) > CONSTANT).sum())


# --- stage five ------------------------------------------------------------------------------------------------------


class DcrGan(Wgan):
    """The WGAN with the two regressors' losses on fakes of seen and of unseen classes.

    Args:
        batches: real features; the condition of a class is [a, R(a)].
        lift: F1 and F2, frozen here.
        seen: (C,) bool.
        config: settings.
        alive: whether F1 says anything; its losses are left out otherwise.

    """

    def __init__(self, batches: Batches, lift: Lift, seen: Tensor, config: Config, *, alive: bool) -> None:
        attributes = lift.semantic.last.out_features
        super().__init__(batches, _wgan_settings(config, attributes))
        self.config = config
        self.lift = lift.requires_grad_(requires_grad=False)
        self.attributes = attributes
        weights = {
            "seen": (config.seen_semantic if alive else 0.0, config.seen_searched),
            "unseen": (config.unseen_semantic if alive else 0.0, config.unseen_searched),
        }
        classes = {"seen": seen.nonzero().squeeze(1), "unseen": (~seen).nonzero().squeeze(1)}
        self.guided = [
            (kind, classes[kind], pair) for kind, pair in weights.items() if any(pair) and len(classes[kind]) > 0
        ]

    def further_losses(self, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """c1 to c4: F1 and F2 of fakes, against the semantic vectors and the rectified ones (docs/methods.md 4.3)."""
        losses = {}
        for kind, classes, weights in self.guided:
            count = self.config.guide_classes
            chosen = classes
            if 0 < count < len(classes):
                chosen = classes[self.rng.permutation(len(classes))[:count]]
            condition = self.batches.condition[chosen].repeat_interleave(self.config.guide_fakes, dim=0)
            imagined = self.generate(condition)
            parts = (
                (self.lift.semantic, condition[:, : self.attributes]),
                (self.lift.searched, condition[:, self.attributes :]),
            )
            for name, (network, wanted), weight in zip(("semantic", "searched"), parts, weights, strict=True):
                if weight > 0:
                    loss = regression_loss(network(imagined), wanted, self.config.regression)
                    losses[f"{kind}_{name}"] = weight * loss
        return losses


def _wgan_settings(config: Config, noise: int) -> WganSettings:
    return WganSettings(
        noise=noise,
        hidden=config.hidden,
        output=generator_output(config.scaling, "relu"),
        critic_steps=config.critic_steps,
        penalty=config.penalty,
        learning_rate_generator=config.learning_rate_generator,
        learning_rate_critic=config.learning_rate_critic,
        bf16=config.precision == "bf16",
    )


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """Train DCR-GAN: metric network, rectifying network, two regressors, GAN.

    Args:
        data: features of the training pictures and semantic vectors of seen and unseen classes.
        config: settings.
        session: logs, checkpoints and snapshots.
        seed: of everything random; the same seed gives the same weights on one machine.

    Raises:
        GateError: E-DIVERGED.

    """
    embedder, features = pooled_features(data, config.scaling)
    steps = plan(stages(config, data.dims), config, len(features))
    labels, semantic = tensor_of(data.labels), tensor_of(data.semantic)

    def batches(stage: int, size: int, condition: Tensor = semantic) -> Batches:
        return Batches(features, labels, condition, size, Rng(seed + stage))

    metric = train_metric(batches(0, config.metric_batch), config, session, steps["metric"])
    rectify = train_rectifier(metric, batches(1, 1), config, session, steps=steps["rectify"])
    with torch.no_grad():
        searched = rectify(semantic)
    lift = Lift(*regressors(config, data.dims))
    for stage, network, targets in ((2, lift.semantic, semantic), (3, lift.searched, searched)):
        rows = batches(stage, config.regressor_batch)
        name = STAGES[stage]
        train_regressor(name, network, targets, rows, config, session=session, steps=steps[name])
    moving = moving_outputs(lift.semantic, features)
    if moving < data.dims.attributes:
        session.note(f"F1 is constant over the training pictures in {data.dims.attributes - moving} of its outputs")
    condition = torch.cat([semantic, searched], dim=1)
    gan = DcrGan(batches(4, config.batch, condition), lift, tensor_of(data.table.seen), config, alive=moving > 0)
    trained = _shipped(config, embedder, lift, Synthesizer(gan.generator, rectify))
    if moving == 0:
        session.note("F1 is dead: the semantic view is not shipped; try --set semantic_output=linear")
        trained.views = tuple(view for view in trained.views if view.name != "semantic")
    session.loop("gan", steps["gan"], gan.state(), lambda _: gan.outer_step(), trained)
    return trained.eval()
