"""One thing to label, and which files are such things by their names."""

from __future__ import annotations

import os
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
SHARD_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", *((".tar.zst",) if ZSTD else ()))


class Item(NamedTuple):
    """One thing to label: its name in the results, and what `Classifier.read` takes, or why there is nothing."""

    name: str
    source: Source | InputError


class Tally:
    """Counts what was left out for its name while inputs are read; one thread adds, others look."""

    def __init__(self) -> None:
        self.skipped = 0


def has_suffix(path: str, suffixes: Sequence[str]) -> bool:
    """Whether a file that is not hidden has one of the suffixes, which may hold several dots."""
    name = os.path.basename(path).lower()  # noqa: PTH119
    return not name.startswith(".") and name.endswith(tuple(suffixes)) and name not in suffixes
