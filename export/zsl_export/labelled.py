"""Labelled pictures of a user, for comparing backends on a finished bundle; no torch, and no run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.errors import GateError, InputError, UsageError, listed
from zsl_runtime.head.names import stored_form
from zsl_runtime.pixels.pixels import PixelSpec, prepare

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.head.class_table import ClassTable

MOST = 2000  # pictures, kept in memory


class Labelled(NamedTuple):
    """Pictures with their classes.

    Attributes:
        pictures: (n, P, P, 3) uint8, as the model takes them.
        labels: (n,) int64, columns of the scores.
        of: how many there were.
        unreadable: how many of those that were drawn could not be read.
        source: what they are, in words.

    """

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    of: int
    unreadable: int
    source: str


def read_labelled(bundle: Bundle, directory: Path, table: ClassTable) -> Labelled:
    """Labelled pictures in a folder: one of each class, then the second of each, ..., at most MOST.

    Of a data folder or an original archive these are the test pictures, by its own split or by the one that the
    training's seed makes; of any other folder they are all pictures in the subfolders that are called like classes.

    Args:
        bundle: whose pixels they are prepared with.
        directory: the folder.
        table: the classes of the generation that is to label them.

    Raises:
        UsageError: E-DATA-FEATURES for a model of feature vectors; E-DATA-LABELLED when no subfolder is called like a
            class; what `open_image_set` raises for a data folder.
        GateError: E-PARITY-EMPTY when none can be read.

    """
    if bundle.manifest["pixels"] is None:
        raise UsageError(
            "E-DATA-FEATURES", "--data gives labelled pictures, and this model takes features; leave --data out"
        )
    spec = PixelSpec.from_dict(bundle.manifest["pixels"])
    seed = bundle.seed
    found, source = _find(directory, table, seed)
    labels = np.array([label for _, label in found], np.int64)
    kept, pictures = [], []
    from zsl_train.data.image_set import in_turns

    rows = np.random.default_rng([seed, 23]).permutation(len(labels)).astype(np.int64)
    order = in_turns(rows, labels[rows])[:MOST]
    for row in order:
        try:
            pictures.append(prepare(found[row][0], spec))
        except InputError:
            continue
        kept.append(labels[row])
    if not pictures:
        raise GateError(
            "E-PARITY-EMPTY", f"none of the {len(order)} pictures in {directory} can be read; give others with --data"
        )
    return Labelled(np.stack(pictures), np.array(kept, np.int64), len(found), len(order) - len(kept), source)


def _find(directory: Path, table: ClassTable, seed: int) -> tuple[list[tuple[Path, int]], str]:
    """Paths with columns, and what they are."""
    from zsl_train.data.open import open_image_set

    row_of = {name: row for row, name in enumerate(table.names)}
    try:
        images = open_image_set(directory, None, seed)
    except UsageError as error:
        if error.code != "E-DATA-LAYOUT" or not directory.is_dir():
            raise
        return _folders(directory, row_of), "pictures in folders that are called like classes"
    pairs = [
        (images.root / path, row_of[name])
        for path, label, role in zip(images.paths, images.labels, images.role, strict=True)
        if role == "test" and (name := images.table.names[label]) in row_of
    ]
    if not pairs:
        raise UsageError(
            "E-DATA-LABELLED",
            f"{directory} holds no test picture of a class of this bundle; its are {listed(images.table.names)}",
        )
    return pairs, "test pictures of the data folder"


def _folders(directory: Path, row_of: dict[str, int]) -> list[tuple[Path, int]]:
    from zsl_runtime.inputs.item import Tally
    from zsl_runtime.inputs.left_out import told
    from zsl_train.data.image_set import pictures_below

    named = sorted(path for path in directory.iterdir() if stored_form(path.name) in row_of and path.is_dir())
    tally = Tally()
    pairs = [(path, row_of[stored_form(folder.name)]) for folder in named for path in pictures_below(folder, tally)]
    if not pairs:
        more = "".join(f"; {line}" for line in told(tally))
        raise UsageError(
            "E-DATA-LABELLED",
            f"{directory} is no data folder, and no subfolder with pictures is called like a class of this bundle; "
            f"expected such as {listed(tuple(row_of))}{more}",
        )
    return pairs
