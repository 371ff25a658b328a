"""What scores.json says beside the figures of what ships: other heads on the same training, its parts, literature.

All of it is scored when everything is chosen and trained, and nothing of it changes what ships.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_train.head.gaussian import HeadChoice
from zsl_train.methods.session import write_atomic
from zsl_train.scoring.evaluate import crossfitted, score
from zsl_train.training.choice import choose
from zsl_train.training.closed_forms import tested
from zsl_train.training.shipped import embed_rows, fit_shipped_head, head_logits, no_replay, run_part
from zsl_train.training.stored import load_array, load_arrays, save_array

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from zsl_runtime.head.class_table import ClassTable
    from zsl_train.methods.base import Trained
    from zsl_train.scoring.folds import Fold
    from zsl_train.training.choice import Choice
    from zsl_train.training.trainer import Trainer


def scored_beside(trainer: Trainer, folds: list[Fold], choice: Choice, literature: Literature) -> dict[str, Any]:
    """Key of scores.json -> what the recipe asks for beside what ships, and what its training has inside.

    Args:
        trainer: has trained what ships.
        folds: that it selected on.
        choice: that ships.
        literature: has looked at that training, where the recipe asks for it.

    """
    recipe, found = trainer.recipe, {}
    if recipe.compare_heads and trainer.gaussian and trainer.makes_published:
        found["published_head"] = score_published(trainer, folds, choice)
    if recipe.compare_heads and not trainer.gaussian:
        found["gaussian_head"] = score_gaussian(trainer, folds, choice)
    if trainer.own.parts:
        found["parts"] = score_parts(trainer, folds, choice)
    if recipe.literature and trainer.own.head_rule != "gaussian":
        found["literature"] = literature.figures()
    return found


# --- the other head --------------------------------------------------------------------------------------------------


def score_published(trainer: Trainer, folds: list[Fold], choice: Choice) -> dict[str, Any]:
    """Test scores of the published head on the same features, gamma and temperature chosen on the same folds.

    The share of the last stage stays that of the head that ships, so that only the heads differ; what the folds say
    of the published head at every share is under `candidates`.
    """
    by_share = trainer.published_scores(folds, choice.variant)
    labels, seen = [trainer.labels[fold.held_out] for fold in folds], [fold.seen for fold in folds]
    own = choose({share: one for share, one in by_share.items() if share == choice.stop_at}, labels, seen)
    every = choose(by_share, labels, seen)
    head, _ = trainer.published_head(trainer.own)
    head = replace(head, gamma=own.gamma, temperature=own.temperature)
    czsl = conventional(trainer, trainer.own)
    figures = trainer.test(trainer.own, head).figures | {"T1_czsl": czsl, **_said(own)}
    candidates = {str(share): value for share, value in every.candidates.items()}
    return {"rule": trainer.own.head_rule, **figures, "candidates": candidates}


def score_gaussian(trainer: Trainer, folds: list[Fold], choice: Choice) -> dict[str, Any]:
    """The same of the Gaussian head, where the published one ships."""
    every = trainer.head_choices(folds, choice.variant)
    own = every.get(choice.stop_at, HeadChoice())
    made = trainer.with_gaussian(trainer.own, own)
    head = replace(made.head, gamma=own.gamma, temperature=own.temperature)
    figures = trainer.test(made.trained, head).figures
    candidates = {str(share): one.validation_H for share, one in every.items() if one.validation_H is not None}
    return {
        "rule": made.trained.head_rule,
        **figures,
        "T1_czsl": told_apart(trainer.prepared.images.table, figures["T1"]),
        **_said(own),
        "head_settings": own.to_dict(),
        "candidates": candidates,
    }


def _said(choice: Choice | HeadChoice) -> dict[str, Any]:
    """What scores.json says of the choice of a head that does not ship."""
    return {
        "gamma": choice.gamma,
        "validation_H": choice.validation_H,
        "validation_H_crossfitted": crossfitted(choice.held),
    }


# --- classifiers inside the training ---------------------------------------------------------------------------------


def score_parts(trainer: Trainer, folds: list[Fold], choice: Choice) -> dict[str, Any]:
    """Name -> test scores of each classifier inside the training, gamma and temperature chosen on the same folds.

    All at the share of the last stage that ships, so that they are parts of one and the same training.
    """
    prepared = trainer.prepared
    labels, seen = [trainer.labels[fold.held_out] for fold in folds], [fold.seen for fold in folds]
    found = {}
    for name, module in trainer.own.parts.items():
        of_folds = [
            load_arrays(trainer.fold_file(index, choice.variant, f"parts-{choice.stop_at!r}.npz"))[name]
            for index in range(len(folds))
        ]
        own = choose({choice.stop_at: of_folds}, labels, seen)
        logits = run_part(module, prepared.store.regions, prepared.rows("test"), prepared.semantic)
        figures = tested(logits, prepared, own.gamma, own.temperature).figures
        # Scores of classes do not depend on each other: unseen ones alone are T1's.
        found[name] = figures | {"T1_czsl": told_apart(prepared.images.table, figures["T1"]), **_said(own)}
    return found


# --- unseen classes alone --------------------------------------------------------------------------------------------


def conventional(trainer: Trainer, trained: Trained) -> float | None:
    """T1_czsl: a separate head fitted on synthetic features of the unseen classes only (docs/methods.md 1.5)."""
    prepared = trainer.prepared
    table = prepared.images.table
    unseen = np.flatnonzero(~table.seen)
    rows = prepared.rows("test", seen=False)
    if len(unseen) < 2 or len(rows) == 0:  # one class cannot be told from another
        return None
    assert trained.means is None, "rows that do not depend on each other: T1 is that figure already"
    own = trained.czsl
    if own is not None:
        trained = replace(trained, views=own.views, synthetic_per_class=own.synthetic_per_class)
    only = table.take(unseen)
    empty = no_replay(trained.feature_width)
    head = fit_shipped_head(trained, only, prepared.rule, empty, trainer.recipe.seed)
    logits = head_logits(trained, head, embed_rows(trained, prepared.store.regions, rows))
    labels = np.searchsorted(unseen, trainer.labels[rows])
    return score(logits, labels, only.seen, 0.0, 1.0)["T1"]


def told_apart(table: ClassTable, first: float | None) -> float | None:
    """T1 where there are two unseen classes to tell apart."""
    return first if (~table.seen).sum() > 1 else None


# --- what the papers report ------------------------------------------------------------------------------------------


class Literature:
    """Every snapshot of the whole schedule scored on the test pictures under the published head, as papers do.

    Attributes:
        seconds: that `look` took.

    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.seconds = 0.0

    def look(self, share: float, trained: Trained) -> None:
        """Scores of the test pictures at one snapshot, written aside; for `Trainer.train`."""
        began = time.monotonic()
        if not self._file(share).exists():
            head, _ = self.trainer.published_head(trained)
            prepared = self.trainer.prepared
            features = embed_rows(trained, prepared.store.regions, prepared.rows("test"))
            save_array(self._file(share), head_logits(trained, head, features))
        self.seconds += time.monotonic() - began

    def figures(self) -> dict[str, Any]:
        """What the papers report: every snapshot's test scores, and the best.

        Optimistic, because the best is picked on test data (docs/methods.md 1.5), and with gamma 0 as published.
        The final training has left the snapshots up to its end; a copy of it that goes on to the end of the schedule,
        which nothing else looks at, gives the rest.
        """
        trainer = self.trainer
        if not all(self._file(share).exists() for share in trainer.snapshots):
            folder = trainer.checkpoints / "literature"
            for checkpoint in (trainer.checkpoints / "final").glob("*.pt"):
                if not (folder / checkpoint.name).exists():
                    folder.mkdir(exist_ok=True)
                    write_atomic(folder / checkpoint.name, partial(shutil.copyfile, checkpoint))
            trainer.fit_all(folder, "literature", stop_at=1.0, look=self.look)
        rows = trainer.prepared.rows("test")
        labels, seen = trainer.labels[rows], trainer.prepared.images.table.seen
        logits = {share: load_array(self._file(share)) for share in trainer.snapshots}
        return best_on_test({share: score(one, labels, seen, 0.0, 1.0) for share, one in logits.items()})

    def _file(self, share: float) -> Path:
        return self.trainer.checkpoints / "literature" / f"scores-{share!r}.npy"


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
