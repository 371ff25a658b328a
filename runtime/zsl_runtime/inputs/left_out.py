"""Words for what was left out while inputs were looked through: kinds that are not read, archives, litter."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from zsl_runtime.inputs.item import NOWHERE, OTHER_ARCHIVES, SHARD_SUFFIXES
from zsl_runtime.pixels.kinds import UNREAD
from zsl_runtime.pixels.pixels import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zsl_runtime.inputs.item import Tally

MOST_KINDS = 5  # that are told one by one
BACKUPS = (".jpg_original", ".tif_original")  # of exiftool, which leaves the picture as it was beside the new one
ARCHIVE_ENDS = frozenset(f".{suffix.rpartition('.')[2]}" for suffix in (*OTHER_ARCHIVES, *SHARD_SUFFIXES))


def told(tally: Tally, unit: str = "pictures") -> Iterator[str]:
    """What a user may miss, a line each: pictures of kinds that are not read with what to do, archives, litter.

    Args:
        tally: what was left out.
        unit: what the model takes, in the plural: where it takes no pictures, none of these is missed.

    """
    if unit != "rows":
        yield from _unread(tally.kinds)
    if tally.litter.total():
        each = ", ".join(f"{count} in {what}" for what, count in ordered(tally.litter) if count)
        yield f"{unit} left out because of where they lie: {each}"
    yield from tally.notes


def untold(kinds: Mapping[str, int], unit: str = "pictures") -> dict[str, int]:
    """Those of the kinds left out of which `told` says nothing."""
    return {suffix: count for suffix, count in kinds.items() if unit == "rows" or _group(suffix) is None}


def unread(tally: Tally) -> int:
    """How many pictures of kinds that are not read were left out."""
    return sum(count for suffix, count in tally.kinds.items() if suffix in UNREAD)


def _unread(kinds: Mapping[str, int]) -> Iterator[str]:
    groups: dict[tuple[str, str], Counter[str]] = {}
    for suffix, count in kinds.items():
        group = _group(suffix)
        if group is not None:
            groups.setdefault(group, Counter())[suffix] += count
    for (many, remedy), counts in sorted(groups.items(), key=lambda pair: (-pair[1].total(), pair[0])):
        each = "" if list(counts) == [many] else f" ({_each(counts)})"
        yield f"{many} left out: {counts.total()}{each}; {remedy}"


def _group(suffix: str) -> tuple[str, str] | None:
    """What files of a suffix are, and what to do; None for what nobody takes for pictures."""
    if suffix in UNREAD:
        return UNREAD[suffix].many, UNREAD[suffix].remedy
    if suffix == NOWHERE:
        return NOWHERE, "bring back what they led to, if it was a picture or a folder of pictures"
    if suffix in ARCHIVE_ENDS:
        readable = ", ".join(SHARD_SUFFIXES)
        return "archives", f"zsl-infer reads {readable} where they are named themselves; extract all others"
    beginning = next((known for known in SUFFIXES if suffix.startswith(known)), None)
    if beginning and suffix not in (*SUFFIXES, *BACKUPS) and not suffix[len(beginning)].isalnum() and suffix[-1] != "~":
        return "files whose names go on behind the suffix of a picture", f"rename them to end in {beginning}"
    return None


def others(kinds: Mapping[str, int]) -> str:
    """The most frequent kinds, and how many files are of the rest: '9 .txt, 2 hidden'."""
    told = ordered(kinds)
    rest = sum(count for _, count in told[MOST_KINDS:])
    return ", ".join([*(f"{count} {kind}" for kind, count in told[:MOST_KINDS]), *([f"{rest} more"] if rest else [])])


def ordered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent first, of the same number in the order of the alphabet."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _each(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return others(counts)
