"""zsl-infer --format parquet and label-studio: the answers of JSON lines, whole or not at all, gone on with, merged."""

from __future__ import annotations

import builtins
import errno
import json
import os
import shutil
import signal
import tarfile
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from support.tiny_bundle import SEEN, UNSEEN, as_regions, class_table, draw_pictures
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.infer_formats import FORMATS, MADE
from zsl_runtime.labelling import label_studio
from zsl_runtime.labelling.made import MadeSink
from zsl_runtime.labelling.results import Sink

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8), seed=21)
BOTH = [pytest.param("parquet", marks=pytest.mark.slow), "label-studio"]  # pyarrow is not for everybody


@pytest.fixture
def bundle(shared_bundle) -> Path:
    return shared_bundle()


@pytest.fixture
def photos(photos) -> Path:
    """One picture of each class, and two files that are none."""
    for name in ("1b.jpg", "6b.jpg"):
        (photos / name).touch()
    return photos


@pytest.fixture
def interrupt(monkeypatch):
    """Send a signal to this process while the batch of a number is written."""

    def after(count: int, sink: type[Sink] = Sink) -> None:
        real, calls = sink.write, []

        def write(self, data, batch):
            real(self, data, batch)
            calls.append(len(batch))
            if len(calls) == count:
                monkeypatch.setattr(sink, "write", real)
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(sink, "write", write)

    return after


def rows_of(path: Path, format_: str) -> list[tuple]:
    """(path, best class, probability) of every picture that was labelled."""
    if format_ == "label-studio":
        return [
            (
                one["data"]["path"],
                *one["predictions"][0]["result"][0]["value"]["choices"],
                one["predictions"][0]["score"],
            )
            for one in json.loads(path.read_bytes())
        ]
    pq = pytest.importorskip("pyarrow.parquet")
    rows = pq.read_table(path).to_pylist()
    return [(row["path"], row["class"], row["probability"]) for row in rows if row["error_code"] is None]


def lines_of(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data.splitlines()]


def many(photos: Path) -> None:
    for number in range(40):
        shutil.copy(photos / f"{number % 8}.png", photos / f"more{number:02d}.png")


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", BOTH)
def test_the_answers_are_those_of_json_lines(infer, bundle, photos, tmp_path, format_):
    if format_ == "parquet":
        pytest.importorskip("pyarrow")
    arguments = [photos, "--engine", bundle, "--topk", 3]
    code, out, _ = infer(*arguments, "--format", "jsonl")
    assert code == 6
    expected = [one for one in lines_of(out) if "error" not in one]
    code, out, err = infer(*arguments, "--format", format_, "--output", tmp_path / "labels")
    assert (code, out) == (6, b"")
    assert err[-1].startswith("labelled 8 of 10 pictures")
    assert rows_of(tmp_path / "labels", format_) == [
        (one["path"], one["predictions"][0]["class"], one["predictions"][0]["probability"]) for one in expected
    ]
    assert [row[1] for row in rows_of(tmp_path / "labels", format_)] == list(SEEN + UNSEEN)
    assert list(tmp_path.glob("labels*")) == [tmp_path / "labels"]  # nothing is left beside it


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["gaussian", "fit"])
def test_parquet_has_a_row_for_every_picture_and_says_what_it_is_of(infer, shared_bundle, photos, tmp_path, rule):
    pq = pytest.importorskip("pyarrow.parquet")
    bundle = shared_bundle(rule=rule)
    _, out, _ = infer(photos, "--engine", bundle, "--format", "jsonl", "--topk", 3)
    infer(photos, "--engine", bundle, "--format", "parquet", "--topk", 3, "--output", tmp_path / "labels.parquet")
    table = pq.read_table(tmp_path / "labels.parquet")
    for row, one in zip(table.to_pylist(), lines_of(out), strict=True):
        rows = one.get("predictions", [])
        assert row["path"] == one["path"]
        assert row["classes"] == [each["class"] for each in rows]
        assert row["probabilities"] == [each["probability"] for each in rows]
        assert row["error_code"] == one.get("error", {}).get("code")
        assert row["error_message"] == one.get("error", {}).get("message")
        assert (row["distance"], row["far"]) == (one.get("distance"), one.get("far"))
        assert (row["distance"] is not None) == (row["class"] is not None and rule == "gaussian")
    opened = Bundle.open(bundle)
    assert table.schema.metadata[b"zsl.sha256"].decode() == opened.manifest_sha256
    assert table.schema.metadata[b"zsl.bundle"].decode() == opened.path.name
    assert table.schema.metadata[b"zsl.generation"] == b"1"


def test_tasks_lead_to_the_pictures(infer, bundle, photos, tmp_path):
    code, out, _ = infer(photos, "--engine", bundle, "--format", "label-studio", "--topk", 2)
    assert code == 6
    tasks = json.loads(out)
    assert len(tasks) == 8
    for task in tasks:
        place = task["data"]["image"].removeprefix("/data/local-files/?d=")
        assert Path("/", unquote(place)).samefile(task["data"]["path"])
        assert task["data"]["candidates"].startswith(f"{task['predictions'][0]['result'][0]['value']['choices'][0]} ")
    told = Bundle.open(bundle)
    version = f"{told.path.name} {told.manifest_sha256[:12]} generation 1"
    assert {task["predictions"][0]["model_version"] for task in tasks} == {version}
    options = ["--label-studio-prefix", "http://host/", "--label-studio-root", tmp_path]
    _, out, _ = infer(photos, "--engine", bundle, "--format", "label-studio", *options)
    assert json.loads(out)[0]["data"]["image"] == "http://host/photos/0.png"


def test_a_picture_that_nothing_is_probable_enough_for_is_a_task_without_a_prediction(infer, bundle, photos):
    _, out, _ = infer(photos, "--engine", bundle, "--format", "label-studio", "--min-probability", 1)
    tasks = json.loads(out)
    assert len(tasks) == 8
    assert [] in [task["predictions"] for task in tasks]


@pytest.mark.parametrize("format_", BOTH)
def test_a_cascade_takes_these_formats_too(infer, bundle, photos, tmp_path, format_):
    if format_ == "parquet":
        pytest.importorskip("pyarrow")
    code, _, _ = infer(photos, "--engine", bundle, "--cascade", "--format", format_, "--output", tmp_path / "labels")
    assert code == 6
    assert len(rows_of(tmp_path / "labels", format_)) == 8
    if format_ == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        passes = pq.read_table(tmp_path / "labels").column("pass").to_pylist()
        assert set(passes) == {"confident", "relabelled", None}


def test_pictures_in_archives_are_told_and_are_no_tasks(infer, bundle, photos, tmp_path):
    with tarfile.open(tmp_path / "more.tar", "w") as archive:
        archive.add(photos / "0.png", "0.png")
    out = tmp_path / "tasks.json"
    code, _, err = infer(
        photos / "1.png", tmp_path / "more.tar", "--engine", bundle, "--format", "label-studio", "--output", out
    )
    assert code == 0
    assert [row[0] for row in rows_of(out, "label-studio")] == [str(photos / "1.png")]
    assert err[-1] == "no tasks for 1 pictures in zip or tar files: extract them, and label the files"


@pytest.mark.parametrize("format_", BOTH)
def test_names_that_are_no_utf8_lead_to_their_bytes(infer, bundle, tmp_path, format_):
    raw = os.fsencode(tmp_path) + b"/b\xe9.png"
    try:
        Image.fromarray(PICTURES[0]).save(os.fsdecode(raw))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    out = tmp_path / "labels"
    assert infer(os.fsdecode(raw), "--engine", bundle, "--format", format_, "--output", out)[0] == 0
    if format_ == "parquet":
        (row,) = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
        assert row["path_bytes"] == raw
        assert row["path"].endswith("/b\\xe9.png")
    else:
        (task,) = json.loads(out.read_bytes())
        assert task["data"]["image"].endswith("/b%E9.png")
        assert os.fsencode(task["data"]["path"]) == raw


# --- whole or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", BOTH)
def test_an_interrupted_run_is_gone_on_with_to_the_same_bytes(infer, bundle, photos, tmp_path, interrupt, format_):
    if format_ == "parquet":
        pytest.importorskip("pyarrow")
    many(photos)
    arguments = [photos, "--engine", bundle, "--format", format_, "--batch-size", 2, "--output"]
    assert infer(*arguments, tmp_path / "whole")[0] == 6
    interrupt(2)
    code, _, err = infer(*arguments, tmp_path / "out")
    assert code == 130
    assert "with --resume goes on" in err[-2]
    partial = (tmp_path / "out.partial").read_bytes()
    assert lines_of(partial)[0]["path"] == str(photos / "0.png")  # JSON lines, which anybody can look at
    assert not (tmp_path / "out").exists()
    code, _, err = infer(*arguments, tmp_path / "out", "--resume")
    assert code == 6
    assert err[0].startswith("going on after ")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert list(tmp_path.glob("out*")) == [tmp_path / "out"]
    assert "is complete: nothing to resume" in infer(*arguments, tmp_path / "out", "--resume")[2][0]


def test_where_the_file_cannot_be_made_the_answers_stay_and_going_on_is_enough(
    infer, bundle, photos, tmp_path, monkeypatch
):
    (tmp_path / "out").write_bytes(b"an older one")
    arguments = [photos, "--engine", bundle, "--format", "label-studio", "--output", tmp_path / "out"]
    with monkeypatch.context() as patch:

        def full(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(label_studio.LabelStudioMaker, "finish", full)
        code, _, err = infer(*arguments)
    assert code == 2
    assert err[-1].startswith("error: E-SYSTEM: could not write the results to ")
    assert (tmp_path / "out").read_bytes() == b"an older one"
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out", "out.partial", "out.partial.state"]
    code, _, err = infer(*arguments, "--resume")
    assert code == 6
    assert err[0] == "going on after 10 pictures"
    assert len(rows_of(tmp_path / "out", "label-studio")) == 8
    assert [path.name for path in tmp_path.glob("*out*")] == ["out"]


def test_on_stdout_an_array_that_is_not_whole_does_not_look_as_if_it_were(infer, bundle, photos, interrupt):
    many(photos)
    interrupt(3, MadeSink)
    code, out, _ = infer(photos, "--engine", bundle, "--format", "label-studio", "--batch-size", 2)
    assert code == 130
    assert out.startswith(b'[\n{"data": ')
    with pytest.raises(json.JSONDecodeError):
        json.loads(out)


# --- shares ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", BOTH)
def test_shares_of_json_lines_are_merged_into_what_one_run_writes(infer, bundle, photos, tmp_path, format_):
    if format_ == "parquet":
        pytest.importorskip("pyarrow")
    many(photos)
    arguments = [photos, "--engine", bundle, "--format"]
    infer(*arguments, format_, "--output", tmp_path / "whole")
    parts = [tmp_path / f"part-{index}" for index in range(3)]
    for index, part in enumerate(parts):
        infer(*arguments, "jsonl", "--shard", f"{index}/3", "--output", part)
    code, _, err = infer("--merge", *parts, "--format", format_, "--output", tmp_path / "merged")
    assert code == 6
    assert err[-1] == "merged 3 shares: 50 answers, of which 2 could not be read"
    assert rows_of(tmp_path / "merged", format_) == rows_of(tmp_path / "whole", format_)
    if format_ == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        tables = [pq.read_table(tmp_path / name) for name in ("merged", "whole")]
        assert tables[0] == tables[1]
        metadata = [table.schema.metadata for table in tables]
        assert metadata[0][b"zsl.sha256"] == metadata[1][b"zsl.sha256"]
        assert metadata[0][b"zsl.generation"] == metadata[1][b"zsl.generation"]


@pytest.mark.parametrize("format_", BOTH)
def test_each_share_is_whole_by_itself_and_is_not_merged(infer, bundle, photos, tmp_path, format_):
    if format_ == "parquet":
        pytest.importorskip("pyarrow")
    arguments = [photos, "--engine", bundle, "--format", format_]
    infer(*arguments, "--output", tmp_path / "whole")
    parts = [tmp_path / f"part-{index}" for index in range(2)]
    for index, part in enumerate(parts):
        infer(*arguments, "--shard", f"{index}/2", "--output", part)
        again = infer(*arguments, "--shard", f"{index}/2", "--output", part, "--resume")
        assert "is complete: nothing to resume" in again[2][0]
    found = [row for part in parts for row in rows_of(part, format_)]
    assert sorted(found) == rows_of(tmp_path / "whole", format_)
    code, _, err = infer("--merge", *parts, "--output", tmp_path / "merged")
    assert code == 2
    assert err[0].startswith(f"error: E-MERGE: {str(parts[0])!r} ")
    assert "merge with --format parquet" in err[0]
    assert not (tmp_path / "merged").exists()


def test_shares_of_csv_become_nothing_else(infer, bundle, photos, tmp_path):
    for index in range(2):
        part = tmp_path / f"part-{index}"
        infer(photos, "--engine", bundle, "--shard", f"{index}/2", "--output", part)
    parts = sorted(tmp_path.glob("part-?"))
    for format_ in ("label-studio", "jsonl", "csv-safe"):
        code, _, err = infer("--merge", *parts, "--format", format_, "--output", tmp_path / "merged")
        assert code == 2
        assert f"E-MERGE: the shares were written as csv, of which no {format_} can be made" in err[0]
    assert infer("--merge", *parts, "--format", "csv", "--output", tmp_path / "merged")[0] == 6


# --- what does not go together --------------------------------------------------------------------------------------


def test_an_unknown_format_names_all(infer, bundle, photos):
    code, _, err = infer(photos, "--engine", bundle, "--format", "xml")
    assert code == 2
    assert len(err) == 1
    assert all(repr(one) in err[0] for one in FORMATS)
    assert set(MADE) < set(FORMATS)


@pytest.mark.parametrize("output", [None, "/dev/stdout", "/dev/null"])
def test_parquet_never_goes_to_a_terminal_or_a_pipe(infer, bundle, photos, output):
    code, out, err = infer(
        photos, "--engine", bundle, "--format", "parquet", *([] if output is None else ["--output", output])
    )
    assert (code, out, len(err)) == (2, b"", 1)
    assert err[0].startswith("error: E-FORMAT: Parquet is no text and does not go to ")
    assert err[0].endswith("give --output FILE.parquet")


def test_without_pyarrow_the_line_says_what_to_install(infer, bundle, photos, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, err = infer(photos, "--engine", bundle, "--format", "parquet", "--output", tmp_path / "a.parquet")
    assert code == 4
    told = "error: E-PACKAGE: --format parquet needs pyarrow, which is not installed here; "
    assert err == [f'{told}pip install "zsl-deploy[parquet]"']
    assert list(tmp_path.glob("a.parquet*")) == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--label-studio-root", "/"], "--label-studio-root is for --format label-studio"),
        (["--label-studio-prefix", "x", "--format", "jsonl"], "--label-studio-prefix is for --format label-studio"),
        (["--output", "/tmp/labels.Parquet"], "would be csv; give --format parquet"),
        (["--format", "label-studio", "--label-studio-root", "/nowhere"], "'/nowhere' is no folder"),
        (["--format", "label-studio", "--label-studio-root", "/proc"], "does not lie in --label-studio-root '/proc'"),
    ],
)
def test_options_that_do_not_go_together(infer, bundle, photos, flags, told):
    code, out, err = infer(photos, "--engine", bundle, *flags)
    assert (code, out, len(err)) == (2, b"", 1)
    assert err[0].startswith("error: E-FORMAT: ")
    assert told in err[0]


def test_rows_of_features_are_no_tasks(infer, shared_bundle, tmp_path):
    rows = shared_bundle(kind="backbone_features")
    np.save(tmp_path / "rows.npy", as_regions(PICTURES))
    code, _, err = infer(tmp_path / "rows.npy", "--engine", rows, "--format", "label-studio")
    assert code == 2
    assert err[-1].startswith("error: E-FORMAT: this model takes rows of features")


def test_merging_takes_no_options_of_labelling(infer, tmp_path):
    code, _, err = infer("--merge", tmp_path / "a", "--topk", 3, "--format", "jsonl")
    assert code == 2
    assert err[0].endswith("E-MERGE: --merge takes outputs and --output alone; leave --topk out")
