"""The photographs behind the tiny run: a data folder of small PNG files, and the split by which the run used them."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from support.tiny_run import draw_pictures, regions_of
from zsl_train.methods.base import run_batched

if TYPE_CHECKING:
    from pathlib import Path

    from zsl_runtime.head.head import Head
    from zsl_train.training.run_folder import Run

TRAIN, TEST = 8, 5  # of each seen class; of an unseen one TEST


def lay_out_photographs(run: Run, data: Path, folder: Path) -> Path:
    """Draw the data folder, make `folder` the run's own with split.csv in it, and let the run know both."""
    table, rng = run.generation.table, np.random.default_rng(3)
    (data / "images").mkdir(parents=True)
    with (data / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "split", *table.attributes])
        for name, seen, raw in zip(table.names, table.seen, table.raw, strict=True):
            writer.writerow([name, "seen" if seen else "unseen", *raw])
    rows, drawn = [], []
    for index, (name, seen) in enumerate(zip(table.names, table.seen, strict=True)):
        roles = ["train"] * (TRAIN if seen else 0) + ["test"] * TEST
        (data / "images" / name).mkdir()
        pictures = draw_pictures(rng, np.full(len(roles), index))
        drawn.append(pictures)
        for number, (role, picture) in enumerate(zip(roles, pictures, strict=True)):
            path = f"{name}/{number}.png"
            Image.fromarray(picture).save(data / "images" / path)
            rows.append((path, role))
    folder.mkdir(exist_ok=True)
    with (folder / "split.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "role"), *rows])
    run.generation = replace(run.generation, head=nearest_mean(run, drawn))
    run.folder, run.info = folder, {**run.info, "data": str(data)}
    return data


def nearest_mean(run: Run, drawn: list[np.ndarray]) -> Head:
    """A head that is right: a class's row is the mean of what the run makes of its pictures, one array a class.

    What a tiny synthesizer with random weights teaches a head is right by chance, and has no accuracy to lose.
    """
    embedder, lift = run.trained.embedder, run.trained.lift
    rows = [run_batched(embedder, regions_of(run.backbone, pictures)) for pictures in drawn]
    lifted = [one if lift is None else run_batched(lift, one) for one in rows]
    means = np.stack([one.mean(axis=0) for one in lifted])
    centre, sharp = means.mean(axis=0), 0.5 / np.mean([one.var(axis=0).sum() for one in lifted])
    means -= centre
    parts = [(slice(view.start, view.stop), view.weight) for view in run.trained.views]
    weights = tuple((sharp / weight * means[:, part]).astype(np.float32) for part, weight in parts)
    biases = tuple(
        (-sharp / weight * (means[:, part] * (means[:, part] / 2 + centre[part])).sum(axis=1)).astype(np.float32)
        for part, weight in parts
    )
    return replace(run.generation.head, weights=weights, biases=biases, gamma=0.0, temperature=1.0)
