"""Recipes and settings of trainings on a few drawn pictures, for what a run is made of (tests/train/training)."""

from __future__ import annotations

from dataclasses import replace

from support.tiny_training import QUICK
from zsl_train.methods import sc_egg
from zsl_train.recipe import Recipe

RECIPE = Recipe(method="sc-egg", folds=2, word_width=5, backbone="tiny")
PUBLISHED = replace(RECIPE, head="published")
CONFIG = sc_egg.Config(**{key: value for key, value in QUICK.items() if key not in {"folds", "word_width"}})
