"""Inputs in object stores, on fsspec's store in memory: what is found, how it is read, and what a bad network does."""

from __future__ import annotations

import contextlib
import errno
import io
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zsl_runtime.errors import BackendError, InputError, SystemProblem, Terminated, UsageError
from zsl_runtime.inputs import stores
from zsl_runtime.inputs.feature_rows import RowFiles
from zsl_runtime.inputs.files import find_files, pictures, read_list
from zsl_runtime.inputs.item import SHARD_SUFFIXES, Item, Tally, in_store
from zsl_runtime.labelling.reading import FETCHED_AT_ONCE, fetched_ahead
from zsl_runtime.pixels.pixels import SUFFIXES

MEMORY = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def empty_store(monkeypatch):
    MEMORY.rm("/", recursive=True) if MEMORY.ls("/") else None
    monkeypatch.setattr(stores, "PAUSE", 0.001)
    stores._large.clear()


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), shade, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def put(*names: str, data: bytes = b"x") -> None:
    for name in names:
        MEMORY.pipe(f"/{name}", data)


def names(*paths: str) -> list[str]:
    return [place.name if isinstance(place, Item) else place for place in find_files(paths, SUFFIXES, SHARD_SUFFIXES)]


# --- what is found --------------------------------------------------------------------------------------------------


def test_what_is_in_a_store():
    for path in ("s3://b/a.jpg", "memory://x", "S3://b", "https://h/a?b=c"):
        assert in_store(path)
    for path in ("a.jpg", "/s3/b", "s3:/b", "://x", "C://photos/a.jpg", "", b"s3://b", None, Path("s3://b")):
        assert not in_store(path)


def test_a_folder_is_walked_to_any_depth_in_the_order_of_a_folder_on_the_disk(tmp_path):
    files = ["p/b.png", "p/a/2.jpg", "p/a/c/1.jpg", "p/a.png", "p/a/10.jpg", "p/.hid/1.jpg", "p/x.txt", "p/é ü,[1].png"]
    files += ["p/@eaDir/t.jpg", "p/.h.jpg", "p/z.zip"]
    put(*files)
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    wanted = [path.removeprefix(f"{tmp_path}/") for path in names(str(tmp_path / "p"))]
    assert len(wanted) == 6
    for folder in ("memory://p", "memory://p/"):
        assert names(folder) == [f"memory://{name}" for name in wanted]
    found, there = (find_files([path], SUFFIXES, SHARD_SUFFIXES) for path in (str(tmp_path / "p"), "memory://p"))
    assert (found.count, found.shards, found.kinds, found.left_out.litter) == (
        *(there.count, there.shards, there.kinds, there.left_out.litter),
    )


@pytest.mark.parametrize(
    "pattern",
    ["p/*.png", "p/*/*.jpg", "p/a/?.jpg", "p/**/*.jpg", "p/**", "p/*", "p/a/[12]*.jpg", "p/**/1.jpg", "p/*.zip"],
)
def test_a_pattern_stands_for_what_it_does_on_the_disk(tmp_path, monkeypatch, pattern):
    files = ["p/b.png", "p/a/2.jpg", "p/a/c/1.jpg", "p/a/10.jpg", "p/.h/1.jpg", "p/.h.jpg", "p/x.txt", "p/z.zip"]
    files += ["p/@eaDir/1.jpg"]
    put(*files)
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    wanted = names(pattern)
    assert wanted
    assert names(f"memory://{pattern}") == [f"memory://{name}" for name in wanted]


def test_a_name_with_letters_of_patterns_is_that_file_where_it_is_there():
    put("p/a[1].jpg", "p/a1.jpg")
    assert names("memory://p/a[1].jpg") == ["memory://p/a[1].jpg"]
    assert names("memory://p/a[1]*.jpg") == ["memory://p/a1.jpg"]


def test_what_is_not_there_is_a_usage_error():
    put("p/a.jpg")
    for path in ("memory://p/b.jpg", "memory://none", "memory://p/*.png"):
        with pytest.raises(UsageError, match="E-INPUT-MISSING: there is no"):
            names(path)
    put("q/a.txt")
    with pytest.raises(UsageError, match=r"E-NO-IMAGES: nothing to label in 'memory://q' \(1 files of other kinds"):
        names("memory://q")


@pytest.mark.parametrize("path", ["ftp://h/a.jpg", "github://o:r@/a.jpg", "file:///etc", "simplecache::s3://b/a.jpg"])
def test_no_other_kind_of_store_is_opened(path, monkeypatch):
    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: pytest.fail("it was opened"))
    if not in_store(path):
        return
    with pytest.raises(UsageError, match=r"E-STORE: .* in a store of a kind that is not opened; known are s3,"):
        names(path)
    with pytest.raises(InputError, match="E-STORE-READ"):
        stores.read(path)


def test_a_package_that_is_missing_is_told_with_what_installs_it(monkeypatch):
    real = stores.importlib.import_module

    def absent(name):
        if name in {"s3fs", "gcsfs"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr(stores.importlib, "import_module", absent)
    with pytest.raises(BackendError) as caught:
        names("s3://bucket/a.jpg")
    wanted = 'E-PACKAGE: s3:// needs s3fs, which is not installed here; pip install "zsl-deploy[cloud]"'
    assert str(caught.value) == wanted
    with pytest.raises(BackendError, match="E-PACKAGE: gs:// needs gcsfs; pip install gcsfs"):
        names("gs://bucket/a.jpg")


def test_a_server_of_files_is_not_asked_before_the_picture_is_read(monkeypatch):
    monkeypatch.setattr(stores, "_opened", lambda *_: pytest.fail("it was opened"))
    assert names("https://example.org/a.jpg?size=1") == ["https://example.org/a.jpg?size=1"]


def test_entries_of_a_list_that_are_called_as_files_are_not_asked_for(monkeypatch, tmp_path):
    from zsl_runtime.inputs.files import list_entries
    from zsl_runtime.machine.stop import Stop

    put("p/a.jpg", "p/q/b.jpg", "odd/c.jpg")
    asked = []
    real = stores.kind_of
    monkeypatch.setattr(stores, "kind_of", lambda path: asked.append(path) or real(path))
    listing = tmp_path / "list"
    listing.write_text("memory://p/a.jpg\nmemory://p/q/\nmemory://odd\nmemory://z.tar\nftp://no/a\n")
    with listing.open("rb") as stream, Stop() as stop:
        places = list(list_entries(stream.fileno(), SUFFIXES, null=False, stop=stop, tally=Tally())())
    assert [place for place in places if isinstance(place, str)] == [
        *("memory://p/a.jpg", "memory://p/q/b.jpg", "memory://odd/c.jpg", "memory://z.tar"),
    ]
    assert asked == ["memory://odd", "ftp://no/a"]
    assert isinstance(places[-1], Item)
    assert places[-1].source.code == "E-STORE-READ"
    assert read_list  # the list itself is read as any


# --- a bad network --------------------------------------------------------------------------------------------------


class Flaky:
    """Makes a method of the store in memory fail some times with an error, and counts calls."""

    def __init__(self, monkeypatch, method: str, error: Exception, times: int) -> None:
        self.calls = 0
        real = getattr(MEMORY, method)

        def call(*given, **named):
            self.calls += 1
            if self.calls <= times:
                raise error
            return real(*given, **named)

        monkeypatch.setattr(type(MEMORY), method, staticmethod(call))


CUT = [ConnectionResetError(errno.ECONNRESET, "connection reset"), TimeoutError(), RuntimeError("it\nbroke")]


@pytest.mark.parametrize("error", CUT, ids=lambda error: type(error).__name__)
def test_what_fails_for_a_moment_is_tried_again(monkeypatch, error):
    put("p/a.jpg", data=b"whole")
    flaky = Flaky(monkeypatch, "cat_file", error, stores.TRIES - 1)
    assert stores.read("memory://p/a.jpg") == b"whole"
    assert flaky.calls == stores.TRIES


@pytest.mark.parametrize("error", CUT, ids=lambda error: type(error).__name__)
def test_what_goes_on_failing_is_an_error_of_the_picture(monkeypatch, error):
    put("p/a.jpg")
    flaky = Flaky(monkeypatch, "cat_file", error, 99)
    with pytest.raises(InputError, match=r"^E-STORE-READ: 'memory://p/a.jpg' cannot be read: .+; see that"):
        stores.read("memory://p/a.jpg")
    assert flaky.calls == stores.TRIES


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), PermissionError("Access Denied")])
def test_what_does_not_get_better_is_not_tried_again(monkeypatch, error):
    put("p/a.jpg")
    flaky = Flaky(monkeypatch, "cat_file", error, 99)
    told = "there is none" if isinstance(error, FileNotFoundError) else "Access Denied"
    with pytest.raises(InputError, match=f"E-STORE-READ: 'memory://p/a.jpg' cannot be read: {told};"):
        stores.read("memory://p/a.jpg")
    assert flaky.calls == 1


@pytest.mark.parametrize("error", [PermissionError("Access Denied"), TimeoutError("no answer")])
def test_a_store_that_cannot_be_looked_at_is_one_line(monkeypatch, error):
    put("p/a.jpg")
    Flaky(monkeypatch, "info", error, 99)
    with pytest.raises(UsageError, match=f"^E-STORE: 'memory://p/a.jpg' cannot be looked at: {error}; check the name"):
        names("memory://p/a.jpg")


def test_a_folder_that_cannot_be_listed_is_told_and_the_rest_is_found(monkeypatch):
    put("p/a/1.jpg", "p/b/1.jpg")
    real = MEMORY.ls

    def ls(path, *given, **named):
        if path == "p/a":
            raise PermissionError(errno.EACCES, "Access Denied")
        return real(path, *given, **named)

    monkeypatch.setattr(type(MEMORY), "ls", staticmethod(ls))
    found = list(find_files(["memory://p"], SUFFIXES))
    assert found[1] == "memory://p/b/1.jpg"
    assert str(found[0].source).startswith("E-FOLDER: 'memory://p/a' cannot be looked into: Access Denied")


def test_a_file_that_is_too_large_is_not_fetched(monkeypatch):
    put("p/a.jpg", "p/b.jpg")
    monkeypatch.setattr(stores, "FILE_BYTES", 0)
    monkeypatch.setattr(stores, "SMALL_BYTES", 0)
    assert len(names("memory://p")) == 2
    Flaky(monkeypatch, "cat_file", AssertionError("it was fetched"), 99)
    with pytest.raises(InputError, match=r"E-STORE-READ: 'memory://p/a.jpg' has 1 bytes, at most 0 are read of one"):
        stores.read("memory://p/a.jpg")


@pytest.mark.parametrize("listed", [True, False], ids=["its folder was listed", "named alone"])
def test_a_large_file_is_read_in_pieces_and_no_small_one(monkeypatch, listed):
    monkeypatch.setattr(stores, "SMALL_BYTES", 10)
    monkeypatch.setattr(stores, "RANGE", 4)
    stores._large.clear()
    put("p/a.jpg", data=b"0123456789")
    put("p/b.jpg", data=b"0123456789a")
    if listed:
        assert len(names("memory://p")) == 2
    asked, real = [], MEMORY.cat_file

    def cat_file(path, start=None, end=None):
        asked.append((start, end))
        return real(path, start=start, end=end)

    monkeypatch.setattr(type(MEMORY), "cat_file", staticmethod(cat_file))
    assert stores.read_small("memory://p/a.jpg") == b"0123456789"
    assert stores.read_small("memory://p/b.jpg") is None
    assert asked == [(0, 11), (0, 11)][: 1 if listed else 2]
    asked.clear()
    assert stores.read("memory://p/b.jpg") == b"0123456789a"
    assert asked == [(0, 4), (4, 8), (8, 11)]
    stores._large.clear()


@pytest.mark.parametrize("path", ["memory://", "memory:///"])
def test_a_store_with_nothing_named_in_it(path):
    put("p/a.jpg")
    with pytest.raises(UsageError, match=f"E-STORE: '{path}' names a store and nothing in it; give memory://BUCKET"):
        find_files([path], SUFFIXES)


def test_rows_in_a_store_that_is_not_opened_are_an_error_of_their_own(tmp_path):
    with pytest.raises(InputError, match=r"E-STORE-READ: 'file:///x.npy' is in a store of a kind that is not opened"):
        stores.bring("file:///x.npy", str(tmp_path))


def test_a_store_that_has_no_part_of_an_empty_file(monkeypatch):
    put("p/a.jpg", data=b"")
    monkeypatch.setattr(stores, "PAUSE", 0)
    Flaky(monkeypatch, "cat_file", OSError(errno.EINVAL, "InvalidRange"), 99)
    assert stores.read("memory://p/a.jpg") == b""


# --- archives and rows ----------------------------------------------------------------------------------------------


@pytest.fixture
def archives(tmp_path):
    """A zip and two tar files of 30 pictures, here and there."""
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for number in range(30):
            archive.writestr(f"d/{number}.png", png(number))
    for name in ("t.tar", "t.tar.gz"):
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
            for number in range(30):
                info = tarfile.TarInfo(f"{number}.png")
                info.size = len(png(number))
                archive.addfile(info, io.BytesIO(png(number)))
    for name in ("z.zip", "t.tar", "t.tar.gz"):
        put(f"p/{name}", data=(tmp_path / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["z.zip", "t.tar", "t.tar.gz"])
@pytest.mark.parametrize("size", [100, 1 << 22])
def test_archives_give_what_they_give_on_the_disk(archives, monkeypatch, name, size):
    monkeypatch.setattr(stores, "RANGE", size)
    here = list(pictures([str(archives / name)], SUFFIXES, Tally()))
    there = list(pictures([f"memory://p/{name}"], SUFFIXES, Tally()))
    assert len(there) == 30
    assert [item.source for item in there] == [item.source for item in here]
    assert [item.name.removeprefix("memory://p/") for item in there] == [
        item.name.removeprefix(f"{archives}/") for item in here
    ]


def test_of_a_zip_file_only_the_pieces_that_are_wanted_are_asked_for(archives, monkeypatch):
    with zipfile.ZipFile(archives / "large.zip", "w") as archive:
        for number in range(10):
            archive.writestr(f"{number}.png", np.random.default_rng(number).bytes(100_000))
    put("p/large.zip", data=(archives / "large.zip").read_bytes())
    monkeypatch.setattr(stores, "RANGE", 1000)
    real, asked = MEMORY.cat_file, []

    def cat_file(path, start=None, end=None):
        asked.append(end - start)
        return real(path, start=start, end=end)

    monkeypatch.setattr(type(MEMORY), "cat_file", staticmethod(cat_file))
    path = "memory://p/large.zip"
    items = list(pictures([path], SUFFIXES, Tally(), lambda name: name == f"{path}/7.png"))
    assert items[7].source == np.random.default_rng(7).bytes(100_000)
    assert sum(asked) < 130_000  # of a million


@pytest.mark.parametrize("name", ["z.zip", "t.tar"])
def test_an_archive_whose_connection_is_cut_is_told_after_what_came_before(archives, monkeypatch, name):
    monkeypatch.setattr(stores, "RANGE", 600)
    whole = list(pictures([f"memory://p/{name}"], SUFFIXES, Tally()))
    real, calls = MEMORY.cat_file, []

    def cat_file(path, start=None, end=None):
        calls.append(start)
        if name == "t.tar" and len(calls) > 12:
            raise ConnectionResetError("cut")
        if name == "z.zip" and start <= 700 < end:
            raise ConnectionResetError("cut")
        return real(path, start=start, end=end)

    monkeypatch.setattr(type(MEMORY), "cat_file", staticmethod(cat_file))
    items = list(pictures([f"memory://p/{name}"], SUFFIXES, Tally()))
    wrong = [item for item in items if isinstance(item.source, InputError)]
    assert 0 < len(wrong) < len(items)
    assert {item.source.code for item in wrong} == {"E-STORE-READ"}
    good = [item for item in items if not isinstance(item.source, InputError)]
    assert [item for item in whole if item in good] == good


def test_archives_that_are_not_there_or_empty(archives):
    put("p/empty.tar", data=b"")
    for path, told in (("memory://p/none.tar", "cannot be read"), ("memory://p/empty.tar", "has zero bytes")):
        (item,) = pictures([path], SUFFIXES, Tally())
        assert f"E-SHARD-OPEN: '{path}' {told}" in str(item.source)


@settings(max_examples=60)
@given(st.data())
def test_ranges_read_as_a_file_does(data):
    content = data.draw(st.binary(min_size=1, max_size=300))
    put("p/f", data=content)
    there, here = stores.open_ranges("memory://p/f"), io.BytesIO(content)
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            at, whence = data.draw(st.integers(0, 350)), data.draw(st.sampled_from([0, 2]))
            if whence == 2:
                at = -min(at, len(content))
            assert there.seek(at, whence) == here.seek(at, whence)
        size = data.draw(st.integers(-1, 350))
        assert there.read(size) == here.read(size)


def test_rows_of_feature_files_are_those_of_the_file(tmp_path, monkeypatch):
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "f.npy", rows)
    put("p/f.npy", data=(tmp_path / "f.npy").read_bytes())
    put("p/bad.npy")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    items = list(RowFiles((1, 3)).items(["memory://p/f.npy", "memory://p/bad.npy", "memory://p/none.npy"]))
    assert [item.name for item in items] == [
        *(f"memory://p/f.npy#{number}" for number in range(4)),
        "memory://p/bad.npy",
        "memory://p/none.npy",
    ]
    assert (np.stack([item.source for item in items[:4]]) == rows).all()
    assert str(items[4].source).startswith("E-ROW-FILE: 'memory://p/bad.npy' is not a readable .npy file")
    assert items[5].source.code == "E-STORE-READ"
    assert list((tmp_path / "tmp").iterdir()) == []


# --- ahead ----------------------------------------------------------------------------------------------------------


def test_files_are_fetched_side_by_side_in_order_and_bounded(monkeypatch):
    put(*(f"p/{number}.jpg" for number in range(100)))
    real, lock, all_there = MEMORY.cat_file, threading.Lock(), threading.Event()
    at_once = most = 0

    def slow(path, **named):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        if most == FETCHED_AT_ONCE or not all_there.wait(20):  # where they come one after the other, they never are
            all_there.set()
        time.sleep(0.01)  # in which one too many would come
        with lock:
            at_once -= 1
        return real(path, **named)

    monkeypatch.setattr(type(MEMORY), "cat_file", staticmethod(slow))
    paths = [f"memory://p/{number}.jpg" for number in range(100)]
    ready = fetched_ahead(Item(path, path) for path in paths)
    assert list(ready) == [Item(path, b"x") for path in paths]
    assert most == FETCHED_AT_ONCE


def test_what_is_on_the_disk_takes_no_threads(monkeypatch):
    monkeypatch.setattr("zsl_runtime.labelling.reading.in_order", lambda *_, **__: pytest.fail("threads"))
    items = [Item("a.jpg", "a.jpg"), Item("m", "memory://p/a.jpg")]
    assert list(fetched_ahead(item for item in items)) == items
    assert list(fetched_ahead(item for item in [])) == []


# --- outputs --------------------------------------------------------------------------------------------------------


def test_an_output_is_put_there_whole_at_the_end_and_never_a_part(tmp_path):
    with stores.uploading("memory://out/a.csv") as local:
        Path(local).write_bytes(b"whole")
        Path(f"{local}.share").write_bytes(b"beside")
        assert not MEMORY.exists("/out/a.csv")
    assert (MEMORY.cat("/out/a.csv"), MEMORY.cat("/out/a.csv.share")) == (b"whole", b"beside")
    assert not Path(local).parent.exists()
    with contextlib.suppress(KeyError), stores.uploading("memory://out/a.csv") as local:
        Path(local).write_bytes(b"part")
        raise KeyError
    assert MEMORY.cat("/out/a.csv") == b"whole"
    assert not Path(local).parent.exists()


def test_an_output_that_the_store_does_not_take_stays_on_the_disk(monkeypatch):
    Flaky(monkeypatch, "put_file", PermissionError("Access Denied"), 99)
    with pytest.raises(SystemProblem) as caught, stores.uploading("memory://out/a.csv") as local:
        Path(local).write_bytes(b"whole")
    assert str(caught.value).startswith("E-STORE-WRITE: could not write 'memory://out/a.csv': Access Denied; the resul")
    assert str(Path(local).parent) in str(caught.value)
    assert Path(local).read_bytes() == b"whole"


@pytest.mark.parametrize("ended", [KeyboardInterrupt, Terminated])
def test_an_output_whose_way_there_is_interrupted_is_told_of(monkeypatch, capfd, tmp_path, ended):
    def put(*_: object, **__: object) -> None:
        raise ended

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", put)
    monkeypatch.setattr(stores.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ended), stores.uploading("memory://b/labels.csv") as path:
        Path(path).write_text("hours of work", encoding="utf-8")
    told = f"note: 'memory://b/labels.csv' was not written; the results are in '{Path(path).parent}', copy them"
    assert told in capfd.readouterr().err
    assert Path(path).read_text(encoding="utf-8") == "hours of work"


def test_a_large_file_that_was_replaced_by_a_small_one_is_read():
    memory = fsspec.filesystem("memory")
    memory.pipe("/again/a.jpg", bytes(stores.SMALL_BYTES + 1))
    assert stores.read("memory://again/a.jpg") == bytes(stores.SMALL_BYTES + 1)
    memory.pipe("/again/a.jpg", b"small")
    assert [entry.name for entry in stores.entries("memory://again")] == ["a.jpg"]
    assert stores.read("memory://again/a.jpg") == b"small"


@pytest.mark.parametrize("path", ["https://h/a.csv", "s3://bucket", "s3://bucket/folder/", "memory://"])
def test_no_place_for_an_output(path):
    with pytest.raises(UsageError, match="E-OUTPUT: --output"), stores.uploading(path):
        pytest.fail("it began")
