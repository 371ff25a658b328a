"""What scores.json says about how its figures came about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsl_train.data.att_splits import NEVER_USED
from zsl_train.data.given import GivenFeatures
from zsl_train.scoring.folds import MINIMUM_SEEN, Fold

if TYPE_CHECKING:
    from zsl_train.backbones.base import Backbone
    from zsl_train.recipe import Recipe
    from zsl_train.training.choice import Choice
    from zsl_train.training.prepared import Prepared
    from zsl_train.training.shipped import Shipped


def head_rows(shipped: Shipped, pictures: int) -> dict[str, int] | None:
    """How many real and synthetic rows the head that ships was made of; None where attributes alone make it.

    Args:
        shipped: head and modules.
        pictures: that were trained on.

    """
    trained = shipped.trained
    if trained.head_rule == "rows":
        return None
    if trained.head_rule == "gaussian":
        return {"real": pictures, "synthetic": 0}
    unseen = len(shipped.head) - len(shipped.replay.names)
    return {"real": len(shipped.replay.features), "synthetic": unseen * trained.synthetic_per_class}


def crossfit_reason(choice: Choice, folds: int) -> dict[str, str]:
    """Why there is no cross-fitted H beside that of the validation classes; empty where there is, or neither is."""
    if choice.validation_H is None or choice.validation_H_crossfitted is not None:
        return {}
    known = of_folds(folds) if folds == 1 else f"one alone of {of_folds(folds)} has held-out pictures of both kinds"
    return {"validation_H_crossfitted": f"{known}: there are no others to choose for it"}


def null_reasons(prepared: Prepared) -> dict[str, str]:
    """Figure -> why it is null, for every figure of the test pictures that cannot be known."""
    classes = int((~prepared.images.table.seen).sum())
    unseen, seen = (len(prepared.rows("test", seen=kind)) for kind in (False, True))
    both = ("H", "H_uncalibrated", "AUSUC")
    unit = prepared.images.unit
    reasons: dict[str, str] = {}
    if seen == 0:
        reasons |= dict.fromkeys(("S", *both), f"no test {unit} of seen classes")
    if unseen == 0:
        why = f"no {unit} of unseen classes" if classes else "no unseen classes"
        reasons |= dict.fromkeys(("T1", "U", "T1_czsl", *both), why)
    elif classes == 1:
        reasons["T1_czsl"] = "a single unseen class"
    if seen == unseen == 0:
        reasons["ECE"] = f"no test {unit}"
    return reasons


def of_folds(count: int) -> str:
    """How many folds there are, in words."""
    return "1 fold" if count == 1 else f"{count} folds"


def selection_rule(recipe: Recipe, folds: list[Fold], choice: Choice) -> str:
    """How gamma and the rest were chosen, or why they were not."""
    if choice.validation_H is not None:
        return (
            f"{of_folds(len(folds))} of validation classes carved out of the seen ones"
            f"{', half of them newcomers to the training,' if choice.head else ''} chose the share of the last stage, "
            f"{'the settings of the head, ' if choice.head else ''}gamma and the temperature; test pictures were "
            "looked at once"
        )
    if recipe.folds == 0:
        why = "folds = 0"
    elif not folds:
        why = f"fewer than {MINIMUM_SEEN} seen classes"
    else:
        why = "no photographs of training classes to hold out"
    return f"nothing was selected ({why}): gamma 0, temperature 1, the whole schedule"


def features_used(backbone: Backbone | GivenFeatures) -> dict[str, Any]:
    """Where the features come from, and for a feature file which one and what of its split is left alone."""
    if isinstance(backbone, GivenFeatures):
        return {"features": str(backbone), "feature_file": backbone.facts(), "published_folds": NEVER_USED}
    return {"features": f"{backbone.name} at {backbone.pixels.crop} px, weights {backbone.weights_sha256[:12]}"}


def protocol(
    prepared: Prepared, recipe: Recipe, backbone: Backbone | GivenFeatures, folds: list[Fold], choice: Choice
) -> dict[str, Any]:
    """What stands behind the figures (docs/methods.md 1.5)."""
    table = prepared.images.table
    return {
        "split": prepared.images.split_version,
        **features_used(backbone),
        "attributes": prepared.images.attribute_source or f"{len(table.attributes)} class attributes",
        "classes": {"seen": int(table.seen.sum()), "unseen": int((~table.seen).sum())},
        "pictures": {
            "train": len(prepared.training_rows()),
            "test_seen": len(prepared.rows("test", seen=True)),
            "test_unseen": len(prepared.rows("test", seen=False)),
            "unreadable": int((~prepared.store.ok).sum()),
        },
        "selection": selection_rule(recipe, folds, choice),
        "setting": "inductive; attributes of the unseen classes are known while training (semantic-transductive)",
        "seed": recipe.seed,
    }
