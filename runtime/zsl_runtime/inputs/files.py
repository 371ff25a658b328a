"""What the paths on a command line stand for: files, folders, patterns, and a list of paths on stdin.

Names do not pile up: folders are walked once to count and again to label, one folder's names in memory at a time.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import select
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from zsl_runtime.errors import InputError, UsageError, from_os_error
from zsl_runtime.inputs.item import OTHER_ARCHIVES, SHARD_SUFFIXES, Item, Tally, has_suffix, in_store
from zsl_runtime.inputs.litter import litter_file, litter_folder, litter_member
from zsl_runtime.machine.stop import POLL, Stop

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from zsl_runtime.inputs.item import Place


Without: TypeAlias = "frozenset[tuple[int, int]]"  # folders, by device and number
NOTHING: Without = frozenset()
LIST = "-"  # the path that stands for a list on stdin; a file of that name is ./-
LIST_CHUNK = 4096  # bytes read at once
ENTRY_BYTES = 65_536  # of one entry of a list; no system has longer paths, so more is no list of paths
BOM = b"\xef\xbb\xbf"
# Why a path that may well be there cannot be looked at: permission, a broken disk, a share that is gone, too deep.
HINDERED = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN"),
        *("ENETUNREACH", "ENXIO", "ENODEV", "EUCLEAN", "EREMOTEIO"),
    )
    if hasattr(errno, name)
)


@dataclass(frozen=True)
class Found:
    """Files to read, in order. Iterating again finds them again.

    Attributes:
        named: those named in full, whatever their suffix.
        count: how many; None with a list, whose end nobody knows. A folder that cannot be listed counts as one.
        left_out: files of folders and patterns that were left out, by kind.
        shards: how many of these are zip or tar files in folders.
        archives: those of the files to read that are zip or tar files.

    """

    named: tuple[str, ...]
    count: int | None
    left_out: Tally
    shards: int
    archives: tuple[str, ...]
    parts: tuple[Callable[[], Iterable[Place]], ...] = field(repr=False)

    @property
    def skipped(self) -> int:
        """How many files were left out for their kind."""
        return self.left_out.skipped

    @property
    def kinds(self) -> Mapping[str, int]:
        """How many these are of each kind, as `Tally` tells them apart."""
        return self.left_out.kinds

    def __iter__(self) -> Iterator[Place]:
        for part in self.parts:
            yield from part()


def find_files(
    paths: Sequence[str],
    suffixes: Sequence[str],
    shards: Sequence[str] = (),
    entries: Callable[[], Iterable[Place]] | None = None,
    without: Without = NOTHING,
) -> Found:
    """Find out what paths stand for.

    A file named in full is taken whatever its suffix. Folders are walked recursively, links to folders included, each
    real folder once; hidden files, litter (`litter.py`) and other suffixes are skipped, and so are shards: an archive
    that happens to lie beside pictures is not opened unless it is named. A pattern (`*`, `?`, `[...]`, `**` for any
    depth) that is not itself a name stands for its matches, shards included. Litter that is named is read; but beside
    other things of the same folder it is left out, for then a shell made the names of a `*`. A folder that cannot be
    listed is an Item with an InputError E-FOLDER in its place, and the rest is found all the same.

    Args:
        paths: as typed; names that are not valid UTF-8 hold surrogate escapes.
        suffixes: wanted in folders and patterns, in lower case with the dot.
        shards: suffixes of files that hold pictures of their own.
        entries: gives the paths of a list, for the path `-`; None where there is no list. They are files and folders;
            what is in a list is not looked at before its turn.
        without: folders that are passed over wherever they lie, links to them included.

    Returns:
        Files in the order of `paths`, sorted within a folder or pattern.

    Raises:
        UsageError: E-INPUT-MISSING, E-NO-IMAGES when nothing is left.

    """
    counting = _Counting(tuple(suffixes), tuple(shards), without)
    among = _litter_among(paths)
    parts: list[Callable[[], Iterable[Place]]] = []
    for path in paths:
        if path == LIST and entries is not None:
            counting.total = None
            parts.append(entries)
        elif path not in among:
            parts += [_files_of(root, counting) for root in _roots(path, counting)]
        else:
            counting.litter[among[path]] += (
                count_below(path, suffixes) if os.path.isdir(path) else has_suffix(path, suffixes)  # noqa: PTH112
            )
    left_out = counting.left_out
    if counting.total == 0:
        from zsl_runtime.inputs.left_out import others, told

        kinds = f": {others(left_out.kinds)}" if left_out.skipped else ""
        left = f"; {counting.shards} zip or tar files were left out: name them, or as 'FOLDER/*.tar'"
        more = "".join(f"; {line}" for line in told(left_out))
        raise UsageError(
            "E-NO-IMAGES",
            f"nothing to label in {', '.join(map(repr, paths[:3]))} ({left_out.skipped} files of other kinds{kinds}); "
            f"expected files that end in {' '.join(suffixes)}{left if counting.shards else ''}{more}",
        )
    return Found(
        tuple(counting.named), counting.total, left_out, counting.shards, tuple(counting.archives), tuple(parts)
    )


def _litter_among(paths: Sequence[str]) -> dict[str, str]:
    """Those of the paths that are litter and have others beside them that are none, with what they are."""
    places: dict[str, set[str]] = {}
    own = {}
    for path in paths:
        folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100
        litter = litter_folder(name, os.path.basename(folder)) or litter_file(name)  # noqa: PTH119
        if litter:
            own[path] = (folder, litter)
        else:
            places.setdefault(folder, set()).add(path)
    return {path: litter for path, (folder, litter) in own.items() if folder in places}


class _Counting:
    """What `find_files` knows so far."""

    def __init__(self, suffixes: tuple[str, ...], shards: tuple[str, ...], without: Without = NOTHING) -> None:
        self.suffixes = suffixes
        self.without = without
        self._shards = shards
        self.total: int | None = 0
        self.left_out = Tally()
        self.shards = 0
        self.named: list[str] = []
        self.archives: list[str] = []

    def wanted(self, name: str) -> bool:
        """Whether a file of a folder is one to read."""
        return has_suffix(name, self.suffixes)

    def matching(self, name: str) -> bool:
        """Whether a match of a pattern is one to read."""
        return has_suffix(name, self.suffixes + self._shards)

    def take(self, place: Place) -> None:
        """Count a file to read, or a folder that cannot be listed."""
        if self.total is not None:
            self.total += 1
        if isinstance(place, str) and has_suffix(place, self._shards):
            self.archives.append(place)

    def walk(self, folder: str) -> None:
        """Count the files of a folder."""
        for place in places(folder, self.suffixes, self, self.without):
            self.take(place)

    def skip(self, path: str) -> None:
        """Count a file that is left out."""
        self.left_out.skip(path)
        self.shards += has_suffix(path, self._shards)

    @property
    def litter(self) -> Counter[str]:
        """As of a Tally."""
        return self.left_out.litter


def _roots(path: str, counting: _Counting) -> list[Place]:
    """The files and folders that one path stands for, counted."""
    if in_store(path):
        return _stored(path, counting)
    status, hindered = _status(path, os.stat)  # plain strings keep undecodable names and the user's spelling
    if status is not None and stat.S_ISDIR(status.st_mode):
        counting.walk(path)
        return [path]
    # A link to nowhere and what nobody may look at are told when they are opened.
    if status is not None or hindered is not None or os.path.islink(path):  # noqa: PTH114
        counting.named.append(path)
        counting.take(path)
        return [path]
    matches = sorted(_Pattern(path, counting).matches(), key=_order) if glob.has_magic(path) else []
    if not matches:
        raise UsageError("E-INPUT-MISSING", f"there is no {path!r}; give files, folders or patterns that exist")
    roots: list[Place] = []
    for match in matches:
        if isinstance(match, str) and os.path.isdir(match):  # noqa: PTH112
            if "**" not in path:  # that one lists what is in its folders by itself
                counting.walk(match)
                roots.append(match)
        elif isinstance(match, Item) or counting.matching(match):
            counting.take(match)
            roots.append(match)
        else:
            counting.left_out.skip(match)
    return roots


def _stored(path: str, counting: _Counting) -> list[Place]:
    """The same of a path in a store; folders end with a slash, so that nobody needs to ask there again."""
    from zsl_runtime.inputs import stores

    kind = stores.kind_of(path)
    if kind == "folder":
        folder = f"{path.rstrip('/')}/"
        counting.walk(folder)
        return [folder]
    if kind:
        counting.named.append(path)
        counting.take(path)
        return [path]

    def left_out(_folder: str, name: str, is_folder: bool) -> bool:
        litter = litter_folder(name, os.path.basename(_folder)) if is_folder else litter_file(name)  # noqa: PTH119
        if litter:
            counting.litter[litter] += not is_folder and has_suffix(name, counting.suffixes)
        return bool(litter)

    matched = sorted(stores.matches(path, left_out), key=lambda one: Path(one[0]).parts) if glob.has_magic(path) else []
    if not matched:
        raise UsageError("E-INPUT-MISSING", f"there is no {path!r}; give files, folders or patterns that exist there")
    roots: list[Place] = []
    for match, is_folder in matched:
        if is_folder and "**" not in path:
            counting.walk(f"{match}/")
            roots.append(f"{match}/")
        elif not is_folder and counting.matching(match):
            counting.take(match)
            roots.append(match)
        elif not is_folder:
            counting.left_out.skip(match)
    return roots


def _order(match: Place) -> tuple[str, ...]:
    return Path(match if isinstance(match, str) else match.name).parts


def _files_of(root: Place, counting: _Counting) -> Callable[[], Iterable[Place]]:
    """A function that gives the files of a folder, or the file itself."""
    if isinstance(root, str) and _is_root(root):
        return lambda: _places(walk(root, counting.without), counting.wanted, None)
    return lambda: (root,)


def _is_root(path: str) -> bool:
    return path.endswith("/") if in_store(path) else os.path.isdir(path)  # noqa: PTH112


# --- patterns -------------------------------------------------------------------------------------------------------


class _Pattern:
    """What a pattern stands for, as of `glob.glob`; each folder is looked at once, however links lead to it.

    Unlike there, a folder that cannot be listed is not passed over silently but given as an Item, and litter is left
    out and counted unless the pattern has its name.

    Args:
        pattern: as typed.
        counting: counts litter.

    """

    def __init__(self, pattern: str, counting: _Counting) -> None:
        self._counting = counting
        self._root = os.sep if pattern.startswith(os.sep) else ""
        self._parts = [part for part in pattern.split(os.sep) if part]  # noqa: PTH206  # `.` at the beginning counts
        self._only_folders = pattern.endswith(os.sep)
        names = [part for part in self._parts if not glob.has_magic(part)]
        self._all = _is_in_litter(os.path.join(self._root, *names))  # noqa: PTH118
        # Folders that were looked at, with how many parts of the pattern were left there.
        self._visited: set[tuple[tuple[int, int], int]] = set()
        self._without = counting.without
        self._told: set[str] = set()

    def matches(self) -> Iterator[Place]:
        """All of them, in no order."""
        for match in self._below(self._root, self._parts):
            if isinstance(match, str) and self._only_folders and not os.path.isdir(match):  # noqa: PTH112
                continue
            if isinstance(match, str) or match.name not in self._told:
                yield match
            if isinstance(match, Item):
                self._told.add(match.name)

    def _below(self, base: str, parts: Sequence[str]) -> Iterator[Place]:
        """The matches of what is left of the pattern below the folder `base`."""
        if not parts:
            yield base
        elif glob.has_magic(parts[0]):
            yield from self._listed(base, parts)
        else:
            path = os.path.join(base, parts[0])  # noqa: PTH118
            status, hindered = _status(path, os.lstat)
            if status is not None:
                yield from self._below(path, parts[1:])
            elif hindered is not None:
                yield hindered

    def _listed(self, base: str, parts: Sequence[str]) -> Iterator[Place]:
        """The same where the next part is a pattern, for which the folder is listed."""
        first, rest, folder = parts[0], parts[1:], base or os.curdir
        status, hindered = _status(folder, os.stat)
        if hindered is not None:
            yield hindered
        if status is None or not stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) in self._without:
            return
        here = ((status.st_dev, status.st_ino), len(parts))
        if first == "**":
            if here in self._visited:  # a link to a folder that was or is being looked at
                return
            self._visited.add(here)
            yield from self._below(base, rest) if rest else ()
        names, problem = _listed(folder)
        for entry in names:
            name, is_folder = entry.removesuffix(os.sep), entry.endswith(os.sep)
            path = os.path.join(base, name)  # noqa: PTH118
            if not _fits(name, first) or (rest and not is_folder) or self._is_litter(path, is_folder=is_folder):
                continue
            if first != "**":
                yield from self._below(path, rest)
            elif is_folder:
                yield from self._below(path, parts)
            else:
                yield path
        if problem is not None:
            yield Item(folder, folder_error(folder, problem))

    def _is_litter(self, path: str, *, is_folder: bool) -> bool:
        """Whether it is left out; the pictures in it are counted then."""
        litter = "" if self._all else _litter(path, is_folder=is_folder)
        if litter:
            suffixes = self._counting.suffixes
            count = count_below(path, suffixes) if is_folder else int(has_suffix(path, suffixes))
            self._counting.litter[litter] += count
        return bool(litter)


def _fits(name: str, part: str) -> bool:
    """Whether a name is one that a part of a pattern stands for; hidden ones only where it begins with a dot, too."""
    if name.startswith(".") and not part.startswith("."):
        return False
    return part == "**" or fnmatch.fnmatch(name, part)


def _litter(path: str, *, is_folder: bool) -> str:
    """As of `litter.py`, of a file or folder in the folder that its path says."""
    parent, name = os.path.split(path)
    return litter_folder(name, os.path.basename(parent)) if is_folder else litter_file(name)  # noqa: PTH119


def _is_in_litter(folder: str) -> bool:
    """Whether a folder that was named, or one around it, is litter: then it is read as it is."""
    return bool(litter_member([*Path(os.path.abspath(folder)).parts, ""]))  # noqa: PTH100


def _status(path: str, ask: Callable[[str], os.stat_result]) -> tuple[os.stat_result | None, Item | None]:
    """What is known of a path; where nothing is, why, unless it is not there."""
    try:
        return ask(path), None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in HINDERED:
            return None, Item(path, folder_error(path, error))
        return None, None


# --- folders --------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A file that a walk came by; or a folder that cannot be listed, wholly or in part, and why.

    Attributes:
        path: of the file or folder.
        litter: under what a file that is none of the user's is counted (`litter.py`); '' for all others.
        error: None for a file.

    """

    path: str
    litter: str = ""
    error: OSError | None = None


class _Leaves(Protocol):
    """What counts files that are left out, as a Tally does."""

    @property
    def litter(self) -> Counter[str]: ...

    def skip(self, path: str) -> None: ...


def places(
    folder: str, suffixes: Sequence[str], left_out: _Leaves | None = None, without: Without = NOTHING
) -> Iterator[Place]:
    """The files below a folder that have one of the suffixes, as `walk` gives them; the rest is counted.

    Args:
        folder: to be walked.
        suffixes: as of `has_suffix`.
        left_out: counts the others, litter apart.
        without: as of `walk`.

    Yields:
        Paths; and of a folder that cannot be listed an Item of its name with an InputError E-FOLDER.

    """
    return _places(walk(folder, without), lambda name: has_suffix(name, suffixes), left_out)


def _places(walked: Iterable[Seen], wanted: Callable[[str], bool], left_out: _Leaves | None) -> Iterator[Place]:
    for path, litter, error in walked:
        if error is not None:
            yield Item(path, folder_error(path, error))
        elif litter:
            if left_out is not None and wanted(path):
                left_out.litter[litter] += 1
        elif wanted(path):
            yield path
        elif left_out is not None:
            left_out.skip(path)


def count_below(folder: str, suffixes: Sequence[str]) -> int:
    """How many files below a folder have one of the suffixes; of litter, which is counted and not read."""
    return sum(1 for seen in walk(folder) if seen.error is None and has_suffix(seen.path, suffixes))


def folder_error(path: str, error: OSError) -> InputError:
    """E-FOLDER: what stands against a folder; what could be read of it was read."""
    return InputError(
        "E-FOLDER",
        f"{path!r} cannot be looked into: {error.strerror or error}; what is in it is left out: get permission, or see "
        "that it is there, and give it again",
    )


def walk(folder: str, without: Without = NOTHING) -> Iterator[Seen]:
    """Every file below a folder in sorted order, hidden folders left out, links to folders followed, each once.

    Sorted are the parts of the path: a/b.png comes before a.png, because a folder `a` comes before a file `a.png`. A
    folder that cannot be listed comes in its place, and the walk goes on; of litter such are passed over. Below a
    folder that is litter itself, nothing counts as litter: whoever names it means it. Folders of `without` are passed
    over, with all that is in them.
    """
    if in_store(folder):
        yield from _walk_store(folder, "")
        return
    named = _is_in_litter(folder)
    visited: set[tuple[int, int]] = set(without)
    # Of each folder on the way down, what is still to come, the next one last: names that were given are let go.
    waiting = [_Level(folder, "", visited)]
    while waiting:
        level = waiting[-1]
        if level.error is not None and not level.litter:
            yield Seen(level.path, error=level.error)
            level.error = None
        if not level.names:
            waiting.pop()
            continue
        entry = level.names.pop()
        name, is_folder = entry.removesuffix(os.sep), entry.endswith(os.sep)
        path = os.path.join(level.path, name)  # noqa: PTH118
        litter = "" if named else level.litter or _litter(path, is_folder=is_folder)
        if is_folder:
            waiting.append(_Level(path, litter, visited))
        else:
            yield Seen(path, litter)


def _walk_store(folder: str, litter: str) -> Iterator[Seen]:
    """The same of a store, whose folders are no deeper than its names are long and have no links."""
    from zsl_runtime.inputs import stores

    try:
        found = stores.entries(folder)
    except OSError as error:
        if not litter:
            yield Seen(folder, error=error)
        return
    parent = os.path.basename(folder.rstrip("/"))  # noqa: PTH119
    for name, is_folder in found:
        path = stores.join(folder, name)
        own = litter or (litter_folder(name, parent) if is_folder else litter_file(name))
        if not is_folder:
            yield Seen(path, own)
        elif not name.startswith("."):
            yield from _walk_store(path, own)


class _Level:
    """A folder of a walk: names still to come in falling order, hidden folders left out; nothing if it was visited."""

    def __init__(self, path: str, litter: str, visited: set[tuple[int, int]]) -> None:
        self.path, self.litter = path, litter
        self.names: list[str] = []
        self.error: OSError | None = None
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            self.error = error
            return
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder that was or is being walked
            return
        visited.add((status.st_dev, status.st_ino))
        names, self.error = _listed(path)
        self.names = [name for name in reversed(names) if not (name.startswith(".") and name.endswith(os.sep))]


def _listed(folder: str) -> tuple[list[str], OSError | None]:
    """Sorted names in a folder, those of folders with a separator behind; and the error that ended it, if one did."""
    names: list[str] = []
    problem = None
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(f"{entry.name}{os.sep}" if is_folder(entry) else entry.name)  # noqa: PERF401  # kept
    except OSError as error:
        problem = error
    names.sort(key=lambda name: name.removesuffix(os.sep))
    return names, problem


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Also of a link whose target nobody may look at: as a folder, it is told."""
    try:
        return entry.is_dir()
    except OSError as error:
        return error.errno in HINDERED and "." not in entry.name


def pictures(
    files: Iterable[Place], suffixes: Sequence[str], tally: Tally, wanted: Callable[[str], bool] | None = None
) -> Generator[Item]:
    """Files one after the other, and in place of each shard the pictures in it.

    Args:
        files: paths, and folders that cannot be listed.
        suffixes: of pictures in shards.
        tally: counts what is left out of shards.
        wanted: as of `shards.members`.

    """
    for path in files:
        if isinstance(path, Item):
            yield path
        elif has_suffix(path, SHARD_SUFFIXES):
            from zsl_runtime.inputs.shards import members

            yield from members(path, suffixes, tally, wanted)
        elif has_suffix(path, OTHER_ARCHIVES):
            from zsl_runtime.inputs.shards import unread_archive

            yield Item(path, unread_archive(path))
        else:
            yield Item(path, path)


# --- lists ----------------------------------------------------------------------------------------------------------


def list_entries(
    handle: int, suffixes: Sequence[str], *, null: bool, stop: Stop, tally: Tally, without: Without = NOTHING
) -> Callable[[], Iterator[Place]]:
    """The files that a list names, a folder standing for the files in it; to be read once.

    Args:
        handle: file descriptor of the list.
        suffixes: wanted in folders.
        null: entries end with NUL instead of a line feed.
        stop: ends the list early.
        tally: counts the files of folders that are left out.
        without: as of `walk`.

    Returns:
        A function that reads the list; iterating raises UsageError E-LIST for something else than a list, SystemProblem
        for a list that cannot be read. A folder that cannot be listed is an Item with the reason.

    """

    def files() -> Iterator[Place]:
        for entry in read_list(handle, null=null, stop=stop):
            try:
                folder = _is_listed_folder(entry, suffixes)
            except UsageError as error:  # a store that cannot be asked is no reason to end here
                yield Item(entry, InputError("E-STORE-READ", error.message))
                continue
            if not folder:
                yield entry
                continue
            yield from places(entry, suffixes, tally, without)

    return files


def _is_listed_folder(entry: str, suffixes: Sequence[str]) -> bool:
    """Whether an entry is a folder; a store is not asked about what is called as a file is."""
    if not in_store(entry):
        return os.path.isdir(entry)  # noqa: PTH112
    if entry.endswith("/") or has_suffix(entry, (*suffixes, *SHARD_SUFFIXES)):
        return entry.endswith("/")
    from zsl_runtime.inputs import stores

    return stores.kind_of(entry) == "folder"


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
