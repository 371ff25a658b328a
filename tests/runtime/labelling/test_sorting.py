"""Sorting pictures into folders: what lies where at the end, whatever was there before and whatever goes wrong."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.errors import InputError, SystemProblem, UsageError
from zsl_runtime.inputs.item import Item
from zsl_runtime.labelling import sorting
from zsl_runtime.labelling.snapshot import Labelled, Prediction
from zsl_runtime.labelling.sorting import FAR, UNSURE, folders_of, marked, open_sorter, safe_name
from zsl_runtime.machine.storage import exclusive

NAMES = ("Crow", "Owl")
TWINS = st.lists(
    st.sampled_from(["owl", "OWL", "Owl.", ".owl", "unsure", "UNSURE", "unlike anything known", "a:b", "é", "e\u0301"]),
    unique=True,
)


def answer(name: str, probability: float = 0.9, **more) -> Prediction:
    return Prediction((name, "other"), (True, False), (probability, 1 - probability), **more)


def sort(folder, pairs, *, names=NAMES, link=None, least=0.0, keep_bytes=True) -> list[str]:
    """Sort (source or item, answer) pairs; what is told."""
    items = [one if isinstance(one, Item) else Item(str(one), str(one)) for one, _ in pairs]
    with open_sorter(str(folder), link=link, least=least, keep_bytes=keep_bytes) as sorter:
        sorter.know(names)
        for item, (_, result) in zip(sorter.noting(item for item in items), pairs, strict=True):
            sorter.sort([Labelled(item.name, result)])
        return list(sorter.lines())


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def photos(tmp_path):
    """`photos("a/1.jpg", b"one")`: a file, made."""

    def made(name: str, data: bytes) -> Path:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return made


# --- where pictures go ----------------------------------------------------------------------------------------------


def test_each_picture_is_copied_into_the_folder_of_its_class(photos, tmp_path):
    one, two = photos("1.jpg", b"one"), photos("2.jpg", b"two")
    os.utime(one, ns=(10**18, 10**18 + 5))
    told = sort(tmp_path / "sorted", [(one, answer("Crow")), (two, answer("Owl"))])
    assert tree(tmp_path / "sorted") == {"Crow/1.jpg": b"one", "Owl/2.jpg": b"two"}
    assert told == [f"sorted into {str(tmp_path / 'sorted')!r}: 2 copied"]
    assert (tmp_path / "sorted" / "Crow" / "1.jpg").stat().st_mtime_ns == 10**18 + 5
    assert one.read_bytes() == b"one"


def test_unsure_and_far_pictures_have_folders_of_their_own(photos, tmp_path):
    pictures = [photos(f"{n}.jpg", bytes([n])) for n in range(4)]
    results = [
        answer("Crow", 0.49),
        answer("Crow", 0.5),
        answer("Crow", 0.99, distance=9.0, far=True),
        answer("Crow", 0.99, distance=1.0, far=False),
    ]
    told = sort(tmp_path / "sorted", list(zip(pictures, results, strict=True)), least=0.5)
    assert set(tree(tmp_path / "sorted")) == {f"{UNSURE}/0.jpg", "Crow/1.jpg", f"{FAR}/2.jpg", "Crow/3.jpg"}
    assert told[0].endswith(f": 4 copied, 1 of them in {UNSURE!r}, 1 of them in {FAR!r}")


def test_what_cannot_be_read_stays_where_it_is_and_is_counted(photos, tmp_path):
    broken = photos("broken.jpg", b"no picture")
    folder = Item("locked", InputError("E-FOLDER", "locked"))
    told = sort(tmp_path / "sorted", [(broken, InputError("E-IMAGE-FORMAT", "broken")), (folder, folder.source)])
    assert not (tmp_path / "sorted").exists()  # nothing was to be put there
    assert told[1:] == ["not sorted: 1 could not be read"]


def test_members_of_archives_are_written_as_they_are(tmp_path):
    members = [Item("a.zip/x/owl.jpg", b"one"), Item("a.zip/y/owl.jpg", b"two"), Item("a.zip/x/owl.jpg#2", b"three")]
    sort(tmp_path / "sorted", [(member, answer("Owl")) for member in members], link="hard")
    found = tree(tmp_path / "sorted")
    assert sorted(found.values()) == [b"one", b"three", b"two"]
    assert all(name.startswith("Owl/owl") and name.endswith(".jpg") for name in found)


def test_a_cascade_takes_no_archives_for_they_would_pile_up_in_memory(tmp_path):
    with pytest.raises(UsageError, match=r"E-SORT-INTO: 'a.zip/owl.jpg' lies in an archive"):
        sort(tmp_path / "sorted", [(Item("a.zip/owl.jpg", b"one"), answer("Owl"))], keep_bytes=False)


def test_a_picture_that_went_meanwhile_is_counted(photos, tmp_path):
    gone = photos("gone.jpg", b"one")
    gone.unlink()
    assert sort(tmp_path / "sorted", [(gone, answer("Owl"))])[1:] == ["not sorted: 1 were gone meanwhile"]


# --- names that are taken -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [None, "hard", "symbolic"])
def test_pictures_of_one_name_are_kept_apart_and_a_second_run_in_any_order_does_nothing(photos, tmp_path, link):
    pairs = [(photos(f"{n}/owl.jpg", f"owl {n}".encode()), answer("Owl")) for n in range(4)]
    sort(tmp_path / "sorted", pairs, link=link)
    found = tree(tmp_path / "sorted")
    assert sorted(found.values()) == [b"owl 0", b"owl 1", b"owl 2", b"owl 3"]
    for again in (pairs, pairs[::-1]):
        told = sort(tmp_path / "sorted", again, link=link)
        assert tree(tmp_path / "sorted") == found
        assert told[0].endswith(": 0 linked, 4 were there before" if link else ": 0 copied, 4 were there before")


def test_what_is_there_is_never_replaced(photos, tmp_path):
    mine = tmp_path / "sorted" / "Owl" / "owl.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine!")
    picture = photos("owl.jpg", b"other")  # of the same size
    sort(tmp_path / "sorted", [(picture, answer("Owl"))])
    found = tree(tmp_path / "sorted")
    assert found.pop("Owl/owl.jpg") == b"mine!"
    assert list(found.values()) == [b"other"]


def test_the_same_content_under_one_name_is_one_file(photos, tmp_path):
    pairs = [(photos(f"{n}/owl.jpg", b"the same"), answer("Owl")) for n in range(2)]
    assert sort(tmp_path / "sorted", pairs)[0].endswith(": 1 copied, 1 were there before")
    assert tree(tmp_path / "sorted") == {"Owl/owl.jpg": b"the same"}


@given(names=TWINS)
def test_every_class_has_a_folder_of_its_own(names):
    folders = folders_of(names)
    assert list(folders) == names
    assert len({sorting._plain(folder) for folder in folders.values()} | {UNSURE, FAR}) == len(names) + 2
    assert not any(folder.startswith(".") or "/" in folder for folder in folders.values())


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_safe_names_can_be_folders_and_are_short(name):
    safe = safe_name(name)
    assert len(os.fsencode(safe)) <= 109
    assert safe not in {".", ".."}
    assert not set(safe) & set('<>:"|?*\\/\0')


def test_a_name_as_long_as_can_be_gets_its_mark_all_the_same(photos, tmp_path):
    name = f"{'n' * 251}.jpg"
    pairs = [(photos(f"{n}/{name}", bytes([n])), answer("Owl")) for n in range(3)]
    sort(tmp_path / "sorted", pairs)
    found = [path.name for path in (tmp_path / "sorted" / "Owl").iterdir()]
    assert len(found) == 3
    assert {(len(one), one[-4:]) for one in found} == {(255, ".jpg")}
    assert marked("owl.jpg", "12345678") == "owl~12345678.jpg"


def test_names_that_are_no_utf8_keep_their_bytes(tmp_path):
    raw = os.fsencode(tmp_path) + b"/\xe9.jpg"
    try:
        with open(raw, "wb") as file:
            file.write(b"one")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    sort(tmp_path / "sorted", [(os.fsdecode(raw), answer("Owl"))])
    assert [os.fsencode(path.name) for path in (tmp_path / "sorted" / "Owl").iterdir()] == [b"\xe9.jpg"]


def test_a_class_that_cannot_be_a_folder_on_this_disk_gets_another_name_and_that_is_told(photos, tmp_path, monkeypatch):
    make = sorting.Sorter._make

    def on_vfat(self, name):
        if ":" in name:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        make(self, name)

    monkeypatch.setattr(sorting.Sorter, "_make", on_vfat)
    pairs = [(photos(f"{n}.jpg", bytes([n])), answer("Owl: barn")) for n in range(2)]
    told = sort(tmp_path / "sorted", pairs, names=["Owl: barn"])
    folder = safe_name("Owl: barn")
    assert set(tree(tmp_path / "sorted")) == {f"{folder}/0.jpg", f"{folder}/1.jpg"}
    assert told[-1] == f"class 'Owl: barn' cannot be the name of a folder here: its pictures are in {folder!r}"


# --- links ----------------------------------------------------------------------------------------------------------


def test_hard_links_are_the_same_file_and_symbolic_ones_lead_to_it(photos, tmp_path):
    picture = photos("owl.jpg", b"one")
    sort(tmp_path / "hard", [(picture, answer("Owl"))], link="hard")
    sort(tmp_path / "symbolic", [(picture, answer("Owl"))], link="symbolic")
    assert (tmp_path / "hard" / "Owl" / "owl.jpg").samefile(picture)
    assert not (tmp_path / "hard" / "Owl" / "owl.jpg").is_symlink()
    assert (tmp_path / "symbolic" / "Owl" / "owl.jpg").readlink() == picture


def test_a_link_is_made_to_the_picture_and_not_to_a_link_that_leads_there(photos, tmp_path):
    picture = photos("owl.jpg", b"one")
    link = picture.with_name("link.jpg")
    link.symlink_to("owl.jpg")
    sort(tmp_path / "sorted", [(link, answer("Owl"))], link="hard")
    assert not (tmp_path / "sorted" / "Owl" / "link.jpg").is_symlink()
    assert (tmp_path / "sorted" / "Owl" / "link.jpg").samefile(picture)


def test_hard_links_to_another_disk_are_one_line(photos, tmp_path, monkeypatch):
    def refused(*_args, **_more):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(os, "supports_dir_fd", os.supports_dir_fd | {refused})
    with pytest.raises(UsageError, match=r"another disk.*give --link symbolic"):
        sort(tmp_path / "sorted", [(photos("owl.jpg", b"one"), answer("Owl"))], link="hard")


def test_a_disk_without_hard_links_takes_copies_and_replaces_nothing(photos, tmp_path, monkeypatch):
    def refused(*_args, **_more):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(os, "supports_dir_fd", os.supports_dir_fd | {refused})
    pairs = [(photos(f"{n}/owl.jpg", f"owl {n}".encode()), answer("Owl")) for n in range(3)]
    sort(tmp_path / "sorted", pairs)
    assert sorted(tree(tmp_path / "sorted").values()) == [b"owl 0", b"owl 1", b"owl 2"]
    assert sort(tmp_path / "sorted", pairs)[0].endswith(": 0 copied, 3 were there before")


# --- nothing outside of DIR, and not DIR itself ---------------------------------------------------------------------


def test_a_folder_that_is_a_link_is_not_followed(photos, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted" / "Owl").symlink_to(elsewhere)
    with pytest.raises(UsageError, match=r"E-SORT-INTO: 'Owl' in .* is a link or a file and no folder"):
        sort(tmp_path / "sorted", [(photos("owl.jpg", b"one"), answer("Owl"))])
    assert tree(elsewhere) == {}


def test_a_link_that_has_the_name_of_a_picture_is_not_written_through(photos, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine!")
    folder = tmp_path / "sorted" / "Owl"
    folder.mkdir(parents=True)
    (folder / "owl.jpg").symlink_to(victim)
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere")
    pairs = [(photos("owl.jpg", b"other"), answer("Owl")), (photos("gone.jpg", b"third"), answer("Owl"))]
    sort(tmp_path / "sorted", pairs)
    assert victim.read_bytes() == b"mine!"
    assert not (tmp_path / "nowhere").exists()
    assert sorted(path.read_bytes() for path in folder.iterdir() if not path.is_symlink()) == [b"other", b"third"]


def test_what_lies_in_the_folder_is_not_sorted_again(photos, tmp_path):
    sort(tmp_path / "sorted", [(photos("owl.jpg", b"one"), answer("Owl"))])
    (tmp_path / "way in").symlink_to(tmp_path / "sorted")
    own = [tmp_path / "sorted" / "Owl" / "owl.jpg", tmp_path / "way in" / "Owl" / "owl.jpg"]
    told = sort(tmp_path / "sorted", [(path, answer("Crow")) for path in own])
    assert tree(tmp_path / "sorted") == {"Owl/owl.jpg": b"one"}
    assert told[1:] == ["not sorted: 2 lie in it already"]


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing_half_written_and_says_what_could_not_be_put(photos, tmp_path, monkeypatch):
    pairs = [(photos(f"{n}.jpg", bytes([n]) * 1000), answer("Owl")) for n in range(3)]
    copy, copied = sorting.copy_synced, []

    def until_full(source, path):
        copied.append(source)
        if len(copied) == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        copy(source, path)

    monkeypatch.setattr(sorting, "copy_synced", until_full)
    with pytest.raises(SystemProblem, match=r"could not put '.*1\.jpg' into '.*sorted/Owl'.*No space left.*free space"):
        sort(tmp_path / "sorted", pairs)
    assert set(tree(tmp_path / "sorted")) == {"Owl/0.jpg"}
    sort(tmp_path / "sorted", pairs)
    assert set(tree(tmp_path / "sorted")) == {"Owl/0.jpg", "Owl/1.jpg", "Owl/2.jpg"}


def test_what_a_killed_run_left_behind_is_removed_and_what_another_one_needs_is_not(photos, tmp_path):
    left, used = (tmp_path / "sorted" / f"{sorting.SCRATCH}{name}" for name in ("left", "used"))
    for folder in (left, used):
        folder.mkdir(parents=True)
        (folder / "copy").write_bytes(b"half")
    with exclusive(used):
        sort(tmp_path / "sorted", [(photos("owl.jpg", b"one"), answer("Owl"))])
    assert not left.exists()
    assert (used / "copy").read_bytes() == b"half"


def test_several_that_sort_the_same_pictures_at_once_put_each_there_once(photos, tmp_path):
    data = {f"{n}/owl.jpg": os.urandom(10_000) for n in range(30)}
    pairs = [(photos(name, content), answer("Owl")) for name, content in data.items()]
    children = []
    for number in range(3):
        children.append(os.fork())
        if children[-1] == 0:
            code = 1
            try:
                sort(tmp_path / "sorted", pairs if number else pairs[::-1])
                code = 0
            finally:
                os._exit(code)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert sorted(tree(tmp_path / "sorted").values()) == sorted(data.values())


@pytest.mark.slow
def test_whenever_it_is_killed_what_has_a_name_is_whole_and_the_next_run_does_the_rest(photos, tmp_path):
    data = {f"{n}/owl.jpg": os.urandom(200_000) for n in range(60)}
    pairs = [(photos(name, content), answer("Owl")) for name, content in data.items()]
    draw = random.Random(0)
    began = time.monotonic()
    sort(tmp_path / "measured", pairs)
    took, kills = time.monotonic() - began, 0
    for _ in range(40):
        if len(tree(tmp_path / "sorted")) == len(pairs):  # another run would have nothing to do
            shutil.rmtree(tmp_path / "sorted")
        child = os.fork()
        if child == 0:
            try:
                sort(tmp_path / "sorted", pairs)
            finally:
                os._exit(0)
        time.sleep(draw.uniform(0.0, took))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        named = list((tmp_path / "sorted").rglob("*.jpg"))
        assert {path.read_bytes() for path in named} <= set(data.values())
        assert len({path.read_bytes() for path in named}) == len(named)
    assert kills >= 10
    sort(tmp_path / "sorted", pairs)
    assert sorted(tree(tmp_path / "sorted").values()) == sorted(data.values())


@pytest.mark.parametrize("place", ["file", "s3://bucket/sorted"])
def test_a_place_that_is_no_folder_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"E-SORT-INTO: --sort-into"), open_sorter(place, link=None, least=0):
        pass


def test_a_folder_that_was_there_stays_and_one_that_was_made_for_nothing_goes(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        with open_sorter(str(tmp_path / name), link=None, least=0):
            pass
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second file system here")
def test_a_hard_link_to_another_file_system_is_refused_by_the_system_itself(photos, tmp_path):
    picture = photos("owl.jpg", b"one")
    folder = Path("/dev/shm") / f"zsl-sorted-{os.getpid()}"
    if Path("/dev/shm").stat().st_dev == picture.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    try:
        with pytest.raises(UsageError, match="lies on another disk"):
            sort(folder, [(picture, answer("Owl"))], link="hard")
        sort(folder, [(picture, answer("Owl"))])
        assert tree(folder) == {"Owl/owl.jpg": b"one"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
