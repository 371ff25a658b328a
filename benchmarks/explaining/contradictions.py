"""How often `zsl-classes explain` says that photographs contradict a row that is right, and a value that is wrong.

    python benchmarks/explaining/contradictions.py --data CUB20 BUNDLE ...

Unseen classes are taught 1, 3, 10 and 30 photographs of their own, in five draws. Told for no reason: attributes of
their true rows. Then one attribute at a time, of those that are read well enough, is turned into its contrary, the
largest value of all classes for a small one and the smallest for a large one: how often is it told?
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np

from zsl_runtime import Classifier
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes import account
from zsl_runtime.head.gaussian import Evidence
from zsl_runtime.pixels import prepare

COUNTS, DRAWS, FLIPS, BATCH = (1, 3, 10, 30), 5, 5, 16
RESULTS = Path(__file__).parents[1] / "results" / "contradictions.json"


def lifted_of(bundle: Bundle, data: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Class -> what the head looks at, (n, D), of all its photographs."""
    found = {}
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        for name in names:
            parts = []
            paths = sorted((data / "images" / name).iterdir())
            for start in range(0, len(paths), BATCH):
                pixels = np.stack([prepare(path, classifier.pixels) for path in paths[start : start + BATCH]])
                parts.append(classifier.backend.lift(classifier.score(pixels)[1]))
            found[name] = np.concatenate(parts)
    return found


def measure(path: Path, data: Path) -> dict[str, dict[str, float]]:
    bundle = Bundle.open(path, verify=False)
    generation, readout = bundle.current(), bundle.readout()
    table, means = generation.table, generation.means
    assert means is not None
    unseen = [name for j, name in enumerate(table.names) if means.counts[j] == 0]
    x = lifted_of(bundle, data, unseen)
    rng = np.random.default_rng(0)
    low, high = table.raw.min(axis=0), table.raw.max(axis=0)
    result = {"readable": {"attributes": int(readout.readable.sum()), "of": len(table.attributes)}}
    for count in COUNTS:
        false, told, flips = [], 0, 0
        for name in unseen:
            j = table.index(name)
            for _ in range(DRAWS):
                some = x[name][rng.permutation(len(x[name]))[:count]]
                taught = means.taught({j: Evidence(len(some), some.sum(axis=0, dtype=np.float64))})
                now = replace(generation, means=taught)
                false.append(len(account._contradicted(now, readout, j) or ()))
                for n in rng.choice(np.flatnonzero(readout.readable), FLIPS):
                    raw = table.raw.copy()
                    raw[j, n] = high[n] if raw[j, n] < (low[n] + high[n]) / 2 else low[n]
                    found = account._contradicted(replace(now, table=replace(table, raw=raw)), readout, j) or ()
                    told += table.attributes[n] in {one.attribute for one in found}
                    flips += 1
        result[str(count)] = {"told_of_true_rows": statistics.fmean(false), "contraries_told": told / flips}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    account.MOST_CONTRADICTED = 10**6  # all of them
    runs = {path.name: measure(path, options.data) for path in options.bundles}
    options.out.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
