"""What a run of `zsl-infer` found, in counts: classes, unsure answers, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from zsl_runtime.errors import InputError
from zsl_runtime.head.distance import FAR
from zsl_runtime.inputs.left_out import ordered, others

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from zsl_runtime.labelling.snapshot import Labelled

UNSURE = 0.5  # an answer whose best class is less probable than this is called unsure
MOST_CLASSES = 10  # that get a line of their own
# The error codes of inputs in words that can stand behind a number; a test compares them with the source.
REASONS = {
    "E-ANSWER-VALUE": "without an answer that is a number",
    "E-FOLDER": "a folder that cannot be looked into",
    "E-IMAGE-ARRAY": "no array of a picture",
    "E-IMAGE-DECODE": "damaged or cut off",
    "E-IMAGE-EMPTY": "empty",
    "E-IMAGE-FLOAT": "floating-point grey",
    "E-IMAGE-FORMAT": "not a picture",
    "E-IMAGE-HUGE": "too large",
    "E-IMAGE-KIND": "of a kind that is not read",
    "E-IMAGE-OPEN": "not there or not to be opened",
    "E-IMAGE-PREVIEW": "a preview in place of the picture",
    "E-IMAGE-RANGE": "whose white is unknown",
    "E-IMAGE-SCANS": "in too many scans",
    "E-IMAGE-TYPE": "no picture at all",
    "E-ROW-FILE": "not a readable file of features",
    "E-ROW-SHAPE": "of another shape",
    "E-ROW-VALUE": "with NaN or infinite numbers",
    "E-SHARD-DAMAGED": "damaged or cut off as an archive",
    "E-SHARD-ENCRYPTED": "an archive with a password",
    "E-SHARD-MEMBER": "not to be unpacked",
    "E-SHARD-OPEN": "an archive that cannot be opened",
    "E-STORE-READ": "not to be read from their store",
}


class Counts:
    """Counts answers, batch by batch."""

    def __init__(self) -> None:
        self.classes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.unsure = 0
        self.far: int | None = None  # None while no answer says whether it is far

    def add(self, batch: Iterable[Labelled]) -> None:
        """Count the best class of each answer, or why there is none."""
        for _, result in batch:
            if isinstance(result, InputError):
                self.reasons[result.code] += 1
            else:
                self.classes[result.names[0]] += 1
                self.unsure += result.probabilities[0] < UNSURE
                if result.far is not None:
                    self.far = (self.far or 0) + result.far

    def lines(self, unit: str, kinds: Mapping[str, int], *, after: int = 0) -> Iterator[str]:
        """What there is to say, in a handful of lines.

        Args:
            unit: what was labelled, in the plural.
            kinds: files that were left out for their names, by kind.
            after: how many answers of an earlier run are not among those counted.

        """
        labelled = self.classes.total()
        if labelled:
            whose = f" of this run, which went on after {after}" if after else ""
            yield f"best classes of {_many(labelled, unit)}{whose}:"
            yield from self._best(unit)
            yield f"unsure, with a best probability below {UNSURE:g}: {self.unsure} of {labelled}"
            if self.far is not None:
                yield (
                    f"unlike anything known, farther from every class than {FAR} % of held-out {unit}: {self.far} of "
                    f"{labelled}"
                )
        if self.reasons:
            told = (f"{count} {REASONS.get(code, 'left out')} ({code})" for code, count in ordered(self.reasons))
            yield f"not readable{' in this run' if after else ''}: {', '.join(told)}"
        if kinds:
            yield f"files of other kinds: {others(kinds)}"

    def _best(self, unit: str) -> Iterator[str]:
        """A line for each of the most frequent classes, and one for the rest."""
        frequent = ordered(self.classes)
        width = len(str(frequent[0][1])) + 2
        for name, count in frequent[:MOST_CLASSES]:
            yield f"{count:{width}d}  {name}"
        rest = frequent[MOST_CLASSES:]
        if rest:
            pictures = _many(sum(count for _, count in rest), unit)
            yield f"{'':{width}}  and {len(rest)} more class{'' if len(rest) == 1 else 'es'}, {pictures}"


def _many(count: int, unit: str) -> str:
    return f"{count} {unit.removesuffix('s') if count == 1 else unit}"
