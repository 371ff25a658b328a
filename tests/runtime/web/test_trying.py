"""A copy of a bundle to try things on: whole, writable, gone in the end; and one line where there is no room for it."""

from __future__ import annotations

import errno
import shutil
import tempfile

import pytest

from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import remove_classes
from zsl_runtime.errors import SystemProblem
from zsl_runtime.machine.storage import exclusive
from zsl_runtime.web.trying import copied


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_a_copy_of_a_read_only_bundle_can_be_changed_and_goes_away(own_bundle, own_folder):
    path = own_bundle(rule="gaussian")
    for one in path.rglob("*"):
        one.chmod(0o500 if one.is_dir() else 0o400)
    with copied(path) as copy:
        assert copy.name == path.name
        remove_classes(Bundle.open(copy), ["tit"])
        assert oct(copy.parent.stat().st_mode)[-3:] == "700"
        assert (copy / "model.onnx").stat().st_mode & 0o077 == 0
    assert list(own_folder.iterdir()) == []
    assert Bundle.open(path).current().number == 1


def test_the_lock_and_what_writers_left_are_not_copied(own_bundle):
    path = own_bundle(rule="gaussian")
    (path / "classes" / ".tmp-file-00000000").write_bytes(b"x")
    with exclusive(path), copied(path) as copy:
        remove_classes(Bundle.open(copy), ["tit"])
        assert [one.name for one in copy.rglob(".tmp-*")] == []


def test_a_link_is_not_followed(own_bundle, tmp_path):
    path = own_bundle(rule="gaussian")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o644)
    (path / "engines").mkdir(exist_ok=True)
    (path / "engines" / "link").symlink_to(tmp_path / "secret")
    with copied(path) as copy:
        assert (copy / "engines" / "link").is_symlink()
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device"), ("c", "d", "e")]),
    ],
)
def test_no_room_is_one_line_and_nothing_stays(own_bundle, own_folder, monkeypatch, error):
    def full(*_args, **_more):
        raise error

    path = own_bundle()
    monkeypatch.setattr(shutil, "copytree", full)
    with (
        pytest.raises(SystemProblem, match=r"could not copy the bundle to try things on.*No space left"),
        copied(path),
    ):
        pass
    assert list(own_folder.iterdir()) == []
