"""What the build of the pages does besides mkdocs: formulas become MathML, and no page may load from elsewhere.

mkdocs calls the functions by their names (`hooks` in mkdocs.yml). A formula that cannot be converted ends the build.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

# What pymdownx.arithmatex makes of $...$ and of $$...$$ in its generic mode.
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
LEFT = re.compile(r'class="arithmatex"')
# Commands of LaTeX that the converter does not know, and what says the same.
SAME = {r"\arg": r"\operatorname{arg}"}
# Whatever a browser fetches by itself; a link that somebody follows is none of it.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|data|srcset)\s*=\s*["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref\s*=\s*["']?(?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|url\(\s*["']?(?:https?:)?//""",
    re.IGNORECASE,
)


def mathml(formula: str, *, block: bool) -> str:
    """A formula of LaTeX as MathML, which browsers draw without any script.

    Raises:
        ValueError: it is not LaTeX, or uses a command that the converter does not know, which would be shown as it is.

    """
    known = re.sub(r"\\[a-zA-Z]+", lambda found: SAME.get(found[0], found[0]), formula)
    try:
        drawn = convert(known, display="block" if block else "inline")
    except Exception as error:  # every one of its errors is an answer to what was given
        raise ValueError(f"{type(error).__name__}: {error}") from error
    unknown = re.findall(r"\\[a-zA-Z]+", drawn)
    if unknown:
        raise ValueError(f"unknown to the converter: {', '.join(unknown)}")
    return drawn


def with_formulas(content: str) -> str:
    """The HTML of a page with every formula drawn; ValueError names one that cannot be."""

    def drawn(found: re.Match[str], *, block: bool) -> str:
        formula = html.unescape(found[1]).strip()
        try:
            return mathml(formula, block=block)
        except ValueError as error:
            raise ValueError(f"the formula {formula!r} cannot be drawn: {error}") from None

    content = BLOCK.sub(lambda found: drawn(found, block=True), content)
    content = INLINE.sub(lambda found: drawn(found, block=False), content)
    if LEFT.search(content):
        raise ValueError("a formula was left as it is")
    return content


def on_page_content(content: str, /, *, page: Page, **_: Any) -> str:
    """Draw the formulas of a page."""
    try:
        return with_formulas(content)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from None


def on_post_page(output: str, /, *, page: Page, **_: Any) -> str:
    """End the build where a page would load something from another host."""
    found = FETCHED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} loads something from elsewhere: {found[0]}")
    return output
