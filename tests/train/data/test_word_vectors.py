"""Word vectors: four kinds of files, sums of words, and whatever can be wrong with a file."""

from __future__ import annotations

import gzip
import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.errors import UsageError, ZslError
from zsl_train.data.word_vectors import attribute_words, learned_word_vectors, load_word_vectors

VOCABULARY = {
    "bill": [0.5, -1.0, 2.0],
    "red": [0.25, 0.0, 1.5],
    "Gray": [1.0, 1.0, 1.0],
    "gray": [-3.0, 0.125, 4.0],
    "unused": [9.0, 9.0, 9.0],
}
WORDS = ("bill red", "gray", "Gray bill", "Red", "zzz", "red zzz red")
EXPECTED = np.array([[0.75, -1, 3.5], [-3, 0.125, 4], [1.5, 0, 3], [0.25, 0, 1.5], [0, 0, 0], [0.5, 0, 3]])


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    (tmp_path / "v.txt").write_bytes(b"\xef\xbb\xbf" + glove())
    np.testing.assert_array_equal(load_word_vectors(tmp_path / "v.txt", ("bill",)).vectors, [[0.5, -1, 2]])


def glove() -> bytes:
    return b"".join(f"{w} {' '.join(map(str, v))}\n".encode() for w, v in VOCABULARY.items())


def word2vec_text() -> bytes:
    return f"{len(VOCABULARY)} 3\n".encode() + glove()


def word2vec_binary(end: bytes = b"\n") -> bytes:
    records = (w.encode() + b" " + struct.pack("<3f", *v) + end for w, v in VOCABULARY.items())
    return f"{len(VOCABULARY)} 3\n".encode() + b"".join(records)


FILES = {
    "glove.txt": glove(),
    "word2vec.txt": word2vec_text(),
    "word2vec.bin": word2vec_binary(),
    "gensim.bin": word2vec_binary(end=b""),
    "glove.txt.gz": gzip.compress(glove()),
    "word2vec.bin.gz": gzip.compress(word2vec_binary()),
    "windows.txt": glove().replace(b"\n", b" \r\n"),
}


def write(tmp_path, content: bytes, name: str = "v.txt"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def refused(path, part: str, words=WORDS) -> None:
    with pytest.raises(UsageError) as caught:
        load_word_vectors(path, words)
    assert caught.value.code == "E-WORD-VECTORS"
    assert part in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_an_attributes_vector_is_the_sum_of_its_words(tmp_path, name):
    loaded = load_word_vectors(write(tmp_path, FILES[name], name), WORDS)
    assert loaded.vectors.dtype == np.float32
    np.testing.assert_array_equal(loaded.vectors, EXPECTED)
    assert loaded.missing_words == ("zzz",)
    assert loaded.empty == (4,)
    assert loaded.notes == (
        "1 words have no vector and are skipped: 'zzz'",
        "1 attributes have an all-zero word vector and find no region: 'zzz'",
    )


def test_words_with_spaces_in_a_published_file_are_not_ours(tmp_path):
    content = glove() + b"new york 5 5 5\nbill gates 7 7 7\nbill 8 8 8\n"
    loaded = load_word_vectors(write(tmp_path, content), ("bill", "york", "new york"))
    np.testing.assert_array_equal(loaded.vectors[0], VOCABULARY["bill"])
    assert loaded.missing_words == ("new", "york")


def test_a_binary_file_larger_than_the_buffer(tmp_path):
    draw = np.random.default_rng(0)
    names = [f"word{i}" for i in range(9000)]
    vectors = draw.standard_normal((9000, 50)).astype("<f4")
    content = b"9000 50\n" + b"".join(
        n.encode() + b" " + v.tobytes() + b"\n" for n, v in zip(names, vectors, strict=True)
    )
    assert len(content) > 1 << 20
    loaded = load_word_vectors(write(tmp_path, content, "w.bin"), ("word0 word8999", "word4500"))
    np.testing.assert_allclose(loaded.vectors[0], vectors[0] + vectors[8999], rtol=1e-6)
    np.testing.assert_array_equal(loaded.vectors[1], vectors[4500])


def test_arrays_are_taken_row_by_row(tmp_path):
    for dtype in ("<f2", "<f4", ">f8"):
        np.save(tmp_path / "a.npy", EXPECTED.astype(dtype))
        loaded = load_word_vectors(tmp_path / "a.npy", WORDS)
        np.testing.assert_array_equal(loaded.vectors, EXPECTED)
        assert loaded.vectors.dtype == np.float32
        assert loaded.empty == (4,)
    np.save(tmp_path / "f.npy", np.asfortranarray(EXPECTED))
    np.testing.assert_array_equal(load_word_vectors(tmp_path / "f.npy", WORDS).vectors, EXPECTED)


def saved(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=EXPECTED)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "cannot be read as an .npy array"),
        (b"\x93NUMPY", "cannot be read as an .npy array"),
        (saved(EXPECTED)[:-8], "cannot be read as an .npy array"),
        (saved(EXPECTED).replace(b"(6, 3)", b"(6,33)"), "cannot be read as an .npy array"),
        (saved(np.array([{}], dtype=object), allow_pickle=True), "cannot be read as an .npy array"),
        (archive(), "cannot be read as an .npy array"),
        (saved(EXPECTED[0]), "float64 (3,); expected (6, W)"),
        (saved(EXPECTED.astype(np.int64)), "int64 (6, 3)"),
        (saved(EXPECTED.astype(np.complex64)), "complex64"),
        (saved(EXPECTED[:5]), "5 rows for 6 attributes"),
        (saved(np.where(EXPECTED == 4, np.nan, EXPECTED)), "row 1: values are not finite"),
        (saved(np.where(EXPECTED == 4, 1e300, EXPECTED)), "row 1: values are not finite"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, content, part):
    refused(write(tmp_path, content, "v.npy"), part)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "line 1 is not a word and its numbers"),
        (b"\n", "line 1 is not a word and its numbers"),
        (b"bill\n", "line 1 is not a word and its numbers"),
        (b"red 1 2 3\nbill 1 2\n", "line 2 is not a word and 3 finite numbers"),
        (b"red 1 2 x\n", "line 1 is not a word and 3 finite numbers"),
        (b"red 1 2 inf\n", "line 1 is not a word and 3 finite numbers"),
        (b"red 1 2 1e39\n", "line 1 is not a word and 3 finite numbers"),
        (b"2 0\nred\n", "promises vectors of width 0"),
        (b"2 999999999\nred 1\n", "promises vectors of width 999999999"),
        (b"5 3\n" + word2vec_binary()[4:40], "it ends within word 3 of 5"),
        (b"5 3\n" + b"x" * 5000, "has more than 1024 bytes"),
        (b"1 1\nred " + struct.pack("<f", np.inf), "the vector of 'red' is not finite"),
        (b"a" * (1 << 20), "a line has more than"),
        (b"other 1 2 3\n", "knows none of the 6 words"),
        (gzip.compress(glove())[:-20], "cannot be read"),
        (gzip.compress(glove())[:12] + b"\xff" * 40, "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, part):
    refused(write(tmp_path, content), part)


def test_no_file(tmp_path):
    refused(tmp_path / "absent.txt", "no word vector file at")
    refused(tmp_path, "no word vector file at")


@settings(max_examples=150, deadline=None)
@given(start=st.sampled_from([b"", b"2 3\n", b"\x1f\x8b", b"\x93NUMPY\x01\x00", b"red "]), rest=st.binary(max_size=120))
@pytest.mark.parametrize("name", ["v.txt", "v.npy"])
def test_arbitrary_bytes_are_an_error_of_ours_or_finite_vectors(tmp_path_factory, name, start, rest):
    path = write(tmp_path_factory.mktemp("v"), start + rest, name)
    try:
        vectors = load_word_vectors(path, ("red", "a b")).vectors
    except ZslError as error:
        vectors = np.zeros((2, 1))
        assert_one_line(error)
    assert vectors.shape[0] == 2
    assert np.isfinite(vectors).all()


def assert_one_line(error: ZslError) -> None:
    assert error.code == "E-WORD-VECTORS"
    assert "\n" not in str(error)


@settings(max_examples=50, deadline=None)
@given(
    table=st.dictionaries(
        st.text(st.characters(categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=6),
        st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4),
        min_size=1,
        max_size=8,
    ),
    binary=st.booleans(),
)
def test_every_word_of_a_file_is_found_with_its_vector(tmp_path_factory, table, binary):
    records = [
        word.encode() + b" " + (struct.pack("<4f", *v) if binary else " ".join(map(repr, v)).encode()) + b"\n"
        for word, v in table.items()
    ]
    path = write(tmp_path_factory.mktemp("v"), f"{len(table)} 4\n".encode() + b"".join(records))
    loaded = load_word_vectors(path, tuple(table))
    np.testing.assert_array_equal(loaded.vectors, np.array(list(table.values()), dtype=np.float32))
    assert loaded.missing_words == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("has_bill_shape::curved_(up_or_down)", "bill shape curved"),
        ("has_bill_shape::spatulate", "bill shape broad"),
        ("has_upperparts_color::grey", "upper parts color gray"),
        ("has_wing_pattern::multi-colored", "wing pattern multi colored"),
        ("has_size::large_(16_-_32_in)", "size large"),
        ("bill_shape=all-purpose", "bill shape all purpose"),
        ("newworld", "new world"),
        ("oldworld", "old world"),
        ("nestspot", "nest spot"),
        ("toughskin", "tough skin"),
        ("longleg", "long leg"),
        ("chewteeth", "chew teeth"),
        ("meatteeth", "meat teeth"),
        ("strainteeth", "strain teeth"),
        ("quadrapedal", "quadrupedal"),
        ("man-made", "man made"),
        ("rock/stone", "rock stone"),
        ("rockstone", "rock stone"),
        ("dirtsoil", "dirt soil"),
        ("sunsunny", "sun sunny"),
        ("electricindoor lighting", "electric indoor lighting"),
        ("semi-enclosed area", "semi enclosed area"),
        ("far-away horizon", "faraway horizon"),
        ("Longueur d'aile", "longueur d'aile"),
        ("(?)", "(?)"),
    ],
)
def test_names_become_words(name, words):
    assert attribute_words(name) == words


@given(st.text(min_size=1))
def test_words_are_never_empty_and_cleaning_twice_changes_nothing_more(name):
    words = attribute_words(name)
    assert words
    assert words == name or attribute_words(words).split() == words.split()


def test_vectors_to_be_learned_are_random_unit_rows_and_say_so():
    drawn = learned_word_vectors(20, 30, seed=4)
    assert drawn.vectors.shape == (20, 30)
    assert drawn.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(drawn.vectors, axis=1), 1, rtol=1e-6)
    assert "learned from scratch" in drawn.notes[0]
    np.testing.assert_array_equal(learned_word_vectors(20, 30, seed=4).vectors, drawn.vectors)
    assert (learned_word_vectors(20, 30, seed=5).vectors != drawn.vectors).all()
