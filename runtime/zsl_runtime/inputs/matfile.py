"""One matrix out of a MATLAB file of version 5 to 7: as much of the format as feature files need, without scipy.

Source: MAT-File Format (The MathWorks), chapter 1. A file is a header of 128 bytes and a list of data elements; a
variable is an element of its own, compressed by zlib or not. Variables other than the wanted one are skipped unread.
"""

from __future__ import annotations

import struct
import zlib
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HEADER = 128
HDF5_MARKS = (b"MATLAB 7.3", b"\x89HDF")
MATRIX, COMPRESSED = 14, 15
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # element types
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
COMPLEX = 0x0800
MOST_AXES, LONGEST_NAME = 32, 4096
CHUNK = 1 << 16


class MatError(ValueError):
    """What is wrong with the file, without its name."""


class _Source(Protocol):
    """Bytes in a row."""

    def read(self, count: int) -> bytes:
        """The next `count` bytes; MatError when there are fewer."""

    def finish(self) -> None:
        """MatError when the bytes read so far are not what was written, where that can be known."""


class _Variable(NamedTuple):
    """What stands before a variable's numbers."""

    name: str
    kind: int
    shape: tuple[int, ...]
    is_complex: bool


def read_matrix(path: str | Path, name: str) -> NDArray[Any]:
    """The real numeric matrix `name` of a file of version 5, 6 or 7, as `scipy.io.loadmat` gives it.

    Args:
        path: the file.
        name: of the variable.

    Returns:
        An array of MATLAB's class (double -> float64, single -> float32, intN, uintN) in MATLAB's order of axes.

    Raises:
        MatError: it is of version 7.3, is no such file, is damaged, or has no such matrix.
        OSError: it cannot be read.

    """
    with open(path, "rb") as file:
        order = _byte_order(file.read(HEADER))
        others = []
        while (tag := file.read(8)) != b"":
            if len(tag) < 8:
                raise MatError("it is cut off")
            kind, size = struct.unpack(f"{order}II", tag)
            after = file.tell() + size
            if kind in {MATRIX, COMPRESSED}:
                source = _Plain(file) if kind == MATRIX else _Inflated(file, size)
                if kind == COMPRESSED:
                    _expect(struct.unpack(f"{order}II", source.read(8))[0] == MATRIX)
                variable = _read_variable(source, order)
                if variable.name == name:
                    values = _read_numbers(source, order, variable)
                    source.finish()
                    return values
                others.append(variable.name)
            file.seek(after)
    held = ", ".join(map(repr, others[:5])) or "nothing"
    raise MatError(f"it holds {held}, and no matrix {name!r}")


def _byte_order(header: bytes) -> str:
    if header.startswith(HDF5_MARKS):
        raise MatError("it is of version 7.3 (HDF5); in MATLAB, save it again with '-v7'")
    marks = {b"IM": "<", b"MI": ">"}
    if len(header) < HEADER or header[126:128] not in marks:
        raise MatError("it is no MATLAB file of version 5 to 7")
    return marks[header[126:128]]


class _Plain:
    """A variable that is not compressed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise MatError("it is cut off")
        return data

    def finish(self) -> None:
        """Nothing guards these bytes."""


class _Inflated:
    """A compressed variable, inflated only as far as it is asked for."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size
        self._stream = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            parts.append(self._inflate(count))
            count -= len(parts[-1])
        return b"".join(parts)

    def finish(self) -> None:
        """Read to the end, where zlib keeps a checksum of all."""
        while not self._stream.eof:
            self._inflate(CHUNK)

    def _inflate(self, most: int) -> bytes:
        """Some bytes, perhaps none yet, and at most `most`."""
        packed = self._stream.unconsumed_tail
        if not packed:
            packed = self._file.read(min(CHUNK, self._left))
            self._left -= len(packed)
        if not packed or self._stream.eof:
            raise MatError("it is cut off")
        try:
            return self._stream.decompress(packed, most)
        except zlib.error as error:
            raise MatError(f"it is damaged ({error})") from None


def _expect(good: object) -> None:
    if not good:
        raise MatError("it is damaged")


def _element(source: _Source, order: str) -> tuple[int, int, int, bytes]:
    """Type, size and padding of the next element, and its data where they are in the tag itself (up to 4 bytes)."""
    tag = source.read(8)
    (word,) = struct.unpack(f"{order}I", tag[:4])
    if word >> 16:
        size = word >> 16
        _expect(size <= 4)
        return word & 0xFFFF, size, 0, tag[4 : 4 + size]
    (size,) = struct.unpack(f"{order}I", tag[4:])
    return word, size, -size % 8, b""


def _small(source: _Source, order: str, kind: int, most: int) -> bytes:
    """The data of an element of the variable's description: of type `kind` and at most `most` bytes."""
    found, size, padding, data = _element(source, order)
    _expect(found == kind and size <= most)
    return data if data or not size else source.read(size + padding)[:size]


def _read_variable(source: _Source, order: str) -> _Variable:
    flags = _small(source, order, 6, 8)
    _expect(len(flags) == 8)
    (word,) = struct.unpack(f"{order}I", flags[:4])
    axes = _small(source, order, 5, 4 * MOST_AXES)
    _expect(len(axes) % 4 == 0 and len(axes) >= 8)
    shape = struct.unpack(f"{order}{len(axes) // 4}i", axes)
    _expect(min(shape) >= 0)
    name = _small(source, order, 1, LONGEST_NAME).decode("latin-1")
    return _Variable(name, word & 0xFF, shape, bool(word & COMPLEX))


def _read_numbers(source: _Source, order: str, variable: _Variable) -> NDArray[Any]:
    if variable.kind not in CLASSES or variable.is_complex:
        raise MatError(f"{variable.name!r} is no matrix of real numbers")
    stored, size, padding, data = _element(source, order)
    _expect(stored in STORED)
    dtype = np.dtype(STORED[stored]).newbyteorder(order)  # type: ignore[arg-type]
    count = 1
    for axis in variable.shape:
        count *= axis
    _expect(size == count * dtype.itemsize)  # before as much is allocated
    data = data if data or not size else source.read(size + padding)[:size]
    values = np.frombuffer(data, dtype).astype(CLASSES[variable.kind])
    return values.reshape(variable.shape, order="F")
