"""Small pictures are those of the pixels everybody uses, decoded once, and nothing of them stays on disk."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from support.tiny_backbone import FixedBackbone
from support.tiny_data import make_tiny_data
from zsl_runtime.errors import InputError, SystemProblem
from zsl_runtime.pixels.pixels import PixelSpec, prepare
from zsl_train.backbones.base import Comparator
from zsl_train.data import pictures as module
from zsl_train.data.open import open_image_set
from zsl_train.data.pictures import Pictures


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    return open_image_set(make_tiny_data(tmp_path / "data"))


def test_rows_are_the_prepared_pictures_in_the_order_asked_for(images, monkeypatch):
    pictures = Pictures(images, FixedBackbone(), side=32)
    rows = np.array([5, 0, 5, 3])
    wanted = np.stack([prepare(images.root / images.paths[row], PixelSpec(32, 32)) for row in rows])
    np.testing.assert_array_equal(pictures.read(rows), wanted)
    monkeypatch.setattr(module, "prepare", None)  # decoded once
    np.testing.assert_array_equal(pictures.read(rows[::-1]), wanted[::-1])
    assert pictures.read(rows[:0]).shape == (0, 32, 32, 3)


def test_nothing_is_kept_on_disk_and_nothing_is_made_before_it_is_asked_for(images, tmp_path):
    pictures = Pictures(images, FixedBackbone(), side=16)
    assert not (tmp_path / "cache").exists()
    pictures.read(np.arange(3))
    assert list((tmp_path / "cache").iterdir()) == []


def test_threads_may_read_at_once(images):
    pictures = Pictures(images, FixedBackbone(), side=16)
    alone = Pictures(images, FixedBackbone(), side=16).read(np.arange(len(images)))
    with ThreadPoolExecutor(4) as pool:
        orders = [np.random.default_rng(seed).permutation(len(images)) for seed in range(8)]
        for order, found in zip(orders, pool.map(pictures.read, orders), strict=True):
            np.testing.assert_array_equal(found, alone[order])


def test_a_picture_that_cannot_be_read_is_told(images):
    (images.root / images.paths[1]).write_bytes(b"no picture")
    with pytest.raises(InputError, match="E-IMAGE"):
        Pictures(images, FixedBackbone()).read(np.array([0, 1]))


def test_a_full_disk_is_told_before_any_picture_is_decoded(images, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SystemProblem, match="small pictures in the cache folder") as caught:
        Pictures(images, FixedBackbone()).read(np.array([0]))
    assert caught.value.exit_code == 2


def test_the_comparator_is_the_backbones_map_of_normalised_levels_and_passes_gradients():
    backbone = FixedBackbone()
    levels = (255 * torch.rand(2, 3, 24, 24)).requires_grad_()
    found = Comparator(backbone)(levels)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (backbone.grey_mean, backbone.grey_std))
    torch.testing.assert_close(found, backbone.conv((levels - mean) / std))
    found.sum().backward()
    assert levels.grad.abs().sum() > 0
    assert backbone.conv.weight.grad is None
