"""How every benchmark here measures and reports: percentiles, things a second, and no name of the machine."""

from __future__ import annotations

import datetime as dt
import os
import platform
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import zsl_runtime
from zsl_runtime.machine.threads import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = (3, 300)  # at least and at most
SECONDS = 1.0  # that one benchmark measures, where ROUNDS allow it
QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
PACKAGES = ("numpy", "pillow", "onnxruntime")
PHOTOGRAPHS = 160  # that are drawn where none are given
LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def measure(benchmark, request):
    """A function that times a call and notes percentiles in milliseconds and things a second.

    It takes the call, how many `things` (pictures, classes) one call does, and perhaps `setup`, which is run before
    each call and not timed. The first call, which is not counted, pays for memory and lazy initialisation; by the
    second, which is not counted either, it is decided how many there will be.
    """

    def run(call: Callable[[], object], *, things: int, unit: str, setup: Callable[[], None] | None = None) -> None:
        for _ in range(2):
            if setup:
                setup()
            started = time.perf_counter()
            call()
            seconds = time.perf_counter() - started
        rounds = int(np.clip(SECONDS / seconds, *ROUNDS))
        benchmark.pedantic(call, setup=setup, rounds=rounds)
        if benchmark.disabled:
            return
        times = np.array(benchmark.stats.stats.data)
        found = {name: round(1000 * float(np.quantile(times, at)), 4) for name, at in QUANTILES.items()}
        found |= {f"{unit}_per_second": round(things / float(np.median(times)), 1), "rounds": rounds}
        benchmark.extra_info.update(found)
        shown = "  ".join(f"{name} {value:g}" for name, value in found.items())
        request.config.stash.setdefault(LINES, []).append(f"{request.node.name:<44}{shown}")

    return run


def pytest_terminal_summary(terminalreporter, config):
    """The table: times of one call in milliseconds. Then what was skipped, by name: a missing line is not a zero."""
    for line in config.stash.get(LINES, []):
        terminalreporter.write_line(line)
    for report in terminalreporter.stats.get("skipped", []):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        name = report.nodeid.rpartition("::")[2]
        terminalreporter.write_line(f"skipped {name}: {why.removeprefix('Skipped: ')}")


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """What a result file holds: the kind of machine, versions and figures; no host, no user, no folder."""
    machine = output_json["machine_info"]
    entries = output_json["benchmarks"]
    figures = {entry["fullname"].removeprefix("benchmarks/"): entry["extra_info"] for entry in entries}
    output_json.clear()
    output_json["date"] = dt.datetime.now(dt.UTC).date().isoformat()
    output_json["machine"] = {
        "processor": machine["cpu"].get("brand_raw", platform.machine()),
        "usable_cpus": usable_cpus(),
        "system": platform.system(),
        "load_average": [round(load, 1) for load in os.getloadavg()],  # above usable_cpus: others were at work
    }
    output_json["versions"] = {
        "zsl-deploy": zsl_runtime.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        **{package: version(package) for package in ("torch", "openvino") if find_spec(package)},
    }
    output_json["figures"] = figures


@pytest.fixture(scope="session")
def line(tmp_path_factory):
    """A bundle as users have one: EfficientNet-Lite2 at 260 px, trained for a few steps on drawn birds, exported."""
    from support.line import draw_few_species, train_and_export

    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(folder / "cache"))
        return train_and_export(draw_few_species(folder / "my birds"), folder)


@pytest.fixture(scope="session")
def shipped_bundle(request) -> Path:
    """The bundle in $ZSL_BENCH_BUNDLE, or the one of `line`."""
    given = os.environ.get("ZSL_BENCH_BUNDLE")
    return Path(given) if given else request.getfixturevalue("line").bundle


@pytest.fixture(scope="session")
def photograph_folder(request, tmp_path_factory) -> Path:
    """The folder in $ZSL_BENCH_PHOTOS, or one of JPEG files of 500 x 375 pixels, the size of CUB's pictures."""
    given = os.environ.get("ZSL_BENCH_PHOTOS")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("photographs")
    drawn = sorted((request.getfixturevalue("line").data / "images").rglob("*.jpg"))
    for number in range(PHOTOGRAPHS):
        with Image.open(drawn[number % len(drawn)]) as image:
            image.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg", quality=90)
    return folder
