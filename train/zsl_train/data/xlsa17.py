"""The xlsa17 pair: a feature file (res101.mat or any other of that shape) and att_splits.mat.

Source: Xian et al. (TPAMI 2019) and docs/methods.md 1.1. Read for CUB, SUN, AWA1, AWA2, aPY and FLO alike; both kinds
of att_splits.mat, with lists and labels that count from 1 (as published) or from 0 (some copies).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import UsageError, from_os_error, listed
from zsl_runtime.head.class_table import ClassTable, check_class_name, check_numbers, refuse_duplicates
from zsl_runtime.head.names import stored_form
from zsl_runtime.inputs.npyfile import NpyError, open_array
from zsl_runtime.machine.untrusted import UnfitError, read_given
from zsl_train.data.att_splits import (
    FILE,
    NEVER_USED,
    PARTS,
    index_base,
    load_mat,
    looks_like,
    positions,
    read_split_file,
    texts,
    torn_classes,
    variables,
)
from zsl_train.data.feature_file import find_feature_file, read_feature_file
from zsl_train.data.image_set import ImageSet
from zsl_train.data.roles import check_roles
from zsl_train.data.text_lists import LARGEST, read_columns
from zsl_train.data.word_vectors import attribute_words, load_word_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Ints
    from zsl_train.data.att_splits import SplitFile
    from zsl_train.data.feature_file import FeatureFile


OWN = ("att", "original_att")  # attribute vectors that att_splits.mat itself may hold
NAME_FILES = ("attributes.txt", "predicates.txt")  # as CUB's and AWA2's archives call them: lines `number name`
VECTORS = "attribute_vectors.npy"


@dataclass(frozen=True)
class Attributes:
    """Attribute vectors of all classes.

    Attributes:
        raw: (C, A) float64, finite, no row all zero.
        source: what they are, for the protocol of every score.
        own: whether they are those of att_splits.mat, which attributes.csv and attribute_vectors.npy belong to.

    """

    raw: NDArray[np.float64]
    source: str
    own: bool


def open_xlsa17(directory: Path, features: Path, splits: Path | None, attributes: str = "att") -> ImageSet:
    """Read a feature file with the proposed split.

    Args:
        directory: the folder with att_splits.mat, perhaps the feature file, and perhaps attribute names
            (attributes.csv, attributes.txt or predicates.txt) and attribute_vectors.npy.
        features: the feature file, as given or inside `directory`.
        splits: another att_splits.mat or its folder, or None.
        attributes: `att`, `original_att`, or a file: .npy (C, A), or .mat with `att` (A, C) such as sent_splits.mat.

    Raises:
        UsageError: E-FEATURES-FILE, E-SPLITS, E-LABELS, E-ATTRIBUTES, E-ATTRIBUTE-VALUE, E-ATTRIBUTE-ZERO,
            E-WORD-VECTORS, E-SPLIT-..., E-DATA-...
        SystemProblem: E-SYSTEM when something cannot be read.

    """
    path = find_feature_file(features, directory)
    split = read_split_file(find_split_file((directory, path.parent), splits))
    described = read_attributes(split, attributes, directory)
    file = read_feature_file(path, directory)
    names, name_notes = class_names(split, len(described.raw))
    labels, label_base = zero_based_labels(file, len(names))
    base = index_base(split, len(file), labels)
    lists = positions(split, len(file), base)
    _check_whole(split, file, lists, labels, names)
    role = np.full(len(file), "", dtype="<U5")
    for key, value in PARTS.items():
        role[lists[key]] = value
    seen = np.isin(np.arange(len(names)), labels[lists["trainval_loc"]])
    attribute_names, words, word_notes = attribute_wordings(directory, described)
    table = ClassTable(names, seen, described.raw, attribute_names)
    check_numbers(table, str(split.path))
    used = role != ""
    check_roles(labels[used], role[used], table)
    vectors, vector_notes = _word_vectors(directory / VECTORS, words, described)
    notes = (
        *file.notes,
        *name_notes,
        *_base_notes(split, file, base, label_base),
        *_split_notes(split, role),
        *_class_notes(table, labels, role),
        *_folder_notes(file, names, labels),
        *_feature_notes(file),
        *attribute_notes(table),
        *word_notes,
        *vector_notes,
    )
    return ImageSet(
        root=path.parent,
        paths=tuple(f"{path.name}#{row}" for row in range(len(file))),
        labels=labels,
        role=role,
        table=table,
        words=words,
        word_vectors=vectors,
        split_version=split.version,
        notes=notes,
        features=file,
        attribute_source=described.source,
        data_set=looks_like(len(names), len(file)),
    )


def find_split_file(folders: Sequence[Path], splits: Path | None) -> Path:
    """att_splits.mat: `splits` or inside it, else in one of `folders`; UsageError E-SPLITS when it is nowhere."""
    places = [splits, splits / FILE] if splits is not None else [folder / FILE for folder in folders]
    for place in places:
        if place.is_file():
            return place
    raise UsageError(
        "E-SPLITS",
        f"no file {' or '.join(str(place) for place in dict.fromkeys(places))}; a feature file needs it for its "
        "classes, attributes and split: give it with --splits",
    )


def read_attributes(split: SplitFile, choice: str, directory: Path) -> Attributes:
    """The attribute vectors that `choice` names (see `open_xlsa17`).

    Raises:
        UsageError: E-ATTRIBUTES when they are not there or not (A, C); E-ATTRIBUTE-VALUE, E-ATTRIBUTE-ZERO.

    """
    if choice in OWN:
        if choice not in split.attributes:
            raise UsageError(
                "E-ATTRIBUTES",
                f"{split.path} holds no {choice} (but {listed(sorted(split.attributes)) or 'no attributes at all'}); "
                "choose with --set attributes=att, original_att or a file",
            )
        raw, where, source = split.attributes[choice], f"{split.path}: {choice}", choice
    else:
        path = next((p for p in (Path(choice), directory / choice) if p.is_file()), None)
        if path is None:
            raise UsageError(
                "E-ATTRIBUTES",
                f"attributes = {choice!r} is neither att nor original_att nor a file, as given or in {directory}",
            )
        raw, where, source = _attribute_file(path, split), str(path), path.name
    if getattr(raw, "ndim", 0) != 2 or raw.dtype.kind not in "fiu" or 0 in raw.shape:
        raise UsageError("E-ATTRIBUTES", f"{where} is {getattr(raw, 'shape', raw)!r}; expected numbers (A, C)")
    if split.names is not None and raw.shape[1] != len(split.names):
        hint = "; it is transposed" if raw.shape[0] == len(split.names) else ""
        raise UsageError(
            "E-ATTRIBUTES",
            f"{where} is {raw.shape} and there are {len(split.names)} classes; expected a column a class{hint}",
        )
    values = np.array(raw.T, dtype=np.float64)
    label = f"{values.shape[1]} class attributes ({source})"
    _check_values(values, split.names, where)
    return Attributes(values, label, choice in OWN)


def _attribute_file(path: Path, split: SplitFile) -> Any:
    """(A, C) of a file of its own, the classes in the order of the split."""
    if path.suffix.lower() == ".npy":
        try:
            return open_array(path).T
        except OSError as error:
            raise from_os_error(error, "read the attributes") from error
        except NpyError as error:
            raise UsageError(
                "E-ATTRIBUTES", f"{path} cannot be read as .npy ({error}); save it with numpy.save"
            ) from error
    content = load_mat(path, code="E-ATTRIBUTES")
    if "att" not in content:
        raise UsageError("E-ATTRIBUTES", f"{path} holds {listed(variables(content))}; expected att (A, C)")
    if "allclasses_names" not in content or split.names is None:
        return content["att"]
    names = [stored_form(name) for name in texts(content["allclasses_names"])]
    wanted = [stored_form(name) for name in split.names]
    if set(names) != set(wanted) or np.shape(content["att"])[1:] != (len(names),):
        raise UsageError(
            "E-ATTRIBUTES", f"{path} is about other classes than {split.path}; give those of the same data"
        )
    return content["att"][:, [names.index(name) for name in wanted]]


def _check_values(raw: NDArray[np.float64], names: Sequence[str] | None, where: str) -> None:
    def called(rows: Any) -> str:
        return listed([names[int(i)] if names is not None else f"class {i + 1}" for i in np.flatnonzero(rows)])

    broken = ~np.isfinite(raw).all(axis=1)
    if broken.any():
        raise UsageError(
            "E-ATTRIBUTE-VALUE", f"{where}: NaN or infinity in the attributes of {called(broken)}; give finite numbers"
        )
    zero = ~raw.any(axis=1)
    if zero.any():
        raise UsageError(
            "E-ATTRIBUTE-ZERO",
            f"{where}: every attribute of {called(zero)} is 0, so nothing describes it; give it at least one attribute",
        )


def class_names(split: SplitFile, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the `count` classes, and notes; numbered where the file has none."""
    if split.names is None:
        numbered = tuple(f"class {number:0{len(str(count))}}" for number in range(1, count + 1))
        return numbered, (f"{split.path.name} names no classes: they are called {numbered[0]!r} to {numbered[-1]!r}",)
    names = tuple(check_class_name(name) for name in split.names)
    refuse_duplicates(names, code="E-CLASS-DUPLICATE", what=f"classes in {split.path}")
    return names, ()


def zero_based_labels(file: FeatureFile, classes: int) -> tuple[Ints, int]:
    """Labels counted from 0, and from where the file counts them; UsageError E-LABELS for others than the classes'."""
    base = 0 if file.labels.min() == 0 else 1
    labels = file.labels - base
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        given = listed([str(value) for value in np.unique(file.labels[outside])])
        raise UsageError(
            "E-LABELS",
            f"{file.path} has {len(outside)} labels outside the {classes} classes of the split ({given}, first in row "
            f"{outside[0]}); expected {base}..{classes - 1 + base}: give the files of the same data set",
        )
    return labels, base


def _check_whole(
    split: SplitFile, file: FeatureFile, lists: dict[str, Ints], labels: Ints, names: Sequence[str]
) -> None:
    torn = torn_classes(lists, labels)
    if torn:
        raise UsageError(
            "E-SPLITS",
            f"{split.path} does not fit {file.path.name}: by its positions, {len(torn)} classes are neither wholly "
            f"seen nor wholly unseen ({listed([names[i] for i in torn])}); give the split of this feature file",
        )


def _base_notes(split: SplitFile, file: FeatureFile, base: int, label_base: int) -> tuple[str, ...]:
    counted = ((base, f"the lists of {split.path.name}"), (label_base, f"the labels of {file.path.name}"))
    return tuple(f"{what} count from 0 (the published files count from 1)" for start, what in counted if start == 0)


def _split_notes(split: SplitFile, role: NDArray[np.str_]) -> tuple[str, ...]:
    notes = []
    if split.leaked:
        notes.append(f"{split.leaked} pictures of test_seen_loc are in train_loc or val_loc; {NEVER_USED}")
    unused = int((role == "").sum())
    if unused:
        notes.append(f"{unused} rows are in none of the lists of {split.path.name} and are left out")
    return tuple(notes)


def _class_notes(table: ClassTable, labels: Ints, role: NDArray[np.str_]) -> tuple[str, ...]:
    trained = np.bincount(labels[role == "train"], minlength=len(table))
    there = np.bincount(labels[role != ""], minlength=len(table))
    single, absent = np.flatnonzero(trained == 1), np.flatnonzero(there == 0)
    notes = []
    if len(single):
        notes.append(
            f"{len(single)} seen classes have a single training row, which says nothing of how they vary: "
            f"{listed([table.names[i] for i in single])}"
        )
    if len(absent):
        notes.append(
            f"{len(absent)} classes have no rows and count as unseen: {listed([table.names[i] for i in absent])}"
        )
    return tuple(notes)


def _folder_notes(file: FeatureFile, names: Sequence[str], labels: Ints) -> tuple[str, ...]:
    """Where image_files lie in folders that are called as classes, the labels must say the same."""
    if file.image_files is None:
        return ()
    index = {name: number for number, name in enumerate(names)}
    folders = [index.get(part, -1) for part in (_folder(name) for name in file.image_files)]
    by_folder = np.array(folders, dtype=np.int64)
    off = int(((by_folder >= 0) & (by_folder != labels)).sum())
    if not off:
        return ()
    return (f"{off} labels of {file.path.name} name another class than the folder of the picture in image_files",)


def _folder(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[0].rpartition("/")[2]


def _feature_notes(file: FeatureFile) -> tuple[str, ...]:
    if not file.constant:
        return ()
    return (f"{file.constant} of {file.width} dimensions of {file.path.name} are the same number in every row",)


def attribute_notes(table: ClassTable) -> tuple[str, ...]:
    """What is odd about the attribute vectors: classes that have the same one cannot be told apart."""
    _, first, inverse = np.unique(table.raw, axis=0, return_index=True, return_inverse=True)
    twins = [
        f"{table.names[first[group]]} = {table.names[row]}"
        for row, group in enumerate(np.ravel(inverse))
        if first[group] != row
    ]
    if not twins:
        return ()
    return (f"{len(twins)} classes have the attributes of another and cannot be told from it: {listed(twins)}",)


def attribute_wordings(
    directory: Path, described: Attributes
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names and plain words of the A attributes, and notes; numbered where no file names them."""
    count = described.raw.shape[1]
    found = _named(directory, count) if described.own else None
    if found is not None:
        return found
    names = tuple(f"attribute {number:0{len(str(count))}}" for number in range(1, count + 1))
    note = (
        f"no attributes.csv, {' or '.join(NAME_FILES)} with {count} rows names the attributes: they are called "
        f"{names[0]!r} to {names[-1]!r}; classes are added under these column names later"
    )
    return names, names, (note,) if described.own else ()


def _named(directory: Path, count: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None:
    """Names and words from the first file of attribute names in `directory` that has `count` of them."""
    passed = []
    for path in (directory / "attributes.csv", *(directory / name for name in NAME_FILES)):
        if not path.is_file():
            continue
        pairs = _csv_names(path) if path.suffix == ".csv" else _line_names(path)
        names = tuple(name for name, _ in pairs)
        if len(names) != count or len(set(names)) != count:
            passed.append(f"{path.name} has {len(set(names))} different names for {count} attributes and is not used")
            continue
        return names, tuple(words for _, words in pairs), tuple(passed)
    if passed:
        raise UsageError("E-ATTRIBUTES", f"{directory}: {'; '.join(passed)}; give one name an attribute, in order")
    return None


def _csv_names(path: Path) -> list[tuple[str, str]]:
    return [
        (name, " ".join(words.split()) or attribute_words(name))
        for _, (name, words) in read_columns(path, ("name", "words"))
    ]


def _line_names(path: Path) -> list[tuple[str, str]]:
    """Lines `number name` (CUB: spaces, AWA2: a tab)."""
    try:
        lines = read_given(path, LARGEST, pipes=False).decode().splitlines()
    except UnfitError as error:
        raise UsageError("E-ATTRIBUTES", f"{path} {error}; expected lines `number name`") from None
    except OSError as error:
        raise from_os_error(error, "read the names of attributes") from error
    except UnicodeDecodeError:
        raise UsageError("E-ATTRIBUTES", f"{path} is not UTF-8 text; expected lines `number name`") from None
    names = [line.split(maxsplit=1) for line in lines if line.strip()]
    bad = next((parts for parts in names if len(parts) != 2 or not parts[0].isdecimal()), None)
    if bad is not None:
        raise UsageError("E-ATTRIBUTES", f"{path} has the line {' '.join(bad)[:60]!r}; expected `number name`")
    return [(name.strip(), attribute_words(name.strip())) for _, name in names]


def _word_vectors(
    path: Path, words: tuple[str, ...], described: Attributes
) -> tuple[NDArray[np.float32] | None, tuple[str, ...]]:
    if not path.is_file():
        return None, ()
    if not described.own:
        return None, (f"{path.name} belongs to the attributes of {FILE} and is not used",)
    loaded = load_word_vectors(path, words)
    return loaded.vectors, loaded.notes
