"""One training run, from photographs or a feature file to a finished run folder.

Extract, select, train, make the head, score, save.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch

from zsl_runtime.bundle import Generation
from zsl_runtime.class_table import SemanticRule
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.gaussian import ClassMeans, evidence_of, gaussian_head, prior_means
from zsl_runtime.head import Head, Replay, fit_head, fitting_rows, rows_head
from zsl_train import backbones
from zsl_train.backbones.given import GivenFeatures
from zsl_train.data.att_splits import NEVER_USED
from zsl_train.data.feature_store import extract, given_store
from zsl_train.data.image_set import MANY_NEGATIVE
from zsl_train.data.pictures import Pictures
from zsl_train.data.word_vectors import learned_word_vectors, load_word_vectors
from zsl_train.evaluate import score
from zsl_train.gaussian import (
    Case,
    HeadChoice,
    Spectrum,
    check_classes,
    choose_settings,
    finish,
    logits,
    make_case,
    noise_banks,
    solve,
)
from zsl_train.gaussian_modules import run_means
from zsl_train.methods import find_method, gfzsl
from zsl_train.methods.base import Dims, TrainingData, run_batched, run_rows
from zsl_train.methods.baselines import BASELINES, scale
from zsl_train.methods.lengths import cap_epochs, estimate, names, size
from zsl_train.recipe import method_config
from zsl_train.run_folder import CHECKPOINT, RunWriter, save_run
from zsl_train.select import MINIMUM_SEEN, Choice, Fold, choose, choose_baseline, make_folds
from zsl_train.session import Session, write_atomic
from zsl_train.side_by_side import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from zsl_runtime.class_table import ClassTable
    from zsl_train.backbones.base import Backbone
    from zsl_train.data.feature_store import FeatureStore
    from zsl_train.data.image_set import ImageSet
    from zsl_train.methods.base import Trained
    from zsl_train.recipe import Recipe

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

DEFAULT_SECONDS = 18 * 60.0  # `--preset default` ends within 20 minutes on two cores: two are kept for heads and scores
REPLAY_BLOCK = 64  # pictures whose regions are in memory at once while Replay is drawn


@dataclass(frozen=True)
class Prepared:
    """Everything before the method: pictures, features, semantic vectors, word vectors.

    Attributes:
        images: the pictures and classes.
        store: their region features.
        rule: attributes -> semantic vectors.
        semantic: (C, A) float32.
        words: (A, W) float32.
        notes: things the user should be told.
        pictures: the pictures for a method that looks at them; None where there are features only.

    """

    images: ImageSet
    store: FeatureStore
    rule: SemanticRule
    semantic: Floats
    words: Floats
    notes: tuple[str, ...]
    pictures: Pictures | None = None

    @property
    def dims(self) -> Dims:
        """The sizes that fix a method's networks."""
        return Dims.of(self.store.regions, self.semantic, self.words, len(self.images.table))

    def rows(self, *roles: str, seen: bool | None = None) -> Ints:
        """Readable pictures with one of these roles, ascending."""
        found = np.concatenate([self.images.rows(role, seen=seen) for role in roles])
        return np.sort(found[self.store.ok[found]]).astype(np.int64)

    def training_rows(self) -> Ints:
        """Readable pictures that may be trained on, those marked for validation included."""
        return self.rows("train", "val", seen=True)


def prepare(images: ImageSet, backbone: Backbone | GivenFeatures, recipe: Recipe) -> Prepared:
    """Extract region features (or reuse them, or take the file's), apply the semantic rule, find word vectors."""
    if isinstance(backbone, GivenFeatures):
        assert images.features is not None
        store = given_store(images.features)
    else:
        store = extract(images, backbone)
    rule = SemanticRule(clamp_negative=recipe.clamp_negative, unit_l2=recipe.unit_l2)
    words, notes = _word_vectors(images, recipe)
    notes = (*images.notes, *rule_notes(rule, images.table), *fit_notes(images, recipe), *notes)
    pictures = None if isinstance(backbone, GivenFeatures) else Pictures(images, backbone)
    return Prepared(images, store, rule, rule.apply(images.table.raw), words, notes, pictures)


def rule_notes(rule: SemanticRule, table: ClassTable) -> tuple[str, ...]:
    """A warning where the semantic rule would throw away half of vectors that are negative by nature."""
    negative = float((table.raw < 0).mean())
    if not rule.clamp_negative or negative <= MANY_NEGATIVE:
        return ()
    note = (
        f"{negative:.0%} of the attributes are negative and become 0 by the semantic rule; for sentence vectors, which "
        "are negative by nature, add --set clamp_negative=false"
    )
    return (note,)


def fit_notes(images: ImageSet, recipe: Recipe) -> tuple[str, ...]:
    """A warning when the recipe, or else the preset, was made for other data sets than this looks like.

    A method's module may say in PRESETS_FOR which published data sets a preset of it was made for.
    """
    if recipe.data_set:
        made_for: tuple[str, ...] = (recipe.data_set,)
    else:
        made_for = getattr(find_method(recipe.method), "PRESETS_FOR", {}).get(recipe.preset, ())
    if not made_for or images.data_set in made_for:
        return ()
    what = f"recipe ({recipe.method}, preset {recipe.preset})" if recipe.data_set else f"preset {recipe.preset}"
    looks = f"looks like {images.data_set}" if images.data_set else "is none of the published data sets"
    return (f"the {what} was made for {', '.join(made_for)}; this data {looks}",)


def _word_vectors(images: ImageSet, recipe: Recipe) -> tuple[Floats, tuple[str, ...]]:
    from pathlib import Path

    if recipe.words:
        found = load_word_vectors(Path(recipe.words), images.words)
    elif images.word_vectors is not None:
        return images.word_vectors, ()
    else:
        found = learned_word_vectors(len(images.words), recipe.word_width, recipe.seed)
        if images.features is not None and images.features.regions == 1:
            return found.vectors, ()  # one region: there is nothing that words could find in it
    return found.vectors, found.notes


def training_data(prepared: Prepared, rows: Ints, table: ClassTable, labels: Ints, semantic: Floats) -> TrainingData:
    """What a method may see: the given rows of the store and the given classes."""
    return TrainingData(prepared.store.regions, rows, labels, table, semantic, prepared.words, prepared.pictures)


def make_replay(features: Floats, labels: Ints, table: ClassTable, per_class: int, seed: int) -> Replay:
    """Real seen-class features in half precision, at most `per_class` of each class, drawn with a seed.

    Args:
        features: (n, F) of the training pictures.
        labels: (n,) rows of `table`.
        table: the classes.
        per_class: cap.
        seed: of the draw.

    """
    rng = np.random.default_rng([seed, 11])
    kept = []
    for one in np.flatnonzero(table.seen):
        rows = np.flatnonzero(labels == one)
        kept.append(np.sort(rng.permutation(rows)[:per_class]))
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


def head_logits(trained: Trained, head: Head, features: Floats) -> Floats:
    """Weighted sum of the views' scores, before gamma and temperature: (n, C)."""
    x = features if trained.lift is None else run_batched(trained.lift, features)
    total = np.zeros((len(features), len(head)), np.float32)
    for view, weight, bias in zip(head.views, head.weights, head.biases, strict=True):
        total += view.weight * (x[:, view.start : view.stop] @ weight.T + bias)
    return total


def validation_folds(prepared: Prepared, recipe: Recipe) -> list[Fold]:
    """The recipe's folds; none when too few classes are seen."""
    rows = prepared.training_rows()
    marked = prepared.images.role[rows] == "val"
    return make_folds(
        rows,
        prepared.images.labels[rows],
        prepared.images.table.seen,
        count=recipe.folds,
        seed=recipe.seed,
        marked=marked if marked.any() else None,
        newcomers=ships_gaussian(recipe),
    )


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


def ships_gaussian(recipe: Recipe) -> bool:
    """Whether a recipe's run ships the Gaussian head.

    Raises:
        UsageError: E-RECIPE when the published head is asked for and the method has none.

    """
    method = find_method(recipe.method)
    published = getattr(method, "PUBLISHED_HEAD", True)
    if recipe.head == "published" and not published:
        raise UsageError(
            "E-RECIPE", f"{recipe.method} has no head but the Gaussian one; leave --set head=published out"
        )
    if recipe.head != "preset":
        return recipe.head == "gaussian"
    return not published or (recipe.preset == "default" and getattr(method, "HEAD", "published") == "gaussian")


class Trainer:
    """One run: selection on validation classes, then the training that ships.

    Args:
        prepared: pictures and features.
        recipe: resolved.
        config: the method's settings.
        checkpoints: folder for what an interrupted run goes on from.
        log: takes the lines of log.jsonl.
        progress: for the session's loops.
        keep: takes files that belong to the run (`RunWriter.keep`).

    """

    def __init__(
        self,
        prepared: Prepared,
        recipe: Recipe,
        config: Any,
        *,
        checkpoints: Path,
        log: Callable[[dict[str, Any]], None],
        progress: Callable[..., None] | None = None,
        keep: Callable[[str, bytes], None] = lambda _name, _content: None,
    ) -> None:
        self.keep = keep
        self.prepared = prepared
        self.recipe = recipe
        self.config = config
        self.method = find_method(recipe.method)
        self.checkpoints = checkpoints
        self.log = log
        self.progress = progress
        self.gaussian = ships_gaussian(recipe)
        self.variants = getattr(self.method, "variants", lambda one: [one])(config)
        self.rows = prepared.training_rows()
        self.labels = prepared.images.labels
        self.literature_seconds = 0.0
        # A method in closed form has no stage to cut short.
        self.snapshots = recipe.snapshots if names(self.method.stages(config, prepared.dims)) else (1.0,)

    def select(self, folds: list[Fold]) -> Choice:
        """Train on each fold and choose the share of the last stage, the head's settings, gamma and temperature.

        Where the method has variants, all are tried, the same one in every fold, and the best is kept.
        """
        jobs = [
            partial(self._fold, fold, index, len(folds), variant)
            for variant in range(len(self.variants))
            for index, fold in enumerate(folds)
        ]
        side_by_side(jobs)
        choices = [replace(self._choose(folds, variant), variant=variant) for variant in range(len(self.variants))]
        best = max(choices, key=lambda one: quality(one.validation_H))
        self.config = self.variants[best.variant]
        return best

    def _choose(self, folds: list[Fold], variant: int) -> Choice:
        """The choice for one variant of the method."""
        if not self.gaussian:
            return self._choose_published(folds, variant)
        candidates: dict[float, HeadChoice] = {}
        for share in self.snapshots:
            spectra = [self._spectrum(fold, index, variant, share) for index, fold in enumerate(folds)]
            candidates[share] = choose_settings(
                [(one, self.labels[fold.held_out], fold.seen) for one, fold in zip(spectra, folds, strict=True)]
            )
        known = {share: one.validation_H for share, one in candidates.items() if one.validation_H is not None}
        best = max(known, key=lambda share: (known[share], -share), default=max(self.snapshots))
        head = candidates[best]
        return Choice(best, head.gamma, head.temperature, head.validation_H, known, head)

    def _choose_published(self, folds: list[Fold], variant: int) -> Choice:
        """The share of the last stage, gamma and temperature for the method's own head."""
        labels = [self.labels[fold.held_out] for fold in folds]
        return choose(self._published_scores(folds, variant), labels, [fold.seen for fold in folds])

    def _published_scores(self, folds: list[Fold], variant: int) -> dict[float, list[Floats]]:
        """Share of the last stage -> the published head's scores of each fold's held-out pictures."""
        return {
            share: [load_array(self._fold_file(index, variant, f"scores-{share!r}.npy")) for index in range(len(folds))]
            for share in (self.snapshots if folds else ())
        }

    def _spectrum(self, fold: Fold, index: int, variant: int, share: float) -> Spectrum:
        """What the Gaussian head looks at of a fold's training at one snapshot."""
        arrays = load_arrays(self._fold_file(index, variant, f"case-{share!r}.npz"))
        held = arrays.pop("held")
        return Spectrum(Case.from_arrays(arrays), held, self.labels[fold.held_out])

    def _fold_file(self, index: int, variant: int, name: str) -> Path:
        return self.checkpoints / (f"fold{index}" if variant == 0 else f"fold{index}-{variant}") / name

    def _fold(self, fold: Fold, index: int, count: int, variant: int, check: Callable[[], None]) -> None:
        """Train on a fold and keep, at every snapshot, what a head is chosen by; not again what is there.

        Args:
            fold: which classes and pictures.
            index: of the fold.
            count: of the folds.
            variant: of the method.
            check: called before every step; raises when the training should end.

        """
        published = not self.gaussian or self.recipe.compare_heads
        kinds = [*(["case-{!r}.npz"] if self.gaussian else []), *(["scores-{!r}.npy"] if published else [])]
        wanted = {
            share: [self._fold_file(index, variant, kind.format(share)) for kind in kinds] for share in self.snapshots
        }
        if all(path.exists() for paths in wanted.values() for path in paths):
            return
        whole = replace(self.prepared.images.table, seen=fold.seen)
        labels = self.labels[fold.train]
        kept = np.flatnonzero(~fold.newcomers)
        heard = whole.take(kept)
        data = training_data(
            self.prepared, fold.train, heard, np.searchsorted(kept, labels), self.prepared.semantic[kept]
        )

        def snapshot(share: float, trained: Trained) -> None:
            features = embed_rows(trained, data.regions, fold.held_out)
            if self.gaussian:
                case = self._case(trained, embed_rows(trained, data.regions, fold.train), labels)
                save_arrays(wanted[share][0], case.to_arrays() | {"held": features})
            if published:
                replay = self._replay(trained, fold.train, labels, whole)
                head = fit_shipped_head(trained, whole, self.prepared.rule, replay, self.recipe.seed)
                save_array(wanted[share][-1], head_logits(trained, head, features))

        session = Session(
            self._fold_file(index, variant, ""),
            self.log,
            name=f"fold {index + 1}/{count}" if len(self.variants) == 1 else f"fold {index + 1}/{count}, {variant + 1}",
            progress=self.progress,
            check=check,
            snapshot_at=self.snapshots,
            snapshot=snapshot,
        )
        self.method.fit(data, self.variants[variant], session, self.recipe.seed)

    def _case(self, trained: Trained, features: Floats, labels: Ints) -> Case:
        """What the Gaussian head looks at: features (n, F) of training pictures, and what the generator makes."""
        semantic, generated = self.prepared.semantic, {}
        if trained.synthesizer is not None:
            for count, noise in noise_banks(trained.noise_width, self.recipe.seed).items():
                rows, drawn = np.repeat(semantic, count, axis=0), np.tile(noise, (len(semantic), 1))
                made = run_batched(trained.synthesizer, rows, drawn)
                generated[count] = made.reshape(len(semantic), count, -1).mean(axis=1)
        return make_case(features, labels, semantic, generated)

    def _replay(self, trained: Trained, rows: Ints, labels: Ints, table: ClassTable) -> Replay:
        if trained.head_rule == "rows":
            return no_replay(trained.feature_width)
        regions, most, seed = self.prepared.store.regions, self.recipe.replay_per_class, self.recipe.seed
        if trained.replay is not None:
            count = min(trained.replay_per_class, most)
            return sample_replay(trained, regions, rows, labels, table=table, count=count, seed=seed)
        return make_replay(embed_rows(trained, regions, rows), labels, table, most, seed)

    def train(self, choice: Choice) -> Shipped:
        """Train on all seen classes as chosen, and make the head that ships."""
        labels = self.labels[self.rows]
        trained = self._fit_all(self.checkpoints / "final", "final", stop_at=choice.stop_at)
        self.own = trained
        if choice.head is None and not self.gaussian:
            head, replay = self.published_head(trained)
            return Shipped(trained, replace(head, gamma=choice.gamma, temperature=choice.temperature), replay)
        features = embed_rows(trained, self.prepared.store.regions, self.rows)
        spectrum = Spectrum(self._case(trained, features, labels), features[:0], labels[:0])
        noise = noise_banks(trained.noise_width, self.recipe.seed)
        made = finish(trained, spectrum, choice.head or HeadChoice(), noise)
        assert made.lift is not None
        assert made.means is not None
        assert made.gaussian is not None
        module = made.means
        prior = prior_means(
            self.prepared.images.table,
            rule=self.prepared.rule,
            means=lambda semantic: run_means(module, semantic),
            width=made.lifted_width,
        )
        means = ClassMeans.without_photographs(prior).taught(evidence_of(run_batched(made.lift, features), labels))
        head = gaussian_head(means, made.gaussian, made.views[0])
        head = replace(head, gamma=choice.gamma, temperature=choice.temperature)
        return Shipped(made, head, no_replay(made.feature_width), means)

    def published_head(self, trained: Trained) -> tuple[Head, Replay]:
        """The method's own head of all classes, gamma 0 and temperature 1, and what it was fitted on."""
        table, labels = self.prepared.images.table, self.labels[self.rows]
        replay = self._replay(trained, self.rows, labels, table)
        return fit_shipped_head(trained, table, self.prepared.rule, replay, self.recipe.seed), replay

    def other_head(self, folds: list[Fold], choice: Choice) -> dict[str, Any]:
        """Test scores of the published head on the same features, gamma and temperature chosen on the same folds.

        The share of the last stage stays that of the head that ships, so that only the heads differ; what the folds say
        of the published head at every share is under `candidates`.
        """
        by_share = self._published_scores(folds, choice.variant)
        labels, seen = [self.labels[fold.held_out] for fold in folds], [fold.seen for fold in folds]
        own = choose({share: one for share, one in by_share.items() if share == choice.stop_at}, labels, seen)
        every = choose(by_share, labels, seen)
        head, _ = self.published_head(self.own)
        head = replace(head, gamma=own.gamma, temperature=own.temperature)
        czsl = self.conventional(self.own)
        figures = self.test(self.own, head) | {"T1_czsl": czsl, "gamma": own.gamma, "validation_H": own.validation_H}
        candidates = {str(share): value for share, value in every.candidates.items()}
        return {"rule": self.own.head_rule, **figures, "candidates": candidates}

    def _fit_all(self, folder: Path, name: str, *, stop_at: float) -> Trained:
        """The method on all seen classes, up to a share of its last stage."""
        table = self.prepared.images.table
        data = training_data(self.prepared, self.rows, table, self.labels[self.rows], self.prepared.semantic)
        session = Session(
            folder,
            self.log,
            name=name,
            progress=self.progress,
            snapshot_at=self.snapshots if self.recipe.literature else (),
            snapshot=self._save_literature,
            stop_at=stop_at,
            keep=self.keep if name == "final" else lambda _name, _content: None,
        )
        return self.method.fit(data, self.config, session, self.recipe.seed)

    def test(self, trained: Trained, head: Head) -> dict[str, float | None]:
        """Scores on the test pictures: beside `literature`, the only place that looks at them."""
        rows = self.prepared.rows("test")
        logits = head_logits(trained, head, embed_rows(trained, self.prepared.store.regions, rows))
        return score(logits, self.labels[rows], self.prepared.images.table.seen, head.gamma, head.temperature)

    def literature(self) -> dict[str, Any]:
        """What the papers report: every snapshot of the whole schedule scored on the test pictures, and the best.

        Optimistic, because the best is picked on test data (docs/methods.md 1.5), and with gamma 0 as published.
        `train` has left the snapshots up to its end; a copy of it that goes on to the end of the schedule, which
        nothing else looks at, gives the rest.
        """
        if not all(self._literature_file(share).exists() for share in self.snapshots):
            folder = self.checkpoints / "literature"
            for checkpoint in (self.checkpoints / "final").glob("*.pt"):
                if not (folder / checkpoint.name).exists():
                    folder.mkdir(exist_ok=True)
                    write_atomic(folder / checkpoint.name, partial(shutil.copyfile, checkpoint))
            self._fit_all(folder, "literature", stop_at=1.0)
        rows = self.prepared.rows("test")
        labels, seen = self.labels[rows], self.prepared.images.table.seen
        logits = {share: load_array(self._literature_file(share)) for share in self.snapshots}
        return best_on_test({share: score(one, labels, seen, 0.0, 1.0) for share, one in logits.items()})

    def _literature_file(self, share: float) -> Path:
        return self.checkpoints / "literature" / f"scores-{share!r}.npy"

    def _save_literature(self, share: float, trained: Trained) -> None:
        """Scores of the test pictures at one snapshot under the published head, written aside."""
        began = time.monotonic()
        if not self._literature_file(share).exists():
            head, _ = self.published_head(trained)
            features = embed_rows(trained, self.prepared.store.regions, self.prepared.rows("test"))
            save_array(self._literature_file(share), head_logits(trained, head, features))
        self.literature_seconds += time.monotonic() - began

    def conventional(self, trained: Trained) -> float | None:
        """T1_czsl: a separate head fitted on synthetic features of the unseen classes only (docs/methods.md 1.5)."""
        table = self.prepared.images.table
        unseen = np.flatnonzero(~table.seen)
        rows = self.prepared.rows("test", seen=False)
        if len(unseen) < 2 or len(rows) == 0:  # one class cannot be told from another
            return None
        assert trained.means is None, "rows that do not depend on each other: T1 is that figure already"
        only = table.take(unseen)
        empty = no_replay(trained.feature_width)
        head = fit_shipped_head(trained, only, self.prepared.rule, empty, self.recipe.seed)
        logits = head_logits(trained, head, embed_rows(trained, self.prepared.store.regions, rows))
        labels = np.searchsorted(unseen, self.labels[rows])
        return score(logits, labels, only.seen, 0.0, 1.0)["T1"]

    def told_apart(self, first: float | None) -> float | None:
        """T1 where there are two unseen classes to tell apart."""
        return first if (~self.prepared.images.table.seen).sum() > 1 else None

    def baselines(self, folds: list[Fold]) -> dict[str, dict[str, Any]]:
        """Test scores of the baselines, each with its own choices on the same validation classes."""
        linear = self._linear_baselines(folds)
        if self.recipe.method == gfzsl.NAME:
            return linear
        # With newcomers, whatever head ships: it is what the base of that name is chosen on, and every fold of it has
        # a spread within some class.
        newcomers = folds if self.gaussian else validation_folds(self.prepared, replace(self.recipe, head="gaussian"))
        try:
            return {gfzsl.NAME: self._gfzsl(newcomers if folds else [])} | linear
        except UsageError as error:
            if not error.code.startswith("E-GAUSSIAN-"):
                raise
            self.log({"note": f"no baseline {gfzsl.NAME}: {error.message}"})
            return linear

    def _gfzsl(self, folds: list[Fold]) -> dict[str, Any]:
        """The Gaussian head on the mean-pooled features, in closed form."""
        began = time.monotonic()
        pooled, test = self.prepared.store.pooled(), self.prepared.rows("test")
        semantic, labels = self.prepared.semantic, self.labels

        def spectrum(train: Ints, held: Ints, scaling: str) -> Spectrum:
            x, h = (scale(pooled[rows], pooled[train], scaling).astype(np.float32) for rows in (train, held))
            return Spectrum(make_case(x, labels[train], semantic), h, labels[held])

        found = {
            scaling: choose_settings(
                [(spectrum(fold.train, fold.held_out, scaling), labels[fold.held_out], fold.seen) for fold in folds]
            )
            for scaling in gfzsl.SCALINGS
        }
        scaling = max(found, key=lambda one: quality(found[one].validation_H))
        head = found[scaling]
        final = spectrum(self.rows, test, scaling)
        z = logits(final, head.settings, solve(final, head.settings), head.errors)
        figures = score(z, labels[test], self.prepared.images.table.seen, head.gamma, head.temperature)
        chosen = {"scaling": scaling, **head.to_dict(), "gamma": head.gamma, "validation_H": head.validation_H}
        return figures | chosen | {"seconds": round(time.monotonic() - began, 2)}

    def _linear_baselines(self, folds: list[Fold]) -> dict[str, dict[str, Any]]:
        pooled, test = self.prepared.store.pooled(), self.prepared.rows("test")
        table, semantic = self.prepared.images.table, self.prepared.semantic
        results: dict[str, dict[str, Any]] = {}
        for name, (fit, _) in BASELINES.items():
            began = time.monotonic()
            choice = choose_baseline(name, folds, pooled, self.labels, semantic)
            train = pooled[self.rows]
            predict = fit(
                scale(train, train, choice.scaling), self.labels[self.rows], semantic, table.seen, choice.ridges
            )
            logits = predict(scale(pooled[test], train, choice.scaling))
            figures = score(logits, self.labels[test], table.seen, choice.gamma, 1.0)
            figures.pop("ECE")  # a baseline's scores are no probabilities
            results[name] = figures | {
                "scaling": choice.scaling,
                "ridges": list(choice.ridges),
                "gamma": choice.gamma,
                "validation_H": choice.validation_H,
                "seconds": round(time.monotonic() - began, 2),
            }
        return results


def quality(validation_H: float | None) -> float:  # the metric's name
    """What candidates are compared by: their H on validation classes; one that could not be validated is worst."""
    return -1.0 if validation_H is None else validation_H


def best_on_test(snapshots: Mapping[float, Mapping[str, float | None]]) -> dict[str, Any]:
    """The papers' column of a table: the best snapshot by its own test scores, T1 and H each by its own best.

    Args:
        snapshots: share of the last stage -> test scores without gamma.

    """
    figures = ("T1", "U", "S", "H", "AUSUC")
    last = snapshots[max(snapshots)]
    known = {share: one for share, one in snapshots.items() if one["H"] is not None}
    best = max(known, key=lambda share: (known[share]["H"], -share), default=None)
    firsts = [one["T1"] for one in snapshots.values() if one["T1"] is not None]
    return {
        "note": "optimistic: the best snapshot was picked by these very test pictures, as published codes do; gamma 0",
        "best": None if best is None else {"share": best} | {name: known[best][name] for name in figures},
        "best_T1": max(firsts, default=None),
        "last": {"share": max(snapshots)} | {name: last[name] for name in figures},
        "snapshots": {str(share): {name: one[name] for name in figures} for share, one in snapshots.items()},
    }


def save_array(path: Path, array: Floats) -> None:
    """Write an .npy under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, array)

    write_atomic(path, write)


def load_array(path: Path) -> Floats:
    """Read what `save_array` wrote; ArtefactError E-CHECKPOINT when it is damaged."""
    try:
        array: Floats = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _damaged(path, error) from error
    return array


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its own keywords are none of our names

    write_atomic(path, write)


# What NumPy and zipfile raise for damaged files.
UNREADABLE = (ValueError, TypeError, EOFError, LookupError, RuntimeError, OSError, BadZipFile)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save_arrays` wrote; ArtefactError E-CHECKPOINT when it is damaged."""
    try:
        # The file is opened here, because np.load leaves it open when it fails.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except UNREADABLE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ArtefactError:
    return ArtefactError(
        "E-CHECKPOINT", f"{path} cannot be read ({error}); run zsl-train again with --force to start over"
    )


def keep_pictures(
    prepared: Prepared, recipe: Recipe, backbone: Backbone | GivenFeatures
) -> tuple[NDArray[np.uint8] | Floats, Ints]:
    """Inputs for probe and parity gate: spread over the classes, seeded; training pictures, then test pictures.

    Returns:
        Pictures (n, P, P, 3) uint8, or rows of the feature file (n, R, V) float32; and their classes (n,).

    """
    from zsl_runtime.pixels import prepare as prepare_pixels

    wanted = recipe.probe_pictures + recipe.parity_pictures
    rng = np.random.default_rng([recipe.seed, 13])
    train, test = rng.permutation(prepared.rows("train", "val")), rng.permutation(prepared.rows("test"))
    order = np.concatenate([in_turns(rows, prepared.images.labels[rows]) for rows in (train, test)])[:wanted]
    if backbone.pixels is None:
        return prepared.store.regions[order].astype(np.float32), prepared.images.labels[order]
    pixels = [prepare_pixels(prepared.images.root / prepared.images.paths[int(i)], backbone.pixels) for i in order]
    return np.stack(pixels), prepared.images.labels[order]


def in_turns(rows: Ints, labels: Ints) -> Ints:
    """The same rows, one of each class, then the second of each, and so on; classes in the order they first come."""
    turn = np.zeros(len(rows), np.int64)
    for one in np.unique(labels):
        of_class = np.flatnonzero(labels == one)
        turn[of_class] = np.arange(len(of_class))
    return rows[np.argsort(turn, kind="stable")]


def fingerprint(prepared: Prepared, recipe: Recipe, config: Any) -> str:
    """Hash of all a run depends on: features, split, attributes, word vectors and the resolved recipe."""
    digest = hashlib.sha256(prepared.store.fingerprint.encode())
    digest.update(json.dumps(recipe.resolved(config).to_dict(), sort_keys=True).encode())
    for array in (prepared.images.labels, prepared.semantic, prepared.words, prepared.store.ok):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("\n".join([*prepared.images.role, *prepared.images.table.names]).encode())
    return digest.hexdigest()


def null_reasons(prepared: Prepared) -> dict[str, str]:
    """Figure -> why it is null, for every figure of the test pictures that cannot be known."""
    classes = int((~prepared.images.table.seen).sum())
    unseen, seen = (len(prepared.rows("test", seen=kind)) for kind in (False, True))
    both = ("H", "H_uncalibrated", "AUSUC")
    unit = prepared.images.unit
    reasons: dict[str, str] = {}
    if seen == 0:
        reasons |= dict.fromkeys(("S", *both), f"no test {unit} of seen classes")
    if unseen == 0:
        why = f"no {unit} of unseen classes" if classes else "no unseen classes"
        reasons |= dict.fromkeys(("T1", "U", "T1_czsl", *both), why)
    elif classes == 1:
        reasons["T1_czsl"] = "a single unseen class"
    if seen == unseen == 0:
        reasons["ECE"] = f"no test {unit}"
    return reasons


def _folds(count: int) -> str:
    return "1 fold" if count == 1 else f"{count} folds"


def trainings_in_turn(folds: int) -> int:
    """Trainings one after the other on two cores: the folds run two at a time (`side_by_side`), then the final one.

    Two whatever this machine has: the lengths of `--preset default` must not depend on it.
    """
    return 1 + -(-folds // 2)


def selection_rule(recipe: Recipe, folds: list[Fold], choice: Choice) -> str:
    """How gamma and the rest were chosen, or why they were not."""
    if choice.validation_H is not None:
        return (
            f"{_folds(len(folds))} of validation classes carved out of the seen ones"
            f"{', half of them newcomers to the training,' if choice.head else ''} chose the share of the last stage, "
            f"{'the settings of the head, ' if choice.head else ''}gamma and the temperature; test pictures were "
            "looked at once"
        )
    if recipe.folds == 0:
        why = "folds = 0"
    elif not folds:
        why = f"fewer than {MINIMUM_SEEN} seen classes"
    else:
        why = "no photographs of training classes to hold out"
    return f"nothing was selected ({why}): gamma 0, temperature 1, the whole schedule"


def features_used(backbone: Backbone | GivenFeatures) -> dict[str, Any]:
    """Where the features come from, and for a feature file which one and what of its split is left alone."""
    if isinstance(backbone, GivenFeatures):
        return {"features": str(backbone), "feature_file": backbone.facts(), "published_folds": NEVER_USED}
    return {"features": f"{backbone.name} at {backbone.pixels.crop} px, weights {backbone.weights_sha256[:12]}"}


def protocol(
    prepared: Prepared, recipe: Recipe, backbone: Backbone | GivenFeatures, folds: list[Fold], choice: Choice
) -> dict[str, Any]:
    """What stands behind the figures (docs/methods.md 1.5)."""
    table = prepared.images.table
    return {
        "split": prepared.images.split_version,
        **features_used(backbone),
        "attributes": prepared.images.attribute_source or f"{len(table.attributes)} class attributes",
        "classes": {"seen": int(table.seen.sum()), "unseen": int((~table.seen).sum())},
        "pictures": {
            "train": len(prepared.training_rows()),
            "test_seen": len(prepared.rows("test", seen=True)),
            "test_unseen": len(prepared.rows("test", seen=False)),
            "unreadable": int((~prepared.store.ok).sum()),
        },
        "selection": selection_rule(recipe, folds, choice),
        "setting": "inductive; attributes of the unseen classes are known while training (semantic-transductive)",
        "seed": recipe.seed,
    }


def sized(config: Any, recipe: Recipe, dims: Dims, count: int, folds: int) -> Any:
    """The lengths of preset `default`, where the user gave none: sized to the data and to `DEFAULT_SECONDS` in all.

    Args:
        config: of the method.
        recipe: names the method and the preset.
        dims: of the training data.
        count: training pictures.
        folds: of the selection, which take their part of the time.

    """
    stages = find_method(recipe.method).stages(config, dims)
    if recipe.preset != "default" or set(recipe.settings) & names(stages):
        return config
    return size(stages, config, count, DEFAULT_SECONDS / trainings_in_turn(folds))


def run_training(
    images: ImageSet,
    backbone: Backbone | GivenFeatures,
    recipe: Recipe,
    writer: RunWriter,
    *,
    most_epochs: float | None = None,
    say: Callable[[str], None],
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Train as the recipe says and fill the run folder; returns the content of scores.json.

    Args:
        images: pictures and classes.
        backbone: frozen network, or what stands for the feature file of `images`.
        recipe: what to do.
        writer: the open run folder.
        most_epochs: no stage longer than this many epochs.
        say: one line of progress for the user.
        progress: called inside the training loops.

    """
    method = find_method(recipe.method)
    config = method_config(method.Config, method.PRESETS, recipe)
    prepared = prepare(images, backbone, recipe)
    for note in prepared.notes:
        say(f"note: {note}")
    rows = prepared.training_rows()
    if ships_gaussian(recipe):
        check_classes(images.labels[rows], prepared.semantic)
    dims = prepared.dims
    folds = validation_folds(prepared, recipe)
    config = sized(config, recipe, dims, len(rows), len(folds))
    stages = method.stages(config, dims)
    if most_epochs is not None:
        config = cap_epochs(stages, config, most_epochs, len(rows))
    minutes = estimate(stages, config, len(rows)) * trainings_in_turn(len(folds)) / 60
    say(
        f"training {recipe.method} ({recipe.preset}) on {len(rows)} {images.unit}, {_folds(len(folds))} for validation:"
    )
    say(f"about {minutes:.1f} minutes on 2 cores")
    writer.begin(recipe, config, fingerprint(prepared, recipe, config))
    # Now, so that the run is whole even if the photographs move away while it trains.
    pictures, picture_labels = keep_pictures(prepared, recipe, backbone)
    trainer = Trainer(
        prepared,
        recipe,
        config,
        checkpoints=writer.folder / CHECKPOINT,
        log=writer.log,
        progress=progress,
        keep=writer.keep,
    )

    began = time.monotonic()
    choice = trainer.select(folds)
    if choice.validation_H is not None:
        chosen = f"{choice.stop_at:.0%} of the last stage, gamma {choice.gamma:.2f}"
        say(f"validation classes: H {choice.validation_H:.1f}, {chosen}")
    shipped = trainer.train(choice)
    head, seconds = shipped.head, time.monotonic() - began - trainer.literature_seconds
    tested = trainer.test(shipped.trained, head)
    scores: dict[str, Any] = tested | {
        # Rows of the Gaussian head do not depend on each other: unseen ones alone are T1's.
        "T1_czsl": trainer.conventional(shipped.trained) if shipped.means is None else trainer.told_apart(tested["T1"]),
        "head": shipped.trained.head_rule,
        "head_settings": None if choice.head is None else choice.head.to_dict(),
        "gamma": head.gamma,
        "temperature": head.temperature,
        "validation_H": choice.validation_H,
        "stop_at": choice.stop_at,
        "candidates": {str(share): value for share, value in choice.candidates.items()},
        "method": recipe.method,
        "preset": recipe.preset,
        "train_seconds": round(seconds, 1),
        "null": null_reasons(prepared),
        "protocol": protocol(prepared, recipe, backbone, folds, choice),
        "baselines": trainer.baselines(folds),
        "machine": {"processor": platform.processor() or platform.machine(), "torch": torch.__version__},
    }
    if recipe.compare_heads and trainer.gaussian and trainer.own.head_rule != "gaussian":
        scores["published_head"] = trainer.other_head(folds, choice)
    if recipe.literature and trainer.own.head_rule != "gaussian":
        scores["literature"] = trainer.literature()
    save_run(
        writer,
        trained=shipped.trained,
        backbone=backbone,
        dims=dims,
        generation=Generation(1, 0, images.table, head, recipe.seed, "export", means=shipped.means),
        replay=shipped.replay,
        rule=prepared.rule,
        recipe=recipe,
        scores=scores,
        pictures=pictures,
        picture_labels=picture_labels,
        images=images,
    )
    return scores


def open_backbone(recipe: Recipe, weights: str | None) -> Backbone:
    """The recipe's backbone with its ImageNet weights."""
    return backbones.build(recipe.backbone, weights, recipe.image_size or None)
