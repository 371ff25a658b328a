"""Read what is to be labelled, in threads, ahead of the model."""

from __future__ import annotations

import math
import os
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, cast

from zsl_runtime.errors import InputError, UsageError, shown
from zsl_runtime.inputs.feature_rows import check_row
from zsl_runtime.inputs.item import Item, in_store
from zsl_runtime.labelling.ahead import Ahead, in_order
from zsl_runtime.labelling.profiling import DECODE, FIND, NO_PROFILE, PIXELS, NoProfile
from zsl_runtime.machine.memory import memory_bytes
from zsl_runtime.machine.threads import whole
from zsl_runtime.pixels.pixels import PixelSpec, decode, prepare, resize_crop
from zsl_runtime.pixels.room import place

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.inputs.item import Source
    from zsl_runtime.machine.stop import Stop
    from zsl_runtime.pixels.pixels import ImageSource

# On a CPU larger batches are not faster, and they take memory: EfficientNet-Lite2 at 260 px gave 59 pictures a second
# on one thread at 4 and at 8 (0.3 GB), 54 at 32 and 34 at 64 (1.6 GB).
BATCH_SIZE = 8
# For each byte of a picture that goes in: 24 MB a picture of 203 kB, by the same measurement.
BYTES_AT_WORK = 128
MOST_AT_ONCE = 4096  # as of engines
# Read and waiting for the model: one batch that it takes next, and one so that a slow picture does not make it wait.
BATCHES_AHEAD = 2
# Files that are on their way from a store at once: an answer takes some 10 to 100 ms, whatever the size of a picture.
FETCHED_AT_ONCE = 32


def check_counts(topk: int, batch_size: int | None) -> None:
    """UsageError E-TOPK or E-BATCH unless both are whole numbers of at least 1 (None is a batch size too)."""
    if (whole(topk) or 0) < 1:
        raise UsageError("E-TOPK", f"topk is {shown(topk)}; ask for a whole number of classes, at least 1")
    if batch_size is not None and (whole(batch_size) or 0) < 1:
        raise UsageError("E-BATCH", f"batch_size is {shown(batch_size)}; give a whole number of at least 1")


def batch_of(batch_size: int | None, reader: Reader) -> int:
    """How many pictures or rows go through the graph at once; the one rule for every option and argument of a batch.

    What is asked for is cut to MOST_AT_ONCE, and to what takes half of the memory; less than BATCH_SIZE never for that.

    Args:
        batch_size: asked for, a whole number of at least 1; None for BATCH_SIZE.
        reader: of the model.

    """
    if batch_size is None:
        return BATCH_SIZE
    memory = memory_bytes()
    enough = MOST_AT_ONCE if memory is None else memory // 2 // (reader.bytes * BYTES_AT_WORK)
    return min(batch_size, MOST_AT_ONCE, max(enough, BATCH_SIZE))


def reader_of(bundle: Bundle) -> Reader:
    """What reads pictures or rows for a bundle, by its manifest alone: reading may begin before the graph is loaded.

    Raises:
        ArtefactError: E-BUNDLE-PIXELS.

    """
    declared, like = bundle.manifest["input"], str(bundle.manifest["backbone"].get("file", ""))
    pixels = PixelSpec.from_dict(bundle.manifest["pixels"]) if declared["name"] == "images" else None
    return Reader(pixels, tuple(declared["shape"][1:]), like)


class ReadItem(NamedTuple):
    """One thing that was read: as the model takes it, or why it could not be read."""

    name: str
    value: NDArray[np.generic] | InputError


@dataclass(frozen=True)
class Reader:
    """Reads one thing as the model takes it.

    Attributes:
        pixels: how pictures are prepared; None for a model of feature vectors.
        shape: (R, V) of such a model's rows.
        like: name of the feature file that it was trained on, for messages; '' where it is not known.

    """

    pixels: PixelSpec | None
    shape: tuple[int, ...]
    like: str = ""

    @property
    def bytes(self) -> int:
        """Of one thing as the model takes it."""
        numbers = math.prod(self.shape) if self.pixels is None else 3 * self.pixels.crop**2
        return max(numbers * (4 if self.pixels is None else 1), 1)

    def __call__(self, source: Source) -> NDArray[np.generic]:
        """uint8 (P, P, 3), or float32 (R, V).

        Raises:
            InputError: E-IMAGE-..., or E-ROW-SHAPE, E-ROW-VALUE for a model of feature vectors.

        """
        if self.pixels is None:
            return check_row(source, self.shape, self.like)
        with _in_hand(source) as data:
            return prepare(cast("ImageSource", data), self.pixels)

    def profiled(self, source: Source, profile: NoProfile) -> NDArray[np.generic]:
        """The same, the two halves of it noted one by one."""
        if self.pixels is None:
            with profile.stage(DECODE):
                return check_row(source, self.shape, self.like)
        with _in_hand(source) as data, place() as room:
            with profile.stage(DECODE):
                picture = decode(cast("ImageSource", data), room)
            with profile.stage(PIXELS):
                return resize_crop(picture, self.pixels)

    def row(self, item: Item, profile: NoProfile = NO_PROFILE) -> ReadItem:
        """Read an item; what cannot be read is an answer, too."""
        if isinstance(item.source, InputError):
            return ReadItem(item.name, item.source)
        try:
            if profile is NO_PROFILE:
                return ReadItem(item.name, self(item.source))
            return ReadItem(item.name, self.profiled(item.source, profile))
        except InputError as error:
            # The message has the path then.
            known = error.code == "E-STORE-READ" or (isinstance(item.source, str) and not in_store(item.source))
            return ReadItem(item.name, error if known else InputError(error.code, f"{item.name!r}: {error.message}"))


_large_one = threading.Lock()  # held by whoever has a large file of a store in memory


def _of_its_own() -> None:
    """A forked child has none of the threads that hold it."""
    global _large_one  # noqa: PLW0603
    _large_one = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_of_its_own)


@contextmanager
def _in_hand(source: Source) -> Generator[Source]:
    """What is to be decoded: of a path in a store its bytes, of which those of large files are there one at a time."""
    if not in_store(source):
        yield source
        return
    from zsl_runtime.inputs.stores import read, read_small

    path = cast("str", source)
    data = read_small(path)
    if data is not None:
        yield data
        return
    with _large_one:
        yield read(path)


def fetched(item: Item) -> Item:
    """An item with the bytes of what lies in a store, or why they cannot be had; a large file stays a path there."""
    if not in_store(item.source):
        return item
    from zsl_runtime.inputs.stores import read_small

    try:
        data = read_small(cast("str", item.source))
    except InputError as error:
        return Item(item.name, error)
    return item if data is None else Item(item.name, data)


def fetched_ahead(items: Generator[Item]) -> Generator[Item]:
    """The items; if the first one is in a store, with threads of their own that fetch such ahead.

    At most FETCHED_AT_ONCE files are held here. Where others come first, those in a store are fetched by whoever
    decodes them.
    """
    with closing(items):
        first = list(islice(items, 1))

        def begun() -> Generator[Item]:
            if first:
                yield first.pop()  # and holds it no longer
            yield from items

        if not (first and in_store(first[0].source)):
            yield from begun()
            return
        with closing(in_order(fetched, begun(), workers=FETCHED_AT_ONCE, ahead=0)) as ready:
            yield from ready


def read_ahead(
    reader: Reader,
    items: Generator[Item],
    *,
    workers: int,
    batch_size: int,
    stop: Stop,
    profile: NoProfile = NO_PROFILE,
) -> Ahead[ReadItem]:
    """Begin to read items in threads; some batches are ready before they are wanted, and no more.

    Args:
        reader: of the model.
        items: what to read; taken in a thread of its own, so that neither listing a folder nor unpacking a shard makes
            the model wait.
        workers: threads that decode.
        batch_size: items that are wanted at once.
        stop: ends it early.
        profile: takes notes.

    """

    def wanted() -> Generator[Item]:
        with closing(profile.over(FIND, items)) as found:
            for item in found:
                if stop.requested:
                    return
                yield item
                del item  # else the bytes of one from an archive stay in memory beside the next one's

    def weigh(item: Item) -> int:
        return len(item.source) if isinstance(item.source, bytes) else 0

    def rows() -> Generator[ReadItem]:
        ahead = BATCHES_AHEAD * batch_size
        with closing(fetched_ahead(wanted())) as found:
            yield from in_order(
                lambda item: reader.row(item, profile), found, workers=workers, ahead=ahead, weigh=weigh
            )

    return Ahead(rows(), depth=batch_size)
