"""What can be told about a bird of the field guide: its traits, and the attribute columns they become.

A trait has values; a picture shows exactly one of them. A trait with more than two values gives one attribute
column a value (`wing_pattern=barred`), one that is a yes or no gives a single column for the yes (`crest=present`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

WORD_VECTOR_WIDTH = 50


@dataclass(frozen=True)
class Trait:
    """One trait of a bird.

    Attributes:
        name: such as ``wing_pattern``.
        values: what it can be; of a yes-or-no trait the first is the no.
        yes_or_no: True when only the second value gets an attribute column.

    """

    name: str
    values: tuple[str, ...]
    yes_or_no: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The values that have an attribute column."""
        return self.values[1:] if self.yes_or_no else self.values


TRAITS: tuple[Trait, ...] = (
    Trait("body_color", ("brown", "grey", "blue", "green")),
    Trait("wing_color", ("black", "rufous", "white")),
    Trait("breast_color", ("white", "yellow", "orange")),
    Trait("crown_color", ("black", "red", "yellow")),
    Trait("wing_pattern", ("plain", "barred", "spotted")),
    Trait("breast_pattern", ("plain", "streaked", "banded")),
    Trait("bill_shape", ("conical", "dagger", "hooked")),
    Trait("bill_color", ("dark", "yellow"), yes_or_no=True),
    Trait("bill_length", ("short", "long"), yes_or_no=True),
    Trait("tail_color", ("dark", "white"), yes_or_no=True),
    Trait("tail_shape", ("rounded", "forked"), yes_or_no=True),
    Trait("tail_length", ("short", "long"), yes_or_no=True),
    Trait("leg_color", ("dark", "orange"), yes_or_no=True),
    Trait("leg_length", ("short", "long"), yes_or_no=True),
    Trait("neck_length", ("short", "long"), yes_or_no=True),
    Trait("crest", ("absent", "present"), yes_or_no=True),
    Trait("face_mask", ("absent", "black"), yes_or_no=True),
    Trait("eye_ring", ("absent", "white"), yes_or_no=True),
    Trait("size", ("small", "large"), yes_or_no=True),
)

ATTRIBUTES: tuple[tuple[str, str], ...] = tuple((t.name, value) for t in TRAITS for value in t.columns)


def attribute_names() -> tuple[str, ...]:
    """The A attribute columns in order, such as ``wing_pattern=barred``."""
    return tuple(f"{trait}={value}" for trait, value in ATTRIBUTES)


def attribute_words() -> tuple[str, ...]:
    """The words of each attribute, such as ``wing pattern barred``."""
    return tuple(f"{trait.replace('_', ' ')} {value}" for trait, value in ATTRIBUTES)


def attribute_row(fractions: Mapping[str, Mapping[str, float]]) -> tuple[float, ...]:
    """The A fractions of a species given `{trait: {value: fraction}}`."""
    return tuple(fractions[trait].get(value, 0.0) for trait, value in ATTRIBUTES)


def word_vector(word: str) -> NDArray[np.float64]:
    """A unit vector (W,) that depends on the word alone.

    It says which attributes share a word and nothing else: `wing` and `tail` are as far apart as any two words.
    """
    digest = hashlib.sha256(word.encode()).digest()
    vector = np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(WORD_VECTOR_WIDTH)
    return np.asarray(vector / np.linalg.norm(vector))


def attribute_vectors() -> NDArray[np.float32]:
    """(A, W) float32: the vector of an attribute is the sum of its words' vectors."""
    return np.stack(
        [np.sum([word_vector(word) for word in words.split()], axis=0) for words in attribute_words()]
    ).astype(np.float32)
