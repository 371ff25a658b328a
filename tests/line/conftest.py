"""One run of the whole line for all tests of this folder: photographs -> zsl-train -> zsl-export."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import zsl_runtime.threads
from support.line import train_and_export
from zsl_train.data.field_guide import folder as field_guide

DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
FEW = {field_guide.SEEN: 8, field_guide.UNSEEN: 3, field_guide.NEW: 2}
no_cub20 = pytest.mark.skipif(not (DATA / "cub20").is_dir(), reason="cub20 is not there ($ZSL_TEST_DATA)")
PHOTOGRAPHS = ["drawn", pytest.param("cub20", marks=[pytest.mark.slow, pytest.mark.needs_data, no_cub20])]


@pytest.fixture(scope="session", params=PHOTOGRAPHS)
def line(request, tmp_path_factory):
    """The line on a few species of the field guide, and on photographs of 20 real ones."""
    folder = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(folder / "cache"))
        # Two threads that wait for each other on a busy machine are slower than one.
        patch.setattr(zsl_runtime.threads, "usable_cpus", lambda: 1)
        yield train_and_export(DATA / "cub20" if request.param == "cub20" else draw(folder / "my birds"), folder)


def draw(folder: Path) -> Path:
    """The field guide with the first species of each kind: all of them would keep the network busy for a minute."""
    every = field_guide.read_species
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(field_guide, "read_species", lambda kind: every(kind)[: FEW[kind]])
        return field_guide.draw_field_guide(folder, per_class=4)
