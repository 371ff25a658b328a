"""Files that are whole or absent: whatever interrupts a write, a reader finds the old content or the new one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from support.forked import allow_fork, forked, killed_at_every_step
from zsl_runtime.machine.storage import parse_tensors, replacing, tensor_bytes, write_whole


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


def test_nothing_written_is_an_error_and_no_file(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


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
