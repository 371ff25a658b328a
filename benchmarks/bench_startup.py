"""What does it cost to start: the help, the first label, memory, and the disk?

Each command runs in a process of its own, as a user starts it. The help imports nothing heavy; the first label waits
for Python, NumPy, the hashes of the bundle, ONNX Runtime, the graph and one batch.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from turns import Contender

import zsl_runtime

# What `pip install "zsl-deploy[cpu]"` brings: the packages of the runtime and what they need in turn.
INSTALLED = ("numpy", "pillow", "click", "safetensors", "onnxruntime", "flatbuffers", "protobuf", "packaging")
COMMANDS = {
    "zsl-infer": "zsl_runtime.cli.infer",
    "zsl-eval": "zsl_runtime.cli.evaluate",
    "zsl-classes": "zsl_runtime.cli.classes",
    "zsl-doctor": "zsl_runtime.cli.doctor",
    "zsl-export": "zsl_export.cli",
    "zsl-train": "zsl_train.cli",
}


def program(module: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.fixture(scope="module")
def picture(photograph_folder):
    return str(min(photograph_folder.rglob("*.jpg")))


def bench_1_help(measure_in_turns):
    """Each command, and what no program in Python can do without."""

    def says(words):
        def check(done):
            assert b"Usage" in done.stdout

        return Contender(lambda: subprocess.run(words, check=True, capture_output=True, env=environment()), check)

    alone = [sys.executable, "-c", "pass"]
    found = {"python alone": Contender(lambda: subprocess.run(alone, check=True, capture_output=True))}
    found |= {name: says([*program(module), "--help"]) for name, module in COMMANDS.items()}
    measure_in_turns(
        found,
        things=1,
        unit="starts",
        named=lambda name: f"bench_1_help[{name}]" if name in COMMANDS else "bench_0_python_alone",
    )


def first_label(words: list[str]) -> float:
    """Seconds from the start of the process to the first line about a picture."""
    begin = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as child:
        assert child.stdout.readline() == b"path,rank,class,split,probability,distance,far\n"
        assert b",1," in child.stdout.readline()
        seconds = time.perf_counter() - begin
        child.communicate()
    assert child.returncode == 0
    return seconds


def bench_2_first_label(measure_in_turns, shipped_bundle, picture):
    """One picture, and a whole batch: all eight are labelled before the first line is out."""

    def contender(pictures):
        words = [*program("zsl_runtime.cli.infer"), *[picture] * pictures, "--engine", str(shipped_bundle)]
        return Contender(lambda: first_label(words))

    measure_in_turns(
        {str(pictures): contender(pictures) for pictures in (1, 8)},
        things=1,
        unit="starts",
        named=lambda name: f"bench_2_first_label[{name}]",
    )


def bench_3_resident_memory(benchmark, shipped_bundle, picture):
    """Peak of a process that labels 64 pictures."""
    words = [*program("zsl_runtime.cli.infer"), *[picture] * 64, "--engine", str(shipped_bundle), "--topk", "1"]
    code = f"import resource, subprocess; subprocess.run({words!r}, check=True, capture_output=True); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"

    def peak() -> int:
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment())
        return int(done.stdout)

    kilobytes = benchmark.pedantic(peak, rounds=1)
    assert kilobytes > 1000 * resource.getpagesize() // 1024
    model = sum(path.stat().st_size for path in shipped_bundle.glob("*.onnx"))
    benchmark.extra_info.update({"peak_mb": round(kilobytes / 1024, 1), "graphs_mb": round(model / 2**20, 1)})


def size_of(package: str) -> int:
    """Bytes of the files that an installed package has on the disk."""
    files = distribution(package).files or []
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())


def bench_4_installed_size(benchmark):
    """The runtime without torch: our package as it is here, and the installed ones that it needs."""

    def measure_all() -> dict[str, float]:
        folder = Path(zsl_runtime.__file__).parent
        ours = sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in {".py", ".so", ".pyi", ".pyd"})
        sizes = {"zsl_runtime": ours}
        for package in INSTALLED:
            try:
                sizes[package] = size_of(package)
            except PackageNotFoundError:  # newer versions of a package may need fewer others
                continue
        return {f"{name}_mb": round(size / 2**20, 1) for name, size in sizes.items()}

    sizes = benchmark.pedantic(measure_all, rounds=1)
    assert sizes["numpy_mb"] > 10
    benchmark.extra_info.update(sizes | {"total_mb": round(sum(sizes.values()), 1)})
