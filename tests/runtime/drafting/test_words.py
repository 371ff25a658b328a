"""Names of attributes as words, texts as sentences and clauses, and what these say of those."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.drafting.evidence import CARRIED, SAID, first_length, told
from zsl_runtime.drafting.lexicon import ALIKE, stem
from zsl_runtime.drafting.phrases import Phrase, phrases, words
from zsl_runtime.drafting.text import MOST_TEXT, clauses, read_description, sentences
from zsl_runtime.errors import SystemProblem, UsageError

BIRD = (
    "wing_color=brown",
    "wing_color=grey",
    "wing_color=rufous",
    "has_bill_shape::curved_(up_or_down)",
    "has_bill_shape::hooked_seabird",
    "under_tail_color=white",
    "upper_tail_color=white",
    "throat_color=white",
    "throat_color=black",
    "crest=present",
    "size=small_(5_-_9_in)",
    "size=medium_(9_-_16_in)",
    "furry",
    "primary_color=black",
)


def says(text: str, *names: str) -> list[float]:
    """How plainly a text says some of BIRD."""
    found = told(text, phrases(BIRD))
    return [float(found.score[BIRD.index(name)]) for name in names]


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("wing_color=brown", Phrase("wing_color", "wing", ("brown",), None)),
        ("has_bill_shape::curved_(up_or_down)", Phrase("has_bill_shape", "bill", ("curved",), None)),
        ("under_tail_color=gray", Phrase("under_tail_color", "under tail", ("grey",), None)),
        ("size=small_(5_-_9_in)", Phrase("size", "", ("small",), (12.7, 22.86))),
        ("Bill Length=about_the_same_as_head", Phrase("Bill Length", "bill", ("head",), None)),
        ("tail_shape=forked_tail", Phrase("tail_shape", "tail", ("forked",), None)),
        ("wing_shape=wings", Phrase("wing_shape", "wing", ("wings",), None)),
        ("shape=long-legged-like", Phrase("shape", "", ("long", "legged"), None)),
        ("furry", Phrase("furry", "", ("furry",), None, bare=True)),
        ("größe", Phrase("größe", "", ("grösse",), None, bare=True)),
        ("crest=", Phrase("crest=", "", ("crest",), None, bare=True)),
    ],
)
def test_a_name_is_about_a_part_and_says_a_value(name, phrase):
    (found,) = phrases((name,))
    assert found._replace(lengths=None) == phrase._replace(lengths=None)
    assert found.lengths == (None if phrase.lengths is None else pytest.approx(phrase.lengths))


@pytest.mark.parametrize(
    "names", [tuple(f"att{n}" for n in range(1, 313)), tuple(map(str, range(9))), ("a 1", "a 2", "A_3", "b4", "b5")]
)
def test_names_that_are_numbers_are_refused(names):
    with pytest.raises(UsageError) as caught:
        phrases(names)
    assert caught.value.code == "E-DRAFT-ATTRIBUTES"
    assert repr(names[0]) in caught.value.message


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8, unique=True))
def test_any_names_are_words_or_refused_in_one_line(names):
    if len({tuple(words(name)) for name in names}) <= len(names) // 2:
        with pytest.raises(UsageError, match="which no text can be about"):
            phrases(tuple(names))
        return
    found = phrases(tuple(names))
    assert len(found) == len(names)
    assert np.isfinite(told("A small brown bird; it has no crest.", found).score).all()


def test_words_have_one_spelling():
    assert words("Greyish-brown, GRAY colour; wing_bar 12") == ["greyish", "brown", "grey", "color", "wing", "bar"]


@pytest.mark.parametrize(
    "family",
    ["grey greyish gray", "spot spots spotted", "stripe stripes striped", "red reddish", "white whitish", "bar barred"],
)
def test_words_of_one_family_have_one_stem_and_others_another(family):
    assert len({stem(word) for word in family.split()}) == 1
    assert len({stem(word) for word in ("grey", "green", "spot", "stripe", "red", "white", "bar", "brown")}) == 8
    assert stem("is") == "is"


def test_sentences_and_clauses():
    text = "A bird of 2.5 cm, brown above;\nwhite below. It sings!\n\nNo more"
    assert sentences(text) == ["A bird of 2.5 cm, brown above", "white below.", "It sings!", "No more"]
    assert clauses("Brown, with white (rarely grey) wings and a black bill: 3") == [
        "Brown",
        "white",
        "rarely grey",
        "wings",
        "a black bill",
    ]
    assert sentences(" \n .;. \n") == []


def test_a_value_is_said_of_the_part_of_its_clause():
    assert says("The wings are brown, the throat is white.", "wing_color=brown", "throat_color=white") == [1, 1]
    assert says("The wings are brown, the throat is white.", "wing_color=grey", "throat_color=black") == [0, 0]


def test_a_clause_without_a_part_goes_on_about_the_one_before():
    assert says("The wings are brown, rarely grey.", "wing_color=grey") == [CARRIED]
    assert says("The wings are brown. Rarely grey.", "wing_color=grey") == [0]


def test_words_of_like_meaning_say_less_than_the_word_itself():
    assert says("Wings chestnut.", "wing_color=rufous", "wing_color=brown") == [ALIKE, ALIKE]
    assert says("Chin black.", "throat_color=black") == [1]
    assert says("The tail is white.", "under_tail_color=white", "upper_tail_color=white") == [1, 1]
    assert says("The under tail is white.", "under_tail_color=white") == [1]


def test_what_is_said_of_a_list_is_said_of_each():
    names = ("wing_color=grey", "back_color=grey", "bill_color=grey", "nape_color=white", "bill_color=white")
    some = phrases(names)
    assert told("The back and the wings are grey, the bill is white.", some).score.tolist() == [1, 1, 0, 0, 1]
    assert told("It has a white nape, bill and grey wings.", some).score.tolist() == [1, 0, 0, 1, 1]
    assert told("The back is long and slender, the wings grey.", some).score.tolist() == [1, 0, 0, 0, 0]


def test_above_is_of_the_part_before_where_there_is_one():
    back = phrases(("back_color=black", "back_color=white", "bill_color=black", "bill_color=white"))
    assert told("It is black above.", back).score.tolist() == [1, 0, 0, 0]
    assert told("The bill is pointed, black above.", back).score.tolist() == [0, 0, CARRIED, 0]


def test_of_the_whole_every_word_must_be_said():
    whole = phrases(("shape=long-legged-like", "shape=duck-like", "bright top", "bright left"))
    assert told("A long bird, bright red.", whole).score.tolist() == [0, 0, 0, 0]
    assert told("A duck with a bright top.", whole).score.tolist() == [0, 1, 1, 0]


def test_what_is_missing_is_not_said():
    assert says("The throat is never black.", "throat_color=black") == [0]
    assert says("The throat is white without black.", "throat_color=white") == [1]
    found = told("It has no crest.", phrases(BIRD))
    at = BIRD.index("crest=present")
    assert (found.score[at], found.known[at]) == (0, True)
    assert says("It has a crest.", "crest=present") == [1]
    assert not told("It has feathers.", phrases(BIRD)).known[at]


def test_where_one_value_is_said_the_others_are_known_not_to_be():
    found = told("The wings are brown. A furry animal.", phrases(BIRD))
    known = {name for name, one in zip(BIRD, found.known, strict=True) if one}
    assert known == {"wing_color=brown", "wing_color=grey", "wing_color=rufous", "furry"}
    assert found.sentence[1] == "The wings are brown."
    assert found.sentence[BIRD.index("throat_color=white")] == ""
    assert (found.score > SAID).sum() == 2


def test_a_length_decides_between_lengths():
    small, medium = (BIRD.index(f"size={one}") for one in ("small_(5_-_9_in)", "medium_(9_-_16_in)"))
    found = told("A shy bird. It is 28 to 31 cm long, the wing 5 in.", phrases(BIRD))
    assert (found.score[small], found.score[medium]) == (0, 1)
    assert found.sentence[medium] == "It is 28 to 31 cm long, the wing 5 in."
    assert found.known[small]
    assert says("A small bird of the woods.", "size=small_(5_-_9_in)") == [1]
    assert says("A bird of the woods. The bill is small.", "size=small_(5_-_9_in)") == [0]


@pytest.mark.parametrize(
    ("text", "centimetres"),
    [
        ("about 80 cm long", 80),
        ("28 to 31 cm", 29.5),
        ("5-6 in", 5.5 * 2.54),
        ("1,5 metres", 150),
        ("20–22 millimetres", 2.1),
        ("two feet", None),
        ("2 feet", 60.96),
        ("12 inches tall", 30.48),
        ("12 inner feathers", None),
        ("it weighs 20 g", None),
    ],
)
def test_lengths_of_any_unit_are_centimetres(text, centimetres):
    found = first_length(text)
    assert (found is None) == (centimetres is None)
    if found is not None:
        assert found == (pytest.approx(centimetres), text)


@pytest.mark.parametrize("piece", ["9", "1 to ", "wing,", "(", ". a", "red ", "no ", "1.", "a\n\n", "-"])
def test_a_text_as_long_as_may_be_is_read_in_no_time(piece):
    """No part of it takes time that grows with the square of its length: that would be minutes."""
    started = time.process_time()
    told(piece * (MOST_TEXT // len(piece)), phrases((*BIRD, *(f"wing_color={k}" for k in "abcdefghijklmnopqrst"))))
    phrases((piece * 20_000, f"wing=({piece * 20_000}", "size=1_to_"))
    assert time.process_time() - started < 5


@given(st.text(max_size=300))
def test_whatever_the_text_is_scores_are_shares_and_sentences_are_of_the_text(text):
    found = told(text, phrases(BIRD))
    assert ((found.score >= 0) & (found.score <= 1)).all()
    assert set(found.sentence) <= {"", *sentences(text)}
    assert (found.known | (found.score <= SAID)).all()
    assert found.score.shape == found.known.shape == (len(BIRD),)
    assert np.isfinite(found.score).all()


def test_a_description_is_text_of_bounded_size(tmp_path):
    path = tmp_path / "bird.txt"
    for data, told_of in (
        (b"", "holds no word"),
        (b" \n 12 .", "holds no word"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "no text in UTF-8"),
        ("Größe".encode("latin-1"), "no text in UTF-8 (byte 2)"),
        (b"PK\x03\x04" + bytes(30), "control characters"),
        ("A bird.".encode("utf-16"), "no text in UTF-8"),
        (b"a" * (MOST_TEXT + 1), f"where at most {MOST_TEXT:,} can be"),
    ):
        path.write_bytes(data)
        with pytest.raises(UsageError) as caught:
            read_description(path)
        assert caught.value.code == "E-DRAFT-TEXT"
        assert told_of in caught.value.message
    path.write_bytes(b"\xef\xbb\xbfA bird.\r\n")
    assert read_description(path) == "A bird.\r\n"
    with pytest.raises(UsageError):
        read_description("/dev/zero")
    with pytest.raises(SystemProblem):
        read_description(tmp_path / "none.txt")
    with pytest.raises(SystemProblem):
        read_description(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="nobody writes to"):
        read_description(tmp_path / "pipe")
