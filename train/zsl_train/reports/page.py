"""One page of HTML: text that is escaped, tables, figures, sections, and a style for light, dark and print.

A page is one file that loads nothing and runs nothing, and says so to the browser (its Content-Security-Policy). What
somebody else named, classes and files above all, only ever gets in through `text`.
"""

from __future__ import annotations

import base64
import html
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NewType

from zsl_runtime.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Html = NewType("Html", str)  # what is escaped already

LONGEST_NAME = 60  # letters of a name that are shown; the whole name is its tooltip
NOTHING = Html("")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #5b6570; --grid: #d5dae0; --paper: #ffffff;
  --raised: #f4f6f8; --seen: #1d5fa6; --unseen: #b4520a; --third: #1f7a4d; --bad: #a3182b;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --muted: #a3adb8; --grid: #3a424c; --paper: #14181d;
  --raised: #1e242b; --seen: #7fb6f2; --unseen: #f4a65f; --third: #6fcf97; --bad: #ff8a93; } }
@media print { :root { --ink: #000; --muted: #444; --grid: #bbb; --paper: #fff; --raised: #fff; --seen: #1d5fa6;
  --unseen: #b4520a; --third: #1f7a4d; --bad: #a3182b; } nav { display: none; } section { break-inside: auto; }
  figure, .note, tr { break-inside: avoid; } details > * { display: block; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 var(--sans); overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1.02rem; margin: 1.5rem 0 .25rem; }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--seen); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0; margin: 1rem 0; }
.muted { color: var(--muted); font-size: .92rem; }
.note { max-width: 52rem; border-left: .3rem solid var(--muted); background: var(--raised); padding: .6rem .9rem;
  margin: .75rem 0; }
.note.warning { border-left: .3rem double var(--bad); }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; margin: .75rem 0; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding: .2rem 0; }
caption span { display: block; position: sticky; left: 0; max-width: min(46rem, calc(100vw - 3rem)); }
th, td { padding: .22rem .7rem .22rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }
thead th { border-bottom: 2px solid var(--muted); vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 7rem; }
.n { text-align: right; padding-left: .5rem; white-space: nowrap; }
thead .n { white-space: normal; }
.best { font-weight: 700; text-decoration: underline; text-underline-offset: .2em; }
dl { display: grid; grid-template-columns: max-content minmax(0, 46rem); gap: .3rem 1.2rem; margin: .5rem 0; }
dt { font-weight: 600; }
dd { margin: 0; }
figure { margin: 1rem 0; }
figcaption { color: var(--muted); font-size: .92rem; max-width: 46rem; margin-top: .25rem; }
figure svg { max-width: 100%; height: auto; }
svg text { font-family: var(--sans); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.2rem, 1fr)); gap: 1rem; padding: 0;
  margin: .75rem 0; list-style: none; }
.cards img { display: block; width: 100%; max-width: 10rem; height: auto; border: 1px solid var(--grid); }
.cards li { font-size: .86rem; line-height: 1.35; }
.cards .muted { font-size: inherit; }
.sheet { display: flex; flex-wrap: wrap; gap: .8rem; margin: .5rem 0 1.25rem; }
.sheet figure { margin: 0; width: 9.2rem; }
.sheet figcaption { font-size: .82rem; line-height: 1.3; }
img.plain { max-width: 100%; height: auto; }
summary { cursor: pointer; margin: .5rem 0; }
code { white-space: nowrap; font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em; }
"""


def text(words: object) -> Html:
    """Any text as HTML: escaped, its control letters spelled out, on one line."""
    return Html(html.escape(one_line(str(words)), quote=True))


def name(words: object) -> Html:
    """A name that somebody else gave: its direction is its own affair, and a very long one is cut."""
    whole = one_line(str(words))
    cut = whole if len(whole) <= LONGEST_NAME else f"{whole[: LONGEST_NAME - 1]}\u2026"
    # Lines may end behind what joins the parts of an attribute's name, or of a path.
    shown = re.sub(r"([=/_])", r"\1<wbr>", html.escape(cut))
    title = "" if cut == whole else f' title="{html.escape(whole)}"'
    return Html(f"<bdi{title}>{shown}</bdi>")


def advice(words: object) -> Html:
    """A text in which options of commands stand, which no line may break."""
    return Html(re.sub(r"(--[a-z][\w-]*(?: [\w.-]*\w)?)", r"<code>\1</code>", text(words)))


def code(words: object) -> Html:
    """What can be typed, or stands in a file."""
    return Html(f"<code>{text(words)}</code>")


def joined(parts: Iterable[Html], between: str = "") -> Html:
    """Pieces one behind the other; `between` is a text."""
    return Html(html.escape(between).join(parts))


def paragraph(*parts: Html, quiet: bool = False) -> Html:
    """One paragraph."""
    kind = ' class="muted"' if quiet else ""
    return Html(f"<p{kind}>{joined(parts)}</p>")


def said(words: object, *, quiet: bool = False) -> Html:
    """A paragraph of one text."""
    return paragraph(text(words), quiet=quiet)


def note(content: Html, *, warning: bool = False) -> Html:
    """What must not be missed."""
    if warning:
        return Html(f'<div class="note warning" role="note"><strong>Warning:</strong> {content}</div>')
    return Html(f'<div class="note" role="note">{content}</div>')


def definitions(meanings: Mapping[str, Html]) -> Html:
    """Words and what they mean."""
    return Html("<dl>" + "".join(f"<dt>{text(word)}</dt><dd>{told}</dd>" for word, told in meanings.items()) + "</dl>")


def folded(summary: str, content: Html) -> Html:
    """What is shown when it is asked for."""
    return Html(f"<details><summary>{text(summary)}</summary>{content}</details>")


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        content: of it.
        best: it is the best of its column, and marked as that.

    """

    content: Html
    best: bool = False


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Html | Cell]], *, numbers: int = 0) -> Html:
    """A table whose first column names its rows.

    Args:
        caption: what it shows.
        columns: their headings.
        rows: cells of each.
        numbers: so many of the last columns are figures, which stand to the right.

    """
    first = len(columns) - numbers

    def kind(place: int, *more: str) -> str:
        words = " ".join([*(["n"] if place >= first else []), *more])
        return f' class="{words}"' if words else ""

    named = [text(one).replace("_", "_<wbr>") for one in columns]
    heads = "".join(f'<th scope="col"{kind(i)}>{one}</th>' for i, one in enumerate(named))
    body = []
    for row in rows:
        cells = [one if isinstance(one, Cell) else Cell(one) for one in row]
        inside = f'<th scope="row">{cells[0].content}</th>' + "".join(
            f"<td{kind(i, *(['best'] if one.best else []))}>{one.content}</td>" for i, one in enumerate(cells) if i
        )
        body.append(f"<tr>{inside}</tr>")
    return Html(
        f'<div class="wide" role="region" tabindex="0" aria-label="{text(caption)}"><table>'
        f"<caption><span>{text(caption)}</span></caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def figure(content: Html, caption: str | Html) -> Html:
    """A drawing with what it shows."""
    return Html(f"<figure>{content}<figcaption>{caption}</figcaption></figure>")


def image(data: bytes, alt: str, *, media: str = "image/jpeg", plain: bool = False) -> Html:
    """A picture inside the page.

    Args:
        data: its file.
        alt: what it shows, for who does not see it.
        media: its type.
        plain: it is as large as it is, and not one of many.

    """
    kind = ' class="plain"' if plain else ""
    return Html(f'<img{kind} alt="{text(alt)}" src="data:{media};base64,{base64.b64encode(data).decode()}">')


@dataclass
class Page:
    """A page that grows section by section.

    Attributes:
        title: of the page, plain text.
        lead: what stands below its title: the verdict, and what must not be missed.
        sections: heading and content of each.

    """

    title: str
    lead: list[Html] = field(default_factory=list)
    sections: list[tuple[str, Html]] = field(default_factory=list)

    def add(self, heading: str, *parts: Html) -> None:
        """A section at the end, unless it would be empty."""
        content = joined(part for part in parts if part)
        if content:
            self.sections.append((heading, content))

    def to_bytes(self) -> bytes:
        """The file, in UTF-8."""
        named = [(f"{_anchor(head)}-{k + 1}", head, content) for k, (head, content) in enumerate(self.sections)]
        links = "".join(f'<li><a href="#{anchor}">{text(heading)}</a></li>' for anchor, heading, _ in named)
        body = "".join(
            f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{text(heading)}</h2>{content}</section>'
            for anchor, heading, content in named
        )
        whole = (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="referrer" content="no-referrer">'
            f"<title>{text(self.title)}</title><style>{STYLE}</style></head>\n<body><header><h1>{name(self.title)}</h1>"
            f'{joined(self.lead)}</header><nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>{body}</main></body>'
            "</html>\n"
        )
        return whole.encode(errors="backslashreplace")


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "section"
