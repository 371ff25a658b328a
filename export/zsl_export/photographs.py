"""The photographs a run was trained on, found again: training ones calibrate int8, test ones measure what it costs.

A run keeps about a hundred pictures. Calibration wants `LEAST` training photographs or more, accuracy wants the run's
test photographs: both are read again from the data folder, through the pixels of the run, by the run's own split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import InputError, UsageError, ZslError
from zsl_runtime.pixels.pixels import prepare
from zsl_train.data.image_set import in_turns
from zsl_train.data.open import open_image_set
from zsl_train.data.text_lists import read_columns
from zsl_train.training.run_info import SPLIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from zsl_runtime.pixels.pixels import PixelSpec
    from zsl_train.training.run_folder import Run

LEAST, MOST = 300, 512  # photographs to calibrate on
MOST_HELD_OUT = 2000  # test photographs that are labelled in every precision
BLOCK = 16  # photographs in memory at once while accuracy is measured
TRAINING, TEST = ("train", "val"), ("test",)


@dataclass(frozen=True)
class Photographs:
    """A run's photographs on the disk.

    Attributes:
        root: their folder.
        paths: n paths relative to `root`.
        labels: (n,) int64, rows of the run's class table.
        role: (n,) str, as the run used them.
        spec: how the run's backbone wants its pictures.
        seed: of the draws.

    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    role: NDArray[np.str_]
    spec: PixelSpec
    seed: int

    def draw(self, roles: tuple[str, ...], most: int) -> NDArray[np.int64]:
        """At most so many photographs with these roles, seeded, one of each class, then the second of each, ..."""
        rows = np.flatnonzero(np.isin(self.role, roles)).astype(np.int64)
        rows = np.random.default_rng([self.seed, 19]).permutation(rows)
        return in_turns(rows, self.labels[rows])[:most]

    def read(
        self, rows: NDArray[np.int64], block: int = BLOCK
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Pictures (b, P, P, 3) and labels (b,), block by block; a photograph that cannot be read is left out."""
        for start in range(0, len(rows), block):
            pictures, labels = [], []
            for row in rows[start : start + block]:
                try:
                    pictures.append(prepare(self.root / self.paths[int(row)], self.spec))
                except InputError:  # training left it out, too
                    continue
                labels.append(int(self.labels[row]))
            if pictures:
                yield np.stack(pictures), np.array(labels, np.int64)


@dataclass(frozen=True)
class Source:
    """The photographs, or why there are none.

    Attributes:
        photographs: None when they cannot be had.
        reason: why not, as part of a message.

    """

    photographs: Photographs | None
    reason: str = ""


def find_photographs(run: Run, data: str | None) -> Source:
    """The photographs of a run, from where they are now.

    Args:
        run: as `load_run` gave it.
        data: the data folder, where it has moved; None takes the one that the run knows.

    Raises:
        UsageError: `data` was given, and cannot be read (what `open_image_set` raises) or is other data (E-DATA-OTHER).

    """
    if run.backbone.pixels is None:
        if data is not None:
            raise UsageError(
                "E-DATA-FEATURES",
                "--data gives the photographs of a run, and this run was trained on a feature file; leave --data out",
            )
        return Source(None, "the run was trained on a feature file")
    if data is not None:
        return Source(_open(run, Path(data)))
    known = run.info.get("data")
    if not isinstance(known, str):
        return Source(None, "the run does not say where its data is")
    try:
        return Source(_open(run, Path(known)))
    except ZslError as error:
        return Source(None, f"its data cannot be read ({error.code}: {error.message})")


def _open(run: Run, directory: Path) -> Photographs:
    assert run.backbone.pixels is not None
    split = None if run.folder is None else run.folder / SPLIT
    if split is None or not split.is_file():
        raise UsageError(
            "E-RUN-SPLIT", f"the run holds no {SPLIT}, which says what each photograph is for; train again"
        )
    # A data folder takes the run's split; an archive has one of its own, which does not matter here.
    own = split if (directory / "classes.csv").is_file() else None
    images = open_image_set(directory, own, run.seed)
    role_of = dict(pair for _, pair in read_columns(split, ("image", "role")))
    row_of = {name: row for row, name in enumerate(run.generation.table.names)}
    rows = [
        row
        for row, path in enumerate(images.paths)
        if path in role_of and images.table.names[images.labels[row]] in row_of
    ]
    if len(rows) < len(role_of):
        raise UsageError(
            "E-DATA-OTHER",
            f"{directory} holds {len(rows)} of the {len(role_of)} photographs of the run; give --data the data it was "
            "trained on",
        )
    names = images.table.names
    return Photographs(
        root=images.root,
        paths=tuple(images.paths[row] for row in rows),
        labels=np.array([row_of[names[images.labels[row]]] for row in rows], np.int64),
        role=np.array([role_of[images.paths[row]] for row in rows]),
        spec=run.backbone.pixels,
        seed=run.seed,
    )


def calibration_pictures(run: Run, source: Source) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Training pictures to calibrate int8 on, the classes in turns: (n, P, P, 3) uint8; and what to say about them.

    Those that the run keeps, if they are `LEAST` or all there were; otherwise from the data folder.

    Raises:
        UsageError: E-CALIBRATION when they cannot be had.

    """
    trained_on = run.scores.get("protocol", {}).get("pictures", {}).get("train")
    # A run keeps training pictures first, then test pictures.
    kept = min(len(run.pictures), trained_on) if isinstance(trained_on, int) else 0
    if kept and (kept >= LEAST or kept == trained_on):
        pictures = np.asarray(run.pictures[: min(kept, MOST)], np.uint8)
        return pictures, _facts(len(pictures), trained_on, "kept by the run")
    if source.photographs is None:
        raise UsageError(
            "E-CALIBRATION",
            f"int8 is calibrated on {LEAST} training photographs or more, the run keeps {kept}, and {source.reason}; "
            "give the data it was trained on with --data DIR, or leave int8 out of --precision",
        )
    rows = source.photographs.draw(TRAINING, MOST)
    blocks = [pictures for pictures, _ in source.photographs.read(rows)]
    if not blocks:
        raise UsageError(
            "E-CALIBRATION",
            f"none of the {len(rows)} training photographs in {source.photographs.root} can be read; give the data the "
            "run was trained on with --data DIR, or leave int8 out of --precision",
        )
    pictures = np.concatenate(blocks)
    there = int(np.isin(source.photographs.role, TRAINING).sum())
    return pictures, _facts(len(pictures), there, "read again from the data folder")


def _facts(count: int, there: int, source: str) -> dict[str, Any]:
    """For parity.json."""
    return {"pictures": count, "of": there, "role": "training", "source": source, "recommended": [LEAST, MOST]}
