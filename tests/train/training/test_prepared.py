"""What a run looks at, the pictures that it keeps, and the fingerprint of all that it depends on."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, replace

import numpy as np

from support.tiny_data import make_tiny_data
from support.tiny_prepared import CONFIG, RECIPE
from support.tiny_run import TinyBackbone
from zsl_runtime.pixels.pixels import prepare as prepare_pixels
from zsl_train.data.open import open_image_set
from zsl_train.training.prepared import fingerprint, keep_pictures, prepare


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


def test_word_vectors_are_spoken_of_where_the_method_looks_at_them(prepared):
    for method, told in (("sc-egg", True), ("gfzsl", False)):
        notes = prepare(prepared.images, TinyBackbone(), replace(RECIPE, method=method)).notes
        assert any("learned from scratch" in note for note in notes) == told
