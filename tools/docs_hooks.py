"""What the build of the pages does besides mkdocs: formulas, pointers, examples; nothing is loaded from elsewhere.

mkdocs calls the functions by their names (`hooks` in mkdocs.yml). Formulas become MathML, and one that cannot be
converted ends the build. "docs/errors.md" in a sentence becomes a link: pages are also read as files, where that helps
more than a link.
"""

from __future__ import annotations

import html
import inspect
import re
from importlib import import_module
from pathlib import Path
from posixpath import dirname, relpath
from typing import TYPE_CHECKING, Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

# What pymdownx.arithmatex makes of $...$ and of $$...$$ in its generic mode.
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
LEFT = re.compile(r'class="arithmatex"')
# What the converter does not know, or draws slanted or letter by letter, and what says the same.
SAME = ((re.compile(r"\\arg\b"), r"\\operatorname{arg}"), (re.compile(r"\\mathrm\{([A-Za-z]+)\}"), r"\\text{\1}"))
# Whatever a browser fetches by itself; a link that somebody follows is none of it.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|data|srcset)\s*=\s*["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref\s*=\s*["']?(?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|url\(\s*["']?(?:https?:)?//""",
    re.IGNORECASE,
)


# Code, as blocks or in a line, and headings: there pointers stay as they are.
VERBATIM = re.compile(r"^```.*?^```$|^(?: {4}|#)[^\n]*$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
EXAMPLES = "**Examples:**"
GENERATED = re.compile(r"^::: mkdocs-click\n\s+:module: (\S+)\n\s+:command: (\S+)", re.MULTILINE)
POINTER = re.compile(r"(?<![\w/.\[(-])docs/((?:[\w-]+/)*[\w-]+\.md)\b|(?<=\()docs/((?:[\w-]+/)*[\w-]+\.md)\b")


def linked(text: str, page: str, docs: Path) -> str:
    """The Markdown of a page with its pointers to pages as links that bear their titles."""

    def link(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        target = docs / name
        if not target.is_file():
            raise ValueError(f"it points to docs/{name}, which is not there")
        title = target.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return f"[{title}]({relpath(name, dirname(page) or '.')})"

    parts, end = [], 0
    for kept in VERBATIM.finditer(text):
        parts += [POINTER.sub(link, text[end : kept.start()]), kept[0]]
        end = kept.end()
    return "".join([*parts, POINTER.sub(link, text[end:])])


def show_examples(command: Any) -> None:
    """Put the examples of a command, and of those below it, behind what its help says: the generator knows no more."""
    examples = getattr(command, "examples", ())
    if examples and EXAMPLES not in command.help:
        lines = (f"    # {said}\n    {line}" for said, line in (_indented(one) for one in examples))
        command.help = "\n\n".join((inspect.cleandoc(command.help), EXAMPLES, "\n".join(lines)))
    for sub in getattr(command, "commands", {}).values():
        show_examples(sub)


def _indented(example: tuple[str, str]) -> tuple[str, str]:
    """An example whose line goes on in further ones, which are part of the same block."""
    said, line = example
    return said, line.replace("\n", "\n    ")


def mathml(formula: str, *, block: bool) -> str:
    """A formula of LaTeX as MathML, which browsers draw without any script.

    Raises:
        ValueError: it is not LaTeX, or uses a command that the converter does not know, which would be shown as it is.

    """
    for written, same in SAME:
        formula = written.sub(same, formula)
    try:
        drawn = convert(formula, display="block" if block else "inline")
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


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Make links of pointers."""
    try:
        return linked(markdown, page.file.src_uri, Path(config.docs_dir))
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from None


def on_pre_build(*, config: MkDocsConfig, **_: Any) -> None:
    """Let the pages of commands show their examples."""
    for page in Path(config.docs_dir).rglob("*.md"):
        for module, name in GENERATED.findall(page.read_text(encoding="utf-8")):
            show_examples(getattr(import_module(module), name))


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
