"""What all tables of figures are made with: the files of benchmarks/results, and Markdown."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


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


def paragraph(text: str) -> str:
    """Lines that fit a page."""
    return f"{textwrap.fill(text, 120, break_on_hyphens=False)}\n"
