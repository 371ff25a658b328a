"""What tests of the commands have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from support.tiny_bundle import class_table, draw_pictures
from zsl_runtime.cli.infer import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def photos(tmp_path) -> Path:
    """One picture of each class, in class order."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(draw_pictures(class_table(), np.arange(8), seed=21)):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def infer(capfdbinary):
    """Run zsl-infer in this process, without counts at the end: (exit code, stdout, stderr lines)."""

    def run(*arguments: object) -> tuple[int, bytes, list[str]]:
        code = main([*map(str, arguments), "--quiet"])
        captured = capfdbinary.readouterr()
        return code, captured.out, captured.err.decode().splitlines()

    return run
