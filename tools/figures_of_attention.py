"""The tables of where attention falls: benchmarks/results/attention.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from figure_tables import one, read, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KINDS = {
    "attention": "**attention of the model**",
    "uniform": "the same everywhere: chance, and an untrained model",
    "random": "attention of random queries",
    "blob": "a blob in the middle, as sharp as the attention",
    "average": "the model's attention, averaged over its training pictures",
    "lengths": "lengths of the backbone's region vectors",
    "evidence": "evidence of the attribute in each region",
    "readout": "read-out of the attribute, applied to each region",
}
SETS = {"cub20": "photographs", "field_guide": "drawn birds"}


def figure(told: Mapping[str, Any]) -> str:
    """A mean with its standard error."""
    return f"{one(told['mean'])} ± {one(told['error'])}"


def attention() -> str:
    """How much of each kind of map lies inside the bird."""
    found = read("attention.json")
    headings = ["% of the map inside the bird"]
    for title in SETS.values():
        headings += [title, "attributes it has", "birds off the middle"]
    lines = []
    for kind, name in KINDS.items():
        cells = [name]
        for key in SETS:
            told = found[key]["kinds"][kind]
            cells += [figure(told[measured]) for measured in ("bird", "bird, has", "bird, aside")]
        lines.append(cells)
    return rows(headings, lines)


def attention_parts() -> str:
    """Whether attributes of a part are looked for there, more than others are."""
    found = read("attention.json")
    headings = ("", "part", "chance", "blob", "other attributes", "its own", "own to others", "peak: others", "its own")
    lines = []
    for key, title in SETS.items():
        kinds = found[key]["kinds"]
        for part in found[key]["attributes"]:
            own, others = kinds["attention"][f"{part}, own"], kinds["attention"][f"{part}, others"]
            peaks = (kinds["attention"][f"{part}, peak {which}"] for which in ("others", "own"))
            lines.append(
                (
                    title,
                    part,
                    one(kinds["uniform"][f"{part}, own"]["mean"]),
                    one(kinds["blob"][f"{part}, own"]["mean"]),
                    figure(others),
                    figure(own),
                    f"{own['mean'] / others['mean']:.1f}",
                    *(one(peak["mean"]) for peak in peaks),
                )
            )
    return rows(headings, lines)


def attention_species() -> str:
    """What the number of seen species does."""
    found = read("attention.json")["species"]
    parts = list(read("attention.json")["field_guide"]["attributes"])
    headings = ("seen species", "% inside the bird", "own to others", *parts)
    lines = []
    for count, told in found.items():
        cells = [one(told["bird"]["mean"]), f"{told['times']['mean']:.1f}"]
        cells += [f"{told[f'{part}, times']['mean']:.1f}" for part in parts]
        lines.append((count, *cells))
    return rows(headings, lines)


def attention_blob() -> str:
    """Attention against the blob, picture by picture."""
    lines = []
    for key, title in SETS.items():
        over = read("attention.json")[key]["over_blob"]
        points = [f"{over[name]['mean']:+.1f} ± {one(over[name]['error'])}" for name in ("bird", "bird, aside")]
        lines.append((title, *points))
    return rows(("attention above the blob, points, picture by picture", "all pictures", "birds off the middle"), lines)


TABLES: dict[str, Callable[[], str]] = {
    "attention": attention,
    "attention_blob": attention_blob,
    "attention_parts": attention_parts,
    "attention_species": attention_species,
}
