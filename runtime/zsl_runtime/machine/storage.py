"""Files that are whole or absent (temporary name, fsync, rename), folders with one writer, safetensors in memory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import sys
from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import ArtefactError, from_os_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

TEMPORARY = ".tmp-"  # everything so named belongs to a writer: living (it holds a lock) or killed
LOCK = ".lock"
_AT_FDCWD = -100  # linux/fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read as a stream. OSError when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: without this a rename can be lost with the power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file, where nobody looks yet, and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; what is there at the end becomes durable, and then `path`.

    Raises:
        OSError: the system said no. Then, and whatever is raised inside the block, an old file is untouched and nothing
            is left behind.

    """
    partial = temporary_name(path)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_name(path: Path, mark: str = "") -> Path:
    """A fresh sibling of `path` called `.tmp-NAME-[MARK-]` and 8 hexadecimal digits."""
    return path.with_name(f"{TEMPORARY}{path.name}-{mark}{secrets.token_hex(4)}")


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
    if number in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def tensor_bytes(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file in memory; the same content gives the same bytes.

    Args:
        tensors: arrays of any strides.
        metadata: values are strings.

    """
    import numpy as np
    from safetensors.numpy import save

    # The writer copies memory from the first element on, so strided arrays must be made dense first.
    dense = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    # With neither tensors nor metadata the writer makes a header that no reader takes, unless it is given None.
    data = save(dense, metadata=dict(metadata) if dense or metadata else None)
    if len(metadata) < 2:
        return data
    # It puts metadata in an order that is another one every time.
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[end:]


def parse_tensors(data: bytes, *, code: str, where: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors and metadata of a safetensors file in memory.

    Raises:
        ArtefactError: `code`, when the bytes are not a safetensors file that NumPy can hold.

    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtefactError(code, f"{where} is not a readable safetensors file ({error}); export it again") from None
    return tensors, metadata


@contextlib.contextmanager
def exclusive(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the flock on FOLDER/.lock.

    Raises:
        BlockingIOError: with wait=False, when another writer holds it.
        SystemProblem: it cannot be had at all.

    """
    try:
        handle = _locked(folder, wait=wait)
    except BlockingIOError:
        raise
    except OSError as error:
        raise from_os_error(error, f"lock {folder.name} for writing") from error
    try:
        yield
    finally:
        os.close(handle)


def _locked(folder: Path, *, wait: bool) -> int:
    """An open handle that holds the lock of the folder which has this name at that moment."""
    import fcntl  # not there on Windows, where bundles can be read but not written

    path, told = folder / LOCK, False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                if not told:
                    print(f"waiting for another writer of {folder}", file=sys.stderr, flush=True)  # noqa: T201
                    told = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            # The folder may have been replaced by a new export while we waited: then lock that one.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
