"""`zsl-export --format engine`: in place and after the export of a run, what is printed, and all that can go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.drivers import pretend_driver
from support.engines import facts_of, needs_rtx, real_trusted
from support.tiny_run import know_tiny, save_tiny_run
from zsl_export import bundle_of_run
from zsl_export.cli import main
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.graphs.ports import ports_of
from zsl_runtime.machine.cards import Driver
from zsl_runtime.trt.build import LEAST_CAPABILITY, known_capabilities
from zsl_runtime.trt.facts import Profile
from zsl_runtime.trt.library import KNOWN, find_library
from zsl_runtime.trt.store import engines_of, store

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = ["--format", "engine"]
RTX = [*ENGINE, "--trt", "rtx", "--compute-capability", "8.9"]


@pytest.fixture
def bundle(own_bundle, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    pretend_driver(monkeypatch, Driver("", "", (), "there is no NVIDIA driver"))
    return own_bundle("my birds", precisions=("fp32", "fp16"))


@needs_rtx
def test_engines_are_built_in_place(bundle, tmp_path, capfd):
    given = [str(bundle), *RTX, "--precision", "fp16,fp32", "--min-batch", "2", "--opt-batch", "3", "--max-batch", "6"]
    assert main([*given, "--workspace", "0.5"]) == 0
    printed = capfd.readouterr()
    held = {one.facts.precision: one for one in engines_of(Bundle.open(bundle))}
    assert printed.out.splitlines() == [str(held["fp16"].path), str(held["fp32"].path)]
    assert held["fp32"].facts.profiles == (Profile(1, 1, 6), Profile(2, 3, 6))
    assert held["fp32"].facts.compute_capabilities == ("8.9",)
    assert len(real_trusted(tmp_path / "cache")) == 2
    assert "building the fp16 engine with tensorrt-rtx 1." in printed.err
    assert f"wrote {held['fp16'].path} (" in printed.err
    assert "has not run yet: it must give the probe's answers" in printed.err
    assert f"zsl-infer PHOTOS --engine '{bundle}' --backend tensorrt" in printed.err


@needs_rtx
def test_without_options_it_is_the_bundle_s_precision_and_every_card(bundle, capfd):
    assert main([str(bundle), *ENGINE, "--trt", "rtx"]) == 0
    (one,) = engines_of(Bundle.open(bundle))
    known = known_capabilities(find_library("rtx"))
    assert one.facts.compute_capabilities == tuple(name for name in known if float(name) >= LEAST_CAPABILITY)
    assert (one.facts.precision, one.facts.profiles) == ("fp32", (Profile(1, 1, 8), Profile(1, 64, 64)))
    assert capfd.readouterr().out == f"{one.path}\n"


@needs_rtx
def test_a_run_becomes_a_bundle_with_engines(exported, traced_before, bundle, tmp_path, monkeypatch, capfd):
    know_tiny(monkeypatch)
    run = save_tiny_run(exported.run, tmp_path / "run")
    assert main([str(run), "--out", str(tmp_path / "out"), *RTX, "--min-batch", "100"]) == 0
    printed = capfd.readouterr()
    assert printed.out == f"{tmp_path / 'out'}\n"
    (one,) = engines_of(Bundle.open(tmp_path / "out"))
    assert one.facts.profiles == (Profile(1, 1, 8), Profile(100, 100, 100))
    assert printed.err.count("Next") == 2


def failing(capfd, arguments, exit_code: int, *words: str) -> None:
    assert main([str(word) for word in arguments]) == exit_code
    printed = capfd.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line


@needs_rtx
@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (["--precision", "int8"], 2, ["E-PRECISION", "holds fp32, fp16 and no int8"]),
        (["--precision", "fp16,int8"], 2, ["E-PRECISION"]),  # before fp16 is built
        (["--min-batch", "9", "--max-batch", "8"], 2, ["E-ENGINE-PROFILE", "--min-batch <= --opt-batch"]),
        (["--opt-batch", "0"], 2, ["E-ENGINE-PROFILE"]),
        (["--max-batch", "100000"], 2, ["E-ENGINE-PROFILE", "4096"]),
        (["--workspace", "0"], 2, ["E-ENGINE-WORKSPACE", "0 GiB"]),
        (["--workspace", "nan"], 2, ["E-ENGINE-WORKSPACE"]),
        (["--compute-capability", "9.0"], 2, ["E-ENGINE-CAPABILITY", "does not build for 9.0"]),
        (["--compute-capability", "8.9,"], 2, ["E-ENGINE-CAPABILITY"]),
        (["--compute-capability", "7.5"], 4, ["E-ENGINE-BUILD", "Turing"]),
        (["--trt", "onnx"], 2, ["E-USAGE", "--trt"]),
        (["--force"], 2, ["--force: only for the export of a run; add --out"]),
        (["--data", "x", "--max-drop", "1"], 2, ["--data and --max-drop"]),
    ],
)
def test_what_can_be_wrong_with_the_options(bundle, capfd, options, exit_code, words):
    failing(capfd, [bundle, *ENGINE, *(() if "--trt" in options else ("--trt", "rtx")), *options], exit_code, *words)
    assert not (bundle / "engines").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-batch", "4", "--trt", "rtx"], ["--max-batch and --trt: only for engines; add --format engine"]),
        ([], ["Missing option '--out'"]),
        (["--format", "tflite"], ["--format"]),
        (["--format", "triton"], ["Missing option '--out'"]),
    ],
)
def test_engine_options_belong_to_engines(bundle, capfd, options, words):
    failing(capfd, [bundle, *options], 2, "E-USAGE", *words)


def test_without_a_library_nothing_is_exported(bundle, tmp_path, capfd, monkeypatch):
    for known in KNOWN:
        for name in known.modules:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(bundle_of_run, "export_run", None)  # is not reached
    failing(capfd, [bundle, *ENGINE], 4, "E-BACKEND-MISSING", 'pip install "zsl-deploy[rtx]"')
    failing(capfd, [tmp_path / "run", "--out", tmp_path / "out", *ENGINE], 4, "E-BACKEND-MISSING")


def test_what_is_no_bundle(tmp_path, capfd):
    failing(capfd, [tmp_path / "nowhere", *ENGINE], 2, "E-BUNDLE-PATH")
    failing(capfd, [tmp_path, *ENGINE], 5, "E-BUNDLE")


@needs_rtx
def test_a_changed_graph_is_not_built_from(bundle, capfd):
    with (bundle / "model.onnx").open("r+b") as file:
        file.write(b"\x09")
    failing(capfd, [bundle, *RTX], 5, "E-BUNDLE-HASH")


@needs_rtx
def test_engines_are_built_without_torch_and_onnx(bundle, tmp_path):
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['onnx'] = sys.modules['onnxruntime'] = None\n"
        "from zsl_export.cli import main\n"
        f"sys.exit(main([{str(bundle)!r}, *{RTX!r}]))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(bundle / "engines"))


def test_an_older_engine_stays_beside_a_new_one(bundle):
    opened = Bundle.open(bundle)
    first = store(opened.path, facts_of(opened), b"one", ports_of(opened, "model"))
    second = store(opened.path, facts_of(opened, version="11.4.0.107"), b"two", ports_of(opened, "model"))
    assert first != second
    assert {one.path for one in engines_of(opened)} == {first, second}
