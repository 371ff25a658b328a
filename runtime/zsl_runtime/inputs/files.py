"""What the paths on a command line stand for: files, folders, patterns, and a list of paths on stdin.

Names do not pile up: folders are walked once to count and again to label, one folder's names in memory at a time.
"""

from __future__ import annotations

import glob
import os
import select
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zsl_runtime.errors import UsageError, from_os_error
from zsl_runtime.inputs.item import SHARD_SUFFIXES, Item, Tally, has_suffix
from zsl_runtime.machine.stop import POLL, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence


LIST = "-"  # the path that stands for a list on stdin; a file of that name is ./-
LIST_CHUNK = 4096  # bytes read at once
ENTRY_BYTES = 65_536  # of one entry of a list; no system has longer paths, so more is no list of paths
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Found:
    """Files to read, in order. Iterating again finds them again.

    Attributes:
        named: those named in full, whatever their suffix.
        count: how many; None with a list, whose end nobody knows.
        skipped: files of folders and patterns that were left out for their names.
        kinds: how many these are of each kind, as `Tally` tells them apart.
        shards: how many of these are zip or tar files in folders.
        archives: those of the files to read that are zip or tar files.

    """

    named: tuple[str, ...]
    count: int | None
    skipped: int
    kinds: Mapping[str, int]
    shards: int
    archives: tuple[str, ...]
    parts: tuple[Callable[[], Iterable[str]], ...] = field(repr=False)

    def __iter__(self) -> Iterator[str]:
        for part in self.parts:
            yield from part()


def find_files(
    paths: Sequence[str],
    suffixes: Sequence[str],
    shards: Sequence[str] = (),
    entries: Callable[[], Iterable[str]] | None = None,
) -> Found:
    """Find out what paths stand for.

    A file named in full is taken whatever its suffix. Folders are walked recursively, links to folders included, each
    real folder once; hidden files and other suffixes are skipped, and so are shards: an archive that happens to lie
    beside pictures is not opened unless it is named. A pattern (`*`, `?`, `[...]`, `**` for any depth) that is not
    itself a name stands for its matches, shards included.

    Args:
        paths: as typed; names that are not valid UTF-8 hold surrogate escapes.
        suffixes: wanted in folders and patterns, in lower case with the dot.
        shards: suffixes of files that hold pictures of their own.
        entries: gives the paths of a list, for the path `-`; None where there is no list. They are files and folders;
            what is in a list is not looked at before its turn.

    Returns:
        Files in the order of `paths`, sorted within a folder or pattern.

    Raises:
        UsageError: E-INPUT-MISSING, E-NO-IMAGES when nothing is left.
        SystemProblem: a folder cannot be listed; iterating may raise it too.

    """
    counting = _Counting(tuple(suffixes), tuple(shards))
    parts: list[Callable[[], Iterable[str]]] = []
    for path in paths:
        if path == LIST and entries is not None:
            counting.total = None
            parts.append(entries)
        else:
            parts += [_files_of(root, counting.wanted) for root in _roots(path, counting)]
    if counting.total == 0:
        others = counting.left_out.skipped
        left = f"; {counting.shards} zip or tar files were left out: name them, or as 'FOLDER/*.tar'"
        raise UsageError(
            "E-NO-IMAGES",
            f"nothing to label in {', '.join(map(repr, paths[:3]))} ({others} files of other kinds); "
            f"expected files that end in {' '.join(suffixes)}{left if counting.shards else ''}",
        )
    return Found(
        tuple(counting.named),
        counting.total,
        counting.left_out.skipped,
        counting.left_out.kinds,
        counting.shards,
        tuple(counting.archives),
        tuple(parts),
    )


class _Counting:
    """What `find_files` knows so far."""

    def __init__(self, suffixes: tuple[str, ...], shards: tuple[str, ...]) -> None:
        self._suffixes = suffixes
        self._shards = shards
        self.total: int | None = 0
        self.left_out = Tally()
        self.shards = 0
        self.named: list[str] = []
        self.archives: list[str] = []

    def wanted(self, name: str) -> bool:
        """Whether a file of a folder is one to read."""
        return has_suffix(name, self._suffixes)

    def matching(self, name: str) -> bool:
        """Whether a match of a pattern is one to read."""
        return has_suffix(name, self._suffixes + self._shards)

    def take(self, name: str) -> None:
        """Count a file to read."""
        if self.total is not None:
            self.total += 1
        if has_suffix(name, self._shards):
            self.archives.append(name)

    def walk(self, folder: str) -> None:
        """Count the files of a folder."""
        for name in walk(folder):
            if self.wanted(name):
                self.take(name)
            else:
                self.left_out.skip(name)
                self.shards += has_suffix(name, self._shards)


def _roots(path: str, counting: _Counting) -> list[str]:
    """The files and folders that one path stands for, counted."""
    if os.path.isdir(path):  # noqa: PTH112  # plain strings keep undecodable names and the user's spelling
        counting.walk(path)
        return [path]
    if os.path.exists(path):  # noqa: PTH110
        counting.named.append(path)
        counting.take(path)
        return [path]
    matches = sorted(glob.glob(path, recursive=True), key=_parts) if glob.has_magic(path) else []  # noqa: PTH207
    if not matches:
        raise UsageError("E-INPUT-MISSING", f"there is no {path!r}; give files, folders or patterns that exist")
    roots: list[str] = []
    for match in matches:
        if os.path.isdir(match):  # noqa: PTH112
            if "**" not in path:  # that one lists what is in its folders by itself
                counting.walk(match)
                roots.append(match)
        elif counting.matching(match):
            counting.take(match)
            roots.append(match)
        else:
            counting.left_out.skip(match)
    return roots


def _files_of(root: str, wanted: Callable[[str], bool]) -> Callable[[], Iterable[str]]:
    """A function that gives the files of a folder, or the file itself."""
    if os.path.isdir(root):  # noqa: PTH112
        return lambda: (name for name in walk(root) if wanted(name))
    return lambda: (root,)


def walk(folder: str) -> Iterator[str]:
    """Every file below a folder in sorted order, hidden folders left out, links to folders followed, each once.

    Sorted are the parts of the path: a/b.png comes before a.png, because a folder `a` comes before a file `a.png`.

    Raises:
        SystemProblem: a folder cannot be listed.

    """
    visited: set[tuple[int, int]] = set()
    # Of each folder on the way down, what is still to come, the next one last: names that were given are let go.
    waiting = [(folder, _listed(folder, visited))]
    while waiting:
        root, names = waiting[-1]
        if not names:
            waiting.pop()
            continue
        path = os.path.join(root, name := names.pop())  # noqa: PTH118
        if name.endswith(os.sep):
            path = path.removesuffix(os.sep)
            waiting.append((path, _listed(path, visited)))
        else:
            yield path


def _listed(folder: str, visited: set[tuple[int, int]]) -> list[str]:
    """Names in a folder in falling order, those of folders with a separator behind; nothing if it was visited."""
    try:
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder that was or is being walked
            return []
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            names = [f"{entry.name}{os.sep}" if _is_folder(entry) else entry.name for entry in entries]
    except OSError as error:
        raise from_os_error(error, "list the folder") from error
    names = [name for name in names if not (name.startswith(".") and name.endswith(os.sep))]
    names.sort(key=lambda name: name.removesuffix(os.sep), reverse=True)
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _parts(path: str) -> tuple[str, ...]:
    return Path(path).parts


def pictures(files: Iterable[str], suffixes: Sequence[str], tally: Tally) -> Generator[Item]:
    """Files one after the other, and in place of each shard the pictures in it.

    Args:
        files: paths.
        suffixes: of pictures in shards.
        tally: counts what is left out of shards.

    """
    for path in files:
        if has_suffix(path, SHARD_SUFFIXES):
            from zsl_runtime.inputs.shards import members

            yield from members(path, suffixes, tally)
        else:
            yield Item(path, path)


# --- lists ----------------------------------------------------------------------------------------------------------


def list_entries(
    handle: int, suffixes: Sequence[str], *, null: bool, stop: Stop, tally: Tally
) -> Callable[[], Iterator[str]]:
    """The files that a list names, a folder standing for the files in it; to be read once.

    Args:
        handle: file descriptor of the list.
        suffixes: wanted in folders.
        null: entries end with NUL instead of a line feed.
        stop: ends the list early.
        tally: counts the files of folders that are left out.

    Returns:
        A function that reads the list; iterating raises UsageError E-LIST for something else than a list, SystemProblem
        for a list or folder that cannot be read.

    """

    def files() -> Iterator[str]:
        for entry in read_list(handle, null=null, stop=stop):
            if not os.path.isdir(entry):  # noqa: PTH112
                yield entry
                continue
            for name in walk(entry):
                if has_suffix(name, suffixes):
                    yield name
                else:
                    tally.skip(name)

    return files


def read_list(handle: int, *, null: bool, stop: Stop) -> Iterator[str]:
    """Entries of a list, as they arrive.

    Empty entries are left out. In a list of lines, a carriage return before the line feed and a byte order mark at the
    beginning belong to the list, not to a path.

    Raises:
        UsageError: E-LIST for an entry of more than ENTRY_BYTES bytes.
        SystemProblem: the list cannot be read.

    """
    end = b"\0" if null else b"\n"
    rest, first = b"", True
    for chunk in _chunks(handle, stop):
        *entries, rest = (rest + chunk).split(end)
        for entry in entries:
            yield from _entry(entry, null=null, first=first)
            first = False
        if len(rest) > ENTRY_BYTES:
            raise UsageError(
                "E-LIST",
                f"an entry of the list on stdin is longer than {ENTRY_BYTES:,} bytes; expected one path a line, or "
                "paths that end with NUL and --null",
            )
    if not stop.requested:
        yield from _entry(rest, null=null, first=first)


def _entry(data: bytes, *, null: bool, first: bool) -> Iterator[str]:
    """The path of one entry, or nothing."""
    if not null:
        data = data.removesuffix(b"\r")
        data = data.removeprefix(BOM) if first else data
    if data:
        yield os.fsdecode(data)


def _chunks(handle: int, stop: Stop) -> Iterator[bytes]:
    """What arrives, until the end or until somebody asks to stop."""
    waits = True
    try:
        while not stop.requested:
            if waits:
                try:
                    if not select.select([handle], [], [], POLL)[0]:
                        continue
                except (OSError, ValueError):  # a system that cannot wait for this kind of handle
                    waits = False
            if not (chunk := os.read(handle, LIST_CHUNK)):
                return
            yield chunk
    except OSError as error:
        raise from_os_error(error, "read the list of paths on stdin:") from error
