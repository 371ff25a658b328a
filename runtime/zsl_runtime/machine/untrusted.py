"""Files that somebody else may have made: opened, read and parsed in bounded time and memory.

A bundle, a run folder or a partial result may come from anybody. Before a byte of one of its files is used it is a
regular file, no link, inside its folder, and no larger than such a file can be; before a value of its JSON is used the
whole of it is flat enough, has every key once, and holds no number or text that Python cannot hand on. What is wrong is
said as UnfitError, without file name and code, which the caller knows.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
# A pipe does not keep us waiting, and a link is not followed; both are refused. Windows has neither.
READING = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
BY_HANDLE = {os.open, os.stat} <= os.supports_dir_fd
CHUNK = MIB
DEEPEST = 32  # lists and objects inside each other; what we write has 8
MOST_CONTAINERS = MIB  # lists and objects of one document: each takes 20 times its two bytes
LARGEST_INT = 1 << 63
LONGEST_HEADER = 16 * MIB  # of a safetensors file: 300,000 names of classes
MOST_TENSORS = 100_000
MOST_AXES, MOST_VALUES = 8, 1 << 40
METADATA = "__metadata__"
DTYPES = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}  # bytes of a number


class UnfitError(ValueError):
    """A file, or what it holds, cannot be one of ours; the text completes 'the file ...'.

    Attributes:
        link: it, or a folder on the way to it, is a symbolic link.
        folder: it is a folder.

    """

    def __init__(self, problem: str, link: bool = False, folder: bool = False) -> None:
        super().__init__(problem, link, folder)  # as `args`, of which a copy is made in another process
        self.link = link
        self.folder = folder

    def __str__(self) -> str:
        return str(self.args[0])


# --- files ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path: Path, *, within: Path | None = None, most: int | None = None) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Args:
        path: the file, which may not be a symbolic link.
        within: a folder above it; no folder between the two may be a link either.
        most: bytes it may have.

    Raises:
        UnfitError: it is a link, a pipe, a socket, a device or a folder, leads out of `within`, or is too large.
        FileNotFoundError: it, or a folder on the way, is not there.
        OSError: it cannot be read.

    """
    handle = _handle(path, within)
    with open(handle, "rb", closefd=True) as file:
        status = os.fstat(handle)
        _require_regular(status.st_mode)
        if most is not None and status.st_size > most:
            raise UnfitError(f"has {status.st_size:,} bytes, where at most {most:,} can be")
        yield file


def read_given(path: str | os.PathLike[str], most: int, *, pipes: bool = True) -> bytes:
    """The content of a file that a user named, where a link is as good as the file.

    A pipe is read to its end if somebody has it open for writing, as a shell's <(COMMAND) has; for one that nobody
    writes to, it is not waited.

    Args:
        path: the file.
        most: bytes it may have.
        pipes: whether it may be a pipe, or what a person types.

    Raises:
        UnfitError: it is a socket or a device, a pipe that nobody writes to, or too large.
        OSError: it cannot be read, as a folder cannot.

    """
    # Looked at first: opening some devices does something.
    _require_given(os.stat(path).st_mode, path, pipes=pipes)  # noqa: PTH116  # it takes undecodable names as they are
    flags = READING & ~getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        _require_given(status.st_mode, path, pipes=pipes, terminal=file.isatty())
        if stat.S_ISREG(status.st_mode):
            _require_size(status.st_size, most)
            found = [file.read(status.st_size + 1) or b""]
        else:
            found = [file.read(CHUNK)]  # None: there is a writer, who has written nothing so far
            if found[0] == b"" and stat.S_ISFIFO(status.st_mode):
                raise UnfitError("is a pipe that nobody writes to, expected a plain file")
            os.set_blocking(file.fileno(), True)
            found = [found[0] or file.read(CHUNK)]
        size = len(found[0])
        while found[-1]:
            _require_size(size, most)
            found.append(file.read(min(CHUNK, most + 1 - size)))
            size += len(found[-1])
        return b"".join(filter(None, found))  # of one part it is no copy


def _require_given(mode: int, path: str | os.PathLike[str], *, pipes: bool, terminal: bool = True) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    streams = pipes and (stat.S_ISFIFO(mode) or (terminal and stat.S_ISCHR(mode)))
    if not stat.S_ISREG(mode) and not streams:
        raise UnfitError(f"is {_kind(mode)}, expected a plain file")


def _require_size(size: int, most: int) -> None:
    if size > most:
        raise UnfitError(f"has {size:,} bytes or more, where at most {most:,} can be")


def read_file(path: Path, most: int, *, within: Path | None = None) -> bytes:
    """The content of a file as it is when it is opened; arguments and errors are those of `opened`."""
    with opened(path, within=within, most=most) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def sha256_within(path: Path, most: int, *, within: Path | None = None) -> tuple[int, str]:
    """Size and hex sha256 of a file, read as a stream; arguments and errors are those of `opened`."""
    with opened(path, within=within, most=most) as file:
        size = os.fstat(file.fileno()).st_size
        digest, left = hashlib.sha256(), size
        while left and (data := file.read(min(left, CHUNK))):
            digest.update(data)
            left -= len(data)
        return size, digest.hexdigest()


def check_regular(path: Path, *, within: Path | None = None) -> os.stat_result:
    """Hold a file to `opened` without opening it; its status. Errors are those of `opened`."""
    with _parent(path, within) as (folder, name):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        _require_regular(status.st_mode)
        return status


def check_folder(path: Path) -> None:
    """Refuse what stands in the place of a folder of ours; nothing there is fine.

    Raises:
        UnfitError: it is a link or no folder.

    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISDIR(mode):
        raise UnfitError(f"is {_kind(mode)}, expected a folder", link=stat.S_ISLNK(mode))


def _handle(path: Path, within: Path | None) -> int:
    with _parent(path, within) as (folder, name):
        # Looked at first: opening some devices does something.
        _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        return os.open(name, READING, dir_fd=folder)


@contextlib.contextmanager
def _parent(path: Path, within: Path | None) -> Iterator[tuple[int | None, str]]:
    """The folder that a file lies in, by a handle that no later change of names can lead elsewhere, and its name there.

    Without handles of folders (Windows): None and the whole path, after every folder was looked at.
    """
    top = path.parent if within is None else within
    parts = _parts(path, top)
    with contextlib.ExitStack() as held:
        try:
            if not BY_HANDLE:
                for folder in list(path.parents)[: len(parts) - 1]:
                    _require_folder(folder.lstat().st_mode)
                yield None, os.fspath(path)
                return
            at = _kept(held, os.open(top, FOLDER))
            for part in parts[:-1]:
                _require_folder(os.stat(part, dir_fd=at, follow_symlinks=False).st_mode)
                at = _kept(held, os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=at))
            yield at, parts[-1]
        except OSError as error:
            if error.filename == os.fspath(path):
                raise
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _parts(path: Path, top: Path) -> tuple[str, ...]:
    try:
        parts = path.relative_to(top).parts
    except ValueError:
        parts = ()
    if not parts or ".." in parts:
        raise UnfitError(f"leads out of {top}", link=True)
    return parts


def _kept(held: contextlib.ExitStack, handle: int) -> int:
    held.callback(os.close, handle)
    return handle


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise UnfitError(f"is {_kind(mode)}, expected a plain file", link=stat.S_ISLNK(mode), folder=stat.S_ISDIR(mode))


def _require_folder(mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise UnfitError("lies in a folder that is a link, expected a folder", link=True)
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(20, "Not a directory")


def _kind(mode: int) -> str:
    for test, kind in (
        (stat.S_ISLNK, "a link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISREG, "a file"),
    ):
        if test(mode):
            return kind
    return "a device"


# --- JSON -----------------------------------------------------------------------------------------------------------


def parse_json(data: bytes, *, deepest: int = DEEPEST, halves: bool = False) -> Any:
    """What a JSON document says, all of it checked.

    Args:
        data: UTF-8.
        deepest: how many lists and objects may lie inside each other.
        halves: let halves of surrogate pairs through, which names of files that are not UTF-8 have.

    Raises:
        UnfitError: it is no JSON, nested too deeply or of too many parts; it has a key twice; a number is NaN,
            infinite or beyond 64 bits; a text holds half a surrogate pair, which cannot be written.

    """
    if data.count(b"[") + data.count(b"{") > MOST_CONTAINERS:
        raise UnfitError(f"has more than {MOST_CONTAINERS:,} lists and objects")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise UnfitError(f"is nested more than {deepest} deep") from None
    except UnfitError:
        raise
    except UnicodeDecodeError as error:
        raise UnfitError(f"is not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise UnfitError(f"is no JSON ({str(error).partition(';')[0]})") from None
    _check_values(value, deepest, halves=halves)
    return value


def parse_object(data: bytes, *, deepest: int = DEEPEST, halves: bool = False) -> dict[str, Any]:
    """As `parse_json`, and it is an object."""
    value = parse_json(data, deepest=deepest, halves=halves)
    if not isinstance(value, dict):
        raise UnfitError(f"holds {type(value).__name__}, expected a JSON object")
    return value


def parse_names(text: str) -> tuple[str, ...]:
    """A list of strings; errors are those of `parse_json`."""
    value = parse_json(text.encode(errors="surrogatepass"), deepest=1)
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UnfitError("names are not a list of strings")
    return tuple(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UnfitError(f"has the key {twice[:80]!r} twice")
    return value


def _no_number(text: str) -> None:
    raise UnfitError(f"holds {text}, which is no number of JSON")


def _check_values(value: Any, deepest: int, *, halves: bool) -> None:
    """Hold every value to what can be computed with and printed; without recursion, whatever the value is."""
    layer: list[Any] = [value]
    for _ in range(deepest + 1):
        inner: list[Any] = []
        for one in layer:
            if isinstance(one, dict):
                for name in () if halves else one:
                    _check_text(name)
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
            elif isinstance(one, str):
                if not halves:
                    _check_text(one)
            elif isinstance(one, float):
                if not math.isfinite(one):
                    raise UnfitError("holds a number beyond 1.8e308")
            elif isinstance(one, int) and not -LARGEST_INT <= one < LARGEST_INT:
                raise UnfitError("holds a whole number of more than 64 bits")
        if not inner:
            return
        layer = inner
    raise UnfitError(f"is nested more than {deepest} deep")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnfitError(f"holds half a surrogate pair, U+{ord(text[error.start]):04X}") from None


# --- safetensors ----------------------------------------------------------------------------------------------------


def check_tensors(data: bytes) -> dict[str, str]:
    """Hold a safetensors file to its format before a library sees it; returns its metadata.

    Raises:
        UnfitError: the header is longer than the file or than any of ours, or no JSON of this form; a tensor's type,
            shape and place do not agree; tensors overlap, leave gaps, or do not end where the file does.

    """
    if len(data) < 8:
        raise UnfitError("is too short for a safetensors file")
    end = 8 + int.from_bytes(data[:8], "little")
    if end > len(data) or end - 8 > LONGEST_HEADER:
        raise UnfitError(f"has a header of {end - 8:,} bytes in {len(data):,}, where at most {LONGEST_HEADER:,} can be")
    header = parse_object(data[8:end], deepest=3)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnfitError("has metadata that are no texts")
    if len(header) > MOST_TENSORS:
        raise UnfitError(f"has {len(header):,} tensors, where at most {MOST_TENSORS:,} can be")
    at = 0
    for start, stop in sorted(_places(header)):
        if start != at:
            raise UnfitError("has tensors that overlap or leave gaps")
        at = stop
    if at != len(data) - end:
        raise UnfitError(f"has {len(data) - end:,} bytes of tensors, its header tells of {at:,}")
    return metadata


def _places(header: Mapping[str, Any]) -> Iterable[tuple[int, int]]:
    """Where each tensor lies behind the header, which its type and shape must account for."""
    for name, said in header.items():
        if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
            raise UnfitError(f"has no type, shape and place of tensor {name[:80]!r}")
        dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise UnfitError(f"has tensor {name[:80]!r} of an unknown type")
        if not _counts(shape) or len(shape) > MOST_AXES or not _counts(offsets) or len(offsets) != 2:
            raise UnfitError(f"has tensor {name[:80]!r} without a shape and place of whole numbers")
        if math.prod(axis or 1 for axis in shape) > MOST_VALUES:
            raise UnfitError(f"has tensor {name[:80]!r} of a shape that is too large")
        start, stop = offsets
        if stop - start != math.prod(shape) * DTYPES[dtype]:
            raise UnfitError(f"has tensor {name[:80]!r} whose shape and place do not agree")
        yield start, stop


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


# --- archives -------------------------------------------------------------------------------------------------------


def check_archive(file: BinaryIO) -> None:
    """Refuse a zip archive, as NumPy and torch write them, that would hold more than its own bytes when it is read.

    Raises:
        UnfitError: it is no archive, is packed, or its parts overlap.

    """
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, OSError, OverflowError, LookupError) as error:
        raise UnfitError(f"is no archive ({error})") from None
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if packed or sum(part.file_size for part in parts) > size:
        raise UnfitError("is packed, or its parts overlap")
