"""A small pair of feature file and att_splits.mat in the xlsa17 layout: features follow attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.io

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")
SEEN = np.array([True, True, False, True, True, False, True, True])
PER_CLASS, WIDTH, ATTRIBUTES = 10, 14, 6
FEATURES = "res101.mat"


def attribute_matrix() -> np.ndarray:
    """(A, C): two or three of six attributes a class, columns of unit length."""
    patterns = ("110000", "011000", "001100", "000110", "000011", "100001", "101010", "010101")
    raw = np.array([[int(letter) for letter in pattern] for pattern in patterns], dtype=np.float64).T
    raw = raw + 0.1 * np.random.default_rng(1).random(raw.shape)
    return raw / np.linalg.norm(raw, axis=0)


def labels_of_rows() -> np.ndarray:
    """(N,) 0-based classes of the rows, mixed."""
    return np.random.default_rng(2).permutation(np.repeat(np.arange(len(CLASSES)), PER_CLASS))


def feature_rows() -> np.ndarray:
    """(N, V) float64: each attribute lights up two columns; two more are noise."""
    draw = np.random.default_rng(3)
    labels = labels_of_rows()
    light = np.repeat(np.eye(ATTRIBUTES), 2, axis=1)
    rows = attribute_matrix().T[labels] @ light
    return np.concatenate([rows, np.zeros((len(rows), WIDTH - rows.shape[1]))], axis=1) + 0.1 * draw.standard_normal(
        (len(rows), WIDTH)
    )


def lists() -> dict[str, np.ndarray]:
    """The five lists, 1-based, of version 1: train_loc and val_loc hold the test pictures of seen classes."""
    labels = labels_of_rows()
    parts: dict[str, list[int]] = {"trainval_loc": [], "test_seen_loc": [], "test_unseen_loc": []}
    for number, seen in enumerate(SEEN):
        rows = np.flatnonzero(labels == number) + 1
        parts["trainval_loc" if seen else "test_unseen_loc"] += rows[: 7 if seen else None].tolist()
        parts["test_seen_loc"] += rows[7:].tolist() if seen else []
    tuning = np.flatnonzero(SEEN)[-2:]  # two of the seen classes play validation classes
    of = {row: labels[row - 1] in tuning for row in parts["trainval_loc"] + parts["test_seen_loc"]}
    parts["train_loc"] = [row for row, val in of.items() if not val]
    parts["val_loc"] = [row for row, val in of.items() if val]
    return {key: np.sort(np.array(values)) for key, values in parts.items()}


def cells(values: Any) -> np.ndarray:
    """A MATLAB cell array of strings."""
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = list(values)
    return array


def make_pair(
    folder: Path, *, splits: Mapping[str, Any] | None = None, features: Mapping[str, Any] | None = None
) -> Path:
    """Write FEATURES and att_splits.mat into `folder`, which is made.

    Args:
        folder: data directory.
        splits: variables of att_splits.mat that differ; None takes one out.
        features: variables of the feature file that differ; None takes one out.

    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = labels_of_rows()
    names = [f"C:\\somebody\\images\\{CLASSES[label]}\\{row:04}.jpg" for row, label in enumerate(labels)]
    one = {key: values[:, None] for key, values in lists().items()}
    one |= {"att": attribute_matrix(), "original_att": 100 * attribute_matrix(), "allclasses_names": cells(CLASSES)}
    two = {"features": feature_rows().T, "labels": labels[:, None] + 1.0, "image_files": cells(names)}
    for name, content, changes in (("att_splits.mat", one, splits), (FEATURES, two, features)):
        kept = {key: value for key, value in (content | dict(changes or {})).items() if value is not None}
        scipy.io.savemat(folder / name, kept, do_compression=True)
    return folder
