"""The data folder: a user's own photographs.

images/<class>/*.jpg, classes.csv, and optionally split.csv, attributes.csv, attribute_vectors.npy.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import UsageError, from_os_error, listed
from zsl_runtime.head.class_file import as_called, meant, read_class_csv
from zsl_runtime.head.class_table import UNWRITABLE
from zsl_runtime.head.names import doubtful, perhaps, stored_form
from zsl_runtime.inputs.files import count_below
from zsl_runtime.inputs.item import NOWHERE, Tally, has_suffix
from zsl_runtime.inputs.left_out import told, unread
from zsl_runtime.inputs.litter import litter_folder
from zsl_runtime.machine.storage import write_whole
from zsl_runtime.pixels.pixels import SUFFIXES
from zsl_train.data.image_set import ImageSet, pictures_below
from zsl_train.data.roles import ROLES, check_photographs, check_roles, seeded_roles
from zsl_train.data.text_lists import read_columns
from zsl_train.data.word_vectors import attribute_words, load_word_vectors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.head.class_table import ClassTable


@dataclass(frozen=True)
class _Found:
    """Pictures on disk: paths relative to images/, sorted; labels; notes."""

    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    notes: tuple[str, ...]
    left_out: Mapping[int, Tally]  # by class, where something was left out


def open_folder(directory: Path, splits: Path | None, seed: int) -> ImageSet:
    """Read a data folder.

    Args:
        directory: the folder that holds images/ and classes.csv.
        splits: a CSV file to use in place of split.csv, or None.
        seed: of the split that is made where there is no CSV file.

    Raises:
        UsageError: E-DATA-..., E-SPLIT-..., E-CSV, E-ATTRIBUTES, E-WORD-VECTORS and what `read_class_csv` raises.
        SystemProblem: E-SYSTEM when something cannot be read.

    """
    table = read_class_csv(directory / "classes.csv", need_split=True)
    if not table.seen.any():
        raise UsageError(
            "E-DATA-NO-SEEN",
            f"{directory / 'classes.csv'} has no seen class; give the classes with photographs to "
            "train on the split 'seen'",
        )
    root = directory / "images"
    found = _find_pictures(root, table)
    _check_photographs(found, table)
    words, word_notes = _read_words(directory / "attributes.csv", table.attributes)
    vectors, vector_notes = _read_vectors(directory / "attribute_vectors.npy", words)
    split_file = splits if splits is not None else directory / "split.csv"
    if splits is not None and not splits.is_file():
        raise UsageError("E-SPLIT-FILE", f"no file {splits}; give a CSV file with the columns image and role")
    if not split_file.exists():
        role, split_notes = seeded_roles(found.labels, table, seed)
        version = f"our own seeded split, 80/20 of each seen class (seed {seed})"
    else:
        role, split_notes = _read_split(split_file, found)
        version = f"given by {split_file.name}"
    keep = np.flatnonzero(role != "")
    labels, role = found.labels[keep], role[keep]
    check_roles(labels, role, table)
    return ImageSet(
        root=root,
        paths=tuple(found.paths[i] for i in keep),
        labels=labels,
        role=role,
        table=table,
        words=words,
        word_vectors=vectors,
        split_version=version,
        notes=(*table.notes, *doubtful(table.names), *found.notes, *split_notes, *word_notes, *vector_notes),
    )


def write_split(image_set: ImageSet, path: Path) -> None:
    """Write the split as a split.csv (columns image, role), which gives the same ImageSet when read back.

    Rows of a feature file that have no role are left out.

    Raises:
        SystemProblem: E-SYSTEM when it cannot be written; nothing half-written is left.

    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "role"))
    rows = zip(image_set.paths, image_set.role.tolist(), strict=True)
    writer.writerows((path, role) for path, role in rows if role)
    try:
        write_whole(path, text.getvalue().encode())
    except OSError as error:
        raise from_os_error(error, "write the split") from error


def _nfc(text: str) -> str:
    """One spelling for what looks the same: macOS and Linux compose accents differently in file names."""
    return unicodedata.normalize("NFC", text)


def _find_pictures(root: Path, table: ClassTable) -> _Found:
    """Every picture below a class's folder; UsageError for folders that are no class and for an empty images/."""
    if not root.is_dir():
        raise UsageError("E-DATA-NO-IMAGES", f"there is no folder {root}; expected {root}/<class>/*.jpg")
    folders, loose, tally = _class_folders(root, table)
    pairs: list[tuple[str, int]] = []
    left_out: dict[int, Tally] = {}
    for folder, label in folders:
        own = left_out.setdefault(label, Tally())
        pairs += [(file.relative_to(root).as_posix(), label) for file in pictures_below(folder, own)]
    for own in left_out.values():
        tally.add(own)
    others = tally.skipped
    if not pairs:
        more = "".join(f"; {line}" for line in told(tally))
        raise UsageError(
            "E-DATA-NO-IMAGES",
            f"no pictures below the class folders of {root} ({loose} pictures directly in it, {others} files that are "
            f"no pictures); expected {root}/<class>/*.jpg{more}",
        )
    odd = [path for path, _ in pairs if any(unicodedata.category(letter) in UNWRITABLE for letter in path)]
    if odd:
        raise UsageError(
            "E-DATA-FILE-NAME",
            f"{len(odd)} pictures have line breaks, control characters or bytes that are not UTF-8 in their names: "
            f"{listed(odd)}; rename them",
        )
    pairs.sort()
    notes = []
    if loose:
        notes.append(f"{loose} pictures lie directly in {root}, belong to no class and are left out")
    if others:
        notes.append(f"{others} files below {root} are no pictures by their suffix and are left out")
    notes += told(tally)
    fewer = [f"{table.names[label]} {count}" for label, own in sorted(left_out.items()) if (count := unread(own))]
    if fewer:
        notes.append(f"classes that lack these pictures in training and test: {', '.join(fewer)}")
    paths = tuple(path for path, _ in pairs)
    return _Found(paths, np.array([label for _, label in pairs], dtype=np.int64), tuple(notes), left_out)


def _check_photographs(found: _Found, table: ClassTable) -> None:
    """As `check_photographs`, which also says what lies in the folders of such classes in place of photographs."""
    try:
        check_photographs(found.labels, table)
    except UsageError as error:
        there = Tally()
        for label in set(found.left_out) - set(found.labels.tolist()):
            there.add(found.left_out[label])
        more = "".join(f"; {line}" for line in told(there))
        raise UsageError(error.code, f"{error.message}{more}") from None


def _class_folders(root: Path, table: ClassTable) -> tuple[list[tuple[Path, int]], int, Tally]:
    """The class folders with their class, how many pictures lie beside them, and what is litter."""
    rows = {name: row for row, name in enumerate(table.names)}
    folders, unknown, loose, tally = [], [], 0, Tally()
    try:
        entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise from_os_error(error, "list the pictures") from error
    for entry in entries:
        if not entry.is_dir():
            loose += has_suffix(entry.name, SUFFIXES)
            if entry.is_symlink() and not entry.exists():  # to a disk that is not mounted, perhaps
                tally.skip(str(entry), NOWHERE)
        elif stored_form(entry.name) in rows:
            folders.append((entry, rows[stored_form(entry.name)]))
        elif litter := litter_folder(entry.name):
            tally.litter[litter] += count_below(str(entry), SUFFIXES)
        else:
            unknown.append(entry.name)
    if unknown:
        hint = perhaps(unknown[0], table.names)
        raise UsageError(
            "E-DATA-CLASS-FOLDER",
            f"{root} has {len(unknown)} folders that classes.csv does not name: {listed(unknown)}{hint}; add a row for "
            "each, rename it as its class is called, or move it away",
        )
    return folders, loose, tally


def _read_split(path: Path, found: _Found) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """Role of every picture found ('' for those not listed), and notes."""
    row_of = {_nfc(picture): row for row, picture in enumerate(found.paths)}
    # What is on disk letter by letter goes before what only looks the same.
    row_of |= {picture: row for row, picture in enumerate(found.paths)}
    role = np.full(len(found.paths), "", dtype="<U5")
    missing = []
    for line, (name, given) in read_columns(path, ("image", "role")):
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise UsageError(
                "E-SPLIT-PATH",
                f"{path}, line {line}: {name!r} leads out of {'images/'!r}; give paths relative to images/",
            )
        if given.casefold() not in ROLES:
            raise UsageError(
                "E-SPLIT-ROLE", f"{path}, line {line}: the role of {name!r} is {given!r}; expected train, val or test"
            )
        row = row_of.get(str(pure), row_of.get(_nfc(str(PurePosixPath(name.replace("\\", "/"))))))
        if row is None:
            missing.append(name)
        elif role[row]:
            raise UsageError("E-SPLIT-TWICE", f"{path}, line {line}: {name!r} is listed twice; remove one of the lines")
        else:
            role[row] = given.casefold()
    if missing:
        raise UsageError(
            "E-SPLIT-MISSING",
            f"{path} lists {len(missing)} pictures that are not there: {listed(missing)}; paths are relative to "
            "images/ and lead through a class's folder; put the pictures back or remove the lines",
        )
    unlisted = np.flatnonzero(role == "")
    if not len(unlisted):
        return role, ()
    examples = listed([found.paths[i] for i in unlisted])
    return role, (f"{len(unlisted)} pictures are not in {path.name} and are left out: {examples}",)


def _read_words(path: Path, attributes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wordings of the attributes from attributes.csv, else from their names; and notes."""
    if not path.exists():
        return tuple(attribute_words(name) for name in attributes), ()
    given: dict[str, str] = {}
    rows = read_columns(path, ("name", "words"))
    names = as_called([_nfc(name) for _, (name, _) in rows], attributes)
    for name, (line, (cell, words)) in zip(names, rows, strict=True):
        if name in given:
            raise UsageError("E-ATTRIBUTES", f"{path}, line {line}: attribute {cell!r} is there twice; remove one")
        given[name] = " ".join(words.split()) or attribute_words(name)
    missing = [name for name in attributes if name not in given]
    extra = sorted(given.keys() - set(attributes))
    if missing or extra:
        raise UsageError(
            "E-ATTRIBUTES",
            f"{path} does not name the attributes of classes.csv: missing {listed(missing) or 'none'}; unknown "
            f"{'; '.join([listed(extra) or 'none', *meant(missing, extra)])}; give one row per attribute column, in "
            "any order",
        )
    ordered = tuple(given[name] for name in attributes)
    if tuple(given) == tuple(attributes) or not (path.parent / "attribute_vectors.npy").exists():
        return ordered, ()
    note = (
        "attributes.csv and classes.csv name the attributes in different orders; the rows of attribute_vectors.npy are "
        "taken in the order of classes.csv"
    )
    return ordered, (note,)


def _read_vectors(path: Path, words: Sequence[str]) -> tuple[NDArray[np.float32] | None, tuple[str, ...]]:
    """Content of attribute_vectors.npy, if there; and notes."""
    if not path.exists():
        return None, ()
    loaded = load_word_vectors(path, words)
    return loaded.vectors, loaded.notes
