"""One page for all pictures: self-contained, without a script, for light and dark screens, paper and screen readers."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from zsl_runtime.explaining.bars import amounts, bars_of, chance, number, plain_words, shown_maps, times
from zsl_runtime.explaining.maps import line, veil
from zsl_runtime.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.explaining.bars import Bar
    from zsl_runtime.explaining.explanation import Explanation, Spoken

MOST_PICTURES = 200  # that are inside; one takes 15 to 40 kB
SIDE = 260  # pixels of a photograph at most
QUALITY = 82  # of its JPEG
FLAT = 1.5  # a map whose largest value is less than so many times its mean lies nowhere in particular


class About(NamedTuple):
    """What a page says of itself.

    Attributes:
        model: the bundle's name.
        generation: of its classes.
        readable: attributes that have a say, and all.
        explained: pictures that have a sheet.
        unread: pictures that could not be read.
        stopped: whether it ended before all pictures had their turn.

    """

    model: str
    generation: int
    readable: tuple[int, int]
    explained: int = 0
    unread: int = 0
    stopped: bool = False


def article(one: Explanation, picture: NDArray[np.uint8] | None, place: int, sheet: str, note: str = "") -> str:
    """The part of the page that is of one picture.

    Args:
        one: what is said of it.
        picture: (P, P, 3), as the model saw it; None for a row of features.
        place: its number, from 1.
        sheet: path of its sheet beside the page.
        note: what else there is to know.

    """
    rival = "" if one.rival is None else f"rather than {_name(one.rival)} ({chance(one.rival_probability)}), "
    against = f"{rival}{times(one.difference)}" if rival else "No other class competes."
    parts = [
        f'<article id="p{place}"{_background(picture)} aria-labelledby="h{place}">',
        f'<h2 id="h{place}">{_name(one.answer)} <span class="chance">{chance(one.probability)}</span></h2>',
        f'<p class="file">{place}. {_name(one.name)} <a href="{escape(sheet)}">sheet</a></p>',
        '<div class="side">',
    ]
    if picture is not None:
        parts.append(f'<div class="photo" role="img" aria-label="{_text(one.name)}, as the model saw it"></div>')
    parts.append(f"<div><p>{against}.</p>" if rival else f"<div><p>{against}</p>")
    if note:
        parts.append(f'<p class="note">{_text(note)}</p>')
    parts += [_table(one), "</div></div>", _maps(one) if picture is not None else "", "</article>"]
    return "\n".join(part for part in parts if part)


def whole_page(about: About, articles: Sequence[str], entries: Iterable[tuple[str, str]]) -> str:
    """The page.

    Args:
        about: what it says of itself.
        articles: one for each picture that is inside.
        entries: name and answer of each of these.

    """
    listed = "\n".join(
        f'<li><a href="#p{place}">{_name(name)}</a>: {_name(answer)}</li>'
        for place, (name, answer) in enumerate(entries, 1)
    )
    return _PAGE.format(
        style=_STYLE,
        model=_text(about.model),
        lines="\n".join(f"<p>{line}</p>" for line in _lines(about, len(articles))),
        count="The picture" if len(articles) == 1 else f"The {len(articles)} pictures",
        listed=listed,
        articles="\n".join(articles),
    )


def _lines(about: About, inside: int) -> Iterable[str]:
    """How many pictures, and of which are said what."""
    yield (
        f"{about.explained:,} picture{'' if about.explained == 1 else 's'} labelled by {_name(about.model)}, "
        f"generation {about.generation} of its classes; {about.readable[0]} of its {about.readable[1]} attributes are "
        "read well enough to have a say."
    )
    if about.explained > inside:
        yield (
            f"<strong>This page holds the first {inside:,} of them.</strong> The others have sheets in the folder "
            '<a href="sheets/">sheets</a>.'
        )
    if about.unread:
        yield f"{about.unread:,} could not be read and are left out."
    if about.stopped:
        yield "<strong>It was stopped before all pictures had their turn.</strong>"


def _background(picture: NDArray[np.uint8] | None) -> str:
    """The photograph, once, for all that is shown of it."""
    if picture is None:
        return ""
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return f' style="--photo:url(data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()})"'


def _table(one: Explanation) -> str:
    bars = bars_of(one)
    if not bars:
        return ""
    ends = [0.0, *(bar.end for bar in bars)]
    low, high = min(ends), max(ends)
    wide = high - low or 1.0
    zero = f"{100 * (0 - low) / wide:.2f}%"
    total = bars[-1].end
    rows = "\n".join(_row(bar, low, wide) for bar in bars)
    return (
        f'<table style="--zero:{zero}"><caption>What speaks for {_name(one.answer)} (+), and what for '
        f"{_name(one.rival or '')} (-)</caption>\n"
        '<thead><tr><th scope="col">attribute</th><td class="bar"></td><th scope="col">says</th>'
        '<th scope="col">read</th><th scope="col">answer</th><th scope="col">rival</th></tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n"
        f'<tfoot><tr><th scope="row">all together</th>{_bar("total", 0.0, total, low, wide)}'
        f'<td>{number(total)}</td><td colspan="3"></td></tr></tfoot></table>'
    )


def _row(bar: Bar, low: float, wide: float) -> str:
    kind = "other" if bar.spoken is None else "for" if bar.value >= 0 else "against"
    cells = '<td colspan="3"></td>'
    title = ""
    if bar.spoken is not None:
        cells = "".join(f"<td>{value}</td>" for value in amounts(bar.spoken))
        title = f' title="{_text(bar.spoken.attribute)}"'
    return (
        f'<tr class="{kind}"><th scope="row"{title}>{_name(bar.label)}</th>'
        f"{_bar(kind, bar.begin, bar.end, low, wide)}<td>{number(bar.value)}</td>{cells}</tr>"
    )


def _bar(kind: str, begin: float, end: float, low: float, wide: float) -> str:
    left, right = sorted((begin, end))
    place = f"left:{100 * (left - low) / wide:.2f}%;width:{100 * (right - left) / wide:.2f}%"
    return f'<td class="bar" aria-hidden="true"><i class="{kind}" style="{place}"></i></td>'


def _maps(one: Explanation) -> str:
    shown = shown_maps(one)
    if not shown or one.maps is None:
        return ""
    figures = "\n".join(_figure(spoken, one.maps[spoken.attribute]) for spoken in shown)
    return f'<h3>Where the model looks for it</h3>\n<div class="maps">\n{figures}\n</div>'


def _figure(spoken: Spoken, spread: Floats) -> str:
    words = plain_words(spoken.attribute)
    told = f"Where the model looks for {_text(words)}: {_where(spread)}"
    return (
        f'<figure><div class="map" role="img" aria-label="{told}"><img alt="" src="{_png(veil(spread))}">'
        f"{_ring(spread)}</div>"
        f"<figcaption>{_name(words)} <b>{number(spoken.contribution)}</b></figcaption></figure>"
    )


def _ring(spread: Floats) -> str:
    """The line of a map over its square, in thousandths of the side."""
    pieces = (tuple(round(1000 * value) for value in piece) for piece in line(spread))
    path = "".join(f"M{x} {y}L{right} {below}" for x, y, right, below in pieces)
    return f'<svg viewBox="0 0 1000 1000" aria-hidden="true"><path d="{path}"/></svg>' if path else ""


def _where(spread: Floats) -> str:
    """Where a map (s, s) lies, in words, for who cannot see it."""
    total = float(spread.sum())
    if spread.max() < FLAT * spread.mean() or total <= 0:
        return "all over the picture"
    side = len(spread)
    centres = [(place + 0.5) / side for place in range(side)]
    down = sum(centre * float(row) for centre, row in zip(centres, spread.sum(axis=1), strict=True)) / total
    across = sum(centre * float(column) for centre, column in zip(centres, spread.sum(axis=0), strict=True)) / total
    upright = "top" if down < 0.36 else "bottom" if down > 0.64 else ""
    aside = "left" if across < 0.36 else "right" if across > 0.64 else ""
    return " ".join(word for word in (upright, aside) if word) or "middle"


def _png(veiled: NDArray[np.uint8]) -> str:
    """Black of that opacity as the address of a tiny picture."""
    grey = np.zeros((*veiled.shape, 2), np.uint8)
    grey[..., 1] = veiled
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _text(words: str) -> str:
    """Any text for a page: in a line, without what is no letter, escaped."""
    return escape(one_line(words).encode("utf-8", "replace").decode("utf-8"))


def _name(words: str) -> str:
    """A name in its own direction of writing."""
    return f"<bdi>{_text(words)}</bdi>"


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --pale: #595959; --paper: #fff; --line: #c8c8c8;
  --for: #15549e; --against: #e08a1e; --other: #999; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --pale: #b4b4b4; --paper: #16181b; --line: #4a4d52; --for: #6aaef5; --against: #f2a84e;
    --other: #8a8a8a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.35rem; margin: 0; }
h3 { font-size: 1rem; margin: 1rem 0 .4rem; }
p { margin: .4rem 0; max-width: 50rem; overflow-wrap: anywhere; }
a { color: inherit; } a:focus-visible, summary:focus-visible { outline: 3px solid var(--for); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; background: var(--paper); }
summary { cursor: pointer; padding: .3rem 0; }
nav ol { max-height: 20rem; overflow: auto; overflow-wrap: anywhere; }
article { border-top: 1px solid var(--line); padding: 1.2rem 0; break-inside: avoid; }
.chance { font-weight: normal; color: var(--pale); } .file { color: var(--pale); font-size: .9rem; }
.note { font-weight: 600; }
.side { display: grid; grid-template-columns: minmax(9rem, 16rem) minmax(0, 1fr); gap: 1.2rem; }
.side > div:only-child { grid-column: 1 / -1; }
.side > div:last-child { overflow-x: auto; }
.photo, .map { aspect-ratio: 1; background: var(--photo) center / 100% 100%; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; border-radius: 2px; overflow: hidden; }
.map { position: relative; } .map img, .map svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.map path { fill: none; stroke: #fff; stroke-width: 8; stroke-linecap: round; filter: drop-shadow(0 0 4px #000); }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 15rem)); gap: .8rem; }
figure { margin: 0; } figcaption { font-size: .9rem; display: flex; justify-content: space-between; gap: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
caption { text-align: left; color: var(--pale); font-size: .9rem; padding: .3rem 0; }
th { font-weight: normal; text-align: left; } thead th { color: var(--pale); font-size: .9rem; }
th[scope=row] { overflow-wrap: anywhere; min-width: 7rem; max-width: 17rem; }
th, td { padding: .12rem .35rem; }
td, thead th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { width: 40%; min-width: 6rem; position: relative; padding: 0; }
td.bar i { position: absolute; top: 15%; bottom: 15%; min-width: 1px; background: var(--other);
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
td.bar::before { content: ""; position: absolute; top: 0; bottom: 0; left: var(--zero);
  border-left: 1px solid var(--ink); }
td.bar i.for { background: var(--for); } td.bar i.total { background: var(--ink); }
td.bar i.against { border: 1px solid var(--ink); background: repeating-linear-gradient(135deg, var(--against) 0 4px,
  var(--paper) 4px 6px); }
.other th { color: var(--pale); } tfoot th, tfoot td { border-top: 1px solid var(--ink); }
@media (max-width: 44rem) {
  body { padding: .7rem; } .side { grid-template-columns: minmax(0, 1fr); } .photo { max-width: 16rem; }
  table { font-size: .8rem; } th, td { padding: .15rem .2rem; } th[scope=row] { min-width: 4.5rem; }
  td.bar { width: 22%; min-width: 3rem; } td.bar i { max-height: 1.1rem; }
  .maps { grid-template-columns: repeat(2, minmax(0, 15rem)); } }
@media (forced-colors: active) { td.bar i { background: CanvasText; } td.bar i.against { background: Canvas; } }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Why these labels: {model}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#pictures">To the pictures</a>
<header>
<h1>Why these labels</h1>
{lines}
<details>
<summary>What the numbers are, and what they are not</summary>
<p>Each picture is explained against its strongest rival, the most probable other class. The model's score is a sum, so
the difference of the two classes' log-probabilities can be split. What an attribute <b>says</b> is its part of that
difference: above 0 it speaks for the answer, below 0 for the rival. Bars begin where the one above ends, so that the
last one ends at the difference. A difference of 0.7 makes the answer twice as probable as its rival, 2.3 ten times.</p>
<p><b>read</b> is the attribute in this picture, as the model reads it, on the scale of the class table; <b>answer</b>
and <b>rival</b> are what the table says of the two classes. An attribute speaks for the class whose value is
nearer.</p>
<p>What is read is a model of the model: the straight line that tells best, from what the model sees, which attributes a
class has. It was fitted on the classes of training. Attributes that it cannot read on classes it was not fitted on have
no say. <b>What no attribute tells</b> is what is left: much of it is what photographs taught the model of a class, and
no attribute describes. The <b>handicap of trained classes</b> is what calibration takes off the scores of classes that
the model was trained on. None of this says that the label is right.</p>
<p>Of the small photographs the dark parts are what the model does not look at for the attribute; within the white line
it looks at least half as much as where it looks most. That is where it <b>looks</b>, and need not be where the part
is: models of few classes look for any attribute all over the bird.</p>
</details>
<nav aria-label="Pictures">
<details>
<summary>{count} on this page</summary>
<ol>
{listed}
</ol>
</details>
</nav>
</header>
<main id="pictures">
{articles}
</main>
</body>
</html>
"""
