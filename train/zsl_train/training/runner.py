"""One training run, from photographs or a feature file to a finished run folder.

Extract, select, train, make the head, score, save.
"""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Any

import torch

from zsl_runtime.bundle.generation import Generation
from zsl_train import backbones
from zsl_train.head.gaussian import check_classes
from zsl_train.methods import find_method
from zsl_train.methods.lengths import cap_epochs, estimate, names, size
from zsl_train.recipe import method_config
from zsl_train.training.prepared import fingerprint, keep_pictures, prepare
from zsl_train.training.protocol import null_reasons, of_folds, protocol
from zsl_train.training.run_folder import CHECKPOINT, RunWriter, save_run
from zsl_train.training.shipped import ships_gaussian
from zsl_train.training.trainer import Trainer, trainings_in_turn, validation_folds

if TYPE_CHECKING:
    from collections.abc import Callable

    from zsl_train.backbones.base import Backbone
    from zsl_train.data.given import GivenFeatures
    from zsl_train.data.image_set import ImageSet
    from zsl_train.methods.base import Dims
    from zsl_train.recipe import Recipe


DEFAULT_SECONDS = 18 * 60.0  # `--preset default` ends within 20 minutes on two cores: two are kept for heads and scores


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
        f"training {recipe.method} ({recipe.preset}) on {len(rows)} {images.unit}, "
        f"{of_folds(len(folds))} for validation:"
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
        "settings_chosen": trainer.chosen(),
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
