"""When two names are one, and when they only look like it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.head.names import (
    FORMULA,
    INVISIBLE,
    LOOKS_LATIN,
    TURNING,
    as_cell,
    difference,
    doubtful,
    look,
    of_cell,
    stored_form,
)


@given(text=st.text(max_size=20))
def test_the_stored_form_is_composed_and_stays(text):
    stored = stored_form(text)
    assert stored == unicodedata.normalize("NFC", text).strip() == stored_form(stored)
    assert stored == stored_form(unicodedata.normalize("NFD", text))


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("Fish Crow", "Fish\u00a0Crow", "spaces of another kind or number"),
        ("Fish Crow", "Fish  Crow", "spaces of another kind or number"),
        ("Fish Crow", "Fish\u200b Crow", "letters that cannot be seen"),
        ("Fish Crow", "Fi\u00adsh Crow", "letters that cannot be seen"),
        ("Crow", "\ufeffCrow", "letters that cannot be seen"),
        ("Crow", "crow", "case"),
        ("Stra\u00dfe", "STRASSE", "case"),
        ("Blue_Jay", "Blue Jay", "underscores, spaces or dots"),
        ("Crow sp.", "Crow sp", "underscores, spaces or dots"),
        ("\uff23row", "Crow", "the form or width of letters"),
        ("\ufb01sh", "fish", "the form or width of letters"),
        ("\u0421row", "Crow", "letters of another script"),
        ("Blue\u00a0_jay", "Blue Jay", "case, underscores, spaces or dots"),
    ],
)
def test_names_that_look_alike_are_told_with_what_sets_them_apart(one, other, differ):
    assert look(one) == look(other)
    assert difference(one, other) == difference(other, one) == differ
    for old, new in ((one, other), (other, one)):
        (line,) = doubtful([new], [old])
        assert line.startswith(f"class {new!r} looks like {old!r} and is another one: they differ in {differ};")
    assert sum("looks like" in line for line in doubtful([one, other])) == 1


@pytest.mark.parametrize(
    "names", [("Crow", "Crew"), ("A 1", "A 2"), ("Mo\u0308we".replace("o\u0308", "\u00f6"), "Mowe"), ("\u00e9", "e")]
)
def test_names_that_differ_in_letters_are_left_alone(names):
    assert doubtful(names) == ()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Fish\u200bCrow", "letters that cannot be seen: U+200B"),
        ("Fish\u2060\u00adCrow", "letters that cannot be seen: U+00AD, U+2060"),
        ("M\u00c3\u00bcller", "seems to be 'M\u00fcller', read with another encoding"),
        ("M\ufffdller", "U+FFFD, which stands for a letter that a program could not read"),
        ("\u0421row", "mixes letters of the scripts Latin and Cyrillic that look alike"),
    ],
)
def test_a_name_that_holds_what_nobody_sees_is_told(name, told):
    (line,) = doubtful([name])
    assert told in line


@pytest.mark.parametrize(
    "name",
    [
        "\u0645\u06cc\u200c\u0631\u0648\u062f",  # Persian, with the joiner that its spelling wants
        "\U0001f468\u200d\U0001f33e",  # a farmer, of two signs that are joined
        "\u2764\ufe0f",
        "\u0427\u0430\u0439\u043a\u0430",
        "\u0391\u03b5\u03c4\u03cc\u03c2",
        "Chat no\u00efr \u2116 5",
        "\u03b2-Carotin moth",
    ],
)
def test_names_of_any_writing_are_no_doubt(name):
    assert doubtful([name]) == ()


def test_what_is_said_of_letters_agrees_with_unicode():
    """What turns others is what Python calls a format character and has a direction, or is a mark of one."""
    formats = {letter for letter in map(chr, range(0x110000)) if unicodedata.category(letter) == "Cf"}
    turning = {"LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    marks = {"\u200e", "\u200f", "\u061c"}
    assert {letter for letter in formats if unicodedata.bidirectional(letter) in turning} | marks == TURNING
    assert all(INVISIBLE.fullmatch(letter) for letter in TURNING)
    seen = {"Lu", "Ll", "Lt", "Nd", "Pd", "Po", "Sm", "Zs"}
    assert not [one for one in map(chr, range(0x10FFFF)) if INVISIBLE.match(one) and unicodedata.category(one) in seen]
    assert all(unicodedata.name(chr(one)).split()[0] in {"CYRILLIC", "GREEK", "LATIN"} for one in LOOKS_LATIN)


@given(text=st.text(max_size=6) | st.text(alphabet="'=+-@\t\r\uff1da", max_size=6))
def test_a_cell_is_never_a_formula_and_gives_its_text_back(text):
    """What OWASP lists for CSV injection; texts that begin otherwise stay as they are."""
    cell = as_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20"))
    assert of_cell(cell) == text
    assert cell == text or text.lstrip("'").startswith(FORMULA)
