"""CUB-200-2011 in its original archive layout, with the proposed split of Xian et al. from att_splits.mat.

Sources: the README of the archive (Wah et al., 2011); Xian et al., Zero-Shot Learning - A Comprehensive Evaluation of
the Good, the Bad and the Ugly (2017). All ids and indices in these files begin at 1; they become 0-based here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import UsageError, listed
from zsl_runtime.head.class_table import ClassTable, check_class_name, check_numbers
from zsl_runtime.inputs.item import Tally
from zsl_train.data.image_set import ImageSet, pictures_below
from zsl_train.data.proposed_split import own_split, read_proposed_split, split_file
from zsl_train.data.roles import check_photographs, check_roles
from zsl_train.data.text_lists import damaged_list, read_lines, read_numbered
from zsl_train.data.word_vectors import attribute_words, load_word_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CODE = "E-CUB-FILE"
FILES = ("images.txt", "image_class_labels.txt", "classes.txt")
CONTINUOUS = Path("attributes") / "class_attribute_labels_continuous.txt"
DATA_SET, CLASSES = "CUB", 200


def find_archive(directory: Path) -> Path | None:
    """The folder with the archive's lists: `directory` itself or its CUB_200_2011; None when it is neither."""
    for base in (directory, directory / "CUB_200_2011"):
        if all((base / name).is_file() for name in FILES):
            return base
    return None


def open_cub(base: Path, splits: Path | None, seed: int) -> ImageSet:
    """Read the archive.

    Attributes are the percentages 0..100 of class_attribute_labels_continuous.txt, as they are. The split is
    att_splits.mat's (`splits`, else in the folder or the one around it). Without one a seeded quarter of the classes is
    unseen, and seen classes are divided by train_test_split.txt where it is there, else 80/20; a note warns of it.

    Args:
        base: the folder with images.txt.
        splits: att_splits.mat or the folder that holds it, or None.
        seed: of the split that is made where there is none.

    Raises:
        UsageError: E-CUB-FILE for the archive's files, E-SPLITS for att_splits.mat, E-DATA-...
        SystemProblem: E-SYSTEM when something cannot be read.

    """
    paths = _names(base / "images.txt")
    names = tuple(check_class_name(name) for name in _names(base / "classes.txt"))
    labels = _class_labels(base / "image_class_labels.txt", len(paths), len(names))
    _check_pictures(base / "images", paths)
    attributes = _names(_attribute_names(base))
    raw = _percentages(base / CONTINUOUS, len(names), len(attributes))
    chosen = split_file(base, splits)
    if chosen is None:
        role, seen, version, notes = own_split(base, labels, names, seed)
    else:
        proposed = read_proposed_split(chosen, paths, labels, names)
        role, seen, version, notes = proposed.role, proposed.seen, proposed.version, proposed.notes
    table = ClassTable(names, seen, raw, attributes)
    check_numbers(table, str(base))
    check_photographs(labels, table)
    keep = np.flatnonzero(role != "")
    check_roles(labels[keep], role[keep], table)
    words = tuple(attribute_words(name) for name in attributes)
    vector_file = base / "attribute_vectors.npy"
    loaded = load_word_vectors(vector_file, words) if vector_file.exists() else None
    return ImageSet(
        root=base / "images",
        paths=tuple(paths[i] for i in keep),
        labels=labels[keep],
        role=role[keep],
        table=table,
        words=words,
        word_vectors=None if loaded is None else loaded.vectors,
        split_version=version,
        notes=(*notes, *(loaded.notes if loaded else ())),
        data_set=DATA_SET if len(names) == CLASSES else "",
    )


def _names(path: Path) -> tuple[str, ...]:
    """Second column of lines ``id name``, all different."""
    names = read_numbered(path, CODE)
    if len(set(names)) != len(names):
        raise damaged_list(path, "a name is there twice", CODE)
    return names


def _class_labels(path: Path, images: int, classes: int) -> NDArray[np.int64]:
    values = read_numbered(path, CODE)
    if len(values) != images or not all(value.isdecimal() and 1 <= int(value) <= classes for value in values):
        raise damaged_list(path, f"expected {images} lines with class ids 1..{classes}", CODE)
    return np.array([int(value) for value in values], dtype=np.int64) - 1


def _check_pictures(root: Path, paths: Sequence[str]) -> None:
    """UsageError when pictures of images.txt are not below `root`; one walk, not one question per picture."""
    there = {file.relative_to(root).as_posix() for file in pictures_below(root, Tally())}
    missing = [path for path in paths if path not in there]
    if missing:
        raise UsageError(
            "E-CUB-FILE",
            f"{len(missing)} of the {len(paths)} pictures in images.txt are not below {root}: {listed(missing)}; "
            "extract the archive again",
        )


def _attribute_names(base: Path) -> Path:
    """attributes.txt: the archive has it beside CUB_200_2011; copies have it in other places."""
    places = (base.parent / "attributes.txt", base / "attributes.txt", base / "attributes" / "attributes.txt")
    return next((place for place in places if place.is_file()), places[0])


def _percentages(path: Path, classes: int, attributes: int) -> NDArray[np.float64]:
    """(C, A) numbers."""
    try:
        rows = [[float(cell) for cell in line.split()] for line in read_lines(path, CODE)]
    except ValueError as error:
        raise damaged_list(path, str(error), CODE) from None
    if len(rows) != classes or any(len(row) != attributes for row in rows):
        raise damaged_list(path, f"expected {classes} lines of {attributes} numbers", CODE)
    raw = np.array(rows, dtype=np.float64)
    if not np.isfinite(raw).all():
        raise damaged_list(path, "some numbers are not finite", CODE)
    return raw
