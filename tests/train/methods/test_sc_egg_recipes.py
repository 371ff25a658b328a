"""The recipes of SC-EGG: `paper` is the paper and `code` the code in every one, and `default` is the preset itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from zsl_train.methods import sc_egg
from zsl_train.recipe import make_recipe, method_config, read_recipe

FOLDER = Path(__file__).parents[3] / "train" / "recipes"
FILES = sorted(FOLDER.glob("*/sc_egg*.toml"))
LENGTHS = {f"stage{number}_{unit}" for number in (1, 2, 3) for unit in ("epochs", "steps")}
# What the paper leaves to TF-VAEGAN's values of each data set, and to DAZLE's.
LEFT_OPEN = {
    "cub": {"feedback_train": 1.0, "feedback_synthesis": 1.0, "synthetic_per_class": 300, "normalise_words": False},
    "cub20": {"feedback_train": 1.0, "feedback_synthesis": 1.0, "synthetic_per_class": 300, "normalise_words": False},
    "sun": {"feedback_train": 0.1, "feedback_synthesis": 0.01, "synthetic_per_class": 400, "head_learning_rate": 5e-4},
    "awa2": {"feedback_train": 0.01, "feedback_synthesis": 0.01, "synthetic_per_class": 1800},
}
# Section 4 of the paper and its equations.
PAPER = {
    "global_weight": 1.0,
    "critic_weight": 10.0,
    "reconstruction_weight": 0.01,
    "seen_guidance": 0.1,
    "unseen_guidance": 0.1,
    "learning_rate_embedding": 1e-4,
    "learning_rate_gan": 1e-4,
    "learning_rate_decoder": 1e-4,
    "learning_rate_feedback": 1e-4,
    "optimiser": "adam",
    "weight_decay": 0.0,
    "embedding_batch": 64,
    "batch": 64,
    "pooling": "mlp",
    "classes_in_softmax": "all",
    "guide": "shared",
    "guide_target": "scores",
    "regression": "sum",
    "reconstruction": "l1",
    "guided_on": "unseen",
    "feature": "compressed",
    "freeze_decoder": False,
    "hidden": 4096,
    "centre_regions": False,
}


def settings(path: Path):
    recipe = make_recipe(read_recipe(path), {}, {})
    assert recipe.method == "sc-egg"
    return recipe, method_config(sc_egg.Config, sc_egg.PRESETS, recipe)


def of_preset(preset: str) -> list[Path]:
    return [path for path in FILES if path.stem.endswith(preset)]


def test_the_three_data_sets_of_the_paper_have_recipes_of_both():
    for preset in ("paper", "code"):
        assert {path.parent.name for path in of_preset(preset)} == {"cub", "sun", "awa2", "cub20"}


@pytest.mark.parametrize("path", of_preset("paper"), ids=lambda path: path.parent.name)
def test_a_paper_recipe_has_the_weights_rates_and_networks_of_the_paper(path):
    recipe, config = settings(path)
    assert recipe.preset == "paper"
    wanted = PAPER | LEFT_OPEN[path.parent.name]
    assert {name: getattr(config, name) for name in wanted} == wanted
    assert set(recipe.settings) <= set(LEFT_OPEN[path.parent.name]) | LENGTHS
    assert (config.stage1_epochs, config.stage2_epochs, config.stage3_epochs) == (20.0, 20.0, 200.0)
    if path.parent.name != "cub20":
        assert not LENGTHS & set(recipe.settings)


@pytest.mark.parametrize("path", of_preset("code"), ids=lambda path: path.parent.name)
def test_a_code_recipe_is_the_configuration_of_sun_or_says_what_dazle_and_tf_vaegan_have_for_its_data(path):
    recipe, config = settings(path)
    assert recipe.preset == "code"
    sun = {"pooling": "mean", "optimiser": "rmsprop", "learning_rate_embedding": 1e-4, "weight_decay": 1e-4}
    sun |= {"classes_in_softmax": "seen", "guide": "separate", "guide_hidden": 1024, "regression": "mean"}
    sun |= {"stage1_steps": 2000, "stage2_steps": 4000, "hidden": 4096, "seen_guidance": 1.0, "unseen_guidance": 0.001}
    sun |= {"adapt_penalty": True, "reconstruction": "weighted-l1", "embedding_batch": 64, "batch": 64}
    assert {name: getattr(config, name) for name in sun} == sun
    if path.parent.name == "sun":
        assert recipe.settings == {}
    if path.parent.name == "cub20":
        assert set(recipe.settings) == {"normalise_words", "stage3_epochs"}
    if path.parent.name in {"cub", "cub20"}:
        assert config.normalise_words is False
    if path.parent.name == "awa2":
        assert (config.momentum, config.freeze_decoder, config.stage3_epochs) == (0.0, True, 120.0)


def test_the_default_recipe_of_the_birds_is_the_preset():
    recipe, config = settings(FOLDER / "cub20" / "sc_egg_default.toml")
    assert (recipe.preset, recipe.settings) == ("default", {})  # so lengths are sized to the data
    assert config == method_config(sc_egg.Config, sc_egg.PRESETS, make_recipe({"method": "sc-egg"}, {}, {}))


def test_the_demo_s_recipe_changes_nothing_of_the_preset_but_how_much_is_computed():
    recipe, _ = settings(FOLDER / "field_guide" / "sc_egg.toml")
    assert recipe.preset == "default"
    assert set(recipe.settings) <= LENGTHS | {"embedding_batch", "hidden"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_recipe_caps_the_real_rows_of_the_head(path):
    assert "replay_per_class" not in read_recipe(path)
