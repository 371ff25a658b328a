"""`zsl-infer --sort-into DIR`: each picture copied, or linked, into the folder of its class.

Nothing that is there is ever replaced, and nothing is put where a link leads out of DIR. A picture whose name is taken
by another one gets a piece of its content's sha256 behind its name, so that the same pictures end under the same names
whenever and in whatever order they are sorted: a second run finds them there and does nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import unicodedata
from collections import Counter, deque
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from zsl_runtime.errors import InputError, SystemProblem, UsageError, from_os_error
from zsl_runtime.inputs.item import in_store
from zsl_runtime.machine.storage import TEMPORARY, claimed_folder, copy_synced, exclusive, write_synced

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from zsl_runtime.inputs.item import Item
    from zsl_runtime.labelling.snapshot import Labelled, Prediction

UNSURE, FAR = "unsure", "unlike anything known"
HARD, SYMBOLIC = "hard", "symbolic"
SCRATCH = f"{TEMPORARY}sorting-"  # a folder in DIR where copies are made; whose writer was killed is removed
LONGEST_NAME = 255  # bytes, of nearly all file systems
LONGEST_SAFE = 100  # bytes of a folder's name that is made of a class's
UNSAFE = re.compile(r'[<>:"|?*\\/\x00-\x1f]')  # on file systems of Windows
NO_SUCH_NAME = frozenset({errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ})
NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
COMPARED = 1 << 20  # bytes at once
SECOND_OF_ITS_NAME = re.compile(r"#\d+$")  # behind members of an archive that have one name


class _Place(NamedTuple):
    """A name in an open folder."""

    folder: int
    name: str

    def status(self, *, follow: bool = False) -> os.stat_result | None:
        """What lies there, a link by itself or where it leads; None for nothing."""
        with suppress(FileNotFoundError):
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=follow)
        return None


class Sorter:
    """Puts pictures where their answers say.

    Items are remembered in their order as they are read, since an answer has no more than a name, and a picture of an
    archive is no file. Use `open_sorter`.

    Args:
        root: the real path of DIR.
        handle: DIR, open.
        scratch: a folder on the same disk, where copies are made before they get their names.
        link: HARD or SYMBOLIC; None for copies.
        least: probability of the best class below which a picture is unsure.
        keep_bytes: False where all is read before the first answer comes, so that archives would pile up.

    Attributes:
        counts: of pictures: put, there (before), UNSURE and FAR among these; and not sorted: unreadable, own, gone.

    """

    def __init__(
        self,
        root: str,
        handle: int,
        scratch: Path,
        *,
        link: str | None,
        least: float,
        keep_bytes: bool,
    ) -> None:
        self._root, self._handle, self._scratch = root, handle, scratch
        self._link, self._least, self._keep_bytes = link, least, keep_bytes
        self._folders: dict[str, str] = {}
        self._made_up: dict[str, str] = {}
        self._coming: deque[Item] = deque()
        self.counts: Counter[str] = Counter()
        self._is_own = lru_cache(1024)(self._lies_within)

    def know(self, names: Iterable[str]) -> None:
        """Take the names of all classes, before the first answer."""
        self._folders = folders_of(names)

    # --- what is read -------------------------------------------------------------------------------------------

    def noting(self, items: Generator[Item]) -> Generator[Item]:
        """The items; each is remembered until its answer comes.

        Raises:
            UsageError: E-SORT-INTO for a picture in an archive, where none can be kept.

        """
        try:
            for item in items:
                if isinstance(item.source, bytes) and not self._keep_bytes:
                    raise UsageError(
                        "E-SORT-INTO", f"{item.name!r} lies in an archive, and a cascade sorts files alone; extract it"
                    )
                self._coming.append(item)
                yield item
        finally:
            items.close()

    def sort(self, batch: Sequence[Labelled]) -> None:
        """Put the pictures of these answers, which come in the order of the items, into their folders.

        Raises:
            UsageError: E-SORT-INTO where a folder is none, or a hard link cannot be.
            SystemProblem: the system said no. What was put before that is whole.

        """
        for name, result in batch:
            item = self._coming.popleft()
            assert item.name == name
            if isinstance(result, InputError):
                self.counts["unreadable"] += not isinstance(item.source, InputError)
            elif isinstance(item.source, str) and not in_store(item.source) and self._own(item.source):
                self.counts["own"] += 1
            else:
                self._sort_one(item, self._folder_of(result))

    def _folder_of(self, answer: Prediction) -> str:
        if answer.far:
            return FAR
        return UNSURE if answer.probabilities[0] < self._least else self._folders[answer.names[0]]

    def _own(self, path: str) -> bool:
        return self._is_own(os.path.dirname(os.path.abspath(path)))  # noqa: PTH100, PTH120

    def _lies_within(self, folder: str) -> bool:
        real = os.path.realpath(folder)
        return real == self._root or real.startswith(self._root.rstrip(os.sep) + os.sep)

    # --- one picture --------------------------------------------------------------------------------------------

    def _sort_one(self, item: Item, folder: str) -> None:
        source = cast("str | bytes", item.source)
        if isinstance(source, str) and in_store(source):
            from zsl_runtime.inputs.stores import read

            try:
                source = read(source)
            except InputError:
                self.counts["gone"] += 1
                return
        if isinstance(source, str) and not os.path.isfile(source):  # noqa: PTH113
            self.counts["gone"] += 1
            return
        name = SECOND_OF_ITS_NAME.sub("", os.path.basename(item.name))  # noqa: PTH119
        try:
            with self._opened(folder) as handle:
                self._put(source, name, handle)
        except OSError as error:
            if error.errno == errno.EXDEV and self._link == HARD:
                raise UsageError(
                    "E-SORT-INTO",
                    f"{item.name!r} lies on another disk than {self._root!r}, where hard links cannot lead; give "
                    "--link symbolic, or leave --link out for copies",
                ) from None
            where = os.path.join(self._root, folder)  # noqa: PTH118
            raise from_os_error(error, f"put {item.name!r} into {where!r}:") from error
        self.counts[folder] += folder in {UNSURE, FAR}

    @contextmanager
    def _opened(self, folder: str) -> Iterator[int]:
        """The folder of a class, made if need be, and never where a link leads."""
        name = self._made_up.get(folder, folder)
        try:
            self._make(name)
        except OSError as error:
            if error.errno not in NO_SUCH_NAME or name != folder:
                raise
            name = self._made_up[folder] = safe_name(folder)
            self._make(name)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            handle = os.open(name, flags, dir_fd=self._handle)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
            raise UsageError(
                "E-SORT-INTO",
                f"{name!r} in {self._root!r} is a link or a file and no folder; move it away, or give another DIR",
            ) from None
        try:
            yield handle
        finally:
            os.close(handle)

    def _make(self, name: str) -> None:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=self._handle)

    def _put(self, source: str | bytes, name: str, folder: int) -> None:
        """Under its name or, where that is taken by another picture, with a piece of its sha256 or with all of it."""
        copy = None
        try:
            for mark in (0, 8, 64):
                at = _Place(folder, marked(name, _sha256(source)[:mark] if mark else ""))
                there = at.status()
                if there is None:
                    copy = copy or self._copied(source)
                    with suppress(FileExistsError):
                        self._name(source, copy, at)
                        self.counts["put"] += 1
                        return
                    there = at.status()
                if there is not None and _is_same(source, at, there):
                    self.counts["there"] += 1
                    return
            raise OSError(errno.EEXIST, "something else has its name", name)
        finally:
            if copy is not None:
                copy.unlink(missing_ok=True)

    def _copied(self, source: str | bytes) -> Path | None:
        """A copy that is on the disk, with the time of the original; None where links are made of files."""
        if isinstance(source, str) and self._link is not None:
            return None
        path = self._scratch / "copy"
        path.unlink(missing_ok=True)
        if isinstance(source, bytes):
            write_synced(path, source)
        else:
            copy_synced(Path(source), path)
            with suppress(OSError):
                status = os.stat(source)  # noqa: PTH116
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return path

    def _name(self, source: str | bytes, copy: Path | None, at: _Place) -> None:
        """Give a copy its name, or make a link; FileExistsError where the name is taken."""
        if copy is None and self._link == SYMBOLIC:
            os.symlink(os.path.abspath(cast("str", source)), at.name, dir_fd=at.folder)  # noqa: PTH100
            return
        if copy is None:
            os.link(os.path.realpath(cast("str", source)), at.name, dst_dir_fd=at.folder)
            return
        try:
            os.link(copy, at.name, dst_dir_fd=at.folder)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            if at.status() is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), at.name) from None
            os.rename(copy, at.name, dst_dir_fd=at.folder)

    # --- what is told -------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """What was done, and what was not."""
        counts = self.counts
        done = "linked" if self._link else "copied"
        special = "".join(f", {counts[one]} of them in {one!r}" for one in (UNSURE, FAR) if counts[one])
        before = f", {counts['there']} were there before" if counts["there"] else ""
        yield f"sorted into {self._root!r}: {counts['put']} {done}{before}{special}"
        reasons = {"unreadable": "could not be read", "own": "lie in it already", "gone": "were gone meanwhile"}
        left = ", ".join(f"{counts[one]} {why}" for one, why in reasons.items() if counts[one])
        if left:
            yield f"not sorted: {left}"
        for name, folder in {**{n: f for n, f in self._folders.items() if n != f}, **self._made_up}.items():
            if os.path.isdir(os.path.join(self._root, folder)):  # noqa: PTH112, PTH118
                yield f"class {name!r} cannot be the name of a folder here: its pictures are in {folder!r}"


@contextmanager
def open_sorter(folder: str, *, link: str | None, least: float, keep_bytes: bool = True) -> Iterator[Sorter]:
    """Sort into a folder, which is made if need be; one that was made for nothing is removed.

    Args:
        folder: DIR.
        link: as of a Sorter.
        least: as of a Sorter.
        keep_bytes: as of a Sorter.

    Raises:
        UsageError: E-SORT-INTO for what is no folder, or a system without what this takes.
        SystemProblem: the system said no.

    """
    if os.link not in os.supports_dir_fd or os.symlink not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
        raise UsageError("E-SORT-INTO", "--sort-into takes Linux or macOS; sort by the results of zsl-infer instead")
    if in_store(folder):
        raise UsageError("E-SORT-INTO", f"--sort-into {folder!r}: expected a folder of a disk, not of a store")
    root = os.path.realpath(folder)
    if os.path.lexists(root) and not os.path.isdir(root):  # noqa: PTH112
        raise UsageError("E-SORT-INTO", f"--sort-into {folder!r} is no folder; give another name")
    made = not os.path.lexists(root)
    try:
        os.makedirs(root, exist_ok=True)  # noqa: PTH103
        _remove_left_behind(Path(root))
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, f"sort into {folder!r}:") from error
    try:
        with _scratch(root, folder) as scratch:
            yield Sorter(root, handle, scratch, link=link, least=least, keep_bytes=keep_bytes)
    finally:
        os.close(handle)
        if made:
            with suppress(OSError):
                os.rmdir(root)  # noqa: PTH106  # where nothing is in it


@contextmanager
def _scratch(root: str, given: str) -> Iterator[Path]:
    """A folder in DIR of which this process is the only writer."""
    with claimed_folder(lambda: _new_scratch(root, given)) as scratch:
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _new_scratch(root: str, given: str) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=SCRATCH, dir=root))
    except OSError as error:
        raise from_os_error(error, f"sort into {given!r}:") from error


def _remove_left_behind(root: Path) -> None:
    """Remove the scratch folders of runs that were killed."""
    for other in root.glob(f"{SCRATCH}*"):
        with suppress(OSError, SystemProblem):
            if not other.is_symlink():
                with exclusive(other, wait=False):
                    shutil.rmtree(other)


# --- names ----------------------------------------------------------------------------------------------------------


def folders_of(names: Iterable[str]) -> dict[str, str]:
    """For each class the name of its folder: its own, unless that is taken, hidden or too long.

    Case and the form of letters do not count, as on the disks of macOS and Windows.
    """
    taken = {UNSURE, FAR}
    folders = {}
    for name in names:
        folder = name
        hidden = name.startswith(".")
        if hidden or len(os.fsencode(name)) > LONGEST_NAME or _plain(name) in taken:
            folder = safe_name(name)
        taken.add(_plain(folder))
        folders[name] = folder
    return folders


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def safe_name(name: str) -> str:
    """A name that can be a folder anywhere, and that no other class's name becomes: with a piece of its sha256."""
    safe = UNSAFE.sub("_", name).strip(". ").encode()[:LONGEST_SAFE].decode("utf-8", "ignore")
    return f"{safe}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def marked(name: str, mark: str) -> str:
    """A file's name with a mark before its suffix, cut where it would be too long: 'owl~1a2b3c4d.jpg'."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    end = os.fsencode(f"~{mark}{suffix}" if mark else suffix)
    return os.fsdecode(os.fsencode(stem)[: LONGEST_NAME - len(end)] + end)


# --- contents -------------------------------------------------------------------------------------------------------


def _sha256(source: str | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_same(source: str | bytes, at: _Place, there: os.stat_result) -> bool:
    """Whether what has the name already is the picture: the same file, a link to it, or a file of the same content."""
    if isinstance(source, str):
        status = os.stat(source)  # noqa: PTH116
        led = at.status(follow=True)
        if led is not None and os.path.samestat(status, led):
            return True
        size = status.st_size
    else:
        size = len(source)
    if not stat.S_ISREG(there.st_mode) or there.st_size != size:
        return False
    handle = os.open(at.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at.folder)
    with open(handle, "rb") as file:
        if isinstance(source, bytes):
            return file.read() == source
        with open(source, "rb") as original:
            while True:
                one, other = original.read(COMPARED), file.read(COMPARED)
                if one != other:
                    return False
                if not one:
                    return True
