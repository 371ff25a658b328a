"""The proposed split of GZSL (Xian et al. 2018) for archives: read from its file, or drawn in its manner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import UsageError, listed
from zsl_runtime.head.class_table import ClassTable
from zsl_train.data.att_splits import FILE as SPLITS
from zsl_train.data.att_splits import PARTS, index_base, load_mat, positions, read_split_file, texts
from zsl_train.data.roles import seeded_roles
from zsl_train.data.text_lists import damaged_list, read_numbered

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

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
        flags = read_numbered(official, "E-CUB-FILE")
        if len(flags) != len(labels) or not set(flags) <= {"0", "1"}:
            raise damaged_list(official, f"expected {len(labels)} lines ending in 0 or 1", "E-CUB-FILE")
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
    for other in sorted(path.parent.glob("[!.]*.mat")):  # macOS leaves ._res101.mat on other people's disks
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
