"""`zsl-doctor`: what it says about a machine and about whole, damaged, old and littered bundles."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import PIL
import pytest

from support.drivers import pretend_driver
from support.signed import change_file, change_probe
from support.tiny_bundle import ATTRIBUTES
from zsl_runtime.backends import ort, table
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes, prune, remove_classes, undo
from zsl_runtime.cli.doctor import machine, main, memory_bytes
from zsl_runtime.errors import BackendError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.gaussian import Gaussian
from zsl_runtime.machine import cards
from zsl_runtime.machine.cards import Driver

ROOT = Path(__file__).parents[3]
NO_DRIVER = Driver("", "", (), "there is no NVIDIA driver (libcuda.so.1 is not found): install it")


@pytest.fixture(scope="module")
def original(shared_bundle) -> Path:
    return shared_bundle()


@pytest.fixture
def path(own_bundle) -> Path:
    return own_bundle()


def examine(capsys, path: Path | str) -> tuple[int, list[tuple[str, str]]]:
    """Exit code and (state, text) of what is said about the bundle."""
    code = main([str(path)])
    said = capsys.readouterr()
    assert said.err == ""
    found = [tuple(line.split(maxsplit=1)) for line in said.out.splitlines()]
    return code, found[len(list(machine(cards=cards.has_nvidia()))) :]


def of(found: list[tuple[str, str]], state: str) -> str:
    return "\n".join(text for given, text in found if given == state)


def test_the_machine_is_described(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for fact in (platform.python_version(), PIL.__version__, np.__version__, onnxruntime.__version__, "CPUs", "GiB"):
        assert fact in out
    assert all(line.startswith(("ok ", "note ")) for line in out.splitlines())


def test_a_backend_that_is_broken_is_named_with_the_reason(capsys, monkeypatch, original):
    def missing():
        raise BackendError("E-BACKEND-MISSING", "running the model needs onnxruntime, which is broken (x)")

    monkeypatch.setattr(ort, "import_onnxruntime", missing)
    assert main([]) == 0
    assert "note    no backend ort: running the model needs onnxruntime, which is broken (x)" in capsys.readouterr().out
    code, found = examine(capsys, original)
    assert code == 0
    assert "probe: not run" in of(found, "note")


CPU, OPENVINO = '(pip install "zsl-deploy[cpu]")', '(pip install "zsl-deploy[openvino]")'


@pytest.mark.parametrize(
    ("there", "line"),
    [
        (("onnxruntime",), f"backends that are not installed here: openvino {OPENVINO}"),
        ((), f"backends that are not installed here: ort and reference {CPU}, openvino {OPENVINO}"),
    ],
)
def test_all_backends_that_are_not_installed_are_one_line_where_there_is_no_card(capsys, monkeypatch, there, line):
    pretend_driver(monkeypatch, NO_DRIVER)
    real = table.version_of
    pretended = {"onnxruntime", "onnxruntime-gpu", "openvino"}
    monkeypatch.setattr(
        table,
        "version_of",
        lambda packages: real([name for name in packages if name not in pretended or name in there]),
    )
    for module in {"onnxruntime", "openvino"} - set(there):
        monkeypatch.setitem(sys.modules, module, None)
    assert main([]) == 0
    out = capsys.readouterr().out.splitlines()
    assert f"note    {line}" in out
    assert len([one for one in out if one.startswith("note")]) == 1
    assert ("backend ort on the CPU" in "".join(out)) == bool(there)


# --- words ----------------------------------------------------------------------------------------------------------


def test_a_word_is_explained(capsys):
    assert main(["--explain", "Generation"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("generation\n    One state of a bundle's classes. Every change makes a new one")
    assert main(["--explain", "nonsense"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: E-WORD: 'nonsense' is not explained")
    assert "generation" in err


@pytest.mark.parametrize("more", [["bundle"], ["--cards"]])
def test_a_word_is_explained_and_nothing_else(capsys, more):
    assert main(["--explain", "head", *more]) == 2
    assert "--explain only explains a word" in capsys.readouterr().err


# --- bundles --------------------------------------------------------------------------------------------------------


def test_a_missing_core_and_two_onnxruntimes_are_pointed_out(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1.2")
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "pip install zsl-deploy" in out
    assert "onnxruntime 1.2 and onnxruntime-gpu 1.2" in out


def test_memory_is_that_of_the_machine_or_of_the_container(tmp_path):
    (tmp_path / "some").write_text("1073741824\n")
    (tmp_path / "max").write_text("max\n")
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_bytes([str(tmp_path / "max"), str(tmp_path / "none")]) == whole
    assert memory_bytes([str(tmp_path / "max"), str(tmp_path / "some")]) == 2**30


HEADS = {  # what is said of what heads are made from
    "fit": "fitted; 200 features of 5 seen classes are kept (replay)",
    "rows": "rows are computed from attributes",
    "gaussian": "every class is a mean, 5 of 8 with photographs; 10 coordinates; worked out again from attributes they",
}


@pytest.mark.parametrize(
    "options", [{}, {"lift": False}, {"kind": "backbone_features"}, {"rule": "rows"}, {"rule": "gaussian"}]
)
def test_a_healthy_bundle(capsys, shared_bundle, options):
    path = shared_bundle(**options)
    code, found = examine(capsys, path)
    assert code == 0
    assert {state for state, _ in found} == {"ok"}
    said = of(found, "ok")
    files = len(Bundle.open(path).manifest["files"])
    unit = "rows" if "kind" in options else "pictures"
    for fact in (
        "method tiny",
        "8 classes, 5 seen and 3 unseen; this state of them is generation 1",
        f"{files} of {files} files",
        HEADS[options.get("rule", "fit")],
        "states of the classes kept: 1; changes that undo can take back: 0",
        f"probe: 8 {unit} with recorded answers",
        "probe: fp32 by ort, features differ by ",
        "; 8 of 8 top-1 answers are as shipped",
    ):
        assert fact in said


def heron() -> ClassTable:
    return ClassTable(("heron",), np.array([False]), np.array([[0, 7, 1, 1, 7, 1.0]]), ATTRIBUTES)


def test_statistics_means_and_rows_that_do_not_fit_together_are_broken(capsys, own_bundle, monkeypatch):
    path = own_bundle(rule="gaussian")
    whole = Bundle.gaussian
    monkeypatch.setattr(Bundle, "gaussian", lambda self: Gaussian(whole(self).variance, 0.9 * whole(self).scale))
    code, found = examine(capsys, path)
    assert code == 5
    assert "the rows of the head do not follow from them" in of(found, "BROKEN")
    monkeypatch.setattr(Bundle, "gaussian", whole)
    real = ort.OrtBackend.means
    monkeypatch.setattr(ort.OrtBackend, "means", lambda self, semantic: 1.1 * real(self, semantic))
    code, found = examine(capsys, path)
    assert code == 5
    assert "worked out again from attributes they differ by 1.0e-01 of their scale" in of(found, "BROKEN")
    monkeypatch.setattr(ort.OrtBackend, "means", real)
    (path / "gaussian.safetensors").write_bytes(b"")
    code, found = examine(capsys, path)
    assert code == 5
    assert "gaussian.safetensors is not the exported file" in of(found, "BROKEN")


def test_after_changes_the_probe_is_still_that_of_the_export(capsys, path):
    bundle = Bundle.open(path)
    add_classes(bundle, heron())
    remove_classes(bundle, ["robin", "wren"])
    undo(bundle)
    code, found = examine(capsys, path)
    assert (code, of(found, "note"), of(found, "BROKEN")) == (0, "", "")
    assert "9 classes, 5 seen and 4 unseen; this state of them is generation 4" in of(found, "ok")
    assert "states of the classes kept: 4; changes that undo can take back: 1" in of(found, "ok")
    assert "8 of 8 top-1" in of(found, "ok")
    prune(bundle, 1)
    code, found = examine(capsys, path)
    assert (code, of(found, "note")) == (0, "")
    assert "states of the classes kept: 2; changes that undo can take back: 1" in of(found, "ok")


@pytest.mark.parametrize("name", ["model.onnx", "lift.onnx", "probe.safetensors", "parity.json", "replay.safetensors"])
def test_a_changed_file_is_found_and_no_graph_is_loaded(capsys, path, name):
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    code, found = examine(capsys, path)
    assert code == 5
    assert name in of(found, "BROKEN")
    assert "5 of 6 files" in of(found, "note")


@pytest.mark.parametrize("name", ["explain.onnx", "readout.safetensors"])
def test_what_labels_are_explained_with_is_looked_at_too(capsys, own_bundle, own_cache, name):
    path = own_bundle(explain=True)
    (path / name).write_bytes(b"another file")
    code, found = examine(capsys, path)
    assert code == 5
    assert name in of(found, "BROKEN")
    assert "probe:" not in of(found, "ok")


@pytest.mark.parametrize("name", ["manifest.json", "classes/CURRENT", "classes/000001.safetensors"])
def test_a_bundle_that_cannot_be_opened_is_broken(capsys, path, name):
    (path / name).write_bytes(b"{}")
    code, found = examine(capsys, path)
    assert code == 5
    assert "E-BUNDLE-" in of(found, "BROKEN")


def test_any_kept_generation_that_was_changed_is_found_whether_undo_reaches_it_or_not(capsys, path):
    bundle = Bundle.open(path)
    add_classes(bundle, heron())
    undo(bundle)  # generation 2 is out of undo's reach
    remove_classes(bundle, ["tit"])
    for number in (2, 3):
        content = bytearray(bundle.generation_path(number).read_bytes())
        content[-1] ^= 1
        bundle.generation_path(number).write_bytes(content)
    code, found = examine(capsys, path)
    assert code == 5
    assert "000002.safetensors" in of(found, "BROKEN")
    assert "000003.safetensors" in of(found, "BROKEN")
    assert "changes that undo can take back: 0" in of(found, "ok")


def test_litter_and_damaged_history_are_notes(capsys, path):
    bundle = Bundle.open(path)
    remove_classes(bundle, ["tit"])
    undo(bundle)
    (path / "history.jsonl").write_bytes(b"\xff\n[]\n")
    (path / "classes" / ".tmp-file-00000000").write_bytes(b"")
    (path / "classes" / "000009.safetensors").write_bytes(b"")
    (path.parent / ".tmp-tiny-01234567").mkdir()
    code, found = examine(capsys, path)
    assert (code, of(found, "BROKEN")) == (0, "")
    notes = of(found, "note")
    for word in (".tmp-file-00000000", "000009", ".tmp-tiny-01234567", "line 1, 2", "generations 1, 2", "top-1"):
        assert word in notes


def test_a_model_that_does_not_give_the_shipped_answers_is_broken(capsys, path):
    probe = Bundle.open(path).probe()
    length = np.sqrt((probe.features.astype(np.float64) ** 2).sum(axis=1).mean())
    off = np.zeros_like(probe.features)
    off[2, 5] = 0.02 * length
    change_probe(path, features=probe.features + off)
    code, found = examine(capsys, path)
    assert code == 5
    for backend in ("ort", "reference"):
        assert f"probe: fp32 by {backend}, features differ by 2.0e-02 of their length (at most 1.0e-03" in of(
            found, "BROKEN"
        )
    assert "8 of 8 top-1 answers are as shipped; no backend gives what was recorded: export" in of(found, "BROKEN")
    change_probe(path, features=probe.features[:, :3])
    assert "differ by inf" in of(examine(capsys, path)[1], "BROKEN")
    change_probe(path, features=probe.features, top1=(probe.top1 + 1) % 8, scores=np.roll(probe.scores, 1, axis=1))
    code, found = examine(capsys, path)
    assert code == 5
    assert "0 of 8 top-1" in of(found, "BROKEN")


@pytest.mark.parametrize("name", ["replay.safetensors", "probe.safetensors"])
def test_a_signed_file_that_cannot_be_read_is_broken(capsys, path, name):
    change_file(path, name, b"noise")
    code, found = examine(capsys, path)
    assert code == 5
    assert name in of(found, "BROKEN")


def test_a_probe_without_pictures_cannot_be_run(capsys, shared_bundle):
    code, found = examine(capsys, shared_bundle(probe_images=False))
    assert code == 0
    assert "no pictures were kept" in of(found, "note")


def test_where_there_is_nothing_it_is_a_usage_error(capsys, tmp_path):
    assert main([str(tmp_path / "none")]) == 2
    assert "E-BUNDLE-PATH" in capsys.readouterr().err
    code, found = examine(capsys, tmp_path)
    assert code == 5
    assert "E-BUNDLE-NOT" in of(found, "BROKEN")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from zsl_runtime.cli.doctor import main; rc = main(['--help']);"
        "bad = {'numpy', 'onnxruntime', 'PIL', 'torch'} & set(sys.modules); sys.exit(f'imported {bad}' if bad else rc)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "[BUNDLE]" in done.stdout
