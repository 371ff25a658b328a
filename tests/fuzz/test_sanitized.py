"""The compiled core, built with sanitizers: its tests, and calls of any kind, read and write only what is theirs.

`make fuzz` builds it and says where ($ZSL_FUZZ_SANITIZED); without that it is built here, with the CMake of the system.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.doors import CORPUS
from fuzz.run import fuzz
from fuzz.sanitized import LIBRARIES, environment

ROOT = Path(__file__).parents[2]
KINDS = {"address": "address,undefined", "thread": "thread"}
OURS = ("_native", "runtime/native/", "zsl::", "nanobind")  # in frames of a report: file, source, names
TESTS = ("runtime/machine/test_native.py", "runtime/pixels/test_kernels.py", "runtime/pixels/test_pixels_batch.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=sorted(KINDS))
def core(request, tmp_path_factory) -> tuple[str, Path]:
    """Kind of sanitizer, and the core that was built with it."""
    kind = request.param
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    for name in LIBRARIES[kind]:
        said = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
        if not Path(said.stdout.strip()).is_file():
            pytest.skip(f"{compiler} has no {name}")
    built = os.environ.get("ZSL_FUZZ_SANITIZED")
    folder = Path(built) / KINDS[kind] if built else _build(kind, tmp_path_factory.mktemp(kind))
    return kind, next(folder.rglob("_native*.so"))


def _build(kind: str, folder: Path) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake, and nothing in $ZSL_FUZZ_SANITIZED (make fuzz)")
    options = [f"-DZSL_SANITIZE={KINDS[kind]}", "-DZSL_CUDA=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", *options], check=True)
    subprocess.run(["cmake", "--build", folder], check=True)
    return folder


def test_its_own_tests_pass_and_nothing_is_reported(core, tmp_path):
    kind, path = core
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "fuzz.sanitized", "-p", "no:cacheprovider", *tests]
    words += ["-W", "ignore::pytest.PytestConfigWarning", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    ended = subprocess.run(
        words,
        env=environment(path, kind, tmp_path / "report") | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    reports = "".join(one.read_text(errors="replace") for one in tmp_path.glob("report*"))
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}{ended.stderr[-3000:]}{reports[:3000]}"
    # A test of a page that nobody may read shows that reading it would be seen: that read is ctypes'.
    frames = [line for line in reports.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in frames if any(mark in line for mark in OURS)] == []


def test_calls_of_any_kind_are_taken_or_refused(core, tmp_path):
    from fuzz.doors import DOORS

    kind, path = core
    said = fuzz(DOORS["native"], 3000, 600, 3, tmp_path, environment(path, kind))
    assert (said["crash"], said["hang"], said["memory"], said["bug"]) == (0, 0, 0, 0)
    assert said["inputs"] == 3000


def test_the_core_in_use_is_the_sanitized_one(core):
    kind, path = core
    content = path.read_bytes()
    assert {"address": b"__asan_init", "thread": b"__tsan_init"}[kind] in content
    assert b".debug_info" in content  # else a report could not name a line
    code = "import fuzz.sanitized; from zsl_runtime import _native; print(_native.__file__)"
    around = environment(path, kind) | {"PYTHONPATH": str(CORPUS.parents[1])}
    said = subprocess.run([sys.executable, "-c", code], env=around, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(path)
