"""Files that are whole or absent (temporary name, fsync, rename), folders with one writer, safetensors in memory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from zsl_runtime.errors import ArtefactError, SystemProblem, from_os_error
from zsl_runtime.machine.holder import SUFFIX, is_held, try_to_hold
from zsl_runtime.machine.notes import note_once
from zsl_runtime.machine.untrusted import UnfitError, check_regular, check_tensors
from zsl_runtime.streams import one_line

Mapped = TypeVar("Mapped")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

TEMPORARY = ".tmp-"  # everything so named belongs to a writer: living (it holds a lock) or killed
LOCK = ".lock"
# What a call says where a file system does not have it, as network shares and FUSE do. EIO and EBADF are more than that
# of a file, whose data may be lost; of a folder, whose files are whole, and of a lock, they are some shares' words.
ABSENT = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY})
NO_FSYNC = ABSENT
NO_FOLDER_FSYNC = ABSENT | {errno.EIO, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EROFS}
NO_LOCK = ABSENT | {errno.ENOLCK, errno.EIO, errno.EBADF, errno.EACCES, errno.EPERM}
NO_MAP = ABSENT | {errno.ENODEV, errno.EACCES, errno.EPERM}
NO_EXCHANGE = ABSENT | {errno.EPERM, errno.EXDEV}
BUSY = frozenset({errno.EBUSY, errno.ETXTBSY})
BUSY_TRIES, BUSY_PAUSE = 10, 0.1  # and seconds between them
LONGEST_NAME = 100  # bytes of a name that temporary ones have in them: 143 are the most on encrypted home folders
FIRST_LOOK, LAST_LOOK = 0.05, 1.0  # seconds between two looks at a lock that cannot be waited for
_AT_FDCWD = -100  # linux/fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read as a stream. OSError when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(handle: int, path: Path) -> None:
    """Wait until an open file is on the disk; where its file system cannot say so, go on and tell that once.

    Raises:
        OSError: data may be lost (EIO, a full disk).

    """
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
        _cannot_sync(path.parent, error)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: without this a rename can be lost with the power.

    Whatever is in the folder is whole by now, so that a file system that cannot do this stops nobody; it is told once.

    Raises:
        OSError: the folder is gone, or the disk is full.

    """
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_FSYNC:
            raise
        _cannot_sync(folder, error)


def _cannot_sync(folder: Path, error: OSError) -> None:
    note_once(
        "fsync",
        f"the file system of {folder} does not say when something is on the disk ({error.strerror}); all is written, "
        "but a power cut in the next seconds could undo it",
    )


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file, where nobody looks yet, and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        sync_file(file.fileno(), path)


def copy_synced(source: Path, path: Path) -> None:
    """Copy a file to a new name, where nobody looks yet, and wait until the copy is on the disk."""
    shutil.copyfile(source, path)
    with path.open("r+b") as copy:
        sync_file(copy.fileno(), path)


def stage(folder: Path, data: bytes) -> Path:
    """Write `data` under a temporary name in `folder`, durable and ready to be renamed; nothing is left on failure."""
    path = temporary_name(folder / "file")
    try:
        write_synced(path, data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def write_whole(path: Path, data: bytes) -> None:
    """Write or replace a file so that whoever looks sees the old content or the new one, never a part.

    Raises:
        OSError: the system said no; the old file is untouched and nothing is left behind.

    """
    with replacing(path) as partial, partial.open("r+b") as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Give an empty file beside `path` to write to; what it holds at the end becomes durable, and then `path`.

    Its name is temporary and its lock held. Files of such names whose writers were killed are removed first.

    Args:
        path: to write or replace.
        mode: of the new file, of which the user's mask takes away.

    Raises:
        OSError: the system said no. Then, and whatever is raised inside the block, an old file is untouched and nothing
            is left behind.

    """
    remove_left_behind(path)
    with contextlib.ExitStack() as held:
        partial = _claimed(path, mode, held)
        try:
            yield partial
            put_in_place(partial, path, held)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def remove_left_behind(path: Path) -> None:
    """Remove the temporary files of `path` whose writers hold no lock on them: they were killed."""
    if os.name == "nt":
        return
    import fcntl

    pattern = re.compile(rf"{re.escape(temporary_stem(path))}-[0-9a-f]{{8}}")
    with contextlib.suppress(OSError):
        names = os.listdir(path.parent)  # noqa: PTH208  # the folder may be large
        for name in filter(pattern.fullmatch, names):
            with contextlib.suppress(OSError), contextlib.ExitStack() as held:  # another user's, a link, a folder
                handle = open_plain(path.with_name(name), os.O_RDWR)
                held.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.with_name(name).unlink()


def _claimed(path: Path, mode: int, held: contextlib.ExitStack) -> Path:
    """A new file beside `path` with a lock on it until `held` ends; where there are no locks, nobody removes it."""
    while True:
        partial = temporary_name(path)
        handle = open_plain(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        if os.name == "nt":  # a file that is open cannot be renamed there
            os.close(handle)
            return partial
        with contextlib.ExitStack() as own:
            own.callback(os.close, handle)
            with contextlib.suppress(OSError):
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX)
            # Between the two, somebody may have taken it for left behind.
            if partial.exists():
                held.enter_context(own.pop_all())
                return partial


def put_in_place(partial: Path, path: Path, held: contextlib.ExitStack | None = None) -> None:
    """Wait until a finished file is on the disk, and give it its name; `sync_folder` makes that durable.

    Nobody may read or write it who could not with the file that it replaces. Where somebody has that one open, or we
    the new one, some shares refuse for a moment.

    Args:
        partial: the finished file.
        path: its name.
        held: what holds it open and locked: without a lock, another writer takes it for left behind and removes it.
            So it is let go of only where its file cannot be renamed otherwise.

    """
    with open(open_plain(partial, os.O_RDWR), "r+b") as file:
        _narrow(file.fileno(), path)
        sync_file(file.fileno(), path)
    for _ in range(BUSY_TRIES - 1):
        try:
            partial.replace(path)
        except OSError as error:
            if error.errno not in BUSY:
                raise
            if held is not None:
                held.close()
            time.sleep(BUSY_PAUSE)
        else:
            return
    partial.replace(path)


def _narrow(handle: int, path: Path) -> None:
    """Take from an open file the permissions that the file at `path` does not give."""
    with contextlib.suppress(OSError, AttributeError):  # there is none, or a system or share without permissions
        given = os.stat(path, follow_symlinks=False).st_mode  # noqa: PTH116  # not of what a link leads to
        own = os.fstat(handle).st_mode
        if stat.S_ISREG(given) and own & ~given & 0o777:
            os.fchmod(handle, own & given & 0o777)


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder among the user's temporary files until the block ends; those of killed processes are removed first.

    Args:
        prefix: of its name, which belongs to one purpose.

    Raises:
        OSError: there is no place for temporary files.

    """
    import tempfile

    with contextlib.suppress(OSError):
        for other in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            with contextlib.suppress(OSError, SystemProblem):
                status = other.lstat()
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                    with exclusive(other, wait=False):
                        shutil.rmtree(other)
    with claimed_folder(lambda: Path(tempfile.mkdtemp(prefix=prefix))) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def claimed_folder(make: Callable[[], Path]) -> Iterator[Path]:
    """A new folder of which this process is the only writer while the block runs; it stays.

    Whoever removes what killed writers left may meet it before it has its lock; then another one is made.

    Args:
        make: makes it under a fresh name.

    Raises:
        OSError, SystemProblem: the system said no.

    """
    for attempt in range(BUSY_TRIES):
        folder = make()
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(exclusive(folder))
            except SystemProblem:
                if folder.exists() or attempt + 1 == BUSY_TRIES:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
                continue
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            yield folder
            return


def temporary_name(path: Path, mark: str = "") -> Path:
    """A fresh sibling of `path` called `.tmp-NAME-[MARK-]` and 8 hexadecimal digits."""
    return path.with_name(f"{temporary_stem(path)}-{mark}{secrets.token_hex(4)}")


def new_sibling(path: Path) -> Path:
    """A new empty folder beside `path`, of a temporary name of it."""
    folder = temporary_name(path)
    folder.mkdir()
    return folder


def temporary_stem(path: Path) -> str:
    """How the temporary names of `path` begin: `.tmp-NAME`, and of a very long name what leaves room for the rest."""
    name = os.fsencode(path.name)
    if len(name) <= LONGEST_NAME:
        return f"{TEMPORARY}{path.name}"
    return f"{TEMPORARY}{os.fsdecode(name[: LONGEST_NAME // 2])}~{hashlib.sha256(name).hexdigest()[:16]}"


def exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux renameat2).

    Returns:
        False when this system or file system cannot do that; nothing has changed then.

    Raises:
        OSError: the system refused for another reason.

    """
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def allocate(handle: int, size: int) -> None:
    """Reserve `size` bytes for an open file and make it exactly that long.

    Some libraries and file systems cannot reserve; a full disk then shows at a later write, as an error too.

    Raises:
        OSError: the disk is full, or the file cannot be that long.

    """
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
    if os.fstat(handle).st_size != size:
        os.ftruncate(handle, size)


def mapped_or_read(map_file: Callable[[], Mapped], read_file: Callable[[], Mapped]) -> Mapped:
    """What `map_file` gives or, where the file system cannot map files, as some shares, what `read_file` gives.

    Raises:
        OSError: another one of the first, or one of the second.

    """
    try:
        return map_file()
    except OSError as error:
        if error.errno not in NO_MAP:
            raise
    return read_file()


def tensor_bytes(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file in memory; the same content gives the same bytes.

    Args:
        tensors: arrays of any strides.
        metadata: values are strings.

    """
    import numpy as np
    from safetensors.numpy import save

    # The writer copies memory from the first element on, so strided arrays must be made dense first.
    dense = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in tensors.items()}
    if len(metadata) < 2:
        # With neither tensors nor metadata the writer makes a header that no reader takes, unless it is given None.
        return save(dense, metadata=dict(metadata) if dense or metadata else None)
    # It puts metadata in an order that is another one every time. So it is asked for the order of the tensors alone,
    # which their types and names decide, and what may be gigabytes is copied once.
    small = save({name: np.zeros(1, array.dtype) for name, array in dense.items()})
    order: dict[str, dict[str, Any]] = json.loads(small[8 : 8 + int.from_bytes(small[:8], "little")])
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in sorted(order, key=lambda name: order[name]["data_offsets"][0]):
        start, end = end, end + dense[name].nbytes
        header[name] = {**order[name], "shape": list(dense[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return b"".join((len(text).to_bytes(8, "little"), text, *(dense[name].data for name in header if name in dense)))


def parse_tensors(data: bytes, *, code: str, where: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors and metadata of a safetensors file in memory.

    Raises:
        ArtefactError: `code`, when the bytes are not a safetensors file that NumPy can hold.

    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        metadata = check_tensors(data)
        tensors = load(data)
    except UnfitError as error:
        raise ArtefactError(code, f"{where} is not a readable safetensors file (it {error}); export it again") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtefactError(code, f"{where} is not a readable safetensors file ({error}); export it again") from None
    return tensors, metadata


@contextlib.contextmanager
def exclusive(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Be the only one who writes in a folder: `hold` FOLDER/.lock.

    Raises:
        BlockingIOError: with wait=False, when another writer holds it.
        SystemProblem: it cannot be had at all.

    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(hold(folder / LOCK, waiting=f"waiting for another writer of {folder}" if wait else None))
        except BlockingIOError:
            raise
        except OSError as error:
            raise from_os_error(error, f"lock {folder.name} for writing") from error
        yield


@contextlib.contextmanager
def hold(path: Path, *, waiting: str | None, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock on a file, which is made if need be and stays: flock, or a holder's file where there is no flock.

    flock ends with the process, however that ends; how the other one is taken over from a process that was killed is
    said in `zsl_runtime.machine.holder`. Who has the first looks for the second, too: a share may run out of locks.

    Args:
        path: the file. Whoever waited gets the lock of the file that has this name by then.
        waiting: what to say, once, when another has it; None does not wait.
        say: how; None is a line on stderr.

    Raises:
        BlockingIOError: with waiting=None, when another holds it.
        OSError: it cannot be had at all.

    """
    told, pause = False, FIRST_LOOK
    while True:
        with contextlib.ExitStack() as held:
            state = _take(path, held, block=told)
            if state == "ours":
                yield
                return
        if state == "another's":
            if waiting is None:
                raise BlockingIOError(errno.EAGAIN, "another process holds its lock", str(path))
            if told:
                time.sleep(pause)
                pause = min(2 * pause, LAST_LOOK)
            else:
                (say or _say)(waiting)
                told = True


def _take(path: Path, held: contextlib.ExitStack, *, block: bool) -> Literal["ours", "another's", "replaced"]:
    """Take the lock if it is free, until `held` ends.

    Args:
        path: the file.
        held: takes what is to be let go of.
        block: wait for a flock; a holder's file is looked at once.

    Returns:
        `replaced` where another file has the name by now, such as that of a new export of the bundle: try again.

    """
    import fcntl  # not there on Windows, where bundles can be read but not written

    handle = open_plain(path)
    held.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
        free = not is_held(path)
    except BlockingIOError:
        return "another's"
    except OSError as error:
        if error.errno not in NO_LOCK:
            raise
        note_once(
            "flock",
            f"the file system of {path.parent} has no locks ({error.strerror}); a file in it, {path.name}{SUFFIX}, "
            "keeps other writers out while this one is at work",
        )
        holder = try_to_hold(path)
        free = holder is not None
        if holder is not None:
            held.callback(holder.release)
    if not free:
        return "another's"
    return "ours" if path.exists() and os.path.samestat(os.fstat(handle), path.lstat()) else "replaced"


def open_plain(path: Path, flags: int = os.O_RDWR | os.O_CREAT, mode: int = 0o666) -> int:
    """Open a file that is written to in place, and is made if need be: never through a link, nor a pipe or device.

    Raises:
        OSError: it is none of ours, or the system refuses.

    """
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags | getattr(os, "O_BINARY", 0), mode)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))
    return handle


def unshare(path: Path) -> None:
    """See to it that a file that is written to in place is no other file's as well; one that is not there is fine.

    A hard link may lead to anything of the user's, a backup included: the file becomes one of its own.

    Raises:
        UnfitError: it is no plain file.
        OSError: the system refuses.

    """
    try:
        links = check_regular(path).st_nlink
    except FileNotFoundError:
        return
    if links > 1:
        with replacing(path) as partial:
            shutil.copyfile(path, partial, follow_symlinks=False)


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it, never what a link leads to; it may be gone already.

    Raises:
        OSError: the system refuses.

    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _say(text: str) -> None:
    print(one_line(text), file=sys.stderr, flush=True)  # noqa: T201
