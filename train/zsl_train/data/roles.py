"""Which photographs train, validate and test."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import UsageError, listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zsl_runtime.head.class_table import ClassTable

ROLES = ("train", "val", "test")
TEST_SHARE = 0.2  # of a seen class's photographs, as in the proposed splits of Xian et al. (2017)


def seeded_roles(labels: NDArray[np.int64], table: ClassTable, seed: int) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """Make a split: of every seen class a fifth of the pictures is for testing, the rest for training.

    Each class is drawn by its own generator, so that adding a class leaves the others' pictures where they were. A seen
    class with two or more pictures gets at least one of each; with one, it goes to training and a note says so.

    Args:
        labels: (n,) rows of `table`.
        table: the classes; all pictures of unseen ones are for testing.
        seed: of the draw.

    Returns:
        (n,) roles, and notes.

    """
    role = np.full(len(labels), "test", dtype="<U5")
    lonely = []
    for index in np.flatnonzero(table.seen):
        name = table.names[index]
        rows = np.flatnonzero(labels == index)
        draw = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])])
        testing = min(max(1, round(TEST_SHARE * len(rows))), len(rows) - 1)
        role[draw.permutation(rows)[max(testing, 0) :]] = "train"
        if len(rows) == 1:
            lonely.append(name)
    if not lonely:
        return role, ()
    return role, (f"{len(lonely)} seen classes have one photograph, which is trained on; not tested: {listed(lonely)}",)


def check_photographs(labels: NDArray[np.int64], table: ClassTable) -> None:
    """UsageError E-DATA-NO-PHOTOS when a seen class has no picture; an unseen one without is normal."""
    _check_every_seen(labels, table, "E-DATA-NO-PHOTOS", "no photographs; add some")


def check_roles(labels: NDArray[np.int64], role: NDArray[np.str_], table: ClassTable) -> None:
    """UsageError when a seen class has nothing to train on, or an unseen one is used for anything but testing."""
    used = np.unique(labels[(role != "test") & ~table.seen[labels]])
    if len(used):
        raise UsageError(
            "E-SPLIT-UNSEEN",
            f"photographs of unseen classes have a role other than test: {listed([table.names[i] for i in used])}; "
            "an unseen class is only tested: give them the role test, or make the class seen",
        )
    what = "no photograph with the role train; give it to some"
    _check_every_seen(labels[role == "train"], table, "E-DATA-NO-TRAINING", what)


def _check_every_seen(labels: NDArray[np.int64], table: ClassTable, code: str, what: str) -> None:
    without = np.setdiff1d(np.flatnonzero(table.seen), labels)
    if len(without):
        names = listed([table.names[i] for i in without])
        raise UsageError(code, f"of the seen classes, {names} have {what}, or make the class unseen")
