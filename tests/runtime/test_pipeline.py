"""Finding, reading ahead, encoding and writing, each on its own."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.classifier import Prediction
from zsl_runtime.errors import InputError, SystemProblem, UsageError
from zsl_runtime.pipeline import (
    CSV_HEADER,
    Labelled,
    Progress,
    check_row,
    csv_header,
    encode_csv,
    encode_jsonl,
    find_files,
    in_order,
    open_output,
    row_items,
)

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = (".png", ".jpg")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


# --- finding --------------------------------------------------------------------------------------------------------


def test_folders_are_walked_in_sorted_order_and_other_files_are_counted(tmp_path):
    touch(tmp_path, "b.png", "a/2.PNG", "a/10.jpg", "a/c/x.jpg", "notes.txt", "a/Thumbs.db", "c.jpg")
    found = find_files([str(tmp_path)], SUFFIXES)
    assert [os.path.relpath(f, tmp_path) for f in found.files] == ["a/10.jpg", "a/2.PNG", "a/c/x.jpg", "b.png", "c.jpg"]
    assert found.skipped == 2


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path, "a.png", "._a.png", ".thumbnails/a.png", ".png")
    assert find_files([str(tmp_path)], SUFFIXES) == ([str(tmp_path / "a.png")], 2)


def test_a_file_named_in_full_is_taken_whatever_its_suffix_and_as_often_as_it_is_named(tmp_path):
    touch(tmp_path, "notes.txt", "a.png")
    paths = [str(tmp_path / "notes.txt"), str(tmp_path / "a.png"), str(tmp_path / "a.png")]
    assert find_files(paths, SUFFIXES) == (paths, 0)


def test_names_are_given_as_they_were_typed(tmp_path, monkeypatch):
    touch(tmp_path, "d/a.png")
    monkeypatch.chdir(tmp_path)
    assert find_files(["d", "./d", "d/a.png"], SUFFIXES).files == ["d/a.png", "./d/a.png", "d/a.png"]


def test_patterns_stand_for_their_matches(tmp_path, monkeypatch):
    touch(tmp_path, "b1.png", "b2.jpg", "b3.txt", "bd/x.png", "bd/e/y.png", "other.png")
    monkeypatch.chdir(tmp_path)
    assert find_files(["b?.*"], SUFFIXES) == (["b1.png", "b2.jpg"], 1)
    assert find_files(["b*"], SUFFIXES) == (["b1.png", "b2.jpg", "bd/e/y.png", "bd/x.png"], 1)
    assert find_files(["**/*.png"], SUFFIXES).files == ["b1.png", "bd/e/y.png", "bd/x.png", "other.png"]
    assert find_files(["bd/**"], SUFFIXES).files == ["bd/e/y.png", "bd/x.png"]


def test_a_name_with_brackets_is_a_name_first(tmp_path):
    touch(tmp_path, "[1].png", "1.png")
    path = str(tmp_path / "[1].png")
    assert find_files([path], SUFFIXES).files == [path]


def test_linked_folders_are_walked_once_and_loops_end(tmp_path):
    touch(tmp_path, "in/a.png", "out/b.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "twice").symlink_to(tmp_path / "out")
    assert find_files([str(tmp_path / "in")], SUFFIXES).files == [
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


# --- feature rows ---------------------------------------------------------------------------------------------------


def test_rows_are_named_and_given_one_by_one(tmp_path):
    regions = np.random.default_rng(0).standard_normal((3, 4, 5))
    path = str(tmp_path / "a.npy")
    np.save(path, regions)
    items, total = row_items([path, path], (4, 5))
    items = list(items)
    assert total == 6
    assert [item.name for item in items] == [f"{path}#{i}" for i in (0, 1, 2, 0, 1, 2)]
    for i, item in enumerate(items):
        row = check_row(item.source, (4, 5))
        assert row.dtype == np.float32
        assert np.array_equal(row, regions[i % 3].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 6), (2, 1, 6)])
def test_plain_vectors_are_one_region(tmp_path, dtype, shape):
    path = str(tmp_path / "a.npy")
    np.save(path, np.arange(12).reshape(shape).astype(dtype))
    items, total = row_items([path], (1, 6))
    assert total == 2
    assert [check_row(item.source, (1, 6)).tolist() for item in items] == [[[0, 1, 2, 3, 4, 5]], [[6, 7, 8, 9, 10, 11]]]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "E-ROW-FILE"),
        (b"no numpy", "E-ROW-FILE"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9, 4, 5), }", "E-ROW-FILE"),
        (np.array([None, {}]), "E-ROW-FILE"),
        (np.zeros((3, 5), np.float32), "E-ROW-SHAPE"),
        (np.zeros((3, 5, 4), np.float32), "E-ROW-SHAPE"),
        (np.zeros(20, np.float32), "E-ROW-SHAPE"),
        (np.float32(3), "E-ROW-SHAPE"),
        (np.zeros((3, 4, 5), np.int64), "E-ROW-SHAPE"),
        (np.zeros((3, 4, 5), np.complex64), "E-ROW-SHAPE"),
    ],
)
def test_a_bad_file_is_one_unreadable_item(tmp_path, content, code):
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    items, total = row_items([str(path)], (4, 5))
    ((name, error),) = items
    assert total == 1
    assert name == str(path)
    assert isinstance(error, InputError)
    assert error.code == code


def test_an_archive_and_a_folder_are_unreadable_items(tmp_path):
    np.savez(tmp_path / "a.npy.npz", rows=np.zeros((3, 4, 5)))
    (tmp_path / "a.npy.npz").rename(tmp_path / "a.npy")
    items, _ = row_items([str(tmp_path / "a.npy"), str(tmp_path)], (4, 5))
    assert [item.source.code for item in items] == ["E-ROW-SHAPE", "E-ROW-FILE"]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (np.full((4, 5), np.nan, np.float32), "E-ROW-VALUE"),
        (np.full((4, 5), np.inf), "E-ROW-VALUE"),
        (np.full((4, 5), 1e300), "E-ROW-VALUE"),
        (np.zeros((4, 5), np.int32), "E-ROW-SHAPE"),
        (np.zeros((5, 4)), "E-ROW-SHAPE"),
        (np.zeros(5), "E-ROW-SHAPE"),
        ([[0.0] * 5] * 4, "E-ROW-SHAPE"),
        ("a.jpg", "E-ROW-SHAPE"),
    ],
)
def test_bad_rows_are_refused(row, code):
    with pytest.raises(InputError) as caught:
        check_row(row, (4, 5))
    assert caught.value.code == code


# --- reading ahead --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 6))
def test_results_come_in_order_and_memory_is_bounded(count, workers, ahead):
    taken, given_back = 0, 0

    def items():
        nonlocal taken
        for i in range(count):
            taken += 1
            assert taken - given_back <= workers + ahead
            yield i

    results = []
    for result in in_order(lambda i: i * i, items(), workers=workers, ahead=ahead):
        given_back += 1
        results.append(result)
    assert results == [i * i for i in range(count)]


def test_several_items_are_read_at_once():
    barrier = threading.Barrier(3, timeout=10)  # breaks unless three calls are inside together
    assert list(in_order(lambda i: (barrier.wait(), i)[1], range(6), workers=3, ahead=3)) == list(range(6))


def test_an_exception_comes_at_its_turn_and_no_thread_stays():
    before = threading.active_count()
    results = in_order(lambda i: 1 // (3 - i), range(100), workers=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


def test_leaving_early_stops_reading():
    before = threading.active_count()
    read = []
    results = in_order(lambda i: (time.sleep(0.001), read.append(i)), range(10_000), workers=2, ahead=4)
    next(results)
    results.close()
    assert len(read) < 20
    assert threading.active_count() == before


# --- encoding -------------------------------------------------------------------------------------------------------

BIRD = Prediction(("wren", 'owl, "eagle"', "übersee-ente"), (False, True, False), (0.75, 0.2499999, 1.25e-7))
ERROR = InputError("E-IMAGE-FORMAT", "'b.jpg' is not a picture")


def test_csv_has_the_agreed_columns_and_no_row_for_an_error():
    assert csv_header() == b"path,rank,class,split,probability\n"
    lines = encode_csv([Labelled("a.jpg", BIRD), Labelled("b.jpg", ERROR)], 0.0).decode().splitlines()
    assert lines == [
        "a.jpg,1,wren,unseen,0.75",
        'a.jpg,2,"owl, ""eagle""",seen,0.25',
        "a.jpg,3,übersee-ente,unseen,1.25e-07",
    ]


def test_jsonl_has_an_object_a_picture_and_one_for_an_error():
    text = encode_jsonl([Labelled("a.jpg", BIRD), Labelled("b.jpg", ERROR)], 0.1).decode()
    assert "übersee" not in text  # below 0.1
    first, second = map(json.loads, text.splitlines())
    assert first == {
        "path": "a.jpg",
        "predictions": [
            {"rank": 1, "class": "wren", "split": "unseen", "probability": 0.75},
            {"rank": 2, "class": 'owl, "eagle"', "split": "seen", "probability": 0.25},
        ],
    }
    assert second == {"path": "b.jpg", "error": {"code": "E-IMAGE-FORMAT", "message": "'b.jpg' is not a picture"}}


def test_min_probability_drops_rows_below_it_and_keeps_equal_ones():
    assert encode_csv([Labelled("a", BIRD)], 0.75).count(b"\n") == 1
    assert encode_csv([Labelled("a", BIRD)], 0.76) == b""
    assert json.loads(encode_jsonl([Labelled("a", BIRD)], 1.0)) == {"path": "a", "predictions": []}


def test_an_undecodable_path_keeps_its_bytes_in_csv_and_survives_json():
    name = os.fsdecode(b"caf\xe9.jpg")
    assert encode_csv([Labelled(name, BIRD)], 0.5) == b"caf\xe9.jpg,1,wren,unseen,0.75\n"
    line = encode_jsonl([Labelled(name, BIRD)], 0.0)
    assert line.isascii()
    assert os.fsencode(json.loads(line)["path"]) == b"caf\xe9.jpg"
    assert "übersee-ente".encode() in encode_jsonl([Labelled("é.jpg", BIRD)], 0.0)


# File systems give any bytes but NUL; names of classes have no control characters (class_table.check_class_name).
paths = st.binary(min_size=1, max_size=12).filter(lambda b: b"\0" not in b).map(os.fsdecode)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(paths, names, st.floats(0, 1, width=32))
def test_what_is_written_can_be_read_back(path, name, probability):
    answers = [Labelled(path, Prediction((name,), (True,), (probability,)))]
    data = (csv_header() + encode_csv(answers, 0.0)).decode("utf-8", errors="surrogateescape")
    header, row = csv.reader(io.StringIO(data, newline=""))
    assert tuple(header) == CSV_HEADER
    assert row[:4] == [path, "1", name, "seen"]
    assert float(row[4]) == pytest.approx(probability, rel=1e-5)
    value = json.loads(encode_jsonl(answers, 0.0))
    assert value["path"] == path
    assert value["predictions"][0]["class"] == name


# --- output ---------------------------------------------------------------------------------------------------------


def test_output_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")
    with open_output(str(path)) as stream:
        stream.write(b"new")
        assert path.read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 2
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left on device")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "out.csv"
    path.write_text("old")

    def fail() -> None:
        with open_output(str(path)) as stream:
            stream.write(b"new")
            raise error

    with pytest.raises(SystemProblem if isinstance(error, OSError) else error):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "real" / "out.csv")
    with open_output(str(tmp_path / "link.csv")) as stream:
        stream.write(b"new")
    assert (tmp_path / "real" / "out.csv").read_text() == "new"
    assert (tmp_path / "link.csv").is_symlink()


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with open_output(str(pipe)) as stream:
        stream.write(b"rows")
    reader.join()
    assert read == [b"rows"]
    assert pipe.is_fifo()


def test_a_folder_or_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UsageError) as caught, open_output(str(tmp_path)):
        pass
    assert caught.value.code == "E-OUTPUT"
    with pytest.raises(SystemProblem, match="could not write the results"), open_output(str(tmp_path / "no" / "a.csv")):
        pass


# --- progress -------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_bar_without_a_terminal():
    stream = io.StringIO()
    progress = Progress(3, "pictures", stream)
    progress.advance(2)
    progress.line("error: one")
    progress.advance(1)
    progress.clear()
    assert stream.getvalue() == "error: one\n"


def test_a_terminal_gets_a_bar_with_a_rate_that_lines_do_not_break(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = Terminal()
    progress = Progress(7500, "rows", stream)
    clock[0] += 2
    progress.advance(10)
    assert stream.getvalue() == f"\r\x1b[K[{'-' * 24}] 10/7500 5.0 rows/s, 24:58 left"
    progress.line("error: one")
    assert stream.getvalue().endswith("\r\x1b[Kerror: one\n")
    clock[0] += 1000
    progress.advance(3750)
    assert progress.rate == pytest.approx(3760 / 1002)
    assert f"[{'#' * 12}{'-' * 12}] 3760/7500 3.8 rows/s, 16:36 left" in stream.getvalue()
    progress.clear()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_the_bar_is_not_drawn_more_often_than_needed(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = Terminal()
    progress = Progress(1000, "rows", stream)
    for _ in range(1000):
        clock[0] += 0.001
        progress.advance(1)
    assert 5 <= stream.getvalue().count("\r") <= 12
    assert "1000/1000" in stream.getvalue()


def test_hours_are_shown(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = Terminal()
    progress = Progress(10_001, "pictures", stream)
    clock[0] += 1
    progress.advance(1)
    assert "2:46:40 left" in stream.getvalue()
