"""What is scored beside what ships: the other head on the same training, the classifiers inside it, T1_czsl."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from support.tiny_prepared import CONFIG, DCR, PUBLISHED, RECIPE
from zsl_train import methods
from zsl_train.methods import METHODS, dcr_gan
from zsl_train.scoring.evaluate import choose_gamma, score, seen_unseen_curve
from zsl_train.training import beside as beside_module
from zsl_train.training.beside import conventional, score_gaussian, score_parts
from zsl_train.training.choice import Choice
from zsl_train.training.runner import with_defaults
from zsl_train.training.trainer import Trainer, validation_folds

METHOD = METHODS["sc-egg"]
SCORES = ("T1", "U", "S", "H", "AUSUC", "H_uncalibrated")


class Pooled(nn.Module):
    """A classifier inside the training: mean regions times a matrix that the training made, times the attributes."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.drop = nn.Dropout(0.9)  # does nothing in eval mode alone

    def forward(self, regions: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
        return self.drop(regions.mean(dim=1)) @ self.matrix @ semantic.T


@pytest.fixture
def with_part(monkeypatch):
    """SC-EGG with one part: what its matrix is follows from the weights that were trained; returns those made."""
    made = []

    def fit(data, config, session, seed):
        trained = METHOD.fit(data, config, session, seed)
        total = sum(float(p.double().sum()) for p in trained.embedder.state_dict().values())
        matrix = np.random.default_rng(0).standard_normal((data.dims.channels, data.dims.attributes)) * (1 + abs(total))
        made.append(matrix.astype(np.float32))
        trained.parts = {"pooled": Pooled(torch.from_numpy(made[-1]))}
        return trained.eval()

    def fit_and_look(data, config, session, seed):
        look = session.snapshot

        def snapshot(share, trained):
            trained.parts = {"pooled": Pooled(torch.from_numpy(known(data))).eval()}
            look(share, trained)

        session.snapshot = snapshot if look is not None else None
        return fit(data, config, session, seed)

    def known(data) -> np.ndarray:
        rng = np.random.default_rng(len(data.rows))
        return rng.standard_normal((data.dims.channels, data.dims.attributes)).astype(np.float32)

    names = {name: getattr(METHOD, name) for name in ("NAME", "Config", "PRESETS", "build", "stages", "HEAD")}
    monkeypatch.setitem(METHODS, "sc-egg", SimpleNamespace(**names, fit=fit_and_look))
    return SimpleNamespace(made=made, known=known)


def test_a_part_is_scored_on_held_out_pictures_and_on_test_pictures_with_a_gamma_of_its_own(
    prepared, tmp_path, with_part
):
    folds = validation_folds(prepared, RECIPE)
    assert any(fold.newcomers.any() for fold in folds)  # classes that the training of a fold never heard of
    trainer = Trainer(prepared, RECIPE, CONFIG, checkpoints=tmp_path, log=lambda _: None)
    choice = trainer.select(folds)
    trainer.train(choice)
    found = score_parts(trainer, folds, choice)["pooled"]

    pooled, semantic = prepared.store.regions.astype(np.float64).mean(axis=1), prepared.semantic.astype(np.float64)
    curves = []
    for fold in folds:
        matrix = with_part.known(SimpleNamespace(rows=fold.train, dims=prepared.dims)).astype(np.float64)
        z = pooled[fold.held_out] @ matrix @ semantic.T
        curves.append(seen_unseen_curve(z, trainer.labels[fold.held_out], fold.seen))
    gamma, value = choose_gamma(curves)
    assert found["gamma"] == pytest.approx(gamma, abs=1e-4)
    assert found["validation_H"] == pytest.approx(value)
    rows = prepared.rows("test")
    z = pooled[rows] @ with_part.made[-1].astype(np.float64) @ semantic.T
    wanted = score(z, trainer.labels[rows], prepared.images.table.seen, gamma, 1.0)
    assert {name: found[name] for name in SCORES} == pytest.approx({name: wanted[name] for name in SCORES})
    assert found["T1_czsl"] == found["T1"]
    assert all(key.partition(".")[0] != "parts" for key in trainer.own.state_dict())


def test_a_training_that_is_gone_on_with_gives_the_same_parts_without_training_again(prepared, tmp_path, with_part):
    folds, found = validation_folds(prepared, RECIPE), []
    for _ in range(2):
        lines: list[dict] = []
        trainer = Trainer(prepared, RECIPE, CONFIG, checkpoints=tmp_path, log=lines.append)
        choice = trainer.select(folds)
        trainer.train(choice)
        found.append(score_parts(trainer, folds, choice))
    assert found[0] == found[1]
    assert not [line for line in lines if "step" in line]


def test_without_folds_a_part_has_no_gamma(prepared, tmp_path, with_part):
    trainer = Trainer(prepared, replace(RECIPE, folds=0), CONFIG, checkpoints=tmp_path, log=lambda _: None)
    choice = trainer.select([])
    trainer.train(choice)
    found = score_parts(trainer, [], choice)["pooled"]
    assert (found["gamma"], found["validation_H"], found["validation_H_crossfitted"]) == (0.0, None, None)
    assert found["H"] == found["H_uncalibrated"]


# --- both heads ------------------------------------------------------------------------------------------------------


def test_the_gaussian_head_beside_a_published_one_is_the_head_that_would_ship_on_these_folds(prepared, tmp_path):
    recipe = replace(PUBLISHED, compare_heads=True)
    folds = validation_folds(prepared, recipe)
    assert not any(fold.newcomers.any() for fold in folds)
    beside = Trainer(prepared, recipe, CONFIG, checkpoints=tmp_path / "beside", log=lambda _: None)
    choice = beside.select(folds, cross=True)
    shipped = beside.train(choice)
    found = score_gaussian(beside, folds, choice)
    alone = Trainer(prepared, PUBLISHED, CONFIG, checkpoints=tmp_path / "alone", log=lambda _: None)
    assert alone.select(folds, cross=True) == choice  # what ships is the same with it and without
    np.testing.assert_array_equal(alone.train(choice).head.weights[0], shipped.head.weights[0])

    own = Trainer(prepared, RECIPE, CONFIG, checkpoints=tmp_path / "own", log=lambda _: None)
    picked = own.select(folds, cross=True)  # the same folds: the Gaussian head's own would have newcomers
    assert found["candidates"] == pytest.approx({str(share): value for share, value in picked.candidates.items()})
    at = Choice(choice.stop_at, 0, 1, None, {}, own.head_choices(folds, 0)[choice.stop_at])
    made = own.train(replace(at, gamma=at.head.gamma, temperature=at.head.temperature))
    wanted = own.test(made.trained, made.head).figures
    assert {name: found[name] for name in SCORES} == pytest.approx({name: wanted[name] for name in SCORES})
    assert found["rule"] == "gaussian"
    assert (found["gamma"], found["validation_H"]) == (at.head.gamma, at.head.validation_H)
    assert found["T1_czsl"] == found["T1"]


@pytest.mark.parametrize("name", ["sp-aen", "eszsl"])
def test_a_method_whose_rows_are_computed_can_have_the_gaussian_head_beside_it(prepared, tmp_path, name):
    small = {"sp-aen": {"stage1_steps": 4, "stage2_steps": 4, "hidden": 8}, "eszsl": {}}
    config = METHODS[name].Config()
    known = {key: value for key, value in small[name].items() if hasattr(config, key)}
    recipe = replace(PUBLISHED, method=name, compare_heads=True)
    folds = validation_folds(prepared, recipe)
    trainer = Trainer(prepared, recipe, replace(config, **known), checkpoints=tmp_path, log=lambda _: None)
    choice = trainer.select(folds)
    shipped = trainer.train(choice)
    assert shipped.trained.head_rule == "rows"
    found = score_gaussian(trainer, folds, choice)
    assert found["head_settings"]["share"] == 0  # there is no generator
    assert all(0 <= found[key] <= 100 for key in SCORES)


def test_no_method_has_two_heads_where_it_has_none_of_its_own(prepared, tmp_path):
    recipe = replace(RECIPE, method="gfzsl", compare_heads=True)
    trainer = Trainer(prepared, recipe, METHODS["gfzsl"].Config(), checkpoints=tmp_path, log=lambda _: None)
    assert (trainer.makes_gaussian, trainer.makes_published) == (True, False)
    trainer.train(trainer.select(validation_folds(prepared, recipe)))


def test_folds_that_a_gaussian_head_is_made_on_have_two_pictures_of_some_class(prepared):
    images = prepared.images
    first = {int(images.rows("train")[images.labels[images.rows("train")] == one][0]) for one in range(6)}
    second = {int(images.rows("train")[images.labels[images.rows("train")] == one][1]) for one in range(6)}
    role = tuple(r if r != "train" or i in first | second else "none" for i, r in enumerate(images.role))
    few = replace(prepared, images=replace(images, role=np.array(role)))
    for compare in (False, True):
        folds = validation_folds(few, replace(PUBLISHED, compare_heads=compare))
        most = [np.bincount(images.labels[fold.train]).max() for fold in folds]
        assert (min(most) > 1) == compare


# --- unseen classes alone --------------------------------------------------------------------------------------------


def test_the_classifier_of_unseen_classes_is_fitted_as_the_method_says(prepared, tmp_path, monkeypatch):
    """T1_czsl: by the views and the count of `Trained.czsl`, on unseen classes alone, where a method gives them."""
    monkeypatch.setattr(dcr_gan.method, "_alive", lambda *_: True)
    recipe = replace(PUBLISHED, method="dcr-gan", folds=0)
    own = {"czsl_head_batch": 9, "czsl_semantic_weight": 0.7, "czsl_head_learning_rate": 0.02}
    trainer = Trainer(prepared, recipe, replace(DCR, **own), checkpoints=tmp_path, log=lambda _: None)
    made = trainer.train(trainer.select([]))
    real, asked = beside_module.fit_shipped_head, []

    def fit(trained, table, *rest):
        asked.append((trained.synthetic_per_class, [view.weight for view in trained.views], table.seen.any()))
        asked.append([view.fit.batch_size for view in trained.views] + [trained.views[0].fit.learning_rate])
        return real(trained, table, *rest)

    monkeypatch.setattr(beside_module, "fit_shipped_head", fit)
    figure = conventional(trainer, made.trained)
    assert asked == [(7, [1.0, 0.7, 0.05], False), [9, 100, 100, 0.02]]
    assert 0 <= figure <= 100
    assert made.trained.synthetic_per_class == 5  # the head's own


# --- what a recipe leaves open ---------------------------------------------------------------------------------------


def test_a_method_may_have_snapshots_and_folds_of_its_own(monkeypatch):
    own = SimpleNamespace(FOLDS=7, SNAPSHOTS=(0.05, 1.0))
    monkeypatch.setitem(methods.METHODS, "sc-egg", own)
    usual = RECIPE
    assert with_defaults(usual, named=()).snapshots == (0.05, 1.0)
    assert with_defaults(usual, named=()).folds == 7
    assert with_defaults(usual, named={"snapshots", "method"}) == replace(usual, folds=7)
    assert with_defaults(usual, named={"snapshots", "folds"}) == usual
    monkeypatch.setitem(methods.METHODS, "sc-egg", SimpleNamespace())
    assert with_defaults(usual, named=()) == usual
