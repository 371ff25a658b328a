"""Encoding and writing answers; files that an interruption leaves unfinished."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import stat
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.errors import InputError, SystemProblem, UsageError
from zsl_runtime.inputs.item import Item
from zsl_runtime.labelling import results
from zsl_runtime.labelling.results import (
    CSV_HEADER,
    NOTHING_DONE,
    State,
    csv_header,
    descriptor,
    encode_csv,
    encode_jsonl,
    open_output,
    open_partial,
    undone,
)
from zsl_runtime.labelling.snapshot import Labelled, Prediction
from zsl_runtime.streams import printable

# --- encoding -------------------------------------------------------------------------------------------------------

BIRD = Prediction(("wren", 'owl, "eagle"', "übersee-ente"), (False, True, False), (0.75, 0.2499999, 1.25e-7))
ERROR = InputError("E-IMAGE-FORMAT", "'b.jpg' is not a picture")


def test_csv_has_the_agreed_columns_and_no_row_for_an_error():
    assert csv_header() == b"path,rank,class,split,probability,distance,far\n"
    lines = encode_csv([Labelled("a.jpg", BIRD), Labelled("b.jpg", ERROR)], 0.0).decode().splitlines()
    assert lines == [
        "a.jpg,1,wren,unseen,0.75,,",
        'a.jpg,2,"owl, ""eagle""",seen,0.25,,',
        "a.jpg,3,übersee-ente,unseen,1.25e-07,,",
    ]


@pytest.mark.parametrize(
    ("distance", "far", "cells", "keys"),
    [
        (0.71234567, False, "0.7123,false", {"distance": 0.7123, "far": False}),
        (12.0, True, "12.0,true", {"distance": 12.0, "far": True}),
        (3e30, True, "3e+30,true", {"distance": 3e30, "far": True}),
        (1.5, None, "1.5,", {"distance": 1.5, "far": None}),
        (None, None, ",", {"distance": None, "far": None}),
    ],
)
def test_how_far_a_picture_is_stands_on_each_of_its_lines(distance, far, cells, keys):
    answers = [Labelled("a.jpg", replace(BIRD, distance=distance, far=far))]
    for safe in (False, True):
        lines = encode_csv(answers, 0.1, safe=safe).decode().splitlines()
        assert lines == [f"a.jpg,1,wren,unseen,0.75,{cells}", f'a.jpg,2,"owl, ""eagle""",seen,0.25,{cells}']
    (told,) = map(json.loads, encode_jsonl(answers, 0.1).splitlines())
    assert {name: told[name] for name in keys} == keys
    assert [list(one) for one in told["predictions"]] == [["rank", "class", "split", "probability"]] * 2
    assert encode_csv(answers, 0.9) == b""
    (told,) = map(json.loads, encode_jsonl(answers, 0.9).splitlines())
    assert told == {"path": "a.jpg", "predictions": [], **keys}


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
        "distance": None,
        "far": None,
    }
    assert second == {"path": "b.jpg", "error": {"code": "E-IMAGE-FORMAT", "message": "'b.jpg' is not a picture"}}


def test_min_probability_drops_rows_below_it_and_keeps_equal_ones():
    assert encode_csv([Labelled("a", BIRD)], 0.75).count(b"\n") == 1
    assert encode_csv([Labelled("a", BIRD)], 0.76) == b""
    assert json.loads(encode_jsonl([Labelled("a", BIRD)], 1.0)) == {
        "path": "a",
        "predictions": [],
        "distance": None,
        "far": None,
    }


def test_an_undecodable_path_keeps_its_bytes_in_csv_and_survives_json():
    name = os.fsdecode(b"caf\xe9.jpg")
    assert encode_csv([Labelled(name, BIRD)], 0.5) == b"caf\xe9.jpg,1,wren,unseen,0.75,,\n"
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


@pytest.mark.parametrize("called", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_pipe_of_a_shell_has_no_name_and_is_written_to(called):
    reading, writing = os.pipe()
    with open_output(called.format(writing)) as stream:
        stream.write(b"rows")
    os.close(writing)
    with open(reading, "rb") as read:
        assert read.read() == b"rows"


@pytest.mark.parametrize("called", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_file_that_a_shell_opened_to_append_keeps_what_it_has(tmp_path, called):
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("ab") as appending:
        with open_output(called.format(appending.fileno())) as stream:
            stream.write(b"rows\n")
        with (
            pytest.raises(UsageError, match="is no plain file"),
            open_partial(f"/dev/fd/{appending.fileno()}", {}, resume=True),
        ):
            pass
    assert log.read_text() == "before\nrows\n"
    assert {path.name for path in tmp_path.iterdir()} == {"log"}


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/dev/stdout", 1),
        ("/dev/stderr", 2),
        ("/dev//fd/./7", 7),
        ("/proc/self/fd/0", 0),
        ("/dev/null", None),
        ("/dev/fd/", None),
        ("/dev/fd/-1", None),
        ("/dev/fd/\u0663", None),
        ("/dev/fd/" + "9" * 99, None),
        ("dev/stdout", None),
        ("", None),
    ],
)
def test_names_of_open_files(path, number):
    assert descriptor(path) == number


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="devices are made by root")
@pytest.mark.parametrize("resume", [False, True])
def test_a_device_stays_a_device(tmp_path, resume):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no devices can be made here")
    (tmp_path / "link").symlink_to(device)
    for name in ("null", "link"):
        if resume:
            with (
                pytest.raises(UsageError, match="is no plain file"),
                open_partial(str(tmp_path / name), {}, resume=True),
            ):
                pass
        else:
            with open_output(str(tmp_path / name)) as stream:
                stream.write(b"rows")
    assert device.is_char_device()
    assert {path.name for path in tmp_path.iterdir()} == {"null", "link"}


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


# --- files that an interruption leaves unfinished -------------------------------------------------------------------

OPTIONS = {"--topk": 5, "--format": "csv"}
STRANGE_NOTES = [
    b"",
    b'{"items": 4, "unre',
    b"null\n",
    b'{"items": 4}\n',
    b'{"items": "4", "unreadable": 0, "bytes": 9, "names": "", "data": ""}\n',
    b"\xff\xfe\n",
]
NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


class RunInterruptedError(Exception):
    pass


def batch_of(names: list[str]) -> tuple[bytes, list[Labelled]]:
    """A line a name, and what it is the line of; a name with a b cannot be read."""
    answers = [Labelled(name, ERROR if "b" in name else BIRD) for name in names]
    return "".join(f"{name}\n" for name in names).encode(), answers


def write_some(path: Path, *batches: list[str], resume: bool = False, options=OPTIONS, end: bool = False) -> State:
    """Write batches, then be interrupted unless `end`; gives the state at the beginning."""
    with suppress(RunInterruptedError), open_partial(str(path), options, resume=resume) as partial:
        before = partial.state
        if not before.items:
            partial.write(b"header\n", [])
        for names in batches:
            partial.write(*batch_of(names))
        if not end:
            raise RunInterruptedError
        partial.complete = True
    return before


def left(path: Path, state: State) -> list[str]:
    """Names of what is still to do."""
    items = (Item(name, b"") for name in NAMES)
    return [item.name for item in undone(items, state)]


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder / "out.csv"


def files(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def test_a_complete_file_leaves_nothing_else(out):
    out.write_text("old")
    write_some(out, NAMES[:2], NAMES[2:], end=True)
    assert out.read_text() == "header\n" + "".join(f"{name}\n" for name in NAMES)
    assert files(out) == ["out.csv"]


def test_an_interrupted_run_goes_on_where_it_was(out):
    out.write_text("old")
    write_some(out, NAMES[:2])
    assert out.read_text() == "old"
    assert files(out) == ["out.csv", "out.csv.partial", "out.csv.partial.state"]
    state = write_some(out, NAMES[2:3], resume=True)
    assert (state.items, state.unreadable) == (2, 1)
    assert left(out, state) == NAMES[2:]
    state = write_some(out, NAMES[3:], resume=True, end=True)
    assert (state.items, state.unreadable) == (3, 1)
    assert out.read_text() == "header\n" + "".join(f"{name}\n" for name in NAMES)
    assert files(out) == ["out.csv"]


def test_resume_without_anything_begins_at_the_beginning(out):
    assert write_some(out, NAMES, resume=True, end=True) == NOTHING_DONE
    assert out.read_text().startswith("header\na.jpg\n")


def test_nothing_finished_leaves_nothing(out):
    write_some(out)
    assert files(out) == []
    with pytest.raises(UsageError), open_partial(str(out), OPTIONS, resume=False):
        raise UsageError("E-FILTER-EMPTY", "no class")
    assert files(out) == []


@pytest.mark.parametrize("torn", [b"", b"d.jpg,1,wr", b"d.jpg,1,wren,seen,1\nhalf of ano"])
@pytest.mark.parametrize("torn_state", STRANGE_NOTES)
def test_a_killed_run_loses_at_most_what_was_not_noted(out, torn, torn_state):
    """SIGKILL, a crash of the machine: lines behind the last note may be there, whole or torn."""
    write_some(out, NAMES[:2], NAMES[2:3])
    partial, state = out.with_name("out.csv.partial"), out.with_name("out.csv.partial.state")
    for path, more in ((partial, torn), (state, torn_state)):
        with path.open("ab") as stream:
            stream.write(more)
    found = write_some(out, NAMES[3:], resume=True, end=True)
    assert left(out, found) == NAMES[3:]
    assert out.read_text() == "header\n" + "".join(f"{name}\n" for name in NAMES)


def test_notes_are_written_while_it_runs(out, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    state = out.with_name("out.csv.partial.state")
    with suppress(RunInterruptedError), open_partial(str(out), OPTIONS, resume=False) as partial:
        for count, name in enumerate(NAMES):
            clock[0] += 0.5
            partial.write(*batch_of([name]))
            lines = state.read_text().splitlines()
            assert len(lines) == 1 + (count + 1) // 2  # the options, and a note every second
        assert json.loads(lines[-1])["items"] == 4
        raise RunInterruptedError
    assert json.loads(state.read_text().splitlines()[-1])["items"] == 5


@pytest.mark.parametrize(
    ("spoil", "code", "told"),
    [
        (lambda path: None, "E-PARTIAL", "holds the results of 2 pictures of an interrupted run; add --resume"),
        (lambda path: path.with_name("out.csv.partial.state").unlink(), "E-PARTIAL", "is not of an interrupted run"),
        (lambda path: path.with_name("out.csv.partial.state").write_text("mine"), "E-PARTIAL", "is not of an inter"),
    ],
)
def test_without_resume_nothing_that_is_there_is_lost(out, spoil, code, told):
    write_some(out, NAMES[:2])
    spoil(out)
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    with pytest.raises(UsageError, match=told) as caught, open_partial(str(out), OPTIONS, resume=False):
        pass
    assert caught.value.code == code
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({**OPTIONS, "--topk": 3}, "--topk was 5 and is 3"),
        ({"--format": "csv"}, "--topk was 5 and is None"),
        ({**OPTIONS, "bundle": "f00"}, "bundle was None and is 'f00'"),
    ],
)
def test_other_options_are_an_error_that_names_them(out, options, told):
    write_some(out, NAMES[:2])
    with pytest.raises(UsageError, match=told) as caught, open_partial(str(out), options, resume=True):
        pass
    assert caught.value.code == "E-RESUME"
    assert write_some(out, NAMES[2:], resume=True, end=True).items == 2


@pytest.mark.parametrize("content", [b"header\nA.jpg\nb.jpg\n", b"header\n", b""])
def test_a_file_that_was_changed_is_not_gone_on_with(out, content):
    write_some(out, NAMES[:2])
    out.with_name("out.csv.partial").write_bytes(content)
    with pytest.raises(UsageError, match="was changed since") as caught, open_partial(str(out), OPTIONS, resume=True):
        pass
    assert caught.value.code == "E-RESUME"


@pytest.mark.parametrize("names", [[], ["a.jpg"], ["b.jpg", "a.jpg", "c.jpg"], ["a.jpg", "new.jpg", "b.jpg"]])
def test_other_pictures_are_an_error(out, names):
    write_some(out, NAMES[:2])
    with open_partial(str(out), OPTIONS, resume=True) as partial:
        items = (Item(name, b"") for name in names)
        with pytest.raises(UsageError, match="the first 2 pictures are not those") as caught:
            list(undone(items, partial.state))
    assert caught.value.code == "E-RESUME"


def test_two_runs_cannot_write_the_same_file(out):
    with open_partial(str(out), OPTIONS, resume=False) as partial:
        partial.write(*batch_of(NAMES))
        for resume in (False, True):
            with pytest.raises(UsageError, match="is being written by another run") as caught:  # noqa: SIM117
                with open_partial(str(out), OPTIONS, resume=resume):
                    pass
            assert caught.value.code == "E-PARTIAL"
        partial.complete = True
    assert files(out) == ["out.csv"]


def test_a_pipe_or_a_folder_cannot_be_resumed(out):
    os.mkfifo(out.parent / "pipe")
    for path in (out.parent / "pipe", out.parent):
        with pytest.raises(UsageError, match="is no plain file") as caught, open_partial(str(path), {}, resume=True):
            pass
        assert caught.value.code == "E-OUTPUT"


def test_a_link_is_gone_on_with_where_it_leads(out):
    (out.parent / "link.csv").symlink_to(out)
    write_some(out.parent / "link.csv", NAMES[:2])
    assert write_some(out, NAMES[2:], resume=True, end=True).items == 2
    assert files(out) == ["link.csv", "out.csv"]


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from(NAMES), max_size=3), max_size=4), st.binary(max_size=40), st.integers(0, 200))
def test_whatever_happens_to_the_state_what_is_resumed_is_a_beginning(tmp_path_factory, batches, more, cut):
    out = tmp_path_factory.mktemp("resume") / "out.csv"
    write_some(out, *batches)
    state = out.with_name("out.csv.partial.state")
    if not state.exists():
        return
    state.write_bytes(state.read_bytes()[: -cut or None] + more)
    whole = b"header\n" + b"".join(batch_of(names)[0] for names in batches)
    try:
        with open_partial(str(out), OPTIONS, resume=True) as partial:
            done = out.with_name("out.csv.partial").read_bytes()
            assert whole.startswith(done)
            assert done.count(b"\n") == partial.state.items + bool(done)
    except UsageError as error:
        refused = error.code
        assert refused in {"E-RESUME", "E-PARTIAL"}  # it may be refused and need not


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", ["symbolic", "hard", "dangling", "pipe", "folder"])
@pytest.mark.parametrize("name", ["out.csv.partial", "out.csv.partial.state", "out.csv.partial.lengths"])
def test_what_somebody_put_beside_a_file_is_not_written_through(out, tmp_path, name, kind, resume):
    """Whoever may write to the folder cannot let a run write to files of its user elsewhere."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    write_some(out, NAMES[:2])
    place = out.with_name(name)
    victim.write_bytes(place.read_bytes() if place.exists() else b"precious")
    before = victim.read_bytes()
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "hard":
        os.link(victim, place)
    else:
        place.symlink_to(victim if kind == "symbolic" else tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"E-PARTIAL: .* is not of an interrupted run"):
        write_some(out, NAMES[2:], resume=resume, end=True)
    assert victim.read_bytes() == before
    assert not (tmp_path / "nowhere").exists()
    assert not out.exists()


def test_a_state_that_tells_of_more_than_there_is_takes_no_time(out):
    """10^18 pictures are not looked for one by one, nor is a line without an end read."""
    state = write_some(out, NAMES[:2])
    notes = out.with_name("out.csv.partial.state")
    header = notes.read_bytes().splitlines(keepends=True)[0]
    notes.write_bytes(header + (json.dumps({**state._asdict(), "items": 10**18}) + "\n").encode())
    found = write_some(out, resume=True)
    assert found.items == 10**18
    with pytest.raises(UsageError, match="E-RESUME"):
        left(out, found)
    with notes.open("r+b") as stream:
        stream.truncate(1 << 40)
    assert write_some(out, resume=True).items == 10**18
    assert notes.stat().st_size < 1000


def labelled(path: str, name: str) -> list[Labelled]:
    return [Labelled(path, Prediction((name,), (False,), (0.5,), None))]


def test_for_spreadsheets_no_cell_is_a_formula_and_the_rest_is_as_it_is():
    """`csv` itself stays faithful: programs join by path and class."""
    answers = [*labelled("=cmd|' /C calc'!A0.png", "@SUM(1)"), *labelled("a, b.png", "wren"), *labelled("-x", "a=b")]
    plain, safe = encode_csv(answers, 0.0), encode_csv(answers, 0.0, safe=True)
    rows = list(csv.reader(io.StringIO(safe.decode())))
    assert [(row[0], row[2]) for row in rows] == [
        ("'=cmd|' /C calc'!A0.png", "'@SUM(1)"),
        ("a, b.png", "wren"),
        ("'-x", "a=b"),
    ]
    faithful = list(csv.reader(io.StringIO(plain.decode())))
    assert [(row[0], row[2]) for row in faithful] == [
        ("=cmd|' /C calc'!A0.png", "@SUM(1)"),
        ("a, b.png", "wren"),
        ("-x", "a=b"),
    ]
    assert [row[1:2] + row[3:] for row in rows] == [row[1:2] + row[3:] for row in faithful]


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_line_of_json_does_nothing_to_a_terminal_and_says_the_same(path, name):
    line = encode_jsonl(labelled(path, name), 0.0)
    assert printable(line.decode()) == line.decode()
    said = json.loads(line)
    assert (said["path"], said["predictions"][0]["class"]) == (path, name)


@pytest.mark.parametrize("terminal", [False, True])
def test_on_a_terminal_a_name_of_a_file_moves_nothing_and_in_a_pipe_it_is_as_it_is(monkeypatch, terminal):
    stream = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stdout", stream)
    line = encode_csv(labelled("\x1b[2J\u202egnp.exe \udcff", "wren"), 0.0)
    with open_output(None) as output:
        output.write(line)
        output.flush()
    shown = b"\\x1b[2J\\u202egnp.exe \xff,1,wren,unseen,0.5,,\n"
    assert stream.buffer.getvalue() == (shown if terminal else line)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="streams have no names here")
def test_a_terminal_that_is_named_is_a_terminal():
    """`--output /dev/stdout`, `/dev/tty`: what goes there is shown as it is without the option."""
    import pty

    reader, terminal = pty.openpty()
    try:
        with open_output(f"/dev/fd/{terminal}") as output:
            output.write(encode_csv(labelled("\x1b[2J", "wren"), 0.0))
        assert os.read(reader, 100) == b"\\x1b[2J,1,wren,unseen,0.5,,\r\n"
    finally:
        os.close(reader)
        os.close(terminal)


def test_no_file_is_given_its_length_by_a_call_that_signals_break():
    """Of Python's calls, `truncate` of an open file is not tried again when a signal comes (EINTR); os.ftruncate is."""
    folder = Path(results.__file__).parents[1]
    calls = {
        f"{path.name}:{one.lineno}"
        for path in folder.rglob("*.py")
        for one in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(one, ast.Attribute) and one.attr == "truncate"
    }
    assert not calls
