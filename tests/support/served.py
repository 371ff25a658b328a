"""Pictures of the tiny bundle as callers send them, and what NumPy says of them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from support.tiny_bundle import canonical_of, class_table, draw_pictures, features_of
from zsl_runtime.head.class_table import ClassTable

LABELS = np.array([0, 5, 2, 7, 3, 6, 1, 4])
PICTURES = draw_pictures(class_table(), LABELS, seed=3)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = [png(one) for one in PICTURES]


def by_numpy(bundle, pictures, classes="all"):
    """Probabilities (n, C) and distances (n, C) to the classes of the generation in force, by their definitions."""
    generation = bundle.current()
    seen = generation.table.seen
    x = canonical_of(features_of(pictures)).astype(np.float64)
    logits = x @ generation.head.weights[0].astype(np.float64).T + generation.head.biases[0]
    logits = (logits - generation.head.gamma * seen) / generation.head.temperature
    logits[:, {"all": seen & False, "seen": ~seen, "unseen": seen}[classes]] = -np.inf
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    means, d = generation.means, bundle.gaussian().variance
    where = means.prior.astype(np.float64)
    for row, total in zip(np.flatnonzero(means.counts), means.totals, strict=True):
        n = means.counts[row]
        where[row] += d / (d + 1 / n) * (total / n - where[row])
    return chances, np.sqrt(((x[:, None] - where) ** 2).mean(axis=2))


def newcomer(name: str) -> ClassTable:
    return ClassTable((name,), np.array([False]), np.array([[3.0, 3, 3, 1, 1, 1]]), class_table().attributes)


def check(bundle, one, pictures, topk, classes="all") -> None:
    """An answer against NumPy."""
    chances, far = by_numpy(bundle, pictures, classes)
    table = bundle.current().table
    order = np.argsort(-chances, axis=1, kind="stable")[:, :topk]
    np.testing.assert_array_equal(one.ids, order)
    assert one.names.tolist() == [[table.names[j] for j in row] for row in order]
    np.testing.assert_array_equal(one.seen, table.seen[order])
    np.testing.assert_allclose(one.probabilities, np.take_along_axis(chances, order, axis=1), atol=1e-5)
    np.testing.assert_allclose(one.distances, np.take_along_axis(far, order, axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.distance, far.min(axis=1), rtol=1e-4, atol=1e-4)
    assert one.far.tolist() == (far.min(axis=1) > bundle.gaussian().held[99]).tolist()
    assert one.errors == ("",) * len(pictures)
    assert one.generation == bundle.current().number
    assert (one.probabilities.dtype, one.distances.dtype, one.ids.dtype) == (np.float32, np.float32, np.int64)
