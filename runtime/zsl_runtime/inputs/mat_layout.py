"""How MATLAB files of version 4 to 7 are laid out, looked at before scipy sees them.

scipy takes sizes, kinds and places as they stand, and a damaged file ends the process or asks for memory that no such
file can fill. What is not of these kinds (objects, function handles) is not given to it. (The format: MathWorks,
MAT-File Format.)
"""

from __future__ import annotations

import math
import os
import zlib
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

START = 128  # bytes of text before the first element; the last two say the order of bytes
MATRIX, PACKED = 14, 15  # kinds of elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # likewise
NAMES = (1, 16)  # of texts that are names
LETTERS = (1, 2, 4, 16, 17, 18)
CELL, STRUCTURE, TEXT, SPARSE, NUMERIC = 1, 2, 4, 5, range(6, 16)  # classes of matrices
COMPLEX, LOGICAL = 0x800, 0x200  # among a matrix's flags
HEAD = 4096  # bytes of a plain matrix that are looked at: its name is shorter, and its numbers come last
MOST_BYTES = 1 << 29  # of a matrix that is looked at as a whole
MOST_PACKED = 1032  # bytes that deflate packs into one, at most
DEEPEST = 20
OLD_NUMBERS = (8, 4, 4, 2, 2, 1)  # bytes of a number of version 4, by the third digit of its type


class _Element(NamedTuple):
    """An element: its kind, what there is of it, and how many bytes it has."""

    kind: int
    data: memoryview
    size: int


def readable_names(path: str | Path) -> list[str]:
    """Names of the variables of a file that scipy may read: matrices, texts, cells and structures of them.

    Raises:
        ValueError: what is wrong with the file.
        OSError: it cannot be read.

    """
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        if not length:
            raise ValueError("it has zero bytes")
        start = file.read(START)
        order = {b"IM": "<", b"MI": ">"}.get(start[126:128])
        if order is None or 0 in start[:4]:
            return list(_old_names(file, length))
        names = []
        while len(tag := file.read(8)) == 8:
            kind, size = (int(number) for number in np.frombuffer(tag, f"{order}u4"))
            begun = file.tell()
            if kind not in {MATRIX, PACKED} or begun + size > length:
                raise ValueError("a variable is cut off" if kind in {MATRIX, PACKED} else f"a variable of kind {kind}")
            name = _variable(file, kind, size, order)
            names += [name] if name else []
            file.seek(begun + size)
        if tag:
            raise ValueError("it is cut off")
        return names


def _variable(file: IO[bytes], kind: int, size: int, order: str) -> str | None:
    """The name of a variable, of which no more is read than has to be looked at; None for one of another kind."""
    head = file.read(min(size, HEAD))
    left = size - len(head)
    unpacker = None
    if kind == PACKED:
        unpacker = zlib.decompressobj()
        head = unpacker.decompress(head, 8 + HEAD)
        inside, whole = (int(number) for number in np.frombuffer(head[:8].ljust(8, b"\0"), f"{order}u4"))
        if inside != MATRIX or whole > MOST_PACKED * size:
            raise ValueError(f"a packed variable of {size:,} bytes that would be {whole:,} bytes of kind {inside}")
        head, size = head[8:], whole
    found = _class_of(memoryview(head), order)
    if found not in {CELL, STRUCTURE, TEXT, SPARSE, *NUMERIC}:
        return None
    if found in {CELL, STRUCTURE, SPARSE} and len(head) < size:
        if size > MOST_BYTES:
            raise ValueError(f"cells, or a sparse matrix, of {size:,} bytes, and at most {MOST_BYTES:,} are read")
        rest = file.read(left)
        head += rest if unpacker is None else unpacker.decompress(unpacker.unconsumed_tail + rest, size - len(head))
    return _matrix(memoryview(head), size, order, 0)


def _class_of(data: memoryview, order: str) -> int:
    """The class of a matrix, by its flags, which come first; 0 for none."""
    return 0 if len(data) < 12 else int(np.frombuffer(data[8:12], f"{order}u4")[0]) & 0xFF


def _matrix(data: memoryview, size: int, order: str, depth: int) -> str:
    """The name of a matrix of `size` bytes, of which `data` is there, once all is as it must be."""
    found = _class_of(data, order)
    elements = _elements(data, size, order)
    flags, lengths, name = (next(elements, None) for _ in range(3))
    if flags is None or lengths is None or name is None or (flags.kind, flags.size) != (6, 8) or name.kind not in NAMES:
        raise ValueError("a matrix without flags, sizes and a name")
    shape = _numbers(lengths, order)
    if lengths.kind not in {5, 6} or not 2 <= len(shape) <= 32 or shape.min() < 0:
        raise ValueError("a matrix without sizes")
    count = math.prod(shape.tolist())
    marks = int(np.frombuffer(flags.data[:4], f"{order}u4")[0])
    several = 2 if marks & COMPLEX else 1
    if found in NUMERIC:
        _check_numbers(list(_first(elements, several)), count, several)
    elif found == TEXT:
        letters = next(elements, None)
        if letters is None or letters.kind not in LETTERS:
            raise ValueError("a text without letters" if letters is None else f"a text of kind {letters.kind}")
    elif found == SPARSE:
        rows, ends, *numbers = (*_first(elements, 2 + several), None, None)
        if marks & LOGICAL:  # a byte each, whatever kind is told
            numbers = [None if one is None else one._replace(kind=2) for one in numbers]
        _check_sparse([one for one in (rows, ends, *numbers) if one is not None], shape, several, order)
    elif found in {CELL, STRUCTURE}:
        _check_inside(elements, found, count, order, depth)
    elif depth:
        raise ValueError(f"a value of class {found} inside another one")
    return bytes(name.data).rstrip(b"\0").decode("latin1")


def _first(elements: Iterator[_Element], count: int) -> Iterator[_Element]:
    for _, element in zip(range(count), elements, strict=False):
        yield element


def _check_numbers(parts: list[_Element], count: int, several: int) -> None:
    good = len(parts) == several
    for part in parts:
        kind = NUMBERS.get(part.kind)
        good = good and kind is not None and part.size == count * np.dtype(kind).itemsize
    if not good:
        raise ValueError(f"a matrix of {count:,} numbers holds others")


def _check_sparse(parts: list[_Element], shape: NDArray[np.int64], several: int, order: str) -> None:
    """The rows of the numbers, one column after the other; where each column ends; the numbers."""
    if len(parts) != 2 + several or len(shape) != 2:
        raise ValueError("a sparse matrix without numbers or their places")
    rows, ends, *numbers = (_numbers(part, order) for part in parts)
    good = all(part.kind == 5 for part in parts[:2]) and len(ends) == shape[1] + 1 and ends[0] == 0
    good = good and bool((np.diff(ends) >= 0).all()) and ends[-1] <= min(len(rows), *map(len, numbers))
    if not good or (len(rows) and not (rows.min() >= 0 and rows.max() < max(shape[0], 1))):
        raise ValueError("a sparse matrix whose numbers lie outside it")


def _check_inside(elements: Iterator[_Element], found: int, count: int, order: str, depth: int) -> None:
    """The matrices in cells, or in the fields of structures."""
    if found == STRUCTURE:
        width, names = next(elements, None), next(elements, None)
        if width is None or names is None or (width.kind, width.size, names.kind) != (5, 4, 1):
            raise ValueError("a structure without names of fields")
        letters = int(_numbers(width, order)[0])
        if letters < 1 or names.size % letters:
            raise ValueError("a structure with names of fields that are cut off")
        count *= names.size // letters
    if depth >= DEEPEST:
        raise ValueError(f"cells inside each other, more than {DEEPEST} deep")
    held = 0
    for inside in elements:
        if inside.kind != MATRIX:
            raise ValueError(f"cells with an element of kind {inside.kind}")
        if inside.size:
            _matrix(inside.data, inside.size, order, depth + 1)
        held += 1
    if held != count:
        raise ValueError(f"{count:,} cells hold {held:,} values")


def _numbers(element: _Element, order: str) -> NDArray[np.int64]:
    kind = NUMBERS.get(element.kind)
    if kind is None or len(element.data) != element.size or element.size % np.dtype(kind).itemsize:
        raise ValueError(f"an element of kind {element.kind} and {element.size} bytes, expected numbers")
    with np.errstate(invalid="ignore"):
        return np.frombuffer(element.data, order + kind).astype(np.int64)


def _elements(data: memoryview, size: int, order: str) -> Iterator[_Element]:
    """The elements inside a matrix of `size` bytes, of which `data` is there; ValueError where one is cut off."""
    at = 0
    while at < size:
        tag = np.frombuffer(bytes(data[at : at + 8]).ljust(8, b"\0"), f"{order}u4")
        first, second = int(tag[0]), int(tag[1])
        small = first >> 16  # up to 4 bytes lie within the tag
        kind, length = (first & 0xFFFF, small) if small else (first, second)
        start = at + (4 if small else 8)
        if small > 4 or at + 8 > min(size, len(data)) or start + length > size:
            raise ValueError("an element that is cut off")
        yield _Element(kind, data[start : start + length], length)
        at = at + 8 if small else start + length + -length % 8


def _old_names(file: IO[bytes], length: int) -> Iterator[str]:
    """Names of the variables of version 4: five numbers, a name, the numbers of the matrix."""
    at = 0
    while at < length:
        file.seek(at)
        head = file.read(20)
        order = ">" if len(head) == 20 and int.from_bytes(head[:4], "little") > 5000 else "<"
        kind, rows, columns, several, letters = np.frombuffer(head.ljust(20, b"\0"), f"{order}i4").tolist()
        machine, rest = divmod(kind, 1000)
        number, form = divmod(rest, 10)
        if kind < 0 or machine not in {0, 1} or number >= len(OLD_NUMBERS) or form > 2 or several not in {0, 1}:
            raise ValueError(f"a variable of type {kind}")
        size = rows * columns * OLD_NUMBERS[number] * (1 + several)
        if min(rows, columns) < 0 or letters < 1 or at + 20 + letters + size > length:
            raise ValueError("a variable is cut off")
        yield file.read(letters).rstrip(b"\0").decode("latin1")
        at += 20 + letters + size
