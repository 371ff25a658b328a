"""The parts of a run: replay, logits, fingerprint, reasons, pictures kept; and that test pictures stay unseen."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from support.tiny_data import make_tiny_data
from support.tiny_run import FEATURE, RULE, TinyBackbone, make_tiny_run
from support.tiny_training import QUICK
from zsl_runtime.errors import ArtefactError, GateError
from zsl_runtime.head.fitting import Replay, fit_head, fitting_rows
from zsl_runtime.head.head import Head, View, fold, log_softmax
from zsl_runtime.pixels.pixels import prepare as prepare_pixels
from zsl_train.data.open import open_image_set
from zsl_train.methods import cada_vae, sc_egg
from zsl_train.methods.base import run_batched
from zsl_train.recipe import Recipe
from zsl_train.scoring.baselines import BASELINES
from zsl_train.scoring.folds import choose_baseline
from zsl_train.training import shipped
from zsl_train.training.choice import Choice
from zsl_train.training.prepared import Prepared, fingerprint, keep_pictures, prepare
from zsl_train.training.protocol import null_reasons, protocol, selection_rule
from zsl_train.training.shipped import embed_rows, fit_shipped_head, head_logits, make_replay, sample_replay
from zsl_train.training.stored import load_array, save_array
from zsl_train.training.trainer import Trainer, trainings_in_turn, validation_folds

RECIPE = Recipe(folds=2, word_width=5, backbone="tiny")
PUBLISHED = replace(RECIPE, head="published")
CONFIG = sc_egg.Config(**{key: value for key, value in QUICK.items() if key not in {"folds", "word_width"}})
RUN = make_tiny_run()
TRAINED, TABLE = RUN.trained, RUN.generation.table


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    """6 seen and 3 unseen classes of 6 pictures, their features taken with the tiny backbone; one is unreadable."""
    folder = make_tiny_data(tmp_path_factory.mktemp("data") / "d", seen=6, unseen=3)
    images = open_image_set(folder)
    (images.root / images.paths[int(images.rows("train")[0])]).write_bytes(b"no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return prepare(images, TinyBackbone(), RECIPE)


def without_test_pictures(prepared: Prepared) -> Prepared:
    """The same, but whoever computes with a test picture gets NaN."""
    regions = np.array(prepared.store.regions)
    regions[prepared.images.rows("test")] = np.nan
    return replace(prepared, store=replace(prepared.store, regions=regions))


# --- replay, head, logits --------------------------------------------------------------------------------------------


def test_replay_keeps_some_pictures_of_every_seen_class():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.flatnonzero(TABLE.seen), [1, 3, 4, 9, 20]))
    features = rng.standard_normal((len(labels), 4)).astype(np.float32)
    replay = make_replay(features, labels, TABLE, 4, seed=0)
    assert replay.names == tuple(name for name, seen in zip(TABLE.names, TABLE.seen, strict=True) if seen)
    assert np.bincount(replay.labels).tolist() == [1, 3, 4, 4, 4]
    real = {row.tobytes(): int(label) for row, label in zip(features.astype(np.float16), labels, strict=True)}
    found = [TABLE.names.index(replay.names[i]) for i in replay.labels]
    assert [real[row.tobytes()] for row in replay.features] == found
    assert len({row.tobytes() for row in replay.features}) == len(found)
    again = make_replay(features, labels, TABLE, 4, seed=0)
    np.testing.assert_array_equal(replay.features, again.features)
    assert not np.array_equal(replay.features, make_replay(features, labels, TABLE, 4, seed=1).features)


class PictureAndNoise(torch.nn.Module):
    """Rows that show which picture and which noise they come from: (B, R, V), (B, K, Z) -> (B, K, Z + 1)."""

    def forward(self, regions, noise):
        picture = regions.mean(dim=(1, 2)).reshape(-1, 1, 1).expand(-1, noise.shape[1], 1)
        return torch.cat([picture, noise], dim=2)


@pytest.mark.parametrize(("count", "block"), [(1, 64), (4, 64), (7, 2), (20, 3)])
def test_a_method_may_fill_replay_itself_with_each_picture_in_its_turn(count, block, monkeypatch):
    monkeypatch.setattr(shipped, "REPLAY_BLOCK", block)
    trained = replace(TRAINED, replay=PictureAndNoise(), noise_width=3, feature_width=4)
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.flatnonzero(TABLE.seen), [1, 3, 4, 9, 20]))
    regions = np.arange(2.0 * len(labels)).astype(np.float16).reshape(-1, 1, 1)  # a picture's number is its feature
    rows = np.arange(len(labels)) * 2 + 1  # the even ones are other pictures
    replay = sample_replay(trained, regions, rows, labels, table=TABLE, count=count, seed=3)
    assert replay.names == tuple(name for name, seen in zip(TABLE.names, TABLE.seen, strict=True) if seen)
    assert np.bincount(replay.labels).tolist() == [count] * 5
    owner = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    for name, size in enumerate([1, 3, 4, 9, 20]):
        drawn = replay.features[replay.labels == name]
        pictures = drawn[:, 0].astype(int).tolist()
        assert {TABLE.names[owner[one]] for one in pictures} == {replay.names[name]}
        times = np.unique(pictures, return_counts=True)[1]
        assert len(times) == min(size, count)
        assert times.max() - times.min() <= 1
        assert len({row.tobytes() for row in drawn[:, 1:]}) == count  # noise of its own for every row
    noise = replay.features[:, 1:].astype(np.float32)
    if count > 1:
        assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
        assert noise.std() == pytest.approx(1, abs=5 / np.sqrt(noise.size))
    again = sample_replay(trained, regions, rows, labels, table=TABLE, count=count, seed=3)
    np.testing.assert_array_equal(replay.features, again.features)
    other = sample_replay(trained, regions, rows, labels, table=TABLE, count=count, seed=4)
    assert not np.array_equal(replay.features, other.features)


@pytest.mark.parametrize(("cap", "count"), [(200, 9), (5, 5)])
def test_generation_one_comes_from_replay_as_the_bundle_keeps_it(prepared, tmp_path, cap, count):
    config = cada_vae.Config(latent=4, steps=8, batch=8, latents_per_seen_class=9, synthetic_per_class=6, head_epochs=2)
    recipe = replace(PUBLISHED, method="cada-vae", replay_per_class=cap)
    trainer = Trainer(prepared, recipe, config, checkpoints=tmp_path, log=lambda _: None)
    shipped = trainer.train(Choice(1.0, 0.25, 1.0, None, {}))
    trained, head, replay = shipped.trained, shipped.head, shipped.replay
    table = prepared.images.table
    assert np.bincount(replay.labels).tolist() == [count] * int(table.seen.sum())
    means = embed_rows(trained, prepared.store.regions, trainer.rows)
    apart = np.linalg.norm(replay.features[:, None].astype(np.float32) - means[None], axis=2).min(axis=1)
    assert np.median(apart) > 0.1  # samples, not means
    kept = Replay.from_bytes(replay.to_bytes(), where="memory")
    again = fit_shipped_head(trained, table, prepared.rule, kept, recipe.seed)
    np.testing.assert_array_equal(again.weights[0], head.weights[0])
    np.testing.assert_array_equal(again.biases[0], head.biases[0])
    folds = validation_folds(prepared, recipe)
    assert set(trainer.select(folds).candidates) == set(recipe.snapshots)  # every fold draws its own


def test_the_shipped_head_is_the_one_the_runtime_would_fit():
    got = fit_shipped_head(TRAINED, TABLE, RULE, RUN.replay, seed=5)
    x, labels = fitting_rows(
        TABLE,
        RUN.replay,
        rule=RULE,
        synthesize=lambda a, z: run_batched(TRAINED.synthesizer, a, z),
        lift=lambda f: run_batched(TRAINED.lift, f),
        width=TRAINED.lifted_width,
        noise_dim=TRAINED.noise_width,
        count=TRAINED.synthetic_per_class,
        seed=5,
    )
    wanted = fit_head(x, labels, len(TABLE), TRAINED.views, 5)
    for one, other in zip(got.weights + got.biases, wanted.weights + wanted.biases, strict=True):
        np.testing.assert_array_equal(one, other)


def test_logits_are_the_weighted_sum_of_the_views_and_agree_with_the_folded_head():
    head = RUN.generation.head
    features = np.random.default_rng(0).random((7, FEATURE)).astype(np.float32)
    got = head_logits(TRAINED, head, features)
    x = run_batched(TRAINED.lift, features).astype(np.float64)
    wanted = sum(
        view.weight * (x[:, view.start : view.stop] @ weight.T.astype(np.float64) + bias)
        for view, weight, bias in zip(head.views, head.weights, head.biases, strict=True)
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    scores = fold(head, TABLE.seen).scores(x.astype(np.float32))
    calibrated = log_softmax((got - head.gamma * TABLE.seen) / head.temperature)
    np.testing.assert_allclose(calibrated, scores, atol=1e-4)


def test_logits_without_a_lift_look_at_the_features():
    flat = make_tiny_run(lift=False).trained
    view = View("feature", 0, FEATURE, 2.0, flat.views[0].fit)
    weight = np.ones((3, FEATURE), np.float32)
    head = Head((view,), (weight,), (np.array([0, 1, 2], np.float32),))
    features = np.eye(FEATURE, dtype=np.float32)[:2]
    np.testing.assert_allclose(head_logits(flat, head, features), [[2, 4, 6], [2, 4, 6]])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_pictures_are_embedded_in_blocks(prepared, count):
    rows = np.array([3, 1, 4, 1, 5][:count], dtype=np.int64)
    got = embed_rows(TRAINED, prepared.store.regions, rows, block=2)
    assert got.shape == (count, FEATURE)
    np.testing.assert_allclose(got, run_batched(TRAINED.embedder, prepared.store.regions[rows]), rtol=1e-5)
    assert head_logits(TRAINED, RUN.generation.head, got).shape == (count, len(TABLE))


# --- what a run looks at ---------------------------------------------------------------------------------------------


def test_unreadable_pictures_take_no_part(prepared):
    assert (~prepared.store.ok).sum() == 1
    bad = int(np.flatnonzero(~prepared.store.ok)[0])
    assert prepared.images.role[bad] == "train"
    assert bad not in prepared.training_rows()
    assert len(prepared.training_rows()) == len(prepared.images.rows("train")) - 1
    pictures, labels = keep_pictures(prepared, RECIPE, TinyBackbone())
    assert len(pictures) == len(labels) == prepared.store.ok.sum()


def test_rows_are_ascending_and_of_the_roles_asked_for(prepared):
    rows = prepared.rows("train", "test")
    assert (np.diff(rows) > 0).all()
    unseen = prepared.rows("test", seen=False)
    assert (~prepared.images.table.seen[prepared.images.labels[unseen]]).all()
    assert len(unseen) == 18


@pytest.mark.parametrize("recipe", [RECIPE, PUBLISHED], ids=lambda recipe: recipe.head)
def test_selection_and_training_never_look_at_a_test_picture(prepared, tmp_path, recipe):
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
    files = sorted(path.name for path in (tmp_path / "fold1").glob("*.np?"))
    assert files == [name.format(share) for name in KINDS[kind] for share in (0.25, 0.5, 1.0)]
    trainer.method = None  # nothing is trained
    assert trainer.select(folds) == choice
    (tmp_path / "fold1" / files[0]).write_bytes(b"damaged")
    with pytest.raises(ArtefactError, match=r"E-CHECKPOINT.* run zsl-train again with --force to start over"):
        trainer.select(folds)


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


def test_pictures_marked_for_validation_are_held_out(prepared):
    role = prepared.images.role.copy()
    marked = np.array([prepared.images.rows("train")[5], prepared.images.rows("train")[14]])
    role[marked] = "val"
    changed = replace(prepared, images=replace(prepared.images, role=role))
    assert set(marked) <= set(changed.training_rows())  # the final training has them
    for one in validation_folds(changed, RECIPE):
        assert not set(marked) & set(one.train)


def test_arrays_survive_their_file(tmp_path):
    array = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    save_array(tmp_path / "new" / "a.npy", array)
    np.testing.assert_array_equal(load_array(tmp_path / "new" / "a.npy"), array)


# --- fingerprint -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OtherConfig:
    """Settings of another method."""

    a: int = 1


def test_the_fingerprint_depends_on_all_a_run_depends_on(prepared):
    images, store = prepared.images, prepared.store
    role, labels, ok = images.role.copy(), images.labels.copy(), store.ok.copy()
    role[0] = "val" if role[0] == "train" else "train"
    labels[0] = 1 - min(labels[0], 1)
    ok[0] = not ok[0]
    names = ("renamed", *images.table.names[1:])
    variants = [
        (prepared, RECIPE, CONFIG),
        (prepared, replace(RECIPE, seed=1), CONFIG),
        (prepared, replace(RECIPE, replay_per_class=7), CONFIG),
        (prepared, RECIPE, replace(CONFIG, hidden=9)),
        (prepared, RECIPE, OtherConfig()),
        (replace(prepared, store=replace(store, fingerprint="other")), RECIPE, CONFIG),
        (replace(prepared, store=replace(store, ok=ok)), RECIPE, CONFIG),
        (replace(prepared, semantic=prepared.semantic + 1), RECIPE, CONFIG),
        (replace(prepared, words=prepared.words + 1), RECIPE, CONFIG),
        (replace(prepared, images=replace(images, role=role)), RECIPE, CONFIG),
        (replace(prepared, images=replace(images, labels=labels)), RECIPE, CONFIG),
        (replace(prepared, images=replace(images, table=replace(images.table, names=names))), RECIPE, CONFIG),
    ]
    found = [fingerprint(*variant) for variant in variants]
    assert all(one != other for one, other in itertools.combinations(found, 2))
    assert fingerprint(prepared, RECIPE, CONFIG) == found[0]
    assert fingerprint(prepared, RECIPE.resolved(CONFIG), CONFIG) == found[0]  # from the recipe.toml of a run


# --- what is said about the figures ----------------------------------------------------------------------------------


def only(prepared: Prepared, keep) -> Prepared:
    """The pictures for which `keep(seen, role)` holds; the others become unreadable."""
    images = prepared.images
    ok = np.array([keep(bool(images.table.seen[y]), r) for y, r in zip(images.labels, images.role, strict=True)])
    return replace(prepared, store=replace(prepared.store, ok=ok))


ALL = {"T1", "U", "S", "H", "H_uncalibrated", "AUSUC", "T1_czsl", "ECE"}


@pytest.mark.parametrize(
    ("keep", "null"),
    [
        (lambda seen, role: True, set()),
        (lambda seen, role: seen, ALL - {"S", "ECE"}),
        (lambda seen, role: not seen or role == "train", {"S", "H", "H_uncalibrated", "AUSUC"}),
        (lambda seen, role: role == "train", ALL),
    ],
)
def test_every_null_figure_has_a_reason(prepared, tmp_path, keep, null):
    data = only(prepared, keep)
    trainer = Trainer(data, PUBLISHED, CONFIG, checkpoints=tmp_path, log=lambda _: None)
    shipped = trainer.train(Choice(0.5, 0.1, 1.0, None, {}))
    scores = trainer.test(shipped.trained, shipped.head) | {"T1_czsl": trainer.conventional(shipped.trained)}
    assert {name for name, value in scores.items() if value is None} == null
    assert set(null_reasons(data)) == null
    for baseline in trainer.baselines([]).values():
        assert {name for name, value in baseline.items() if value is None} == (null | {"validation_H"}) & set(baseline)


def test_the_reason_tells_missing_classes_from_missing_photographs(prepared):
    without = only(prepared, lambda seen, role: seen)
    assert null_reasons(without)["U"] == "no photographs of unseen classes"
    table = prepared.images.table
    keep = np.flatnonzero(table.seen)
    rows = np.isin(prepared.images.labels, keep)
    images = replace(
        prepared.images,
        table=table.take(keep),
        paths=tuple(itertools.compress(prepared.images.paths, rows)),
        labels=np.searchsorted(keep, prepared.images.labels[rows]),
        role=prepared.images.role[rows],
    )
    none = replace(prepared, images=images, store=replace(prepared.store, ok=prepared.store.ok[rows]))
    assert null_reasons(none)["U"] == "no unseen classes"
    one = replace(prepared, images=replace(prepared.images, table=replace(table, seen=np.arange(9) != 8)))
    assert null_reasons(one) == {"T1_czsl": "a single unseen class"}


def test_the_selection_rule_says_what_chose_or_why_nothing_did(prepared):
    folds = validation_folds(prepared, RECIPE)
    nothing = Choice(1.0, 0.0, 1.0, None, {})
    assert selection_rule(RECIPE, folds, replace(nothing, validation_H=50.0)).startswith(
        "2 folds of validation classes"
    )
    for recipe, given, why in (
        (replace(RECIPE, folds=0), [], "folds = 0"),
        (RECIPE, [], "fewer than 4 seen classes"),
        (RECIPE, folds, "no photographs of training classes to hold out"),
    ):
        assert selection_rule(recipe, given, nothing).startswith(f"nothing was selected ({why}): gamma 0")
    said = protocol(prepared, RECIPE, TinyBackbone(), [], nothing)
    assert said["pictures"] == {"train": 29, "test_seen": 6, "test_unseen": 18, "unreadable": 1}
    assert said["classes"] == {"seen": 6, "unseen": 3}
    assert "our own seeded split" in said["split"]
    assert said["features"].startswith("tiny at 16 px, weights ")


# --- pictures for probe and parity -----------------------------------------------------------------------------------


def test_pictures_kept_are_decoded_training_pictures_first(prepared):
    recipe = replace(RECIPE, probe_pictures=2, parity_pictures=31)
    backbone = TinyBackbone()
    pictures, labels = keep_pictures(prepared, recipe, backbone)
    assert pictures.shape == (33, 16, 16, 3)
    assert pictures.dtype == np.uint8
    images = prepared.images
    rows = {}
    for row in np.flatnonzero(prepared.store.ok):
        rows[prepare_pixels(images.root / images.paths[row], backbone.pixels).tobytes()] = row
    found = [rows[picture.tobytes()] for picture in pictures]
    assert len(set(found)) == 33
    np.testing.assert_array_equal(images.labels[found], labels)
    assert set(images.role[found[:29]]) == {"train"}
    assert set(images.role[found[29:]]) == {"test"}
    np.testing.assert_array_equal(keep_pictures(prepared, recipe, backbone)[0], pictures)
    other = keep_pictures(prepared, replace(recipe, seed=1), backbone)[1]
    assert not np.array_equal(other, labels)


def test_word_vectors_come_from_the_recipes_file_the_data_or_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    folder = make_tiny_data(tmp_path / "d", seen=4, unseen=2, per_class=2, word_width=3)
    given = np.load(folder / "attribute_vectors.npy")
    found = prepare(open_image_set(folder), TinyBackbone(), RECIPE)
    np.testing.assert_array_equal(found.words, given)
    np.save(tmp_path / "others.npy", given + 1)
    other = prepare(open_image_set(folder), TinyBackbone(), replace(RECIPE, words=str(tmp_path / "others.npy")))
    np.testing.assert_array_equal(other.words, given + 1)
    (folder / "attribute_vectors.npy").unlink()
    drawn = prepare(open_image_set(folder), TinyBackbone(), RECIPE)
    assert drawn.words.shape == (len(given), 5)
    assert any("learned from scratch" in note for note in drawn.notes)
    shutil.rmtree(folder)
