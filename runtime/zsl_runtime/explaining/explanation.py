"""What is said of one picture: plain data, for pages, sheets and programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zsl_runtime.arrays import Floats


@dataclass(frozen=True)
class Spoken:
    """What one attribute says about a picture.

    Attributes:
        attribute: its name.
        contribution: to log p(answer) - log p(rival); above 0 it speaks for the answer.
        read: its value in this picture, as the model's read-out tells it, in units of the class table, moved such that
            halfway between the two classes, as the model holds them, is halfway in the table.
        answer: its value of the answer's class in the table.
        rival: its value of the rival's.

    """

    attribute: str
    contribution: float
    read: float
    answer: float
    rival: float


@dataclass(frozen=True)
class Explanation:
    """Why a picture got its label and not the next one.

    contributions + rest + seen_handicap = difference, but for what float32 rounds.

    Attributes:
        name: of the picture.
        answer: the most probable class.
        rival: the strongest other one; None where a filter leaves one class, and then nothing is split.
        probability: of the answer.
        rival_probability: of the rival; 0 without one.
        difference: log p(answer) - log p(rival), as the model's graph gives it.
        spoken: one for each attribute that has a say, largest |contribution| first.
        rest: what no attribute tells. What photographs told of classes that attributes do not is in here.
        seen_handicap: what the calibration of classes with training photographs adds (gamma).
        maps: attribute -> where the model looked for it, (side, side) float32 that sums to 1; None for models without
            attention.

    """

    name: str
    answer: str
    rival: str | None
    probability: float
    rival_probability: float
    difference: float
    spoken: tuple[Spoken, ...]
    rest: float
    seen_handicap: float
    maps: Mapping[str, Floats] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; maps as lists of rows."""
        kept = {key: value for key, value in vars(self).items() if key not in {"spoken", "maps"}}
        maps = None if self.maps is None else {name: one.tolist() for name, one in self.maps.items()}
        return {**kept, "spoken": [vars(one).copy() for one in self.spoken], "maps": maps}
