"""DCR-GAN: settings and presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from zsl_runtime.errors import UsageError
from zsl_runtime.head.head import FitSettings, View
from zsl_train.methods.pooled import at_least_one

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "dcr-gan"
HEAD = "gaussian"
AT_LEAST_ONE = (
    *("searched_width", "metric_batch", "regressor_hidden", "regressor_batch", "hidden", "batch", "critic_steps"),
    *("guide_fakes", "classifier_batch", "synthetic_per_class"),
)


@dataclass(frozen=True)
class Config:
    """Settings of DCR-GAN. [P] paper, [C] published code for CUB unless said, [O] ours.

    Attributes:
        scaling: of the pooled features: `minmax` [C], `standard`, `l2` or `l2-centred` [O]. The generator's output is
            then linear in place of ReLU.
        searched_width: L, width of the searched space; 20 [C].
        margin: of the triplet loss, 1 [C].
        metric_batch: 64 [C].
        metric_epochs: of MN, where metric_steps is 0.
        metric_steps: 100001 [C].
        rectify_epochs: of SRN, where rectify_steps is 0; counted as if every step saw all pictures.
        rectify_steps: 20000: the checkpoint that is used [C].
        rectify_classes: seen classes that a step of SRN looks at; 0 takes all [C], 1 one after the other [P].
        rectify_targets: of SRN: each class's mean output of MN, `scaled` to [0, 1] [C], or as it is: `plain` [P].
        rectify_output: of SRN: `sigmoid` [C] or `linear` [P].
        learning_rate_metric: of MN and SRN; 1e-4 [C].
        decay: what of the weights is added to the losses of MN and SRN: the sum of `squares` [C], biases left out, or
            the `norm` of all parameters [P, Eq. 3 and 4, in no preset].
        metric_decay: its weight for MN, 5e-5 [C]; 1 [P].
        rectify_decay: its weight for SRN, 5e-6 [C]; 1 [P].
        use_searched: whether there are MN, SRN, R(a) and F2 at all; false only in the paper's variant A.
        regressors: F1 and F2 are trained on real features `before` the GAN and then frozen [C], or `joint`: with G, on
            its fakes [P].
        regressor_hidden: f_hid, hidden width of F1 and F2; 7000 [C].
        regressor_batch: 64 [C].
        semantic_epochs: of F1, 50 [C].
        semantic_steps: when positive, in place of epochs.
        searched_epochs: of F2, 100 [C].
        searched_steps: when positive, in place of epochs.
        semantic_output: of F1: `relu` [C] or `linear` [P, which names none].
        regression: of F1 and F2, in all stages: `mse` [C], `l1`, the mean over all elements, or `l1-norm`, the sum over
            a vector's elements [P, Eq. 7 and 8].
        learning_rate_regressor: 1e-4 [C].
        dead_view: what ships of an F1 that says nothing of the pictures: its view is `drop`ped [O], or it is a
            `prior`: a constant for each class, which is what the published classifier makes of it [C].
        hidden: width of the hidden layers of G and D, 4096 [C].
        batch: 64 [C].
        gan_epochs: 100 [C]. An epoch is n / batch outer steps.
        gan_steps: when positive, outer steps in place of epochs.
        critic_steps: critic updates an outer step, 5 [C].
        critic_condition: whether D looks at [a, R(a)] beside the feature; false in the paper's variants A and B.
        penalty: gradient penalty weight, 10 [C].
        learning_rate_generator: 1e-4 [C].
        learning_rate_critic: 1e-4 [C].
        guide_fakes: fakes a class that F1 and F2 look at in each step; 5 [C]. `joint`: for unseen classes only.
        guide_classes: seen, and unseen, classes drawn for that in each step; 0 takes all [C].
        seen_semantic: c1, weight of F1 on fakes of seen classes; 1 [C]. `joint`: lambda 1, on the step's own fakes.
        unseen_semantic: c2, of F1 on fakes of unseen classes; 1 [C], 0 [P].
        seen_searched: c3, of F2 on fakes of seen classes; 1 [C]. `joint`: lambda 2, on the step's own fakes.
        unseen_searched: c4, of F2 on fakes of unseen classes; 1 [C], 0 [P].
        classification_weight: of a frozen softmax classifier's loss on G's fakes; 0, in variants A and B 0.01 [C].
        classifier_epochs: of that classifier, 50 [C].
        classifier_steps: when positive, in place of its epochs.
        classifier_batch: 4096 [C].
        learning_rate_classifier: 1e-3 [C].
        precision: of the large matrix products, `float32`, or `bf16` on machines that have it [O].
        synthetic_per_class: synthetic features a class without photographs; 150 [C].
        head_epochs: of the visual view, 25 [C].
        head_learning_rate: of the visual view, 1e-3 [C].
        head_batch: of the visual view, 150 [C].
        head_other_epochs: of the semantic and the searched view, 20 [C].
        head_other_batch: of the semantic and the searched view, 100 [C].
        head_semantic_learning_rate: 1e-3 [C].
        head_searched_learning_rate: 0.1 [C].
        semantic_weight: w1, of the semantic view; 0.8 [C on CUB without seen classes: with them, an oracle]. 0: no
            such view.
        searched_weight: w2, of the searched view; 0.05 [C on CUB without seen classes]. 0: no such view.
        czsl_synthetic_per_class: of the classifier behind T1_czsl, as the five below; 0 is the head's own. 1100 [C].
        czsl_head_batch: 1400 [C].
        czsl_head_learning_rate: the head's own, but on SUN [C].
        czsl_searched_learning_rate: 1e-3 [C].
        czsl_semantic_weight: 0.8 [C].
        czsl_searched_weight: 0.05 [C].

    """

    scaling: Literal["minmax", "standard", "l2", "l2-centred"] = "minmax"
    searched_width: int = 20
    margin: float = 1.0
    metric_batch: int = 64
    metric_epochs: float = 100.0
    metric_steps: int = 100001
    rectify_epochs: float = 20000.0
    rectify_steps: int = 20000
    rectify_classes: int = 0
    rectify_targets: Literal["scaled", "plain"] = "scaled"
    rectify_output: Literal["sigmoid", "linear"] = "sigmoid"
    learning_rate_metric: float = 1e-4
    decay: Literal["squares", "norm"] = "squares"
    metric_decay: float = 5e-5
    rectify_decay: float = 5e-6
    use_searched: bool = True
    regressors: Literal["before", "joint"] = "before"
    regressor_hidden: int = 7000
    regressor_batch: int = 64
    semantic_epochs: float = 50.0
    semantic_steps: int = 0
    searched_epochs: float = 100.0
    searched_steps: int = 0
    semantic_output: Literal["relu", "linear"] = "relu"
    regression: Literal["mse", "l1", "l1-norm"] = "mse"
    learning_rate_regressor: float = 1e-4
    dead_view: Literal["drop", "prior"] = "drop"
    hidden: int = 4096
    batch: int = 64
    gan_epochs: float = 100.0
    gan_steps: int = 0
    critic_steps: int = 5
    critic_condition: bool = True
    penalty: float = 10.0
    learning_rate_generator: float = 1e-4
    learning_rate_critic: float = 1e-4
    guide_fakes: int = 5
    guide_classes: int = 0
    seen_semantic: float = 1.0
    unseen_semantic: float = 1.0
    seen_searched: float = 1.0
    unseen_searched: float = 1.0
    classification_weight: float = 0.0
    classifier_epochs: float = 50.0
    classifier_steps: int = 0
    classifier_batch: int = 4096
    learning_rate_classifier: float = 1e-3
    precision: Literal["float32", "bf16"] = "float32"
    synthetic_per_class: int = 150
    head_epochs: int = 25
    head_learning_rate: float = 1e-3
    head_batch: int = 150
    head_other_epochs: int = 20
    head_other_batch: int = 100
    head_semantic_learning_rate: float = 1e-3
    head_searched_learning_rate: float = 0.1
    semantic_weight: float = 0.8
    searched_weight: float = 0.05
    czsl_synthetic_per_class: int = 0
    czsl_head_batch: int = 0
    czsl_head_learning_rate: float = 0.0
    czsl_searched_learning_rate: float = 0.0
    czsl_semantic_weight: float = 0.0
    czsl_searched_weight: float = 0.0

    def __post_init__(self) -> None:
        at_least_one(NAME, self, AT_LEAST_ONE)
        for name in ("semantic_weight", "searched_weight"):
            if not getattr(self, name) >= 0:
                raise UsageError("E-RECIPE", f"{name} = {getattr(self, name)!r} of {NAME}; expected 0 or more")
        for name in ("semantic_weight", "searched_weight"):
            if getattr(self, f"czsl_{name}") > 0 and getattr(self, name) == 0:
                raise UsageError(
                    "E-RECIPE", f"czsl_{name} of {NAME} weighs a view that {name} = 0 leaves out; give both or neither"
                )
        # Refused now, not after an hour of training.
        for settings in (self, for_unseen(self)):
            head_views(settings, {"visual": 1, "semantic": 1, "searched": 1})


# CUB's columns of the published code: the head's, and the one of unseen classes alone. What they are on other data is
# in the recipes.
CODE: dict[str, Any] = {
    "dead_view": "prior",
    "czsl_synthetic_per_class": 1100,
    "czsl_head_batch": 1400,
    "czsl_searched_learning_rate": 1e-3,
}
PRESETS: dict[str, dict[str, Any]] = {
    # Ours: narrower and faster, so that minutes on two cores train it, standardised, an F1 that cannot die. Lengths:
    # `size`.
    "default": {
        "scaling": "standard",
        "metric_steps": 1500,
        "rectify_steps": 3000,
        "learning_rate_metric": 5e-4,
        "regressor_hidden": 1024,
        "semantic_epochs": 20.0,
        "searched_epochs": 20.0,
        "semantic_output": "linear",
        "hidden": 1024,
        "learning_rate_generator": 5e-4,
        "learning_rate_critic": 5e-4,
        "guide_classes": 10,
        "head_searched_learning_rate": 5e-3,
    },
    # Eq. 2 to 10 and the two algorithms. Numbers that the paper does not give are the code's, and so is the decay: with
    # that of Eq. 3 and 4 (`decay` norm, weights 1) MN and SRN shrink to a constant (docs/methods.md 4.5).
    "paper": {
        **CODE,
        "rectify_classes": 1,
        "rectify_targets": "plain",
        "rectify_output": "linear",
        "regressors": "joint",
        "semantic_output": "linear",
        "regression": "l1-norm",
        "unseen_semantic": 0.0,
        "unseen_searched": 0.0,
    },
    "code": CODE,
}


def for_unseen(config: Config) -> Config:
    """With the settings of the classifier of unseen classes alone for those of the head; `config` where it has none."""
    own = [name for name in vars(config) if name.startswith("czsl_")]
    if not any(getattr(config, name) for name in own):
        return config
    cleared: dict[str, Any] = dict.fromkeys(own, 0)
    return replace(
        config,
        synthetic_per_class=config.czsl_synthetic_per_class or config.synthetic_per_class,
        head_batch=config.czsl_head_batch or config.head_batch,
        head_learning_rate=config.czsl_head_learning_rate or config.head_learning_rate,
        head_searched_learning_rate=config.czsl_searched_learning_rate or config.head_searched_learning_rate,
        semantic_weight=config.czsl_semantic_weight or config.semantic_weight,
        searched_weight=config.czsl_searched_weight or config.searched_weight,
        **cleared,
    )


def head_views(config: Config, widths: Mapping[str, int]) -> tuple[View, ...]:
    """The views of the lifted features; UsageError for impossible settings.

    Args:
        config: settings.
        widths: columns of each view, in order: `visual`, then `semantic` or `prior`, and `searched`, as there are.

    """
    epochs, batch = config.head_other_epochs, config.head_other_batch
    semantic = FitSettings(epochs, batch, config.head_semantic_learning_rate)
    searched = FitSettings(epochs, batch, config.head_searched_learning_rate)
    fits = {
        "visual": (1.0, FitSettings(config.head_epochs, config.head_batch, config.head_learning_rate)),
        "semantic": (config.semantic_weight, semantic),
        "prior": (config.semantic_weight, semantic),
        "searched": (config.searched_weight, searched),
    }
    views, start = [], 0
    for name, width in widths.items():
        weight, fit = fits[name]
        if weight > 0:
            views.append(View(name, start, start + width, weight, fit))
        start += width
    return tuple(views)
