"""A sheet for one picture: the photograph as the model saw it, the answer, and bars that add up to it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from zsl_runtime.explaining.bars import MOST, amounts, bars_of, chance, number, plain_words, shown_maps, times
from zsl_runtime.explaining.letters import drawable, fitted
from zsl_runtime.explaining.maps import lit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.explaining.bars import Bar
    from zsl_runtime.explaining.explanation import Explanation

WIDTH, MARGIN, GAP = 1240, 28, 24
PHOTO = 300  # pixels of the photograph
LINE = 30  # pixels of a bar with its label
LABEL, NUMBER = 238, 62  # widths of the columns beside the bars
INK, PALE, PAPER = (20, 20, 20), (105, 105, 105), (255, 255, 255)
# Blue and orange differ in brightness as well, so that they can be told apart in black and white.
FOR, AGAINST, OTHER = (21, 84, 150), (242, 160, 60), (170, 170, 170)
TALL = 400  # rows that are drawn on at first; cut to what was needed


class _Pen:
    """Draws text and bars on a sheet."""

    def __init__(self, sheet: Image.Image) -> None:
        self.sheet = sheet
        self.draw = ImageDraw.Draw(sheet)

    def text(
        self,
        place: tuple[float, float],
        text: str,
        size: int,
        *,
        width: float = WIDTH,
        colour: tuple[int, int, int] = INK,
        anchor: str = "la",
        tail: bool = False,
    ) -> None:
        """A line of text, cut to `width` at its end, or with `tail` at its start."""
        words, font = fitted(text, size, width, tail=tail)
        self.draw.text(place, words, fill=colour, font=font, anchor=anchor if font is not None else None)

    def pieces(self, place: tuple[float, float], texts: Sequence[str], size: int, width: float) -> None:
        """Texts one behind the other in a line: a name among words that is written the other way moves none of them."""
        x, y = place
        for text in texts:
            words, font = fitted(text, size, place[0] + width - x)
            self.draw.text((x, y), words, fill=INK, font=font, anchor="la" if font is not None else None)
            x += round(self.draw.textlength(words, font=font))

    def paragraph(self, place: tuple[float, float], text: str, size: int, width: float) -> float:
        """Text in as many lines as it takes; where the next one would begin."""
        x, y = place
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            words, font = drawable(longer, size)
            if line and font is not None and font.getlength(words) > width:
                self.text((x, y), line, size, width=width, colour=PALE)
                y, line = y + size * 1.4, word
            else:
                line = longer
        self.text((x, y), line, size, width=width, colour=PALE)
        return y + size * 1.4


def draw_sheet(one: Explanation, picture: NDArray[np.uint8] | None, note: str = "") -> Image.Image:
    """The sheet of a picture.

    Args:
        one: what is said of it.
        picture: (P, P, 3), as the model saw it; None for a row of features.
        note: a line below the heading, of what else there is to know.

    """
    sheet = Image.new("RGB", (WIDTH, 2 * MARGIN + PHOTO + 7 * TALL), PAPER)
    pen = _Pen(sheet)
    left = MARGIN
    below = float(MARGIN)
    if picture is not None:
        shown = Image.fromarray(picture).resize((PHOTO, PHOTO), Image.Resampling.LANCZOS)
        sheet.paste(shown, (MARGIN, MARGIN))
        left = MARGIN + PHOTO + GAP
        pen.text((MARGIN, MARGIN + PHOTO + 8), one.name, 14, width=PHOTO, colour=PALE, tail=True)
        below = MARGIN + PHOTO + 34
    width = WIDTH - MARGIN - left
    y = _heading(pen, one, (left, MARGIN), width, note)
    if picture is None:
        pen.text((left, y), one.name, 14, width=width, colour=PALE, tail=True)
        y += 26
    y = _bars(pen, one, (left, y + 6), width)
    y = max(y, below)
    if picture is not None:
        y = _maps(pen, one, picture, y + 10)
    y = pen.paragraph((MARGIN, y + 8), _footnote(one, picture), 13, WIDTH - 2 * MARGIN)
    return sheet.crop((0, 0, WIDTH, round(y) + MARGIN - 8))


def sheet_bytes(one: Explanation, picture: NDArray[np.uint8] | None, note: str = "") -> bytes:
    """The sheet as a PNG file."""
    file = io.BytesIO()
    draw_sheet(one, picture, note).save(
        file, "PNG", compress_level=2
    )  # a tenth larger than by 6, in a third of the time
    return file.getvalue()


def _heading(pen: _Pen, one: Explanation, place: tuple[int, int], width: float, note: str) -> float:
    x, y = place
    pen.text((x, y), one.answer, 30, width=width - 190)
    pen.text((x + width, y + 4), chance(one.probability), 24, width=190, anchor="ra")
    y += 42
    if one.rival is None:
        against = ["No other class competes, so there is nothing to explain it against."]
    else:
        against = ["rather than ", one.rival, f" ({chance(one.rival_probability)}): {times(one.difference)}"]
    pen.pieces((x, y), against, 18, width)
    if note:
        y += 26
        pen.text((x, y), note, 16, width=width)
    return y + 36


def _bars(pen: _Pen, one: Explanation, place: tuple[int, float], width: float) -> float:
    """The bars one below the other, the last for all of them together; where they end."""
    bars = bars_of(one)
    if not bars:
        return place[1]
    x, y = place
    ends = [0.0, *(bar.end for bar in bars)]
    low, high = min(ends), max(ends)
    first = x + LABEL + 8
    wide = width - LABEL - 8 - 4 * NUMBER - 12
    scale = (wide - 4) / (high - low) if high > low else 0.0

    def at(value: float) -> float:
        return first + 2 + (value - low) * scale

    columns = [first + wide + 12 + NUMBER * (place + 1) for place in range(4)]
    y = _column_heads(pen, one, (x, first, wide), columns, y)
    zero = at(0.0)
    top = y
    for bar in bars:
        _one_bar(pen, bar, (x, y), (at(bar.begin), at(bar.end)), columns)
        y += LINE
    pen.draw.line([(x, y + 3), (x + width, y + 3)], fill=INK, width=1)
    y += 7
    total = bars[-1].end
    pen.text((x, y + 5), "all together", 17, width=LABEL)
    pen.draw.rectangle([*sorted((zero, at(total)))[:1], y + 5, *sorted((zero, at(total)))[1:], y + 23], fill=INK)
    pen.text((columns[0], y + 5), number(total), 17, width=NUMBER + 8, anchor="ra")
    pen.draw.line([(zero, top - 2), (zero, y + 26)], fill=INK, width=1)
    return y + LINE + 6


def _column_heads(
    pen: _Pen, one: Explanation, where: tuple[float, float, float], columns: list[float], y: float
) -> float:
    x, first, wide = where
    pen.text((x, y + 3), "What speaks for which", 15, width=LABEL, colour=PALE)
    half = wide / 2 - 6
    # The arrows are words of their own: beside a name that is written from right to left they would change sides.
    pen.text((first, y + 3), "<", 15, colour=PALE)
    pen.text((first + 14, y + 3), one.rival or "", 15, width=half - 14, colour=PALE)
    pen.text((first + wide, y + 3), ">", 15, colour=PALE, anchor="ra")
    pen.text((first + wide - 14, y + 3), one.answer, 15, width=half - 14, colour=PALE, anchor="ra")
    for column, head in zip(columns, ("says", "read", "answer", "rival"), strict=True):
        pen.text((column, y + 3), head, 15, width=NUMBER, colour=PALE, anchor="ra")
    return y + LINE


def _one_bar(pen: _Pen, bar: Bar, place: tuple[float, float], ends: tuple[float, float], columns: list[float]) -> None:
    x, y = place
    pen.text((x, y + 5), bar.label, 17, width=LABEL, colour=INK if bar.spoken else PALE)
    left, right = sorted(ends)
    colour = OTHER if bar.spoken is None else FOR if bar.value >= 0 else AGAINST
    pen.draw.rectangle([left, y + 5, max(right, left + 1), y + 23], fill=colour, outline=INK if bar.value < 0 else None)
    pen.draw.line([(ends[1], y + 23), (ends[1], y + LINE + 5)], fill=PALE, width=1)
    cells = [number(bar.value)]
    if bar.spoken is not None:
        cells += amounts(bar.spoken)
    for column, cell in zip(columns, cells, strict=False):
        pen.text((column, y + 5), cell, 17, width=NUMBER + 8, anchor="ra")


def _maps(pen: _Pen, one: Explanation, picture: NDArray[np.uint8], y: float) -> float:
    """Small photographs with the maps of the attributes that say most, side by side; where they end."""
    shown = shown_maps(one)
    if not shown or one.maps is None:
        return y
    pen.text((MARGIN, y), "Where the model looks for it", 17)
    y += 28
    side = (WIDTH - 2 * MARGIN - 3 * GAP) // 4
    for place, spoken in enumerate(shown):
        x = MARGIN + place * (side + GAP)
        pen.sheet.paste(lit(picture, one.maps[spoken.attribute], side), (x, round(y)))
        pen.text((x, y + side + 6), plain_words(spoken.attribute), 15, width=side - 80)
        pen.text((x + side, y + side + 6), number(spoken.contribution), 15, width=80, anchor="ra")
    return y + side + 34


def _footnote(one: Explanation, picture: NDArray[np.uint8] | None) -> str:
    """What the numbers are."""
    if one.rival is None:
        return "Give more classes to compete, and the sheet says what tells them apart."
    text = (
        "Each bar begins where the one above it ends; all together they are the difference of the two classes' "
        "log-probabilities. read: the attribute in this picture, as the model reads it, on the scale of the class "
        "table; answer and rival: what the table says of the two classes."
    )
    if len(one.spoken) > MOST:
        text += f" The {MOST} attributes of {len(one.spoken)} that say most have a bar of their own."
    if picture is not None and shown_maps(one):
        text += (
            " Of the small photographs the dark parts are what the model does not look at for the attribute; within "
            "the white line it looks at least half as much as where it looks most."
        )
    return text
