"""Pictures, features and classes of a run, prepared once for all tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.tiny_data import make_tiny_data
from support.tiny_prepared import RECIPE
from support.tiny_run import TinyBackbone
from zsl_train.data.open import open_image_set
from zsl_train.training.prepared import prepare

if TYPE_CHECKING:
    from zsl_train.training.prepared import Prepared


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Prepared:
    """6 seen and 3 unseen classes of 6 pictures, their features taken with the tiny backbone; one is unreadable."""
    folder = make_tiny_data(tmp_path_factory.mktemp("data") / "d", seen=6, unseen=3)
    images = open_image_set(folder)
    (images.root / images.paths[int(images.rows("train")[0])]).write_bytes(b"no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return prepare(images, TinyBackbone(), RECIPE)
