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
from pathlib import Path

import pytest

from support.forked import allow_fork, become_nobody, forked, public_folder
from support.tiny_bundle import ATTRIBUTES, class_table, make_tiny_bundle
from zsl_runtime import bundle as bundle_module
from zsl_runtime.bundle import Bundle
from zsl_runtime.cli_classes import main

assert public_folder  # a fixture

ROOT = Path(__file__).parents[2]
NEW = """\
größe,name,bright left,bright top,red,green,blue
1,heron,7,1,0,7,1
5,"cuckoo, common",0,0,5,0,5
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def engine(original, tmp_path) -> str:
    return str(shutil.copytree(original, tmp_path / "tiny"))


@pytest.fixture
def attributes(tmp_path) -> str:
    (tmp_path / "new.csv").write_text(NEW, encoding="utf-8")
    return str(tmp_path / "new.csv")


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    said = capsys.readouterr()
    return code, said.out, said.err


def names(engine: str) -> list[str]:
    return list(Bundle.open(engine).current().table.names)


def test_list_prints_a_table_for_people_and_csv_and_json_lines_for_programs(capsys, engine):
    code, out, err = run(capsys, "list", "--engine", engine)
    assert (code, err) == (0, "")
    assert [line.split(maxsplit=2) for line in out.splitlines()[1:]] == [
        [str(j), "seen" if j < 5 else "unseen", name] for j, name in enumerate(class_table().names)
    ]
    _, out, _ = run(capsys, "list", "--engine", f"{engine}/manifest.json", "--format", "csv")
    assert list(csv.reader(io.StringIO(out)))[::8] == [["name", "split", "row"], ["übersee-ente", "unseen", "7"]]
    _, out, _ = run(capsys, "list", "--engine", engine, "--format", "jsonl")
    assert json.loads(out.splitlines()[4]) == {"name": "house sparrow", "split": "seen", "row": 4}


@pytest.mark.parametrize("fit", ["new", "full"])
def test_add_says_what_it_added_how_well_it_fits_and_what_is_in_force(capsys, engine, attributes, fit):
    code, out, err = run(capsys, "add", "--engine", engine, "--attributes", attributes, "--fit", fit)
    assert code == 0
    added, comma, state = out.splitlines()
    assert re.fullmatch(r"added heron: (100\.0|9\d\.\d)% of its synthesized features are taken for it", added)
    assert comma.startswith("added cuckoo, common: ")
    assert re.fullmatch(r"generation 2: 10 classes, \d+\.\d s", state)
    assert "2 classes" in err
    assert names(engine)[8:] == ["heron", "cuckoo, common"]


@pytest.mark.parametrize("options", [(), ("--fit", "new"), ("--fit", "full", "--seed", "4")])
def test_where_rows_come_from_attributes_add_and_refit_say_that_nothing_is_fitted(
    capsys, tmp_path, attributes, options
):
    engine = str(make_tiny_bundle(tmp_path / "rows", rule="rows"))
    code, out, err = run(capsys, "add", "--engine", engine, "--attributes", attributes, *options)
    assert code == 0
    assert out.splitlines()[:2] == [
        "added heron: its row was computed from its attributes",
        "added cuckoo, common: its row was computed from its attributes",
    ]
    assert "computed from attributes, not fitted: --fit new and full are the same, --seed changes nothing" in err
    code, out, err = run(capsys, "refit", "--engine", engine)
    assert (code, out[:26]) == (0, "generation 3: 10 classes, ")
    assert err == "rows of this model are computed from attributes, not fitted: --seed changes nothing\n"
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
    assert ("1/1" if command == "add" else "80/80") in err  # one group of new classes; two views of 40 epochs
    assert err.endswith("\r\x1b[K")


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
        (["remove", "a/b"], 2, "E-CLASS-NAME"),
        (["remove"], 2, "NAME"),
        (["prune"], 2, "--keep"),
        (["prune", "--keep", "0"], 2, "E-PRUNE"),
        (["refit", "--seed", "-3"], 2, "E-SEED"),
        (["add"], 2, "--attributes"),
        (["add", "--attributes", "none.csv"], 2, "none.csv"),
        (["add", "--attributes", "NEW", "--fit", "fast"], 2, "fast"),
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
        "import sys; from zsl_runtime.cli_classes import main; rc = main(sys.argv[1:]);"
        "bad = {'numpy', 'onnxruntime', 'PIL', 'torch'} & set(sys.modules); sys.exit(f'imported {bad}' if bad else rc)"
    )
    for command in ((), ("add",)):
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--help"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage" in done.stdout
    for word in ("--attributes", "--fit", "--seed", "--engine"):
        assert word in done.stdout


def start(*argv: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from zsl_runtime.cli_classes import main; sys.exit(main())", *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime"), "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_two_adds_at_once_both_land(engine, tmp_path):
    """Real processes; the export's lock is held until both wait for it, so that they do meet."""
    header = ",".join(("name", *ATTRIBUTES))
    adding = []
    with Bundle.open(engine).lock():
        for name, row in (("heron", "0,7,1,1,7,1"), ("cuckoo", "5,0,5,0,0,5")):
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
