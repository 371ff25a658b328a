"""A package that is not here, or is here and broken: one line with the extra that brings it, in every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from zsl_runtime.errors import run_command
from zsl_runtime.extras import EXTRAS, REASON_LENGTH, extra_of, install

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOR_DEVELOPERS = {"docs", "test", "slow"}  # nothing of theirs is imported by a command


def plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_table_is_that_of_pyproject():
    wanted = {
        extra: {plain(one) for one in requirements}
        for extra, requirements in PROJECT["optional-dependencies"].items()
        if extra not in FOR_DEVELOPERS
    }
    assert {extra: set(packages.values()) for extra, packages in EXTRAS.items()} == wanted


def test_packages_are_brought_by_the_distributions_that_the_table_names():
    """As far as they are installed here. onnxruntime is one of two distributions, tensorrt_rtx one that is empty."""
    brings = {name: {plain(one) for one in found} for name, found in packages_distributions().items()}
    looked_at = 0
    for extra, packages in EXTRAS.items():
        for package, distribution in packages.items():
            found = brings.get(package.partition(".")[0])
            if found is None or package == "onnxruntime":
                continue
            assert distribution in found, (extra, package)
            looked_at += 1
    assert looked_at >= 8


def test_of_several_extras_the_one_that_fits_the_command_is_told():
    assert extra_of("onnxruntime") == extra_of("onnxruntime", "zsl-infer") == "cpu"
    assert extra_of("scipy", "zsl-infer") == "mat"
    assert {
        extra_of(name, command) for name in ("onnxruntime", "scipy") for command in ("zsl-train", "zsl-export")
    } == {"train"}
    assert extra_of("cuda.bindings", "zsl-export") == "tensorrt"
    assert extra_of("numpy") is None
    assert install("mat") == 'pip install "zsl-deploy[mat]"'
    with pytest.raises(KeyError):
        install("everything")


# --- what a command says --------------------------------------------------------------------------------------------


def outcome(capsys, program: str, name: str = "zsl-infer") -> tuple[int, str]:
    """Exit code and stderr of a command whose body is `program`."""

    @click.command(name)
    def command() -> None:
        exec(compile(program, "<program>", "exec"), {"__name__": "zsl_runtime.somewhere"})

    code = run_command(command, [])
    said = capsys.readouterr()
    assert said.out == ""
    return code, said.err


EVERY = sorted({package for packages in EXTRAS.values() for package in packages})


@pytest.mark.parametrize("package", EVERY)
@pytest.mark.parametrize("command", ["zsl-infer", "zsl-train", "zsl-eval"])
def test_any_package_of_an_extra_that_is_not_here_is_one_line_and_exit_4(capsys, monkeypatch, package, command):
    monkeypatch.setitem(sys.modules, package, None)
    extra = extra_of(package, command)
    code, err = outcome(capsys, f"import {package}", command)
    assert code == 4
    assert err == (
        f"error: E-PACKAGE: {command} needs {EXTRAS[extra][package]}, which is not installed here; "
        f'pip install "zsl-deploy[{extra}]"\n'
    )


def test_a_namespace_that_lacks_the_package_counts_as_not_installed(capsys, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("cuda.")]:  # of tests before this one
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "cuda", None)
    code, err = outcome(capsys, "from cuda.bindings import runtime")
    assert (code, "cuda-bindings, which is not installed here" in err) == (4, True)


@pytest.mark.parametrize("name", ["zsl_runtime.nowhere", "zsl_train", "nobody_knows_this_package"])
def test_a_module_of_ours_or_an_unknown_one_stays_a_bug(capsys, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    code, err = outcome(capsys, f"import {name}")
    assert code == 1
    assert err.startswith("Traceback")
    assert "E-BUG" in err.splitlines()[-1]


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """A package of that name whose file holds some lines."""

    def write(package: str, lines: str) -> None:
        (tmp_path / f"{package}.py").write_text(lines)
        monkeypatch.delitem(sys.modules, package, raising=False)
        monkeypatch.syspath_prepend(tmp_path)

    return write


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            "raise ImportError('libcudart.so.13: cannot open\\n shared object file')",
            "libcudart.so.13: cannot open shared",
        ),
        ("raise OSError('libgomp.so.1: cannot open shared object file')", "libgomp.so.1"),
        ("def load():\n    raise OSError('libgomp.so.1')\nload()", "libgomp.so.1"),
        ("import nobody_knows_this_package", "No module named 'nobody_knows_this_package'"),
        ("raise RuntimeError('compiled against another NumPy')", "compiled against another NumPy"),
        ("from json import no_such_name", "no_such_name"),
    ],
)
def test_a_package_that_is_here_and_broken_is_not_called_missing(capsys, broken, lines, reason):
    broken("simplejpeg", lines)
    code, err = outcome(capsys, "import simplejpeg")
    assert code == 4
    assert err.startswith(
        "error: E-PACKAGE: zsl-infer needs simplejpeg, which is installed here but cannot be imported ("
    )
    assert reason in err
    assert err.endswith("; mend it, such as with: pip install --force-reinstall simplejpeg\n")
    assert "not installed" not in err
    assert err.count("\n") == 1


def test_a_part_that_a_package_lacks_is_not_the_package(capsys, broken):
    broken("simplejpeg", "")
    for line in ("import simplejpeg.fast", "from simplejpeg import fast"):
        code, err = outcome(capsys, line)
        assert code == 4
        assert "simplejpeg, which is installed here but cannot be imported (" in err


def test_a_long_story_is_cut(capsys, broken):
    broken("simplejpeg", f"raise ImportError({'long story ' * 100!r})")
    _, err = outcome(capsys, "import simplejpeg")
    assert len(err) < REASON_LENGTH + 250


def test_what_goes_wrong_once_a_package_is_imported_is_another_matter(capsys, broken):
    """A call into a library that fails is a bug of ours, and the system's own errors are told as such."""
    broken("simplejpeg", "def run(error):\n    raise error\n")
    code, err = outcome(capsys, "import simplejpeg\nsimplejpeg.run(RuntimeError('odd'))")
    assert (code, "E-BUG" in err) == (1, True)
    broken("simplejpeg", "open('/no/such/file')")
    code, err = outcome(capsys, "import simplejpeg")
    assert (code, err.startswith("error: E-SYSTEM: ")) == (2, True)


def test_a_mistake_of_ours_below_a_package_is_ours(capsys, broken):
    """The package called us back: the innermost code is what an import failed in."""
    broken("simplejpeg", "def run(callback):\n    callback()\n")
    program = "import simplejpeg\ndef ours():\n    import nobody_knows_this_package\nsimplejpeg.run(ours)"
    code, err = outcome(capsys, program)
    assert (code, "E-BUG" in err) == (1, True)


# --- real commands --------------------------------------------------------------------------------------------------

BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run_without(package: str, module: str, arguments: list[object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process whose Python finds no such package: by its sitecustomize, as where it never was."""
    (folder / "sitecustomize.py").write_text(BLOCKED.format(package=package))
    search = [str(folder), *(path for path in sys.path if path)]
    program = f"import sys; from {module} import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(search)},
    )


def test_training_without_torch(tmp_path):
    done = run_without("torch", "zsl_train.cli", ["--data", tmp_path, "--out", tmp_path / "run"], tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        'error: E-PACKAGE: zsl-train needs torch, which is not installed here; pip install "zsl-deploy[train]"\n'
    )
    assert not (tmp_path / "run").exists()


def test_export_without_torch(tmp_path):
    done = run_without("torch", "zsl_export.cli", [tmp_path, "--out", tmp_path / "bundle"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert "zsl-export needs torch, which is not installed" in done.stderr
    assert 'pip install "zsl-deploy[train]"' in done.stderr


def test_labelling_without_onnxruntime_and_without_scipy(tmp_path, shared_bundle):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    arguments = [tmp_path / "a.png", "--engine", shared_bundle(), "--backend", "ort"]
    done = run_without("onnxruntime", "zsl_runtime.cli.infer", arguments, tmp_path)
    assert done.returncode == 4
    assert done.stderr == (
        "error: E-BACKEND-MISSING: running the model needs onnxruntime, which is not installed here; "
        'pip install "zsl-deploy[cpu]"\n'
    )
    np.save(tmp_path / "a.npy", np.zeros((1, 4, 3), np.float32))
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    arguments = [tmp_path / "a.mat", "--engine", shared_bundle(kind="backbone_features"), "--device", "cpu"]
    done = run_without("scipy", "zsl_runtime.cli.infer", arguments, tmp_path)
    assert done.returncode == 4
    assert done.stderr.endswith(
        'needs scipy, which is not installed here; pip install "zsl-deploy[mat]", or save the '
        "features with numpy.save\n"
    )
