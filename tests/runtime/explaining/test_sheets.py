"""Sheets and the page: bars that add up, names of any kind, nothing from elsewhere, and folders that stay whole."""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
import string
from collections import Counter
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zsl_runtime.errors import SystemProblem, UsageError
from zsl_runtime.explaining import Explanation, Spoken, folder
from zsl_runtime.explaining.bars import amounts, bars_of, chance, number, plain_words, times
from zsl_runtime.explaining.folder import SheetFolder, Told, sheet_name
from zsl_runtime.explaining.letters import drawable, fitted, font
from zsl_runtime.explaining.maps import DARKEST, LIFTED, brightness, evened, line, lit, veil
from zsl_runtime.explaining.page import MOST_PICTURES, About, article, whole_page
from zsl_runtime.explaining.sheet import GAP, MARGIN, PHOTO, WIDTH, draw_sheet, sheet_bytes

if TYPE_CHECKING:
    from pathlib import Path

NAMES = (
    "crow",
    "<script>alert(1)</script>",
    "\"quoted\" & 'so'",
    "Brûlée Harrier",
    "זמיר",
    "عندليب",
    "夜鶯",
    "🐦 bird",
    "a" * 500,
    "\udcff broken",
    "two\nlines",
    "",
)
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
ABOUT = About("birds.bundle", 3, (2, 5))


def explained(count: int = 3, name: str = "a.jpg", answer: str = "crow", **other) -> Explanation:
    rng = np.random.default_rng(count)
    spoken = tuple(
        Spoken(f"part_{at}=kind", float(said), float(rng.random()), 1.0, 0.0)
        for at, said in enumerate(sorted(rng.standard_normal(count), key=abs, reverse=True))
    )
    spread = rng.random((count, 3, 3)).astype(np.float32)
    total = sum(one.contribution for one in spoken) + 0.5 - 0.25
    known = {
        "rival": "gull",
        "probability": 0.5,
        "rival_probability": 0.25,
        "difference": total,
        "spoken": spoken,
        "rest": 0.5,
        "seen_handicap": -0.25,
        "maps": {one.attribute: spread[at] for at, one in enumerate(spoken)},
    }
    return Explanation(name, answer, **(known | other))


@given(count=st.integers(0, 30), most=st.integers(0, 12))
def test_each_bar_begins_where_the_one_before_ends_and_the_last_ends_at_the_difference(count: int, most: int) -> None:
    one = explained(count)
    bars = bars_of(one, most)
    assert bars[0].begin == 0
    for before, bar in itertools.pairwise(bars):
        assert bar.begin == before.end
    assert bars[-1].end == pytest.approx(one.difference)
    assert [bar.spoken for bar in bars if bar.spoken] == list(one.spoken[:most])
    assert [bar.label for bar in bars[-2:]] == ["what no attribute tells", "handicap of trained classes"]


def test_bars_where_there_is_little_to_say() -> None:
    assert bars_of(explained(2, rival=None)) == []
    labels = [bar.label for bar in bars_of(explained(2, seen_handicap=0.001))]
    assert labels == ["part 0: kind", "part 1: kind", "what no attribute tells"]
    assert [bar.label for bar in bars_of(explained(3), 2)][2] == "1 other attribute"


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("wing_pattern=barred", "wing pattern: barred"),
        ("has_bill_shape::hooked_seabird", "has bill shape: hooked seabird"),
        ("size=very_small_(3_-_5_in)", "size: very small (3 - 5 in)"),
        ("black", "black"),
        ("=odd", "=odd"),
        ("_", "_"),
        ("größe", "größe"),
    ],
)
def test_attributes_in_plain_words(attribute: str, words: str) -> None:
    assert plain_words(attribute) == words


def test_numbers_in_words() -> None:
    assert [number(x) for x in (0.004, -0.004, 1.5, -0.25)] == ["0.00", "0.00", "+1.50", "-0.25"]
    assert [chance(x) for x in (1.0, 0.99999, 0.42, 0.0001)] == [
        "100 %",
        "more than 99.9 %",
        "42.0 %",
        "less than 0.1 %",
    ]
    assert times(math.log(2)) == "2.0 times as probable"
    assert times(math.log(30)) == "30 times as probable"
    assert times(0.001) == "hardly more probable"
    assert times(8) == "more than 1,000 times as probable"


@pytest.mark.parametrize(
    ("read", "answer", "rival", "shown"),
    [
        (0.481, 1, 0, ("0.48", "1.00", "0.00")),
        (-0.001, 0.02, 0.01, ("0.00", "0.02", "0.01")),
        (0.0012, 0.002, 0.0014, ("0.0012", "0.0020", "0.0014")),
        (151.26, 180, 140, ("151.3", "180.0", "140.0")),
        (1e9, 2e9, 1e9, ("1e+09", "2e+09", "1e+09")),
        (1520, 1000, 3000, ("1520", "1000", "3000")),
    ],
)
def test_values_of_any_unit_are_as_exact_as_it_takes(read: float, answer: float, rival: float, shown: tuple) -> None:
    assert amounts(Spoken("x", 1.0, read, answer, rival)) == shown


# --- maps -----------------------------------------------------------------------------------------------------------


def test_a_map_is_brightest_where_it_is_largest_and_dark_where_it_is_nothing() -> None:
    spread = np.zeros((4, 4), np.float32)
    spread[1, 2] = 0.8
    shown = brightness(spread, 80)
    assert np.unravel_index(shown.argmax(), shown.shape) == pytest.approx((30, 50), abs=6)
    assert shown.min() == pytest.approx(DARKEST)
    assert shown.max() > 0.9
    grey = np.full((80, 80, 3), 200, np.uint8)
    over = np.asarray(lit(grey, spread, 80))
    drawn = np.abs(over - 200 * shown[:, :, None]).max(axis=2) > 1
    high = shown > DARKEST + (1 - DARKEST) * 0.5**LIFTED
    near = np.abs(np.subtract.outer(*[np.arange(80)] * 2)) <= 4  # pixels of the line and of its black rim
    assert not (drawn & ~(near @ high @ near)).any()
    assert not (drawn & ~(near @ ~high @ near)).any()
    assert drawn.any()
    veiled = veil(spread)
    assert veiled.shape == (4, 4)
    assert veiled[1, 2] == 0
    assert veiled[3, 0] == round(255 * (1 - DARKEST))


@pytest.mark.parametrize("middle", [(4, 4), (3, 5), (4, 0)])
def test_the_line_of_a_round_map_is_a_circle_at_half_its_height(middle: tuple[int, int]) -> None:
    places = np.arange(9)
    away = (places[:, None] - middle[0]) ** 2 + (places - middle[1]) ** 2
    pieces = line(np.exp(-away / (2 * 1.5**2)).astype(np.float32))
    ends = [end for x, y, right, below in pieces for end in ((x, y), (right, below))]
    down, across = ((place + 0.5) / 9 for place in middle)
    radius = 1.5 * np.sqrt(2 * np.log(2)) / 9
    assert np.hypot(*(np.array(ends) - (across, down)).T) == pytest.approx(radius, abs=0.02)
    loose = [one for one, count in Counter((round(x, 9), round(y, 9)) for x, y in ends).items() if count != 2]
    assert len(loose) == (0 if middle[1] else 2)  # one that reaches the border is open there
    assert all(x < 1 / 36 for x, _ in loose)


def test_a_map_without_a_height_has_no_line() -> None:
    assert line(np.zeros((9, 9), np.float32)) == []
    assert line(np.full((9, 9), 1 / 81, np.float32)) == []


def test_a_map_of_nothing_and_a_flat_one_are_drawn_too() -> None:
    assert brightness(np.zeros((3, 3), np.float32), 9) == pytest.approx(DARKEST)
    assert brightness(np.full((3, 3), 0.1, np.float32), 9) == pytest.approx(1)


# --- sheets ---------------------------------------------------------------------------------------------------------


def test_a_name_that_is_written_from_right_to_left_moves_no_number() -> None:
    def end_of_line(rival: str) -> np.ndarray:
        sheet = np.asarray(draw_sheet(explained(2, rival=rival), PICTURE).convert("L"))
        line = sheet[MARGIN + 40 : MARGIN + 66, MARGIN + PHOTO + GAP :]
        last = int(np.flatnonzero((line < 128).any(axis=0)).max())
        return line[:, last - 150 : last + 1]

    assert np.array_equal(end_of_line("طائر أسود كبير"), end_of_line("crow"))


def test_a_sheet_holds_the_photograph_bars_to_scale_and_maps() -> None:
    one = explained(4, spoken=(Spoken("a", 3.0, 1, 1, 0), Spoken("b", -1.0, 1, 0, 1)), rest=0, seen_handicap=0)
    pixels = np.asarray(draw_sheet(explained(4), PICTURE))
    assert pixels.shape[1:] == (WIDTH, 3)
    shown = np.asarray(Image.fromarray(PICTURE).resize((300, 300), Image.Resampling.LANCZOS))
    assert (pixels[28:328, 28:328] == shown).all()
    bars = np.asarray(draw_sheet(one, None))
    blue = np.argwhere((bars == (21, 84, 150)).all(axis=2))
    orange = np.argwhere((bars == (242, 160, 60)).all(axis=2))
    assert np.ptp(blue[:, 1]) / np.ptp(orange[:, 1]) == pytest.approx(3, rel=0.03)
    assert orange[:, 1].max() == pytest.approx(blue[:, 1].max(), abs=2)  # it begins where the other ends
    without = np.asarray(draw_sheet(explained(4, maps=None), PICTURE))
    assert len(without) < len(pixels)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_drawn(name: str) -> None:
    one = explained(2, name, name, spoken=(Spoken(name, 1.0, 0.5, 1, 0),), maps={name: np.ones((2, 2), np.float32)})
    data = sheet_bytes(one, PICTURE, name)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.width) == ("PNG", WIDTH)


def test_sheets_of_one_class_and_of_feature_rows() -> None:
    alone = draw_sheet(explained(0, rival=None, difference=0.0, rest=0.0, seen_handicap=0.0, maps=None), PICTURE)
    assert alone.height < 500
    assert draw_sheet(explained(3, maps=None), None).width == WIDTH


def test_letters_that_no_font_has_lose_their_accents_or_are_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsl_runtime.explaining.letters.OTHERS", ())
    assert drawable("Brûlée – Å 夜 z\n", 20)[0] == "Brulee - A ? z "
    assert drawable(string.ascii_letters + string.digits, 20)[0] == string.ascii_letters + string.digits


def test_long_text_is_cut_to_its_place() -> None:
    own = font(20)
    assert own is not None
    for tail in (False, True):
        words, _ = fitted("abc" * 100, 20, 200, tail=tail)
        assert 150 < own.getlength(words) <= 200
        assert words.endswith("...") is not tail
        assert words.startswith("...") is tail
    assert fitted("short", 20, 200)[0] == "short"


# --- page -----------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """What a browser would see: elements that are open and closed in order, texts, and all addresses."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def text(self) -> str:
        return " ".join("".join(self.words).split())


def page_of(*told: Told, about: About = ABOUT) -> str:
    articles = [article(*one[:2], place, f"sheets/{place}.png", one.note) for place, one in enumerate(told, 1)]
    return whole_page(about, articles, [(one.explanation.name, one.explanation.answer) for one in told])


def test_the_page_is_whole_loads_nothing_and_has_words_for_every_picture() -> None:
    page = page_of(Told(explained(12), PICTURE), Told(explained(2, maps=None), None, "Unlike anything known."))
    read = Reader(page)
    tags = [tag for tag, _ in read.seen]
    assert tags.count("script") == 0
    assert tags.count("article") == 2
    for tag, attributes in read.seen:
        for key in ("src", "href"):
            address = attributes.get(key) or "#"
            assert address.startswith(("#", "data:image/", "sheets/")), (tag, address)
        assert not any(key.startswith("on") for key in attributes)
        if attributes.get("role") == "img":
            assert attributes["aria-label"]
        if tag == "img":
            assert attributes["alt"] == ""  # the element around it has the words
    assert not re.findall(r"https?://|url\((?!data:)|@import", page)
    assert "default-src 'none'" in page
    assert ("html", {"lang": "en"}) in read.seen
    assert "Unlike anything known." in read.text()
    assert "4 other attributes" in read.text()
    ids = [attributes["id"] for _, attributes in read.seen if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {f"#{one}" for one in ids} >= {a["href"] for t, a in read.seen if t == "a" and a["href"].startswith("#")}
    photo = re.search(r"--photo:url\(data:image/jpeg;base64,([^)]+)\)", page)
    assert photo is not None
    with Image.open(io.BytesIO(base64.b64decode(photo[1]))) as image:
        assert image.size == (40, 40)


@pytest.mark.parametrize("name", NAMES)
def test_names_come_to_the_page_as_they_are_and_never_as_markup(name: str) -> None:
    one = explained(1, name, name, rival=name, spoken=(Spoken(name, 1.0, 0.5, 1, 0),), maps=None)
    page = page_of(Told(one, PICTURE, name), about=About(name, 1, (1, 1)))
    page.encode("utf-8")
    read = Reader(page)
    assert "script" not in {tag for tag, _ in read.seen}
    if name and name.isprintable():
        assert read.text().count(" ".join(name.split())) >= 6


@given(st.text(), st.text(), st.text())
@settings(max_examples=50)
def test_any_text_gives_a_page_that_is_whole(name: str, answer: str, attribute: str) -> None:
    one = explained(1, name, answer, spoken=(Spoken(attribute, 1.0, 0.5, 1, 0),), maps=None)
    Reader(page_of(Told(one, None)))


def test_bars_on_the_page_are_to_scale_and_stay_inside() -> None:
    page = page_of(Told(explained(20), None))
    places = [tuple(map(float, one)) for one in re.findall(r"left:([\d.]+)%;width:([\d.]+)%", page)]
    assert len(places) == 8 + 1 + 2 + 1
    for left, width in places:
        assert 0 <= left <= 100.01
        assert left + width <= 100.02


def test_one_picture_is_one_picture() -> None:
    assert "The picture on this page" in page_of(Told(explained(2), PICTURE))
    assert "The 2 pictures on this page" in page_of(Told(explained(2), PICTURE), Told(explained(2), PICTURE))


def test_where_a_map_lies_is_said_in_words() -> None:
    def said(place: tuple[int, int]) -> str:
        spread = np.full((9, 9), 0.001, np.float32)
        spread[place] = 1
        one = explained(1, maps={"part_0=kind": spread})
        found = re.search(r'aria-label="Where the model looks for part 0: kind: ([^"]*)"', page_of(Told(one, PICTURE)))
        assert found is not None
        return found[1]

    assert [said(place) for place in ((0, 0), (4, 4), (8, 4), (4, 8))] == ["top left", "middle", "bottom", "right"]
    flat = explained(1, maps={"part_0=kind": np.ones((9, 9), np.float32)})
    assert "all over the picture" in page_of(Told(flat, PICTURE))


# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_folder_gets_a_sheet_for_each_and_a_page(tmp_path: Path) -> None:
    with SheetFolder(str(tmp_path / "why"), threads=2) as sheets:
        sheets.about = ABOUT
        sheets.add([Told(explained(3, "x/a.jpg"), PICTURE), Told(explained(3, "y/a.jpg"), PICTURE)])
        sheets.add([Told(explained(3, "z.zip/a.jpg"), None)])
        sheets.unread = 4
        sheets.finish()
    names = sorted(path.name for path in (tmp_path / "why" / "sheets").iterdir())
    assert names == ["000001-x-a.png", "000002-y-a.png", "000003-z-zip-a.png"]
    text = Reader((tmp_path / "why" / "index.html").read_text("utf-8")).text()
    assert "3 pictures labelled by birds.bundle, generation 3 of its classes; 2 of its 5 attributes" in text
    assert "4 could not be read" in text
    assert "stopped" not in text
    assert {path.name for path in (tmp_path / "why").iterdir()} == {"index.html", "sheets"}


def test_a_page_has_a_bound_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_PICTURES == 200
    monkeypatch.setattr(folder, "MOST_PICTURES", 2)
    with SheetFolder(str(tmp_path / "why")) as sheets:
        sheets.add([Told(explained(1, f"{at}.jpg", maps=None), None) for at in range(3)])
        sheets.finish()
    page = (tmp_path / "why" / "index.html").read_text("utf-8")
    assert page.count("<article") == 2
    assert "This page holds the first 2 of them." in Reader(page).text()
    assert len(list((tmp_path / "why" / "sheets").iterdir())) == 3


def test_nothing_that_is_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "notes.txt" / "below"):
        with pytest.raises(UsageError if path != tmp_path / "notes.txt" / "below" else (UsageError, SystemProblem)):
            SheetFolder(str(path))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_without_a_single_sheet_the_folder_is_as_before(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        with pytest.raises(KeyError), SheetFolder(str(tmp_path / name)):
            raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there").iterdir()) == []


def test_what_is_cut_off_has_a_page_that_says_so(tmp_path: Path) -> None:
    sheets = SheetFolder(str(tmp_path / "why"))
    sheets.add([Told(explained(1), PICTURE)])
    with pytest.raises(KeyboardInterrupt), sheets:
        raise KeyboardInterrupt
    assert "stopped before all pictures had their turn" in (tmp_path / "why" / "index.html").read_text("utf-8")


@given(place=st.integers(1, 10**6), name=st.text(max_size=300))
def test_names_of_sheets_are_plain_and_short(place: int, name: str) -> None:
    found = sheet_name(place, name)
    assert re.fullmatch(r"\d{6,7}(-[A-Za-z0-9_][A-Za-z0-9_-]*)?\.png", found) or "--" in found
    assert len(found) < 80
    assert "/" not in found


@given(
    count=st.integers(2, 14),
    first=st.floats(-16, 16),
    step=st.floats(8, 64),
    slopes=st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)),
)
def test_an_even_map_shows_each_place_what_lies_there(count, first, step, slopes) -> None:
    """A map that rises with the pixels of the square rises as much between tiles, wherever its regions are centred."""
    side = first + step * count
    centres = first + step * np.arange(count)
    down, right = slopes
    rising = 200.0 + down * centres[:, None] + right * centres[None, :]
    found = evened((rising / rising.sum()).astype(np.float32), first, step, side)
    assert found.shape == (2 * count, 2 * count)
    assert found.sum() == pytest.approx(1, abs=1e-4)
    middles = (np.arange(2 * count) + 0.5) * side / (2 * count)
    there = np.clip(middles, centres[0], centres[-1])  # beyond the outer centres a map goes on as it is there
    wanted = 200.0 + down * there[:, None] + right * there[None, :]
    assert found == pytest.approx(wanted / wanted.sum(), rel=1e-3)


def test_maps_of_one_region_and_of_many_at_once_are_even() -> None:
    assert evened(np.ones((1, 1), np.float32), 3.5, 32.0, 32) == pytest.approx(np.full((2, 2), 0.25))
    many = np.random.default_rng(0).dirichlet(np.ones(9), (2, 5)).reshape(2, 5, 3, 3).astype(np.float32)
    assert evened(many, 0.5, 32.0, 96)[1, 3] == pytest.approx(evened(many[1, 3], 0.5, 32.0, 96))
