"""Variables of a MATLAB file: up to version 7 by scipy, of version 7.3 (HDF5) by h5py; the extra `mat` has both.

Training and labelling read by this alone. A .mat file at inference is rare, so neither is installed with the runtime,
and neither is imported before one is read.
"""

from __future__ import annotations

import math
import os
import stat
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from zsl_runtime.errors import BackendError, listed
from zsl_runtime.extras import wanting
from zsl_runtime.inputs.mat_layout import readable_names
from zsl_runtime.inputs.npyfile import NUMBERS
from zsl_runtime.machine.memory import memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Content = TypeVar("Content")
MOST_FILLED, SPARSEST = 1 << 24, 1000  # numbers of a sparse matrix filled up, in all or for each that it holds
# Of a variable, for each byte of its file: numbers pack to a half, those of which most are zero to a fiftieth.
MOST_PACKED, SMALL_BYTES = 100, 256 << 20
WIDTHS = {"single": 4, "int32": 4, "uint32": 4, "int16": 2, "uint16": 2, "char": 2, "int8": 1, "uint8": 1, "logical": 1}
HDF5_MARKS = (b"MATLAB 7.3", b"\x89HDF")


class MatError(ValueError):
    """What is wrong with the file, without its name."""


def read_matrix(path: str | Path, name: str) -> NDArray[Any]:
    """The real numeric matrix `name` of a MATLAB file, rows and columns as in MATLAB; a sparse one is filled up.

    Args:
        path: the file.
        name: of the variable.

    Raises:
        MatError: it is no MATLAB file, damaged, or holds no such matrix.
        OSError: it cannot be opened.
        BackendError: E-MAT-MISSING when the library for this version is not installed.

    """
    content = read_variables(path, [name])
    if name not in content:
        raise _absent(variable_names(path), name)
    value = content[name]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in NUMBERS:
        raise MatError(f"{name!r} is no matrix of real numbers")
    return value


def read_variables(path: str | Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Variables of a MATLAB file of any version, by name: those of `names` that are there, or all.

    Matrices are arrays with rows and columns as in MATLAB, sparse ones filled up; cells of texts are object arrays.

    Raises:
        MatError, OSError, BackendError: as of `read_matrix`.

    """
    read = _read_hdf5 if _is_hdf5(path) else _read_older
    return _guarded(lambda: read(path, names))


def variable_names(path: str | Path) -> list[str]:
    """Names of the variables of a MATLAB file of any version, of which none is read; errors as of `read_matrix`."""
    held = _names_hdf5 if _is_hdf5(path) else _names_older
    return _guarded(lambda: held(path))


def _guarded(read: Callable[[], Content]) -> Content:
    try:
        return read()
    except (MatError, BackendError, MemoryError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # damaged files fail in as many ways as the format has parts
        raise MatError(f"it is no MATLAB file, or damaged or cut off ({type(error).__name__}: {error})") from error


def _is_hdf5(path: str | Path) -> bool:
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # a pipe would be waited for
        raise MatError("it is no file")
    with open(path, "rb") as file:
        return file.read(10).startswith(HDF5_MARKS)


def _check_unpacked(path: str | Path, name: str, numbers: int, width: int) -> None:
    """MatError for a variable that promises more than a file of this size unpacks to, or than there is memory for."""
    size = os.stat(path).st_size  # noqa: PTH116  # os.stat takes undecodable names as they are
    memory = memory_bytes()
    most = max(SMALL_BYTES, MOST_PACKED * size)
    most = most if memory is None else min(most, memory // 2)
    if numbers * width > most:
        raise MatError(
            f"{name!r} promises {numbers * width:,} bytes, and of a file of {size:,} at most {most:,} are unpacked; "
            "save it anew, or as .npy"
        )


def _names_older(path: str | Path) -> list[str]:
    return readable_names(path)


def _read_older(path: str | Path, names: Sequence[str] | None) -> dict[str, Any]:
    """Version 4 to 7."""
    io = _scipy().io
    held = readable_names(path)
    wanted = held if names is None else [name for name in names if name in held]
    for name, shape, kind in io.whosmat(str(path)) if wanted else ():
        if name in wanted and kind != "sparse":  # what a cell holds is looked at by `readable_names`
            _check_unpacked(path, name, math.prod(map(int, shape)), WIDTHS.get(kind, 8))
    content = io.loadmat(str(path), variable_names=wanted) if wanted else {}
    found = {name: value for name, value in content.items() if not name.startswith("__")}
    for name, value in found.items():
        if hasattr(value, "toarray"):  # a sparse matrix of scipy
            _check_filling(value.shape, value.nnz)
            if hasattr(value, "check_format"):
                value.check_format(full_check=True)  # filling it up, scipy writes wherever the file says
            found[name] = value.toarray()
    return found


def _check_filling(shape: tuple[int, ...], numbers: int) -> None:
    """MatError for a sparse matrix that would be out of all proportion when it is filled up: it is damaged."""
    if int(np.prod(shape, dtype=np.float64)) > max(MOST_FILLED, SPARSEST * numbers):
        raise MatError(f"a sparse matrix {tuple(shape)} holds {numbers} numbers; save it as a full one")


def _scipy() -> Any:
    try:
        import scipy.io
    except ImportError as error:
        raise _missing("scipy", error) from None
    return scipy


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise _missing("h5py", error) from None
    return h5py


def _names_hdf5(path: str | Path) -> list[str]:
    with _h5py().File(path, "r") as file:
        return [name for name in file if not name.startswith("#")]


def _read_hdf5(path: str | Path, names: Sequence[str] | None) -> dict[str, Any]:
    """Version 7.3, where axes lie in the reverse order."""
    h5py = _h5py()
    with h5py.File(path, "r") as file:
        wanted = [name for name in file if not name.startswith("#") and (names is None or name in names)]
        for name in wanted:
            for one in file[name].values() if isinstance(file[name], h5py.Group) else (file[name],):
                if isinstance(one, h5py.Dataset):
                    _check_unpacked(path, name, int(one.size or 0), one.dtype.itemsize)
        return {name: _hdf5_value(h5py, file, file[name]) for name in wanted}


def _hdf5_value(h5py: Any, file: Any, value: Any) -> Any:
    """One variable as `scipy.io.loadmat` would give it, as far as we need such; else None."""
    kind = value.attrs.get("MATLAB_class", b"")
    if isinstance(value, h5py.Group):
        return _hdf5_sparse(value) if "MATLAB_sparse" in value.attrs else None
    if h5py.check_string_dtype(value.dtype) is not None:  # of a program in Python
        return np.asarray(value.asstr()[()], dtype=object).T
    if value.attrs.get("MATLAB_empty", 0):
        return np.zeros(tuple(int(size) for size in value[()]))
    content = value[()]
    if kind == b"char":
        return np.array(_hdf5_text(content))
    if value.dtype == h5py.ref_dtype:
        texts = [_hdf5_text(file[one][()]) for one in np.ravel(content)]
        return np.array(texts, dtype=object)
    return np.asarray(content).T


def _hdf5_text(letters: NDArray[Any]) -> str:
    return "".join(map(chr, np.ravel(letters))) if letters.dtype.kind == "u" and letters.any() else ""


def _hdf5_sparse(value: Any) -> NDArray[Any]:
    """A sparse matrix filled up; its columns lie one after the other."""
    ends = np.asarray(value["jc"][()], np.int64)
    shape = (int(value.attrs["MATLAB_sparse"]), len(ends) - 1)
    _check_filling(shape, int(ends[-1]))
    dense = np.zeros(shape)
    if "data" in value:
        rows, columns = np.asarray(value["ir"][()], np.int64), np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        dense[rows, columns] = value["data"][()]
    return dense


def _absent(held: list[str], name: str) -> MatError:
    return MatError(f"it holds {listed(held) if held else 'nothing'}, and no matrix {name!r}")


def _missing(library: str, error: ImportError) -> BackendError:
    return BackendError(
        "E-MAT-MISSING",
        f"reading .mat files needs {wanting(library, error, 'mat')}, or save the features with numpy.save",
    )
