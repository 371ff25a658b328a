"""Standard streams as a command needs them, whatever it was started with: closed, full, or a reader that went away.

Results go to stdout, and one that cannot be written is an error. What goes to stderr accompanies the work and never
stops it. A thing that is done stays done where only its report cannot be written: `reporting`.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

CLOSED = "stdout is closed"
# What is no letter to a terminal: control characters, separators of lines, and what turns the direction of a line.
UNPRINTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let stdout take text and bytes in UTF-8, and stderr take whatever comes; afterwards they are what they were.

    A handle 0, 1 or 2 that is closed becomes one of the null device for good: the next file to be opened would get its
    number, and with it what anybody prints.
    """
    fill_handles()
    hurried = unhurried()
    before = sys.stdout, sys.stderr
    ours = sys.stdout, sys.stderr = results_stream(before[0]), forgiving_stream(before[1])
    try:
        yield
        if _lost(sys.stdout):
            print(f"note: {CLOSED}: what was to be printed there is lost", file=sys.stderr)  # noqa: T201
    finally:
        for stream in ours:
            drop_unwritable(stream)
        if sys.stdout is ours[0]:
            sys.stdout = before[0]
        if sys.stderr is ours[1]:  # another command may run in another thread
            sys.stderr = before[1]
        for old in before:
            drop_unwritable(old)
        for number in hurried:
            with suppress(OSError):
                os.set_blocking(number, False)


def printable(text: str) -> str:
    r"""A text for people, in which names of files and of classes may stand that somebody else made up.

    It keeps its lines and its tabs; every other letter that would do something to a terminal, or make a line look like
    another one, stands as Python would write it (`\\x1b`).
    """
    return UNPRINTED.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """As `printable`, of a text that is a line by itself: what it holds cannot begin another one."""
    return printable(" ".join(text.split("\n")).replace("\t", " "))


def fill_handles() -> None:
    """Open the null device in place of those of the handles 0, 1 and 2 that are closed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            else:
                os.set_inheritable(number, True)


def unhurried() -> list[int]:
    """Let writing to the handles 1 and 2 wait for a slow reader; returns those that would have failed instead.

    A pipe may have been made so by whoever has its other end (POSIX's O_NONBLOCK belongs to both).
    """
    found = []
    for number in (1, 2):
        with suppress(OSError, AttributeError):  # of a handle, or of a system, that knows no such thing
            if not os.get_blocking(number):
                os.set_blocking(number, True)
                found.append(number)
    return found


def results_stream(stream: TextIO | None) -> TextIO:
    """What takes results in place of `stream`: it writes UTF-8 whatever the locale says, and has a `buffer`.

    Names of files that are not UTF-8 come out as the bytes they have on the disk.
    """
    if stream is None or getattr(stream, "closed", False):
        return _text(_Nowhere())
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
        return stream
    # Of a notebook, an editor, or a program that collects what is printed: it takes text alone.
    return stream if hasattr(stream, "buffer") else _text(_IntoText(stream))


def forgiving_stream(stream: TextIO | None) -> TextIO:
    """What takes messages in place of `stream`: what cannot be written is dropped."""
    if stream is None or getattr(stream, "closed", False):
        return _text(_Nowhere())
    try:
        stream.fileno()
        under = _Forgiving(stream)
    except (AttributeError, OSError, ValueError):  # it is in memory, and nothing is refused there
        return stream
    if isinstance(stream.buffer, _Forgiving):
        return stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return io.TextIOWrapper(cast("Any", under), encoding=encoding, errors="backslashreplace", line_buffering=True)


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Around the report on stdout of something that is done and stays done.

    Where the report cannot be written, `what` says on stderr that it is done, and the command goes on: its exit code
    tells what happened, and whoever repeats a command that failed must not do it twice.
    """
    try:
        yield
        sys.stdout.flush()
        problem = CLOSED if _lost(sys.stdout, forget=True) else ""
    except OSError as error:
        drop_unwritable(sys.stdout)
        problem = f"stdout: {error.strerror or error}"
    except KeyboardInterrupt:
        print(one_line(f"warning: {what}"), file=sys.stderr)  # noqa: T201
        raise
    if problem:
        told = one_line(f"warning: {what}; the report of it could not be printed ({problem})")
        print(told, file=sys.stderr)  # noqa: T201


def print_line(line: str) -> None:
    """Print a line of a report whose verdict is the exit code: it is found also where the reader has gone away."""
    try:
        print(printable(line), flush=True)  # noqa: T201
    except BrokenPipeError:
        drop_unwritable(sys.stdout)


def drop_unwritable(stream: TextIO | None) -> None:
    """Let go of what a stream cannot write: Python would try once more at its end, fail, and change the exit code."""
    if stream is None:
        return
    try:
        stream.flush()
    except ValueError:  # closed
        return
    except OSError:
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def _text(raw: io.RawIOBase) -> TextIO:
    return io.TextIOWrapper(cast("Any", raw), encoding="utf-8", errors="surrogateescape", line_buffering=True)


def goes_nowhere(stream: TextIO | None) -> bool:
    """Whether nobody can ever read what is printed to this stream of a command: it was closed from the start."""
    return isinstance(getattr(stream, "buffer", None), _Nowhere)


def _lost(stream: TextIO | None, *, forget: bool = False) -> bool:
    """Whether something was printed where nothing is."""
    under = getattr(stream, "buffer", None)
    if not isinstance(under, _Nowhere) or not under.lost:
        return False
    under.lost = not forget
    return True


class _Nowhere(io.RawIOBase):
    """Takes everything, and remembers whether that was anything."""

    lost = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.lost = self.lost or len(data) > 0
        return len(data)


class _IntoText(io.RawIOBase):
    """Bytes of UTF-8 for a stream of text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._stream.write(self._decoder.decode(bytes(data)))
        return len(data)

    def flush(self) -> None:
        if not self.closed:
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


class _Forgiving(io.RawIOBase):
    """Passes on what can be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream  # which would close what it writes to, if nobody held it
        self._under = stream.buffer

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        with suppress(OSError, ValueError):
            self._under.write(data)
            self._under.flush()
        return len(data)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()
