"""The lock of file systems without locks: one at a time, whoever dies, however they are moved about."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from support.lone import IMPORTS
from support.poor_system import without_flock
from zsl_runtime.machine import holder
from zsl_runtime.machine.holder import PATIENCE, try_to_hold
from zsl_runtime.machine.notes import forget_notes
from zsl_runtime.machine.storage import hold

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = """
import sys, time
from pathlib import Path
from zsl_runtime.machine.storage import hold
file = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with hold(file.with_name(".lock"), waiting=""):
        number = int(file.read_text())
        time.sleep(0.002)
        file.write_text(str(number + 1))
"""
HOLDS = """
import sys, time
from pathlib import Path
from zsl_runtime.machine.storage import hold
with hold(Path(sys.argv[1]), waiting=""):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def no_flock(monkeypatch):
    def refused(*_arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    forget_notes()
    monkeypatch.setattr(fcntl, "flock", refused)


def started(program: str, *words: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", without_flock("ENOLCK") + program, *map(str, words)]
    return subprocess.Popen(
        line, env={"PYTHONPATH": IMPORTS}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_free(path: Path) -> bool:
    try:
        with hold(path, waiting=None):
            return True
    except BlockingIOError:
        return False


def claim_of_another_machine(path: Path, *, silent_for: float) -> Path:
    """A holder's file of a machine that we know nothing of, last touched so many seconds ago."""
    target = path.with_name(".lock.holder")
    said = {"host": "elsewhere", "space": "", "pid": os.getpid(), "started": "1", "token": "0123456789abcdef"}
    target.write_text(json.dumps(said))
    then = time.time() - silent_for
    os.utime(target, (then, then))
    return target


def test_processes_and_threads_take_turns(tmp_path, no_flock):
    """Each reads a number and writes the next one: whoever is not alone loses one of another's."""
    count = tmp_path / "count"
    count.write_text("0")
    others = [started(COUNTS, count, 40) for _ in range(3)]

    def add() -> None:
        for _ in range(20):
            with hold(tmp_path / ".lock", waiting="", say=lambda _: None):
                number = int(count.read_text())
                time.sleep(0.002)
                count.write_text(str(number + 1))

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = [process.communicate(timeout=120)[1] for process in others]
    assert [process.returncode for process in others] == [0, 0, 0], ended
    assert count.read_text() == "160"
    assert files(tmp_path) == [".lock", "count"]


def test_a_killed_holder_locks_nobody_out(tmp_path, no_flock):
    """Also while it is a zombie, which its parent has not asked about: containers often have such parents."""
    lock = tmp_path / ".lock"
    process = started(HOLDS, lock)
    assert process.stdout.readline() == "held\n"
    assert not is_free(lock)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_free(lock)
    process.communicate()
    assert files(tmp_path) == [".lock"]


def test_whoever_waits_says_so_once_and_gets_it_when_it_is_free(tmp_path, no_flock, capfd):
    lock, said = tmp_path / ".lock", []
    first = try_to_hold(lock)
    timer = threading.Timer(0.3, first.release)
    timer.start()
    with hold(lock, waiting="somebody is there", say=said.append):
        assert timer.finished.is_set()
    assert said == ["somebody is there"]
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(
        f"note: the file system of {tmp_path} has no locks (No locks available); a file in it, .lock."
    )


def test_the_holder_of_another_machine_counts_while_it_gives_signs_of_life(tmp_path, no_flock, monkeypatch):
    monkeypatch.setattr(holder, "LOOK", 0.1)
    lock = tmp_path / ".lock"
    claim_of_another_machine(lock, silent_for=PATIENCE - 30)
    assert not is_free(lock)
    claim_of_another_machine(lock, silent_for=PATIENCE + 30)
    assert is_free(lock)
    assert files(tmp_path) == [".lock"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 1}'])
def test_a_holder_that_was_killed_while_it_wrote_its_name_counts_for_a_while(tmp_path, no_flock, content, monkeypatch):
    monkeypatch.setattr(holder, "LOOK", 0.1)
    lock, target = tmp_path / ".lock", tmp_path / ".lock.holder"
    target.write_bytes(content)
    assert not is_free(lock)
    os.utime(target, (1e9, 1e9))
    assert is_free(lock)
    assert files(tmp_path) == [".lock"]


def test_a_clock_that_was_set_takes_no_lock_from_who_lives(tmp_path, no_flock, monkeypatch):
    """The file system's clock goes an hour ahead: the last touch is old at once, until the next one comes."""
    monkeypatch.setattr(holder, "LOOK", 30.0)
    monkeypatch.setattr(holder, "BEAT", 1.0)
    lock = tmp_path / ".lock"
    target = claim_of_another_machine(lock, silent_for=3600)
    beat = threading.Timer(0.3, os.utime, (target,))
    beat.start()
    try:
        assert not is_free(lock)
    finally:
        beat.join()
    assert files(tmp_path) == [".lock", ".lock.holder"]


def test_a_holder_gives_signs_of_life(tmp_path, no_flock, monkeypatch):
    monkeypatch.setattr(holder, "BEAT", 0.02)
    with hold(tmp_path / ".lock", waiting=None):
        target = tmp_path / ".lock.holder"
        os.utime(target, (1e9, 1e9))
        for _ in range(200):
            time.sleep(0.02)
            if target.stat().st_mtime > 1e9:
                break
        assert abs(target.stat().st_mtime - time.time()) < 60


def test_who_has_a_flock_respects_a_holder(tmp_path):
    """A share that runs out of locks gives one to some and none to others."""
    lock = tmp_path / ".lock"
    first = try_to_hold(lock)
    assert not is_free(lock)
    first.release()
    assert is_free(lock)


def test_one_that_is_taken_for_left_behind_by_mistake_gets_its_name_back(tmp_path, no_flock):
    """Between the look and the move the one that was left behind may have become a living one."""
    lock, target = tmp_path / ".lock", tmp_path / ".lock.holder"
    first = try_to_hold(lock)
    assert not holder._drop(target, target, holder._left_behind)
    assert files(tmp_path) == [".lock.holder"]
    assert not is_free(lock)
    first.release()
    assert files(tmp_path) == [".lock"]  # others would wait for this process to end
    assert is_free(lock)


def test_where_the_name_is_taken_meanwhile_a_file_beside_it_keeps_others_out(tmp_path, no_flock, monkeypatch):
    lock, target = tmp_path / ".lock", tmp_path / ".lock.holder"
    first = try_to_hold(lock)
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EPERM, "no links here")))
    assert not holder._drop(target, target, holder._left_behind)
    assert not target.exists()
    assert not is_free(lock)
    first.release()
    assert files(tmp_path) == [".lock"]
    assert is_free(lock)


def test_a_folder_that_gets_another_name_takes_no_lock_along(tmp_path, no_flock):
    """As that of a bundle, which is written beside its place."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    with hold(before / ".lock", waiting=None):
        before.rename(after)
        assert not is_free(after / ".lock")
    assert files(after) == [".lock"]


def test_a_lock_of_this_process_that_lost_its_file_locks_nobody_out(tmp_path, no_flock):
    lock = tmp_path / ".lock"
    with hold(lock, waiting=None):
        copy = (tmp_path / ".lock.holder").read_bytes()
    (tmp_path / ".lock.holder").write_bytes(copy)
    assert is_free(lock)


@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL", "EIO", "EBADF", "EACCES"])
def test_whatever_a_file_system_without_locks_says(tmp_path, monkeypatch, error):
    number = getattr(errno, error)

    def refused(*_arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with hold(tmp_path / ".lock", waiting=None):
        assert files(tmp_path) == [".lock", ".lock.holder"]


def test_what_is_no_lack_of_locks_is_an_error(tmp_path, monkeypatch):
    def refused(*_arguments):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(OSError, match="Cannot allocate memory"), hold(tmp_path / ".lock", waiting=None):
        pass
