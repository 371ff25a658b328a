"""A labelled set of photographs with the classes they belong to, whatever layout it came in."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import UsageError, listed
from zsl_runtime.inputs import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from zsl_runtime.class_table import ClassTable
    from zsl_train.data.feature_file import FeatureFile

ROLES = ("train", "val", "test")
MANY_NEGATIVE = 0.02  # share of negative attributes beyond which they are no marks for missing ones
TEST_SHARE = 0.2  # of a seen class's photographs, as in the proposed splits of Xian et al. (2017)

LAYOUTS = (
    "either a data folder (images/<class>/*.jpg and classes.csv with the columns name, split (seen|unseen) and one per "
    "attribute) or the CUB-200-2011 archive (images/, images.txt, image_class_labels.txt, classes.txt, "
    "attributes/class_attribute_labels_continuous.txt) or that of AWA2 (JPEGImages/, classes.txt, predicates.txt, "
    "predicate-matrix-continuous.txt), SUN (SUNAttributeDB/, images/), aPY (attribute_data/) or FLO (jpg/, "
    "imagelabels.mat)"
)


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


def open_image_set(
    directory: str | Path,
    splits: str | Path | None = None,
    seed: int = 0,
    *,
    features: str | Path | None = None,
    attributes: str = "att",
) -> ImageSet:
    """Open a data folder, an original archive, or a feature file with its split.

    Args:
        directory: the data folder (`zsl_train.data.folder`); or an extracted archive, such as CUB's folder CUB_200_2011
            or the one around it; or, for a feature file, the folder with att_splits.mat.
        splits: for a data folder, a CSV file used in place of split.csv; otherwise att_splits.mat or its folder.
        seed: of the splits we make where none is given.
        features: a feature file, as given or inside `directory`, in place of photographs.
        attributes: of a feature file: `att`, `original_att` or a file (`zsl_train.data.xlsa17`).

    Raises:
        UsageError: E-DATA-LAYOUT when it is none of them; E-ATTRIBUTES when `attributes` is given for photographs;
            otherwise what the reader of the layout raises.

    """
    where = Path(directory)
    chosen = None if splits is None else Path(splits)
    found = _open(where, chosen, seed, features=features, attributes=attributes)
    return replace(found, directory=where.resolve())


def _open(where: Path, chosen: Path | None, seed: int, *, features: str | Path | None, attributes: str) -> ImageSet:
    from zsl_train.data import archives, cub, folder, xlsa17
    from zsl_train.data.att_splits import FILE
    from zsl_train.data.feature_file import feature_files

    if not where.is_dir():
        raise UsageError("E-DATA-LAYOUT", f"{where} is not a folder; expected {LAYOUTS}")
    if features is not None:
        return xlsa17.open_xlsa17(where, Path(features), chosen, attributes)
    if attributes != "att":
        raise UsageError(
            "E-ATTRIBUTES",
            f"attributes = {attributes!r} is for feature files (--features); those of photographs lie beside them",
        )
    if (where / "classes.csv").is_file():
        return folder.open_folder(where, chosen, seed)
    archive = cub.find_archive(where)
    if archive is not None:
        return cub.open_cub(archive, chosen, seed)
    other = archives.find_archive(where)
    if other is not None:
        return archives.open_archive(*other, chosen, seed)
    names = sorted(entry.name for entry in where.iterdir())
    hint = ""
    if FILE in names:
        hint = f"; with {FILE} goes a feature file: add --features " + next(
            (path.name for path in feature_files(where)), "FILE.mat"
        )
    raise UsageError("E-DATA-LAYOUT", f"{where} holds {listed(names) or 'nothing'}; expected {LAYOUTS}{hint}")


def seeded_roles(labels: NDArray[np.int64], table: ClassTable, seed: int) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """Make a split: of every seen class a fifth of the pictures is for testing, the rest for training.

    Each class is drawn by its own generator, so that adding a class leaves the others' pictures where they were. A seen
    class with two or more pictures gets at least one of each; with one, it goes to training and a note says so.

    Args:
        labels: (n,) rows of `table`.
        table: the classes; all pictures of unseen ones are for testing.
        seed: of the draw.

    Returns:
        (n,) roles, and notes.

    """
    role = np.full(len(labels), "test", dtype="<U5")
    lonely = []
    for index in np.flatnonzero(table.seen):
        name = table.names[index]
        rows = np.flatnonzero(labels == index)
        draw = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])])
        testing = min(max(1, round(TEST_SHARE * len(rows))), len(rows) - 1)
        role[draw.permutation(rows)[max(testing, 0) :]] = "train"
        if len(rows) == 1:
            lonely.append(name)
    if not lonely:
        return role, ()
    return role, (f"{len(lonely)} seen classes have one photograph, which is trained on; not tested: {listed(lonely)}",)


def check_photographs(labels: NDArray[np.int64], table: ClassTable) -> None:
    """UsageError E-DATA-NO-PHOTOS when a seen class has no picture; an unseen one without is normal."""
    _check_every_seen(labels, table, "E-DATA-NO-PHOTOS", "no photographs; add some")


def check_roles(labels: NDArray[np.int64], role: NDArray[np.str_], table: ClassTable) -> None:
    """UsageError when a seen class has nothing to train on, or an unseen one is used for anything but testing."""
    used = np.unique(labels[(role != "test") & ~table.seen[labels]])
    if len(used):
        raise UsageError(
            "E-SPLIT-UNSEEN",
            f"photographs of unseen classes have a role other than test: {listed([table.names[i] for i in used])}; "
            "an unseen class is only tested: give them the role test, or make the class seen",
        )
    what = "no photograph with the role train; give it to some"
    _check_every_seen(labels[role == "train"], table, "E-DATA-NO-TRAINING", what)


def _check_every_seen(labels: NDArray[np.int64], table: ClassTable, code: str, what: str) -> None:
    without = np.setdiff1d(np.flatnonzero(table.seen), labels)
    if len(without):
        names = listed([table.names[i] for i in without])
        raise UsageError(code, f"of the seen classes, {names} have {what}, or make the class unseen")


def files_below(folder: Path) -> Iterator[Path]:
    """All files that are not hidden, links to folders followed, each folder once."""
    return (Path(file) for file in walk(str(folder)) if not os.path.basename(file).startswith("."))  # noqa: PTH119
