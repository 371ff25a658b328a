"""How attribute vectors become the semantic vectors that graphs take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import UsageError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zsl_runtime.arrays import Bools, Doubles, Floats

MARKS = (-1.0, -9.0, -99.0, -999.0, -9999.0)  # what tables hold where something is not known
SMALL = 0.1  # a negative number is a mark, too, that is smaller than this share of the largest one
SWITCHES = ("clamp_negative", "unit_l2")
SCALE = "attribute_scale"  # the key of plain data that is there only where attributes are scaled


@dataclass(frozen=True)
class AttributeScale:
    """The range of every attribute over the seen classes of training, by which it is divided.

    Attributes:
        low: A smallest values, of what is left after missing ones were set to 0. An attribute with a negative one is
            negative by nature.
        width: A differences of the largest and the smallest value; 0 for an attribute that was the same everywhere, of
            which nothing was learnt, so that it counts for nothing.

    """

    low: tuple[float, ...]
    width: tuple[float, ...]

    @classmethod
    def of(cls, known: Doubles, *, clamp_negative: bool) -> AttributeScale:
        """The scale of the seen classes' raw attributes (S, A), S at least 1.

        Args:
            known: (S, A) float64.
            clamp_negative: whether negative numbers may be marks of what is missing (`by_nature`).

        """
        marks = ~by_nature(known) if clamp_negative else np.zeros(known.shape[1], dtype=np.bool_)
        kept = np.where(marks, np.maximum(known, 0.0), known)
        low, high = kept.min(axis=0), kept.max(axis=0)
        with np.errstate(over="ignore"):
            width = np.minimum(high - low, np.finfo(np.float64).max)
        return cls(tuple(low.tolist()), tuple(width.tolist()))

    def apply(self, raw: Doubles, *, clamp_negative: bool) -> Doubles:
        """Raw attributes (C, A) in widths of their range, from its lower end."""
        low, width = np.array(self.low), np.array(self.width)
        if clamp_negative:
            raw = np.where(low >= 0, np.maximum(raw, 0.0), raw)
        half = 0.5 * width  # halves of what a float can hold at most are still apart by what it can hold
        with np.errstate(over="ignore", invalid="ignore"):
            away = (0.5 * raw - 0.5 * low) / np.where(half > 0, half, 1.0)
        return np.where(half > 0, away, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return {"low": list(self.low), "width": list(self.width)}

    @classmethod
    def from_dict(cls, data: object) -> AttributeScale | None:
        """Rebuild a scale from plain data; None for anything that is none."""
        if not isinstance(data, dict) or set(data) != {"low", "width"}:
            return None
        low, width = data["low"], data["width"]
        if not isinstance(low, list) or not isinstance(width, list) or not 0 < len(low) == len(width):
            return None
        if not all(type(x) in {int, float} and math.isfinite(x) for x in (*low, *width)) or min(width) < 0:
            return None
        return cls(tuple(map(float, low)), tuple(map(float, width)))


def by_nature(known: Doubles) -> Bools:
    """(A,) bool: which attributes of (C, A) have negative numbers that are no mark of what is missing.

    A mark is the only negative number of its attribute, and one of MARKS or small, as AWA's -1 among percents.
    Temperatures and standardised numbers are negative by nature.
    """
    least = known.min(axis=0)
    nearest = np.where(known < 0, known, -np.inf).max(axis=0)
    mark = (least == nearest) & (np.isin(least, MARKS) | (-least < SMALL * known.max(axis=0)))
    natural: Bools = (least < 0) & ~mark
    return natural


@dataclass(frozen=True)
class SemanticRule:
    """How a raw attribute vector becomes a semantic vector (docs/methods.md 1.3).

    Attributes:
        clamp_negative: set negative entries (AWA's -1 for "missing") to 0 first; where attributes are scaled, only of
            those that are not negative by nature.
        unit_l2: divide each class vector by its L2 norm (`att` of the xlsa17 files is stored so).
        scale: what every attribute is divided by in between; None leaves them as they are.

    """

    clamp_negative: bool = True
    unit_l2: bool = True
    scale: AttributeScale | None = None

    def apply(self, raw: Doubles) -> Floats:
        """Return the semantic vectors of raw attribute vectors.

        Args:
            raw: (C, A) float64, as the user gave them.

        Returns:
            (C, A) float32. A row of zeros stays a row of zeros; without `unit_l2`, what float32 cannot hold becomes
            infinite.

        """
        out = np.asarray(raw, dtype=np.float64)
        if self.scale is not None:
            out = self.scale.apply(out, clamp_negative=self.clamp_negative)
        elif self.clamp_negative:
            out = np.maximum(out, 0.0)
        if self.unit_l2:
            with np.errstate(over="ignore"):
                norm = np.linalg.norm(out, axis=1, keepdims=True)
            if not np.isfinite(norm).all():  # huge numbers, whose squares overflow; all others keep their bits
                with np.errstate(invalid="ignore"):
                    out = np.where(np.isfinite(norm), out, out / np.abs(out).max(axis=1, keepdims=True, initial=1.0))
                norm = np.linalg.norm(out, axis=1, keepdims=True)
            out = out / np.where(norm > 0, norm, 1.0)
        with np.errstate(over="ignore"):
            return out.astype(np.float32)

    def missing(self, raw: Doubles) -> Bools:
        """(C, A) where raw attributes (C, A) are marks of what is not known, which are taken as 0."""
        low = np.zeros(raw.shape[1]) if self.scale is None else np.array(self.scale.low)
        marks: Bools = (raw < 0) & (low >= 0) & self.clamp_negative
        return marks

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in SWITCHES}
        return plain if self.scale is None else plain | {SCALE: self.scale.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SemanticRule:
        """Rebuild a rule from plain data; UsageError E-SEMANTIC-RULE for other keys or values of another kind."""
        if not isinstance(data, dict):
            raise UsageError("E-SEMANTIC-RULE", f"the semantic rule is {shown(data)}; expected an object")
        scale = AttributeScale.from_dict(data[SCALE]) if SCALE in data else None
        good = all(isinstance(data.get(name), bool) for name in SWITCHES) and set(data) <= {*SWITCHES, SCALE}
        if not good or (SCALE in data and scale is None):
            raise UsageError(
                "E-SEMANTIC-RULE",
                f"the semantic rule is {shown(dict(data), 200)}; expected true or false for each of "
                f"{sorted(SWITCHES)}, and perhaps {SCALE!r} with as many numbers `low` as `width`, none of these "
                "negative; it was written by another version of zsl-deploy",
            )
        return cls(data["clamp_negative"], data["unit_l2"], scale)


GAP = 4.0  # between the widths of two attributes that are next to each other in size: they have different units
FEW = 0.1  # share of attributes below such a gap that are rather rare than in another unit
LARGEST = 10.0  # or the widest is so many times as wide as the one in the middle


def mixed_units(known: Doubles, *, clamp_negative: bool) -> bool:
    """Whether attributes (S, A) of the seen classes seem to be in different units, such as 0/1 and millimetres.

    Attributes of one unit, shares or ticks or percents, have widths of all sizes without a gap, but for a few that are
    rare: of the published sets the largest gap is 2. In different units they are where there is a gap of GAP or one
    is LARGEST times as wide as the one in the middle; where one lies so far from 0 that its length drowns the others;
    or where some are negative by nature and most are not.
    """
    scale = AttributeScale.of(known, clamp_negative=clamp_negative)
    low, width = np.array(scale.low), np.array(scale.width)
    varying = np.sort(width[width > 0])
    if len(varying) == 0:
        return False
    with np.errstate(over="ignore"):
        gaps = varying[1:] / varying[:-1]
        gap = bool((gaps[math.ceil(FEW * len(varying)) - 1 :] >= GAP).any())
        wide = float(varying[-1] / np.median(varying)) > LARGEST
        far = float(np.abs(low).max() / varying[-1]) >= GAP
    natural = float(by_nature(known).mean()) if clamp_negative else 0.0
    return gap or wide or far or 0 < natural < 0.5
