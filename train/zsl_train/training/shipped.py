"""What a training ships: the head, its Replay, and the modules that are exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from zsl_runtime.errors import UsageError
from zsl_runtime.head.fitting import Replay, fit_head, fitting_rows, rows_head
from zsl_train.methods import find_method
from zsl_train.methods.base import device_of, run_batched, run_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from zsl_runtime.arrays import Floats, Ints
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.gaussian import ClassMeans
    from zsl_runtime.head.head import Head
    from zsl_runtime.head.semantic_rule import SemanticRule
    from zsl_train.methods.base import Trained
    from zsl_train.recipe import Recipe


REPLAY_BLOCK = 64  # pictures whose regions are in memory at once while Replay is drawn


def make_replay(features: Floats, labels: Ints, table: ClassTable, per_class: int, seed: int) -> Replay:
    """Real seen-class features in half precision, all or at most `per_class` of each class, drawn with a seed.

    Args:
        features: (n, F) of the training pictures.
        labels: (n,) rows of `table`.
        table: the classes.
        per_class: cap; 0 for none.
        seed: of the draw.

    """
    rng = np.random.default_rng([seed, 11])
    kept = []
    for one in np.flatnonzero(table.seen):
        rows = np.flatnonzero(labels == one)
        kept.append(np.sort(rng.permutation(rows)[: per_class or None]))
    chosen = np.concatenate(kept)
    return _as_replay(features[chosen], labels[chosen], table)


def sample_replay(
    trained: Trained,
    regions: NDArray[np.float16],
    rows: Ints,
    labels: Ints,
    *,
    table: ClassTable,
    count: int,
    seed: int,
) -> Replay:
    """`count` rows of every seen class drawn by the method's own `Trained.replay`, in half precision.

    A class's pictures take turns in a seeded order: each is drawn once before any is drawn twice.

    Args:
        trained: with `replay`.
        regions: (n_all, R, V) of the store.
        rows: (n,) training pictures.
        labels: (n,) rows of `table`.
        table: the classes.
        count: rows of each seen class.
        seed: of order and noise.

    """
    assert trained.replay is not None
    rng = np.random.default_rng([seed, 17])
    drawn, owners = [], []
    for one in np.intersect1d(np.flatnonzero(table.seen), labels):
        pictures = rng.permutation(rows[labels == one])[:count]
        turns = -(-count // len(pictures))
        noise = rng.standard_normal((len(pictures), turns, trained.noise_width), dtype=np.float32)
        parts = [
            run_batched(trained.replay, regions[pictures[i : i + REPLAY_BLOCK]], noise[i : i + REPLAY_BLOCK])
            for i in range(0, len(pictures), REPLAY_BLOCK)
        ]
        drawn.append(np.concatenate(parts).swapaxes(0, 1).reshape(-1, trained.feature_width)[:count])
        owners.append(one)
    return _as_replay(np.concatenate(drawn), np.repeat(owners, count), table)


def _as_replay(features: Floats, labels: Ints, table: ClassTable) -> Replay:
    known = np.flatnonzero(table.seen)
    position = np.full(len(table), -1)
    position[known] = np.arange(len(known))
    names = tuple(table.names[int(i)] for i in known)
    return Replay(features.astype(np.float16), position[labels].astype(np.int32), names)


def fewer(replay: Replay, per_class: int, seed: int) -> Replay:
    """At most `per_class` rows of every class, drawn with a seed, in their order."""
    rng = np.random.default_rng([seed, 23])
    kept = [rng.permutation(np.flatnonzero(replay.labels == one))[:per_class] for one in range(len(replay.names))]
    rows = np.sort(np.concatenate([np.zeros(0, np.int64), *kept]))
    return Replay(replay.features[rows], replay.labels[rows], replay.names)


def no_replay(width: int) -> Replay:
    """The Replay of a head that nothing is fitted for: no rows of `width` F, no classes."""
    return Replay(np.zeros((0, width), np.float16), np.zeros(0, np.int32), ())


def fit_shipped_head(trained: Trained, table: ClassTable, rule: SemanticRule, replay: Replay, seed: int) -> Head:
    """Generation 1's head, from what the bundle keeps: the same function that runs on site.

    Args:
        trained: with lift and synthesizer, or with rows.
        table: classes, seen and unseen.
        rule: semantic rule.
        replay: real features; not looked at where the rows come from semantic vectors.
        seed: of noise and fit.

    """
    lift, synthesizer, rows = trained.lift, trained.synthesizer, trained.rows
    if rows is not None:
        return rows_head(table, rule=rule, rows=lambda semantic: run_rows(rows, semantic), view=trained.views[0])
    assert synthesizer is not None
    x, labels = fitting_rows(
        table,
        replay,
        rule=rule,
        synthesize=lambda semantic, noise: run_batched(synthesizer, semantic, noise),
        lift=None if lift is None else lambda features: run_batched(lift, features),
        width=trained.lifted_width,
        noise_dim=trained.noise_width,
        count=trained.synthetic_per_class,
        seed=seed,
    )
    return fit_head(x, labels, len(table), trained.views, seed)


def embed_rows(trained: Trained, regions: NDArray[np.float16], rows: Ints, block: int = 64) -> Floats:
    """Features f of the pictures `rows` (n,) of the store: (n, F). Never more than a block of regions in memory."""
    starts = range(0, max(1, len(rows)), block)  # no rows are one empty block: it has the width
    return np.concatenate([run_batched(trained.embedder, regions[rows[i : i + block]]) for i in starts])


def run_part(
    module: nn.Module, regions: NDArray[np.float16], rows: Ints, semantic: Floats, *, block: int = 64
) -> Floats:
    """Scores (n, C) that one of `Trained.parts` gives the pictures `rows` (n,) of the store, of classes (C, A)."""
    device = device_of(module)
    scores = []
    with torch.inference_mode():
        classes = torch.from_numpy(semantic.copy()).to(device)
        for start in range(0, max(1, len(rows)), block):  # no rows are one empty block: it has the width
            of = regions[rows[start : start + block]].astype(np.float32)
            scores.append(module(torch.from_numpy(of).to(device), classes).numpy(force=True))
    return np.concatenate(scores)


def head_logits(trained: Trained, head: Head, features: Floats) -> Floats:
    """Weighted sum of the views' scores, before gamma and temperature: (n, C)."""
    total = np.zeros((len(features), len(head)), np.float32)
    for scores in view_logits(trained, head, features).values():
        total += scores
    return total


def view_logits(trained: Trained, head: Head, features: Floats) -> dict[str, Floats]:
    """Each view's part of `head_logits`, by its name: (n, C)."""
    x = features if trained.lift is None else run_batched(trained.lift, features)
    return {
        view.name: view.weight * (x[:, view.start : view.stop] @ weight.T + bias)
        for view, weight, bias in zip(head.views, head.weights, head.biases, strict=True)
    }


@dataclass(frozen=True)
class Shipped:
    """What a training ships.

    Attributes:
        trained: modules, in eval mode.
        head: Generation 1's.
        replay: what a published head can be fitted on again; empty for others.
        means: of the Gaussian head, what is known of each class.

    """

    trained: Trained
    head: Head
    replay: Replay
    means: ClassMeans | None = None


def has_published_head(recipe: Recipe) -> bool:
    """Whether the recipe's method has a head of its own."""
    return bool(getattr(find_method(recipe.method), "PUBLISHED_HEAD", True))


def ships_gaussian(recipe: Recipe) -> bool:
    """Whether a recipe's run ships the Gaussian head.

    Raises:
        UsageError: E-RECIPE when the published head is asked for and the method has none.

    """
    method = find_method(recipe.method)
    published = has_published_head(recipe)
    if recipe.head == "published" and not published:
        raise UsageError(
            "E-RECIPE", f"{recipe.method} has no head but the Gaussian one; leave --set head=published out"
        )
    if recipe.head != "preset":
        return recipe.head == "gaussian"
    return not published or (recipe.preset == "default" and getattr(method, "HEAD", "published") == "gaussian")
