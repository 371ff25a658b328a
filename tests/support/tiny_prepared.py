"""Recipes and settings of trainings on a few drawn pictures, for what a run is made of (tests/train/training)."""

from __future__ import annotations

from dataclasses import replace

from support.tiny_training import QUICK
from zsl_train.methods import dcr_gan, sc_egg
from zsl_train.recipe import Recipe

RECIPE = Recipe(method="sc-egg", folds=2, word_width=5, backbone="tiny")
PUBLISHED = replace(RECIPE, head="published")
CONFIG = sc_egg.Config(**{key: value for key, value in QUICK.items() if key not in {"folds", "word_width"}})
DCR = dcr_gan.Config(
    hidden=8, regressor_hidden=8, searched_width=3, metric_steps=3, rectify_steps=3, semantic_steps=3,
    searched_steps=3, gan_steps=4, synthetic_per_class=5, head_epochs=2, head_other_epochs=2,
    czsl_synthetic_per_class=7,
)  # fmt: skip
