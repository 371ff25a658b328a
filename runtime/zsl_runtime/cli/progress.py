"""How far a long job is: lines on stderr, and a bar on a terminal."""

from __future__ import annotations

import time
from typing import IO

BAR_INTERVAL = 0.1  # seconds between two drawings of the progress bar
BAR_WIDTH = 24


class Progress:
    """Lines on stderr and, when that is a terminal, a bar with a rate below them.

    Args:
        total: items to come; None when nobody knows, which gives a count in place of the bar.
        unit: what they are called, in the plural.
        stream: where to draw.
        done: items of an earlier run that are counted in `total`; the rate leaves them out.

    Attributes:
        before: that number.

    """

    def __init__(self, total: int | None, unit: str, stream: IO[str], done: int = 0) -> None:
        self._total = total
        self._unit = unit
        self._stream = stream
        self._draws = stream.isatty()
        self.before = done
        self._done = done
        self._begin = time.monotonic()
        self._drawn = 0.0

    @property
    def done(self) -> int:
        """Items so far, those of an earlier run included."""
        return self._done

    @property
    def rate(self) -> float:
        """Items per second so far."""
        return (self._done - self.before) / max(time.monotonic() - self._begin, 1e-9)

    def advance(self, count: int) -> None:
        """Count `count` more items, and draw if it is time."""
        self._done += count
        now = time.monotonic()
        if self._draws and (now - self._drawn >= BAR_INTERVAL or self._done == self._total):
            self._drawn = now
            self._stream.write(f"\r\x1b[K{self._text()}")
            self._stream.flush()

    def _text(self) -> str:
        rate = f"{self.rate:.1f} {self._unit}/s"
        if self._total is None:
            return f"{self._done} {self._unit}, {rate}"
        filled = min(BAR_WIDTH * self._done // max(self._total, 1), BAR_WIDTH)
        left = max(self._total - self._done, 0) / max(self.rate, 1e-9)
        bar = "#" * filled + "-" * (BAR_WIDTH - filled)
        return f"[{bar}] {self._done}/{self._total} {rate}, {_clock(left)} left"

    def line(self, text: str) -> None:
        """Print one line above the bar."""
        self.clear()
        self._stream.write(f"{text}\n")
        self._stream.flush()
        self._drawn = 0.0

    def clear(self) -> None:
        """Take the bar away."""
        if self._draws:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
