"""One thing to label, and which files are such things by their names."""

from __future__ import annotations

import os
import re
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.errors import InputError
    from zsl_runtime.pixels.pixels import ImageSource

Source: TypeAlias = "ImageSource | NDArray[np.floating[Any]]"
# From Python 3.14 on the standard library reads Zstandard.
ZSTD = find_spec("compression") is not None and find_spec("compression.zstd") is not None
HIDDEN, PLAIN, OTHER = "hidden", "without a suffix", "with other suffixes"
NOWHERE = "links that lead nowhere"
LONGEST_SUFFIX = 12  # characters, dot included; what is longer is the end of a sentence
MOST_KINDS = 1000  # that are told apart: files may be numbered by their suffixes
SHARD_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", *((".tar.zst",) if ZSTD else ()))
# The beginning of a path in a store; of a local one it would be a folder called `s3:`. One letter is a disk of Windows.
STORE = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
# Archives of other kinds. LZMA may ask for gigabytes of memory, and the rest are not in Python's library.
OTHER_ARCHIVES = (
    *(".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.lzma", ".tar.lz", ".tar.z", ".tzst", ".tar.zst"),
    *(".7z", ".rar", ".cab", ".lzh", ".arj", ".zipx"),
)


class Item(NamedTuple):
    """One thing to label: its name in the results, and what `Classifier.read` takes, or why there is nothing."""

    name: str
    source: Source | InputError


def in_store(source: object) -> bool:
    """Whether something to label is a path in an object store (`stores.py`)."""
    return isinstance(source, str) and "://" in source and STORE.match(source) is not None


Place: TypeAlias = "str | Item"  # a file to read; or, of a folder that cannot be listed, why


class Tally:
    """Counts what was left out for its name while inputs are read, by kind: one thread adds, others look at the end.

    Attributes:
        kinds: suffixes such as `.txt`, and HIDDEN, PLAIN and OTHER. They are few, however many files there are.
        litter: pictures in folders that are none of the user's (`litter.py`), by what these are.
        notes: what else there is to say, one line each.

    """

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.litter: Counter[str] = Counter()
        self.notes: list[str] = []

    @property
    def skipped(self) -> int:
        """How many files were left out for their kind; litter is not among them."""
        return self.kinds.total()

    def skip(self, path: str, kind: str = "") -> None:
        """Count a file that is left out, under its suffix or the kind that is given."""
        kind = kind or _kind_of(path)
        self.kinds[kind if kind in self.kinds or len(self.kinds) < MOST_KINDS else OTHER] += 1

    def add(self, other: Tally) -> None:
        """Count what another one counted, too."""
        self.kinds.update(other.kinds)
        self.litter.update(other.litter)
        self.notes += other.notes


def _kind_of(path: str) -> str:
    name = os.path.basename(path)  # noqa: PTH119
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    if name.startswith("."):
        return HIDDEN
    if len(suffix) < 2:
        return NOWHERE if os.path.islink(path) and not os.path.exists(path) else PLAIN  # noqa: PTH110, PTH114
    return suffix if len(suffix) <= LONGEST_SUFFIX and suffix.isprintable() else OTHER


def has_suffix(path: str, suffixes: Sequence[str]) -> bool:
    """Whether a file that is not hidden has one of the suffixes, which may hold several dots."""
    name = os.path.basename(path).lower()  # noqa: PTH119
    return not name.startswith(".") and name.endswith(tuple(suffixes)) and name not in suffixes
