"""A ResNet-101 bundle at 224 px with 200 classes for the benchmarks of cards: real graphs, random weights.

Its labels mean nothing, but every graph goes through the real export: the same operators, sizes and precisions as a
trained model's. BatchNorm has the statistics of the pictures, so that features are neither zero nor huge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import torch

from support.big_bundle import Sizes, nearest_mean, random_table
from support.random_resnet import random_resnet101
from support.smooth_pictures import draw_smooth
from zsl_export import accuracy
from zsl_export.bundle_of_run import export_run
from zsl_runtime.bundle.generation import Generation
from zsl_runtime.head.fitting import Replay
from zsl_runtime.head.semantic_rule import SemanticRule
from zsl_train.methods import METHODS
from zsl_train.methods.base import Dims, run_batched
from zsl_train.training.run_folder import Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zsl_train.backbones.base import Backbone

SIZES = Sizes(lift=0)
PICTURES = 40  # kept by the run: probe, parity and, for int8, calibration
PROBE = 8
METHOD = "f-clswgan"  # one pooled vector a picture: next to nothing behind the backbone


def make_run(backbone: Backbone, pictures: np.ndarray, sizes: Sizes = SIZES, hidden: int = 4096) -> Run:
    """A finished run over a backbone: a synthesizer with random weights, a head of nearest means."""
    dims = Dims(
        regions=(backbone.pixels.crop // backbone.stride) ** 2,
        channels=backbone.channels,
        attributes=sizes.attributes,
        word_width=5,
        classes=sizes.seen + sizes.unseen,
    )
    torch.manual_seed(7)
    method = METHODS[METHOD]
    trained = method.build(method.Config(hidden=hidden, synthetic_per_class=sizes.synthetic), dims).eval()
    table, rule = random_table(sizes), SemanticRule()
    rng = np.random.default_rng(2)

    def synthesize(rows: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal((len(rows), trained.noise_width), dtype=np.float32)
        return run_batched(trained.synthesizer, rule.apply(table.raw)[rows], noise)

    labels = np.repeat(np.arange(sizes.seen, dtype=np.int32), sizes.replay)
    replay = Replay(synthesize(labels).astype(np.float16), labels, table.names[: sizes.seen])
    head = nearest_mean(synthesize(np.arange(len(table))), trained.views[0])
    return Run(
        recipe={"method": METHOD, "seed": 0},
        method=METHOD,
        trained=trained,
        backbone=backbone,
        dims=dims,
        generation=Generation(1, 0, table, head, 0, "export"),
        replay=replay,
        semantic_rule=rule,
        scores={"H": None, "protocol": {"pictures": {"train": len(pictures)}}},
        pictures=pictures,
        picture_labels=np.zeros(len(pictures), np.int64),
        probe_count=PROBE,
        seed=0,
        info={"state": "finished", "versions": {"torch": torch.__version__}},
    )


def resnet_run() -> Run:
    """The run of ResNet-101 at 224 px."""
    pictures = draw_smooth(PICTURES, 224)
    return make_run(random_resnet101(pictures[:8]), pictures)


def export(run: Run, dest: Path, precisions: Sequence[str], threads: int) -> Path:
    """Through the real export; random weights have no accuracy to lose, so that gate is left open."""
    open_gate = dict.fromkeys(accuracy.LEAST_AGREEMENT, 0.0)
    with patch.dict(accuracy.LEAST_AGREEMENT, open_gate):
        return export_run(run, dest, precisions=tuple(precisions), threads=threads)
