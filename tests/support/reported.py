"""Runs for reports, put together in memory: as many classes as wanted, with any names, without a training."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from zsl_runtime.accuracy import by_class, confusion, mixups, spread
from zsl_train.reports.run_files import RunFiles
from zsl_train.scoring.evaluate import score
from zsl_train.training.material import Answers, Maps, Material, Plane


def jpeg(seed: int = 0, side: int = 24) -> bytes:
    """A small photograph."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def draw_scores(classes: int, labels: np.ndarray, seed: int, strength: float = 2.0) -> np.ndarray:
    """(n, C) float32: noise, and something for the right class."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((len(labels), classes)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += strength
    return logits


def answers_of(logits: np.ndarray, labels: np.ndarray, seen: np.ndarray, gamma: float, temperature: float) -> Answers:
    """Answers worked out here, by hand."""
    calibrated = (logits.astype(np.float64) - gamma * seen) / temperature
    probability = np.exp(calibrated - calibrated.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    best = np.argsort(-calibrated, axis=1)[:, :3]
    rows = np.arange(len(labels))
    kinds = {}
    for kind in (True, False):
        columns = np.flatnonzero(seen == kind)
        kinds[kind] = columns[logits[:, columns].argmax(axis=1)] if len(columns) else np.full(len(labels), -1)
    both = seen.any() and not seen.all()
    lead = logits[rows, kinds[True]] - logits[rows, kinds[False]] if both else np.zeros(len(labels))
    return Answers(
        lines=rows.astype(np.int32),
        labels=labels.astype(np.int32),
        best=best.astype(np.int32),
        probability=np.take_along_axis(probability, best, axis=1).astype(np.float32),
        of_truth=probability[rows, labels].astype(np.float32),
        best_seen=kinds[True].astype(np.int32),
        best_unseen=kinds[False].astype(np.int32),
        lead=lead.astype(np.float32),
    )


def plane_of(classes: int, seen: np.ndarray, seed: int = 0) -> Plane:
    """Points anywhere."""
    rng = np.random.default_rng(seed)

    def points(kind: bool) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.flatnonzero(seen == kind), 3).astype(np.int32)
        return rng.standard_normal((len(labels), 4)).astype(np.float32), labels

    (known, known_labels), (new, new_labels), (made, made_labels) = points(True), points(False), points(False)
    means = rng.standard_normal((classes, 4)).astype(np.float32)
    shares = np.array([0.5, 0.2, 0.4, 0.1], np.float32)
    return Plane(known, known_labels, new, new_labels, made, made_labels, means, means + 0.1, shares)


def make_reported(
    names: tuple[str, ...],
    seen: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    attributes: tuple[str, ...] = ("wing", "bill", "tail"),
    seed: int = 0,
    strength: float = 2.0,
    folder: str = "run",
    gamma: float = 0.3,
    temperature: float = 1.5,
    log: tuple[dict, ...] = (),
    **changes,
) -> RunFiles:
    """A finished run of these classes; `labels` are those of its test pictures, four of each class without."""
    labels = np.repeat(np.arange(len(names)), 4) if labels is None else labels
    logits = draw_scores(len(names), labels, seed, strength)
    answers = answers_of(logits, labels, seen, gamma, temperature) if len(labels) else None
    predicted = np.zeros(0, np.int64) if answers is None else answers.predicted
    counts = confusion(predicted, labels, len(names))
    figures = score(logits, labels, seen, gamma, temperature)
    unseen = int((~seen).sum())
    scores = {
        **figures,
        "T1_czsl": figures["T1"],
        "head": "gaussian",
        "head_settings": {"shrinkage": 0.2, "share": 0.0},
        "gamma": gamma,
        "temperature": temperature,
        "validation_H": 50.0,
        "validation_H_crossfitted": 48.0,
        "method": "sc-egg",
        "preset": "default",
        "settings_chosen": {},
        "train_seconds": 12.3,
        "null": {name: "the data lacks it" for name in ("T1", "U", "S", "H", "AUSUC") if figures[name] is None},
        "protocol": {
            "split": "given by split.csv",
            "features": "tiny at 16 px",
            "attributes": f"{len(attributes)} class attributes",
            "classes": {"seen": int(seen.sum()), "unseen": unseen},
            "pictures": {"train": 99, "test_seen": 10, "test_unseen": 12, "unreadable": 0},
            "selection": "2 folds",
            "setting": "inductive",
            "seed": seed,
        },
        "baselines": {"eszsl": {**figures, "T1_czsl": None, "seconds": 0.1, "ahead": -3.0, "ahead_spread": 1.0}},
        "machine": {"processor": "one", "torch": "2"},
        "spread": spread(predicted == labels, labels, seen)._asdict(),
        "chance": {"all": 100 / len(names), "unseen": 100 / unseen if unseen else None},
        "classes": [one._asdict() for one in by_class(counts, names, seen)],
        "mixups": [one._asdict() for one in mixups(counts, names, 20)],
        "alike": [],
        "warnings": [],
        **changes,
    }
    material = Material(answers, plane_of(len(names), seen, seed) if len(names) > 2 else None)
    if answers is not None:
        chosen = np.arange(min(3, len(answers)), dtype=np.int32)
        told = np.tile(np.arange(len(attributes), dtype=np.int32), (len(chosen), 1))
        values = np.random.default_rng(seed).random((*told.shape, 4, 4)).astype(np.float32)
        maps = Maps(chosen, told, values / values.sum(axis=(2, 3), keepdims=True))
        kept = [*map(int, chosen), *np.flatnonzero(answers.right)[:3], *np.flatnonzero(~answers.right)[:3]]
        material = Material(answers, material.plane, maps, {int(row): jpeg(int(row)) for row in kept})
    return RunFiles(
        folder=Path(folder),
        info={"versions": {"zsl-deploy": "1"}, "data": "data", "state": "finished"},
        recipe={"method": "sc-egg", "preset": "default", "seed": seed, "settings": {"hidden": 8}},
        scores=scores,
        names=names,
        seen=seen,
        attributes=attributes,
        pictures=tuple(f"{names[k]}/{row:03}.jpg" for row, k in enumerate(labels.tolist())),
        split="the same",
        log=list(log),
        material=material,
    )
