"""`zsl-export --verify`: all that runs here is compared, what is off is found, and nothing compared is a failure."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from support.drivers import pretend_driver
from support.fake_ort_cuda import DRIVER, FakeOrt
from support.tiny_bundle import class_table, draw_pictures
from support.tiny_precisions import add_precisions
from zsl_export import verify
from zsl_export.cli import main
from zsl_export.labelled import read_labelled
from zsl_export.verify import keep, recorded, verify_bundle
from zsl_runtime.backends import table
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import remove_classes
from zsl_runtime.cli.doctor import main as doctor
from zsl_runtime.errors import GateError, UsageError
from zsl_runtime.machine import cards
from zsl_runtime.machine.cards import Driver
from zsl_train.data.image_set import in_turns

ROOT = Path(__file__).parents[2]
TABLE = class_table()
NO_CARD = Driver("", "", (), "there is no NVIDIA driver (libcuda.so.1 is not found): install it")
AT_EXPORT = {
    "passed": True,
    "sections": [
        {
            "results": [
                {"what": "features", "row_error": 3.5e-6, "cosine_min": 0.999999},
                {"what": "scores", "row_error": 2e-6},
                {"what": "best class", "share": 1.0},
            ]
        }
    ],
}


WORDS = ("sections", "results", "what", "verified", "machine")
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=8,
)


def sign(path: Path, change) -> None:
    """Change the manifest and let CURRENT know it, as an export would have written both."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    pointer = json.loads((path / "classes/CURRENT").read_text())
    pointer["manifest_sha256"] = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    (path / "classes/CURRENT").write_text(json.dumps(pointer) + "\n")


def put(path: Path, name: str, content: bytes) -> None:
    """Give a bundle another file, signed."""
    (path / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    sign(path, lambda manifest: manifest["files"].update({name: entry}))


def as_exported(path: Path) -> Path:
    """A tiny bundle in three precisions, with a parity.json that the manifest does not list, as exports write it."""
    add_precisions(path)
    sign(path, lambda manifest: manifest["files"].pop("parity.json"))
    (path / "parity.json").write_text(json.dumps(AT_EXPORT))
    return path


@pytest.fixture(scope="module")
def original(shared_bundle, tmp_path_factory) -> Path:
    return as_exported(shutil.copytree(shared_bundle(), tmp_path_factory.mktemp("bundle") / "b"))


@pytest.fixture
def path(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "b"))


@pytest.fixture(autouse=True)
def no_card(monkeypatch) -> None:
    """What these tests see does not depend on a card; two of them bring their own."""
    pretend_driver(monkeypatch, NO_CARD)


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Six pictures of each class in folders called like the classes, and one that cannot be read."""
    folder = tmp_path / "photographs"
    for row, name in enumerate(TABLE.names):
        (folder / name).mkdir(parents=True)
        for number, picture in enumerate(draw_pictures(TABLE, np.full(6, row), seed=row)):
            Image.fromarray(picture).save(folder / name / f"{number}.png")
    (folder / TABLE.names[0] / "broken.jpg").write_bytes(b"no picture")
    (folder / "of another matter").mkdir()
    return folder


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def rows(path: Path) -> dict[tuple[str, str], dict]:
    (entry,) = json.loads((path / "parity.json").read_text())["verified"]
    return {(row["backend"], row["precision"]): row for row in entry["rows"]}


def test_everything_that_runs_here_is_compared(path, capsys):
    code, out, err = run(capsys, path, "--verify")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "generation 1, 8 probe"
    assert lines[2].split()[:6] == ["PyTorch", "fp32", "3.5e-06", "0.999999", "2.0e-06", "100.0%"]
    found = {tuple(line.split()[:3]) for line in lines[3:] if not line.startswith("skipped")}
    assert {("ort", "cpu", one) for one in ("fp32", "fp16", "int8")} <= found
    assert ("reference", "cpu", "fp32") in found
    assert all(" ok " in line for line in lines[3:] if not line.startswith("skipped"))
    assert f"skipped ort-cuda fp32: {NO_CARD.problem}" in lines
    by = rows(path)
    assert by["ort", "fp32"]["passed"]
    features = {name: by["ort", name]["parts"][0]["results"][0]["row_error"] for name in ("fp32", "fp16", "int8")}
    assert features["fp32"] < 1e-5 < features["fp16"] < 1e-2
    assert features["int8"] > features["fp16"]  # other numbers indeed


def test_a_generation_that_was_changed_on_site_is_compared_as_well(path):
    remove_classes(Bundle.open(path), ["tit"])
    found = verify_bundle(Bundle.open(path))
    assert found.passed
    assert found.generation == 2


def test_labelled_pictures_give_accuracy_and_its_change(path, photographs, capsys):
    code, out, err = run(capsys, path, "--verify", "--data", photographs)
    assert code == 0, err
    assert "1 labelled pictures cannot be read" in err
    assert out.startswith(
        "generation 1, 8 probe, 48 labelled (pictures in folders that are called like classes, of 49)"
    )
    by = rows(path)
    first = by["ort", "fp32"]
    assert first["yardstick"]
    assert first["change"] == 0.0
    assert first["figures"]["H"] > 90
    assert [part["inputs"] for part in first["parts"]] == ["probe"]  # it is not compared with itself
    for key, row in by.items():
        if key != ("ort", "fp32"):
            assert [part["inputs"] for part in row["parts"]] == ["probe", "labelled"]
            assert row["parts"][1]["results"][2]["rows"] == 48
            assert abs(row["change"]) <= 1.0


def other_model(path: Path, name: str, shared_bundle) -> None:
    """Put the graph of another model in the place of `name`."""
    put(path, name, (shared_bundle(seed=3) / "model.onnx").read_bytes())


def test_a_graph_that_gives_something_else_fails(path, shared_bundle, capsys):
    other_model(path, "model.fp16.onnx", shared_bundle)
    code, out, err = run(capsys, path, "--verify")
    assert code == 3
    assert "E-PARITY: " in err
    assert "ort fp16: probe: features" in err
    assert "ort fp32:" not in err
    assert next(line for line in out.splitlines() if line.split()[:3] == ["ort", "cpu", "fp16"]).count("FAIL") == 1
    (entry,) = json.loads((path / "parity.json").read_text())["verified"]
    assert entry["passed"] is False  # what was found is kept, too


def test_a_graph_that_may_not_be_run_ends_the_comparison(path, capsys):
    put(path, "model.fp16.onnx", b"no graph")
    code, _, err = run(capsys, path, "--verify")
    assert code == 5
    assert err.count("error: E-BUNDLE-GRAPH: ") == 1
    assert "running openvino fp16" not in err


def test_a_backend_that_cannot_load_its_graph_fails(path, capsys, monkeypatch):
    real = OrtBackend._load

    def refuse(self, part, source):
        if part == "model" and self.precision == "fp16":
            raise RuntimeError("seen enough")
        return real(self, part, source)

    monkeypatch.setattr(OrtBackend, "_load", refuse)
    code, _, err = run(capsys, path, "--verify")
    assert code == 3
    assert "ort fp16: E-BACKEND-LOAD" in err
    assert {row["problem"][:14] for key, row in rows(path).items() if key[:2] == ("ort", "fp16")} == {"E-BACKEND-LOAD"}


def test_what_accuracy_may_be_lost_is_a_limit(path, shared_bundle, photographs, capsys, monkeypatch):
    """With limits on rows out of the way, only the labels can tell that the int8 file is another model."""
    other_model(path, "model.int8-cpu.onnx", shared_bundle)
    wide = verify.Limits(1e9, -1.0, 1e9)
    monkeypatch.setitem(verify.LIMITS, "int8", wide)
    code, _, err = run(capsys, path, "--verify", "--data", photographs)
    assert code == 3
    assert "ort int8: accuracy: H falls by" in err
    assert "at most 1" in err
    assert run(capsys, path, "--verify", "--data", photographs, "--max-drop", 100)[0] == 0


# --- nothing was compared -------------------------------------------------------------------------------------------


def test_without_inputs_nothing_can_be_compared(own_bundle, photographs, capsys, monkeypatch):
    bare = as_exported(own_bundle("bare", probe_images=False))
    code, out, err = run(capsys, bare, "--verify")
    assert (code, out) == (3, "")
    assert "E-PARITY-EMPTY" in err
    assert "--data DIR" in err
    assert run(capsys, bare, "--verify", "--data", photographs)[0] == 0
    # A backend that is the only one has nothing to be compared with but itself.
    alone = {"ort": table.BACKENDS["ort"]._replace(precisions=("fp32",))}
    monkeypatch.setattr(verify, "BACKENDS", alone)
    code, _, err = run(capsys, bare, "--verify", "--data", photographs)
    assert code == 3
    assert "E-PARITY-EMPTY: nothing was compared" in err


def test_where_nothing_is_installed_nothing_is_compared(path, monkeypatch):
    monkeypatch.setattr(verify, "version_of", lambda packages: None)
    with pytest.raises(GateError, match=r"E-PARITY-EMPTY: nothing was compared.*none of onnxruntime"):
        verify_bundle(Bundle.open(path))


def test_pictures_that_cannot_be_read_or_are_of_nothing(path, shared_bundle, tmp_path):
    bundle = Bundle.open(path)
    (tmp_path / "d" / "robin").mkdir(parents=True)
    with pytest.raises(UsageError, match="E-DATA-LABELLED"):
        read_labelled(bundle, tmp_path / "d", TABLE)
    (tmp_path / "d" / "robin" / "a.png").write_bytes(b"x")
    with pytest.raises(GateError, match="E-PARITY-EMPTY: none of the 1 pictures"):
        read_labelled(bundle, tmp_path / "d", TABLE)
    with pytest.raises(UsageError, match="E-DATA-LAYOUT"):
        read_labelled(bundle, tmp_path / "nowhere", TABLE)
    rows = Bundle.open(shared_bundle(kind="backbone_features"))
    with pytest.raises(UsageError, match="E-DATA-FEATURES"):
        read_labelled(rows, tmp_path / "d", TABLE)
    assert verify_bundle(rows).passed


def test_folders_are_called_like_classes_in_whatever_form(path, tmp_path):
    folder = tmp_path / unicodedata.normalize("NFD", "übersee-ente ")
    folder.mkdir()
    for number, picture in enumerate(draw_pictures(TABLE, np.full(2, TABLE.index("übersee-ente")), seed=1)):
        Image.fromarray(picture).save(folder / f"{number}.png")
    found = read_labelled(Bundle.open(path), tmp_path, TABLE)
    assert found.labels.tolist() == [TABLE.names.index("übersee-ente")] * 2


def test_a_data_folder_gives_its_test_pictures(path, tmp_path):
    folder = tmp_path / "data"
    for row, name in enumerate(TABLE.names):
        (folder / "images" / name).mkdir(parents=True)
        for number, picture in enumerate(draw_pictures(TABLE, np.full(3, row), seed=row)):
            Image.fromarray(picture).save(folder / "images" / name / f"{number}.png")
    columns = ",".join(TABLE.attributes)
    lines = [
        f"{name},{'seen' if seen else 'unseen'},{','.join(map(str, raw))}"
        for name, seen, raw in zip(TABLE.names, TABLE.seen, TABLE.raw.tolist(), strict=True)
    ]
    (folder / "classes.csv").write_text("\n".join([f"name,split,{columns}", *lines]) + "\n")
    roles = [
        f"{name}/{number}.png,{'test' if number == 2 or not seen else 'train'}"
        for name, seen in zip(TABLE.names, TABLE.seen, strict=True)
        for number in range(3)
    ]
    (folder / "split.csv").write_text("\n".join(["image,role", *roles]) + "\n")
    found = read_labelled(Bundle.open(path), folder, TABLE)
    assert found.source == "test pictures of the data folder"
    assert (len(found.labels), found.of) == (5 * 1 + 3 * 3, 14)
    assert set(found.labels.tolist()) == set(range(8))
    assert verify_bundle(Bundle.open(path), data=folder).inputs == {"probe": 8, "labelled": 14}


@given(st.lists(st.integers(0, 4), max_size=40))
def test_pictures_come_one_of_each_class_in_turns(labels):
    mixed = np.random.default_rng(7).permutation(len(labels)).astype(np.int64)
    rows = in_turns(mixed, np.array(labels, np.int64)[mixed])
    assert sorted(rows.tolist()) == list(range(len(labels)))
    taken: dict[int, int] = {}
    turns = []
    for row in rows:
        turns.append(taken.get(labels[row], 0))
        taken[labels[row]] = turns[-1] + 1
    assert turns == sorted(turns)


# --- parity.json ----------------------------------------------------------------------------------------------------


def test_parity_json_keeps_the_last_comparison_of_each_machine(path, capsys, monkeypatch):
    run(capsys, path, "--verify")
    monkeypatch.setattr(verify, "this_machine", lambda: {"cpu": "another"})
    run(capsys, path, "--verify")
    _, _, err = run(capsys, path, "--verify")
    assert f"updated {path / 'parity.json'}" in err
    said = json.loads((path / "parity.json").read_text())
    assert said["sections"] == AT_EXPORT["sections"]
    assert [entry["machine"] == {"cpu": "another"} for entry in said["verified"]] == [False, True]
    assert doctor([str(path)]) == 0
    capsys.readouterr()


def test_an_older_bundle_is_left_as_it_is(own_bundle, capsys):
    older = own_bundle("older")
    before = (older / "parity.json").read_bytes()
    code, _, err = run(capsys, older, "--verify")
    assert code == 0
    assert "fixed at the export by an older version" in err
    assert (older / "parity.json").read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_bundle_is_compared_all_the_same(path, capsys):
    path.chmod(0o500)
    try:
        code, out, err = run(capsys, path, "--verify")
    finally:
        path.chmod(0o700)
    assert code == 0
    assert "ort" in out
    assert "parity.json was not updated" in err


@given(JSON)
@example({"sections": float("inf")})
def test_whatever_parity_json_holds_it_does_not_stop_a_comparison(original, tmp_path_factory, content):
    path = tmp_path_factory.mktemp("odd") / "b"
    shutil.copytree(original, path)
    (path / "parity.json").write_text(json.dumps(content))
    bundle = Bundle.open(path, verify=False)
    assert recorded(bundle) == {}
    found = verify.Verified(1, {"probe": 1}, "", {}, (), {})
    assert keep(bundle, found).startswith("updated ")
    assert json.loads((path / "parity.json").read_text())["verified"][-1]["passed"] is False
    shutil.rmtree(path)


# --- cards ----------------------------------------------------------------------------------------------------------


def test_a_card_is_compared_beside_the_cpu(path, monkeypatch, capsys):
    pretend_driver(monkeypatch, DRIVER)
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOrt())
    code, out, err = run(capsys, path, "--verify", "--device", "cuda:1")
    assert code == 0, err
    cells = [line.split()[:3] for line in out.splitlines()]
    assert ["ort-cuda", "cuda:1", "fp32"] in cells
    assert ["ort-cuda", "cuda:1", "fp16"] in cells
    assert run(capsys, path, "--verify", "--device", "cpu")[1].count("the CPU alone was asked for") >= 2


def test_a_card_that_was_named_and_cannot_be_used_is_exit_4(path, monkeypatch, capsys):
    code, out, err = run(capsys, path, "--verify", "--device", "cuda:0")
    assert (code, out) == (4, "")
    assert f"E-DEVICE: cuda:0 cannot be used: {NO_CARD.problem}" in err
    pretend_driver(monkeypatch, DRIVER)
    broken = FakeOrt()
    broken.libraries = False
    monkeypatch.setitem(sys.modules, "onnxruntime", broken)
    code, _, err = run(capsys, path, "--verify", "--device", "cuda:0")
    assert code == 4
    assert "zsl-deploy[gpu]" in err
    assert run(capsys, path, "--verify", "--device", "gpu")[0] == 2


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--out", "b"], ["--precision", "fp16"], ["--force"], ["--format", "engine"], ["--max-batch", "4"]]
)
def test_what_makes_something_does_not_go_with_verify(path, capsys, words):
    code, _, err = run(capsys, path, "--verify", *words)
    assert code == 2
    assert words[0] in err
    assert run(capsys, path, "--out", "b", "--device", "cpu")[0] == 2


def test_it_runs_where_there_is_no_torch(path):
    """On the machine that the bundle is used on."""
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'scipy', 'sklearn'): sys.modules[name] = None\n"
        "from zsl_export.cli import main\n"
        f"sys.exit(main([{str(path)!r}, '--verify', '--device', 'cpu']))\n"
    )
    folders = os.pathsep.join(str(ROOT / name) for name in ("train", "export", "runtime"))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ort" in done.stdout


@pytest.mark.gpu
def test_on_a_card_of_this_machine(path, capsys, monkeypatch):
    monkeypatch.undo()
    found = cards.driver()
    if not found.cards:
        pytest.skip(found.problem)
    code, out, err = run(capsys, path, "--verify", "--device", "cuda:0")
    if code == 4:
        pytest.skip(err)
    assert code == 0, err + out
    assert "cuda:0" in out
