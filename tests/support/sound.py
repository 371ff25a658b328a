"""Whether a bundle is sound after something was done to it or to whoever wrote it: it opens, answers as before the
change or as after it, its history tells what is in force, and what lies about is little and goes with the next change.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from support.tiny_bundle import SIDE
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.labelling.classifier import Classifier

if TYPE_CHECKING:
    from pathlib import Path

    from zsl_runtime.bundle.generation import Generation

LITTER = 3  # temporary files that one killed change may leave, and its generation
PICTURES = list(np.random.default_rng(5).integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8))


@dataclass(frozen=True)
class Answers:
    """What a bundle says.

    Attributes:
        names: its classes.
        state: sha256 of its classes and head, whatever the number of the generation is: the same state, graphs and
            pictures give the same scores.
        scores: (n, C) of PICTURES, as bytes; None where they were not computed.

    """

    names: tuple[str, ...]
    state: str
    scores: bytes | None

    def same(self, other: Answers) -> bool:
        """Whether both are the same, as far as both were computed."""
        scores = self.scores is None or other.scores is None or self.scores == other.scores
        return (self.names, self.state) == (other.names, other.state) and scores


def answers(bundle: Path, *, computed: bool = True) -> Answers:
    """By the first backend, on one thread: the same every time."""
    if not computed:
        return _answers(Bundle.open(bundle).current(), None)
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        scores, _ = classifier.score(np.stack([classifier.read(picture) for picture in PICTURES]))
        return _answers(classifier.snapshot().generation, scores.tobytes())


def _answers(generation: Generation, scores: bytes | None) -> Answers:
    bare = replace(generation, number=1, parent=0, parent_sha256="", action="export")
    return Answers(generation.table.names, hashlib.sha256(bare.to_bytes()).hexdigest(), scores)


def litter(bundle: Path) -> list[str]:
    """Temporary files, and generations beyond the one in force."""
    return [path.name for path in Bundle.open(bundle).leftovers()]


def check_sound(bundle: Path, *allowed: Answers, most: int = LITTER + 1, computed: bool = True) -> Answers:
    """Which of the allowed answers a bundle gives; AssertionError for anything that is not right."""
    opened = Bundle.open(bundle)
    answered = answers(bundle, computed=computed)
    found = next((one for one in allowed if one.same(answered)), None)
    assert found is not None, (answered.names, [one.names for one in allowed])
    number, digest = opened.pointer()
    entries, broken = opened.history()
    assert broken == []
    assert [entry["number"] for entry in entries] == list(range(1, number + 1))
    assert entries[-1]["sha256"] == digest
    for path, known in ((opened.generation_path(entry["number"]), entry["sha256"]) for entry in entries):
        assert not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() == known
    assert len(litter(bundle)) <= most, litter(bundle)
    return found


def check_clean(bundle: Path) -> None:
    """Nothing lies about, and the file itself of the history has one line for each generation."""
    assert litter(bundle) == []
    lines = [json.loads(line) for line in (bundle / "history.jsonl").read_bytes().splitlines()]
    assert [line["number"] for line in lines] == list(range(1, Bundle.open(bundle).pointer()[0] + 1))


def check_doctor(text: str, code: int) -> None:
    """zsl-doctor found nothing broken."""
    assert code == 0, text
    assert not re.findall(r"^(?:FAILED|failed|MISSING)\b.*", text, re.MULTILINE), text
