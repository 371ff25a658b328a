"""What may be on a disk after a power cut: the folder as it was, and of the operations since then whatever the disk
likes, but for what was waited for.

The model gives a disk more freedom than any file system takes. What is written into a file is there for certain after
fsync of that file; before, it may be there, or half of it, or nothing, whatever else is. A name that was made, moved or
removed is so for certain after fsync of its folder; before, any of the names may be as it was, each by itself. Only a
rename is one step.
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Operation = tuple[str, str, str, int, bytes]  # as `support.faults.operations` gives them
MOST = 6  # operations not waited for of which all subsets are tried; of more, prefixes and single ones


@dataclass
class File:
    """Content of a file, and how many bytes of it are on the disk for certain."""

    data: bytearray
    certain: int = 0


@dataclass
class Step:
    """One change of names: a name takes a file or none, and another one may lose its own."""

    name: Path
    file: File | None
    gone: Path | None = None
    folder: bool = False


@dataclass
class Disk:
    """A folder, and the changes since.

    Attributes:
        names: file by name (None: a folder), of what is there for certain.
        steps: changes of names that were not waited for.

    """

    names: dict[Path, File | None]
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> Disk:
        """A folder all of which is on the disk."""
        found: dict[Path, File | None] = {}
        for path in sorted(folder.rglob("*")):
            data = path.read_bytes() if path.is_file() else None
            found[path] = None if data is None else File(bytearray(data), len(data))
        return cls(found)

    def now(self, chosen: Iterable[Step] | None = None) -> dict[Path, File | None]:
        """Files by name, with the chosen steps done; None does all of them."""
        names = dict(self.names)
        for step in self.steps if chosen is None else chosen:
            if step.gone is not None:
                names.pop(step.gone, None)
            if step.file is None and not step.folder:
                names.pop(step.name, None)
            else:
                names[step.name] = step.file
        return names

    def do(self, operation: Operation) -> None:
        """One operation of a log."""
        call, first, second, offset, data = operation
        path, there = Path(first), self.now()
        if call in {"open-make", "open-empty"}:
            file = there.get(path)
            if file is None:
                self.steps.append(Step(path, File(bytearray())))
            elif call == "open-empty":
                file.data, file.certain = bytearray(), 0
        elif call == "write":
            file = there[path]
            assert file is not None
            file.data[offset : offset + len(data)] = data
            file.certain = min(file.certain, offset)
        elif call == "rename":
            self.steps.append(Step(Path(second), there[path], gone=path))
        elif call == "unlink":
            self.steps.append(Step(path, None))
        elif call == "mkdir":
            self.steps.append(Step(path, None, folder=True))
        elif call == "sync":
            self._sync(path, there)

    def _sync(self, path: Path, there: dict[Path, File | None]) -> None:
        file = there.get(path)
        if file is not None:
            file.certain = len(file.data)
            return
        settled = [step for step in self.steps if step.name.parent == path]
        self.names = self.now(settled)
        self.steps = [step for step in self.steps if step not in settled]

    def after_a_cut(self) -> Iterator[dict[Path, bytes | None]]:
        """Every content that the disk may have, by the model: None is a folder."""
        for chosen in _subsets(self.steps):
            names = self.now(chosen)
            loose = [file for file in names.values() if file is not None and file.certain < len(file.data)]
            for lengths in itertools.product(
                *((file.certain, (file.certain + len(file.data)) // 2, len(file.data)) for file in loose)
            ):
                kept = {id(file): length for file, length in zip(loose, lengths, strict=True)}
                yield {
                    name: None if file is None else bytes(file.data[: kept.get(id(file), len(file.data))])
                    for name, file in names.items()
                }


def _subsets(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    if len(steps) <= MOST:
        for size in range(len(steps) + 1):
            yield from itertools.combinations(steps, size)
        return
    for size in range(len(steps) + 1):
        yield steps[:size]
    for step in steps:
        yield [step]
        yield [other for other in steps if other is not step]


def lay_out(content: dict[Path, bytes | None], root: Path, target: Path) -> None:
    """Make `target` what a disk has of `root`."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, data in sorted(content.items()):
        path = target / name.relative_to(root)
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        elif path.parent.is_dir():  # else its folder was lost, and with it the name
            path.write_bytes(data)


def states(start: Path, operations: Sequence[Operation]) -> Iterator[tuple[int, dict[Path, bytes | None]]]:
    """Every state after a cut at any point of a log: the number of operations done, and the content; each once."""
    seen = set()
    for count in range(len(operations) + 1):
        disk = Disk.of(start)
        for operation in operations[:count]:
            disk.do(operation)
        for content in disk.after_a_cut():
            key = frozenset(content.items())
            if key not in seen:
                seen.add(key)
                yield count, content
