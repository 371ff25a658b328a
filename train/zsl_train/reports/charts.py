"""Drawings by matplotlib as SVG inside a page: text stays text, colours are the page's, and no colour tells alone.

matplotlib draws with stand-ins: colours that become variables of the page's style (`zsl_train.reports.page`), so that
light, dark and print have their own; and words of the same length in place of names that somebody gave, so that none of
these is ever taken for markup, for a formula, or for letters of a font that is not there.
"""

from __future__ import annotations

import html
import io
import itertools
import logging
import re
import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zsl_runtime.machine.libraries import tame_matplotlib
from zsl_runtime.streams import one_line
from zsl_train.reports.page import Html, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zsl_runtime.arrays import Doubles

tame_matplotlib()

INK, MUTED, GRID, SEEN, UNSEEN, THIRD, BAD, PAPER = (f"#0{n}0{n}0{n}" for n in range(1, 9))
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SEEN: "seen", UNSEEN: "unseen", THIRD: "third", BAD: "bad"} | {
    PAPER: "paper"
}
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "zsl-report",  # the same figures give the same page
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.8,
    "path.simplify_threshold": 0.3,
}
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
COLOURS = (SEEN, UNSEEN, THIRD, BAD, INK, MUTED)
LONGEST_LABEL = 26  # letters of a name in a drawing
DRAWN = itertools.count(1)  # drawings of this process: each has ids of its own


class Words:
    """Names that somebody gave, and what stands for them while matplotlib draws."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __call__(self, name: object, most: int = LONGEST_LABEL, *, end: int = 0) -> str:
        """The stand-in of a name: as wide as that will be, about.

        Args:
            name: any text.
            most: letters of it that are shown.
            end: of these, so many of its end, where what tells names apart stands there.

        """
        whole = one_line(str(name))
        tail = whole[len(whole) - end :]
        shown = whole if len(whole) <= most else f"{whole[: most - 1 - len(tail)]}\u2026{tail}"
        mark = f"q{len(self._names)}z"
        stand_in = mark + "o" * max(0, _width(shown) - len(mark))
        self._names[stand_in] = shown
        return stand_in

    def put_back(self, svg: str) -> str:
        """Names in place of their stand-ins."""
        if not self._names:
            return svg
        pattern = re.compile(r"q\d+zo*")
        return pattern.sub(lambda found: html.escape(self._names.get(found[0], found[0])), svg)


def _width(shown: str) -> int:
    """Letters of a Latin font that a text is as wide as."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in shown)
    return len(shown) + wide


@contextmanager
def drawing(width: float, height: float, **options: Any) -> Iterator[tuple[Any, Words]]:
    """An empty figure of so many inches, and the Words for its names; hand it to `finished` inside the block."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its list of fonts
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's matplotlibrc says: pages look alike
        mpl.rcParams.update(SETTINGS)
        yield Figure(figsize=(width, height), layout="constrained", **options), Words()


def finished(figure: Any, words: Words, title: str, description: str) -> Html:
    """The figure as SVG for a page, with a title and a description for who does not see it."""
    number = next(DRAWN)
    written = io.StringIO()
    quiet = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(written, format="svg", metadata=quiet)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="d{number}-', svg)
    svg = svg.replace("url(#", f"url(#d{number}-").replace('href="#', f'href="#d{number}-')
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"(font: (?:\w+ )*[\d.]+px) [^;\"]*", r"\1 sans-serif", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    head = (
        f'<svg role="img" aria-labelledby="d{number}-title d{number}-text" '
        f'preserveAspectRatio="xMinYMin meet" {svg[len("<svg ") : svg.index(">")]}>'
        f'<title id="d{number}-title">{text(title)}</title><desc id="d{number}-text">{text(description)}</desc>'
    )
    return Html(re.sub(r"\n\s*", "\n", words.put_back(head + svg[svg.index(">") + 1 :])))


# --- what several reports draw ----------------------------------------------------------------------------------------


def style(number: int) -> dict[str, Any]:
    """Of the number-th of several lines: colour, dashes and marker all differ."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def dots(
    rows: Sequence[tuple[str, dict[str, tuple[float, float | None]]]],
    kinds: dict[str, str],
    *,
    title: str,
    description: str,
    label: str,
    line: tuple[float, str] | None = None,
) -> Html:
    """Rows of values from 0 to 100, each kind of value with a marker of its own.

    Args:
        rows: name, and for each kind its value and standard error, if known.
        kinds: key -> what the legend calls it.
        title: of the drawing.
        description: for who does not see it.
        label: of the axis.
        line: a value that all are compared with, and what it is.

    """
    colours = {"S": SEEN, "U": UNSEEN}
    with drawing(7.4, 0.95 + 0.34 * len(rows)) as (figure, words):
        axes = figure.add_subplot()
        handles = []
        for number, key in enumerate(kinds):
            colour = colours.get(key, INK)
            found = [(place, *of[key]) for place, (_, of) in enumerate(rows) if key in of]
            offset = (number - (len(kinds) - 1) / 2) * 0.18
            look = {"color": colour, "markerfacecolor": colour if number == 0 else PAPER, "markersize": 6.5}
            axes.errorbar(
                [value for _, value, _ in found],
                [place + offset for place, _, _ in found],
                xerr=[error or 0.0 for _, _, error in found],
                fmt=MARKERS[number],
                capsize=2.5,
                **look,
            )
            handles += axes.plot([], [], MARKERS[number], label=kinds[key], **look)
        if line is not None:
            handles.append(axes.axvline(line[0], color=MUTED, linestyle=":", label=line[1]))
        axes.set_yticks(range(len(rows)), [words(name, 34) for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 101)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
        return finished(figure, words, title, description)


def percent_axes(axes: Any, x: str, y: str) -> None:
    """Two axes from 0 to 100."""
    axes.set_xlim(-1, 101)
    axes.set_ylim(-1, 101)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid()


def thinned(values: Doubles, most: int = 800) -> Doubles:
    """At most about so many of the rows of (n, k), ends included."""
    step = max(1, len(values) // most)
    kept = values[::step]
    return kept if step == 1 or len(values) % step == 1 else _with_end(kept, values)


def _with_end(kept: Doubles, values: Doubles) -> Doubles:
    import numpy as np

    return np.concatenate([kept, values[-1:]])
