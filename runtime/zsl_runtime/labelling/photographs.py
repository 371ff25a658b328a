"""Photographs as evidence: through the model's own graph to a number of pictures and a sum, which is all that is kept.

    pictures --(threads decode)--> prepared --(batches: model graph, lift)--> canonical coordinates --> count and sum

Nothing here changes a bundle; `zsl_runtime.classes.changes` does, with what `gather` found.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.classes.changes import check_teachable
from zsl_runtime.errors import InputError, UsageError, from_os_error
from zsl_runtime.head.class_table import check_class_name, refuse_duplicates
from zsl_runtime.head.distance import FAR
from zsl_runtime.head.fitting import silent
from zsl_runtime.head.gaussian import Evidence
from zsl_runtime.inputs.feature_rows import ROW_SUFFIXES, RowFiles
from zsl_runtime.inputs.files import count_below, is_folder, places
from zsl_runtime.inputs.item import Item, Tally, has_suffix, in_store
from zsl_runtime.inputs.left_out import told
from zsl_runtime.inputs.litter import litter_folder
from zsl_runtime.labelling.ahead import in_order
from zsl_runtime.labelling.numbers import FEW, all_in_vain, finite, no_answer
from zsl_runtime.labelling.reading import BATCHES_AHEAD, batch_of, check_counts, reader_of
from zsl_runtime.machine.threads import readers
from zsl_runtime.pixels.pixels import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Advance
    from zsl_runtime.head.distance import Distances
    from zsl_runtime.inputs.item import Place, Source
    from zsl_runtime.labelling.model import Model
    from zsl_runtime.labelling.reading import Reader

SHOWN = 3  # photographs of a class that are named where they are unlike anything known
EXPECTED = "expected a folder that holds one folder of photographs for each class, called as the class is"


class Gathered(NamedTuple):
    """What photographs say.

    Attributes:
        evidence: class -> how many could be read, and the sum of their canonical coordinates.
        skipped: class and error of each one that could not be read.

    """

    evidence: dict[str, Evidence]
    skipped: list[tuple[str, InputError]]


class _Photograph(NamedTuple):
    """One that was read, as the graph takes it, or why it could not be; `name` of its class, `where` for messages."""

    name: str
    where: str
    value: NDArray[np.generic] | InputError


class Lookout:
    """Looks, while `gather` is at work, which photographs are unlike anything known.

    Args:
        distances: to the classes that count, those among them that the photographs are said to show; None where nothing
            can be told.

    """

    def __init__(self, distances: Distances | None) -> None:
        self._distances = None if distances is None or distances.beyond is None else distances
        self._all: Counter[str] = Counter()
        self._far: dict[str, list[str]] = {}

    def look(self, names: Sequence[str], where: Sequence[str], x: NDArray[np.float32]) -> None:
        """Look at photographs of the classes `names`, which lie at `where`, by their canonical coordinates x (n, D)."""
        if self._distances is None or not len(x):
            return
        self._all.update(names)
        far = self._distances(x).far
        assert far is not None
        for name, place, beyond in zip(names, where, far.tolist(), strict=True):
            if beyond:
                self._far.setdefault(name, []).append(place)

    def notes(self) -> list[str]:
        """A line for each class of which some are."""
        return [
            f"{len(far)} of {self._all[name]} photograph{'' if self._all[name] == 1 else 's'} of class {name!r} "
            f"{'is' if len(far) == 1 else 'are'} unlike anything known, the class itself included (farther from every "
            f"class than {FAR} % of held-out photographs); see whether they show it: {', '.join(far[:SHOWN])}"
            f"{f' and {len(far) - SHOWN} more' if len(far) > SHOWN else ''}"
            for name, far in self._far.items()
        ]


def gather(
    model: Model,
    pictures: Mapping[str, Iterable[Source | Item]],
    *,
    batch_size: int | None = None,
    advance: Advance = silent,
    lookout: Lookout | None = None,
) -> Gathered:
    """Turn photographs into evidence; one that cannot be read, or whose features are no numbers, is left out and told.

    All go through the model's own graph, on its own backend and in its precision. At most a few batches are in
    memory, and nothing of a photograph is kept but its share of the sum. The sums are the same on every backend, to
    rounding.

    Args:
        model: of a bundle with the head rule `gaussian`.
        pictures: class -> its photographs: what `Classifier.predict` takes, or items of `class_folders`.
        batch_size: photographs in the graph at once; None for BATCH_SIZE.
        advance: called with a number of photographs that are done.
        lookout: is shown all that can be read.

    Raises:
        UsageError: E-PHOTOS-EMPTY for a class without one that can be read, E-HEAD-RULE, E-BATCH, E-CLOSED.
        BackendError: E-BACKEND-RUN; E-BACKEND-VALUE where the features of none of several are numbers.

    """
    check_counts(1, batch_size)
    check_teachable(model.bundle)
    skipped: list[tuple[str, InputError]] = []
    sums: dict[str, Evidence] = {}
    for batch in _batches(model, pictures, batch_of(batch_size, reader_of(model.bundle))):
        skipped += [(one.name, one.value) for one in batch if isinstance(one.value, InputError)]
        readable = [one for one in batch if not isinstance(one.value, InputError)]
        if readable:
            x = model.canonical(np.stack([np.asarray(one.value) for one in readable]))
            good = finite(x)
            skipped += [
                (one.name, no_answer(one.where)) for one, is_fine in zip(readable, good, strict=True) if not is_fine
            ]
            fine = [one for one, is_fine in zip(readable, good, strict=True) if is_fine]
            _sum_up(sums, [one.name for one in fine], x[good])
            if lookout is not None:
                lookout.look([one.name for one in fine], [one.where for one in fine], x[good])
        advance(len(batch))
    endless = sum(error.code == "E-ANSWER-VALUE" for _, error in skipped)
    if not sums and endless >= FEW:
        raise all_in_vain(endless)
    for name in pictures:
        if name not in sums:
            first = next((f"; the first one: {error}" for other, error in skipped if other == name), "")
            raise _empty(f"none of the photographs of class {name!r} can be read{first}")
    return Gathered({name: sums[name] for name in pictures}, skipped)


def _empty(problem: str) -> UsageError:
    return UsageError("E-PHOTOS-EMPTY", f"{problem}; give at least one for each class, nothing was changed")


def _sum_up(sums: dict[str, Evidence], names: Sequence[str], x: NDArray[np.float32]) -> None:
    """Add the canonical coordinates x (n, D) of photographs of the classes `names` to their sums."""
    for name, row in zip(names, x.astype(np.float64), strict=True):
        before = sums.get(name)
        sums[name] = Evidence(1, row) if before is None else Evidence(before.count + 1, before.total + row)


def _batches(model: Model, pictures: Mapping[str, Iterable[Source | Item]], size: int) -> Generator[list[_Photograph]]:
    """At most `size` photographs at once; the next ones are decoded while these are in the graph."""

    def read(given: tuple[str, int, Source | Item]) -> _Photograph:
        name, number, one = given
        source = one.source if isinstance(one, Item) else one
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        where = f"photograph {number} of class {name!r}" if path is None else repr(path)
        if isinstance(one, Item):
            where = repr(one.name)
        if isinstance(source, InputError):
            return _Photograph(name, where, source)
        try:
            return _Photograph(name, where, model.read(source))
        except InputError as error:  # the message has the path, where it is one of the disk
            known = error.code == "E-STORE-READ" or not (path is None or in_store(path))
            return _Photograph(name, where, error if known else InputError(error.code, f"{where}: {error.message}"))

    given = ((name, number, source) for name, sources in pictures.items() for number, source in enumerate(sources))
    rows = in_order(
        read, given, workers=readers(model.threads), ahead=BATCHES_AHEAD * size, weigh=lambda one: _weight(one[2])
    )
    with closing(rows):
        while batch := list(islice(rows, size)):
            yield batch


def _weight(source: Source | Item) -> int:
    held = source.source if isinstance(source, Item) else source
    return len(held) if isinstance(held, bytes) else 0


@dataclass(frozen=True)
class ClassFolders:
    """The photographs in a folder of class folders.

    Attributes:
        pictures: class -> its photographs, to be iterated as often as one likes; names are not held in memory.
        counts: class -> how many there are; a folder that cannot be listed counts as one.
        left_out: files that were left out: of other kinds, or in no class folder.
        empty: classes whose folder holds no photograph, where that is allowed.
        notes: what was left out, in words.

    """

    pictures: dict[str, Iterable[Item]]
    counts: dict[str, int]
    left_out: int
    empty: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many photographs there are."""
        return sum(self.counts.values())


def class_folders(folder: str | os.PathLike[str], reader: Reader, *, may_be_empty: bool = False) -> ClassFolders:
    """Find the photographs in FOLDER/CLASS/..., at any depth; hidden folders and litter are passed over.

    A folder below FOLDER that cannot be listed is an Item of its class with an InputError E-FOLDER.

    Args:
        folder: with one folder for each class, called as the class is (spaces at its ends do not count).
        reader: of the model; one of feature vectors takes .npy and .mat files of rows in place of photographs.
        may_be_empty: class folders without a photograph are noted, not refused.

    Raises:
        UsageError: E-PHOTOS-FOLDER when it is not there, no folder, or has no class folders; E-CLASS-NAME and
            E-CLASS-DUPLICATE for names of folders; E-PHOTOS-EMPTY for a class folder without a photograph.
        SystemProblem: FOLDER cannot be listed.

    """
    suffixes, unit = (SUFFIXES, "pictures") if reader.pixels is not None else (ROW_SUFFIXES, "rows")
    folders, tally = _class_folders(os.fspath(folder), suffixes)
    pictures: dict[str, _Files] = {}
    counts: dict[str, int] = {}
    empty = []
    for name, path in folders.items():
        own = Tally()
        count = sum(1 for _ in places(path, suffixes, own))
        tally.add(own)
        if not count and may_be_empty:
            empty.append(name)
            continue
        if not count:
            more = "".join(f"; {line}" for line in told(own, unit))
            raise _empty(
                f"there is no photograph of class {name!r} in {path!r}, no file that ends in {' '.join(suffixes)}{more}"
            )
        pictures[name] = _Files(path, suffixes, reader)
        counts[name] = count if reader.pixels is not None else pictures[name].count_rows()
    notes = [f"files of other kinds, or in no class folder, left out: {tally.skipped}"] if tally.skipped else []
    return ClassFolders(dict(pictures), counts, tally.skipped, tuple(empty), (*notes, *told(tally, unit)))


def _class_folders(folder: str, suffixes: Sequence[str]) -> tuple[dict[str, str], Tally]:
    """Class -> its folder, sorted by the folders' names; and what lies beside them."""
    listed = _listed(folder)
    tally = Tally()
    folders = []
    for name, holds_files in listed:
        path = os.path.join(folder, name)  # noqa: PTH118
        litter = holds_files and litter_folder(name)
        if litter:
            tally.litter[litter] += count_below(path, suffixes)
        elif holds_files:
            folders.append(name)
        else:
            tally.skip(path, "in no class folder" if has_suffix(name, suffixes) else "")
    if not folders:
        held = f"holds {tally.skipped} files and no class folders" if tally.skipped else "is empty"
        raise UsageError("E-PHOTOS-FOLDER", f"{folder!r} {held}; {EXPECTED}")
    names = [check_class_name(name) for name in folders]
    refuse_duplicates(names, code="E-CLASS-DUPLICATE", what=f"class folders in {folder!r}")
    return {
        name: os.path.join(folder, one)  # noqa: PTH118
        for name, one in zip(names, folders, strict=True)
    }, tally


def _listed(folder: str) -> list[tuple[str, bool]]:
    """Names in a folder, sorted, hidden ones left out, and whether each is a folder."""
    if in_store(folder):
        from zsl_runtime.inputs import stores

        try:
            return [(name, is_one) for name, is_one in stores.entries(folder) if not name.startswith(".")]
        except OSError as error:
            raise from_os_error(error, f"list the folder {folder!r}") from error
    if not os.path.isdir(folder):  # noqa: PTH112  # plain strings keep undecodable names and the user's spelling
        state = "is no folder" if os.path.exists(folder) else "is not there"  # noqa: PTH110
        raise UsageError("E-PHOTOS-FOLDER", f"{folder!r} {state}; {EXPECTED}")
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, is_folder(entry)) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise from_os_error(error, "list the folder") from error


class _Files:
    """The photographs, or rows of files, of one class; found again whenever it is iterated."""

    def __init__(self, folder: str, suffixes: Sequence[str], reader: Reader) -> None:
        self._folder, self._suffixes = folder, suffixes
        self._rows = None if reader.pixels is not None else RowFiles(reader.shape, reader.like)

    def __iter__(self) -> Iterator[Item]:
        if self._rows is not None:
            return self._rows.items(self._places())
        return (Item(place, place) if isinstance(place, str) else place for place in self._places())

    def count_rows(self) -> int:
        """Rows in the files, of a model of feature vectors."""
        assert self._rows is not None
        return self._rows.count(self._places())

    def _places(self) -> Iterator[Place]:
        return places(self._folder, self._suffixes)
