"""What `zsl-classes draft` says of a draft: what the text told and by which sentence, and how good such drafts are."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from zsl_runtime.drafting.text import sentences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zsl_runtime.classes.template import Template
    from zsl_runtime.drafting.draft import Draft
    from zsl_runtime.head.class_table import ClassTable

# From benchmarks/results/drafts.json; a test holds them to it.
HOW_GOOD = (
    "how good such drafts are: of 20 bird species their values were ranked as in rows made by hand with a correlation "
    "of 0.52 beyond what all birds share; classes added by them were found in 14% and 31% of their photographs, those "
    "added by rows made by hand in 49% and 46%: correct it"
)
WIDTH = 80  # letters of a line, but for names that are longer


def lines(draft: Draft, template: Template, table: ClassTable, text: str) -> Iterator[str]:
    """The values that the text tells, below the sentence that tells them, beside the mean of the known classes."""
    usual = table.raw.mean(axis=0)
    by_sentence: dict[str, list[int]] = {sentence: [] for sentence in sentences(text)}
    for n, sentence in enumerate(draft.sentences):
        if draft.said[n]:
            by_sentence[sentence].append(n)
    yield "     draft      mean  attribute, below the sentence that says it"
    for sentence, told in by_sentence.items():
        if told:
            yield from textwrap.wrap(f'"{sentence}"', WIDTH)
        for n in told:
            yield f"{_number(draft.row[n])}{_number(usual[n])}  {template.attributes[n]}"


def summary(draft: Draft) -> Iterator[str]:
    """How much is told and how much is guessed, and how good such drafts are; for stderr."""
    said, all_ = int(draft.said.sum()), len(draft.row)
    groups = int(draft.known.sum()) - said
    yield (
        f"the text says {said} of {all_} attributes; {groups} more are of what it speaks of, and not said; "
        f"{all_ - said - groups} are guessed from what goes together in the table"
        + (f", and from classes with like names: {', '.join(draft.alike)}" if draft.alike else "")
    )
    yield HOW_GOOD


def _number(value: float) -> str:
    """A value in ten letters, whatever its size."""
    return f"{value:10.2f}" if abs(value) < 99999 else f"{value:10.2g}"
