"""How many species must a model have seen before its attributes' maps find the parts?

    python benchmarks/explaining/species.py --drawn FIELD_GUIDE --run RUN [--counts 24,13,6] [--draws 3]

The attention of SC-EGG (its first stage, with the settings of RUN) is trained on drawn birds of 24 seen species, and of
13 and 6 of them, drawn at random, for as many steps; the maps are measured on the same pictures as in attention.py. No
one tells the model where a part is: it can only find out from species that differ in it. The result goes to --out
(default benchmarks/results/attention.json) under `species`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attention import RESULT, drawn, entropy, measure
from outlines import grid_of

from zsl_train.data.feature_store import extract
from zsl_train.data.open import open_image_set
from zsl_train.methods.base import TrainingData
from zsl_train.methods.sc_egg.config import Config
from zsl_train.methods.sc_egg.scen import train_scen
from zsl_train.methods.session import Session
from zsl_train.training.run_folder import load_run

if TYPE_CHECKING:
    from attention import Scene
    from numpy.typing import NDArray

    from zsl_train.training.run_folder import Run


def trained_on(species: NDArray[np.int64], data: Path, run: Run, seed: int) -> torch.nn.Module:
    """The embedder of SC-EGG after its first stage, trained on these rows of the class table."""
    images = open_image_set(data)
    rows = images.rows("train")
    rows = rows[np.isin(images.labels[rows], species)]
    known = {field.name for field in fields(Config)}
    config = Config(**{name: value for name, value in run.info["config"].items() if name in known})
    given = TrainingData(
        extract(images, run.backbone).regions,
        rows,
        images.labels[rows],
        run.generation.table,
        run.semantic_rule.apply(run.generation.table.raw),
        images.word_vectors.astype(np.float32),
    )
    with tempfile.TemporaryDirectory() as folder:
        scen = train_scen(given, config, Session(Path(folder), lambda _: None), seed)
    scen.write_embedder()
    return scen.embedder.eval().requires_grad_(requires_grad=False)


def told(scene: Scene, embedder: Any) -> dict[str, float]:
    """What its attention does, in percent; `times` is the share of a part's own maps over that of the others'."""
    with torch.inference_mode():
        regions = embedder.normalise(torch.from_numpy(scene.regions))
        maps = (regions @ embedder.compression.query.T).softmax(dim=1).double().numpy()
    found = {name: 100 * float(np.nanmean(values)) for name, values in measure(scene, maps).items()}
    times = {f"{part}, times": found[f"{part}, own"] / found[f"{part}, others"] for part in scene.about}
    return {"entropy": float(entropy(maps).mean()), **found, **times, "times": float(np.mean(list(times.values())))}


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawn", type=Path, required=True, metavar="FIELD_GUIDE")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN")
    parser.add_argument("--counts", type=lambda text: [int(part) for part in text.split(",")], default=[24, 13, 6])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the field guide")
    parser.add_argument("--per-class", type=int, default=24, help="of the field guide")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    run = load_run(arguments.run)
    scene = drawn(arguments.drawn, run, grid_of(run.backbone), arguments.seed, arguments.per_class)
    seen = np.flatnonzero(run.generation.table.seen)
    result: dict[str, Any] = {}
    for count in arguments.counts:
        found = []
        for draw in range(arguments.draws):
            species = np.sort(np.random.default_rng([draw, count]).permutation(seen)[:count])
            found.append(told(scene, trained_on(species, arguments.drawn, run, draw)))
            print(
                f"{count} species, draw {draw}: bird {found[-1]['bird']:.1f}, times {found[-1]['times']:.2f}",
                flush=True,
            )
        result[str(count)] = {
            name: {
                "mean": round(float(np.mean([one[name] for one in found])), 3),
                "draws": [round(one[name], 3) for one in found],
            }
            for name in found[0]
        }
    kept = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}
    kept["species"] = result
    arguments.out.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
