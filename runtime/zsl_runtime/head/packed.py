"""Rows of a table, each held as one text: cells by themselves take seven times as many bytes as they have letters."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Row = tuple[int, list[str]]  # line number, cells

JOINER = "\x1f"  # between the cells of a row; the rare row that has one in it is held as its cells


class PackedRows(Sequence[Row]):
    """Rows that are unpacked when they are asked for."""

    def __init__(self) -> None:
        self._lines = array("q")
        self._widths = array("q")
        self._held: list[bytes | list[str]] = []

    def append(self, line: int, cells: list[str]) -> None:
        """Add a row of at least one cell behind the others."""
        text = JOINER.join(cells)
        fits = text.count(JOINER) == len(cells) - 1
        self._add(line, len(cells), text.encode("utf-8", "surrogatepass") if fits else cells)

    def widths(self) -> set[int]:
        """The numbers of cells that rows have."""
        return set(self._widths)

    def where(self, keep: Callable[[Row], bool]) -> PackedRows:
        """The rows that are kept; their cells are not copied."""
        found = PackedRows()
        for k, row in enumerate(self):
            if keep(row):
                found._add(self._lines[k], self._widths[k], self._held[k])
        return found

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, range(len(self._held)))

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> PackedRows: ...

    def __getitem__(self, index: int | slice) -> Row | PackedRows:
        """A row, or rows, whose cells are not copied."""
        if not isinstance(index, slice):
            return self._row(index)
        found = PackedRows()
        found._lines, found._widths, found._held = self._lines[index], self._widths[index], self._held[index]
        return found

    def _add(self, line: int, width: int, held: bytes | list[str]) -> None:
        self._lines.append(line)
        self._widths.append(width)
        self._held.append(held)

    def _row(self, index: int) -> Row:
        held = self._held[index]
        cells = held.decode("utf-8", "surrogatepass").split(JOINER) if isinstance(held, bytes) else list(held)
        return self._lines[index], cells


def select(rows: Sequence[Row], keep: Callable[[Row], bool]) -> Sequence[Row]:
    """Those of the rows that are kept, packed where these are."""
    return rows.where(keep) if isinstance(rows, PackedRows) else list(filter(keep, rows))
