"""What the figures of a run amount to: what chance would give, which classes are mixed up, and what is wrong.

A command that worked but left its user worse off has to say so: a figure that collapsed, a closed form of seconds that
does better, attributes that say nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsl_runtime.accuracy import ahead, by_class, confusion, mixups, spread
from zsl_train.data.image_set import alike

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zsl_runtime.arrays import Floats, Ints
    from zsl_runtime.head.class_table import ClassTable

SHIPPED = ("gfzsl", "eszsl")  # baselines that are methods as well
SHOWN_GROUPS = 3  # of classes that are described alike
MOST_MIXUPS = 20  # kept in scores.json
SURE = 1.0  # standard errors above guessing that a figure has to be to mean anything
LOPSIDED = 5.0  # U and S so many times apart: one of them was given up
PROMISED = 2.0  # the test's H so many times below what the folds gave


def by_classes(predicted: Ints, labels: Ints, table: ClassTable, semantic: Floats) -> dict[str, Any]:
    """Spread of the figures, accuracy by class and the worst mix-ups on the test pictures, as plain data.

    Args:
        predicted: (n,) columns, all classes competing.
        labels: (n,) columns.
        table: the classes.
        semantic: (C, A) of the classes.

    """
    counts = confusion(predicted, labels, len(table))
    return {
        "spread": spread(predicted == labels, labels, table.seen)._asdict(),
        "chance": chance(table),
        "classes": [one._asdict() for one in by_class(counts, table.names, table.seen)],
        "mixups": [one._asdict() for one in mixups(counts, table.names, MOST_MIXUPS)],
        "alike": [[table.names[int(row)] for row in group] for group in alike(semantic) if not table.seen[group].all()],
    }


def chance(table: ClassTable) -> dict[str, float | None]:
    """What guessing gives, in percent: among all classes, and among the unseen ones alone."""
    unseen = int((~table.seen).sum())
    return {"all": 100 / len(table), "unseen": 100 / unseen if unseen else None}


def lead(baseline: Ints, own: Ints, labels: Ints, table: ClassTable) -> dict[str, float | None]:
    """How many points of H a baseline is ahead of what was trained, with the standard error of that.

    Args:
        baseline: (n,) columns that it gave.
        own: (n,) likewise of what was trained.
        labels: (n,) columns.
        table: the classes.

    """
    found = ahead(baseline == labels, own == labels, labels, table.seen)
    return {"ahead": None, "ahead_spread": None} if found is None else {"ahead": found[0], "ahead_spread": found[1]}


def warnings(scores: Mapping[str, Any]) -> list[str]:
    """What is wrong with a run, a line each, worst first; empty where nothing is.

    Args:
        scores: content of scores.json.

    """
    return [*_collapsed(scores), *_uninformed(scores), *_alike(scores), *_beaten(scores)]


def _collapsed(scores: Mapping[str, Any]) -> Iterator[str]:
    """U or S near chance or far below the other; H far below what the folds gave."""
    guess = scores["chance"]["all"]
    kinds = {"U": "unseen", "S": "seen"}
    for name, other in (("U", "S"), ("S", "U")):
        value, against = scores[name], scores[other]
        if value is None:
            continue
        what = f"{name} has collapsed: {value:.1f} % of the photographs of {kinds[name]} classes are labelled rightly"
        if value <= guess + SURE * (scores["spread"][name] or 0.0):
            yield f"{what}, and guessing gives {guess:.1f}; do not ship this"
        elif against is not None and value < against / LOPSIDED:
            yield (
                f"{what}, against {against:.1f} % of those of {kinds[other]} ones: nearly all are given "
                f"{kinds[other]} classes; do not ship this"
            )
    promised, found = scores.get("validation_H"), scores["H"]
    if promised is not None and found is not None and found < promised / PROMISED:
        yield (
            f"H has collapsed: {found:.1f} on the test photographs, {promised:.1f} on the validation classes: the "
            "unseen classes are not like the seen ones, or their attributes are not given by the same rule; "
            "see zsl-train --check-data"
        )


def _uninformed(scores: Mapping[str, Any]) -> Iterator[str]:
    """Unseen classes told apart no better than by guessing."""
    first, guess = scores["T1"], scores["chance"]["unseen"]
    if first is None or guess is None or guess == 100:
        return
    if first <= guess + SURE * (scores["spread"]["U"] or 0.0):
        yield (
            f"T1 is {first:.1f}, and guessing among the unseen classes gives {guess:.1f}: the attributes hardly tell "
            "them apart; check that classes.csv measures all classes by the same rule, and add attributes that can be "
            "seen in a photograph"
        )


def _alike(scores: Mapping[str, Any]) -> Iterator[str]:
    """Classes that attributes cannot tell from another."""
    groups = scores.get("alike", [])
    if groups:
        some = "; ".join(" = ".join(group) for group in groups[:SHOWN_GROUPS])
        more = f"; and {len(groups) - SHOWN_GROUPS} more groups" if len(groups) > SHOWN_GROUPS else ""
        yield (
            f"{sum(map(len, groups))} classes, unseen ones among them, share all their attributes with another: {some}"
            f"{more}. Of the unseen ones in a group only one can ever be named; describe what sets them apart"
        )


def _beaten(scores: Mapping[str, Any]) -> Iterator[str]:
    """A closed form of seconds that does better by more than chance may make."""
    better = {
        name: found["ahead"]
        for name, found in scores["baselines"].items()
        if found.get("ahead") is not None and found["ahead"] > found["ahead_spread"]
    }
    if not better:
        return
    best = max(better, key=lambda name: better[name])
    # The one that newcomers and photographs suit best, where it is as good within chance.
    first = better.get(SHIPPED[0])
    if first is not None and first >= better[best] - scores["baselines"][best]["ahead_spread"]:
        best = SHIPPED[0]
    found = scores["baselines"][best]
    advice = f"; take --method {best}" if best in SHIPPED else ""
    yield (
        f"{best} does better here in seconds: H {found['H']:.1f} against {scores['H']:.1f}, "
        f"{found['ahead']:.1f} \xb1 {found['ahead_spread']:.1f} points more{advice}"
    )
