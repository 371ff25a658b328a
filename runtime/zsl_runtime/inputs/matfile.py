"""One matrix out of a MATLAB file: up to version 7 by scipy, of version 7.3 (HDF5) by h5py; the extra `mat` has both.

A .mat file at inference is rare, so neither is installed with the runtime, and neither is imported before one is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import BackendError, listed
from zsl_runtime.extras import wanting

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HDF5_MARKS = (b"MATLAB 7.3", b"\x89HDF")


class MatError(ValueError):
    """What is wrong with the file, without its name."""


def read_matrix(path: str | Path, name: str) -> NDArray[Any]:
    """The real numeric matrix `name` of a MATLAB file, rows and columns as in MATLAB.

    Args:
        path: the file.
        name: of the variable.

    Raises:
        MatError: it is no MATLAB file, damaged, or holds no such matrix.
        OSError: it cannot be opened.
        BackendError: E-MAT-MISSING when the library for this version is not installed.

    """
    with open(path, "rb") as file:
        beginning = file.read(10)
    read = _read_hdf5 if beginning.startswith(HDF5_MARKS) else _read_older
    try:
        value = read(path, name)
    except (MatError, BackendError, MemoryError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # damaged files fail in as many ways as the format has parts
        raise MatError(f"it is no MATLAB file, or damaged or cut off ({type(error).__name__}: {error})") from error
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        raise MatError(f"{name!r} is no matrix of real numbers")
    return value


def _read_older(path: str | Path, name: str) -> object:
    """Version 4 to 7."""
    try:
        import scipy.io
    except ImportError as error:
        raise _missing("scipy", error) from None
    content = scipy.io.loadmat(str(path), variable_names=[name])
    if name not in content:
        raise _absent([held for held, _, _ in scipy.io.whosmat(str(path))], name)
    return content[name]


def _read_hdf5(path: str | Path, name: str) -> object:
    """Version 7.3, where axes lie in the reverse order."""
    try:
        import h5py
    except ImportError as error:
        raise _missing("h5py", error) from None
    with h5py.File(path, "r") as file:
        if name not in file:
            raise _absent([held for held in file if not held.startswith("#")], name)
        value = file[name]
        return value[()].T if isinstance(value, h5py.Dataset) else value


def _absent(held: list[str], name: str) -> MatError:
    return MatError(f"it holds {listed(held) if held else 'nothing'}, and no matrix {name!r}")


def _missing(library: str, error: ImportError) -> BackendError:
    return BackendError(
        "E-MAT-MISSING",
        f"reading .mat files needs {wanting(library, error, 'mat')}, or save the features with numpy.save",
    )
