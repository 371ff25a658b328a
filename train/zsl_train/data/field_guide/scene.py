"""What is around the bird: the habitat behind it, what it stands on, and what is in the way.

Nothing here depends on the species.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from zsl_train.data.field_guide.bird import PLUMAGE, as_color, smooth

if TYPE_CHECKING:
    from zsl_train.data.field_guide.bird import Color, Points

Size = tuple[int, int]  # width, height in pixels

LEAF_COLORS: tuple[Color, ...] = (
    (70, 104, 48),
    (98, 130, 58),
    (52, 84, 56),
    (132, 142, 66),
    (150, 118, 60),
    (120, 70, 44),
)
WOOD_COLORS: tuple[Color, ...] = ((92, 72, 56), (120, 100, 82), (70, 60, 54), (136, 124, 110))
STONE_COLORS: tuple[Color, ...] = ((128, 124, 118), (150, 138, 122), (104, 108, 116), (168, 160, 150))


def draw_background(rng: np.random.Generator, size: Size) -> Image.Image:
    """A habitat with things that are not birds, out of focus by a varying amount.

    Args:
        rng: decides all of it.
        size: width and height in pixels.

    """
    habitats = (_foliage, _sky, _water, _rocks, _reeds, _wood)
    picture = habitats[int(rng.integers(len(habitats)))](rng, size)
    _distractors(rng, picture)
    return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 4.5))))


def draw_perch(rng: np.random.Generator, canvas: Image.Image, feet: Points, unit: float) -> None:
    """What the bird stands on, painted onto `canvas` just under its feet.

    Args:
        rng: decides kind and colours.
        canvas: RGB, changed in place.
        feet: (2, 2) places of the feet in pixels of `canvas`.
        unit: length of the bird's body in pixels.

    """
    perches = (_branch, _branch, _stone, _ground, _post)
    perches[int(rng.integers(len(perches)))](rng, canvas, feet, unit)


def draw_foreground(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Twigs, leaves or blades in front of the bird, none in a quarter of the pictures; `canvas` is changed in place."""
    draw = ImageDraw.Draw(canvas)
    width, height = canvas.size
    for _ in range(int(rng.choice([0, 1, 2, 3, 4], p=[0.25, 0.25, 0.22, 0.16, 0.12]))):
        start = np.array([rng.uniform(-0.1, 1.1) * width, rng.choice([-0.05, 1.05]) * height])
        middle = np.array([rng.uniform(0.0, 1.0) * width, rng.uniform(0.2, 0.8) * height])
        end = middle + (middle - start) * rng.uniform(-0.1, 0.9)
        bend = rng.normal(0, 0.06, 2) * (width, height)
        curve = _curve(start, middle + bend, end)
        if rng.random() < 0.3:
            _line(draw, curve, _varied(rng, LEAF_COLORS), height * rng.uniform(0.012, 0.03))
            continue
        _line(draw, curve, _varied(rng, WOOD_COLORS), height * rng.uniform(0.006, 0.016))
        leaf = _varied(rng, LEAF_COLORS)
        for point in curve[2 :: int(rng.integers(2, 5))]:
            _leaf(draw, point, float(rng.uniform(0, 2 * np.pi)), height * rng.uniform(0.04, 0.11), _near(rng, leaf, 10))


def _foliage(rng: np.random.Generator, size: Size) -> Image.Image:
    picture = _mottled(rng, size, [_varied(rng, LEAF_COLORS), _varied(rng, LEAF_COLORS), (206, 216, 170)])
    draw = ImageDraw.Draw(picture)
    base = [_varied(rng, LEAF_COLORS) for _ in range(3)]
    for _ in range(int(rng.integers(50, 110))):
        color = _near(rng, base[int(rng.integers(3))], 18)
        _leaf(draw, _anywhere(rng, size), float(rng.uniform(0, 2 * np.pi)), size[1] * rng.uniform(0.05, 0.16), color)
    return picture


def _sky(rng: np.random.Generator, size: Size) -> Image.Image:
    top = _varied(rng, ((92, 150, 210), (150, 180, 214), (196, 206, 216), (238, 190, 150), (120, 130, 160)))
    picture = _gradient(size, top, _near(rng, (222, 228, 230), 14))
    draw = ImageDraw.Draw(picture)
    cloud = _near(rng, (240, 240, 240), 10)
    for _ in range(int(rng.integers(0, 12))):
        x, y = _anywhere(rng, size)
        w, h = size[0] * rng.uniform(0.1, 0.3), size[1] * rng.uniform(0.03, 0.09)
        draw.ellipse((x - w, y - h, x + w, y + h), fill=cloud)
    return picture.filter(ImageFilter.GaussianBlur(size[1] * 0.02))


def _water(rng: np.random.Generator, size: Size) -> Image.Image:
    far = _varied(rng, ((120, 160, 180), (96, 130, 120), (170, 190, 200), (70, 100, 130)))
    near = _near(rng, far, 30)
    picture = _gradient(size, far, near)
    draw = ImageDraw.Draw(picture)
    light, dark = _near(rng, (225, 232, 232), 12), as_color(np.multiply(near, 0.7))
    for _ in range(int(rng.integers(40, 120))):
        x, y = _anywhere(rng, size)
        w, h = size[0] * rng.uniform(0.02, 0.12) * (0.4 + y / size[1]), size[1] * 0.006
        draw.ellipse((x - w, y - h, x + w, y + h), fill=light if rng.random() < 0.5 else dark)
    return picture


def _rocks(rng: np.random.Generator, size: Size) -> Image.Image:
    picture = _mottled(rng, size, [_varied(rng, STONE_COLORS), _varied(rng, STONE_COLORS), (190, 190, 180)])
    draw = ImageDraw.Draw(picture)
    for y in np.sort(rng.uniform(0.1, 1.1, int(rng.integers(10, 26)))):
        center = np.array([rng.uniform(0, size[0]), y * size[1]])
        _stone_shape(rng, draw, center, size[1] * float(rng.uniform(0.08, 0.22)))
    return picture


def _reeds(rng: np.random.Generator, size: Size) -> Image.Image:
    picture = _gradient(size, _near(rng, (206, 210, 180), 24), _varied(rng, LEAF_COLORS))
    draw = ImageDraw.Draw(picture)
    tones = [_varied(rng, LEAF_COLORS), _near(rng, (206, 182, 116), 16), _near(rng, (160, 150, 90), 16)]
    for _ in range(int(rng.integers(50, 130))):
        foot = np.array([rng.uniform(-0.1, 1.1) * size[0], size[1] * 1.02])
        tip = foot + np.array([rng.normal(0, 0.14) * size[0], -rng.uniform(0.3, 1.0) * size[1]])
        bend = foot * 0.5 + tip * 0.5 + [rng.normal(0, 0.04) * size[0], 0]
        _line(
            draw,
            _curve(foot, bend, tip),
            _near(rng, tones[int(rng.integers(3))], 12),
            size[1] * rng.uniform(0.005, 0.018),
        )
    return picture


def _wood(rng: np.random.Generator, size: Size) -> Image.Image:
    picture = _mottled(rng, size, [_varied(rng, LEAF_COLORS), (60, 66, 60), (150, 160, 140)])
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(2, 7))):
        x, w = rng.uniform(0, size[0]), size[0] * rng.uniform(0.02, 0.09)
        lean = rng.normal(0, 0.06) * size[0]
        color = _varied(rng, WOOD_COLORS)
        draw.polygon([(x - w, size[1]), (x - w * 0.7 + lean, 0), (x + w * 0.7 + lean, 0), (x + w, size[1])], fill=color)
        for y in rng.uniform(0, size[1], 12):
            draw.line(
                (x - w * 0.5, y, x + w * rng.uniform(-0.3, 0.6), y + 4), fill=as_color(np.multiply(color, 0.7)), width=2
            )
    return picture


def _distractors(rng: np.random.Generator, picture: Image.Image) -> None:
    """Blossoms, berries and spots of light, in the colours that birds have, so that colour alone tells little."""
    draw = ImageDraw.Draw(picture)
    palette = list(PLUMAGE.values())
    for _ in range(int(rng.integers(1, 4))):
        color = _near(rng, palette[int(rng.integers(len(palette)))], 14)
        heart, spread = _anywhere(rng, picture.size), picture.size[1] * rng.uniform(0.05, 0.3)
        radius = picture.size[1] * rng.uniform(0.012, 0.06)
        for _ in range(int(rng.integers(3, 16))):
            x, y = heart + rng.normal(0, spread, 2)
            r = radius * rng.uniform(0.6, 1.3)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=_near(rng, color, 8))


def _branch(rng: np.random.Generator, canvas: Image.Image, feet: Points, unit: float) -> None:
    draw = ImageDraw.Draw(canvas)
    color = _varied(rng, WOOD_COLORS)
    thick = unit * float(rng.uniform(0.08, 0.2))
    center = np.add(feet.mean(axis=0), (0.0, thick * 0.5))
    slope = float(rng.normal(0, 0.1))
    left = np.array([-20.0, center[1] + slope * (center[0] + 20) + rng.normal(0, 0.08) * unit])
    right = np.array([canvas.width + 20.0, center[1] - slope * (canvas.width - center[0])])
    # The curve passes through the feet: the control point of a quadratic is not on it.
    t = (center[0] - left[0]) / (right[0] - left[0])
    control = (center - (1 - t) ** 2 * left - t**2 * right) / max(2 * t * (1 - t), 0.1)
    curve = _curve(left, control, right)
    _line(draw, curve, as_color(np.multiply(color, 0.72)), thick)
    _line(draw, curve - [0, thick * 0.14], color, thick * 0.66)
    leaf = _varied(rng, LEAF_COLORS)
    for point in curve[:: int(rng.integers(3, 9))]:
        _leaf(draw, point, float(rng.uniform(0, 2 * np.pi)), unit * rng.uniform(0.12, 0.34), _near(rng, leaf, 10))


def _stone(rng: np.random.Generator, canvas: Image.Image, feet: Points, unit: float) -> None:
    x, y = feet.mean(axis=0)
    radius = unit * float(rng.uniform(0.6, 1.1))
    _stone_shape(rng, ImageDraw.Draw(canvas), np.array([x + rng.normal(0, 0.15) * unit, y + radius * 0.66]), radius)


def _ground(rng: np.random.Generator, canvas: Image.Image, feet: Points, unit: float) -> None:
    draw = ImageDraw.Draw(canvas)
    y = float(feet[:, 1].max()) - 0.06 * unit
    tone = _varied(rng, (*STONE_COLORS, *LEAF_COLORS, (196, 178, 140), (212, 214, 214)))
    xs = np.linspace(-10, canvas.width + 10, 12)
    edge = [(float(x), float(y + rng.normal(0, 0.015) * unit)) for x in xs]
    draw.polygon([*edge, (canvas.width + 10, canvas.height), (-10, canvas.height)], fill=tone)
    for _ in range(50):
        px, py = rng.uniform(0, canvas.width), y + abs(rng.normal(0, 0.5)) * unit
        if py < canvas.height:
            r = unit * rng.uniform(0.01, 0.04)
            draw.ellipse((px - r * 2, py - r, px + r * 2, py + r), fill=_near(rng, tone, 26))


def _post(rng: np.random.Generator, canvas: Image.Image, feet: Points, unit: float) -> None:
    draw = ImageDraw.Draw(canvas)
    x, y = feet.mean(axis=0)
    half = unit * float(rng.uniform(0.16, 0.3))
    color = _varied(rng, WOOD_COLORS)
    draw.rectangle((x - half, y, x + half, canvas.height), fill=color)
    for _ in range(6):
        px = x + rng.uniform(-half, half)
        draw.line((px, y + 4, px + rng.normal(0, 4), canvas.height), fill=as_color(np.multiply(color, 0.78)), width=2)
    draw.ellipse((x - half, y - half * 0.2, x + half, y + half * 0.25), fill=as_color(np.multiply(color, 1.18)))


def _stone_shape(rng: np.random.Generator, draw: ImageDraw.ImageDraw, center: Points, radius: float) -> None:
    color = _varied(rng, STONE_COLORS)
    angle = np.linspace(0, 2 * np.pi, 11, endpoint=False)
    ring = np.stack([1.25 * np.cos(angle), 0.72 * np.sin(angle)], axis=1) * rng.uniform(0.85, 1.1, (11, 1))
    ring = smooth(ring)
    draw.polygon(_corners(ring * radius + center), fill=as_color(np.multiply(color, 0.72)))
    draw.polygon(_corners(ring * radius * [0.94, 0.86] + center - [0, radius * 0.09]), fill=color)


def _leaf(draw: ImageDraw.ImageDraw, stem: Points, angle: float, length: float, color: Color) -> None:
    """A leaf that hangs on `stem` and points along `angle`."""
    outline = np.array([(0, 0), (0.3, 0.2), (0.65, 0.17), (1, 0), (0.65, -0.17), (0.3, -0.2)]) * length
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = outline @ turn + stem
    draw.polygon(_corners(points), fill=color)
    draw.line(_corners(points[[0, 3]]), fill=as_color(np.multiply(color, 0.78)), width=1)


def _line(draw: ImageDraw.ImageDraw, points: Points, color: Color, width: float) -> None:
    draw.line(_corners(points), fill=color, width=max(1, round(float(width))), joint="curve")


def _curve(start: Points, control: Points, end: Points) -> Points:
    """A quadratic Bezier curve as 16 points."""
    t = np.linspace(0, 1, 16)[:, None]
    return np.asarray((1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end)


def _gradient(size: Size, top: Color, bottom: Color) -> Image.Image:
    column = np.linspace(top, bottom, size[1])[:, None, :].clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(column, (size[1], size[0], 3))))


def _mottled(rng: np.random.Generator, size: Size, tones: list[Color]) -> Image.Image:
    """Soft patches that mix `tones`."""
    weights = rng.random((6, 8, len(tones))) ** 2
    weights /= weights.sum(axis=2, keepdims=True)
    coarse = (weights @ np.array(tones, dtype=np.float64)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _anywhere(rng: np.random.Generator, size: Size) -> Points:
    return np.asarray(rng.random(2) * size)


def _varied(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    return _near(rng, colors[int(rng.integers(len(colors)))], 16)


def _near(rng: np.random.Generator, color: Color, spread: float) -> Color:
    """`color` a little lighter or darker, and a little off."""
    return as_color(np.add(color, rng.normal(0, spread) + rng.normal(0, spread * 0.4, 3)))


def _corners(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]
