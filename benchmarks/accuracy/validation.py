"""Which settings of a method are best on validation classes? Test pictures are not looked at, so it can be asked often.

    python benchmarks/accuracy/validation.py --data xlsa17/CUB --features resnet_fc1000.mat --runs runs/scalings \
        --plan benchmarks/accuracy/cub_fc1000_scalings.toml [--folds 1] [--only TITLE] [--report]

The plan is one of table.py. Of every row only the folds of the selection are trained, with the seed 0, and H of the
validation classes is shown: for every share of the last stage that was compared, gamma chosen on the same classes. So
these H compare settings with each other; they are no estimate of a test H. Cross-fitted is H with each fold scored by
what the others choose (two folds or more), which is nearer to one. Finished rows are not repeated. The table
goes to stdout as Markdown and all figures to benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
from table import ROOT, Row, Source, read_plan

if TYPE_CHECKING:
    from zsl_train.data.image_set import ImageSet

SEED = 0


def validate(row: Row, folds: int, images: ImageSet, folder: Path) -> dict[str, Any]:
    """Train the folds of one row, unless that was done; its figures."""
    from zsl_train.data.given import GivenFeatures
    from zsl_train.methods import find_method
    from zsl_train.recipe import make_recipe, method_config, read_recipe
    from zsl_train.training.prepared import prepare
    from zsl_train.training.runner import sized, with_defaults
    from zsl_train.training.trainer import Trainer, validation_folds

    result = folder / "validation.json"
    if result.is_file():
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found
    base = read_recipe(ROOT / row.recipe) if row.recipe else {"method": row.method, "preset": row.preset}
    recipe = with_defaults(make_recipe(base, row.settings, {"seed": SEED}), {*base, *row.settings})
    recipe = replace(recipe, folds=folds, backbone=GivenFeatures.name, image_size=0)
    method = find_method(recipe.method)
    assert images.features is not None
    prepared = prepare(images, GivenFeatures.of(images.features), recipe)
    drawn, rows = validation_folds(prepared, recipe), prepared.training_rows()
    config = method_config(method.Config, method.PRESETS, recipe)
    config = sized(config, recipe, prepared.dims, len(rows), len(drawn))
    began = time.monotonic()
    choice = Trainer(prepared, recipe, config, checkpoints=folder, log=lambda _: None).select(drawn, cross=True)
    content = {
        "options": row.told(),
        "folds": len(drawn),
        "H": choice.validation_H,
        "H_crossfitted": choice.validation_H_crossfitted,
        "stop_at": choice.stop_at,
        "gamma": choice.gamma,
        "H_of_shares": {str(share): value for share, value in choice.candidates.items()},
        "seconds": round(time.monotonic() - began, 1),
    }
    result.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return content


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown, the best row first."""
    lines = [
        "| | validation H | cross-fitted | share of the last stage | gamma | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for title, row in sorted(results.items(), key=lambda item: -item[1]["H"]):
        fair = row.get("H_crossfitted")
        cells = [f"{row['H']:.1f}", "-" if fair is None else f"{fair:.1f}", f"{row['stop_at']:.2f}"]
        cells += [f"{row['gamma']:.2f}", f"{row['seconds']:.0f}"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Validate what is missing, and print the table after each row."""
    from zsl_train.data.open import open_image_set
    from zsl_train.methods import METHODS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], help="name or method of rows to validate; repeatable")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = read_plan(options.plan, list(METHODS))
    source = Source(options.data, options.features, options.splits)
    out = options.out or ROOT / "benchmarks" / "results" / f"{options.runs.name}.json"
    images = open_image_set(source.data, source.splits, SEED, features=source.features)

    results: dict[str, dict[str, Any]] = {}
    for row in rows:
        folder = row.folder(options.runs, SEED).with_suffix(f".{options.folds}-folds")
        asked = not options.report and (not options.only or {row.title, row.method} & set(options.only))
        if not asked and not (folder / "validation.json").is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        results[row.title] = validate(row, options.folds, images, folder)
        print(f"{row.title}: {results[row.title]['H_of_shares']}", file=sys.stderr, flush=True)
    if not results:
        sys.exit("no row is finished")
    content = {"seed": SEED, "data": f"{options.data.name}, {options.features.name}", "results": results}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
