"""`zsl-export` on a run folder: what goes to stdout and to stderr, and the exit code of all that can go wrong."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import click
import numpy as np
import pytest
import torch

from support.tiny_run import know_tiny, save_tiny_run
from zsl_export import bundle_of_run
from zsl_export.cli import _with_fewer, main
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import GateError
from zsl_train.training.run_folder import info_bytes, read_info


@pytest.fixture
def run_folder(exported, tmp_path, monkeypatch):
    know_tiny(monkeypatch)
    return save_tiny_run(exported.run, tmp_path / "run")


def test_a_run_becomes_a_bundle(exported, run_folder, traced_before, tmp_path, capfd):
    assert main([str(run_folder), "--out", str(tmp_path / "my birds")]) == 0
    printed = capfd.readouterr()
    assert printed.out == f"{tmp_path / 'my birds'}\n"
    bundle = Bundle.open(tmp_path / "my birds")
    assert bundle.current().table.names == exported.run.generation.table.names
    assert bundle.manifest["recipe"]["backbone"] == "tiny"
    assert "exported model.onnx (" in printed.err
    assert "ok   best class: 70 rows, 100.00% agree" in printed.err
    assert "WARNING" not in printed.err
    assert "features of 75 training pictures and 6 of the pictures themselves" in printed.err
    commands = [shlex.split(line) for line in printed.err.splitlines() if line.startswith("  zsl-")]
    assert [words[0] for words in commands] == ["zsl-infer", "zsl-classes", "zsl-doctor"]
    assert all(str(bundle.path) in words for words in commands)


def test_a_bundle_may_keep_fewer_training_features_and_what_that_means_is_said(
    exported, run_folder, traced_before, tmp_path, capfd
):
    whole = exported.run.replay
    for count, kept in ((3, 15), (1000, 75)):
        out = tmp_path / str(count)
        assert main([str(run_folder), "--out", str(out), "--replay-per-class", str(count)]) == 0
        said = capfd.readouterr().err
        assert f"{kept} of 75 training features are kept. The head that ships was fitted on all 75" in said
        assert f"fitted again on these {kept} alone" in said
        assert "MB of it features that the head is fitted on again" in said
        bundle = Bundle.open(out)
        replay = bundle.replay()
        counts = np.minimum(np.bincount(whole.labels), count).tolist()
        assert (replay.names, np.bincount(replay.labels).tolist()) == (whole.names, counts)
        known = {(row.tobytes(), int(label)) for row, label in zip(whole.features, whole.labels, strict=True)}
        drawn = {(row.tobytes(), int(label)) for row, label in zip(replay.features, replay.labels, strict=True)}
        assert drawn <= known
        assert len(drawn) == kept
        np.testing.assert_array_equal(bundle.current().head.weights[0], exported.run.generation.head.weights[0])


@pytest.mark.parametrize("rule", ["gaussian", "rows"])
def test_a_head_that_is_not_fitted_keeps_no_features_to_cap(exported, rule):
    trained = replace(exported.run.trained, synthesizer=None, rows=torch.nn.Identity() if rule == "rows" else None)
    with pytest.raises(click.UsageError, match=f"is not fitted .rule {rule}.*leave it out"):
        _with_fewer(replace(exported.run, trained=trained), 5)


def test_the_data_of_the_training_is_named_for_the_evaluation(exported, traced_before, tmp_path, capfd, monkeypatch):
    know_tiny(monkeypatch)
    data = tmp_path / "my birds"
    data.mkdir()
    (data / "classes.csv").write_text("name,split\n")
    folder = save_tiny_run(exported.run, tmp_path / "run")
    info = {**read_info(folder), "data": str(data)}
    (folder / "run.json").write_bytes(info_bytes(info))
    assert main([str(folder), "--out", str(tmp_path / "b")]) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("  zsl-eval")]
    assert shlex.split(line) == ["zsl-eval", str(tmp_path / "b"), str(data), "--split", str(folder / "split.csv")]


def test_what_the_training_warned_of_is_repeated_before_and_after(
    exported, traced_before, tmp_path, capfd, monkeypatch
):
    know_tiny(monkeypatch)
    text = "U has collapsed: 3.4 % of the photographs of unseen classes are labelled rightly"
    warned = replace(exported.run, scores={**exported.run.scores, "warnings": [text]})
    folder = save_tiny_run(warned, tmp_path / "run")
    assert main([str(folder), "--out", str(tmp_path / "b")]) == 0
    lines = capfd.readouterr().err.splitlines()
    first, last = (i for i, line in enumerate(lines) if line.startswith("WARNING"))
    assert lines[first] == f"WARNING, from the training of this run: {text}"
    wrote = next(i for i, line in enumerate(lines) if line.startswith("wrote "))
    assert first < wrote < last < lines.index("Next:")
    assert lines[last].endswith("the training warned of that run: see above")
    assert Bundle.open(tmp_path / "b").manifest["scores"]["warnings"] == [text]


def test_without_probe_images(run_folder, traced_before, tmp_path, capfd):
    assert main([str(run_folder), "--out", str(tmp_path / "b"), "--no-probe-images"]) == 0
    assert Bundle.open(tmp_path / "b").probe().pixels is None
    assert "but none of the pictures themselves" in capfd.readouterr().err


def test_an_existing_bundle_is_refused_before_the_run_is_read(exported, run_folder, traced_before, tmp_path, capfd):
    place = shutil.copytree(exported.bundle, tmp_path / "b")
    assert main([str(tmp_path / "no run"), "--out", str(place)]) == 2
    assert "error: E-BUNDLE-EXISTS" in capfd.readouterr().err
    assert main([str(run_folder), "--out", str(place), "--force"]) == 0


def failing(tmp_path, capfd, run, code, pattern):
    """`main` fails with `code` and one line of error on stderr, and leaves nothing."""
    assert main([str(run), "--out", str(tmp_path / "b")]) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert printed.err.splitlines()[-1] == errors[0]
    assert pattern in errors[0]
    assert [path for path in tmp_path.iterdir() if path.name != "run"] == []


def test_a_folder_that_is_no_run(tmp_path, capfd):
    (tmp_path / "run").mkdir()
    failing(tmp_path, capfd, tmp_path / "run", 5, "E-RUN")


def test_no_such_run(tmp_path, capfd):
    failing(tmp_path, capfd, tmp_path / "nowhere", 5, "E-RUN")


def test_an_unfinished_run(run_folder, tmp_path, capfd):
    info = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps(info | {"state": "unfinished"}))
    failing(tmp_path, capfd, run_folder, 5, "unfinished run; repeat its zsl-train command")


def test_a_changed_run(run_folder, tmp_path, capfd):
    with (run_folder / "weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    failing(tmp_path, capfd, run_folder, 5, "weights.safetensors has changed since zsl-train wrote it")


def test_a_failed_gate(run_folder, traced_before, tmp_path, capfd, monkeypatch):
    def refuse(parity):
        raise GateError("E-PARITY", "they disagree; no bundle was written")

    monkeypatch.setattr(bundle_of_run, "gate", refuse)
    failing(tmp_path, capfd, run_folder, 3, "E-PARITY: they disagree")


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_and_sigterm(run_folder, traced_before, tmp_path, capfd, monkeypatch, number, code, word):
    monkeypatch.setattr(bundle_of_run, "gate", lambda parity: os.kill(os.getpid(), number))
    assert main([str(run_folder), "--out", str(tmp_path / "b")]) == code
    assert capfd.readouterr().err.splitlines()[-1] == word
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("module", ["torch", "onnx"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(module, tmp_path, capfd, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in {"zsl_export", "zsl_train"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    failing(tmp_path, capfd, tmp_path / "run", 4, f"E-PACKAGE: zsl-export needs {module}, which is not installed here")


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "--out"], ["run", "--out", "b", "--precision", "fp8"]])
def test_wrong_usage(arguments, capfd):
    assert main(arguments) == 2
    assert capfd.readouterr().err.startswith("error: E-USAGE: ")


def test_help_needs_no_torch_and_no_numpy():
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['numpy'] = sys.modules['onnx'] = None\n"
        "from zsl_export.cli import main\n"
        "sys.exit(main(['--help']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--no-probe-images" in done.stdout
    assert "exit code 3" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sign", "{folder}"], "could not read the key '{folder}': Is a directory"),
        (["--sign", ""], "--sign is empty; give a PEM file"),
        (["--sign", "{folder}/no.pem"], "could not read the key '{folder}/no.pem': No such file"),
        (["--sign", "{folder}", "--sign-certificate", ""], "--sign-certificate is empty; give a PEM file"),
    ],
)
def test_a_key_that_is_no_file_is_named(exported, tmp_path, capfd, words, said):
    given = [word.format(folder=tmp_path) for word in words]
    assert main([str(tmp_path), *given]) == 2
    told = capfd.readouterr().err
    assert said.format(folder=tmp_path) in told
    assert told.count("error: ") == 1
