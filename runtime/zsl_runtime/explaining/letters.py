"""Words on a sheet: in Pillow's own font, which has little more than ASCII, or one of the system that has more letters.

Letters that no font has lose their accents, or become a question mark; the page beside the sheets has all names whole.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

from zsl_runtime.streams import one_line

OTHERS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf", "NotoSansCJK-Regular.ttc")
UNKNOWN = "?"
LONGEST = 2000  # letters that are measured; no line holds more
NEVER = "\U0010ffff"  # a letter that no font has
Font = ImageFont.FreeTypeFont


@lru_cache(maxsize=64)
def font(size: int, place: int = 0) -> Font | None:
    """Pillow's own font, or one of OTHERS by its number from 1; None where the system has none of that name."""
    if place == 0:
        own = ImageFont.load_default(size)
        return own if isinstance(own, ImageFont.FreeTypeFont) else None
    try:
        return ImageFont.truetype(OTHERS[place - 1], size)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=4096)
def _has(letter: str, place: int) -> bool:
    """Whether a font draws a letter as anything but the box of those that it lacks."""
    one = font(20, place)
    if one is None:
        return False
    if letter.isspace():
        return True
    there, missing = one.getmask(letter), one.getmask(NEVER)
    return there.size != missing.size or bytes(there) != bytes(missing)


def drawable(text: str, size: int) -> tuple[str, Font | None]:
    """A text as it can be drawn, and the font to draw it in.

    Args:
        text: any.
        size: in pixels.

    Returns:
        The text in a line, with what its font lacks replaced; and the font that has most of it, Pillow's own where that
        has all, None where Pillow has none that can be scaled.

    """
    words = "".join(letter if letter.isprintable() else " " for letter in one_line(text[:LONGEST]))
    best, most = 0, -1
    for place in range(len(OTHERS) + 1):
        known = sum(_has(letter, place) for letter in words) if font(size, place) is not None else -1
        if known > most:
            best, most = place, known
        if most == len(words):
            break
    return "".join(_nearest(letter, best) for letter in words), font(size, best)


def _nearest(letter: str, place: int) -> str:
    """A letter of a font for any."""
    if _has(letter, place):
        return letter
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    if plain and plain != letter and all(_has(part, place) for part in plain):
        return plain
    return "-" if unicodedata.category(letter) == "Pd" else UNKNOWN


def fitted(text: str, size: int, width: float, *, tail: bool = False) -> tuple[str, Font | None]:
    """As `drawable`, cut to a width in pixels where it is longer, at its end or with `tail` at its start."""
    words, one = drawable(text, size)
    if one is None or one.getlength(words) <= width:
        return words, one

    def cut(count: int) -> str:
        return "..." + words[len(words) - count :].lstrip() if tail else words[:count].rstrip() + "..."

    low, high = 0, min(len(words), LONGEST)
    while low < high:  # the most letters that fit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one.getlength(cut(middle)) <= width else (low, middle - 1)
    return cut(low), one
