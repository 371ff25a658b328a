"""What --precision may say: every list of known names in any order, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_export.precisions import FILES, files_of, parse_precisions
from zsl_runtime.bundle.manifest import PRECISION_FILES, PRECISIONS

LISTS = st.permutations(list(FILES)).flatmap(lambda names: st.integers(1, len(names)).map(lambda n: names[:n]))
SPACE = st.text(" \t", max_size=2)


@settings(max_examples=25)
@given(LISTS, st.data())
def test_any_order_case_and_spaces(names, data):
    words = [
        data.draw(SPACE) + "".join(data.draw(st.sampled_from((c, c.upper()))) for c in name) + data.draw(SPACE)
        for name in names
    ]
    assert parse_precisions(",".join(words)) == tuple(names)


WORDS = st.lists(st.sampled_from([*FILES, "bf16", "", "fp8"]), max_size=5).map(",".join)


@settings(max_examples=40)
@given(st.one_of(st.text(max_size=20), WORDS))
def test_whatever_is_given_is_a_list_of_different_known_names_or_one_line_of_error(text):
    names, message = (), "nothing"
    try:
        names = parse_precisions(text)
    except ValueError as error:
        message = str(error)
    assert message.isprintable()
    assert bool(names) == (message == "nothing")
    assert len(set(names)) == len(names)
    assert set(names) <= set(FILES)


@pytest.mark.parametrize("text", ["fp32,fp32", "INT8, int8"])
def test_a_name_listed_twice(text):
    with pytest.raises(ValueError, match="is listed twice"):
        parse_precisions(text)


def test_files_are_those_the_runtime_knows():
    assert tuple(files_of(tuple(FILES))) == PRECISIONS
    assert {name: tuple(files) for name, files in FILES.items()} == PRECISION_FILES
    assert list(files_of(("int8", "fp32"))) == ["int8-cpu", "int8-trt", "fp32"]
