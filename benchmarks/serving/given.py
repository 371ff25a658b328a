"""What the measurements of this folder are given, and what they say of where they ran."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

ROOT = Path(__file__).resolve().parents[2]
RELIABILITY = ROOT / "benchmarks" / "results" / "reliability"


def bundle_and_pictures(asked: argparse.Namespace) -> tuple[Path, list[bytes]]:
    """A copy of the bundle in an emptied working folder, and the encoded pictures: the same ones each time.

    Args:
        asked: with `work`, `bundle`, `photographs`, and `pictures`, how many of them.

    """
    asked.work.mkdir(parents=True, exist_ok=True)
    for name in ("birds", "repository"):
        shutil.rmtree(asked.work / name, ignore_errors=True)
    bundle = Path(shutil.copytree(asked.bundle, asked.work / "birds"))
    paths = sorted(path for path in asked.photographs.rglob("*") if path.suffix.lower() in {".jpg", ".png"})
    random.Random(0).shuffle(paths)
    return bundle, [path.read_bytes() for path in paths[: asked.pictures]]


def commit() -> str:
    """The state of the sources."""
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
