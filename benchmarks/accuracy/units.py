"""What does an attribute in another unit cost, and what does dividing by ranges? Closed forms on validation classes.

    python benchmarks/accuracy/units.py --data guide --seed 0 1 2
    python benchmarks/accuracy/units.py --data xlsa17/CUB --features resnet_fc1000.mat --only one-x1000

Attributes are put into other units, as tables of users have them, and GFZSL, ESZSL and the regression to prototypes are
chosen on the folds of a training: with attributes as they are and each divided by its range over the seen classes.
Figures of validation classes decide; those of the test pictures are written beside them. All of it goes to
benchmarks/results/units.json, by data set, change and rule; what is there of others stays.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).parents[2]
OUT = ROOT / "benchmarks" / "results" / "units.json"
FIGURES = ("validation_H", "H")
RULES = ("none", "range")

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zsl_train.training.prepared import Prepared

    Doubles = NDArray[np.float64]


def _times(raw: Doubles, columns: Any, factor: float, shift: float = 0.0) -> Doubles:
    changed = raw.copy()
    changed[:, columns] = factor * changed[:, columns] + shift
    return changed


def _some(raw: Doubles, share: float) -> Doubles:
    """Numbers of a share of the columns, drawn with a seed."""
    count = max(2, int(share * raw.shape[1]))
    return np.random.default_rng(5).permutation(raw.shape[1])[:count]


def _varied(raw: Doubles) -> int:
    """The column that differs most between classes."""
    return int(raw.std(axis=0).argmax())


CHANGES: dict[str, Callable[[Doubles], Doubles]] = {
    "as-given": lambda raw: raw,
    "one-x10": lambda raw: _times(raw, _varied(raw), 10),
    "one-x1000": lambda raw: _times(raw, _varied(raw), 1000),
    "one-plus-280": lambda raw: _times(raw, _varied(raw), 1, 280),
    "tenth-x100": lambda raw: _times(raw, _some(raw, 0.1), 100),
    "half-x100": lambda raw: _times(raw, _some(raw, 0.5), 100),
}


def measured(prepared: Prepared, raw: Doubles, rule: str, seed: int, known: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Figures of the closed forms, by their names; and whether `auto` would have divided.

    Args:
        prepared: the data set.
        raw: attributes to take.
        rule: `attribute_scale`.
        seed: of the folds.
        known: vectors that were measured, and their figures, which need not be measured again.

    """
    from zsl_runtime.head.semantic_rule import mixed_units
    from zsl_train.data.attributes import semantic_rule
    from zsl_train.methods import gfzsl
    from zsl_train.scoring.folds import make_folds
    from zsl_train.training.closed_forms import closed_forms

    table = replace(prepared.images.table, raw=raw)
    made = semantic_rule(table, clamp_negative=True, unit_l2=True, attribute_scale=rule)
    told = {"auto": mixed_units(raw[table.seen], clamp_negative=True)}
    vectors = made.apply(raw)
    for before, figures in known:
        if np.allclose(before, vectors, rtol=0, atol=1e-6):
            return told | figures
    changed = replace(prepared, rule=made, semantic=vectors)
    rows = prepared.training_rows()
    of = (rows, prepared.images.labels[rows], table.seen)
    folds = make_folds(*of, count=3, seed=seed)
    newcomers = make_folds(*of, count=gfzsl.FOLDS, seed=seed, newcomers=True)
    found = closed_forms(changed, "sc-egg", folds, newcomers, print)
    figures = {name: {key: one.figures[key] for key in FIGURES} for name, one in found.items()}
    known.append((vectors, figures))
    return told | figures


def opened(data: Path, features: Path | None, seed: int) -> Prepared:
    """The data set with its features."""
    from zsl_train import backbones
    from zsl_train.data.given import GivenFeatures
    from zsl_train.data.open import open_image_set
    from zsl_train.recipe import Recipe
    from zsl_train.training.prepared import prepare

    images = open_image_set(data, None, seed, features=features)
    backbone = backbones.build("efficientnet_lite2") if images.features is None else GivenFeatures.of(images.features)
    return prepare(images, backbone, Recipe(method="gfzsl", backbone=backbone.name, seed=seed))


def main() -> None:
    """Measure what is asked for, and write it down after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--name", help="of the data set in the results [default: the folder's]")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    name = options.name or options.data.name
    for seed in options.seed:
        prepared, known = opened(options.data, options.features, seed), []
        for change in options.only:
            raw = CHANGES[change](prepared.images.table.raw)
            for rule in RULES:
                found = measured(prepared, raw, rule, seed, known)
                results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
                results.setdefault(name, {}).setdefault(change, {}).setdefault(rule, {})[str(seed)] = found
                options.out.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps(results, indent=1, sort_keys=True)
                options.out.write_text(text + "\n", encoding="utf-8")
                print(name, seed, change, rule, found, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
