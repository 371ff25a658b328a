"""What paths stand for: files, folders, patterns, lists; each on its own."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.errors import SystemProblem, UsageError
from zsl_runtime.inputs.files import find_files, list_entries, read_list, walk
from zsl_runtime.inputs.item import Tally
from zsl_runtime.machine.stop import Stop

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


def test_shards_are_taken_when_they_are_named_or_match_and_not_when_they_lie_in_a_folder(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "b.zip", "c/d.tar.gz", "c/e.gz")
    monkeypatch.chdir(tmp_path)
    shards = (".zip", ".tar.gz")
    assert found(["b.zip", "c/d.tar.gz"], shards=shards) == (["b.zip", "c/d.tar.gz"], 0)
    assert found(["*", "c/*"], shards=shards) == (["a.png", "b.zip", "c/d.tar.gz"], 3)
    folder = find_files(["."], SUFFIXES, shards)
    assert (list(folder), folder.skipped, folder.shards, folder.archives) == (["./a.png"], 3, 2, ())
    assert find_files(["**"], SUFFIXES, shards).archives == ("b.zip", "c/d.tar.gz")
    with pytest.raises(UsageError, match=r"1 zip or tar files were left out: name them, or as 'FOLDER/\*.tar'"):
        find_files(["c"], SUFFIXES, shards)


@given(st.lists(st.lists(st.sampled_from(["a", "a.png", "b", "b.png", "a-b.png", "Z.jpg"]), min_size=1, max_size=4)))
def test_a_walk_has_the_order_of_sorted_parts(tmp_path_factory, paths):
    folder = tmp_path_factory.mktemp("walk")
    made = set()
    for parts in paths:
        file = folder.joinpath(*parts)
        if not any(parent.is_file() for parent in (file, *file.parents)) and not file.is_dir():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            made.add(file)
    assert [*walk(str(folder))] == [str(file) for file in sorted(made, key=lambda file: file.parts)]


def test_a_link_that_leads_to_itself_is_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert found([str(tmp_path)]) == ([str(tmp_path / "loop.png")], 0)


# --- lists ----------------------------------------------------------------------------------------------------------


def entries_of(data: bytes, *, null: bool = False, chunk: int = 65_536) -> list[str]:
    """What `read_list` makes of a list that arrives in pieces."""
    reading, writing = os.pipe()

    def send() -> None:
        with open(writing, "wb", buffering=0) as stream, suppress(BrokenPipeError):
            stream.writelines(data[start : start + chunk] for start in range(0, len(data), chunk))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        return list(read_list(reading, null=null, stop=Stop()))
    finally:
        os.close(reading)
        sender.join()


def test_a_list_has_a_path_a_line():
    assert entries_of(b"a.png\nb c.png\n\n\nd.png") == ["a.png", "b c.png", "d.png"]
    assert entries_of(b"\xef\xbb\xbfa.png\r\nb.png\r\n") == ["a.png", "b.png"]
    assert entries_of(b"") == entries_of(b"\n\n") == []
    assert entries_of(b"caf\xe9.png\n") == [os.fsdecode(b"caf\xe9.png")]


def test_with_null_only_nul_ends_a_path():
    assert entries_of(b"a\nb.png\0c\r\0\0\xef\xbb\xbfd", null=True) == ["a\nb.png", "c\r", "\ufeffd"]


@settings(max_examples=30)
@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name)), st.integers(1, 40))
def test_any_names_survive_a_list_however_it_arrives(names, chunk):
    data = b"".join(name + b"\0" for name in names)
    assert [os.fsencode(name) for name in entries_of(data, null=True, chunk=chunk)] == names


def test_what_is_no_list_is_said_before_memory_is_full():
    with pytest.raises(UsageError, match="longer than 65,536 bytes") as caught:
        entries_of(b"x" * 1_000_000)
    assert caught.value.code == "E-LIST"


def test_a_list_that_does_not_end_can_be_stopped():
    reading, writing = os.pipe()
    os.write(writing, b"a.png\n")
    stop = Stop()
    entries = read_list(reading, null=False, stop=stop)
    assert next(entries) == "a.png"
    threading.Timer(0.05, stop.request).start()
    assert list(entries) == []  # and does not wait for ever
    os.close(reading)
    os.close(writing)


def test_folders_in_a_list_stand_for_their_files_and_other_entries_are_taken_as_they_are(tmp_path):
    touch(tmp_path, "d/b.png", "d/a.png", "d/notes.txt", "list.txt")
    (tmp_path / "list.txt").write_text(f"missing.png\n{tmp_path}/d\nodd.name\n*.png\n")
    tally = Tally()
    with (tmp_path / "list.txt").open("rb") as stream:
        entries = list_entries(stream.fileno(), SUFFIXES, null=False, stop=Stop(), tally=tally)
        files = find_files(["-", str(tmp_path)], SUFFIXES, entries=entries)
        assert files.count is None
        assert list(files) == [
            "missing.png",
            *(f"{tmp_path}/d/{name}.png" for name in "ab"),
            "odd.name",
            "*.png",
            *(f"{tmp_path}/d/{name}.png" for name in "ab"),
        ]
    assert tally.skipped == 1
    assert files.skipped == 2
    assert dict(tally.kinds) == {".txt": 1}
    assert dict(files.kinds) == {".txt": 2}
