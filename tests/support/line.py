"""The commands of the whole line, run in this process as a shell would run them, on settings that cost seconds."""

from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from zsl_export.cli import main as zsl_export
from zsl_runtime.cli.infer import main as zsl_infer
from zsl_train.cli import main as zsl_train
from zsl_train.data.field_guide import folder as field_guide

FEW_SPECIES = {field_guide.SEEN: 8, field_guide.UNSEEN: 3, field_guide.NEW: 2}

FEW_STEPS = {
    "folds": 2,
    "snapshots": [1.0],
    "stage1_steps": 40,
    "stage2_steps": 20,
    "stage3_steps": 20,
    "hidden": 32,
    "embedding_batch": 16,
    "batch": 16,
    "learning_rate_embedding": 1e-3,
    "learning_rate_decoder": 1e-3,
    "synthetic_per_class": 40,
    "head_epochs": 20,
    "head_batch": 64,
}


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    err: str


class Line(NamedTuple):
    """A data folder, the run trained on it, and the bundle exported from that.

    Attributes:
        data: the data folder.
        run: the run folder.
        bundle: the bundle. Tests that change its classes do so in a copy.
        scores: content of the run's scores.json.
        training: the words after `zsl-train` that made the run, without --out.

    """

    data: Path
    run: Path
    bundle: Path
    scores: dict
    training: tuple[str, ...]

    def test_pictures(self, split: str) -> list[Path]:
        """The test pictures of the seen or of the unseen classes, as the run's split.csv lists them."""
        wanted = {row["name"] for row in read_csv(self.data / "classes.csv") if row["split"] == split}
        images = [Path(row["image"]) for row in read_csv(self.run / "split.csv") if row["role"] == "test"]
        return [self.data / "images" / image for image in images if image.parent.name in wanted]

    def one_of_each(self) -> list[Path]:
        """One test picture of every class."""
        pictures = self.test_pictures("seen") + self.test_pictures("unseen")
        return list({picture.parent.name: picture for picture in pictures}.values())


def call(main, *argv: object) -> Said:
    """Run a command's `main`."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in argv])
    return Said(code, out.buffer.getvalue(), err.getvalue())


def succeed(main, *argv: object) -> Said:
    """Run a command's `main`, which must end with 0."""
    said = call(main, *argv)
    assert said.code == 0, said.err
    return said


def draw_few_species(folder: Path) -> Path:
    """The field guide with the first species of each kind: all of them would keep the network busy for a minute."""
    every = field_guide.read_species
    with patch.object(field_guide, "read_species", lambda kind: every(kind)[: FEW_SPECIES[kind]]):
        return field_guide.draw_field_guide(folder, per_class=4)


def train_and_export(data: Path, folder: Path) -> Line:
    """The first two commands of the line, in an empty folder."""
    words = (
        "--data",
        str(data),
        "--backbone",
        "efficientnet_lite2",
        "--method",
        "sc-egg",
        "--preset",
        "code",
        "--seed",
        "2",
    )
    training = (
        *words,
        *(word for name, value in FEW_STEPS.items() for word in ("--set", f"{name}={json.dumps(value)}")),
    )
    run, bundle = folder / "run", folder / "bundle"
    assert succeed(zsl_train, *training, "--out", run).out == f"{run}\n".encode()
    assert succeed(zsl_export, run, "--out", bundle).out == f"{bundle}\n".encode()
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    return Line(data, run, bundle, scores, training)


def label(bundle: Path, pictures: list[Path], *flags: object) -> bytes:
    """What `zsl-infer` prints about these pictures; on one thread, so that sums are the same every time."""
    return succeed(zsl_infer, *pictures, "--engine", bundle, "--threads", 1, *flags).out


def read_csv(source: Path | bytes) -> list[dict[str, str]]:
    """Rows of a CSV file, or of what `zsl-infer` printed."""
    text = source.decode() if isinstance(source, bytes) else source.read_text(encoding="utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))
