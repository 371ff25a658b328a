"""Selection and training: test pictures stay unseen, folds side by side choose what folds in turn choose."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from support.tiny_prepared import CONFIG, DCR, PUBLISHED, RECIPE
from zsl_runtime.errors import ArtefactError, GateError
from zsl_runtime.head import held_out
from zsl_train.head.gaussian import HeadChoice
from zsl_train.methods import dcr_gan
from zsl_train.methods import eszsl as eszsl_method
from zsl_train.methods.base import run_batched
from zsl_train.scoring.baselines import BASELINES, ESZSL_GRID, SCALINGS, eszsl, scale
from zsl_train.scoring.folds import choose_baseline
from zsl_train.training.beside import conventional
from zsl_train.training.choice import choose
from zsl_train.training.closed_forms import closed_forms
from zsl_train.training.trainer import Trainer, trainings_in_turn, validation_folds

if TYPE_CHECKING:
    from zsl_train.training.prepared import Prepared


def without_test_pictures(prepared: Prepared) -> Prepared:
    """The same, but whoever computes with a test picture gets NaN."""
    regions = np.array(prepared.store.regions)
    regions[prepared.images.rows("test")] = np.nan
    return replace(prepared, store=replace(prepared.store, regions=regions))


@pytest.mark.parametrize("recipe", [RECIPE, PUBLISHED], ids=lambda recipe: recipe.head)
def test_selection_and_training_never_look_at_a_test_picture(prepared, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(held_out, "LEAST", 1)
    blind = without_test_pictures(prepared)
    folds = validation_folds(blind, recipe)
    results = []
    for data, name in ((blind, "blind"), (prepared, "whole")):
        trainer = Trainer(data, recipe, CONFIG, checkpoints=tmp_path / name, log=lambda _: None)
        choice = trainer.select(folds)
        shipped = trainer.train(choice)
        results.append((choice, shipped, shipped.trained.state_dict()))
        assert (shipped.head.gamma, shipped.head.temperature) == (choice.gamma, choice.temperature)
    (choice, shipped, state), (choice_too, shipped_too, state_too) = results
    assert choice == choice_too
    assert choice.validation_H is not None
    assert (choice.head is None) == (shipped.means is None) == (recipe is PUBLISHED)
    assert (shipped.trained.gaussian is None) == (recipe is PUBLISHED)
    if recipe is RECIPE:
        held = shipped.trained.gaussian.held
        assert held is not None
        np.testing.assert_array_equal(held, shipped_too.trained.gaussian.held)
    for one, other in zip(shipped.head.weights, shipped_too.head.weights, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(shipped.replay.features, shipped_too.replay.features)
    assert (len(shipped.replay.labels) == 0) == (recipe is RECIPE)
    assert all(np.array_equal(state[key], state_too[key]) for key in state)
    pooled = blind.store.pooled()
    for name in BASELINES:
        found = choose_baseline(name, folds, pooled, blind.images.labels, blind.semantic)
        assert found == choose_baseline(name, folds, prepared.store.pooled(), blind.images.labels, blind.semantic)


KINDS = {"gaussian": ["case-{}.npz"], "published": ["scores-{}.npy"], "both": ["case-{}.npz", "scores-{}.npy"]}


@pytest.mark.parametrize("kind", KINDS)
def test_what_folds_found_is_read_back_and_not_computed_again(prepared, tmp_path, kind):
    recipe = PUBLISHED if kind == "published" else replace(RECIPE, compare_heads=kind == "both")
    folds = validation_folds(prepared, recipe)
    trainer = Trainer(prepared, recipe, CONFIG, checkpoints=tmp_path, log=lambda _: None)
    choice = trainer.select(folds)
    files = sorted(path.name for path in (tmp_path / "fold1").glob("*.np?") if not path.name.startswith("parts-"))
    assert files == [name.format(share) for name in KINDS[kind] for share in (0.25, 0.5, 1.0)]
    trainer.method = None  # nothing is trained
    assert trainer.select(folds) == choice
    (tmp_path / "fold1" / files[0]).write_bytes(b"damaged")
    with pytest.raises(ArtefactError, match=r"E-CHECKPOINT.* run zsl-train again with --force to start over"):
        trainer.select(folds)


@pytest.mark.parametrize(
    ("dead", "shipped"),
    [
        ((), ["visual", "semantic", "searched"]),
        (("fold 1/2",), ["visual", "searched"]),
        (("final",), ["visual", "searched"]),
        (("fold 1/2", "fold 2/2", "final"), ["visual", "prior", "searched"]),
        (("fold 1/2", "fold 2/2"), ["visual", "searched"]),
    ],
)
def test_a_head_has_the_views_that_every_training_of_the_run_has(prepared, tmp_path, monkeypatch, dead, shipped):
    """A method that finds a view useless in one training: the choice is made on the folds' other views alone."""
    monkeypatch.setattr(dcr_gan.method, "_alive", lambda *given: given[-1].name not in dead)
    recipe = replace(PUBLISHED, method="dcr-gan", folds=2, snapshots=(0.5, 1.0))
    folds = validation_folds(prepared, recipe)
    told = []
    config = replace(DCR, dead_view="prior")
    trainer = Trainer(prepared, recipe, config, checkpoints=tmp_path, log=told.append)
    choice = trainer.select(folds)
    made = trainer.train(choice)
    for views in (made.trained.views, made.trained.czsl.views, made.head.views):
        assert [view.name for view in views] == shipped
    assert any("this run's head has" in line.get("note", "") for line in told) == (len(shipped) < 3)
    scores = [
        sum(
            part
            for name, part in np.load(tmp_path / f"fold{i}" / f"views-{choice.stop_at}.npz").items()
            if name in shipped
        )
        for i in range(2)
    ]
    labels = [prepared.images.labels[fold.held_out] for fold in folds]
    wanted = choose({choice.stop_at: scores}, labels, [fold.seen for fold in folds])
    assert trainer.choice.gamma == pytest.approx(wanted.gamma, abs=1e-5)
    assert trainer.choice.validation_H == pytest.approx(wanted.validation_H)
    assert made.head.gamma == trainer.choice.gamma
    assert conventional(trainer, made.trained) is not None
    last = made.trained.views[-1]  # what ships has no columns that no view looks at
    assert last.stop == made.trained.lifted_width == 12 + sum(WIDTHS[name] for name in shipped)
    features = np.zeros((2, made.trained.feature_width), np.float32)
    assert run_batched(made.trained.lift, features).shape == (2, last.stop)


WIDTHS = {"visual": 0, "semantic": 7, "prior": 1, "searched": 3}


@pytest.mark.parametrize("dead", [("fold 1/2",), ("final",), ("fold 1/2", "fold 2/2"), ("fold 1/2", "final")])
def test_a_training_may_have_a_single_view_where_others_have_two(prepared, tmp_path, monkeypatch, dead):
    monkeypatch.setattr(dcr_gan.method, "_alive", lambda *given: given[-1].name not in dead)
    recipe = replace(PUBLISHED, method="dcr-gan", folds=2, snapshots=(0.5, 1.0))
    config = replace(DCR, dead_view="drop", searched_weight=0.0, czsl_searched_weight=0.0)
    trainer = Trainer(prepared, recipe, config, checkpoints=tmp_path, log=lambda _: None)
    made = trainer.train(trainer.select(validation_folds(prepared, recipe)))
    assert [view.name for view in made.head.views] == ["visual"]
    assert made.trained.lift is None


@pytest.fixture
def threads():
    """Sets the number of torch's threads; the old one comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_folds_side_by_side_choose_what_folds_one_after_the_other_choose(prepared, tmp_path, threads):
    folds = validation_folds(prepared, replace(RECIPE, folds=3))
    found, lines = [], []
    for count in (1, 2):
        threads(count)
        log: list[dict] = []
        found.append(Trainer(prepared, RECIPE, CONFIG, checkpoints=tmp_path / str(count), log=log.append).select(folds))
        lines.append([[line["session"], line["stage"]] for line in log])
    assert found[0] == found[1]
    assert sorted(lines[0]) == sorted(lines[1])


def test_folds_count_two_at_a_time_and_the_final_training_once():
    assert [trainings_in_turn(folds) for folds in (0, 1, 2, 3, 4)] == [1, 2, 2, 3, 3]


def test_a_fold_that_diverges_stops_the_others(prepared, tmp_path, threads):
    threads(2)
    folds = validation_folds(prepared, RECIPE)
    config = replace(CONFIG, learning_rate_embedding=1e12)
    with pytest.raises(GateError, match="E-DIVERGED"):
        Trainer(prepared, RECIPE, config, checkpoints=tmp_path, log=lambda _: None).select(folds)


def by_brute_force(prepared, folds) -> tuple[str, tuple[float, float], float]:
    """The settings of ESZSL with the best mean H at the best common gamma, found by trying all of them in loops."""
    pooled, labels, semantic = prepared.store.pooled(), prepared.images.labels, prepared.semantic
    best = ("", (0.0, 0.0), -1.0)
    for scaling, ridges in product(SCALINGS, ESZSL_GRID):
        cases = []
        for fold in folds:
            x, held = (scale(pooled[rows], pooled[fold.train], scaling) for rows in (fold.train, fold.held_out))
            matrix = eszsl(
                x, labels[fold.train], semantic, fold.seen, feature_ridge=ridges[0], semantic_ridge=ridges[1]
            )
            cases.append((held @ matrix, labels[fold.held_out], fold.seen))
        edges = np.unique(np.concatenate([(z[:, s].max(axis=1) - z[:, ~s].max(axis=1)) for z, _, s in cases]))
        gammas = [edges[0] - 1, *(edges[1:] + edges[:-1]) / 2, edges[-1] + 1]
        value = max(np.mean([harmonic(z - gamma * s, y, s) for z, y, s in cases]) for gamma in gammas)
        if value > best[2] + 1e-9:
            best = (scaling, ridges, value)
    return best


def harmonic(scores, labels, seen) -> float:
    right = scores.argmax(axis=1) == labels
    means = [np.mean([right[labels == one].mean() for one in np.unique(labels[seen[labels] == k])]) for k in (0, 1)]
    return 0.0 if sum(means) == 0 else 100 * 2 * means[0] * means[1] / sum(means)


def test_where_folds_disagree_all_are_trained_with_the_settings_that_suit_them_together(prepared, tmp_path):
    pooled, labels, semantic = prepared.store.pooled(), prepared.images.labels, prepared.semantic
    for seed in range(20):
        recipe = replace(PUBLISHED, method="eszsl", seed=seed)
        folds = validation_folds(prepared, recipe)
        alone = [choose_baseline("eszsl", [fold], pooled, labels, semantic) for fold in folds]
        if alone[0].scaling != alone[1].scaling:
            break
    assert alone[0].scaling != alone[1].scaling  # they do disagree
    scaling, ridges, value = by_brute_force(prepared, folds)
    log: list[dict] = []
    trainer = Trainer(prepared, recipe, eszsl_method.Config(), checkpoints=tmp_path, log=log.append)
    choice = trainer.select(folds)
    assert choice.validation_H == pytest.approx(value)
    shipped = trainer.train(choice)
    solved = [line for line in log if "feature_ridge" in line]
    assert [line["session"] for line in solved] == ["fold 1/2", "fold 2/2", "final"]
    for line in solved:
        assert SCALINGS[int(line["scaling"])] == scaling
        assert (line["feature_ridge"], line["semantic_ridge"]) == pytest.approx(ridges)
    chosen = {"scaling": scaling, "feature_ridge": ridges[0], "semantic_ridge": ridges[1]}
    assert trainer.chosen() == chosen
    # The method is the baseline of that name: what ships has the scores that the table shows beside it.
    tested = trainer.test(shipped.trained, shipped.head)
    baseline = closed_forms(prepared, "eszsl", folds, [], log.append)["eszsl"]
    np.testing.assert_array_equal(tested.predicted, baseline.predicted)
    for figure in ("T1", "U", "S", "H", "AUSUC"):
        assert tested.figures[figure] == pytest.approx(baseline.figures[figure], abs=0.01), figure
    assert choice.gamma == pytest.approx(baseline.figures["gamma"], abs=1e-3)


def cross_fitted(prepared, folds) -> list[float]:
    """H of each fold with the scaling, ridges and gamma of ESZSL that the others choose, all tried in loops."""
    pooled, labels, semantic = prepared.store.pooled(), prepared.images.labels, prepared.semantic
    found = []
    for place, fold in enumerate(folds):
        others = [one for k, one in enumerate(folds) if k != place]
        choice = choose_baseline("eszsl", others, pooled, labels, semantic)
        x, held = (scale(pooled[rows], pooled[fold.train], choice.scaling) for rows in (fold.train, fold.held_out))
        ridges = dict(zip(("feature_ridge", "semantic_ridge"), choice.ridges, strict=True))
        z = held @ eszsl(x, labels[fold.train], semantic, fold.seen, **ridges)
        found.append(harmonic(z - choice.gamma * fold.seen, labels[fold.held_out], fold.seen))
    return found


def test_what_is_settled_in_closed_form_is_settled_by_the_others_for_the_cross_fitted_figure(prepared, tmp_path):
    differ = 0
    for seed in (0, 1, 2):
        recipe = replace(PUBLISHED, method="eszsl", seed=seed, folds=3)
        folds = validation_folds(prepared, recipe)
        trainer = Trainer(prepared, recipe, eszsl_method.Config(), checkpoints=tmp_path / str(seed), log=lambda _: None)
        choice = trainer.select(folds, cross=True)
        differ += len(trainer.variants) > 1
        wanted = cross_fitted(prepared, folds)
        # Gamma is a threshold of float32 scores here and of float64 ones there: a picture on it may fall either way.
        assert choice.validation_H_crossfitted == pytest.approx(np.mean(wanted), abs=2)
        assert choice == replace(trainer.select(folds), held=choice.held)
        trainer.train(choice)
        assert trainer.config == trainer.variants[0]  # that of all folds
    assert differ


@pytest.mark.parametrize("recipe", [RECIPE, PUBLISHED], ids=lambda recipe: recipe.head)
def test_the_cross_fitted_figure_is_of_shares_that_the_others_choose(prepared, tmp_path, recipe):
    folds = validation_folds(prepared, replace(recipe, folds=3))
    trainer = Trainer(prepared, recipe, CONFIG, checkpoints=tmp_path, log=lambda _: None)
    choice = trainer.select(folds, cross=True)
    assert len(choice.held) == 3
    assert choice.validation_H_crossfitted == pytest.approx(np.mean([one.own for one in choice.held]))
    by_share = []
    for share in trainer.snapshots:
        trainer.snapshots = (share,)
        by_share.append(trainer.select(folds, cross=True).held)
    for place, one in enumerate(choice.held):
        assert one == max((of[place] for of in by_share), key=lambda held: held.others)
    assert trainer.select(folds[:1], cross=True).validation_H_crossfitted is None


def test_pictures_marked_for_validation_are_held_out(prepared):
    role = prepared.images.role.copy()
    marked = np.array([prepared.images.rows("train")[5], prepared.images.rows("train")[14]])
    role[marked] = "val"
    changed = replace(prepared, images=replace(prepared.images, role=role))
    assert set(marked) <= set(changed.training_rows())  # the final training has them
    for one in validation_folds(changed, RECIPE):
        assert not set(marked) & set(one.train)


def test_where_all_shares_are_alike_for_the_head_that_ships_the_head_beside_decides(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "head_choices", lambda *_: {0.5: HeadChoice(validation_H=40.0), 1.0: ALIKE})
    beside = SimpleNamespace(candidates={0.5: 10.0, 1.0: 30.0})
    monkeypatch.setattr(Trainer, "_choose_published", lambda *_: beside)
    for recipe, share in ((replace(RECIPE, compare_heads=True), 1.0), (RECIPE, 0.5)):
        trainer = Trainer(prepared, recipe, CONFIG, checkpoints=tmp_path, log=lambda _: None)
        assert trainer._choose([], 0).stop_at == share
    monkeypatch.setattr(Trainer, "head_choices", lambda *_: {0.5: HeadChoice(validation_H=40.1), 1.0: ALIKE})
    trainer = Trainer(prepared, replace(RECIPE, compare_heads=True), CONFIG, checkpoints=tmp_path, log=lambda _: None)
    assert trainer._choose([], 0).stop_at == 0.5


ALIKE = HeadChoice(validation_H=40.0)
