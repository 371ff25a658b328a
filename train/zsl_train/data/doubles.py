"""Pictures that lie in a data folder more than once, byte for byte: what they do to a class, and to a test."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zsl_train.data.image_set import ImageSet


def double_notes(images: ImageSet) -> Iterator[str]:
    """What there is to say, a line for each kind of trouble; only files of one size are read."""
    groups = _same(images)
    of_classes = [group for group in groups if len(np.unique(images.labels[group])) > 1]
    astride = [group for group in groups if len({role == "test" for role in images.role[group]}) > 1]
    if of_classes:
        yield f"{len(of_classes)} pictures lie in more than one class, byte for byte: {_shown(images, of_classes)}"
    if astride:
        yield (
            f"{len(astride)} pictures are trained on and tested, byte for byte, so that the test is too easy: "
            f"{_shown(images, astride)}; keep one of each, or give split.csv"
        )
    rest = [group for group in groups if not any(group is one for one in (*of_classes, *astride))]
    if rest:
        yield f"{len(rest)} pictures lie there more than once and count as often: {_shown(images, rest)}"


def _same(images: ImageSet) -> list[list[int]]:
    """Rows of two or more pictures with the same bytes; those that cannot be read are told elsewhere."""
    sizes: dict[int, list[int]] = {}
    for row, path in enumerate(images.paths):
        size = _size(images.root / path)
        if size:
            sizes.setdefault(size, []).append(row)
    contents: dict[bytes, list[int]] = {}
    for rows in (rows for rows in sizes.values() if len(rows) > 1):
        for row in rows:
            digest = _digest(images.root / images.paths[row])
            if digest:
                contents.setdefault(digest, []).append(row)
    return [rows for rows in contents.values() if len(rows) > 1]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""


def _shown(images: ImageSet, groups: list[list[int]]) -> str:
    return listed([" = ".join(images.paths[row] for row in group) for group in groups])
