"""How accurate is SC-EGG on 20 bird species, beside two baselines? Mean and deviation over seeds, one command.

    python benchmarks/accuracy/cub20.py --data CUB20 --runs runs/cub20 [--seeds 0,1,2] [--recipes paper,code]

Runs that are finished are not repeated; an interrupted one resumes. The table goes to stdout, the figures to
benchmarks/results/cub20.json. The protocol is in every run's scores.json: nothing is chosen on test data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from zsl_train.cli import main as zsl_train

ROOT = Path(__file__).parents[2]
FIGURES = ("T1", "T1_czsl", "U", "S", "H", "AUSUC", "H_uncalibrated", "ECE", "train_seconds")
PLAIN = tuple(name for name in FIGURES if name not in {"T1_czsl", "ECE", "train_seconds"})


def train(data: Path, recipe: str, seed: int, runs: Path) -> dict[str, Any]:
    """scores.json of one run, trained now unless it is finished."""
    out = runs / f"{recipe}-{seed}"
    if not (out / "scores.json").is_file():
        file = ROOT / "train" / "recipes" / "cub20" / f"sc_egg_{recipe}.toml"
        code = zsl_train(["--data", str(data), "--recipe", str(file), "--seed", str(seed), "--out", str(out)])
        if code:
            sys.exit(f"zsl-train ended with exit code {code}")
    return json.loads((out / "scores.json").read_text(encoding="utf-8"))


def summary(scores: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation over seeds and the values, for each figure."""
    found = {name: [one[name] for one in scores] for name in names}
    return {
        name: {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "values": values,
        }
        for name, values in found.items()
    }


def cell(figure: dict[str, Any] | None) -> str:
    """`mean ± std`."""
    if figure is None:
        return "-"
    return f"{figure['mean']:.1f}" + ("" if figure["std"] is None else f" ± {figure['std']:.1f}")


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    shown = ("T1", "U", "S", "H", "AUSUC", "H_uncalibrated")
    lines = ["| | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cell(row.get(key)) for key in shown) + " |" for name, row in results.items()]
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--recipes", default="paper,code")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "cub20.json")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    results: dict[str, dict[str, Any]] = {}
    scores: list[dict[str, Any]] = []
    for recipe in options.recipes.split(","):
        scores = [train(options.data, recipe, seed, options.runs) for seed in seeds]
        results[f"SC-EGG, {recipe}"] = summary(scores, FIGURES)
    # The baselines are closed forms: between seeds only the validation folds, and so their choices, differ.
    for name in scores[0]["baselines"]:
        results[name] = summary([one["baselines"][name] for one in scores], PLAIN)
    report = {
        "seeds": seeds,
        "protocol": scores[0]["protocol"],
        "machine": scores[0]["machine"],
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
