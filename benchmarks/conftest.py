"""How every benchmark here measures and reports: percentiles, things a second, and no name of the machine.

Contenders that are compared are timed in turns (turns.py); what stands for itself, one benchmark after the other.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import zsl_runtime
from zsl_runtime.machine.processor import processor
from zsl_runtime.machine.threads import usable_cpus

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that benchmarks share
from turns import Clock, Contender, in_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROUNDS = (3, 300)  # at least and at most
SECONDS = 1.0  # that one benchmark, or one contender, measures, where ROUNDS allow it
QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
PACKAGES = ("numpy", "pillow", "onnxruntime")
PHOTOGRAPHS = 160  # that are drawn where none are given
LINES, MISSING = pytest.StashKey[list[str]](), pytest.StashKey[list[str]]()


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


@pytest.fixture
def measure_in_turns(benchmark, request):
    """A function that checks contenders, times them in turns, and notes for each what `measure` notes.

    It takes the contenders by name, how many `things` one call of each does, and the `unit`. `against` names the one
    that the others are compared with: they get the median and the quartiles of the rounds' ratios. `named` gives what a
    contender is called among the results, `missing` says why others are not here, `notes` adds to what is noted.
    """

    def run(
        contenders: Mapping[str, Contender],
        *,
        things: int,
        unit: str,
        named: Callable[[str], str],
        against: str | None = None,
        pause: float = 0.0,
        settle: bool = False,
        missing: Mapping[str, str] | None = None,
        notes: Mapping[str, dict[str, float]] | None = None,
    ) -> None:
        said = request.config.stash.setdefault(MISSING, [])
        said += [f"skipped {named(name)}: {why}" for name, why in (missing or {}).items()]
        if benchmark.disabled:  # it is to be seen that answers are right
            benchmark.pedantic(in_turns, args=(contenders,), kwargs={"seconds": 0.0, "rounds": (1, 1)})
            return
        settings = {
            "seconds": SECONDS * len(contenders),
            "rounds": ROUNDS,
            "pause": pause,
            "settle": settle,
            "clock": Clock(),
        }
        found = benchmark.pedantic(in_turns, args=(contenders,), kwargs=settings, rounds=1)
        noted = {}
        for name in found.seconds:
            figures = dict((notes or {}).get(name, {})) | found.figures(name, things, unit)
            shown = ""
            if against is not None and against in found.seconds and name != against:
                ratio = found.times_as_fast(name, against).to_dict()
                figures["times_as_fast"] = {"as": named(against), **ratio}
                shown = "  {median:.2f} ({low:.2f} to {high:.2f}) times as fast as ".format(**ratio) + against
            noted[named(name)] = figures
            plain = "  ".join(f"{key} {value:g}" for key, value in figures.items() if not isinstance(value, dict))
            request.config.stash.setdefault(LINES, []).append(f"{named(name):<56}  {plain}{shown}")
        benchmark.extra_info["in_turns"] = noted

    return run


def pytest_terminal_summary(terminalreporter, config):
    """The table: times of one call in milliseconds. Then what was skipped, by name: a missing line is not a zero."""
    for line in config.stash.get(LINES, []):
        terminalreporter.write_line(line)
    for line in config.stash.get(MISSING, []):
        terminalreporter.write_line(line)
    for report in terminalreporter.stats.get("skipped", []):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        name = report.nodeid.rpartition("::")[2]
        terminalreporter.write_line(f"skipped {name}: {why.removeprefix('Skipped: ')}")


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """What a result file holds: the kind of machine, versions and figures; no host, no user, no folder."""
    machine = output_json["machine_info"]
    entries = output_json["benchmarks"]
    figures: dict[str, Any] = {}
    for entry in entries:
        name, noted = entry["fullname"].removeprefix("benchmarks/"), entry["extra_info"]
        file = name.partition("::")[0]
        turns = noted.get("in_turns")
        figures |= {name: noted} if turns is None else {f"{file}::{one}": of for one, of in turns.items()}
    output_json.clear()
    output_json["date"] = dt.datetime.now(dt.UTC).date().isoformat()
    output_json["machine"] = {
        "processor": machine["cpu"].get("brand_raw", platform.machine()),
        "instructions": {"int8": processor().int8, "bf16": processor().bf16},
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
