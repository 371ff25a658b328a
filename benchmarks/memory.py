"""Does training on region features of the size of AWA2 fit into 4 GB of memory? A store of that shape, a hard limit.

    python benchmarks/memory.py --work DIR [--limit-gb 4] [--rows 23527] [--steps 300]

Writes DIR/AWA2/regions.npy, (rows, 196, 2048) float16 of generated numbers (19 GB for AWA2's rows), labels and an
att_splits.mat of 50 classes, 10 unseen, and 85 attributes; then runs `zsl-train --method sc-egg` on it, that many
steps in each of the three stages, test pictures and all, as a process of its own. Linux only: where this user may make
a control group, the process and all pages of the file that it keeps are held under --limit-gb together, and exceeding
it kills the process; elsewhere memory is only measured. Figures: the largest resident set, how much of it was not
pages of files, the time. They go to stdout and benchmarks/results/memory.json; a GB there is 2^30 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

ROOT = Path(__file__).parents[1]
REGIONS, CHANNELS, ATTRIBUTES, CLASSES, UNSEEN = 196, 2048, 85, 50, 10
POOL = 64  # pictures of noise that rows are made of
GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
LIMITS = ("memory.limit_in_bytes", "memory.max")
INTERVAL = 0.05  # seconds between two looks at the process
GB = 1 << 30


def write_data(folder: Path, rows: int) -> None:
    """Feature file, labels and split, unless they are there: regions that carry a little of their class each."""
    path = folder / "regions.npy"
    labels = np.random.default_rng(0).permutation(np.arange(rows) % CLASSES)
    if path.is_file() and np.load(path, mmap_mode="r").shape[0] == rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    attributes = draw.random((CLASSES, ATTRIBUTES))
    prototypes = (attributes @ draw.standard_normal((ATTRIBUTES, CHANNELS))).clip(0).astype(np.float16)
    noise = np.abs(draw.standard_normal((POOL, REGIONS, CHANNELS), dtype=np.float32)).astype(np.float16)
    temporary = folder / "regions.partial.npy"
    out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=(rows, REGIONS, CHANNELS))
    for row in range(rows):
        out[row] = noise[row % POOL]
        out[row, row % REGIONS :: 10] = prototypes[labels[row]]
    out.flush()
    del out
    temporary.replace(path)
    np.save(folder / "labels.npy", labels + 1)
    _write_splits(folder, labels, attributes)


def _write_splits(folder: Path, labels: np.ndarray, attributes: np.ndarray) -> None:
    """Four fifths of a seen class's rows are for training."""
    lists: dict[str, list[int]] = {"trainval_loc": [], "test_seen_loc": [], "test_unseen_loc": []}
    for label in range(CLASSES):
        of_class = np.flatnonzero(labels == label) + 1
        cut = 0 if label >= CLASSES - UNSEEN else 4 * len(of_class) // 5
        lists["trainval_loc"] += of_class[:cut].tolist()
        lists["test_seen_loc" if cut else "test_unseen_loc"] += of_class[cut:].tolist()
    names = np.empty((CLASSES, 1), dtype=object)
    names[:, 0] = [f"class {number}" for number in range(CLASSES)]
    content: dict[str, Any] = {key: np.array(rows)[:, None] for key, rows in lists.items()}
    content |= {"att": attributes.T, "allclasses_names": names}
    scipy.io.savemat(folder / "att_splits.mat", content)


def forget(path: Path) -> None:
    """Take the file's pages out of memory: those that somebody else read before would not count for the group."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def limited(limit: int) -> Path | None:
    """A new control group with that limit of bytes; None where this user can make none."""
    for root in GROUPS:
        group = root / f"zsl-memory-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        for name in LIMITS:
            if (group / name).exists():
                (group / name).write_text(str(limit))
                return group
        group.rmdir()
    return None


def watched(command: list[str], group: Path | None) -> dict[str, Any]:
    """Run the command inside the group and look at its memory until it ends: figures in GB and seconds."""

    def join() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    began, largest = time.monotonic(), {"VmRSS": 0, "RssAnon": 0}
    with subprocess.Popen(command, preexec_fn=join, cwd=ROOT) as process:  # noqa: PLW1509  # no threads here
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
            except OSError:
                break
            status = dict(line.split(":", 1) for line in lines if ":" in line)
            now = {key: int(status[key].split()[0]) << 10 for key in largest if key in status}
            largest = {key: max(value, now.get(key, 0)) for key, value in largest.items()}
            time.sleep(INTERVAL)
    return {
        "exit_code": process.returncode,
        "resident_gb": round(largest["VmRSS"] / GB, 2),
        "not_of_files_gb": round(largest["RssAnon"] / GB, 2),
        "seconds": round(time.monotonic() - began),
    }


def main() -> None:
    """Write the data, train, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limit-gb", type=float, default=4.0)
    parser.add_argument("--rows", type=int, default=23_527)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "memory.json")
    options = parser.parse_args()
    data, run = options.work / "AWA2", options.work / "run"
    write_data(data, options.rows)
    stages = [f"--set=stage{number}_steps={options.steps}" for number in (1, 2, 3)]
    program = "import sys; from zsl_train.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "--data", str(data), "--features", "regions.npy", "--method", "sc-egg"]
    command += ["--set=folds=0", *stages, "--out", str(run), "--force"]
    forget(data / "regions.npy")
    group = limited(int(options.limit_gb * GB))
    try:
        figures = watched(command, group)
    finally:
        if group is not None:
            group.rmdir()
    if figures["exit_code"]:
        sys.exit(f"zsl-train ended with exit code {figures['exit_code']} under {options.limit_gb} GB: {figures}")
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ran = {entry["stage"]: entry["step"] for entry in map(json.loads, lines) if "step" in entry}
    content = {
        "store": f"({options.rows}, {REGIONS}, {CHANNELS}) float16",
        "store_gb": round((data / "regions.npy").stat().st_size / GB, 2),
        "limit_gb": options.limit_gb if group is not None else None,
        "steps": ran,
        **figures,
    }
    options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
