"""Labelled photographs to compare answers with: class folders, a table of paths and classes, or training data.

    zsl-eval's TRUTH --> Truth: class -> photographs --(by the roles of a split, by the classes of the model)--> Truth

Nothing is decoded here; names of photographs in folders are not held in memory.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zsl_runtime.errors import InputError, UsageError, listed
from zsl_runtime.head.class_table import check_class_name
from zsl_runtime.head.names import perhaps
from zsl_runtime.head.table import read_table
from zsl_runtime.inputs.feature_rows import RowFiles
from zsl_runtime.inputs.item import Item, in_store
from zsl_runtime.labelling.photographs import class_folders

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from zsl_runtime.head.table import Table
    from zsl_runtime.labelling.reading import Reader

ROLES = ("train", "val", "test")  # of a training's split.csv
COLUMNS = ("path", "class")  # of a table of labelled photographs
SPLIT_COLUMNS = ("image", "role")
FOLDERS, TABLE, TRAINING_DATA = "class folders", "table", "training data"
EXPECTED = (
    "a folder with one folder of photographs for each class, a CSV with the columns path and class, or a folder of "
    "training data"
)
MOST_NEAREST = 3  # unknown classes that are told with the name that they may be misspelt from


@dataclass(frozen=True)
class Truth:
    """Photographs whose class is known.

    Attributes:
        path: where they were found.
        kind: FOLDERS, TABLE or TRAINING_DATA.
        pictures: class -> its photographs, to be iterated as often as one likes.
        counts: class -> how many there are, at least one.
        notes: what was left out, in words.

    """

    path: str
    kind: str
    pictures: Mapping[str, Iterable[Item]]
    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many photographs there are."""
        return sum(self.counts.values())

    def pairs(self) -> Iterator[tuple[str, Item]]:
        """(class, photograph), class by class."""
        return ((name, item) for name, items in self.pictures.items() for item in items)

    def only(self, names: Collection[str]) -> Truth:
        """The photographs of these classes."""
        pictures = {name: items for name, items in self.pictures.items() if name in names}
        return replace(self, pictures=pictures, counts={name: self.counts[name] for name in pictures})


def find_truth(path: str | os.PathLike[str], reader: Reader) -> Truth:
    """Find labelled photographs.

    Args:
        path: a folder with one folder of photographs for each class, called as the class is; a CSV with the columns
            `path` (absolute, or relative to the CSV's folder) and `class`; or a folder that holds `images` and
            classes.csv, as zsl-train takes it.
        reader: of the model; one of feature vectors takes .npy and .mat files of rows in place of photographs, and
            FILE#ROW in a CSV.

    Raises:
        UsageError: E-TRUTH when nothing is there; E-PHOTOS-FOLDER, E-CLASS-NAME, E-CLASS-DUPLICATE, E-CSV;
            E-TRUTH-TWICE for a path that is listed twice; E-PHOTOS-EMPTY without a photograph.
        SystemProblem: a folder or the CSV cannot be read.

    """
    given = os.fspath(path)
    if in_store(given):
        truth = _of_store(given, reader)
    elif os.path.isdir(given):  # noqa: PTH112  # plain strings keep undecodable names and the user's spelling
        truth = _of_folder(given, reader)
    elif os.path.exists(given):  # noqa: PTH110
        truth = _of_table(given, reader)
    else:
        raise UsageError("E-TRUTH", f"there is no {given!r}; give {EXPECTED}")
    if not truth.count:
        raise UsageError("E-PHOTOS-EMPTY", f"there are no photographs with a class in {given!r}; expected {EXPECTED}")
    return truth


def check_classes(truth: Truth, known: Sequence[str], *, known_only: bool) -> Truth:
    """The truth, if the model has all its classes; or what remains of it.

    Args:
        truth: to be checked.
        known: classes of the model.
        known_only: leave photographs of other classes out, and note it.

    Raises:
        UsageError: E-CLASS-UNKNOWN for classes that the model does not have; E-PHOTOS-EMPTY when none is left.

    """
    there = set(known)
    unknown = [name for name in truth.counts if name not in there]
    if not unknown:
        return truth
    if not known_only:
        names = [f"{name!r}{perhaps(name, known)}" for name in unknown[:MOST_NEAREST]]
        more = f" and {len(unknown) - MOST_NEAREST} more" if len(unknown) > MOST_NEAREST else ""
        raise UsageError(
            "E-CLASS-UNKNOWN",
            f"{len(unknown)} of the {len(truth.counts)} classes in {truth.path!r} are not in this model, which has "
            f"{len(known)}: {', '.join(names)}{more}; call them as the model does, add them with zsl-classes, or leave "
            "their photographs out with --known-only",
        )
    left = truth.only(there)
    count = truth.count - left.count
    if not left.count:
        raise UsageError(
            "E-PHOTOS-EMPTY",
            f"all {count} photographs in {truth.path!r} are of classes that this model does not have: "
            f"{listed(unknown)}; give photographs of classes that zsl-classes list names",
        )
    each = [f"{name} ({truth.counts[name]})" for name in unknown]
    note = f"photographs left out because the model does not have their classes: {count}, of {', '.join(each)}"
    return replace(left, notes=(*truth.notes, note))


# --- folders --------------------------------------------------------------------------------------------------------


def _of_folder(folder: str, reader: Reader) -> Truth:
    images = os.path.join(folder, "images")  # noqa: PTH118
    training = os.path.isdir(images) and os.path.isfile(os.path.join(folder, "classes.csv"))  # noqa: PTH112, PTH113, PTH118
    found = class_folders(images if training else folder, reader, may_be_empty=True)
    notes = [*found.notes]
    if found.empty:
        notes.append(f"class folders without a photograph: {listed(found.empty)}")
    return Truth(folder, TRAINING_DATA if training else FOLDERS, found.pictures, found.counts, tuple(notes))


def _of_store(path: str, reader: Reader) -> Truth:
    """Class folders in an object store; a table that lists what lies there is on the disk."""
    from zsl_runtime.inputs.stores import kind_of

    kind = kind_of(path)
    if kind != "folder":
        problem = "is a file: copy a table to the disk; it may list what lies in the store" if kind else "is not there"
        raise UsageError(
            "E-TRUTH", f"{path!r} {problem}; or give a folder with one folder of photographs for each class"
        )
    found = class_folders(path, reader, may_be_empty=True)
    empty = [f"class folders without a photograph: {listed(found.empty)}"] if found.empty else []
    return Truth(path, FOLDERS, found.pictures, found.counts, (*found.notes, *empty))


# --- tables ---------------------------------------------------------------------------------------------------------


def _of_table(path: str, reader: Reader) -> Truth:
    folder = os.path.dirname(path)  # noqa: PTH120
    paths: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    unlabelled = 0
    table = read_table(path, COLUMNS)
    _refuse_answers(table, path)
    for line, (cell, given) in table.columns(COLUMNS):
        if not given:
            unlabelled += 1
            continue
        if not cell:
            raise UsageError("E-CSV", f"{path!r}, line {line} has no path; give one, or remove the line")
        photograph = _on_disk(folder, cell)
        if photograph in lines:
            raise UsageError(
                "E-TRUTH-TWICE",
                f"{path!r} lists {cell!r} twice, in lines {lines[photograph]} and {line}; keep the line with its class",
            )
        lines[photograph] = line
        try:
            name = check_class_name(given)
        except UsageError as error:
            raise UsageError(error.code, f"{path!r}, line {line}: {error.message}") from None
        paths.setdefault(name, []).append(photograph)
    _check_there(path, lines)
    pictures = {name: _Listed(own, reader) for name, own in paths.items()}
    notes = (f"rows without a class left out: {unlabelled}",) if unlabelled else ()
    return Truth(path, TABLE, dict(pictures), {name: own.count() for name, own in pictures.items()}, notes)


def _on_disk(folder: str, cell: str) -> str:
    """The path that a cell means: as it stands; if there is none, with slashes, or with accents composed otherwise."""
    if in_store(cell):
        return cell
    path = os.path.join(folder, cell)  # noqa: PTH118  # an absolute one stays what it is
    if (cell.isascii() and "\\" not in cell) or _is_there(path):
        return path
    slashed = path.replace("\\", "/")
    others = (slashed, unicodedata.normalize("NFC", slashed), unicodedata.normalize("NFD", slashed))
    return next((other for other in others if _is_there(other)), path)


class _Listed:
    """The photographs, or rows of files, that a table lists for one class."""

    def __init__(self, paths: Sequence[str], reader: Reader) -> None:
        self._paths = paths
        self._rows = None if reader.pixels is not None else RowFiles(reader.shape, reader.like)

    def __iter__(self) -> Iterator[Item]:
        if self._rows is None:
            yield from (Item(path, path) for path in self._paths)
            return
        for path in self._paths:
            file, number = _row_of(path)
            if number is None:
                yield from self._rows.items([path])
            else:
                yield self._rows.row(file, number)

    def count(self) -> int:
        """How many there are; a file of rows that cannot be read is one."""
        if self._rows is None:
            return len(self._paths)
        return sum(1 if _row_of(path)[1] is not None else self._rows.count([path]) for path in self._paths)


def _row_of(path: str) -> tuple[str, int | None]:
    """The file and the number of FILE#ROW; of another path no number."""
    file, mark, number = path.rpartition("#")
    return (file, int(number)) if mark and number.isdecimal() and number.isascii() else (path, None)


def _is_there(photograph: str) -> bool:
    """Whether it is there; of a store that is found out when it is read."""
    return in_store(photograph) or os.path.exists(photograph) or os.path.exists(_row_of(photograph)[0])  # noqa: PTH110


def _check_there(table: str, photographs: Iterable[str]) -> None:
    """UsageError E-PHOTOS-EMPTY when not a single one is there: then their folder is another one."""
    first = None
    for photograph in photographs:
        if _is_there(photograph):
            return
        first = first or photograph
    if first is not None:
        raise UsageError(
            "E-PHOTOS-EMPTY",
            f"none of the photographs that {table!r} lists is there, the first being {first!r}; paths are absolute or "
            "relative to the folder of the table",
        )


def _refuse_answers(table: Table, path: str) -> None:
    """UsageError E-TRUTH for what zsl-infer wrote."""
    if all(table.find(name) for name in (*COLUMNS, "rank", "probability")):
        raise UsageError(
            "E-TRUTH",
            f"{path!r} has the columns rank and probability: it is what zsl-infer said, not the truth; give a table of "
            "paths with the class that each photograph really shows",
        )


# --- splits ---------------------------------------------------------------------------------------------------------


def with_role(truth: Truth, split: str | os.PathLike[str], role: str) -> Truth:
    """The photographs that have a role in a training's split.

    A photograph is the one of the split whose path its own path ends with: paths of a split are relative to `images`.

    Args:
        truth: photographs, those of the training among them.
        split: CSV with the columns `image` and `role`, as zsl-train writes it to RUN/split.csv.
        role: of ROLES.

    Raises:
        UsageError: E-CSV, E-SPLIT-ROLE, E-SPLIT-TWICE; E-SPLIT-MISSING when no photograph has the role.
        SystemProblem: the split cannot be read.

    """
    roles = _read_split(os.fspath(split))
    found: set[str] = set()
    others = unlisted = 0
    counts: dict[str, int] = {}
    for name, item in truth.pairs():
        image = roles.image(item)
        if image is None and isinstance(item.source, InputError):  # a folder: nobody knows what is in it
            counts[name] = counts.get(name, 0) + 1
        elif image is None:
            unlisted += 1
        elif roles.of[image] != role:
            others += 1
        else:
            found.add(image)
            counts[name] = counts.get(name, 0) + 1
    if not found:
        raise UsageError(
            "E-SPLIT-MISSING",
            f"none of the {truth.count} photographs in {truth.path!r} has the role {role} in {os.fspath(split)!r} "
            f"({others} have another one, {unlisted} are not listed); give the photographs of that training",
        )
    pictures = {name: _Chosen(truth.pictures[name], roles, role) for name in counts}
    notes = [f"photographs with the role {role} in {os.fspath(split)}: {len(found)}; with another: {others}"]
    if unlisted:
        notes.append(f"photographs left out because the split does not list them: {unlisted}")
    absent = sorted(image for image, own in roles.of.items() if own == role and image not in found)
    if absent:
        notes.append(
            f"photographs that the split lists as {role} and that are not there: {len(absent)}, {listed(absent)}"
        )
    return replace(truth, pictures=pictures, counts=counts, notes=(*truth.notes, *notes))


@dataclass(frozen=True)
class _Roles:
    """What a split says.

    Attributes:
        of: image -> role.
        alike: one spelling of an image -> the image: macOS and Linux compose accents differently in file names, and
            Windows puts backslashes between folders.

    """

    of: Mapping[str, str]
    alike: Mapping[str, str]

    def image(self, photograph: Item) -> str | None:
        """The image that a photograph is: of several that its path ends with the longest; None for none of them."""
        end = _path(photograph.name).lstrip("/")
        while end not in self.of and _nfc(end) not in self.alike:
            _, slash, end = end.partition("/")
            if not slash:
                return None
        return end if end in self.of else self.alike[_nfc(end)]


class _Chosen:
    """Those photographs that have a role."""

    def __init__(self, items: Iterable[Item], roles: _Roles, role: str) -> None:
        self._items, self._roles, self._role = items, roles, role

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self._items if self._chosen(item, self._roles.image(item)))

    def _chosen(self, item: Item, image: str | None) -> bool:
        if image is None:
            return isinstance(item.source, InputError)
        return self._roles.of[image] == self._role


def _read_split(path: str) -> _Roles:
    """The roles of a split.csv; UsageError E-CSV, E-SPLIT-ROLE, E-SPLIT-TWICE."""
    roles: dict[str, str] = {}
    for line, (cell, given) in read_table(path, SPLIT_COLUMNS).columns(SPLIT_COLUMNS):
        image, role = _path(cell), given.casefold()
        if role not in ROLES:
            raise UsageError(
                "E-SPLIT-ROLE", f"{path!r}, line {line}: the role of {cell!r} is {given!r}; expected {', '.join(ROLES)}"
            )
        if image in roles:
            raise UsageError(
                "E-SPLIT-TWICE", f"{path!r}, line {line}: {cell!r} is listed twice; remove one of the lines"
            )
        roles[image] = role
    return _Roles(roles, {_nfc(_path(image.replace("\\", "/"))): image for image in roles})


def _path(name: str) -> str:
    return posixpath.normpath(name.replace(os.sep, "/"))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
