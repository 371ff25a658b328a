"""What undo would take back, newest first: from the history of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zsl_runtime.bundle.bundle import Bundle

MOST_STEPS = 100  # that are told; undo goes on behind them


class Step(NamedTuple):
    """A change that is in force.

    Attributes:
        number: of the generation that it made.
        action: add, teach, remove or refit.
        names: of the classes that it was about.
        photographs: class -> how many it was shown.
        when: in UTC, ISO 8601; '' where the history does not say.

    """

    number: int
    action: str
    names: tuple[str, ...]
    photographs: dict[str, int]
    when: str


def steps(bundle: Bundle, number: int) -> tuple[Step, ...]:
    """The changes that lead to generation `number`, newest first, as far as undo can go back.

    The history is only shown and nobody vouches for it, so what in it makes no sense ends the list.

    Args:
        bundle: only read.
        number: of the generation in force.

    """
    entries = {entry.get("number"): entry for entry in bundle.history()[0]}
    found: list[Step] = []
    while len(found) < MOST_STEPS:
        number = _made_by(entries, number)
        entry = entries.get(number)
        if entry is None or number <= 1 or not bundle.generation_path(number - 1).exists():
            break
        found.append(_step(number, entry))
        number -= 1  # a change begins with the generation before it, undone or not
    return tuple(found)


def added_names(bundle: Bundle) -> frozenset[str]:
    """Classes that were added on site, whether or not they are still there."""
    made = (entry for entry in bundle.history()[0] if entry.get("action") == "add")
    return frozenset(name for entry in made for name in _names(entry))


def _made_by(entries: Mapping[Any, Mapping[str, Any]], number: int) -> int:
    """The generation whose state `number` has: an undo says which one it equals."""
    while entries.get(number, {}).get("action") == "undo":
        equal = entries[number].get("equals")
        if type(equal) is not int or not 0 < equal < number:
            return 0
        number = equal
    return number


def _step(number: int, entry: Mapping[str, Any]) -> Step:
    shown = entry.get("photographs")
    counts = {str(name): count for name, count in shown.items() if type(count) is int} if type(shown) is dict else {}
    return Step(number, str(entry.get("action")), _names(entry), counts, str(entry.get("when", "")))


def _names(entry: Mapping[str, Any]) -> tuple[str, ...]:
    given = entry.get("names")
    return tuple(name for name in given if isinstance(name, str)) if isinstance(given, list) else ()
