"""Trainings for folds and for the run, each resumed where it was stopped."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.head.gaussian import ClassMeans, evidence_of, gaussian_head, prior_means
from zsl_runtime.head.held_out import percentiles
from zsl_train.devices import CPU, computing
from zsl_train.head.gaussian import (
    Case,
    HeadChoice,
    Spectrum,
    choose_settings,
    finish,
    held_out_distances,
    make_case,
    noise_banks,
)
from zsl_train.head.modules import run_means
from zsl_train.methods import find_method
from zsl_train.methods.base import run_batched
from zsl_train.methods.lengths import names
from zsl_train.methods.session import Session
from zsl_train.scoring.evaluate import best_held
from zsl_train.scoring.folds import Fold, make_folds
from zsl_train.training.choice import Choice, choose, quality
from zsl_train.training.closed_forms import Tested, tested
from zsl_train.training.prepared import Prepared, training_data
from zsl_train.training.shipped import (
    Shipped,
    embed_rows,
    fit_shipped_head,
    has_published_head,
    head_logits,
    make_replay,
    no_replay,
    run_part,
    sample_replay,
    ships_gaussian,
    view_logits,
)
from zsl_train.training.side_by_side import side_by_side
from zsl_train.training.stored import load_array, load_arrays, save_array, save_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from zsl_runtime.arrays import Floats, Ints
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.fitting import Replay
    from zsl_runtime.head.head import Head
    from zsl_train.methods.base import Trained, TrainingData
    from zsl_train.recipe import Recipe
    from zsl_train.scoring.evaluate import Held


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
        pairs=recipe.compare_heads,
    )


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
        # Heads that folds and the final training make: the one that ships, and perhaps the other beside it.
        self.makes_gaussian = self.gaussian or recipe.compare_heads
        self.makes_published = not self.gaussian or (recipe.compare_heads and has_published_head(recipe))
        self.given = config
        self.variants = getattr(self.method, "variants", lambda one: [one])(config)
        self.rows = prepared.training_rows()
        self.labels = prepared.images.labels
        self.folds: list[Fold] = []
        self.cross = False
        self.final_views: list[str] = []  # of the final training, as the method gave it
        # A method in closed form has no stage to cut short.
        self.snapshots = recipe.snapshots if names(self.method.stages(config, prepared.dims)) else (1.0,)

    def select(self, folds: list[Fold], *, cross: bool = False) -> Choice:
        """Train on each fold and choose the share of the last stage, the head's settings, gamma and temperature.

        Where the method has variants, all are tried, the same one in every fold, and the best is kept; what it chooses
        in closed form is chosen before, for all folds at once.

        Args:
            folds: of validation classes.
            cross: find out what the others would choose for each fold (`Choice.held`).

        """
        self.cross = cross
        if self._settles:
            self.variants = [self._settled(folds)]
        self._train_on(folds, range(len(self.variants)))
        self.folds = folds
        choices = [replace(self._choose(folds, variant), variant=variant) for variant in range(len(self.variants))]
        best = max(choices, key=lambda one: quality(one.validation_H))
        self.config = self.variants[best.variant]
        held = best_held([one.held for one in choices if one.held])
        return replace(best, held=self._settled_by_others(folds) if self._settles and cross else held)

    @property
    def _settles(self) -> bool:
        """Whether the method chooses settings in closed form, before any training."""
        return hasattr(self.method, "settle")

    def _settled(self, folds: list[Fold]) -> Any:
        """The settings that it chooses on these folds."""
        pooled = self.prepared.store.pooled()
        return self.method.settle(self.given, folds, pooled, self.labels, self.prepared.semantic)  # type: ignore[attr-defined]

    def _settled_by_others(self, folds: list[Fold]) -> tuple[Held | None, ...]:
        """Every fold with what the others choose, the settings of the closed form among it."""
        held = []
        for place in range(len(folds)):
            others = [fold for k, fold in enumerate(folds) if k != place]
            config = self._settled(others) if others else self.variants[0]
            if config not in self.variants:
                self.variants.append(config)
                self._train_on(folds, [len(self.variants) - 1])
            choice = self._choose(folds, self.variants.index(config))
            held.append(choice.held[place] if choice.held else None)
        return tuple(held)

    def _train_on(self, folds: list[Fold], variants: Iterable[int]) -> None:
        """Train variants on each fold."""
        count = len(folds)
        side_by_side([partial(self._fold, fold, k, count, one) for one in variants for k, fold in enumerate(folds)])

    def chosen(self) -> dict[str, Any]:
        """Settings of the method that validation classes chose; call it after `select`."""
        given, config = asdict(self.given), asdict(self.config)
        return {name: value for name, value in config.items() if value != given[name]}

    def _choose(self, folds: list[Fold], variant: int) -> Choice:
        """The choice for one variant of the method."""
        if not self.gaussian:
            return self._choose_published(folds, variant)
        candidates = self.head_choices(folds, variant)
        known = {share: one.validation_H for share, one in candidates.items() if one.validation_H is not None}
        # Where the generator has no part in a class's mean, all shares are alike: then the head beside decides.
        beside = self._choose_published(folds, variant).candidates if self.makes_published else {}
        best = max(known, key=lambda share: (known[share], beside.get(share, 0.0), -share), default=max(self.snapshots))
        head = candidates[best]
        held = best_held([one.held for _, one in sorted(candidates.items()) if one.held])
        return Choice(best, head.gamma, head.temperature, head.validation_H, known, head, held=held)

    def head_choices(self, folds: list[Fold], variant: int) -> dict[float, HeadChoice]:
        """Share of the last stage -> what the folds choose for the Gaussian head there."""
        found = {}
        for share in self.snapshots:
            spectra = [self._spectrum(fold, index, variant, share) for index, fold in enumerate(folds)]
            found[share] = choose_settings(
                [(one, self.labels[fold.held_out], fold.seen) for one, fold in zip(spectra, folds, strict=True)],
                cross=self.cross,
            )
        return found

    def _choose_published(self, folds: list[Fold], variant: int) -> Choice:
        """The share of the last stage, gamma and temperature for the method's own head."""
        labels = [self.labels[fold.held_out] for fold in folds]
        return choose(self.published_scores(folds, variant), labels, [fold.seen for fold in folds])

    def published_scores(self, folds: list[Fold], variant: int) -> dict[float, list[Floats]]:
        """Share of the last stage -> the published head's scores of each fold's held-out pictures."""
        shared = self._shared_views(variant)

        def scores(index: int, share: float) -> Floats:
            if shared is None:
                return load_array(self.fold_file(index, variant, f"scores-{share!r}.npy"))
            parts = load_arrays(self.fold_file(index, variant, f"views-{share!r}.npz"))
            total: Floats = np.sum([parts[name] for name in shared], axis=0, dtype=np.float32)
            return total

        return {
            share: [scores(index, share) for index in range(len(folds))] for share in (self.snapshots if folds else ())
        }

    def _shared_views(self, variant: int) -> list[str] | None:
        """The views that every training of the run has, where not all have the same ones; else None.

        A method finds out in each training whether a view is of any use. A head is chosen on the folds for the final
        training, so it has the views that all of them have.
        """
        files = [self.fold_file(i, variant, f"views-{self.snapshots[-1]!r}.npz") for i in range(len(self.folds))]
        found = [list(load_arrays(file)) for file in files if file.exists()]
        if self.final_views and found:
            found.append(self.final_views)
        if not found or all(one == found[0] for one in found):
            return None
        return [name for name in found[0] if all(name in one for one in found)]

    def _spectrum(self, fold: Fold, index: int, variant: int, share: float) -> Spectrum:
        """What the Gaussian head looks at of a fold's training at one snapshot."""
        arrays = load_arrays(self.fold_file(index, variant, f"case-{share!r}.npz"))
        held = arrays.pop("held")
        return Spectrum(Case.from_arrays(arrays), held, self.labels[fold.held_out])

    def fold_file(self, index: int, variant: int, name: str) -> Path:
        """Where a fold's training of a variant keeps something."""
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
        kinds = ["case-{!r}.npz"] if self.makes_gaussian else []
        kinds += ["scores-{!r}.npy"] if self.makes_published else []
        wanted = {
            share: [self.fold_file(index, variant, kind.format(share)) for kind in kinds] for share in self.snapshots
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
            # First: what is `wanted` comes last, so that a fold which has it has everything.
            parts = {
                name: run_part(module, data.regions, fold.held_out, self.prepared.semantic)
                for name, module in trained.parts.items()
            }
            if parts:
                save_arrays(self.fold_file(index, variant, f"parts-{share!r}.npz"), parts)
            features = embed_rows(trained, data.regions, fold.held_out)
            if self.makes_gaussian:
                case = self.case(trained, embed_rows(trained, data.regions, fold.train), labels)
                save_arrays(wanted[share][0], case.to_arrays() | {"held": features})
            if self.makes_published:
                replay = self.replay(trained, fold.train, labels, whole)
                head = fit_shipped_head(trained, whole, self.prepared.rule, replay, self.recipe.seed)
                if hasattr(self.method, "keep_views"):
                    views = view_logits(trained, head, features)
                    save_arrays(self.fold_file(index, variant, f"views-{share!r}.npz"), views)
                save_array(wanted[share][-1], head_logits(trained, head, features))

        session = Session(
            self.fold_file(index, variant, ""),
            self.log,
            name=f"fold {index + 1}/{count}" if len(self.variants) == 1 else f"fold {index + 1}/{count}, {variant + 1}",
            progress=self.progress,
            check=check,
            snapshot_at=self.snapshots,
            snapshot=snapshot,
        )
        self.fit(data, self.variants[variant], session)

    def fit(self, data: TrainingData, config: Any, session: Session) -> Trained:
        """The method on this data, on the run's device; what comes out lies on the CPU. A closed form stays there."""
        device = self.prepared.device if names(self.method.stages(config, data.dims)) else CPU
        with computing(device):
            return self.method.fit(data, config, session, self.recipe.seed).cpu()

    def case(self, trained: Trained, features: Floats, labels: Ints) -> Case:
        """What the Gaussian head looks at: features (n, F) of training pictures, and what the generator makes."""
        semantic, generated = self.prepared.semantic, {}
        if trained.synthesizer is not None:
            for count, noise in noise_banks(trained.noise_width, self.recipe.seed).items():
                rows, drawn = np.repeat(semantic, count, axis=0), np.tile(noise, (len(semantic), 1))
                made = run_batched(trained.synthesizer, rows, drawn)
                generated[count] = made.reshape(len(semantic), count, -1).mean(axis=1)
        return make_case(features, labels, semantic, generated)

    def replay(self, trained: Trained, rows: Ints, labels: Ints, table: ClassTable) -> Replay:
        """What the published head is fitted on; empty where its rows are computed."""
        if trained.head_rule == "rows":
            return no_replay(trained.feature_width)
        regions, most, seed = self.prepared.store.regions, self.recipe.replay_per_class, self.recipe.seed
        if trained.replay is not None:
            count = min(trained.replay_per_class, most) if most else trained.replay_per_class
            return sample_replay(trained, regions, rows, labels, table=table, count=count, seed=seed)
        return make_replay(embed_rows(trained, regions, rows), labels, table, most, seed)

    def train(self, choice: Choice, look: Callable[[float, Trained], None] | None = None) -> Shipped:
        """Train on all seen classes as chosen, and make the head that ships.

        Args:
            choice: of `select`.
            look: called with (share, trained) at the snapshots on the way; nothing that it finds comes back.

        """
        trained = self.fit_all(self.checkpoints / "final", "final", stop_at=choice.stop_at, look=look)
        self.own = trained
        self.choice = choice = self._agreed(trained, choice)
        if choice.head is not None or self.gaussian:
            made = self.with_gaussian(trained, choice.head or HeadChoice())
            made = replace(made, trained=self._with_distances(made.trained, choice))
        else:
            head, replay = self.published_head(trained)
            made = Shipped(trained, head, replay)
        return replace(made, head=replace(made.head, gamma=choice.gamma, temperature=choice.temperature))

    def _with_distances(self, trained: Trained, choice: Choice) -> Trained:
        """What ships, with how far the folds' held-out pictures are from the classes; none without folds."""
        assert trained.gaussian is not None
        if choice.head is None:
            return trained
        spectra = [self._spectrum(fold, i, choice.variant, choice.stop_at) for i, fold in enumerate(self.folds)]
        held = percentiles(held_out_distances(spectra, choice.head))
        return replace(trained, gaussian=replace(trained.gaussian, held=held))

    def with_gaussian(self, trained: Trained, choice: HeadChoice) -> Shipped:
        """The Gaussian head of all classes on what was trained, with the gamma and the temperature of `choice`."""
        labels = self.labels[self.rows]
        features = embed_rows(trained, self.prepared.store.regions, self.rows)
        spectrum = Spectrum(self.case(trained, features, labels), features[:0], labels[:0])
        noise = noise_banks(trained.noise_width, self.recipe.seed)
        made = finish(trained, spectrum, choice, noise)
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

    def _agreed(self, trained: Trained, choice: Choice) -> Choice:
        """Leave out the views of the final training that not every fold's has, and choose again without them."""
        self.final_views = [view.name for view in trained.views]
        shared = self._shared_views(choice.variant)
        if shared is None:
            return choice
        keep_views = getattr(self.method, "keep_views", None)
        assert keep_views is not None, "views that differ are a method's that can leave some out"
        keep_views(trained, self.config, shared)
        note = (
            f"views {', '.join(self.final_views)} here, others in a fold: this run's head has {', '.join(shared)} alone"
        )
        self.log({"session": "final", "note": note})
        if self.gaussian:
            return choice
        by_share = {choice.stop_at: self.published_scores(self.folds, choice.variant)[choice.stop_at]}
        labels, seen = [self.labels[fold.held_out] for fold in self.folds], [fold.seen for fold in self.folds]
        again = choose(by_share, labels, seen)
        held = self._choose_published(self.folds, choice.variant).held
        return replace(again, candidates=choice.candidates, variant=choice.variant, held=held)

    def published_head(self, trained: Trained) -> tuple[Head, Replay]:
        """The method's own head of all classes, gamma 0 and temperature 1, and what it was fitted on."""
        table, labels = self.prepared.images.table, self.labels[self.rows]
        replay = self.replay(trained, self.rows, labels, table)
        return fit_shipped_head(trained, table, self.prepared.rule, replay, self.recipe.seed), replay

    def fit_all(
        self, folder: Path, name: str, *, stop_at: float, look: Callable[[float, Trained], None] | None
    ) -> Trained:
        """The method on all seen classes, up to a share of its last stage.

        Args:
            folder: for checkpoints.
            name: of the session; what "final" gives to keep is the run's.
            stop_at: share of the last stage.
            look: called with (share, trained) at every snapshot until then.

        """
        table = self.prepared.images.table
        data = training_data(self.prepared, self.rows, table, self.labels[self.rows], self.prepared.semantic)
        session = Session(
            folder,
            self.log,
            name=name,
            progress=self.progress,
            snapshot_at=() if look is None else self.snapshots,
            snapshot=look,
            stop_at=stop_at,
            keep=self.keep if name == "final" else lambda _name, _content: None,
        )
        return self.fit(data, self.config, session)

    def test(self, trained: Trained, head: Head) -> Tested:
        """Scores on the test pictures: but for closed forms, beside.py and the report's, all that is made of them."""
        return tested(self.test_logits(trained, head), self.prepared, head.gamma, head.temperature)

    def test_logits(self, trained: Trained, head: Head) -> Floats:
        """(n, C) what a head gives the test pictures, before gamma and temperature."""
        rows = self.prepared.rows("test")
        return head_logits(trained, head, embed_rows(trained, self.prepared.store.regions, rows))


def trainings_in_turn(folds: int) -> int:
    """Trainings one after the other on two cores: the folds run two at a time (`side_by_side`), then the final one.

    Two whatever this machine has: the lengths of `--preset default` must not depend on it.
    """
    return 1 + -(-folds // 2)
