"""A bundle as a whole is written or not there, and replaces another in one step."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from support.forked import allow_fork, become_nobody, forked, killed_at_every_step, public_folder, told
from support.tiny_bundle import make_tiny_bundle
from zsl_runtime.bundle import bundle as bundle_module
from zsl_runtime.bundle import writing
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.writing import check_dest, write_bundle
from zsl_runtime.errors import ArtefactError, SystemProblem, UsageError
from zsl_runtime.machine.storage import temporary_name

assert public_folder  # a fixture


@pytest.fixture(scope="module")
def original(shared_bundle) -> Path:
    return shared_bundle()


@pytest.fixture
def path(own_bundle) -> Path:
    return own_bundle()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def parts(path: Path) -> dict:
    """Arguments of write_bundle that give this bundle again."""
    bundle = Bundle.open(path)
    manifest = {key: value for key, value in bundle.manifest.items() if key not in {"files", "format_version"}}
    files = {name: path / name for name in bundle.manifest["files"]}
    return {"manifest": manifest, "files": files, "generation": bundle.current()}


def test_files_are_copied_or_written_into_folders_that_are_not_there_yet(original, tmp_path):
    arguments = parts(original)
    arguments["files"]["notes/read me.txt"] = b"hello"
    made = write_bundle(tmp_path / "a" / "b", **arguments)
    bundle = Bundle.open(made)
    assert made == tmp_path / "a" / "b"
    assert bundle.file("notes/read me.txt").read_bytes() == b"hello"
    assert bundle.manifest["files"]["model.onnx"] == Bundle.open(original).manifest["files"]["model.onnx"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_an_existing_bundle_needs_force_and_anything_else_is_never_replaced(path, tmp_path):
    before = (path / "model.onnx").read_bytes()
    with pytest.raises(UsageError, match="--force") as caught:
        make_tiny_bundle(path, seed=1)
    assert caught.value.code == "E-BUNDLE-EXISTS"
    assert (path / "model.onnx").read_bytes() == before
    make_tiny_bundle(path, seed=1, force=True)
    assert (path / "model.onnx").read_bytes() != before
    (tmp_path / "empty").mkdir()
    make_tiny_bundle(tmp_path / "empty")
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years")
    for other in (home, home / "thesis.txt"):
        with pytest.raises(UsageError, match="E-BUNDLE-DEST"):
            make_tiny_bundle(other, force=True)
    assert (home / "thesis.txt").read_text() == "years"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "home", "tiny"]


def test_what_could_not_be_opened_is_not_written(original, tmp_path):
    good = parts(original)
    views = Bundle.open(original).views
    cases = [
        ({"manifest": {**good["manifest"], "method": 1}}, ArtefactError, "E-BUNDLE-MANIFEST"),
        ({"manifest": {**good["manifest"], "attributes": list("abcdef")}}, UsageError, "E-GENERATION"),
        ({"files": {**good["files"], "../x": b""}}, ArtefactError, "E-BUNDLE-PATH"),
        ({"files": {**good["files"], "manifest.json": b""}}, ArtefactError, "E-BUNDLE-PATH"),
        ({"files": {**good["files"], "x": tmp_path / "none"}}, SystemProblem, "E-SYSTEM"),
        ({"generation": replace(good["generation"], number=2, parent=1)}, UsageError, "E-GENERATION"),
        (
            {"generation": replace(good["generation"], head=replace(good["generation"].head, views=views[::-1]))},
            UsageError,
            "E-GENERATION",
        ),
    ]
    for change, kind, code in cases:
        with pytest.raises(kind) as caught:
            write_bundle(tmp_path / "new", **{**good, **change})
        assert caught.value.code == code
        assert list(tmp_path.iterdir()) == []


@allow_fork
@pytest.mark.parametrize("swap", ["exchange", pytest.param("two renames", marks=pytest.mark.slow)])
def test_an_export_killed_at_any_step_leaves_the_old_or_the_new_bundle(
    original, shared_bundle, tmp_path, monkeypatch, swap
):
    """Where two names cannot be swapped in one step the old bundle may lie aside; the next export finds it."""
    if swap == "two renames":
        monkeypatch.setattr(writing, "exchange", lambda first, second: False)
    source = shared_bundle(seed=1)
    arguments, target = parts(source), tmp_path / "out" / "tiny"
    old, new = (Bundle.open(path).manifest_sha256 for path in (original, source))
    new_graph = (source / "model.onnx").read_bytes()
    seen, aside = set(), 0
    shutil.copytree(original, target)
    for _ in killed_at_every_step(lambda: write_bundle(target, **arguments, force=True) and None):
        if target.exists():
            digest = Bundle.open(target).manifest_sha256
            seen.add("old" if digest == old else "new")
            assert digest == old or (target / "model.onnx").read_bytes() == new_graph
        else:
            aside += 1
            assert swap == "two renames"
        with pytest.raises(UsageError, match="E-BUNDLE-EXISTS"):
            write_bundle(target, **arguments)
        assert Bundle.open(target).manifest_sha256 in {old, new} | {digest}
        assert [p.name for p in target.parent.iterdir()] == ["tiny"]
        shutil.rmtree(target)
        shutil.copytree(original, target)
    assert seen == {"old", "new"}
    assert (aside > 0) == (swap == "two renames")


@pytest.mark.slow
@allow_fork
def test_a_first_export_killed_at_any_step_leaves_nothing_or_the_bundle(original, tmp_path):
    arguments, target = parts(original), tmp_path / "out" / "tiny"
    whole = 0
    for _ in killed_at_every_step(lambda: write_bundle(target, **arguments) and None):
        if target.exists():
            whole += 1
            Bundle.open(target)
            shutil.rmtree(target)
        write_bundle(target, **arguments)
        assert [p.name for p in target.parent.iterdir()] == ["tiny"]
        shutil.rmtree(target)
    assert whole >= 1


def test_a_bundle_that_appears_while_another_is_written_is_not_replaced(path, original, monkeypatch):
    """Two exports to one place at once: the second finds the first one's bundle when it wants the name."""
    monkeypatch.setattr(writing, "check_dest", lambda target, force: None)
    with pytest.raises(UsageError, match="E-BUNDLE-EXISTS"):
        write_bundle(path, **parts(original))
    monkeypatch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(OSError(18, "no", str(self))))
    with pytest.raises(SystemProblem, match="write the bundle"):
        write_bundle(path.with_name("new"), **parts(original))
    assert [p.name for p in path.parent.iterdir()] == ["tiny"]


def test_where_names_cannot_be_swapped_a_failure_puts_the_old_bundle_back(path, original, shared_bundle, monkeypatch):
    before = Bundle.open(path).manifest_sha256
    arguments = parts(shared_bundle(seed=1))
    monkeypatch.setattr(writing, "exchange", lambda first, second: False)
    write_bundle(path, **arguments, force=True)
    assert Bundle.open(path).manifest_sha256 != before
    shutil.rmtree(path)
    shutil.copytree(original, path)
    real = Path.rename

    def once(self, target):
        if target == path and "-old-" not in self.name:
            raise OSError(5, "Input/output error", str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(SystemProblem, match="Input/output"):
        write_bundle(path, **arguments, force=True)
    assert Bundle.open(path).manifest_sha256 == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny"]


@pytest.mark.parametrize(("error", "there"), [("EBUSY", "empty"), ("EBUSY", "bundle"), ("EXDEV", "bundle")])
def test_a_place_that_cannot_be_moved_is_named_with_a_way_out(path, original, tmp_path, monkeypatch, error, there):
    """A volume that is mounted there, and folders of a container's image."""
    target = {"empty": tmp_path / "empty", "bundle": path}[there]
    if there == "empty":
        target.mkdir()
    number, real = getattr(errno, error), Path.rename

    def rename(self: Path, other: Path) -> Path:
        if target in {self, other}:
            raise OSError(number, os.strerror(number))
        return real(self, other)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(writing, "exchange", lambda *_: False)
    before = contents(path), sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"a folder inside it, such as .*/bundle$") as caught:
        write_bundle(target, **parts(original), force=True)
    assert caught.value.code == "E-BUNDLE-DEST"
    assert (contents(path), sorted(tmp_path.iterdir())) == before


def test_a_mount_point_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_mount", lambda self: self == tmp_path)
    with pytest.raises(UsageError, match=r"E-BUNDLE-DEST: .* is a mount point"):
        check_dest(tmp_path, force=True)
    check_dest(tmp_path / "bundle", force=False)


@pytest.mark.parametrize("length", [99, 101, 240])
def test_a_bundle_may_have_a_long_name(original, tmp_path, length):
    """And what a killed writer of it left beside it is found."""
    target = tmp_path / ("b" * length)
    left = temporary_name(target)
    left.mkdir()
    assert writing.export_leftovers(target) == [left]
    write_bundle(target, **parts(original))
    write_bundle(target, **parts(original), force=True)
    Bundle.open(target)
    assert list(tmp_path.iterdir()) == [target]


def test_an_export_at_work_is_not_cleaned_away_by_another(original, tmp_path):
    """Its temporary folder is locked by a living process; a folder of another bundle is nobody's business here."""
    at_work, other = tmp_path / ".tmp-tiny-01234567", tmp_path / ".tmp-tiny-2-01234567"
    for folder in (at_work, other):
        folder.mkdir()
    ready, stop = threading.Event(), threading.Event()

    def hold() -> None:
        with bundle_module.exclusive(at_work):
            ready.set()
            stop.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait(20)
    try:
        write_bundle(tmp_path / "tiny", **parts(original))
        assert at_work.is_dir()
        assert other.is_dir()
    finally:
        stop.set()
        thread.join()
    write_bundle(tmp_path / "tiny", **parts(original), force=True)
    assert not at_work.exists()


@allow_fork
def test_an_export_to_where_it_may_not_write_is_one_line(public_folder, original):
    arguments = parts(original)
    arguments["files"] = {name: path.read_bytes() for name, path in arguments["files"].items()}
    outcome = forked(lambda: told(lambda: write_bundle(public_folder / "tiny", **arguments)), **become_nobody())
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1)
    assert "could not write the bundle" in outcome.stderr
    assert list(public_folder.iterdir()) == []


def test_a_bundle_can_be_read_by_everyone_the_umask_allows(original, tmp_path):
    made = write_bundle(tmp_path / "tiny", **parts(original))
    (tmp_path / "plain").mkdir()
    assert made.stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "file").write_bytes(b"")
    assert (made / "model.onnx").stat().st_mode == (tmp_path / "file").stat().st_mode
