"""Files that are whole or absent: whatever interrupts a write, a reader finds the old content or the new one."""

from __future__ import annotations

import ast
import errno
import json
import mmap
import os
import signal
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from support.forked import allow_fork, forked, killed_at_every_step
from support.traced import peak_of
from zsl_runtime.errors import SystemProblem
from zsl_runtime.inputs.npyfile import NpyError, open_array
from zsl_runtime.labelling.cascade import _FloatFile
from zsl_runtime.machine.notes import forget_notes
from zsl_runtime.machine.storage import (
    allocate,
    copy_synced,
    exchange,
    exclusive,
    parse_tensors,
    remove_left_behind,
    replacing,
    scratch_folder,
    sync_folder,
    temporary_name,
    tensor_bytes,
    write_synced,
    write_whole,
)


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file_appears_with_all_of_its_content(tmp_path, before):
    path = tmp_path / "file.bin"
    if before is not None:
        path.write_bytes(before)
    with replacing(path) as partial:
        assert partial.parent == tmp_path
        partial.write_bytes(b"new")
        assert (path.read_bytes() if path.exists() else None) == before
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_raised_while_writing_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="permissions are another thing there")
@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o640, 0o640), (0o444, 0o444), (0o666, 0o644)])
def test_what_replaces_a_file_is_open_to_nobody_else(tmp_path, before, after):
    path, other = tmp_path / "x", tmp_path / "other"
    mask = os.umask(0o022)
    try:
        path.write_bytes(b"old")
        path.chmod(before)
        write_whole(path, b"new")
        other.symlink_to(path)
        write_whole(other, b"no link any more")  # nor has it what the link leads to, or the link itself
        write_whole(tmp_path / "first", b"")
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == after
    assert [stat.S_IMODE(one.lstat().st_mode) for one in (other, tmp_path / "first")] == [0o644, 0o644]


def test_nothing_written_is_an_empty_file(tmp_path):
    with replacing(tmp_path / "file.bin"):
        assert not (tmp_path / "file.bin").exists()
    assert (tmp_path / "file.bin").read_bytes() == b""


def test_a_file_that_was_removed_while_it_was_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file.bin") as partial:
        partial.unlink()
    assert list(tmp_path.iterdir()) == []


def killed_in(block) -> None:
    """Enter a context in a child and end there by SIGKILL."""

    def action():
        with block():
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(action).code == -signal.SIGKILL


@allow_fork
def test_killed_writers_of_a_file_leave_one_beside_it_at_most(tmp_path):
    """And never one that lives loses its own, nor does a file that only looks like it."""
    path, alike = tmp_path / "file.bin", tmp_path / ".tmp-file.bin-1234"
    alike.write_bytes(b"of somebody else")
    with replacing(path) as living:
        for _ in range(3):
            killed_in(lambda: replacing(path))
            assert len(list(tmp_path.iterdir())) == 3  # the living one's, the one that looks like it, the killed one's
        living.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    write_whole(path, b"newer")
    assert sorted(tmp_path.iterdir()) == [alike, path]


def test_what_is_removed_beside_a_file_is_never_what_a_link_leads_to(tmp_path):
    victim, inner = tmp_path / "victim", tmp_path / "folder"
    victim.write_bytes(b"precious")
    inner.mkdir()
    (inner / "precious").touch()
    (tmp_path / ".tmp-file.bin-00000000").symlink_to(victim)
    (tmp_path / ".tmp-file.bin-11111111").symlink_to(inner)
    os.mkfifo(tmp_path / ".tmp-file.bin-22222222")
    os.link(victim, tmp_path / ".tmp-file.bin-33333333")
    write_whole(tmp_path / "file.bin", b"new")
    assert victim.read_bytes() == b"precious"
    assert (inner / "precious").exists()
    assert not (tmp_path / ".tmp-file.bin-33333333").exists()


@allow_fork
def test_killed_processes_leave_one_folder_of_temporary_files_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder("zsl-test-") as living:
        for _ in range(3):
            killed_in(lambda: scratch_folder("zsl-test-"))
            assert len(list(tmp_path.iterdir())) == 2
        assert living.is_dir()
    with scratch_folder("zsl-test-") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_a_lock_is_a_plain_file_and_nothing_else_is_opened(tmp_path, kind):
    (tmp_path / "bundle").mkdir()
    lock, victim = tmp_path / "bundle" / ".lock", tmp_path / "victim"
    if kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(victim)
        if kind == "link":
            victim.write_bytes(b"precious")
    with (
        pytest.raises(SystemProblem, match="E-SYSTEM: could not lock bundle for writing"),
        exclusive(tmp_path / "bundle"),
    ):
        pass
    assert victim.exists() == (kind == "link")


@allow_fork
def test_a_full_disk_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        write_whole(path, bytes(10_000))

    outcome = forked(write, file_limit=1000)
    assert outcome.code == 99
    assert "File too large" in outcome.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@allow_fork
def test_killed_at_any_moment_there_is_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "file.bin"
    found = set()
    path.write_bytes(b"old")
    for _ in killed_at_every_step(lambda: write_whole(path, b"new")):
        found.add(path.read_bytes())
    assert found == {b"old", b"new"}


def test_the_rename_is_made_durable_after_the_content(tmp_path, monkeypatch):
    """In this order: content to the disk, the new name, the folder that holds the name."""
    steps = []
    real = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (steps.append(("sync", Path(f"/proc/self/fd/{handle}").is_dir())), real[0](handle))
    )
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("rename"), real[1](*names)))
    write_whole(tmp_path / "file.bin", b"new")
    assert steps == [("sync", False), "rename", ("sync", True)]


# --- what a file system may lack ------------------------------------------------------------------------------------


def refuse_fsync(monkeypatch, *, of_folders: bool, number: int) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir() == of_folders:
            raise OSError(number, os.strerror(number))
        real(handle)

    forget_notes()
    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("error", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EIO", "EBADF", "EACCES", "EPERM"])
def test_a_folder_that_cannot_be_flushed_is_told_once_and_everything_is_written(tmp_path, monkeypatch, capfd, error):
    refuse_fsync(monkeypatch, of_folders=True, number=getattr(errno, error))
    for content in (b"first", b"second"):
        write_whole(tmp_path / "file.bin", content)
        assert (tmp_path / "file.bin").read_bytes() == content
    err = capfd.readouterr().err
    assert err.startswith(f"note: the file system of {tmp_path} does not say when something is on the disk (")
    assert os.strerror(getattr(errno, error)) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "ENOMEM"])
def test_a_full_disk_is_no_lack_of_the_file_system(tmp_path, monkeypatch, error):
    refuse_fsync(monkeypatch, of_folders=True, number=getattr(errno, error))
    with pytest.raises(OSError, match=os.strerror(getattr(errno, error))):
        sync_folder(tmp_path)


def test_a_folder_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "gone")


def test_a_folder_that_can_be_written_to_and_not_read_takes_files(tmp_path, monkeypatch):
    """It cannot be opened, and so not be flushed."""
    real = os.open

    def opened(path: object, *more: object) -> int:
        if Path(os.fspath(path)) == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *more)

    monkeypatch.setattr(os, "open", opened)
    write_whole(tmp_path / "file.bin", b"new")
    assert (tmp_path / "file.bin").read_bytes() == b"new"


@pytest.mark.parametrize("error", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"])
def test_files_are_written_where_none_can_be_flushed(tmp_path, monkeypatch, capfd, error):
    refuse_fsync(monkeypatch, of_folders=False, number=getattr(errno, error))
    write_whole(tmp_path / "whole.bin", b"new")
    write_synced(tmp_path / "synced.bin", b"new")
    copy_synced(tmp_path / "synced.bin", tmp_path / "copy.bin")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("whole.bin", "synced.bin", "copy.bin"), b"new"
    )
    assert capfd.readouterr().err.count("does not say when something is on the disk") == 1


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT", "EBADF"])
def test_a_file_whose_data_may_be_lost_does_not_take_the_old_ones_place(tmp_path, monkeypatch, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    refuse_fsync(monkeypatch, of_folders=False, number=getattr(errno, error))
    with pytest.raises(OSError, match=os.strerror(getattr(errno, error))):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "times", "code"), [("EBUSY", 2, 0), ("ETXTBSY", 2, 0), ("EBUSY", 99, 1), ("EXDEV", 1, 1)]
)
def test_a_share_that_is_busy_for_a_moment_is_asked_again(tmp_path, monkeypatch, error, times, code):
    """Some refuse to replace a file that somebody reads."""
    path, left, real = tmp_path / "file.bin", [times], os.replace
    path.write_bytes(b"old")

    def replace(*names: object) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)))
        real(*names)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr("zsl_runtime.machine.storage.BUSY_PAUSE", 0.0)
    if code:
        with pytest.raises(OSError, match=os.strerror(getattr(errno, error))):
            write_whole(path, b"new")
    else:
        write_whole(path, b"new")
    assert path.read_bytes() == (b"old" if code else b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_file_is_nobodys_leftover_before_it_has_its_name(tmp_path, monkeypatch):
    """Another writer of the same file, who removes what killed ones left, may come at any moment: here at the last."""
    path, real, before = tmp_path / "file.bin", os.replace, []

    def replace(partial: Path, target: Path) -> None:
        remove_left_behind(path)
        before.append(Path(partial).exists())
        real(partial, target)

    monkeypatch.setattr(os, "replace", replace)
    write_whole(path, b"new")
    assert before == [True]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS", "EPERM", "EOPNOTSUPP", "EXDEV"])
def test_names_that_cannot_be_exchanged_stay_as_they_are(tmp_path, monkeypatch, error):
    import ctypes

    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    number = getattr(errno, error)

    class Refusing:
        def renameat2(self, *_arguments: object) -> int:
            ctypes.set_errno(number)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_names, **_more: Refusing())
    assert exchange(first, second) is False


@pytest.mark.parametrize("length", [1, 100, 101, 200, 255])
def test_names_of_any_length_have_temporary_ones(tmp_path, length):
    """Even where names may have 143 bytes only, as in encrypted home folders."""
    path = tmp_path / ("ü" * (length // 2) + "x" * (length % 2))
    for mark in ("", "old-"):
        name = temporary_name(path, mark).name
        assert len(os.fsencode(name)) <= 143
        assert name.startswith(".tmp-")
        assert name != temporary_name(path, mark).name
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_nothing_but_storage_asks_for_the_disk_or_a_lock():
    """What file systems lack is dealt with in one place."""
    root = Path(__file__).parents[3]
    found = set()
    for source in (path for package in ("runtime", "train", "export") for path in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            attribute = isinstance(node, ast.Attribute) and node.attr in {"fsync", "fdatasync", "flock", "lockf"}
            imports = isinstance(node, ast.Import) and any(name.name == "fcntl" for name in node.names)
            if attribute or imports:
                found.add(source.relative_to(root).as_posix())
    sealed = "runtime/zsl_runtime/graphs/sealed.py"  # seals files in memory, which are on no disk and have no locks
    assert found - {sealed} == {"runtime/zsl_runtime/machine/storage.py"}


@pytest.fixture
def no_maps(monkeypatch):
    """A share that cannot map files."""

    def refused(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", refused)


def test_arrays_are_read_where_they_cannot_be_mapped(tmp_path, no_maps):
    values = np.random.default_rng(0).random((5, 3)).astype(np.float32)
    np.save(tmp_path / "rows.npy", values)
    np.testing.assert_array_equal(open_array(tmp_path / "rows.npy"), values)
    (tmp_path / "bad.npy").write_bytes((tmp_path / "rows.npy").read_bytes()[:-4])
    with pytest.raises(NpyError):
        open_array(tmp_path / "bad.npy")


def test_features_of_a_cascade_are_read_where_they_cannot_be_mapped(tmp_path, no_maps, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = np.random.default_rng(0).random((7, 3)).astype(np.float32)
    with _FloatFile() as file:
        file.append(rows[:4])
        np.testing.assert_array_equal(file.read(slice(1, 3)), rows[1:3])
        file.append(rows[4:])
        np.testing.assert_array_equal(file.read(), rows)


@pytest.mark.parametrize("error", ["ENOTSUP", "EOPNOTSUPP", "EINVAL", "ENOSYS"])
def test_a_file_gets_its_length_where_space_cannot_be_reserved(tmp_path, monkeypatch, error):
    number = getattr(errno, error)

    def refused(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refused)
    for size in (10, 4):
        with (tmp_path / "file").open("a+b") as file:
            allocate(file.fileno(), size)
        assert (tmp_path / "file").read_bytes() == bytes(size)


def test_a_copy_needs_no_fast_way(tmp_path, monkeypatch):
    """sendfile and copy_file_range are refused by some shares."""

    def refused(*_arguments: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    (tmp_path / "from").write_bytes(bytes(range(256)) * 1000)
    monkeypatch.setattr(os, "sendfile", refused)
    if hasattr(os, "copy_file_range"):
        monkeypatch.setattr(os, "copy_file_range", refused)
    copy_synced(tmp_path / "from", tmp_path / "to")
    assert (tmp_path / "to").read_bytes() == (tmp_path / "from").read_bytes()


def test_the_same_tensors_and_metadata_give_the_same_bytes():
    """Whatever order they come in; with one seed two runs have the same files."""
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a": np.ones(3, dtype=np.uint8)}
    metadata = {"names": '["größe", "\\n"]', **{f"key {number}": str(number) for number in range(20)}}
    data = tensor_bytes(tensors, metadata)
    assert tensor_bytes(dict(reversed(tensors.items())), dict(reversed(metadata.items()))) == data
    assert int.from_bytes(data[:8], "little") % 8 == 0
    again, read = parse_tensors(data, code="E-TEST", where="memory")
    assert read == metadata
    assert again.keys() == tensors.keys()
    for name, array in tensors.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["?", "u1", "i2", "f2", "<i4", ">i4", "<f4", "f8", "i8", "u8"]),
            st.lists(st.integers(0, 3), max_size=3),
        ),
        max_size=6,
    )
)
def test_a_file_of_tensors_is_the_librarys_but_for_the_order_of_its_metadata(kinds):
    rng = np.random.default_rng(0)
    tensors = {f"t{k}": rng.integers(0, 2, shape).astype(kind).T for k, (kind, shape) in enumerate(kinds)}
    metadata = {"one": "1", "two": 'größe "\n'}
    dense = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    ours, theirs = tensor_bytes(tensors, metadata), save(dense, metadata=metadata)
    ends = [8 + int.from_bytes(data[:8], "little") for data in (ours, theirs)]
    headers = [list(json.loads(data[8:end]).items()) for data, end in zip((ours, theirs), ends, strict=True)]
    assert headers[0] == headers[1]
    assert ours[ends[0] :] == theirs[ends[1] :]


def test_a_file_of_tensors_takes_no_more_memory_than_it_has_bytes():
    tensors = {"weight": np.ones((1000, 500), np.float32), "prior": np.zeros((1000, 500), np.float32)}
    data, peak = peak_of(lambda: tensor_bytes(tensors, {"one": "1", "two": "2"}))
    assert len(data) <= peak < 1.1 * len(data)
