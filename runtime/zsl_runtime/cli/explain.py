"""What `zsl-classes explain` prints: lines for people, or JSON for programs."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

from zsl_runtime.classes.account import AHEAD
from zsl_runtime.classes.newcomers import Neighbour
from zsl_runtime.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zsl_runtime.classes.account import Account, Rests, Step

WIDTH = 80  # letters of a line, but for names that are longer
MOST_STEPS = 8  # of the history, the first and the last ones
DONE = {
    "export": "exported with the model",
    "add": "added",
    "teach": "taught",
    "remove": "removed",
    "undo": "changed by an undo",
}


def print_accounts(found: Sequence[Account], form: str) -> None:
    """Print what is known of classes as `text` or as `json`, a list of one object a class."""
    if form == "json":
        print(json.dumps([one.to_dict() for one in found], ensure_ascii=False, indent=1))  # noqa: T201
        return
    for k, one in enumerate(found):
        for line in ([""] if k else []) + list(lines(one)):
            print(one_line(line))  # noqa: T201  # stdout carries the results


def lines(one: Account) -> Iterator[str]:
    """What is known of a class, for people. Names stand at the end of a line, since they may be of any width."""
    yield f"{one.name}"
    yield f"{one.split}, row {one.row}, {one.attributes} attributes, head rule {one.rule}"
    yield from _nearest(one)
    yield from _apart(one)
    yield from _resting(one)
    yield from _contradictions(one)
    yield from _came(one)


def _nearest(one: Account) -> Iterator[str]:
    yield ""
    if not one.neighbours:
        yield "It is the only class."
        return
    if not isinstance(one.neighbours[0], Neighbour):
        yield "Nearest classes, by the cosine of their attributes:"
        yield "  cosine  class"
        for near in one.neighbours:
            if not isinstance(near, Neighbour):
                yield f"{near.cosine:8.2f}  {near.name}"
        yield from _wrapped(
            f"What it will be mixed up with is known only for bundles with the Gaussian head; this one's is made by "
            f"the rule {one.rule!r}."
        )
        return
    yield from _wrapped(
        "Nearest classes, the worst mix-up first: how many standard deviations away, and the shares of photographs "
        "expected to be lost to them and taken from them, pair by pair:"
    )
    yield "  distance  lost  taken  class"
    for near in one.neighbours:
        if isinstance(near, Neighbour):
            yield f"{near.distance:10.1f}  {near.lost:4.0%}  {near.taken:5.0%}  {near.name}"


def _apart(one: Account) -> Iterator[str]:
    if not one.neighbours:
        return
    yield ""
    if not one.apart:
        yield "By its attributes hardly anything sets it apart from these."
        return
    yield "What sets it apart from these, by the table (means of them and of all classes):"
    yield "        it      them       all  attribute"
    for spoken in one.apart:
        yield f"{_number(spoken.own)}{_number(spoken.near)}{_number(spoken.all)}  {spoken.attribute}"


def _resting(one: Account) -> Iterator[str]:
    yield ""
    if one.rests is None:
        yield from _wrapped(
            f"What it rests on: its attributes. Heads made by the rule {one.rule!r} keep no count of the photographs "
            "of single classes, so nothing is known of what they told, or of what is left uncertain."
        )
        return
    yield from _wrapped(f"What it rests on: {_told(one.rests, one)}")


def _told(rests: Rests, one: Account) -> str:
    if rests.photographs == 0:
        return (
            f"its attributes alone, no photograph. {AHEAD} photographs would leave {rests.left_then:.0%} of the "
            "uncertainty about where it lies."
        )
    text = f"its attributes and {_photographs(rests.photographs)}{_origin(rests)}. They have moved its mean by "
    text += f"{rests.moved:.1f} standard deviations from where its attributes put it"
    nearest = min((near.distance for near in one.neighbours if isinstance(near, Neighbour)), default=None)
    if nearest is not None:
        text += f"; its nearest class is {nearest:.1f} away"
    if rests.moved_less is not None:
        text += f". That is farther than {rests.moved_less:.0%} of the other {one.split} classes that have photographs"
    text += "."
    if nearest is not None and rests.moved > nearest:
        text += " Are its row and its photographs of one class?"
    return (
        f"{text} Of the uncertainty about where it lies {rests.left:.0%} is left; {AHEAD} photographs more would leave "
        f"{rests.left_then:.0%}."
    )


def _origin(rests: Rests) -> str:
    if rests.trained is None:
        return " (how many of them are of training cannot be told any more)"
    taught = rests.photographs - rests.trained
    if taught == 0:
        return " of training"
    return f", {rests.trained} of training and {taught} taught on site" if rests.trained else " taught on site"


def _contradictions(one: Account) -> Iterator[str]:
    if one.contradicted is None or one.readable is None:
        return
    yield ""
    bound = f"of the {one.readable} attributes that the model reads well enough to say so"
    if not one.contradicted:
        yield from _wrapped(f"Its photographs contradict the table in none {bound}.")
        return
    yield from _wrapped(
        f"Its photographs seem to contradict the table in {len(one.contradicted)} {bound}, a hint and no proof: what "
        "the table says, what they read, how many standard deviations of such a reading's error that is, and how well "
        "the attribute is read (correlation, of classes the reading did not know):"
    )
    yield "     table      read  apart  quality  attribute"
    for odd in one.contradicted:
        yield f"{_number(odd.table)}{_number(odd.read)}{odd.deviations:7.1f}{odd.quality:9.2f}  {odd.attribute}"


def _came(one: Account) -> Iterator[str]:
    yield ""
    steps = one.history
    if not steps:
        yield "How it came: the history does not tell."
    else:
        yield "How it came:"
        hidden = max(0, len(steps) - MOST_STEPS)
        for k, step in enumerate(steps):
            if not 1 <= k <= hidden:
                yield f"  {step.when}  generation {step.number}: {_done(step)}"
            elif k == 1:
                yield f"  ... and {hidden} more"
    if one.unreadable:
        yield from _wrapped(f"{one.unreadable} lines of the history cannot be read, and may be about it, too.")


def _done(step: Step) -> str:
    done = DONE.get(step.action, step.action)
    return f"{done}, {_photographs(step.photographs)}" if step.photographs else done


def _number(value: float) -> str:
    """A value in ten letters, whatever its size."""
    return f"{value:10.2f}" if abs(value) < 99999 else f"{value:10.2g}"


def _photographs(count: int) -> str:
    return f"{count} photograph" if count == 1 else f"{count} photographs"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)
