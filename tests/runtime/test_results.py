"""Encoding and writing answers; files that an interruption leaves unfinished."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.classifier import Prediction
from zsl_runtime.errors import InputError, SystemProblem, UsageError
from zsl_runtime.pipeline import Labelled
from zsl_runtime.results import CSV_HEADER, csv_header, encode_csv, encode_jsonl, open_output

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
