"""Do the maps of attributes fall on the bird, and on the part that they are about?

    python benchmarks/explaining/attention.py --photographs CUB20 --runs RUN RUN RUN
    python benchmarks/explaining/attention.py --drawn FIELD_GUIDE --runs RUN RUN RUN

RUN are trainings of SC-EGG that differ in their seeds; CUB20 is the data folder of 20 species whose photographs are
outlined in cub20_birds.json; FIELD_GUIDE is a folder of `python -m zsl_train.data.field_guide` with its own seed and
count, whose birds are known to the pixel (drawn.py). All pictures are of the test part, no model was trained on them.

A map is a share for each region that sums to 1; what counts is how much of it lies inside an outline, by area. Beside
the attention of the model stand: the same share everywhere, which is also an untrained model, since attention begins
with weights of 0; attention of random queries of the same length; a blob in the middle of the picture, as sharp as the
attention, since birds are in the middle; the model's own attention averaged over its training pictures, which knows
where birds usually are; the lengths of the backbone's region vectors; the evidence of the attribute in each region, as
the model sums it up (docs/methods.md 2.2), and the read-out of the attribute applied to what each region adds to the
features (class activation mapping, Zhou et al. 2016; the read-out is fitted here, by ridge regression on training
pictures), both where above 0.

The result goes to --out (default benchmarks/results/attention.json) under the name of the data and as text to stdout.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from drawn import PARTS as DRAWN_PARTS
from drawn import masks_of
from outlines import covered, covered_by_mask, grid_of, part_of, tiles, to_square

from zsl_train.data.feature_store import extract
from zsl_train.data.field_guide.folder import TEST_EVERY
from zsl_train.data.field_guide.species import SEEN, UNSEEN, read_species
from zsl_train.data.open import open_image_set
from zsl_train.training.run_folder import load_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from outlines import Grid

    from zsl_train.data.image_set import ImageSet
    from zsl_train.training.run_folder import Run

HERE = Path(__file__).parent
OUTLINES = HERE / "cub20_birds.json"
RESULT = HERE.parent / "results" / "attention.json"
BIRD = "bird"
# Which attributes are about which part, by the beginnings of their names. What is not named is about the whole bird, or
# about a part that was not outlined.
PHOTOGRAPHED = {
    "bill": ("bill_",),
    "head": ("crown_", "forehead_", "eye_", "head_", "throat_", "nape_"),
    "wing": ("wing_",),
    "underside": ("breast_", "belly_", "underparts_"),
    "tail": ("tail_", "upper_tail_", "under_tail_"),
    "legs": ("leg_",),
}
DRAWN = {
    "bill": ("bill_",),
    "head": ("crown_", "crest", "face_", "eye_"),
    "neck": ("neck_",),
    "wing": ("wing_",),
    "breast": ("breast_",),
    "tail": ("tail_",),
    "legs": ("leg_",),
}
RIDGE = 0.01  # of the read-out, times the number of pictures
BLOCK = 32  # pictures at a time
FLAT = 1e-9  # of a map that is the same everywhere: its distance from the mean


@dataclass(frozen=True)
class Scene:
    """Pictures in which it is known where the bird is.

    Attributes:
        regions: (N, R, V) float32, of the backbone.
        inside: part, or `bird` -> the share of each region that it covers, (N, R); NaN where it cannot be seen.
        about: part -> columns of the attributes that are about it.
        has: (N, A), how much of each attribute the bird has: its species' row of the class table, or 0 and 1.
        training: (n, R, V) float16, regions of the training pictures.
        values: (n, A) attributes of their species.

    """

    regions: NDArray[np.float32]
    inside: Mapping[str, NDArray[np.float64]]
    about: Mapping[str, NDArray[np.int64]]
    has: NDArray[np.float64]
    training: NDArray[np.float16]
    values: NDArray[np.float64]


def photographed(data: Path, run: Run, grid: Grid) -> Scene:
    """The photographs of OUTLINES."""
    outlined = json.loads(OUTLINES.read_text(encoding="utf-8"))["pictures"]
    images = open_image_set(data)
    regions = extract(images, run.backbone).regions
    rows = [images.paths.index(path) for path in outlined]
    if not (images.role[rows] == "test").all():
        raise SystemExit("an outlined photograph is no test picture of this split")
    found: dict[str, list[NDArray[np.float64]]] = {part: [] for part in (BIRD, *PHOTOGRAPHED)}
    for one in outlined.values():
        size = tuple(one["size"])
        bird = [to_square(polygon, size, run.backbone.pixels) for polygon in one["bird"]]
        found[BIRD].append(covered(bird, grid).ravel())
        for part in PHOTOGRAPHED:
            boxes = [
                to_square([box[:2], box[2:]], size, run.backbone.pixels).ravel() for box in one["parts"].get(part, ())
            ]
            found[part].append(_seen(covered(part_of(boxes, bird), grid)))
    return _scene(images, regions, rows, found, PHOTOGRAPHED, images.table.raw[images.labels[rows]])


def drawn(data: Path, run: Run, grid: Grid, seed: int, count: int) -> Scene:
    """The test pictures of a field guide."""
    images = open_image_set(data)
    regions = extract(images, run.backbone).regions
    rows, has = [], []
    found: dict[str, list[NDArray[np.float64]]] = {part: [] for part in (BIRD, *DRAWN)}
    for seen, group in ((True, SEEN), (False, UNSEEN)):
        for species in read_species(group):
            for number, (looks, mask) in enumerate(masks_of(species, seed, count)):
                if seen and number % TEST_EVERY != TEST_EVERY - 1:
                    continue
                rows.append(images.paths.index(f"{species.name}/{number:03d}.jpg"))
                square = cut(mask, run.backbone.pixels)
                found[BIRD].append(covered_by_mask(square > 0, grid).ravel())
                for part in DRAWN:
                    found[part].append(_seen(covered_by_mask(square == 1 + DRAWN_PARTS.index(part), grid)))
                has.append(
                    [looks[name.partition("=")[0]] == name.partition("=")[2] for name in images.table.attributes]
                )
    return _scene(images, regions, rows, found, DRAWN, np.array(has, np.float64))


def _seen(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return shares.ravel() if shares.any() else np.full(shares.size, np.nan)


def _scene(  # noqa: PLR0917  # in the order of Scene
    images: ImageSet,
    regions: NDArray[np.float16],
    rows: Sequence[int],
    found: Mapping[str, Sequence[NDArray[np.float64]]],
    starts: Mapping[str, tuple[str, ...]],
    has: NDArray[np.float64],
) -> Scene:
    training = images.rows("train")
    names = images.table.attributes
    return Scene(
        regions[rows].astype(np.float32),
        {part: np.array(shares) for part, shares in found.items()},
        {part: np.flatnonzero([name.startswith(start) for name in names]) for part, start in starts.items()},
        has,
        regions[training],
        images.table.raw[images.labels[training]],
    )


def cut(mask: NDArray[np.uint8], pixels: Any) -> NDArray[np.uint8]:
    """The part of a mask (H, W) that the model's square shows, to the nearest pixel of the mask."""
    height, width = mask.shape
    (left, top), (right, bottom) = _shown((width, height), pixels)
    return mask[round(top) : round(bottom), round(left) : round(right)]


def _shown(size: tuple[int, int], pixels: Any) -> NDArray[np.float64]:
    """Two corners, in pixels of the picture, of what is shown."""
    origin, unit = to_square([(0, 0), (1, 1)], size, pixels)
    scale = unit - origin
    return np.array([-origin / scale, (pixels.crop - origin) / scale])


def maps_of(scene: Scene, run: Run, seed: int) -> dict[str, NDArray[np.float64]]:
    """Kind -> maps (N, R, A), or (N, R, 1) of those that are the same for all attributes; each sums to 1 over R."""
    trained, embedder = run.trained, run.trained.embedder
    compression = embedder.compression
    query = compression.query
    pictures, regions, _ = scene.regions.shape
    with torch.inference_mode():
        normalised = embedder.normalise(torch.from_numpy(scene.regions))
        attention = (normalised @ query.T).softmax(dim=1)
        found = {"attention": attention.double().numpy()}
        found["uniform"] = np.full((pictures, regions, 1), 1 / regions)
        drawn_query = torch.randn(query.shape, generator=torch.Generator().manual_seed(seed))
        drawn_query *= query.norm(dim=1, keepdim=True) / drawn_query.norm(dim=1, keepdim=True)
        found["random"] = (normalised @ drawn_query.T).softmax(dim=1).double().numpy()
        found["blob"] = blobs(regions, entropy(found["attention"]))
        average = np.mean([_attention(embedder, block).mean(0).numpy() for block in _blocks(scene.training)], axis=0)
        found["average"] = np.repeat(average[None].astype(np.float64), pictures, axis=0)
        found["lengths"] = positive(np.linalg.norm(scene.regions, axis=2)[:, :, None].astype(np.float64))
        if embedder.beside is not None:
            evidence = attention * (normalised @ compression.keys.T)
            found["evidence"] = positive(evidence.double().numpy())
            pooled = attention.mean(dim=2, keepdim=True) * normalised
            spreads = embedder.beside.spreads
            added = torch.cat([pooled / spreads[0], evidence / spreads[1]], dim=2) @ trained.lift.weight.T
            whole = added.sum(dim=1) + trained.lift.bias
            assert torch.allclose(whole, trained.lift(embedder(torch.from_numpy(scene.regions))), atol=1e-3)
            found["readout"] = positive(added.double().numpy() @ readout(scene, run))
    return found


def _blocks(regions: NDArray[np.float16]) -> list[torch.Tensor]:
    """Equal or nearly equal parts of the training pictures."""
    parts = np.array_split(np.arange(len(regions)), -(-len(regions) // BLOCK))
    return [torch.from_numpy(regions[rows].astype(np.float32)) for rows in parts]


def _attention(embedder: Any, regions: torch.Tensor) -> torch.Tensor:
    return (embedder.normalise(regions) @ embedder.compression.query.T).softmax(dim=1)


def readout(scene: Scene, run: Run) -> NDArray[np.float64]:
    """(D, A) from lifted features to attributes, by ridge regression on the training pictures."""
    lifted = np.concatenate(
        [run.trained.lift(run.trained.embedder(block)).numpy() for block in _blocks(scene.training)]
    )
    x = lifted.astype(np.float64) - lifted.mean(axis=0)
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1])
    return np.linalg.solve(gram, x.T @ (scene.values - scene.values.mean(axis=0)))


def positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is above 0 of (N, R, A), as shares over R; the same share everywhere where nothing is."""
    kept = np.maximum(values, 0)
    total = kept.sum(axis=1, keepdims=True)
    return np.where(total > 0, kept / np.where(total > 0, total, 1), 1 / values.shape[1])


def entropy(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of maps (N, R, A), as a share of the largest possible: (N, A) from 0, one region, to 1, all alike."""
    logs = np.log(np.where(maps > 0, maps, 1))
    return -(maps * logs).sum(axis=1) / np.log(maps.shape[1])


def blobs(regions: int, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round Gaussians in the middle of the square with these entropies (N, A): (N, R, A)."""
    side = round(regions**0.5)
    away = np.arange(side) - (side - 1) / 2
    squares = (away[:, None] ** 2 + away**2).ravel()
    widths = np.geomspace(0.2, 100, 2000)
    found = np.exp(-squares[:, None] / (2 * widths**2))  # (R, widths)
    found /= found.sum(axis=0)
    sharp = entropy(found[None])[0]  # rises with the width
    places = np.abs(sharp - wanted[..., None]).argmin(axis=2)
    return found[:, places].transpose(1, 0, 2)


def alike(maps: NDArray[np.float64]) -> float:
    """Mean correlation of the maps (N, R, A) of two attributes in one picture; maps without any shape are left out."""
    moved = maps - maps.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    shaped = lengths > FLAT
    moved = np.where(shaped, moved / np.where(shaped, lengths, 1), 0)
    count = shaped.sum(axis=(1, 2))
    pairs = np.square(moved.sum(axis=2)).sum(axis=1) - count  # each attribute with itself left out
    return float((pairs / (count * (count - 1))).mean())


def from_middle(inside: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far a bird's centre is from that of the square, in regions: (N,) from shares (N, R)."""
    side = round(inside.shape[1] ** 0.5)
    rows, columns = np.divmod(np.arange(inside.shape[1]), side)
    middle = (side - 1) / 2
    weight = inside / inside.sum(axis=1, keepdims=True)
    return np.hypot(weight @ rows - middle, weight @ columns - middle)


def measure(scene: Scene, maps: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """What each picture says of one kind of maps (N, R, A) or (N, R, 1).

    Returns:
        (N,) each, NaN where there is nothing to say: `bird` and `bird, has`, the share inside the bird of all
        attributes' maps, and of those that it has; `bird, aside` the former, in the half of the pictures in which the
        bird is farther from the middle; for every part PART: `PART, own` the share on it of the maps that are about it,
        `PART, others` of the maps that are about other parts, and `PART, peak own` and `PART, peak others` how often
        their highest region touches it.

    """
    wide = np.broadcast_to(maps, (*maps.shape[:2], scene.has.shape[1]))
    on_bird = np.einsum("nra,nr->na", wide, scene.inside[BIRD])
    found = {"bird": on_bird.mean(axis=1), "bird, has": (on_bird * scene.has).sum(axis=1) / scene.has.sum(axis=1)}
    away = from_middle(scene.inside[BIRD])
    found["bird, aside"] = np.where(away > np.median(away), found["bird"], np.nan)
    told = np.concatenate(list(scene.about.values()))
    peak = wide.argmax(axis=1)  # (N, A)
    for part, own in scene.about.items():
        others = np.setdiff1d(told, own)
        on_part = np.einsum("nra,nr->na", wide, scene.inside[part])
        touched = np.take_along_axis(scene.inside[part], peak, axis=1)
        touched = np.where(np.isnan(touched), np.nan, touched > 0)
        for name, columns in (("own", own), ("others", others)):
            found[f"{part}, {name}"] = on_part[:, columns].mean(axis=1)
            found[f"{part}, peak {name}"] = touched[:, columns].mean(axis=1)
    return found


def summary(of_seeds: Sequence[Mapping[str, NDArray[np.float64]]]) -> dict[str, dict[str, Any]]:
    """Means in percent with the standard error over pictures of what they say on average over seeds."""
    told = {}
    for name in of_seeds[0]:
        values = 100 * np.array([one[name] for one in of_seeds])  # (seeds, N)
        pictures = values.mean(axis=0)
        pictures = pictures[~np.isnan(pictures)]
        told[name] = {
            "mean": round(float(pictures.mean()), 2),
            "error": round(float(pictures.std(ddof=1) / len(pictures) ** 0.5), 2),
            "pictures": len(pictures),
            "seeds": [round(float(np.nanmean(one)), 2) for one in values],
        }
    return told


def compare(scene: Scene, runs: Sequence[Run]) -> dict[str, Any]:
    """All kinds of maps of all runs, measured."""
    measured: dict[str, list[dict[str, NDArray[np.float64]]]] = {}
    shapes: dict[str, list[tuple[float, float]]] = {}
    for seed, run in enumerate(runs):
        for kind, maps in maps_of(scene, run, seed).items():
            measured.setdefault(kind, []).append(measure(scene, maps))
            likeness = alike(maps) if maps.shape[2] > 1 else 1.0
            shapes.setdefault(kind, []).append((float(entropy(maps).mean()), likeness))
    kinds = {}
    for kind, of_seeds in measured.items():
        even, likeness = np.mean(shapes[kind], axis=0)
        kinds[kind] = {"entropy": round(float(even), 3), "likeness": round(float(likeness), 3), **summary(of_seeds)}
    over = [
        {name: own[name] - other[name] for name in ("bird", "bird, has", "bird, aside")}
        for own, other in zip(measured["attention"], measured["blob"], strict=True)
    ]
    touched = {part: (inside > 0).mean(axis=1)[~np.isnan(inside[:, 0])] for part, inside in scene.inside.items()}
    return {
        "pictures": len(scene.regions),
        "regions": scene.regions.shape[1],
        "training_pictures": len(scene.training),
        "seen_species": len(np.unique(scene.values, axis=0)),
        "attributes": {part: len(columns) for part, columns in scene.about.items()},
        "regions_touched": {part: round(100 * float(share.mean()), 2) for part, share in touched.items()},
        "over_blob": summary(over),
        "kinds": kinds,
    }


def main() -> None:
    """Measure one data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--photographs", type=Path, metavar="CUB20")
    which.add_argument("--drawn", type=Path, metavar="FIELD_GUIDE")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, metavar="RUN")
    parser.add_argument("--seed", type=int, default=0, help="of the field guide")
    parser.add_argument("--per-class", type=int, default=24, help="of the field guide")
    parser.add_argument("--tiles", action="store_true", help="take regions for equal tiles of the square")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    runs = [load_run(path) for path in arguments.runs]
    backbone = runs[0].backbone
    grid = tiles(backbone.pixels.crop, round(backbone.regions**0.5)) if arguments.tiles else grid_of(backbone)
    if arguments.photographs is not None:
        name, scene = "cub20", photographed(arguments.photographs, runs[0], grid)
    else:
        name, scene = "field_guide", drawn(arguments.drawn, runs[0], grid, arguments.seed, arguments.per_class)
    found = compare(scene, runs)
    kept = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}
    kept[name] = found
    arguments.out.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", encoding="utf-8")
    print(text_of(found))


def text_of(found: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    lines = [f"{found['pictures']} pictures; share of the map inside, percent ± standard error over pictures"]
    for kind, told in found["kinds"].items():
        shares = " ".join(
            f"{name} {told[name]['mean']:.1f} ± {told[name]['error']:.1f};"
            for name in ("bird", "bird, has", "bird, aside")
        )
        lines.append(f"{kind:10} {shares} entropy {told['entropy']:.2f}, likeness {told['likeness']:.2f}")
    for part in found["attributes"]:
        shares = (f"{kind} {told[f'{part}, own']['mean']:.1f}" for kind, told in found["kinds"].items())
        others = found["kinds"]["attention"][f"{part}, others"]["mean"]
        lines.append(f"{part:10} {', '.join(shares)}; attention for other parts {others:.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
