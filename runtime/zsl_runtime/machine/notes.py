"""What a user should know once, and what stops nothing."""

from __future__ import annotations

import sys
from contextlib import suppress

from zsl_runtime.streams import one_line

_told: set[str] = set()


def note_once(about: str, text: str) -> None:
    """Print a note to stderr, where nothing was said in this process `about` the same."""
    if about in _told:
        return
    _told.add(about)
    if sys.stderr is not None:  # `print` would take stdout instead, which is for results
        with suppress(OSError, ValueError):
            print(one_line(f"note: {text}"), file=sys.stderr, flush=True)  # noqa: T201


def forget_notes() -> None:
    """Tell everything anew; for tests."""
    _told.clear()
