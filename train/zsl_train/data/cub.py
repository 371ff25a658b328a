"""CUB-200-2011 in its original archive layout, with the proposed split of Xian et al. from att_splits.mat.

Sources: the README of the archive (Wah et al., 2011); Xian et al., Zero-Shot Learning - A Comprehensive Evaluation of
the Good, the Bad and the Ugly (2017). All ids and indices in these files begin at 1; they become 0-based here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.class_table import ClassTable, check_class_name
from zsl_runtime.errors import UsageError, from_os_error, listed
from zsl_train.data.att_splits import FILE as SPLITS
from zsl_train.data.att_splits import PARTS, index_base, load_mat, positions, read_split_file, texts
from zsl_train.data.image_set import ImageSet, check_photographs, check_roles, files_below, seeded_roles
from zsl_train.data.word_vectors import attribute_words, load_word_vectors

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from numpy.typing import NDArray

FILES = ("images.txt", "image_class_labels.txt", "classes.txt")
CONTINUOUS = Path("attributes") / "class_attribute_labels_continuous.txt"
DATA_SET, CLASSES = "CUB", 200
IN_ORDER = "objects are matched with att_splits.mat by their position in the archive's lists, as published"
UNSEEN_SHARE = 0.25  # of the classes, as in the proposed split (50 of 200)


@dataclass(frozen=True)
class ProposedSplit:
    """What an att_splits.mat says about the pictures of an archive.

    Attributes:
        role: (n,) 'train' (trainval_loc), 'test', or '' for pictures in none of its lists. Its validation *classes*
            are among the seen ones and stay 'train': the training carves its own out.
        seen: (C,) bool.
        version: which kind of file it is.
        notes: things the user should be told, one line each.

    """

    role: NDArray[np.str_]
    seen: NDArray[np.bool_]
    version: str
    notes: tuple[str, ...]


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


def _lines(path: Path) -> list[str]:
    """Lines of a text file that are not blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError("E-CUB-FILE", f"the archive lacks {path}; extract it again, whole") from None
    except OSError as error:
        raise from_os_error(error, "read the archive") from error
    except UnicodeDecodeError:
        raise _damaged(path, "it is not text") from None
    return [line for line in text.split("\n") if line.strip()]


def _damaged(path: Path, reason: str) -> UsageError:
    return UsageError("E-CUB-FILE", f"{path}: {reason}; the archive is damaged: extract it again")


def _names(path: Path) -> tuple[str, ...]:
    """Second column of lines ``id name``, all different."""
    names = _numbered(path)
    if len(set(names)) != len(names):
        raise _damaged(path, "a name is there twice")
    return names


def _numbered(path: Path) -> tuple[str, ...]:
    """Second column of lines ``id value`` whose ids count from 1."""
    values = []
    for number, line in enumerate(_lines(path), start=1):
        identifier, _, value = line.strip().partition(" ")
        if identifier != str(number) or not value.strip():
            raise _damaged(path, f"line {number} is {line[:60]!r}, expected '{number} ' and a value")
        values.append(value.strip())
    if not values:
        raise _damaged(path, "it is empty")
    return tuple(values)


def _class_labels(path: Path, images: int, classes: int) -> NDArray[np.int64]:
    values = _numbered(path)
    if len(values) != images or not all(value.isdecimal() and 1 <= int(value) <= classes for value in values):
        raise _damaged(path, f"expected {images} lines with class ids 1..{classes}")
    return np.array([int(value) for value in values], dtype=np.int64) - 1


def _check_pictures(root: Path, paths: Sequence[str]) -> None:
    """UsageError when pictures of images.txt are not below `root`; one walk, not one question per picture."""
    there = {file.relative_to(root).as_posix() for file in files_below(root)}
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
        rows = [[float(cell) for cell in line.split()] for line in _lines(path)]
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if len(rows) != classes or any(len(row) != attributes for row in rows):
        raise _damaged(path, f"expected {classes} lines of {attributes} numbers")
    raw = np.array(rows, dtype=np.float64)
    if not np.isfinite(raw).all():
        raise _damaged(path, "some numbers are not finite")
    return raw


def split_file(base: Path, splits: Path | None) -> Path | None:
    """Where att_splits.mat is; None when none was given and none lies beside the archive."""
    if splits is None:
        return next((place / SPLITS for place in (base, base.parent) if (place / SPLITS).is_file()), None)
    path = splits / SPLITS if splits.is_dir() else splits
    if not path.is_file():
        raise UsageError("E-SPLITS", f"no file {path}; give att_splits.mat of the proposed split, or its folder")
    return path


def own_split(
    base: Path, labels: NDArray[np.int64], names: Sequence[str], seed: int
) -> tuple[NDArray[np.str_], NDArray[np.bool_], str, tuple[str, ...]]:
    """A seeded quarter of the classes unseen; role, seen, version, notes."""
    seen = np.ones(len(names), dtype=np.bool_)
    unseen = max(1, round(UNSEEN_SHARE * len(names)))
    seen[np.random.default_rng(seed).permutation(len(names))[:unseen]] = False
    table = ClassTable(tuple(names), seen, np.empty((len(names), 0)), ())
    role, notes = seeded_roles(labels, table, seed)
    how = "80/20 of each seen class"
    official = base / "train_test_split.txt"
    if official.is_file():
        flags = _numbered(official)
        if len(flags) != len(labels) or not set(flags) <= {"0", "1"}:
            raise _damaged(official, f"expected {len(labels)} lines ending in 0 or 1")
        role = np.where((np.array(flags) == "1") & seen[labels], "train", "test")
        notes, how = (), "the archive's train_test_split.txt"
    warning = (
        f"no {SPLITS} was found: {unseen} of {len(names)} classes are unseen by our own draw (seed {seed}), seen "
        f"classes are divided by {how}; figures cannot be compared with published ones; for those give --splits"
    )
    return role, seen, f"our own seeded class split (seed {seed}), {how}", (warning, *notes)


def read_proposed_split(
    path: Path,
    image_names: Sequence[str],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    by_name: bool = True,
) -> ProposedSplit:
    """Read att_splits.mat for an archive.

    Its lists hold 1-based positions in the `image_files` of the feature file published with it. Where a .mat file with
    `image_files` lies beside it, pictures are matched by their names; otherwise positions are taken as those of
    images.txt. Either way classes must come out whole, or it is an error.

    Args:
        path: att_splits.mat.
        image_names: n paths ``<class>/<file>``, in the order of images.txt.
        labels: (n,) 0-based classes.
        class_names: C names.
        by_name: False where names do not say which picture it is (aPY: several objects in one), so that positions are
            those of `image_names`.

    Raises:
        UsageError: E-SPLITS when it cannot be read or does not fit the archive.

    """
    split = read_split_file(path)
    if split.names is not None and set(split.names) != set(class_names):
        raise UsageError(
            "E-SPLITS", f"{path} is about other classes than {listed(class_names)}; give the data set's own {SPLITS}"
        )
    order, note = _picture_order(path, image_names) if by_name else (np.arange(len(image_names)), IN_ORDER)
    found = positions(split, len(order), index_base(split, len(order), labels[order]))
    lists = {key: order[rows] for key, rows in found.items()}
    role = np.full(len(image_names), "", dtype="<U5")
    for key, value in PARTS.items():
        role[lists[key]] = value
    seen = np.isin(np.arange(len(class_names)), labels[lists["trainval_loc"]])
    _check_classes(path, lists, labels, seen)
    notes = [note]
    unused = int((role == "").sum())
    if unused:
        notes.append(f"{unused} pictures are in none of the lists of {path.name} and are left out")
    return ProposedSplit(role, seen, split.version, tuple(notes))


def _check_classes(
    path: Path, lists: dict[str, NDArray[np.int64]], labels: NDArray[np.int64], seen: NDArray[np.bool_]
) -> None:
    """Positions that belong to another order of pictures would mix seen and unseen classes: refuse that."""
    mixed = seen[labels[lists["test_unseen_loc"]]].any() or not seen[labels[lists["test_seen_loc"]]].all()
    if mixed or len(np.unique(labels[lists["test_unseen_loc"]])) != (~seen).sum():
        raise UsageError(
            "E-SPLITS",
            f"{path} does not fit the archive (images.txt of CUB): by its positions, classes are neither wholly seen "
            "nor wholly unseen; put the feature file with image_files (res101.mat) beside it, so that pictures are "
            "matched by name",
        )


def _known_end(file: str, known: Container[str]) -> str:
    """The longest end of '/somebody/s/disk/images/001.Black_footed_Albatross/x.jpg' that is known; else two parts."""
    parts = file.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in known), "/".join(parts[-2:]))


def _picture_order(path: Path, image_names: Sequence[str]) -> tuple[NDArray[np.int64], str]:
    """Index into images.txt of every position that att_splits.mat may name, and a note on how it was found."""
    by_name = {name: index for index, name in enumerate(image_names)}
    for other in sorted(path.parent.glob("*.mat")):
        files = load_mat(other, ["image_files"], code="E-SPLITS").get("image_files") if other != path else None
        if files is None:
            continue
        names = [_known_end(file.replace("\\", "/"), by_name) for file in texts(files)]
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise UsageError(
                "E-SPLITS",
                f"{other} names {len(unknown)} pictures that images.txt does not: {listed(unknown)}; "
                "give the files of the same data set",
            )
        order = np.array([by_name[name] for name in names], dtype=np.int64)
        return order, f"pictures of {path.name} are matched by the names in {other.name}"
    note = (
        f"pictures of {path.name} are matched by their position in images.txt, since no feature file with image_files "
        "lies beside it"
    )
    return np.arange(len(image_names)), note
