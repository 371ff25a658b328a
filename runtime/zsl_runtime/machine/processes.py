"""What belongs to the process that made it: a loaded model cannot be sent to another one, nor used by a forked child.

A fork copies memory and no threads. Whoever lets go of a loaded graph in the child waits for threads that are not
there, for ever, also at the end of the child.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import TYPE_CHECKING, NoReturn, SupportsIndex

from zsl_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

WHAT_TO_DO = "open the bundle in each process instead, such as in the initializer of a pool: Classifier.open(path)"
_kept: weakref.WeakSet[OfThisProcess] = weakref.WeakSet()


class OfThisProcess:
    """Is neither copied nor pickled, and is never destroyed in a forked child. Call `super().__init__()`."""

    def __init__(self) -> None:
        self._home = os.getpid()
        _kept.add(self)

    @property
    def is_at_home(self) -> bool:
        """Whether this is the process that made it, and not a forked child of that."""
        return self._home == os.getpid()

    def check_at_home(self) -> None:
        """UsageError E-PROCESS in a forked child."""
        if not self.is_at_home:
            raise UsageError(
                "E-PROCESS",
                f"process {self._home} loaded this model, and process {os.getpid()} was forked from it without the "
                f"threads that run it; {WHAT_TO_DO}",
            )

    def __reduce_ex__(self, _protocol: SupportsIndex) -> NoReturn:
        """Refuse `pickle`, `copy` and whatever sends objects to other processes."""
        raise UsageError(
            "E-PROCESS",
            f"a {type(self).__name__} holds a loaded model and cannot be copied or sent to another process; "
            f"{WHAT_TO_DO}",
        )


def only_here(action: Callable[[], None]) -> Callable[[], None]:
    """The same, for what is called at the end of the process: a forked child has such an end, too, and does nothing."""
    home = os.getpid()

    def act() -> None:
        if os.getpid() == home:
            action()

    return act


def _keep_in_the_child() -> None:
    for one in _kept:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_in_the_child)
