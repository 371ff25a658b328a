"""How much memory a call takes."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def peak_of(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call gives, and the bytes that Python and NumPy held at most while it ran, beyond those before."""
    tracemalloc.start()
    try:
        found = call()
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
