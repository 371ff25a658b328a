"""zsl-eval as a user meets it: what it prints where, its exit codes, and what it leaves behind."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from support.locked import lock
from support.tiny_bundle import SEEN, UNSEEN, as_regions, class_table, draw_pictures
from zsl_runtime.accuracy import harmonic_mean, per_class_accuracy
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes
from zsl_runtime.cli.evaluate import main
from zsl_runtime.errors import BackendError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.labelling import evaluation
from zsl_runtime.labelling.classifier import Classifier

if TYPE_CHECKING:
    from pathlib import Path

TABLE = class_table()
TRUE = np.repeat(np.arange(8), (3, 1, 4, 2, 2, 3, 4, 1))
PICTURES = draw_pictures(TABLE, TRUE, seed=41)
LABELS = np.where(np.arange(len(TRUE)) % 5 == 0, (TRUE + 3) % 8, TRUE)  # where a photograph lies, rightly or not
PROGRAM = [sys.executable, "-c", "import sys; from zsl_runtime.cli.evaluate import main; sys.exit(main())"]


@pytest.fixture
def bundle(shared_bundle) -> Path:
    return shared_bundle(rule="gaussian")


@pytest.fixture
def birds(tmp_path) -> Path:
    """Class folders; some photographs lie in the wrong one."""
    folder = tmp_path / "birds"
    for i, (picture, label) in enumerate(zip(PICTURES, LABELS, strict=True)):
        (folder / TABLE.names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / TABLE.names[label] / f"{i}.png")
    return folder


@pytest.fixture
def run(capfdbinary):
    """Run the command in this process: (exit code, stdout, stderr lines)."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        code = main([*map(str, arguments), "--backend", "ort", "--threads", "1"])
        captured = capfdbinary.readouterr()
        return code, captured.out.decode("utf-8", "surrogateescape"), captured.err.decode().splitlines()

    return call


@pytest.fixture
def refused(run):
    """The one line of an error; results are not there."""

    def call(code: str, *arguments: object) -> str:
        exit_code, out, err = run(*arguments)
        assert (exit_code, out) == (2, "")
        assert len(err) == 1
        assert err[0].startswith(f"error: {code}: ")
        return err[0]

    return call


def predicted(bundle: Path) -> np.ndarray:
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        return classifier.score(PICTURES)[0].argmax(axis=1)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def split_of(folder: Path, path: Path, role) -> Path:
    """A split.csv of what lies in a folder; `role` says the role of the i-th photograph."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "role"))
        for image in sorted(folder.rglob("*.png")):
            writer.writerow((image.relative_to(folder).as_posix(), role(int(image.stem))))
    return path


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_report_is_on_stdout_and_the_rest_on_stderr(run, bundle, birds):
    code, out, err = run(bundle, birds)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"bundle  {bundle}, generation 1, method tiny; fp32 by ort on cpu"
    assert lines[1] == f"truth   {birds} (class folders): 20 photographs of 8 classes"
    figures = {line.split()[0]: float(line.split()[1]) for line in lines[4:10]}
    best, seen = predicted(bundle), TABLE.seen[LABELS]
    s, u = per_class_accuracy(best[seen], LABELS[seen]), per_class_accuracy(best[~seen], LABELS[~seen])
    assert figures["S"] == pytest.approx(s, abs=0.05)
    assert figures["U"] == pytest.approx(u, abs=0.05)
    assert figures["H"] == pytest.approx(harmonic_mean(u, s), abs=0.05)
    assert figures["accuracy"] == pytest.approx(per_class_accuracy(best, LABELS), abs=0.05)
    assert all(any(name in line for line in lines[15:]) for name in TABLE.names)
    assert err[0].startswith(f"note: {seen.sum()} photographs are of seen classes; those that the model was trained on")
    assert "--split RUN/split.csv" in err[0]
    assert err[1].startswith("looked at 20 of 20 photographs, ")
    assert err[1].endswith(") on cpu, fp32, generation 1")
    assert len(err) == 2


def test_json_and_csv_and_the_confusion_agree(run, bundle, birds, tmp_path):
    code, out, _ = run(bundle, birds, "--format", "json", "--confusion", tmp_path / "c.csv")
    assert code == 0
    found = json.loads(out)
    best = predicted(bundle)
    assert found["protocol"]["truth_kind"] == "class folders"
    assert (found["protocol"]["photographs"], found["protocol"]["unreadable"]) == (20, 0)
    assert found["accuracy"] == pytest.approx(per_class_accuracy(best, LABELS))
    names = found["confusion"]["classes"]
    for i, of in enumerate(names):
        for k, to in enumerate(names):
            pairs = np.logical_and(TABLE.index(of) == LABELS, TABLE.index(to) == best)
            assert found["confusion"]["counts"][i][k] == pairs.sum()
    matrix = list(csv.reader((tmp_path / "c.csv").read_text(encoding="utf-8").splitlines()))
    assert matrix[0] == ["class", *names]
    assert [[row[0], *map(int, row[1:])] for row in matrix[1:]] == [
        [name, *counts] for name, counts in zip(names, found["confusion"]["counts"], strict=True)
    ]
    code, out, _ = run(bundle, birds, "--format", "csv")
    assert code == 0
    rows = rows_of(out)
    assert [row["class"] for row in rows] == [one["class"] for one in found["classes"]] == list(SEEN + UNSEEN)
    for row, one in zip(rows, found["classes"], strict=True):
        assert (int(row["photographs"]), int(row["right"])) == (one["photographs"], one["right"])
        assert float(row["accuracy"]) == pytest.approx(one["accuracy"], rel=1e-5)


def test_results_go_to_a_file_whole(run, bundle, birds, tmp_path):
    _, wanted, _ = run(bundle, birds, "--format", "csv")
    code, out, _ = run(bundle, birds, "--format", "csv", "--output", tmp_path / "r.csv")
    assert (code, out) == (0, "")
    assert (tmp_path / "r.csv").read_text(encoding="utf-8") == wanted


def test_the_bundle_may_be_given_as_an_option(run, bundle, birds):
    _, wanted, _ = run(bundle, birds, "--format", "csv")
    for words in ([birds, "--engine", bundle], ["--engine", bundle, birds], [bundle / "manifest.json", birds]):
        assert run(*words, "--format", "csv")[:2] == (0, wanted)


def test_a_table_of_paths_and_classes(run, bundle, birds, tmp_path):
    _, wanted, _ = run(bundle, birds, "--format", "csv")
    with (tmp_path / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "class", "by"))
        writer.writerows((f"birds/{one.parent.name}/{one.name}", one.parent.name, "me") for one in birds.rglob("*.png"))
        writer.writerow(("birds/unlabelled.png", "", ""))
    code, out, err = run(bundle, tmp_path / "labels.csv", "--format", "csv")
    assert (code, out) == (0, wanted)
    assert err[0] == "rows without a class left out: 1"


def test_training_data_and_its_split(run, bundle, birds, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    birds.rename(data / "images")
    (data / "classes.csv").write_text("name,split\n", encoding="utf-8")
    split = split_of(data / "images", tmp_path / "split.csv", lambda i: "test" if i % 2 else "train")
    best, own = predicted(bundle), np.arange(20) % 2 == 1
    for words, kept in (((), own), (("--role", "train"), ~own)):
        code, out, err = run(bundle, data, "--split", split, *words, "--format", "json")
        assert code == 0
        found = json.loads(out)
        assert found["accuracy"] == pytest.approx(per_class_accuracy(best[kept], LABELS[kept]))
        assert found["protocol"]["split"] == str(split)
        assert found["protocol"]["role"] == (words or ("", "test"))[1]
        assert found["protocol"]["truth_kind"] == "training data"
        assert err[0].startswith(
            f"photographs with the role {found['protocol']['role']} in {split}: 10; with another: 10"
        )
        assert not any("flatter" in line for line in err)


def test_no_note_where_only_unseen_classes_are_looked_at(run, bundle, birds):
    for name in SEEN:
        for path in (birds / name).iterdir():
            path.unlink()
    code, out, err = run(bundle, birds)
    assert code == 0
    assert err[0].startswith("class folders without a photograph: ")
    assert not any("flatter" in line for line in err)
    assert "S              -      -       -  there are no photographs of seen classes" in out


def test_rows_of_feature_files(run, shared_bundle, tmp_path):
    rows = as_regions(PICTURES)
    for name in TABLE.names:
        (tmp_path / "rows" / name).mkdir(parents=True)
        own = rows[TABLE.index(name) == LABELS]
        if len(own):
            np.save(tmp_path / "rows" / name / "x.npy", own)
    code, out, err = run(
        shared_bundle(kind="backbone_features", rule="gaussian"), tmp_path / "rows", "--format", "json"
    )
    assert code == 0
    assert json.loads(out)["protocol"]["photographs"] == 20
    assert err[-1].startswith("looked at 20 of 20 rows, ")


def test_classes_that_were_added_are_evaluated_as_unseen(run, own_bundle, birds):
    bundle = own_bundle(rule="gaussian")
    heron = ClassTable(("heron",), np.array([False]), np.array([[0, 7, 1, 1, 7, 1.0]]), TABLE.attributes)
    add_classes(Bundle.open(bundle), heron)
    (birds / "wren").rename(birds / "heron")
    code, out, _ = run(bundle, birds, "--format", "json")
    assert code == 0
    found = json.loads(out)
    assert found["protocol"]["generation"] == 2
    assert {one["class"]: one["split"] for one in found["classes"]}["heron"] == "unseen"
    assert found["figures"]["T1"]["competing"] == 4


# --- what is left out -------------------------------------------------------------------------------------------------


def test_a_class_that_the_bundle_does_not_have_is_refused_before_anything_is_read(
    refused, run, bundle, birds, monkeypatch
):
    (birds / "wren").rename(birds / "wrens")
    with monkeypatch.context() as patch:
        patch.setattr("zsl_runtime.labelling.reading.Reader.row", lambda *_: pytest.fail("a photograph was read"))
        line = refused("E-CLASS-UNKNOWN", bundle, birds)
    assert "'wrens' (did you mean wren?)" in line
    assert "--known-only" in line
    code, out, err = run(bundle, birds, "--known-only", "--format", "json")
    assert code == 0
    count = int((TABLE.index("wren") == LABELS).sum())
    note = f"photographs left out because the model does not have their classes: {count}, of wrens ({count})"
    assert err[0] == note
    found = json.loads(out)
    assert found["protocol"]["photographs"] == 20 - count
    assert found["protocol"]["notes"] == [note]


def test_unreadable_photographs_are_told_left_out_and_end_with_6(run, bundle, birds):
    (birds / "tit" / "bad.png").write_bytes(b"no picture")
    (birds / "tit" / "worse.jpg").write_bytes(b"")
    code, out, err = run(bundle, birds, "--format", "json")
    assert code == 6
    told = [line for line in err if line.startswith("error: ")]
    assert [name in line for name, line in zip(("bad.png", "worse.jpg"), told, strict=True)] == [True, True]
    assert err[-1].startswith("looked at 20 of 22 photographs, ")
    found = json.loads(out)
    assert found["protocol"]["unreadable"] == 2
    assert [os.path.basename(one["path"]) for one in found["unreadable"]] == ["bad.png", "worse.jpg"]  # noqa: PTH119
    assert found["accuracy"] == pytest.approx(per_class_accuracy(predicted(bundle), LABELS))


def test_a_folder_that_cannot_be_listed_is_told_and_litter_and_other_kinds_are_counted(
    run, bundle, birds, tmp_path, monkeypatch
):
    wanted = json.loads(run(bundle, birds, "--format", "json")[1])
    split = split_of(birds, tmp_path / "split.csv", lambda _: "test")
    for folder in (birds / "tit" / "locked", birds / "@eaDir" / "x", birds / "tit" / "@eaDir" / "x"):
        folder.mkdir(parents=True)
        Image.fromarray(PICTURES[0]).save(folder / "SYNOPHOTO_THUMB_M.jpg")
    (birds / "tit" / "a.heic").write_bytes(b"x")
    lock(monkeypatch, "locked")
    for options in ((), ("--split", split)):
        code, out, err = run(bundle, birds, "--format", "json", *options)
        assert code == 6
        (line,) = [line for line in err if line.startswith("error: ")]
        assert line.startswith(f"error: E-FOLDER: {str(birds / 'tit' / 'locked')!r} cannot be looked into")
        found = json.loads(out)
        assert [one["path"] for one in found["unreadable"]] == [str(birds / "tit" / "locked")]
        assert found["accuracy"] == wanted["accuracy"]
        notes = found["protocol"]["notes"]
        assert "pictures left out because of where they lie: 2 in @eaDir (thumbnails of a NAS)" in notes
        assert any(note.startswith("HEIC pictures left out: 1 (.heic); save as JPEG") for note in notes)


def test_where_nothing_can_be_read_there_is_no_result(run, bundle, tmp_path):
    (tmp_path / "birds" / "wren").mkdir(parents=True)
    (tmp_path / "birds" / "wren" / "bad.png").write_bytes(b"x")
    code, out, err = run(bundle, tmp_path / "birds", "--output", tmp_path / "r")
    assert (code, out) == (2, "")
    assert err[-1].startswith("error: E-PHOTOS-EMPTY: none of 1 photographs can be read; the first one: E-IMAGE")
    assert not (tmp_path / "r").exists()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_words_that_do_not_go_together_are_refused(refused, bundle, birds, tmp_path):
    assert "the bundle was given twice" in refused("E-EVAL-WORDS", bundle, birds, "--engine", bundle)
    assert "expected zsl-eval BUNDLE TRUTH" in refused("E-EVAL-WORDS", bundle)
    assert "got 'nothing'" in refused("E-EVAL-WORDS")
    refused("E-EVAL-WORDS", bundle, birds, birds)
    assert "give --split" in refused("E-SPLIT-ROLE", bundle, birds, "--role", "val")
    same = (tmp_path / "x.csv", "--confusion", tmp_path / "." / "x.csv")
    assert "give two files" in refused("E-OUTPUT", bundle, birds, "--output", *same)
    assert not (tmp_path / "x.csv").exists()


def test_places_that_cannot_be_used_are_refused(refused, bundle, birds, tmp_path):
    assert "none" in refused("E-TRUTH", bundle, tmp_path / "none")
    refused("E-BUNDLE-PATH", tmp_path / "none", birds)
    refused("E-SYSTEM", bundle, birds, "--split", tmp_path / "none.csv")


@pytest.mark.parametrize("option", ["--output", "--confusion"])
def test_a_folder_is_no_file_to_write_to(run, bundle, birds, tmp_path, option):
    code, out, err = run(bundle, birds, option, tmp_path)
    assert (code, out) == (2, "")
    assert err[-1] == f"error: E-OUTPUT: {option} {str(tmp_path)!r} is a folder; give the name of a file"


def test_a_backend_that_fails_leaves_no_file(run, bundle, birds, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise BackendError("E-BACKEND-RUN", "no memory")
        yield

    monkeypatch.setattr(evaluation, "score", fail)
    (tmp_path / "old.csv").write_text("before")
    words = ("--output", tmp_path / "old.csv", "--confusion", tmp_path / "c.csv")
    code, out, err = run(bundle, birds, *words)
    assert (code, out) == (4, "")
    assert err[-1] == "error: E-BACKEND-RUN: no memory"
    assert (tmp_path / "old.csv").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds", "old.csv"]


def test_help_is_there_by_both_names(capsys):
    for flag in ("-h", "--help"):
        assert main([flag]) == 0
        said = capsys.readouterr().out
        assert "zsl-eval [OPTIONS] BUNDLE TRUTH" in said
        assert "--known-only" in said


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing_behind(own_bundle, birds, tmp_path, number, code):
    """In a process of its own, in the middle of the photographs."""
    slow = (
        "import os, signal, sys, time\n"
        "from zsl_runtime.labelling.classifier import Classifier\n"
        "real = Classifier.score_with\n"
        "def score_with(self, *given):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(30)\n"
        "Classifier.score_with = score_with\n"
        "from zsl_runtime.cli.evaluate import main\n"
        "sys.exit(main())\n"
    )
    files = {path: path.read_bytes() for path in birds.rglob("*.png")}
    words = [
        own_bundle(rule="gaussian"),
        birds,
        "--backend",
        "ort",
        "--output",
        tmp_path / "r",
        "--confusion",
        tmp_path / "c",
    ]
    done = subprocess.run(
        [sys.executable, "-c", slow, *map(str, words)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1] == ("interrupted" if code == 130 else "terminated")
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds", "tiny"]
    assert {path: path.read_bytes() for path in birds.rglob("*.png")} == files


def test_a_reader_that_goes_away_is_no_error(own_bundle, birds):
    with subprocess.Popen(
        [*PROGRAM, str(own_bundle(rule="gaussian")), str(birds), "--backend", "ort"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(timeout=60) == 0
