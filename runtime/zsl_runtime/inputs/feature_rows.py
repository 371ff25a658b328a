"""Rows of feature files, which take the place of pictures for models that were trained on such files."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import InputError
from zsl_runtime.inputs.item import Item, in_store
from zsl_runtime.inputs.matfile import MatError, read_matrix
from zsl_runtime.inputs.npyfile import NUMBERS, NpyError, open_array

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.inputs.item import Place

    Opened = NDArray[np.floating[Any]] | InputError

ROW_SUFFIXES = (".npy", ".mat")
MATRIX = "features"  # the variable of a .mat file that holds the rows, as in the published files


class RowFiles:
    """Opens feature files of one shape. Rows of .npy files are not read before their turn.

    Args:
        shape: (R, V) of a row.
        like: name of the feature file that the model was trained on, for messages; '' when it is not known.

    """

    def __init__(self, shape: tuple[int, ...], like: str = "") -> None:
        self._shape = shape
        self._like = like
        self._matrices: dict[str, Opened] = {}  # .mat files must be read as a whole, so that is done once
        self._copy: tuple[str, Opened] | None = None  # of a store: the file that was opened last

    def count(self, files: Iterable[Place]) -> int:
        """How many items the files give; one that cannot be read is one item, and so is a folder that cannot be."""
        opened = (self._open(path) if isinstance(path, str) else None for path in files)
        return sum(1 if rows is None or isinstance(rows, InputError) else len(rows) for rows in opened)

    def items(self, files: Iterable[Place]) -> Generator[Item]:
        """The rows, named FILE#ROW; a file that cannot be read is one item.

        Args:
            files: .npy files of numbers (N, R, V), or (N, V) where R is 1; then also .mat files with `features` (V, N).

        """
        for path in files:
            if isinstance(path, Item):
                yield path
                continue
            rows = self._open(path)
            if isinstance(rows, InputError):
                yield Item(path, rows)
            else:
                yield from (Item(f"{path}#{i}", row) for i, row in enumerate(rows))

    def row(self, path: str, number: int) -> Item:
        """One row of a file, by its number from 0; what is not there is an InputError E-ROW-FILE in the item."""
        rows, name = self._open(path), f"{path}#{number}"
        if isinstance(rows, InputError):
            return Item(name, rows)
        if number >= len(rows):
            return Item(name, InputError("E-ROW-FILE", f"{name!r}: the file holds {len(rows)} rows, counted from 0"))
        return Item(name, rows[number])

    def _open(self, path: str) -> Opened:
        """The array of one file, memory-mapped where that can be; rows first."""
        if in_store(path):
            if self._copy is None or self._copy[0] != path:
                self._copy = path, _opened_there(path, self._shape, self._like)
            return self._copy[1]
        if not path.lower().endswith(".mat"):
            return _open_array(path, self._shape, self._like)
        if path not in self._matrices:
            self._matrices[path] = _open_matrix(path, self._shape, self._like)
        return self._matrices[path]


def _opened_there(path: str, shape: tuple[int, ...], like: str) -> Opened:
    """The rows of a file in a store, of a copy in $TMPDIR that goes when nobody holds its rows any more."""
    from zsl_runtime.inputs import stores

    with tempfile.TemporaryDirectory(prefix="zsl-", ignore_cleanup_errors=True) as folder:
        try:
            copy = stores.bring(path, folder)
        except InputError as error:
            return error
        opened = _open_matrix if path.lower().endswith(".mat") else _open_array
        rows = opened(copy, shape, like)
    return InputError(rows.code, rows.message.replace(repr(copy), repr(path))) if isinstance(rows, InputError) else rows


def _open_array(path: str, shape: tuple[int, ...], like: str) -> Opened:
    """The rows of an .npy file."""
    try:
        rows = open_array(path)
    except (OSError, NpyError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return InputError("E-ROW-FILE", f"{path!r} is not a readable .npy file ({reason}); save it with numpy.save")
    allowed = [shape] + ([shape[1:]] if shape[0] == 1 else [])
    if rows.ndim < 2 or rows.shape[1:] not in allowed or rows.dtype.kind not in NUMBERS:
        wanted = " or ".join(f"(N, {', '.join(map(str, axes))})" for axes in allowed)
        given = f"{rows.dtype} {rows.shape}"
        return InputError("E-ROW-SHAPE", f"{path!r} holds {given}; this model takes numbers {wanted}{_as_in(like)}")
    return rows


def _open_matrix(path: str, shape: tuple[int, ...], like: str) -> Opened:
    """The columns of `features` (V, N) of a .mat file as rows (N, V)."""
    try:
        matrix = read_matrix(path, MATRIX)
    except (OSError, MatError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "too large for the memory here"
        wanted = f"expected a matrix {MATRIX} (V, N), as MATLAB or scipy.io.savemat writes it"
        return InputError("E-ROW-FILE", f"{path!r} cannot be read: {reason}; {wanted}")
    if shape[0] != 1 or matrix.ndim != 2 or matrix.shape[0] != shape[1]:
        turned = "; it is transposed" if matrix.ndim == 2 and matrix.shape[1] == shape[1] else ""
        given = f"{matrix.dtype} {matrix.shape}{turned}"
        wanted = f"({shape[1]}, N)" if shape[0] == 1 else f"(N, {shape[0]}, {shape[1]}) in an .npy file"
        return InputError(
            "E-ROW-SHAPE",
            f"{path!r}: {MATRIX} is {given}; this model takes numbers {wanted}{_as_in(like)}",
        )
    rows: NDArray[np.floating[Any]] = matrix.T
    return rows


def _as_in(like: str) -> str:
    return f", features as in {like}" if like else ""


def check_row(row: object, shape: tuple[int, ...], like: str = "") -> Floats:
    """One row of features as the graph takes it.

    Args:
        row: an array of numbers (R, V), or (V,) where R is 1; whole numbers and truth values are numbers, too.
        shape: (R, V).
        like: as of `RowFiles`.

    Returns:
        float32 (R, V).

    Raises:
        InputError: E-ROW-SHAPE, E-ROW-VALUE for NaN, infinity or what float32 cannot hold.

    """
    fits = isinstance(row, np.ndarray) and (row.shape == shape or (shape[0] == 1 and row.shape == shape[1:]))
    if not isinstance(row, np.ndarray) or not fits or row.dtype.kind not in NUMBERS:
        given = f"{row.dtype} {row.shape}" if isinstance(row, np.ndarray) else type(row).__name__
        raise InputError("E-ROW-SHAPE", f"got {given}; this model takes rows of numbers {shape}{_as_in(like)}")
    with np.errstate(over="ignore"):
        values = np.asarray(row, dtype=np.float32).reshape(shape)
    if not np.isfinite(values).all():
        raise InputError("E-ROW-VALUE", "the row holds NaN, infinity or a number beyond float32; extract it again")
    return values
