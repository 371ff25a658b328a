"""Names of attributes as words: `has_bill_shape::curved_(up_or_down)` is about the bill, and says curved."""

from __future__ import annotations

import re
from typing import NamedTuple

from zsl_runtime.classes.odd_attributes import SEPARATORS
from zsl_runtime.drafting.lexicon import EMPTY, KINDS, plain, stem
from zsl_runtime.errors import UsageError

WORD = re.compile(r"[^\W\d_]+")
BRACKETS = re.compile(r"\([^()]*\)")
# Lengths in a value, such as large_(16_-_32_in).
BETWEEN = re.compile(
    r"(?<!\d)(\d{1,6}(?:\.\d{1,6})?)[\s_]{0,9}(?:-|–|to)[\s_]{0,9}(\d{1,6}(?:\.\d{1,6})?)[\s_]{0,9}(mm|cm|m|in|ft)\b"
)
UNITS = {"mm": 0.1, "cm": 1.0, "m": 100.0, "in": 2.54, "ft": 30.48}  # in centimetres


class Phrase(NamedTuple):
    """An attribute in words.

    Attributes:
        group: what the attributes that exclude or complete each other have in common; the name itself for one alone.
        part: of what it is said, in one string such as `under tail`; '' where it is of the whole.
        value: the words of what is said.
        lengths: from and to in centimetres, where the value is a length; else None.
        bare: whether the name has no value apart from it, such as `furry`: said wherever its words are.

    """

    group: str
    part: str
    value: tuple[str, ...]
    lengths: tuple[float, float] | None
    bare: bool = False


def words(text: str) -> list[str]:
    """The words of a text, in small letters and one spelling."""
    return [plain(word) for word in WORD.findall(text.casefold())]


def phrases(attributes: tuple[str, ...]) -> tuple[Phrase, ...]:
    """The attributes of a model in words.

    Raises:
        UsageError: E-DRAFT-ATTRIBUTES when names are numbers, so that nothing in a text can be about them.

    """
    if len({tuple(words(name)) for name in attributes}) <= len(attributes) // 2:
        raise UsageError(
            "E-DRAFT-ATTRIBUTES",
            f"the model's attributes are called {attributes[0]!r} to {attributes[-1]!r}, which no text can be about; a "
            "draft needs names in words, such as bill_shape=hooked: train with a table that has them",
        )
    return tuple(map(_phrase, attributes))


def _phrase(name: str) -> Phrase:
    group, value = name, ""
    for separator in SEPARATORS:
        if separator in name:
            group, _, value = name.partition(separator)
            break
    if not value:  # one by itself, such as `furry`: all of its name is what is said
        return Phrase(name, "", tuple(word for word in words(name) if word not in EMPTY | KINDS), None, bare=True)
    part = " ".join(word for word in words(group) if word not in KINDS)
    said = tuple(word for word in words(BRACKETS.sub(" ", value)) if word not in EMPTY)
    about = {stem(word) for word in part.split()}
    own = tuple(word for word in said if stem(word) not in about)  # tail_shape=forked_tail says `forked`
    return Phrase(group, part, own or said, _lengths(value))


def _lengths(value: str) -> tuple[float, float] | None:
    found = BETWEEN.search(value)
    if found is None:
        return None
    unit = UNITS[found[3]]
    return float(found[1]) * unit, float(found[2]) * unit
