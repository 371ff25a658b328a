"""What newcomers cost the classes that were there, and how well they do themselves.

    python benchmarks/accuracy/newcomers.py --data CUB20 --run runs/cub20-0 --work work [--counts 1,3,0.4] [--draws 3]
    python benchmarks/accuracy/newcomers.py --data xlsa17/CUB --features resnet_fc1000.mat --run runs/cub-0 --work work

RUN is a finished run that knew all classes from the start. For every count k and every draw, k unseen classes are
taken out, a model is trained that never heard of them, it is exported, and they are added to its bundle (`add_classes`,
which `zsl-classes add` calls): from attributes alone, and from 1, 2, 5 and 10 photographs each as well. Compared are
the per-class accuracies of the old seen, the old unseen and the new classes: before, after, and of RUN. Photographs
that may teach are never scored, in no column. All classes compete for every picture that is scored; gamma is the one
that was chosen on validation classes.

A method in closed form chooses its settings again for every draw; of others the share of the last stage, the settings
of the head, gamma and temperature are those of RUN, whose folds hid newcomers from the training; --choose chooses
again.

Finished draws are not repeated. The result goes to --out (default benchmarks/results/newcomers.json) under the name of
the data set and the method, and as Markdown to stdout.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_export.bundle_of_run import export_run
from zsl_runtime.accuracy import harmonic_mean
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.generation import Generation
from zsl_runtime.classes.changes import add_classes, undo
from zsl_runtime.head.gaussian import Evidence
from zsl_runtime.head.head import fold
from zsl_runtime.pixels.pixels import prepare as prepare_pixels
from zsl_train.data.open import open_image_set
from zsl_train.head.gaussian import Errors, HeadChoice, Settings
from zsl_train.methods import find_method
from zsl_train.methods.lengths import names as stage_names
from zsl_train.recipe import Recipe
from zsl_train.training.choice import Choice
from zsl_train.training.prepared import Prepared, prepare
from zsl_train.training.run_folder import load_run
from zsl_train.training.trainer import Trainer, validation_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.pixels.pixels import PixelSpec
    from zsl_train.training.run_folder import Run

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "newcomers.json"
PHOTOGRAPHS = (0, 1, 2, 5, 10)
BATCH = 16


def without(prepared: Prepared, gone: Ints) -> Prepared:
    """The pictures, features and attributes without some classes."""
    images, store = prepared.images, prepared.store
    kept = np.setdiff1d(np.arange(len(images.table)), gone).astype(np.int64)
    rows = np.flatnonzero(~np.isin(images.labels, gone))
    return replace(
        prepared,
        images=replace(
            images,
            paths=tuple(images.paths[int(i)] for i in rows) if images.paths else images.paths,
            labels=np.searchsorted(kept, images.labels[rows]),
            role=images.role[rows],
            table=images.table.take(kept),
        ),
        store=replace(store, regions=store.regions[rows], ok=store.ok[rows]),
        semantic=prepared.semantic[kept],
        pictures=None,
    )


def choice_of(run: Run) -> Choice:
    """What the folds of a finished run chose."""
    scores = run.scores
    head = None
    if scores["head_settings"] is not None:
        known = dict(scores["head_settings"])
        errors = Errors(known.pop("error_ratio"), known.pop("error_floor"))
        head = HeadChoice(Settings(**known), errors, scores["gamma"], scores["temperature"], scores["validation_H"])
    return Choice(scores["stop_at"], scores["gamma"], scores["temperature"], scores["validation_H"], {}, head)


def train_without(run: Run, everything: Prepared, gone: Ints, folder: Path, *, choose: bool) -> Run:
    """A run like RUN that never heard of the classes `gone`."""
    recipe = Recipe(**{**run.recipe, "snapshots": tuple(run.recipe["snapshots"]), "compare_heads": False})
    method = find_method(run.method)
    config = method.Config(**run.info["config"])
    prepared = without(everything, gone)
    trainer = Trainer(prepared, recipe, config, checkpoints=folder, log=lambda _: None)
    closed = not stage_names(method.stages(config, prepared.dims))
    choice = trainer.select(validation_folds(prepared, recipe)) if choose or closed else choice_of(run)
    shipped = trainer.train(choice)
    shutil.rmtree(folder, ignore_errors=True)
    table = prepared.images.table
    return replace(
        run,
        trained=shipped.trained,
        generation=Generation(1, 0, table, shipped.head, recipe.seed, "export", means=shipped.means),
        replay=shipped.replay,
        picture_labels=np.zeros(len(run.pictures), np.int64),
    )


def lifted(bundle: Bundle, inputs: NDArray[Any]) -> Floats:
    """What the head of a bundle looks at, (n, D), of prepared pictures or rows (n, ...), by its own graphs."""
    with closing(open_backend("ort", bundle)) as backend:
        parts = [backend.features(inputs[i : i + BATCH]) for i in range(0, len(inputs), BATCH)]
        return backend.lift(np.concatenate(parts))


def accuracies(bundle: Bundle, x: Floats, truth: Sequence[str], groups: dict[str, set[str]]) -> dict[str, float | None]:
    """Mean per-class accuracy, in percent, of every group of classes; all classes of the bundle compete.

    Args:
        bundle: whose generation in force is asked.
        x: (n, D) of scored pictures.
        truth: names of their classes.
        groups: name of a group -> names of its classes; None where the bundle knows none of them.

    """
    generation = bundle.current()
    names = np.array(generation.table.names)
    found = names[fold(generation.head, generation.table.seen).scores(x).argmax(axis=1)]
    of = np.array(truth)
    shares = {name: 100 * float((found[of == name] == name).mean()) for name in set(truth) & set(names.tolist())}
    means = {
        group: statistics.fmean(shares[name] for name in classes & set(shares)) if classes & set(shares) else None
        for group, classes in groups.items()
    }
    return means | {"old_H": harmonic_mean(means["old_unseen"], means["seen"])}


def mix_ups(bundle: Bundle, change: Any, x: Floats, truth: Sequence[str]) -> list[tuple[float, float]]:
    """Of every newcomer and each of its neighbours: expected and measured share of pictures that score higher there."""
    generation = bundle.current()
    column = {name: j for j, name in enumerate(generation.table.names)}
    scores = fold(generation.head, generation.table.seen).scores(x)
    of = np.array(truth)
    return [
        (one.lost, float((scores[of == name][:, column[one.name]] > scores[of == name][:, column[name]]).mean()))
        for name, near in change.neighbours.items()
        for one in near
    ]


def one_draw(
    run: Run, everything: Prepared, gone: Ints, work: Path, test: tuple[NDArray[Any], Ints, Ints], *, choose: bool
) -> dict[str, Any]:
    """All figures of one draw.

    Args:
        run: that knew all classes; its bundle is `work/whole`.
        everything: its data.
        gone: rows of the newcomers in its table.
        work: folder for bundles.
        test: inputs (n, ...), labels (n,), and for newcomers' pictures their turn (n,): below the largest of
            PHOTOGRAPHS they may teach and are not scored.
        choose: choose settings again.

    """
    inputs, labels, turn = test
    table: ClassTable = everything.images.table
    truth = [table.names[int(label)] for label in labels]
    new = {table.names[int(j)] for j in gone}
    groups = {
        "seen": {name for name, seen in zip(table.names, table.seen, strict=True) if seen},
        "old_unseen": {name for name, seen in zip(table.names, table.seen, strict=True) if not seen} - new,
        "newcomers": new,
    }
    teaches = np.isin(labels, gone) & (turn < max(PHOTOGRAPHS))
    scored = ~teaches
    kept = [name for name, keep in zip(truth, scored, strict=True) if keep]
    whole = Bundle.open(work / "whole")
    x = lifted(whole, inputs)
    result: dict[str, Any] = {"newcomers": sorted(new), "known": accuracies(whole, x[scored], kept, groups)}
    bundle = Bundle.open(
        export_run(
            train_without(run, everything, gone, work / "checkpoint", choose=choose), work / "without", force=True
        )
    )
    x = lifted(bundle, inputs)
    result["before"] = accuracies(bundle, x[scored], kept, groups)
    newcomers = table.take(np.sort(gone))
    for count in PHOTOGRAPHS if bundle.head_rule == "gaussian" else (0,):
        photographs = {}
        for j in gone if count else ():
            rows = np.flatnonzero((labels == j) & (turn < count))
            photographs[table.names[int(j)]] = Evidence(len(rows), x[rows].sum(axis=0, dtype=np.float64))
        change = add_classes(bundle, newcomers, photographs=photographs)
        result[f"after_{count}"] = accuracies(bundle, x[scored], kept, groups)
        if count == 0:
            result["add_seconds"] = round(change.seconds, 3)
            result["mix_ups"] = mix_ups(bundle, change, x[scored], kept)
        undo(bundle)
    return result


def inputs_of(everything: Prepared, rows: Ints, spec: PixelSpec | None) -> NDArray[Any]:
    """What the model graph takes of the pictures `rows`; spec is None for rows of features."""
    images = everything.images
    if spec is None:
        return np.asarray(everything.store.regions[rows], np.float32)
    return np.stack([prepare_pixels(images.root / images.paths[int(i)], spec) for i in rows])


def mean_over(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Every figure averaged over the draws, None where a draw has none; and how far expected mix-ups were off."""
    columns = [name for name in draws[0] if name in {"known", "before"} or name.startswith("after_")]
    out: dict[str, Any] = {
        column: {
            figure: (
                None
                if any(draw[column][figure] is None for draw in draws)
                else round(statistics.fmean(draw[column][figure] for draw in draws), 2)
            )
            for figure in draws[0][column]
        }
        for column in columns
    }
    pairs = [pair for draw in draws for pair in draw["mix_ups"]]
    if pairs:
        expected, measured = zip(*pairs, strict=True)
        out["mix_ups"] = {
            "pairs": len(pairs),
            "expected": round(100 * statistics.fmean(expected), 1),
            "measured": round(100 * statistics.fmean(measured), 1),
            "correlation": round(float(np.corrcoef(expected, measured)[0, 1]), 2) if len(pairs) > 2 else None,
        }
    out["add_seconds"] = round(statistics.median(draw["add_seconds"] for draw in draws), 3)
    return out


def cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def markdown(title: str, of: str, by_count: dict[str, dict[str, Any]]) -> str:
    """The table of one data set and of a training, whose method, preset and head are told in `of`."""
    lines = [
        f"**{title}** ({of})",
        "",
        "| newcomers | | old classes: H | seen | old unseen | newcomers |",
        "|---|---|---|---|---|---|",
    ]
    words = {"known": "all known from the start", "before": "before", "after_0": "after, attributes alone"}
    words |= {f"after_{n}": f"after, {n} photograph{'s' * (n > 1)} each" for n in PHOTOGRAPHS if n}
    for count, figures in by_count.items():
        for column, text in words.items():
            if column in figures:
                row = figures[column]
                cells = [cell(row[name]) for name in ("old_H", "seen", "old_unseen", "newcomers")]
                lines.append(f"| {count} | {text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--counts", default="1,3,0.4", help="newcomers: numbers, or shares of the unseen classes")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--name", help="of the row; default: data set, method, head")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    run = load_run(options.run)
    recipe = Recipe(**{**run.recipe, "snapshots": tuple(run.recipe["snapshots"])})
    images = open_image_set(
        options.data, options.splits, recipe.seed, features=options.features, attributes=recipe.attributes
    )
    everything = prepare(images, run.backbone, recipe)
    unseen = np.flatnonzero(~images.table.seen)
    title = options.name or f"{options.data.name}, {run.method}, {run.trained.head_rule} head"
    work = options.work / title.replace(" ", "_").replace("/", "_")
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "whole").is_dir():
        export_run(run, work / "whole")
    rows = everything.rows("test")
    labels = images.labels[rows]
    turn = np.zeros(len(rows), np.int64)
    rng = np.random.default_rng(2)
    for one in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == one))
        turn[of_class] = np.arange(len(of_class))
    inputs = inputs_of(everything, rows, run.backbone.pixels)
    by_count: dict[str, dict[str, Any]] = {}
    for text in options.counts.split(","):
        count = round(float(text) * len(unseen)) if "." in text else int(text)
        draws = []
        for draw in range(options.draws):
            done = work / f"{count}-{draw}.json"
            if not done.is_file():
                gone = np.sort(np.random.default_rng([count, draw]).permutation(unseen)[:count])
                found = one_draw(run, everything, gone, work, (inputs, labels, turn), choose=options.choose)
                done.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            draws.append(json.loads(done.read_text(encoding="utf-8")))
        by_count[f"{count} of {len(unseen)}"] = mean_over(draws) | {"draws": len(draws)}
    table = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    table[title] = {
        "method": run.method,
        "preset": run.recipe["preset"],
        "head": run.trained.head_rule,
        "protocol": run.scores["protocol"],
        "settings": "chosen again for every draw" if options.choose else "of the run that knew all classes",
        "photographs": "never scored in any column, the same ones in all",
        "counts": by_count,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    of = f"{run.method}, preset {run.recipe['preset']}, head rule {run.trained.head_rule}"
    print(markdown(title, of, by_count))


if __name__ == "__main__":
    main()
