"""Is what is no bird at all said to be unlike anything known, and what of a species that nobody described?

    python benchmarks/accuracy/distance.py --run runs/cub20-0 --run runs/cub20-1 --drawn field_guide --work work
    python benchmarks/accuracy/distance.py --run runs/field-guide-0 --photographed cub20 --work work
    python benchmarks/accuracy/distance.py --run runs/cub-0 --work work

Every RUN is a finished training of a model with the Gaussian head; it is exported and looks at pictures as a user's
bundle does. Looked at are the test pictures of its own data, of seen and of unseen classes apart, which had no part in
the bound beyond which a picture is far; and far pictures: drawings (--drawn) for a model of photographs, photographs
(--photographed) for one of drawings, noise, flat colours, pages of text, and sample pictures and icons that lie in
scikit-learn, matplotlib and scikit-image, as far as these are installed. A model of a feature file gets rows whose
numbers were shuffled, and noise of the same mean and spread.

Then the near ones: the unseen classes are taken out of the bundle, and their test pictures are to be told from those of
the seen classes. (What was trained knew their attributes; with GFZSL that makes no difference.)

AUROC is how often a strange picture is farther than a test picture, 0.5 being chance: by the distance that ships, by
the probability of the best class, and by others that might have shipped in its place (`Rivals`). The result goes to
--out (default benchmarks/results/distance.json) under the name of the data set and the method, a list with an entry for
each run; entries of the same seed are replaced.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zsl_export.bundle_of_run import export_run
from zsl_runtime.accuracy import auroc
from zsl_runtime.classes.changes import remove_classes
from zsl_runtime.labelling.classifier import Classifier
from zsl_train.data.open import open_image_set
from zsl_train.training.run_folder import load_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.labelling.snapshot import Snapshot
    from zsl_train.training.run_folder import Run

    Inputs = Sequence[Any] | NDArray[Any]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "distance.json"
BATCH, MADE = 16, 40
PACKAGES = {  # where pictures lie in packages
    "scikit-learn": ("sklearn", "datasets/images/*.jpg"),
    "scikit-image": ("skimage", "data/*.[jp][pn]g"),
    "matplotlib": ("matplotlib", "mpl-data/sample_data/*.[jp][pn]g"),
}


# --- far pictures ---------------------------------------------------------------------------------------------------


def noise() -> list[NDArray[np.uint8]]:
    """Every number by itself, and coarse noise in turns."""
    rng = np.random.default_rng(5)
    made = []
    for place in range(MADE):
        height, width = (int(size) for size in rng.integers(200, 500, 2))
        step = int(rng.integers(4, 40)) if place % 2 else 1
        grid = rng.integers(0, 256, (max(height // step, 2), max(width // step, 2), 3), dtype=np.uint8)
        made.append(np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)))
    return made


def flat_colours() -> list[NDArray[np.uint8]]:
    """One colour each."""
    colours = np.random.default_rng(6).integers(0, 256, (MADE, 3), dtype=np.uint8)
    return [np.full((300, 400, 3), colour) for colour in colours]


def pages() -> list[NDArray[np.uint8]]:
    """Pages of the documentation's text."""
    rng, font = np.random.default_rng(7), ImageFont.load_default(14)
    words = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").split()
    made = []
    for _ in range(MADE):
        page = Image.new("RGB", (500, 650), tuple(int(one) for one in rng.integers(225, 256, 3)))
        draw, place = ImageDraw.Draw(page), int(rng.integers(0, len(words) - 400))
        for y in range(20, 620, 20):
            draw.text((25, y), " ".join(words[place : place + 9])[:62], fill=(20, 20, 20), font=font)
            place += 9
        made.append(np.asarray(page))
    return made


def of_packages(pattern: str | None = None) -> list[str]:
    """Sample pictures that lie in installed packages; or what fits a pattern in matplotlib's folder."""
    found = []
    for module, own in [("matplotlib", pattern)] if pattern else PACKAGES.values():
        spec = importlib.util.find_spec(module)
        for folder in [] if spec is None else spec.submodule_search_locations or ():
            found += sorted(str(path) for path in Path(folder).glob(own))
    return found


def far_sets(run: Run, options: argparse.Namespace, rows: NDArray[Any] | None) -> dict[str, Inputs]:
    """Name -> pictures, or rows, of what is no class of the model."""
    if rows is not None:
        rng = np.random.default_rng(8)
        return {
            "rows shuffled": rng.permuted(rows, axis=2).astype(np.float32),
            "noise": rng.normal(rows.mean(), rows.std(), rows.shape).astype(np.float32),
        }
    sets: dict[str, Inputs] = {}
    for name, folder in (("drawn birds", options.drawn), ("photographs of birds", options.photographed)):
        if folder is not None:
            paths = sorted(str(path) for path in (folder / "images").rglob("*") if path.suffix in {".jpg", ".png"})
            sets[name] = paths[:: max(len(paths) // 200, 1)]
    made: dict[str, Callable[[], Inputs]] = {
        "sample pictures": of_packages,
        "icons": lambda: of_packages("mpl-data/images/*_large.png"),
        "pages of text": pages,
        "flat colours": flat_colours,
        "noise": noise,
    }
    return sets | {name: make() for name, make in made.items()}


# --- what is measured -----------------------------------------------------------------------------------------------


class Looked:
    """Pictures as the bundle sees them.

    Attributes:
        x: (n, D) canonical coordinates.
        distance, far: that ship.
        probability: of the best class.

    """

    def __init__(self, classifier: Classifier, snapshot: Snapshot, inputs: Inputs) -> None:
        parts = []
        for start in range(0, len(inputs), BATCH):
            batch = np.stack([classifier.read(one) for one in inputs[start : start + BATCH]])
            parts.append(classifier.score_with(snapshot, batch)[1])
        self.features = np.concatenate(parts)
        self.x = classifier.backend.lift(self.features)
        self.ask(snapshot)

    def ask(self, snapshot: Snapshot) -> None:
        """Distance and probability by the classes of a snapshot."""
        assert snapshot.distances is not None
        found = snapshot.distances(self.x)
        self.distance, self.far = found.distances, found.far
        self.probability = np.exp(snapshot.head.scores(self.x).max(axis=1).astype(np.float64))

    def take(self, chosen: NDArray[np.bool_]) -> Looked:
        """Some of them."""
        part = object.__new__(Looked)
        for name, value in vars(self).items():
            setattr(part, name, None if value is None else value[chosen])
        return part


class Rivals:
    """Other measures of how strange a picture is, larger for stranger ones; of the classes of a snapshot.

    Args:
        snapshot: whose classes.

    """

    def __init__(self, snapshot: Snapshot) -> None:
        generation = snapshot.generation
        assert generation.means is not None
        assert snapshot.distances is not None
        self.gaussian = snapshot.distances.gaussian
        self.means = self.gaussian.posterior(generation.means)
        self.counts = generation.means.counts
        base, _ = np.linalg.qr((self.means - self.means.mean(axis=0)).T)
        self.span = base[:, : len(self.means) - 1]
        # Of pictures of all classes taken together: 1 within each of them, and what their means spread.
        self.centre = self.means.mean(axis=0)
        self.whole = np.linalg.inv(np.eye(self.means.shape[1]) + np.cov(self.means.T))

    def measures(self, x: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """Name -> (n,)."""
        x, means, s = x.astype(np.float64), self.means, self.gaussian.scale
        square = ((x**2).sum(axis=1)[:, None] - 2 * x @ means.T + (means**2).sum(axis=1)).min(axis=1)
        certain = 1 / (1 + self.gaussian.remaining(self.counts))
        wider = (x**2) @ certain.T - 2 * x @ (certain * means).T + (certain * means**2).sum(axis=1)
        inside, at = x @ self.span, means @ self.span
        within = (inside**2).sum(axis=1)[:, None] - 2 * inside @ at.T + (at**2).sum(axis=1)
        logits = x @ (s * means).T - 0.5 * (s * means**2).sum(axis=1)
        off = x - self.centre
        return {
            "nearest mean": square,
            "nearest mean, wider where it is uncertain": wider.min(axis=1),
            "only where classes differ": within.min(axis=1),
            "largest score": -logits.max(axis=1),
            "less the distance from everything (Ren et al. 2021)": square - ((off @ self.whole) * off).sum(axis=1),
        }


def cost(classifier: Classifier, snapshot: Snapshot, inputs: Inputs) -> dict[str, Any]:
    """Milliseconds of processor time a picture, for labels and for distances; the least of five."""
    batch = np.stack([classifier.read(one) for one in inputs])
    features = classifier.score_with(snapshot, batch)[1]

    def least(work: Callable[[], object]) -> float:
        spent = []
        for _ in range(5):
            before = time.process_time()
            work()
            spent.append(time.process_time() - before)
        return round(1000 * min(spent) / len(batch), 4)

    return {
        "classes": len(snapshot.table),
        "scores_ms": least(lambda: classifier.score_with(snapshot, batch)),
        "distances_ms": least(lambda: classifier.measure(snapshot, features)),
    }


def figures(strange: Looked, known: Looked) -> dict[str, Any]:
    """What is said of pictures that no class is for."""
    return {
        "pictures": len(strange.distance),
        "median": round(float(np.median(strange.distance)), 3),
        "far": None if strange.far is None else round(100 * float(strange.far.mean()), 1),
        "auroc": rounded(auroc(strange.distance, known.distance)),
        "auroc_probability": rounded(auroc(-strange.probability, -known.probability)),
    }


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def against(strange: NDArray[Any], known: NDArray[Any], rivals: Rivals) -> dict[str, float | None]:
    """AUROC by every rival."""
    one, other = rivals.measures(strange), rivals.measures(known)
    return {name: rounded(auroc(one[name], other[name])) for name in one}


def of_run(path: Path, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Title and figures of one run."""
    run = load_run(path)
    work = options.work / path.name
    if not (work / "bundle").is_dir():
        export_run(run, work / "bundle")
    data = Path(run.info["data"])
    feature_file = run.info["backbone"].get("file")
    images = open_image_set(data, None, run.seed, features=feature_file, attributes=run.recipe["attributes"])

    def inputs(rows: NDArray[np.int64]) -> Inputs:
        if images.features is not None:
            return np.asarray(images.features.values[rows], np.float32)
        return [str(images.root / images.paths[int(row)]) for row in rows]

    test = images.rows("test")
    training = np.sort(np.concatenate([images.rows("train", seen=True), images.rows("val", seen=True)]))
    with Classifier.open(work / "bundle", "ort", threads=options.threads) as classifier:
        whole = classifier.snapshot()
        assert whole.distances is not None
        known = Looked(classifier, whole, inputs(test))
        trained = Looked(classifier, whole, inputs(training))
        own = inputs(test) if images.features is not None else None
        spent = cost(classifier, whole, inputs(test[:BATCH]))
        strange = {
            name: Looked(classifier, whole, one)
            for name, one in far_sets(run, options, None if own is None else np.asarray(own)).items()
        }
    seen = images.table.seen[images.labels[test]]
    rivals = Rivals(whole)
    found: dict[str, Any] = {
        "seed": run.seed,
        "scores": {key: round(run.scores[key], 1) for key in ("U", "S", "H")},
        "width": whole.generation.head.width,
        "cost": spent,
        "beyond": rounded(whole.distances.beyond),
        "test": {
            name: {
                "pictures": len(one.distance),
                "median": round(float(np.median(one.distance)), 3),
                "far": None if one.far is None else round(100 * float(one.far.mean()), 1),
            }
            for name, one in (("seen", known.take(seen)), ("unseen", known.take(~seen)), ("training", trained))
        },
        "far": {name: figures(one, known) for name, one in strange.items()},
        "rivals": {name: against(one.x, known.x, rivals) for name, one in strange.items()},
    }
    if not seen.all():
        found |= without_the_unseen(work, options, known, seen)
    return f"{options.name or data.name}, {run.method}", found


def without_the_unseen(
    work: Path, options: argparse.Namespace, known: Looked, seen: NDArray[np.bool_]
) -> dict[str, Any]:
    """The same with the unseen classes out of the bundle: their pictures against those of the seen classes."""
    shutil.rmtree(work / "fewer", ignore_errors=True)
    shutil.copytree(work / "bundle", work / "fewer")
    with Classifier.open(work / "fewer", "ort", threads=options.threads) as classifier:
        table = classifier.class_table
        remove_classes(classifier.bundle, [name for name, one in zip(table.names, table.seen, strict=True) if not one])
        classifier.reload()
        fewer = classifier.snapshot()
    shutil.rmtree(work / "fewer")
    rivals = Rivals(fewer)
    known.ask(fewer)
    undescribed, others = known.take(~seen), known.take(seen)
    return {
        "undescribed": figures(undescribed, others),
        "undescribed_rivals": against(undescribed.x, others.x, rivals),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, action="append", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--drawn", type=Path, help="data folder of drawings, far from a model of photographs")
    parser.add_argument("--photographed", type=Path, help="data folder of photographs, far from a model of drawings")
    parser.add_argument("--name", help="of the data set; default: its folder's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    for path in options.run:
        title, found = of_run(path, options)
        table = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
        others = [one for one in table.get(title, []) if one["seed"] != found["seed"]]
        table[title] = sorted([*others, found], key=lambda one: one["seed"])
        table["packages"] = {name: version for name in PACKAGES if (version := version_of(name))}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        print(title, json.dumps(found, indent=1))


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
