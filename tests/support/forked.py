"""Run something in a child process that is another user, may write little, or is killed at its n-th disk operation."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zsl_runtime.errors import ZslError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534
# The child is forked from a process in which libraries may have started threads; it only does what is given and exits.
allow_fork = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
DISK_CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir")


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        code: exit code, negative the number of the signal that ended it.
        stdout: what it printed.
        stderr: the same.

    """

    code: int
    stdout: str
    stderr: str


def forked(
    action: Callable[[], int | None],
    *,
    uid: int | None = None,
    file_limit: int | None = None,
    kill_at: int | None = None,
) -> Outcome:
    """Run `action` in a forked child.

    Args:
        action: returns the exit code; None is 0, an exception prints and is 99.
        uid: become this user first.
        file_limit: bytes no file may grow beyond (RLIMIT_FSIZE): what a full disk does, without a disk.
        kill_at: end with SIGKILL instead of the n-th call of `DISK_CALLS`, counted from 0.

    """
    ends = [os.pipe(), os.pipe()]
    child = os.fork()
    if child == 0:
        _become(action, ends[0][1], ends[1][1], uid, file_limit, kill_at)
    texts = []
    for read, write in ends:
        os.close(write)
        with open(read, encoding="utf-8") as pipe:
            texts.append(pipe.read())
    _, status = os.waitpid(child, 0)
    return Outcome(os.waitstatus_to_exitcode(status), *texts)


def _become(action, out: int, err: int, uid, file_limit, kill_at) -> None:
    code = 99
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        # pytest replaced both by its own; what follows prints to the pipes. They live as long as the child.
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        if uid is not None:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        if kill_at is not None:
            _arm(kill_at)
        code = action() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _arm(kill_at: int) -> None:
    left = [kill_at]
    for name in DISK_CALLS:
        real = getattr(os, name)

        def counted(*args, _real=real, **kwargs):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return _real(*args, **kwargs)

        setattr(os, name, counted)


def killed_at_every_step(action: Callable[[], int | None]) -> Iterator[int]:
    """Run `action` again and again, killed one disk operation later each time, until it gets through.

    Yields after every child that was killed, and at last after the one that was not: the number of the operation.
    """
    for step in range(500):
        outcome = forked(action, kill_at=step)
        assert outcome.code in {0, -signal.SIGKILL}, outcome.stderr
        yield step
        if outcome.code == 0:
            return
    raise AssertionError("the action never got through")


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A temporary folder that other users can reach; pytest's own is closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def become_nobody() -> dict[str, int]:
    """Arguments for `forked` with which permission bits bind: root is not bound by them, others need not change."""
    return {"uid": NOBODY} if os.geteuid() == 0 else {}


def told(action: Callable[[], object]) -> int:
    """Do it; an error of ours is printed, and its exit code returned."""
    try:
        action()
    except ZslError as error:
        os.write(2, f"{error}\n".encode())
        return error.exit_code
    return 0
