"""Drawings: well-formed, named, with the page's colours, and with names that nobody can take for anything else."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_train.reports.charts import VARIABLES, Words, dots, drawing, finished, thinned

SVG = "{http://www.w3.org/2000/svg}"


def draw(*names: str, title: str = "a title", description: str = "what it shows") -> str:
    rows = [(name, {"H": (50.0, 2.0), "S": (60.0, None)}) for name in names]
    return dots(
        rows, {"H": "H", "S": "S"}, title=title, description=description, label="percent", line=(3.0, "guessing")
    )


def test_a_drawing_is_xml_with_title_text_and_the_colours_of_the_page():
    svg = draw("one", "two")
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.attrib["role"] == "img"
    title, told = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert (title.text, told.text) == ("a title", "what it shows")
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], told.attrib["id"]]
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert {"one", "two", "percent", "guessing"} <= set(texts)
    assert "var(--ink)" in svg
    assert not any(colour in svg for colour in VARIABLES)
    assert "DejaVu" not in svg
    assert "#fff" not in svg.lower()  # white paper would be white in the dark


def test_two_drawings_of_one_page_share_no_ids():
    ids = [{one.attrib["id"] for one in ET.fromstring(draw("one")).iter() if "id" in one.attrib} for _ in range(2)]
    assert ids[0]
    assert not ids[0] & ids[1]


@settings(max_examples=12)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3), st.text(max_size=30))
def test_any_name_and_title_gives_xml(names, title):
    root = ET.fromstring(draw(*names, title=title, description=title))
    assert len(list(root.iter(f"{SVG}text"))) >= 4


def test_a_name_is_cut_where_it_tells_least():
    words = Words()
    assert words.put_back(f"<text>{words('x' * 50, 10)}</text>") == f"<text>{'x' * 9}\u2026</text>"
    assert words.put_back(words("bench_of_something[batch 32]", 20, end=9)) == "bench_of_s\u2026batch 32]"
    assert words.put_back(words("short", 10)) == "short"


@pytest.mark.parametrize(("name", "width"), [("abcdefgh", 8), ("鳥鳥鳥鳥", 8), ("a" * 30, 26)])
def test_a_stand_in_is_as_wide_as_the_name(name, width):
    assert len(Words()(name)) == width


def test_a_number_of_points_is_thinned_to_about_so_many_and_keeps_its_ends():
    line = np.stack([np.arange(10_001.0)] * 2, axis=1)
    kept = thinned(line, 800)
    assert 700 <= len(kept) <= 900
    assert kept[0, 0] == 0
    assert kept[-1, 0] == 10_000
    np.testing.assert_array_equal(thinned(line[:5], 800), line[:5])


def test_the_same_figure_gives_the_same_bytes():
    def one() -> str:
        with drawing(3, 2) as (sheet, words):
            axes = sheet.add_subplot()
            axes.bar([1, 2], [3, 4], hatch="//", label="x")
            axes.plot([1, 2], [3, 1], marker="o", clip_on=True)
            return finished(sheet, words, "t", "d")

    first, second = one(), one()
    marks = [svg[svg.index('labelledby="') + 12 :].partition("-")[0] for svg in (first, second)]
    assert first.replace(f"{marks[0]}-", "") == second.replace(f"{marks[1]}-", "")
