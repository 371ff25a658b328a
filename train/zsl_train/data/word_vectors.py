"""Attribute word vectors: from an .npy file, from GloVe or word2vec files, or drawn at random to be learned.

Source of the rules: the published codes, as docs/methods.md 2.1 sums them up. An attribute's vector is the sum of its
words' vectors; words that the file does not know are skipped; a vector that stays zero is reported.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, cast

import numpy as np

from zsl_runtime.errors import UsageError, listed
from zsl_runtime.machine.storage import mapped_or_read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NPY_MAGIC = b"\x93NUMPY"
GZIP_MAGIC = b"\x1f\x8b"
MAX_LINE = 1 << 20  # bytes; a 300-d GloVe line has about 3,000
MAX_WIDTH = 1 << 16
MAX_WORD = 1 << 10  # bytes of one word in a binary file

# Names in which the data sets run words together or spell them unlike the vocabularies do.
BEFORE_SPLITTING = {"far-away": "faraway"}
WORDS = {
    # CUB
    "spatulate": "broad",
    "upperparts": "upper parts",
    "grey": "gray",
    # AWA2
    "newworld": "new world",
    "oldworld": "old world",
    "nestspot": "nest spot",
    "toughskin": "tough skin",
    "longleg": "long leg",
    "chewteeth": "chew teeth",
    "meatteeth": "meat teeth",
    "strainteeth": "strain teeth",
    "quadrapedal": "quadrupedal",
    # SUN
    "rockstone": "rock stone",
    "dirtsoil": "dirt soil",
    "sunsunny": "sun sunny",
    "electricindoor": "electric indoor",
}


@dataclass(frozen=True)
class WordVectors:
    """Attribute word vectors and what is doubtful about them.

    Attributes:
        vectors: (A, W) float32, not normalised.
        missing_words: words that the file does not know, sorted.
        empty: attributes (row numbers) whose vector is all zero.
        notes: things the user should be told, one line each.

    """

    vectors: NDArray[np.float32]
    missing_words: tuple[str, ...]
    empty: tuple[int, ...]
    notes: tuple[str, ...]


def attribute_words(name: str) -> str:
    """Plain words of an attribute's name: 'has_upperparts_color::grey' -> 'upper parts color gray'.

    Lower case; the prefix 'has_' and text in brackets are dropped; `_ - = : / ,` separate words; then the corrections
    in WORDS are made (words that CUB, AWA2 and SUN run together or spell otherwise). A name that would have no
    word left stays as it is.
    """
    text = name.lower().removeprefix("has_")
    for old, new in BEFORE_SPLITTING.items():
        text = text.replace(old, new)
    text = re.sub(r"\([^)]*\)", " ", text)
    words = re.split(r"[\s_\-=:/,]+", text)
    return " ".join(WORDS.get(word, word) for word in words if word) or name


def load_word_vectors(path: Path, words: Sequence[str]) -> WordVectors:
    """Word vectors of attributes from a file, whose kind is recognised by its content.

    - ``.npy``: (A, W) floating point, one row per attribute in the order of `words`;
    - GloVe text: a line per word, ``word v1 ... vW``; word2vec text: the same after a line ``count W``;
    - word2vec binary: ``count W``, then each word, a space and W little-endian float32. Any but .npy may be gzipped.

    Text and binary files are streamed; only the words that are needed are kept. A word is looked up as it is, then in
    lower case.

    Args:
        path: the file.
        words: A wordings, words separated by spaces (`ImageSet.words`).

    Raises:
        UsageError: E-WORD-VECTORS when the file cannot be used or knows none of the words.

    """
    if not path.is_file():
        raise UsageError("E-WORD-VECTORS", f"no word vector file at {path}; give an .npy, GloVe or word2vec file")
    with path.open("rb") as file:
        magic = file.read(len(NPY_MAGIC))
    if magic == NPY_MAGIC or path.suffix == ".npy":
        return _checked(read_vector_array(path, len(words)), words, ())
    vocabulary = {word for text in words for word in text.split()}
    found = _read_vocabulary(path, vocabulary | {word.lower() for word in vocabulary})
    if not found:
        raise UsageError(
            "E-WORD-VECTORS",
            f"{path} knows none of the {len(vocabulary)} words of the attributes ({listed(sorted(vocabulary))}); "
            "give vectors of the attributes' language, or word them in attributes.csv",
        )
    width = len(next(iter(found.values())))
    vectors = np.zeros((len(words), width), dtype=np.float64)
    missing = set()
    for row, text in enumerate(words):
        for word in text.split():
            vector = found.get(word, found.get(word.lower()))
            if vector is None:
                missing.add(word)
            else:
                vectors[row] += vector
    return _checked(vectors.astype(np.float32), words, tuple(sorted(missing)))


def learned_word_vectors(count: int, width: int, seed: int) -> WordVectors:
    """Random unit vectors for `count` attributes, to be learned from scratch; a note warns of it.

    Args:
        count: A.
        width: W.
        seed: of the draw.

    """
    draw = np.random.default_rng(seed).standard_normal((count, width))
    vectors = (draw / np.linalg.norm(draw, axis=1, keepdims=True)).astype(np.float32)
    note = (
        "there are no attribute word vectors: random ones are learned from scratch, which finds regions worse; "
        "give a GloVe or word2vec file, or attribute_vectors.npy, for better results"
    )
    return WordVectors(vectors, (), (), (note,))


def read_vector_array(path: Path, count: int) -> NDArray[np.float32]:
    """Read an ``attribute_vectors.npy``: (A, W) floating point, finite, no pickled objects.

    Raises:
        UsageError: E-WORD-VECTORS naming what is wrong.

    """
    try:
        # Mapped, not read: a damaged header that promises terabytes is then an error and not an allocation.
        array = mapped_or_read(
            lambda: np.lib.format.open_memmap(path, mode="r"), lambda: np.load(path, allow_pickle=False)
        )
    except Exception as error:  # the header is parsed as Python text and fails in many ways
        raise UsageError(
            "E-WORD-VECTORS",
            f"{path} cannot be read as an .npy array ({type(error).__name__}: {str(error)[:120]}); expected ({count}, "
            "W) floating point, written by numpy.save",
        ) from error
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] == 0:
        raise UsageError(
            "E-WORD-VECTORS", f"{path} holds {array.dtype} {array.shape}; expected ({count}, W) floating point"
        )
    if len(array) != count:
        raise UsageError(
            "E-WORD-VECTORS", f"{path} has {len(array)} rows for {count} attributes; expected one row per attribute"
        )
    # Huge float64 values become infinite here and are refused with the others.
    with np.errstate(over="ignore"):
        vectors = np.array(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UsageError(
            "E-WORD-VECTORS", f"{path}, row {bad[0]}: values are not finite ({len(bad)} such rows); write them again"
        )
    return vectors


def _checked(vectors: NDArray[np.float32], words: Sequence[str], missing: tuple[str, ...]) -> WordVectors:
    """Collect what the user should know."""
    empty = tuple(int(row) for row in np.flatnonzero(~vectors.any(axis=1)))
    notes = []
    if missing:
        notes.append(f"{len(missing)} words have no vector and are skipped: {listed(missing)}")
    if empty:
        notes.append(
            f"{len(empty)} attributes have an all-zero word vector and find no region: "
            f"{listed([words[row] for row in empty])}"
        )
    return WordVectors(vectors, missing, empty, tuple(notes))


def _read_vocabulary(path: Path, wanted: set[str]) -> dict[str, NDArray[np.float32]]:
    """Vectors of the wanted words that the file knows; all of one width."""
    by_bytes = {word.encode(): word for word in wanted}
    try:
        with _opened(path) as file:
            first = _line(file, path).removeprefix(codecs.BOM_UTF8)
            header = first.split()
            if len(header) == 2 and all(part.isdigit() for part in header):
                return _read_word2vec(file, path, by_bytes, count=int(header[0]), width=int(header[1]))
            return _read_text(_lines(first, file, path), path, by_bytes, width=len(header) - 1, start=1)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise UsageError("E-WORD-VECTORS", f"{path} cannot be read: {error}; copy it again from its source") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.open(file) as unpacked:
            yield cast("IO[bytes]", unpacked)


def _read_word2vec(
    file: IO[bytes], path: Path, wanted: Mapping[bytes, str], *, count: int, width: int
) -> dict[str, NDArray[np.float32]]:
    """What follows a line ``count width``: text if the first record is a line of numbers, else binary."""
    if not 0 < width <= MAX_WIDTH:
        raise _refused(path, f"line 1 promises vectors of width {width}")
    start = file.tell()
    first = file.readline(MAX_LINE)
    if _is_text_record(first, width):
        return _read_text(_lines(first, file, path), path, wanted, width=width, start=2)
    file.seek(start)
    return _read_binary(file, path, wanted, count=count, width=width)


def _is_text_record(line: bytes, width: int) -> bool:
    parts = line.rsplit(maxsplit=width)
    if len(parts) != width + 1:
        return False
    try:
        [float(part) for part in parts[1:]]
    except ValueError:
        return False
    return True


def _line(file: IO[bytes], path: Path) -> bytes:
    line = file.readline(MAX_LINE)
    if len(line) == MAX_LINE:
        raise _refused(path, f"a line has more than {MAX_LINE} bytes")
    return line


def _lines(first: bytes, file: IO[bytes], path: Path) -> Iterator[bytes]:
    line = first
    while line:
        yield line
        line = _line(file, path)


def _read_text(
    lines: Iterator[bytes], path: Path, wanted: Mapping[bytes, str], *, width: int, start: int
) -> dict[str, NDArray[np.float32]]:
    """Lines ``word v1 ... vW``. Only those of wanted words are parsed; the first of a repeated word counts."""
    if not 0 < width <= MAX_WIDTH:
        raise _refused(path, f"line {start} is not a word and its numbers")
    found: dict[str, NDArray[np.float32]] = {}
    for number, line in enumerate(lines, start=start):
        word = wanted.get(line.split(b" ", 1)[0])
        if word is not None and word not in found:
            # From the right: some published files have words with spaces in them, which then are not ours.
            parts = line.rsplit(maxsplit=width)
            if parts[0].decode(errors="replace") == word:
                found[word] = _vector(parts[1:], path, number, width)
    return found


def _vector(parts: Sequence[bytes], path: Path, number: int, width: int) -> NDArray[np.float32]:
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    with np.errstate(over="ignore"):
        vector = np.array(values, dtype=np.float32)
    if len(vector) != width or not np.isfinite(vector).all():
        raise _refused(path, f"line {number} is not a word and {width} finite numbers")
    return vector


def _read_binary(
    file: IO[bytes], path: Path, wanted: Mapping[bytes, str], *, count: int, width: int
) -> dict[str, NDArray[np.float32]]:
    """Records: the word's bytes, a space, `width` little-endian float32, perhaps a line feed."""
    found: dict[str, NDArray[np.float32]] = {}
    size = 4 * width
    buffer, at = b"", 0
    for number in range(1, count + 1):
        end = buffer.find(b" ", at)
        while end < 0 or len(buffer) < end + 1 + size:
            if end < 0 and len(buffer) - at > MAX_WORD:
                raise _refused(path, f"word {number} has more than {MAX_WORD} bytes")
            block = file.read(max(MAX_LINE, size))
            if not block:
                raise _refused(path, f"it ends within word {number} of {count}")
            buffer, at = buffer[at:] + block, 0
            end = buffer.find(b" ")
        word = wanted.get(buffer[at:end].lstrip(b"\n"))
        if word is not None and word not in found:
            vector = np.frombuffer(buffer, dtype="<f4", count=width, offset=end + 1)
            if not np.isfinite(vector).all():
                raise _refused(path, f"the vector of {word!r} is not finite")
            found[word] = vector.astype(np.float32)
        at = end + 1 + size
    return found


def _refused(path: Path, reason: str) -> UsageError:
    return UsageError(
        "E-WORD-VECTORS",
        f"{path} is not a word vector file: {reason}; expected .npy, GloVe text, word2vec text or word2vec binary",
    )
