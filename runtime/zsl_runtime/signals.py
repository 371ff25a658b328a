"""The second Ctrl-C or SIGTERM ends a command at once, whatever it is at.

The first one lets everything clean up: a batch in the engine is waited for, threads are joined. Python looks at signals
between two of its own instructions and in the main thread only, so a command whose main thread is inside a library, or
waits for a thread that is, would not even learn of the second. The system's own handler writes each signal into a pipe
as it comes, and a thread that does nothing else reads it.

Nothing is lost by ending so: whatever we write is whole or can be gone on with after a kill.

From outside one request often comes twice in a moment: `timeout` signals its command and then the group that it is in,
a shell passes on what a closing terminal has sent already. SIGTERM or SIGHUP right after one is its echo, no second.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

WORDS = {
    number: (code, word)  # one code for both ways to be asked from outside, as for the first signal
    for name, code, word in (
        ("SIGINT", 130, "interrupted"),
        ("SIGTERM", 143, "terminated"),
        ("SIGHUP", 143, "terminated"),
    )
    if (number := getattr(signal, name, None)) is not None
}
SHOW_CURSOR = b"\x1b[?25h"  # a progress bar may have hidden it
ECHO = 0.1  # seconds in which what comes from outside is one request
HEARD, LONGEST = 0.02, 10.0  # seconds until the thread has heard of a signal, and that it takes to end the process
_first: list[int] = []  # what came first, and then the others
_watching, _asked, _ending = threading.Event(), threading.Event(), threading.Event()
KEEPS = b"multiprocessing.resource_tracker"  # this child of Python's tidies up when its parent is gone


def end_at_the_second() -> None:
    """Begin to watch, for the rest of the process: for commands, not for programs that call us."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(os, "set_blocking"):
        return
    try:
        ends = os.pipe()
    except OSError:  # too many open files: then a second signal is what Python makes of it
        return
    reader, writer = ends
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if before != -1 or not _started(reader):  # somebody else watches, or the system allows no more threads
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
        return
    _watching.set()
    if hasattr(os, "register_at_fork"):  # a child's signals are none of ours
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def _started(reader: int) -> bool:
    """Begin to read in a thread; whether that could be."""
    try:
        threading.Thread(target=_watch, args=(reader,), name="zsl-signals", daemon=True).start()
    except (RuntimeError, MemoryError):
        return False
    return True


class Outside:
    """When SIGTERM or SIGHUP came, for one thread that is told of signals."""

    def __init__(self) -> None:
        self._last: float | None = None

    def is_echo(self, number: int) -> bool:
        """Note a signal; whether it only repeats the one before."""
        now = time.monotonic()
        if number == signal.SIGINT:  # somebody's keys: two are meant
            return False
        if self._last is not None and now - self._last < ECHO:
            return True
        self._last = now
        return False

    def is_told(self, number: int) -> bool:
        """Note a signal; whether a handler of the main thread need not act on it.

        It runs when Python comes to it, so the time tells little there. While the thread watches, one is enough: what
        is no echo ends the process without it.
        """
        before = self._last is not None
        return self.is_echo(number) or (before and number != signal.SIGINT and _watching.is_set())

    def forget(self) -> None:
        """Begin anew: another command."""
        self._last = None


main_thread = Outside()


def settle() -> None:
    """Let the thread have the last word where a second signal has come: at the end of a command that was interrupted.

    Else the main thread, which hears of it too, could end the process before its children have ended. From now on it
    hears of no further one itself: one in the middle of this would end it in a traceback.
    """
    if _watching.is_set():
        _hear_no_more()
        _asked.wait(10 * HEARD)
        time.sleep(HEARD)
        if _ending.is_set():
            time.sleep(LONGEST)  # it ends the process meanwhile


def _hear_no_more() -> None:
    """Signals go to the thread alone: they need a handler of Python's for that, and this one does nothing."""
    left = list(WORDS) if threading.current_thread() is threading.main_thread() else []
    while left:
        try:
            if signal.getsignal(left[-1]) is not signal.SIG_IGN:
                signal.signal(left[-1], lambda *_: None)
            left.pop()
        except KeyboardInterrupt:  # the second one, just now; whatever ends commands is one
            continue


def was_asked() -> bool:
    """Whether a first signal has come: then handlers stay as they are, for Python's own end may hang as well."""
    return _asked.is_set()


def what_was_asked() -> tuple[int, str] | None:
    """Exit code and word of the first signal, for an error that may be what a library made of it; None without one."""
    return WORDS[_first[0]] if _watching.is_set() and _asked.wait(HEARD) and _first else None


def _watch(reader: int) -> None:
    asked, outside = 0, Outside()
    while number := os.read(reader, 1):
        if number[0] not in WORDS or outside.is_echo(number[0]):
            continue
        asked += 1
        _first.append(number[0])
        _asked.set()
        if asked == 2:
            _ending.set()
            _end(number[0])


def _end(number: int) -> None:
    """End the process and what it started."""
    code, word = WORDS[number]
    for child in _descendants(os.getpid()):
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:  # a reader that has stopped must not hold this up
            os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + f"{word}\n".encode())
    os._exit(code)


def _descendants(process: int) -> list[int]:
    """Children of a process, their children and so on, as far as this system has a /proc that tells."""
    children: dict[int, list[int]] = {}
    for one in os.listdir("/proc") if Path("/proc/self/stat").exists() else ():  # noqa: PTH208  # names only
        with suppress(OSError, ValueError, IndexError):  # it has just ended
            if one.isdigit():  # the parent is the second word behind the name, which may hold brackets and spaces
                parent = int(Path(f"/proc/{one}/stat").read_bytes().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(one))
    found, at = [], [process]
    while at:
        below = children.pop(at.pop(), [])
        found += below
        at += below
    return [one for one in found if not _keeps(one)]


def _keeps(process: int) -> bool:
    try:
        return KEEPS in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
