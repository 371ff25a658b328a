"""Tables of what is said to be unlike anything known, from benchmarks/results/distance.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from figure_tables import one, paragraph, read, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

METHODS = {"sc-egg": "SC-EGG", "gfzsl": "GFZSL", "acmr": "ACMR", "lisgan": "LisGAN", "dcr-gan": "DCR-GAN"}
COMPARED = ("cub20, GFZSL", "cub20, SC-EGG", "CUB fc1000, GFZSL", "field guide, SC-EGG")  # with other measures
SETS = (
    "drawn birds",
    "photographs of birds",
    "sample pictures",
    "icons",
    "pages of text",
    "flat colours",
    "rows shuffled",
    "noise",
)


def results() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Title of a row, and its runs."""
    for title, runs in sorted(read("distance.json").items()):
        if isinstance(runs, list):
            data, _, method = title.rpartition(", ")
            yield f"{data}, {METHODS.get(method, method)}", runs


def mean(runs: list[dict[str, Any]], *path: str) -> float | None:
    """Of a figure over the runs; None where one has none."""
    found: list[float] = []
    for run in runs:
        value: Any = run
        for key in path:
            value = None if value is None else value.get(key)
        if value is None:
            return None
        found.append(value)
    return sum(found) / len(found)


def two(value: float | None) -> str:
    """A figure with two decimals, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def far() -> str:
    """Shares that are called far, in percent: of test pictures, which should not be, and of others, which should."""
    lines = [
        (
            title,
            str(len(runs)),
            two(mean(runs, "beyond")),
            *(one(mean(runs, "test", kind, "far")) for kind in ("seen", "unseen")),
            *(one(mean(runs, "far", name, "far")) for name in SETS),
        )
        for title, runs in results()
    ]
    return rows(("", "seeds", "bound", "test, seen", "test, unseen", *SETS), lines)


def near() -> str:
    """Undescribed unseen classes: shares that are called far, and AUROC against test pictures of seen classes."""
    lines = [
        (
            title,
            str(len(runs)),
            one(mean(runs, "undescribed", "far")),
            two(mean(runs, "undescribed", "auroc")),
            two(mean(runs, "undescribed", "auroc_probability")),
        )
        for title, runs in results()
    ]
    return rows(("", "seeds", "called far", "AUROC by distance", "AUROC by probability"), lines)


def rivals() -> str:
    """AUROC of other measures on the same pictures: the least and the largest of the far sets, and undescribed ones."""
    tables = []
    for title, runs in results():
        if title not in COMPARED:
            continue
        names = list(runs[0]["undescribed_rivals"])
        kinds = list(runs[0]["rivals"])
        lines = []
        for name in names:
            cells = [two(mean(runs, "rivals", kind, name)) for kind in kinds]
            lines.append((name, *cells, two(mean(runs, "undescribed_rivals", name))))
        sure = [two(mean(runs, "far", kind, "auroc_probability")) for kind in kinds]
        lines.append(("probability of the best class", *sure, two(mean(runs, "undescribed", "auroc_probability"))))
        tables.append(paragraph(f"{title}:") + "\n" + rows(("", *kinds, "undescribed species"), lines))
    return "\n".join(tables)


def cost() -> str:
    """Processor time of labels and of distances."""
    lines = []
    for title, runs in results():
        timed = [run for run in runs if run.get("cost")]
        scores, distances = (mean(timed, "cost", key) if timed else None for key in ("scores_ms", "distances_ms"))
        if scores is not None and distances is not None:
            share = f"{100 * distances / scores:.1f}"
            lines.append((title, str(timed[0]["cost"]["classes"]), f"{scores:.3f}", f"{distances:.3f}", share))
    return rows(("", "classes", "labels, ms", "distances, ms", "% more"), lines)


TABLES: dict[str, Callable[[], str]] = {
    "distance_far": far,
    "distance_near": near,
    "distance_rivals": rivals,
    "distance_cost": cost,
}
