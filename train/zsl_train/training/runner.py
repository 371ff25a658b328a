"""One training run, from photographs or a feature file to a finished run folder.

Extract, select, train, make the head, score, save.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from zsl_runtime.bundle.generation import Generation
from zsl_train import backbones
from zsl_train.devices import described
from zsl_train.head.gaussian import check_classes
from zsl_train.methods import find_method
from zsl_train.methods.lengths import cap_epochs, names, size
from zsl_train.recipe import method_config
from zsl_train.scoring.verdict import by_classes, lead, warnings
from zsl_train.training.beside import Literature, conventional, scored_beside, told_apart
from zsl_train.training.closed_forms import closed_forms, tested
from zsl_train.training.gathering import gather
from zsl_train.training.prepared import fingerprint, keep_pictures, prepare
from zsl_train.training.protocol import crossfit_reason, head_rows, null_reasons, of_folds, protocol
from zsl_train.training.run_folder import RunWriter, save_run
from zsl_train.training.run_info import CHECKPOINT
from zsl_train.training.shipped import has_published_head, ships_gaussian
from zsl_train.training.timing import expect
from zsl_train.training.trainer import Trainer, trainings_in_turn, validation_folds

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping
    from pathlib import Path

    from zsl_train.backbones.base import Backbone
    from zsl_train.data.given import GivenFeatures
    from zsl_train.data.image_set import ImageSet
    from zsl_train.methods.base import Dims
    from zsl_train.recipe import Recipe
    from zsl_train.scoring.folds import Fold
    from zsl_train.training.closed_forms import Tested
    from zsl_train.training.prepared import Prepared


DEFAULT_SECONDS = 18 * 60.0  # `--preset default` ends within 20 minutes on two cores: two are kept for heads and scores


class Progress(Protocol):
    """What shows how far a training is."""

    def expect(self, sessions: Mapping[str, Mapping[str, tuple[int, float]]]) -> None:
        """What is to come: session -> stage -> steps and seconds of each, as they count in the time that passes."""

    def __call__(self, session: str, stage: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        """One step is done."""


def with_defaults(recipe: Recipe, named: Container[str]) -> Recipe:
    """The recipe with what it leaves open as its method would have it: FOLDS and SNAPSHOTS of its module.

    Args:
        recipe: of a run.
        named: keys that somebody has named, in a recipe file or on the command line: they stay.

    """
    method = find_method(recipe.method)
    own = {"folds": getattr(method, "FOLDS", None), "snapshots": getattr(method, "SNAPSHOTS", None)}
    return replace(recipe, **{key: value for key, value in own.items() if value is not None and key not in named})


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


@dataclass(frozen=True)
class Task:
    """One training, ready to begin.

    Attributes:
        prepared: pictures and features.
        recipe: what to do.
        config: the method's settings, its lengths among them.
        folds: of validation classes.

    """

    prepared: Prepared
    recipe: Recipe
    config: Any
    folds: list[Fold]

    @property
    def iterated(self) -> bool:
        """Whether it takes steps; a closed form does not."""
        return bool(names(find_method(self.recipe.method).stages(self.config, self.prepared.dims)))


def make_task(
    prepared: Prepared,
    recipe: Recipe,
    *,
    most_epochs: float | None = None,
    folds: list[Fold] | None = None,
) -> Task:
    """Settle what a training depends on.

    Args:
        prepared: pictures and features.
        recipe: what to do.
        most_epochs: no stage longer than this many epochs.
        folds: where they are given from outside; else the recipe's.

    Raises:
        UsageError: E-RECIPE; E-GAUSSIAN-... for data that can have no Gaussian head.

    """
    method = find_method(recipe.method)
    config = method_config(method.Config, method.PRESETS, recipe)
    rows = prepared.training_rows()
    if ships_gaussian(recipe) or recipe.compare_heads:
        check_classes(prepared.images.labels[rows], prepared.semantic)
    chosen = validation_folds(prepared, recipe) if folds is None else folds
    config = sized(config, recipe, prepared.dims, len(rows), len(chosen))
    if most_epochs is not None:
        config = cap_epochs(method.stages(config, prepared.dims), config, most_epochs, len(rows))
    return Task(prepared, recipe, config, chosen)


def run_training(
    images: ImageSet,
    backbone: Backbone | GivenFeatures,
    recipe: Recipe,
    writer: RunWriter,
    *,
    most_epochs: float | None = None,
    say: Callable[[str], None],
    progress: Progress | None = None,
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
    prepared = prepare(images, backbone, recipe)
    for note in prepared.notes:
        say(f"note: {note}")
    return carry_out(make_task(prepared, recipe, most_epochs=most_epochs), backbone, writer, say=say, progress=progress)


def carry_out(
    task: Task,
    backbone: Backbone | GivenFeatures,
    writer: RunWriter,
    *,
    say: Callable[[str], None],
    progress: Progress | None = None,
    mark: str = "",
    checkpoints: Path | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train, and fill the run folder; returns the content of scores.json.

    Args:
        task: what to do, with what.
        backbone: that made the features.
        writer: the open run folder.
        say: one line of progress for the user.
        progress: called inside the training loops.
        mark: what an unfinished run is known again by; empty: a hash of everything that this training depends on.
        checkpoints: where the folds lie already; None where they are still to be trained.
        more: of scores.json.

    """
    prepared, recipe, config, folds = task.prepared, task.recipe, task.config, task.folds
    images, rows = prepared.images, prepared.training_rows()
    writer.begin(recipe, config, mark or fingerprint(prepared, recipe, config))
    # Now, so that the run is whole even if the photographs move away while it trains.
    pictures, picture_labels = keep_pictures(prepared, recipe, backbone)
    say(
        f"training {recipe.method} ({recipe.preset}) on {len(rows)} {images.unit}, "
        f"{of_folds(len(folds))} for validation"
    )
    beside = closed_forms(prepared, recipe.method, folds, _with_newcomers(task), writer.log)
    if task.iterated:
        say(closed_line(beside))
        expected = expect(prepared, recipe, config, folds if checkpoints is None else [])
        say(f"about {minutes(expected.seconds)}, measured on this machine")
        if progress is not None:
            progress.expect(expected.sessions(len(folds) if checkpoints is None else 0))
    trainer = Trainer(
        prepared,
        recipe,
        config,
        checkpoints=checkpoints or writer.folder / CHECKPOINT,
        log=writer.log,
        progress=progress if task.iterated else None,
        keep=writer.keep,
    )

    earlier, began = writer.begin_training(), time.monotonic()
    choice = trainer.select(folds, cross=True)
    if choice.validation_H is not None:
        stopped = f"{choice.stop_at:.0%} of the last stage, " if task.iterated else ""
        fair = choice.validation_H_crossfitted
        others = "" if fair is None else f" ({fair:.1f} where each fold is scored with what the others choose)"
        say(f"validation classes: H {choice.validation_H:.1f}{others}, {stopped}gamma {choice.gamma:.2f}")
    literature = Literature(trainer)
    looks = recipe.literature and has_published_head(recipe)
    shipped = trainer.train(choice, look=literature.look if looks else None)
    choice = trainer.choice  # made again where the final training lacks a view that the folds had
    head, seconds = shipped.head, earlier + time.monotonic() - began - literature.seconds
    logits = trainer.test_logits(shipped.trained, head)
    found = tested(logits, prepared, head.gamma, head.temperature)
    truth = images.labels[prepared.rows("test")]
    scores: dict[str, Any] = found.figures | {
        # Rows of the Gaussian head do not depend on each other: unseen ones alone are T1's.
        "T1_czsl": conventional(trainer, shipped.trained)
        if shipped.means is None
        else told_apart(images.table, found.figures["T1"]),
        "head": shipped.trained.head_rule,
        "head_settings": None if choice.head is None else choice.head.to_dict(),
        "gamma": head.gamma,
        "temperature": head.temperature,
        "validation_H": choice.validation_H,
        "validation_H_crossfitted": choice.validation_H_crossfitted,
        "stop_at": choice.stop_at,
        "candidates": {str(share): value for share, value in choice.candidates.items()},
        "method": recipe.method,
        "settings_chosen": trainer.chosen(),
        "preset": recipe.preset,
        "train_seconds": round(seconds, 1),
        "null": null_reasons(prepared) | crossfit_reason(choice, len(folds)),
        "protocol": protocol(prepared, recipe, backbone, folds, choice) | {"head_rows": head_rows(shipped, len(rows))},
        "baselines": {
            name: one.figures | lead(one.predicted, found.predicted, truth, images.table)
            for name, one in beside.items()
        },
        "machine": {"processor": described(prepared.device), "torch": torch.__version__},
        **by_classes(found.predicted, truth, images.table, prepared.semantic),
        **(more or {}),
    }
    scores["warnings"] = warnings(scores)
    scores |= scored_beside(trainer, folds, choice, literature)
    save_run(
        writer,
        trained=shipped.trained,
        backbone=backbone,
        dims=prepared.dims,
        generation=Generation(1, 0, images.table, head, recipe.seed, "export", means=shipped.means),
        replay=shipped.replay,
        rule=prepared.rule,
        recipe=recipe,
        scores=scores,
        pictures=pictures,
        picture_labels=picture_labels,
        images=images,
        material=gather(
            trainer,
            shipped,
            logits,
            backbone.pixels,
            None if backbone.pixels is None else backbone.centres(),
        ),
    )
    return scores


def _with_newcomers(task: Task) -> list[Fold]:
    """Folds that the Gaussian head is chosen on as a baseline: with newcomers, whatever head the run ships.

    So it is what the method of that name is chosen on, and every fold has a spread within some class.
    """
    if not task.folds or ships_gaussian(task.recipe):
        return task.folds
    return validation_folds(task.prepared, replace(task.recipe, head="gaussian"))


def closed_line(beside: Mapping[str, Tested]) -> str:
    """What the closed forms reach on the validation classes, in one line."""
    known = {name: one.figures["validation_H"] for name, one in beside.items()}
    told = ", ".join(f"{name} {value:.1f}" for name, value in known.items() if value is not None)
    seconds = sum(one.figures["seconds"] for one in beside.values())
    return f"closed forms, in {seconds:.1f} s: H on validation classes {told or 'not known'}"


def minutes(seconds: float) -> str:
    """A length of time for a person who decides whether to wait."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def open_backbone(recipe: Recipe, weights: str | None) -> Backbone:
    """The recipe's backbone with its ImageNet weights."""
    return backbones.build(recipe.backbone, weights, recipe.image_size or None)
