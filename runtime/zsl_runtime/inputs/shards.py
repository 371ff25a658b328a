"""Pictures inside zip and tar files, read one after the other, in the order of the archive, and never extracted.

A member is called SHARD/MEMBER, with the member's name as the archive has it. A path that is a file cannot be a folder
too, so such a name says where the shard ends; it is a name only, and nothing on the disk is ever opened by it. What is
read of an archive at a time is bounded: one member, which may not be larger than the largest picture, and the table of
contents of a zip file.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from zsl_runtime.errors import InputError
from zsl_runtime.inputs.item import Item, has_suffix
from zsl_runtime.pixels.pixels import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from typing import Self

    from zsl_runtime.inputs.item import Tally

MEMBER_BYTES = 3 * MAX_PIXELS  # what the largest picture has when it is decoded
RECORD_BYTES = 1 << 20  # of a record about a member, such as its long name
BLOCK = tarfile.BLOCKSIZE
SKIP_BYTES = 1 << 20
GZIP = 31  # zlib's name for gzip data with its checksum
GZIP_CHUNK = 1 << 14
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)  # LZMA may ask for gigabytes of memory
ENCRYPTED = 0x1  # of a zip member's flags
WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
SPARSE_CONTINUES = 482, 504  # where a sparse member's header, and each block after it, say whether one more follows


def count_members(path: str, suffixes: Sequence[str]) -> int | None:
    """How many items `members` will give, None when only reading all of it would tell (tar)."""
    if not path.lower().endswith(".zip"):
        return None
    readable = encrypted = 0
    try:
        with _opened(path) as stream, _contents(stream) as archive:
            for info in archive.infolist():
                if _kind(info, suffixes) is True:
                    encrypted += _is_encrypted(info)
                    readable += not _is_encrypted(info)
    except Exception:  # as of `members`, which gives what came before, and says what is wrong
        return readable + 1
    return readable + (encrypted > 0)


def members(path: str, suffixes: Sequence[str], tally: Tally) -> Generator[Item]:
    """The pictures of one shard.

    Args:
        path: of the shard.
        suffixes: of pictures; other members, hidden ones, and what is not a plain file, are counted and left out.
        tally: counts what is left out.

    Yields:
        Items of bytes. A shard that is damaged or cut off gives its pictures up to there and then an InputError
        E-SHARD-DAMAGED under its own name, or E-SHARD-OPEN when there is nothing to read; encrypted members give one
        E-SHARD-ENCRYPTED in all; a member that is too large or cannot be unpacked gives an E-SHARD-MEMBER of its own.

    """
    done = 0
    try:
        for item in _zip(path, suffixes, tally) if path.lower().endswith(".zip") else _tar(path, suffixes, tally):
            yield item
            done += 1
    except _NoShardError as error:
        yield Item(path, InputError("E-SHARD-OPEN", f"{path!r} {error}; check the path, or copy the file again"))
    except Exception as error:  # the readers of archives raise whatever a broken one makes them raise
        reason = str(error) or type(error).__name__
        yield Item(
            path,
            InputError(
                "E-SHARD-DAMAGED",
                f"{path!r} is damaged or cut off ({reason}); {done} pictures before that were read, copy the file "
                "again for the rest",
            ),
        )


class _NoShardError(Exception):
    """There is nothing to read in it; the text is for the user, after the path."""


def _kind(member: zipfile.ZipInfo | _Member, suffixes: Sequence[str]) -> bool | None:
    """True for a picture, False for what is to be counted as left out, None for what nobody asks about."""
    if isinstance(member, zipfile.ZipInfo):
        mode = member.external_attr >> 16
        name, folder, plain = member.filename, member.is_dir(), stat.S_IFMT(mode) in (0, stat.S_IFREG)
    else:
        name, folder, plain = member.name, member.folder, member.plain
    hidden = any(part.startswith(".") and part not in {".", ".."} for part in name.split("/")[:-1])
    if folder or hidden:
        return None
    return plain and has_suffix(name, suffixes)


def _too_large(path: str, name: str) -> InputError:
    return InputError(
        "E-SHARD-MEMBER",
        f"{f'{path}/{name}'!r} has more than {MEMBER_BYTES:,} bytes, the most that is read of a member; extract it",
    )


# --- zip ------------------------------------------------------------------------------------------------------------


def _zip(path: str, suffixes: Sequence[str], tally: Tally) -> Iterator[Item]:
    encrypted = 0
    with _opened(path) as stream, _contents(stream) as archive:
        for info in archive.infolist():
            kind = _kind(info, suffixes)
            if kind is None:
                continue
            if not kind:
                tally.skip(info.filename)
            elif _is_encrypted(info):
                encrypted += 1
            else:
                yield Item(f"{path}/{info.filename}", _unpacked(archive, info, path))
    if encrypted:
        yield Item(
            path,
            InputError(
                "E-SHARD-ENCRYPTED",
                f"{path!r} holds {encrypted} encrypted pictures, which cannot be read; pack them without a password",
            ),
        )


def _opened(path: str) -> IO[bytes]:
    """The file; _NoShardError when there is none, or none that can be read."""
    try:
        status = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):  # a pipe could block for ever
            raise _NoShardError("is not a regular file")
        if status.st_size == 0:
            raise _NoShardError("has zero bytes")
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise _NoShardError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _contents(stream: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except Exception as error:
        raise _NoShardError(f"is not a whole zip file ({error})") from None


def _is_encrypted(info: zipfile.ZipInfo) -> bool:
    return bool(info.flag_bits & ENCRYPTED)


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> bytes | InputError:
    """The bytes of one member; what its header says about their number is not believed."""
    if info.compress_type not in METHODS:
        reason = f"it is packed by method {info.compress_type}, only stored, deflated and bzip2 members are read"
    elif info.file_size > MEMBER_BYTES:
        return _too_large(path, info.filename)
    else:
        try:
            with archive.open(info) as member:
                data = member.read(MEMBER_BYTES + 1)
        except Exception as error:
            reason = str(error) or type(error).__name__
        else:
            return data if len(data) <= MEMBER_BYTES else _too_large(path, info.filename)
    name = f"{path}/{info.filename}"
    return InputError("E-SHARD-MEMBER", f"{name!r} cannot be unpacked: {reason}; pack it again")


# --- tar ------------------------------------------------------------------------------------------------------------


class _Member(NamedTuple):
    """What is known of a tar member before its data; `size` bytes follow, padded to whole blocks."""

    name: str
    size: int
    folder: bool
    plain: bool


def _tar(path: str, suffixes: Sequence[str], tally: Tally) -> Iterator[Item]:
    # Not by the module's own reader: it keeps every member in memory, takes a record about a member as long as the
    # archive says, and cannot go through compressed data without either seeking back or extracting.
    with _opened(path) as plain, _decompressed(plain, path) as stream:
        for member in _headers(stream):
            kind = _kind(member, suffixes)
            if kind and member.size <= MEMBER_BYTES:
                yield Item(f"{path}/{member.name}", _exactly(stream, member.size))
                _skip(stream, -member.size % BLOCK)
                continue
            if kind:
                yield Item(f"{path}/{member.name}", _too_large(path, member.name))
            if kind is False:
                tally.skip(member.name)
            _skip(stream, _padded(member.size))
        stream.read(SKIP_BYTES)  # the padding behind the last member; with it comes the checksum of compressed data


class _Gzip:
    """Reads gzip data to the last byte that is there; the module's own reader loses a buffer where the data is cut.

    Args:
        stream: one gzip member or several, perhaps with zeros behind.

    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._inflate = zlib.decompressobj(GZIP)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end; EOFError or zlib.error when nothing can be read before damage."""
        parts: list[bytes] = []
        while size and not (self._inflate.eof and not self._next()):
            given = self._rest or self._stream.read(GZIP_CHUNK)
            data = self._inflate.decompress(given, size)
            self._rest = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            if not data and not given and not self._inflate.eof:
                if parts:
                    break
                raise EOFError("the compressed data is cut off")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def _next(self) -> bool:
        """Begin with the next gzip member, if there is one."""
        rest = self._rest.lstrip(b"\0")
        while not rest:
            chunk = self._stream.read(GZIP_CHUNK)
            if not chunk:
                return False
            rest = chunk.lstrip(b"\0")
        self._rest = rest
        self._inflate = zlib.decompressobj(GZIP)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _decompressed(stream: IO[bytes], path: str) -> IO[bytes]:
    if path.lower().endswith((".gz", ".tgz")):
        return cast("IO[bytes]", _Gzip(stream))
    if path.lower().endswith(".zst"):
        from importlib import import_module

        return cast("IO[bytes]", import_module("compression.zstd").ZstdFile(stream))
    return stream


def _headers(stream: IO[bytes]) -> Iterator[_Member]:
    """Members one after the other; whoever takes one reads its data before asking for the next."""
    name, size, sparse, first = None, None, False, True
    while True:
        try:
            header = _next_header(stream)
        except Exception as error:
            if not first:
                raise
            raise _NoShardError(f"is not a tar file of its kind ({error})") from None
        if header is None:
            return
        first = False
        if header.size < 0:
            raise ValueError("a member has less than no bytes")
        if header.type == tarfile.GNUTYPE_LONGNAME:
            name = os.fsdecode(_record(stream, header.size).rstrip(b"\0"))
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            fields = _fields(_record(stream, header.size))
            name = os.fsdecode(fields[b"path"]) if b"path" in fields else name
            size = int(fields[b"size"]) if b"size" in fields else None
            sparse = any(key.startswith(b"GNU.sparse.") for key in fields)
        elif header.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
            _record(stream, header.size)
        else:
            yield _member(header, name, size, sparse=sparse)
            name, size, sparse = None, None, False


def _next_header(stream: IO[bytes]) -> tarfile.TarInfo | None:
    """The next header; None at the end, with or without the empty blocks that should be there."""
    block = stream.read(BLOCK)
    while 0 < len(block) < BLOCK and (more := stream.read(BLOCK - len(block))):
        block += more
    if not block.strip(b"\0"):
        return None
    header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if header.type == tarfile.GNUTYPE_SPARSE:
        continues, at = block[SPARSE_CONTINUES[0]], SPARSE_CONTINUES[1]
        while continues:
            continues = _exactly(stream, BLOCK)[at]
    return header


def _member(header: tarfile.TarInfo, name: str | None, size: int | None, *, sparse: bool) -> _Member:
    """One member, with what the records before it say."""
    actual = header.size if size is None else size
    if actual < 0:
        raise ValueError("a member has less than no bytes")
    given = header.name if name is None else name
    folder = header.isdir() or given.endswith("/")
    plain = header.isfile() and header.type != tarfile.GNUTYPE_SPARSE and not sparse
    return _Member(given, 0 if header.type in WITHOUT_DATA else actual, folder, plain)


def _record(stream: IO[bytes], size: int) -> bytes:
    """The data of a record about the next member."""
    if size > RECORD_BYTES:
        raise ValueError(f"a record about a member has {size:,} bytes")
    data = _exactly(stream, size)
    _skip(stream, -size % BLOCK)
    return data


def _fields(data: bytes) -> dict[bytes, bytes]:
    """KEY -> VALUE of a pax record: lines `LENGTH KEY=VALUE`, LENGTH being that of the line."""
    fields = {}
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            raise ValueError("a record about a member is not readable")
        key, _, value = data[len(length) + 1 : int(length)].removesuffix(b"\n").partition(b"=")
        fields[key] = value
        data = data[int(length) :]
    return fields


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """The next `size` bytes; EOFError when there are fewer."""
    data = stream.read(size)
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    if len(data) < size:
        raise EOFError("it ends in the middle of a member")
    return data


def _skip(stream: IO[bytes], size: int) -> None:
    """Read over the next `size` bytes: seeking would not notice that they are missing."""
    while size:
        size -= len(_exactly(stream, min(size, SKIP_BYTES)))
