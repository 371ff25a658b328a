"""What a run says to a person: the table of scores, what its letters mean, where it goes wrong, and what to do next."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

COLUMNS = ("T1", "T1_czsl", "U", "S", "H", "AUSUC", "H_uncalibrated")
HEADS = {"published_head": "its published head", "gaussian_head": "the Gaussian head"}
WIDTH = 110  # of lines that are wrapped
FEW_CLASSES = 12  # so many are all shown; of more, the worst of each kind
MISTRUSTED = 15.0  # points that probabilities may be off
WORST = 5  # classes of each kind, and mix-ups, that are shown


def cell(value: float | None) -> str:
    """One figure of a table: one decimal, or a dash where it cannot be known."""
    return "-" if value is None else f"{value:.1f}"


def report(scores: Mapping[str, Any], out: str) -> str:
    """All that is said of a finished run.

    Args:
        scores: content of scores.json.
        out: its folder.

    """
    parts = [leaderboard(scores), table(scores), legend(scores), by_class(scores), verdict(scores, out)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def leaderboard(scores: Mapping[str, Any]) -> list[str]:
    """What `--budget` tried, best first, and what it left out; nothing for a run of one method."""
    trials = scores.get("leaderboard", [])
    if not trials:
        return []
    known = sorted((one for one in trials if one["validation_H"] is not None), key=lambda one: -one["validation_H"])
    rows = [("", "H", "seconds", "")]
    for one in known:
        kept = "kept" if one["method"] == scores["method"] else ""
        rows.append((one["method"], cell(one["validation_H"]), f"{one['seconds']:.0f}", kept))
    left_out = [f"{one['method']} was left out: {one['why']}" for one in trials if one["validation_H"] is None]
    return ["on validation classes, the same for all; test photographs had no part in it:", *aligned(rows), *left_out]


def table(scores: Mapping[str, Any]) -> list[str]:
    """The run's scores, indented below it what else was scored of the same training, and the closed forms'; aligned."""
    rows = [(name, *(cell(figure(found, key)) for key in COLUMNS)) for name, found in scored(scores).items()]
    return aligned([("", *COLUMNS), *rows])


def scored(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Name -> figures: of the run, what else was scored of the same training (indented), and the closed forms."""
    named: dict[str, Mapping[str, Any]] = {f"{scores['method']} ({scores['preset']})": scores}
    named |= {f"  {HEADS[key]}, same training": scores[key] for key in HEADS if key in scores}
    named |= {f"  its {name}, same training": found for name, found in scores.get("parts", {}).items()}
    named |= scores["baselines"]
    return named


def figure(found: Mapping[str, Any], key: str) -> float | None:
    """One figure; closed forms had no T1_czsl in older runs, and theirs is T1."""
    value: float | None = found.get(key, found["T1"])
    return value


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def meanings(scores: Mapping[str, Any]) -> dict[str, str]:
    """Each letter in words, of the figures that are known here."""
    classes = scores["protocol"]["classes"]
    seen, unseen = classes["seen"], classes["unseen"]
    whole = seen + unseen
    shift = scores["gamma"]
    gamma = f"{abs(shift):.2f} is {'added to' if shift < 0 else 'taken off'} the score of every seen class"
    said = {
        "S": f"of 100 photographs of the {seen} seen classes, so many are labelled rightly, all {whole} competing",
        "U": f"the same for the {unseen} unseen classes, known from the table of attributes alone",
        "H": "both in one number, 2 U S / (U + S): high only where both are. Look at this one first",
        "T1": f"U when only the {unseen} unseen classes compete, by the head that ships",
        "T1_czsl": _conventional(scores),
        "AUSUC": "U and S at every balance between them: the area under U over S, from 0 to 100",
        "gamma": f"{gamma}, as chosen on validation classes; H_uncalibrated is H without",
    }
    return {letter: text for letter, text in said.items() if letter not in scores["null"]}


def legend(scores: Mapping[str, Any]) -> list[str]:
    """Each letter in words, and where the figures come from."""
    guess, missing = scores["chance"], scores["null"]
    lines = [f"  {letter:<7} {text}" for letter, text in meanings(scores).items()]
    if scores.get("parts") or any(key in scores for key in HEADS):
        lines.append("  same training: what else can label there, each with a gamma of its own; none of that ships")
    chance = f"guessing gives {guess['all']:.1f}"
    if guess["unseen"] is not None:
        chance += f", and {guess['unseen']:.1f} for T1"
    lines.append(f"  each class counts alike; {chance}")
    if scores["ECE"] is not None:
        lines.append(f"  probabilities are off by {scores['ECE']:.1f} points on average (expected calibration error)")
    lines += _promised(scores)
    figures: dict[str, list[str]] = {}
    for figure, why in missing.items():
        figures.setdefault(why, []).append(figure)
    lines += [f"  no {', '.join(which)}: {why}" for why, which in figures.items()]
    protocol = scores["protocol"]
    where = f"{protocol['split']}; {protocol['features']}; {protocol['selection']}; seed {protocol['seed']}"
    return [*lines, *textwrap.wrap(where, WIDTH, initial_indent="  ", subsequent_indent="  ")]


def _conventional(scores: Mapping[str, Any]) -> str:
    """What T1_czsl is in this run."""
    if scores.get("head") == "fit":
        return (
            "the same by a classifier of its own, fitted on generated features of these classes alone; the papers' T1"
        )
    return "the papers' T1, by a classifier of these classes alone: the same figure, since no class's row needs another"


def _promised(scores: Mapping[str, Any]) -> Iterator[str]:
    """H on the validation classes, and what of it is the luck of having chosen there."""
    promised, fair = scores.get("validation_H"), scores.get("validation_H_crossfitted")
    if promised is not None:
        others = "" if fair is None else f"; {fair:.1f} where each fold is scored with what the other folds choose"
        told = f"on validation classes H was {promised:.1f}, the best of what was compared on them{others}"
        yield from textwrap.wrap(told, WIDTH, initial_indent="  ", subsequent_indent="  ")


def by_class(scores: Mapping[str, Any]) -> list[str]:
    """Accuracy class by class, worst first, and the worst mix-ups."""
    # Of those that are as bad, those with more photographs come first: 0 of 1 says little.
    classes = sorted(scores["classes"], key=lambda one: (one["right"] / one["pictures"], -one["pictures"], one["name"]))
    if not classes:
        return []
    shown = classes
    if len(classes) > FEW_CLASSES:
        chosen = [one["name"] for kind in (False, True) for one in [c for c in classes if c["seen"] == kind][:WORST]]
        shown = [one for one in classes if one["name"] in chosen]
    rows = [("", "", "right", "mostly taken for")]
    for one in shown:
        wrong = f"{one['mistaken_for']} ({one['mistaken']})" if one["mistaken"] else ""
        kind = "seen" if one["seen"] else "unseen"
        rows.append((one["name"], kind, f"{one['right']} of {one['pictures']}", wrong))
    width = max(len(row[0]) for row in rows)
    middle = max(len(row[2]) for row in rows)
    lines = [f"  {name:<{width}}  {kind:<6}  {right:>{middle}}  {wrong}".rstrip() for name, kind, right, wrong in rows]
    title = "class by class, worst first"
    if len(shown) < len(classes):
        title += f": {len(shown)} of {len(classes)}, the others are in scores.json"
    none = never(scores)
    if none:
        title += f"; none right of {none} classes"
    return [title, *lines, *_mixups(scores)]


def never(scores: Mapping[str, Any], *, unseen: bool = False) -> int:
    """How many classes, or unseen classes, have test photographs and not one of them right."""
    return sum(one["right"] == 0 and not (unseen and one["seen"]) for one in scores["classes"])


def _mixups(scores: Mapping[str, Any]) -> Iterator[str]:
    worst = scores["mixups"][:WORST]
    if worst:
        yield "worst mix-ups"
        for one in worst:
            count = f"{one['pictures']} photograph{'s' if one['pictures'] > 1 else ''}"
            yield f"  {one['of']} is called {one['given']}: {count}, {one['share']:.0%} of that class"


def verdict(scores: Mapping[str, Any], out: str) -> list[str]:
    """Whether it is any good, held against guessing and the closed forms, and what to do next."""
    bad = scores["warnings"]
    lines = [line for text in bad for line in textwrap.wrap(f"WARNING: {text}", WIDTH, subsequent_indent="    ")]
    if scores["H"] is None:
        lines.append("verdict: H cannot be measured here; see above for what is missing")
    else:
        first = "see the warnings before you ship this: " if bad else ""
        lines += textwrap.wrap(f"verdict: {first}{measured(scores)}", WIDTH, subsequent_indent="    ")
    return [*lines, f"run written to {out}; next: zsl-export {out} --out BUNDLE"]


def measured(scores: Mapping[str, Any]) -> str:
    """H with its spread, beside guessing and the best of the closed forms, and what a mean hides."""
    error = scores["spread"]["H"]
    text = f"H {scores['H']:.1f} \xb1 {error:.1f}" if error is not None else f"H {scores['H']:.1f}"
    text += f", {scores['H'] / scores['chance']['all']:.0f} times what guessing gives"
    none = never(scores, unseen=True)
    if none:
        text += f"; of {none} of the {scores['protocol']['classes']['unseen']} unseen classes no photograph is right"
    if scores["ECE"] is not None and scores["ECE"] > MISTRUSTED:
        text += f"; probabilities are {scores['ECE']:.0f} points off, so set no threshold by them"
    known = {name: one for name, one in scores["baselines"].items() if one.get("ahead") is not None}
    if not known:
        return text
    best = max(known, key=lambda name: known[name]["ahead"])
    ahead, spread = known[best]["ahead"], known[best]["ahead_spread"]
    if abs(ahead) <= spread:
        return f"{text}, and the same as {best} ({cell(known[best]['H'])}) within what chance makes, \xb1 {spread:.1f}"
    return f"{text}, and {abs(ahead):.1f} \xb1 {spread:.1f} {'below' if ahead > 0 else 'above'} the closed form {best}"
