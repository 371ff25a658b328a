"""What a training gathers for its report: held against the heads and modules that it came from."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from support.tiny_prepared import CONFIG, PUBLISHED, RECIPE
from zsl_runtime.accuracy import per_class_accuracy
from zsl_runtime.head.head import fold
from zsl_runtime.pixels.pixels import PixelSpec
from zsl_train.methods.base import run_batched
from zsl_train.training.gathering import PER_CLASS, SIDE, gather, surest, telling
from zsl_train.training.shipped import embed_rows
from zsl_train.training.trainer import Trainer, validation_folds

PIXELS = PixelSpec(16, 16)


def train(prepared, recipe, folder):
    trainer = Trainer(prepared, recipe, CONFIG, checkpoints=folder, log=lambda _line: None)
    shipped = trainer.train(trainer.select(validation_folds(prepared, recipe)))
    return trainer, shipped, trainer.test_logits(shipped.trained, shipped.head)


@pytest.fixture(scope="module", params=[RECIPE, PUBLISHED], ids=["gaussian", "published"])
def made(request, prepared, tmp_path_factory):
    return train(prepared, request.param, tmp_path_factory.mktemp("c"))


def test_answers_are_those_of_the_shipped_head(made, prepared):
    """Through the runtime's own folding of a head, gamma and temperature."""
    trainer, shipped, logits = made
    answers = gather(trainer, shipped, logits, PIXELS).answers
    rows, table = prepared.rows("test"), prepared.images.table
    features = embed_rows(shipped.trained, prepared.store.regions, rows)
    lifted = features if shipped.trained.lift is None else run_batched(shipped.trained.lift, features)
    scores = np.exp(fold(shipped.head, table.seen).scores(lifted))
    np.testing.assert_allclose(answers.probability[:, 0], scores.max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(answers.of_truth, scores[np.arange(len(rows)), answers.labels], rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(answers.labels, prepared.images.labels[rows])
    unseen = ~table.seen[answers.labels]
    figures = trainer.test(shipped.trained, shipped.head).figures
    assert per_class_accuracy(answers.predicted[unseen], answers.labels[unseen]) == figures["U"]
    listed = [path for path, role in zip(prepared.images.paths, prepared.images.role, strict=True) if role]
    assert [listed[line] for line in answers.lines] == [prepared.images.paths[row] for row in rows]


def test_maps_are_the_attention_of_the_embedder(made, prepared):
    trainer, shipped, logits = made
    material = gather(trainer, shipped, logits, PIXELS)
    maps = material.maps
    rows = prepared.rows("test")[maps.pictures]
    embedder = shipped.trained.embedder
    regions = torch.from_numpy(prepared.store.regions[rows].astype(np.float32))
    with torch.inference_mode():
        unit = torch.nn.functional.normalize(regions, dim=2) - embedder.centre
        wanted = torch.softmax(torch.einsum("prv,av->pra", unit, embedder.compression.query), dim=1).numpy()
    for place, told in enumerate(maps.attributes):
        for number, attribute in enumerate(told):
            found = maps.values[place, number].reshape(-1)
            np.testing.assert_allclose(found, wanted[place, :, attribute], rtol=1e-4)
    np.testing.assert_allclose(maps.values.sum(axis=(2, 3)), 1, rtol=1e-5)
    assert set(map(int, maps.pictures)) <= set(material.photographs)


def test_photographs_are_what_the_model_sees(made, prepared):
    trainer, shipped, logits = made
    photographs = gather(trainer, shipped, logits, PIXELS).photographs
    assert photographs
    for row, data in photographs.items():
        with (
            Image.open(io.BytesIO(data)) as image,
            Image.open(prepared.images.root / prepared.images.paths[int(prepared.rows("test")[row])]) as original,
        ):
            assert image.size == (SIDE, SIDE)
            left = (original.width - original.height) // 2
            square = (
                original.convert("RGB").crop((left, 0, left + original.height, original.height)).resize((SIDE, SIDE))
            )
            assert np.abs(np.asarray(image, float) - np.asarray(square, float)).mean() < 12


def test_the_plane_has_pictures_of_both_kinds_and_the_means_of_all(made, prepared):
    trainer, shipped, logits = made
    plane = gather(trainer, shipped, logits, PIXELS).plane
    seen = prepared.images.table.seen
    assert seen[plane.seen_labels].all()
    assert not seen[plane.unseen_labels].any()
    assert len(plane.synthetic) > 0  # SC-EGG has a generator
    assert np.isfinite(plane.means).all()
    assert np.isfinite(plane.told[~seen]).all()
    assert 0 < plane.shares[:2].sum() <= 1.001
    if shipped.means is not None:  # where the head puts a class is where the plane has it
        apart = np.linalg.norm(shipped.means.prior[~seen][:, None] - shipped.means.prior[~seen], axis=2)
        flat = np.linalg.norm(plane.told[~seen][:, None, 2:] - plane.told[~seen][:, 2:], axis=2)
        np.testing.assert_allclose(flat, apart, rtol=1e-3)  # three points lie on a plane


def test_it_is_the_same_every_time(made):
    trainer, shipped, logits = made
    assert gather(trainer, shipped, logits, PIXELS).to_bytes() == gather(trainer, shipped, logits, PIXELS).to_bytes()


def test_nothing_that_ships_is_changed(made):
    trainer, shipped, logits = made
    before = {key: value.clone() for key, value in shipped.trained.state_dict().items()}
    gather(trainer, shipped, logits, PIXELS)
    assert all(torch.equal(value, before[key]) for key, value in shipped.trained.state_dict().items())


def test_without_photographs_it_says_why(made):
    trainer, shipped, logits = made
    material = gather(trainer, shipped, logits, None)
    assert material.photographs == {}
    assert "feature file" in material.lacking["photographs"]


def test_photographs_that_went_away_are_left_out(made, prepared):
    trainer, shipped, logits = made
    images = prepared.images
    trainer.prepared = replace(prepared, images=replace(images, root=images.root / "gone"))
    try:
        material = gather(trainer, shipped, logits, PIXELS)
    finally:
        trainer.prepared = prepared
    assert material.photographs == {}
    assert "could not be read any more" in material.lacking["photographs"]


def test_the_surest_come_first_and_each_class_once(made):
    trainer, shipped, logits = made
    answers = gather(trainer, shipped, logits, None).answers
    rows = surest(answers, answers.right)
    sure = answers.probability[rows, 0]
    assert (np.diff(sure) <= 0).all()
    assert len(set(answers.labels[rows])) == len(rows)
    assert answers.right[rows].all()


def test_telling_attributes_are_those_that_set_a_class_apart():
    semantic = np.array([[0, 1, 0.5], [0, 0, 0.5], [1, 0, 0.5], [0, 0, 0.5]], np.float32)
    assert telling(semantic, np.array([2, 0]), 1).tolist() == [[0], [1]]


def test_few_pictures_of_each_class_are_placed(made, prepared):
    trainer, shipped, logits = made
    plane = gather(trainer, shipped, logits, None).plane
    assert np.bincount(plane.seen_labels).max() <= PER_CLASS
