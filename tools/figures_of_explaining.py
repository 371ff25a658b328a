"""The table of how well attributes are read, and how the differences of labels are split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from figure_tables import read, rows

if TYPE_CHECKING:
    from collections.abc import Callable

READOUTS = "explain_readouts.json"
TITLES = {  # data and method of the results -> of the table
    "field_guide sc-egg": "drawn birds, 24 seen species, SC-EGG",
    "field_guide gfzsl": "drawn birds, GFZSL",
    "cub20 sc-egg": "20 species of CUB, 13 seen, SC-EGG",
    "cub20 gfzsl": "the same, GFZSL",
    "cub20 acmr": "the same, ACMR",
    "cub20 sp-aen": "the same, SP-AEN",
    "cub20 eszsl": "the same, ESZSL",
    "cub_fc1000 gfzsl": "CUB, 150 seen species, feature vectors, GFZSL",
    "cub_fc1000 eszsl": "the same, ESZSL",
}


def readouts() -> str:
    """A row for each data set and method."""
    found = read(READOUTS)
    assert set(found) == set(TITLES)
    lines = []
    for name, title in TITLES.items():
        entry = found[name]
        how, split = entry["read"], entry["split, unseen"]
        lines.append(
            [
                title,
                f"{entry['with a say']:.0f} of {entry['attributes']:.0f}",
                *(f"{how[key]:.2f}" for key in ("photographs", "classes", "photographs, others")),
                *(f"{split[key]:.1f}" for key in ("|contributions|", "|rest|", "|difference|")),
            ]
        )
    return rows(HEADS, lines)


HEADS = (
    "data, method",
    "attributes with a say",
    "their correlation, single photographs",
    "whole classes",
    "the others', single photographs",
    "parts of attributes",
    "rest",
    "difference",
)
TABLES: dict[str, Callable[[], str]] = {"explain_readouts": readouts}
