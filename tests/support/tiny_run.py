"""A run of a method too small to be good, but whole: everything zsl-export touches, made in milliseconds."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from zsl_runtime.bundle.generation import Generation
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.fitting import Replay, fit_head, fitting_rows, rows_head
from zsl_runtime.head.gaussian import ClassMeans, Gaussian, evidence_of, gaussian_head, prior_means
from zsl_runtime.head.head import FitSettings, Head, View
from zsl_runtime.head.semantic_rule import SemanticRule
from zsl_train import backbones, methods
from zsl_train.backbones.base import Backbone
from zsl_train.data.image_set import ImageSet
from zsl_train.head.modules import run_means, shipped
from zsl_train.means import Shape
from zsl_train.methods.base import Dims, Trained, run_batched, run_rows
from zsl_train.recipe import Recipe
from zsl_train.training.run_folder import Run, RunWriter, save_run
from zsl_train.training.shipped import no_replay

SIDE, REGIONS, CHANNELS = 16, 16, 12
ATTRIBUTES, NOISE, FEATURE, HIDDEN = 6, 4, 10, 8
SEEN = ("robin", "house sparrow", "gull", "crow", "tit")
UNSEEN = ("wren", "übersee-ente")
PER_CLASS = 30  # synthetic features of a class
CANONICAL, DRAWS = 5, 3  # by the rule `gaussian`: D, and K where the generator has a part in the means
SEED = 11
RULE = SemanticRule()
DIMS = Dims(regions=REGIONS, channels=CHANNELS, attributes=ATTRIBUTES, word_width=5, classes=len(SEEN) + len(UNSEEN))


class TinyBackbone(Backbone):
    """One convolution with BatchNorm at stride 4: (N, 16, 16, 3) uint8 -> (N, 16, 12)."""

    name: ClassVar[str] = "tiny"
    sizes: ClassVar[tuple[int, ...]] = (SIDE,)
    channels: ClassVar[int] = CHANNELS
    stride: ClassVar[int] = 4
    grey_mean: ClassVar[tuple[float, float, float]] = (120.0, 115.0, 100.0)
    grey_std: ClassVar[tuple[float, float, float]] = (60.0, 60.0, 60.0)
    classifier: ClassVar[str] = "fc."

    def __init__(self, size: int = SIDE) -> None:
        super().__init__(size)
        self.conv = nn.Conv2d(3, CHANNELS, 5, stride=4, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        # Statistics unlike the initial 0 and 1, so that folding them wrongly shows.
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        self.eval().requires_grad_(requires_grad=False)

    @classmethod
    def find_weights(cls, weights: str | Path | None) -> Path:
        return Path(weights or "tiny.pth")

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu6(self.norm(self.conv(x)))


class TinyEmbedder(nn.Module):
    """Attention over regions by one query an attribute, then a scaler, as real embedders do: (B, R, V) -> (B, F)."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(ATTRIBUTES, CHANNELS))
        self.project = nn.Linear(CHANNELS, FEATURE)

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        unit = nn.functional.normalize(regions, dim=2)
        weights = torch.softmax(torch.einsum("brv,av->bar", unit, self.queries), dim=2).mean(dim=1)  # (B, R)
        return torch.sigmoid(self.project(torch.einsum("br,brv->bv", weights, regions)))


class TinyLift(nn.Module):
    """f and a hidden layer over it, side by side: (B, F) -> (B, F + H)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURE, HIDDEN)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([features, nn.functional.leaky_relu(self.hidden(features), 0.2)], dim=1)


class TinySynthesizer(nn.Module):
    """(M, A) and (M, Z) -> (M, F) in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(ATTRIBUTES + NOISE, 16)
        self.outer = nn.Linear(16, FEATURE)

    def forward(self, semantic: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.leaky_relu(self.inner(torch.cat([semantic, 0.1 * noise], dim=1)), 0.2)
        return torch.sigmoid(4 * self.outer(hidden))


class TinyRows(nn.Module):
    """Semantic vectors (M, A) -> weights (M, D) and biases (M,) that depend on them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(ATTRIBUTES, width, bias=False)

    def forward(self, semantic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight = 4 * self.project(semantic)
        return weight, -weight.square().mean(dim=1)


def make_tiny_run(
    *,
    seed: int = 0,
    lift: bool = True,
    rule: str = "fit",
    draws: int = 0,
    pictures: int = 70,
    probe: int = 6,
    trained: Trained | None = None,
) -> Run:
    """A finished run with random weights and a head that was made as training makes it.

    Args:
        seed: of weights, classes and pictures.
        lift: with a lift and two views; without, D = F and one view.
        rule: of the head; with `rows` and `gaussian` there is one view and no replay.
        draws: by the rule `gaussian`, K features that the synthesizer makes for a mean; 0 is without a synthesizer.
        pictures: kept in all.
        probe: the first of them, for the probe.
        trained: another method's modules, built for `DIMS`, in place of the tiny ones.

    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    backbone, trained = TinyBackbone(), trained or make_tiny_trained(lift=lift, rule=rule, draws=draws)
    if trained.head_rule == "gaussian" and trained.means is None:  # a method without a head of its own
        trained = as_gaussian(trained)
    table = tiny_table(rng)
    labels = rng.integers(0, len(SEEN), pictures)
    images = draw_pictures(rng, labels)
    features = run_batched(trained.embedder, regions_of(backbone, images))
    replay_labels = np.concatenate([labels, np.arange(len(SEEN))]).astype(np.int32)
    extra = run_batched(trained.embedder, regions_of(backbone, draw_pictures(rng, np.arange(len(SEEN)))))
    replay = Replay(np.concatenate([features, extra]).astype(np.float16), replay_labels, SEEN)
    if trained.means is not None:
        fill_gaussian(trained, table, features, labels)
    means = tiny_means(trained, table, features, labels)
    if trained.head_rule != "fit":
        replay = no_replay(trained.feature_width)
    head = fit_tiny_head(trained, table, replay, means)
    return Run(
        recipe={"method": "tiny", "seed": SEED},
        method="tiny",
        trained=trained,
        backbone=backbone,
        dims=DIMS,
        generation=Generation(1, 0, table, head, SEED, "export", means=means),
        replay=replay,
        semantic_rule=RULE,
        scores={"H": 12.5, "T1": None},
        pictures=images,
        picture_labels=labels.astype(np.int64),
        probe_count=probe,
        seed=SEED,
        info={"state": "finished", "versions": {"torch": torch.__version__}},
    )


def make_tiny_trained(*, lift: bool = True, rule: str = "fit", draws: int = 0) -> Trained:
    """The tiny method's modules with random weights from torch's global generator."""
    if rule == "gaussian":
        return as_gaussian(make_tiny_trained(lift=False), draws=draws)
    if rule == "rows":
        width = FEATURE + HIDDEN if lift else FEATURE
        return Trained(
            embedder=TinyEmbedder(),
            lift=TinyLift() if lift else None,
            synthesizer=None,
            noise_width=0,
            feature_width=FEATURE,
            lifted_width=width,
            views=(View("all", 0, width, 1.0, None),),
            synthetic_per_class=0,
            rows=TinyRows(width),
        ).eval()
    fit = FitSettings(epochs=30, batch_size=32, learning_rate=0.02)
    views = (View("feature", 0, FEATURE, 1.0, fit),)
    if lift:
        views = (*views, View("hidden", FEATURE, FEATURE + HIDDEN, 0.5, fit))
    return Trained(
        embedder=TinyEmbedder(),
        lift=TinyLift() if lift else None,
        synthesizer=TinySynthesizer(),
        noise_width=NOISE,
        feature_width=FEATURE,
        lifted_width=views[-1].stop,
        views=views,
        synthetic_per_class=PER_CLASS,
    ).eval()


def as_gaussian(trained: Trained, *, draws: int = 0) -> Trained:
    """What ships in place of a method's own head; `fill_gaussian` solves for what is in it."""
    width = min(CANONICAL, trained.feature_width)
    unknown = Gaussian(np.zeros(width), np.ones(width))
    return shipped(trained, Shape(len(SEEN), width, draws), ATTRIBUTES, unknown).eval()


def fill_gaussian(trained: Trained, table: ClassTable, features: np.ndarray, labels: np.ndarray) -> None:
    """Canonical coordinates and a regression from features (n, F) of seen classes; noise for a generator is drawn."""
    seen = np.flatnonzero(table.seen)
    rows = features.astype(np.float64)
    means = np.stack([rows[labels == label].mean(axis=0) for label in seen])
    apart = rows - means[np.searchsorted(seen, labels)]
    covariance = apart.T @ apart / len(rows)
    values, vectors = np.linalg.eigh(
        0.8 * covariance + 0.2 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    )
    white = vectors / np.sqrt(values)
    centre = means.mean(axis=0)
    directions = np.linalg.svd((means - centre) @ white)[2][: trained.lifted_width]
    lift = directions @ white.T  # (D, F)
    anchors = RULE.apply(table.raw)[seen].astype(np.float64)
    kernel = np.exp(-2 * ((anchors[:, None] - anchors) ** 2).sum(axis=2)) + 0.1 * np.eye(len(seen))
    inverse = np.linalg.inv(kernel)
    coefficients = inverse @ ((means - centre) @ lift.T)
    left_out = coefficients / np.diag(inverse)[:, None]  # errors of the regression on a class it was not solved for
    canonical = {"weight": torch.from_numpy(lift), "bias": torch.from_numpy(-lift @ centre)}
    trained.lift.load_state_dict(canonical)
    solved = {"anchors": anchors, "coefficients": coefficients, "sharpness": 2.0, "share": 0.0}
    if trained.means.canonical is not None:
        solved |= {"share": 0.4, "noise": np.random.default_rng(5).standard_normal(trained.means.noise.shape)}
        trained.means.canonical.load_state_dict(canonical)
    for name, value in solved.items():
        getattr(trained.means, name).copy_(torch.as_tensor(value))
    errors = run_means(trained.means, anchors.astype(np.float32)) - (means - centre) @ lift.T
    variance = (left_out**2 + errors**2).mean(axis=0)
    trained.gaussian = Gaussian(variance, 1 / (1 + variance))


def tiny_means(trained: Trained, table: ClassTable, features: np.ndarray, labels: np.ndarray) -> ClassMeans | None:
    """By the rule `gaussian`, what is known of each class: its attributes, and features (n, F) of training."""
    if trained.means is None:
        return None
    prior = prior_means(table, rule=RULE, means=lambda s: run_means(trained.means, s), width=trained.lifted_width)
    photographs = evidence_of(run_batched(trained.lift, features), labels)
    return ClassMeans.without_photographs(prior).taught(photographs)


def tiny_table(rng: np.random.Generator) -> ClassTable:
    """5 seen and 2 unseen classes with random attributes in [0, 100], A = 6."""
    names = SEEN + UNSEEN
    return ClassTable(
        names,
        np.array([True] * len(SEEN) + [False] * len(UNSEEN)),
        rng.uniform(0, 100, (len(names), ATTRIBUTES)),
        tuple(f"attribute {letter}" for letter in "abcdef"),
    )


def draw_pictures(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Pictures (n, 16, 16, 3) uint8: stripes whose width and colour depend on the class, with noise."""
    column = np.arange(SIDE)
    phase = np.sin(column[None, :] * (1 + labels[:, None]) / 3)[:, None, :, None]  # (n, 1, 16, 1)
    colour = np.stack([labels * 40, 200 - labels * 30, 90 + labels * 20], axis=1)[:, None, None, :]
    noisy = colour + 50 * phase + rng.normal(0, 20, (len(labels), SIDE, SIDE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def regions_of(backbone: Backbone, images: np.ndarray) -> np.ndarray:
    """Region features (n, R, V) float32 of pictures."""
    with torch.inference_mode():
        return backbone(torch.from_numpy(images)).numpy()


def fit_tiny_head(trained: Trained, table: ClassTable, replay: Replay, means: ClassMeans | None = None) -> Head:
    """The head of `table`, from its means, its rows, or what PyTorch synthesizes; with a gamma and a temperature."""
    if means is not None:
        return replace(gaussian_head(means, trained.gaussian, trained.views[0]), gamma=0.3, temperature=0.8)
    if trained.rows is not None:
        head = rows_head(table, rule=RULE, rows=lambda s: run_rows(trained.rows, s), view=trained.views[0])
        return replace(head, gamma=0.3, temperature=0.8)
    x, labels = fitting_rows(
        table,
        replay,
        rule=RULE,
        synthesize=lambda semantic, noise: run_batched(trained.synthesizer, semantic, noise),
        lift=None if trained.lift is None else lambda features: run_batched(trained.lift, features),
        width=trained.lifted_width,
        noise_dim=trained.noise_width,
        count=trained.synthetic_per_class,
        seed=SEED,
    )
    head = fit_head(x, labels, len(table), trained.views, SEED)
    return replace(head, gamma=0.3, temperature=0.8)


@dataclass(frozen=True)
class Config:
    """The tiny method's settings."""

    lift: bool = True
    rule: str = "fit"


def build(config: Config, dims: Dims) -> Trained:
    """What `zsl_train.methods` asks of a method's module: its own modules, whatever ships in the place of its head."""
    return make_tiny_trained(lift=config.lift, rule=config.rule)


def know_tiny(monkeypatch) -> None:
    """Enter the tiny method and backbone into the tables by which a run folder is read."""
    monkeypatch.setitem(methods.METHODS, "tiny", sys.modules[__name__])
    monkeypatch.setitem(backbones.BACKBONES, "tiny", TinyBackbone)


def save_tiny_run(run: Run, folder: Path) -> Path:
    """Write a run folder as zsl-train does."""
    table = run.generation.table
    images = ImageSet(
        root=folder,
        paths=("robin/1.png",),
        labels=np.zeros(1, dtype=np.int64),
        role=np.array(["train"]),
        table=table,
        words=table.attributes,
        word_vectors=None,
        split_version="tiny",
        notes=(),
    )
    recipe = Recipe(method="tiny", backbone="tiny", seed=run.seed, probe_pictures=run.probe_count)
    writer = RunWriter(folder, force=False)
    with writer.exclusive():
        rule = run.trained.head_rule
        config = Config(lift=False) if rule == "gaussian" else Config(run.trained.lift is not None, rule)
        writer.begin(recipe, config, "fingerprint")
        save_run(
            writer,
            trained=run.trained,
            backbone=run.backbone,
            dims=run.dims,
            generation=run.generation,
            replay=run.replay,
            rule=run.semantic_rule,
            recipe=recipe,
            scores=run.scores,
            pictures=run.pictures,
            picture_labels=run.picture_labels,
            images=images,
        )
    return folder
