"""How long a training will take here: a few real steps of each stage are run, on this data and machine, and timed.

What a machine of a known kind would need (`lengths.estimate`) sizes the preset `default`, which must not depend on
where it runs; what is told to whoever waits is measured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from zsl_runtime.machine.storage import scratch_folder
from zsl_train.data.image_set import in_turns
from zsl_train.head.gaussian import SETTINGS_TRIED, Spectrum, try_default
from zsl_train.methods.session import Session
from zsl_train.training.prepared import training_data
from zsl_train.training.shipped import embed_rows, fit_shipped_head
from zsl_train.training.side_by_side import side_by_side
from zsl_train.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zsl_runtime.arrays import Ints
    from zsl_train.methods.base import Trained
    from zsl_train.methods.session import Stateful
    from zsl_train.recipe import Recipe
    from zsl_train.scoring.folds import Fold
    from zsl_train.training.prepared import Prepared

T = TypeVar("T")
FINAL = "final"  # the session that comes when folds and heads are done
LEAST_STEPS, ENOUGH_SECONDS = 5, 1.5  # of a stage; the first step, which sets memory up, does not count
TIMES = 3  # that a piece of work besides the steps is done
MOST_ROWS = 256  # pictures that features are made of to see how long that takes


class Stopwatch(Session):
    """A session that runs a few steps of each stage and goes on to the next; nothing is kept.

    Attributes:
        steps: stage -> its steps.
        seconds: stage -> seconds of a step.
        looped: seconds in all loops together.

    """

    complete = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, lambda _line: None, name="timing")
        self.steps: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.looped = 0.0

    def loop(
        self,
        stage: str,
        steps: int,
        state: Mapping[str, Stateful],  # noqa: ARG002  # the signature is a session's
        body: Callable[[int], Mapping[str, torch.Tensor]],
        trained: Trained | None = None,  # noqa: ARG002
    ) -> None:
        """Time the first steps of the stage."""
        began, taken = time.monotonic(), []
        for step in range(steps):
            at = time.monotonic()
            for value in body(step).values():
                float(value.detach())
            taken.append(time.monotonic() - at)
            if len(taken) > LEAST_STEPS and time.monotonic() - began > ENOUGH_SECONDS:
                break
        # The median: one step during which another program had the CPU says nothing of the others.
        self.steps[stage], self.seconds[stage] = steps, float(np.median(taken[1:] or taken))
        self.looped += time.monotonic() - began


@dataclass(frozen=True)
class Timed:
    """One training, timed.

    Attributes:
        steps: stage -> its steps.
        seconds: stage -> seconds of a step.
        setup: seconds besides the steps.

    """

    steps: Mapping[str, int]
    seconds: Mapping[str, float]
    setup: float

    def shortened(self, share: float) -> Timed:
        """The same with stages of that share of their length."""
        return replace(self, steps={one: max(1, round(share * count)) for one, count in self.steps.items()})

    def total(self, last: float = 1.0) -> float:
        """Seconds of a training that goes through so large a share of its last stage."""
        stages = list(self.steps)
        shares = dict.fromkeys(stages, 1.0) | {stages[-1]: last}
        return self.setup + sum(shares[one] * self.steps[one] * self.seconds[one] for one in stages)


@dataclass(frozen=True)
class Expected:
    """What a run is expected to take.

    Attributes:
        fold: the training of one fold, as it goes beside the others.
        final: the training that ships.
        rounds: folds one after the other, where several go side by side.
        last: share of the last stage that the final training is expected to go through.
        heads: seconds for features and heads of the folds and of the final training.

    """

    fold: Timed
    final: Timed
    rounds: int
    last: float
    heads: float

    @property
    def seconds(self) -> float:
        """Of the whole run, extraction of features and baselines left out."""
        return self.rounds * self.fold.total() + self.final.total(self.last) + self.heads

    def sessions(self, folds: int) -> dict[str, dict[str, tuple[int, float]]]:
        """Session -> stage -> steps and seconds of each; of folds that go side by side, their share of the time.

        What heads take is a session of its own, `heads`: it comes between the folds and the final training.
        """
        together = max(folds / max(self.rounds, 1), 1.0)
        of_fold = {one: (count, self.fold.seconds[one] / together) for one, count in self.fold.steps.items()}
        final = {one: (count, self.final.seconds[one]) for one, count in self.final.steps.items()}
        stage, (count, seconds) = list(final.items())[-1]
        final[stage] = (max(1, round(self.last * count)), seconds)
        of_folds = {f"fold {index + 1}/{folds}": of_fold for index in range(folds)}
        return {**of_folds, "heads": {"choice": (1, self.heads)}, FINAL: final}

    def scaled(self, factor: float) -> float:
        """Seconds of the whole run with stages of so many times the length."""
        fixed = self.rounds * self.fold.setup + self.final.setup + self.heads
        return fixed + factor * (self.seconds - fixed)

    def longest(self, seconds: float) -> float:
        """How many times as long the stages may be for the run to take so many seconds; 0 where nothing would fit."""
        fixed = self.scaled(0.0)
        return max(0.0, (seconds - fixed) / max(self.seconds - fixed, 1e-9))


def expect(prepared: Prepared, recipe: Recipe, config: Any, folds: Sequence[Fold]) -> Expected:
    """Time a few steps of each stage, as the folds will run them and as the final training will.

    Args:
        prepared: pictures and features.
        recipe: of the run.
        config: the method's settings, with the lengths of its stages.
        folds: of the run.

    """
    with scratch_folder("zsl-timing-") as folder:
        trainer = Trainer(prepared, recipe, config, checkpoints=folder, log=lambda _line: None)
        workers = max(1, min(torch.get_num_threads(), len(folds)))
        if folds:
            timed = side_by_side([lambda _check: _training(trainer, folds[0], folder) for _ in range(workers)])
            fold = _mean([one for one, _ in timed])
        final, trained = _training(trainer, None, folder)
        heads = _heads(trainer, trained, folds)
    rounds = -(-len(folds) // workers)
    last = float(np.mean(trainer.snapshots)) if folds else 1.0
    return Expected(fold if folds else final, final, rounds, last, heads)


def _training(trainer: Trainer, fold: Fold | None, folder: Path) -> tuple[Timed, Trained]:
    """A few steps of the training of a fold, or of the final one."""
    prepared = trainer.prepared
    table, labels = prepared.images.table, prepared.images.labels
    if fold is None:
        data = training_data(prepared, trainer.rows, table, labels[trainer.rows], prepared.semantic)
    else:
        kept = np.flatnonzero(~fold.newcomers)
        heard = replace(table, seen=fold.seen).take(kept)
        data = training_data(
            prepared, fold.train, heard, np.searchsorted(kept, labels[fold.train]), prepared.semantic[kept]
        )
    watch = Stopwatch(Path(folder))
    began = time.monotonic()
    trained = trainer.fit(data, trainer.config, watch)
    setup = time.monotonic() - began - watch.looped
    return Timed(watch.steps, watch.seconds, setup), trained


def _mean(timed: Sequence[Timed]) -> Timed:
    """Of trainings that ran side by side."""
    seconds = {one: float(np.mean([t.seconds[one] for t in timed])) for one in timed[0].seconds}
    return replace(timed[0], seconds=seconds, setup=float(np.mean([t.setup for t in timed])))


def _heads(trainer: Trainer, trained: Trained, folds: Sequence[Fold]) -> float:
    """Seconds for features, heads and their choice in all folds and snapshots, from one of each."""
    prepared = trainer.prepared
    labels, regions, rows = prepared.images.labels, prepared.store.regions, trainer.rows
    mixed = np.random.default_rng(0).permutation(rows)
    # At least two of each class: without one no head can be fitted, without another there is no spread.
    some = np.sort(in_turns(mixed, labels[mixed])[: max(MOST_ROWS, 2 * len(np.unique(labels[rows])))])
    features = embed_rows(trained, regions, some[:1])  # the first one sets memory up
    embed, features = timed(lambda: embed_rows(trained, regions, some))
    snapshots = len(trainer.snapshots) * len(folds)
    total = embed / max(len(some), 1) * (snapshots + 2) * (len(rows) + len(prepared.rows("test")) / 2)
    if trainer.makes_gaussian:
        seen = prepared.images.table.seen
        case, spectrum = timed(lambda: Spectrum(trainer.case(trained, features, labels[some]), features, labels[some]))
        setting, _ = timed(lambda: try_default(spectrum, labels[some], seen))
        total += (snapshots + 1) * case + snapshots * SETTINGS_TRIED * setting
    if trainer.makes_published and trained.head_rule == "fit":
        once, twice = (_fit_seconds(trainer, trained, some, epochs) for epochs in (1, 2))
        epochs = max(view.fit.epochs for view in trained.views if view.fit is not None)
        total += (once + (epochs * _rows_by(trainer, trained, len(some)) - 1) * max(twice - once, 0.0)) * (
            snapshots + 2
        )
    return total


def _rows_by(trainer: Trainer, trained: Trained, some: int) -> float:
    """How many times as many rows a head is fitted on as were timed, where `some` real ones were."""
    if trained.replay is not None:
        return 1.0  # as many of a class, however many pictures there are
    table, labels = trainer.prepared.images.table, trainer.labels[trainer.rows]
    most = trainer.recipe.replay_per_class or len(labels)
    real = np.minimum(np.bincount(labels), most).sum()
    synthetic = trained.synthetic_per_class * int((~table.seen).sum())
    return float((real + synthetic) / (min(some, real) + synthetic))


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """The median of the seconds that a piece of work takes, and what it returns."""
    taken = []
    for _ in range(TIMES):
        began = time.monotonic()
        made = work()
        taken.append(time.monotonic() - began)
    return float(np.median(taken)), made


def _fit_seconds(trainer: Trainer, trained: Trained, rows: Ints, epochs: int) -> float:
    """Seconds of a fit of the published head for so many epochs."""
    prepared = trainer.prepared
    table, labels = prepared.images.table, prepared.images.labels
    views = tuple(replace(view, fit=view.fit and replace(view.fit, epochs=epochs)) for view in trained.views)
    began = time.monotonic()
    replay = trainer.replay(trained, rows, labels[rows], table)
    fit_shipped_head(replace(trained, views=views), table, prepared.rule, replay, trainer.recipe.seed)
    return time.monotonic() - began
