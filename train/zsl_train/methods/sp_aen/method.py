"""SP-AEN: semantics-preserving adversarial embedding network (Chen et al., CVPR 2018).

E embeds a picture in the semantic space, where its class is the one whose semantic vector has the largest dot product
with E(x). A second embedder F, of which G can rebuild what was looked at, keeps the semantics that discriminating seen
classes would lose; a critic D tells F(x) from E(x), and E learns to pass for F. Only E is shipped: f = E(x), and the
head's row of a class is its semantic vector (docs/methods.md 3), so that a class is added by its attributes alone.

Where the paper and the published code differ, both are options of `Config`. The published code looks at ten crops of
raw photographs, through ResNet-101 (E) and AlexNet (F); here E and F both look at the backbone's pooled feature of one
crop. What G rebuilds is that feature (a variant, docs/methods.md 3.5, possible with feature files), or the photograph
at 128 px (`zsl_train.methods.sp_aen.pictures`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_runtime.errors import UsageError
from zsl_runtime.head.head import View
from zsl_train.devices import capturable, repeated, tensor_of
from zsl_train.losses.ranking import ranking_loss
from zsl_train.losses.wgan_gp import gradient_penalty
from zsl_train.methods.base import Dims, Trained, TrainingData
from zsl_train.methods.lengths import Stage, plan, step_seconds
from zsl_train.methods.pooled import pooled_features
from zsl_train.methods.session import Rng, Session
from zsl_train.methods.sp_aen.config import NAME, SLOPE, Config
from zsl_train.methods.sp_aen.decoder import Decoder, FeatureDecoder
from zsl_train.nets import Critic, PooledEmbedder, start_layers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

Step = Callable[[int], Mapping[str, Tensor]]

BETAS = (0.5, 0.999)
DRAWN = ("any", "random")  # negatives that take a random number
TINY = 1e-12  # features that are all zero have no length to measure by


# --- the networks --------------------------------------------------------------------------------------------------


class SemanticNet(nn.Module):
    """E and F behind the scaled feature: V -> hidden -> d, LeakyReLU after both (docs/methods.md 3.2)."""

    def __init__(self, channels: int, hidden: int, attributes: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, hidden)
        self.last = nn.Linear(hidden, attributes)

    def forward(self, features: Tensor, dropout: float = 0.0, rng: Rng | None = None) -> Tensor:
        """(B, V) -> (B, d); with `rng`, a share `dropout` of the input and of the hidden layer is dropped."""
        hidden = F.leaky_relu(self.first(drop(features, dropout, rng)), SLOPE)
        return F.leaky_relu(self.last(drop(hidden, dropout, rng)), SLOPE)


def drop(x: Tensor, share: float, rng: Rng | None) -> Tensor:
    """Inverted dropout whose randomness comes from `rng`, so that a resumed training repeats it."""
    if rng is None or share == 0:
        return x
    return x * (rng.uniform(*x.shape) >= share) / (1 - share)


class Embedder(nn.Module):
    """E: region features -> pooled and scaled -> d."""

    def __init__(self, scaler: PooledEmbedder, net: SemanticNet) -> None:
        super().__init__()
        self.scaler = scaler
        self.net = net

    def forward(self, regions: Tensor) -> Tensor:
        """(B, R, V) float32 -> f (B, F), F = d = A."""
        return self.net(self.scaler(regions))  # type: ignore[no-any-return]


class ClassRows(nn.Module):
    """A class's row of the head is its semantic vector, its bias 0: scores are y . E(x) (paper, Eq. 1)."""

    def forward(self, semantic: Tensor) -> tuple[Tensor, Tensor]:
        """(M, A) -> (M, A), (M,)."""
        return semantic + 0.0, torch.zeros_like(semantic[:, 0])


def make_decoder(data: TrainingData, config: Config, length: float) -> Decoder:
    """The G that the settings ask for; `length` is the mean squared length of the features.

    Raises:
        UsageError: E-RECIPE when it needs photographs that are not there.

    """
    attributes = data.dims.attributes
    if config.reconstruction == "features":
        return FeatureDecoder(attributes, config.hidden, data.dims.channels, config.feature_weight / max(length, TINY))
    if data.pictures is None:
        raise UsageError(
            "E-RECIPE",
            f"reconstruction = 'images' of {NAME} needs photographs, and this data has features only; "
            "give photographs, or --set reconstruction=features",
        )
    from zsl_train.methods.sp_aen.pictures import PictureDecoder

    return PictureDecoder(attributes, config, data.pictures, data.rows)


def start_he(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw every weight of `module` from N(0, 2 / fan-in), with zero biases (MSRA); returns the module."""

    def draw(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
        fan_in = layer.weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):  # (in, out, k, k): an output pixel meets (k / stride)^2 of them
            fan_in = layer.in_channels * (layer.kernel_size[0] // layer.stride[0]) ** 2
        layer.weight.normal_(0.0, (2 / fan_in) ** 0.5, generator=generator)

    return start_layers(module, draw, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    scaler = PooledEmbedder(dims.channels, config.scaling)
    return _trained(Embedder(scaler, SemanticNet(dims.channels, config.hidden, dims.attributes)))


def _trained(embedder: Embedder) -> Trained:
    width = embedder.net.last.out_features
    return Trained(
        embedder=embedder,
        lift=None,
        synthesizer=None,
        noise_width=0,
        feature_width=width,
        lifted_width=width,
        views=(View("embedding", 0, width, 1.0, None),),
        synthetic_per_class=0,
        rows=ClassRows(),
    )


# --- how long it takes ---------------------------------------------------------------------------------------------


def is_joint(config: Config) -> bool:
    """Whether E, F, G and D are trained in one stage."""
    return config.phases == "joint" and config.adversarial_weight > 0


# Steps below which accuracy on validation classes suffers. More of the second stage than its epochs makes a small set
# worse (docs/methods.md 3.5).
SHORTEST = {"stage1": 600, "stage2": 150}


def stages(config: Config, dims: Dims) -> list[Stage]:
    """The stages that these settings have."""
    net = config.hidden * (dims.channels + dims.attributes)
    critic = dims.attributes * (dims.attributes + 1)
    rebuilt = net
    if config.reconstruction == "images":
        from zsl_train.methods.sp_aen.pictures import multiply_adds

        rebuilt = multiply_adds(config.hidden, config.decoder_channels, dims.attributes)
    adversary = config.critic_steps * config.batch * (net + 8 * critic) if config.adversarial_weight > 0 else 0
    update = 12 * net  # Adam reads and writes every parameter: as dear as a few rows of the products
    first = config.batch * 3 * (net + rebuilt) + 2 * update
    second = config.batch * 3 * (net + critic) + adversary + update
    updates = 1 + config.critic_steps if config.adversarial_weight > 0 else 1
    joint = is_joint(config)
    last = Stage("stage2", config.batch, step_seconds(second + joint * first, updates), SHORTEST["stage2"])
    if joint or config.adversarial_weight == 0:
        return [last]
    return [Stage("stage1", config.batch, step_seconds(first), SHORTEST["stage1"]), last]


# --- training ------------------------------------------------------------------------------------------------------


class Updater:
    """Adam with the published schedule, clipping and weight regulariser on some modules.

    Args:
        modules: whose parameters that take a gradient are updated.
        config: learning rate, clip, weight_decay, drop_at.
        decay: whether the regulariser is added to the loss.

    """

    def __init__(self, modules: Iterable[nn.Module], config: Config, *, decay: bool) -> None:
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.config = config
        self.decay = config.weight_decay if decay else 0.0
        rate = config.learning_rate
        self.adam = torch.optim.Adam(self.parameters, lr=rate, betas=BETAS, fused=True, capturable=capturable())

    def regulariser(self) -> Tensor:
        """Half the weight decay times the squared weights; biases are free."""
        weights = [p.square().sum() for p in self.parameters if p.ndim > 1]
        return self.decay / 2 * torch.stack(weights).sum()

    def step(self, share: float) -> None:
        """Move against the gradients that are there; `share` of the stage is done."""
        for group in self.adam.param_groups:
            group["lr"] = self.config.learning_rate * (0.1 if share >= self.config.drop_at else 1.0)
        for parameter in self.parameters:
            torch.nn.utils.clip_grad_norm_([parameter], self.config.clip)
        self.adam.step()


def minimise(loss: Tensor, share: float, *updaters: Updater) -> None:
    """One step of every updater against the gradient of `loss` and their regularisers."""
    for updater in updaters:
        updater.adam.zero_grad()
        if updater.decay > 0:
            loss = loss + updater.regulariser()
    loss.backward()  # type: ignore[no-untyped-call]
    for updater in updaters:
        updater.step(share)


class SpAen:
    """E, F, G and D, and their steps (docs/methods.md 3.3 and 3.4)."""

    def __init__(self, data: TrainingData, config: Config, seed: int) -> None:
        self.config = config
        self.rng = Rng(seed)
        scaler, self.features = pooled_features(data, config.scaling)
        channels, attributes = data.dims.channels, data.dims.attributes
        known = tensor_of(data.table.seen)
        self.semantic = tensor_of(data.semantic)[known]  # (S, A): the classes that compete in training
        self.labels = (torch.cumsum(known, 0) - 1)[tensor_of(data.labels)]
        self.embed = SemanticNet(channels, config.hidden, attributes)
        self.keep = SemanticNet(channels, config.hidden, attributes)  # F
        self.critic = Critic(attributes, 0, attributes)
        self.critic.negative_slope = SLOPE
        self.decoder = make_decoder(data, config, float(self.features.square().sum(dim=1).mean()))
        for net in (self.embed, self.keep, self.critic, self.decoder):
            start_he(net, self.rng.generator)
        self.embedder = Embedder(scaler, self.embed)
        self.of_embed = Updater([self.embed], config, decay=True)
        self.of_critic = Updater([self.critic], config, decay=False)
        self.of_keep = Updater([self.keep, self.decoder], config, decay=True)
        self.kept: Tensor | None = None  # (n, d) F of every training picture, once F is fixed
        self.shown = held_out(data, config, seed)
        self.learned = tensor_of(np.setdiff1d(np.arange(len(data.rows)), self.shown))  # what G may look at

    def state(self, *parts: str) -> dict[str, Any]:
        """All that changes while the named networks are trained."""
        every: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {
            "embed": (self.embed, self.of_embed.adam),
            "critic": (self.critic, self.of_critic.adam),
            "keep": (nn.ModuleDict({"keep": self.keep, "decoder": self.decoder}), self.of_keep.adam),
        }
        state: dict[str, Any] = {"rng": self.rng}
        for part in parts:
            state[part], state[f"adam_{part}"] = every[part]
        return state

    def draw(self, among: int) -> Tensor:
        """Positions of a batch among the first `among` training pictures, without repetition: (B,) int64."""
        return self.rng.permutation(among)[: self.config.batch]

    def keep_losses(self) -> tuple[dict[str, Tensor], Tensor]:
        """Reconstruction and norm losses of F and G on a batch, and F of it (B, d)."""
        rows = self.learned[self.draw(len(self.learned))]
        features = self.features[rows]
        kept: Tensor = self.keep(features)
        losses = self.decoder.losses(kept, features, rows)
        if self.config.norm_weight > 0:
            losses["norm"] = self.config.norm_weight * (kept.norm(dim=1) - 1).square().mean()
        return losses, kept

    def keep_step(self, share: float) -> dict[str, Tensor]:
        """One update of F and G: the first phase."""
        losses, _ = self.keep_losses()
        minimise(torch.stack(list(losses.values())).sum(), share, self.of_keep)
        return losses

    def embed_step(self, share: float, *, joint: bool) -> dict[str, Tensor]:
        """One update of E, jointly also of F and G, then the updates of D."""
        config = self.config
        rows = self.draw(len(self.features))
        labels = self.labels[rows]
        embedding: Tensor = self.embed(self.features[rows], config.dropout, self.rng)
        scores = embedding @ self.semantic.T
        draw = self.rng.uniform(*scores.shape) if config.negatives in DRAWN else None
        rank = ranking_loss(scores, labels, margin=config.margin, negatives=config.negatives, draw=draw)
        losses = {"rank": config.rank_weight * rank}
        if config.adversarial_weight > 0:
            losses["fooling"] = -config.adversarial_weight * self.judge(embedding).mean()
        if joint:
            more, kept = self.keep_losses()
            # Eq. 6 minimises L_adv over F as well.
            losses |= more | {"real": config.adversarial_weight * self.judge(kept).mean()}
        moved = (self.of_embed, self.of_keep) if joint else (self.of_embed,)
        minimise(torch.stack(list(losses.values())).sum(), share, *moved)
        if config.adversarial_weight > 0:
            for _ in range(config.critic_steps):
                distance, penalty = self.critic_step(share)
            losses |= {"distance": distance, "penalty": penalty}
        return losses

    def judge(self, embedding: Tensor) -> Tensor:
        """D's judgement (B,) of embeddings (B, d): its score, through a sigmoid where the settings say so."""
        raw = self.raw(embedding)
        return raw.sigmoid() if self.config.adversarial == "sigmoid" else raw

    def raw(self, embedding: Tensor) -> Tensor:
        """D's score (B,)."""
        return self.critic(embedding, embedding[:, :0])  # type: ignore[no-any-return]

    def critic_step(self, share: float) -> tuple[Tensor, Tensor]:
        """One update of D: F of some pictures is real, E of others is not. Gives distance and penalty."""
        config = self.config
        with torch.no_grad():
            ours, theirs = self.draw(len(self.features)), self.draw(len(self.features))
            real = self.keep(self.features[ours]) if self.kept is None else self.kept[ours]
            fake = self.embed(self.features[theirs], config.dropout, self.rng)
        distance = self.judge(real).mean() - self.judge(fake).mean()
        penalty = gradient_penalty(self.critic, real, fake, real[:, :0], self.rng.uniform(len(real), 1))
        minimise(config.adversarial_weight * (config.penalty * penalty - distance), share, self.of_critic)
        return distance, penalty

    def repeated(self, body: Step, steps: int, *, rebuilds: bool) -> Step:
        """A step of a stage of `steps`, as fast as it can be; photographs are read anew for each step."""
        if rebuilds and self.config.reconstruction == "images":
            return body
        return repeated(body, self.rng.generator, lambda step: step / steps >= self.config.drop_at)

    def keep_all(self) -> None:
        """F of every training picture, once F is fixed: what does not change is computed once."""
        with torch.no_grad():
            self.kept = torch.cat([self.keep(block) for block in torch.split(self.features, 1024)])


def held_out(data: TrainingData, config: Config, seed: int) -> NDArray[np.int64]:
    """Training pictures that G never looks at and is then shown on: positions, seeded; none where it rebuilds features.

    At most a tenth of the pictures, and at least one.
    """
    if config.reconstruction == "features" or config.adversarial_weight == 0:
        return np.zeros(0, np.int64)
    order = np.random.default_rng([seed, 29]).permutation(len(data.rows))
    return np.sort(order[: min(config.sheet_pictures, max(1, len(order) // 10))])


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """Train SP-AEN.

    Args:
        data: features of any R: their mean over the regions is what is looked at; pictures for `images`.
        config: settings.
        session: logs, checkpoints and snapshots, and keeps the sheet of rebuilt pictures.
        seed: of everything random; the same seed gives the same weights on one machine.

    Raises:
        GateError: E-DIVERGED.
        UsageError: E-RECIPE when pictures are to be rebuilt and there are none.

    """
    model = SpAen(data, config, seed)
    lengths = plan(stages(config, data.dims), config, len(data.rows))
    trained = _trained(model.embedder)
    adversarial = config.adversarial_weight > 0
    if "stage1" in lengths:
        steps = lengths["stage1"]

        def keep_body(step: int) -> dict[str, Tensor]:
            return model.keep_step(step / steps)

        session.loop("keep", steps, model.state("keep"), model.repeated(keep_body, steps, rebuilds=True))
        model.keep_all()
    joint = is_joint(config)
    parts = ["embed", *(["critic"] if adversarial else []), *(["keep"] if joint else [])]
    last = lengths["stage2"]

    def embed_body(step: int) -> dict[str, Tensor]:
        return model.embed_step(step / last, joint=joint)

    session.loop("embed", last, model.state(*parts), model.repeated(embed_body, last, rebuilds=joint), trained)
    if adversarial and len(model.shown):
        show(model, data, session)
    return trained.eval()


def show(model: SpAen, data: TrainingData, session: Session) -> None:
    """Keep a sheet of held-out pictures beside what G makes of them, and how far off it is."""
    from zsl_train.methods.sp_aen.pictures import sheet

    assert data.pictures is not None
    rows = data.rows[model.shown]
    with torch.no_grad():
        rebuilt = model.decoder.rebuild(model.keep(model.features[tensor_of(model.shown)]))
    for name, content in sheet(data.pictures.read(rows), rebuilt.numpy(force=True), rows).items():
        session.keep(name, content)
