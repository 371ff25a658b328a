"""Pictures inside zip and tar files, read one after the other, in the order of the archive, and never extracted.

A member is called SHARD/MEMBER, with the member's name as the archive has it, and #2 behind the second of a name. A
path that is a file cannot be a folder too, so such a name says where the shard ends; it is a name only, and nothing on
the disk is ever opened by it. What is read of an archive at a time is bounded: one member, which may not be larger than
the largest picture, the table of contents of a zip file, and a few bytes a name.

A link to a member of the same archive is the picture that it leads to, under the link's name: the second name of a file
that GNU tar packs is such a link. Those of a tar file come after all other pictures, since they are read in a pass of
their own.
"""

from __future__ import annotations

import bz2
import io
import os
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, NamedTuple, cast

import numpy as np

from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.inputs.item import NOWHERE, SHARD_SUFFIXES, Item, Tally, has_suffix, in_store
from zsl_runtime.inputs.litter import litter_member
from zsl_runtime.pixels.pixels import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from typing import Self

MEMBER_BYTES = 3 * MAX_PIXELS  # what the largest picture has when it is decoded
RECORD_BYTES = 1 << 20  # of a record about a member, such as its long name
BLOCK = tarfile.BLOCKSIZE
SKIP_BYTES = 1 << 20
PIECE_BYTES = 4 << 20  # of a member that are asked for at once, so that a large one is not held twice
ZIP_HEADER = struct.Struct("<4s22xHH")  # before a zip member's data: the mark, and how long name and extra field are
GZIP = 31  # zlib's name for gzip data with its checksum
GZIP_CHUNK = 1 << 14
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)  # LZMA may ask for gigabytes of memory
ENCRYPTED = 0x1  # of a zip member's flags
WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
UTF8 = 0x800  # likewise: the name is UTF-8
WINDOWS = (0, 10, 11)  # the systems of a zip member whose tools may write backslashes between folders
UNICODE_PATH = 0x7075  # Info-ZIP's field with the name in UTF-8, behind a checksum of the other one
CODE_PAGE = "cp437"  # what a name is by the standard where nothing says otherwise
LINK_BYTES = 4096  # of a link's target; no system has longer paths
LINK_STEPS = 10  # from link to link
MOST_LINKS = 100_000  # of one tar file, which are held in memory
DEVICES = "devices and pipes in archives"
SPARSE_CONTINUES = 482, 504  # where a sparse member's header, and each block after it, say whether one more follows


def count_members(path: str, suffixes: Sequence[str], tally: Tally | None = None) -> int | None:
    """How many items `members` will give, None when only reading all of it would tell (tar); `tally` as there."""
    if not path.lower().endswith(".zip"):
        return None
    readable = encrypted = 0
    try:
        with _opened(path) as stream, _contents(stream) as archive:
            for _, info in _zip_pictures(archive, suffixes, tally or Tally()):
                encrypted += _is_encrypted(info)
                readable += not _is_encrypted(info)
    except Exception:  # as of `members`, which gives what came before, and says what is wrong
        return readable + 1
    return readable + (encrypted > 0)


def unread_archive(path: str) -> InputError:
    """E-SHARD-OPEN for an archive of a kind that is not read."""
    try:
        _opened(path).close()
        kind = os.path.splitext(path)[1].lower()  # noqa: PTH122
        problem = f"is an archive of a kind that is not read ({kind})"
    except InputError as error:  # of a store
        return error
    except _NoShardError as error:
        problem = str(error)
    return InputError(
        "E-SHARD-OPEN", f"{path!r} {problem}; extract it, or pack the pictures as one of {' '.join(SHARD_SUFFIXES)}"
    )


def members(
    path: str, suffixes: Sequence[str], tally: Tally, wanted: Callable[[str], bool] | None = None
) -> Generator[Item]:
    """The pictures of one shard.

    Args:
        path: of the shard.
        suffixes: of pictures; other members, hidden ones, and what is not a plain file, are counted and left out.
        tally: counts what is left out.
        wanted: members of a zip file of other names come without their bytes, and are not unpacked; None wants all.

    Yields:
        Items of bytes. A shard that is damaged or cut off gives its pictures up to there and then an InputError
        E-SHARD-DAMAGED under its own name, or E-SHARD-OPEN when there is nothing to read; encrypted members give one
        E-SHARD-ENCRYPTED in all; a member that is too large or cannot be unpacked gives an E-SHARD-MEMBER of its own.

    """
    done = 0
    try:
        is_zip = path.lower().endswith(".zip")
        for item in _zip(path, suffixes, tally, wanted) if is_zip else _tar(path, suffixes, tally):
            yield item
            del item  # else it stays in memory beside the next one
            done += 1
    except _NoShardError as error:
        yield Item(path, InputError("E-SHARD-OPEN", f"{path!r} {error}; check the path, or copy the file again"))
    except InputError as error:  # of a store
        yield Item(path, error)
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


def _is_picture(name: str, suffixes: Sequence[str], tally: Tally) -> bool:
    """Whether a file in an archive is a picture to read; if not, it is counted, unless it lies in a hidden folder."""
    parts = name.split("/")
    if any(part.startswith(".") and part not in {".", ".."} for part in parts[:-1]):
        return False
    picture = has_suffix(name, suffixes)
    litter = litter_member(parts)
    if litter and picture:
        tally.litter[litter] += 1
    elif not litter and not picture:
        tally.skip(name)
    return picture and not litter


def _led_to(name: str, target: str) -> str:
    """The member that a symbolic link leads to, as `_plain_name`; '' where it leads out of the archive."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    return "" if not target or path.startswith(("/", "../")) or path == ".." else path


def _plain_name(name: str) -> str:
    """One spelling of a/b.png and ./a/b.png."""
    return posixpath.normpath(name)


class _Names:
    """Makes the names of one archive different; about eight bytes of each are kept."""

    def __init__(self) -> None:
        self._known = np.zeros(0, np.int64)  # hashes, sorted
        self._recent: set[int] = set()

    def different(self, name: str) -> str:
        """The name, with #2 behind it, or a higher number, where it was given before."""
        given, number = name, 1
        while self._is_known(hash(given)):
            number += 1
            given = f"{name}#{number}"
        self._recent.add(hash(given))
        if len(self._recent) > max(256, len(self._known) // 16):
            recent = np.sort(np.fromiter(self._recent, np.int64, len(self._recent)))
            self._known = np.insert(self._known, np.searchsorted(self._known, recent), recent)
            self._recent.clear()
        return given

    def _is_known(self, value: int) -> bool:
        at = int(np.searchsorted(self._known, value))
        return value in self._recent or (at < len(self._known) and int(self._known[at]) == value)


def _too_large(name: str) -> InputError:
    return InputError(
        "E-SHARD-MEMBER",
        f"{name!r} has more than {MEMBER_BYTES:,} bytes, the most that is read of a member; extract it",
    )


# --- zip ------------------------------------------------------------------------------------------------------------


def _zip(
    path: str, suffixes: Sequence[str], tally: Tally, wanted: Callable[[str], bool] | None = None
) -> Iterator[Item]:
    encrypted, unsure, names = 0, 0, _Names()
    with _opened(path) as stream, _contents(stream) as archive:
        for name, info in _zip_pictures(archive, suffixes, tally):
            if _is_encrypted(info):
                encrypted += 1
            else:
                unsure += _name_of(info)[1]
                full = f"{path}/{names.different(name)}"
                yield Item(full, _unpacked(archive, info, full) if wanted is None or wanted(full) else b"")
    if unsure:
        tally.notes.append(
            f"{unsure} names of pictures in {path!r} do not say how they are written, and stand as in code page "
            f"{CODE_PAGE.removeprefix('cp')}"
        )
    if encrypted:
        yield Item(
            path,
            InputError(
                "E-SHARD-ENCRYPTED",
                f"{path!r} holds {encrypted} encrypted pictures, which cannot be read; pack them without a password",
            ),
        )


def _zip_pictures(
    archive: zipfile.ZipFile, suffixes: Sequence[str], tally: Tally
) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Names of pictures, and the members that hold them; of a link that is the one that it leads to."""
    members: dict[str, zipfile.ZipInfo] | None = None
    for info in archive.infolist():
        name, mode = _name_of(info)[0], stat.S_IFMT(info.external_attr >> 16)
        if name.endswith("/") or not _is_picture(name, suffixes, tally):
            continue
        if mode == stat.S_IFLNK:
            if members is None:
                members = {_plain_name(_name_of(one)[0]): one for one in archive.infolist()}
            target = _follow(archive, members, info)
            if target is None:
                tally.skip(name, NOWHERE)
            else:
                yield name, target
        elif mode in (0, stat.S_IFREG):
            yield name, info
        else:
            tally.skip(name, DEVICES)


def _follow(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], link: zipfile.ZipInfo
) -> zipfile.ZipInfo | None:
    """The member that a link leads to, perhaps over other links; None where it leads to none."""
    found: zipfile.ZipInfo | None = link
    for _ in range(LINK_STEPS):
        if found is None or stat.S_IFMT(found.external_attr >> 16) != stat.S_IFLNK:
            return found
        if found.compress_type not in METHODS or _is_encrypted(found):
            return None
        with archive.open(found) as stream:
            target = os.fsdecode(stream.read(LINK_BYTES))
        found = members.get(_led_to(_name_of(found)[0], target))
    return None


def _name_of(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """The name of a member with slashes, and whether nothing says how its letters are written.

    Many tools write UTF-8 and do not say so. A name in another code page that is valid UTF-8 is all but impossible.
    """
    name, unsure = info.orig_filename.partition("\0")[0], False
    if not info.flag_bits & UTF8:
        raw = info.orig_filename.encode(CODE_PAGE)
        try:
            name = _unicode_path(info.extra, raw) or raw.partition(b"\0")[0].decode()
        except UnicodeDecodeError:
            unsure = True
    return name.replace("\\", "/") if info.create_system in WINDOWS and "/" not in name else name, unsure


def _unicode_path(extra: bytes, raw: bytes) -> str:
    """The name of Info-ZIP's extra field, if there is one and it belongs to the name `raw`; else ''."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        data, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(data) > 5 and data[0] == 1 and data[1:5] == struct.pack("<I", zlib.crc32(raw)):
            return data[5:].decode()
    return ""


def _opened(path: str) -> IO[bytes]:
    """The file; _NoShardError when there is none, or none that can be read."""
    if in_store(path):
        return _opened_there(path)
    try:
        status = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):  # a pipe could block for ever
            raise _NoShardError("is not a regular file")
        if status.st_size == 0:
            raise _NoShardError("has zero bytes")
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise _NoShardError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _opened_there(path: str) -> IO[bytes]:
    """The same of a file in a store."""
    from zsl_runtime.inputs import stores

    try:
        stream = stores.open_ranges(path)
    except UsageError as error:
        raise InputError("E-STORE-READ", error.message) from None
    except OSError as error:
        raise _NoShardError(f"cannot be read: {error.strerror or error}") from None
    if not stream.seek(0, os.SEEK_END):
        raise _NoShardError("has zero bytes")
    stream.seek(0)
    return stream


def _contents(stream: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except InputError:
        raise
    except Exception as error:
        raise _NoShardError(f"is not a whole zip file ({error})") from None


def _is_encrypted(info: zipfile.ZipInfo) -> bool:
    return bool(info.flag_bits & ENCRYPTED)


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes | InputError:
    """The bytes of one member, for a picture of this name; what its header says about their number is not believed."""
    if info.compress_type not in METHODS:
        reason = f"it is packed by method {info.compress_type}, only stored, deflated and bzip2 members are read"
    elif info.file_size > MEMBER_BYTES:
        return _too_large(name)
    else:
        try:
            with archive.open(info) as member:
                if info.compress_type == zipfile.ZIP_BZIP2:
                    data = _bunzipped(archive, info)
                else:
                    data = _up_to(member, MEMBER_BYTES + 1)
        except InputError as error:
            return InputError(error.code, f"{name!r}: {error.message}")
        except Exception as error:
            reason = str(error) or type(error).__name__
        else:
            return data if len(data) <= MEMBER_BYTES else _too_large(name)
    return InputError("E-SHARD-MEMBER", f"{name!r} cannot be unpacked: {reason}; pack it again")


def _bunzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member in bzip2, of which the module unpacks all that a piece of it makes, gigabytes of a few KB.

    No more than MEMBER_BYTES + 1 are unpacked. Raises ValueError and what `bz2` raises.
    """
    stream = cast("IO[bytes]", archive.fp)
    stream.seek(info.header_offset)
    mark, name, extra = ZIP_HEADER.unpack(_exactly(stream, ZIP_HEADER.size))
    if mark != b"PK\x03\x04":
        raise ValueError("there is no member where the table of contents says")
    stream.seek(name + extra, os.SEEK_CUR)
    unpack, whole, left = bz2.BZ2Decompressor(), io.BytesIO(), info.compress_size
    while not unpack.eof and whole.tell() <= MEMBER_BYTES:
        given = b""
        if unpack.needs_input:
            given = _exactly(stream, min(left, GZIP_CHUNK))
            left -= len(given)
            if not given:
                raise ValueError("the packed data is cut off")
        whole.write(unpack.decompress(given, min(PIECE_BYTES, MEMBER_BYTES + 1 - whole.tell())))
    data = whole.getvalue()
    if len(data) <= MEMBER_BYTES and (len(data) != info.file_size or zlib.crc32(data) != info.CRC):
        raise ValueError("its checksum is another one")
    return data


# --- tar ------------------------------------------------------------------------------------------------------------


class _Member(NamedTuple):
    """What is known of a tar member before its data; `size` bytes follow, padded to whole blocks.

    Attributes:
        name: with slashes.
        size: in bytes.
        type: as of tarfile.
        link: what a link leads to, as it stands there; '' for anything else.
        sparse: its holes are left out.

    """

    name: str
    size: int
    type: bytes
    link: str
    sparse: bool

    @property
    def is_plain(self) -> bool:
        """Whether its data is a file's."""
        return self.type in tarfile.REGULAR_TYPES and not self.sparse


class _Link(NamedTuple):
    """A link to another member: its name, the plain name of that one, its place, and whether it is a hard link."""

    name: str
    target: str
    position: int
    hard: bool


def _tar(path: str, suffixes: Sequence[str], tally: Tally) -> Iterator[Item]:
    # Not by the module's own reader: it keeps every member in memory, takes a record about a member as long as the
    # archive says, and cannot go through compressed data without either seeking back or extracting.
    links: list[_Link] = []
    names = _Names()
    with _opened(path) as plain, _decompressed(plain, path) as stream:
        for position, member in enumerate(_headers(stream)):
            left = member.size
            if member.type != tarfile.DIRTYPE and _is_picture(member.name, suffixes, tally):
                if member.link:
                    _note_link(links, member, position, tally)
                elif member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
                    tally.skip(member.name, DEVICES)
                else:
                    full = f"{path}/{names.different(member.name)}"
                    data = _read_member(stream, member, full)
                    left -= len(data) if isinstance(data, bytes) else 0
                    yield Item(full, data)
                    del data  # else it stays in memory beside the next one
            _skip(stream, left + -member.size % BLOCK)
        stream.read(SKIP_BYTES)  # the padding behind the last member; with it comes the checksum of compressed data
    if links:
        yield from _linked(path, links, names, tally)


def _read_member(stream: IO[bytes], member: _Member, full: str) -> bytes | InputError:
    """The data of a member, or why it is not read, and then none of it is."""
    if member.size > MEMBER_BYTES:
        return _too_large(full)
    if not member.is_plain:
        return InputError("E-SHARD-MEMBER", f"{full!r} is packed as a sparse file; pack it again without --sparse")
    return _exactly(stream, member.size)


def _note_link(links: list[_Link], member: _Member, position: int, tally: Tally) -> None:
    """Remember a link that may lead to a member of this archive; others are counted."""
    hard = member.type == tarfile.LNKTYPE
    target = _plain_name(member.link) if hard else _led_to(member.name, member.link)
    if target and len(links) < MOST_LINKS:
        links.append(_Link(member.name, target, position, hard))
    else:
        tally.skip(member.name, NOWHERE)


def _linked(path: str, links: Sequence[_Link], names: _Names, tally: Tally) -> Iterator[Item]:
    """The pictures that links lead to, under the links' names: in one pass they are found, in another one read."""
    leads = {_plain_name(link.name): link.target for link in links}
    wanted: dict[str, list[int]] = {}
    for number, link in enumerate(links):
        target = link.target
        for _ in range(LINK_STEPS):
            target = leads.get(target, target)
        wanted.setdefault(target, []).append(number)
    place_of: dict[int, int] = {}  # of several members of one name the last, as extracting would have it
    with _opened(path) as plain, _decompressed(plain, path) as stream:
        for position, member in enumerate(_headers(stream)):
            if member.is_plain:
                for number in wanted.get(_plain_name(member.name), ()):
                    if not links[number].hard or position < links[number].position:
                        place_of[number] = position
            _skip(stream, _padded(member.size))
    at: dict[int, list[_Link]] = {}
    for number, link in enumerate(links):
        if number in place_of:
            at.setdefault(place_of[number], []).append(link)
        elif link.hard and not link.target.startswith(("/", "..")):
            full = f"{path}/{names.different(link.name)}"
            problem = f"{full!r} is a second name of {link.target!r}, which does not come before it; pack both again"
            yield Item(full, InputError("E-SHARD-MEMBER", problem))
        else:
            tally.skip(link.name, NOWHERE)
    with _opened(path) as plain, _decompressed(plain, path) as stream:
        for position, member in enumerate(_headers(stream) if at else ()):
            left = member.size
            if position in at:
                data = _read_member(stream, member, f"{path}/{member.name}")
                left -= len(data) if isinstance(data, bytes) else 0
                yield from (Item(f"{path}/{names.different(link.name)}", data) for link in at.pop(position))
                if not at:
                    return
            _skip(stream, left + -member.size % BLOCK)


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
    about, first = _About(), True
    while True:
        try:
            header = _next_header(stream, first=first)
        except InputError:
            raise
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
            about.name = os.fsdecode(_record(stream, header.size).rstrip(b"\0"))
        elif header.type == tarfile.GNUTYPE_LONGLINK:
            about.link = os.fsdecode(_record(stream, header.size).rstrip(b"\0"))
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            about.take(_fields(_record(stream, header.size)))
        elif header.type == tarfile.XGLTYPE:
            _record(stream, header.size)
        else:
            yield _member(header, about)
            about = _About()


class _About:
    """What the records before a member say of it; None where they say nothing."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.link: str | None = None
        self.size: int | None = None
        self.sparse = False

    def take(self, fields: dict[bytes, bytes]) -> None:
        """Note a pax record."""
        self.sparse = any(key.startswith(b"GNU.sparse.") for key in fields)
        name = fields.get(b"GNU.sparse.name", fields.get(b"path"))
        self.name = self.name if name is None else os.fsdecode(name)
        self.link = os.fsdecode(fields[b"linkpath"]) if b"linkpath" in fields else self.link
        self.size = int(fields[b"size"]) if b"size" in fields else None


def _next_header(stream: IO[bytes], *, first: bool) -> tarfile.TarInfo | None:
    """The next header; None at the end, with or without the empty blocks that should be there.

    Behind the empty blocks another tar file may follow (`cat a.tar b.tar`), and is read on; anything else is padding.
    """
    empty = False
    while True:
        block = stream.read(BLOCK)
        while 0 < len(block) < BLOCK and (more := stream.read(BLOCK - len(block))):
            block += more
        if not block or (len(block) < BLOCK and not block.strip(b"\0")):
            return None
        if block.strip(b"\0"):
            break
        empty = True
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        if empty and not first:
            return None
        raise
    if header.type == tarfile.GNUTYPE_SPARSE:
        continues, at = block[SPARSE_CONTINUES[0]], SPARSE_CONTINUES[1]
        while continues:
            continues = _exactly(stream, BLOCK)[at]
    return header


def _member(header: tarfile.TarInfo, about: _About) -> _Member:
    """One member, with what the records before it say."""
    actual = header.size if about.size is None else about.size
    if actual < 0:
        raise ValueError("a member has less than no bytes")
    given = header.name if about.name is None else about.name
    kind = tarfile.DIRTYPE if header.isdir() or given.endswith("/") else header.type
    link = header.linkname if about.link is None else about.link
    return _Member(
        given,
        0 if kind in WITHOUT_DATA else actual,
        kind,
        link if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else "",
        about.sparse or kind == tarfile.GNUTYPE_SPARSE,
    )


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


def _up_to(stream: IO[bytes], size: int) -> bytes:
    """The next `size` bytes, fewer at the end."""
    data = stream.read(min(size, PIECE_BYTES))
    if not data or len(data) == size:
        return data
    whole = io.BytesIO()
    while data:
        whole.write(data)
        data = stream.read(min(size - whole.tell(), PIECE_BYTES))
    return whole.getvalue()


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """The next `size` bytes; EOFError when there are fewer."""
    data = _up_to(stream, size)
    if len(data) < size:
        raise EOFError("it ends in the middle of a member")
    return data


def _skip(stream: IO[bytes], size: int) -> None:
    """Read over the next `size` bytes: seeking would not notice that they are missing."""
    while size:
        size -= len(_exactly(stream, min(size, SKIP_BYTES)))
