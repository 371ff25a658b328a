"""The bars of an explanation: the attributes that say most, all others in one, and what no attribute tells.

Each begins where the one before ends, so the last of them ends at the difference of scores.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from zsl_runtime.explaining.explanation import Explanation, Spoken

MOST = 8  # attributes with a bar of their own
LEAST = 5e-3  # a handicap that is smaller is shown as 0.00 and left out
MAPS = 4  # small photographs with the attention of an attribute


class Bar(NamedTuple):
    """One step from nothing to the difference of scores.

    Attributes:
        label: in plain words.
        value: what it says for the answer; below 0 for the rival.
        begin: where it begins.
        spoken: of an attribute; None for what is none.

    """

    label: str
    value: float
    begin: float
    spoken: Spoken | None = None

    @property
    def end(self) -> float:
        """Where it ends."""
        return self.begin + self.value


def bars_of(one: Explanation, most: int = MOST) -> list[Bar]:
    """The bars of an explanation, `most` attributes with their own; none where there is no rival."""
    if one.rival is None:
        return []
    steps: list[tuple[str, float, Spoken | None]] = [
        (plain_words(spoken.attribute), spoken.contribution, spoken) for spoken in one.spoken[:most]
    ]
    others = one.spoken[most:]
    if others:
        count = "1 other attribute" if len(others) == 1 else f"{len(others)} other attributes"
        steps.append((count, sum(spoken.contribution for spoken in others), None))
    steps.append(("what no attribute tells", one.rest, None))
    if abs(one.seen_handicap) >= LEAST:
        steps.append(("handicap of trained classes", one.seen_handicap, None))
    out: list[Bar] = []
    for label, value, spoken in steps:
        out.append(Bar(label, value, out[-1].end if out else 0.0, spoken))
    return out


def plain_words(attribute: str) -> str:
    """An attribute's name for people: `wing_pattern=barred` is wing pattern: barred."""
    group, sign, value = attribute.partition("::" if "::" in attribute else "=")
    words = f"{group}: {value}" if sign and group and value else attribute
    return " ".join(words.replace("_", " ").split()) or attribute


def shown_maps(one: Explanation, most: int = MAPS) -> list[Spoken]:
    """The attributes whose maps are shown: those that say most."""
    return [] if one.maps is None else [spoken for spoken in one.spoken[:most] if spoken.attribute in one.maps]


def number(value: float) -> str:
    """A contribution with its sign; what rounds to nothing has none."""
    text = f"{value:+.2f}"
    return "0.00" if text in {"+0.00", "-0.00"} else text


def amounts(spoken: Spoken) -> tuple[str, str, str]:
    """What is read of an attribute, and its values of answer and rival: as exact as it takes to tell these apart."""
    gap = abs(spoken.answer - spoken.rival)
    size = math.log10(gap) if gap > 0 else 0.0
    places = min(max(2, math.ceil(-size)), 6) if size <= 0 else max(0, 2 - int(size))
    read, answer, rival = (_rounded(value, places) for value in (spoken.read, spoken.answer, spoken.rival))
    return read, answer, rival


def _rounded(value: float, places: int) -> str:
    text = f"{value:.{places}f}" if abs(value) < 1e6 else f"{value:.3g}"
    return text.lstrip("-") if not text.strip("-0.") else text


def chance(probability: float) -> str:
    """A probability in words: never 0 % and never 100 % of what is not."""
    percent = 100 * probability
    if probability >= 1:
        return "100 %"
    if percent > 99.9:
        return "more than 99.9 %"
    return f"{percent:.1f} %" if percent >= 0.05 else "less than 0.1 %"


def times(difference: float) -> str:
    """How much more probable the answer is than its rival."""
    if difference > math.log(1000):
        return "more than 1,000 times as probable"
    ratio = math.exp(difference)
    if ratio < 1.05:
        return "hardly more probable"
    return f"{ratio:.0f} times as probable" if ratio >= 9.5 else f"{ratio:.1f} times as probable"
