"""Runs side by side: whether they can be compared, figures, differences and their errors, curves, classes, settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.accuracy import ahead
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_train.reports.charts import COLOURS, LINES, MARKERS, PAPER, dots, drawing, finished, percent_axes, thinned
from zsl_train.reports.page import (
    Cell,
    Html,
    Page,
    code,
    definitions,
    figure,
    folded,
    joined,
    name,
    note,
    said,
    table,
    text,
)
from zsl_train.reports.run_scores import KINDS, MORE, at, curve_of
from zsl_train.reports.text import COLUMNS, cell, meanings
from zsl_train.reports.text import figure as figure_of
from zsl_train.training.run_info import DAMAGED, UNFIT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zsl_train.reports.run_files import RunFiles

MOST_CLASSES = 10  # that changed most, of each direction
MOST_CURVES = 8
SURE = 2.0  # standard errors beyond which a difference is more than chance


@dataclass(frozen=True)
class Side:
    """One of the runs.

    Attributes:
        name: what it is called in this comparison.
        run: its files.
        scores: content of its scores.json.

    """

    name: str
    run: RunFiles
    scores: Mapping[str, Any]


def compare_page(runs: Sequence[RunFiles]) -> bytes:
    """The file comparison.html.

    Args:
        runs: two or more, finished.

    Raises:
        UsageError: E-REPORT-RUNS for a single run.
        ArtefactError: E-RUN for an unfinished run, or one whose scores.json holds something else than zsl-train writes.

    """
    if len(runs) < 2:
        raise UsageError(
            "E-REPORT-RUNS", "one run was given, a comparison needs two or more; for one, zsl-report run RUN"
        )
    sides = [_side(run, title) for run, title in zip(runs, titles(runs), strict=True)]
    try:
        return _page(sides).to_bytes()
    except UNFIT as error:
        where = ", ".join(str(run.folder) for run in runs)
        reason = f"{type(error).__name__}: {error}"
        raise ArtefactError(
            "E-RUN", f"{where} cannot be compared ({reason}); one of them is damaged: {DAMAGED}"
        ) from error


def _side(run: RunFiles, title: str) -> Side:
    if run.scores is None:
        raise ArtefactError("E-RUN", f"{run.folder} is an unfinished run; repeat its zsl-train command to resume it")
    return Side(title, run, run.scores)


def titles(runs: Sequence[RunFiles]) -> list[str]:
    """A name for each run: that of its folder, or its whole path where two are called alike."""
    short = [run.folder.name or str(run.folder) for run in runs]
    long = [str(run.folder) for run in runs]
    chosen = [one if short.count(one) == 1 else whole for one, whole in zip(short, long, strict=True)]
    return [one if chosen.count(one) == 1 else f"{one} ({k + 1})" for k, one in enumerate(chosen)]


def _page(sides: Sequence[Side]) -> Page:
    page = Page(f"{len(sides)} runs compared")
    page.lead = comparable(sides)
    page.add("Figures", figures_part(sides))
    page.add("Differences", differences_part(sides))
    page.add("Same recipe, several seeds", seeds_part(sides))
    page.add("Seen against unseen", curves_part(sides))
    page.add("Class by class", classes_part(sides))
    page.add("Settings that differ", settings_part(sides))
    return page


# --- whether they can be compared -------------------------------------------------------------------------------------

# What has to be the same, and what it means where it is not; the worst first.
RULES: tuple[tuple[str, Callable[[Side], Any], str, bool], ...] = (
    (
        "classes",
        lambda side: (side.run.names, side.run.seen.tolist()),
        "Their classes, or which of them are unseen, differ: a figure of one says nothing beside a figure of another.",
        True,
    ),
    (
        "test pictures",
        lambda side: side.run.split,
        "Their pictures or roles differ (split.csv): one may have had the easier test, or trained on more.",
        True,
    ),
    (
        "split",
        lambda side: side.scores["protocol"]["split"],
        "Their splits are called differently.",
        False,  # what they are is in split.csv
    ),
    (
        "attributes",
        lambda side: (side.scores["protocol"]["attributes"], side.run.attributes),
        "Their attributes differ: what is known of an unseen class is not the same.",
        True,
    ),
    (
        "features",
        lambda side: side.scores["protocol"]["features"],
        "Their features differ: a difference may come from the backbone as much as from the method.",
        False,
    ),
    (
        "selection",
        lambda side: side.scores["protocol"]["selection"],
        "Their settings were chosen differently.",
        False,
    ),
    (
        "setting",
        lambda side: side.scores["protocol"].get("setting", ""),
        "They did not know the same while training.",
        False,
    ),
)
SHOWN = {"split", "features", "selection", "setting"}


def differing(sides: Sequence[Side]) -> list[tuple[str, str, bool]]:
    """What of the protocols is not the same: its name, what that means, and whether it forbids comparing."""
    return [
        (what, words, forbids)
        for what, of, words, forbids in RULES
        if len({json.dumps(of(side), default=list) for side in sides}) > 1
    ]


def forbidden(sides: Sequence[Side]) -> bool:
    """Whether a figure of one of these runs says nothing beside that of another."""
    return any(forbids for _, _, forbids in differing(sides))


def comparable(sides: Sequence[Side]) -> list[Html]:
    """Said before any figure."""
    found = differing(sides)
    if not found:
        return [
            said(
                "Comparable: the same classes, pictures, roles, attributes, features and way of choosing settings. "
                "What differs is the method, its settings or its seed."
            )
        ]
    forbids = any(one for _, _, one in found)
    first = "these runs cannot be compared figure by figure." if forbids else "these runs compare with care."
    parts = [note(joined([text(first), *(text(f" {words}") for _, words, _ in found)]), warning=forbids)]
    rows = []
    for what, of, _, _ in RULES:
        if what in SHOWN and any(what == one for one, _, _ in found):
            for value in dict.fromkeys(of(side) for side in sides):
                of_it = joined([name(side.name) for side in sides if of(side) == value], ", ")
                rows.append([text(what), text(value), of_it])
    if rows:
        parts.append(table("What differs in the protocols", ("", "is", "of"), rows))
    return parts


# --- figures ----------------------------------------------------------------------------------------------------------


def figures_part(sides: Sequence[Side]) -> Html:
    """Every figure of every run, the best marked where they can be compared."""
    columns = (*COLUMNS, "ECE")
    values = [
        {key: side.scores.get(key) if key == "ECE" else figure_of(side.scores, key) for key in columns}
        for side in sides
    ]
    best: dict[str, float] = {}
    for key in columns:
        known = [value for one in values if (value := one[key]) is not None]
        if known and not forbidden(sides):
            best[key] = min(known) if key == "ECE" else max(known)
    rows: list[list[Html | Cell]] = []
    for side, of in zip(sides, values, strict=True):
        cells = [
            Cell(_with_error(of[key], side.scores["spread"].get(key)), key in best and of[key] == best[key])
            for key in columns
        ]
        method = text(f"{side.scores['method']} ({side.scores['preset']})")
        rows.append([name(side.name), method, *cells, text(f"{side.scores['train_seconds']:.0f}")])
    caption = "Accuracy on test pictures, percent, with standard errors"
    if best:
        caption += (
            "; the best of each column is bold and underlined, of ECE the smallest. A best by less than its error is "
            "no best."
        )
    parts = [table(caption, ("run", "method", *columns, "seconds"), rows, numbers=len(columns) + 1)]
    drawn = _drawing(sides)
    if drawn:
        parts.append(figure(drawn, text("H, S and U of each run with their standard errors.")))
    words = {letter: text(told) for letter, told in (meanings(sides[0].scores) | MORE).items() if letter != "gamma"}
    parts.append(folded("What the letters mean", definitions(words)))
    return joined(parts)


def _with_error(value: float | None, error: float | None) -> Html:
    return text(cell(value) if value is None or error is None else f"{value:.1f} \xb1 {error:.1f}")


def _drawing(sides: Sequence[Side]) -> Html:
    rows = [
        (
            side.name,
            {key: (side.scores[key], side.scores["spread"].get(key)) for key in KINDS if side.scores[key] is not None},
        )
        for side in sides
    ]
    kinds = {key: word for key, word in KINDS.items() if any(key in known for _, known in rows)}
    if not kinds:
        return Html("")
    told = "; ".join(f"{title}: " + ", ".join(f"{key} {one:.1f}" for key, (one, _) in of.items()) for title, of in rows)
    return dots(rows, kinds, title="H, S and U of the runs", description=told, label="percent")


def differences_part(sides: Sequence[Side]) -> Html:
    """Each run against the first one."""
    first, rows, paired = sides[0], [], False
    for side in sides[1:]:
        found, same = difference(first, side)
        paired = paired or same
        if found is None:
            verdict, shown = "not known", text("-")
        else:
            points, error = found
            shown = text(f"{points:+.1f} \xb1 {error:.1f}")
            sure = abs(points) > SURE * error
            verdict = ("better" if points > 0 else "worse") if sure else "the same, within chance"
            if forbidden([first, side]):
                verdict = "nothing: see the warning"
        rows.append(
            [
                name(side.name),
                shown,
                text(verdict),
                *(text(_apart(first, side, key)) for key in ("U", "S")),
                text("picture by picture" if same else "as if independent"),
            ]
        )
    words = (
        f"Points that each run is above the first one, with the standard error of the difference; beyond {SURE:.0f} "
        "standard errors a difference is more than the chance of which pictures are in the test. "
    )
    words += (
        "Picture by picture: both answered the same test pictures, so what is easy for one and for the other cancels. "
        if paired
        else ""
    )
    words += (
        "As if independent: the answers were not kept, or the pictures differ, so errors are added, and come out large."
    )
    words += " None of it says what another seed of the same training would give."
    listed = table("Against the first run", ("run", "H", "that is", "U", "S", "how"), rows)
    return joined([paragraph_of(first), listed, said(words, quiet=True)])


def paragraph_of(first: Side) -> Html:
    """Which run the others are held against."""
    return Html(f"<p>{joined([text('All are held against the first: '), name(first.name), text('.')])}</p>")


def difference(first: Side, other: Side) -> tuple[tuple[float, float] | None, bool]:
    """Points of H that `other` is above `first`, its standard error, and whether it was taken picture by picture."""
    one, two = (None if side.run.material is None else side.run.material.answers for side in (first, other))
    same = first.run.split == other.run.split != "" and first.run.names == other.run.names
    if one is not None and two is not None and same and np.array_equal(one.lines, two.lines):
        labels = one.labels.astype(np.int64)
        return ahead(two.right, one.right, labels, first.run.seen), True
    values = [side.scores["H"] for side in (first, other)]
    errors = [side.scores["spread"]["H"] for side in (first, other)]
    if None in values or None in errors:
        return None, False
    return (values[1] - values[0], float(np.hypot(*errors))), False


def _apart(first: Side, other: Side, key: str) -> str:
    values = [side.scores[key] for side in (first, other)]
    return "-" if None in values else f"{values[1] - values[0]:+.1f}"


def seeds_part(sides: Sequence[Side]) -> Html:
    """Runs that differ in their seed alone: what the seed makes of H."""
    groups: dict[str, list[Side]] = {}
    for side in sides:
        recipe = {key: value for key, value in side.run.recipe.items() if key != "seed"}
        key = json.dumps(
            [recipe, list(side.run.names), side.scores["protocol"]["features"]], sort_keys=True, default=str
        )
        groups.setdefault(key, []).append(side)
    rows = []
    for group in groups.values():
        known = [side.scores["H"] for side in group if side.scores["H"] is not None]
        if len(known) > 1:
            rows.append(
                [
                    text(f"{group[0].scores['method']} ({group[0].scores['preset']})"),
                    joined([name(side.name) for side in group], ", "),
                    text(f"{np.mean(known):.1f}"),
                    text(f"{np.std(known, ddof=1):.1f}"),
                    text(f"{min(known):.1f} to {max(known):.1f}"),
                ]
            )
    if not rows:
        return Html("")
    caption = "H of runs whose recipes differ in nothing but the seed: mean, standard deviation over seeds, range"
    return table(caption, ("method", "runs", "mean H", "spread", "range"), rows, numbers=3)


# --- curves and classes -----------------------------------------------------------------------------------------------


def curves_part(sides: Sequence[Side]) -> Html:
    """The seen-unseen curves in one drawing."""
    curves = []
    for side in sides:
        answers = None if side.run.material is None else side.run.material.answers
        curve = None if answers is None else curve_of(answers, side.run.seen)
        if curve is not None:
            curves.append((side, curve))
    without = len(sides) - len(curves)
    if not curves:
        return said("None of these runs kept its answers to the test pictures, which a curve is drawn of.")
    with drawing(5.0, 4.9 + 0.11 * min(len(curves), MOST_CURVES)) as (sheet, words):
        axes = sheet.add_subplot()
        told = []
        for number, (side, curve) in enumerate(curves[:MOST_CURVES]):
            colour, dashes = COLOURS[number % len(COLOURS)], LINES[number % len(LINES)]
            line = thinned(np.stack([curve.seen, curve.unseen], axis=1))
            label = f"{words(side.name)}"
            axes.plot(line[:, 0], line[:, 1], color=colour, linestyle=dashes, linewidth=1.7)
            unseen, seen = at(curve, side.scores["gamma"])
            look = {"color": colour, "markerfacecolor": PAPER, "markersize": 7.5, "markeredgewidth": 1.6}
            axes.plot([seen], [unseen], MARKERS[number % len(MARKERS)], **look)
            axes.plot([], [], MARKERS[number % len(MARKERS)], linestyle=dashes, label=label, **look)
            told.append(f"{side.name}: AUSUC {curve.area:.1f}, at its gamma U {unseen:.1f} and S {seen:.1f}")
        percent_axes(axes, "S: accuracy on seen classes, percent", "U: accuracy on unseen classes, percent")
        axes.set_box_aspect(1)
        sheet.legend(loc="outside upper left", handlelength=4, ncols=2)
        drawn = finished(sheet, words, "Seen-unseen curves", "; ".join(told) + ".")
    more = f" {without} of the runs did not keep what a curve is drawn of." if without else ""
    more += f" The first {MOST_CURVES} are drawn." if len(curves) > MOST_CURVES else ""
    return figure(drawn, text(f"U over S for every gamma; the marker is the gamma that was chosen.{more}"))


def classes_part(sides: Sequence[Side]) -> Html:
    """Which classes changed most between the first run and each other one, and all classes of all runs."""
    shares = [{one["name"]: one for one in side.scores["classes"]} for side in sides]
    parts = []
    for side, of in zip(sides[1:], shares[1:], strict=True):
        both = [one for one in shares[0] if one in of]
        change = {one: _share(of[one]) - _share(shares[0][one]) for one in both}
        order = sorted((one for one in both if change[one]), key=lambda one: change[one])
        shown = order[:MOST_CLASSES] + order[MOST_CLASSES:][-MOST_CLASSES:]
        if shown:
            caption = f"From {sides[0].name} to {side.name}: the classes that changed most, of {len(both)}"
            rows = [
                [
                    name(one),
                    text("seen" if of[one]["seen"] else "unseen"),
                    *(text(f"{was['right']} of {was['pictures']}") for was in (shares[0][one], of[one])),
                    text(f"{change[one]:+.0f}"),
                ]
                for one in shown
            ]
            parts.append(table(caption, ("class", "kind", "first", "this", "points"), rows, numbers=3))
        else:
            words = "no class changed" if both else "there is no class in common"
            parts.append(said(f"From {sides[0].name} to {side.name} {words}."))
    every = list(dict.fromkeys(one for of in shares for one in of))
    rows = [[name(one), *(text(f"{_share(of[one]):.0f}" if one in of else "-") for of in shares)] for one in every]
    listed = table(
        "Right, percent, of every class", ("class", *(side.name for side in sides)), rows, numbers=len(sides)
    )
    return joined([*parts, folded(f"All {len(every)} classes", listed)])


def _share(one: Mapping[str, Any]) -> float:
    share: float = 100 * one["right"] / one["pictures"]
    return share


def settings_part(sides: Sequence[Side]) -> Html:
    """Settings of the recipes that are not the same in all runs."""
    flat = [_flat(side.run.recipe) for side in sides]
    keys = list(dict.fromkeys(key for of in flat for key in of))
    rows = [
        [code(key), *(text(of.get(key, "-")) for of in flat)]
        for key in keys
        if len({str(of.get(key)) for of in flat}) > 1
    ]
    if not rows:
        return said("None: the recipes are the same.")
    return table(
        f"{len(rows)} of {len(keys)} settings differ; a dash is a setting that a method has not",
        ("setting", *(side.name for side in sides)),
        rows,
    )


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            found |= {f"{key}.{one}": of for one, of in value.items()}
        else:
            found[key] = value
    return found
