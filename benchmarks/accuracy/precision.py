"""What do fp16 and int8 cost in accuracy? T1, U, S and H of one run in every precision, one command.

    python benchmarks/accuracy/precision.py RUN [RUN ...] [--data DIR] [--out FILE]

Each RUN is exported with --precision fp32,fp16,int8 and nothing is refused (--max-drop 100). The figures are those of
the export's own gate: the run's test photographs, by which nothing was chosen, labelled by ONNX Runtime on this
machine. The table goes to stdout, everything parity.json says of precisions to benchmarks/results/precision.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from zsl_export.cli import main as zsl_export

ROOT = Path(__file__).parents[2]
FIGURES = ("T1", "U", "S", "H")


def measure(run: Path, data: str | None) -> dict[str, Any]:
    """What parity.json says of precisions after an export of `run`."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        words = [str(run), "--out", str(bundle), "--precision", "fp32,fp16,int8", "--max-drop", "100"]
        code = zsl_export([*words, *(["--data", data] if data else [])])
        if code:
            sys.exit(f"zsl-export ended with exit code {code}")
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        parity = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = parity["precisions"]
    if not found["accuracy"]["held_out"]:
        sys.exit(f"{run}: {found['accuracy']['note']}; give the data it was trained on with --data DIR")
    sizes = {key: manifest["files"][name]["bytes"] for key, name in manifest["precisions"].items()}
    about = {"method": manifest["method"], "backbone": manifest["backbone"]["name"], "versions": manifest["versions"]}
    return {**found, **about, "bytes": sizes}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each run and precision, with the change against fp32 in points."""
    lines = [
        "| run | precision | " + " | ".join(FIGURES) + " | as fp32 | MB | layers in float |",
        "|---" * (len(FIGURES) + 5) + "|",
    ]
    for name, found in results.items():
        accuracy = found["accuracy"]["precisions"]
        for key, one in accuracy.items():
            cells = [change(one[figure], accuracy["fp32"][figure], first=key == "fp32") for figure in FIGURES]
            floats = len(found[key]["layers_in_float"]) if key.startswith("int8") else ""
            size = f"{found['bytes'][key] / 1e6:.1f}"
            lines.append(f"| {name} | {key} | {' | '.join(cells)} | {one['agreement']:.1%} | {size} | {floats} |")
    return "\n".join(lines)


def change(value: float | None, before: float | None, *, first: bool) -> str:
    """`54.15 (-0.30)`."""
    if value is None or before is None:
        return "-"
    return f"{value:.2f}" if first else f"{value:.2f} ({value - before:+.2f})"


def main() -> None:
    """Export every run, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", help="the data of the runs, if it has moved")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "precision.json")
    options = parser.parse_args()
    results = {run.name: measure(run, options.data) for run in options.runs}
    report = {"machine": {"processor": platform.processor() or platform.machine()}, "runs": results}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
