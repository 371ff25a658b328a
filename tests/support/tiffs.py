"""TIFF files built tag by tag with struct, so that what a file says is known without any library's help."""

from __future__ import annotations

import struct

BYTE, SHORT, LONG, UNDEFINED, SLONG, LONG8 = 1, 3, 4, 7, 9, 16
LETTERS = {BYTE: "B", SHORT: "H", LONG: "I", UNDEFINED: "B", SLONG: "i", LONG8: "Q"}
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
OFFSETS, SAMPLES, ROWS, COUNTS, SUB = 273, 277, 278, 279, 330


def page(samples: bytes, width: int, height: int, bits: int | tuple[int, ...] = 8, **tags) -> dict:
    """One uncompressed picture in one strip; `tags` by number, as `t254=1`, or `t254=(LONG, 1)` with a type."""
    depths = bits if isinstance(bits, tuple) else (bits,)
    entries: dict = {
        WIDTH: width,
        HEIGHT: height,
        BITS: depths,
        COMPRESSION: 1,
        PHOTOMETRIC: 2 if len(depths) >= 3 else 1,
        SAMPLES: len(depths),
        ROWS: height,
        COUNTS: len(samples),
        **{int(name[1:]): value for name, value in tags.items()},
    }
    return {"samples": samples, **{tag: value for tag, value in entries.items() if value is not None}}


def tiff(pages: list[dict], order: str = "<", *, big: bool = False, magic: bytes = b"") -> bytes:
    """The file: pages in a chain; a page's SUB is a list of pages.

    `magic` goes behind the header, where Canon says CR.
    """
    writer = _Writer(order, big=big)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HH", 8, 0) if big else b""
    start = len(head) + (8 if big else 4)
    writer.data = bytearray(head + bytes(8 if big else 4) + magic + bytes(-(start + len(magic)) % 8))
    where = start - (8 if big else 4)
    for one in pages:
        where = writer.directory(one, where)
    return bytes(writer.data)


class _Writer:
    def __init__(self, order: str, *, big: bool) -> None:
        self.order, self.big = order, big
        self.data = bytearray()

    def _pack(self, letters: str, *values: int) -> bytes:
        return struct.pack(self.order + letters, *values)

    def _append(self, data: bytes) -> int:
        self.data += bytes(-len(self.data) % 8)
        self.data += data
        return len(self.data) - len(data)

    def directory(self, page: dict, link: int) -> int:
        """Write one directory and point the link at it; where the link to the next one is."""
        tags = dict(page)
        samples = tags.pop("samples", b"")
        if samples and OFFSETS not in tags and 324 not in tags:
            tags[OFFSETS] = self._append(samples)
        if SUB in tags:
            subs, tags[SUB] = tags[SUB], (LONG, [0] * len(tags[SUB]))
        word, count, inline = ("Q", "Q", 8) if self.big else ("I", "H", 4)
        entries = b""
        places = {}
        for tag, given in sorted(tags.items()):
            kind, values = _typed(tag, given)
            body = b"".join(self._pack(LETTERS[kind], value) for value in values)
            if len(body) > inline:
                places[tag] = self._append(body)
                body = self._pack(word, places[tag])
            entries += self._pack("HH" + word, tag, kind, len(values)) + body.ljust(inline, b"\0")
        at = self._append(self._pack(count, len(tags)) + entries + self._pack(word, 0))
        self.data[link : link + inline] = self._pack(word, at)
        if SUB in tags:
            entry = at + (8 if self.big else 2) + sorted(tags).index(SUB) * (20 if self.big else 12)
            first = places.get(SUB, entry + (12 if self.big else 8))
            for number, sub in enumerate(subs):
                where = len(self.data)
                self.data += bytes(8)  # a link of its own, copied to its place
                self.directory(sub, where)
                self.data[first + 4 * number : first + 4 * number + 4] = self.data[where : where + 4]
        return at + len(self._pack(count, 0)) + len(entries)


def _typed(tag: int, given) -> tuple[int, list[int]]:
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], (list, bytes)):
        return given[0], list(given[1])
    if isinstance(given, bytes):
        return UNDEFINED, list(given)
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    small = max(values) < 65536 and min(values) >= 0 and tag not in (OFFSETS, COUNTS, SUB)
    return (SHORT if small else LONG), values
