"""End a long run between two batches: the first Ctrl-C, SIGTERM or SIGHUP asks for it, the second one insists."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zsl_runtime.errors import Terminated
from zsl_runtime.signals import main_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Self

POLL = 0.1  # seconds between two looks at `requested` of whoever waits for something else


class Stop:
    """Whether a run was asked to end.

    A plain flag that threads look at: a lock could be held by the very thread that the signal interrupts.

    As a context it asks at the end of the block, however that ends.

    Attributes:
        requested: somebody asked, a signal or the program.

    """

    def __init__(self) -> None:
        self.requested = False
        self._signal: int | None = None

    def request(self, number: int | None = None) -> None:
        """Ask; `number` is the signal that asks, or None for the program itself."""
        self.requested = True
        self._signal = self._signal or number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.request()

    def check(self) -> None:
        """Raise what the signal would have raised, had nobody waited for the end of a batch.

        Raises:
            KeyboardInterrupt: after Ctrl-C; its subclass Terminated after SIGTERM or SIGHUP. Nothing without a signal.

        """
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise Terminated


@contextmanager
def stopping(stop: Stop) -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP inside the block only set `stop`; the next one does what it did outside.

    A signal that is ignored, or that nobody catches, stays so. In other threads than the main one nothing changes,
    since handlers can only be set there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
    before = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}

    def ask(number: int, _frame: FrameType | None) -> None:
        main_thread.is_echo(number)  # noted, so that the handlers below know one
        for other, handler in before.items():
            signal.signal(other, handler)
        stop.request(number)

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
