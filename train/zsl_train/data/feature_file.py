"""Feature files: a row of numbers for each picture, extracted by somebody else, in place of photographs.

``.mat`` as published by Xian et al. (res101.mat: `features` (V, N), `labels` (N,), `image_files`), or ``.npy`` (N, V),
or (N, R, V) with R regions. Kept in half precision as the region features of photographs are; an .npy of float16
(N, R, V) is memory-mapped and never read whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import BackendError, UsageError, from_os_error, listed
from zsl_runtime.inputs.matfile import MatError, variable_names
from zsl_runtime.inputs.npyfile import NUMBERS, NpyError, open_array
from zsl_train.data.att_splits import load_mat, texts, variables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CODE = "E-FEATURES-FILE"
SUFFIXES = (".mat", ".npy")
LARGEST = 65504.0  # of half precision
BLOCK_NUMBERS = 1 << 22  # numbers looked at at once


@dataclass(frozen=True)
class FeatureFile:
    """The rows of one feature file.

    Attributes:
        path: of the file.
        values: (N, R, V) float16, finite; a read-only memory map or an array in memory.
        labels: (N,) int64 as they stand in the file, counted from 1 or from 0.
        image_files: N names of pictures, or None where the file has none.
        sha256: of the file.
        constant: dimensions of V that are the same number in every row.
        notes: things the user should be told, one line each.

    """

    path: Path
    values: NDArray[np.float16]
    labels: NDArray[np.int64]
    image_files: tuple[str, ...] | None
    sha256: str
    constant: int
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def regions(self) -> int:
        """R; 1 for plain vectors."""
        return int(self.values.shape[1])

    @property
    def width(self) -> int:
        """V."""
        return int(self.values.shape[2])


def find_feature_file(given: Path, directory: Path) -> Path:
    """The file as given, else inside `directory`; UsageError E-FEATURES-FILE when it is in neither place."""
    for path in (given, directory / given):
        if path.is_file():
            if path.suffix.lower() not in SUFFIXES:
                raise UsageError(CODE, f"{path} is no feature file by its name; expected one that ends in .mat or .npy")
            return path
    there = listed([path.name for path in feature_files(directory)])
    raise UsageError(
        CODE,
        f"no feature file {given}, neither as given nor in {directory}; "
        + (f"there are {there}" if there else "give one"),
    )


def feature_files(directory: Path) -> list[Path]:
    """Files in `directory` that hold feature rows by their content: .mat with `features` and `labels`, sorted."""
    found = []
    for path in sorted(directory.glob("[!.]*.mat")):
        try:
            held = set(variable_names(path))
        except (MatError, BackendError, OSError):  # damaged ones are told about when they are opened by name
            continue
        if {"features", "labels"} <= held:
            found.append(path)
    return found


def read_feature_file(path: Path, directory: Path) -> FeatureFile:
    """Read a feature file and hold it against itself: as many labels as rows, all numbers finite.

    Args:
        path: .mat or .npy.
        directory: where else the labels of an .npy file are looked for.

    Raises:
        UsageError: E-FEATURES-FILE naming what is wrong.
        SystemProblem: E-SYSTEM when it cannot be opened.

    """
    mat = path.suffix.lower() == ".mat"
    given, labels, files, notes = _read_mat(path) if mat else _read_npy(path, directory)
    values, constant = _half(path, given)
    return FeatureFile(path, values, labels, files, _sha256(path), constant, notes)


def _read_mat(path: Path) -> tuple[NDArray[Any], NDArray[np.int64], tuple[str, ...] | None, tuple[str, ...]]:
    content = load_mat(path, code=CODE)
    lacking = [key for key in ("features", "labels") if key not in content]
    if lacking:
        raise UsageError(
            CODE,
            f"{path} lacks {' and '.join(lacking)} (it holds {listed(variables(content)) or 'nothing'}); expected "
            "features (V, N), labels (N,) and perhaps image_files, as in res101.mat",
        )
    features, labels = content["features"], _labels(path, content["labels"])
    if getattr(features, "ndim", 0) != 2 or features.dtype.kind not in NUMBERS:
        raise UsageError(CODE, f"{path}: features is {_shape(features)}, expected numbers (V, N)")
    if features.shape[1] != len(labels):
        hint = (
            "it is transposed: save features.T" if features.shape[0] == len(labels) else "it is damaged: get it again"
        )
        raise UsageError(
            CODE,
            f"{path}: features is {_shape(features)} and there are {len(labels)} labels, expected (V, N) with N = "
            f"{len(labels)}; {hint}",
        )
    files = tuple(texts(content["image_files"])) if "image_files" in content else None
    if files is not None and len(files) != len(labels):
        raise UsageError(
            CODE, f"{path} has {len(labels)} labels and {len(files)} image_files; it is damaged: get it again"
        )
    return features.T[:, None, :], labels, files, ()


def _read_npy(
    path: Path, directory: Path
) -> tuple[NDArray[Any], NDArray[np.int64], tuple[str, ...] | None, tuple[str, ...]]:
    values = _open_npy(path)
    if values.ndim not in {2, 3} or values.dtype.kind not in NUMBERS:
        raise UsageError(CODE, f"{path} holds {_shape(values)}; expected numbers (N, V), or (N, R, V) for regions")
    labels, files, note = _labels_beside(path, directory, values.shape)
    return (values if values.ndim == 3 else values[:, None, :]), labels, files, (note,)


def _open_npy(path: Path) -> NDArray[Any]:
    try:
        return open_array(path)
    except OSError as error:
        raise from_os_error(error, "read the feature file") from error
    except NpyError as error:
        raise UsageError(
            CODE,
            f"{path} cannot be read as .npy ({error}); it is damaged, cut off or no array of numbers: save it with "
            "numpy.save",
        ) from error


def _labels_beside(
    path: Path, directory: Path, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...] | None, str]:
    """Labels of an .npy file, which has none itself: labels.npy, else a .mat feature file with as many pictures."""
    count = shape[0]
    folders = list(dict.fromkeys((path.parent, directory)))
    for place in (folder / "labels.npy" for folder in folders):
        if place.is_file() and place != path:
            labels = _labels(place, _open_npy(place))
            if len(labels) != count:
                raise UsageError(
                    CODE,
                    f"{path} is {shape} and {place} has {len(labels)} labels, expected one a row; "
                    + (
                        "it is transposed: save it as (N, V)" if shape[-1] == len(labels) else "give those of this file"
                    ),
                )
            return labels, None, f"labels of {path.name} are those of {place.name}"
    counts = []
    for place in (file for folder in folders for file in feature_files(folder)):
        content = load_mat(place, ["labels", "image_files"], code=CODE)
        labels = _labels(place, content["labels"])
        if len(labels) == count:
            files = tuple(texts(content["image_files"])) if "image_files" in content else None
            return labels, files, f"labels of {path.name} are those of {place.name}, row by row"
        counts.append(f"{place.name} has {len(labels)}" + (" (transposed?)" if len(labels) == shape[-1] else ""))
    beside = f"; {', '.join(counts)}" if counts else ""
    raise UsageError(
        CODE,
        f"{path} has {count} rows and no labels{beside}; put labels.npy (N,) or a .mat feature file of the same "
        "pictures beside it",
    )


def _labels(path: Path, values: Any) -> NDArray[np.int64]:
    array = np.ravel(values)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all() or (array != np.floor(array)).any():
        raise UsageError(CODE, f"{path}: labels are not whole numbers; expected the number of a class for each picture")
    if not len(array):
        raise UsageError(CODE, f"{path} has no rows; give a feature file with one row a picture")
    if np.abs(array).max() > 2**31:
        raise UsageError(CODE, f"{path}: labels go up to {np.abs(array).max():.3g}; expected the numbers of classes")
    return array.astype(np.int64)


def _half(path: Path, given: NDArray[Any]) -> tuple[NDArray[np.float16], int]:
    """Values (N, R, V) in half precision, all looked at once; and how many of V are constant."""
    if 0 in given.shape:
        raise UsageError(CODE, f"{path} holds {given.shape[0]} rows of {given.shape[1:]} numbers; give some")
    mapped = isinstance(given, np.memmap) and given.dtype == np.dtype("<f2") and given.flags.c_contiguous
    values = given if mapped else np.empty(given.shape, np.float16)
    low, high = np.full(given.shape[2], np.inf), np.full(given.shape[2], -np.inf)
    for rows in _blocks(given.shape):
        part = np.asarray(given[rows])
        bad = ~np.isfinite(part)
        if bad.any():
            where = np.flatnonzero(bad.any(axis=(1, 2))) + rows.start
            raise UsageError(
                CODE,
                f"{path}: {int(bad.sum())} numbers are NaN or infinite, the first in row {where[0]}; extract those "
                "pictures again, or leave them out",
            )
        largest = max(float(part.max()), -float(part.min()))  # the smallest whole number has no positive one
        if largest > LARGEST:
            raise UsageError(
                CODE, f"{path}: numbers go up to {largest:.4g}, half precision holds {LARGEST:.0f}; divide the features"
            )
        low, high = np.minimum(low, part.min(axis=(0, 1))), np.maximum(high, part.max(axis=(0, 1)))
        if not mapped:
            values[rows] = part
    return values, int((low == high).sum())


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows that are at most BLOCK_NUMBERS numbers, at least one row."""
    rows = max(1, BLOCK_NUMBERS // int(np.prod(shape[1:])))
    return (slice(start, start + rows) for start in range(0, shape[0], rows))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise from_os_error(error, "read the feature file") from error


def _shape(values: Any) -> str:
    return f"{getattr(values, 'dtype', type(values).__name__)} {getattr(values, 'shape', '')}"
