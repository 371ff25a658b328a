"""The pieces of a page: what goes in as text comes out as text, and each piece is what a screen reader expects."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from support.pages import checked
from zsl_train.reports.page import Cell, Html, Page, advice, figure, folded, image, name, note, said, table, text


def page_of(*parts: Html, title: str = "t") -> Page:
    page = Page(title)
    page.add("A section", *parts)
    return page


@settings(max_examples=60)
@given(st.text(max_size=200), st.text(max_size=80))
def test_any_text_stays_text(words, title):
    parts = [
        said(words),
        note(text(words), warning=True),
        table(words, (words, "n"), [[name(words), Cell(text(words), best=True)]], numbers=1),
        folded(words, said(words)),
        figure(image(b"x", words or "picture"), text(words)),
        said(advice(words)),
    ]
    page = checked(page_of(*parts, title=title).to_bytes())
    assert {tag for tag, _ in page.tags} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "header",
            "h1",
            "h2",
            "nav",
            "ul",
            "li",
            "a",
            "main",
            "bdi",
        ),
        *(
            "section",
            "span",
            "p",
            "div",
            "strong",
            "table",
            "caption",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "details",
            "summary",
        ),
        *("figure", "figcaption", "img", "wbr", "code"),
    }


def test_a_text_that_turns_letters_or_rings_a_bell_is_spelled_out():
    page = checked(page_of(said("a\x1b[2Jb\u202ec")).to_bytes())
    assert "a\\x1b[2Jb\\u202ec" in page.text


def test_half_a_surrogate_pair_can_be_written():
    assert b"\\udcff" in page_of(said("a\udcffb")).to_bytes()


def test_a_long_name_is_cut_and_whole_in_its_tooltip():
    page = checked(page_of(said(""), Html(f"<p>{name('b' * 100)}</p>")).to_bytes())
    (bdi,) = [known for known in page.of("bdi") if "title" in known]
    assert bdi["title"] == "b" * 100
    assert "b" * 59 + "\u2026" in page.text


def test_numbers_stand_to_the_right_and_the_best_is_marked_twice():
    page = checked(page_of(table("c", ("", "x"), [[text("row"), Cell(text("1"), best=True)]], numbers=1)).to_bytes())
    assert page.of("td") == [{"class": "n best"}]
    assert ".best { font-weight: 700; text-decoration: underline" in page.source


def test_empty_sections_are_left_out():
    page = Page("t")
    page.add("Nothing", Html(""))
    page.add("Something", said("x"))
    assert [heading for heading, _ in page.sections] == ["Something"]


def test_sections_of_one_name_have_places_of_their_own():
    page = Page("t")
    for _ in range(3):
        page.add("a.json", said("x"))
    page.add("\u9ce5", said("y"))
    checked(page.to_bytes())


def test_a_page_has_colours_for_light_dark_and_paper_and_follows_the_reader():
    source = page_of(said("x")).to_bytes().decode()
    assert "color-scheme: light dark" in source
    assert "@media (prefers-color-scheme: dark)" in source
    assert "@media print" in source
