"""How long things take: percentiles, the split into stages, peers, and files side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_train.reports.charts import COLOURS, INK, MARKERS, MUTED, PAPER, SEEN, drawing, finished
from zsl_train.reports.measurements import QUANTILES, splits
from zsl_train.reports.page import Html, Page, figure, folded, joined, name, note, said, table, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_train.reports.measurements import Measured, Split, Timed

MOST_ROWS = 30  # things of one drawing
MOST_DRAWINGS = 40  # of one file; each takes some 40 ms
FEW_ROUNDS = 20  # below that, percentiles beyond the median are guesses
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++", "--", "oo")


def latency_page(files: Sequence[Measured]) -> bytes:
    """The file latency.html."""
    whole = sum(len(one.times) for one in files)
    page = Page(f"Latency: {whole} things in {len(files)} file{'s' if len(files) > 1 else ''}")
    page.lead = [
        said(
            "Milliseconds of one call. p50 is the median: half of the calls took less; p99: one in a hundred took "
            "longer. Percentiles beyond the median say something only where there were many rounds."
        )
    ]
    if len(files) > 1:
        page.lead.append(
            note(
                text(
                    "figures of several files compare only where they come from the same machine, equally quiet: "
                    "look at what each says of its own. Ratios within a file are hurt less."
                )
            )
        )
    for number, one in enumerate(files):
        page.add(one.name if len(files) > 1 else "Percentiles", _about(one), *_groups(one, number))
    page.add("Where the time goes", *(part for one in files for part in _splits(one)))
    page.add("Beside others", *(part for one in files for part in _peers(one)))
    if len(files) > 1:
        page.add("The same things in several files", _side_by_side(files))
    return page.to_bytes()


def _about(one: Measured) -> Html:
    rows = [[text(key), text(value)] for key, value in one.about.items()]
    return table(f"What {one.name} says of where it was measured", ("", ""), rows) if rows else Html("")


# --- percentiles ------------------------------------------------------------------------------------------------------


def _groups(one: Measured, number: int) -> list[Html]:
    """Drawings of what belongs together, and the table of everything."""
    groups: dict[str, list[Timed]] = {}
    for timed in one.times:
        groups.setdefault(group_of(timed), []).append(timed)
    parts = []
    if len(groups) > MOST_DRAWINGS:
        parts.append(said(f"The first {MOST_DRAWINGS} of {len(groups)} groups are drawn; the table has all."))
    for title, of in list(groups.items())[:MOST_DRAWINGS]:
        drawn = of[:MOST_ROWS]
        more = f" The first {len(drawn)} of {len(of)} are drawn." if len(drawn) < len(of) else ""
        caption = joined(
            [name(title or one.name), text(f": median to p90 as a bar, further percentiles as marks.{more}")]
        )
        parts.append(figure(_percentiles(drawn, title or f"file {number + 1}"), caption))
    few = sum(timed.rounds is not None and timed.rounds < FEW_ROUNDS for timed in one.times)
    if few:
        parts.append(
            said(
                f"{few} of {len(one.times)} were timed in fewer than {FEW_ROUNDS} rounds: there p95 and p99 are the "
                "slowest call or two, and no percentile worth the name."
            )
        )
    if any("p90" not in timed.percentiles for timed in one.times):
        parts.append(
            said(
                "A dash: the file does not tell it (pytest-benchmark keeps the times themselves with --benchmark-json)."
            )
        )
    listed = _table(one)
    parts.append(listed if len(one.times) <= MOST_ROWS else folded(f"All {len(one.times)} as a table", listed))
    return parts


def group_of(timed: Timed) -> str:
    """What a thing is drawn with: its group, or the file it stands in."""
    if timed.group:
        return timed.group
    return timed.name.rpartition("::")[0]


def short(timed: Timed) -> str:
    """Its name without the file."""
    return timed.name.rpartition("::")[2]


def milliseconds(value: float | None) -> str:
    """A time with three digits that count."""
    if value is None:
        return "-"
    digits = max(0, 2 - int(np.floor(np.log10(value)))) if value > 0 else 0
    return f"{value:,.{min(digits, 6)}f}"


def _table(one: Measured) -> Html:
    """Everything of a file; columns of which nothing is known are left out."""
    keys = [key for key in QUANTILES if any(key in timed.percentiles for timed in one.times)]
    rates = list(dict.fromkeys(key for timed in one.times for key in timed.more if key.endswith("_per_second")))
    apart = any(timed.quartiles for timed in one.times)
    columns = ("", "rounds", *keys, *(["quartiles"] if apart else []), *(key.replace("_", " ") for key in rates))
    rows = []
    for timed in one.times:
        quartiles = "-" if timed.quartiles is None else " to ".join(map(milliseconds, timed.quartiles))
        rows.append(
            [
                _whole_name(timed),
                text("-" if timed.rounds is None else timed.rounds),
                *(text(milliseconds(timed.percentiles.get(key))) for key in keys),
                *([text(quartiles)] if apart else []),
                *(text(f"{timed.more[key]:,.4g}" if key in timed.more else "-") for key in rates),
            ]
        )
    return table(f"Milliseconds of one call, {one.name}", columns, rows, numbers=len(columns) - 1)


def _whole_name(timed: Timed) -> Html:
    """Its name with its group."""
    return joined([name(timed.name), *([text(f" ({timed.group})")] if timed.group else [])])


def _percentiles(of: Sequence[Timed], title: str) -> Html:
    """A line a thing: bar from p50 to p90, marks at the percentiles; logarithmic, where times are far apart."""
    with drawing(7.6, 0.95 + 0.28 * len(of)) as (sheet, words):
        axes = sheet.add_subplot()
        everything = [value for timed in of for value in timed.percentiles.values()]
        if max(everything) > 20 * min(everything):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        places = range(len(of))
        for place, timed in zip(places, of, strict=True):
            low, high = (
                timed.median,
                timed.percentiles.get("p90", timed.quartiles[1] if timed.quartiles else timed.median),
            )
            axes.plot([low, high], [place, place], color=SEEN, linewidth=5, alpha=0.45, solid_capstyle="butt")
        for number, key in enumerate(QUANTILES):
            known = [
                (timed.percentiles[key], place)
                for place, timed in zip(places, of, strict=True)
                if key in timed.percentiles
            ]
            if known:
                axes.plot(
                    *zip(*known, strict=True),
                    MARKERS[number],
                    color=COLOURS[number],
                    markerfacecolor=COLOURS[number] if number == 0 else PAPER,
                    markersize=6 if number == 0 else 4.5,
                    label=key,
                )
        axes.set_yticks(places, [words(short(timed), 44, end=20) for timed in of])
        axes.set_ylim(len(of) - 0.4, -0.6)
        axes.set_xlabel("milliseconds" + (", logarithmic" if axes.get_xscale() == "log" else ""))
        if axes.get_xscale() == "linear":
            axes.set_xlim(0, 1.04 * max(everything))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        sheet.legend(loc="outside upper right", ncols=4)
        told = "; ".join(f"{short(timed)}: median {milliseconds(timed.median)} ms" for timed in of[:6])
        return finished(sheet, words, f"Percentiles of {title}", f"{len(of)} things. {told}. The table has all.")


# --- stages and peers -------------------------------------------------------------------------------------------------


def _splits(one: Measured) -> list[Html]:
    found = splits(one)
    if not found:
        return []
    rows = []
    for split in found:
        for stage, time in split.stages:
            rows.append(
                [name(split.name), name(stage), text(milliseconds(time)), text(f"{100 * time / split.whole:.0f}")]
            )
        together = sum(time for _, time in split.stages)
        rows.append(
            [
                name(split.name),
                text(f"the stages together; the whole takes {milliseconds(split.whole)}"),
                text(milliseconds(together)),
                text(f"{100 * together / split.whole:.0f}"),
            ]
        )
    return [
        said(
            "Each stage was timed alone. Where the whole does several things at once, they add up to more than it "
            "takes; what is missing to 100 is what lies between them."
        ),
        figure(
            _stages(found[:MOST_ROWS]),
            text(
                f"Medians of the stages, laid end to end, above the whole ({one.name})."
                + (f" The first {MOST_ROWS} of {len(found)} are drawn." if len(found) > MOST_ROWS else "")
            ),
        ),
        table(
            "Stages and their share of the whole",
            ("of", "stage", "milliseconds", "percent of the whole"),
            rows,
            numbers=2,
        ),
    ]


def _stages(found: Sequence[Split]) -> Html:
    """For each split a bar of its stages and one of the whole, in percent of the whole."""
    stages = list(dict.fromkeys(stage for split in found for stage, _ in split.stages))
    with drawing(7.6, 1.1 + 0.62 * len(found)) as (sheet, words):
        axes = sheet.add_subplot()
        for place, split in enumerate(found):
            start = 0.0
            for stage, time in split.stages:
                number = stages.index(stage)
                share = 100 * time / split.whole
                axes.barh(
                    place - 0.14,
                    share,
                    0.3,
                    left=start,
                    color=PAPER,
                    edgecolor=COLOURS[number % len(COLOURS)],
                    hatch=HATCHES[number % len(HATCHES)],
                )
                start += share
            axes.barh(place + 0.16, 100, 0.16, color=MUTED)
        handles: list[Any] = [
            axes.barh(
                0,
                0,
                color=PAPER,
                edgecolor=COLOURS[number % len(COLOURS)],
                hatch=HATCHES[number % len(HATCHES)],
                label=words(stage, 24),
            )
            for number, stage in enumerate(stages)
        ]
        handles.append(axes.barh(0, 0, color=MUTED, label="the whole"))
        axes.set_yticks(range(len(found)), [words(split.name.rpartition("::")[2], 36) for split in found])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.axvline(100, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel("percent of the whole")
        axes.tick_params(axis="y", length=0)
        sheet.legend(handles=handles, loc="outside upper right", ncols=min(5, len(handles)))
        return finished(
            sheet,
            words,
            "Where the time goes",
            f"{len(found)} things split into {', '.join(stages)}; the table has the times.",
        )


def _peers(one: Measured) -> list[Html]:
    """Ratios that were measured in turns; of groups without them, the ratio of medians."""
    rows = [
        [
            _whole_name(timed),
            name(ratio.to),
            text(f"{ratio.median:.2f}"),
            text("-" if ratio.low is None or ratio.high is None else f"{ratio.low:.2f} to {ratio.high:.2f}"),
        ]
        for timed in one.times
        for ratio in timed.ratios
    ]
    parts = []
    if rows:
        listed = table(
            f"Measured in turns: median and quartiles of the rounds' ratios, {one.name}",
            ("", "is to", "times as fast", "quartiles"),
            rows,
            numbers=2,
        )
        parts += [said("Above 1 is faster. Measured in turns, both have the same luck in every round."), listed]
    rows = [row for of in _plain_groups(one) for row in _against_fastest(of)]
    if rows:
        listed = table(
            f"Of groups that did not run in turns: medians against the fastest of the group, {one.name}",
            ("", "group", "median, milliseconds", "times the fastest"),
            rows,
            numbers=2,
        )
        parts += [said("They ran one after the other, so the load of the machine may be part of these ratios."), listed]
    return parts


def _plain_groups(one: Measured) -> list[list[Timed]]:
    """Groups of two or more without measured ratios, as pytest-benchmark's `group` names them."""
    groups: dict[str, list[Timed]] = {}
    for timed in one.times:
        if timed.group and not timed.ratios:
            groups.setdefault(timed.group, []).append(timed)
    return [of for of in groups.values() if len(of) > 1]


def _against_fastest(of: Sequence[Timed]) -> list[list[Html]]:
    fastest = min(timed.median for timed in of)
    ordered = sorted(of, key=lambda timed: timed.median)
    return [
        [name(short(one)), name(one.group), text(milliseconds(one.median)), text(f"{one.median / fastest:.2f}")]
        for one in ordered
    ]


def _side_by_side(files: Sequence[Measured]) -> Html:
    """Medians of what several files have, and the last by the first."""
    known = [{(timed.group, timed.name): timed.median for timed in one.times} for one in files]
    keys = [key for key in dict.fromkeys(key for of in known for key in of) if sum(key in of for of in known) > 1]
    rows = []
    for key in keys:
        medians = [of.get(key) for of in known]
        there = [value for value in medians if value is not None]
        rows.append(
            [
                joined([name(key[1]), *([text(f" ({key[0]})")] if key[0] else [])]),
                *(text(milliseconds(value)) for value in medians),
                text(f"{there[-1] / there[0]:.2f}"),
            ]
        )
    if not rows:
        return said("These files have nothing in common: no name stands in two of them.")
    columns = ("", *(one.name for one in files), "last by first")
    return table("Medians in milliseconds", columns, rows, numbers=len(files) + 1)
