"""Is a class that is added the fast way as good as one that the whole head was fitted with?

    python benchmarks/accuracy/adding.py --bundle BUNDLE --data DATA --work FOLDER [--classes 10]

BUNDLE is a bundle whose head rule is `fit`, DATA what it was trained on. Each unseen class that has test pictures is
taken out, the head is fitted again without it, and the class is put back from its attributes: with `--fit new`, and
with `--fit full`. Compared on the test pictures: U, S and H (per-class means, gamma and temperature of the bundle), the
accuracy of the class itself, and the takeover: which share of the pictures of the other unseen classes it takes.
The aims: H of the fast way within 0.5 of the full one, takeover at most 1.5 times its.

The features of the test pictures are taken once and kept in FOLDER, the bundle is only read. Test labels are used to
compare and for nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.backends import open_backend
from zsl_runtime.bundle import Bundle
from zsl_runtime.classifier import Classifier
from zsl_runtime.generations import add_classes, refit, remove_classes
from zsl_runtime.head import fold
from zsl_train.data.image_set import open_image_set

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zsl_runtime.bundle import Generation
    from zsl_train.data.image_set import ImageSet

ROOT = Path(__file__).parents[2]
BATCH = 8
FITS = ("new", "full")
H_AIM, TAKEOVER_AIM = 0.5, 1.5


def lifted_test(bundle: Bundle, images: ImageSet, kept: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Lifted features (n, D) of the test pictures, and the name of each one's class."""
    rows = images.rows("test")
    names = tuple(images.table.names[int(j)] for j in images.labels[rows])
    if not kept.is_file():
        parts = []
        with Classifier.open(bundle.path) as classifier:
            for start in range(0, len(rows), BATCH):
                chosen = [int(i) for i in rows[start : start + BATCH]]
                if images.features is None:
                    inputs = [classifier.read(images.root / images.paths[i]) for i in chosen]
                else:
                    inputs = [images.features.values[i].astype(np.float32) for i in chosen]
                parts.append(classifier.score(np.stack(inputs))[1])
        np.save(kept, np.concatenate(parts))
    features = np.load(kept)
    backend = open_backend("auto", bundle)
    lifted = [backend.lift(features[i : i + BATCH]) for i in range(0, len(features), BATCH)]
    return np.concatenate(lifted), names


def figures(generation: Generation, x: NDArray[Any], names: tuple[str, ...], own: str) -> dict[str, float]:
    """U, S, H, the class's own accuracy and its takeover, in percent."""
    table = generation.table
    found = fold(generation.head, table.seen).scores(x).argmax(axis=1)
    labels = np.array([table.index(name) for name in names])
    tested = np.unique(labels)
    right = {int(j): 100 * float((found[labels == j] == j).mean()) for j in tested}
    column = table.index(own)
    unseen = float(np.mean([right[j] for j in right if not table.seen[j]]))
    seen = float(np.mean([right[j] for j in right if table.seen[j]]))
    others = ~table.seen[labels] & (labels != column)
    return {
        "U": unseen,
        "S": seen,
        "H": 2 * unseen * seen / max(unseen + seen, 1e-9),
        "own": right[column],
        "takeover": 100 * float((found[others] == column).mean()) if others.any() else 0.0,
        "takeover_seen": 100 * float((found[table.seen[labels]] == column).mean()),
    }


def one_class(original: Path, work: Path, name: str, x: NDArray[Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The figures of both ways to put one class back."""
    base = work / "without"
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(original, base)
    bundle = Bundle.open(base)
    table = bundle.current().table
    newcomer = table.take(np.array([table.index(name)]))
    remove_classes(bundle, [name])
    refit(bundle)
    result = {}
    for fit in FITS:
        copy = work / f"with-{fit}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(base, copy)
        change = add_classes(Bundle.open(copy), newcomer, fit=fit)
        result[fit] = figures(change.generation, x, names, name)
        shutil.rmtree(copy)
    shutil.rmtree(base)
    return result


def main() -> None:
    """Compare for every class; print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--features", help="of a bundle that was trained on a feature file, that file")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--classes", type=int, help="only so many unseen classes, evenly chosen")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "adding.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    bundle = Bundle.open(options.bundle)
    images = (
        open_image_set(options.data, features=options.features) if options.features else open_image_set(options.data)
    )
    x, names = lifted_test(bundle, images, options.work / "features.npy")
    table = bundle.current().table
    unseen = [table.names[int(j)] for j in np.flatnonzero(~table.seen) if table.names[int(j)] in set(names)]
    if options.classes:
        unseen = [unseen[int(i)] for i in np.unique(np.linspace(0, len(unseen) - 1, options.classes).astype(int))]
    results: dict[str, Any] = {}
    for name in unseen:
        results[name] = one_class(options.bundle, options.work, name, x, names)
        print(name, json.dumps(results[name]), flush=True)
    means = {
        fit: {key: float(np.mean([one[fit][key] for one in results.values()])) for key in results[unseen[0]][fit]}
        for fit in FITS
    }
    ratio = means["new"]["takeover"] / means["full"]["takeover"] if means["full"]["takeover"] else None
    met = {
        "H": means["new"]["H"] >= means["full"]["H"] - H_AIM,
        "takeover": means["new"]["takeover"] <= TAKEOVER_AIM * means["full"]["takeover"],
    }
    scores = bundle.manifest["scores"]
    report = {
        "protocol": scores.get("protocol"),
        "method": bundle.manifest["method"],
        "means": means,
        "takeover_ratio": ratio,
        "aims_met": met,
        "classes": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("| | U | S | H | the class | takeover | takeover of seen |\n|---|---|---|---|---|---|---|")
    for fit, row in means.items():
        print(f"| {fit} |" + "".join(f" {value:.2f} |" for value in row.values()))
    print(f"takeover ratio {ratio}, aims met: {met}")


if __name__ == "__main__":
    main()
