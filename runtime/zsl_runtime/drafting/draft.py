"""A row of attributes proposed from a description, from classes with like names, and from what the table knows.

The table of the known classes says what is usual, how attributes go together, and whether classes with like names have
like rows. So a row is taken from the classes whose names are most like the new one's, as far as leaving out one known
class after the other shows that this helps; then what the text says moves the attributes that it speaks of, and with
them those that go along with these among known classes: the mean of a normal distribution after noisy observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.classes.template import by_name
from zsl_runtime.drafting.evidence import SAID, Told, told
from zsl_runtime.drafting.phrases import phrases
from zsl_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zsl_runtime.arrays import Bools, Doubles, Floats
    from zsl_runtime.head.class_table import ClassTable

    Encode = Callable[[Sequence[str]], Floats]

# Known classes that a row is drafted from: names are compared each with each. Of more, those that share words with the
# new name, and others spread over the table.
MOST_CLASSES = 2000
LEAST_CLASSES = 3  # that are known; fewer say nothing about what is usual
# How much closer names must be to count more, as exp(cosine / width): chosen for each table by leaving classes out.
WIDTHS = (None, 0.2, 0.1, 0.05)
GAIN = 0.05  # share of the error by which names must help: less is chance
# Chosen on 20 descriptions (benchmarks/drafts): the variance of what a text says, in those of the attribute over known
# classes, of a value that it names; of one that it does not while it speaks of its group; and how much of what goes
# together in the known classes is taken for chance.
NOISE, UNSAID_NOISE, CHANCE = 3.0, 6.0, 0.3
# How much farther from the mean row a draft is put. The likeliest value of each attribute makes a row that is nearer to
# the mean than any class is, and such a class loses its photographs to the others. Chosen on the same descriptions, by
# how often those of their species were found that are unseen in CUB.
SHARPER = 1.5
USUAL, MOST = 0.1, 1.0  # quantiles of an attribute over known classes: what it is where nothing, and where all is said
NEAR = 3  # classes with like names that are told
TICKED = 0.8  # share of known values that are 0 or 1, from which an attribute is one of ticks
DIGITS = 3  # of a drafted value, by the width of its attribute


@dataclass(frozen=True, eq=False)
class Draft:
    """A proposed row.

    Attributes:
        row: (A,) float64 within the ranges of the known classes.
        said: (A,) bool, attributes whose value the text says.
        known: (A,) bool, attributes of whose group the text speaks; the others are guessed.
        sentences: of each attribute the sentence that speaks of it, '' where there is none.
        alike: the known classes whose names count most, most first; none where names say nothing.

    """

    row: Doubles
    said: Bools
    known: Bools
    sentences: tuple[str, ...]
    alike: tuple[str, ...]


def draft_row(name: str, text: str, table: ClassTable, encode: Encode | None) -> Draft:
    """Propose the row of a class.

    Args:
        name: of the class, none of the table's.
        text: its description.
        table: the known classes, C of them with A attributes.
        encode: texts -> vectors (N, W) of length 1, near for names of like things; None takes nothing from names.

    Raises:
        UsageError: E-DRAFT-ATTRIBUTES (`phrases`); E-DRAFT-CLASSES when fewer than LEAST_CLASSES are known;
            E-DRAFT-TEXT when the text speaks of no attribute.

    """
    found = told(text, phrases(table.attributes))
    if len(table) < LEAST_CLASSES:
        raise UsageError(
            "E-DRAFT-CLASSES",
            f"the model knows {len(table)} classes, and a draft needs {LEAST_CLASSES} or more to know what is usual; "
            "fill in the table of zsl-classes template",
        )
    if not found.known.any():
        raise UsageError(
            "E-DRAFT-TEXT",
            f"the text has no word about any attribute of this model, such as {table.attributes[0]!r}; expected a "
            "description in the language of its attributes, mostly English",
        )
    table = _some(name, table)
    raw = table.raw
    weights, residual = _by_names(name, table, encode)
    prior = weights @ raw
    mean = raw.mean(axis=0)
    row = mean + SHARPER * (_moved(prior, residual, raw, found) - mean)
    return Draft(
        _rounded(np.clip(row, raw.min(axis=0), raw.max(axis=0)), table, found),
        found.score > SAID,
        found.known,
        found.sentence,
        () if encode is None or np.ptp(weights) == 0 else tuple(table.names[j] for j in np.argsort(-weights)[:NEAR]),
    )


def _some(name: str, table: ClassTable) -> ClassTable:
    """At most MOST_CLASSES of the known classes, in their order."""
    if len(table) <= MOST_CLASSES:
        return table
    alike = by_name(spoken(name), table.names)[: MOST_CLASSES // 2]
    rest = np.setdiff1d(np.arange(len(table)), alike)
    spread = rest[np.linspace(0, len(rest) - 1, MOST_CLASSES - len(alike)).astype(np.int64)]
    return table.take(np.sort(np.concatenate([np.array(alike, dtype=np.int64), spread])))


def _by_names(name: str, table: ClassTable, encode: Encode | None) -> tuple[Doubles, Doubles]:
    """How much each known class counts for one called so (C,), and how known rows differ from such a guess (C, A)."""
    count, raw = len(table), table.raw
    equal = np.full((count, count), 1 / (count - 1))
    np.fill_diagonal(equal, 0)
    best = np.full(count, 1 / count), raw - equal @ raw
    if encode is None:
        return best
    vectors = encode([spoken(one) for one in (*table.names, name)]).astype(np.float64)
    cosine = vectors @ vectors.T
    spread = raw.std(axis=0)
    unit = np.where(spread > 0, spread, 1.0)
    least = (1 - GAIN) * ((best[1] / unit) ** 2).sum()
    for width in WIDTHS:
        if width is None:
            continue
        among = cosine[:-1, :-1].copy()
        np.fill_diagonal(among, -np.inf)
        residual = raw - _shares(among, width) @ raw
        error = ((residual / unit) ** 2).sum()
        if error < least:
            least, best = error, (_shares(cosine[-1:, :-1], width)[0], residual)
    return best


def _shares(cosine: Doubles, width: float) -> Doubles:
    """Rows of weights that sum to 1."""
    power = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / width)
    shares: Doubles = power / power.sum(axis=1, keepdims=True)
    return shares


def _moved(prior: Doubles, residual: Doubles, raw: Doubles, found: Told) -> Doubles:
    """The row after what the text says: a normal distribution around `prior` with the covariance of `residual`."""
    spread = raw.std(axis=0)
    unit = np.where(spread > 0, spread, 1.0)
    seen = np.flatnonzero(found.known & (spread > 0))
    if not seen.size:
        return prior
    z = residual / unit
    across = (1 - CHANCE) * (z.T @ z[:, seen]) / len(z)  # (A, n) of the covariance
    own = (z**2).mean(axis=0)
    across[seen, range(len(seen))] = own[seen]
    low, high = np.quantile(raw[:, seen], USUAL, axis=0), np.quantile(raw[:, seen], MOST, axis=0)
    score = found.score[seen]
    away = (low + (high - low) * score - prior[seen]) / unit[seen]
    noise = np.where(score > SAID, NOISE, UNSAID_NOISE)
    moved: Doubles = prior + unit * (across @ np.linalg.solve(across[seen] + np.diag(noise), away))
    return moved


def _rounded(row: Doubles, table: ClassTable, found: Told) -> Doubles:
    """Values as people write them: DIGITS of the attribute's width; ticks where the known classes have ticks.

    Ticks are what the text says, and what is likely of the rest; one in a group where every known class has one.
    """
    known = table.raw[table.seen] if table.seen.any() else table.raw
    width = np.ptp(table.raw, axis=0)
    digits = DIGITS - 1 - np.floor(np.log10(np.where(width > 0, width, 1.0)))
    scale = 10.0 ** np.clip(digits, -300, 300)
    result = np.where(width > 0, np.rint(row * scale) / scale, row)
    ticked = (np.isin(known, (0, 1)).mean(axis=0) >= TICKED) & ((known == 1).sum(axis=0) >= 2)
    said = found.score > SAID
    result[ticked] = np.where(said, 1, np.where(found.known, 0, row >= 0.5))[ticked]
    for members in groups_of(table.attributes).values():
        one = bool((np.abs(known[:, members].sum(axis=1) - 1) < 1e-6).all())
        if len(members) > 1 and one and ticked[members].all():
            order = np.lexsort((row[members], np.where(said, found.score, 0)[members]))  # what is said, then the likely
            result[members] = 0
            result[members[int(order[-1])]] = 1
    return np.clip(result, table.raw.min(axis=0), table.raw.max(axis=0))


def groups_of(attributes: tuple[str, ...]) -> dict[str, list[int]]:
    """Group -> columns of its attributes."""
    groups: dict[str, list[int]] = {}
    for n, phrase in enumerate(phrases(attributes)):
        groups.setdefault(phrase.group, []).append(n)
    return groups


def spoken(name: str) -> str:
    """A name as it is said: `Fish_Crow` is Fish Crow, and 029.American_Crow is American Crow."""
    said = " ".join(name.replace("_", " ").split())
    bare = said.lstrip("0123456789.- ")
    return bare or said
