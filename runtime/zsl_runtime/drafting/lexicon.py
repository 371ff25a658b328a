"""What words of field guides mean by the words of attribute tables. A short list of English, open to see and to mend.

The first list is of where something is, the second of what it is like. What an attribute table does not have is passed
over: a table without `rufous` takes `chestnut` for brown alone.
"""

from __future__ import annotations

# A word of a text -> the parts of attribute names that it speaks of, too.
PARTS: dict[str, tuple[str, ...]] = {
    "above": ("upperparts", "back"),
    "upperside": ("upperparts",),
    "upperparts": ("upperparts", "back"),
    "below": ("underparts",),
    "underneath": ("underparts",),
    "underside": ("underparts",),
    "underparts": ("underparts", "belly", "breast"),
    "plumage": ("primary", "upperparts", "underparts", "body"),
    "body": ("primary", "upperparts", "underparts", "body"),
    "overall": ("primary", "body"),
    "all": ("primary", "body"),
    "head": ("head", "crown", "forehead", "nape"),
    "hood": ("head", "crown", "throat", "nape"),
    "face": ("head",),
    "cap": ("crown",),
    "beak": ("bill",),
    "foot": ("leg",),
    "feet": ("leg",),
    "chest": ("breast",),
    "chin": ("throat",),
    "neck": ("neck", "nape", "throat"),
    "flank": ("belly",),
    "rump": ("back",),
    "undertail": ("under tail",),
    "tail": ("tail", "upper tail", "under tail"),
    "iris": ("eye",),
    "moustache": ("malar",),
}
# Of these, words that are about the part named before them, where there is one: a bill may be dark above.
PLACES = frozenset({"above", "below", "underneath"})
ALIKE = 0.5  # how much a word of the second list says of the words behind it, where the word itself says 1
# A word of a text -> words of attribute values.
VALUES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("slate", "slaty", "ash", "ashy", "silver", "silvery", "pearl", "pearly", "lead"), ("grey",)),
    **dict.fromkeys(("chestnut", "rust", "rusty", "rufous", "cinnamon"), ("rufous", "brown")),
    **dict.fromkeys(("tan", "fawn", "cream", "creamy", "tawny", "sandy", "beige"), ("buff",)),
    **dict.fromkeys(("sooty", "jet", "dusky", "charcoal", "dark"), ("black",)),
    **dict.fromkeys(("golden", "gold", "lemon", "sulphur"), ("yellow",)),
    **dict.fromkeys(("scarlet", "crimson", "ruby", "vermilion", "rosy", "rose", "coral", "flaming"), ("red",)),
    **dict.fromkeys(("azure", "turquoise", "cobalt"), ("blue",)),
    **dict.fromkeys(("salmon", "pinkish"), ("pink",)),
    **dict.fromkeys(("snowy", "pale"), ("white",)),
    **dict.fromkeys(("glossy", "gloss", "sheen", "glittering", "metallic"), ("iridescent",)),
    **dict.fromkeys(("streaked", "streak", "barred", "bar", "stripe", "banded", "line"), ("striped", "barred")),
    **dict.fromkeys(("spot", "speckled", "mottled"), ("spotted",)),
    **dict.fromkeys(("plain", "uniform", "uniformly"), ("solid", "plain")),
    "violet": ("purple",),
    "emerald": ("green",),
    "flame": ("orange",),
    "supercilium": ("eyebrow",),
    "moustache": ("malar",),
    "mask": ("masked",),
    "crest": ("crested",),
    "cap": ("capped",),
    "conical": ("cone",),
    "cone": ("conical",),
    "thin": ("needle",),
    "downcurved": ("curved",),
}
# Two spellings of one word.
SPELLINGS = {"gray": "grey", "colour": "color", "colours": "colors", "coloured": "colored"}
# Words that turn what follows them in a clause into its contrary.
NOT = frozenset({"no", "not", "without", "lacks", "lacking", "never", "neither", "nor", "hardly"})
# Values that only say that something is there, as in crest=present: said where the thing is named.
PRESENT = frozenset({"present", "presence", "yes", "true", "there", "visible"})
# Words of attribute names that say of what kind a value is, and neither where it is nor what.
KINDS = frozenset(
    {"has", "have", "is", "color", "pattern", "shape", "length", "size", "type", "kind", "style", "number", "of", "the"}
)
# Words of values that are in every text.
EMPTY = frozenset({"like", "up", "or", "down", "and", "the", "same", "as", "about", "than", "in", "of", "a", "water"})
ENDINGS = ("ish", "es", "ed", "s", "y", "e")


def plain(word: str) -> str:
    """A word in one spelling."""
    return SPELLINGS.get(word, word)


def stem(word: str) -> str:
    """A word without its common endings, so that `greyish`, `spotted` and `wings` are `grey`, `spot` and `wing`."""
    word = plain(word)
    for _ in range(2):
        ending = next((one for one in ENDINGS if word.endswith(one) and len(word) - len(one) >= 3), "")
        word = word.removesuffix(ending)
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
