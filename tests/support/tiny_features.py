"""Region features that follow attributes, small enough to train any method on in a second."""

from __future__ import annotations

import numpy as np

from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.semantic_rule import SemanticRule
from zsl_train.methods.base import TrainingData

REGIONS, CHANNELS, ATTRIBUTES, WORDS = 4, 12, 6, 5
PER_CLASS = 8
SEEN = np.array([True, False, True, True, False, True, True, False])  # 5 seen and 3 unseen classes, mixed


def tiny_table() -> ClassTable:
    """8 classes; each has two or three of six attributes."""
    rng = np.random.default_rng(1)
    raw = np.zeros((8, ATTRIBUTES))
    for row, pattern in enumerate(("110000", "011000", "001100", "000110", "000011", "100001", "101010", "010101")):
        raw[row] = [int(letter) for letter in pattern]
    raw += 0.1 * rng.random(raw.shape)
    names = tuple(f"class {letter}" for letter in "abcdefgh")
    return ClassTable(names, SEEN, raw, tuple(f"attribute {n}" for n in range(ATTRIBUTES)))


def tiny_training_data(*, seed: int = 0, per_class: int = PER_CLASS, everything: float = 1.0) -> TrainingData:
    """Pictures of the five seen classes: each attribute a class has lights two channels in one region of the picture.

    Every second row of `regions` is another picture, which training may not read: it is NaN.

    Args:
        seed: of the pictures.
        per_class: training pictures of a class.
        everything: factor on all features; NaN makes them useless.

    """
    rng = np.random.default_rng([seed, 2])
    table = tiny_table()
    labels = rng.permutation(np.repeat(np.flatnonzero(table.seen), per_class))
    light = np.repeat(np.eye(ATTRIBUTES), 2, axis=1)  # (A, V): two channels an attribute
    regions = 0.2 * rng.random((2 * len(labels), REGIONS, CHANNELS))
    for row, label in enumerate(labels):
        for attribute in np.flatnonzero(table.raw[label] > 0.5):
            regions[2 * row, rng.integers(REGIONS)] += light[attribute]
    regions[1::2] = np.nan
    return TrainingData(
        regions=(everything * regions).astype(np.float16),
        rows=2 * np.arange(len(labels)),
        labels=labels,
        table=table,
        semantic=SemanticRule().apply(table.raw),
        word_vectors=rng.standard_normal((ATTRIBUTES, WORDS)).astype(np.float32),
    )
