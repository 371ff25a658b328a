"""What several tests of the runtime need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.fake_driver import build_driver

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def driver_folder(tmp_path_factory) -> Path:
    """Where the libcuda that is none lies; compiled once."""
    return build_driver(tmp_path_factory.mktemp("driver"))
