"""Lifted rows of old classes, kept in BUNDLE/cache between changes: derived, safe to lose, never believed when damaged.

`cache/rows.bin` holds float16 blocks one after the other; `cache/rows.json` says where each lies. A line with the hash
of all that follows comes first in the index, and the index holds a hash of every block, so that only blocks that are
used have to be read and checked. Whatever does not add up counts as not there, and is made again.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.storage import TEMPORARY, temporary_name

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FOLDER, BLOCKS, INDEX = "cache", "rows.bin", "rows.json"
VERSION = 1
LIMIT = 1 << 29  # bytes of blocks; a cache that would grow beyond it starts anew
HEADS = 4  # whose log-sum-exps are kept, the last ones


class Block(NamedTuple):
    """Some lifted rows of one class.

    Attributes:
        rows: (m, D) float16; m may be 0.
        total: how many rows that class has where all are used.

    """

    rows: NDArray[np.float16]
    total: int


class RowCache:
    """What is kept for one bundle; only the holder of the bundle's lock may `save`.

    Args:
        bundle: the bundle's folder.
        manifest_sha256: rows depend on graphs, Replay and settings, all of which the manifest names.
        width: D.

    """

    def __init__(self, bundle: Path, manifest_sha256: str, width: int) -> None:
        self._folder = bundle / FOLDER
        self._owner = {"version": VERSION, "manifest_sha256": manifest_sha256, "width": width}
        self._width = width
        self._kept: dict[str, list[Any]] = {}  # key -> offset, rows, total, sha256
        self._sums: dict[str, dict[str, str]] = {}  # head -> key -> base64 of float32 (rows, K)
        self._size = 0
        self._fresh: dict[str, Block] = {}
        self._changed = False
        # Not there, not readable and not ours are the same: nothing is kept. ValueError covers JSON and hashes.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            self._load()

    def _load(self) -> None:
        digest, _, text = (self._folder / INDEX).read_bytes().partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != digest:
            raise ValueError("the index is damaged")
        index = json.loads(text)
        if {key: index[key] for key in self._owner} == self._owner:
            self._kept, self._sums, self._size = index["blocks"], index["sums"], index["bytes"]

    def get(self, key: str) -> Block | None:
        """The block kept under `key`, None when it is not there or not what was written."""
        if key in self._fresh:
            return self._fresh[key]
        if key not in self._kept:
            return None
        offset, rows, total, digest = self._kept[key]
        try:
            with (self._folder / BLOCKS).open("rb") as file:
                file.seek(offset)
                data = file.read(2 * rows * self._width)
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != digest or len(data) != 2 * rows * self._width:
            del self._kept[key]
            self._changed = True
            return None
        return Block(np.frombuffer(data, dtype=np.float16).reshape(rows, self._width), total)

    def put(self, key: str, block: Block) -> None:
        """Keep a block; written by `save`."""
        self._fresh[key] = block
        self._changed = True

    def sums(self, head: str) -> dict[str, Floats]:
        """Key of a block -> log-sum-exps (rows, K) float32 of its rows under the head of digest `head`."""
        return {
            key: np.frombuffer(base64.b64decode(text), dtype=np.float32).reshape(self.rows(key), -1)
            for key, text in self._sums.get(head, {}).items()
            if self.rows(key)
        }

    def put_sums(self, head: str, sums: Mapping[str, Floats]) -> None:
        """Keep log-sum-exps (rows, K) of blocks under a head; of the oldest head they are forgotten."""
        texts = {key: base64.b64encode(value.tobytes()).decode() for key, value in sums.items() if self.rows(key)}
        if texts:
            self._sums[head] = {**self._sums.pop(head, {}), **texts}
            self._sums = dict(list(self._sums.items())[-HEADS:])
            self._changed = True

    def rows(self, key: str) -> int:
        """How many rows the block under `key` has; 0 when there is none."""
        if key in self._fresh:
            return len(self._fresh[key].rows)
        return int(self._kept[key][1]) if key in self._kept else 0

    def save(self) -> None:
        """Write what is new. A disk that says no costs the cache, not the change that was made."""
        if not self._changed:
            return
        if self._size + sum(block.rows.nbytes for block in self._fresh.values()) > LIMIT:
            self._kept, self._sums, self._size = {}, {}, 0
        with contextlib.suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            for leftover in self._folder.glob(f"{TEMPORARY}*"):
                leftover.unlink(missing_ok=True)
            path = self._folder / BLOCKS
            path.touch()
            with path.open("r+b") as file:
                file.truncate(self._size)  # what a killed writer appended is in no index
                file.seek(self._size)
                for key, block in self._fresh.items():
                    data = np.ascontiguousarray(block.rows).tobytes()
                    file.write(data)
                    self._kept[key] = [self._size, len(block.rows), block.total, hashlib.sha256(data).hexdigest()]
                    self._size += len(data)
            self._write_index()
        self._fresh, self._changed = {}, False

    def keep_only(self, keys: Container[str]) -> None:
        """Forget every block that is not in `keys`, and give its space back."""
        blocks = {key: block for key in list(self._kept) if key in keys and (block := self.get(key)) is not None}
        if len(blocks) == len(self._kept):
            return
        sums = self._sums
        self._kept, self._sums, self._size = {}, {}, 0
        self._fresh, self._changed = blocks, True
        for head, of in sums.items():
            self._sums[head] = {key: text for key, text in of.items() if key in blocks}
        self.save()

    def _write_index(self) -> None:
        index = {**self._owner, "bytes": self._size, "blocks": self._kept, "sums": self._sums}
        text = json.dumps(index, separators=(",", ":")).encode()
        partial = temporary_name(self._folder / INDEX)
        try:
            partial.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
            partial.replace(self._folder / INDEX)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def block_key(*parts: object) -> str:
    """A short name for what a block is made of: any JSON data."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()[:32]
