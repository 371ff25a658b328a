"""One run of the whole line for all tests of this folder: photographs -> zsl-train -> zsl-export."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import zsl_runtime.machine.threads
from support.line import draw_few_species, train_and_export

DATA = Path(os.environ.get("ZSL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
no_cub20 = pytest.mark.skipif(not (DATA / "cub20").is_dir(), reason="cub20 is not there ($ZSL_TEST_DATA)")
PHOTOGRAPHS = ["drawn", pytest.param("cub20", marks=[pytest.mark.slow, pytest.mark.needs_data, no_cub20])]


@pytest.fixture(scope="module", params=PHOTOGRAPHS)
def line(request, tmp_path_factory):
    """The line on a few species of the field guide, and on photographs of 20 real ones."""
    folder = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(folder / "cache"))
        # Two threads that wait for each other on a busy machine are slower than one.
        patch.setattr(zsl_runtime.machine.threads, "usable_cpus", lambda: 1)
        data = DATA / "cub20" if request.param == "cub20" else draw_few_species(folder / "my birds")
        yield train_and_export(data, folder)
