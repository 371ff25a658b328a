"""Settings of SP-AEN and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from zsl_runtime.errors import UsageError
from zsl_train.methods.pooled import at_least_one

NAME = "sp-aen"
AT_LEAST_ONE = ("hidden", "batch", "critic_steps", "sheet_pictures")
SNAPSHOTS = (0.05, 0.1, 0.25, 0.5, 1.0)  # the adversary can be trained too long: early shares are compared, too
SLOPE = 0.3  # negative slope of every LeakyReLU (docs/methods.md 3.2)


@dataclass(frozen=True)
class Config:
    """Settings of SP-AEN. [P] paper, [C] published code, [O] ours.

    Attributes:
        scaling: of the pooled features: `l2` [C], or another of the baselines' scalings [O].
        hidden: width of the hidden layers of E, F and G, 1024 [C].
        dropout: share dropped of E's input and hidden layer, 0.5 [C].
        phases: `two`: first F and G, then E and D with F fixed [C]; or all `joint`ly [P, Eq. 6].
        margin: gamma of the ranking loss, 0.2 [C].
        negatives: one of `any` wrong class [P]; of those that violate the margin one at `random` [C], their `mean` or
            the `max` [C's options].
        rank_weight: 1000 [C]; 1 [P].
        adversarial: the critic's score through a `sigmoid` [C], or as it is, `wasserstein` [P names WGAN].
        adversarial_weight: 50 [C]; beta = 5 [P]; 0 leaves F, G and D out: classification only.
        penalty: weight of the gradient penalty on the raw score, times adversarial_weight, 10 [C].
        critic_steps: critic updates a step, 5 [C].
        reconstruction: what G rebuilds: `features`, or `images` at 128 px [variants of P and C].
        feature_weight: of the squared distance of rebuilt features, in units of the mean squared length of features (1
            where they are of unit length): other scalings drown the norm term otherwise [O]; alpha = 10 [P, and C's
            unused term].
        pixel_weight: of the mean squared error of pixels, in squared grey levels, 0.03 [C].
        perceptual_weight: of the mean squared error in the comparator's map, 3 [C].
        norm_weight: of (|F(x)| - 1)^2, which keeps F on the scale of semantic vectors, 2 [C]; not in [P].
        weight_decay: half of it times the squared weights of E, and of F and G, 5e-6 [C].
        clip: largest norm of the gradient of one tensor, 10 [C].
        learning_rate: of every Adam, 1e-4 [P, C].
        drop_at: share of a stage after which the learning rate is a tenth: 0.5 [C: step 100,000]; [P] waits for a
            plateau.
        batch: 128 [C].
        stage1_epochs: of F and G; an epoch is n / batch steps. Not in `joint` phases.
        stage1_steps: when positive, used in place of epochs; 200,000 [C].
        stage2_epochs: of E and D, or of all four jointly.
        stage2_steps: when positive, used in place of epochs; 200,000 [C].
        decoder_channels: of the picture decoder's first map; half after every up-convolution but the first [O].
        inverter_weights: a weight file of the published fc6 inverter, which is then G's fixed picture part [C]; empty
            trains a smaller one from scratch [O].
        comparator_weights: a weight file of CaffeNet's convolutions, whose fifth is then the comparator [P, C]; empty
            takes an early map of the run's backbone [O].
        sheet_pictures: training pictures held out of reconstruction and shown beside what G makes of them [O].

    """

    scaling: Literal["l2", "l2-centred", "standard", "minmax"] = "l2"
    hidden: int = 1024
    dropout: float = 0.5
    phases: Literal["two", "joint"] = "two"
    margin: float = 0.2
    negatives: Literal["any", "random", "mean", "max"] = "random"
    rank_weight: float = 1000.0
    adversarial: Literal["sigmoid", "wasserstein"] = "sigmoid"
    adversarial_weight: float = 50.0
    penalty: float = 10.0
    critic_steps: int = 5
    reconstruction: Literal["features", "images"] = "features"
    feature_weight: float = 10.0
    pixel_weight: float = 0.03
    perceptual_weight: float = 3.0
    norm_weight: float = 2.0
    weight_decay: float = 5e-6
    clip: float = 10.0
    learning_rate: float = 1e-4
    drop_at: float = 0.5
    batch: int = 128
    stage1_epochs: float = 30.0
    stage1_steps: int = 0
    stage2_epochs: float = 60.0
    stage2_steps: int = 0
    decoder_channels: int = 256
    inverter_weights: str = ""
    comparator_weights: str = ""
    sheet_pictures: int = 16

    def __post_init__(self) -> None:
        at_least_one(NAME, self, AT_LEAST_ONE)
        if not self.dropout < 1:
            raise UsageError("E-RECIPE", f"dropout = {self.dropout!r} of {NAME}; expected a share below 1")
        if self.decoder_channels < 8 or self.decoder_channels % 8:
            raise UsageError(
                "E-RECIPE", f"decoder_channels = {self.decoder_channels!r} of {NAME}; expected a multiple of 8"
            )


# What the paper leaves open (margin, dropout, batch, critic steps, betas, clipping, steps) is the code's in `paper`.
PRESETS: dict[str, dict[str, Any]] = {
    # Ours, for minutes instead of days: a tenth of the steps asks for ten times the learning rate. Lengths: `size`.
    "default": {"learning_rate": 1e-3},
    "paper": {
        "phases": "joint",
        "negatives": "any",
        "rank_weight": 1.0,
        "adversarial": "wasserstein",
        "adversarial_weight": 5.0,
        # Comparator and pixels share alpha = 10; lambda_p of the pixels is not given: one in 100, as in the code.
        "perceptual_weight": 10.0,
        "pixel_weight": 0.1,
        "norm_weight": 0.0,
        "weight_decay": 0.0,
        "stage2_steps": 200_000,
    },
    "code": {"stage1_steps": 200_000, "stage2_steps": 200_000},
}
