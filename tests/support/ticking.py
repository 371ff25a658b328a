"""Whether other threads run while a call of ours does: the interpreter lock must not be held."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


ENOUGH = 3


def others_run_during(call: Callable[[], object], *, calls: int) -> bool:
    """Whether a thread that only counts came round well inside a call, ENOUGH times in all.

    Args:
        call: is made again until that is so.
        calls: at most; a busy machine may not let the other thread in during each.

    """
    ticks: list[float] = []
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0002)

    counter = threading.Thread(target=count)
    counter.start()
    inside = 0
    try:
        for _ in range(calls):
            begin = time.perf_counter()
            call()
            end = time.perf_counter()
            margin = 0.25 * (end - begin)
            inside += sum(begin + margin < tick < end - margin for tick in ticks)
            if inside >= ENOUGH:
                break
    finally:
        stop.set()
        counter.join()
    return inside >= ENOUGH
