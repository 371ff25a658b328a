"""How long the three stages are, and what a step of each costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsl_train.methods import tf_vaegan
from zsl_train.methods.lengths import Stage, plan, step_seconds
from zsl_train.methods.sc_egg.config import Config, gan_settings

if TYPE_CHECKING:
    from zsl_train.methods.base import Dims, TrainingData

SHORTEST = (300, 400, 240)  # steps of the stages below which accuracy on validation classes suffers


def drawn(batch: int, classes: int) -> int:
    """Rows of a class-balanced batch: of min(batch, classes) classes as many each as fit, at least one."""
    return min(batch, classes) * max(1, batch // classes)


def stages(config: Config, dims: Dims) -> list[Stage]:
    """The three stages, the third in outer steps; of plain feature vectors (one region) the third alone."""
    third = tf_vaegan.outer_step_seconds(gan_settings(config, dims.regions), dims)
    eggn = Stage("stage3", config.batch, third, SHORTEST[2], loops=2)
    if dims.regions == 1:
        return [eggn]
    regions, channels, attributes = dims.regions, dims.channels, dims.attributes
    maps = 2 * regions * channels * attributes
    mlp = regions * (attributes // 2) * (attributes + channels) if config.global_weight > 0 else 0
    batch = drawn(config.embedding_batch, dims.seen or dims.classes)  # what an epoch is counted in
    scen = batch * (2 * maps + 3 * mlp)
    if config.guide == "separate":
        outputs = attributes if config.guide_target == "evidence" else dims.classes
        guide = batch * 3.0 * config.guide_hidden * (channels + outputs)
    else:
        guide = batch * (maps / 2 + 3 * mlp)
    return [
        Stage("stage1", batch, step_seconds(scen), SHORTEST[0]),
        Stage("stage2", batch, step_seconds(guide), SHORTEST[1]),
        eggn,
    ]


def stage_steps(stage: str, config: Config, data: TrainingData) -> int:
    """Steps of a stage for this data."""
    return plan(stages(config, data.dims), config, len(data.rows))[stage]
