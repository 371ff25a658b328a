"""A small data folder with drawn pictures: coloured shapes whose class attributes decide what is drawn."""

from __future__ import annotations

import csv
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from pathlib import Path

COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 210)}
SHAPES = ("round", "square")
PATTERNS = ("plain", "striped")
ATTRIBUTES = tuple(
    f"{kind}_{value}"
    for kind, values in (("color", COLOURS), ("shape", SHAPES), ("pattern", PATTERNS))
    for value in values
)
# Every value occurs early, so that unseen classes are new combinations of values that seen ones show.
CLASSES = sorted(product(COLOURS, SHAPES, PATTERNS), key=lambda c: (sum(map(len, c)) * 7) % 5)


def class_name(index: int) -> str:
    """Name of the index-th class, such as 'red round plain'."""
    return " ".join(CLASSES[index])


def make_tiny_data(
    directory: Path,
    *,
    seen: int = 4,
    unseen: int = 2,
    per_class: int = 6,
    side: int = 40,
    split: bool = False,
    word_width: int = 0,
    seed: int = 0,
) -> Path:
    """Write images/, classes.csv and, when asked for, split.csv and attributes.csv with attribute_vectors.npy.

    Args:
        directory: made if need be.
        seen, unseen: number of classes of each kind; 12 together at most.
        per_class: pictures of every class.
        side: of the pictures in pixels; they are a little wider than high.
        split: write split.csv (seen: two thirds train, the rest test).
        word_width: W of attribute_vectors.npy; 0 writes neither it nor attributes.csv.
        seed: of everything that varies.

    """
    draw = np.random.default_rng(seed)
    rows, roles = [], []
    for index in range(seen + unseen):
        name = class_name(index)
        folder = directory / "images" / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            draw_picture(CLASSES[index], side, draw).save(folder / f"{number:03}.png")
            training = index < seen and number < max(1, 2 * per_class // 3)
            roles.append((f"{name}/{number:03}.png", "train" if training else "test"))
        values = [float(a.split("_")[1] in CLASSES[index]) * (0.9 + 0.1 * draw.random()) for a in ATTRIBUTES]
        rows.append((name, "seen" if index < seen else "unseen", *(f"{v:.4f}" for v in values)))
    write_csv(directory / "classes.csv", ("name", "split", *ATTRIBUTES), rows)
    if split:
        write_csv(directory / "split.csv", ("image", "role"), roles)
    if word_width:
        words = [a.replace("_", " ") for a in ATTRIBUTES]
        write_csv(directory / "attributes.csv", ("name", "words"), zip(ATTRIBUTES, words, strict=True))
        vectors = {w: draw.standard_normal(word_width) for text in words for w in text.split()}
        sums = [sum(vectors[w] for w in text.split()) for text in words]
        np.save(directory / "attribute_vectors.npy", np.array(sums, dtype=np.float32))
    return directory


def draw_picture(kind: tuple[str, str, str], side: int, draw: np.random.Generator) -> Image.Image:
    """One picture: the class's shape somewhere on a noisy background."""
    colour, shape, pattern = kind
    width = side + 8
    noise = draw.integers(90, 160, (side, width, 3)).astype(np.uint8)
    picture = Image.fromarray(noise)
    pen = ImageDraw.Draw(picture)
    size = int(side * draw.uniform(0.5, 0.8))
    x, y = (int(draw.integers(0, limit - size + 1)) for limit in (width, side))
    box = (x, y, x + size - 1, y + size - 1)
    (pen.ellipse if shape == "round" else pen.rectangle)(box, fill=COLOURS[colour])
    if pattern == "striped":
        for row in range(y + 2, y + size, 6):
            pen.line((x, row, x + size - 1, row), fill=(240, 240, 240), width=2)
    return picture


def write_csv(path: Path, header, rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
