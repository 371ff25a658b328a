"""What a description says of each attribute, by its words, and which sentence says so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.drafting.lexicon import ALIKE, NOT, PARTS, PLACES, PRESENT, VALUES, plain, stem
from zsl_runtime.drafting.phrases import UNITS, WORD
from zsl_runtime.drafting.text import clauses, sentences

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zsl_runtime.arrays import Bools, Doubles
    from zsl_runtime.drafting.phrases import Phrase

CARRIED = 0.7  # how much a clause is about the part that the clause before it named, if it names none itself
LISTED = 3  # words of a clause that may be one more of a list of parts
SAID = 0.3  # from which a value counts as said
# The first length of a text: 28 to 31 cm, 5-6 in, 80 cm.
LENGTH = re.compile(
    r"(?<!\d)(\d{1,6}(?:[.,]\d{1,6})?)\s*(?:(?:to|and|-|–|—)\s*(\d{1,6}(?:[.,]\d{1,6})?)\s*)?"
    r"(mm|cm|m|in|ft|millimet(?:er|re)s?|centimet(?:er|re)s?|met(?:er|re)s?|inch(?:es)?|feet|foot)\b",
    re.IGNORECASE,
)
_PARTS = {stem(word): parts for word, parts in PARTS.items()}
_VALUES = {stem(word): values for word, values in VALUES.items()}
LONG_UNITS = {"mil": "mm", "cen": "cm", "met": "m", "inc": "in", "fee": "ft", "foo": "ft"}


@dataclass(frozen=True, eq=False)
class Told:
    """What a text says of A attributes.

    Attributes:
        score: (A,) float64 from 0 to 1, how plainly the value is said.
        known: (A,) bool, whether the text speaks of the attribute's group at all: where it does, what it does not say
            is unlikely.
        sentence: of each attribute the sentence that says its value, or else one that speaks of its group; '' where
            there is none.

    """

    score: Doubles
    known: Bools
    sentence: tuple[str, ...]


def told(text: str, attributes: Sequence[Phrase]) -> Told:
    """What a text says, by its words.

    A clause is about the parts that it names, or else about those of the clause before it. The values that it names are
    said of these parts, but those behind a `no` or `without`. Of parts in a list the values are said of each: "a white
    head, neck and tail", "the back and wings are grey".

    Args:
        text: of any length.
        attributes: A of them.

    """
    found = _Reading(attributes)
    for number, sentence in enumerate(sentences(text)):
        before: dict[str, float] = {}
        values: dict[str, float] = {}
        waiting: dict[str, float] = {}  # parts that were named, and nothing said of them yet: "the back and wings are"
        for clause in clauses(sentence):
            said = [plain(word) for word in WORD.findall(clause.casefold())]
            named = found.parts([word for word in said if not (before and word in PLACES)])
            own = found.values(said)
            if named and not own and len(said) <= LISTED:  # one more of a list: "a white head, neck and tail"
                if values:
                    own = values
                else:
                    waiting |= named
            here = {**waiting, **named} if named else {part: CARRIED * strength for part, strength in before.items()}
            if named:
                before = here
            if own:
                values, waiting = own, {}
            if number == 0:
                here[""] = 1.0  # of the whole, such as its size: said at the beginning
            found.add(sentence, here, own, there=bool(named) and NOT.isdisjoint(said))
    found.add_length(text)
    return found.result()


class _Reading:
    """What was found so far."""

    def __init__(self, attributes: Sequence[Phrase]) -> None:
        self._attributes = attributes
        self._groups: dict[str, list[int]] = {}
        self._of_part: dict[str, list[int]] = {}
        self._bare = [n for n, phrase in enumerate(attributes) if phrase.bare and phrase.value]
        for n, phrase in enumerate(attributes):
            self._groups.setdefault(phrase.group, []).append(n)
            if phrase.value and not phrase.bare:
                self._of_part.setdefault(phrase.part, []).append(n)
        # Parts and values by the stems of their words; a part may have several.
        self._parts = {part: [stem(word) for word in part.split()] for part in {one.part for one in attributes} if part}
        self._values = {stem(word) for one in attributes for word in one.value}
        self._score = np.zeros(len(attributes))
        self._sentence = [""] * len(attributes)
        self._spoken: dict[str, str] = {}  # group -> the sentence that speaks of it

    def parts(self, said: Sequence[str]) -> dict[str, float]:
        """The parts that the words of a clause name, and how surely."""
        stems = {stem(word) for word in said}
        found = {part: 1.0 for part, needed in self._parts.items() if stems.issuperset(needed)}
        for word in said:
            for part in _PARTS.get(stem(word), ()):
                if part in self._parts:
                    found[part] = 1.0
        return found

    def values(self, said: Sequence[str]) -> dict[str, float]:
        """Stem of a value -> how plainly the words of a clause say it."""
        found: dict[str, float] = {}
        for word in said:
            if word in NOT:
                break
            root = stem(word)
            if root in self._values:
                found[root] = 1.0
            for other in _VALUES.get(root, ()):
                found[stem(other)] = max(found.get(stem(other), 0.0), ALIKE)
        return found

    def add(self, sentence: str, here: Mapping[str, float], values: Mapping[str, float], *, there: bool) -> None:
        """Count what a clause says.

        Args:
            sentence: that it is of.
            here: part -> how surely the clause is about it; '' for what is said of the whole.
            values: of `values`.
            there: whether the clause names the parts that it is about, and not to say that they are missing.

        """
        strong = {part: strength for part, strength in here.items() if strength > SAID}
        for n in [*self._bare, *(n for part in strong for n in self._of_part.get(part, ()))]:
            phrase = self._attributes[n]
            strength = 1.0 if phrase.bare else strong[phrase.part]
            if phrase.part and PRESENT.issuperset(phrase.value):
                score = float(there)
                self._spoken.setdefault(phrase.group, sentence)
            else:
                found = [values.get(stem(word), 0.0) for word in phrase.value]
                # Of what is said of the whole every word must be there: `bright top` is not what `bright green` says.
                score = strength * (sum(found) / len(found) if phrase.part else min(found))
            if score > self._score[n]:
                self._score[n], self._sentence[n] = score, sentence
            if score > SAID:
                self._spoken.setdefault(phrase.group, sentence)

    def add_length(self, text: str) -> None:
        """Count the first length of the text where a group has its values in lengths."""
        length = first_length(text)
        if length is None:
            return
        centimetres, sentence = length
        for group, members in self._groups.items():
            ranges = [self._attributes[n].lengths for n in members]
            if len(members) < 2 or any(one is None for one in ranges):
                continue
            for n, one in zip(members, ranges, strict=True):
                assert one is not None
                self._score[n] = float(one[0] <= centimetres < one[1])
                self._sentence[n] = sentence if self._score[n] else ""
            self._spoken[group] = sentence

    def result(self) -> Told:
        known = np.array([phrase.group in self._spoken for phrase in self._attributes])
        spoken = [self._spoken.get(phrase.group, "") for phrase in self._attributes]
        chosen = (
            own if score > SAID else other
            for own, other, score in zip(self._sentence, spoken, self._score, strict=True)
        )
        return Told(self._score, known, tuple(chosen))


def first_length(text: str) -> tuple[float, str] | None:
    """The first length of a text in centimetres, the middle of a range, and the sentence that it is in."""
    for sentence in sentences(text):
        found = LENGTH.search(sentence)
        if found is not None:
            unit = found[3].lower()
            scale = UNITS[unit if unit in UNITS else LONG_UNITS[unit[:3]]]
            numbers = [float(one.replace(",", ".")) for one in found.group(1, 2) if one]
            return scale * sum(numbers) / len(numbers), sentence
    return None
