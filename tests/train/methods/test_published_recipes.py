"""The recipes of the published settings: every one can be trained from, and says what docs/methods.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zsl_train.methods import METHODS
from zsl_train.recipe import make_recipe, method_config, read_recipe

FOLDER = Path(__file__).parents[3] / "train" / "recipes"
GANS = ("f-clswgan", "lisgan", "tf-vaegan", "dcr-gan")
FILES = sorted(path for name in GANS for path in FOLDER.glob(f"*/{name.replace('-', '_')}_*.toml"))


def config(path: Path):
    recipe = make_recipe(read_recipe(path), {}, {})
    method = METHODS[recipe.method]
    return recipe, method_config(method.Config, method.PRESETS, recipe)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_is_one_of_its_method_and_preset_with_settings_that_exist(path):
    recipe, settings = config(path)
    assert path.stem.removesuffix("_czsl") == f"{recipe.method.replace('-', '_')}_{recipe.preset}"
    assert recipe.preset in path.read_text(encoding="utf-8").splitlines()[0]
    assert re.search(r"ublished", path.read_text(encoding="utf-8"))
    assert settings.synthetic_per_class >= 40


def test_every_method_has_the_data_sets_it_was_published_for():
    found = {name: {p.parent.name for p in FILES if p.stem.startswith(name.replace("-", "_"))} for name in GANS}
    assert found == {
        "f-clswgan": {"cub", "sun", "awa1", "awa2", "apy", "flo"},
        "lisgan": {"cub", "sun", "awa1", "awa2", "apy", "flo"},
        "tf-vaegan": {"cub", "sun", "awa2", "flo"},
        "dcr-gan": {"cub", "sun", "awa1", "apy"},
    }


@pytest.mark.parametrize(
    ("file", "values"),
    [  # spot checks against the tables of docs/methods.md 7.2, 4.4 and 5.2, one a table and some easily swapped
        ("sun/lisgan_code", {"class_weight": 0.3, "sample_weight": 3e-5, "learning_rate_gan": 2e-4, "gan_epochs": 40}),
        ("flo/lisgan_code", {"class_weight": 0.1, "sample_weight": 0.03, "classification_weight": 0.1}),
        ("cub/lisgan_code", {"class_weight": 0.01, "sample_weight": 0.001, "synthetic_per_class": 300}),
        ("cub/lisgan_paper", {"class_weight": 0.01, "sample_weight": 0.01}),
        ("apy/f_clswgan_paper", {"learning_rate_gan": 1e-5, "gan_epochs": 50, "synthetic_per_class": 1800}),
        ("awa2/tf_vaegan_code", {"freeze_decoder": True, "reconstruction_weight": 0.1, "adapt_penalty": True}),
        ("flo/tf_vaegan_paper", {"encoded_noise": False, "feedback_train": 0.5, "reconstruction": "l1"}),
        ("awa1/dcr_gan_code", {"learning_rate_critic": 1e-3, "learning_rate_generator": 1e-4, "searched_width": 30}),
        ("apy/dcr_gan_code", {"seen_searched": 0.0, "unseen_searched": 1e-7, "head_searched_learning_rate": 0.1}),
        ("sun/dcr_gan_code", {"semantic_weight": 1.6, "searched_weight": 0.05, "synthetic_per_class": 40}),
        ("cub/dcr_gan_code", {"semantic_weight": 0.8, "searched_weight": 0.05, "rectify_steps": 20000}),
        ("cub/dcr_gan_code", {"czsl_synthetic_per_class": 1100, "czsl_head_batch": 1400, "dead_view": "prior"}),
        ("cub/dcr_gan_paper", {"regressors": "joint", "unseen_semantic": 0.0, "unseen_searched": 0.0}),
        ("apy/dcr_gan_code", {"czsl_synthetic_per_class": 0, "czsl_head_batch": 0}),
        ("apy/dcr_gan_paper", {"seen_semantic": 1e-5, "seen_searched": 1e-7, "unseen_searched": 0.0}),
        ("awa1/dcr_gan_paper", {"seen_searched": 1e-4, "unseen_semantic": 0.0, "semantic_output": "linear"}),
        ("awa1/dcr_gan_code", {"czsl_synthetic_per_class": 850, "czsl_head_batch": 750, "czsl_semantic_weight": 0.5}),
        ("awa1/dcr_gan_code_czsl", {"searched_width": 60, "learning_rate_critic": 1e-5, "unseen_semantic": 1e-2}),
        ("sun/dcr_gan_code", {"czsl_synthetic_per_class": 450, "czsl_head_learning_rate": 5e-4}),
        ("sun/dcr_gan_code_czsl", {"searched_width": 30, "seen_searched": 1e-4, "czsl_semantic_weight": 0.8}),
    ],
)
def test_published_values(file, values):
    _, settings = config(FOLDER / f"{file}.toml")
    assert {name: getattr(settings, name) for name in values} == values
