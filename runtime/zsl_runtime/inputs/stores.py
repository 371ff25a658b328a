"""Inputs and outputs in object stores: s3://bucket/folder/photo.jpg and the like, through fsspec.

Only the stores that a user names are opened, and nothing is imported before one is. What fails for a moment is tried
again a bounded number of times; what goes on failing is an InputError of its picture, and the others are labelled.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import importlib
import io
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from zsl_runtime.errors import BackendError, InputError, SystemProblem, UsageError
from zsl_runtime.extras import EXTRAS, reason, wanting
from zsl_runtime.inputs.item import STORE
from zsl_runtime.machine.notes import note_once
from zsl_runtime.pixels.pixels import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
EXTRA = "cloud"
# Each kind of store with the package that speaks to it beside fsspec; '' needs none.
KINDS = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    "memory": "",
}
ONE_FILE = frozenset({"http", "https"})  # servers of files, which have no folders to list
TRIES = 3  # beside those that the store's own package makes
PAUSE = 0.2  # seconds before the second try, and twice as long before the next
FILE_BYTES = 7 * MAX_PIXELS  # of a picture: more than the largest one of 16 bits a sample has when it is not packed
SMALL_BYTES = 16 << 20  # files up to here are fetched many at once
RANGE = 4 << 20  # bytes of an archive that are asked for at once
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)  # no better when tried again
LATE = frozenset({"NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "NoRegionError"})


class Entry(NamedTuple):
    """What lies in a folder of a store: its name there, and whether it is a folder itself."""

    name: str
    is_folder: bool


# --- which store ----------------------------------------------------------------------------------------------------


def place_of(path: str) -> tuple[str, str]:
    """Kind of the store and what lies behind it: ('s3', 'bucket/a.jpg').

    Raises:
        UsageError: E-STORE for a store of a kind that is not opened.

    """
    found = STORE.match(path)
    kind = found[1].lower() if found else ""
    if kind not in KINDS:
        raise UsageError(
            "E-STORE", f"{path!r} is in a store of a kind that is not opened; known are {', '.join(KINDS)}"
        )
    return kind, path[len(kind) + 3 :]


def _system(path: str) -> Any:
    """The fsspec file system of a path; BackendError E-PACKAGE when a package is not here."""
    return _opened(place_of(path)[0], os.getpid())  # a forked child has not the threads of its parent's


@cache
def _opened(kind: str, _process: int) -> Any:
    for package in filter(None, ("fsspec", KINDS[kind])):
        try:
            importlib.import_module(package)
        except Exception as error:
            known = package in EXTRAS[EXTRA]
            lacking = wanting(package, error, EXTRA) if known else f"{package}; pip install {package}"
            raise BackendError("E-PACKAGE", f"{kind}:// needs {lacking}") from error
    import fsspec

    # Names of folders that were looked through do not pile up; and what is there now is wanted, not what was.
    return fsspec.filesystem(kind, use_listings_cache=False)


def _inner(path: str) -> str:
    """A path as its file system calls it."""
    kind, rest = place_of(path)
    return f"{kind}://{rest}" if kind in ONE_FILE else rest.rstrip("/")


# --- asking ---------------------------------------------------------------------------------------------------------


def _asked(call: Callable[[], T]) -> T:
    """The answer; what may be better next time is asked again."""
    for number in range(TRIES - 1):
        try:
            return call()
        except FINAL:
            raise
        except Exception as error:
            if type(error).__name__ in LATE:
                raise
            time.sleep(PAUSE * 2**number)
    return call()


def _said(error: BaseException) -> str:
    """Why a store gives something not, in one line."""
    if isinstance(error, FileNotFoundError):
        return "there is none"
    return reason(error) or type(error).__name__


def _refuse(path: str, error: Exception) -> NoReturn:
    if isinstance(error, (UsageError, BackendError)):
        raise error
    raise UsageError(
        "E-STORE", f"{path!r} cannot be looked at: {_said(error)}; check the name, who you are there, and the network"
    ) from error


def kind_of(path: str) -> str:
    """`file`, `folder`, or '' when nothing is there.

    Raises:
        UsageError: E-STORE: no permission, no such server, nothing named in it, or a store that is not known.
        BackendError: E-PACKAGE.

    """
    if place_of(path)[0] in ONE_FILE:
        return "file"
    system, inner = _system(path), _inner(path)
    if not inner.strip("/"):
        raise UsageError("E-STORE", f"{path!r} names a store and nothing in it; give {place_of(path)[0]}://BUCKET/PATH")
    try:
        found = _asked(lambda: system.info(inner))
    except FileNotFoundError:
        return ""
    except Exception as error:
        _refuse(path, error)
    if found.get("type") == "directory":
        return "folder"
    _note_size(path, found)
    return "file"


# Files of more than SMALL_BYTES, as far as their folders told or it was noticed: there are few.
_large: dict[str, int] = {}


def _note_size(path: str, found: dict[str, Any]) -> None:
    size = found.get("size")
    if isinstance(size, int) and size > SMALL_BYTES:
        _large[path] = size
    else:
        _large.pop(path, None)  # it was replaced by a small one


def entries(folder: str) -> list[Entry]:
    """What lies in a folder, sorted by name.

    Raises:
        OSError: it cannot be listed.
        UsageError, BackendError: as `kind_of`.

    """
    system, inner = _system(folder), _inner(folder)
    try:
        found = _asked(lambda: system.ls(inner, detail=True))
    except FileNotFoundError:
        return []
    except (OSError, UsageError, BackendError):
        raise
    except Exception as error:
        raise OSError(errno.EIO, _said(error)) from error
    own = inner.strip("/")
    names: dict[str, bool] = {}
    for one in found:
        path = str(one["name"]).strip("/")
        name = path.rpartition("/")[2]
        if path == own or not name:  # what stands for the folder itself
            continue
        names[name] = names.get(name, False) or one.get("type") == "directory"
        _note_size(join(folder, name), one)
    return [Entry(name, is_folder) for name, is_folder in sorted(names.items())]


def join(folder: str, name: str) -> str:
    """The path of what lies in a folder."""
    return f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"


# --- reading --------------------------------------------------------------------------------------------------------


def read_small(path: str) -> bytes | None:
    """A whole file; None where it has more than SMALL_BYTES: then `read` does it.

    Raises:
        InputError: E-STORE-READ: not there, no permission, the connection was cut again and again, it is larger than
            FILE_BYTES, or in a store that is not opened.
        BackendError: E-PACKAGE.

    """
    system, inner = _to_read(path)
    if path in _large:
        return None

    try:
        data = bytes(_asked(lambda: system.cat_file(inner, start=0, end=SMALL_BYTES + 1)))
        if len(data) != SMALL_BYTES + 1:  # more than that comes of servers that know no parts of files
            return data
        _large[path] = max(int(_asked(lambda: system.info(inner)).get("size") or 0), len(data))
    except Exception as error:
        if not isinstance(error, FINAL) and _is_empty(system, inner):  # S3 has no part of such a file
            return b""
        raise _unread(path, error) from error
    return None


def _is_empty(system: Any, inner: str) -> bool:
    try:
        return bool(system.info(inner).get("size") == 0)
    except Exception:
        return False


def read(path: str) -> bytes:
    """A whole file of whatever size; raises as `read_small`."""
    data = read_small(path)
    if data is not None:
        return data
    size = _large[path]
    if size > FILE_BYTES:
        raise InputError("E-STORE-READ", f"{path!r} has {size:,} bytes, at most {FILE_BYTES:,} are read of one")
    system, inner = _to_read(path)
    ranges, whole = _Ranges(path, system, inner, size), io.BytesIO()
    for _ in range(0, size, RANGE):  # in pieces, so that it is not held twice
        whole.write(ranges.read(RANGE) or b"")
    return whole.getvalue()


def _to_read(path: str) -> tuple[Any, str]:
    try:
        return _system(path), _inner(path)
    except UsageError as error:
        raise InputError("E-STORE-READ", error.message) from None


def _unread(path: str, error: Exception) -> InputError:
    return InputError(
        "E-STORE-READ", f"{path!r} cannot be read: {_said(error)}; see that it is there and that you may read it"
    )


def open_ranges(path: str) -> IO[bytes]:
    """A file that is read piece by piece, where somebody seeks and reads.

    Raises:
        OSError: it is not there, or empty, or cannot be looked at; reading on raises InputError E-STORE-READ.
        UsageError, BackendError: as `kind_of`.

    """
    system, inner = _system(path), _inner(path)
    try:
        found = _asked(lambda: system.info(inner))
    except (OSError, UsageError, BackendError):
        raise
    except Exception as error:
        raise OSError(errno.EIO, _said(error)) from error
    size = found.get("size")
    if found.get("type") == "directory" or not isinstance(size, int):
        raise OSError(errno.EINVAL, "it is a folder, or its size is not known")
    return io.BufferedReader(_Ranges(path, system, inner, size), RANGE)


class _Ranges(io.RawIOBase):
    """A file of a store: every read asks for the bytes that are wanted, and no others."""

    def __init__(self, path: str, system: Any, inner: str, size: int) -> None:
        super().__init__()
        self._path, self._system, self._inner, self._size = path, system, inner, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "before the beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        begin, end = self._at, min(self._at + len(buffer), self._size)
        if end <= begin:
            return 0
        try:
            data = _asked(lambda: self._piece(begin, end))
        except Exception as error:
            raise _unread(self._path, error) from error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _piece(self, begin: int, end: int) -> bytes:
        data = bytes(self._system.cat_file(self._inner, start=begin, end=end))
        if len(data) != end - begin:
            raise OSError(errno.EIO, f"{end - begin} bytes were asked for and {len(data)} came")
        return data


def bring(path: str, folder: str) -> str:
    """Copy a file to a folder on the disk; the path of the copy.

    Raises:
        InputError: E-STORE-READ.
        BackendError: E-PACKAGE.

    """
    system, inner = _to_read(path)
    copy = os.path.join(folder, path.rstrip("/").rpartition("/")[2])  # noqa: PTH118
    try:
        _asked(lambda: system.get_file(inner, copy))
    except Exception as error:
        raise _unread(path, error) from error
    return copy


def rename(path: str, to: str) -> None:
    """Give a file another name there; UsageError E-STORE."""
    system = _system(path)
    try:
        _asked(lambda: system.mv(_inner(path), _inner(to)))
    except Exception as error:
        _refuse(path, error)


# --- patterns -------------------------------------------------------------------------------------------------------


def matches(pattern: str, left_out: Callable[[str, str, bool], bool]) -> Iterator[tuple[str, bool]]:
    """Paths that a pattern (`*`, `?`, `[...]`, `**` for any depth) stands for, and whether each is a folder.

    Args:
        pattern: with a bucket that is no pattern.
        left_out: (folder, name, is_folder): what a pattern does not stand for unless it has its name.

    Raises:
        UsageError: E-STORE for a folder that cannot be listed.
        BackendError: E-PACKAGE.

    """
    kind, rest = place_of(pattern)
    yield from _below(f"{kind}://", [part for part in rest.split("/") if part], left_out)


def _below(base: str, parts: Sequence[str], left_out: Callable[[str, str, bool], bool]) -> Iterator[tuple[str, bool]]:
    first, rest = parts[0], parts[1:]
    if not glob.has_magic(first):
        path = join(base, first)
        if rest:
            yield from _below(path, rest, left_out)
        elif kind := kind_of(path):
            yield path, kind == "folder"
        return
    try:
        found = entries(base)
    except OSError as error:
        _refuse(base, error)
    if first == "**" and rest:
        yield from _below(base, rest, left_out)
    for name, is_folder in found:
        path = join(base, name)
        if (name.startswith(".") and not first.startswith(".")) or left_out(base, name, is_folder):
            continue
        if first == "**":
            if is_folder:
                yield from _below(path, parts, left_out)
            elif not rest:
                yield path, False
        elif fnmatch.fnmatchcase(name, first):
            if not rest:
                yield path, is_folder
            elif is_folder:
                yield from _below(path, rest, left_out)


# --- writing --------------------------------------------------------------------------------------------------------


@contextmanager
def uploading(path: str, option: str = "--output") -> Iterator[str]:
    """Give a file on the disk to write; at the end it, and before it what lies beside it, are put into the store whole.

    After an error inside the block nothing is put there, and nothing is left.

    Raises:
        UsageError: E-OUTPUT for a place that takes no files; E-STORE as `kind_of`.
        BackendError: E-PACKAGE.
        SystemProblem: E-STORE-WRITE; the file stays on the disk, and the message says where. So it does, with a note,
            where somebody ends the command meanwhile: all is labelled by then.

    """
    kind, rest = place_of(path)
    name = rest.rpartition("/")[2]
    if kind in ONE_FILE or not name or not rest.removesuffix(name).strip("/"):
        raise UsageError("E-OUTPUT", f"{option} {path!r}: expected a file in a store, such as s3://bucket/labels.csv")
    system = _system(path)
    folder = tempfile.mkdtemp(prefix="zsl-")
    try:
        yield os.path.join(folder, name)  # noqa: PTH118
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # The file itself last: whoever sees it finds the others.
    for one in sorted((path.name for path in Path(folder).iterdir()), key=lambda one: (one == name, one)):
        target = _inner(path.removesuffix(name) + one)
        try:
            _asked(lambda one=one, target=target: system.put_file(os.path.join(folder, one), target))  # type: ignore[misc]  # noqa: PTH118
        except Exception as error:
            raise SystemProblem(
                "E-STORE-WRITE",
                f"could not write {path!r}: {_said(error)}; the results are in {folder!r}, copy them there yourself",
            ) from error
        except BaseException:
            note_once(folder, f"{path!r} was not written; the results are in {folder!r}, copy them there yourself")
            raise
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def brought(paths: Sequence[str], beside: str) -> Iterator[list[str]]:
    """Files on the disk for paths of which some are in stores, each with what lies beside it, for a while.

    Raises:
        UsageError: E-MERGE for two of one name, or one that cannot be read; E-STORE as `kind_of`.
        BackendError: E-PACKAGE.

    """
    with tempfile.TemporaryDirectory(prefix="zsl-") as folder:
        local = []
        for number, path in enumerate(paths):
            if not STORE.match(path):
                local.append(path)
                continue
            own = os.path.join(folder, str(number))  # noqa: PTH118
            os.mkdir(own)  # noqa: PTH102
            try:
                local.append(bring(path, own))
                bring(path + beside, own)
            except InputError as error:
                raise UsageError("E-MERGE", f"{error.message}, each output with its {beside}") from None
        yield local
