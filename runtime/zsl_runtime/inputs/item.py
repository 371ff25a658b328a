"""One thing to label, and which files are such things by their names."""

from __future__ import annotations

import os
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from zsl_runtime.errors import InputError

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
LONGEST_SUFFIX = 12  # characters, dot included; what is longer is the end of a sentence
MOST_KINDS = 1000  # that are told apart: files may be numbered by their suffixes
SHARD_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", *((".tar.zst",) if ZSTD else ()))


class Item(NamedTuple):
    """One thing to label: its name in the results, and what `Classifier.read` takes, or why there is nothing."""

    name: str
    source: Source | InputError


class Tally:
    """Counts what was left out for its name while inputs are read, by kind: one thread adds, others look at the end.

    Attributes:
        kinds: suffixes such as `.txt`, and HIDDEN, PLAIN and OTHER. They are few, however many files there are.

    """

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    @property
    def skipped(self) -> int:
        """How many files that is."""
        return self.kinds.total()

    def skip(self, path: str) -> None:
        """Count a file that is left out."""
        kind = _kind_of(path)
        self.kinds[kind if kind in self.kinds or len(self.kinds) < MOST_KINDS else OTHER] += 1


def _kind_of(path: str) -> str:
    name = os.path.basename(path)  # noqa: PTH119
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    if name.startswith("."):
        return HIDDEN
    if len(suffix) < 2:
        return PLAIN
    return suffix if len(suffix) <= LONGEST_SUFFIX and suffix.isprintable() else OTHER


def has_suffix(path: str, suffixes: Sequence[str]) -> bool:
    """Whether a file that is not hidden has one of the suffixes, which may hold several dots."""
    name = os.path.basename(path).lower()  # noqa: PTH119
    return not name.startswith(".") and name.endswith(tuple(suffixes)) and name not in suffixes
