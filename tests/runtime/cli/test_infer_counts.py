"""The counts at the end of a run, against counting by hand; words for every error code of an input."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.scripts import load_tool
from zsl_runtime.cli.infer_counts import MOST_CLASSES, REASONS, Counts
from zsl_runtime.errors import InputError
from zsl_runtime.labelling.snapshot import Labelled, Prediction

ROOT = Path(__file__).parents[3]


def answer(name: str, probability: float) -> Prediction:
    return Prediction((name, "other"), (True, False), (probability, (1 - probability) / 2))


def lines_of(answers, unit="pictures", kinds=None, after=0) -> list[str]:
    counts = Counts()
    for start in range(0, len(answers), 3):
        counts.add([Labelled(str(i), result) for i, result in enumerate(answers[start : start + 3])])
    return list(counts.lines(unit, kinds or {}, after=after))


@given(st.lists(st.tuples(st.sampled_from([f"class {i}" for i in range(15)]), st.floats(0, 1)), max_size=200))
def test_classes_are_counted_the_most_frequent_first(pairs):
    lines = lines_of([answer(*pair) for pair in pairs])
    if not pairs:
        assert lines == []
        return
    names = [name for name, _ in pairs]
    told = [line.split(maxsplit=1) for line in lines[1:-1] if " and " not in line]
    assert [(name, int(count)) for count, name in told] == sorted(
        ((name, names.count(name)) for name in set(names)), key=lambda pair: (-pair[1], pair[0])
    )[:MOST_CLASSES]
    unsure = len([chance for _, chance in pairs if chance < 0.5])
    assert lines[-1] == f"unsure, with a best probability below 0.5: {unsure} of {len(pairs)}"
    assert len(lines) <= MOST_CLASSES + 3
    rest = len(set(names)) - MOST_CLASSES
    assert (len([line for line in lines if " more class" in line]) == 1) == (rest > 0)


def test_the_rest_is_one_line():
    names = [name for i in range(24) for name in [f"class {i:02d}"] * (30 - i)]
    lines = lines_of([answer(name, 0.9) for name in names])
    assert lines[0] == f"best classes of {sum(range(7, 31))} pictures:"
    assert lines[1] == "  30  class 00"
    assert lines[10:12] == ["  21  class 09", f"      and 14 more classes, {sum(range(7, 21))} pictures"]
    one = lines_of([answer(f"class {i:02d}", 0.9) for i in range(11)])
    assert one[-2] == "     and 1 more class, 1 picture"


def test_exactly_the_threshold_is_not_unsure():
    assert lines_of([answer("a", 0.5)])[-1].endswith(": 0 of 1")
    assert lines_of([answer("a", 0.4999)])[-1].endswith(": 1 of 1")


def test_an_error_code_without_words_is_counted_all_the_same():
    assert lines_of([InputError("E-NEW", "x")]) == ["not readable: 1 left out (E-NEW)"]


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ({".txt": 2}, "2 .txt"),
        ({".a": 1, ".b": 9, "hidden": 2}, "9 .b, 2 hidden, 1 .a"),
        ({f".{i}": 1 for i in range(7)}, "1 .0, 1 .1, 1 .2, 1 .3, 1 .4, 2 more"),
    ],
)
def test_kinds_of_files(kinds, told):
    assert lines_of([], kinds=kinds) == [f"files of other kinds: {told}"]


def test_every_error_code_of_an_input_has_words():
    error_codes = load_tool("error_codes")
    codes = {site.code for site in error_codes.Codes(ROOT).sites if site.kind == "InputError"}
    doors = ("E-ANSWER-", "E-FOLDER", "E-IMAGE-", "E-ROW-", "E-SHARD-", "E-STORE-")
    of_labelling = {code for code in codes if code.startswith(doors)}
    assert set(REASONS) == of_labelling
    assert len(set(REASONS.values())) == len(REASONS)
