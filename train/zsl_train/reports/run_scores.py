"""Of a run's page: scores and what they mean, the seen-unseen curve, whether probabilities can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.accuracy import Bin, calibration_bins
from zsl_train.reports.charts import (
    GRID,
    INK,
    MUTED,
    PAPER,
    SEEN,
    UNSEEN,
    dots,
    drawing,
    finished,
    percent_axes,
    thinned,
)
from zsl_train.reports.page import Cell, Html, definitions, figure, folded, joined, said, table, text
from zsl_train.reports.text import COLUMNS, cell, meanings, scored
from zsl_train.reports.text import figure as figure_of
from zsl_train.scoring.evaluate import Curve, seen_unseen_curve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zsl_runtime.arrays import Bools
    from zsl_train.training.material import Answers

MORE = {
    "ECE": "expected calibration error: by how many points the probabilities are off, on average. 0 is best",
}
KINDS = {"H": "H", "S": "S (seen)", "U": "U (unseen)"}
GOOD_ECE, BAD_ECE = 5.0, 15.0  # points
LOPSIDED = 15.0  # points between U and S that are worth a word


def scores_part(scores: Mapping[str, Any]) -> Html:
    """Table, drawing, and every letter in words."""
    return joined(
        [
            _table(scores),
            _drawing(scores),
            Html("<h3>What the letters mean</h3>"),
            definitions({letter: text(words) for letter, words in (meanings(scores) | MORE).items()}),
            Html("<h3>What is good</h3>"),
            *good(scores),
            Html("<h3>How it was measured</h3>"),
            *protocol_part(scores),
        ]
    )


def _table(scores: Mapping[str, Any]) -> Html:
    """Everything that was scored, the best of each column marked; guessing below."""
    columns = (*COLUMNS, "ECE")
    named = scored(scores)
    values = {
        name: {key: found.get(key) if key == "ECE" else figure_of(found, key) for key in columns}
        for name, found in named.items()
    }
    best: dict[str, float] = {}
    for key in columns:
        known = [value for one in values.values() if (value := one[key]) is not None]
        if known:
            best[key] = min(known) if key == "ECE" else max(known)
    rows: list[list[Html | Cell]] = []
    for number, (name, one) in enumerate(values.items()):
        cells = [
            Cell(_with_error(scores, number == 0, key, one[key]), one[key] == best.get(key, "")) for key in columns
        ]
        rows.append([text(name), *cells])
    chance = scores["chance"]
    guess = {
        "T1": chance["unseen"],
        "T1_czsl": chance["unseen"],
        "U": chance["all"],
        "S": chance["all"],
        "H": chance["all"],
    }
    rows.append([text("guessing"), *(text(cell(guess.get(key))) for key in columns)])
    caption = (
        "Accuracy on test pictures, percent; the best of each column is bold and underlined (of ECE, the smallest). "
        "With \xb1 the standard error: how far the figure moves with which pictures happen to be in the test."
    )
    return table(caption, ("", *columns), rows, numbers=len(columns))


def _with_error(scores: Mapping[str, Any], own: bool, key: str, value: float | None) -> Html:
    error = scores["spread"].get(key) if own else None
    return text(cell(value) if value is None or error is None else f"{value:.1f} \xb1 {error:.1f}")


def _drawing(scores: Mapping[str, Any]) -> Html:
    """H, S and U of everything that was scored, in one drawing."""
    rows = []
    for number, (name, found) in enumerate(scored(scores).items()):
        errors = scores["spread"] if number == 0 else {}
        known = {key: (found[key], errors.get(key)) for key in KINDS if found.get(key) is not None}
        rows.append((name.strip(), known))
    if not any(known for _, known in rows):
        return Html("")
    first = ", ".join(f"{key} {value:.1f}" for key, (value, _) in rows[0][1].items())
    guess = scores["chance"]["all"]
    drawn = dots(
        rows,
        {key: name for key, name in KINDS.items() if any(key in known for _, known in rows)},
        title="H, S and U beside the baselines",
        description=f"This run: {first}. {len(rows) - 1} others are drawn below it; the table above has all figures.",
        label="percent",
        line=(guess, f"guessing, {guess:.1f}"),
    )
    return figure(drawn, text("The same as a drawing; bars are standard errors of this run's figures."))


def good(scores: Mapping[str, Any]) -> list[Html]:
    """What is good, said for the figures at hand."""
    value, chance = scores["H"], scores["chance"]["all"]
    lines = []
    if value is not None:
        lines.append(
            f"Guessing gives {chance:.1f}, always right is 100. H {value:.1f} is {value / chance:.0f} times guessing. "
            "What decides is whether it is above the closed forms in the table, which take seconds: a training that is "
            "not above them by more than its \xb1 is not worth its time."
        )
    unseen, seen = scores["U"], scores["S"]
    if unseen is not None and seen is not None:
        apart = seen - unseen
        if abs(apart) <= LOPSIDED:
            lines.append(f"U and S are {abs(apart):.1f} points apart: neither kind of class is given up for the other.")
        else:
            kind = ("unseen", "seen") if apart > 0 else ("seen", "unseen")
            lines.append(
                f"U and S are {abs(apart):.1f} points apart: the {kind[0]} classes pay. A gamma chosen on other "
                f"classes can shift it; the curve below shows what a shift costs the {kind[1]} ones."
            )
    error = scores.get("ECE")
    if error is not None:
        worth = "can be taken at their word, roughly"
        if error > BAD_ECE:
            worth = "mislead: set no threshold by them"
        elif error > GOOD_ECE:
            worth = "give an order, but are not what they say to the point"
        lines.append(f"Probabilities are {error:.1f} points off on average: they {worth}.")
    promised = scores.get("validation_H")
    if promised is not None:
        fair = scores.get("validation_H_crossfitted")
        more = "" if fair is None else f", {fair:.1f} where each fold is scored with what the others choose"
        lines.append(
            f"On validation classes H was {promised:.1f}{more}. Those folds have other and fewer classes than the "
            "test, so it is a figure to compare settings by, not a forecast."
        )
    return [said(line) for line in lines]


def protocol_part(scores: Mapping[str, Any]) -> list[Html]:
    """Where the figures come from, in sentences."""
    protocol = scores["protocol"]
    classes, pictures = protocol["classes"], protocol["pictures"]
    left_out = f" {pictures['unreadable']} could not be read and were left out." if pictures["unreadable"] else ""
    trained = (
        f"Trained on {pictures['train']} pictures of {classes['seen']} seen classes; tested once on "
        f"{pictures['test_seen']} other pictures of these and on {pictures['test_unseen']} of {classes['unseen']} "
        f"unseen classes, of which no picture was trained on.{left_out}"
    )
    lines = [
        trained,
        "Accuracy is the mean over classes: each class counts alike, however many pictures of it there are.",
        f"Split: {protocol['split']}. Features: {protocol['features']}. Attributes: {protocol['attributes']}.",
        f"Selection: {protocol['selection']}. Seed {protocol['seed']}.",
        f"Setting: {protocol.get('setting', 'not noted')}.",
    ]
    reasons: dict[str, list[str]] = {}
    for name, why in scores["null"].items():
        reasons.setdefault(why, []).append(name)
    lines += [f"There is no {', '.join(names)}: {why}." for why, names in reasons.items()]
    return [said(line) for line in lines]


# --- the curve --------------------------------------------------------------------------------------------------------


def curve_of(answers: Answers, seen: Bools) -> Curve | None:
    """The seen-unseen curve of kept answers; None where there is none."""
    if (answers.best_seen < 0).any() or (answers.best_unseen < 0).any():
        return None
    scores = np.full((len(answers), len(seen)), -np.inf)
    rows = np.arange(len(answers))
    scores[rows, answers.best_seen] = answers.lead
    scores[rows, answers.best_unseen] = 0.0  # all other classes are behind these two, whatever gamma is
    return seen_unseen_curve(scores, answers.labels.astype(np.int64), seen)


def at(curve: Curve, gamma: float) -> tuple[float, float]:
    """U and S at a gamma."""
    place = int(np.searchsorted(curve.edges, gamma, side="left")) - 1
    return float(curve.unseen[place]), float(curve.seen[place])


def curve_part(scores: Mapping[str, Any], answers: Answers, seen: Bools) -> Html:
    """The curve with what was chosen; nothing where there is no curve."""
    curve = curve_of(answers, seen)
    if curve is None:
        return Html("")
    chosen, plain = (scores["U"], scores["S"]), at(curve, 0.0)
    peak = int(curve.harmonic.argmax())
    drawn = draw_curve(curve, chosen, plain, peak)
    below = " (less than nothing taken off: that much is added)" if scores["gamma"] < 0 else ""
    lines = (
        "Gamma is taken off the score of every seen class before the best class is named. Shifting it trades S for "
        f"U: every point of the line is one gamma. Chosen on validation classes: {scores['gamma']:.2f}{below}, which "
        f"gives U {chosen[0]:.1f} and S {chosen[1]:.1f}. Without gamma: U {plain[0]:.1f}, S {plain[1]:.1f}. The best "
        f"H that any gamma could have given on these test pictures is {curve.harmonic[peak]:.1f}; nobody can know "
        "that gamma beforehand, so it is drawn to show what choosing costs, and is no result."
    )
    return joined(
        [
            figure(drawn, text("U over S for every gamma. Thin lines: equal H. The area below the curve is AUSUC.")),
            said(lines),
        ]
    )


def draw_curve(curve: Curve, chosen: tuple[float, float], plain: tuple[float, float], peak: int) -> Html:
    """The line, the points on it, and lines of equal H."""
    with drawing(5.0, 5.2) as (sheet, words):
        axes = sheet.add_subplot()
        _equal_h(axes)
        line = thinned(np.stack([curve.seen, curve.unseen], axis=1))
        axes.plot(line[:, 0], line[:, 1], color=INK, linewidth=1.8, label=f"every gamma (AUSUC {curve.area:.1f})")
        points = (
            ((float(curve.unseen[peak]), float(curve.seen[peak])), "x", MUTED, MUTED, "best in hindsight"),
            (plain, "s", UNSEEN, PAPER, "no gamma"),
            (chosen, "o", SEEN, SEEN, "chosen gamma"),
        )
        for (unseen, seen), marker, colour, fill, name in points:
            axes.plot(
                [seen],
                [unseen],
                marker,
                color=colour,
                markerfacecolor=fill,
                markersize=7 if marker == "o" else 10,
                label=name,
                markeredgewidth=1.8,
            )
        percent_axes(axes, "S: accuracy on seen classes, percent", "U: accuracy on unseen classes, percent")
        axes.set_box_aspect(1)
        sheet.legend(loc="outside upper left", ncols=2)
        return finished(
            sheet,
            words,
            "Seen-unseen curve",
            f"With the chosen gamma U is {chosen[0]:.1f} and S {chosen[1]:.1f}; without gamma U is {plain[0]:.1f} and "
            f"S {plain[1]:.1f}. The area below the curve is {curve.area:.1f} of 100.",
        )


def _equal_h(axes: Any) -> None:
    """Thin lines along which H is the same."""
    for value in (20, 40, 60, 80):
        seen = np.linspace(value / 2 + 0.5, 100, 200)
        unseen = value * seen / (2 * seen - value)
        inside = unseen <= 100
        axes.plot(seen[inside], unseen[inside], color=GRID, linewidth=0.8)
        # On the diagonal, where U, S and H are the same.
        axes.text(
            value,
            value,
            f"H {value}",
            fontsize=7.5,
            color=MUTED,
            ha="center",
            va="center",
            backgroundcolor=PAPER,
            zorder=1,
        )


# --- probabilities ----------------------------------------------------------------------------------------------------


def calibration_part(answers: Answers) -> Html:
    """What the model says of itself beside what is so."""
    bins = calibration_bins(answers.probability[:, 0], answers.right)
    drawn = draw_bins(bins, len(answers))
    rows = [
        [
            text(f"{one.low:.0f} to {one.high:.0f}"),
            text(one.pictures),
            text(cell(one.confidence)),
            text(cell(one.right)),
            text(f"{one.right - one.confidence:+.1f}"),
        ]
        for one in bins
    ]
    caption = (
        "Test pictures by the probability of their first answer, percent; the last column is the difference in points"
    )
    return joined(
        [
            said(
                "Of the answers that are given 80 percent, 80 of 100 should be right. Points on the diagonal are as "
                "sure as they may be; below it the model is too sure, above it too modest. Seen and unseen classes "
                "count together here, picture by picture."
            ),
            figure(
                drawn,
                text("Bars are 95 percent intervals; with few pictures in a bin a point may lie anywhere in its bar."),
            ),
            folded(
                "The same as a table",
                table(caption, ("probability", "pictures", "mean probability", "right", "difference"), rows, numbers=4),
            ),
        ]
    )


def draw_bins(bins: list[Bin], count: int) -> Html:
    """Share that is right over mean probability, and below it how many pictures each bin has."""
    with drawing(5.0, 4.8) as (sheet, words):
        axes, below = sheet.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        axes.plot([0, 100], [0, 100], color=MUTED, linestyle="--", linewidth=1.2, label="as sure as it is right")
        low, high = zip(*(wilson(round(one.right * one.pictures / 100), one.pictures) for one in bins), strict=True)
        right = np.array([one.right for one in bins])
        axes.errorbar(
            [one.confidence for one in bins],
            right,
            yerr=[np.maximum(right - low, 0), np.maximum(np.array(high) - right, 0)],
            fmt="o",
            color=SEEN,
            capsize=2.5,
            label="test pictures",
        )
        percent_axes(axes, "", "right, percent")
        axes.legend(loc="upper left")
        width = [one.high - one.low for one in bins]
        below.bar(
            [one.low for one in bins],
            [one.pictures for one in bins],
            width,
            align="edge",
            color=PAPER,
            edgecolor=INK,
            hatch="///",
        )
        below.set_xlabel("probability of the first answer, percent")
        below.set_ylabel("pictures")
        worst = max(bins, key=lambda one: abs(one.right - one.confidence) * one.pictures)
        return finished(
            sheet,
            words,
            "Calibration",
            f"{count} test pictures in {len(bins)} bins. The bin that counts most: said {worst.confidence:.0f} "
            f"percent on average, right {worst.right:.0f} percent, {worst.pictures} pictures.",
        )


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a share in percent, right of count: Wilson 1927, at 95 percent. It is honest also of few pictures."""
    if count == 0:
        return 0.0, 100.0
    share = right / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float(max(0.0, 100 * (middle - half))), float(min(100.0, 100 * (middle + half)))
