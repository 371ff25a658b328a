"""Of a run's page: features on a plane, where attention looks, rebuilt pictures, the surest right and wrong answers."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.explaining.maps import line, veil
from zsl_train.reports.charts import INK, MARKERS, MUTED, PAPER, SEEN, THIRD, UNSEEN, drawing, finished
from zsl_train.reports.page import Html, figure, image, joined, name, said, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Bools, Floats
    from zsl_train.reports.run_files import RunFiles
    from zsl_train.training.material import Answers, Material, Plane

MOST_NAMED = 8  # unseen classes that have a marker of their own
SURE = 4  # photographs of each kind
MANY = 80  # classes, whose means are drawn smaller
FRAME = '<svg role="img" viewBox="0 0 100 100" width="147" height="147">'


# --- the plane --------------------------------------------------------------------------------------------------------


def plane_part(plane: Plane, names: Sequence[str], seen: Bools, *, generator_used: bool) -> Html:
    """Two views of the features.

    Args:
        plane: what was placed.
        names: C.
        seen: (C,).
        generator_used: the head that ships was made with what the generator makes.

    """
    shares = 100 * plane.shares
    parts = [
        figure(
            _whole_plane(plane, seen),
            text(
                "Axes: the two directions in which the means of the seen classes lie furthest apart, in coordinates "
                "where pictures of one class spread by 1 in every direction (linear discriminant analysis). They "
                f"hold {shares[0]:.0f} and {shares[1]:.0f} percent of the spread between these means; what overlaps "
                "here may be apart in the directions that are not drawn."
            ),
        )
    ]
    if plane.shares[2] > 0 and len(plane.unseen):
        synthetic = " Crosses are what the generator makes of the attributes" if len(plane.synthetic) else ""
        if synthetic:
            synthetic += "." if generator_used else "; the head of this run was made without them."
        parts.append(
            figure(
                _unseen_plane(plane, names, seen),
                text(
                    "Unseen classes alone, on the two directions that tell apart what their attributes say of them "
                    f"({shares[2]:.0f} and {shares[3]:.0f} percent of that spread). A large marker is where "
                    "attributes put a class, the line from it leads to the mean of its test pictures: the shorter, "
                    f"the better the attributes told.{synthetic}"
                ),
            )
        )
    return joined(parts)


def _whole_plane(plane: Plane, seen: Bools) -> Html:
    """All kinds of points, each with a marker of its own."""
    with drawing(7.4, 5.0) as (sheet, words):
        axes = sheet.add_subplot()
        axes.scatter(*plane.seen[:, :2].T, s=9, marker="o", color=SEEN, alpha=0.6, linewidths=0, label="seen, pictures")
        axes.scatter(
            *plane.unseen[:, :2].T,
            s=13,
            marker="^",
            facecolor=PAPER,
            edgecolor=UNSEEN,
            linewidths=0.8,
            label="unseen, pictures",
        )
        if len(plane.synthetic):
            axes.scatter(
                *plane.synthetic[:, :2].T, s=12, marker="x", color=THIRD, linewidths=0.8, label="unseen, synthetic"
            )
        for kind, marker, fill, label in (
            (True, "o", SEEN, "seen, class mean"),
            (False, "^", UNSEEN, "unseen, as attributes tell"),
        ):
            means = (plane.means if kind else plane.told)[seen == kind, :2]
            known = means[np.isfinite(means).all(axis=1)]
            if len(known):
                axes.scatter(
                    *known.T,
                    s=52 if len(seen) < MANY else 20,
                    marker=marker,
                    facecolor=fill,
                    edgecolor=INK,
                    linewidths=1.1,
                    label=label,
                )
        _plain(axes)
        sheet.legend(loc="outside upper center", ncols=3)
        told = (
            f"{len(plane.seen)} pictures of seen classes, {len(plane.unseen)} of unseen ones, {len(plane.synthetic)} "
            f"synthetic features and the means of {len(seen)} classes on two axes."
        )
        return finished(sheet, words, "Features and class means", told)


def _unseen_plane(plane: Plane, names: Sequence[str], seen: Bools) -> Html:
    """Unseen classes: the first ones with marker and name, the others grey."""
    known = [int(k) for k in np.flatnonzero(~seen) if np.isfinite(plane.told[k]).all()]
    counts = {k: int((plane.unseen_labels == k).sum()) for k in known}
    shown = sorted(sorted(known, key=lambda k: -counts[k])[:MOST_NAMED])
    colours = (SEEN, UNSEEN, THIRD, INK)
    with drawing(7.4, 4.8) as (sheet, words):
        axes = sheet.add_subplot()
        rest = ~np.isin(plane.unseen_labels, shown)
        if rest.any():
            axes.scatter(
                *plane.unseen[rest, 2:].T, s=6, color=MUTED, alpha=0.4, linewidths=0, label="other unseen classes"
            )
        for number, one in enumerate(shown):
            colour, marker = colours[number % 4], MARKERS[number % len(MARKERS)]
            points = plane.unseen[plane.unseen_labels == one, 2:]
            axes.scatter(*points.T, s=15, marker=marker, facecolor=PAPER, edgecolor=colour, linewidths=0.8)
            made = plane.synthetic[plane.synthetic_labels == one, 2:]
            axes.scatter(*made.T, s=12, marker="x", color=colour, linewidths=0.7)
            place = plane.told[one, 2:]
            if len(points):
                middle = points.mean(axis=0)
                axes.plot([place[0], middle[0]], [place[1], middle[1]], color=colour, linewidth=1.3)
            axes.scatter(
                *place,
                s=85,
                marker=marker,
                facecolor=colour,
                edgecolor=INK,
                linewidths=1.1,
                label=words(names[one], 24),
                zorder=3,
            )
        _plain(axes)
        sheet.legend(loc="outside right upper")
        told = (
            f"{len(shown)} of {len(known)} unseen classes with {len(plane.unseen)} test pictures, and where their "
            "attributes put them."
        )
        return finished(sheet, words, "Unseen classes: what attributes tell, and what pictures show", told)


def _plain(axes: object) -> None:
    """Axes in standard deviations within a class, of the same scale."""
    axes.set_aspect("equal", adjustable="datalim")  # type: ignore[attr-defined]
    axes.set_xlabel("first axis, in standard deviations within a class")  # type: ignore[attr-defined]
    axes.set_ylabel("second axis")  # type: ignore[attr-defined]
    axes.grid()  # type: ignore[attr-defined]


# --- photographs ------------------------------------------------------------------------------------------------------


def photographs_part(run: RunFiles, material: Material) -> Html:
    """The surest right answers, and the surest wrong ones."""
    answers = material.answers
    assert answers is not None
    kinds = []
    for right, heading, words in (
        (
            True,
            "Right and sure",
            "Rightly labelled with the highest probability: unseen classes, then seen ones, one picture of each.",
        ),
        (
            False,
            "Wrong and sure",
            "Wrongly labelled with the highest probability, likewise: a wrong class, or a wrong label?",
        ),
    ):
        of_kind = {
            seen: [
                row
                for row in material.photographs
                if answers.right[row] == right and run.seen[answers.labels[row]] == seen
            ]
            for seen in (False, True)
        }
        rows = [
            row for of in of_kind.values() for row in sorted(of, key=lambda row: -answers.probability[row, 0])[:SURE]
        ]
        if rows:
            cards = "".join(f"<li>{_card(run, answers, row, material.photographs[row])}</li>" for row in rows)
            kinds += [Html(f"<h3>{text(heading)}</h3>"), said(words), Html(f'<ul class="cards">{cards}</ul>')]
    return joined(kinds)


def _card(run: RunFiles, answers: Answers, row: int, data: bytes) -> Html:
    """One photograph with its file, what it is, and what it was called."""
    best, truth = int(answers.best[row, 0]), int(answers.labels[row])
    answer, own = run.names[best], run.names[truth]
    sure = f"{100 * answers.probability[row, 0]:.0f} percent"
    kinds = {True: "seen", False: "unseen"}
    if best == truth:
        words = joined([name(own), text(f" ({kinds[bool(run.seen[truth])]}), {sure}")])
        alt = f"Test picture of {own}, rightly labelled"
    else:
        words = joined(
            [
                text("called "),
                name(answer),
                text(f" ({kinds[bool(run.seen[best])]}), {sure}; it is "),
                name(own),
                text(f" ({kinds[bool(run.seen[truth])]}), {100 * answers.of_truth[row]:.0f} percent"),
            ]
        )
        alt = f"Test picture of {own}, called {answer}"
    return joined(
        [
            image(data, alt),
            words,
            Html("<br>"),
            Html(f'<span class="muted">{name(picture_name(run, answers, row).rpartition("/")[2])}</span>'),
        ]
    )


def picture_name(run: RunFiles, answers: Answers, row: int) -> str:
    """Its name in split.csv; '' where that is not known."""
    line = int(answers.lines[row])
    return run.pictures[line] if line < len(run.pictures) else ""


def rebuilt_part(sheet: bytes) -> Html:
    """The sheet that a method with a decoder left in the run folder."""
    return figure(
        image(sheet, "Rows of photographs beside what the method rebuilt of them", media="image/png", plain=True),
        text(
            "Photographs and what the method's decoder rebuilds of them (reconstructions.png; what each row is and "
            "how far it is off stands in reconstructions.json). It shows what the features keep, not how well "
            "classes are named."
        ),
    )


# --- attention --------------------------------------------------------------------------------------------------------


def attention_part(run: RunFiles, material: Material) -> Html:
    """A few test pictures, each with the maps of a few attributes."""
    maps, answers = material.maps, material.answers
    assert maps is not None
    assert answers is not None
    parts = [
        said(
            "Bright is where an attribute's attention looks; within the line it is at least half as strong as at its "
            "strongest. The attributes are those by which the class that was named stands out most from all classes. "
            "Attention shows where a value was read, not that it was read rightly: a map on the background is a reason "
            "for doubt, one on the thing itself no proof."
        )
    ]
    for place, row in enumerate(int(one) for one in maps.pictures):
        picture = material.photographs.get(row)
        if picture is None:
            continue
        best, truth = int(answers.best[row, 0]), int(answers.labels[row])
        verdict = "rightly" if best == truth else "wrongly"
        heading = joined(
            [
                text(f"{verdict} called "),
                name(run.names[best]),
                *([] if best == truth else [text("; it is "), name(run.names[truth])]),
            ]
        )
        figures = [figure(_plain_photograph(picture, row), text("the photograph"))]
        for number, attribute in enumerate(int(one) for one in maps.attributes[place]):
            values = maps.values[place, number]
            words = joined([name(run.attributes[attribute]), text(f": {_concentration(values)}")])
            figures.append(figure(_map(values, row, run.attributes[attribute]), words))
        parts.append(Html(f'<h3>{heading}</h3><div class="sheet">{joined(figures)}</div>'))
    return joined(parts) if len(parts) > 1 else Html("")


def _concentration(values: Floats) -> str:
    """How much of the attention the brightest fourth of the picture has."""
    flat = np.sort(values.reshape(-1))[::-1]
    most = flat[: max(1, len(flat) // 4)].sum() / max(float(flat.sum()), 1e-12)
    return f"{100 * most:.0f} percent in a fourth of the picture"


def _plain_photograph(data: bytes, row: int) -> Html:
    """The photograph by itself, which the maps beside it refer to."""
    source = base64.b64encode(data).decode()
    return Html(
        f'{FRAME}<title>Test photograph</title><image id="photograph-{row}" width="100" height="100" '
        f'preserveAspectRatio="none" href="data:image/jpeg;base64,{source}"/></svg>'
    )


def _map(values: Floats, row: int, attribute: str) -> Html:
    """The photograph, darkened where attention passes over it, as the sheets of `zsl-infer --explain` show it."""
    side = len(values)
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    down, across = (round(100 * (place + 0.5) / side) for place in (y, x))
    title = text(f"Attention of {attribute}, strongest {across} percent from the left and {down} from the top")
    pieces = (f"M{100 * a:.1f} {100 * b:.1f}L{100 * c:.1f} {100 * d:.1f}" for a, b, c, d in line(values))
    path = f'<path d="{"".join(pieces)}" fill="none" stroke-linecap="round"'
    return Html(
        f'{FRAME}<title>{title}</title><use href="#photograph-{row}"/><image width="100" height="100" '
        f'preserveAspectRatio="none" href="data:image/png;base64,{_dark(veil(values))}"/>'
        f'{path} stroke="#000" stroke-width="2.4"/>{path} stroke="#fff" stroke-width="1.1"/></svg>'
    )


def _dark(opacity: NDArray[np.uint8]) -> str:
    """Black of that opacity (s, s), as a PNG file in base64: a browser makes it as large as the photograph."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.stack([np.zeros_like(opacity), opacity], axis=2), "LA").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
