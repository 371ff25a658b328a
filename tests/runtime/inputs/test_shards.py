"""Pictures in zip and tar files: in the archive's order, bounded, and whatever is wrong is said in one line."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import tracemalloc
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.errors import InputError
from zsl_runtime.inputs import shards
from zsl_runtime.inputs.files import pictures
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


def bzipped(path, data: bytes, *, packed: bytes | None = None, told: int | None = None) -> str:
    """A zip file of one member a.png in bzip2; what its header says of it may be wrong."""
    raw, told, check = packed or bz2.compress(data), len(data) if told is None else told, zlib.crc32(data)
    name, known = b"a.png", (0, 12, 0, 33)  # flags, method, time, date
    first = struct.pack("<4sH4H3I2H", b"PK\3\4", 46, *known, check, len(raw), told, len(name), 0) + name
    table = struct.pack("<4s2H4H3I5H2I", b"PK\1\2", 46, 46, *known, check, len(raw), told, len(name), 0, 0, 0, 0, 0, 0)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(table + name), len(first + raw), 0)
    path.write_bytes(first + raw + table + name + end)
    return str(path)


def test_members_in_bzip2_are_what_zipfile_makes_of_them(tmp_path):
    path = str(tmp_path / "birds.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for name, data in CONTENT:
            archive.writestr(name, data)
    assert read(path) == ([(f"{path}/{name}", data) for name, data in CONTENT], 0)
    assert read(bzipped(tmp_path / "own.zip", b"abc"))[0][0].source == b"abc"


@pytest.mark.parametrize("told", [1000, shards.MEMBER_BYTES])
def test_a_member_in_bzip2_that_unpacks_to_gigabytes_takes_no_more_than_the_largest_picture(
    tmp_path, monkeypatch, told
):
    monkeypatch.setattr(shards, "MEMBER_BYTES", 1 << 20)
    path = bzipped(tmp_path / "bomb.zip", bytes(64 << 20), told=min(told, 1 << 20))
    tracemalloc.start()
    (item,) = read(path)[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert codes([item]) == ["E-SHARD-MEMBER"]
    assert peak < 16 << 20


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_member_in_bzip2_that_is_cut_or_damaged(tmp_path, cut):
    whole = bz2.compress(b"abc" * 100)
    assert codes(read(bzipped(tmp_path / "a.zip", b"abc" * 100, packed=whole[:-cut]))[0]) == ["E-SHARD-MEMBER"]
    assert codes(read(bzipped(tmp_path / "b.zip", b"abd" * 100, packed=whole))[0]) == ["E-SHARD-MEMBER"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_member_is_not_held_twice(tmp_path, kind):
    path = write(tmp_path / f"birds{kind}", [(f"{number}.png", bytes(24 << 20)) for number in range(3)])
    tracemalloc.start()
    for item in members(path, SUFFIXES, Tally()):
        assert len(item.source) == 24 << 20
        del item
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


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
    assert skipped == 4  # the folders .git and __MACOSX are not looked into


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


def test_sparse_members_are_told_and_do_not_disturb_the_next(tmp_path):
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
    holes, after = read(str(path))[0]
    assert (holes.name, holes.source.code) == (f"{path}/holes.png", "E-SHARD-MEMBER")
    assert "sparse" in holes.source.message
    assert after == (f"{path}/whole.png", b"abc")


@pytest.mark.parametrize("kind", KINDS)
def test_absolute_names_and_names_that_lead_out_are_only_names_and_duplicates_are_numbered(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = [("a.png", b"1"), ("a.png", b"2"), ("/etc/a.png", b"3"), ("../../a.png", b"4"), ("new\nline.png", b"5")]
    before = sorted(tmp_path.parent.rglob("*.png"))
    with pytest.warns(UserWarning, match="Duplicate") if kind == ".zip" else tmp_path.joinpath("x").open("w"):
        path = write(tmp_path / f"birds{kind}", content)
    names = ["a.png", "a.png#2", *(name for name, _ in content[2:])]
    assert read(path) == ([(f"{path}/{name}", data) for name, (_, data) in zip(names, content, strict=True)], 0)
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


# --- what other tools write -----------------------------------------------------------------------------------------


def tar_of(path: Path, *entries: tuple, form: int = tarfile.GNU_FORMAT, **options) -> str:
    """A tar file of (name, bytes), (name, type, target) or ready TarInfos."""
    with tarfile.open(path, "w:gz" if path.suffix in {".gz", ".tgz"} else "w", format=form, **options) as archive:
        for name, *content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content[0], bytes) and len(content) == 1:
                info.size = len(content[0])
                archive.addfile(info, io.BytesIO(content[0]))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    return str(path)


def contents(path: str) -> dict[str, object]:
    """Member -> bytes, or the code of the error."""
    items, _ = read(path)
    names = [item.name.removeprefix(f"{path}/") for item in items]
    assert len(set(names)) == len(names)
    of = [item.source.code if isinstance(item.source, InputError) else item.source for item in items]
    return dict(zip(names, of, strict=True))


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar here")
@pytest.mark.parametrize("form", ["gnu", "ustar", "pax"])
@pytest.mark.parametrize("kind", [".tar", ".tar.gz"])
def test_second_names_of_a_file_are_pictures_as_tar_packs_them(tmp_path, form, kind):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"first")
    (folder / "c.jpg").write_bytes(b"other")
    os.link(folder / "a.jpg", folder / "b.jpg")
    os.link(folder / "a.jpg", folder / "sub" / ("long" * 20 + ".jpg"))
    (folder / "soft.jpg").symlink_to("sub/../c.jpg")
    (folder / "sub" / "up.jpg").symlink_to("../soft.jpg")
    (folder / "out.jpg").symlink_to("/etc/passwd")
    path = tmp_path / f"x{kind}"
    names = ["a.jpg", "b.jpg", "c.jpg", "soft.jpg", "out.jpg", "sub"]
    subprocess.run(["tar", f"--format={form}", "-caf", path, *names], cwd=folder, check=True)
    assert contents(str(path)) == {
        "a.jpg": b"first",
        "c.jpg": b"other",
        "b.jpg": b"first",
        "soft.jpg": b"other",
        f"sub/{'long' * 20}.jpg": b"first",
        "sub/up.jpg": b"other",
    }
    tally = Tally()
    list(members(str(path), SUFFIXES, tally))
    assert dict(tally.kinds) == {"links that lead nowhere": 1}


def test_a_second_name_means_the_file_of_that_name_before_it(tmp_path):
    """An updated archive has several of one name; and one whose first name is missing is an error of its own."""
    path = tar_of(
        tmp_path / "x.tar",
        *(("a.png", b"old"), ("a.png", b"new"), ("b.png", tarfile.LNKTYPE, "./a.png"), ("a.png", b"newest")),
        *(("c.png", tarfile.LNKTYPE, "gone.png"), ("d.png", tarfile.SYMTYPE, "gone.png")),
        *(("e.png", tarfile.LNKTYPE, "e.png"), ("f.png", tarfile.LNKTYPE, "raw.dat"), ("raw.dat", b"late")),
    )
    assert contents(path) == {
        "a.png": b"old",
        "a.png#2": b"new",
        "a.png#3": b"newest",
        "b.png": b"new",
        **dict.fromkeys(("c.png", "e.png", "f.png"), "E-SHARD-MEMBER"),
    }


def test_circles_of_links_end(tmp_path):
    path = tar_of(tmp_path / "x.tar", ("a.png", tarfile.SYMTYPE, "b.png"), ("b.png", tarfile.SYMTYPE, "a.png"))
    assert read(path) == ([], 2)


def test_links_in_a_zip_file_lead_to_its_own_members(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, target in [("b/link.png", "../a.png"), ("two.png", "b/link.png"), ("self.png", "self.png")]:
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, 0o120777 << 16
            archive.writestr(link, target)
        archive.writestr("a.png", b"first")
    assert contents(str(path)) == {"b/link.png": b"first", "two.png": b"first", "a.png": b"first"}
    assert read(str(path))[1] == 1


def zip_of(path: Path, raw: bytes, *, extra: bytes = b"", flags: int = 0, system: int = 3) -> str:
    """A zip file of one stored member, byte by byte."""
    data = b"content"
    numbers = (zlib.crc32(data), len(data), len(data), len(raw))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, flags, 0, 0, 0, *numbers, 0) + raw + data
    central = struct.pack("<4s2B5H3I5H2I", b"PK\1\2", 20, system, 20, flags, 0, 0, 0, *numbers, len(extra), *(0,) * 5)
    central += raw + extra
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return str(path)


def unicode_path(raw: bytes, name: str, crc: int | None = None) -> bytes:
    data = struct.pack("<BI", 1, zlib.crc32(raw) if crc is None else crc) + name.encode()
    return struct.pack("<2H", 0x5455, 1) + b"x" + struct.pack("<2H", 0x7075, len(data)) + data


@pytest.mark.parametrize(
    ("raw", "options", "name"),
    [
        ("größe.png".encode(), {}, "größe.png"),  # ZIPFoundation#63: UTF-8 without the flag
        ("größe.png".encode(), {"flags": 0x800}, "größe.png"),
        (unicodedata.normalize("NFD", "é.png").encode(), {}, "e\u0301.png"),  # as macOS packs it
        ("写真/鳥.png".encode(), {}, "写真/鳥.png"),
        ("größe.png".encode("cp437"), {}, "größe.png"),
        (b"gr?e.png", {"extra": unicode_path(b"gr?e.png", "größe.png")}, "größe.png"),  # as Info-ZIP writes it
        (b"\x94.png", {"extra": unicode_path(b"\x94.png", "öл.png")}, "öл.png"),
        (b"\x94.png", {"extra": unicode_path(b"\x94.png", "x.png", crc=1)}, "ö.png"),  # the field of another name
        ("鳥.png".encode("cp932"), {}, "鳥.png".encode("cp932").decode("cp437")),
        (b"birds\\crow\\a.png", {"system": 0}, "birds/crow/a.png"),
        (b"back\\slash.png", {"system": 3}, "back\\slash.png"),
    ],
)
def test_names_of_zip_members(tmp_path, raw, options, name):
    assert contents(zip_of(tmp_path / "x.zip", raw, **options)) == {name: b"content"}


def test_names_that_may_be_in_any_code_page_are_told(tmp_path):
    tally = Tally()
    path = zip_of(tmp_path / "x.zip", "鳥.png".encode("cp932"))
    list(members(path, SUFFIXES, tally))
    assert tally.notes == [
        f"1 names of pictures in {path!r} do not say how they are written, and stand as in code page 437"
    ]
    list(members(zip_of(tmp_path / "y.zip", "鳥.png".encode()), SUFFIXES, tally))
    assert len(tally.notes) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_litter_in_an_archive_is_counted(tmp_path, kind):
    names = [
        "a.png",
        "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg",
        "x/@EADIR/b.png",
        "__MACOSX/c.png",
        "@eaDir/a.png/notes.txt",
    ]
    path = write(tmp_path / f"birds{kind}", [(name, b"x") for name in names])
    tally = Tally()
    assert [item.name for item in members(path, SUFFIXES, tally)] == [f"{path}/a.png"]
    assert tally.litter == {
        "@eaDir (thumbnails of a NAS)": 1,
        "@EADIR (thumbnails of a NAS)": 1,
        "__MACOSX (what the system keeps)": 1,
    }
    assert tally.skipped == 0


@pytest.mark.parametrize("kind", [".tar", ".tar.gz"])
def test_tar_files_behind_one_another_are_one(tmp_path, kind):
    parts = [Path(tar_of(tmp_path / f"{i}{kind}", (f"{i}.png", bytes([i]) * 700))).read_bytes() for i in range(3)]
    path = tmp_path / f"x{kind}"
    path.write_bytes(b"".join(parts))
    assert contents(str(path)) == {f"{i}.png": bytes([i]) * 700 for i in range(3)}
    if kind == ".tar":  # what follows the end and is no tar file is padding
        path.write_bytes(parts[0] + b"old data on a tape" * 100)
        assert list(contents(str(path))) == ["0.png"]


def test_tar_files_of_other_times_and_tools(tmp_path):
    """Version 7 without a magic; sizes in base 256; a global header; a charset of bytes; records nobody asks for."""
    seven = tarfile.TarInfo("seven.png")
    seven.size = 3
    header = bytearray(seven.tobuf(tarfile.USTAR_FORMAT))
    header[257:345] = bytes(88)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    large = tarfile.TarInfo("large.png")
    large.size = 3
    base = bytearray(large.tobuf(tarfile.GNU_FORMAT))
    base[124:136] = b"\x80" + (3).to_bytes(11, "big")
    base[148:156] = b" " * 8
    base[148:156] = b"%06o\0 " % sum(base)
    path = tmp_path / "old.tar"
    path.write_bytes(bytes(header) + b"old".ljust(512, b"\0") + bytes(base) + b"big".ljust(512, b"\0") + bytes(1024))
    assert contents(str(path)) == {"seven.png": b"old", "large.png": b"big"}
    path = tmp_path / "pax.tar"
    options = {"format": tarfile.PAX_FORMAT, "pax_headers": {"comment": "of git", "mtime": "1"}}
    with tarfile.open(path, "w", **options) as archive:
        for name, fields in [
            ("plain.png", {"LIBARCHIVE.creationtime": "1", "SCHILY.xattr.user.x": "y"}),
            ("x.png", {"path": "größe.png", "hdrcharset": "BINARY"}),
            ("._plain.png", {}),
            ("./PaxHeaders.1/plain.png", {}),
        ]:
            info = tarfile.TarInfo(name)
            info.pax_headers, info.size = fields, 3
            archive.addfile(info, io.BytesIO(b"abc"))
    assert contents(str(path)) == dict.fromkeys(("plain.png", "größe.png", "./PaxHeaders.1/plain.png"), b"abc")


def test_zip_files_of_other_tools(tmp_path):
    """Written as a stream, with data descriptors; behind a program; with a comment; with zip64 fields."""

    class Stream(io.RawIOBase):
        def __init__(self):
            self.parts = []

        def writable(self):
            return True

        def write(self, data):
            self.parts.append(bytes(data))
            return len(data)

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"of our holiday"
        with archive.open("a.png", "w", force_zip64=True) as member:
            member.write(b"streamed" * 50)
    path = tmp_path / "x.zip"
    path.write_bytes(b"MZ a program that unpacks it\n" * 9 + b"".join(stream.parts))
    assert contents(str(path)) == {"a.png": b"streamed" * 50}


@pytest.mark.parametrize("name", ["a.7z", "a.rar", "a.tar.bz2", "a.TAR.XZ", "a.txz"])
def test_archives_of_other_kinds_are_told(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"7z\xbc\xaf\x27\x1c" * 100)
    ((named, error),) = pictures([str(path)], SUFFIXES, Tally())
    assert (named, error.code) == (str(path), "E-SHARD-OPEN")
    assert "is an archive of a kind that is not read" in error.message
    assert ".zip .tar" in error.message
    path.unlink()
    assert "cannot be read: No such file" in next(pictures([str(path)], SUFFIXES, Tally())).source.message


def test_names_of_an_archive_are_different_however_many_there_are():
    names, kept = shards._Names(), random.Random(0)
    given = [f"{kept.randrange(3000)}.png" for _ in range(4000)]
    assert len({names.different(name) for name in given}) == 4000


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
    made = {kind: (folder / f"birds{kind}", write(folder / f"birds{kind}", content)) for kind in KINDS[:3]}
    with zipfile.ZipFile(made[".zip"][0], "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "b.png")
    with tarfile.open(made[".tar"][0], "a") as archive:
        for name, kind in (("hard.png", tarfile.LNKTYPE), ("soft.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "b.png"
            archive.addfile(info)
    return made


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
@given(names=st.lists(NAMES, max_size=6, unique=True))
def test_any_name_comes_out_as_it_is(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "names.tar"
    content = [(f"x{name}.png", str(i).encode()) for i, name in enumerate(names) if ".." not in name]
    write(path, content)
    given = [(item.name, item.source) for item in members(str(path), SUFFIXES, Tally())]
    hidden = [any(part.startswith(".") for part in name.split("/")) for name, _ in content]
    assert given == [(f"{path}/{name}", data) for (name, data), out in zip(content, hidden, strict=True) if not out]
