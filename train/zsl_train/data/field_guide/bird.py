"""One bird as a list of shapes, decided by its looks and its pose.

Lengths are in body units (the body is about 1 long), x towards the bill, y down. This file is geometry only;
`picture.py` turns the shapes into pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Color = tuple[int, int, int]
Points = NDArray[np.float64]  # (n, 2)

PLUMAGE: dict[str, Color] = {
    "brown": (134, 94, 62),
    "grey": (140, 145, 154),
    "blue": (58, 108, 190),
    "green": (96, 146, 66),
    "black": (46, 45, 52),
    "rufous": (188, 86, 40),
    "white": (238, 235, 224),
    "yellow": (244, 204, 58),
    "orange": (234, 124, 44),
    "red": (206, 40, 44),
    "dark": (60, 55, 58),
}
INK: Color = (34, 31, 34)
PALE: Color = (242, 238, 224)


@dataclass(frozen=True)
class Pose:
    """Everything about a bird that differs from picture to picture and is not a trait.

    Attributes:
        tilt: radians the body is turned, positive with the bill up.
        nod: radians the head is turned against the level, positive with the bill up.
        foreshortening: 0..1, how long bill and face look (1: exact profile).
        looks_back: the head faces the tail.
        tail_angle: radians the tail hangs below the line of the back.
        wing_drop: radians the wing hangs below the back.
        stride: -1..1, how far the feet are apart.
        plumpness: body depth as a factor around 1.
        tints: what is added to the red, green and blue of each plumage colour.
        bold: 0..1, how much spots, bars and streaks stand out.
        coarse: their size as a factor around 1.
        marks: seed of their places.

    """

    tilt: float = 0.2
    nod: float = 0.0
    foreshortening: float = 1.0
    looks_back: bool = False
    tail_angle: float = 0.1
    wing_drop: float = 0.0
    stride: float = 0.3
    plumpness: float = 1.0
    tints: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    bold: float = 1.0
    coarse: float = 1.0
    marks: int = 0


@dataclass(frozen=True)
class Shape:
    """One painted piece.

    Attributes:
        points: (n, 2) in body units.
        color: red, green, blue.
        width: None for a filled polygon, else the width of a line in body units.
        solid: part of the bird's outline; the other shapes show only where a solid one lies.

    """

    points: Points
    color: Color
    width: float | None = None
    solid: bool = True


def random_pose(rng: np.random.Generator) -> Pose:
    """Draw a pose that a perched bird could take."""
    return Pose(
        tilt=float(rng.uniform(-0.25, 0.75)),
        nod=float(rng.uniform(-0.35, 0.35)),
        foreshortening=float(rng.uniform(0.65, 1.0)),
        looks_back=bool(rng.random() < 0.12),
        tail_angle=float(rng.uniform(-0.15, 0.4)),
        wing_drop=float(rng.uniform(-0.06, 0.16)),
        stride=float(rng.uniform(-1, 1)),
        plumpness=float(rng.uniform(0.92, 1.12)),
        tints={name: tuple(rng.normal(0, 12, 3) + rng.normal(0, 13)) for name in PLUMAGE},
        bold=float(rng.uniform(0.4, 1.0)),
        coarse=float(rng.uniform(0.65, 1.35)),
        marks=int(rng.integers(2**31)),
    )


def draw_bird(looks: Mapping[str, str], pose: Pose) -> tuple[list[Shape], Points]:
    """The shapes of a bird from back to front, and where its two feet stand (2, 2).

    Args:
        looks: the value of every trait (`traits.TRAITS`).
        pose: everything else.

    """
    turn = _rotation(-pose.tilt)
    legs, feet = _legs(looks, pose, turn)
    behind = _moved([*_tail(looks, pose), *_torso(looks, pose)], turn)
    front = _moved([*_breast(looks, pose), *_wing(looks, pose)], turn)
    return [*legs, *behind, *_neck(looks, pose, turn), *front, *_head(looks, pose, turn)], feet


def _tail(looks: Mapping[str, str], pose: Pose) -> list[Shape]:
    """The tail: a fan of feathers behind the rump; its own axes are (along, across)."""
    length = 1.05 if looks["tail_length"] == "long" else 0.5
    color = _tinted(pose, looks["tail_color"])
    if looks["tail_shape"] == "forked":
        outline = [(-0.12, -0.09), (0.5, -0.12), (1.0, -0.27), (0.97, -0.2), (0.52, 0.0), (0.97, 0.2), (1.0, 0.27)]
        outline += [(0.5, 0.12), (-0.12, 0.09)]
        ribs = [[(0.1, s * 0.03), (0.5, s * 0.07), (0.9, s * 0.2)] for s in (-1, 1)]
    else:
        outline = [(-0.12, -0.09), (0.5, -0.13), (0.92, -0.16), (1.0, -0.08), (1.02, 0.0), (1.0, 0.08), (0.92, 0.16)]
        outline += [(0.5, 0.13), (-0.12, 0.09)]
        ribs = [[(0.1, v * 0.4), (0.95, v)] for v in (-0.08, 0.0, 0.08)]
    fan = np.array([length, 1.0])
    shapes = [Shape(smooth(np.array(outline) * fan), color)]
    shapes += [Shape(np.array(rib) * fan, _shaded(color, 0.72), 0.014, solid=False) for rib in ribs]
    axes = np.array([[-1.0, 0.0], [0.0, 1.0]]) @ _rotation(-pose.tail_angle)
    return _moved(shapes, axes, (-0.42, -0.02))


def _torso(looks: Mapping[str, str], pose: Pose) -> list[Shape]:
    """The body in the body colour."""
    color = _tinted(pose, looks["body_color"])
    deep = np.array([1.0, pose.plumpness])
    outline = [(0.48, 0.08), (0.37, 0.29), (0.08, 0.38), (-0.28, 0.25), (-0.56, 0.05), (-0.5, -0.09), (-0.18, -0.23)]
    outline += [(0.16, -0.27), (0.4, -0.18)]
    return [Shape(smooth(np.array(outline) * deep), color)]


def _breast_point(pose: Pose, along: float, inward: float) -> Points:
    """A point of the breast: `along` from 0 (throat) to 1 (vent), `inward` from 0 (outline) to 1 (under the wing)."""
    outer = _bezier([(0.44, -0.16), (0.68, 0.34), (0.14, 0.52), (-0.42, 0.17)], along)
    inner = _bezier([(0.38, -0.19), (0.06, -0.02), (0.0, 0.1), (-0.44, 0.1)], along)
    return np.asarray((outer * (1 - inward) + inner * inward) * [1.0, pose.plumpness])


def _breast(looks: Mapping[str, str], pose: Pose) -> list[Shape]:
    """The breast and belly patch with its pattern."""
    color = _tinted(pose, looks["breast_color"])
    along = np.linspace(0, 1, 14)
    edge = [_breast_point(pose, t, 0.0) for t in along] + [_breast_point(pose, t, 1.0) for t in along[::-1]]
    shapes = [Shape(np.array(edge), color, solid=False)]
    marks = np.random.default_rng(pose.marks)
    places = np.stack([marks.uniform(0.06, 0.86, 46), marks.uniform(0.04, 0.9, 46)], axis=1)
    if looks["breast_pattern"] == "streaked":
        for t, s in places:
            stroke = np.array([_breast_point(pose, t, s), _breast_point(pose, t + 0.055, s)])
            shapes.append(Shape(stroke, _mixed(color, INK, 0.9 * pose.bold), 0.026 * pose.coarse, solid=False))
    if looks["breast_pattern"] == "banded":
        top, bottom = 0.28 - 0.07 * pose.coarse, 0.28 + 0.07 * pose.coarse
        band = [_breast_point(pose, top, s) for s in (0, 0.5, 1)] + [
            _breast_point(pose, bottom, s) for s in (1, 0.5, 0)
        ]
        shapes.append(Shape(np.array(band), _mixed(color, INK, 0.4 + 0.6 * pose.bold), solid=False))
    return shapes


def _wing_point(along: float, across: float) -> Points:
    """A point of the folded wing: `along` 0 at the shoulder to 1 at the tip, `across` 0 at the back to 1 below."""
    upper = _bezier([(0.25, -0.05), (0.12, -0.26), (-0.24, -0.2), (-0.7, 0.1)], along)
    lower = _bezier([(0.25, -0.05), (0.26, 0.24), (-0.14, 0.24), (-0.7, 0.1)], along)
    return np.asarray(upper * (1 - across) + lower * across)


def _wing(looks: Mapping[str, str], pose: Pose) -> list[Shape]:
    """The folded wing with its pattern; it hides the inner edge of the breast."""
    color = _tinted(pose, looks["wing_color"])
    along = np.linspace(0, 1, 16)
    edge = np.array([_wing_point(u, 0) for u in along] + [_wing_point(u, 1) for u in along[::-1]])
    shapes = [Shape(np.add(edge, (0.0, 0.025)), _shaded(_tinted(pose, looks["body_color"]), 0.6), solid=False)]
    shapes.append(Shape(edge, color))
    ribs = [[_wing_point(u, v) for u in (0.5, 0.7, 1.0)] for v in (0.25, 0.5, 0.75)]
    shapes += [Shape(np.array(rib), _shaded(color, 0.7), 0.014) for rib in ribs]
    shapes += _wing_pattern(looks, pose)
    return _moved(shapes, _rotation(-pose.wing_drop))


def _wing_pattern(looks: Mapping[str, str], pose: Pose) -> list[Shape]:
    """Bars or spots, light on a dark wing and dark on a white one."""
    color = _tinted(pose, looks["wing_color"])
    mark = _mixed(color, INK if looks["wing_color"] == "white" else PALE, pose.bold)
    if looks["wing_pattern"] == "barred":
        bars = np.linspace(0.14, 0.64, round(4 / pose.coarse))
        across = np.linspace(0.05, 0.95, 7)
        curves = [[_wing_point(u + 0.05 * np.sin(np.pi * v), v) for v in across] for u in bars]
        return [Shape(np.array(curve), mark, 0.05 * pose.coarse) for curve in curves]
    if looks["wing_pattern"] == "spotted":
        places = np.array([(0.12 + 0.1 * i, 0.16 + 0.225 * j) for i in range(7) for j in range(4)])
        places += np.random.default_rng(pose.marks + 1).uniform(-0.035, 0.035, places.shape)
        return [Shape(_disc(_wing_point(u, v), 0.03 * pose.coarse), mark) for u, v in places]
    return []


def _head_place(looks: Mapping[str, str], turn: Points) -> tuple[Points, float]:
    """Centre (2,) of the head in picture axes, and its radius."""
    radius = 0.18 if looks["size"] == "large" else 0.235
    shoulder = np.array([0.3, -0.12]) @ turn
    reach = np.array([0.2, -0.72]) if looks["neck_length"] == "long" else np.array([0.13, -0.24])
    return shoulder + reach, radius


def _head(looks: Mapping[str, str], pose: Pose, turn: Points) -> list[Shape]:
    """Bill, head, crown, face and crest."""
    center, radius = _head_place(looks, turn)
    color = _tinted(pose, looks["body_color"])
    side = -1.0 if pose.looks_back else 1.0
    axes = _rotation(-pose.nod * side) * radius
    axes = np.array([[side, 0.0], [0.0, 1.0]]) @ axes
    return _moved([*_bill(looks, pose), Shape(_disc((0, 0), 1.0), color), *_face(looks, pose)], axes, center)


def _neck(looks: Mapping[str, str], pose: Pose, turn: Points) -> list[Shape]:
    """A tube from the shoulders to the head."""
    center, radius = _head_place(looks, turn)
    color = _tinted(pose, looks["body_color"])
    root = np.array([0.2, -0.02]) @ turn
    bulge = np.array([0.28, -0.1]) if looks["neck_length"] == "long" else np.array([0.05, 0.0])
    thick = 0.22 if looks["neck_length"] == "long" else 0.25
    steps = np.linspace(0, 1, 14)
    curve = [(1 - t) ** 2 * root + 2 * t * (1 - t) * ((root + center) / 2 + bulge) + t**2 * center for t in steps]
    waist = 0.62 * radius if looks["neck_length"] == "long" else 0.85 * radius
    sizes = [thick * (1 - t) ** 2 + 2 * t * (1 - t) * waist + t**2 * waist for t in steps]
    return [Shape(_disc(p, r), color) for p, r in zip(curve, sizes, strict=True)]


def _bill(looks: Mapping[str, str], pose: Pose) -> list[Shape]:
    """The bill in head radii, pointing along x from the face."""
    color = _tinted(pose, looks["bill_color"])
    length = (2.0 if looks["bill_length"] == "long" else 1.0) * pose.foreshortening
    if looks["bill_shape"] == "conical":
        outline = [(0.7, -0.5), (0.95, -0.46), (0.95 + 0.95 * length, 0.1), (0.95, 0.56), (0.7, 0.56)]
        split = [(0.7, 0.08), (0.95 + 0.9 * length, 0.1)]
    elif looks["bill_shape"] == "dagger":
        outline = [(0.7, -0.2), (0.95, -0.18), (0.95 + 1.3 * length, 0.04), (0.95, 0.26), (0.7, 0.26)]
        split = [(0.7, 0.04), (0.95 + 1.2 * length, 0.04)]
    else:
        tip = 0.95 + 1.1 * length
        outline = [(0.7, -0.36), (0.95 + 0.5 * length, -0.34), (tip - 0.12, -0.16), (tip, 0.16), (tip - 0.1, 0.58)]
        outline += [(tip - 0.26, 0.22), (0.95 + 0.4 * length, 0.32), (0.7, 0.4)]
        split = [(0.7, 0.06), (tip - 0.25, 0.1)]
    return [Shape(np.array(outline), color), Shape(np.array(split), _shaded(color, 0.6), 0.05, solid=False)]


def _face(looks: Mapping[str, str], pose: Pose) -> list[Shape]:
    """Crown, crest, mask, eye ring and eye, in head radii."""
    crown = _tinted(pose, looks["crown_color"])
    arc = np.radians(np.linspace(8, 188, 16))
    cap = np.stack([np.cos(arc), -np.sin(arc)], axis=1) * 1.02
    brow = np.array([(-0.6, -0.16), (0.2, -0.42), (0.7, -0.3)])
    shapes = [Shape(np.concatenate([cap, brow]), crown)]
    if looks["crest"] == "present":
        crest = [(0.45, -0.86), (-0.1, -1.5), (-1.15, -1.95), (-0.72, -1.5), (-1.5, -1.5), (-0.95, -1.1), (-1.5, -0.85)]
        shapes.append(Shape(np.array([*crest, (-0.9, -0.4)]), crown))
    if looks["face_mask"] == "black":
        mask = [(1.0, -0.12), (0.4, -0.4), (-0.4, -0.36), (-0.95, -0.1), (-0.8, 0.22), (0.0, 0.3), (0.98, 0.26)]
        shapes.append(Shape(np.array(mask), INK, solid=False))
    eye = (0.36 * pose.foreshortening, -0.08)
    if looks["eye_ring"] == "white":
        shapes.append(Shape(_disc(eye, 0.42), PALE, solid=False))
    shapes.append(Shape(_disc(eye, 0.25), (66, 38, 26), solid=False))
    shapes.append(Shape(_disc(eye, 0.17), (14, 12, 14), solid=False))
    shapes.append(Shape(_disc((eye[0] + 0.07, eye[1] - 0.08), 0.07), (250, 250, 250), solid=False))
    return shapes


def _legs(looks: Mapping[str, str], pose: Pose, turn: Points) -> tuple[list[Shape], Points]:
    """Two legs with toes, straight down from the belly however the body is turned; and the feet (2, 2)."""
    color = _tinted(pose, looks["leg_color"])
    length = 0.78 if looks["leg_length"] == "long" else 0.28
    shapes: list[Shape] = []
    feet = []
    for hip_x, side in ((-0.04, -1.0), (0.1, 1.0)):
        hip = np.array([hip_x, 0.22]) @ turn
        foot = np.array([hip[0] + 0.04 + side * 0.05 * pose.stride, 0.3 + length])
        knee = (hip * 0.45 + foot * 0.55) + [-0.16 * length, 0.0]
        shapes.append(Shape(np.array([hip, knee, foot]), color, 0.045))
        shapes += [
            Shape(np.array([foot, foot + toe]), color, 0.034) for toe in ((0.11, 0.02), (0.08, 0.045), (-0.07, 0.02))
        ]
        thigh = np.array([np.add(hip, (-0.09, -0.08)), np.add(hip, (0.09, -0.08)), hip * 0.7 + knee * 0.3])
        shapes.append(Shape(thigh, _shaded(_tinted(pose, looks["body_color"]), 0.8)))
        feet.append(foot)
    return shapes, np.array(feet)


def _tinted(pose: Pose, name: str) -> Color:
    """Plumage colour `name` as this very bird has it."""
    return as_color(np.add(PLUMAGE[name], pose.tints.get(name, (0, 0, 0))))


def _shaded(color: Color, factor: float) -> Color:
    return as_color(np.multiply(color, factor))


def _mixed(color: Color, other: Color, share: float) -> Color:
    return as_color(np.multiply(color, 1 - share) + np.multiply(other, share))


def as_color(values: NDArray[np.float64]) -> Color:
    """Three whole numbers from 0 to 255."""
    red, green, blue = (int(v) for v in np.clip(np.rint(values), 0, 255))
    return red, green, blue


def _rotation(angle: float) -> Points:
    """The matrix that turns row vectors by `angle` radians, from x towards y."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _moved(shapes: Iterable[Shape], axes: Points, origin: Sequence[float] | Points = (0.0, 0.0)) -> list[Shape]:
    """`shapes` given in other axes; widths scale along."""
    scale = float(np.sqrt(abs(np.linalg.det(axes))))
    return [
        Shape(s.points @ axes + origin, s.color, None if s.width is None else s.width * scale, s.solid) for s in shapes
    ]


def _bezier(controls: Sequence[tuple[float, float]], t: float) -> Points:
    """The point of a cubic Bezier curve at `t`, (2,)."""
    weights = np.array([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    return np.asarray(weights @ np.array(controls))


def _disc(center: Sequence[float] | Points, radius: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    return np.asarray(np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius + center)


def smooth(corners: Points, steps: int = 5) -> Points:
    """A closed Catmull-Rom curve through `corners`."""
    before, after, beyond = (np.roll(corners, shift, axis=0) for shift in (1, -1, -2))
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve = 0.5 * (
        2 * corners
        + (after - before) * t
        + (2 * before - 5 * corners + 4 * after - beyond) * t**2
        + (3 * corners - before - 3 * after + beyond) * t**3
    )  # (steps, n, 2)
    return np.asarray(curve.transpose(1, 0, 2).reshape(-1, 2))
