"""A labelled set of photographs with the classes they belong to, whatever layout it came in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import from_os_error
from zsl_runtime.inputs.files import walk
from zsl_runtime.inputs.item import has_suffix
from zsl_runtime.pixels.pixels import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Ints
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.inputs.item import Tally
    from zsl_train.data.feature_file import FeatureFile


MANY_NEGATIVE = 0.02  # share of negative attributes beyond which they are no marks for missing ones


@dataclass(frozen=True)
class ImageSet:
    """Photographs, their classes and what each is for.

    Attributes:
        root: the images folder.
        paths: n picture files relative to `root`, with forward slashes, sorted or in the archive's order.
        labels: (n,) int64, the class of each picture: a row of `table`.
        role: (n,) str, 'train', 'val' or 'test'. Pictures of unseen classes are all 'test'. Rows of a feature file that
            no list of the split names have '' and are not used.
        table: the C classes with their raw attributes.
        words: A wordings of the attributes, plain words separated by spaces ('bill shape curved').
        word_vectors: (A, W) float32 that came with the data (unnormalised), or None.
        split_version: which split this is, for the protocol of every score.
        notes: things the user should be told, one line each.
        features: the feature file whose rows stand in place of photographs, row for row; None for photographs. `paths`
            are then ``FILE#ROW``, counted from 0.
        attribute_source: what the attributes are, for the protocol of every score; '' says no more than their number.
        data_set: the published data set that this is or looks like (CUB, SUN, AWA1, AWA2, APY, FLO), or ''.
        directory: what `open_image_set` was given, absolute; None for a set that was put together by hand.

    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    role: NDArray[np.str_]
    table: ClassTable
    words: tuple[str, ...]
    word_vectors: NDArray[np.float32] | None
    split_version: str
    notes: tuple[str, ...]
    features: FeatureFile | None = None
    attribute_source: str = ""
    data_set: str = ""
    directory: Path | None = None

    @property
    def unit(self) -> str:
        """What its pictures are called, in the plural."""
        return "photographs" if self.features is None else "feature rows"

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, role: str, *, seen: bool | None = None) -> NDArray[np.int64]:
        """The pictures with this role: ascending int64 row numbers.

        Args:
            role: 'train', 'val' or 'test'.
            seen: only pictures of seen (True) or unseen (False) classes; None takes both.

        """
        chosen = self.role == role
        if seen is not None:
            chosen &= self.table.seen[self.labels] == seen
        return np.flatnonzero(chosen).astype(np.int64)


def pictures_below(folder: Path, tally: Tally, *, whole: bool = True) -> Iterator[Path]:
    """All pictures by their suffixes, links to folders followed, each folder once; hidden ones and litter left out.

    Args:
        folder: looked through to any depth.
        tally: counts what is left out, but for hidden files.
        whole: a folder that cannot be listed is an error, since a class would silently be smaller than it is; else it
            is passed over, where whoever asks knows which pictures there must be.

    Raises:
        SystemProblem: E-SYSTEM, a folder cannot be listed.

    """
    for path, litter, error in walk(str(folder)):
        picture = error is None and has_suffix(path, SUFFIXES)
        if error is not None and whole:
            raise from_os_error(OSError(error.errno, error.strerror, path), "list the folder") from error
        if picture and not litter:
            yield Path(path)
        elif picture:
            tally.litter[litter] += 1
        elif error is None and not litter and not os.path.basename(path).startswith("."):  # noqa: PTH119
            tally.skip(path)


def alike(rows: NDArray[np.floating[Any]]) -> list[Ints]:
    """Groups of two or more equal rows of (C, A): ascending row numbers, groups in the order of their first rows."""
    _, index, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    groups = [np.flatnonzero(index == one) for one in np.flatnonzero(counts > 1)]
    return sorted(groups, key=lambda group: int(group[0]))


def in_turns(rows: Ints, labels: Ints) -> Ints:
    """The same rows, one of each class, then the second of each, and so on; classes in the order they first come."""
    turn = np.zeros(len(rows), np.int64)
    for one in np.unique(labels):
        of_class = np.flatnonzero(labels == one)
        turn[of_class] = np.arange(len(of_class))
    return rows[np.argsort(turn, kind="stable")]
