"""GFZSL: "A Simple Exponential Family Framework for Zero-Shot Learning" (Verma and Rai, ECML 2017), with one spread.

A class is a Gaussian whose parameters follow from its attributes by kernel ridge regression. Here all classes share one
full covariance (theirs are diagonal, one a class), so that a class is its mean, and everything about the head is worked
out by `zsl_train.head.gaussian`: this method gives it nothing but the scaled mean over the regions, and trains nothing.
It needs seconds, and it is the base that the methods with hours of training have to beat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from zsl_train.methods.base import Dims, Trained, TrainingData
from zsl_train.methods.eszsl import Embedder
from zsl_train.methods.lengths import Once
from zsl_train.methods.pooled import pooled_features

if TYPE_CHECKING:
    from zsl_train.methods.session import Session

NAME = "gfzsl"
HEAD = "gaussian"
PUBLISHED_HEAD = False
FOLDS = 8  # seconds each; the fewer classes a fold leaves out, the nearer it is to the final training
SCALINGS: tuple[Literal["none", "l2"], ...] = ("none", "l2")  # others only rescale axes, which whitening undoes
FLOPS_PER_SECOND = 30e9  # two cores in float64, eigendecomposition included


@dataclass(frozen=True)
class Config:
    """Settings of GFZSL. [P] paper, [O] ours.

    Attributes:
        scaling: of the features: `none` [P], `l2` for rows of unit length, or `chosen` on validation classes [O].

    """

    scaling: Literal["chosen", "none", "l2"] = "chosen"


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Features as they are. The published code sets the ridge by hand for each data set; here folds choose it.
    "paper": {"scaling": "none"},
    "code": {"scaling": "none"},
}


def variants(config: Config) -> list[Config]:
    """The settings that validation classes choose from."""
    scalings = SCALINGS if config.scaling == "chosen" else (config.scaling,)
    return [replace(config, scaling=scaling) for scaling in scalings]


def build(config: Config, dims: Dims) -> Trained:  # noqa: ARG001  # the same for every method
    """The shipped modules for these sizes, untrained; which scaling it is lies in the embedder's tensors."""
    return Trained(
        embedder=Embedder(dims.channels),
        lift=None,
        synthesizer=None,
        noise_width=0,
        feature_width=dims.channels,
        lifted_width=dims.channels,
        views=(),
        synthetic_per_class=0,
    )


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:  # noqa: ARG001  # nothing is drawn
    """Take the scaling from the training pictures; all else is the head's.

    Args:
        data: features of any R: their mean over the regions is what is looked at.
        config: settings.
        session: logs, checkpoints and snapshots.
        seed: unused: nothing is random.

    Raises:
        GateError: E-DIVERGED when the features are not finite.

    """
    trained = build(config, data.dims)
    embedder = trained.embedder
    assert isinstance(embedder, Embedder)
    scaling = SCALINGS[0] if config.scaling == "chosen" else config.scaling

    def body(_: int) -> dict[str, torch.Tensor]:
        pooled = pooled_features(data, "none")[1]
        if not bool(pooled.isfinite().all()):
            return {"length": torch.tensor(torch.nan)}
        embedder.fit(pooled, scaling)
        return {"length": pooled.norm(dim=1).mean()}

    session.loop("solve", 1, {"embedder": embedder}, body, trained)
    return trained.eval()


def stages(config: Config, dims: Dims) -> tuple[Once]:
    """A closed form: of each scaling a covariance and its decomposition, and some hundred products in the folds."""

    def seconds(count: int) -> float:
        side = min(dims.channels, count)
        decomposition = 2 * dims.channels**2 * count + 10 * dims.channels**3
        products = 100 * 2 * (count / 3) * min(side, dims.classes) * dims.classes
        return 1 + len(variants(config)) * (decomposition + products) / FLOPS_PER_SECOND

    return (Once(seconds),)
