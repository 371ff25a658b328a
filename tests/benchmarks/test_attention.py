"""Where maps of attention fall: outlines to regions, drawn birds to the pixel, and what is made of it."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zsl_runtime.pixels.pixels import PixelSpec, resize_crop
from zsl_train.backbones import BACKBONES
from zsl_train.data.field_guide import picture
from zsl_train.data.field_guide.bird import draw_bird, random_pose
from zsl_train.data.field_guide.folder import choose_looks
from zsl_train.data.field_guide.species import SEEN, read_species
from zsl_train.data.open import open_image_set

FOLDER = Path(__file__).parents[2] / "benchmarks" / "explaining"
FINE = 8  # sub-pixels of the rasterisation that areas are compared with


@pytest.fixture(scope="module")
def bench():
    """The modules outlines, drawn and attention, which import each other by these names."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in ("outlines", "drawn", "attention")}
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("outlines", "drawn", "attention"):
            sys.modules.pop(name, None)


def star(seed):
    """A polygon that does not cross itself, hollow as a rule: points all around a centre, in order of their angles."""
    rng = np.random.default_rng(seed)
    around = np.array([0, 2, 4]) + rng.uniform(0, 1)  # without them the last side might cut through others
    angles = np.sort(np.concatenate([around, rng.uniform(0, 2 * np.pi, int(rng.integers(0, 12)))]))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return rng.uniform(20, 80, 2) + rng.uniform(5, 70, (len(angles), 1)) * directions


def inside(polygon, places):
    """(n, n) whether points with these rows and columns lie in a polygon: how often a ray to the right crosses it."""
    x, y = np.meshgrid(places, places)
    found = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        found ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0 if y1 != y0 else 1) + x0)
    return found


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 6), first=st.floats(0, 10))
def test_areas_are_those_of_a_fine_rasterisation(bench, seed, count, first):
    side = 100
    grid = bench["outlines"].Grid(side, first, (side - first) / count, count)
    polygon = star(seed)
    centres = (np.arange(side * FINE) + 0.5) / FINE
    nearest = np.abs(centres[:, None] - grid.centres).argmin(axis=1)
    raster = inside(polygon, centres)
    expected = [
        [raster[np.ix_(nearest == row, nearest == column)].mean() for column in range(count)] for row in range(count)
    ]
    assert np.allclose(bench["outlines"].covered([polygon], grid), expected, atol=0.015)


def test_a_mask_is_counted_as_its_outline_is(bench):
    outlines = bench["outlines"]
    grid = outlines.Grid(260, 3.5, 32.0, 9)
    mask = np.zeros((520, 520), bool)
    mask[101:333, 59:402] = True  # two pixels of the mask to one of the square
    box = outlines.corners((59 / 2, 101 / 2, 402 / 2, 333 / 2))
    assert np.allclose(outlines.covered_by_mask(mask, grid), outlines.covered([np.array(box)], grid))


def test_parts_are_what_of_the_bird_lies_in_their_boxes(bench):
    outlines = bench["outlines"]
    grid = outlines.tiles(100, 2)
    bird = [np.array([(0.0, 0.0), (100.0, 0.0), (0.0, 100.0)])]
    found = outlines.covered(outlines.part_of([(0, 0, 50, 50), (50, 0, 100, 50)], bird), grid)
    assert np.allclose(found, [[1, 0.5], [0, 0]])


@pytest.mark.parametrize("size", [(500, 333), (333, 500), (500, 500), (301, 300)])
@pytest.mark.parametrize("pixels", [PixelSpec(260, 260), PixelSpec(256, 224)])
def test_outlines_move_as_the_pixels_do(bench, size, pixels):
    """A white box in a black photograph is, after resize and crop, where its corners are said to be."""
    width, height = size
    box = np.array([[width * 0.4, height * 0.3], [width * 0.6, height * 0.65]]).round()
    photograph = np.zeros((height, width, 3), np.uint8)
    (left, top), (right, bottom) = box.astype(int)
    photograph[top:bottom, left:right] = 255
    square = resize_crop(photograph, pixels)[:, :, 0] / 255
    corners = bench["outlines"].to_square(box, size, pixels)
    assert square.sum(axis=0).max() == pytest.approx(corners[1, 1] - corners[0, 1], abs=0.5)
    assert square.sum(axis=1).max() == pytest.approx(corners[1, 0] - corners[0, 0], abs=0.5)
    middles = np.arange(pixels.crop) + 0.5
    centre = [square.sum(axis=axis) @ middles / square.sum() for axis in (0, 1)]
    assert centre == pytest.approx(corners.mean(axis=0), abs=0.3)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_regions_lie_where_the_network_looks(bench, name):
    """What a region depends on, with all weights alike: its middle is the region's centre, away from the borders."""
    kind = BACKBONES[name]
    backbone = kind(kind.sizes[0]).eval()
    grid = bench["outlines"].grid_of(backbone)
    torch.manual_seed(0)
    with torch.no_grad():  # a network of averages has a gradient that is even around its centre
        for layer in backbone.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.fill_(1 / layer.weight[0].numel())
    # So little that nothing is cut off at 6.
    square = torch.full((1, 3, grid.side, grid.side), 1e-6, requires_grad=True)
    middle = grid.count // 2
    backbone.feature_map(square)[0, :, middle, middle].sum().backward()
    felt = square.grad[0].abs().sum(0)
    rows, columns = ((felt.sum(dim=axis) / felt.sum() * (torch.arange(grid.side) + 0.5)).sum() for axis in (1, 0))
    assert float(rows) == pytest.approx(grid.centres[middle], abs=1)
    assert float(columns) == pytest.approx(grid.centres[middle], abs=1)
    assert grid.bounds[0] == 0
    assert grid.bounds[-1] == grid.side
    assert len(grid.bounds) == grid.count + 1


@pytest.fixture(scope="module")
def bird():
    species = read_species(SEEN)[0]
    return choose_looks(species, 4, np.random.default_rng(7))


@pytest.mark.parametrize("number", range(4))
def test_a_drawn_bird_is_where_painting_it_changes_the_picture(bench, bird, number, monkeypatch):
    """Compared with the picture itself: drawn once with the bird and once without."""
    monkeypatch.setattr(picture, "_photograph", lambda _, canvas: canvas)
    mask = bench["drawn"].masks(bird[number], np.random.default_rng(number))
    with_bird = np.asarray(picture.draw_picture(bird[number], np.random.default_rng(number))).astype(int)
    monkeypatch.setattr(picture, "_paint_bird", lambda *_: None)
    without = np.asarray(picture.draw_picture(bird[number], np.random.default_rng(number))).astype(int)
    changed = np.abs(with_bird - without).sum(axis=2) > 0
    shown = (mask > 0).reshape(mask.shape[0] // 2, 2, mask.shape[1] // 2, 2).mean(axis=(1, 3))
    assert not changed[shown == 0].any()
    assert changed[shown == 1].mean() > 0.95  # some feathers have the colour of what is behind them
    assert set(np.unique(mask)) >= {0, *(1 + bench["drawn"].PARTS.index(part) for part in ("wing", "head", "breast"))}


def test_what_twigs_and_leaves_cover_is_no_bird(bench, bird, monkeypatch):
    """Compared with the picture itself: drawn once with what is in the way and once without."""
    monkeypatch.setattr(picture, "_photograph", lambda _, canvas: canvas)
    covered = 0
    for number in range(6):
        looks = bird[number % len(bird)]
        mask = bench["drawn"].masks(looks, np.random.default_rng(number))
        with_twigs = np.asarray(picture.draw_picture(looks, np.random.default_rng(number))).astype(int)
        with monkeypatch.context() as patch:
            patch.setattr(picture, "draw_foreground", lambda *_: None)
            without = np.asarray(picture.draw_picture(looks, np.random.default_rng(number))).astype(int)
            patch.setattr(bench["drawn"], "_hidden", lambda *_: False)
            whole = bench["drawn"].masks(looks, np.random.default_rng(number))
        changed = np.abs(with_twigs - without).sum(axis=2) > 0
        shown = (mask > 0).reshape(changed.shape[0], 2, changed.shape[1], 2).mean(axis=(1, 3))
        assert not (changed & (shown == 1)).any()
        covered += int((changed & (whole[::2, ::2] > 0)).sum())
    assert covered > 100  # of some birds something is covered


def test_the_shapes_are_those_of_the_field_guide(bench, bird):
    """So that a bird that is drawn in another way is noticed."""
    pose = random_pose(np.random.default_rng(3))
    ours = sorted(bench["drawn"].shapes_of(bird[0], pose), key=lambda one: one[1].points.sum())
    theirs = sorted(draw_bird(bird[0], pose)[0], key=lambda shape: shape.points.sum())
    assert len(ours) == len(theirs)
    for (_, shape), other in zip(ours, theirs, strict=True):
        assert np.allclose(shape.points, other.points)
        assert (shape.color, shape.width, shape.solid) == (other.color, other.width, other.solid)
    painted = [[one.points.sum() for _, one in bench["drawn"].shapes_of(bird[0], pose)]]
    assert painted[0] == pytest.approx([one.points.sum() for one in draw_bird(bird[0], pose)[0]])  # in the same order


def maps_by_hand():
    """Two pictures of 2 x 2 regions, two attributes: all on one region, and even."""
    return np.array([[[1.0, 0.25], [0, 0.25], [0, 0.25], [0, 0.25]]] * 2)


def test_entropy_and_likeness_of_maps_worked_out_by_hand(bench):
    attention = bench["attention"]
    assert attention.entropy(maps_by_hand()) == pytest.approx(np.array([[0, 1]] * 2))
    corners = np.array([[[1.0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]])  # first and third alike, second elsewhere
    pairs = [np.corrcoef(corners[0, :, i], corners[0, :, j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2))]
    assert attention.alike(corners) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("wanted", [0.3, 0.66, 0.85, 0.98])
def test_a_blob_is_in_the_middle_and_as_sharp_as_asked(bench, wanted):
    found = bench["attention"].blobs(81, np.full((1, 1), wanted))
    assert found.sum() == pytest.approx(1)
    assert bench["attention"].entropy(found)[0, 0] == pytest.approx(wanted, abs=0.005)
    square = found.reshape(9, 9)
    assert np.allclose(square, square[::-1])
    assert np.allclose(square, square.T)
    assert square.argmax() == 40


def test_shares_and_peaks_worked_out_by_hand(bench):
    """Two pictures, 2 x 2 regions; one attribute about the wing, one about the tail; the second bird shows no tail."""
    attention = bench["attention"]
    inside = {
        "bird": np.array([[1, 0.5, 0, 0], [0, 0, 0, 1.0]]),
        "wing": np.array([[1, 0, 0, 0], [0, 0, 0, 1.0]]),
        "tail": np.array([[0, 0.5, 0, 0], [np.nan] * 4]),
    }
    about = {"wing": np.array([0]), "tail": np.array([1])}
    scene = attention.Scene(np.zeros((2, 4, 1), np.float32), inside, about, np.array([[1, 0], [1, 1.0]]), None, None)
    found = attention.measure(scene, maps_by_hand())
    assert found["bird"] == pytest.approx([(1 + 1.5 / 4) / 2, (0 + 0.25) / 2])
    assert found["bird, has"] == pytest.approx([1, 0.125])
    assert found["wing, own"] == pytest.approx([1, 0])
    assert found["wing, others"] == pytest.approx([0.25, 0.25])
    assert found["tail, own"][0] == pytest.approx(0.125)
    assert np.isnan(found["tail, own"][1])
    assert found["wing, peak own"] == pytest.approx([1, 0])
    assert found["tail, peak others"][0] == 0
    told = attention.summary([{name: found[name] for name in ("wing, own", "bird")}] * 2)
    assert told["wing, own"] == {"mean": 50.0, "error": pytest.approx(50.0), "pictures": 2, "seeds": [50.0, 50.0]}


def test_what_is_not_above_nothing_is_the_same_everywhere(bench):
    values = np.array([[[1.0, -1], [3, -2], [-4, 0]]])
    assert bench["attention"].positive(values) == pytest.approx(np.array([[[0.25, 1 / 3], [0.75, 1 / 3], [0, 1 / 3]]]))


def test_what_a_square_shows_of_a_mask_is_cut_out_of_it(bench):
    """Against resize and crop: a mask that is a picture."""
    spec = PixelSpec(260, 260)
    mask = np.zeros((470, 634), np.uint8)
    mask[100:300, 200:500] = 255
    square = bench["attention"].cut(mask, spec)
    photograph = resize_crop(np.repeat(mask[:, :, None], 3, axis=2), spec)[:, :, 0]
    again = np.asarray(Image.fromarray(square).resize((260, 260), Image.Resampling.BILINEAR))
    assert np.abs(again.astype(int) - photograph).mean() < 1


def crosses(a, b, c, d):
    """Whether the lines a-b and c-d cross within both."""

    def side(p, q, r):
        return np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


OUTLINED = json.loads((FOLDER / "cub20_birds.json").read_text(encoding="utf-8"))["pictures"]


def test_the_outlined_birds_are_three_of_each_species():
    species = [name.partition("/")[0] for name in OUTLINED]
    assert len(OUTLINED) == 60
    assert all(species.count(one) == 3 for one in species)


def test_outlines_are_such_that_areas_can_be_taken_of_them(bench):
    """Inside their pictures, no side crosses another, and no box reaches into another of the same part."""
    outlines = bench["outlines"]
    for name, one in OUTLINED.items():
        for polygon in one["bird"]:
            assert len(polygon) >= 5, name
            assert (np.array(polygon) >= 0).all(), name
            assert (np.array(polygon) <= one["size"]).all(), name
            sides = [(polygon[i - 1], polygon[i]) for i in range(len(polygon))]
            crossing = [(a, b) for i, a in enumerate(sides) for b in sides[i + 1 :] if crosses(*a, *b)]
            assert not crossing, name
        bird = [np.array(polygon, float) for polygon in one["bird"]]
        assert 0.01 < sum(outlines.area(polygon) for polygon in bird) / np.prod(one["size"]) < 0.6, name
        assert {"bill", "head"} <= set(one["parts"]), name
        for part, boxes in one["parts"].items():
            assert sum(outlines.area(inside) for inside in outlines.part_of(boxes, bird)) > 0, (name, part)
            for i, (left, top, right, bottom) in enumerate(boxes):
                assert left < right, (name, part)
                assert top < bottom, (name, part)
                apart = [r <= left or right <= x or b <= top or bottom <= y for x, y, r, b in boxes[i + 1 :]]
                assert all(apart), (name, part)


DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.needs_data
@pytest.mark.skipif(not (DATA / "cub20").is_dir(), reason="cub20 is not there ($ZSL_TEST_DATA)")
def test_the_outlined_photographs_are_test_pictures_of_these_sizes():
    images = open_image_set(DATA / "cub20")
    for name, one in OUTLINED.items():
        with Image.open(images.root / name) as photograph:
            assert list(photograph.size) == one["size"], name
        assert images.role[images.paths.index(name)] == "test", name
