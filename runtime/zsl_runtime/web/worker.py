"""One thread that works off what the page asks for, while the page goes on being answered."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from zsl_runtime.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    Given = ParamSpec("Given")
    Answer = TypeVar("Answer")


class Worker:
    """A thread with a queue of its own.

    Args:
        name: of the thread.
        most: calls that may wait or be at work.

    Attributes:
        waiting: how many do.

    """

    def __init__(self, name: str, most: int) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._most, self.waiting = most, 0

    async def do(self, call: Callable[Given, Answer], *args: Given.args, **more: Given.kwargs) -> Answer:
        """Let the thread make a call, after those before it.

        Raises:
            BackendError: E-PAGE-BUSY when too many wait already.

        """
        if self.waiting >= self._most:
            raise BackendError("E-PAGE-BUSY", f"{self.waiting} requests are waiting already; try again in a moment")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *args, **more))
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Let what is at work finish; what waits is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
