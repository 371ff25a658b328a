"""The text of a description: read with bounds, cut into sentences and these into clauses."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

from zsl_runtime.errors import UsageError, from_os_error
from zsl_runtime.machine.untrusted import UnfitError, read_given

if TYPE_CHECKING:
    from os import PathLike

MOST_TEXT = 64 << 10  # bytes: twenty pages, where a paragraph is expected
SENTENCE = re.compile(r"(?<=[.;!?])\s+|\n\s*\n")
CLAUSE = re.compile(r"[,:;()]|\band\b|\bwith\b|\bwhile\b|\bbut\b", re.IGNORECASE)
CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def read_description(path: str | PathLike[str]) -> str:
    """The text of a file that a user named, in UTF-8.

    Raises:
        UsageError: E-DRAFT-TEXT when it is empty, larger than MOST_TEXT, or no text.
        SystemProblem: it cannot be read.

    """
    where = repr(str(path))
    try:
        data = read_given(path, MOST_TEXT)
    except UnfitError as error:
        raise UsageError(
            "E-DRAFT-TEXT", f"{where} {error}; expected a description of a few sentences, a text file"
        ) from None
    except OSError as error:
        raise from_os_error(error, "read the description") from error
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            "E-DRAFT-TEXT",
            f"{where} is no text in UTF-8 (byte {error.start:,}); expected a description of a few sentences: save it "
            "as plain text, in UTF-8",
        ) from None
    if CONTROL.search(text):
        raise UsageError(
            "E-DRAFT-TEXT", f"{where} holds control characters, as no text does; save the description as plain text"
        )
    if not any(letter.isalpha() for letter in text):
        raise UsageError("E-DRAFT-TEXT", f"{where} holds no word; write a description of the class into it")
    return text


def sentences(text: str) -> list[str]:
    """The sentences of a text, each in one line; those between semicolons as well."""
    found = (" ".join(part.split()).rstrip(";") for part in SENTENCE.split(text))
    return [part for part in found if any(letter.isalnum() for letter in part)]


def clauses(sentence: str) -> list[str]:
    """What a sentence says one after the other."""
    return [part.strip() for part in CLAUSE.split(sentence) if any(letter.isalpha() for letter in part)]
