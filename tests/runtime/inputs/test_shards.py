"""Pictures in zip and tar files: in the archive's order, bounded, and whatever is wrong is said in one line."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.errors import InputError
from zsl_runtime.inputs import shards
from zsl_runtime.inputs.item import SHARD_SUFFIXES, ZSTD, Tally, has_suffix
from zsl_runtime.inputs.shards import count_members, members

if TYPE_CHECKING:
    from zsl_runtime.inputs.item import Item

SUFFIXES = (".png", ".jpg")
CONTENT = [("b.png", b"second"), ("a/x.JPG", b"first" * 300), ("empty.png", b"")]
KINDS = [".zip", ".tar", ".tar.gz", ".tgz"]


def write(path: Path, content: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> str:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content:
                archive.writestr(zipfile.ZipInfo(name), data)
    else:
        mode = "w:" if path.suffix == ".tar" else "w:gz"
        with tarfile.open(path, mode, format=form, encoding="utf-8", errors="surrogateescape") as archive:
            for name, data in content:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return str(path)


def read(path: str) -> tuple[list[Item], int]:
    """Items and how many members were left out; the count made beforehand is right where there is one."""
    tally = Tally()
    items = list(members(path, SUFFIXES, tally))
    assert count_members(path, SUFFIXES) in (None, len(items))
    return items, tally.skipped


def codes(items: list[Item]) -> list[str | None]:
    return [item.source.code if isinstance(item.source, InputError) else None for item in items]


@pytest.mark.parametrize("kind", KINDS)
def test_members_come_in_the_order_of_the_archive_under_their_own_names(tmp_path, kind):
    path = write(tmp_path / f"birds{kind}", CONTENT)
    assert has_suffix(path, SHARD_SUFFIXES)
    assert read(path) == ([(f"{path}/{name}", data) for name, data in CONTENT], 0)


@pytest.mark.skipif(not ZSTD, reason="this Python's library reads no Zstandard")
def test_zstandard_is_read_where_the_library_can(tmp_path):
    from compression import zstd

    plain = write(tmp_path / "birds.tar", CONTENT)
    path = tmp_path / "birds.tar.zst"
    path.write_bytes(zstd.compress((tmp_path / "birds.tar").read_bytes()))
    assert [item.source for item in read(str(path))[0]] == [item.source for item in read(plain)[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_picture_is_counted_and_what_is_hidden_too(tmp_path, kind):
    names = ["a.png", "notes.txt", "inner.zip", "._a.png", "__MACOSX/._a.png", ".git/x.png", "./b.png", ".png"]
    path = write(tmp_path / f"birds{kind}", [(name, b"x") for name in names])
    items, skipped = read(path)
    assert [item.name for item in items] == [f"{path}/a.png", f"{path}/./b.png"]
    assert skipped == 5  # the folder .git is not looked into


def test_folders_links_and_devices_in_a_tar_file_are_no_pictures(tmp_path):
    path = tmp_path / "birds.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in [
            ("folder.png", tarfile.DIRTYPE),
            ("soft.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
            ("device.png", tarfile.CHRTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("real.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    assert read(str(path)) == ([(f"{path}/real.png", b"abc")], 4)


def test_a_link_in_a_zip_file_is_no_picture(tmp_path):
    path = tmp_path / "birds.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert read(str(path)) == ([], 1)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_in_all_three_kinds_of_tar(tmp_path, form):
    long = "/".join(["folder-of-birds"] * (10 if form == tarfile.USTAR_FORMAT else 60))
    content = [(f"{long}/{i}-größe.png", str(i).encode()) for i in range(3)] + [("short.png", b"end")]
    path = write(tmp_path / "birds.tar", content, form)
    assert read(path) == ([(f"{path}/{name}", data) for name, data in content], 0)


def test_sparse_members_are_left_out_and_do_not_disturb_the_next(tmp_path):
    """As GNU tar writes them: the header says that a block about holes follows, then the stored data."""
    path = tmp_path / "birds.tar"
    stored = b"data" * 128
    info = tarfile.TarInfo("holes.png")
    info.size, info.type = len(stored), tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    whole = tarfile.TarInfo("whole.png")
    whole.size = 3
    path.write_bytes(bytes(header) + bytes(512) + stored + whole.tobuf() + b"abc".ljust(512, b"\0") + bytes(1024))
    assert read(str(path)) == ([(f"{path}/whole.png", b"abc")], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_duplicates_absolute_names_and_names_that_lead_out_are_only_names(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = [("a.png", b"1"), ("a.png", b"2"), ("/etc/a.png", b"3"), ("../../a.png", b"4"), ("new\nline.png", b"5")]
    before = sorted(tmp_path.parent.rglob("*.png"))
    with pytest.warns(UserWarning, match="Duplicate") if kind == ".zip" else tmp_path.joinpath("x").open("w"):
        path = write(tmp_path / f"birds{kind}", content)
    assert read(path) == ([(f"{path}/{name}", data) for name, data in content], 0)
    assert sorted(tmp_path.parent.rglob("*.png")) == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_of_nothing_gives_nothing(tmp_path, kind):
    assert read(write(tmp_path / f"birds{kind}", [])) == ([], 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [None, b"", b"no archive at all, but long enough" * 100, "folder", "pipe"])
def test_what_is_no_archive_is_one_line(tmp_path, kind, content):
    path = tmp_path / f"birds{kind}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    items, _ = read(str(path))
    assert codes(items) == ["E-SHARD-OPEN"]
    assert items[0].name == str(path)
    assert "\n" not in str(items[0].source)


@pytest.mark.parametrize("kind", [".tar", ".tar.gz"])
def test_a_tar_file_that_is_cut_off_gives_what_is_before(tmp_path, kind):
    noise = [random.Random(i).randbytes(4000) for i in range(10)]
    path = write(tmp_path / f"birds{kind}", [(f"{i}.png", data) for i, data in enumerate(noise)])
    data = (tmp_path / f"birds{kind}").read_bytes()
    (tmp_path / f"birds{kind}").write_bytes(data[: len(data) // 2])
    items, _ = read(path)
    assert codes(items[:-1]) == [None] * (len(items) - 1)
    assert 4 <= len(items) - 1 <= 5
    assert [item.source for item in items[:-1]] == noise[: len(items) - 1]
    assert items[-1].name == path
    assert items[-1].source.code == "E-SHARD-DAMAGED"
    assert f"{len(items) - 1} pictures before that were read" in items[-1].source.message


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("padding", [0, 10_000, 40_000])
def test_gzip_data_may_come_in_pieces_with_zeros_behind(tmp_path, pieces, padding):
    plain = (tmp_path / "birds.tar", write(tmp_path / "birds.tar", CONTENT))[0].read_bytes()
    step = -(-len(plain) // pieces)
    packed = [gzip.compress(plain[start : start + step]) for start in range(0, len(plain), step)]
    path = tmp_path / "birds.tgz"
    path.write_bytes(b"".join(packed) + bytes(padding))
    assert [item.source for item in read(str(path))[0]] == [data for _, data in CONTENT]


def test_a_wrong_checksum_of_gzip_data_is_damage(tmp_path):
    path = tmp_path / "birds.tar.gz"
    write(path, [("a.png", b"x" * 100_000)])
    data = bytearray(path.read_bytes())
    data[-8] ^= 255
    path.write_bytes(data)
    assert codes(read(str(path))[0]) == [None, "E-SHARD-DAMAGED"]


def test_a_damaged_member_of_a_zip_file_is_its_own_error(tmp_path):
    path = write(tmp_path / "birds.zip", [(f"{i}.png", str(i).encode() * 99) for i in range(3)])
    data = bytearray((tmp_path / "birds.zip").read_bytes())
    with zipfile.ZipFile(path) as archive:
        middle = archive.infolist()[1]
    start = middle.header_offset + 30 + len(middle.filename)
    data[start] ^= 255
    (tmp_path / "birds.zip").write_bytes(data)
    items, _ = read(path)
    assert codes(items) == [None, "E-SHARD-MEMBER", None]
    assert items[1].name == f"{path}/1.png"


def test_encrypted_members_are_one_line_and_the_others_are_read(tmp_path):
    path = write(tmp_path / "birds.zip", [(f"{i}.png", b"x") for i in range(4)])
    data = bytearray((tmp_path / "birds.zip").read_bytes())
    with zipfile.ZipFile(path) as archive:
        offsets = [info.header_offset for info in archive.infolist()]
        directory = archive.start_dir
    for number, offset in enumerate(offsets[:2]):
        data[offset + 6] |= 1
        data[directory + number * (46 + len("0.png")) + 8] |= 1
    (tmp_path / "birds.zip").write_bytes(data)
    items, _ = read(path)
    assert [item.name for item in items] == [f"{path}/2.png", f"{path}/3.png", path]
    assert codes(items) == [None, None, "E-SHARD-ENCRYPTED"]
    assert "2 encrypted pictures" in items[-1].source.message


def test_members_packed_by_a_method_that_may_take_gigabytes_are_refused(tmp_path):
    path = tmp_path / "birds.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", b"x" * 100)
    items, _ = read(str(path))
    assert codes(items) == ["E-SHARD-MEMBER"]
    assert "method 14" in items[0].source.message


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_is_bounded_in_size_and_the_next_is_read(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(shards, "MEMBER_BYTES", 1000)
    path = write(tmp_path / f"birds{kind}", [("a.png", b"\0" * 1001), ("b.png", b"\0" * 1000)])
    items, _ = read(path)
    assert codes(items) == ["E-SHARD-MEMBER", None]


def test_what_a_zip_header_says_of_a_size_is_not_believed(tmp_path, monkeypatch):
    """A bomb that says it is small: reading stops at what it said, and then its checksum is wrong."""
    path = write(tmp_path / "birds.zip", [("a.png", b"\0" * 1_000_000)])
    data = bytearray((tmp_path / "birds.zip").read_bytes())
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    data[directory + 24 : directory + 28] = struct.pack("<I", 10)
    (tmp_path / "birds.zip").write_bytes(data)
    items, _ = read(path)
    assert codes(items) == ["E-SHARD-MEMBER"] or len(items[0].source) <= 10


def test_a_record_about_a_member_is_bounded(tmp_path):
    """A kilobyte of gzip that says a name of a gigabyte follows."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    path = tmp_path / "birds.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16)))
    items, _ = read(str(path))
    assert codes(items) == ["E-SHARD-DAMAGED"]
    assert "1,073,741,824 bytes" in items[0].source.message


def is_open(path: str) -> bool:
    """In this process."""
    return Path(path) in [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list the open files of a process")
@pytest.mark.parametrize("kind", KINDS)
def test_leaving_early_closes_the_file(tmp_path, kind):
    path = write(tmp_path / f"birds{kind}", CONTENT)
    items = members(path, SUFFIXES, Tally())
    next(items)
    assert is_open(path)
    items.close()
    assert not is_open(path)


def test_a_member_without_a_name_is_counted_as_it_is_read(tmp_path):
    """Damage that a fuzz test found: Python before 3.12 then fails in the middle of the list of contents."""
    path = tmp_path / "birds.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"first")
        archive.writestr("?.png", b"second")
        archive.writestr("c.png", b"third")
    data = path.read_bytes()
    at = data.rindex(b"?.png")  # in the list at the end; a name ends at its first zero byte
    examine(path, data[:at] + b"\0" + data[at + 1 :])


# --- anything at all ------------------------------------------------------------------------------------------------


def damaged(data: bytes, changes: list[tuple[int, int]], cut: int | None) -> bytes:
    """The bytes with some replaced, perhaps cut off."""
    changed = bytearray(data)
    for at, value in changes:
        if changed:
            changed[at % len(changed)] = value
    return bytes(changed[:cut])


def examine(path: Path, data: bytes) -> None:
    """Whatever the bytes are: items of bytes, at most one error of the shard itself, at its end, in one line."""
    path.write_bytes(data)
    items = list(members(str(path), SUFFIXES, Tally()))
    count = count_members(str(path), SUFFIXES)
    assert count is None or count == len(items)
    for item in items:
        assert item.name.startswith(str(path))
        if isinstance(item.source, InputError):
            assert item.source.code.startswith("E-SHARD-")
            assert "\n" not in str(item.source)
        else:
            assert len(item.source) <= shards.MEMBER_BYTES
    of_the_shard = [item for item in items if item.name == str(path)]
    assert len(of_the_shard) <= 2  # encrypted members, and a damage behind them
    assert of_the_shard == items[len(items) - len(of_the_shard) :]


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=8)
CUT = st.none() | st.integers(0, 8000)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    content = [*CONTENT, (f"{'long' * 40}.png", b"x" * 600), ("notes.txt", b"y" * 700)]
    return {kind: (folder / f"birds{kind}", write(folder / f"birds{kind}", content)) for kind in KINDS[:3]}


@pytest.mark.parametrize("kind", KINDS[:3])
@settings(max_examples=60)
@given(changes=CHANGES, cut=CUT)
def test_damage_is_survived(whole, tmp_path_factory, kind, changes, cut):
    data = whole[kind][0].read_bytes()
    examine(tmp_path_factory.getbasetemp() / f"fuzz{kind}", damaged(data, changes, cut))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[:3])
@settings(max_examples=5000)
@given(changes=CHANGES, cut=CUT)
def test_much_damage_is_survived(whole, tmp_path_factory, kind, changes, cut):
    data = whole[kind][0].read_bytes()
    examine(tmp_path_factory.getbasetemp() / f"fuzz{kind}", damaged(data, changes, cut))


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


@settings(max_examples=40)
@given(names=st.lists(NAMES, max_size=6))
def test_any_name_comes_out_as_it_is(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "names.tar"
    content = [(f"x{name}.png", str(i).encode()) for i, name in enumerate(names) if ".." not in name]
    write(path, content)
    given = [(item.name, item.source) for item in members(str(path), SUFFIXES, Tally())]
    hidden = [any(part.startswith(".") for part in name.split("/")) for name, _ in content]
    assert given == [(f"{path}/{name}", data) for (name, data), out in zip(content, hidden, strict=True) if not out]
