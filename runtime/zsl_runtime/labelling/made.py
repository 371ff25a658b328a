"""Formats that cannot be written line by line and are made of JSON lines: Parquet, and tasks of Label Studio.

While `--output FILE` is unfinished, FILE.partial holds JSON lines, which an interruption cuts off at a whole answer and
`--resume` goes on with. When all is labelled, FILE is made of them in one go, in bounded memory, whole or not at all.
"""

from __future__ import annotations

import io
import json
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from zsl_runtime.labelling.results import Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from zsl_runtime.labelling.snapshot import Labelled

LINES_AT_ONCE = 1024


class Origin(NamedTuple):
    """What the answers come from.

    Attributes:
        bundle: the name of its folder.
        sha256: of its manifest, in hexadecimal digits.
        generation: of its classes.
        version: of zsl-deploy.

    """

    bundle: str
    sha256: str
    generation: int
    version: str


class Maker(Protocol):
    """Writes answers, in their order, in a format of its own to a stream that it was given."""

    def add(self, answers: Sequence[dict[str, Any]]) -> None:
        """Take some answers: objects as `encode_jsonl` writes them."""

    def finish(self) -> None:
        """Write what comes behind the last answer; without it the file is not whole."""


class MadeSink(Sink):
    """Where answers go that nobody goes on with after an interruption: stdout, a pipe, a store.

    Args:
        maker: takes the answers.

    """

    def __init__(self, stream: IO[bytes], maker: Maker) -> None:
        super().__init__(stream)
        self._maker = maker

    def write(self, data: bytes, _batch: Sequence[Labelled]) -> None:
        """Take the JSON lines of one batch."""
        self._maker.add([json.loads(line) for line in data.splitlines()])
        self._stream.flush()

    def finish(self) -> None:
        """All answers are there."""
        self._maker.finish()
        self._stream.flush()


class MergedLines(io.RawIOBase):
    """Takes whole JSON lines, as `merge` writes them, and gives them to a Maker.

    Args:
        maker: takes the answers.

    """

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self._lines: list[bytes] = []

    def write(self, data: Any) -> int:
        """Take some whole lines."""
        self._lines += bytes(data).splitlines()
        if len(self._lines) >= LINES_AT_ONCE:
            self._pass_on()
        return len(data)

    def finish(self) -> None:
        """All answers are there."""
        self._pass_on()
        self._maker.finish()

    def _pass_on(self) -> None:
        self._maker.add([json.loads(line) for line in self._lines])
        self._lines.clear()


def making(make: Callable[[IO[bytes]], Maker]) -> Callable[[Iterable[bytes], IO[bytes]], None]:
    """A function that makes the file of JSON lines, for `open_partial`.

    Args:
        make: a Maker that writes to a stream.

    """

    def convert(lines: Iterable[bytes], stream: IO[bytes]) -> None:
        maker, rest = make(stream), iter(lines)
        while some := [json.loads(line) for line in islice(rest, LINES_AT_ONCE)]:
            maker.add(some)
        maker.finish()

    return convert
