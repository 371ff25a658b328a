"""The original archives of AWA2, SUN, aPY and FLO as they are extracted, with the proposed split of Xian et al.

Sources: the files that come with them. AWA2 (Xian et al., 2017), the SUN Attribute Database (Patterson and Hays, 2012),
aPascal and aYahoo (Farhadi et al., 2009: an object is a box in a picture, cut out here), Oxford Flowers (Nilsback and
Zisserman, 2008: no attributes of its own, so the sentence vectors of att_splits.mat). CUB's is in `cub.py`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import InputError, UsageError, from_os_error, listed
from zsl_runtime.head.class_table import ClassTable, check_class_name, check_numbers, refuse_duplicates
from zsl_runtime.inputs.item import Tally
from zsl_runtime.inputs.left_out import told
from zsl_runtime.machine.cache import needed_cache
from zsl_runtime.machine.storage import replacing
from zsl_runtime.pixels.pixels import decode
from zsl_train.data.att_splits import load_mat, read_split_file, texts
from zsl_train.data.image_set import ImageSet, pictures_below
from zsl_train.data.proposed_split import own_split, read_proposed_split, split_file
from zsl_train.data.roles import check_photographs, check_roles
from zsl_train.data.text_lists import damaged_list, read_lines, read_numbered
from zsl_train.data.word_vectors import attribute_words, load_word_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

CODE = "E-ARCHIVE-FILE"
AWA2_FILES = ("classes.txt", "predicates.txt", "predicate-matrix-continuous.txt")
SUN_FILES = ("images.mat", "attributes.mat", "attributeLabels_continuous.mat")
APY_LISTS = ("apascal_train.txt", "apascal_test.txt", "ayahoo_test.txt")
APY_FILES = ("class_names.txt", "attribute_names.txt", *APY_LISTS)
FLO_LABELS = "imagelabels.mat"


@dataclass(frozen=True)
class Archive:
    """What an archive holds, without the split.

    Attributes:
        data_set: AWA2, SUN, APY or FLO.
        base: the folder with its lists; att_splits.mat is looked for there and around it.
        root: the pictures' folder.
        paths: n pictures relative to `root`.
        labels: (n,) int64 rows of `names`.
        names: C classes.
        raw: (C, A) attributes.
        attributes: A names.
        source: what the attributes are.
        notes: things the user should be told.

    """

    data_set: str
    base: Path
    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    raw: NDArray[np.float64]
    attributes: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()


def find_archive(directory: Path) -> tuple[Callable[[Path, Path | None], Archive], Path] | None:
    """Which archive `directory` or a folder directly in it is: its reader and its base; None when it is none."""
    try:
        inside = sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise from_os_error(error, "list the data folder") from error
    for base in (directory, *inside):
        for files, reader in (
            (AWA2_FILES, read_awa2),
            (SUN_FILES, read_sun),
            (APY_FILES, read_apy),
            ((FLO_LABELS,), read_flo),
        ):
            if all(_is_file(base / name) for name in files):
                return reader, base
    return None


def _is_file(path: Path) -> bool:
    """Whether a file is there; where nobody may look, such as in lost+found, there is none of ours."""
    try:
        return path.is_file()
    except OSError:
        return False


def open_archive(
    reader: Callable[[Path, Path | None], Archive], base: Path, splits: Path | None, seed: int
) -> ImageSet:
    """Read an archive with the proposed split, else with one of our own and a warning.

    Args:
        reader: of the archive, as `find_archive` gives it.
        base: likewise.
        splits: att_splits.mat or the folder that holds it, or None.
        seed: of the split that is made where there is none.

    Raises:
        UsageError: E-ARCHIVE-FILE for the archive's files, E-SPLITS for att_splits.mat, E-DATA-...
        SystemProblem: E-SYSTEM when something cannot be read.

    """
    found = split_file(base, splits)
    archive = reader(base, found)
    paths, labels, names = archive.paths, archive.labels, archive.names
    if found is None:
        role, seen, version, notes = own_split(base, labels, names, seed)
    else:
        split = read_proposed_split(found, paths, labels, names, by_name=archive.data_set != "APY")
        role, seen, version, notes = split.role, split.seen, split.version, split.notes
    table = ClassTable(names, seen, archive.raw, archive.attributes)
    check_numbers(table, str(base))
    check_photographs(labels, table)
    keep = np.flatnonzero(role != "")
    check_roles(labels[keep], role[keep], table)
    words = tuple(attribute_words(name) for name in archive.attributes)
    vectors = base / "attribute_vectors.npy"
    loaded = load_word_vectors(vectors, words) if vectors.exists() else None
    return ImageSet(
        root=archive.root,
        paths=tuple(paths[i] for i in keep),
        labels=labels[keep],
        role=role[keep],
        table=table,
        words=words,
        word_vectors=None if loaded is None else loaded.vectors,
        split_version=version,
        notes=(*archive.notes, *notes, *(loaded.notes if loaded else ())),
        attribute_source=f"{len(archive.attributes)} class attributes ({archive.source})",
        data_set=archive.data_set,
    )


def read_awa2(base: Path, _: Path | None) -> Archive:
    """AWA2: JPEGImages/<class>/*.jpg, classes.txt, predicates.txt, predicate-matrix-continuous.txt (-1: missing)."""
    names = _class_names(_different(base / "classes.txt"))
    attributes = _different(base / "predicates.txt")
    raw = _matrix(base / "predicate-matrix-continuous.txt", (len(names), len(attributes)))
    root = base / "JPEGImages"
    tally = Tally()
    paths = sorted(path for path in _pictures(root, tally) if len(PurePosixPath(path).parts) > 1)
    labels = _labels([PurePosixPath(path).parts[0] for path in paths], names, root)
    missing = int((raw < 0).sum())
    notes = (*((f"{missing} attributes are marked as missing (below 0)",) if missing else ()), *told(tally))
    return Archive(
        "AWA2", base, root, tuple(paths), labels, names, raw, attributes, "predicate-matrix-continuous.txt", notes
    )


def read_sun(base: Path, _: Path | None) -> Archive:
    """SUN: images.mat, attributes.mat and attributeLabels_continuous.mat in SUNAttributeDB, images/ there or around it.

    A picture is called ``a/airport/terminal/sun_x.jpg``; its class is 'airport_terminal'. A class's attributes are the
    mean of its pictures', as in the published split.
    """
    paths = tuple(text.strip() for text in texts(_variable(base / "images.mat", "images")))
    attributes = tuple(text.strip() for text in texts(_variable(base / "attributes.mat", "attributes")))
    votes = np.asarray(_variable(base / "attributeLabels_continuous.mat", "labels_cv"))
    if votes.shape != (len(paths), len(attributes)) or votes.dtype.kind not in "fiu" or not np.isfinite(votes).all():
        raise _damaged(
            base / "attributeLabels_continuous.mat",
            f"labels_cv is {votes.dtype} {votes.shape}, expected finite numbers ({len(paths)}, {len(attributes)})",
        )
    of_picture = ["_".join(PurePosixPath(path).parts[1:-1]) for path in paths]
    names = _class_names(sorted(set(of_picture)))
    labels = _labels(of_picture, names, base / "images.mat")
    raw = np.stack([votes[labels == one].mean(axis=0) for one in range(len(names))]).astype(np.float64)
    root = next((place for place in (base / "images", base.parent / "images") if place.is_dir()), base / "images")
    _check_there(root, paths, _pictures(root), base / "images.mat")
    refuse_duplicates(attributes, code=CODE, what=f"attributes in {base / 'attributes.mat'}")
    return Archive("SUN", base, root, paths, labels, names, raw, attributes, "mean of attributeLabels_continuous.mat")


def read_flo(base: Path, splits: Path | None) -> Archive:
    """FLO: jpg/image_00001.jpg ... and imagelabels.mat; the sentence vectors are `att` of att_splits.mat."""
    labels = np.ravel(_variable(base / FLO_LABELS, "labels"))
    if labels.dtype.kind not in "fiu" or not len(labels) or (labels != np.floor(labels)).any() or labels.min() < 1:
        raise _damaged(base / FLO_LABELS, "labels are not whole numbers from 1 on")
    if splits is None:
        raise UsageError(
            "E-SPLITS",
            f"{base} has no attributes of its own: the sentence vectors of its classes are in att_splits.mat, which is "
            "neither there nor around it; name it with --splits",
        )
    split = read_split_file(splits)
    vectors = np.asarray(split.attributes.get("att"))
    if vectors.ndim != 2 or vectors.shape[1] < labels.max() or not np.isfinite(vectors).all():
        raise UsageError(
            "E-SPLITS", f"{splits}: att is {vectors.shape}, expected finite numbers (A, {int(labels.max())})"
        )
    count, width = vectors.shape[1], vectors.shape[0]
    names = split.names or tuple(f"class {number:0{len(str(count))}}" for number in range(1, count + 1))
    paths = tuple(f"image_{number:05}.jpg" for number in range(1, len(labels) + 1))
    root = base / "jpg"
    _check_there(root, paths, _pictures(root), base / FLO_LABELS)
    attributes = tuple(f"attribute {number:0{len(str(width))}}" for number in range(1, width + 1))
    raw = np.array(vectors.T, dtype=np.float64)
    return Archive(
        "FLO", base, root, paths, labels.astype(np.int64) - 1, _class_names(names), raw, attributes, "sentence vectors"
    )


def read_apy(base: Path, _: Path | None) -> Archive:
    """aPY: the lists in attribute_data; each line is ``picture class left top right bottom`` and 64 zeros and ones.

    Objects are cut out of their pictures once, into the cache folder, in the order of the lists: that is the order
    which the published split counts in. A class's attributes are the mean of its objects'.
    """
    names = _class_names(read_lines(base / "class_names.txt", CODE))
    attributes = tuple(read_lines(base / "attribute_names.txt", CODE))
    refuse_duplicates(attributes, code=CODE, what=f"attributes in {base / 'attribute_names.txt'}")
    objects = [one for name in APY_LISTS for one in _apy_objects(base / name, len(attributes))]
    labels = _labels([one.label for one in objects], names, base)
    votes = np.array([one.attributes for one in objects], dtype=np.float64)
    empty = [names[i] for i in range(len(names)) if not (labels == i).any()]
    if empty:
        raise _damaged(base / APY_LISTS[0], f"no object of the classes {listed(empty)} in the three lists")
    raw = np.stack([votes[labels == one].mean(axis=0) for one in range(len(names))])
    root, paths = _cut_objects(base, objects)
    note = f"{len(objects)} objects are cut out of their pictures by their boxes, and kept in {root}"
    return Archive("APY", base, root, paths, labels, names, raw, attributes, "mean over a class's objects", (note,))


@dataclass(frozen=True)
class _Object:
    """One line of a list of aPY: the picture's name, class, box (left, top, right, bottom; from 1), attributes."""

    picture: str
    label: str
    box: tuple[int, int, int, int]
    attributes: tuple[float, ...]


def _apy_objects(path: Path, count: int) -> list[_Object]:
    found = []
    for number, line in enumerate(read_lines(path, CODE), start=1):
        cells = line.split()
        try:
            left, top, right, bottom = (round(float(cell)) for cell in cells[2:6])
            values = tuple(float(cell) for cell in cells[6:])
        except ValueError:
            values = ()
        if len(cells) != 6 + count or len(values) != count or not set(values) <= {0.0, 1.0}:
            raise _damaged(path, f"line {number} is not a picture, a class, a box and {count} zeros and ones")
        if PurePosixPath(cells[0]).name != cells[0] or not (1 <= left <= right and 1 <= top <= bottom):
            raise _damaged(path, f"line {number} has the picture {cells[0]!r} and the box {cells[2:6]}")
        found.append(_Object(cells[0], cells[1], (left, top, right, bottom), values))
    return found


def _cut_objects(base: Path, objects: Sequence[_Object]) -> tuple[Path, tuple[str, ...]]:
    """The objects as pictures of their own in the cache folder; those that are there are not cut again."""
    # Around the lists lie other people's folders, too; a picture that is missing for one of them is told by its name.
    around = [sorted(pictures_below(folder, Tally(), whole=False)) for folder in (base.parent, base)]
    where = {file.name: file for files in around for file in files}
    missing = sorted({one.picture for one in objects} - where.keys())
    if missing:
        raise UsageError(
            CODE,
            f"{len(missing)} pictures of the lists in {base} are neither there nor in the folder around it: "
            f"{listed(missing)}; extract VOC2008's JPEGImages and ayahoo_test_images beside attribute_data",
        )
    digest = hashlib.sha256(str(base.resolve()).encode())
    for one in objects:
        digest.update(f"\n{one.picture} {one.label} {one.box}".encode())
    root = needed_cache() / "objects" / digest.hexdigest()[:32]
    paths = tuple(f"{one.label}/{number:05}.png" for number, one in enumerate(objects))
    for path, one in zip(paths, objects, strict=True):
        if not (root / path).is_file():
            _cut(where[one.picture], one.box, root / path)
    return root, paths


def _cut(picture: Path, box: tuple[int, int, int, int], target: Path) -> None:
    """Write the box of a picture; nothing where the picture cannot be read, which the extraction then tells."""
    from PIL import Image

    try:
        pixels = decode(picture)
    except InputError:
        return
    left, top, right, bottom = box
    part = pixels[top - 1 : bottom, left - 1 : right]
    if not part.size:
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            Image.fromarray(part).save(temporary, format="PNG", compress_level=1)
    except OSError as error:
        raise from_os_error(error, "keep the cut out objects") from error


def _damaged(path: Path, reason: str) -> UsageError:
    return damaged_list(path, reason, CODE)


def _different(path: Path) -> tuple[str, ...]:
    """The names of a numbered list, all different."""
    names = read_numbered(path, CODE)
    if len(set(names)) != len(names):
        raise _damaged(path, "a name is there twice")
    return names


def _class_names(names: Iterable[str]) -> tuple[str, ...]:
    checked = tuple(check_class_name(name) for name in names)
    refuse_duplicates(checked, code=CODE, what="classes")
    return checked


def _matrix(path: Path, shape: tuple[int, int]) -> NDArray[np.float64]:
    try:
        rows = [[float(cell) for cell in line.split()] for line in read_lines(path, CODE)]
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows) or not np.isfinite(rows).all():
        raise _damaged(path, f"expected {shape[0]} lines of {shape[1]} finite numbers")
    return np.array(rows, dtype=np.float64)


def _variable(path: Path, name: str) -> NDArray[np.generic]:
    content = load_mat(path, [name], code=CODE)
    if name not in content:
        raise _damaged(path, f"it holds no {name}")
    values: NDArray[np.generic] = np.asarray(content[name])
    return values


def _pictures(root: Path, tally: Tally | None = None) -> list[str]:
    """Pictures below `root`, relative to it; what is left out is counted."""
    if not root.is_dir():
        raise UsageError(CODE, f"there is no folder {root} with the archive's pictures; extract those, too")
    return [file.relative_to(root).as_posix() for file in pictures_below(root, tally or Tally())]


def _check_there(root: Path, wanted: Sequence[str], there: Sequence[str], source: Path) -> None:
    missing = sorted(set(wanted) - set(there))
    if missing:
        raise UsageError(
            CODE,
            f"{len(missing)} of the {len(wanted)} pictures of {source} are not below {root}: {listed(missing)}; "
            "extract the archive again",
        )
    twice = [name for name, count in Counter(wanted).items() if count > 1]
    if twice:
        raise _damaged(source, f"pictures are there twice: {listed(twice)}")


def _labels(given: Sequence[str], names: Sequence[str], where: Path) -> NDArray[np.int64]:
    """Rows of `names`."""
    rows = {name: row for row, name in enumerate(names)}
    unknown = sorted(set(given) - rows.keys())
    if unknown:
        raise _damaged(where, f"{len(unknown)} classes that the list of classes does not name: {listed(unknown)}")
    if not given:
        raise _damaged(where, "there are no pictures")
    return np.array([rows[name] for name in given], dtype=np.int64)
