"""zsl-infer as a user meets it: what it prints where, its exit codes, and what it leaves behind."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zsl_runtime
from support.forked import allow_fork, become_nobody, forked
from support.locked import lock
from support.tiny_bundle import SEEN, UNSEEN, as_regions, class_table, draw_pictures, make_tiny_bundle
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli import infer_steps
from zsl_runtime.cli.infer import main
from zsl_runtime.errors import BackendError
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.labelling.reading import BATCH_SIZE
from zsl_runtime.labelling.results import Sink

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8), seed=21)
PROGRAM = [sys.executable, "-c", "import sys; from zsl_runtime.cli.infer import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    return str(make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "b"))


@pytest.fixture(scope="module")
def row_bundle(tmp_path_factory) -> str:
    return str(make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "r", kind="backbone_features"))


@pytest.fixture
def infer(capfdbinary):
    """Run the command in this process, without counts at the end: (exit code, stdout, stderr lines)."""

    def run(*arguments: object, counts: bool = False) -> tuple[int, str, list[str]]:
        code = main([*([] if counts else ["--quiet"]), *map(str, arguments)])
        captured = capfdbinary.readouterr()
        return code, captured.out.decode("utf-8", "surrogateescape"), captured.err.decode().splitlines()

    return run


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def error_line(lines: list[str]) -> str:
    """The one line of an error; a traceback would be more."""
    assert len(lines) == 1
    assert lines[0].startswith("error: E-")
    return lines[0]


# --- answers --------------------------------------------------------------------------------------------------------


def test_a_folder_is_labelled_as_csv(infer, bundle, photos):
    code, out, err = infer(photos, "--engine", bundle, "--topk", 3)
    assert code == 0
    assert out.splitlines()[0] == "path,rank,class,split,probability,distance,far"
    rows = rows_of(out)
    assert [row["path"] for row in rows] == [str(photos / f"{i}.png") for i in range(8) for _ in range(3)]
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 8
    assert [row["class"] for row in rows[::3]] == list(SEEN + UNSEEN)
    assert [row["split"] for row in rows[::3]] == ["seen"] * 5 + ["unseen"] * 3
    with Classifier.open(bundle) as classifier:
        expected = classifier.predict(sorted(photos.iterdir()), topk=3)
    assert [row["class"] for row in rows] == [name for p in expected for name in p.names]
    given = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(given, [chance for p in expected for chance in p.probabilities], rtol=1e-5)
    assert len(err) == 1
    assert err[0].startswith("labelled 8 of 8 pictures, ")
    assert " pictures/s, backend ort (onnxruntime " in err[0]
    assert err[0].endswith(") on cpu, fp32, generation 1")


@pytest.mark.parametrize("backend", ["auto", "ort", "reference"])
def test_every_backend_gives_the_same_table(infer, bundle, photos, backend):
    _, out, err = infer(photos, "--engine", bundle, "--backend", backend, "--device", "cpu", "--threads", 2)
    _, expected, _ = infer(photos, "--engine", bundle)
    assert [r["class"] for r in rows_of(out)] == [r["class"] for r in rows_of(expected)]
    given, wanted = ([float(r["probability"]) for r in rows_of(text)] for text in (out, expected))
    np.testing.assert_allclose(given, wanted, rtol=1e-4)
    assert f"backend {'reference' if backend == 'reference' else 'ort'} (" in err[0]


def test_jsonl_has_one_object_a_picture(infer, bundle, photos):
    code, out, _ = infer(photos / "7.png", photos / "0.png", "--engine", bundle, "--format", "jsonl", "--topk", 1)
    assert code == 0
    first, second = map(json.loads, out.splitlines())
    assert first["path"] == str(photos / "7.png")
    assert first["predictions"][0]["class"] == "übersee-ente"
    assert first["predictions"][0]["split"] == "unseen"
    assert second["predictions"][0]["class"] == "robin"


@pytest.mark.parametrize(("classes", "names"), [("seen", SEEN), ("unseen", UNSEEN)])
def test_a_filter_lets_only_its_classes_compete(infer, bundle, photos, classes, names):
    _, out, _ = infer(photos, "--engine", bundle, "--classes", classes, "--topk", 50)
    rows = rows_of(out)
    assert len(rows) == 8 * len(names)
    assert {row["class"] for row in rows} == set(names)
    assert {row["split"] for row in rows} == {classes}
    sums = np.array([float(row["probability"]) for row in rows]).reshape(8, -1).sum(axis=1)
    np.testing.assert_allclose(sums, 1, rtol=1e-4)


def test_min_probability_leaves_out_less_probable_rows(infer, bundle, photos):
    _, out, _ = infer(photos, "--engine", bundle, "--topk", 8)
    kept = [row for row in rows_of(out) if float(row["probability"]) >= 0.01]
    _, out, _ = infer(photos, "--engine", bundle, "--topk", 8, "--min-probability", 0.01)
    assert rows_of(out) == kept
    assert 8 <= len(kept) < 64


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_changes_nothing_but_the_speed(infer, bundle, photos, batch_size):
    (photos / "4b.png").write_bytes(b"damaged")
    code, out, err = infer(photos, "--engine", bundle, "--batch-size", batch_size, "--topk", 1)
    assert code == 6
    assert [row["class"] for row in rows_of(out)] == list(SEEN + UNSEEN)
    assert len(err) == 2


def test_patterns_and_other_suffixes(infer, bundle, photos):
    (photos / "notes.txt").write_text("hello")
    (photos / "deep").mkdir()
    shutil.copy(photos / "5.png", photos / "deep" / "x.PNG")
    code, out, err = infer(photos / "[0-2].png", photos / "deep", "--engine", bundle, "--topk", 1)
    assert code == 0
    assert [row["class"] for row in rows_of(out)] == ["robin", "tit", "crow", "wren"]
    assert len(err) == 1
    code, out, err = infer(photos, "--engine", bundle, "--topk", 1)
    assert code == 0
    assert len(rows_of(out)) == 9
    assert err[0] == "files of other kinds skipped: 1"


def test_feature_files_are_labelled_row_by_row(infer, row_bundle, tmp_path):
    path, bad = tmp_path / "a.npy", tmp_path / "b.npy"
    regions = as_regions(PICTURES)
    regions[2] = np.nan
    np.save(path, regions)
    np.save(bad, regions[:, :3])
    code, out, err = infer(tmp_path, "--engine", row_bundle, "--topk", 1)
    assert code == 6
    rows = rows_of(out)
    assert [row["path"] for row in rows] == [f"{path}#{i}" for i in (0, 1, 3, 4, 5, 6, 7)]
    assert [row["class"] for row in rows] == [name for name in SEEN + UNSEEN if name != "crow"]
    assert err[0].startswith(f"error: E-ROW-VALUE: '{path}#2': ")
    assert err[1].startswith(f"error: E-ROW-SHAPE: '{bad}' ")
    assert err[2].startswith("labelled 7 of 9 rows, ")


# --- pictures of all kinds ------------------------------------------------------------------------------------------


def test_bad_pictures_are_reported_and_the_rest_labelled(infer, bundle, photos):
    picture = Image.fromarray(PICTURES[0])
    picture.convert("CMYK").save(photos / "cmyk.jpg")
    picture.convert("P").save(photos / "palette.gif")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(photos / "deep.png")
    picture.convert("RGBA").save(photos / "alpha.webp", lossless=True)
    picture.save(photos / "moving.png", save_all=True, append_images=[Image.fromarray(PICTURES[1])])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(photos / "turned.jpg", exif=exif)
    whole = photos / "0.png"
    (photos / "cut.png").write_bytes(whole.read_bytes()[:-30])
    (photos / "empty.jpg").touch()
    (photos / "text.jpg").write_text("no picture")
    Image.new("F", (8, 8)).save(photos / "float.tif")
    bomb = bytearray(whole.read_bytes())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    (photos / "bomb.png").write_bytes(bomb)
    (photos / "gone.png").symlink_to(photos / "nowhere")

    code, out, err = infer(photos, "--engine", bundle, "--format", "jsonl", "--topk", 1)
    assert code == 6
    answers = {Path(value["path"]).name: value for value in map(json.loads, out.splitlines())}
    errors = {name: value["error"]["code"] for name, value in answers.items() if "error" in value}
    assert errors == {
        "bomb.png": "E-IMAGE-HUGE",
        "cut.png": "E-IMAGE-DECODE",
        "empty.jpg": "E-IMAGE-EMPTY",
        "float.tif": "E-IMAGE-FLOAT",
        "gone.png": "E-IMAGE-OPEN",
        "text.jpg": "E-IMAGE-FORMAT",
    }
    assert len(answers) - len(errors) == 14
    for name in ("alpha.webp", "moving.png", "palette.gif"):
        assert answers[name]["predictions"][0]["class"] == "robin"
    assert len(err) == 7
    assert all(line.startswith("error: E-IMAGE-") for line in err[:6])
    assert err[6].startswith("labelled 14 of 20 pictures, ")

    code, out, _ = infer(photos, "--engine", bundle, "--topk", 1)
    assert code == 6
    assert len(rows_of(out)) == 14


def test_nothing_but_bad_pictures_gives_the_header_and_exit_6(infer, bundle, tmp_path):
    (tmp_path / "a.jpg").touch()
    code, out, err = infer(tmp_path, "--engine", bundle)
    assert (code, out) == (6, "path,rank,class,split,probability,distance,far\n")
    assert err[-1].startswith("labelled 0 of 1 pictures, ")


def test_odd_file_names_survive(infer, bundle, photos):
    odd = ['comma, "quoted".png', "new\nline.png", "größe.png", "-dash.png", os.fsdecode(b"latin\xe9.png")]
    for name in odd:
        shutil.copy(photos / "5.png", photos / name)
    code, out, _ = infer("--engine", bundle, "--topk", 1, "--", *(photos / name for name in odd))
    assert code == 0
    assert [row["path"] for row in rows_of(out)] == [str(photos / name) for name in odd]
    code, out, _ = infer("--engine", bundle, "--topk", 1, "--format", "jsonl", "--", *(photos / name for name in odd))
    assert code == 0
    assert [json.loads(line)["path"] for line in out.splitlines()] == [str(photos / name) for name in odd]


def test_an_unreadable_file_with_an_odd_name_is_named_in_one_line(infer, bundle, photos):
    name = os.fsdecode(b"bad\xe9\n.png")
    (photos / name).write_bytes(b"x")
    code, out, err = infer(photos / name, "--engine", bundle, "--format", "jsonl")
    assert code == 6
    assert json.loads(out)["path"] == str(photos / name)
    assert len(err) == 2
    assert r"bad\udce9\n.png" in err[0]


# --- errors ---------------------------------------------------------------------------------------------------------


def test_missing_paths_and_empty_folders(infer, bundle, photos, tmp_path):
    code, out, err = infer(photos, tmp_path / "missing", "--engine", bundle)
    assert (code, out) == (2, "")
    assert "E-INPUT-MISSING" in error_line(err)
    (tmp_path / "empty").mkdir()
    code, out, err = infer(tmp_path / "empty", "--engine", bundle)
    assert (code, out) == (2, "")
    assert "E-NO-IMAGES" in error_line(err)


@pytest.mark.parametrize(
    "flags",
    [
        ["--topk", "0"],
        ["--topk", "many"],
        ["--threads", "0"],
        ["--batch-size", "0"],
        ["--min-probability", "1.5"],
        ["--min-probability", "nan"],
        ["--classes", "some"],
        ["--format", "xml"],
        ["--backend", "magic"],
        ["--precision", "int8"],
    ],
)
def test_wrong_flags_are_usage_errors(infer, bundle, photos, flags):
    code, out, err = infer(photos, "--engine", bundle, *flags)
    assert (code, out) == (2, "")
    assert flags[0] in error_line(err)


def test_no_paths_or_no_bundle_is_a_usage_error(infer, bundle, photos, tmp_path):
    assert "PATHS" in error_line(infer("--engine", bundle)[2])
    assert "--engine" in error_line(infer(photos)[2])
    code, _, err = infer(photos, "--engine", tmp_path / "missing")
    assert code == 2
    assert "E-BUNDLE-PATH" in error_line(err)


def test_another_device_is_refused_and_never_replaced(infer, bundle, photos):
    code, out, err = infer(photos, "--engine", bundle, "--device", "cuda:0")
    assert (code, out) == (4, "")
    assert "E-DEVICE" in error_line(err)


def test_files_of_features_are_refused_by_a_model_of_pictures(infer, bundle, photos, tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((2, 3), np.float32))
    for paths in ([tmp_path / "rows.npy"], [photos / "0.png", tmp_path / "rows.npy"]):
        code, out, err = infer(*paths, "--engine", bundle)
        assert (code, out) == (2, "")
        assert "E-INPUT-KIND" in error_line(err)
        assert "rows.npy" in error_line(err)
        assert "this model takes pictures" in error_line(err)


def test_a_missing_onnxruntime_is_exit_4_with_the_install_line(infer, bundle, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = infer(photos, "--engine", bundle)
    assert code == 4
    assert 'pip install "zsl-deploy[cpu]"' in error_line(err)


def test_a_damaged_bundle_is_exit_5(infer, bundle, photos, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    data = bytearray((broken / "model.onnx").read_bytes())
    data[100] ^= 255
    (broken / "model.onnx").write_bytes(data)
    code, out, err = infer(photos, "--engine", broken)
    assert (code, out) == (5, "")
    assert "E-BUNDLE-HASH" in error_line(err)


def test_a_filter_that_leaves_no_class_is_a_usage_error(infer, photos, tmp_path):
    folder = make_tiny_bundle(tmp_path / "b")
    opened = Bundle.open(folder)
    now = opened.current()
    seen = np.flatnonzero(now.table.seen)
    with opened.lock():
        fewer = replace(now, number=2, parent=1, table=now.table.take(seen), head=now.head.take(seen))
        opened.commit(fewer, {"names": list(UNSEEN)})
    code, out, err = infer(photos, "--engine", folder, "--classes", "unseen")
    assert (code, out) == (2, "")
    assert "E-FILTER-EMPTY" in error_line(err)


# --- output ---------------------------------------------------------------------------------------------------------


def test_output_goes_to_a_file_with_the_same_bytes(infer, bundle, photos, tmp_path):
    _, expected, _ = infer(photos, "--engine", bundle)
    folder = tmp_path / "results"
    folder.mkdir()
    for content in (None, "old"):
        if content:
            (folder / "out.csv").write_text(content)
        code, out, _ = infer(photos, "--engine", bundle, "--output", folder / "out.csv")
        assert (code, out) == (0, "")
        assert (folder / "out.csv").read_text() == expected
        assert [p.name for p in folder.iterdir()] == ["out.csv"]


def test_output_is_kept_when_some_pictures_are_unreadable(infer, bundle, photos, tmp_path):
    (photos / "bad.jpg").touch()
    code, _, _ = infer(photos, "--engine", bundle, "--topk", 1, "--output", tmp_path / "out.csv")
    assert code == 6
    assert len(rows_of((tmp_path / "out.csv").read_text())) == 8


def test_output_to_an_impossible_place(infer, bundle, photos, tmp_path):
    code, _, err = infer(photos, "--engine", bundle, "--output", tmp_path)
    assert code == 2
    assert "E-OUTPUT" in error_line(err)
    code, _, err = infer(photos, "--engine", bundle, "--output", tmp_path / "no" / "out.csv")
    assert code == 2
    assert "E-SYSTEM: could not write the results" in error_line(err)
    if Path("/dev/full").exists():
        code, _, err = infer(photos, "--engine", bundle, "--output", "/dev/full")
        assert code == 2
        assert "No space left" in error_line(err)
        assert Path("/dev/full").is_char_device()


def run(*arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, check=False, **options)


def test_a_full_disk_leaves_nothing_behind(bundle, photos, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "out.csv").write_text("old")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    done = run(photos, "--engine", bundle, "--output", folder / "out.csv", preexec_fn=limit)
    assert done.returncode == 2
    assert b"E-SYSTEM: could not write the results" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert [p.name for p in folder.iterdir()] == ["out.csv"]
    assert (folder / "out.csv").read_text() == "old"


@pytest.fixture
def open_folder():
    """Other users can reach this folder; pytest's own is closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@allow_fork
def test_no_write_permission_is_said_in_one_line(bundle, photos, open_folder):
    shutil.copytree(bundle, open_folder / "bundle")
    shutil.copytree(photos, open_folder / "photos")
    (open_folder / "results").mkdir(mode=0o555)

    def label() -> int:
        os.chdir(open_folder)
        return main(["photos", "--engine", "bundle", "--output", "results/out.csv"])

    outcome = forked(label, **become_nobody())
    assert outcome.code == 2
    assert "E-SYSTEM: could not write the results to 'results/out.csv'" in error_line(outcome.stderr.splitlines())
    assert "Permission denied" in outcome.stderr
    assert list((open_folder / "results").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_interrupted_in_the_middle_keeps_what_is_finished(row_bundle, tmp_path, number, code, word):
    np.save(tmp_path / "many.npy", np.random.default_rng(0).random((400_000, 4, 3)))
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "out.csv").write_text("old")
    partial = folder / "out.csv.partial"
    arguments = [str(tmp_path / "many.npy"), "--engine", row_bundle, "--output", str(folder / "out.csv")]
    with subprocess.Popen([*PROGRAM, *arguments, "--topk", "1"], stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 60
        while not partial.exists() or partial.stat().st_size < 200:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    kept = partial.read_text()
    count = len(rows_of(kept))
    assert child.returncode == code
    assert err.splitlines() == [
        f"the results of {count} rows are in {str(partial)!r}; the same command with --resume goes on",
        word,
    ]
    assert count % BATCH_SIZE == 0
    assert kept.endswith("\n")
    assert (folder / "out.csv").read_text() == "old"
    assert json.loads((folder / "out.csv.partial.state").read_text().splitlines()[-1])["items"] == count


def test_a_reader_that_goes_away_ends_it_quietly(row_bundle, tmp_path):
    np.save(tmp_path / "many.npy", np.zeros((400_000, 4, 3), np.float16))
    arguments = [str(tmp_path / "many.npy"), "--engine", row_bundle]
    with subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"path,rank,class,split,probability,distance,far\n"
        child.stdout.close()
        err = child.stderr.read()
        assert child.wait(timeout=60) == 0
    assert err == b""


# --- the process ----------------------------------------------------------------------------------------------------


def test_results_are_utf8_whatever_the_locale(bundle, photos, tmp_path):
    shutil.copy(photos / "7.png", photos / "ö.png")
    environment = os.environ | {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = [photos / "ö.png", photos / "missing\u20ac.png", "--engine", bundle, "--topk", 1]
    done = run(*arguments[:1], *arguments[2:], env=environment)
    assert done.returncode == 0
    assert f"{photos}/ö.png,1,übersee-ente,unseen,".encode() in done.stdout
    done = run(*arguments, env=environment)
    assert done.returncode == 2
    assert b"E-INPUT-MISSING" in done.stderr


def test_the_help_names_every_option(infer):
    code, out, err = infer("--help")
    assert (code, err) == (0, [])
    for flag in ("--engine", "--topk", "--format", "--output", "--resume", "--null", "--classes", "--min-probability"):
        assert flag in out
    for flag in (
        "--device",
        "--backend",
        "--threads",
        "--batch-size",
        f"[default: {BATCH_SIZE}]",
        "--profile",
        "PATHS",
    ):
        assert flag in out


def test_a_terminal_sees_a_bar(bundle, photos):
    """Through a real pseudo-terminal on stderr; stdout stays clean."""
    pty = pytest.importorskip("pty")
    controller, terminal = pty.openpty()
    done = subprocess.run(
        [*PROGRAM, str(photos), "--engine", bundle, "--topk", "1"], stdout=subprocess.PIPE, stderr=terminal, check=True
    )
    os.close(terminal)
    seen = os.read(controller, 65536).decode()
    os.close(controller)
    assert "8/8" in seen
    assert "pictures/s" in seen
    assert len(rows_of(done.stdout.decode())) == 8


def test_it_runs_where_torch_and_onnx_cannot_be_imported(bundle, photos):
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'scipy', 'zsl_train', 'zsl_export'):\n"
        "    sys.modules[name] = None\n"
        "from zsl_runtime.cli.infer import main\n"
        "sys.exit(main())\n"
    )
    arguments = [str(photos), "--engine", bundle, "--topk", "1"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert [row["class"] for row in rows_of(done.stdout)] == list(SEEN + UNSEEN)


# --- lists and shards -----------------------------------------------------------------------------------------------


@pytest.fixture
def listed(monkeypatch, tmp_path):
    """Put a list on stdin."""
    with ExitStack() as stack:

        def put(data: bytes) -> None:
            (tmp_path / "list").write_bytes(data)
            monkeypatch.setattr(sys, "stdin", stack.enter_context((tmp_path / "list").open()))

        yield put


@pytest.fixture
def shard(photos, tmp_path) -> Path:
    """The same pictures in a tar file, with something else."""
    path = tmp_path / "birds.tar"
    with tarfile.open(path, "w") as archive:
        for picture in sorted(photos.iterdir()):
            archive.add(picture, f"in/{picture.name}")
        archive.addfile(tarfile.TarInfo("in/notes.txt"))
    return path


def test_a_list_on_stdin_is_labelled(infer, bundle, photos, listed):
    listed(os.fsencode(f"{photos}/6.png\n{photos}/none.png\n{photos}/1.png\n"))
    code, out, err = infer("-", "--engine", bundle, "--topk", 1)
    assert code == 6
    assert [row["class"] for row in rows_of(out)] == ["eagle owl", "tit"]
    assert err[0].startswith(f"error: E-IMAGE-OPEN: '{photos}/none.png' cannot be read")
    assert err[1].startswith("labelled 2 of 3 pictures, ")


def test_a_list_with_nul_and_more_paths_beside_it(infer, bundle, photos, listed):
    shutil.copy(photos / "5.png", photos / "new\nline.png")
    (photos / "notes.txt").touch()
    listed(os.fsencode(f"{photos}/new\nline.png\0{photos}\0"))
    code, out, err = infer(photos / "7.png", "-0", "-", "--engine", bundle, "--topk", 1)
    assert code == 0
    names = [f"{photos}/7.png", f"{photos}/new\nline.png", *(f"{photos}/{i}.png" for i in range(8))]
    assert [row["path"] for row in rows_of(out)] == [*names, f"{photos}/new\nline.png"]
    assert err[0] == "files of other kinds skipped in lists and shards: 1"


def test_a_list_of_feature_files(infer, row_bundle, tmp_path, listed):
    np.save(tmp_path / "a.npy", as_regions(PICTURES))
    listed(os.fsencode(f"{tmp_path}/a.npy\n"))
    code, out, _ = infer("-", "--engine", row_bundle, "--topk", 1)
    assert code == 0
    assert [row["path"] for row in rows_of(out)] == [f"{tmp_path}/a.npy#{i}" for i in range(8)]


def test_lists_that_are_none(infer, bundle, photos, listed, monkeypatch):
    listed(b"")
    code, out, err = infer("-", "--engine", bundle)
    assert (code, len(rows_of(out))) == (0, 0)
    assert err[0].startswith("labelled 0 of 0 pictures, ")
    assert "E-LIST" in error_line(infer("-", "-", "--engine", bundle)[2])
    assert "E-LIST" in error_line(infer(photos, "--null", "--engine", bundle)[2])
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = infer("-", "--engine", bundle)
    assert code == 2
    assert "E-LIST" in error_line(err)
    listed(os.fsencode(f"{photos}/0.png\n") + b"x" * 100_000)
    code, out, err = infer("-", "--engine", bundle, "--batch-size", 1, "--topk", 1)
    assert code == 2
    assert [row["class"] for row in rows_of(out)] == ["robin"]  # what came before is answered
    assert "E-LIST" in error_line(err)


def test_a_shard_gives_what_its_pictures_give(infer, bundle, photos, shard):
    _, wanted, _ = infer(photos, "--engine", bundle)
    code, out, err = infer(shard, "--engine", bundle)
    assert code == 0
    assert out.replace(f"{shard}/in/", f"{photos}/") == wanted
    assert err[0] == "files of other kinds skipped in lists and shards: 1"
    code, out, err = infer(shard.parent, "--engine", bundle)
    assert (code, out) == (0, wanted)
    assert err[0] == "files of other kinds skipped: 1 (1 zip or tar: name them to read them)"


def test_a_damaged_shard_is_one_line_and_what_is_before_is_labelled(infer, bundle, shard):
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2 - 100])
    code, out, err = infer(shard, "--engine", bundle, "--format", "jsonl", "--topk", 1)
    assert code == 6
    *before, last = map(json.loads, out.splitlines())
    assert [answer["path"] for answer in before] == [f"{shard}/in/{i}.png" for i in range(len(before))]
    assert 2 <= len(before) <= 5
    assert f"{len(before)} pictures before that were read" in err[0]
    assert (last["path"], last["error"]["code"]) == (str(shard), "E-SHARD-DAMAGED")
    assert err[0].startswith(f"error: E-SHARD-DAMAGED: '{shard}' is damaged or cut off")
    assert len(err) == 2


def test_a_zip_file_without_pictures_and_a_shard_for_a_model_of_features(infer, bundle, row_bundle, shard, tmp_path):
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("notes.txt", "none")
    code, out, err = infer(tmp_path / "none.zip", "--engine", bundle)
    assert (code, out) == (2, "")
    assert "E-NO-IMAGES: there are no pictures in" in error_line(err)
    assert "E-INPUT-KIND" in error_line(infer(shard, "--engine", row_bundle)[2])


# --- folders that cannot be listed, litter, kinds that are not read ---------------------------------------------------


@pytest.fixture
def locked(photos, monkeypatch) -> Path:
    """A folder between the pictures that the system does not list."""
    folder = photos / "3-locked"
    folder.mkdir()
    shutil.copy(photos / "0.png", folder / "inside.png")
    lock(monkeypatch, folder)
    return folder


def test_a_folder_that_cannot_be_listed_is_told_and_the_rest_is_labelled(infer, bundle, photos, locked):
    code, out, err = infer(photos, "--engine", bundle, "--topk", 1, counts=True)
    assert code == 6
    assert [row["path"] for row in rows_of(out)] == [str(photos / f"{i}.png") for i in range(8)]
    (line,) = [line for line in err if line.startswith("error: ")]
    assert line.startswith(f"error: E-FOLDER: {str(locked)!r} cannot be looked into: Permission denied; ")
    assert "not readable: 1 a folder that cannot be looked into (E-FOLDER)" in err
    lines = infer(photos, "--engine", bundle, "--format", "jsonl")[1].splitlines()
    assert [json.loads(line)["error"]["code"] for line in lines if "error" in line] == ["E-FOLDER"]
    code, out, err = infer(locked, photos / "0.png", "--engine", bundle, "--topk", 1)
    assert (code, [row["path"] for row in rows_of(out)]) == (6, [str(photos / "0.png")])
    assert infer(locked, "--engine", bundle)[0] == 6


def test_rows_beside_a_folder_that_cannot_be_listed_are_labelled(infer, row_bundle, photos, locked, tmp_path):
    np.save(photos / "a.npy", as_regions(PICTURES))
    code, out, _ = infer(photos, "--engine", row_bundle, "--topk", 1)
    assert (code, len(rows_of(out))) == (6, 8)


def test_a_run_with_such_a_folder_is_gone_on_with(infer, bundle, photos, locked, tmp_path, interrupt):
    out = tmp_path / "out.csv"
    arguments = (photos, "--engine", bundle, "--output", out, "--batch-size", 2)
    assert infer(*arguments)[0] == 6
    wanted = out.read_bytes()
    out.unlink()
    interrupt(3)
    assert infer(*arguments)[0] == 130
    assert infer(*arguments, "--resume")[0] == 6
    assert out.read_bytes() == wanted


def test_pictures_that_are_gone_when_their_turn_comes_are_told(infer, bundle, photos, monkeypatch):
    """As when a share is unmounted between the count and the labelling: what is left is an empty folder."""
    counted = []
    real = infer_steps._items

    def items(*arguments):
        found = real(*arguments)
        counted.append(found[1])
        for file in list(photos.iterdir())[:3]:
            file.unlink()
        return found

    monkeypatch.setattr(infer_steps, "_items", items)
    code, out, err = infer(photos, "--engine", bundle, "--topk", 1)
    assert (code, counted, len(rows_of(out))) == (6, [8], 5)
    assert any(line.startswith("error: E-FOLDER: 3 of 8 pictures that were counted") for line in err)


def test_what_a_user_may_miss_is_told_even_when_it_is_to_be_quiet(infer, bundle, photos, tmp_path):
    (photos / "@eaDir" / "0.png").mkdir(parents=True)
    for size in "XL", "M":
        shutil.copy(photos / "0.png", photos / "@eaDir" / "0.png" / f"SYNOPHOTO_THUMB_{size}.jpg")
    for name in ("a.HEIC", "b.heic", "c.heif", "d.CR2", "e.jpg_large", "f.zip", "notes.txt"):
        (photos / name).write_bytes(b"x")
    code, out, err = infer(photos, "--engine", bundle, "--topk", 1)
    assert (code, len(rows_of(out))) == (0, 8)
    heic, *others = err[1:-1]
    assert heic.startswith("HEIC pictures left out: 3 (2 .heic, 1 .heif); save as JPEG first")
    assert others[0].startswith("archives left out: 1 (.zip); zsl-infer reads .zip, .tar")
    assert others[1].startswith("cameras' raw files left out: 1 (.cr2); ")
    assert others[2] == (
        "files whose names go on behind the suffix of a picture left out: 1 (.jpg_large); rename them to end in .jpg"
    )
    assert others[3:] == ["pictures left out because of where they lie: 2 in @eaDir (thumbnails of a NAS)"]
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(photos.rglob("*.*")):
            archive.write(file, file.relative_to(photos))
    code, out, inside = infer(path, "--engine", bundle, "--topk", 1)
    assert (code, len(rows_of(out))) == (0, 8)
    assert [line for line in inside if "left out" in line] == [line for line in err if "left out" in line]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.heic", b"x")
    code, _, err = infer(path, "--engine", bundle)
    assert code == 2
    assert "HEIC pictures left out: 1 (.heic); save as JPEG" in error_line(err)
    code, _, err = infer(photos / "@eaDir", "--engine", bundle, "--topk", 1)
    assert (code, [line for line in err if "left out" in line]) == (0, [])


# --- resume ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupt(monkeypatch):
    """Send a signal to this process while the batch of a number is written."""

    def after(count: int, number: int = signal.SIGINT) -> None:
        real, calls = Sink.write, []

        def write(self, data, batch):
            real(self, data, batch)
            calls.append(len(batch))
            if len([call for call in calls if call]) == count:
                monkeypatch.setattr(Sink, "write", real)
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Sink, "write", write)

    return after


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_an_interrupted_run_is_gone_on_with_to_the_same_bytes(infer, bundle, photos, tmp_path, interrupt, format_):
    (photos / "1b.jpg").touch()
    (photos / "6b.jpg").touch()
    for i in range(40):
        shutil.copy(photos / f"{i % 8}.png", photos / f"more{i:02d}.png")
    arguments = [photos, "--engine", bundle, "--format", format_, "--batch-size", 2, "--output"]
    code, _, err = infer(*arguments, tmp_path / "whole")
    assert code == 6
    assert err[-1].startswith("labelled 48 of 50 pictures")
    interrupt(2)
    code, out, err = infer(*arguments, tmp_path / "out")
    assert (code, out) == (130, "")
    told = [line for line in err if not line.startswith("error: E-IMAGE-EMPTY")]  # one or two, as far as it got
    assert 1 <= len(err) - len(told) <= 2
    assert re.fullmatch(r"the results of \d+ pictures are in '.*out\.partial'; the same command with .*", told[0])
    done = int(told[0].split()[3])
    assert 4 < done < 50
    assert not (tmp_path / "out").exists()
    code, _, err = infer(*arguments, tmp_path / "out")
    assert code == 2
    assert f"E-PARTIAL: '{tmp_path}/out.partial' holds the results of {done} pictures" in error_line(err)
    code, _, err = infer(*arguments, tmp_path / "out", "--resume", "--topk", 2)
    assert code == 2
    assert "E-RESUME" in error_line(err)
    assert "--topk was 5 and is 2" in err[0]
    code, _, err = infer(*arguments[:4], format_, "--output", tmp_path / "out", "--resume", "--batch-size", 5)
    assert code == 6  # what could not be read before the interruption still counts
    assert err[0] == f"going on after {done} pictures"
    assert err[-1].startswith("labelled 48 of 50 pictures")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]


def test_another_build_of_the_release_goes_on_and_says_so_and_another_release_does_not(
    infer, bundle, photos, tmp_path, interrupt, monkeypatch
):
    for i in range(40):
        shutil.copy(photos / f"{i % 8}.png", photos / f"more{i:02d}.png")
    arguments = [photos, "--engine", bundle, "--batch-size", 2, "--output", tmp_path / "out", "--resume"]
    monkeypatch.setattr(zsl_runtime, "__version__", "0.1.0.dev7+g1a2b3c4")
    interrupt(2)
    assert infer(*arguments)[0] == 130
    for other in ("0.1.1.dev2+g1a2b3c4", "0.2.0", "0.1.0rc1"):
        monkeypatch.setattr(zsl_runtime, "__version__", other)
        code, _, err = infer(*arguments)
        assert code == 2
        assert f"zsl-deploy was '0.1.0' and is '{other.partition('.dev')[0]}'" in error_line(err)
    monkeypatch.setattr(zsl_runtime, "__version__", "0.1.0.dev8+g5d6e7f8")
    code, _, err = infer(*arguments)
    assert code == 0
    told = (
        r"going on after \d+ pictures; zsl-deploy 0\.1\.0\.dev7\+g1a2b3c4 labelled the first, this is 0\.1\.0\.dev8.*"
    )
    assert re.fullmatch(told, err[0])


def test_an_interruption_on_stdout_ends_with_whole_lines(infer, bundle, photos, interrupt):
    for i in range(40):
        shutil.copy(photos / f"{i % 8}.png", photos / f"more{i:02d}.png")
    interrupt(3, signal.SIGTERM)
    code, out, err = infer(photos, "--engine", bundle, "--batch-size", 2, "--topk", 1)
    assert code == 143
    count = len(rows_of(out))
    assert count in {6, 8, 10}  # what was in the engine and what waited to be written is written, too
    assert [row["class"] for row in rows_of(out)][:8] == list(SEEN + UNSEEN)[:count]
    assert err == [f"stopped after {count} pictures, whose results are written", "terminated"]


def test_a_run_that_fails_in_the_middle_is_gone_on_with(infer, bundle, photos, tmp_path, monkeypatch):
    arguments = [photos, "--engine", bundle, "--batch-size", 2, "--output", tmp_path / "out"]
    real, calls = Classifier.score_with, []

    def fail(self, snapshot, inputs):
        calls.append(1)
        if len(calls) == 3:
            raise BackendError("E-BACKEND-RUN", "no memory")
        return real(self, snapshot, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "score_with", fail)
        code, _, err = infer(*arguments)
    assert code == 4
    assert err[0].startswith("the results of 4 pictures are in ")
    assert "E-BACKEND-RUN" in error_line(err[1:])
    assert infer(*arguments, "--resume")[0] == 0
    assert [row["class"] for row in rows_of((tmp_path / "out").read_text())][::5] == list(SEEN + UNSEEN)


def test_other_pictures_cannot_be_gone_on_with(infer, bundle, photos, tmp_path, interrupt):
    for i in range(40):
        shutil.copy(photos / f"{i % 8}.png", photos / f"more{i:02d}.png")
    arguments = [photos, "--engine", bundle, "--batch-size", 2, "--output", tmp_path / "out", "--resume"]
    interrupt(2)
    assert infer(*arguments)[0] == 130
    (photos / "0.png").unlink()
    code, _, err = infer(*arguments)
    assert code == 2
    assert "E-RESUME: the first" in err[-1]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--resume"], "give the --output"),
        (["--resume", "--output", "out", "--cascade"], "a cascade labels all pictures together"),
        (["--resume", "--output", "/dev/null"], "is no plain file"),
    ],
)
def test_what_cannot_be_resumed_is_a_usage_error(infer, bundle, photos, tmp_path, monkeypatch, flags, told):
    monkeypatch.chdir(tmp_path)
    code, out, err = infer(photos, "--engine", bundle, *flags)
    assert (code, out) == (2, "")
    assert told in error_line(err)


def test_nothing_is_resumed_where_the_output_is_complete(infer, bundle, photos, tmp_path, interrupt):
    arguments = [photos, "--engine", bundle, "--batch-size", 2, "--output", tmp_path / "out"]
    told = f"{tmp_path}/out is complete: nothing to resume; leave --resume out to label again"
    assert infer(*arguments, "--resume")[0] == 0  # there is nothing yet: it begins at the first picture
    before = (tmp_path / "out").read_bytes(), (tmp_path / "out").stat().st_mtime_ns
    for more in ([], ["--topk", 2]):
        assert infer(*arguments, "--resume", *more) == (0, "", [told])
        assert ((tmp_path / "out").read_bytes(), (tmp_path / "out").stat().st_mtime_ns) == before
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]
    assert infer(*arguments)[2][0].startswith("labelled 8 of 8 pictures")  # again, without --resume
    for i in range(40):
        shutil.copy(photos / f"{i % 8}.png", photos / f"more{i:02d}.png")
    interrupt(2)
    assert infer(*arguments)[0] == 130
    code, _, err = infer(*arguments, "--resume")  # an older FILE is there, but so is FILE.partial
    assert (code, err[0].startswith("going on after ")) == (0, True)
    assert len(rows_of((tmp_path / "out").read_text())) == 48 * 5


def test_a_folder_or_a_device_is_not_complete(infer, bundle, photos, tmp_path):
    assert "E-OUTPUT" in error_line(infer(photos, "--engine", bundle, "--output", tmp_path, "--resume")[2])


# --- what was found, in counts --------------------------------------------------------------------------------------


def after_labelled(err: list[str]) -> list[str]:
    """What is said behind the line of how many were labelled."""
    (at,) = [i for i, line in enumerate(err) if line.startswith("labelled ")]
    return err[at + 1 :]


@pytest.fixture
def many_photos(photos) -> Path:
    """Class 0 once, class 1 twice, and so on, in class order."""
    for i in range(8):
        for again in range(i):
            shutil.copy(photos / f"{i}.png", photos / f"{i}again{again}.png")
    return photos


def test_a_run_ends_with_what_it_found(infer, bundle, many_photos):
    code, out, err = infer(many_photos, "--engine", bundle, "--topk", 1, counts=True)
    assert code == 0
    names = SEEN + UNSEEN
    assert after_labelled(err) == [
        "best classes of 36 pictures:",
        *(f"  {8 - i}  {names[7 - i]}" for i in range(8)),
        "unsure, with a best probability below 0.5: 0 of 36",
    ]
    quiet = infer(many_photos, "--engine", bundle, "--topk", 1, "--quiet")
    assert (quiet[0], quiet[1], after_labelled(quiet[2])) == (0, out, [])


def test_what_is_left_out_is_counted_by_reason_and_by_suffix(infer, bundle, photos):
    for name, data in (
        ("a.jpg", b""),
        ("b.jpg", b""),
        ("c.jpg", b"none"),
        ("d.png", (photos / "0.png").read_bytes()[:99]),
    ):
        (photos / name).write_bytes(data)
    for name in ("a.txt", "b.TXT", "c.csv", ".hidden.png", "README", "x.xml", "y.md", "z.7z", "z.rar"):
        (photos / name).touch()
    code, _, err = infer(photos, "--engine", bundle, counts=True)
    assert code == 6
    *_, reasons, kinds = after_labelled(err)
    assert reasons == (
        "not readable: 2 empty (E-IMAGE-EMPTY), 1 damaged or cut off (E-IMAGE-DECODE), 1 not a picture (E-IMAGE-FORMAT)"
    )
    assert "archives left out: 2 (1 .7z, 1 .rar); zsl-infer reads" in "\n".join(err)
    assert kinds == "files of other kinds: 2 .txt, 1 .csv, 1 .md, 1 .xml, 1 hidden, 1 more"
    code, _, err = infer(photos, "--engine", bundle)
    assert after_labelled(err) == []
    assert len([line for line in err if line.startswith("error: E-IMAGE-")]) == 4  # errors stay


def test_files_left_out_of_lists_and_shards_are_among_the_kinds(infer, bundle, photos, shard, listed):
    (photos / "a.md").touch()
    (photos / "b.txt").touch()
    listed(os.fsencode(f"{photos}\n"))
    _, _, err = infer(shard, "-", photos, "--engine", bundle, counts=True)
    assert after_labelled(err)[-1] == "files of other kinds: 3 .txt, 2 .md"


def test_where_nothing_can_be_read_only_the_reason_is_told(infer, bundle, tmp_path):
    (tmp_path / "a.jpg").touch()
    code, _, err = infer(tmp_path, "--engine", bundle, counts=True)
    assert (code, after_labelled(err)) == (6, ["not readable: 1 empty (E-IMAGE-EMPTY)"])


@pytest.mark.parametrize("flags", [[], ["--min-probability", 1], ["--topk", 1], ["--format", "jsonl"], ["--cascade"]])
def test_counts_are_of_the_best_classes_of_all_whatever_is_written(infer, bundle, many_photos, flags):
    _, _, err = infer(many_photos, "--engine", bundle, *flags, counts=True)
    _, out, _ = infer(many_photos, "--engine", bundle, *(["--cascade"] if "--cascade" in flags else []))
    best = [row for row in rows_of(out) if row["rank"] == "1"]
    told = after_labelled(err)
    found = {line[5:]: int(line[:3]) for line in told[1:-1]}
    assert found == {name: [row["class"] for row in best].count(name) for name in {row["class"] for row in best}}
    unsure = sum(float(row["probability"]) < 0.5 for row in best)
    assert told[-1] == f"unsure, with a best probability below 0.5: {unsure} of 36"


def test_unsure_is_said_of_the_classes_that_compete(infer, bundle, tmp_path):
    for i in range(8):
        for j in range(i):
            both = (PICTURES[i].astype(int) + PICTURES[j]) // 2
            Image.fromarray(both.astype(np.uint8)).save(tmp_path / f"{i}{j}.png")
    told = set()
    for classes in ("all", "seen", "unseen"):
        _, out, _ = infer(tmp_path, "--engine", bundle, "--classes", classes)
        _, _, err = infer(tmp_path, "--engine", bundle, "--classes", classes, counts=True)
        unsure = sum(float(row["probability"]) < 0.5 for row in rows_of(out) if row["rank"] == "1")
        assert after_labelled(err)[-1] == f"unsure, with a best probability below 0.5: {unsure} of 28"
        told.add(unsure)
    assert len(told) > 1


def test_counts_after_an_interruption_are_of_the_rest_and_say_so(infer, bundle, many_photos, tmp_path, interrupt):
    (many_photos / "0bad.jpg").touch()
    (many_photos / "9bad.jpg").touch()
    arguments = [many_photos, "--engine", bundle, "--topk", 1, "--batch-size", 2, "--output", tmp_path / "out"]
    interrupt(2)
    code, _, err = infer(*arguments, counts=True)
    assert code == 130
    assert not [line for line in err if line.startswith("best classes")]
    done = int(next(line for line in err if line.startswith("the results of")).split()[3])
    code, _, err = infer(*arguments, "--resume", counts=True)
    assert code == 6
    told = after_labelled(err)
    assert told[0] == f"best classes of {37 - done} pictures of this run, which went on after {done}:"
    rest = [row["class"] for row in rows_of((tmp_path / "out").read_text())][done - 1 :]  # the first is unreadable
    found = {line[5:]: int(line[:3]) for line in told[1:-2]}
    assert found == {name: rest.count(name) for name in set(rest)}
    assert told[-1] == "not readable in this run: 1 empty (E-IMAGE-EMPTY)"


def test_rows_are_counted_too(infer, row_bundle, tmp_path):
    regions = as_regions(PICTURES)[:2]
    regions[1] = np.nan
    np.save(tmp_path / "a.npy", regions)
    _, _, err = infer(tmp_path / "a.npy", "--engine", row_bundle, counts=True)
    assert after_labelled(err) == [
        "best classes of 1 row:",
        "  1  robin",
        "unsure, with a best probability below 0.5: 0 of 1",
        "not readable: 1 with NaN or infinite numbers (E-ROW-VALUE)",
    ]


# --- profile and threads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--cascade"]])
def test_a_profile_is_printed_at_the_end_and_changes_no_answer(infer, bundle, photos, flags):
    _, wanted, _ = infer(photos, "--engine", bundle, *flags)
    code, out, err = infer(photos, "--engine", bundle, "--profile", *flags)
    assert (code, out) == (0, wanted)
    assert [line.split()[0] for line in err[-9:-2]] == [
        "stage",
        *("find", "decode", "pixels", "model", "head", "output"),
    ]
    assert re.match(r"8 pictures in [\d.]+ s, [\d.]+ pictures/s; the work of all stages takes \d+ CPUs at", err[-1])
    assert all(float(line.split()[1]) >= 0 for line in err[-8:-2])


def test_threads_are_those_of_numpy_too(bundle, photos):
    program = (
        "import os, sys\n"
        "from zsl_runtime.cli.infer import main\n"
        "code = main(sys.argv[1:])\n"
        "print(os.environ['OPENBLAS_NUM_THREADS'], os.environ['MKL_NUM_THREADS'], file=sys.stderr)\n"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "7"}
    arguments = [str(photos / "0.png"), "--engine", bundle, "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr.splitlines()[-1] == "1 1"
