"""How many pictures a second do networks take on this machine's CPU, by whom they are run? One command, one file.

    make bench-cpu                                                  # some 8 minutes on a quiet machine of two CPUs
    make bench-cpu BENCH_CPU="--networks resnet101 --seconds 60 --out build/cpu.json"

ResNet-101 and EfficientNet-Lite2, batches of 8: torch eager and compiled, the libraries alone, and ours on the same
files, each in every precision that this CPU has (engine_contenders.py). All of them are checked first, then timed in
turns (turns.py), so that a load that comes and goes meets all of them; each is called twice in its turn, and the second
call counts. The file says which processor it was, what it
has for int8 and bf16, and how busy the machine was before and after; tools/figures.py makes the table of
docs/explanation/performance.md of it. Exit codes: 0 measured; 3 an answer was wrong.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from contextlib import ExitStack, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

import engine_contenders as engine  # noqa: E402
from turns import Contender, Turns, in_turns  # noqa: E402

import zsl_runtime  # noqa: E402
from zsl_runtime.machine.processor import processor  # noqa: E402
from zsl_runtime.machine.threads import usable_cpus  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT = 1
RESULTS = ROOT / "benchmarks" / "results" / "cpu.json"
SECONDS = 150.0  # of rounds, for each network; checks, exports and compiling take about as long
ROUNDS = (5, 200)
PACKAGES = ("numpy", "torch", "onnx", "onnxruntime", "openvino")
EAGER = "torch eager"
EXIT_DONE, EXIT_WRONG = 0, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the file, print the table; returns the exit code."""
    asked = arguments(argv)
    report = about_this_machine() | {"batch": engine.BATCH, "conditions": __doc__, "networks": {}}
    for name in asked.networks:
        tell(f"--- {name}: exporting and quantising ...")
        with tempfile.TemporaryDirectory(prefix="zsl-bench-") as folder:
            network = engine.make_network(name, Path(folder))
            try:
                report["networks"][name] = measure(network, asked.contenders, asked.seconds)
            except AssertionError as wrong:
                tell(f"WRONG ANSWER, so nothing is kept: {wrong}")
                return EXIT_WRONG
        for line in lines(report["networks"][name]):
            print(line)
    report["machine"]["load_average_after"] = load_average()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written: {asked.out}")
    return EXIT_DONE


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(engine.SIDES), help="comma list [%(default)s]")
    parser.add_argument("--contenders", default="", help="comma list; all of them if empty")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of rounds for each network [%(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file [%(default)s]")
    asked = parser.parse_args(argv)
    asked.networks = asked.networks.split(",")
    asked.contenders = asked.contenders.split(",") if asked.contenders else list(engine.CONTENDERS)
    for kind, given, known in (
        ("network", asked.networks, engine.SIDES),
        ("contender", asked.contenders, engine.CONTENDERS),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"there is no {kind} {', '.join(unknown)}; choose from {', '.join(known)}")
    return asked


def measure(network: engine.Network, names: Sequence[str], seconds: float) -> dict[str, Any]:
    """Figures of each contender, with its ratios to what it is held against; and those that are not here, by name."""
    found, missing = {}, {}
    with ExitStack() as stack:
        for name in names:
            tell(f"opening {name} ...")
            try:
                call = stack.enter_context(engine.opened(network, name))
            except engine.NotHereError as why:
                missing[name] = str(why)
                continue
            found[name] = Contender(call, partial(engine.check, network, name))
        began = time.perf_counter()
        turns = in_turns(found, seconds=seconds, rounds=ROUNDS, pause=engine.PAUSE, settle=True)
        tell(f"{turns.rounds} rounds of {len(found)} contenders in {time.perf_counter() - began:.0f} s")
    return {"contenders": {name: figures(turns, name) for name in turns.seconds}, "missing": missing}


def figures(turns: Turns, name: str) -> dict[str, Any]:
    """Of one contender: percentiles, pictures a second, and its ratios to eager torch and to the best peer."""
    said: dict[str, Any] = turns.figures(name, engine.BATCH, "pictures")
    others = {"eager": EAGER, "best_peer": best_peer(turns, engine.precision_of(name))}
    for key, other in others.items():
        if other in turns.seconds and other != name:
            said[key] = {"name": other, "times_as_fast": turns.times_as_fast(name, other).to_dict()}
    return said


def best_peer(turns: Turns, precision: str) -> str | None:
    """The fastest library that runs the same file in the same precision without us."""
    peers = [name for name in turns.seconds if name in engine.PLAIN and engine.precision_of(name) == precision]
    return min(peers, key=turns.median, default=None)


def lines(network: Mapping[str, Any]) -> list[str]:
    """The table for people."""
    out = []
    for name, found in network["contenders"].items():
        text = f"{name:<22}{found['pictures_per_second']:>8.1f} pictures a second, {found['rounds']} rounds"
        for key in ("eager", "best_peer"):
            if key in found:
                text += "; {median:.2f} ({low:.2f} to {high:.2f}) times".format(**found[key]["times_as_fast"])
                text += f" {found[key]['name']}"
        out.append(text)
    return out + [f"not here: {name}: {why}" for name, why in network["missing"].items()]


def about_this_machine() -> dict[str, Any]:
    """The kind of machine and the versions: no host, no user, no folder."""
    cpu = processor()
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "bf16")
    versions = {"zsl-deploy": zsl_runtime.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "format": FORMAT,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": {
            "processor": cpu.name,
            "flags": [flag for flag in known if flag in cpu.flags],
            "usable_cpus": usable_cpus(),
            "system": f"{platform.system()} {platform.machine()}",
            "load_average_before": load_average(),  # above usable_cpus: others were at work
        },
        "versions": versions,
    }


def load_average() -> list[float]:
    return [round(load, 1) for load in os.getloadavg()]


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", ".*torch.jit.script_method", DeprecationWarning)
    sys.exit(main())
