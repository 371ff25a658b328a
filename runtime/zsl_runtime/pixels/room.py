"""The memory that decoding may take: one bound for all threads of the process, reckoned from headers.

A file of a few hundred kilobytes can hold a picture of MAX_PIXELS, which takes hundreds of megabytes to decode, and
every thread that reads may meet one. So each picture takes its room before it is decoded, and waits for it behind those
that came before; most photographs take little, and never wait.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zsl_runtime.errors import InputError, UsageError, shown
from zsl_runtime.machine.memory import memory_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "ZSL_DECODE_MIB"
MIB = 1 << 20
LEAST = 1 << 30  # enough for one picture of MAX_PIXELS of any common kind
SHARE, MOST_SHARE = 32, 2  # of the memory: that part where it is more than LEAST; never more than half


class Room:
    """So many bytes, lent to threads in the order in which they ask.

    Args:
        size: in bytes.

    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken = 0
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until `size` bytes, at most all, are free and nobody who came before waits; they are taken then."""
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            try:
                self._changed.wait_for(lambda: self._line[0] is ticket and self._taken + size <= self.size)
                self._taken += size
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()

    def give_back(self, size: int) -> None:
        """Let others have it."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


class Place:
    """What one picture takes of a room.

    Args:
        room: shared by all pictures.

    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = 0

    def take(self, size: int, what: str) -> None:
        """Take `size` bytes in place of what was held before.

        Args:
            size: in bytes.
            what: takes them, for the message.

        Raises:
            InputError: E-IMAGE-HUGE when that is more than there ever is.

        """
        self.leave()
        if size > self._room.size:
            raise InputError(
                "E-IMAGE-HUGE",
                f"{what} takes {-(-size // MIB):,} MiB to decode, and {self._room.size // MIB:,} MiB are allowed "
                f"({VARIABLE}); make it smaller first, or allow more",
            )
        self._room.take(size)
        self._held = size

    def leave(self) -> None:
        """Give back what is held."""
        if self._held:
            self._room.give_back(self._held)
            self._held = 0


_room: Room | None = None
_making = threading.Lock()


@contextmanager
def place() -> Iterator[Place]:
    """For one picture, in the room of this process; what it takes is given back at the end."""
    one = Place(shared_room())
    try:
        yield one
    finally:
        one.leave()


def shared_room() -> Room:
    """The room of this process; UsageError E-DECODE-MEMORY for a setting that is none."""
    global _room  # noqa: PLW0603  # one for all threads is the point of it
    with _making:
        if _room is None:
            _room = Room(bound())
        return _room


def bound() -> int:
    """Bytes that all pictures that are being decoded may take together.

    What the environment says in MiB; else a 32nd of the memory, or 1 GiB where that is more, and no more than half of
    the memory.

    Raises:
        UsageError: E-DECODE-MEMORY.

    """
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        if not (given.isascii() and given.isdigit() and len(given) < 9 and int(given) > 0):
            raise UsageError(
                "E-DECODE-MEMORY", f"{VARIABLE} is {shown(given)}; give a whole number of MiB, at least 1, or unset it"
            )
        return int(given) * MIB
    memory = memory_bytes()
    return LEAST if memory is None else max(min(max(LEAST, memory // SHARE), memory // MOST_SHARE), MIB)


def _of_its_own() -> None:
    """A forked child has none of the threads that hold something, and the locks as they were."""
    global _room, _making
    _room, _making = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_of_its_own)
