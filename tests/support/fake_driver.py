"""Builds the driver that is none (tests/support/fake_cuda.cpp) and runs programs with it in the place of libcuda."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zsl_runtime import _native

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "support" / "fake_cuda.cpp"
HEADERS = ROOT / "runtime" / "native" / "cuda"


def toolkit() -> Path | None:
    """The folder of the real cuda.h."""
    compiler = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [Path(home) / "include" for home in homes if home]
    if compiler:
        folders.append(Path(compiler).resolve().parents[1] / "include")
    return next((folder for folder in folders if (folder / "cuda.h").exists()), None)


def build_driver(folder: Path) -> Path:
    """Compile it into `folder`; the test is skipped where that cannot be done."""
    if not _native.has_cuda_kernels():
        pytest.skip("zsl-deploy was built without nvcc: there are no kernels to load")
    compiler, headers = shutil.which("c++"), toolkit()
    if compiler is None or headers is None or not sys.platform.startswith("linux"):
        pytest.skip("no C++ compiler or no cuda.h to build the stand-in for the driver")
    command = [compiler, "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]
    command += [str(folder / "libcuda.so.1"), str(SOURCE), "-I", str(HEADERS), "-isystem"]
    subprocess.run([*command, str(headers)], check=True)
    return folder


def run_with(folder: Path, program: str, failing: str = "") -> list[str]:
    """Lines that a Python program prints; `failing` names a function of the driver that fails."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "FAKE_CUDA_FAIL": failing}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.splitlines()
