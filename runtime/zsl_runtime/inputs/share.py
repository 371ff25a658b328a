"""One task's share of what there is to label: `--shard I/N`, decided by names alone.

What a name belongs to does not depend on what else there is, on the order in which a machine lists a folder, or on the
machine: the tasks of an array agree without talking to each other, and a photograph that comes or goes while they run
moves no other one to another share.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from typing import TYPE_CHECKING

from zsl_runtime.errors import UsageError, shown
from zsl_runtime.inputs.files import pictures
from zsl_runtime.inputs.item import SHARD_SUFFIXES, has_suffix

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from zsl_runtime.inputs.item import Item, Place, Tally

SPELLING = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)
COUNTS_FROM_0 = "I counts from 0, as SLURM_ARRAY_TASK_ID of --array=0-{last} and JOB_COMPLETION_INDEX do"


class Share:
    """Those things to label that are task `index`'s, of `count` tasks counted from 0.

    What is shared out are units: a picture, a member of a zip file, a row of features; and a tar file as a whole, since
    whoever wants one member of it has to read over all before it.

    Attributes:
        index, count: which task of how many.
        seen: units so far, everybody's.
        own: those of them that are in this share.
        units: for each item that was given so far, the number of its unit among everybody's.

    """

    def __init__(self, index: int, count: int) -> None:
        self.index, self.count = index, count
        self.seen = self.own = 0
        self.units = array("Q")
        self._names = hashlib.sha256()

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def names(self) -> str:
        """Hex digest of the names of all units so far, everybody's, in their order."""
        return self._names.hexdigest()

    def holds(self, name: str) -> bool:
        """Whether a unit of this name is in this share: by the first 8 bytes of its sha256, modulo `count`."""
        return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") % self.count == self.index

    def each(self, items: Iterable[Item]) -> Generator[Item]:
        """Those of the items that are in this share; each is a unit."""
        for item in items:
            if self._take(item.name):
                self.units.append(self.seen - 1)
                yield item

    def whole(self, name: str, items: Iterable[Item]) -> Generator[Item]:
        """All items of one unit, or none."""
        if self._take(name):
            for item in items:
                self.units.append(self.seen - 1)
                yield item

    def _take(self, name: str) -> bool:
        data = os.fsencode(name)
        self.seen += 1
        self._names.update(len(data).to_bytes(4, "big") + data)
        held = self.holds(name)
        self.own += held
        return held


def parse_share(text: str) -> Share:
    """The share that `I/N` means.

    Raises:
        UsageError: E-SHARE.

    """
    found = SPELLING.fullmatch(text.strip())
    index, count = map(int, found.groups()) if found else (0, 0)
    if not count:
        raise UsageError("E-SHARE", f"--shard {shown(text)}: expected I/N, such as 0/8 for the first of 8 tasks")
    if index >= count:
        last = count - 1
        raise UsageError(
            "E-SHARE",
            f"--shard {shown(text)}: of {count} the last is {last}/{count}; {COUNTS_FROM_0.format(last=last)}",
        )
    return Share(index, count)


def pictures_of(share: Share, files: Iterable[Place], suffixes: Sequence[str], tally: Tally) -> Generator[Item]:
    """As `files.pictures`, of one share; members of zip files that are not in it are not unpacked."""
    for place in files:
        if not isinstance(place, str) or not has_suffix(place, SHARD_SUFFIXES):
            yield from share.each(pictures([place], suffixes, tally))
        elif place.lower().endswith(".zip"):
            yield from share.each(pictures([place], suffixes, tally, share.holds))
        else:
            yield from share.whole(place, pictures([place], suffixes, tally))
