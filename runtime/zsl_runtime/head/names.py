"""When two names are one name, and when they only look like it."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from zsl_runtime.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# Letters that turn the direction of what follows, so that a name looks like another one. (Unicode: Bidi_Control.)
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
OVERRIDING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # whatever they are of
# What is not drawn where a program does not know it. (Unicode, DerivedCoreProperties: Default_Ignorable_Code_Point.)
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Of these, such as no writing needs inside a name; joiners, selectors and the like make other letters of some.
NEVER_NEEDED = frozenset("\u00ad\u200b\u2060\ufeff")
# With what a cell of a CSV file begins that spreadsheet programs take for a formula, in two widths of letters.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
LOST = "\ufffd"  # what programs put for a letter that they could not read
# Letters of other scripts that look like Latin ones. (Unicode Technical Standard 39, confusables.txt.)
LOOKS_LATIN = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0445\u0443\u0456\u0458\u0455\u0501\u04bb\u051b\u051d\u03bf\u03b1\u03bd\u03c1\u0131"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0406\u0408\u0405"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "aeopcxyijsdhqwoavpi" + "ABEKMHOPCTXIJS" + "ABEZHIKMNOPTYX",
)
SCRIPTS = ("LATIN", "CYRILLIC", "GREEK")


def stored_form(name: str) -> str:
    """A name as it is stored: letters composed (NFC), nothing blank at its ends. What differs in this is one name.

    Raises:
        UsageError: E-CLASS-NAME for what is no text.

    """
    if not isinstance(name, str):
        raise UsageError(
            "E-CLASS-NAME", f"class {name!r} is no text ({type(name).__name__}); names are, also those of digits"
        )
    stripped = name.strip()
    return stripped if unicodedata.is_normalized("NFC", stripped) else unicodedata.normalize("NFC", stripped)


def as_cell(text: str) -> str:
    """A text as a cell of CSV that no spreadsheet program takes for a formula: such have an apostrophe before them."""
    return f"'{text}" if _like_formula(text) else text


def of_cell(cell: str) -> str:
    """The text that `as_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and _like_formula(cell) else cell


def _like_formula(text: str) -> bool:
    """Whether it begins as a formula does, or with apostrophes and then so."""
    return text.lstrip("'").startswith(FORMULA)


def visible_form(text: str) -> str:
    """A text by what can be seen of it: without letters that are not drawn, with one kind of space."""
    return " ".join(INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def alike(one: str, other: str) -> bool:
    """Whether two texts look the same but for case."""
    return visible_form(one).casefold() == visible_form(other).casefold()


def _words(text: str) -> str:
    """Underscores as spaces, no dots at the end: what names of folders make of names."""
    return " ".join(text.replace("_", " ").split()).rstrip(". ")


# One after the other; what each of them takes away.
STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("letters that cannot be seen", lambda text: INVISIBLE.sub("", text)),
    ("spaces of another kind or number", lambda text: " ".join(text.split())),
    ("the form or width of letters", lambda text: unicodedata.normalize("NFKC", text)),
    ("letters of another script", lambda text: text.translate(LOOKS_LATIN)),
    ("case", lambda text: unicodedata.normalize("NFC", text.casefold())),
    ("underscores, spaces or dots", _words),
)


def look(name: str) -> str:
    """What names that look alike have in common."""
    return _after(name, range(len(STEPS)))


def _after(name: str, steps: Iterable[int]) -> str:
    for step in steps:
        name = STEPS[step][1](name)
    return name


def difference(one: str, other: str) -> str:
    """In what two names differ that have one look: no more than is needed to tell them apart."""
    needed = list(range(len(STEPS)))
    for step in reversed(range(len(STEPS))):
        without = [k for k in needed if k != step]
        if _after(one, without) == _after(other, without):
            needed = without
    return ", ".join(STEPS[step][0] for step in needed)


def perhaps(name: str, known: Iterable[str]) -> str:
    """The known name that was perhaps meant by a wrong one, as the end of a message; '' when none is like it."""
    names = tuple(known)
    twin = next((one for one in names if look(one) == look(name)), None)
    if twin is None or twin.casefold() == name.casefold():
        return nearest(name, names)
    return f" (did you mean {twin!r}? They differ in {difference(stored_form(name), twin)})"


def doubtful(new: Sequence[str], old: Iterable[str] = ()) -> tuple[str, ...]:
    """A line for each new name that looks like another one, or holds what nobody can see.

    Args:
        new: names to be added, in their stored form.
        old: that are there.

    """
    before: dict[str, str] = {}
    for name in old:
        before.setdefault(look(name), name)
    lines = []
    for name in new:
        other = before.setdefault(look(name), name)
        if other != name:
            lines.append(
                f"class {name!r} looks like {other!r} and is another one: they differ in {difference(name, other)}; if "
                "they are the same, remove it and call it so"
            )
        else:
            lines += _odd(name)
    return tuple(lines)


def _odd(name: str) -> list[str]:
    hidden = sorted({f"U+{ord(letter):04X}" for letter in name if letter in NEVER_NEEDED})
    if hidden:
        return [f"class {name!r} holds letters that cannot be seen: {', '.join(hidden)}; was it copied from somewhere?"]
    try:
        meant = name.encode("cp1252").decode("utf-8")
    except UnicodeError:
        meant = name
    if meant != name:
        return [f"class {name!r} seems to be {meant!r}, read with another encoding than it was written with"]
    if LOST in name:
        return [f"class {name!r} holds U+FFFD, which stands for a letter that a program could not read"]
    scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in name if letter.isalpha()}
    mixed = [script for script in SCRIPTS if script in scripts]
    if len(mixed) > 1 and look(name).isascii():
        kinds = " and ".join(script.capitalize() for script in mixed)
        return [f"class {name!r} mixes letters of the scripts {kinds} that look alike"]
    return []
