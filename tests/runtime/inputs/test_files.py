"""What paths stand for: files, folders, patterns, lists; each on its own."""

from __future__ import annotations

import errno
import glob
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.forked import allow_fork, become_nobody, forked, public_folder
from zsl_runtime.errors import UsageError
from zsl_runtime.inputs.files import _Counting, _Pattern, find_files, list_entries, read_list, walk
from zsl_runtime.inputs.item import Item, Tally
from zsl_runtime.inputs.litter import litter_file, litter_folder
from zsl_runtime.machine.stop import Stop

SUFFIXES = (".png", ".jpg")
assert public_folder  # a fixture


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
    kinds = ": 1 .gif, 1 .txt" if names else ""
    with pytest.raises(UsageError, match=rf"\({len(names)} files of other kinds{kinds}\).*\.png \.jpg") as caught:
        find_files([str(tmp_path)], SUFFIXES)
    assert caught.value.code == "E-NO-IMAGES"


@pytest.fixture
def broken(monkeypatch):
    """Make the system say no for folders of one name: (name, errno) -> None; on listing, or where nothing is known."""
    real = {"scandir": os.scandir, "stat": os.stat}

    def spoil(name: str, number: int, call: str = "scandir") -> None:
        def said_no(path, *args, **kwargs):
            if not isinstance(path, int) and Path(path).name == name:
                raise OSError(number, os.strerror(number), path)
            return real[call](path, *args, **kwargs)

        monkeypatch.setattr(os, call, said_no)

    return spoil


@pytest.mark.parametrize("call", ["scandir", "stat"])
@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR]
)
def test_a_folder_that_cannot_be_listed_is_told_in_its_place_and_the_rest_is_found(tmp_path, broken, number, call):
    touch(tmp_path, "a.png", "locked/b.png", "z.png")
    broken("locked", number, call)
    files = find_files([str(tmp_path)], SUFFIXES)
    assert files.count == 3
    for _ in range(2):
        first, locked, last = files
        assert (first, last) == (str(tmp_path / "a.png"), str(tmp_path / "z.png"))
        assert (locked.name, locked.source.code) == (str(tmp_path / "locked"), "E-FOLDER")
        assert os.strerror(number) in locked.source.message


def test_a_folder_that_is_named_and_cannot_be_listed_is_told_and_the_others_are_found(tmp_path, broken):
    touch(tmp_path, "locked/b.png", "open/a.png", "c.png")
    broken("locked", errno.EACCES)
    paths = [str(tmp_path / name) for name in ("locked", "open", "c.png")]
    files = list(find_files(paths, SUFFIXES))
    assert files[1:] == [str(tmp_path / "open" / "a.png"), str(tmp_path / "c.png")]
    assert files[0].source.code == "E-FOLDER"
    assert [item.name for item in find_files(paths[:1], SUFFIXES)] == paths[:1]  # it alone is no usage error either


def test_a_name_behind_a_folder_that_may_not_be_searched_is_not_called_missing(tmp_path, broken):
    touch(tmp_path, "a.png", "b.png")
    broken("a.png", errno.EACCES, "stat")
    paths = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert list(find_files(paths, SUFFIXES)) == paths  # which is told when it is opened


def test_a_folder_that_breaks_off_gives_what_was_listed(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "b.png", "c.png")
    real = os.scandir

    class BreaksOff:
        def __init__(self, path):
            self.entries = sorted(real(path), key=lambda entry: entry.name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __iter__(self):
            yield from self.entries[:2]
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "scandir", BreaksOff)
    error, *files = find_files([str(tmp_path)], SUFFIXES)
    assert files == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert error.source.code == "E-FOLDER"


def test_a_folder_that_is_gone_or_locked_when_its_turn_comes_is_told_then(tmp_path):
    touch(tmp_path, "a/x.png", "b/y.png", "c.png")
    files = find_files([str(tmp_path)], SUFFIXES)
    turn = iter(files)
    assert next(turn) == str(tmp_path / "a" / "x.png")
    (tmp_path / "b" / "y.png").unlink()
    (tmp_path / "b").rmdir()
    gone, last = turn
    assert (gone.source.code, last) == ("E-FOLDER", str(tmp_path / "c.png"))
    (tmp_path / "b").write_bytes(b"a file now")
    assert [place if isinstance(place, str) else place.source.code for place in files] == [
        str(tmp_path / "a" / "x.png"),
        str(tmp_path / "c.png"),
    ]


@pytest.mark.parametrize("pattern", ["*/*.png", "**/*.png", "*", "locked/*.png", "locked/x.png*", "*/b.png"])
def test_a_pattern_tells_the_folders_that_cannot_be_listed(tmp_path, broken, monkeypatch, pattern):
    touch(tmp_path, "a/b.png", "locked/b.png")
    monkeypatch.chdir(tmp_path)
    broken("locked", errno.EACCES, "stat" if pattern == "*/b.png" else "scandir")
    real = os.lstat

    def lstat(path, *args, **kwargs):
        if str(path).startswith("locked/"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "lstat", lstat)
    found = list(find_files([pattern, "a"], SUFFIXES))
    assert [item.source.code for item in found if isinstance(item, Item)] == ["E-FOLDER"]
    assert found.count("a/b.png") == (1 if pattern.startswith("locked") else 2)


def test_folders_of_a_list_that_cannot_be_listed_are_told(tmp_path, broken):
    touch(tmp_path, "locked/b.png", "d/a.png")
    broken("locked", errno.EIO)
    (tmp_path / "list").write_text(f"{tmp_path}/locked\n{tmp_path}/d\n")
    with (tmp_path / "list").open("rb") as stream:
        first, second = list_entries(stream.fileno(), SUFFIXES, null=False, stop=Stop(), tally=Tally())()
    assert (first.source.code, second) == ("E-FOLDER", f"{tmp_path}/d/a.png")


def test_links_that_lead_nowhere(tmp_path):
    """One that is named, as a shell names it for `*`, is told when it is opened; what has no suffix is a kind."""
    touch(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to("nothing.png")
    (tmp_path / "share").symlink_to("/not/mounted")
    files = find_files([str(tmp_path)], SUFFIXES)
    assert list(files) == [str(tmp_path / "a.png"), str(tmp_path / "gone.png")]
    assert dict(files.kinds) == {"links that lead nowhere": 1}
    assert found([str(tmp_path / "gone.png"), str(tmp_path / "a.png")])[1] == 0


def test_links_in_a_circle_give_each_match_of_a_pattern_once(tmp_path, monkeypatch):
    touch(tmp_path, "in/a.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    assert found(["**/*.png"])[0] == ["in/a.png"]


NAMES = st.sampled_from(["a", "b.png", ".h", "c1.png", "[x].png"])
PARTS = st.sampled_from(["*", "**", "a", "?.png", "c[0-9].png", "b.png", ".*", "*.png", "."])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=5), st.lists(PARTS, min_size=1, max_size=3))
@example([["b.png"]], ["b.png", "**"])
def test_a_pattern_has_the_matches_of_the_library(tmp_path_factory, paths, parts):
    folder = tmp_path_factory.mktemp("glob")
    for names in paths:
        file = folder.joinpath(*names)
        if not any(parent.is_file() for parent in (file, *file.parents)) and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    pattern = f"{folder}/{'/'.join(parts)}"
    if not glob.has_magic(pattern):
        return
    library = glob.glob(pattern, recursive=True)  # noqa: PTH207
    # Python before 3.13 has "file.png/" match "file.png/**".
    wanted = {match for match in library if Path(match).is_file() and not match.endswith("/")}
    mine = _Pattern(pattern, _Counting(SUFFIXES, ())).matches()
    assert sorted(match for match in mine if Path(match).is_file()) == sorted(wanted)


# --- litter ---------------------------------------------------------------------------------------------------------


def test_litter_is_left_out_and_counted(tmp_path):
    touch(
        tmp_path,
        *("a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "@eaDir/a.jpg/SYNOINDEX_MEDIA_INFO", "b/#recycle/c.png"),
        *("SYNOFILE_THUMB_M.jpg", "$RECYCLE.BIN/S-1/$R1.JPG", "System Volume Information/x.txt", "b/@EADIR/d.png"),
        *("Album.lrdata/1.png", "My.photoslibrary/originals/0/e.jpg", "My.photoslibrary/resources/derivatives/f.jpg"),
    )
    files = find_files([str(tmp_path)], SUFFIXES)
    assert [os.path.relpath(path, tmp_path) for path in files] == ["My.photoslibrary/originals/0/e.jpg", "a.jpg"]
    assert (files.count, files.skipped) == (2, 0)
    assert dict(files.left_out.litter) == {
        "@eaDir (thumbnails of a NAS)": 1,
        "@EADIR (thumbnails of a NAS)": 1,
        "#recycle (what was deleted)": 1,
        "SYNOFILE_THUMB_* (thumbnails of a NAS)": 1,
        "$RECYCLE.BIN (what was deleted)": 1,
        "*.lrdata (previews of a photo library)": 1,
        "*.photoslibrary (previews of a photo library)": 1,
    }


def test_litter_that_is_named_is_read_and_that_of_a_pattern_is_not(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/b.png")
    monkeypatch.chdir(tmp_path)
    thumbnail = "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg"
    assert found(["@eaDir"])[0] == [thumbnail, "@eaDir/b.png"]
    assert found(["@eaDir/*/*"])[0] == [thumbnail]
    assert found([thumbnail])[0] == [thumbnail]
    for pattern in ("*", "**", "**/*.*"):
        files = find_files([pattern], SUFFIXES)
        assert list(files) == ["a.jpg"]
        assert dict(files.left_out.litter) == {"@eaDir (thumbnails of a NAS)": 2}


def test_litter_among_the_names_that_a_shell_made_of_a_pattern_is_left_out(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "b/c.png", "SYNOFILE_THUMB_M.jpg")
    monkeypatch.chdir(tmp_path)
    files = find_files(["@eaDir", "SYNOFILE_THUMB_M.jpg", "a.jpg", "b"], SUFFIXES)
    assert list(files) == ["a.jpg", "b/c.png"]
    assert files.left_out.litter.total() == 2
    assert found(["@eaDir", "b/c.png"])[0] == ["@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "b/c.png"]


@allow_fork
def test_real_permissions(public_folder):
    touch(public_folder, "a.png", "locked/b.png", "shut/c.png", "z.png")
    (public_folder / "locked").chmod(0)
    (public_folder / "shut").chmod(0o444)  # may be listed and not be searched
    walk(str(public_folder))

    def look() -> None:
        for place in find_files([str(public_folder)], SUFFIXES):
            print(place if isinstance(place, str) else f"{place.name}: {place.source.code}")

    lines = forked(look, **become_nobody()).stdout.replace(f"{public_folder}/", "").splitlines()
    assert lines == ["a.png", "locked: E-FOLDER", "shut/c.png", "z.png"]


def test_litter_that_nobody_may_look_at_is_no_error(tmp_path, broken):
    touch(tmp_path, "a.png", "lost+found/b.png")
    broken("lost+found", errno.EACCES)
    assert found([str(tmp_path)]) == ([str(tmp_path / "a.png")], 0)


@pytest.mark.parametrize(
    "name", ["recycler", "Copy of a.jpg", "a.sync-conflict-20240101-101010-ABCDEFG.jpg", "thumbnails", "eaDir"]
)
def test_what_a_person_may_have_called_so_is_no_litter(name):
    assert not litter_folder(name)
    assert not litter_file(name)


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
    wanted = [str(file) for file in sorted(made, key=lambda file: file.parts)]
    assert [seen.path for seen in walk(str(folder))] == wanted


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
