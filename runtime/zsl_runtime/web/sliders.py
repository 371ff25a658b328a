"""The attributes of a model as sliders: groups, labels and ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zsl_runtime.classes.odd_attributes import SEPARATORS, training_ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.arrays import Doubles
    from zsl_runtime.bundle.bundle import Bundle


class Slider(NamedTuple):
    """One attribute.

    Attributes:
        name: in the model.
        group: what it is about, in words: "bill shape" of has_bill_shape::hooked; '' where its name does not say.
        label: its value in words, or the whole name: "hooked".
        low: smallest value in training.
        high: largest.
        bottom: where the slider ends below; `low`, but for an attribute that was the same everywhere in training.
        top: where it ends above.

    """

    name: str
    group: str
    label: str
    low: float
    high: float
    bottom: float
    top: float


def sliders(bundle: Bundle) -> list[Slider]:
    """One for each attribute, in the model's order."""
    return of_ranges(bundle.attributes, training_ranges(bundle, bundle.current().table))


def of_ranges(names: Sequence[str], ranges: Doubles) -> list[Slider]:
    """One for each of A names with its smallest and largest value (A, 2)."""
    found = []
    for name, (low, high) in zip(names, ranges.tolist(), strict=True):
        group, label = _words(name)
        ends = (low, high) if low < high else (min(low, 0.0), max(high, 1.0))
        found.append(Slider(name, group, label, low, high, *ends))
    return found


def _words(name: str) -> tuple[str, str]:
    """Group and label of an attribute: of has_bill_shape::hooked_seabird, "bill shape" and "hooked seabird"."""
    mark = max(SEPARATORS, key=name.rfind)
    group, found, value = name.rpartition(mark)
    if not found or not group.strip() or not value.strip():
        return "", _plain(name)
    return _plain(group.removeprefix("has_")), _plain(value)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()) or name
