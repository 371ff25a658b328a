"""What paths stand for: files, folders, patterns, lists; each on its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from zsl_runtime.errors import SystemProblem, UsageError
from zsl_runtime.inputs import find_files

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = (".png", ".jpg")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(paths: list[str], **options) -> tuple[list[str], int]:
    """Files and how many were left out; the count made beforehand is right, and so is a second look."""
    files = find_files(paths, SUFFIXES, **options)
    assert files.count == len(list(files))
    return list(files), files.skipped


def test_folders_are_walked_in_sorted_order_and_other_files_are_counted(tmp_path):
    touch(tmp_path, "b.png", "a/2.PNG", "a/10.jpg", "a/c/x.jpg", "notes.txt", "a/Thumbs.db", "c.jpg")
    files, skipped = found([str(tmp_path)])
    assert [os.path.relpath(f, tmp_path) for f in files] == ["a/10.jpg", "a/2.PNG", "a/c/x.jpg", "b.png", "c.jpg"]
    assert skipped == 2


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path, "a.png", "._a.png", ".thumbnails/a.png", ".png")
    assert found([str(tmp_path)]) == ([str(tmp_path / "a.png")], 2)


def test_a_file_named_in_full_is_taken_whatever_its_suffix_and_as_often_as_it_is_named(tmp_path):
    touch(tmp_path, "notes.txt", "a.png")
    paths = [str(tmp_path / "notes.txt"), str(tmp_path / "a.png"), str(tmp_path / "a.png")]
    assert found(paths) == (paths, 0)


def test_names_are_given_as_they_were_typed(tmp_path, monkeypatch):
    touch(tmp_path, "d/a.png")
    monkeypatch.chdir(tmp_path)
    assert found(["d", "./d", "d/a.png"])[0] == ["d/a.png", "./d/a.png", "d/a.png"]


def test_patterns_stand_for_their_matches(tmp_path, monkeypatch):
    touch(tmp_path, "b1.png", "b2.jpg", "b3.txt", "bd/x.png", "bd/e/y.png", "other.png")
    monkeypatch.chdir(tmp_path)
    assert found(["b?.*"]) == (["b1.png", "b2.jpg"], 1)
    assert found(["b*"]) == (["b1.png", "b2.jpg", "bd/e/y.png", "bd/x.png"], 1)
    assert found(["**/*.png"])[0] == ["b1.png", "bd/e/y.png", "bd/x.png", "other.png"]
    assert found(["bd/**"])[0] == ["bd/e/y.png", "bd/x.png"]


def test_a_name_with_brackets_is_a_name_first(tmp_path):
    touch(tmp_path, "[1].png", "1.png")
    path = str(tmp_path / "[1].png")
    assert found([path])[0] == [path]


def test_linked_folders_are_walked_once_and_loops_end(tmp_path):
    touch(tmp_path, "in/a.png", "out/b.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "twice").symlink_to(tmp_path / "out")
    assert found([str(tmp_path / "in")])[0] == [
        str(tmp_path / "in" / "a.png"),
        str(tmp_path / "in" / "more" / "b.png"),
    ]


@pytest.mark.parametrize("path", ["missing.png", "missing/", "*.nothing", "[z]", ""])
def test_what_is_not_there_is_a_usage_error(tmp_path, monkeypatch, path):
    touch(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no") as caught:
        find_files(["a.png", path], SUFFIXES)
    assert caught.value.code == "E-INPUT-MISSING"


@pytest.mark.parametrize("names", [[], ["a.txt", "b/c.gif"]])
def test_nothing_to_label_is_a_usage_error(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(UsageError, match=rf"{len(names)} files of other kinds.*\.png \.jpg") as caught:
        find_files([str(tmp_path)], SUFFIXES)
    assert caught.value.code == "E-NO-IMAGES"


def test_a_folder_that_cannot_be_listed_is_said(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "locked/b.png")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SystemProblem, match=r"could not list the folder '.*locked': Permission denied"):
        find_files([str(tmp_path)], SUFFIXES)
