"""Is a class that is added on site as good as one that was there from the start? Leave one out, for every unseen class.

    python benchmarks/accuracy/leave_one_out.py --data CUB20 --run runs/cub20/code-0 --work runs/leave_one_out

RUN is a finished run on all classes. For each unseen species a model is trained that never heard of it, exported, and
given the species back by `zsl-classes add`, fast and full. Stage 1, which in this recipe sees no attribute of an unseen
class, is shared. Three numbers (gamma, temperature, share of the last stage) are those that RUN chose on validation
classes; its folds knew the species by its attributes as one more class without photographs. With --choose they are
chosen again for each species, on folds that never heard of it: five times as long. Compared with the bundle that knew
all species from the start: the accuracy of the species among all classes, and the mean accuracy of the other unseen and
of the seen classes. Finished species are not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_export.bundle_of_run import export_run
from zsl_runtime.bundle import Bundle, Generation
from zsl_runtime.classifier import Classifier
from zsl_runtime.generations import add_classes
from zsl_runtime.pixels import prepare as prepare_pixels
from zsl_train.data.image_set import open_image_set
from zsl_train.methods import find_method
from zsl_train.recipe import Recipe
from zsl_train.run_folder import load_run
from zsl_train.select import Choice
from zsl_train.training import Prepared, Trainer, prepare, validation_folds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zsl_runtime.class_table import ClassTable
    from zsl_train.run_folder import Run

ROOT = Path(__file__).parents[2]
BATCH = 8
FITS = ("new", "full")


def without(prepared: Prepared, name: str) -> Prepared:
    """The pictures, features and attributes without one class."""
    images, store = prepared.images, prepared.store
    gone = images.table.index(name)
    kept = np.flatnonzero(np.arange(len(images.table)) != gone).astype(np.int64)
    rows = np.flatnonzero(images.labels != gone)
    labels = images.labels[rows]
    return replace(
        prepared,
        images=replace(
            images,
            paths=tuple(images.paths[int(i)] for i in rows),
            labels=labels - (labels > gone),
            role=images.role[rows],
            table=images.table.take(kept),
        ),
        store=replace(store, regions=store.regions[rows], ok=store.ok[rows]),
        semantic=prepared.semantic[kept],
    )


def train_without(run: Run, everything: Prepared, name: str, folder: Path, shared: Path, *, choose: bool) -> Run:
    """A run like RUN that never heard of `name`; stage 1 is read from `shared`, or left there by the first one."""
    recipe = Recipe(**{**run.recipe, "snapshots": tuple(run.recipe["snapshots"])})
    method = find_method(run.method)
    config = method.Config(**run.info["config"])
    if config.classes_in_softmax != "seen":
        raise SystemExit(
            "stage 1 of this recipe sees the attributes of unseen classes: it cannot be shared; use `code`"
        )
    prepared = without(everything, name)
    first = folder / "final" / "scen.pt"
    if shared.is_file():
        first.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared, first)
    trainer = Trainer(prepared, recipe, config, checkpoints=folder, log=lambda _: None)
    known = run.scores
    choice = Choice(known["stop_at"], known["gamma"], known["temperature"], known["validation_H"], {})
    if choose:
        choice = trainer.select(validation_folds(prepared, recipe))
    trained, head, replay = trainer.train(choice)
    if not shared.is_file():
        shared.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(first, shared)
    shutil.rmtree(folder)
    table = prepared.images.table
    return replace(
        run,
        trained=trained,
        generation=Generation(1, 0, table, head, recipe.seed, "export"),
        replay=replay,
        picture_labels=np.zeros(len(run.pictures), np.int64),
    )


def predictions(bundle: Path, pixels: NDArray[np.uint8], names: tuple[str, ...]) -> NDArray[np.int64]:
    """Best class of every picture, as a row of `names`."""
    with Classifier.open(bundle, backend="ort") as classifier:
        column = np.array([names.index(name) for name in classifier.class_table.names])
        parts = [classifier.score(pixels[i : i + BATCH])[0].argmax(axis=1) for i in range(0, len(pixels), BATCH)]
    return column[np.concatenate(parts)]


def accuracies(found: NDArray[np.int64], labels: NDArray[np.int64], table: ClassTable, name: str) -> dict[str, float]:
    """Per-class top-1 of the class itself and means over the other unseen and the seen classes, in percent."""
    by_class = np.array([100 * (found[labels == c] == c).mean() for c in range(len(table))])
    own = table.index(name)
    others = ~table.seen & (np.arange(len(table)) != own)
    return {
        "class": float(by_class[own]),
        "other_unseen": float(by_class[others].mean()),
        "seen": float(by_class[table.seen].mean()),
    }


def one_class(
    run: Run, prepared: Prepared, name: str, work: Path, test: tuple[NDArray[Any], NDArray[Any]], *, choose: bool
) -> dict[str, Any]:
    """Accuracies after the class was added, fast and full."""
    trimmed = train_without(run, prepared, name, work / "training", work / "shared" / "scen.pt", choose=choose)
    table = prepared.images.table
    row = np.array([table.index(name)])
    newcomer = table.take(row)
    result: dict[str, Any] = {}
    bundle = work / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    export_run(trimmed, bundle)
    for fit in FITS:
        copy = work / f"bundle-{fit}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(bundle, copy)
        change = add_classes(Bundle.open(copy), newcomer, fit=fit)
        found = predictions(copy, test[0], table.names)
        result[fit] = accuracies(found, test[1], table, name) | {"seconds": change.seconds}
        shutil.rmtree(copy)
    return result


def main() -> None:
    """Measure every unseen class; print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "leave_one_out.json")
    parser.add_argument("--choose", action="store_true", help="choose gamma and the rest again for each species")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    run = load_run(options.run)
    images = open_image_set(options.data)
    rows = images.rows("test")
    pixels = np.stack([prepare_pixels(images.root / images.paths[int(i)], run.backbone.pixels) for i in rows])
    labels = images.labels[rows]
    everything = options.work / "all"
    if not everything.is_dir():
        export_run(run, everything)
    together = predictions(everything, pixels, images.table.names)
    recipe = Recipe(**{**run.recipe, "snapshots": tuple(run.recipe["snapshots"])})
    prepared = prepare(images, run.backbone, recipe)
    results: dict[str, Any] = {}
    for index in np.flatnonzero(~images.table.seen):
        name = images.table.names[int(index)]
        kept = options.work / f"{name}.json"
        if not kept.is_file():
            found = one_class(run, prepared, name, options.work, (pixels, labels), choose=options.choose)
            kept.write_text(json.dumps(found), encoding="utf-8")
        results[name] = json.loads(kept.read_text(encoding="utf-8"))
        results[name]["together"] = accuracies(together, labels, images.table, name)
        print(name, json.dumps(results[name]), flush=True)
    means = {
        way: {
            key: float(np.mean([one[way][key] for one in results.values()]))
            for key in ("class", "other_unseen", "seen")
        }
        for way in ("together", *FITS)
    }
    report = {
        "chosen_again": options.choose,
        "run": {"recipe": run.recipe, "protocol": run.scores["protocol"]},
        "means": means,
        "classes": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("| | the added species | other unseen species | seen species |\n|---|---|---|---|")
    for way, row in means.items():
        print(f"| {way} | {row['class']:.1f} | {row['other_unseen']:.1f} | {row['seen']:.1f} |")


if __name__ == "__main__":
    main()
