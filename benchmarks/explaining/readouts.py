"""How well attributes are read on classes that the read-out was not fitted on, and how much of a label they explain.

    python benchmarks/explaining/readouts.py RUN... --out benchmarks/results/explain_readouts.json [--features FOLDER]

For each run of zsl-train, on the test photographs (or rows of `FOLDER/resnet_fc1000.mat`) of its unseen classes:

- over the attributes that have a say, and over the others, the median of the correlation between what is read of
  single photographs and what the class table says of their classes; and the same where what is read is averaged for
  each class;
- of SC-EGG, whose feature holds an evidence of its own for every attribute, the same of that: slope and offset, by
  which it would be brought to the units of the table, change no correlation;
- how the difference between the answer and its strongest rival is split: mean |contributions|, |rest|, |handicap| and
  |difference|, and the same on test photographs of seen classes.

The runs of one method on one data set are averaged; nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsl_export.photographs import TEST, find_photographs
from zsl_export.readout import make_readout
from zsl_runtime.explaining import pair_of, split
from zsl_runtime.head.head import fold
from zsl_train.methods.base import run_batched
from zsl_train.training.run_folder import Run, load_run

MOST_EXPLAINED = 300  # photographs whose labels are explained, seeded
_regions: dict[tuple[str, str, str], np.ndarray] = {}


class AsBackend:
    """The run's own modules in place of exported graphs, for `make_readout`."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def features(self, pictures: np.ndarray) -> np.ndarray:
        return embedded(self.run, pictures)[0]

    def lift(self, features: np.ndarray) -> np.ndarray:
        lift = self.run.trained.lift
        return features if lift is None else run_batched(lift, features)


def embedded(run: Run, inputs: np.ndarray, key: tuple[str, str, str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, F) and what the head looks at (n, D) of pictures or rows; regions of a `key` are computed once."""
    if key is None or key not in _regions:
        with torch.inference_mode():
            parts = [
                run.backbone(torch.from_numpy(np.ascontiguousarray(inputs[at : at + 16]))).numpy().astype(np.float16)
                for at in range(0, len(inputs), 16)
            ]
        found = np.concatenate(parts)
        if key is not None:
            _regions[key] = found
    regions = _regions[key] if key is not None else found
    features = run_batched(run.trained.embedder, regions, batch_size=32)
    return features, AsBackend(run).lift(features)


def test_inputs(run: Run, features: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of all test photographs and the rows of their classes."""
    if run.backbone.pixels is None:
        from scipy.io import loadmat

        assert features is not None, "a run on features needs --features"
        data = loadmat(Path(features) / "resnet_fc1000.mat")
        splits = loadmat(Path(features) / "att_splits.mat")
        names = [str(name[0][0]) for name in splits["allclasses_names"]]
        rows = (
            np.concatenate([splits[key].ravel() for key in ("test_seen_loc", "test_unseen_loc")]).astype(np.int64) - 1
        )
        labels = data["labels"].ravel()[rows].astype(np.int64) - 1
        place = {name: at for at, name in enumerate(run.generation.table.names)}
        return data["features"].T[rows, None, :].astype(np.float32), np.array([place[names[one]] for one in labels])
    source = find_photographs(run, None).photographs
    assert source is not None
    rows = np.flatnonzero(np.isin(source.role, TEST))
    blocks = list(source.read(rows))
    return np.concatenate([pictures for pictures, _ in blocks]), np.concatenate([labels for _, labels in blocks])


def correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of columns; NaN where one is constant."""
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (left * right).sum(axis=0) / np.sqrt((left**2).sum(axis=0) * (right**2).sum(axis=0))


def read_how(read: np.ndarray, raw: np.ndarray, labels: np.ndarray, say: np.ndarray) -> dict[str, float]:
    """The medians over attributes, of single photographs and of class averages."""
    single = correlations(read, raw[labels])
    classes = np.unique(labels)
    averaged = correlations(np.stack([read[labels == one].mean(axis=0) for one in classes]), raw[classes])
    return {
        "photographs": float(np.nanmedian(single[say])),
        "photographs, others": float(np.nanmedian(single[~say])) if (~say).any() else float("nan"),
        "classes": float(np.nanmedian(averaged[say])),
        "classes, others": float(np.nanmedian(averaged[~say])) if (~say).any() else float("nan"),
    }


def explained(run: Run, readout: Any, x: np.ndarray) -> dict[str, float]:
    """How differences are split, on average over photographs."""
    table, head = run.generation.table, fold(run.generation.head, run.generation.table.seen)
    scores = head.scores(x)
    found = []
    gaussian, means = run.trained.gaussian, run.generation.means
    pairs: dict[tuple[int, int], Any] = {}
    for row, best in enumerate(np.argsort(-scores, axis=1)[:, :2]):
        both = int(best[0]), int(best[1])
        if both not in pairs:
            where = None if gaussian is None or means is None else gaussian.posterior(means.take(np.array(both)))
            pairs[both] = pair_of(head, table, readout, both, where)
        spoken, rest = split(pairs[both], table, x[row], readout.read(x[row : row + 1])[0])
        said = sum(one.contribution for one in spoken)
        found.append(
            [abs(said), abs(rest), abs(pairs[both].seen_handicap), scores[row, both[0]] - scores[row, both[1]]]
        )
    names = ("|contributions|", "|rest|", "|handicap|", "|difference|")
    return dict(zip(names, map(float, np.mean(found, axis=0)), strict=True))


def measure(folder: Path, features: str | None) -> tuple[str, dict[str, Any]]:
    """What is measured of one run, and under which name it is averaged with others."""
    run = load_run(folder)
    readout = make_readout(run, AsBackend(run))  # type: ignore[arg-type]
    inputs, labels = test_inputs(run, features)
    table = run.generation.table
    key = (str(run.info.get("data")), str(run.backbone.name), str(run.info.get("pixels")))
    f, x = embedded(run, inputs, key)
    unseen = ~table.seen[labels]
    raw = np.where(run.semantic_rule.missing(table.raw), 0.0, table.raw)
    out: dict[str, Any] = {
        "attributes": len(table.attributes),
        "with a say": int(readout.readable.sum()),
        "read": read_how(readout.read(x[unseen]), raw, labels[unseen], readout.readable),
    }
    if run.info["config"].get("feature") == "evidence" and f.shape[1] == run.dims.channels + run.dims.attributes:
        evidence = f[unseen][:, -run.dims.attributes :].astype(np.float64)
        out["evidence"] = read_how(evidence, raw, labels[unseen], readout.readable)
    rng = np.random.default_rng(0)
    for name, some in (("unseen", unseen), ("seen", ~unseen)):
        rows = rng.permutation(np.flatnonzero(some))[:MOST_EXPLAINED]
        out[f"split, {name}"] = explained(run, readout, x[rows])
    data = folder.parent.name
    return f"{data} {run.method}", out


def mean(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Averages over runs, key by key."""
    return {
        key: mean([one[key] for one in entries])
        if isinstance(entries[0][key], dict)
        else round(float(np.mean([one[key] for one in entries])), 3)
        for key in entries[0]
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--features", help="the folder of resnet_fc1000.mat and att_splits.mat")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = defaultdict(list)
    for folder in given.runs:
        name, entry = measure(folder, given.features)
        found[name].append(entry)
        print(name, json.dumps(entry), flush=True)
    before = json.loads(given.out.read_text()) if given.out.exists() else {}
    table = before | {name: {"runs": len(entries), **mean(entries)} for name, entries in found.items()}
    given.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
