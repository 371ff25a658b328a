"""What a training starts from: data, backbone and features, described for the run folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_train.data.attributes import odd_notes, rule_notes, semantic_rule
from zsl_train.data.feature_store import extract, given_store
from zsl_train.data.given import GivenFeatures
from zsl_train.data.image_set import in_turns
from zsl_train.data.pictures import Pictures
from zsl_train.data.word_vectors import learned_word_vectors, load_word_vectors
from zsl_train.devices import CPU
from zsl_train.methods import find_method
from zsl_train.methods.base import Dims, TrainingData

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats, Ints
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.semantic_rule import SemanticRule
    from zsl_train.backbones.base import Backbone
    from zsl_train.data.feature_store import FeatureStore
    from zsl_train.data.image_set import ImageSet
    from zsl_train.recipe import Recipe


@dataclass(frozen=True)
class Prepared:
    """Everything before the method: pictures, features, semantic vectors, word vectors.

    Attributes:
        images: the pictures and classes.
        store: their region features.
        rule: attributes -> semantic vectors.
        semantic: (C, A) float32.
        words: (A, W) float32.
        notes: things the user should be told.
        pictures: the pictures for a method that looks at them; None where there are features only.
        device: that networks run and are trained on.

    """

    images: ImageSet
    store: FeatureStore
    rule: SemanticRule
    semantic: Floats
    words: Floats
    notes: tuple[str, ...]
    pictures: Pictures | None = None
    device: torch.device = CPU

    @property
    def dims(self) -> Dims:
        """The sizes that fix a method's networks."""
        return Dims.of(self.store.regions, self.semantic, self.words, self.images.table)

    def rows(self, *roles: str, seen: bool | None = None) -> Ints:
        """Readable pictures with one of these roles, ascending."""
        found = np.concatenate([self.images.rows(role, seen=seen) for role in roles])
        return np.sort(found[self.store.ok[found]]).astype(np.int64)

    def training_rows(self) -> Ints:
        """Readable pictures that may be trained on, those marked for validation included."""
        return self.rows("train", "val", seen=True)


def prepare(
    images: ImageSet, backbone: Backbone | GivenFeatures, recipe: Recipe, device: torch.device = CPU
) -> Prepared:
    """Extract region features (or reuse them, or take the file's), apply the semantic rule, find word vectors."""
    if isinstance(backbone, GivenFeatures):
        assert images.features is not None
        store = given_store(images.features)
    else:
        store = extract(images, backbone, device=device)
    rule = semantic_rule(
        images.table,
        clamp_negative=recipe.clamp_negative,
        unit_l2=recipe.unit_l2,
        attribute_scale=recipe.attribute_scale,
    )
    words, notes = _word_vectors(images, recipe)
    used = getattr(find_method(recipe.method), "WORDS", False)
    of_words = notes if used else ()
    table = images.table
    notes = (*odd_notes(rule, table), *images.notes, *rule_notes(rule, table), *fit_notes(images, recipe), *of_words)
    pictures = None if isinstance(backbone, GivenFeatures) else Pictures(images, backbone)
    return Prepared(images, store, rule, rule.apply(table.raw), words, notes, pictures, device)


def fit_notes(images: ImageSet, recipe: Recipe) -> tuple[str, ...]:
    """A warning when the recipe, or else the preset, was made for other data sets than this looks like.

    A method's module may say in PRESETS_FOR which published data sets a preset of it was made for.
    """
    if recipe.data_set:
        made_for: tuple[str, ...] = (recipe.data_set,)
    else:
        made_for = getattr(find_method(recipe.method), "PRESETS_FOR", {}).get(recipe.preset, ())
    if not made_for or images.data_set in made_for:
        return ()
    what = f"recipe ({recipe.method}, preset {recipe.preset})" if recipe.data_set else f"preset {recipe.preset}"
    looks = f"looks like {images.data_set}" if images.data_set else "is none of the published data sets"
    return (f"the {what} was made for {', '.join(made_for)}; this data {looks}",)


def _word_vectors(images: ImageSet, recipe: Recipe) -> tuple[Floats, tuple[str, ...]]:
    from pathlib import Path

    if recipe.words:
        found = load_word_vectors(Path(recipe.words), images.words)
    elif images.word_vectors is not None:
        return images.word_vectors, ()
    else:
        found = learned_word_vectors(len(images.words), recipe.word_width, recipe.seed)
        if images.features is not None and images.features.regions == 1:
            return found.vectors, ()  # one region: there is nothing that words could find in it
    return found.vectors, found.notes


def training_data(prepared: Prepared, rows: Ints, table: ClassTable, labels: Ints, semantic: Floats) -> TrainingData:
    """What a method may see: the given rows of the store and the given classes."""
    return TrainingData(prepared.store.regions, rows, labels, table, semantic, prepared.words, prepared.pictures)


def keep_pictures(
    prepared: Prepared, recipe: Recipe, backbone: Backbone | GivenFeatures
) -> tuple[NDArray[np.uint8] | Floats, Ints]:
    """Inputs for probe and parity gate: spread over the classes, seeded; training pictures, then test pictures.

    Returns:
        Pictures (n, P, P, 3) uint8, or rows of the feature file (n, R, V) float32; and their classes (n,).

    """
    from zsl_runtime.pixels.pixels import prepare as prepare_pixels

    wanted = recipe.probe_pictures + recipe.parity_pictures
    rng = np.random.default_rng([recipe.seed, 13])
    train, test = rng.permutation(prepared.rows("train", "val")), rng.permutation(prepared.rows("test"))
    order = np.concatenate([in_turns(rows, prepared.images.labels[rows]) for rows in (train, test)])[:wanted]
    if backbone.pixels is None:
        return prepared.store.regions[order].astype(np.float32), prepared.images.labels[order]
    pixels = [prepare_pixels(prepared.images.root / prepared.images.paths[int(i)], backbone.pixels) for i in order]
    return np.stack(pixels), prepared.images.labels[order]


def fingerprint(prepared: Prepared, recipe: Recipe, config: Any) -> str:
    """Hash of all a run depends on: features, split, attributes, word vectors and the resolved recipe."""
    digest = hashlib.sha256(prepared.store.fingerprint.encode())
    digest.update(json.dumps(recipe.resolved(config).to_dict(), sort_keys=True).encode())
    for array in (prepared.images.labels, prepared.semantic, prepared.words, prepared.store.ok):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("\n".join([*prepared.images.role, *prepared.images.table.names]).encode())
    return digest.hexdigest()
