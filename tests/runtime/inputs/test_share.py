"""Shares of a run: disjoint, complete and the same on every machine, whatever else there is."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zsl_runtime.errors import UsageError
from zsl_runtime.inputs import shards
from zsl_runtime.inputs.feature_rows import RowFiles
from zsl_runtime.inputs.files import find_files, pictures
from zsl_runtime.inputs.item import SHARD_SUFFIXES, Item, Tally
from zsl_runtime.inputs.share import Share, parse_share, pictures_of
from zsl_runtime.pixels.pixels import SUFFIXES

LETTERS = st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from("\udc80\udcff")  # odd bytes of names
NAMES = st.lists(st.text(LETTERS, min_size=1, max_size=12), max_size=40)
COUNTS = st.integers(1, 9)


def items(names):
    return (Item(name, b"x") for name in names)


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


# --- whose a name is ------------------------------------------------------------------------------------------------


@given(NAMES, COUNTS)
def test_shares_are_disjoint_and_complete_and_keep_the_order(names, count):
    shares = [Share(index, count) for index in range(count)]
    given = [[item.name for item in share.each(items(names))] for share in shares]
    assert sum(map(Counter, given), Counter()) == Counter(names)
    pairs = [zip(share.units, own, strict=True) for share, own in zip(shares, given, strict=True)]
    at = dict(pair for own in pairs for pair in own)
    assert [at[unit] for unit in range(len(names))] == names
    assert {(share.seen, share.names) for share in shares} == {(len(names), shares[0].names)}
    assert sum(share.own for share in shares) == len(names)


@given(NAMES, NAMES, COUNTS, st.randoms(use_true_random=False))
def test_what_comes_goes_or_is_listed_otherwise_moves_no_other_name(names, more, count, random):
    def owner(listing):
        return {item.name: index for index in range(count) for item in Share(index, count).each(items(listing))}

    before = owner(names)
    listing = [*names[1:], *more]
    random.shuffle(listing)
    after = owner(listing)
    assert {name: before[name] for name in names[1:]} == {name: after[name] for name in names[1:]}


def test_the_rule_is_sha256_so_that_another_program_can_follow_it():
    """Worked out here by the words of docs/formats.md; a rule that changes would label pictures twice or never."""
    for name in ("photos/a.jpg", "b.zip/ü.png", "f.npy#17", "caf\udce9.jpg"):
        data = name.encode("utf-8", "surrogateescape")
        wanted = int(hashlib.sha256(data).hexdigest()[:16], 16) % 7
        assert [index for index in range(7) if Share(index, 7).holds(name)] == [wanted]


def test_shares_of_many_names_are_alike_in_size():
    share = [Share(index, 10) for index in range(10)]
    sizes = [sum(one.holds(f"photos/{number:05d}.jpg") for number in range(5000)) for one in share]
    assert sum(sizes) == 5000
    assert min(sizes) > 400  # 500 expected, deviation 21
    assert max(sizes) < 600


@pytest.mark.parametrize(
    "text", ["", "1", "a/b", "-1/3", "1/-3", "1.5/3", "0/0", "1/2/3", "٣/٤", "0/9999999999", "0x1/3"]
)
def test_what_is_no_share(text):
    with pytest.raises(UsageError, match=r"E-SHARE.*expected I/N, such as 0/8"):
        parse_share(text)


def test_tasks_are_counted_from_0():
    assert str(parse_share(" 0/1 ")) == "0/1"
    assert str(parse_share("7/8")) == "7/8"
    with pytest.raises(UsageError, match=r"E-SHARE.*of 8 the last is 7/8; I counts from 0, as SLURM_ARRAY_TASK_ID"):
        parse_share("8/8")


# --- what there is to share out -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Pictures, a zip file, and three tar files of which one is empty and one is damaged."""
    place = tmp_path / "photos"
    place.mkdir()
    for number in range(20):
        (place / f"{number}.png").write_bytes(png())
    with zipfile.ZipFile(place / "z.zip", "w") as archive:
        for number in range(12):
            archive.writestr(f"in/{number}.png", png())
        archive.writestr("in/3.png", png())  # a second one of the name
    for name, count in (("t.tar", 5), ("empty.tar", 0), ("cut.tar", 3)):
        with tarfile.open(place / name, "w") as archive:
            for number in range(count):
                info = tarfile.TarInfo(f"{number}.png")
                info.size = len(png())
                archive.addfile(info, io.BytesIO(png()))
    (place / "cut.tar").write_bytes((place / "cut.tar").read_bytes()[:1600])
    return place


def found(folder):
    return find_files([str(folder), f"{folder}/*.zip", f"{folder}/*.tar"], SUFFIXES, SHARD_SUFFIXES)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_files_and_members_of_archives_are_each_in_one_share(folder, count):
    whole = list(pictures(found(folder), SUFFIXES, Tally()))
    shares = [Share(index, count) for index in range(count)]
    own = [list(pictures_of(share, found(folder), SUFFIXES, Tally())) for share in shares]
    together = sorted(
        (unit, index, place, item)
        for index, (share, items) in enumerate(zip(shares, own, strict=True))
        for place, (unit, item) in enumerate(zip(share.units, items, strict=True))
    )
    assert [item.name for *_, item in together] == [item.name for item in whole]
    assert [str(item.source) for *_, item in together] == [str(item.source) for item in whole]
    assert {share.names for share in shares} == {shares[0].names}
    assert sum(share.own for share in shares) == shares[0].seen == 20 + 13 + 3


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_other_shares_are_not_unpacked(folder, monkeypatch):
    real, unpacked, sizes = shards._unpacked, [], []
    monkeypatch.setattr(shards, "_unpacked", lambda *given: unpacked.append(given[-1]) or real(*given))
    for index in range(4):  # one of them may have none: whose a member is follows from its path
        unpacked.clear()
        own = [item.name for item in pictures_of(Share(index, 4), [str(folder / "z.zip")], SUFFIXES, Tally())]
        assert unpacked == own
        sizes.append(len(own))
    assert sum(sizes) == 13
    assert max(sizes) < 13


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_tar_file_is_one_task_s_and_the_others_do_not_open_it(folder, monkeypatch):
    path = str(folder / "t.tar")
    opened = []
    monkeypatch.setattr(shards, "_tar", lambda path, *_: opened.append(path) or iter([Item(f"{path}/a.png", b"x")]))
    for index in range(4):
        list(pictures_of(Share(index, 4), [path], SUFFIXES, Tally()))
    assert opened == [path]


def test_rows_of_feature_files_are_each_in_one_share(tmp_path):
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(tmp_path / "f.npy", rows)
    files = RowFiles((1, 3))
    shares = [Share(index, 3) for index in range(3)]
    own = [list(share.each(files.items([str(tmp_path / "f.npy")]))) for share in shares]
    at = {item.name: item.source for items in own for item in items}
    assert len(at) == sum(map(len, own)) == 20
    assert all((at[f"{tmp_path}/f.npy#{number}"] == row).all() for number, row in enumerate(rows))
