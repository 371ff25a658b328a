"""What does the page of a run cost: seconds of one core, megabytes, and how much that is beside the training?

    python benchmarks/report.py RUN... --out benchmarks/results/reports.json

Each page is written by `zsl-report run` in a process of its own, three times, and the one with the least CPU time
counts: what the kernel counts for the process, not the clock, which other programs share. Imports are in it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from zsl_runtime import __version__
from zsl_runtime.machine.processor import processor
from zsl_train.reports.run_files import read_run

PROGRAM = "import sys; from zsl_train.reports.cli import main; sys.exit(main())"
TIMES = 3


def cpu_seconds(words: list[str]) -> float:
    """CPU time of a child process and its own children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = os.pathsep.join(one for one in sys.path if one)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run(words, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(folder: Path) -> dict:
    """Figures of one run."""
    run = read_run(folder)
    assert run.scores is not None
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "r.html"
        words = [sys.executable, "-c", PROGRAM, "run", str(folder), "--out", str(out), "--force"]
        seconds = min(cpu_seconds(words) for _ in range(TIMES))
        page = out.read_bytes()
    assert f"{run.scores['H']:.1f}".encode() in page  # a page without the figure has no speed
    protocol = run.scores["protocol"]
    return {
        "method": run.scores["method"],
        "classes": sum(protocol["classes"].values()),
        "test_pictures": protocol["pictures"]["test_seen"] + protocol["pictures"]["test_unseen"],
        "cpu_s": round(seconds, 2),
        "page_mb": round(len(page) / 1e6, 2),
        "kept_mb": round((folder / "report.safetensors").stat().st_size / 1e6, 2),
        "train_s": run.scores["train_seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": {"processor": platform.machine(), "int8": processor().int8, "load_average": os.getloadavg()},
        "versions": {"zsl-deploy": __version__, "python": platform.python_version()},
        "runs": {folder.name: measure(folder) for folder in given.runs},
    }
    given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(given.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
