"""Outputs of the shares of one run, put together: `zsl-infer --merge`, byte for byte what one whole run would write.

Beside an output FILE of a share lies FILE.share, a line of JSON and 12 bytes for each answer (docs/formats.md): to
which unit, in the order of everything that all shares were given, it belongs, and how many bytes of FILE it takes. So
merging copies pieces and reads no answer; what it compares first is whether all shares saw the same names in the same
order, used the same bundle, generation and options, and lie there as they were written.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, get_type_hints

import numpy as np

from zsl_runtime.errors import UsageError, from_os_error, listed, shown
from zsl_runtime.machine.storage import replacing
from zsl_runtime.machine.untrusted import UnfitError, opened, parse_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SUFFIX = ".share"
FORMAT = 1
RECORD = np.dtype([("unit", "<u8"), ("bytes", "<u4")])
CHUNK, LEAST_CHUNK = 1 << 20, 1 << 13
CHUNKS = 64 << 20  # bytes read ahead of all shares together
RECORDS_AT_ONCE = 1 << 16
FILES_A_SHARE, FILES_BESIDE = 2, 256  # that are open: its output and its records, which are mapped; and besides
LONGEST_LINE = 1 << 20
SHARD = "--shard"
REMEDY = "run that share again (the others need not be)"


@dataclass(frozen=True)
class Facts:
    """The line of JSON.

    Attributes:
        format: FORMAT.
        index, count: which share of how many.
        options: what the answers depend on, without `--shard`.
        backend: that ran the model, and in which precision.
        units: how many all shares together have.
        own: how many this one has; one without an answer is a tar file without a picture.
        names: hex sha256 of the names of all units, in order.
        items: answers in this share, those among them that could not be read included.
        unreadable: these.
        header: bytes of FILE before the first answer.
        bytes: of FILE.
        data: hex sha256 of FILE.
        records: hex sha256 of what follows.

    """

    format: int
    index: int
    count: int
    options: dict[str, Any]
    backend: str
    units: int
    own: int
    names: str
    items: int
    unreadable: int
    header: int
    bytes: int
    data: str
    records: str


class Merged(NamedTuple):
    """What was put together: shares, answers, those that could not be read; and what there is to note."""

    shares: int
    items: int
    unreadable: int
    notes: tuple[str, ...]


# --- beside the output of a share -----------------------------------------------------------------------------------


def share_path(path: str | Path) -> Path:
    """Where it is told what an output FILE is a share of: FILE.share."""
    target = Path(os.path.realpath(path))
    return target.with_name(f"{target.name}{SUFFIX}")


def records_of(units: Sequence[int], lengths: Sequence[int]) -> NDArray[np.void]:
    """(N,) RECORD: for each answer the number of its unit, and its bytes."""
    records = np.empty(len(units), RECORD)
    records["unit"], records["bytes"] = units, lengths
    return records


def write_share(target: Path, facts: Facts, records: NDArray[np.void]) -> None:
    """Write FILE.share whole; `facts.records` is filled in here."""
    data = np.ascontiguousarray(records)
    line = {**{one.name: getattr(facts, one.name) for one in fields(Facts)}, "records": _sha256(data)}
    with replacing(share_path(target)) as partial, partial.open("wb") as stream:
        stream.write((json.dumps(line) + "\n").encode())
        stream.write(data.tobytes())


def _sha256(data: NDArray[np.void]) -> str:
    return hashlib.sha256(data.tobytes()).hexdigest()


def read_facts(path: str) -> Facts | None:
    """What FILE is a share of; None where nothing says so.

    Raises:
        UsageError: E-MERGE, for what zsl-infer did not write.
        SystemProblem: it cannot be read.

    """
    try:
        with opened(share_path(path)) as stream:
            return _facts(stream, path)
    except FileNotFoundError:
        return None
    except UnfitError as error:
        raise _damaged(path, str(error)) from None
    except OSError as error:
        raise from_os_error(error, f"read what {path!r} is a share of:") from error


def _facts(stream: IO[bytes], path: str) -> Facts:
    line = stream.readline(LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise _damaged(path, "its first line does not end")
    content = parse_object(line)
    kinds = {name: dict if name == "options" else kind for name, kind in get_type_hints(Facts).items()}
    if content.get("format") != FORMAT or {name: type(value) for name, value in content.items()} != kinds:
        raise _damaged(path, "it is of another format")
    facts = Facts(**content)
    numbers = (facts.items, facts.unreadable, facts.header, facts.bytes, facts.units, facts.own)
    if min(numbers) < 0 or not 0 <= facts.index < facts.count or facts.unreadable > facts.items:
        raise _damaged(path, "its numbers cannot be")
    return facts


def _damaged(path: str, why: str) -> UsageError:
    return UsageError(
        "E-MERGE", f"{str(share_path(path))!r} is not as zsl-infer --shard wrote it ({why}); copy it again, or {REMEDY}"
    )


# --- putting together -----------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """The output of a share: its path, what is told of it, and its records, mapped where that can be."""

    path: str
    facts: Facts
    records: NDArray[np.void]


def merge(paths: Sequence[str], out: IO[bytes]) -> Merged:
    """Put the outputs of all shares of one run together; nothing is written before all was compared.

    Args:
        paths: of the outputs, in any order.
        out: takes the result.

    Raises:
        UsageError: E-MERGE when one is missing, given twice, not finished, of another run, changed, or damaged.
        SystemProblem: one cannot be read.

    """
    _allow_files(FILES_A_SHARE * len(paths) + FILES_BESIDE)
    parts = _compared([_Part(path, *_read(path)) for path in paths])
    for part in parts:
        _check_data(part)
    _check_order(parts)
    with ExitStack() as stack:
        ahead = max(LEAST_CHUNK, min(CHUNK, CHUNKS // len(parts)))
        streams = [stack.enter_context(_data_of(part, ahead)) for part in parts]
        headers = {stream.read(part.facts.header) for stream, part in zip(streams, parts, strict=True)}
        if len(headers) > 1:
            raise UsageError("E-MERGE", f"{listed(paths)} begin differently; {REMEDY} with one version of zsl-deploy")
        out.write(headers.pop())
        for number, size in _in_order(parts):
            piece = streams[number].read(size)
            if len(piece) < size:
                raise _changed(parts[number])
            if piece and not piece.endswith(b"\n"):
                raise _damaged(parts[number].path, "its answers are not those of the file")
            out.write(piece)
    out.flush()
    backends = sorted({_plain(part.facts.backend) for part in parts if part.facts.items})
    notes = (f"note: the shares were labelled by {', '.join(backends)}, which differ by rounding",)
    return Merged(
        len(parts),
        sum(part.facts.items for part in parts),
        sum(part.facts.unreadable for part in parts),
        notes if len(backends) > 1 else (),
    )


def _allow_files(count: int) -> None:
    """Let this process have so many files open, as far as the system lets it raise its own limit."""
    with suppress(ImportError, OSError, ValueError):  # Windows has neither; what is beyond the hard limit is told later
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < count:
            most = count if hard == resource.RLIM_INFINITY else min(count, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _read(path: str) -> tuple[Facts, NDArray[np.void]]:
    target = Path(os.path.realpath(path))
    if not target.is_file():
        half = target.with_name(f"{target.name}.partial")
        if half.exists():
            raise UsageError(
                "E-MERGE", f"{path!r} is not finished: there is {half.name}; run that share again with --resume"
            )
        raise UsageError(
            "E-MERGE", f"there is no file {path!r}; give the outputs of all shares, each with its {SUFFIX}"
        )
    try:
        with opened(share_path(path)) as stream:
            facts = _facts(stream, path)
            begin, size = stream.tell(), os.fstat(stream.fileno()).st_size
            if size - begin != facts.items * RECORD.itemsize:
                raise _damaged(path, f"it holds {size - begin} bytes for {facts.items} answers")
            records = _records(stream, begin, facts.items)
    except FileNotFoundError:
        raise UsageError(
            "E-MERGE",
            f"{path!r} has no {share_path(path).name} beside it, so it is not the output of a share (--shard I/N "
            f"--output FILE), or was copied without; copy both",
        ) from None
    except UnfitError as error:
        raise _damaged(path, str(error)) from None
    except OSError as error:
        raise from_os_error(error, f"read what {path!r} is a share of:") from error
    if _sha256(records) != facts.records:
        raise _damaged(path, "its sha256 is another one")
    return facts, records


def _records(stream: IO[bytes], begin: int, count: int) -> NDArray[np.void]:
    if not count:
        return np.empty(0, RECORD)
    with suppress(OSError, ValueError):  # a file system that cannot map files into memory
        return np.memmap(stream, RECORD, "r", begin, (count,))
    stream.seek(begin)
    return np.frombuffer(stream.read(count * RECORD.itemsize), RECORD)


def _compared(parts: list[_Part]) -> list[_Part]:
    """The outputs in the order of their shares; E-MERGE unless they are all shares of one run, each once."""
    first = parts[0]
    by_index: dict[int, _Part] = {}
    for part in parts:
        facts = part.facts
        if facts.count != first.facts.count:
            raise _other(first, part, SHARD, _spelt(first.facts), _spelt(facts))
        for name in sorted({*first.facts.options, *facts.options}):
            before, now = first.facts.options.get(name), facts.options.get(name)
            if before != now:
                raise _other(first, part, name, before, now)
        if facts.index in by_index:
            twice = by_index[facts.index].path
            raise UsageError("E-MERGE", f"{twice!r} and {part.path!r} are both share {_spelt(facts)}; give one of them")
        by_index[facts.index] = part
    count = first.facts.count
    absent = [f"{index}/{count}" for index in range(min(count, len(parts) + 6)) if index not in by_index]
    if len(by_index) < count:
        more = count - len(by_index) - len(absent[:5])
        told = ", ".join(absent[:5]) + (f" and {more} more" if more else "")
        raise UsageError(
            "E-MERGE",
            f"{len(by_index)} of {count} shares were given; {told} {'is' if told in absent else 'are'} missing",
        )
    _check_names(parts)
    return [by_index[index] for index in range(count)]


def _plain(text: str) -> str:
    """What a file says, as a message may hold it: in one line, and short."""
    return text if text.isprintable() and len(text) <= 100 else shown(text, 100)


def _spelt(facts: Facts) -> str:
    return f"{facts.index}/{facts.count}"


def _other(first: _Part, part: _Part, name: str, before: object, now: object) -> UsageError:
    return UsageError(
        "E-MERGE",
        f"{first.path!r} and {part.path!r} are not of one run: {_plain(name)} was {shown(before, 200)} in one and "
        f"{shown(now, 200)} in the other; "
        "give the shares of one run, or run those again that differ",
    )


def _check_names(parts: Sequence[_Part]) -> None:
    """E-MERGE unless all shares saw the same names in the same order."""
    seen: dict[tuple[int, str], list[_Part]] = {}
    for part in parts:
        seen.setdefault((part.facts.units, part.facts.names), []).append(part)
    if len(seen) == 1:
        return
    usual = max(seen, key=lambda key: len(seen[key]))
    other, units = next((own[0], key[0]) for key, own in seen.items() if key != usual)
    numbers = f"{units} things to label" if units != usual[0] else f"{units} things to label of other names"
    odd = listed([part.path for key, own in seen.items() if key != usual for part in own])
    raise UsageError(
        "E-MERGE",
        f"share {_spelt(other.facts)} saw {numbers} where {len(seen[usual])} of {len(parts)} shares saw {usual[0]}: "
        f"files came, went or are called otherwise on that machine; run these shares again with the same paths: {odd}",
    )


def _check_data(part: _Part) -> None:
    """E-MERGE unless FILE is as it was written."""
    digest, size = hashlib.sha256(), 0
    with _data_of(part, CHUNK) as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
            size += len(data)
    if size != part.facts.bytes or digest.hexdigest() != part.facts.data:
        raise _changed(part)
    if part.facts.header + int(part.records["bytes"].sum(dtype=np.uint64)) != size:
        raise _damaged(part.path, "its answers are not those of the file")


def _data_of(part: _Part, ahead: int) -> IO[bytes]:
    """FILE, of which `ahead` bytes are read at once."""
    try:
        return open(os.path.realpath(part.path), "rb", buffering=ahead)  # the caller closes it
    except OSError as error:
        raise from_os_error(error, "read the output of a share") from error


def _changed(part: _Part) -> UsageError:
    return UsageError(
        "E-MERGE", f"{part.path!r} is not as it was written: its sha256 is another one; copy it again, or {REMEDY}"
    )


def _check_order(parts: Sequence[_Part]) -> None:
    """E-MERGE unless every unit is in one share, and the answers of a share are in order."""
    units = parts[0].facts.units
    own = sum(part.facts.own for part in parts)
    if own != units:
        raise UsageError("E-MERGE", f"the shares hold {own} things to label of {units} in all; {REMEDY}")
    last: tuple[int, int] = (-1, -1)  # unit and share
    for unit, number, _ in _merged(parts):
        if unit < last[0] or unit >= units:
            raise _damaged(parts[number].path, "its answers are in no order")
        if unit == last[0] and number != last[1]:
            two = listed([parts[last[1]].path, parts[number].path])
            raise UsageError("E-MERGE", f"{two} both hold number {unit} of {units}; {REMEDY}")
        last = unit, number


def _in_order(parts: Sequence[_Part]) -> Iterator[tuple[int, int]]:
    """(share, bytes) of all answers, in the order of one whole run."""
    return ((number, size) for _, number, size in _merged(parts))


def _merged(parts: Sequence[_Part]) -> Iterator[tuple[int, int, int]]:
    """(unit, share, bytes) of all answers."""
    return heapq.merge(*(_pairs(number, part.records) for number, part in enumerate(parts)))


def _pairs(number: int, records: NDArray[np.void]) -> Iterator[tuple[int, int, int]]:
    for start in range(0, len(records), RECORDS_AT_ONCE):
        block = records[start : start + RECORDS_AT_ONCE]
        units, sizes = block["unit"].tolist(), block["bytes"].tolist()
        yield from ((unit, number, size) for unit, size in zip(units, sizes, strict=True))
