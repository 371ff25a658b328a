"""Shares and file systems that lack a call: commands go on without it, say so once, and lose nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from support.line import succeed
from support.lone import IMPORTS, program, run_alone
from support.poor_system import without_file_fsync, without_flock, without_folder_fsync
from support.tiny_bundle import ATTRIBUTES
from support.tiny_xlsa17 import FEATURES, make_pair
from zsl_export.cli import main as zsl_export
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.machine.notes import forget_notes
from zsl_train.cli import main as zsl_train

if TYPE_CHECKING:
    from pathlib import Path

NO_SYNC = "does not say when something is on the disk"
NO_LOCKS = "has no locks"


@pytest.fixture
def environment(tmp_path):
    return {"HOME": str(tmp_path / "home"), "ZSL_CACHE": str(tmp_path / "cache")}


def class_file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.csv"
    row = [name, *(str(value) for value in (1, 1, 0, 3, 1, 1))]
    path.write_text(f"{','.join(['name', *ATTRIBUTES])}\n{','.join(row)}\n", encoding="utf-8")
    return path


def names(bundle: Path) -> tuple[str, ...]:
    return Bundle.open(bundle).current().table.names


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(".") and path.name != ".lock"]


@pytest.mark.parametrize("error", ["EINVAL", "EIO"])
def test_a_change_without_fsync_of_folders_is_made_and_told_once(own_bundle, tmp_path, environment, error):
    bundle = own_bundle(rule="gaussian")
    before = names(bundle)
    words = ("add", "--engine", bundle, "--attributes", class_file(tmp_path, "jay"))
    done = run_alone("zsl-classes", *words, environment=environment, before=without_folder_fsync(error))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(NO_SYNC) == 1
    assert str(bundle) in done.stderr
    assert names(bundle) == (*before, "jay")
    assert litter(bundle) == []


@pytest.mark.parametrize(("error", "code"), [("EINVAL", 0), ("EIO", 2)])
def test_files_that_cannot_be_flushed_are_told_and_those_that_failed_are_not_trusted(
    own_bundle, tmp_path, environment, error, code
):
    """EIO of a file says that its data may be lost: nothing is made of it."""
    bundle = own_bundle(rule="gaussian")
    before = names(bundle)
    words = ("add", "--engine", bundle, "--attributes", class_file(tmp_path, "jay"))
    done = run_alone("zsl-classes", *words, environment=environment, before=without_file_fsync(error))
    assert done.returncode == code, done.stderr
    assert done.stderr.count(NO_SYNC) == (code == 0)
    assert names(bundle) == ((*before, "jay") if code == 0 else before)
    assert litter(bundle) == []


def test_writers_without_flock_lose_no_class(own_bundle, tmp_path, environment):
    bundle = own_bundle(rule="gaussian")
    before = names(bundle)
    writers = []
    for number in range(3):
        words = ("add", "--engine", bundle, "--attributes", class_file(tmp_path, f"jay {number}"))
        line = [*program("zsl-classes", without_flock("ENOLCK")), *map(str, words)]
        own = {"PYTHONPATH": IMPORTS, "OMP_NUM_THREADS": "1", **environment}
        writers.append(subprocess.Popen(line, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    said = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 3, said
    assert all(one.count(NO_LOCKS) == 1 for one in said)
    assert names(bundle)[: len(before)] == before
    assert set(names(bundle)[len(before) :]) == {f"jay {number}" for number in range(3)}
    assert litter(bundle) == []


@pytest.mark.parametrize("resume", [(), ("--resume",)])
@pytest.mark.parametrize(
    ("lacking", "said"), [(without_folder_fsync("EINVAL"), NO_SYNC), (without_flock("ENOLCK"), NO_LOCKS)]
)
def test_labels_are_written(shared_bundle, tmp_path, environment, lacking, said, resume):
    picture, out = tmp_path / "photo.png", tmp_path / "out [1]" / "labels.csv"
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(picture)
    out.parent.mkdir()
    words = (picture, "--engine", shared_bundle(), "--backend", "ort", "--output", out, *resume)
    done = run_alone("zsl-infer", *words, environment=environment, before=lacking)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(said) == 1
    assert out.read_text(encoding="utf-8").count("\n") > 1
    assert [path.name for path in out.parent.iterdir()] == ["labels.csv"]


def test_training_and_export(tmp_path, monkeypatch):
    """On a share that has neither."""
    data, run, bundle = make_pair(tmp_path / "data"), tmp_path / "run", tmp_path / "bundle"
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(handle)

    def flock(*_arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(fcntl, "flock", flock)
    for main, *words in (
        (zsl_train, "--data", data, "--features", FEATURES, "--out", run, "--method", "gfzsl"),
        (zsl_export, run, "--out", bundle),
    ):
        forget_notes()
        err = succeed(main, *words).err
        assert err.count(NO_SYNC) == err.count(NO_LOCKS) == 1
    Bundle.open(bundle)
    assert litter(run) == litter(bundle) == []
