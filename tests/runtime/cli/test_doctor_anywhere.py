"""`zsl-doctor` crashes nowhere: on machines where something is missing, damaged or odd, the rest of it is told."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.drivers import pretend_driver
from support.tiny_bundle import ATTRIBUTES
from zsl_runtime.backends import auto, opening, ort, table
from zsl_runtime.bundle import reading
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes import changes
from zsl_runtime.classes.changes import add_classes, remove_classes, undo
from zsl_runtime.cli import doctor, doctor_answers, doctor_cards, doctor_trial
from zsl_runtime.cli.doctor import main, memory_bytes
from zsl_runtime.cli.doctor_trial import kept_out, trial
from zsl_runtime.cli.finding import BROKEN, FAILED, NOTE, OK, Finding, guarded
from zsl_runtime.errors import ArtefactError, BackendError, SystemProblem, UsageError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.machine import cards, native, processor, threads
from zsl_runtime.machine.cards import Driver
from zsl_runtime.trt import library, store

ROOT = Path(__file__).parents[3]
TWO = Driver("580.65", "13.0", (cards.Card(0, "NVIDIA Test", "8.9", 2**34),), "")


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


ERRORS = [
    RuntimeError("two\nlines"),
    OSError(5, "Input/output error", "/proc/x"),
    ValueError("x" * 1000),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    MemoryError(),
    SystemExit(3),
    SystemError("NULL"),
    AttributeError("no"),
    KeyError("x"),
    ImportError("libx.so.1: cannot open shared object file"),
    RecursionError(),
    StopIteration(),
    AssertionError(),
    UnspeakableError(),
    BackendError("E-BACKEND-LOAD", "no"),
    ArtefactError("E-BUNDLE-HASH", "no"),
    UsageError("E-THREADS", "no"),
    SystemProblem("E-SYSTEM", "no"),
    importlib.metadata.PackageNotFoundError("x"),
]
# What is asked, where, and how the lines begin that may be missing when the answer is an exception.
ASKED = {
    (platform, "platform"): ("Python",),
    (os, "cpu_count"): ("2 CPUs", "CPUs"),
    (threads, "usable_cpus"): ("CPUs", "probe"),
    (doctor, "memory_bytes"): ("CPUs",),
    (processor, "processor"): ("name",),
    (doctor, "_version_of"): ("Pillow",),
    (native, "load_native"): ("compiled",),
    (cards, "has_nvidia"): ("cards, CUDA", "compiled", "backends"),  # they are spoken of then
    (doctor_cards, "cards"): ("NVIDIA", "cuda:0"),
    (doctor_cards, "libraries"): ("no tensorrt", "tensorrt", "no cuda", "cuda"),
    (library, "installed"): ("no tensorrt", "tensorrt", "no cuda", "cuda", "engine"),
    (doctor_cards, "bindings"): ("no cuda", "cuda"),
    (doctor_cards, "on_card"): ("no backend", "backend"),
    (opening, "open_graphs"): ("backend", "probe", "head"),
    (table, "version_of"): ("backend", "training", "probe", "holds", "2", "head", "no backend"),
    (table, "installed_of"): ("backend", "training", "probe", "holds", "no backend"),
    (auto, "remembered"): ("holds",),
    (opening, "candidates_for"): ("holds",),
    (store, "engines_of"): ("engine", "no engines", "1 of 1"),
    (doctor, "_takes"): ("takes",),
    (Bundle, "verify_file"): ("6 of 6", "head", "probe"),
    (Bundle, "history"): ("states", "probe"),
    (Bundle, "generation_numbers"): ("states", "probe"),
    (Bundle, "leftovers"): (),
    (Bundle, "replay"): ("6 of 6", "head", "probe"),
    (Bundle, "gaussian"): ("head",),
    (changes, "priors"): ("head",),
    (Bundle, "probe"): ("probe",),
    (doctor_answers, "read_stated"): ("probe",),
    (doctor_answers, "bound"): ("probe",),
    (doctor_answers, "open_backend"): ("probe",),
    (doctor_answers, "compare"): ("probe",),
}


def report(capsys, *arguments) -> tuple[int, list[str], str]:
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def begins(line: str, words: tuple[str, ...]) -> bool:
    text = line[8:]
    return text.startswith(words) or any(f"{word} usable" in text for word in words if word == "CPUs")


@pytest.fixture(scope="module")
def healthy(shared_bundle) -> dict[bool, list[str]]:
    """The lines where nothing is wrong, without and with cards."""
    found = {}
    for with_cards in (False, True):
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
            if with_cards:
                pretend_driver(patch, TWO)
            main([str(shared_bundle())])
        found[with_cards] = out.getvalue().splitlines()
    return found


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(asked=st.sampled_from(sorted(ASKED, key=str)), error=st.sampled_from(ERRORS), with_cards=st.booleans())
def test_whatever_a_question_raises_the_rest_is_told(capsys, shared_bundle, healthy, asked, error, with_cards):
    path = shared_bundle()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor_trial, "trial", lambda *_: "")
        if with_cards:
            pretend_driver(patch, TWO)

        def ask(*_, **__):
            raise error

        patch.setattr(*asked, ask)
        code, found, err = report(capsys, path)
    assert code in {0, 4, 5}
    assert err == ""
    missing = [line for line in healthy[with_cards] if line not in found]
    words = ASKED[asked]
    name = processor.processor().name
    assert [line for line in missing if not begins(line, (*words, name) if "name" in words else words)] == []
    assert all(line.startswith(("ok ", "note ", "FAILED ", "BROKEN ")) for line in found)
    assert max(map(len, found)) < 1000


def test_a_check_that_breaks_off_is_one_line_of_the_right_kind():
    def breaks(error):
        def look():
            yield Finding(OK, "first")
            raise error

        return look

    assert list(guarded("it", breaks(ValueError("a\nb")))) == [
        Finding(OK, "first"),
        Finding(NOTE, "it: this check broke off, ValueError: a b"),
    ]
    kinds = [(ArtefactError("E-X", "damaged"), BROKEN), (BackendError("E-X", "lost"), FAILED), (MemoryError(), FAILED)]
    for error, state in kinds:
        assert list(guarded("it", breaks(error), FAILED))[-1].state == state
    assert list(guarded("it", breaks(UnspeakableError())))[-1].text.endswith("broke off, UnspeakableError")
    with pytest.raises(KeyboardInterrupt):
        list(guarded("it", breaks(KeyboardInterrupt())))


# --- libraries that are damaged -------------------------------------------------------------------------------------


def damaged(folder: Path, module: str, source: str) -> Path:
    """A module that raises on import, in a folder to be searched first."""
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(source)
    return folder


def run_doctor(*arguments, path: Path | None = None, **environment) -> subprocess.CompletedProcess:
    """The doctor as a process of its own, with modules of `path` before all others."""
    paths = [str(one) for one in (path, *sys.path) if one]
    code = "import sys; from zsl_runtime.cli.doctor import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('module compiled against ABI version 0x1')", "module compiled against ABI version 0x1"),
        ("import sys; sys.exit('no licence')", "no licence"),
        ("import os; os.kill(os.getpid(), 4)", "SIGILL, an instruction that this CPU does not have"),
    ],
    ids=["runtime", "exit", "sigill"],
)
def test_an_onnxruntime_that_cannot_be_imported_is_told_and_openvino_answers(own_bundle, tmp_path, source, reason):
    done = run_doctor(own_bundle(), path=damaged(tmp_path / "site", "onnxruntime", source))
    assert done.stderr == ""
    told = [line for line in done.stdout.splitlines() if reason in line]
    assert told
    assert all(line.startswith("note ") for line in told)
    assert "--force-reinstall onnxruntime" in told[0]
    assert done.returncode == 0
    if table.version_of(["openvino"]):
        assert "ok      probe: fp32 by openvino, features differ by" in done.stdout
    assert "6 of 6 files are as exported" in done.stdout


def test_a_damaged_library_is_an_error_of_the_backend_at_every_door(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(BackendError, match=r"E-BACKEND-MISSING.*has no attribute 'InferenceSession'.*force-reinstall"):
        ort.import_onnxruntime()


def test_a_trial_tells_what_ends_python_or_holds_it_up():
    assert trial("pass") == ""
    assert trial("raise ValueError") == ""  # that can be caught
    assert trial("import os; os.abort()") == "it ends Python with SIGABRT"
    assert "SIGILL, an instruction that" in trial("import os; os.kill(os.getpid(), 4)")
    assert trial("import time; time.sleep(60)", seconds=0.3) == "it does not come to an end (0.3 s)"


def test_a_driver_that_hangs_is_not_asked(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor_trial, "DRIVER_FILE", tmp_path)
    monkeypatch.setattr(doctor_trial, "trial", lambda code, *_: "it does not come to an end (120 s)")
    before = cards.driver
    code, lines, _ = report(capsys)
    assert code == 0
    assert "note    no NVIDIA card: NVIDIA's driver cannot be asked: it does not come to an end" in "\n".join(lines)
    assert cards.driver is before


def test_what_was_kept_out_can_be_imported_afterwards(monkeypatch):
    monkeypatch.setattr(doctor_trial, "LIBRARIES", {"wave": ("wave-package", "import os; os.abort()")})
    with kept_out() as findings:
        assert findings[0].text.startswith("wave-package cannot be used: it ends Python with SIGABRT; pip install")
        with pytest.raises(AttributeError, match="it ends Python with SIGABRT"):
            __import__("wave").open  # noqa: B018
    assert callable(__import__("wave").open)


def test_a_driver_library_that_is_a_text_file_is_told(own_bundle, tmp_path):
    (tmp_path / "libcuda.so.1").write_text("not a library\n")
    done = run_doctor(own_bundle(), LD_LIBRARY_PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "note    no NVIDIA card: NVIDIA's driver cannot be loaded, though libcuda.so.1 is there (" in done.stdout
    assert "install NVIDIA's driver" in done.stdout
    assert "8 of 8 top-1 answers are as shipped" in done.stdout


def test_packages_whose_metadata_are_damaged_or_missing(monkeypatch, capsys):
    for answer, told in ((None, "onnxruntime of unknown version and onnxruntime-gpu of unknown version"), ("2", "")):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, "version", lambda _, answer=answer: answer)
            code, lines, err = report(capsys)
            assert (code, err) == (0, "")
            assert told in "\n".join(lines)

    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    code, lines, _ = report(capsys)
    assert code == 0
    assert any(line.startswith("ok      backend ort on the CPU, by onnxruntime ") for line in lines)
    assert any(line.startswith("ok      training and export are left out: they need torch, ") for line in lines)


def test_packages_for_training_are_told_without_importing_them(own_bundle):
    code = (
        "import sys; from zsl_runtime.cli.doctor import main; rc = main([]);"
        "bad = {'torch', 'scipy', 'sklearn', 'onnx'} & set(sys.modules); sys.exit(f'imported {bad}' if bad else rc)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = (line for line in done.stdout.splitlines() if "training and export" in line)
    assert f"torch {importlib.metadata.version('torch')}" in line


def test_what_training_lacks_is_told_where_torch_is(monkeypatch, capsys):
    real = table.version_of
    monkeypatch.setattr(table, "version_of", lambda of: None if "scikit-learn" in list(of) else real(of))
    _, lines, _ = report(capsys)
    (line,) = (line for line in lines if "training and export" in line)
    assert line.startswith("note    training and export: torch ")
    assert line.endswith('; not installed are scikit-learn: pip install "zsl-deploy[train]"')


def test_a_pillow_without_a_format_and_one_that_cannot_be_imported(monkeypatch, capsys):
    from PIL import features

    real = features.check
    with monkeypatch.context() as patch:
        patch.setattr(features, "check", lambda name: name != "webp" and real(name))
        assert "note    this Pillow was built without what reads .webp files: pip install" in "\n".join(
            report(capsys)[1]
        )

    def broken(_):
        raise ImportError("_imaging: undefined symbol")

    monkeypatch.setattr(doctor, "_version_of", broken)
    code, lines, _ = report(capsys)
    assert code == 0
    assert any("Pillow cannot be imported (ImportError: _imaging: undefined symbol)" in line for line in lines)


def test_a_core_of_another_python_is_missing_and_a_damaged_one_told(monkeypatch, capsys):
    def damaged():
        raise BackendError("E-NATIVE", "the compiled part of zsl-deploy cannot be loaded (file too short)")

    monkeypatch.setattr(native, "load_native", damaged)
    code, lines, _ = report(capsys)
    assert code == 0
    assert "note    pictures cannot be read: the compiled part of zsl-deploy cannot be loaded (file too short)" in lines


# --- machines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rubbish", ["", "-1\n", "0\n", "max\n", "\u00b2", "1e9", "9" * 5000, "\x00"])
def test_rubbish_in_the_files_of_a_container_is_no_memory(tmp_path, rubbish):
    (tmp_path / "memory.max").write_text(rubbish, encoding="utf-8")
    assert memory_bytes([str(tmp_path / "memory.max"), str(tmp_path)]) == memory_bytes([])


def test_a_system_that_does_not_tell_its_memory(monkeypatch, capsys):
    def unknown(_):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert memory_bytes(["/nowhere"]) is None
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "memory_bytes", lambda: None)
        assert "of an unknown number, memory of unknown size" in "\n".join(report(capsys)[1])


@pytest.mark.parametrize(
    ("content", "int8", "bf16"),
    [
        (b"model name\t: Xeon\nflags\t\t: fpu avx2 avx512_vnni avx512_bf16\n", ["AVX512_VNNI"], ["AVX512_BF16"]),
        (b"model name : Old\nflags : fpu avx2\n", [], []),
        (b"CPU part : 0xd40\nFeatures : fp asimd asimddp bf16\n", ["dot product"], ["bf16"]),
        (b"\xff\xfe:::\n\n:\nflags", [], []),
        (b"", [], []),
    ],
)
def test_any_cpuinfo_is_read(tmp_path, content, int8, bf16):
    path = tmp_path / "cpuinfo"
    path.write_bytes(content)
    found = processor.processor(path)
    assert (found.int8, found.bf16) == (int8, bf16)
    assert processor.processor(tmp_path / "none").flags == frozenset()


def test_without_a_home_in_an_old_locale_from_an_empty_environment(own_bundle):
    path = own_bundle()
    environment = {"PYTHONPATH": os.pathsep.join(one for one in sys.path if one), "LC_ALL": "C", "HOME": "/nowhere"}
    code = "import sys; from zsl_runtime.cli.doctor import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"8 of 8 top-1 answers are as shipped" in done.stdout


# --- bundles --------------------------------------------------------------------------------------------------------


def test_engines_that_are_rubbish_are_no_crash(own_bundle, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    path = own_bundle()
    engines = path / "engines"
    engines.mkdir()
    for name, content in (
        ("0" * 16 + ".json", b"{}"),
        ("1" * 16 + ".json", b"\xff"),
        ("auto-x.json", b"["),
        ("x", b""),
    ):
        (engines / name).write_bytes(content)
    (engines / ("2" * 16 + ".json")).mkdir()
    (engines / ("3" * 16 + ".json")).symlink_to("nowhere")
    (engines / ("4" * 16 + ".json")).symlink_to("4" * 16 + ".json")
    pretend_driver(monkeypatch, TWO)
    code, lines, err = report(capsys, path)
    assert (code, err) in {(0, ""), (4, "")}
    assert any("8 of 8 top-1" in line for line in lines)
    shutil.rmtree(engines)
    engines.write_bytes(b"no folder")
    assert report(capsys, path)[0] == 0


@pytest.mark.parametrize("what", ["file", "folder", "future", "list", "no probe", "loop"])
def test_what_is_no_bundle_or_of_another_time_is_broken(own_bundle, capsys, tmp_path, what):
    path = own_bundle()
    if what == "file":
        path = tmp_path / "picture.jpg"
        path.write_bytes(b"\xff\xd8")
    elif what == "folder":
        (path / "manifest.json").unlink()
    elif what == "future":
        content = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps(content | {"format_version": 99}))
    elif what == "list":
        (path / "manifest.json").write_text("[" * 100_000)
    elif what == "no probe":
        (path / "probe.safetensors").unlink()
    else:
        (path / "model.onnx").unlink()
        (path / "model.onnx").symlink_to("model.onnx")
    code, lines, err = report(capsys, path)
    assert (code, err) == (5, "")
    assert any(line.startswith("BROKEN  E-BUNDLE-") for line in lines)
    assert lines[-1].startswith("ok      cards, CUDA and TensorRT are left out") or cards.has_nvidia()


def test_a_bundle_that_cannot_be_read_is_refused_after_all_else_was_told(own_bundle, capsys, monkeypatch):
    path = own_bundle()
    real = reading.read_file

    def refuses(file, *given, **more):
        if file.name == "manifest.json":
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *given, **more)

    monkeypatch.setattr(reading, "read_file", refuses)
    code, lines, err = report(capsys, path)
    assert code == 2
    assert err.startswith("error: E-SYSTEM: could not read the bundle")
    assert any("backend ort on the CPU" in line for line in lines)
    assert lines[-1].startswith("ok      cards, CUDA and TensorRT are left out") or cards.has_nvidia()


def test_a_file_of_it_that_cannot_be_read_fails_and_the_others_are_compared(own_bundle, capsys, monkeypatch):
    path = own_bundle()
    real = Bundle.verify_file

    def verify(self, name):
        if name == "lift.onnx":
            raise SystemProblem("E-SYSTEM", "could not read the bundle: Input/output error")
        real(self, name)

    monkeypatch.setattr(Bundle, "verify_file", verify)
    code, lines, _ = report(capsys, path)
    assert code == 4
    assert "FAILED  E-SYSTEM: could not read the bundle: Input/output error" in lines
    assert "note    5 of 6 files are as exported" in lines
    assert not any("probe" in line for line in lines)


def test_a_bundle_that_is_replaced_while_it_is_looked_at_is_looked_at_again(own_bundle, capsys, monkeypatch):
    path, other = own_bundle("b"), own_bundle("other", seed=3)
    real, calls = Bundle.verify_file, []

    def verify(self, name):
        if not calls:
            shutil.rmtree(path)
            shutil.copytree(other, path)
        calls.append(name)
        real(self, name)

    monkeypatch.setattr(Bundle, "verify_file", verify)
    code, lines, _ = report(capsys, path)
    assert code == 0
    assert f"note    {path} was changed while it was looked at, so it is looked at once more" in lines
    assert not any(line.startswith(("BROKEN", "FAILED")) for line in lines)
    assert any("8 of 8 top-1" in line for line in lines)


def test_states_that_are_pruned_while_it_is_looked_at_are_no_damage(own_bundle, capsys, monkeypatch):
    path = own_bundle()
    heron = ClassTable(("heron",), np.array([False]), np.array([[0, 7, 1, 1, 7, 1.0]]), ATTRIBUTES)
    add_classes(Bundle.open(path), heron)
    real, done = Bundle.generation_numbers, []

    def numbers(self):
        found = real(self)
        if not done:
            done.append(1)
            undo(Bundle.open(path))
            remove_classes(Bundle.open(path), ["tit"])
            changes.prune(Bundle.open(path), 1)
        return found

    monkeypatch.setattr(Bundle, "generation_numbers", numbers)
    code, lines, _ = report(capsys, path)
    assert code == 0
    assert not any(line.startswith(("BROKEN", "FAILED")) for line in lines)
