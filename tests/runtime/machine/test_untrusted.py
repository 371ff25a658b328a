"""Files of unknown makers are refused in bounded time, whatever they are and hold."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from support.no_files import to_socket
from zsl_runtime.machine import untrusted
from zsl_runtime.machine.untrusted import (
    UnfitError,
    check_folder,
    check_regular,
    check_tensors,
    parse_json,
    parse_names,
    parse_object,
    read_file,
    read_given,
    sha256_within,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, pipes and sockets of Unix")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one of each kind of thing, and a file that is fine."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/file").write_bytes(b"content")
    (tmp_path / "sideways").symlink_to("inner")
    (tmp_path / "link").symlink_to("inner/file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    to_socket(tmp_path / "socket", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pipe", "is a pipe that nobody writes to"),
        ("socket", "is a socket"),
        ("zero", "is a device"),
        ("giant", "has 1,099,511,627,776 bytes or more, where at most 100 can be"),
    ],
)
def test_what_a_user_names_is_read_only_if_it_ends(folder: Path, name: str, said: str) -> None:
    (folder / "giant").touch()
    os.truncate(folder / "giant", 1 << 40)
    with pytest.raises(UnfitError, match=said):
        read_given(folder / name, 100)


def test_what_a_user_names_may_be_a_link_and_no_folder(folder: Path) -> None:
    assert read_given(folder / "link", 7) == read_given(str(folder / "sideways/file"), 100) == b"content"
    with pytest.raises(UnfitError, match="has 7 bytes or more, where at most 6 can be"):
        read_given(folder / "inner/file", 6)
    with pytest.raises(IsADirectoryError) as told:
        read_given(folder / "inner", 100)
    assert told.value.filename == str(folder / "inner")
    with pytest.raises(FileNotFoundError):
        read_given(folder / "dangling", 100)


@pytest.mark.parametrize("name", ["inner", "inner/file"])
def test_what_becomes_a_link_between_the_look_and_the_opening_is_not_followed(folder: Path, monkeypatch, name) -> None:
    (folder / "secrets").mkdir()
    (folder / "secrets/file").write_bytes(b"secret")
    look = "_require_folder" if name == "inner" else "_require_regular"
    real = getattr(untrusted, look)

    def exchange(mode: int) -> None:
        real(mode)
        (folder / name).rename(folder / "before")
        (folder / name).symlink_to(folder / name.replace("inner", "secrets"))

    monkeypatch.setattr(untrusted, look, exchange)
    with pytest.raises(OSError, match=r"Too many levels of symbolic links|Not a directory"):
        read_file(folder / "inner/file", 100, within=folder)
    assert (folder / name).is_symlink()


@pytest.mark.parametrize("late", [False, True])
def test_a_pipe_that_somebody_writes_to_is_read_to_its_end(folder: Path, late: bool) -> None:
    writer = os.open(folder / "pipe", os.O_RDWR)  # as a pipe of a shell, it has a writer from the beginning

    def write() -> None:
        if late:
            time.sleep(0.3)
        for _ in range(40):
            os.write(writer, b"x" * 60_000)
        os.close(writer)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(write)
        # A handle for reading and writing is a reader, too: the end comes when it is closed.
        assert read_given(folder / "pipe", 2_400_000) == b"x" * 2_400_000
        done.result()
    with pytest.raises(UnfitError, match="is a pipe, expected"):
        read_given(folder / "pipe", 100, pipes=False)


def test_an_endless_pipe_is_read_as_far_as_it_may_be(folder: Path) -> None:
    with subprocess.Popen(["sh", "-c", 'exec cat /dev/zero >"$0"', folder / "pipe"], stderr=subprocess.DEVNULL) as cat:
        handle = os.open(folder / "pipe", os.O_RDONLY)  # lets it open its end
        with pytest.raises(UnfitError, match="bytes or more, where at most 3,000,000 can be"):
            read_given(folder / "pipe", 3_000_000)
        os.close(handle)
        cat.kill()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("link", "is a link"),
        ("dangling", "is a link"),
        ("loop", "is a link"),
        ("zero", "is a link"),
        ("pipe", "is a pipe"),
        ("socket", "is a socket"),
        ("inner", "is a folder"),
        ("sideways/file", "lies in a folder that is a link"),
        ("inner/../inner/file", "leads out of"),
        ("../other", "leads out of"),
    ],
)
def test_only_a_plain_file_inside_is_read(folder: Path, name: str, said: str) -> None:
    """Everything else is refused at once: nothing waits for the other end of a pipe."""
    for look in (
        lambda: read_file(folder / name, 100, within=folder),
        lambda: check_regular(folder / name, within=folder),
    ):
        with pytest.raises(UnfitError, match=said) as caught:
            look()
        assert caught.value.link == ("link" in said or "leads" in said)


@pytest.mark.parametrize("name", ["gone", "inner/gone", "gone/file"])
def test_a_missing_file_is_told_by_its_whole_name(folder: Path, name: str) -> None:
    """The error names the path that was asked for, not the last part that was opened."""
    with pytest.raises(FileNotFoundError) as caught:
        read_file(folder / name, 100, within=folder)
    assert caught.value.filename == str(folder / name)


def test_what_is_above_the_folder_may_be_linked(folder: Path) -> None:
    """Where a user keeps bundles is the user's own business."""
    (folder / "elsewhere").symlink_to(folder / "inner")
    assert read_file(folder / "elsewhere/file", 7, within=folder / "elsewhere") == b"content"
    assert read_file(folder / "elsewhere/file", 7) == b"content"


def test_a_file_is_no_larger_than_it_may_be(folder: Path) -> None:
    """A sparse file of a terabyte takes no memory and no time."""
    assert read_file(folder / "inner/file", 7) == b"content"
    with pytest.raises(UnfitError, match="has 7 bytes, where at most 6 can be"):
        read_file(folder / "inner/file", 6)
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnfitError, match="1,099,511,627,776 bytes"):
        sha256_within(folder / "huge", 1 << 32)


def test_the_hash_is_that_of_the_content(folder: Path) -> None:
    """Size and sha256, as sha256sum gives it."""
    assert sha256_within(folder / "inner/file", 7, within=folder) == (
        7,
        "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73",
    )


def test_a_link_in_place_of_a_folder_is_refused(folder: Path) -> None:
    """And a file, and a pipe; a folder that is not there yet is fine."""
    check_folder(folder / "inner")
    check_folder(folder / "gone")
    for name, said in (
        ("sideways", "is a link"),
        ("dangling", "is a link"),
        ("pipe", "is a pipe"),
        ("inner/file", "a file"),
    ):
        with pytest.raises(UnfitError, match=said):
            check_folder(folder / name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 100_000, "nested more than 32 deep"),
        (b"[" * 33 + b"1" + b"]" * 33, "nested more than 32 deep"),
        (b"[" * (1 << 20) + b"[", "more than 1,048,576 lists"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        (b"[NaN]", "holds NaN"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b"[1e999]", "a number beyond"),
        (b"[" + b"9" * 5000 + b"]", "Exceeds the limit"),
        (b"[9223372036854775808]", "more than 64 bits"),
        (b'["\\ud800"]', "half a surrogate pair, U\\+D800"),
        (b'{"\\udc1b": 1}', "half a surrogate pair"),
        (b"\xff\xfe1\x00", "not UTF-8"),
        (b"", "no JSON"),
        (b"{", "no JSON"),
    ],
)
def test_json_that_python_reads_and_cannot_hand_on_is_refused(text: bytes, said: str) -> None:
    """Each of these ends later in an error far from its cause: in repr, print, float, or a comparison."""
    with pytest.raises(UnfitError, match=said):
        parse_json(text)


def test_json_that_is_fine_is_read() -> None:
    """To the last level, and with numbers and texts at their bounds."""
    assert parse_json(b"[" * 32 + b"]" * 32) is not None
    assert parse_json('{"a": [1.5, -9223372036854775808, null, true, "\U0001f426"]}'.encode()) == {
        "a": [1.5, -(1 << 63), None, True, "\U0001f426"]
    }
    assert parse_names('["a", "b"]') == ("a", "b")
    for wrong in ('{"a": 1}', "[1]", '["a", ["b"]]', '"a"', '["\udc80"]'):
        with pytest.raises(UnfitError):
            parse_names(wrong)
    with pytest.raises(UnfitError, match="holds list"):
        parse_object(b"[]")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=30,
    )
)
@settings(max_examples=100, deadline=None)
def test_json_is_what_the_library_says_or_refused(value: Any) -> None:
    """A second opinion: what is accepted equals the library's answer and can be written again as strict JSON."""
    data = json.dumps(value).encode()
    try:
        found = parse_json(data)
    except UnfitError:
        return
    assert found == json.loads(data)
    assert json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


def tensors_file(header: object, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file of this header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "too short"),
        (tensors_file({}, length=1 << 62), "has a header of 4,611,686,018,427,387,904 bytes"),
        (tensors_file(b" " * (untrusted.LONGEST_HEADER + 1)), "has a header of 16,777,217"),
        (tensors_file([]), "holds list"),
        (tensors_file({"__metadata__": {"a": 1}}), "metadata that are no texts"),
        (tensors_file({"__metadata__": []}), "metadata that are no texts"),
        (tensors_file({"a": 1}), "no type, shape and place"),
        (tensors_file({"a": {**F32, "more": 1}}, bytes(8)), "no type, shape and place"),
        (tensors_file({"a": {**F32, "dtype": "F4"}}, bytes(8)), "unknown type"),
        (tensors_file({"a": {**F32, "dtype": ["F32"]}}, bytes(8)), "unknown type"),
        (tensors_file({"a": {**F32, "shape": [True, 2]}}, bytes(8)), "whole numbers"),
        (tensors_file({"a": {**F32, "shape": [-2]}}, bytes(8)), "whole numbers"),
        (tensors_file({"a": {**F32, "shape": [1] * 9}}, bytes(8)), "whole numbers"),
        (tensors_file({"a": {**F32, "shape": [0, 1 << 41], "data_offsets": [0, 0]}}), "too large"),
        (tensors_file({"a": {**F32, "data_offsets": [0, 8, 8]}}, bytes(8)), "whole numbers"),
        (tensors_file({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8)), "do not agree"),
        (tensors_file({"a": F32, "b": F32}, bytes(8)), "overlap"),
        (tensors_file({"a": {**F32, "data_offsets": [4, 12]}}, bytes(12)), "leave gaps"),
        (tensors_file({"a": F32}, bytes(7)), "7 bytes of tensors, its header tells of 8"),
        (tensors_file({"a": F32}, bytes(9)), "9 bytes of tensors"),
        (tensors_file(b'{"a": 1, "a": 2}'), "twice"),
    ],
)
def test_a_tensor_file_with_a_wrong_header_is_refused(data: bytes, said: str) -> None:
    """Before the library sees it: lengths, types, shapes and places are held against the file."""
    with pytest.raises(UnfitError, match=said):
        check_tensors(data)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_tensor_files_that_pass_are_read_by_the_library(data: st.DataObject) -> None:
    """Whatever is changed in a file: what passes here, the library reads; a file of the library passes unchanged."""
    whole = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), np.int64)}, {"k": "v"})
    assert check_tensors(whole) == {"k": "v"}
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(0, len(whole))) or None])
    try:
        check_tensors(cut)
    except UnfitError:
        return
    with contextlib.suppress(KeyError):  # a type that NumPy does not have
        load(cut)
