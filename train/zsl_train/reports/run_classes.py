"""Of a run's page: how often each class is right, and what is taken for what, leakage between seen and unseen apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.accuracy import confusion, mixups
from zsl_train.reports.charts import GRID, INK, MUTED, PAPER, SEEN, UNSEEN, drawing, finished
from zsl_train.reports.page import Html, figure, folded, joined, name, said, table, text
from zsl_train.reports.run_scores import wilson
from zsl_train.reports.text import cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zsl_runtime.arrays import Bools, Doubles, Ints
    from zsl_train.training.material import Answers

MOST_BARS = 48  # classes that are drawn with their names; of more, a profile is
MOST_CELLS = 30  # classes of a matrix that can still be read
MOST_PAIRS = 20
ALL_ROWS = 12  # classes that a table shows at once


def classes_part(scores: Mapping[str, Any]) -> Html:
    """Every class with its accuracy and an interval, worst first."""
    classes = sorted(scores["classes"], key=lambda one: (one["right"] / one["pictures"], -one["pictures"], one["name"]))
    if not classes:
        return Html("")
    few = len(classes) <= MOST_BARS
    drawn = _bars(classes) if few else _profile(classes)
    looks = (
        "plain bars are seen classes, hatched ones unseen" if few else "the whole line is seen, the broken one unseen"
    )
    none = [one for one in classes if one["right"] == 0]
    words = (
        f"{len(classes)} classes have test pictures, from {min(one['pictures'] for one in classes)} to "
        f"{max(one['pictures'] for one in classes)} each. "
    )
    if none:
        unseen = sum(not one["seen"] for one in none)
        words += f"Of {len(none)} of them not one picture is right ({unseen} unseen, {len(none) - unseen} seen). "
    words += (
        "The interval is Wilson's at 95 percent: where the share of all pictures of this class may lie, if the test "
        "pictures are drawn like them. With few pictures it is wide, and the order of neighbours means nothing."
    )
    rows = [_class_row(one) for one in classes]
    listed = table(
        "Accuracy class by class, worst first",
        ("class", "kind", "right", "percent", "95 percent interval", "mostly taken for"),
        rows,
        numbers=0,
    )
    return joined(
        [
            said(words),
            figure(drawn, text(f"Accuracy of each class with its interval: {looks}.")),
            listed
            if len(rows) <= ALL_ROWS
            else folded("The same as a table, with what each is mostly taken for", listed),
        ]
    )


def _class_row(one: Mapping[str, Any]) -> list[Html]:
    low, high = wilson(one["right"], one["pictures"])
    wrong = joined([name(one["mistaken_for"]), text(f" ({one['mistaken']})")]) if one["mistaken"] else Html("")
    return [
        name(one["name"]),
        text("seen" if one["seen"] else "unseen"),
        text(f"{one['right']} of {one['pictures']}"),
        text(cell(100 * one["right"] / one["pictures"])),
        text(f"{low:.0f} to {high:.0f}"),
        wrong,
    ]


def _bars(classes: Sequence[Mapping[str, Any]]) -> Html:
    """One bar a class."""
    with drawing(7.4, 0.75 + 0.21 * len(classes)) as (sheet, words):
        axes = sheet.add_subplot()
        for kind, colour, hatch in ((True, SEEN, ""), (False, UNSEEN, "////")):
            places = [k for k, one in enumerate(classes) if one["seen"] == kind]
            if not places:
                continue
            shares = [100 * classes[k]["right"] / classes[k]["pictures"] for k in places]
            bars = axes.barh(places, shares, height=0.62, label="seen" if kind else "unseen", hatch=hatch)
            for bar in bars:
                bar.set(facecolor=(colour, 0.35) if kind else PAPER, edgecolor=colour)
            _intervals(axes, [classes[k] for k in places], places, shares)
        axes.set_yticks(range(len(classes)), [words(one["name"]) for one in classes])
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.set_xlim(0, 101)
        axes.set_xlabel("right, percent")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        sheet.legend(loc="outside upper right", ncols=2)
        return finished(sheet, words, "Accuracy by class", _worst(classes))


def _intervals(axes: Any, classes: Sequence[Mapping[str, Any]], places: Sequence[int], shares: Sequence[float]) -> None:
    ends = np.array([wilson(one["right"], one["pictures"]) for one in classes])
    middle = np.array(shares)
    errors = np.maximum([middle - ends[:, 0], ends[:, 1] - middle], 0)
    axes.errorbar(shares, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.0, capsize=2)


def _profile(classes: Sequence[Mapping[str, Any]]) -> Html:
    """Of many classes: sorted accuracies of seen and of unseen ones, with their intervals."""
    with drawing(7.4, 3.4) as (sheet, words):
        axes = sheet.add_subplot()
        for kind, colour, line in ((True, SEEN, "-"), (False, UNSEEN, "--")):
            of = [one for one in classes if one["seen"] == kind]
            if not of:
                continue
            shares = [100 * one["right"] / one["pictures"] for one in of]
            ends = np.array([wilson(one["right"], one["pictures"]) for one in of])
            x = np.linspace(0, 100, len(of)) if len(of) > 1 else np.array([50.0])
            axes.fill_between(x, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
            mark = {} if len(of) > 1 else {"marker": "o"}
            label = f"{len(of)} {'seen' if kind else 'unseen'}"
            axes.plot(x, shares, color=colour, linestyle=line, linewidth=1.8, label=label, **mark)
        axes.set_xlim(0, 100)
        axes.set_ylim(-1, 101)
        axes.set_xlabel("classes, worst to best, percent of them")
        axes.set_ylabel("right, percent")
        axes.grid()
        sheet.legend(loc="outside upper right", ncols=2)
        return finished(sheet, words, "Accuracy by class, sorted", _worst(classes))


def _worst(classes: Sequence[Mapping[str, Any]]) -> str:
    some = "; ".join(f"{one['name']}, {one['right']} of {one['pictures']}" for one in classes[:3])
    return f"{len(classes)} classes, worst first: {some}. The table below has all of them."


# --- what is taken for what -------------------------------------------------------------------------------------------


def confusion_part(answers: Answers, names: Sequence[str], seen: Bools) -> Html:
    """Leakage between the kinds, the worst pairs, and a matrix of the classes that are in them."""
    counts = confusion(answers.predicted, answers.labels.astype(np.int64), len(names))
    worst = mixups(counts, names, MOST_PAIRS)
    parts = [
        _leakage(counts, seen),
        said(
            "Seen classes compete with advantage: photographs of them were trained on. What leaks from unseen to seen "
            "is what gamma is there to hold back, and what leaks the other way is its price."
        ),
    ]
    if worst:
        shown = matrix_classes(counts, seen)
        drawn = _matrix(counts[np.ix_(shown, shown)], [names[k] for k in shown], seen[shown], counts[shown].sum(axis=1))
        more = ""
        if len(shown) < int((counts.sum(axis=0) + counts.sum(axis=1) > 0).sum()):
            more = f" Shown are {len(shown)} of {len(names)} classes: those of the worst pairs of each kind."
        caption = (
            "Rows are what pictures show, columns what they are called; the area of a square is the share of its row. "
            f"Open: right. Grey: wrong within the kind. Filled with a cross: leaked between seen and unseen.{more}"
        )
        parts.append(figure(drawn, text(caption)))
        known = dict(zip(names, seen.tolist(), strict=True))
        rows = [
            [
                name(one.of),
                name(one.given),
                text(f"{_kind(known[one.of])}\xa0to\xa0{_kind(known[one.given])}"),
                text(one.pictures),
                text(f"{100 * one.share:.0f}"),
            ]
            for one in worst
        ]
        parts.append(
            table(
                "The pairs that take most pictures the wrong way",
                ("pictures of", "are called", "kinds", "pictures", "percent of the class"),
                rows,
                numbers=2,
            )
        )
    else:
        parts.append(said("No test picture was given a wrong class."))
    return joined(parts)


def _kind(seen: bool) -> str:
    return "seen" if seen else "unseen"


def leaks(counts: Ints, seen: Bools) -> dict[bool, tuple[int, int, int, int]]:
    """Of pictures of seen (True) and unseen (False) classes: all, right, another class of that kind, the other kind."""
    found = {}
    for kind in (True, False):
        rows = counts[seen == kind]
        right = int(np.diag(counts)[seen == kind].sum())
        same = int(rows[:, seen == kind].sum()) - right
        found[kind] = (int(rows.sum()), right, same, int(rows[:, seen != kind].sum()))
    return found


def _leakage(counts: Ints, seen: Bools) -> Html:
    rows = []
    for kind, (total, right, same, other) in leaks(counts, seen).items():
        if total:
            rows.append(
                [
                    text(f"{_kind(kind)} ({total} pictures)"),
                    *(text(f"{number} ({100 * number / total:.1f})") for number in (right, same, other)),
                ]
            )
    return table(
        "Where test pictures go; in brackets, percent of the pictures of the row",
        ("pictures of classes that are", "right", "another class of that kind", "a class of the other kind"),
        rows,
        numbers=3,
    )


def matrix_classes(counts: Ints, seen: Bools, most: int = MOST_CELLS) -> Ints:
    """The classes to show, seen ones first: all that are met, or of many those of the worst pairs.

    Pairs within seen, within unseen, and of both kinds of leak take turns, so that none hides the others.
    """
    met = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1) > 0)
    if len(met) > most:
        wrong = counts.astype(np.float64)
        np.fill_diagonal(wrong, 0)
        weight = wrong**2 / np.maximum(counts.sum(axis=1), 1)[:, None]  # as `mixups` orders them
        kinds = [weight * np.outer(seen == of, seen == given) for of in (True, False) for given in (True, False)]
        orders = [_pairs_of(kind) for kind in kinds]
        chosen: dict[int, None] = {}
        for turn in range(max(map(len, orders), default=0)):
            for order in orders:
                if turn < len(order):
                    chosen |= dict.fromkeys(order[turn])
            if len(chosen) >= most:
                break
        met = np.array(list(chosen)[:most], np.int64)
    busy = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    shown: Ints = met[np.lexsort((-busy[met], ~seen[met]))]
    return shown


def _pairs_of(weight: Doubles, most: int = 4 * MOST_CELLS) -> list[tuple[int, int]]:
    """The pairs of classes with the largest weight, largest first, without those of none."""
    flat = np.argsort(-weight, axis=None, kind="stable")[:most]
    pairs = zip(*(index.tolist() for index in np.unravel_index(flat, weight.shape)), strict=True)
    return [(of, given) for of, given in pairs if weight[of, given] > 0]


def _matrix(counts: Ints, names: Sequence[str], seen: Bools, totals: Ints) -> Html:
    """Squares whose area is the share of the row."""
    from matplotlib.patches import Rectangle

    size = len(names)
    side = 1.9 + 0.235 * size
    with drawing(side + 0.6, side) as (sheet, words):
        axes = sheet.add_subplot()
        share = counts / np.maximum(totals, 1)[:, None]
        for row, column in np.argwhere(counts > 0).tolist():
            half = 0.46 * np.sqrt(share[row, column])
            leak, right = seen[row] != seen[column], row == column
            axes.add_patch(
                Rectangle(
                    (column - half, row - half),
                    2 * half,
                    2 * half,
                    facecolor=PAPER if right else UNSEEN if leak else MUTED,
                    edgecolor=INK if right else UNSEEN if leak else MUTED,
                    linewidth=1.0,
                )
            )
            if leak:
                axes.plot([column], [row], "x", color=PAPER, markersize=max(2.0, 9 * half), markeredgewidth=0.9)
        border = int(seen.sum()) - 0.5
        if 0 < seen.sum() < size:
            axes.axhline(border, color=INK, linewidth=0.8, linestyle="--")
            axes.axvline(border, color=INK, linewidth=0.8, linestyle="--")
            for start, stop, kind in ((-0.5, border, "seen"), (border, size - 0.5, "unseen")):
                axes.text((start + stop) / 2, -0.9, kind, ha="center", va="bottom", fontsize=8.5, color=MUTED)
                axes.text(size - 0.3, (start + stop) / 2, kind, ha="left", va="center", rotation=270, color=MUTED)
        axes.set_xticks(range(size), [words(one, 20) for one in names], rotation=90, fontsize=7.5)
        axes.set_yticks(range(size), [words(one, 20) for one in names], fontsize=7.5)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_aspect("equal")
        between = np.arange(size + 1) - 0.5
        axes.vlines(between, -0.5, size - 0.5, color=GRID, linewidth=0.4, zorder=0)
        axes.hlines(between, -0.5, size - 0.5, color=GRID, linewidth=0.4, zorder=0)
        axes.tick_params(length=0)
        axes.set_ylabel("pictures of")
        axes.set_xlabel("are called")
        off = int(counts.sum() - np.diag(counts).sum())
        told = (
            f"{size} classes; {int(counts.sum())} pictures of them were given one of them, {off} of these another "
            "class than their own. The tables say which."
        )
        return finished(sheet, words, "What is taken for what", told)
