"""Where bird and parts are in the pictures of the field guide, exactly: the same strokes, painted with numbers.

`zsl_train.data.field_guide` draws its birds; here they are drawn once more, with the same generators, in numbers of
parts in place of colours. What twigs and leaves in front of the bird cover belongs to none.
"""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from zsl_train.data.field_guide import bird, picture
from zsl_train.data.field_guide.folder import choose_looks
from zsl_train.data.field_guide.scene import draw_foreground

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from zsl_train.data.field_guide.bird import Pose, Shape
    from zsl_train.data.field_guide.species import Species

PARTS = ("legs", "tail", "body", "neck", "breast", "wing", "bill", "head")


def shapes_of(looks: Mapping[str, str], pose: Pose) -> list[tuple[str, Shape]]:
    """The shapes of `bird.draw_bird`, from back to front, each with its part."""
    turn = bird._rotation(-pose.tilt)
    center, radius = bird._head_place(looks, turn)
    side = -1.0 if pose.looks_back else 1.0
    axes = np.array([[side, 0.0], [0.0, 1.0]]) @ (bird._rotation(-pose.nod * side) * radius)
    skull = [bird.Shape(bird._disc((0, 0), 1.0), bird._tinted(pose, looks["body_color"])), *bird._face(looks, pose)]
    of_parts = (
        ("legs", bird._legs(looks, pose, turn)[0]),
        ("tail", bird._moved(bird._tail(looks, pose), turn)),
        ("body", bird._moved(bird._torso(looks, pose), turn)),
        ("neck", bird._neck(looks, pose, turn)),
        ("breast", bird._moved(bird._breast(looks, pose), turn)),
        ("wing", bird._moved(bird._wing(looks, pose), turn)),
        ("bill", bird._moved(bird._bill(looks, pose), axes, center)),
        ("head", bird._moved(skull, axes, center)),
    )
    return [(part, shape) for part, shapes in of_parts for shape in shapes]


def masks(looks: Mapping[str, str], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What `picture.draw_picture` shows of the same looks and generator.

    Returns:
        (H, W) at twice the size of the picture: 0 where there is no bird or something before it, else 1 + the place of
        the part in PARTS.

    """
    of_pose, of_frame, _, _, of_foreground, _ = rng.spawn(6)
    pose = bird.random_pose(of_pose)
    named = shapes_of(looks, pose)
    frame = picture._choose_frame(of_frame, looks, [shape for _, shape in named])
    size = (frame.size[0] * picture.FINE, frame.size[1] * picture.FINE)
    parts, outline = Image.new("L", size), Image.new("L", size)
    for part, shape in named:
        points = [(float(x), float(y)) for x, y in frame.place(shape.points)]
        width = None if shape.width is None else max(1, round(shape.width * frame.body * picture.FINE))
        picture._paint(ImageDraw.Draw(parts), points, 1 + PARTS.index(part), width)
        if shape.solid:
            picture._paint(ImageDraw.Draw(outline), points, 255, width)
    found = np.asarray(parts).copy()
    found[(np.asarray(outline) == 0) | _hidden(of_foreground, size)] = 0
    return found


def _hidden(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) where the foreground is painted: there a black and a white canvas end up alike."""
    canvases = [Image.new("RGB", size, colour) for colour in ("black", "white")]
    for canvas in canvases:
        draw_foreground(copy.deepcopy(rng), canvas)
    black, white = (np.asarray(canvas) for canvas in canvases)
    return np.asarray((black == white).all(axis=2))


def masks_of(species: Species, seed: int, count: int) -> Iterator[tuple[dict[str, str], NDArray[np.uint8]]]:
    """Looks and masks of all pictures of a species, in the order of its files (`folder._photographs`)."""
    own = int.from_bytes(hashlib.sha256(species.name.encode()).digest()[:8], "little")
    for number, looks in enumerate(choose_looks(species, count, np.random.default_rng([seed, own]))):
        yield looks, masks(looks, np.random.default_rng([seed, own, number + 1]))
