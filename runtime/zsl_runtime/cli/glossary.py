"""What the words of commands and messages mean: docs/glossary.md, of which a wheel has a copy."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from zsl_runtime.errors import ArtefactError, UsageError, nearest

SHIPPED = Path(__file__).parents[1] / "glossary.md"  # put there by the build (CMakeLists.txt)
SOURCE = Path(__file__).parents[3] / "docs" / "glossary.md"  # of a checkout, which comes first: there it can be edited
ENTRY = re.compile(r"^([^\n:#]+)\n: (.+?)(?=\n\n|\n*\Z)", re.MULTILINE | re.DOTALL)
WIDTH = 80  # characters of a printed line


def explain(word: str) -> str:
    """The entries of a word, as lines to print.

    Args:
        word: in any case, its plural too; or the beginning of an entry.

    Raises:
        UsageError: E-WORD for a word that is not explained.
        ArtefactError: E-GLOSSARY when the glossary is not there.

    """
    entries = read_glossary()
    terms = {term.lower(): name for name in entries for term in name.split(", ")}  # `seen, unseen` are two
    asked = " ".join(word.lower().split())
    name = terms.get(asked) or terms.get(asked.removesuffix("s")) or terms.get(asked.removesuffix("es"))
    if name is None:
        raise UsageError(
            "E-WORD", f"{word!r} is not explained{nearest(asked, terms)}; explained are {', '.join(entries)}"
        )
    return "\n".join((name, *(f"    {line}" for line in textwrap.wrap(entries[name], WIDTH - 4))))


def read_glossary() -> dict[str, str]:
    """Each entry's words (`seen, unseen`) and what is said of them, in one line, without marks of Markdown."""
    for path in (SOURCE, SHIPPED):
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:
            continue
        return {name: " ".join(re.sub(r"[*`]", "", said).split()) for name, said in ENTRY.findall(text)}
    raise ArtefactError("E-GLOSSARY", f"there is no {SHIPPED}; install zsl-deploy again")
