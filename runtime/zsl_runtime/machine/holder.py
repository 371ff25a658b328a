"""A lock for file systems that have none: a file that only one can create, which says who holds it.

Whoever creates `PATH.holder` has the lock; creating a file that must not exist is one step on every file system,
network shares included. A process that dies leaves its file behind, so the file says whose it is, and its holder
touches it every BEAT seconds. It counts as left behind

- where it was made on this machine: as soon as that process is gone;
- elsewhere: after PATIENCE seconds without a touch, by the file system's own clock; and, since that can be set, none
  while it is watched for LOOK seconds.

What was left behind is moved aside, which one of several can do, and looked at once more: should it be another one by
now, of somebody who lives, it gets its name back. A file beside the name keeps others out just as well.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import secrets
import stat
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsl_runtime.machine.untrusted import parse_object, read_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

SUFFIX = ".holder"
BEAT, PATIENCE = 10.0, 120.0  # seconds
LOOK = 1.5 * BEAT  # for so long is watched what looks left behind
MOST_OF_CLAIM = 4096  # bytes of a holder's file
DEAD = {"Z", "X", "x"}  # states of processes that have ended and are still listed

_held: set[str] = set()  # tokens of the locks that this process holds
_watched: dict[tuple[int, int, int], float] = {}  # a holder's file and its last touch -> since when seen (monotonic)


@dataclass(frozen=True)
class Claim:
    """What a holder's file says.

    Attributes:
        host: name of the holder's machine.
        space: which kernel, and which of its lists of processes: containers of one machine have several.
        pid: of the process.
        started: when that process was started, in the kernel's ticks; '' where that cannot be read.
        token: of this one lock.

    """

    host: str
    space: str
    pid: int
    started: str
    token: str

    @classmethod
    def own(cls) -> Self:
        """A new one of this process, from now on counted as held."""
        claim = cls(platform.node(), _space(), os.getpid(), _process(os.getpid())[1], secrets.token_hex(8))
        _held.add(claim.token)
        return claim

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def lives(self) -> bool | None:
        """Whether its process runs; None where that cannot be known: it is of another machine or container."""
        if (self.host, self.space) != (platform.node(), _space()):
            return None
        if self.pid == os.getpid() and self.token not in _held:
            return False  # one of ours that lost its file, or of an earlier process of this number
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:
            pass  # it is another user's
        state, started = _process(self.pid)
        return state not in DEAD and started == self.started


class Holder:
    """A lock that is held.

    Args:
        target: the holder's file, just created.
        claim: what it says.

    """

    def __init__(self, target: Path, claim: Claim) -> None:
        self._target = target
        self._claim = claim
        self._handle = os.open(target, os.O_RDWR | os.O_NOFOLLOW)  # the file is ours whatever its name is by and by
        self._done = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="zsl-lock", daemon=True)
        self._beats.start()

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            try:
                os.utime(self._handle)
            except OSError:
                with contextlib.suppress(OSError):
                    os.pwrite(self._handle, _bytes(self._claim), 0)

    def release(self) -> None:
        """Let go; what another one holds by now stays."""
        self._done.set()
        self._beats.join()
        # The folder may have another name by now, as that of a bundle that has come into being; and a file that was
        # moved aside and got its name back is, for the system, one that was deleted aside.
        places = [self._target]
        with contextlib.suppress(OSError):
            places.append(self._target.parent / Path(f"/proc/self/fd/{self._handle}").readlink())
        os.close(self._handle)
        with contextlib.suppress(OSError):
            for place in dict.fromkeys(places):
                for path in (place, *_moved(place)):
                    if _is(path, self._claim):
                        _drop(path, place, lambda moved: _is(moved, self._claim))
        _held.discard(self._claim.token)


def try_to_hold(path: Path) -> Holder | None:
    """The lock on `path`, or None while somebody else holds it; what was left behind is removed.

    Raises:
        OSError: the file system refuses.

    """
    target = path.with_name(f"{path.name}{SUFFIX}")
    for found in (target, *_moved(target)):
        if os.path.lexists(found) and not (_left_behind(found) and _drop(found, target, _left_behind)):
            return None
    claim = Claim.own()
    try:
        with target.open("xb") as file:  # closed before anybody trusts it: a share sends it to its server then
            file.write(_bytes(claim))
        held = Holder(target, claim)
    except BaseException as error:
        _held.discard(claim.token)
        if isinstance(error, FileExistsError):
            return None
        raise
    # Somebody who took a living one for one that was left behind may be about to put it back.
    if any(not _is(one, claim) and not _left_behind(one) for one in _moved(target)):
        held.release()
        return None
    return held


def is_held(path: Path) -> bool:
    """Whether somebody who lives has the lock on `path` by a holder's file; for whoever has the other kind of lock."""
    target = path.with_name(f"{path.name}{SUFFIX}")
    return os.path.lexists(target) and not _left_behind(target)


def read_claim(path: Path) -> Claim | None:
    """What a holder's file says; None where it is not there, or says nothing yet."""
    try:
        said = parse_object(read_file(path, MOST_OF_CLAIM))
        return Claim(str(said["host"]), str(said["space"]), int(said["pid"]), str(said["started"]), str(said["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _bytes(claim: Claim) -> bytes:
    return (json.dumps(asdict(claim)) + "\n").encode()


def _is(path: Path, claim: Claim) -> bool:
    found = read_claim(path)
    return found is not None and found.token == claim.token


def _moved(target: Path) -> list[Path]:
    """Holders' files that somebody has moved aside to look at them."""
    return sorted(target.parent.glob(f"{glob.escape(target.name)}-????????"))


def _drop(path: Path, target: Path, unwanted: Callable[[Path], bool]) -> bool:
    """Remove a holder's file if it is `unwanted` still when nobody else can touch it; whether it is gone."""
    aside = target.with_name(f"{target.name}-{secrets.token_hex(4)}")
    try:
        path.rename(aside)
    except FileNotFoundError:  # somebody else was quicker
        return True
    if unwanted(aside):
        aside.unlink(missing_ok=True)
        return True
    with contextlib.suppress(OSError):  # the name is taken, or there are no links: beside the name it does as well
        os.link(aside, target)
        aside.unlink(missing_ok=True)
    return False


def _left_behind(path: Path) -> bool:
    """Whether nobody holds the lock any more that a file stands for; no plain file, or one too large, is nobody's."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_OF_CLAIM:
            return True
    except OSError:
        return False
    claim = read_claim(path)
    lives = None if claim is None else claim.lives()
    return _untouched(path) if lives is None else not lives


def _untouched(path: Path) -> bool:
    """Whether a file was not changed for PATIENCE seconds, by the clock of the file system that it is on.

    Or by ours, while it was looked at: it may have come with a time of the far future. A clock can be set, and a file
    that was touched a moment ago is an hour old then: whatever looks old is watched for longer than a beat.
    """
    while True:
        old, quiet = _age(path)
        if quiet > (LOOK if old else PATIENCE):
            return True
        if not old:
            return False
        time.sleep(min(BEAT / 10, LOOK))


def _age(path: Path) -> tuple[bool, float]:
    """Whether a file is older than PATIENCE by its file system's clock; for how long we have seen it untouched."""
    probe = path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")
    try:
        probe.open("xb").close()
        status = path.lstat()
        now, facts = time.monotonic(), (status.st_dev, status.st_ino, status.st_mtime_ns)
        since = _watched.setdefault(facts, now)
        return probe.stat().st_mtime - status.st_mtime > PATIENCE, now - since
    except FileNotFoundError:
        return False, 0.0
    finally:
        probe.unlink(missing_ok=True)


def _space() -> str:
    """Which kernel, since when, and which of its lists of processes; '' where that cannot be read."""
    found = []
    with contextlib.suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(found)


def _process(pid: int) -> tuple[str, str]:
    """State of a process, and when it was started in ticks since the machine was; '' for what cannot be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        words = text.rpartition(")")[2].split()  # behind the name, which may hold blanks and brackets
        return words[0], words[19]
    except (OSError, IndexError):
        return "", ""
