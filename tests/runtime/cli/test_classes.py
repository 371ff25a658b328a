"""`zsl-classes` as a user types it: results on stdout, one line per error, exit codes, two at once."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image

from support.forked import allow_fork, become_nobody, forked, public_folder
from support.locked import lock
from support.tiny_bundle import ATTRIBUTES, class_table, draw_pictures, make_tiny_bundle
from zsl_runtime.bundle import bundle as bundle_module
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.classes import main
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.machine.storage import exclusive

assert public_folder  # a fixture

ROOT = Path(__file__).parents[3]
NEW = """\
größe,name,bright left,bright top,red,green,blue
1,heron,7,1,0,7,1
25,"cuckoo, common",0,0,5,0,5
"""
ODD = (
    "warning: attribute 'größe' of 'cuckoo, common' is 25, in training it went from 0 to 2; check the cell and its unit"
)


@pytest.fixture
def engine(own_bundle) -> str:
    return str(own_bundle())


@pytest.fixture
def attributes(tmp_path) -> str:
    (tmp_path / "new.csv").write_text(NEW, encoding="utf-8")
    return str(tmp_path / "new.csv")


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    said = capsys.readouterr()
    return code, said.out, said.err


def start(*argv: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from zsl_runtime.cli.classes import main; sys.exit(main())", *argv],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def names(engine: str) -> list[str]:
    return list(Bundle.open(engine).current().table.names)


def test_list_prints_a_table_for_people_and_csv_and_json_lines_for_programs(capsys, engine):
    code, out, err = run(capsys, "list", "--engine", engine)
    assert (code, err) == (0, "")
    assert [line.split(maxsplit=2) for line in out.splitlines()[1:]] == [
        [str(j), "seen" if j < 5 else "unseen", name] for j, name in enumerate(class_table().names)
    ]
    _, out, _ = run(capsys, "list", "--engine", f"{engine}/manifest.json", "--format", "csv")
    assert list(csv.reader(io.StringIO(out)))[::8] == [
        ["name", "split", "row", "photographs"],
        ["übersee-ente", "unseen", "7", ""],
    ]
    _, out, _ = run(capsys, "list", "--engine", engine, "--format", "jsonl")
    last = json.loads(out.splitlines()[4])
    assert last == {"name": "house sparrow", "split": "seen", "row": 4, "photographs": None}


def test_add_says_what_it_added_and_what_is_in_force_and_warns_of_odd_attributes(capsys, engine, attributes):
    code, out, err = run(capsys, "add", "--engine", engine, "--attributes", attributes)
    assert code == 0
    *added, state = out.splitlines()
    assert added == ["added heron", "added cuckoo, common"]
    assert re.fullmatch(r"generation 2: 10 classes, \d+\.\d s", state)
    assert err.splitlines() == [
        f"adding 2 classes to {engine} ...",
        ODD,
        "1 warning above; zsl-classes undo takes the change back",
    ]
    assert names(engine)[8:] == ["heron", "cuckoo, common"]


def test_where_rows_come_from_attributes_refit_says_that_a_seed_changes_nothing(capsys, own_bundle, attributes):
    engine = str(own_bundle(rule="rows"))
    assert run(capsys, "add", "--engine", engine, "--attributes", attributes)[0] == 0
    code, out, err = run(capsys, "refit", "--engine", engine, "--seed", "3")
    assert (code, out[:26]) == (0, "generation 3: 10 classes, ")
    assert err == "the head of this model is computed, not fitted: --seed changes nothing\n"
    assert run(capsys, "remove", "--engine", engine, "heron")[0] == 0
    assert run(capsys, "undo", "--engine", engine)[:2][1].startswith("back: heron\n")
    assert run(capsys, "refit", "--engine", engine, "--seed", "-3")[0] == 2


@pytest.mark.parametrize("command", ["add", "refit"])
def test_a_terminal_sees_a_bar_and_it_is_taken_away(capsys, monkeypatch, engine, attributes, command):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    options = ["--attributes", attributes] if command == "add" else []
    code, out, err = run(capsys, command, "--engine", engine, *options)
    assert code == 0
    assert "\r" not in out
    assert "80/80" in err  # two views of 40 epochs
    assert "\r\x1b[K" in err.rpartition("80/80")[2]


def test_a_seed_gives_the_same_bundle_state_again(capsys, engine, attributes):
    weights = []
    for seed in ("5", "5", "6"):
        assert run(capsys, "add", "--engine", engine, "--attributes", attributes, "--seed", seed)[0] == 0
        weights.append(Bundle.open(engine).current().head.weights[0])
        assert run(capsys, "undo", "--engine", engine)[0] == 0
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


def test_a_day_of_changes(capsys, engine, attributes):
    run(capsys, "add", "--engine", engine, "--attributes", attributes)
    code, out, _ = run(capsys, "remove", "--engine", engine, "wren", " heron ")
    assert (code, out.splitlines()[:2]) == (0, ["removed wren", "removed heron"])
    code, out, _ = run(capsys, "undo", "--engine", engine)
    assert (code, sorted(out.splitlines()[:2])) == (0, ["back: heron", "back: wren"])
    code, out, _ = run(capsys, "undo", "--engine", engine)
    assert out.splitlines()[:2] == ["gone: heron", "gone: cuckoo, common"]
    code, out, _ = run(capsys, "refit", "--engine", engine)
    assert (code, out[:25]) == (0, "generation 6: 8 classes, ")
    code, out, _ = run(capsys, "prune", "--engine", engine, "--keep", "2")
    assert (code, out) == (0, "deleted 3: generation 2, 3, 4\n")
    code, out, _ = run(capsys, "prune", "--engine", engine, "--keep", "2")
    assert (code, out) == (0, "nothing to delete\n")
    assert names(engine) == list(class_table().names)


def test_one_class_is_one_class(capsys, engine):
    _, out, _ = run(capsys, "remove", "--engine", engine, *class_table().names[1:])
    assert "generation 2: 1 class, " in out


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["undo"], 2, "E-UNDO-NONE"),
        (["remove", "dodo"], 2, "E-CLASS-UNKNOWN"),
        (["remove", "a/b"], 2, "E-CLASS-UNKNOWN"),
        (["remove"], 2, "NAME"),
        (["prune"], 2, "--keep"),
        (["prune", "--keep", "0"], 2, "E-PRUNE"),
        (["refit", "--seed", "-3"], 2, "E-SEED"),
        (["add"], 2, "--attributes"),
        (["add", "--attributes", "none.csv"], 2, "none.csv"),
        (["add", "--attributes", "NEW", "--fit", "new"], 2, "--fit"),
        (["add", "--attributes", "NEW", "--photos", "none"], 2, "E-HEAD-RULE"),
        (["teach", "--photos", "none"], 2, "E-HEAD-RULE"),
        (["teach"], 2, "--photos"),
        (["list", "--format", "xml"], 2, "xml"),
        (["burn"], 2, "burn"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_changes(capsys, engine, attributes, argv, code, told):
    argv = [attributes if word == "NEW" else word for word in argv]
    engine_option = [] if argv == ["burn"] else ["--engine", engine]
    got, out, err = run(capsys, *argv[:1], *engine_option, *argv[1:])
    assert (got, out) == (code, "")
    assert told in err
    assert len(err.splitlines()) == 1
    assert Bundle.open(engine).current().number == 1


def test_a_class_that_exists_or_a_wrong_column_is_refused(capsys, engine, tmp_path):
    header = ",".join(("name", *ATTRIBUTES))
    for text, code in (
        (f"{header}\nwren,1,1,1,1,1,1\n", "E-CLASS-EXISTS"),
        (f"{header},wings\nheron,1,1,1,1,1,1,2\n", "E-ATTRIBUTES"),
        (f"{header}\nheron,1,1,1,1,1,\n", "E-ATTRIBUTE-VALUE"),
    ):
        (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
        got, out, err = run(capsys, "add", "--engine", engine, "--attributes", str(tmp_path / "bad.csv"))
        assert (got, out) == (2, "")
        assert code in err.splitlines()[-1]
    assert Bundle.open(engine).current().number == 1


def test_a_broken_bundle_and_no_bundle(capsys, engine, tmp_path):
    (Path(engine) / "replay.safetensors").write_bytes(b"")
    code, out, err = run(capsys, "list", "--engine", engine)
    assert (code, out) == (5, "")
    assert "E-BUNDLE-HASH" in err
    assert run(capsys, "list", "--engine", str(tmp_path))[0] == 5
    assert run(capsys, "list", "--engine", str(tmp_path / "none"))[0] == 2
    assert run(capsys, "list")[0] == 2


def test_help_is_there_for_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from zsl_runtime.cli.classes import main; rc = main(sys.argv[1:]);"
        "bad = {'numpy', 'onnxruntime', 'PIL', 'torch'} & set(sys.modules); sys.exit(f'imported {bad}' if bad else rc)"
    )
    for command in ((), ("teach",), ("template",), ("similar",), ("add",)):
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--help"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage" in done.stdout
    for word in ("--attributes", "--photos", "--seed", "--engine", "--backend", "--device", "--threads"):
        assert word in done.stdout


def test_two_adds_at_once_both_land(engine, tmp_path):
    """Real processes; the export's lock is held until both wait for it, so that they do meet."""
    header = ",".join(("name", *ATTRIBUTES))
    adding = []
    with Bundle.open(engine).lock():
        for name, row in (("heron", "0,7,1,1,7,1"), ("cuckoo", "5,0,5,0,0,2")):
            path = tmp_path / f"{name}.csv"
            path.write_text(f"{header}\n{name},{row}\n", encoding="utf-8")
            adding.append(start("add", "--engine", engine, "--attributes", str(path)))
        said = [process.stderr.readline() + process.stderr.readline() for process in adding]
        assert all(b"waiting for another writer" in text for text in said)
    for process in adding:
        with process:
            out, err = process.communicate(timeout=60)
            assert (process.returncode, err) == (0, b""), err
            assert b"added" in out
    assert sorted(names(engine)[8:]) == ["cuckoo", "heron"]
    assert Bundle.open(engine).current().number == 3


def test_class_names_are_utf8_on_stdout_whatever_the_locale(engine):
    with start("list", "--engine", engine, "--format", "csv", PYTHONIOENCODING="ascii", LC_ALL="C") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert "übersee-ente,unseen,7" in out.decode("utf-8")


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("moment", [1, 2, 3])
def test_add_that_is_stopped_while_it_writes_changes_nothing(
    capsys, monkeypatch, engine, attributes, number, code, word, moment
):
    """At each of the three files that a change consists of."""
    before = {file: file.read_bytes() for file in Path(engine).rglob("*") if file.is_file()}
    stage, left = bundle_module.stage, [moment]

    def stop(folder, data):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
        return stage(folder, data)

    monkeypatch.setattr(bundle_module, "stage", stop)
    adding = ("add", "--engine", engine, "--attributes", attributes)
    stopped, out, err = run(capsys, *adding)
    assert (stopped, out, err.splitlines()[-1]) == (code, "", word)
    assert {file: file.read_bytes() for file in Path(engine).rglob("*") if file.is_file() and file.name != ".lock"} == {
        file: data for file, data in before.items() if file.name != ".lock"
    }
    assert run(capsys, *adding)[0] == 0


@allow_fork
def test_add_with_a_full_disk_is_one_line_and_changes_nothing(engine, attributes):
    before = {file: file.read_bytes() for file in Path(engine).rglob("*") if file.is_file()}
    outcome = forked(lambda: main(["add", "--engine", engine, "--attributes", attributes]), file_limit=1000)
    assert (outcome.code, outcome.stdout) == (2, "")
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("error: E-SYSTEM: could not finish the change (not made, the bundle is unchanged)")
    assert "Traceback" not in outcome.stderr
    assert {file: file.read_bytes() for file in Path(engine).rglob("*") if file.is_file()} == before


@allow_fork
def test_add_without_permission_is_one_line_but_list_works(public_folder):
    engine = make_tiny_bundle(public_folder / "tiny")
    (public_folder / "new.csv").write_text(NEW, encoding="utf-8")
    for folder in (engine, engine / "classes"):
        folder.chmod(0o555)
    for file in engine.iterdir():
        if file.is_file():
            file.chmod(0o444)
    argv = ["--engine", str(engine)]
    outcome = forked(lambda: main(["list", *argv]), **become_nobody())
    assert (outcome.code, outcome.stderr) == (0, "")
    adding = ["add", *argv, "--attributes", str(public_folder / "new.csv")]
    outcome = forked(lambda: main(adding), **become_nobody())
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "Permission denied" in outcome.stderr.splitlines()[-1]
    assert "Traceback" not in outcome.stderr


# --- the table to fill in --------------------------------------------------------------------------------------------


def test_the_table_to_fill_in_is_all_that_stdout_has(capsys, engine):
    code, out, err = run(capsys, "template", "--engine", engine, "barn owl", "crow's aunt", "--like", "crow")
    assert (code, err) == (0, "")
    header, *comments, first, second = list(csv.reader(io.StringIO(out)))
    assert header == ["name", *ATTRIBUTES]
    assert [row[0] for row in comments] == [
        "# smallest in training",
        "# largest in training",
        "# example: crow",
        *[row[0] for row in comments[3:]],
    ]
    assert (first, second) == (["barn owl", "1", "1", "9", "2", "0", "0"], ["crow's aunt", *first[1:]])


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_a_table_goes_from_template_through_an_editor_into_add(capsys, engine, tmp_path, kind):
    path = tmp_path / f"new.{kind}"
    code, out, err = run(capsys, "template", "--engine", engine, "heron", "--output", str(path))
    assert (code, out) == (0, "")
    assert err == f"wrote {path}: fill it in, then zsl-classes similar or add --attributes {path}\n"
    code, out, err = run(capsys, "add", "--engine", engine, "--attributes", str(path))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: E-ATTRIBUTE-VALUE: '{path}', {'cell B7' if kind == 'xlsx' else 'line 7'}, class ")
    assert "column 'red' is empty" in err
    if kind == "xlsx":
        book = openpyxl.load_workbook(path)
        for column, value in enumerate([0, 7, 1, 1, 7, 1], start=2):
            book.active.cell(7, column).value = value
        book.save(path)
    else:
        path.write_text(path.read_text(encoding="utf-8-sig").replace("heron,,,,,,", "heron,0,7,1,1,7,1"), "utf-8")
    for command in ("similar", "add"):
        code, out, err = run(capsys, command, "--engine", engine, "--attributes", str(path))
        assert code == 0, err
    assert names(engine)[8:] == ["heron"]


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_a_file_that_is_there_stays_unless_force_is_given(capsys, engine, tmp_path, kind):
    path = tmp_path / f"new.{kind}"
    path.write_bytes(b"somebody's work")
    argv = ("template", "--engine", engine, "--output", str(path))
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: E-OUTPUT-EXISTS: '{path}' is there")
    assert path.read_bytes() == b"somebody's work"
    assert run(capsys, *argv, "--force")[0] == 0
    assert path.read_bytes() != b"somebody's work"
    assert sorted(tmp_path.iterdir()) == sorted([path, Path(engine)])


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--output", "new.ods"], "E-OUTPUT: --output 'new.ods': expected a name that ends in .csv or .xlsx"),
        (["--output", "none/new.csv"], "E-SYSTEM"),
        (["--output", "folder.csv", "--force"], "E-OUTPUT"),
        (["wren"], "E-CLASS-EXISTS"),
        (["--like", "dodo"], "E-CLASS-UNKNOWN"),
        (["heron", " heron"], "E-CLASS-DUPLICATE"),
        (["x005F_", "--output", "new.xlsx"], "E-XLSX"),
    ],
)
def test_a_template_that_cannot_be_is_one_line_and_no_file(capsys, monkeypatch, engine, tmp_path, argv, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    code, out, err = run(capsys, "template", "--engine", engine, *argv)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"error: {told}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.csv", "tiny"]


def test_names_that_a_spreadsheet_would_work_out_are_told_but_kept(capsys, engine, tmp_path):
    code, out, err = run(capsys, "template", "--engine", engine, "=1+1", "heron")
    assert code == 0
    assert [line.partition(",")[0] for line in out.splitlines()[-2:]] == ["'=1+1", "heron"]
    assert err.startswith("note: '=1+1' would be taken for formulas by spreadsheet programs, so an apostrophe stands")
    path = str(tmp_path / "new.xlsx")
    assert "formula" not in run(capsys, "template", "--engine", engine, "=1+1", "--output", path)[2]
    sheet = openpyxl.load_workbook(path).active
    assert (sheet["A7"].value, sheet["A7"].data_type) == ("=1+1", "s")


@allow_fork
def test_a_template_with_a_full_disk_is_one_line_and_no_file(engine, tmp_path):
    path = tmp_path / "out" / "new.csv"
    path.parent.mkdir()
    argv = ["template", "--engine", engine, *(f"owl {j}" for j in range(400)), "--output", str(path)]
    outcome = forked(lambda: main(argv), file_limit=1000)
    assert (outcome.code, outcome.stdout, len(outcome.stderr.splitlines())) == (2, "", 1)
    assert outcome.stderr.startswith("error: E-SYSTEM: could not write the results to ")
    assert list(path.parent.iterdir()) == []


# --- photographs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def means(own_bundle) -> str:
    """A bundle in which every class is a mean."""
    return str(own_bundle("means", rule="gaussian"))


TABLE = class_table().append(
    ClassTable(
        ("heron", "cuckoo, common"),
        np.zeros(2, bool),
        np.array([[0, 7, 1, 1, 7, 1], [5, 0, 5, 0, 0, 5.0]]),
        ATTRIBUTES,
    )
)


@pytest.fixture
def photos(tmp_path):
    """Draws photographs of classes into a folder of class folders."""

    def draw(**counts: int) -> str:
        for name, count in counts.items():
            folder = tmp_path / "photos" / name
            folder.mkdir(parents=True)
            for number, picture in enumerate(draw_pictures(TABLE, np.full(count, TABLE.index(name)), 5)):
                Image.fromarray(picture).save(folder / f"{number}.png")
        return str(tmp_path / "photos")

    return draw


def test_of_a_newcomer_its_likely_mix_ups_are_told(capsys, means, attributes):
    code, out, err = run(capsys, "add", "--engine", means, "--attributes", attributes)
    assert code == 0
    heron, cuckoo, _ = out.splitlines()
    away = "standard deviations away: expected to lose {0} of its photographs to it and to take {0} of its"
    assert heron == f"added heron: from its attributes; most like tit, 11.6 {away.format('0%')}"
    assert cuckoo == f"added cuckoo, common: from its attributes; most like übersee-ente, 5.9 {away.format('1%')}"
    assert [line for line in err.splitlines() if line.startswith("warning")] == [ODD]


def test_a_twin_is_warned_of(capsys, means, tmp_path):
    header = ",".join(("name", *ATTRIBUTES))
    (tmp_path / "twin.csv").write_text(f"{header}\ntwin,6,6,0,0,1,1\n", encoding="utf-8")
    code, out, err = run(capsys, "add", "--engine", means, "--attributes", str(tmp_path / "twin.csv"))
    assert code == 0
    assert "added twin: from its attributes; most like wren, 0.0 standard deviations away: expected to lose 50% " in out
    first, second = [line for line in err.splitlines() if line.startswith("warning")]
    assert first.startswith("warning: 'twin' has the very attributes of 'wren'")
    assert second.startswith(
        "warning: 'twin' can hardly be told from 'wren': 50% of its photographs are expected to go"
    )


def test_photographs_of_some_of_the_new_classes_and_one_that_cannot_be_read(capsys, means, attributes, photos):
    folder = photos(heron=5)
    (Path(folder) / "heron" / "bad.jpg").write_bytes(b"no picture")
    (Path(folder) / "heron" / "notes.txt").write_text("x")
    code, out, err = run(capsys, "add", "--engine", means, "--attributes", attributes, "--photos", folder)
    assert code == 6
    first, second, state = out.splitlines()
    assert first.startswith("added heron: from its attributes and 5 photographs; most like ")
    assert second.startswith("added cuckoo, common: from its attributes; most like ")
    assert state.startswith("generation 2: 10 classes, ")
    told = err.splitlines()
    assert told[:2] == [
        "files of other kinds, or in no class folder, left out: 1",
        "looking at 6 photographs of 1 class ...",
    ]
    assert told[2].startswith("error: E-IMAGE-FORMAT: ")
    assert "bad.jpg" in told[2]
    assert told[3] == "left out, because they cannot be read: 1 photograph"
    assert Bundle.open(means).current().means.counts.tolist() == [40] * 5 + [0] * 3 + [5, 0]


@pytest.mark.parametrize("command", ["add", "teach"])
def test_folders_that_cannot_be_listed_litter_and_other_kinds_among_photographs_are_told(
    capsys, monkeypatch, means, attributes, photos, command
):
    name = "heron" if command == "add" else "wren"
    folder = Path(photos(**{name: 3}))
    for place in (folder / "@eaDir" / "x", folder / name / "@eaDir" / "0.png", folder / name / "locked"):
        place.mkdir(parents=True)
        shutil.copy(folder / name / "0.png", place / "SYNOPHOTO_THUMB_M.jpg")
    (folder / name / "a.heic").write_bytes(b"x")
    lock(monkeypatch, "locked")
    table = ("--attributes", attributes) if command == "add" else ()
    code, out, err = run(capsys, command, "--engine", means, *table, "--photos", str(folder))
    assert code == 6
    assert "3 photographs" in out
    lines = err.splitlines()
    assert "pictures left out because of where they lie: 2 in @eaDir (thumbnails of a NAS)" in lines
    assert [line for line in lines if line.startswith("HEIC pictures left out: 1 (.heic)")]
    assert [line for line in lines if line.startswith("error: E-FOLDER: ") and "locked" in line]
    for file in (folder / name).glob("*.png"):
        file.unlink()
    (folder / name / "locked" / "SYNOPHOTO_THUMB_M.jpg").unlink()
    (folder / name / "locked").rmdir()
    code, _, err = run(capsys, command, "--engine", means, *table, "--photos", str(folder))
    assert code == 2
    assert "E-PHOTOS-EMPTY" in err
    assert "HEIC pictures left out: 1 (.heic); save as JPEG" in err


def test_classes_that_are_there_are_taught_in_portions_and_all_of_it_is_undone(capsys, means, photos):
    before = Bundle.open(means).current()
    folder = photos(wren=2, robin=1)
    code, out, err = run(capsys, "teach", "--engine", means, "--photos", folder, "--backend", "ort", "--threads", "1")
    assert (code, err) == (0, "looking at 3 photographs of 2 classes ...\n")
    first, second, state = out.splitlines()
    assert first.startswith("taught robin: 1 photograph, 41 in all; most like ")
    assert second.startswith("taught wren: 2 photographs, 2 in all; most like ")
    assert state.startswith("generation 2: 8 classes, ")
    code, out, _ = run(capsys, "teach", "--engine", means, "--photos", folder)
    assert "taught wren: 2 photographs, 4 in all; " in out
    _, out, _ = run(capsys, "list", "--engine", means)
    assert [line.split(maxsplit=3) for line in out.splitlines()][::5] == [
        ["row", "split", "photographs", "name"],
        ["4", "seen", "40", "house sparrow"],
    ]
    _, out, _ = run(capsys, "list", "--engine", means, "--format", "csv")
    assert [row["photographs"] for row in csv.DictReader(io.StringIO(out))] == ["42", *["40"] * 4, "4", "0", "0"]
    _, out, _ = run(capsys, "list", "--engine", means, "--format", "jsonl")
    assert json.loads(out.splitlines()[5])["photographs"] == 4
    for total in ("41", "40"):
        code, out, _ = run(capsys, "undo", "--engine", means)
        assert (code, out.splitlines()[0]) == (0, f"back to {total} photographs: robin")
    after = Bundle.open(means).current()
    assert out.splitlines()[1] == "back to 0 photographs: wren"
    for name in ("prior", "counts", "totals"):
        np.testing.assert_array_equal(getattr(after.means, name), getattr(before.means, name))
    np.testing.assert_array_equal(after.head.weights[0], before.head.weights[0])


@pytest.mark.parametrize(
    ("command", "counts", "spoil", "code", "told"),
    [
        (
            "add",
            {"wren": 1},
            None,
            "E-CLASS-UNKNOWN",
            "photographs of 'wren', and no class of that name is being added",
        ),
        ("add", {"heron": 1}, "empty", "E-PHOTOS-EMPTY", "no photograph of class 'cuckoo, common' in "),
        ("add", {"heron": 1}, "unreadable", "E-PHOTOS-EMPTY", "none of the photographs of class 'cuckoo, common'"),
        ("teach", {"heron": 1}, None, "E-CLASS-UNKNOWN", "and no class of that name is in the model (add it first)"),
        ("teach", {"wren": 1}, "nearly", "E-CLASS-UNKNOWN", "'wrenn' (did you mean wren?)"),
        ("teach", {"wren": 1}, "no folder", "E-PHOTOS-FOLDER", "is not there"),
        ("teach", {"wren": 1}, "loose", "E-PHOTOS-FOLDER", "holds 1 files and no class folders"),
    ],
)
def test_photographs_that_teach_nothing_are_one_line_and_nothing_changes(
    capsys, means, attributes, photos, command, counts, spoil, code, told
):
    folder = photos(**counts)
    if spoil in {"empty", "unreadable"}:
        (Path(folder) / "cuckoo, common").mkdir()
    if spoil == "unreadable":
        (Path(folder) / "cuckoo, common" / "a.jpg").write_bytes(b"x")
    if spoil == "nearly":
        (Path(folder) / "wren").rename(Path(folder) / "wrenn")
    if spoil == "no folder":
        folder = f"{folder}/none"
    if spoil == "loose":
        folder = f"{folder}/wren"
    options = ["--attributes", attributes] if command == "add" else []
    got, out, err = run(capsys, command, "--engine", means, *options, "--photos", folder)
    assert (got, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {code}: ")
    assert told in last
    assert Bundle.open(means).current().number == 1


def test_many_newcomers_are_summed_up(capsys, means, tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"c{j},{','.join(map(str, row))}" for j, row in enumerate(rng.integers(1, 90, (130, 6)))]
    (tmp_path / "many.csv").write_text("\n".join([",".join(("name", *ATTRIBUTES)), *lines]), encoding="utf-8")
    code, out, err = run(capsys, "add", "--engine", means, "--attributes", str(tmp_path / "many.csv"))
    assert code == 0
    said = out.splitlines()
    assert len(said) == 102
    assert said[99].startswith("added c99: from its attributes; most like ")
    assert said[100] == "added 30 more: likely mix-ups are worked out for the first 100 alone"
    warnings = [line for line in err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 21
    assert re.fullmatch(r"warning: and \d+ more of the kind", warnings[-1])


def test_two_teachers_at_once_both_land(means, photos):
    """Real processes; the lock is held until both wait for it, so that they do meet."""
    folder = photos(wren=2)
    argv = ["teach", "--engine", means, "--photos", folder, "--backend", "ort", "--threads", "1"]
    with Bundle.open(means).lock():
        teaching = [start(*argv) for _ in range(2)]
        said = [process.stderr.readline() + process.stderr.readline() for process in teaching]
        assert all(b"waiting for another writer" in text for text in said)
    outs = []
    for process in teaching:
        with process:
            out, err = process.communicate(timeout=60)
            assert (process.returncode, err) == (0, b""), err
            outs.append(out.splitlines()[0])
    assert sorted(line[:39] for line in outs) == [
        b"taught wren: 2 photographs, 2 in all; m",
        b"taught wren: 2 photographs, 4 in all; m",
    ]
    assert Bundle.open(means).current().means.counts[5] == 4


def test_a_bar_counts_photographs_on_a_terminal(capsys, monkeypatch, means, photos):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, _, err = run(capsys, "teach", "--engine", means, "--photos", photos(wren=3))
    assert code == 0
    assert "3/3" in err
    assert err.endswith("\r\x1b[K")


@allow_fork
def test_teach_with_a_full_disk_is_one_line_and_changes_nothing(means, photos):
    folder = photos(wren=1)
    before = {file: file.read_bytes() for file in Path(means).rglob("*") if file.is_file()}
    teaching = ["teach", "--engine", means, "--photos", folder, "--backend", "ort", "--threads", "1"]
    outcome = forked(lambda: main(teaching), file_limit=1000)
    assert (outcome.code, outcome.stdout) == (2, "")
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("error: E-SYSTEM: could not finish the change (not made, the bundle is unchanged)")
    assert {file: file.read_bytes() for file in Path(means).rglob("*") if file.is_file()} == before


def test_a_folder_whose_name_holds_lines_forges_none(capsys, engine, attributes, tmp_path):
    forged = "\x1b[2J\u202e\nadded nothing at all"
    bundle, sheet = f"{tmp_path}/b{forged}", f"{tmp_path}/t{forged}.csv"
    shutil.copytree(engine, bundle)
    for words in (
        ("add", "--engine", bundle, "--attributes", attributes),
        ("template", "x", "--engine", bundle, "--output", sheet),
        ("undo", "--engine", bundle),
    ):
        code, out, err = run(capsys, *words)
        assert code == 0
        assert not re.search("[\x1b\u202e]|^added nothing", out + err, re.MULTILINE)
        assert words[0] == "undo" or "added nothing at all" in err
    assert Path(sheet).is_file()


def test_who_waits_for_a_folder_whose_name_holds_lines_says_so_in_one(capsys, tmp_path):
    folder = tmp_path / "b\x1b[2J\nforged"
    folder.mkdir()
    said = []

    def wait() -> None:
        with exclusive(folder):
            said.append("had it")

    with exclusive(folder):
        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        err, end = "", time.monotonic() + 20
        while not err and time.monotonic() < end:
            waiter.join(0.01)
            err = capsys.readouterr().err
        assert not said
    waiter.join(20)
    assert said == ["had it"]
    err += capsys.readouterr().err
    assert err.startswith("waiting for another writer of ")
    assert err.count("\n") == 1
    assert "\x1b" not in err
