"""What ships of a training: replay, head and logits; the head is the one that the runtime would fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from support.tiny_prepared import PUBLISHED
from support.tiny_run import FEATURE, RULE, make_tiny_run
from zsl_runtime.head.fitting import Replay, fit_head, fitting_rows
from zsl_runtime.head.head import Head, View, fold, log_softmax
from zsl_train.methods import cada_vae
from zsl_train.methods.base import run_batched
from zsl_train.training import shipped
from zsl_train.training.choice import Choice
from zsl_train.training.shipped import embed_rows, fit_shipped_head, head_logits, make_replay, sample_replay
from zsl_train.training.trainer import Trainer, validation_folds

RUN = make_tiny_run()


TRAINED, TABLE = RUN.trained, RUN.generation.table


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
