"""Independent trainings side by side, one CPU each: a small network gains little from a second thread.

Threads rather than processes: torch lets go of the interpreter inside its products, and the feature store and the
modules need not be copied.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    T = TypeVar("T")


class Stopped(Exception):  # noqa: N818  # no error: another job failed, or the user wants to stop
    """Raised inside a job that should end."""


def side_by_side(jobs: Sequence[Callable[[Callable[[], None]], T]]) -> list[T]:
    """Run the jobs, as many at a time as torch has threads, and return what they return, in their order.

    Args:
        jobs: each is given a function to call once in a while, which raises `Stopped` when the job should end.

    Raises:
        Exception: what the first job that failed raised; the others are stopped first. KeyboardInterrupt likewise.

    """
    threads = torch.get_num_threads()
    workers = min(threads, len(jobs))
    if workers <= 1:
        return [job(lambda: None) for job in jobs]
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    # A thread takes the number that is set when it first computes: its share is set before it is started.
    with torch_threads(max(1, threads // workers)), ThreadPoolExecutor(workers, "training") as pool:
        futures = [pool.submit(job, check) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    failed = [error for future in futures if not future.cancelled() and (error := future.exception()) is not None]
    for error in failed:
        if not isinstance(error, Stopped):
            raise error
    return [future.result() for future in futures]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads; afterwards as many as before, for a program that calls us goes on."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
