"""The three formats of `zsl-classes similar`; csv and json are for programs, and have nothing else on stdout."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from zsl_runtime.classes.newcomers import Neighbour
from zsl_runtime.streams import printable

if TYPE_CHECKING:
    from zsl_runtime.classes.similar import Alike, Similar

COLUMNS = ["name", "neighbour", "split", "distance", "lost", "taken", "cosine"]
UNKNOWN = "expected mix-ups are known only for bundles with the Gaussian head; cosine is that of attributes"


def print_similar(found: Similar, form: str) -> None:
    """Print what was found as `table`, `csv` or `json`; in the first two the closing line is told apart."""
    if form == "json":
        print(json.dumps(as_object(found), ensure_ascii=False, indent=1))  # noqa: T201  # stdout carries the results
        return
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([row.get(column, "") for column in COLUMNS] for row in _records(found))
    else:
        for line in _lines(found):
            print(printable(line))  # noqa: T201
    for line in _closing(found):
        click.echo(printable(line), err=form == "csv")


def as_object(found: Similar) -> dict[str, Any]:
    """Plain data: of each new class its neighbours, and the nearest of the other new classes."""
    kinds = _splits(found)
    return {
        "expected": found.expected,
        "classes": [
            {
                "name": name,
                "neighbours": [_record(one, kinds) for one in near],
                "newcomers": [_record(one, kinds) for one in found.newcomers.get(name, ())],
            }
            for name, near in found.neighbours.items()
        ],
        "notes": list(found.notes),
        "advice": found.advice,
    }


def _splits(found: Similar) -> dict[str, str]:
    """Class -> seen, unseen or new."""
    new = set(found.names)
    return {
        name: "new" if name in new else "seen" if seen else "unseen"
        for name, seen in zip(found.table.names, found.table.seen.tolist(), strict=True)
    }


def _record(one: Neighbour | Alike, kinds: dict[str, str]) -> dict[str, Any]:
    values = one._asdict()
    name = values.pop("name")
    return {"neighbour": name, "split": kinds[name], **values}


def _shown(found: Similar, name: str) -> list[Neighbour | Alike]:
    """The neighbours of a new class, and behind them the nearest other new class if it is none of them."""
    near = list(found.neighbours[name])
    return near + [one for one in found.newcomers.get(name, ())[:1] if one.name not in {other.name for other in near}]


def _records(found: Similar) -> list[dict[str, Any]]:
    kinds = _splits(found)
    return [{"name": name} | _record(one, kinds) for name in found.neighbours for one in _shown(found, name)]


def _lines(found: Similar) -> list[str]:
    """Names stand at the end, since they may be of any width."""
    kinds = _splits(found)
    lines = ["distance  lost  taken  class" if found.expected else "cosine  class"]
    indent = " " * lines[0].index("class")
    for name in found.neighbours:
        lines.append(f"{indent}{name}")
        for one in _shown(found, name):
            told = f"  {one.name}{' (new)' if kinds[one.name] == 'new' else ''}"
            if isinstance(one, Neighbour):
                lines.append(f"{one.distance:8.1f}  {one.lost:4.0%}  {one.taken:5.0%}  {told}")
            else:
                lines.append(f"{one.cosine:6.2f}  {told}")
    rest = len(found.names) - len(found.neighbours)
    if rest and found.neighbours:
        lines.append(f"and {rest} more: worked out for the first {len(found.neighbours)} alone")
    return lines


def _closing(found: Similar) -> list[str]:
    return [*([] if found.expected else [UNKNOWN]), found.advice]
