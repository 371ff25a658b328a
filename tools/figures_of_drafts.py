"""Tables of how good drafted rows are, from benchmarks/results/drafts.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from figure_tables import one, read, rows

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = {
    "true row": "the true row, by hand",
    "draft": "**the draft**",
    "draft without names": "the draft, `--without-names`",
    "nearest name": "the row of the class with the nearest name",
    "words alone": "words alone, the rest at the mean",
    "sentences alone": "sentences alone, by the encoder",
    "mean row": "the mean row of the known classes",
}
KNOWN = ("150 known classes", "13 known classes")
ADDED = ("added to CUB, fc1000 features", "added to cub20")


def two(value: float | None) -> str:
    """A correlation with two decimals, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def correlations() -> str:
    """Rank correlations with the true rows, for many and for few known classes."""
    found = read("drafts.json")
    headings = ["", *(f"{title}: {what}" for title in KNOWN for what in ("row", "row without the mean", "attribute"))]
    lines = []
    for kind, name in KINDS.items():
        figures = [found[title].get(kind) for title in KNOWN]
        if all(figures):
            columns = ("row", "row_without_mean", "attribute")
            lines.append((name, *(two(one[column]) for one in figures for column in columns)))
    return rows(headings, lines)


def added() -> str:
    """How often newcomers are found by each of the rows, in percent."""
    found = read("drafts.json")
    titles = [title.removeprefix("added to ") for title in ADDED]
    headings = ["", *(f"{title}: {what}" for title in titles for what in ("T1", "newcomers", "S", "H"))]
    lines = []
    for kind, name in KINDS.items():
        figures = [found[title]["rows"][kind] for title in ADDED]
        lines.append((name, *(one(of[column]) for of in figures for column in ("T1", "newcomers", "seen", "H"))))
    return rows(headings, lines)


TABLES: dict[str, Callable[[], str]] = {"draft_correlations": correlations, "draft_added": added}
