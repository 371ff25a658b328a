"""What is written of the answers: lines of CSV or JSON, to stdout or to a file; an interruption loses nothing."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import stat
import sys
import time
from array import array
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, TypeAlias, cast, get_type_hints

from zsl_runtime.errors import InputError, UsageError, from_os_error
from zsl_runtime.head.distance import shown
from zsl_runtime.head.names import as_cell
from zsl_runtime.inputs.item import in_store
from zsl_runtime.labelling.merging import Facts, read_facts, records_of, write_share
from zsl_runtime.machine.storage import hold, open_plain, put_in_place, replacing, sync_folder
from zsl_runtime.machine.untrusted import MIB, UnfitError, check_regular, parse_object
from zsl_runtime.streams import UNPRINTED, goes_nowhere, printable

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from zsl_runtime.inputs.item import Item
    from zsl_runtime.inputs.share import Share
    from zsl_runtime.labelling.snapshot import Labelled, Prediction

OF_CLASS = ("rank", "class", "split", "probability")  # what is told of each class of a picture
CSV_HEADER = ("path", *OF_CLASS, "distance", "far")
PARTIAL = ".partial"  # behind the name of a file that is not finished
STATE = ".state"  # behind that: how far it is
LENGTHS = ".lengths"  # likewise, of a share: the bytes of each answer, 4 bytes each
STATE_FORMAT = 1
STATE_INTERVAL = 1.0  # seconds between two notes of how far it is; a killed run does this much again at most
READ_BYTES = 1 << 20
LONGEST_LINE = 16 * MIB  # of a state: the options of the run
OF_ONE_SHARE = ("--shard", "--sort-into", "--link")  # options in which the shares of a run may differ
LENGTH = "I"  # the type of array of a length, 4 bytes
Convert: TypeAlias = "Callable[[Iterable[bytes], IO[bytes]], None]"  # lines to the file that is made of them


# --- lines ----------------------------------------------------------------------------------------------------------


def encode_csv(answers: Iterable[Labelled], min_probability: float, *, safe: bool = False) -> bytes:
    """Lines of CSV_HEADER's columns; a picture that could not be read has none.

    Distance and far are those of the picture, on each of its lines; empty where they are not known.

    A path that is not valid UTF-8 comes out with the bytes it has on the disk.

    Args:
        answers: of one batch.
        min_probability: of a class that gets a line.
        safe: for spreadsheet programs: an apostrophe before paths and names that they would take for formulas.

    """
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    # Python before 3.13 quotes a lone carriage return only if it is the line terminator; readers end the line there.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for name, result in answers:
        if not isinstance(result, InputError):
            writer = quoted if "\r" in name else plain
            how_far = _blank(result.distance), "" if result.far is None else "true" if result.far else "false"
            rows = ((name, *row, *how_far) for row in _rows(result, min_probability))
            writer.writerows(
                [as_cell(one) if isinstance(one, str) else one for one in row] if safe else row for row in rows
            )
    return text.getvalue().encode("utf-8", errors="surrogateescape")


def csv_header() -> bytes:
    """The first line of the CSV."""
    return (",".join(CSV_HEADER) + "\n").encode()


def encode_jsonl(answers: Iterable[Labelled], min_probability: float) -> bytes:
    """One JSON object a line: `path`, `predictions`, `distance` and `far`, or `path` and `error`.

    An answer of a cascade also says `"transductive": true` and in which `pass` its label was found.
    A path that is not valid UTF-8 has its odd bytes as lone surrogates, escaped: JSON cannot hold them otherwise.
    """
    lines = []
    for name, result in answers:
        if isinstance(result, InputError):
            content: dict[str, Any] = {"error": {"code": result.code, "message": result.message}}
        else:
            rows = _rows(result, min_probability)
            content = {
                "predictions": [dict(zip(OF_CLASS, row, strict=True)) for row in rows],
                "distance": None if result.distance is None else shown(result.distance),
                "far": result.far,
            }
            if result.confident is not None:
                content |= {"transductive": True, "pass": "confident" if result.confident else "relabelled"}
        line = json.dumps({"path": name, **content}, ensure_ascii=False)
        if not _is_utf8(line):
            line = json.dumps({"path": name, **content})
        lines.append(UNPRINTED.sub(_escaped, line) + "\n")
    return "".join(lines).encode()


def _rows(prediction: Prediction, min_probability: float) -> list[tuple[int, str, str, float]]:
    """Rank, class, split and probability; six significant digits are what float32 holds of a probability."""
    parts = zip(prediction.names, prediction.seen, prediction.probabilities, strict=True)
    return [
        (rank, name, "seen" if seen else "unseen", float(f"{probability:.6g}"))
        for rank, (name, seen, probability) in enumerate(parts, start=1)
        if probability >= min_probability
    ]


def _blank(distance: float | None) -> float | str:
    """A distance as it is written; nothing where it is not known."""
    return "" if distance is None else shown(distance)


def _escaped(found: re.Match[str]) -> str:
    """A letter that would do something to a terminal, as JSON may write it as well."""
    return f"\\u{ord(found[0]):04x}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- where they go --------------------------------------------------------------------------------------------------


class Sink:
    """Takes encoded answers; each call is flushed, so that whoever reads along sees whole lines.

    Args:
        stream: written to.

    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, data: bytes, _batch: Sequence[Labelled]) -> None:
        """Write the lines of one batch (or a header, of none)."""
        self._stream.write(data)
        self._stream.flush()

    def finish(self) -> None:
        """All answers are written."""


class _OnTerminal:
    """Shows what goes to a terminal: a name of a file cannot move it. In files and pipes names are as they are."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> None:
        """Write whole lines."""
        text = printable(data.decode("utf-8", "surrogateescape"))
        self._stream.write(text.encode("utf-8", "surrogateescape"))

    def flush(self) -> None:
        self._stream.flush()


def _shown(stream: BinaryIO, *, terminal: bool) -> IO[bytes]:
    """The stream itself, or what writes to the terminal that it is."""
    return cast("IO[bytes]", _OnTerminal(stream)) if terminal else stream


@contextmanager
def open_output(path: str | None, option: str = "--output") -> Iterator[IO[bytes]]:
    """The stream that results go to: stdout, or a file that appears under its name only when it is complete.

    Args:
        path: the file, or None for stdout. A device or pipe is written to directly; what is to lie in an object store
            is put there whole at the end.
        option: that gave it, for messages.

    Raises:
        UsageError: E-OUTPUT for a folder, or a stdout that is closed.
        SystemProblem: the system said no. Whatever is raised inside the block, an existing file is left as it was.

    """
    if path is None:
        if goes_nowhere(sys.stdout):  # before the work begins: whoever asked for results is not helped by exit code 0
            raise UsageError("E-OUTPUT", f"stdout is closed, so the results would be lost; give {option} FILE")
        yield _shown(sys.stdout.buffer, terminal=sys.stdout.isatty())
        return
    if in_store(path):
        from zsl_runtime.inputs.stores import uploading

        with uploading(path, option) as local, open_output(local, option) as stream:
            yield stream
        return
    # What a pipe is called, as /dev/stdout or a shell's >(COMMAND), leads to no name that could be looked up.
    target = Path(path) if is_stream(path) else Path(os.path.realpath(path))
    if target.is_dir():
        raise UsageError("E-OUTPUT", f"{option} {path!r} is a folder; give the name of a file")
    try:
        if is_stream(path):
            number = descriptor(path)
            with target.open("wb") if number is None else os.fdopen(os.dup(number), "wb") as stream:
                yield _shown(stream, terminal=stream.isatty())
            return
        with replacing(target) as partial, partial.open("r+b") as stream:
            yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        raise from_os_error(error, f"write the results to {path!r}:") from error


def is_stream(path: str) -> bool:
    """Whether this is the name of a device, a pipe or the like, which is written to and never replaced."""
    if descriptor(path) is not None:
        return True
    with suppress(OSError, ValueError):
        mode = os.stat(path).st_mode  # noqa: PTH116  # os.stat takes undecodable names as they are
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False


def descriptor(path: str) -> int | None:
    """Which open file of this process a name such as /dev/stdout is: behind a shell's `>> FILE` nothing is cut off."""
    parts = os.path.normpath(path).split("/")
    if parts[:2] == ["", "dev"] and parts[2:] in (["stdout"], ["stderr"]):
        return ("stdin", "stdout", "stderr").index(parts[2])
    if parts[:-1] in (["", "dev", "fd"], ["", "proc", "self", "fd"]) and parts[-1].isascii() and parts[-1].isdigit():
        return int(parts[-1]) if len(parts[-1]) < 10 else None
    return None


# --- files that an interruption leaves unfinished -------------------------------------------------------------------


class State(NamedTuple):
    """How far an unfinished file is.

    Attributes:
        items: pictures that are answered.
        unreadable: those of them that could not be read.
        bytes: of the file that hold these answers; what comes behind is of a batch that was not finished.
        names: hex digest of the items' names, chained: sha256(digest of those before + name).
        data: hex sha256 of these bytes.

    """

    items: int
    unreadable: int
    bytes: int
    names: str
    data: str


NOTHING_DONE = State(0, 0, 0, "", hashlib.sha256().hexdigest())


class PartialFile(Sink):
    """FILE.partial, which becomes FILE when it is complete, and FILE.partial.state, from which `--resume` goes on.

    The state is a line of JSON that says by which options the answers were made, and then a line of `State` every
    second: it is written behind the answers that it speaks of, so whatever ends a run, the last whole line of the state
    describes answers that are there.

    Of a share, FILE.partial.lengths holds how long each answer is, for FILE.share.

    Use `open_partial`.
    """

    def __init__(
        self,
        path: str,
        stream: IO[bytes],
        notes: IO[bytes],
        state: State,
        digest: hashlib._Hash,
        *,
        begun_by: str,
        lengths: IO[bytes] | None = None,
    ) -> None:
        super().__init__(stream)
        self._lengths = lengths
        self.path = path
        self.begun_by = begun_by
        self._notes = notes
        self.state = state
        self._digest = digest
        self._noted = state
        self._when = time.monotonic()
        self.complete = False
        self.backend = ""  # that ran the model, as FILE.share tells

    def write(self, data: bytes, batch: Sequence[Labelled]) -> None:
        """Write the lines of one batch, and now and then how far this is."""
        super().write(data, batch)
        self._digest.update(data)
        before = self.state
        self.state = State(
            before.items + len(batch),
            before.unreadable + sum(isinstance(result, InputError) for _, result in batch),
            before.bytes + len(data),
            chained(before.names, (name for name, _ in batch)),
            self._digest.hexdigest(),
        )
        if time.monotonic() - self._when >= STATE_INTERVAL:
            self.note()

    def write_each(self, pieces: Sequence[bytes], batch: Sequence[Labelled]) -> None:
        """The same of a share: the lines of each answer by themselves."""
        if self._lengths is not None:
            self._lengths.write(array(LENGTH, map(len, pieces)).tobytes())
            self._lengths.flush()
        self.write(b"".join(pieces), batch)

    def note(self) -> None:
        """Write down how far it is."""
        self._when = time.monotonic()
        if self.state != self._noted:
            self._notes.write(_line(self.state._asdict()))
            self._notes.flush()
            self._noted = self.state


def chained(digest: str, names: Iterable[str]) -> str:
    """The digest of some names after those that `digest` is of."""
    for name in names:
        digest = hashlib.sha256(digest.encode() + os.fsencode(name)).hexdigest()
    return digest


def undone(items: Generator[Item], state: State) -> Generator[Item]:
    """The items that come after those that are answered.

    Raises:
        UsageError: E-RESUME when the first `state.items` are others than those that were answered.

    """
    digest = ""
    for _ in range(state.items):
        item = next(items, None)
        if item is None:
            digest = "there are fewer"
            break
        digest = chained(digest, [item.name])
    if digest != state.names:
        items.close()
        raise UsageError(
            "E-RESUME",
            f"the first {state.items} pictures are not those that were labelled before the interruption; give the same "
            "paths with the same files, or delete the unfinished file to start again",
        )
    yield from items


@contextmanager
def open_partial(
    path: str,
    options: Mapping[str, object],
    *,
    resume: bool,
    build: str = "",
    share: Share | None = None,
    convert: Convert | None = None,
) -> Iterator[PartialFile]:
    """Write FILE as FILE.partial, which takes the name FILE at the end of the block if `complete` was set.

    Otherwise, and whatever is raised inside the block, an existing FILE is left as it was and FILE.partial stays for
    `--resume`; without a single answer in it, it is removed.

    Args:
        path: FILE.
        options: what the answers depend on, by the names that users know; values are those of JSON.
        resume: go on with FILE.partial, if there is one.
        build: the version of the program, which may differ when it goes on; `begun_by` is that of the beginning.
        share: FILE holds the answers of this share; `merging.py` takes FILE and FILE.share, which is written, too.
        convert: makes FILE of the lines of FILE.partial, which goes when FILE is there; not with a share.

    Raises:
        UsageError: E-OUTPUT for a folder, a device or a pipe; E-PARTIAL when FILE.partial is there and `resume` is not
            asked for, when it is none of ours, or when another run writes it; E-RESUME when it was made by other
            options, or changed since.
        SystemProblem: the system said no.

    """
    target = Path(os.path.realpath(path))
    if target.is_dir() or is_stream(path):
        raise UsageError("E-OUTPUT", f"--output {path!r} is no plain file; --resume is for files only")
    try:
        with _opened(target, dict(options), resume=resume, build=build, share=share) as partial:
            try:
                yield partial
            finally:
                with suppress(OSError):  # the disk is full: then the last note says how far it was
                    partial.note()
            if partial.complete:
                if share is not None:
                    _tell_share(target, partial, dict(options), share)
                _finish(target, convert)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise from_os_error(error, f"write the results to {path!r}:") from error
    finally:
        _drop_empty(target)


def is_complete(path: str) -> bool:
    """Whether FILE is there and nothing is unfinished, so that there is nothing to go on with."""
    target = Path(os.path.realpath(path))
    partial, notes = _names(target)
    if not target.is_file() or partial.exists():
        return False
    if notes.exists():  # of a run that was killed at its very end, or of one that begins just now and holds the lock
        with suppress(OSError, UsageError), _lock(notes, partial):
            if not partial.exists():
                _forget_notes(target)
    return True


def check_complete(path: str, share: Share) -> None:
    """UsageError E-RESUME when the complete FILE is not that of this share."""
    facts = read_facts(path)
    if facts is None or (facts.index, facts.count) != (share.index, share.count):
        what = "the output of another run" if facts is None else f"that of share {facts.index}/{facts.count}"
        raise UsageError(
            "E-RESUME",
            f"{path!r} is complete and is {what}, not of share {share}; give each share an --output of its own",
        )


def _tell_share(target: Path, partial: PartialFile, options: dict[str, object], share: Share) -> None:
    """Write FILE.share, which is there before FILE is: whoever sees FILE finds both."""
    lengths = array(LENGTH, _lengths_of(target).read_bytes())
    state = partial.state
    assert len(lengths) == len(share.units) == state.items
    for name in OF_ONE_SHARE:
        options.pop(name, None)
    facts = Facts(
        format=1,
        index=share.index,
        count=share.count,
        options=options,
        backend=partial.backend,
        units=share.seen,
        own=share.own,
        names=share.names,
        items=state.items,
        unreadable=state.unreadable,
        header=state.bytes - sum(lengths),
        bytes=state.bytes,
        data=state.data,
        records="",
    )
    write_share(target, facts, records_of(share.units, lengths))


def _finish(target: Path, convert: Convert | None) -> None:
    """FILE.partial becomes FILE, or what FILE is made of: if that fails, it stays for --resume."""
    partial = _names(target)[0]
    if convert is None:
        put_in_place(partial, target)
    else:
        with partial.open("rb") as lines, replacing(target) as whole, whole.open("r+b") as stream:
            convert(lines, stream)
        partial.unlink()
    _forget_notes(target)
    sync_folder(target.parent)


def _forget_notes(target: Path) -> None:
    """Remove what `--resume` would need: FILE is complete, even where that goes wrong."""
    for path in (_names(target)[1], _lengths_of(target)):
        with suppress(OSError):
            path.unlink()


def _names(target: Path) -> tuple[Path, Path]:
    """FILE.partial and FILE.partial.state."""
    partial = target.with_name(f"{target.name}{PARTIAL}")
    return partial, partial.with_name(f"{partial.name}{STATE}")


def _lengths_of(target: Path) -> Path:
    """FILE.partial.lengths."""
    return target.with_name(f"{target.name}{PARTIAL}{LENGTHS}")


@contextmanager
def _opened(
    target: Path, options: dict[str, object], *, resume: bool, build: str, share: Share | None = None
) -> Iterator[PartialFile]:
    partial, notes = _names(target)
    there = _is_ours(partial, partial)
    if not _is_ours(notes, partial) and there:
        raise _not_ours(partial)
    _is_ours(_lengths_of(target), partial)
    with _lock(notes, partial), _in_place(notes, "a+b") as states:
        header, state, end = _read_state(states)
        if there and not header and partial.stat().st_size:
            raise _not_ours(partial)
        if there and state.items and not resume:
            raise UsageError(
                "E-PARTIAL",
                f"{str(partial)!r} holds the results of {state.items} pictures of an interrupted run; add --resume to "
                f"go on with it, or delete it to start again",
            )
        if not there or not state.items:
            header, state, end = {}, NOTHING_DONE, 0
        elif header.get("options") != options:
            raise _other_options(partial, header, options)
        _cut(states, end)
        with ExitStack() as open_files, _in_place(partial, "r+b", new=not there) as stream:
            lengths = None if share is None else open_files.enter_context(_open_lengths(target, state))
            digest = _digest_of(stream, state, partial) if state.items else hashlib.sha256()
            _cut(stream, state.bytes)
            stream.seek(state.bytes)
            if not end:
                states.write(_line({"format": STATE_FORMAT, "options": options, "build": build}))
                states.flush()
            begun_by = str(header.get("build", build))
            yield PartialFile(str(partial), stream, states, state, digest, begun_by=begun_by, lengths=lengths)


@contextmanager
def _open_lengths(target: Path, state: State) -> Iterator[IO[bytes]]:
    """FILE.partial.lengths, to go on behind the answers that are there; UsageError E-RESUME when some are not told."""
    path = _lengths_of(target)
    wanted = state.items * array(LENGTH).itemsize
    with _in_place(path, "a+b") as stream:
        data = b""
        if os.fstat(stream.fileno()).st_size >= wanted:
            stream.seek(0)
            data = stream.read(wanted)
        if len(data) < wanted or sum(array(LENGTH, data)) > state.bytes:
            raise UsageError(
                "E-RESUME",
                f"{str(path)!r} is missing or was changed since the interruption; delete it and the unfinished "
                f"{target.name}{PARTIAL} to start again from the first",
            )
        _cut(stream, wanted)
        yield stream


def _is_ours(path: Path, partial: Path) -> bool:
    """Whether a file is there that is written in place; UsageError E-PARTIAL for what would lead elsewhere."""
    try:
        links = check_regular(path).st_nlink
    except FileNotFoundError:
        return False
    except UnfitError:
        raise _not_ours(partial) from None
    if links > 1:  # a name of another file as well
        raise _not_ours(partial)
    return True


def _in_place(path: Path, mode: Literal["r+b", "a+b"], *, new: bool = False) -> IO[bytes]:
    """Open a file that is gone on with, made if need be; never through a link. A `new` one is not there yet."""
    flags = os.O_RDWR | os.O_CREAT | (os.O_APPEND if mode == "a+b" else 0) | (os.O_EXCL if new else 0)
    return open(open_plain(path, flags), mode)  # its caller closes it


def _cut(stream: IO[bytes], size: int) -> None:
    """Give an open file its length. Its own `truncate` fails where a signal comes in the middle (EINTR)."""
    stream.flush()
    os.ftruncate(stream.fileno(), size)


def _not_ours(partial: Path) -> UsageError:
    return UsageError(
        "E-PARTIAL", f"{str(partial)!r} is not of an interrupted run; move it away, results are written there first"
    )


@contextmanager
def _lock(notes: Path, partial: Path) -> Iterator[None]:
    """Be the only writer of a file that is not finished; the lock ends with the process, however that ends."""
    if os.name == "nt":  # nothing there locks as `hold` does
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(hold(notes, waiting=None))
        except BlockingIOError:
            raise UsageError(
                "E-PARTIAL", f"{str(partial)!r} is being written by another run; wait for it, or give another --output"
            ) from None
        yield


def _read_state(states: IO[bytes]) -> tuple[dict[str, Any], State, int]:
    """The header, the last state, and where the file's whole lines end; a torn line ends it."""
    states.seek(0)
    header, state, end = {}, NOTHING_DONE, 0
    while line := states.readline(LONGEST_LINE):
        content = _parsed(line)
        if content is None:
            break
        if not end:
            if content.get("format") != STATE_FORMAT:
                break
            header = content
        else:
            following = _state(content)
            if following is None:
                break
            state = following
        end += len(line)
    return header, state, end


def _state(content: Mapping[str, Any]) -> State | None:
    """A state that `PartialFile.note` wrote, None for anything else."""
    kinds = get_type_hints(State)
    if {name: type(value) for name, value in content.items()} != kinds:
        return None
    state = State(**content)
    return state if min(state.items, state.unreadable, state.bytes) >= 0 else None


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a whole line."""
    try:
        return parse_object(line, halves=True) if line.endswith(b"\n") else None
    except UnfitError:
        return None


def _line(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content) + "\n").encode()


def _digest_of(stream: IO[bytes], state: State, partial: Path) -> hashlib._Hash:
    """The sha256 so far of the answers that are there; UsageError E-RESUME when they are not as they were written."""
    digest, left = hashlib.sha256(), state.bytes
    while left and (data := stream.read(min(left, READ_BYTES))):
        digest.update(data)
        left -= len(data)
    if digest.hexdigest() != state.data:
        raise UsageError(
            "E-RESUME", f"{str(partial)!r} was changed since the interruption; delete it to start again from the first"
        )
    return digest


def _other_options(partial: Path, header: Mapping[str, Any], options: Mapping[str, object]) -> UsageError:
    """Names the first option that differs."""
    before = header.get("options")
    before = before if isinstance(before, dict) else {}
    names = [name for name in {**before, **options} if before.get(name) != options.get(name)]
    told = f"{names[0]} was {before.get(names[0])!r} and is {options.get(names[0])!r}" if names else "others"
    return UsageError(
        "E-RESUME",
        f"{str(partial)!r} was made with other options or another bundle: {told}; give the same ones, or delete the "
        "file to start again",
    )


def _drop_empty(target: Path) -> None:
    """Remove what is not finished if there is no answer in it: nothing would be lost. Another run's files stay."""
    partial, notes = _names(target)
    with suppress(OSError, UsageError), ExitStack() as held:
        if not _is_ours(notes, partial):
            return
        held.enter_context(_lock(notes, partial))
        states = held.enter_context(_in_place(notes, "r+b"))
        header, state, _ = _read_state(states)
        if not state.items and (header or not partial.exists() or not partial.stat().st_size):
            partial.unlink(missing_ok=True)
            _lengths_of(target).unlink(missing_ok=True)
            notes.unlink()
