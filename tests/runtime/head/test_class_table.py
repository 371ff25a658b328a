"""The ordered classes of a model, and their names."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.errors import UsageError
from zsl_runtime.head.class_table import (
    ClassTable,
    check_class_name,
    check_holdable,
    check_numbers,
    in_stored_form,
)
from zsl_runtime.head.names import TURNING


@given(name=st.text(max_size=20))
def test_a_stored_name_is_stored_unchanged_the_next_time(name):
    try:
        stored = check_class_name(name)
    except UsageError:
        stored = "refused"
    assert check_class_name(stored) == stored


def test_tables_append_take_and_find():
    first = ClassTable(("a", "b"), np.array([True, False]), np.eye(2), ("p", "q"))
    second = ClassTable(("c",), np.array([False]), np.ones((1, 2)), ("p", "q"))
    both = first.append(second)
    assert (both.names, both.seen.tolist(), len(both)) == (("a", "b", "c"), [True, False, False], 3)
    taken = both.take(np.array([2, 0]))
    assert (taken.names, taken.raw.tolist()) == (("c", "a"), [[1.0, 1.0], [1.0, 0.0]])
    assert both.index("c") == 2
    with pytest.raises(UsageError, match="E-CLASS-UNKNOWN"):
        both.index("d")
    with pytest.raises(UsageError, match=r"'crows' is not in this model \(did you mean Crow\?\); it knows 1 classes"):
        ClassTable(("Crow",), np.array([False]), np.ones((1, 2)), ("p", "q")).index("crows")
    with pytest.raises(UsageError, match="E-ATTRIBUTES"):
        first.append(ClassTable(("c",), np.array([False]), np.ones((1, 2)), ("q", "p")))
    with pytest.raises(UsageError, match="E-CLASSES-SHAPE"):
        ClassTable(("a",), np.array([True]), np.eye(2), ("p", "q"))


NFC, NFD = "Übersee-Ente", unicodedata.normalize("NFD", "Übersee-Ente")


def one_class(name: str, value: float = 1.0) -> ClassTable:
    return ClassTable((name,), np.array([False]), np.array([[value]]), ("a",))


@pytest.mark.parametrize("stored", [NFC, NFD])
@pytest.mark.parametrize("asked", [NFC, NFD, f"  {NFD}\t"])
def test_a_class_is_found_in_whatever_form_its_name_is_given(stored, asked):
    table = one_class(stored)
    assert table.names == (NFC,)
    assert table.index(asked) == 0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Fish Crow", "(did you mean 'Fish\\xa0Crow'? They differ in spaces of another kind or number)"),
        ("fish\u00a0crow", "(did you mean Fish\u00a0Crow?)"),
        (np.str_("Jay"), "class 'Jay' is not in this model; it knows 1 classes"),
    ],
)
def test_a_class_that_is_not_there_is_told_with_the_one_that_looks_like_it(name, told):
    with pytest.raises(UsageError) as caught:
        one_class("Fish\u00a0Crow").index(name)
    assert caught.value.code == "E-CLASS-UNKNOWN"
    assert " ".join(told.split()) in caught.value.message


@pytest.mark.parametrize("name", [5, b"Crow", None])
def test_a_name_that_is_no_text_is_told_wherever_it_is_given(name):
    told = rf"E-CLASS-NAME: class .* is no text \({type(name).__name__}\); names are, also those of digits"
    for door in (one_class, one_class("Crow").index, check_class_name, lambda one: in_stored_form({one: 1})):
        with pytest.raises(UsageError, match=told):
            door(name)


@pytest.mark.parametrize("letter", sorted(TURNING))
def test_letters_that_turn_others_are_no_part_of_a_new_name_and_marks_may_be_of_one_that_is_there(letter):
    """Names of Arabic and Hebrew may hold marks; overrides and embeddings are of nobody's names."""
    told = rf"E-CLASS-NAME: .*U\+{ord(letter):04X}, which cannot be seen and turns"
    with pytest.raises(UsageError, match=told):
        check_class_name(f"cod{letter}exe")
    if letter in "\u061c\u200e\u200f":
        assert check_holdable(f"cod{letter}exe") == f"cod{letter}exe"
    else:
        with pytest.raises(UsageError, match=told):
            check_holdable(f"cod{letter}exe")


def test_what_is_given_by_name_is_found_by_the_stored_name():
    assert in_stored_form({f" {NFD}": 1, "x": 2}) == {NFC: 1, "x": 2}
    with pytest.raises(UsageError, match="E-CLASS-DUPLICATE"):
        in_stored_form({NFD: 1, NFC: 2})


@pytest.mark.parametrize("value", [1e300, -1e39, 3.5e38, float("inf"), float("nan")])
def test_numbers_that_no_model_can_hold_are_refused(value):
    with pytest.raises(UsageError, match="E-ATTRIBUTE-VALUE: here: attribute 'a' of class 'x' is"):
        check_numbers(one_class("x", value), "here")
    check_numbers(one_class("x", -3.4e38), "here")
