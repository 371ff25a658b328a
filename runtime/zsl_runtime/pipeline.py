"""From paths on a command line to lines of results: find, read ahead, label in batches, write in input order."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from zsl_runtime.errors import InputError, UsageError, from_os_error
from zsl_runtime.matfile import MatError, read_matrix
from zsl_runtime.storage import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from zsl_runtime.classifier import Classifier, Prediction, Snapshot, Source

    Floats = NDArray[np.float32]

T = TypeVar("T")
R = TypeVar("R")

CSV_HEADER = ("path", "rank", "class", "split", "probability")
ROW_SUFFIXES = (".npy", ".mat")
MATRIX = "features"  # the variable of a .mat file that holds the rows, as in the published files
BAR_INTERVAL = 0.1  # seconds between two drawings of the progress bar
BAR_WIDTH = 24


class Found(NamedTuple):
    """Files to read, in order, and how many files of folders and patterns were left out for their names."""

    files: list[str]
    skipped: int


class Item(NamedTuple):
    """One thing to label: its name in the results, and what `Classifier.read` takes, or why there is nothing."""

    name: str
    source: Source | InputError


class Labelled(NamedTuple):
    """One line of the answer."""

    name: str
    result: Prediction | InputError


class Scored(NamedTuple):
    """What the graph says about one batch.

    Attributes:
        entries: the items in input order, each with the error that it could not be read for, or None.
        scores: (n, C) float32 of the n items that could be read, in the same order.
        features: (n, F) float32; (0, 0) when none could be read.

    """

    entries: list[tuple[str, InputError | None]]
    scores: Floats
    features: Floats

    @classmethod
    def fill(cls, entries: Iterable[tuple[str, InputError | None]], results: Iterable[Prediction]) -> list[Labelled]:
        """Put the results of the items that could be read in their places."""
        following = iter(results)
        return [Labelled(name, next(following) if error is None else error) for name, error in entries]


# --- finding --------------------------------------------------------------------------------------------------------


def find_files(paths: Sequence[str], suffixes: Sequence[str]) -> Found:
    """Expand files, folders and patterns.

    A file named in full is taken whatever its suffix. Folders are walked recursively, links to folders included, each
    real folder once; hidden files and other suffixes are skipped. A pattern (`*`, `?`, `[...]`, `**` for any depth)
    that is not itself a name stands for its matches.

    Args:
        paths: as typed; names that are not valid UTF-8 hold surrogate escapes.
        suffixes: wanted in folders and patterns, in lower case with the dot.

    Returns:
        Files in the order of `paths`, sorted within a folder or pattern.

    Raises:
        UsageError: E-INPUT-MISSING, E-NO-IMAGES when nothing is left.
        SystemProblem: a folder cannot be listed.

    """
    files: list[str] = []
    skipped = 0
    for path in paths:
        found = _expand(path)
        wanted = [name for name in found if name == path or _has_suffix(name, suffixes)]
        files += wanted
        skipped += len(found) - len(wanted)
    if not files:
        raise UsageError(
            "E-NO-IMAGES",
            f"nothing to label in {', '.join(map(repr, paths[:3]))} ({skipped} files of other kinds); "
            f"expected files that end in {' '.join(suffixes)}",
        )
    return Found(files, skipped)


def _expand(path: str) -> list[str]:
    if os.path.isdir(path):  # noqa: PTH112  # plain strings keep undecodable names and the user's spelling
        return sorted(walk(path), key=_parts)
    if os.path.exists(path):  # noqa: PTH110
        return [path]
    matches = sorted(glob.glob(path, recursive=True), key=_parts) if glob.has_magic(path) else []  # noqa: PTH207
    if not matches:
        raise UsageError("E-INPUT-MISSING", f"there is no {path!r}; give files, folders or patterns that exist")
    files: list[str] = []
    for match in matches:
        if not os.path.isdir(match):  # noqa: PTH112
            files.append(match)
        elif "**" not in path:  # that one lists what is in its folders by itself
            files += sorted(walk(match), key=_parts)
    return files


def walk(folder: str) -> Iterator[str]:
    """Every file below a folder, hidden folders left out, links to folders followed, each real folder once.

    Raises:
        SystemProblem: a folder cannot be listed.

    """

    def fail(error: OSError) -> None:
        raise from_os_error(error, "list the folder") from error

    visited: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(root)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder that was or is being walked
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(root, name) for name in names)  # noqa: PTH118


def _parts(path: str) -> tuple[str, ...]:
    return Path(path).parts


def _has_suffix(path: str, suffixes: Sequence[str]) -> bool:
    name = os.path.basename(path)  # noqa: PTH119
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122


# --- rows of feature files ------------------------------------------------------------------------------------------


def row_items(files: Iterable[str], shape: tuple[int, ...], like: str = "") -> tuple[Iterator[Item], int]:
    """The rows of feature files, named FILE#ROW; rows of .npy files are not read before their turn.

    Args:
        files: .npy files of floats (N, R, V), or (N, V) where R is 1; then also .mat files with `features` (V, N).
        shape: (R, V).
        like: name of the feature file that the model was trained on, for messages; '' when it is not known.

    Returns:
        The items, and how many there are. A file that cannot be read is one item.

    """
    opened = [(path, _open_rows(path, shape, like)) for path in files]
    total = sum(1 if isinstance(rows, InputError) else len(rows) for _, rows in opened)

    def items() -> Iterator[Item]:
        for path, rows in opened:
            if isinstance(rows, InputError):
                yield Item(path, rows)
            else:
                yield from (Item(f"{path}#{i}", row) for i, row in enumerate(rows))

    return items(), total


def _open_rows(path: str, shape: tuple[int, ...], like: str) -> NDArray[np.floating[Any]] | InputError:
    """The array of one file, memory-mapped where that can be; rows first."""
    if path.lower().endswith(".mat"):
        return _open_matrix(path, shape, like)
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        return InputError("E-ROW-FILE", f"{path!r} is not a readable .npy file ({reason}); save it with numpy.save")
    allowed = [shape] + ([shape[1:]] if shape[0] == 1 else [])
    if not isinstance(rows, np.ndarray) or rows.ndim < 2 or rows.shape[1:] not in allowed or rows.dtype.kind != "f":
        given = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else "an archive"
        wanted = " or ".join(f"(N, {', '.join(map(str, axes))})" for axes in allowed)
        return InputError("E-ROW-SHAPE", f"{path!r} holds {given}; this model takes floats {wanted}{_as_in(like)}")
    return rows


def _open_matrix(path: str, shape: tuple[int, ...], like: str) -> NDArray[np.floating[Any]] | InputError:
    """The columns of `features` (V, N) of a .mat file as rows (N, V)."""
    try:
        matrix = read_matrix(path, MATRIX)
    except (OSError, MatError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "too large for the memory here"
        wanted = f"expected a matrix {MATRIX} (V, N), saved with '-v7' or by scipy.io.savemat"
        return InputError("E-ROW-FILE", f"{path!r} cannot be read: {reason}; {wanted}")
    if shape[0] != 1 or matrix.ndim != 2 or matrix.shape[0] != shape[1] or matrix.dtype.kind != "f":
        turned = "; it is transposed" if matrix.ndim == 2 and matrix.shape[1] == shape[1] else ""
        given = f"{matrix.dtype} {matrix.shape}{turned}"
        wanted = f"({shape[1]}, N)" if shape[0] == 1 else f"(N, {shape[0]}, {shape[1]}) in an .npy file"
        return InputError(
            "E-ROW-SHAPE",
            f"{path!r}: {MATRIX} is {given}; this model takes floats {wanted}{_as_in(like)}",
        )
    rows: NDArray[np.floating[Any]] = matrix.T
    return rows


def _as_in(like: str) -> str:
    return f", features as in {like}" if like else ""


def check_row(row: object, shape: tuple[int, ...], like: str = "") -> Floats:
    """One row of features as the graph takes it.

    Args:
        row: a float array (R, V), or (V,) where R is 1.
        shape: (R, V).
        like: as of `row_items`.

    Returns:
        float32 (R, V).

    Raises:
        InputError: E-ROW-SHAPE, E-ROW-VALUE for NaN, infinity or what float32 cannot hold.

    """
    fits = isinstance(row, np.ndarray) and (row.shape == shape or (shape[0] == 1 and row.shape == shape[1:]))
    if not isinstance(row, np.ndarray) or not fits or row.dtype.kind != "f":
        given = f"{row.dtype} {row.shape}" if isinstance(row, np.ndarray) else type(row).__name__
        raise InputError("E-ROW-SHAPE", f"got {given}; this model takes float rows {shape}{_as_in(like)}")
    with np.errstate(over="ignore"):
        values = np.asarray(row, dtype=np.float32).reshape(shape)
    if not np.isfinite(values).all():
        raise InputError("E-ROW-VALUE", "the row holds NaN, infinity or a number beyond float32; extract it again")
    return values


# --- labelling ------------------------------------------------------------------------------------------------------


def in_order(function: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int) -> Generator[R]:
    """Apply `function` to items in threads; results in the order of the items.

    At most `ahead + workers` items are taken before their result is wanted, so memory is bounded. An exception of
    `function` is raised at its item's turn; however the iteration ends, no thread is left running.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="zsl-read")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead + workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def score(
    classifier: Classifier, snapshot: Snapshot, items: Iterable[Item], *, batch_size: int, workers: int
) -> Generator[Scored]:
    """Score items in batches, those ahead being read meanwhile.

    Args:
        classifier: reads and scores.
        snapshot: of it, with the class filter; one for the whole run.
        items: what to score.
        batch_size: items at once.
        workers: threads that read.

    Yields:
        Up to `batch_size` items in input order, those that cannot be read among them.

    """

    def read(item: Item) -> tuple[str, NDArray[np.generic] | InputError]:
        if isinstance(item.source, InputError):
            return item.name, item.source
        try:
            return item.name, classifier.read(item.source)
        except InputError as error:
            known = isinstance(item.source, str)  # the message has the path then
            return item.name, error if known else InputError(error.code, f"{item.name!r}: {error.message}")

    empty = np.empty((0, len(snapshot.table)), np.float32), np.empty((0, 0), np.float32)
    with closing(in_order(read, items, workers=workers, ahead=batch_size)) as entries:
        while batch := list(islice(entries, batch_size)):
            rows = [value for _, value in batch if not isinstance(value, InputError)]
            scores, features = classifier.score_with(snapshot, np.stack(rows)) if rows else empty
            yield Scored([(name, v if isinstance(v, InputError) else None) for name, v in batch], scores, features)


def label(
    classifier: Classifier, snapshot: Snapshot, items: Iterable[Item], *, topk: int, batch_size: int, workers: int
) -> Generator[list[Labelled]]:
    """Label items in batches: `score`, and the `topk` best classes of each item."""
    with closing(score(classifier, snapshot, items, batch_size=batch_size, workers=workers)) as batches:
        for entries, scores, _ in batches:
            yield Scored.fill(entries, snapshot.best(scores, topk))


# --- writing --------------------------------------------------------------------------------------------------------


def encode_csv(answers: Iterable[Labelled], min_probability: float) -> bytes:
    """Lines of `path,rank,class,split,probability`; a picture that could not be read has none.

    A path that is not valid UTF-8 comes out with the bytes it has on the disk.
    """
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    # Python before 3.13 quotes a lone carriage return only if it is the line terminator; readers end the line there.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for name, result in answers:
        if not isinstance(result, InputError):
            writer = quoted if "\r" in name else plain
            writer.writerows((name, *row) for row in _rows(result, min_probability))
    return text.getvalue().encode("utf-8", errors="surrogateescape")


def csv_header() -> bytes:
    """The first line of the CSV."""
    return (",".join(CSV_HEADER) + "\n").encode()


def encode_jsonl(answers: Iterable[Labelled], min_probability: float) -> bytes:
    """One JSON object a line: `path` and `predictions`, or `path` and `error`.

    An answer of a cascade also says `"transductive": true` and in which `pass` its label was found.
    A path that is not valid UTF-8 has its odd bytes as lone surrogates, escaped: JSON cannot hold them otherwise.
    """
    lines = []
    for name, result in answers:
        if isinstance(result, InputError):
            content: dict[str, Any] = {"error": {"code": result.code, "message": result.message}}
        else:
            rows = _rows(result, min_probability)
            content = {"predictions": [dict(zip(CSV_HEADER[1:], row, strict=True)) for row in rows]}
            if result.confident is not None:
                content |= {"transductive": True, "pass": "confident" if result.confident else "relabelled"}
        line = json.dumps({"path": name, **content}, ensure_ascii=False)
        if not _is_utf8(line):
            line = json.dumps({"path": name, **content})
        lines.append(line + "\n")
    return "".join(lines).encode()


def _rows(prediction: Prediction, min_probability: float) -> list[tuple[int, str, str, float]]:
    """Rank, class, split and probability; six significant digits are what float32 holds of a probability."""
    parts = zip(prediction.names, prediction.seen, prediction.probabilities, strict=True)
    return [
        (rank, name, "seen" if seen else "unseen", float(f"{probability:.6g}"))
        for rank, (name, seen, probability) in enumerate(parts, start=1)
        if probability >= min_probability
    ]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def open_output(path: str | None) -> Iterator[IO[bytes]]:
    """The stream that results go to: stdout, or a file that appears under its name only when it is complete.

    Args:
        path: the file, or None for stdout. A device or pipe is written to directly.

    Raises:
        UsageError: E-OUTPUT for a folder.
        SystemProblem: the system said no. Whatever is raised inside the block, an existing file is left as it was.

    """
    if path is None:
        yield sys.stdout.buffer
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise UsageError("E-OUTPUT", f"--output {path!r} is a folder; give the name of a file")
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                yield stream
            return
        with replacing(target) as partial, partial.open("xb") as stream:
            yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        raise from_os_error(error, f"write the results to {path!r}:") from error


class Progress:
    """Lines on stderr and, when that is a terminal, a bar with a rate below them.

    Args:
        total: items to come.
        unit: what they are called, in the plural.
        stream: where to draw.

    """

    def __init__(self, total: int, unit: str, stream: IO[str]) -> None:
        self._total = total
        self._unit = unit
        self._stream = stream
        self._draws = stream.isatty()
        self._done = 0
        self._begin = time.monotonic()
        self._drawn = 0.0

    @property
    def rate(self) -> float:
        """Items per second so far."""
        return self._done / max(time.monotonic() - self._begin, 1e-9)

    def advance(self, count: int) -> None:
        """Count `count` more items, and draw if it is time."""
        self._done += count
        now = time.monotonic()
        if self._draws and (now - self._drawn >= BAR_INTERVAL or self._done == self._total):
            self._drawn = now
            filled = BAR_WIDTH * self._done // max(self._total, 1)
            left = (self._total - self._done) / max(self.rate, 1e-9)
            bar = "#" * filled + "-" * (BAR_WIDTH - filled)
            text = f"[{bar}] {self._done}/{self._total} {self.rate:.1f} {self._unit}/s, {_clock(left)} left"
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()

    def line(self, text: str) -> None:
        """Print one line above the bar."""
        self.clear()
        self._stream.write(f"{text}\n")
        self._stream.flush()
        self._drawn = 0.0

    def clear(self) -> None:
        """Take the bar away."""
        if self._draws:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
