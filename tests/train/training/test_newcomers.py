"""Folds with newcomers: what a training is not told, what is scored; variants, and a selection that was interrupted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from support.tiny_data import make_tiny_data
from support.tiny_run import TinyBackbone
from support.tiny_xlsa17 import FEATURES, make_pair
from zsl_runtime.errors import UsageError
from zsl_train.data.given import GivenFeatures
from zsl_train.data.open import open_image_set
from zsl_train.head.gaussian import Case, Errors, HeadChoice, Settings, Spectrum, choose_settings, logits, solve
from zsl_train.methods import METHODS, gfzsl
from zsl_train.methods.base import Trained
from zsl_train.recipe import Recipe
from zsl_train.scoring.evaluate import choose_gamma, seen_unseen_curve
from zsl_train.training import closed_forms
from zsl_train.training import trainer as trainer_module
from zsl_train.training.prepared import Prepared, prepare
from zsl_train.training.run_folder import RunWriter
from zsl_train.training.runner import run_training
from zsl_train.training.shipped import ships_gaussian
from zsl_train.training.stored import load_arrays
from zsl_train.training.trainer import Trainer, validation_folds

RECIPE = Recipe(method="gfzsl", folds=3, word_width=5, backbone="tiny")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    """8 seen and 3 unseen classes of 6 pictures, their features taken with the tiny backbone."""
    folder = make_tiny_data(tmp_path_factory.mktemp("data") / "d", seen=8, unseen=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return prepare(open_image_set(folder), TinyBackbone(), RECIPE)


@pytest.fixture(autouse=True)
def _one_at_a_time():
    """One fold after the other: some tests stop in between."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class StoppedError(Exception):
    """What a test interrupts a selection with."""


@dataclass(frozen=True)
class Config:
    """Of the spying method."""

    noise: float = 0.0


class Noisy(nn.Module):
    """Mean-pooled features and something that has nothing to do with them, the same for the same picture."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = nn.Parameter(torch.tensor(noise))

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        pooled = regions.mean(dim=1)
        return pooled + self.noise * torch.sin(1e4 * pooled)


class Spy:
    """A method in closed form that keeps what it was told, with as many variants as it is given noises."""

    def __init__(self, noises: tuple[float, ...] = (0.0,), stop_at: int = 99) -> None:
        self.told = []
        self.stop_at = stop_at
        self.module = SimpleNamespace(
            HEAD="gaussian",
            Config=Config,
            fit=self.fit,
            stages=lambda config, dims: (),
            variants=lambda config: [Config(noise) for noise in noises],
        )

    def fit(self, data, config, session, seed) -> Trained:
        if len(self.told) == self.stop_at:
            raise StoppedError
        self.told.append((session.name, data, config))
        width = data.dims.channels
        trained = Trained(Noisy(config.noise), None, None, 0, width, width, (), 0)
        session.loop("solve", 1, {"embedder": trained.embedder}, lambda _: {"loss": torch.tensor(1.0)}, trained)
        return trained.eval()


def trainer(prepared, folder, spy: Spy, monkeypatch, recipe=RECIPE) -> Trainer:
    monkeypatch.setitem(METHODS, "gfzsl", spy.module)
    return Trainer(prepared, recipe, Config(), checkpoints=folder, log=lambda _: None)


# --- what a training is told -----------------------------------------------------------------------------------------


def test_a_training_never_hears_of_newcomers_and_of_all_others_by_their_names(prepared, tmp_path, monkeypatch):
    folds, spy = validation_folds(prepared, RECIPE), Spy()
    one = trainer(prepared, tmp_path, spy, monkeypatch)
    one.select(folds)
    table, labels = prepared.images.table, prepared.images.labels
    assert [name for name, _, _ in spy.told] == ["fold 1/3", "fold 2/3", "fold 3/3"]
    for fold, (_, data, _) in zip(folds, spy.told, strict=True):
        hidden = {table.names[c] for c in np.flatnonzero(fold.newcomers)}
        assert len(hidden) == (prepared.images.table.seen & ~fold.seen).sum() // 2 > 0
        assert set(data.table.names) == set(table.names) - hidden
        assert len(data.semantic) == len(data.table) == data.dims.classes == len(table) - len(hidden)
        for row, name in enumerate(data.table.names):
            known = table.names.index(name)
            np.testing.assert_array_equal(data.semantic[row], prepared.semantic[known])
            np.testing.assert_array_equal(data.table.raw[row], table.raw[known])
            assert data.table.seen[row] == fold.seen[known]
        for secret in prepared.semantic[fold.newcomers]:
            assert not (data.semantic == secret).all(axis=1).any()
        np.testing.assert_array_equal(data.rows, fold.train)
        assert [data.table.names[k] for k in data.labels] == [table.names[k] for k in labels[fold.train]]
        assert data.table.seen[data.labels].all()
    one.train(one.select(folds))
    _, final, _ = spy.told[-1]
    assert final.table is table


def test_newcomers_are_classes_of_the_table_again_when_a_fold_is_scored(prepared, tmp_path, monkeypatch):
    folds = validation_folds(prepared, RECIPE)
    trainer(prepared, tmp_path, Spy(), monkeypatch).select(folds)
    labels, pooled = prepared.images.labels, prepared.store.pooled()
    for index, fold in enumerate(folds):
        arrays = load_arrays(tmp_path / f"fold{index}" / "case-1.0.npz")
        assert set(labels[fold.held_out]) >= set(np.flatnonzero(fold.newcomers))
        np.testing.assert_allclose(arrays["held"], pooled[fold.held_out], rtol=1e-5)
        np.testing.assert_array_equal(arrays["semantic"], prepared.semantic)
        np.testing.assert_array_equal(arrays["classes"], np.flatnonzero(fold.seen))
        counts = np.bincount(labels[fold.train], minlength=len(fold.seen))[fold.seen]
        np.testing.assert_array_equal(arrays["counts"], counts)
        for one, mean in zip(arrays["classes"], arrays["means"], strict=True):
            rows = fold.train[labels[fold.train] == one]
            np.testing.assert_allclose(mean, pooled[rows].mean(axis=0), rtol=1e-5)


def test_the_choice_is_that_of_the_closed_form_on_all_held_out_pictures(prepared, tmp_path, monkeypatch):
    folds = validation_folds(prepared, RECIPE)
    choice = trainer(prepared, tmp_path, Spy(), monkeypatch).select(folds)
    labels, spectra = prepared.images.labels, []
    for index, fold in enumerate(folds):
        arrays = load_arrays(tmp_path / f"fold{index}" / "case-1.0.npz")
        held = arrays.pop("held")
        spectra.append(Spectrum(Case.from_arrays(arrays), held, labels[fold.held_out]))
    wanted = choose_settings(
        [(one, labels[fold.held_out], fold.seen) for one, fold in zip(spectra, folds, strict=True)]
    )
    assert choice.head == wanted
    assert (choice.gamma, choice.temperature, choice.validation_H) == (
        wanted.gamma,
        wanted.temperature,
        wanted.validation_H,
    )
    # H of the folds under what was chosen, newcomers being classes that are not seen
    curves = []
    for one, fold in zip(spectra, folds, strict=True):
        z = logits(one, wanted.settings, solve(one, wanted.settings), wanted.errors)
        assert not fold.seen[fold.newcomers].any()
        curves.append(seen_unseen_curve(z, labels[fold.held_out], fold.seen))
    assert choice.validation_H == pytest.approx(choose_gamma(curves)[1], abs=10)  # each fold: errors of the others


@pytest.mark.parametrize(
    ("method", "preset", "head", "gaussian"),
    [
        ("sc-egg", "default", "preset", True),
        ("sc-egg", "code", "preset", False),
        ("sc-egg", "paper", "preset", False),
        ("sc-egg", "default", "published", False),
        ("sc-egg", "code", "gaussian", True),
        ("gfzsl", "default", "preset", True),
        ("gfzsl", "paper", "preset", True),
        ("eszsl", "default", "preset", False),
        ("eszsl", "default", "gaussian", True),
        ("sp-aen", "default", "preset", False),
    ],
)
def test_newcomers_are_for_the_gaussian_head_and_a_recipe_says_which_it_is(prepared, method, preset, head, gaussian):
    recipe = replace(RECIPE, method=method, preset=preset, head=head)
    assert ships_gaussian(recipe) == gaussian
    folds = validation_folds(prepared, recipe)
    assert [bool(fold.newcomers.any()) for fold in folds] == [gaussian] * 3


# --- variants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noises", "best"), [((0.0, 50.0), 0), ((50.0, 0.0, 60.0), 1)])
def test_the_best_variant_is_chosen_and_trained_and_is_the_same_in_every_fold(
    prepared, tmp_path, monkeypatch, noises, best
):
    folds, spy = validation_folds(prepared, RECIPE), Spy(noises)
    one = trainer(prepared, tmp_path, spy, monkeypatch)
    choice = one.select(folds)
    assert choice.variant == best
    assert one.config == Config(noises[best])
    assert [config.noise for _, _, config in spy.told] == [noise for noise in noises for _ in folds]
    assert len({name for name, _, _ in spy.told}) == len(noises) * len(folds)
    one.train(choice)
    assert spy.told[-1][2] == Config(noises[best])
    alone = trainer(prepared, tmp_path / "alone", Spy((noises[best],)), monkeypatch).select(folds)
    assert choice == replace(alone, variant=best)


def test_without_folds_the_first_variant_is_taken_with_the_default_settings(prepared, tmp_path, monkeypatch):
    one = trainer(prepared, tmp_path, Spy((3.0, 0.0)), monkeypatch)
    choice = one.select([])
    assert (choice.variant, choice.validation_H, choice.gamma) == (0, None, 0.0)
    assert choice.head == choose_settings([])
    assert one.config == Config(3.0)
    shipped = one.train(choice)
    assert np.isfinite(shipped.head.weights[0]).all()


# --- interrupted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [0, 1, 4])
def test_an_interrupted_selection_goes_on_to_the_same_choice_bit_for_bit(prepared, tmp_path, monkeypatch, stop_at):
    folds, noises = validation_folds(prepared, RECIPE), (0.0, 0.1)
    whole = trainer(prepared, tmp_path / "whole", Spy(noises), monkeypatch).select(folds)
    cut, rest = Spy(noises, stop_at), Spy(noises)
    with pytest.raises(StoppedError):
        trainer(prepared, tmp_path / "cut", cut, monkeypatch).select(folds)
    assert trainer(prepared, tmp_path / "cut", rest, monkeypatch).select(folds) == whole
    assert len(cut.told) == stop_at
    assert len(rest.told) == 6 - stop_at  # what was finished is not trained again
    files = [sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*.npz")) for name in NAMES]
    assert files[0] == files[1]
    assert len(files[0]) == 6
    for name in files[0]:
        one, other = (load_arrays(tmp_path / folder / name) for folder in NAMES)
        assert one.keys() == other.keys()
        assert all(one[key].dtype == other[key].dtype and np.array_equal(one[key], other[key]) for key in one)


NAMES = ("whole", "cut")


# --- whole runs ------------------------------------------------------------------------------------------------------


def run(folder, recipe: Recipe, change=lambda images: images) -> dict:
    """The scores of a run on the tiny feature file, whose images are changed first."""
    images = change(open_image_set(make_pair(folder / "data"), features=FEATURES))
    recipe = replace(recipe, backbone="features")
    writer = RunWriter(folder / "run", force=False)
    with writer.exclusive():
        return run_training(images, GivenFeatures.of(images.features), recipe, writer, say=lambda _: None)


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_gfzsl_is_the_baseline_of_that_name(tmp_path, monkeypatch, floor):
    """Float32 modules and rows against the closed form in float64: the same choice, the same figures."""
    chosen = HeadChoice(Settings(0.3, 0.7, 0.1, 0.5), Errors(1.5, floor), 0.8, 2.0, 50.0)
    for module in (trainer_module, closed_forms):
        monkeypatch.setattr(module, "choose_settings", lambda folds, **_: chosen)
    mine = run(tmp_path / "method", Recipe(method="gfzsl", folds=2))
    other = run(tmp_path / "other", Recipe(method="eszsl", folds=2, head="gaussian"))["baselines"]["gfzsl"]
    assert "gfzsl" not in mine["baselines"]
    assert mine["head"] == "gaussian"
    for name in ("T1", "U", "S", "H", "AUSUC", "ECE"):
        assert mine[name] == pytest.approx(other[name], abs=1e-3)
    assert mine["head_settings"] == chosen.to_dict() == {key: other[key] for key in mine["head_settings"]}
    assert (mine["gamma"], mine["temperature"], mine["validation_H"]) == (0.8, 2.0, 50.0)
    assert mine["H"] > 50
    assert mine["T1_czsl"] == mine["T1"]


def refused(folder, code: str, recipe: Recipe = RECIPE, change=lambda images: images) -> str:
    """The one line of a run that is refused before anything is trained."""
    with pytest.raises(UsageError) as caught:
        run(folder, recipe, change)
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
    assert "\n" not in str(caught.value)
    assert not (folder / "run" / "run.json").exists()
    return caught.value.message


def test_gfzsl_has_no_published_head(tmp_path):
    said = refused(tmp_path, "E-RECIPE", replace(RECIPE, head="published"))
    assert said == "gfzsl has no head but the Gaussian one; leave --set head=published out"


@pytest.mark.parametrize("preset", gfzsl.PRESETS)
def test_every_preset_of_gfzsl_trains_for_it_has_no_other_head(tmp_path, preset):
    scores = run(tmp_path, Recipe(method="gfzsl", preset=preset, folds=2))
    assert scores["head"] == "gaussian"
    assert scores["validation_H"] is not None


def few(pictures: int, classes: int = 99):
    """Keep so many training pictures of each seen class, and of so many classes."""

    def change(images):
        role = images.role.copy()
        for place, one in enumerate(np.flatnonzero(images.table.seen)):
            rows = np.flatnonzero((images.labels == one) & (role == "train"))
            role[rows[pictures if place < classes else 0 :]] = "test"
        return replace(images, role=role)

    return change


def test_what_cannot_become_a_gaussian_head_is_told_before_training(tmp_path):
    same = lambda images: replace(images, table=replace(images.table, raw=np.ones_like(images.table.raw)))  # noqa: E731
    said = refused(tmp_path / "attributes", "E-GAUSSIAN-ATTRIBUTES", change=same)
    assert said.startswith("all 6 classes with training pictures have the same attributes")
    assert "6 training pictures of 6 classes" in refused(tmp_path / "one", "E-GAUSSIAN-SPREAD", change=few(1))


@pytest.mark.parametrize("head", ["preset", "published"])
@pytest.mark.parametrize("pictures", [2, 3])
def test_two_pictures_a_class_are_enough(tmp_path, pictures, head):
    scores = run(tmp_path, Recipe(method="eszsl", folds=2, head=head), few(pictures))
    assert scores["H"] is not None
    assert run(tmp_path / "gfzsl", replace(RECIPE, folds=2), few(pictures))["validation_H"] is not None


def test_one_picture_a_class_is_enough_for_a_published_head(tmp_path):
    """Baselines that need more are left out."""
    scores = run(tmp_path, Recipe(method="eszsl", folds=2), few(1))
    assert scores["H"] is not None
    assert "gfzsl" not in scores["baselines"]


def test_attributes_that_do_not_vary_do_not_stop_a_published_head(tmp_path):
    same = lambda images: replace(images, table=replace(images.table, raw=np.ones_like(images.table.raw)))  # noqa: E731
    assert "gfzsl" not in run(tmp_path, Recipe(method="eszsl", folds=2), same)["baselines"]


@pytest.mark.parametrize("head", ["gaussian", "published"])
def test_a_single_unseen_class_leaves_the_same_figures_null(tmp_path, head):
    """`null` gives the reason for every figure that is null, and for no other."""

    def change(images):
        seen = np.arange(len(images.table)) != 5
        return replace(
            images, table=replace(images.table, seen=seen), role=np.where(seen[images.labels], roles(images), "test")
        )

    scores = run(tmp_path, Recipe(method="eszsl", folds=2, head=head), change)
    assert {name for name in ("T1", "U", "S", "H", "T1_czsl") if scores[name] is None} == set(scores["null"])


def roles(images):
    """Some training pictures of every class."""
    return np.where(np.arange(len(images.labels)) % 3 == 0, "test", "train")
