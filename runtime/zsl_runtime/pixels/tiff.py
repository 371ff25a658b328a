"""What a TIFF file says of its pictures: which one is the photograph, and how it is stored.

Cameras' raw files are TIFF inside, too, and their first picture is a preview; Pillow takes that for the file.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from zsl_runtime.errors import InputError
from zsl_runtime.pixels.kinds import RAW

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Tags: TypeAlias = "dict[int, tuple[int, ...]]"

KIND, OLD_KIND, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, COUNTS, LOWEST, HIGHEST, PLANES, SUB = (
    *(254, 255, 256, 257, 258, 259, 262, 277, 279, 280, 281, 284, 330),
)
FORMAT, SIGNED_LOWEST, SIGNED_HIGHEST, SUBSAMPLING, DNG = 339, 340, 341, 530, 50706
COLOURS, ROWS, TILE_WIDTH, TILE_HEIGHT = 320, 278, 322, 323
READ = (
    *(KIND, OLD_KIND, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, COUNTS, PLANES, SUB, FORMAT, SUBSAMPLING),
    DNG,
)
REDUCED, MASK = 1, 4  # bits of KIND
OLD_REDUCED = 2  # value of OLD_KIND
YCBCR = 6
RAW_PHOTOMETRIC = (32803, 34892)  # a colour filter's samples; linear raw
MUCH_LARGER = 4  # times the pixels of the first page: less may be another sheet on the scanner
LETTERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # whole numbers without a sign, by the type of a field
MOST_VALUES = 4096  # of a field
MOST_PAGES, MOST_SUB, MOST_ENTRIES = 256, 64, 4096  # that are looked at
CANON = b"CR"
UNREAD_MARK = b"MM\0+"  # BigTIFF with the highest byte first, which Pillow takes for something else
REMEDY = "save it with 8 bits a sample, or as PNG"


def directories(stream: BinaryIO) -> tuple[list[Tags], list[Tags]]:
    """The numbers of a file's directories: of its pages in order, and of pictures inside the first page.

    Args:
        stream: seekable; its position may be anywhere afterwards.

    Returns:
        Tags of READ by page, as far as they can be read; nothing for a file that is no TIFF.

    """
    try:
        return _directories(stream)
    except (OSError, ValueError, OverflowError, struct.error):  # a position that is none
        return [], []


def _directories(stream: BinaryIO) -> tuple[list[Tags], list[Tags]]:
    stream.seek(0)
    head = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) >= 8 else 0
    if order is None or version not in (42, 43):
        return [], []
    layout = _Layout(stream, order, big=version == 43)
    pages: list[Tags] = []
    seen: set[int] = set()
    link = layout.link(head)
    while link and link not in seen and len(pages) < MOST_PAGES:
        seen.add(link)
        tags, link = layout.directory(link)
        pages.append(tags)
    inner = pages[0].get(SUB, ())[:MOST_SUB] if pages else ()
    return pages, [layout.directory(place)[0] for place in inner]


class _Layout:
    """Where things stand in one file."""

    def __init__(self, stream: BinaryIO, order: str, *, big: bool) -> None:
        self._stream, self._order = stream, order
        self._word, self._count, self._entry = ("Q", "Q", 20) if big else ("I", "H", 12)
        self._inline = struct.calcsize(f"={self._word}")
        self._first = slice(8, 16) if big else slice(4, 8)

    def _unpack(self, letters: str, data: bytes) -> tuple[int, ...]:
        return struct.unpack(f"{self._order}{letters}", data)

    def link(self, head: bytes) -> int:
        """Where the first directory is."""
        return self._unpack(self._word, head[self._first])[0]

    def directory(self, place: int) -> tuple[Tags, int]:
        """What is said at a place, and where the next directory is: 0 for nowhere."""
        self._stream.seek(place)
        size = struct.calcsize(f"={self._count}")
        count = self._unpack(self._count, self._stream.read(size))[0]
        table = self._stream.read(min(count, MOST_ENTRIES) * self._entry)
        after = self._stream.read(self._inline)
        tags = {tag: values for tag, values in self._fields(table) if values}
        return tags, self._unpack(self._word, after)[0] if len(after) == self._inline and count <= MOST_ENTRIES else 0

    def _fields(self, table: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
        for at in range(0, len(table) - self._entry + 1, self._entry):
            tag, kind = self._unpack("HH", table[at : at + 4])
            if tag not in READ or kind not in LETTERS:
                continue
            value = at + 4 + self._inline
            count = self._unpack(self._word, table[at + 4 : value])[0]
            yield tag, self._values(LETTERS[kind], count, table[value : value + self._inline])

    def _values(self, letter: str, count: int, inline: bytes) -> tuple[int, ...]:
        count = min(count, MOST_VALUES)
        size = count * struct.calcsize(f"={letter}")
        if size > self._inline:
            self._stream.seek(self._unpack(self._word, inline)[0])
            inline = self._stream.read(size)
        return self._unpack(f"{count}{letter}", inline[:size]) if len(inline) >= size else ()


def check_first_page(stream: BinaryIO, name: str, *, raw: bool, mode: str) -> None:
    """Refuse a file whose first picture is not the photograph, or is one that Pillow misreads.

    Args:
        stream: of a file that Pillow takes for a TIFF; its position may be anywhere afterwards.
        name: for messages.
        raw: the file is called as raw files are.
        mode: what Pillow takes its first picture for.

    Raises:
        InputError: E-IMAGE-PREVIEW, E-IMAGE-KIND.

    """
    stream.seek(8)
    canon = stream.read(2) == CANON
    pages, inner = directories(stream)
    if not pages:
        return
    first, later, inner = pages[0], _photographs(pages[1:]), _photographs(inner)
    others = [*later, *inner]
    size, largest = _size(first), max(map(_size, others), key=_area, default=(0, 0))
    if raw or canon or any(first_number(page, PHOTOMETRIC) in RAW_PHOTOMETRIC for page in others):
        raise _raw(name, size)
    check_subfile(first, name, largest)
    nested = any(_area(_size(page)) > _area(size) for page in inner)
    if nested or _area(largest) >= MUCH_LARGER * _area(size):
        raise InputError(
            "E-IMAGE-PREVIEW",
            f"{name} has a first picture of {_told(size)} and a larger one, of {_told(largest)}, behind it: the first "
            "is a preview, by the looks of it; save the one you mean as a file of its own",
        )
    if reason := _misread(first, mode):
        raise InputError("E-IMAGE-KIND", f"{name} is a TIFF picture {reason}, which is not read; {REMEDY}")


def check_subfile(first: Mapping[int, object], name: str, larger: tuple[int, int] = (0, 0)) -> None:
    """Refuse a picture that is marked as a preview, also by standing in a DNG file, or as a mask.

    Args:
        first: its tags.
        name: for messages.
        larger: width and height of what it is a preview of, if that is known.

    Raises:
        InputError: E-IMAGE-PREVIEW.

    """
    marks, old, size = first_number(first, KIND), first_number(first, OLD_KIND), _size(first)
    if DNG in first:
        raise _raw(name, size)
    if marks & REDUCED or old == OLD_REDUCED:
        of = f" of one of {_told(larger)}" if _area(larger) > _area(size) else ""
        raise InputError(
            "E-IMAGE-PREVIEW",
            f"{name} begins with a picture of {_told(size)} that is marked as reduced, a preview{of}; the picture "
            "itself, such as a camera's raw one, is not read; export it as JPEG",
        )
    if marks & MASK:
        raise InputError(
            "E-IMAGE-PREVIEW",
            f"{name} begins with a picture that is marked as a transparency mask; save the photograph as "
            "a file of its own",
        )


def _raw(name: str, size: tuple[int, int]) -> InputError:
    return InputError(
        "E-IMAGE-PREVIEW",
        f"{name} is {RAW.one}: the raw picture in it is not read, and what could be, of {_told(size)}, is only a "
        f"preview; {RAW.remedy}",
    )


def _photographs(pages: list[Tags]) -> list[Tags]:
    """Pages that are no masks."""
    return [page for page in pages if not first_number(page, KIND) & MASK]


def unread_layout(stream: BinaryIO) -> str | None:
    """In words what is special about a whole TIFF that Pillow does not take; None where nothing can be read."""
    pages, inner = directories(stream)
    if not pages or WIDTH not in pages[0] or HEIGHT not in pages[0]:
        return None
    first = pages[0]
    if DNG in first or any(first_number(page, PHOTOMETRIC) in RAW_PHOTOMETRIC for page in (*pages, *inner)):
        return RAW.one
    bits = "+".join(map(str, first.get(BITS, (1,))))
    return (
        f"a TIFF picture with {bits} bits a sample, photometric {first_number(first, PHOTOMETRIC)}, sample format "
        f"{first_number(first, FORMAT, 1)} and compression {first_number(first, COMPRESSION, 1)}"
    )


def _misread(first: Tags, mode: str) -> str | None:
    """What is special about a picture that Pillow opens and decodes to something else than is in it."""
    bits = max(first.get(BITS, (1,)))
    if first_number(first, FORMAT, 1) == 2 and bits <= 8:
        return "with samples below zero"
    if first_number(first, COMPRESSION, 1) != 1:
        return None  # libtiff decodes it
    if first_number(first, PLANES, 1) == 2 and bits > 8:
        return "of more than 8 bits a sample in planes"
    if first_number(first, PHOTOMETRIC) != YCBCR:
        return None
    whole = _area(_size(first)) * 3
    subsampled = first.get(SUBSAMPLING, (2, 2)) != (1, 1) and sum(first.get(COUNTS, (whole,))) < whole
    return "in subsampled YCbCr" if subsampled else "in YCbCr" if mode == "RGB" else None  # so before Pillow 12


def first_number(tags: Mapping[int, object], tag: int, default: int = 0) -> int:
    """A tag's first value, where that is a whole number."""
    value = tags.get(tag, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default


def _size(tags: Mapping[int, object]) -> tuple[int, int]:
    return first_number(tags, WIDTH), first_number(tags, HEIGHT)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _told(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"
