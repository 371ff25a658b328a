"""DCR-GAN: a WGAN conditioned on a second, searched semantic space, with a classifier in each of three (TMM 2022).

Ye et al., "Disentangling Semantic-to-visual Confusion for Zero-shot Learning" (docs/methods.md 4). The searched space
(`metric.py`): MN takes picture and semantic vector to L dimensions, SRN a semantic vector to R(a), the mean of its
class there. Two regressors: F1 of a feature to the semantic vector, F2 to R(a). The GAN is conditioned on [a, R(a)],
and F1 and F2 of its fakes are held to the classes' own vectors. The head has three views, of [f, F1(f), F2(f)], and one
pair of ensemble weights for all pictures: the published CUB figure takes one pair for pictures of seen classes and
another for unseen ones, which needs the test label (docs/methods.md 4.4): not a preset.

In the published code the regressors are trained on real features before the GAN, and F1 ends in a ReLU and can die: it
says nothing of a picture, and its classifier learns only how often each class occurs. A dead F1 is found after its
stage, said in the log, and its columns are not shipped (`dead_view`). The paper trains F1 and F2 with G, on its fakes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_train.devices import capturable, repeated, tensor_of
from zsl_train.methods.base import Conventional, Dims, Trained, TrainingData
from zsl_train.methods.dcr_gan.config import Config, for_unseen, head_views
from zsl_train.methods.dcr_gan.metric import BLOCK, train_metric, train_rectifier
from zsl_train.methods.dcr_gan.networks import Lift, Synthesizer, TwoLayers, rectifier, regressors
from zsl_train.methods.f_clswgan import seen_columns, train_classifier
from zsl_train.methods.lengths import WIDE_FLOPS_PER_SECOND, Stage, plan, step_seconds
from zsl_train.methods.pooled import Batches, generator_output, pooled_features
from zsl_train.methods.session import Rng
from zsl_train.methods.wgan import BETAS, Wgan, WganSettings, outer_multiply_adds
from zsl_train.nets import Generator, PooledEmbedder, start_normal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from zsl_train.methods.session import Session

SEEDS = {"metric": 0, "rectify": 1, "semantic": 2, "searched": 3, "gan": 4, "classifier": 5}  # of a stage: seed + this
EXPLAINED = 0.01  # an F1 that explains less of the attributes of pictures than this says nothing of them


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    searched = config.searched_width if config.use_searched else 0
    output = generator_output(config.scaling, "relu")
    generator = Generator(dims.attributes, dims.attributes + searched, config.hidden, dims.channels, output)
    rectify = rectifier(config, dims.attributes) if config.use_searched else None
    embedder = PooledEmbedder(dims.channels, config.scaling)
    lift = lift_of(config, regressors(config, dims))
    return shipped(config, embedder, lift, Synthesizer(generator, rectify), dims.attributes)


def lift_of(config: Config, networks: Mapping[str, TwoLayers]) -> Lift:
    """The lift, with the regressors that have a view."""
    weights = {"semantic": config.semantic_weight, "searched": config.searched_weight}
    return Lift(*(networks.get(name) if weight > 0 else None for name, weight in weights.items()))


def shipped(config: Config, embedder: PooledEmbedder, lift: Lift, synthesizer: Synthesizer, noise: int) -> Trained:
    """What is kept: the views that the lift has columns for, and those of the classifier of unseen classes alone."""
    features = synthesizer.generator.last.out_features
    widths, unseen = lift.widths(features), for_unseen(config)
    return Trained(
        embedder=embedder,
        lift=lift if len(widths) > 1 else None,
        synthesizer=synthesizer,
        noise_width=noise,
        feature_width=features,
        lifted_width=sum(widths.values()),
        views=head_views(config, widths),
        synthetic_per_class=config.synthetic_per_class,
        czsl=None if unseen is config else Conventional(head_views(unseen, widths), unseen.synthetic_per_class),
    )


def keep_views(trained: Trained, config: Config, names: Collection[str]) -> None:
    """Leave the other views, and the columns of F1 where it has none, out of what was trained."""
    if trained.lift is None:  # a single view is there
        return
    assert isinstance(trained.lift, Lift)
    assert isinstance(trained.synthesizer, Synthesizer)
    assert isinstance(trained.embedder, PooledEmbedder)
    if not {"semantic", "prior"} & set(names):
        trained.lift.silence(prior=False)
    made = shipped(config, trained.embedder, trained.lift, trained.synthesizer, trained.noise_width)
    trained.lift, trained.lifted_width = made.lift, made.lifted_width
    trained.views, trained.czsl = made.views, made.czsl


# --- how long it takes ---------------------------------------------------------------------------------------------


def stages(config: Config, dims: Dims) -> tuple[Stage, ...]:
    """The stages in order; those of the searched space, of the regressors and of the classifier as there are."""
    channels, attributes, hidden = dims.channels, dims.attributes, config.hidden
    searched = config.searched_width if config.use_searched else 0
    condition, wide, metric = attributes + searched, config.regressor_hidden, 2.0 * (channels + attributes) ** 2
    one, two = wide * (channels + attributes), wide * (channels + searched) if searched else 0
    rows = 3 * config.regressor_batch + 12
    classes = min(dims.classes, 2 * config.guide_classes or dims.classes)
    guided = config.guide_fakes * classes * (3 * hidden * (attributes + condition + channels) + 2 * (one + two))
    joint = (5 * config.batch + 12) * (one + two)
    outer = outer_multiply_adds(config.batch, config.critic_steps, hidden, channels, condition, attributes)
    outer += guided if config.regressors == "before" else joint
    space, before = config.use_searched, config.regressors == "before"
    first, second = (step_seconds(rows * each, rate=WIDE_FLOPS_PER_SECOND) for each in (one, two))
    linear = step_seconds(config.classifier_batch * 2 * channels * dims.classes)
    # name, whether there is one, batch, seconds of a step, steps below which accuracy suffers
    listed = (
        ("metric", space, config.metric_batch, step_seconds((3 * config.metric_batch + 12) * metric), 300),
        ("rectify", space, 0, step_seconds(6.0 * dims.classes * attributes * condition) / 2, 1000),
        ("semantic", before, config.regressor_batch, first, 400),
        ("searched", space and before, config.regressor_batch, second, 400),
        ("classifier", config.classification_weight > 0, config.classifier_batch, linear / 2, 300),
        ("gan", True, config.batch, step_seconds(outer, config.critic_steps + 1, WIDE_FLOPS_PER_SECOND), 240),
    )
    return tuple(Stage(name, batch, each, least) for name, there, batch, each, least in listed if there)


# --- regressors ------------------------------------------------------------------------------------------------------


def regression_loss(found: Tensor, wanted: Tensor, kind: str) -> Tensor:
    """Mean over rows (B, A): squared (`mse`) or absolute (`l1`) difference, mean over A; or its sum (`l1-norm`)."""
    if kind == "l1-norm":
        return (found - wanted).abs().sum(dim=1).mean()
    return F.mse_loss(found, wanted) if kind == "mse" else F.l1_loss(found, wanted)


def train_regressor(
    stage: str, network: TwoLayers, targets: Tensor, batches: Batches, config: Config, *, session: Session, steps: int
) -> None:
    """A regressor of real features to each class's vector, before the GAN.

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
    adam = _regressor_adam(network, config)

    def body(_step: int) -> dict[str, Tensor]:
        features, _, labels = batches.draw()
        loss = regression_loss(network(features), targets[labels], config.regression)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        return {"regression": loss}

    step = repeated(body, batches.rng.generator)
    session.loop(stage, steps, {"network": network, "adam": adam, "rng": batches.rng}, step)


def _regressor_adam(network: TwoLayers, config: Config) -> torch.optim.Adam:
    rate = config.learning_rate_regressor
    return torch.optim.Adam(network.parameters(), lr=rate, betas=BETAS, fused=True, capturable=capturable())


@torch.no_grad()
def explained(network: nn.Module, features: Tensor, wanted: Tensor) -> float:
    """Share of the variance of `wanted` (n, A) over pictures that a regressor of features (n, F) explains.

    1 when it is right of every picture, 0 for the mean of `wanted`, below 0 for what is worse than that.
    """
    missed = 0.0
    for start in range(0, len(features), BLOCK):
        rows, targets = features[start : start + BLOCK], wanted[start : start + BLOCK]
        missed += float((network(rows) - targets).double().square().sum())
    total = float((wanted - wanted.mean(dim=0)).double().square().sum())
    return 1 - missed / max(total, 1e-12)


# --- the GAN ---------------------------------------------------------------------------------------------------------


class DcrGan(Wgan):
    """The WGAN with the regressors' losses on its fakes.

    Args:
        batches: real features; the condition of a class is [a, R(a)].
        networks: F1 (`semantic`) and F2 (`searched`), as there are; trained here where they are `joint`, else frozen.
        seen: (C,) bool.
        config: settings.
        attributes: A.
        classifier: of real features of seen classes, whose loss on fakes is added; frozen here.
        column: (C,) a seen class's column in it.

    """

    def __init__(
        self,
        batches: Batches,
        networks: Mapping[str, TwoLayers],
        seen: Tensor,
        config: Config,
        attributes: int,
        *,
        classifier: nn.Linear | None = None,
        column: Tensor | None = None,
    ) -> None:
        super().__init__(batches, _wgan_settings(config, attributes))
        self.config = config
        self.networks = dict(networks)
        self.columns = {"semantic": slice(None, attributes), "searched": slice(attributes, None)}
        self.joint = config.regressors == "joint"
        self.adams = {}
        for name, network in self.networks.items():
            network.requires_grad_(requires_grad=False)
            if self.joint:
                self.adams[name] = _regressor_adam(network, config)
        weights = {
            "seen": {"semantic": config.seen_semantic, "searched": config.seen_searched},
            "unseen": {"semantic": config.unseen_semantic, "searched": config.unseen_searched},
        }
        self.weights = {
            kind: {name: weight for name, weight in pair.items() if weight > 0 and name in self.networks}
            for kind, pair in weights.items()
        }
        self.classes = {"seen": seen.nonzero().squeeze(1), "unseen": (~seen).nonzero().squeeze(1)}
        self.classifier = None if classifier is None else classifier.requires_grad_(requires_grad=False)
        self.column = column

    def state(self) -> dict[str, Any]:
        """All that changes while training."""
        if not self.joint:
            return super().state()
        adams = {f"adam_{name}": adam for name, adam in self.adams.items()}
        return super().state() | self.networks | adams

    def further_losses(self, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """F1 and F2 of fakes against semantic and rectified vectors (docs/methods.md 4.3), and the classifier's."""
        losses = {}
        if self.joint:
            condition = self.batches.condition[labels]
            for name, adam in self.adams.items():
                losses[f"fit_{name}"] = self._fit(name, adam, fake.detach(), condition)
        for kind, weights in self.weights.items():
            if not weights or len(self.classes[kind]) == 0:
                continue
            if kind == "seen" and self.joint:
                imagined, condition = fake, self.batches.condition[labels]
            else:
                imagined, condition = self._imagined(self.classes[kind])
            for name, weight in weights.items():
                losses[f"{kind}_{name}"] = weight * self._missed(name, imagined, condition)
        if self.classifier is not None and self.column is not None:
            likelihood = F.cross_entropy(self.classifier(fake), self.column[labels])
            losses["classification"] = self.config.classification_weight * likelihood
        return losses

    def _missed(self, name: str, fakes: Tensor, condition: Tensor) -> Tensor:
        with torch.autocast(fakes.device.type, torch.bfloat16, enabled=self.settings.bf16):
            found = self.networks[name](fakes).float()
        return regression_loss(found, condition[:, self.columns[name]], self.config.regression)

    def _fit(self, name: str, adam: torch.optim.Adam, fakes: Tensor, condition: Tensor) -> Tensor:
        """One step of a regressor on fakes that stand still; its loss, which moves nothing else."""
        network = self.networks[name].requires_grad_(requires_grad=True)
        loss = self._missed(name, fakes, condition)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        network.requires_grad_(requires_grad=False)
        return loss.detach()

    def _imagined(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Fakes of these classes, or of `guide_classes` of them, and their conditions."""
        count = self.config.guide_classes
        if 0 < count < len(classes):
            classes = classes[self.rng.permutation(len(classes))[:count]]
        condition = self.batches.condition[classes].repeat_interleave(self.config.guide_fakes, dim=0)
        return self.generate(condition), condition


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
        critic_condition=config.critic_condition,
    )


# --- training ------------------------------------------------------------------------------------------------------


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

    def batches(stage: str, size: int, condition: Tensor = semantic) -> Batches:
        return Batches(features, labels, condition, size, Rng(seed + SEEDS[stage]))

    targets, rectify = {"semantic": semantic}, None
    if config.use_searched:
        metric = train_metric(batches("metric", config.metric_batch), config, session, steps["metric"])
        rectify = train_rectifier(metric, batches("rectify", 1), config, session, steps=steps["rectify"])
        with torch.no_grad():
            targets["searched"] = rectify(semantic)
    networks = regressors(config, data.dims)
    lift = lift_of(config, networks)
    for name, network in networks.items():
        rows = batches(name, config.regressor_batch)
        if config.regressors == "joint":
            start_normal(network, rows.rng.generator)
        else:
            train_regressor(name, network, targets[name], rows, config, session=session, steps=steps[name])
    if config.regressors == "before" and not _alive(networks["semantic"], features, semantic[labels], config, session):
        del networks["semantic"]
        lift.silence(prior=config.dead_view == "prior" and config.semantic_weight > 0)
    classifier, column = None, None
    if config.classification_weight > 0:
        column, rows, settings = seen_columns(data), batches("classifier", config.classifier_batch), _untyped(config)
        classifier = train_classifier(rows, column, settings, session, steps=steps["classifier"])
    gan = DcrGan(
        batches("gan", config.batch, torch.cat(list(targets.values()), dim=1)),
        networks,
        tensor_of(data.table.seen),
        config,
        data.dims.attributes,
        classifier=classifier,
        column=column,
    )
    trained = shipped(config, embedder, lift, Synthesizer(gan.generator, rectify), data.dims.attributes)
    step = repeated(lambda _: gan.outer_step(), gan.rng.generator)
    session.loop("gan", steps["gan"], gan.state(), step, trained)
    return trained.eval()


def _alive(network: TwoLayers, features: Tensor, wanted: Tensor, config: Config, session: Session) -> bool:
    """Whether a trained F1 says something of the pictures; said in the log either way."""
    if not session.complete:
        return True  # the steps that are timed are those of a training whose F1 lives
    share = explained(network, features, wanted)
    session.note(f"F1 explains {share:.2f} of the variance of attributes over the training pictures (their mean: 0)")
    if share >= EXPLAINED:
        return True
    ships = "its view is left out" if config.dead_view == "drop" else "its view is a constant for each class"
    session.note(f"F1 is dead: {ships}, and it does not guide the generator; try --set semantic_output=linear")
    return False


def _untyped(config: Config) -> Any:
    """Settings for a function of f-CLSWGAN, which looks at those of its classifier."""
    return config
