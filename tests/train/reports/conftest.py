"""One training whose page is drawn, for all tests of reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.line import succeed
from support.tiny_data import make_tiny_data
from support.tiny_training import arguments, know_backbone, tiny_weights
from zsl_train.cli import main as zsl_train

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, trainings_draw_no_page) -> Path:
    """The run folder of a small SC-EGG on drawn pictures, as zsl-train left it, report.html included."""
    folder = tmp_path_factory.mktemp("reported")
    data = make_tiny_data(folder / "data", seen=6, unseen=3, split=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(folder / "cache"))
        patch.setattr("zsl_train.cli.draw_page", trainings_draw_no_page)  # what it was
        know_backbone(patch)
        said = succeed(zsl_train, *arguments(data, tiny_weights(folder), folder / "run"))
    assert f"curves, classes and pictures: {folder / 'run' / 'report.html'}" in said.err
    return folder / "run"
