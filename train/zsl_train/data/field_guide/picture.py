"""One picture of one bird: looks, and a generator that decides everything else."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from zsl_train.data.field_guide.bird import draw_bird, random_pose
from zsl_train.data.field_guide.scene import draw_background, draw_foreground, draw_perch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from zsl_train.data.field_guide.bird import Color, Points, Shape

FINE = 2  # birds are painted at twice the size and halved: that is the anti-aliasing


@dataclass(frozen=True)
class _Frame:
    """The camera: `size` (width, height), length of a `body` in pixels, and how body units become fine pixels."""

    size: tuple[int, int]
    body: float
    scale: Points  # (2,), negative across when the picture is mirrored
    origin: Points  # (2,)

    def place(self, points: Points) -> Points:
        """Body units (n, 2) to pixels of the fine canvas."""
        return np.asarray(points * self.scale + self.origin)


def draw_picture(looks: Mapping[str, str], rng: np.random.Generator) -> Image.Image:
    """Draw a bird with these looks in a scene that `rng` decides.

    The same generator state gives the same scene, pose, light and noise whatever the looks are.

    Args:
        looks: the value of every trait (`traits.TRAITS`).
        rng: spawns one generator each for pose, camera, habitat, perch, foreground and light.

    Returns:
        RGB, short side 220 to 280 pixels.

    """
    of_pose, of_frame, of_habitat, of_perch, of_foreground, of_light = rng.spawn(6)
    shapes, feet = draw_bird(looks, random_pose(of_pose))
    frame = _choose_frame(of_frame, looks, shapes)
    canvas = draw_background(of_habitat, frame.size)
    canvas = canvas.resize((canvas.width * FINE, canvas.height * FINE), Image.Resampling.BILINEAR)
    draw_perch(of_perch, canvas, frame.place(feet), frame.body * FINE)
    _paint_bird(canvas, frame, shapes, _light_from(of_light))
    draw_foreground(of_foreground, canvas)
    return _photograph(of_light, canvas.reduce(FINE))


def to_jpeg(picture: Image.Image, rng: np.random.Generator) -> bytes:
    """`picture` as JPEG of a quality that `rng` decides."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(rng.integers(62, 94)))
    return buffer.getvalue()


def _choose_frame(rng: np.random.Generator, looks: Mapping[str, str], shapes: list[Shape]) -> _Frame:
    """A frame around the bird: large birds look larger, and none is cut by more than a little."""
    short = int(rng.integers(220, 281))
    long = round(short * float(rng.uniform(1.0, 1.45)))
    size = (long, short) if rng.random() < 0.8 else (short, long)
    points = np.concatenate([shape.points for shape in shapes if shape.solid])
    low, high = points.min(axis=0), points.max(axis=0)
    wanted = short * float(rng.uniform(0.3, 0.52)) * (1.3 if looks["size"] == "large" else 1.0)
    body = min(wanted, short * float(rng.uniform(0.76, 1.02)) / float((high - low).max()))
    slack = np.maximum(np.array(size) - (high - low) * body, 0.1 * short)
    middle = np.array(size) / 2 + rng.uniform(-0.3, 0.3, 2) * np.minimum(slack, 0.5 * short)
    scale = np.array([rng.choice([-1.0, 1.0]), 1.0]) * body * FINE
    return _Frame(size, body, scale, middle * FINE - (low + high) / 2 * scale)


def _paint_bird(canvas: Image.Image, frame: _Frame, shapes: list[Shape], light: NDArray[np.float64]) -> None:
    """Paint the bird onto the canvas, rounded by `light`, a direction (3,)."""
    plumage, mask = canvas.copy(), Image.new("L", canvas.size)
    of_plumage, of_mask = ImageDraw.Draw(plumage), ImageDraw.Draw(mask)
    for shape in shapes:
        corners = [(float(x), float(y)) for x, y in frame.place(shape.points)]
        width = None if shape.width is None else max(1, round(shape.width * frame.body * FINE))
        _paint(of_plumage, corners, shape.color, width)
        if shape.solid:
            _paint(of_mask, corners, 255, width)
    box = mask.getbbox()  # the rest of the canvas need not be lit
    mask = mask.crop(box)
    canvas.paste(_shaded(plumage.crop(box), mask, frame.body, light), box, mask)


def _paint(
    painter: ImageDraw.ImageDraw, corners: list[tuple[float, float]], fill: Color | int, width: int | None
) -> None:
    """A polygon, or a line of `width` pixels."""
    if width is None:
        painter.polygon(corners, fill=fill)
    else:
        painter.line(corners, fill=fill, width=width, joint="curve")


def _shaded(plumage: Image.Image, mask: Image.Image, body: float, light: NDArray[np.float64]) -> Image.Image:
    """`plumage` lit as if the outline in `mask` were a cushion: its blurred outline is taken for height."""
    small = mask.reduce(2 * FINE).filter(ImageFilter.GaussianBlur(body * 0.05))
    height = np.asarray(small, dtype=np.float32) / 255
    slope_y, slope_x = np.gradient(height * float(body) * 0.16)
    facing = (light[2] - slope_x * light[0] - slope_y * light[1]) / np.sqrt(1 + slope_x**2 + slope_y**2)
    shade = np.clip((0.42 + 0.5 * np.clip(facing, 0, 1)) * (0.84 + 0.24 * height), 0, 1)
    grey = Image.fromarray((shade * 255).astype(np.uint8)).resize(plumage.size, Image.Resampling.BILINEAR)
    return ImageChops.multiply(plumage, Image.merge("RGB", (grey, grey, grey)))


def _light_from(rng: np.random.Generator) -> NDArray[np.float64]:
    """A unit direction towards the sun: somewhere above, in front of the bird."""
    direction = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.9, -0.2), 0.9])
    return np.asarray(direction / np.linalg.norm(direction))


def _photograph(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Brightness, contrast, colour cast, dappled shadow, blur and sensor noise."""
    blur = float(rng.choice([0.0, rng.uniform(0.2, 0.7), rng.uniform(0.7, 1.5)], p=[0.35, 0.4, 0.25]))
    if blur:
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
    coarse = rng.random((5, 6)) * rng.uniform(20, 165)
    dapple = Image.fromarray((255 - coarse).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    gain = rng.uniform(0.78, 1.3) * np.clip(rng.normal(1.0, 0.1, 3), 0.78, 1.24)
    contrast = rng.uniform(0.62, 1.15)
    light = np.asarray(dapple, dtype=np.float32)[:, :, None] / 255
    values = (np.asarray(picture, dtype=np.float32) - 118) * np.float32(contrast) + 118
    values = values * light * gain.astype(np.float32)
    values += rng.standard_normal(values.shape, dtype=np.float32) * np.float32(rng.uniform(0, 11))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
