"""Write the tables of figures in README.md from benchmarks/results; nothing between the marks is written by hand.

    python tools/figures.py            writes them
    python tools/figures.py --check    exits with 1 when README.md says something else than the results

A table stands between `<!-- figures: NAME -->` and `<!-- end -->`, NAME being one of TABLES.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- figures: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SCORES = ("T1", "T1_czsl", "U", "S", "H", "AUSUC")


def read(name: str) -> dict[str, Any]:
    """The content of a file of benchmarks/results."""
    content: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return content


def one(value: float | None) -> str:
    """A figure with one decimal, or a dash."""
    return "-" if value is None else f"{value:.1f}"


def rows(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    first = f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}\n"
    return first + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def newcomers() -> str:
    """What newcomers cost the classes that were there: of every data set and method, and every number of them."""
    headings = ("", "new", "H of the old: from the start", "before", "added", "+ 5 photos each")
    headings += ("the new: from the start", "added", "+ 1 photo", "+ 5", "+ 10")
    lines = []
    for title, found in read("newcomers.json").items():
        for count, figures in found["counts"].items():
            columns = ("known", "before", "after_0", "after_5")
            old = [one(figures[column]["old_H"]) if column in figures else "-" for column in columns]
            columns = ("known", "after_0", "after_1", "after_5", "after_10")
            new = [one(figures[column]["newcomers"]) if column in figures else "-" for column in columns]
            lines.append((title, count, *old, *new))
    return rows(headings, lines)


def scores(name: str) -> str:
    """The rows of a table of `benchmarks/accuracy/table.py`."""
    lines = []
    for title, found in read(name)["results"].items():
        figures = found["figures"]
        cells = [spread(figures.get(figure)) for figure in SCORES]
        seconds = figures.get("train_seconds")
        minutes = "-" if seconds is None else f"{seconds['mean'] / 60:.0f}"
        mark = " (transductive)" if found["setting"] == "transductive" else ""
        lines.append((f"{title}{mark}", *cells, minutes, str(len(found["seeds"]))))
    return rows(("", *SCORES, "minutes", "seeds"), lines)


def spread(figure: dict[str, Any] | None) -> str:
    """Mean and standard deviation over seeds."""
    if figure is None:
        return "-"
    return one(figure["mean"]) + ("" if figure["std"] is None else f" ± {figure['std']:.1f}")


TABLES: dict[str, Callable[[], str]] = {
    "newcomers": newcomers,
    "cub20": lambda: scores("cub20.json"),
    "cub_fc1000": lambda: scores("cub_fc1000.json"),
    "field_guide": lambda: scores("field_guide.json"),
}


def written(text: str) -> str:
    """The page with every table made anew; KeyError for a mark of no table."""
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found['name']]()}{found[3]}", text)


def main() -> int:
    """Write the tables, or look whether they are as the results say."""
    before = README.read_text(encoding="utf-8")
    after = written(before)
    if "--check" in sys.argv[1:]:
        return 0 if before == after else 1
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
