"""What a finished training puts together for its report: `report.safetensors` (`training.material`).

Nothing here is chosen by, or changes, what ships. It looks at a bounded number of pictures, however large the data are.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from zsl_runtime.errors import InputError
from zsl_runtime.explaining.maps import evened
from zsl_runtime.head.head import log_softmax
from zsl_runtime.pixels.pixels import PixelSpec, prepare
from zsl_train.methods.base import run_batched
from zsl_train.training.flat import Axes, make_axes, placed
from zsl_train.training.material import KNOWN, Answers, Maps, Material, Plane
from zsl_train.training.shipped import embed_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Bools, Floats, Ints
    from zsl_runtime.head.head import Head
    from zsl_train.backbones.base import Centres
    from zsl_train.training.prepared import Prepared
    from zsl_train.training.shipped import Shipped
    from zsl_train.training.trainer import Trainer

SIDE = 144  # pixels of a kept photograph
QUALITY = 80  # of its JPEG file
SHOWN = 4  # photographs of each kind: right ones that the model was surest of, wrong ones; of seen, of unseen classes
SHEETS, PER_SHEET = 5, 5  # photographs with maps, and attributes on each
POINTS, PER_CLASS = 1200, 24  # features of one kind that are placed on the plane, and of one class
SYNTHETIC = 8  # features synthesized for a class
NOISE_SEED = 37


def gather(
    trainer: Trainer, shipped: Shipped, logits: Floats, pixels: PixelSpec | None, centres: Centres | None = None
) -> Material:
    """Everything for the report of a run.

    Args:
        trainer: has trained what ships.
        shipped: head and modules.
        logits: (n, C) scores of the test pictures before gamma and temperature.
        pixels: how the model sees a photograph; None for a run on a feature file.
        centres: of the backbone's regions in it; None takes equal tiles.

    """
    prepared = trainer.prepared
    test, lacking = prepared.rows("test"), {}
    if not len(test):
        lacking["answers"] = f"there are no test {prepared.images.unit}"
        return Material(plane=make_plane(trainer, shipped), lacking=lacking)
    answers = make_answers(prepared, shipped.head, logits)
    maps = make_maps(trainer, shipped, answers)
    if maps is not None and pixels is not None and centres is not None:
        maps = replace(maps, values=evened(maps.values, *centres, pixels.crop))
    if maps is None:
        lacking["maps"] = "this method has no attention over regions of a picture"
    photographs: dict[int, bytes] = {}
    if pixels is None:
        lacking["photographs"] = "this run was trained on rows of a feature file, not on photographs"
    else:
        of_seen = prepared.images.table.seen[answers.labels]
        kinds = [(right, kind) for right in (True, False) for kind in (of_seen, ~of_seen)]
        wanted = [row for right, kind in kinds for row in surest(answers, answers.right == right, kind)[:SHOWN]]
        wanted += [] if maps is None else map(int, maps.pictures)
        photographs = _small(prepared, pixels, test, dict.fromkeys(wanted))
        if len(photographs) < len(set(wanted)):
            lacking["photographs"] = "some photographs could not be read any more when the training was finished"
    return Material(answers, make_plane(trainer, shipped), maps, photographs, lacking)


# --- answers ----------------------------------------------------------------------------------------------------------


def make_answers(prepared: Prepared, head: Head, logits: Floats) -> Answers:
    """What the shipped head says of the test pictures, as scores.json counts it."""
    test, seen = prepared.rows("test"), prepared.images.table.seen
    labels = prepared.images.labels[test]
    calibrated = ((logits - head.gamma * seen) / head.temperature).astype(np.float32)
    probability = np.exp(log_softmax(calibrated))
    # By the scores, as labels are: probabilities of 0 and 1 tie where scores do not.
    best = np.argsort(-calibrated, axis=1, kind="stable")[:, :KNOWN]
    rows = np.arange(len(test))
    of_seen, of_unseen = (_best_of(logits, kind) for kind in (seen, ~seen))
    both = seen.any() and not seen.all()
    lead = logits[rows, of_seen].astype(np.float64) - logits[rows, of_unseen] if both else np.zeros(len(test))
    listed = np.cumsum(prepared.images.role != "") - 1  # split.csv leaves out what has no role
    return Answers(
        lines=listed[test].astype(np.int32),
        labels=labels.astype(np.int32),
        best=best.astype(np.int32),
        probability=np.take_along_axis(probability, best, axis=1),
        of_truth=probability[rows, labels],
        best_seen=of_seen,
        best_unseen=of_unseen,
        lead=lead.astype(np.float32),
    )


def _best_of(logits: Floats, kind: Bools) -> NDArray[np.int32]:
    """(n,) best column among those of a kind; -1 without any."""
    columns = np.flatnonzero(kind)
    if not len(columns):
        return np.full(len(logits), -1, np.int32)
    found: NDArray[np.int32] = columns[logits[:, columns].argmax(axis=1)].astype(np.int32)
    return found


def surest(answers: Answers, *kinds: Bools) -> list[int]:
    """Rows of the pictures that are of all `kinds` (n,), those with the highest probability first; each class once."""
    rows = np.flatnonzero(np.logical_and.reduce(kinds))
    order = rows[np.argsort(-answers.probability[rows, 0], kind="stable")]
    _, first = np.unique(answers.labels[order], return_index=True)
    return [int(one) for one in order[np.sort(first)]]


# --- photographs and maps ---------------------------------------------------------------------------------------------


def _small(prepared: Prepared, pixels: PixelSpec, test: Ints, wanted: Iterable[int]) -> dict[int, bytes]:
    """Row of the answers -> JPEG file of what the model sees of it; without those that cannot be read any more."""
    from PIL import Image

    # The model's own square, smaller: a map of attention lies over what it looked at.
    spec = PixelSpec(max(SIDE, round(SIDE * pixels.resize / pixels.crop)), SIDE)
    found = {}
    for row in wanted:
        try:
            square = prepare(prepared.images.root / prepared.images.paths[int(test[row])], spec)
        except InputError:
            continue
        written = io.BytesIO()
        Image.fromarray(square).save(written, "JPEG", quality=QUALITY)
        found[row] = written.getvalue()
    return found


def make_maps(trainer: Trainer, shipped: Shipped, answers: Answers) -> Maps | None:
    """Attention of some attributes in a few test pictures; None for a method without attention over a square grid.

    The pictures are right answers that the model is sure of, of different unseen classes first, and one wrong answer.
    The attributes are those by which the class that was named differs most from the mean of all classes.
    """
    prepared = trainer.prepared
    attention = getattr(shipped.trained.embedder, "attention", None)
    regions = prepared.store.regions
    side = math.isqrt(regions.shape[1])
    if attention is None or side < 2 or side**2 != regions.shape[1]:
        return None
    seen = prepared.images.table.seen
    right = sorted(surest(answers, answers.right), key=lambda row: bool(seen[answers.labels[row]]))
    chosen = right[: SHEETS - 1] + surest(answers, ~answers.right)[:1]
    rows = prepared.rows("test")[chosen]
    with torch.inference_mode():
        found = attention(torch.from_numpy(regions[rows].astype(np.float32))).numpy(force=True)  # (p, R, A)
    told = telling(prepared.semantic, answers.predicted[chosen], PER_SHEET)
    values = np.take_along_axis(found.transpose(0, 2, 1), told[:, :, None], axis=1)  # (p, a, R)
    shape = (*told.shape, side, side)
    return Maps(np.array(chosen, np.int32), told.astype(np.int32), values.reshape(shape).astype(np.float32))


def telling(semantic: Floats, classes: Ints, most: int) -> Ints:
    """(p, a) attributes by which classes (p,) stand above the mean of all, in standard deviations, most first."""
    centred = semantic - semantic.mean(axis=0)
    spread = semantic.std(axis=0)
    apart = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    order: Ints = np.argsort(-apart[classes], axis=1, kind="stable")[:, :most]
    return order


# --- the plane --------------------------------------------------------------------------------------------------------


def make_plane(trainer: Trainer, shipped: Shipped) -> Plane | None:
    """Features and class means on axes that tell classes apart; None where fewer than three classes have pictures."""
    prepared, trained = trainer.prepared, shipped.trained
    labels, seen = prepared.images.labels, prepared.images.table.seen
    rng = np.random.default_rng([trainer.recipe.seed, NOISE_SEED])

    def lifted(rows: Ints) -> Floats:
        features = embed_rows(trained, prepared.store.regions, rows)
        return features if trained.lift is None else run_batched(trained.lift, features)

    train = _some(prepared.training_rows(), labels, rng)
    shown = _some(prepared.rows("test", seen=True), labels, rng)
    new = _some(prepared.rows("test", seen=False), labels, rng)
    x = lifted(train)
    axes = make_axes(x, labels[train], canonical=shipped.means is not None)
    if axes is None:
        return None
    synthetic, owners = _synthesized(trainer, shipped, np.flatnonzero(~seen), rng)
    told = _told(shipped, synthetic, owners)
    apart = _unseen_axes(axes, told, ~seen)

    def flat(rows: Floats) -> Floats:
        return np.concatenate([placed(rows, axes), placed(rows, apart)], axis=1).astype(np.float32)

    return Plane(
        seen=flat(lifted(shown) if len(shown) else x),
        seen_labels=labels[shown if len(shown) else train].astype(np.int32),
        unseen=flat(lifted(new)),
        unseen_labels=labels[new].astype(np.int32),
        synthetic=flat(synthetic),
        synthetic_labels=owners.astype(np.int32),
        means=flat(_with_means(told, x, labels[train])),
        told=flat(told),
        shares=np.concatenate([axes.shares, apart.shares]).astype(np.float32),
    )


def _some(rows: Ints, labels: Ints, rng: np.random.Generator) -> Ints:
    """At most PER_CLASS rows of each class and POINTS in all, drawn at random, ascending."""
    mixed = rng.permutation(rows)
    place = np.zeros(len(mixed), np.int64)
    for one in np.unique(labels[mixed]):
        of = np.flatnonzero(labels[mixed] == one)
        place[of] = np.arange(len(of))
    # Of every class the first before of any the second, so that none is missing where there are many.
    order = np.argsort(place, kind="stable")
    return np.sort(mixed[order][place[order] < PER_CLASS][:POINTS])


def _synthesized(trainer: Trainer, shipped: Shipped, classes: Ints, rng: np.random.Generator) -> tuple[Floats, Ints]:
    """What the training's generator makes of some classes, lifted (j, D), and of which class each row is (j,)."""
    own, trained = trainer.own, shipped.trained
    if own.synthesizer is None or not len(classes):
        return np.zeros((0, trained.lifted_width), np.float32), np.zeros(0, np.int64)
    owners = np.repeat(classes[: POINTS // SYNTHETIC], SYNTHETIC)
    noise = rng.standard_normal((len(owners), own.noise_width), dtype=np.float32)
    made = run_batched(own.synthesizer, trainer.prepared.semantic[owners], noise)
    return made if trained.lift is None else run_batched(trained.lift, made), owners


def _told(shipped: Shipped, synthetic: Floats, owners: Ints) -> Floats:
    """(C, D) class means as attributes tell them; NaN where nothing does."""
    if shipped.means is not None:
        return shipped.means.prior.astype(np.float32)
    return _with_means(np.full((len(shipped.head), synthetic.shape[1]), np.nan, np.float32), synthetic, owners)


def _with_means(means: Floats, rows: Floats, labels: Ints) -> Floats:
    """Class means (C, D) with those of rows (n, D) in place of them, where a class has some."""
    found = means.copy()
    for one in np.unique(labels):
        found[one] = rows[labels == one].mean(axis=0)
    return found


def _unseen_axes(axes: Axes, told: Floats, unseen: Bools) -> Axes:
    """Axes that tell apart unseen classes as attributes have them; those of the seen ones where they are too few."""
    known = unseen & np.isfinite(told).all(axis=1)
    if known.sum() < 3:
        return Axes(axes.centre, axes.directions, np.zeros(2))
    return axes.of_means(told[known])
