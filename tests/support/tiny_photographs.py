"""The photographs behind the tiny run: a data folder of small PNG files, and the split by which the run used them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from support.tiny_run import draw_pictures
from zsl_train.run_folder import Run

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
    rows = []
    for index, (name, seen) in enumerate(zip(table.names, table.seen, strict=True)):
        roles = ["train"] * (TRAIN if seen else 0) + ["test"] * TEST
        (data / "images" / name).mkdir()
        pictures = draw_pictures(rng, np.full(len(roles), index))
        for number, (role, picture) in enumerate(zip(roles, pictures, strict=True)):
            path = f"{name}/{number}.png"
            Image.fromarray(picture).save(data / "images" / path)
            rows.append((path, role))
    folder.mkdir(exist_ok=True)
    with (folder / "split.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "role"), *rows])
    run.folder, run.info = folder, {**run.info, "data": str(data)}
    return data
