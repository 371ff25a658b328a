"""Write the tables of figures in README.md and docs/ from benchmarks/results; nothing between the marks is by hand.

    python tools/figures.py            writes them
    python tools/figures.py --check    exits with 1 when a page says something else than the results

A table stands between `<!-- figures: NAME -->` and `<!-- end -->`, NAME being one of TABLES. A page may have any of
them, and several pages the same one.
"""

from __future__ import annotations

import itertools
import re
import sys
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import figure_tables
import figures_of_attention
import figures_of_distance
import figures_of_drafts
import figures_of_explaining
import figures_of_reliability
from figure_tables import ROOT, one, paragraph, read, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"(<!-- figures: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SCORES = ("T1", "T1_czsl", "U", "S", "H", "AUSUC")
HEADS = {"gaussian": "Gaussian", "fit": "softmax", "rows": "rows"}
CLOSED = " (closed form)"  # what titles of closed forms end with
OWN_ROWS = ("sp-aen", "eszsl")  # their heads are of computed rows, others' softmax, in results that do not say it
OLD_ENDINGS = {": published head, same features": "published head", ", cascade": "cascade"}
MEANING = (
    "T1: photographs of unseen classes among these alone, by the head that ships. T1_czsl: the same by a classifier "
    "fitted for them alone, the papers' T1; one figure with T1 where no class's row depends on another's (Gaussian, "
    "rows, what is scored inside a training). ↳: on the same trainings as the row above. Minutes: folds and final "
    "training."
)
SPEED = "2026-11-21-cpu.json"
IN_TURNS = "cpu.json"  # of `make bench-cpu`
CARD = "2026-11-26-h200.json"
BACKBONES = {"resnet101": "ResNet-101, 224 px", "efficientnet_lite2": "EfficientNet-Lite2, 260 px"}
RUNS = {
    "torch, eager": "torch eager",
    "torch, compiled": "torch compile",
    "fp32: plain ONNX Runtime": "plain ort fp32",
    "fp32: plain OpenVINO": "plain openvino fp32",
    "fp32: ours, `ort`": "ours ort fp32",
    "fp32: ours, `openvino`": "ours openvino fp32",
    "bf16: plain OpenVINO": "plain openvino bf16",
    "bf16: ours, `openvino`": "ours openvino bf16",
    "int8: plain ONNX Runtime": "plain ort int8",
    "int8: plain OpenVINO": "plain openvino int8",
    "int8: ours, `ort`": "ours ort int8",
    "int8: ours, `openvino`": "ours openvino int8",
}
METHODS = {"sc-egg": "SC-EGG", "dcr-gan": "DCR-GAN", "acmr": "ACMR", "lisgan": "LisGAN", "sp-aen": "SP-AEN"}


def newcomers() -> str:
    """What newcomers cost the classes that were there: of every data set and method, and every number of them."""
    headings = ("", "preset", "head", "new", "H of the old: from the start", "before", "added", "+ 5 photos each")
    headings += ("the new: from the start", "added", "+ 1 photo", "+ 5", "+ 10")
    lines = []
    for title, found in read("newcomers.json").items():
        for count, figures in found["counts"].items():
            columns = ("known", "before", "after_0", "after_5")
            old = [one(figures[column]["old_H"]) if column in figures else "-" for column in columns]
            columns = ("known", "after_0", "after_1", "after_5", "after_10")
            new = [one(figures[column]["newcomers"]) if column in figures else "-" for column in columns]
            lines.append((title, *made_of(found), count, *old, *new))
    return rows(headings, lines)


def made_of(found: Mapping[str, Any]) -> tuple[str, str]:
    """Preset and head of what newcomers were added to; older results are of preset `default` and the Gaussian head."""
    return found.get("preset", "default"), HEADS[found.get("head", "gaussian")]


@dataclass(frozen=True)
class Line:
    """A row of `benchmarks/accuracy/table.py`, as a table shows it.

    Attributes:
        title: its name in the results.
        of: title of the row whose trainings it was scored on; empty for a training of its own.
        name: shown.
        method: of zsl-train, or the closed form's name.
        preset: of the method; empty for a closed form.
        head: rules of the head; empty where none is known.
        found: all else.

    """

    title: str
    of: str
    name: str
    method: str
    preset: str
    head: tuple[str, ...]
    found: Mapping[str, Any]

    @property
    def closed(self) -> bool:
        """Whether it is a closed form beside the trainings."""
        return self.title.endswith(CLOSED)

    @property
    def h(self) -> float | None:
        """Mean H."""
        figure = self.found["figures"].get("H")
        return None if figure is None else figure["mean"]


def lines_of(name: str) -> list[Line]:
    """The rows of a file of results, each with what was scored on its trainings behind it."""
    results = read(name)["results"]
    made = [line_of(title, found, results) for title, found in results.items()]
    return [line for own in made if not own.of for line in (own, *(one for one in made if one.of == own.title))]


def line_of(title: str, found: Mapping[str, Any], titles: Container[str]) -> Line:
    """A row; what older results do not say of it is read from its title and options."""
    of, name = found.get("of", ""), found.get("name", title)
    for ending, shown in OLD_ENDINGS.items():
        if not of and title.endswith(ending) and title.removesuffix(ending) in titles:
            of, name = title.removesuffix(ending), shown
    options = found.get("options", [])
    given = {option: value for option, value in itertools.pairwise(options) if option.startswith("--")}
    method = found.get("method", given.get("--method", title.removesuffix(CLOSED)))
    preset = found.get("preset", preset_of(given))
    head = found.get("head", ["rows"] if method in OWN_ROWS or title.endswith(CLOSED) else ["fit"])
    if found["setting"] == "transductive":
        name += " (transductive)"
    return Line(title, of, name, method, preset, tuple(head), found)


def preset_of(given: Mapping[str, str]) -> str:
    """The preset that options of zsl-train name, by themselves or by a recipe of ours; empty where there are none."""
    if "--recipe" not in given:
        return given.get("--preset", "")
    recipe: dict[str, Any] = tomllib.loads((ROOT / given["--recipe"]).read_text(encoding="utf-8"))
    return str(recipe.get("preset", "default"))


def scores(name: str) -> str:
    """The rows of a table of `benchmarks/accuracy/table.py`, those of one seed by themselves, and what columns mean."""
    lines = lines_of(name)
    alone = {line.title for line in lines if not line.of and len(line.found["seeds"]) == 1}
    single = [line for line in lines if (line.of or line.title) in alone]
    several = [line for line in lines if line not in single]
    eszsl = next((line.h for line in lines if line.closed and line.method == "eszsl"), None)
    trained = [line for line in lines if not line.closed and line.method != "eszsl"]
    below = [line for line in trained if line.h is not None and eszsl is not None and line.h < eszsl]
    parts = [score_rows(several, below)] if several else []
    if single:
        parts.append(f"One seed each:\n\n{score_rows(single, below)}" if several else score_rows(single, below))
    parts.append(paragraph(MEANING))
    if below:
        named = [line.name for line in below if line.preset == "default" and not line.of]
        of_default = f"of preset `default`: {'; '.join(named)}" if named else "no preset `default` is among them"
        parts.append(paragraph(f"‡ H below that of ESZSL ({one(eszsl)}), a closed form of seconds; {of_default}."))
    return "\n".join(parts)


def score_rows(lines: Sequence[Line], below: Sequence[Line]) -> str:
    """A table of scores.

    Args:
        lines: to show.
        below: those that stand under ESZSL.

    """
    cards = any(cards_of(line) for line in lines)
    referenced = any(line.found["reference"] for line in lines)
    shown = []
    for line in lines:
        figures, seconds = line.found["figures"], line.found["figures"].get("train_seconds")
        cells = [
            f"{'↳ ' if line.of else ''}{line.name}{' ‡' if line in below else ''}",
            line.preset or "-",
            ", ".join(HEADS.get(rule, rule) for rule in line.head) or "-",
            str(len(line.found["seeds"])),
            "-" if seconds is None else f"{seconds['mean'] / 60:.0f}" if seconds["mean"] >= 60 else "under 1",
            *(spread(figures.get(figure)) for figure in SCORES),
            *([line.found["reference"] or "-"] if referenced else []),
            *([cards_of(line) or "CPU"] if cards else []),
        ]
        shown.append(cells)
    last = [*(["authors' code, H"] if referenced else []), *(["trained on"] if cards else [])]
    return rows(("", "preset", "head", "seeds", "minutes", *SCORES, *last), shown)


def cards_of(line: Line) -> str:
    """The cards that a row was trained on, and whether seeds of it were on a CPU; empty for CPUs alone."""
    machines = line.found.get("machine", [])
    cards = [name for name in machines if name.startswith("NVIDIA")]
    return ", ".join([*cards, *(["CPU"] if cards and len(cards) < len(machines) else [])])


def spread(figure: dict[str, Any] | None) -> str:
    """Mean and standard deviation over seeds."""
    if figure is None:
        return "-"
    return one(figure["mean"]) + ("" if figure["std"] is None else f" ± {figure['std']:.1f}")


def methods() -> str:
    """Which method, what it reaches, how long it trains; rows of tables that the explanation of accuracy has whole."""
    tables = [lines_of(f"{name}.json") for name in ("field_guide", "cub20", "cub_fc1000")]
    shown = []
    for method in ("gfzsl", "sc-egg", "lisgan", "dcr-gan", "acmr", "sp-aen", "eszsl"):
        found = [shown_of(lines, method) for lines in tables]
        cells = []
        for line in found:
            own = line is not None and line.head == ("fit",)
            cells.append("-" if line is None else spread(line.found["figures"].get("H")) + (" †" if own else ""))
        birds = found[1]
        seconds = None if birds is None else birds.found["figures"]["train_seconds"]["mean"]
        minutes = "-" if seconds is None else f"{seconds / 60:.0f}" if seconds >= 60 else "under 1"
        shown.append((f"`{method}`", *cells, minutes))
    return rows(("", "drawn birds", "20 bird species", "CUB, feature vectors", "minutes to train"), shown)


def shown_of(lines: Sequence[Line], method: str) -> Line | None:
    """The row that stands for a method: preset `default`, else `code`; rows that do not say their head come last."""
    own = [line for line in lines if line.method == method and not line.of and not line.closed]
    order = ("default", "code")
    return min(
        own,
        key=lambda line: (order.index(line.preset) if line.preset in order else len(order), "head" not in line.found),
        default=None,
    )


def scalings() -> str:
    """H of one fold of validation classes, by how features are scaled."""
    found = read("cub_fc1000_scalings.json")["results"]
    methods = dict.fromkeys(name.rpartition(", ")[0] for name in found)
    kinds = ("minmax", "standard")
    lines = [(method, *(one(found[f"{method}, {kind}"]["H"]) for kind in kinds)) for method in methods]
    return rows(("", "MinMax", "standardised"), lines)


def units() -> str:
    """H with attributes in other units, as they are and divided by their ranges: of validation classes, of the test."""
    changes = {
        "as-given": "as given",
        "one-x10": "one attribute times 10",
        "one-x1000": "one times 1000",
        "one-plus-280": "one plus 280",
        "tenth-x100": "a tenth of them times 100",
        "half-x100": "half of them times 100",
    }
    lines = []
    for data, found in read("units.json").items():
        for change, title in changes.items():
            if not {"none", "range"} <= set(found.get(change, ())):
                continue
            none, ranges = (list(found[change][rule].values()) for rule in ("none", "range"))
            seeds = str(len(none))
            cells = [
                " / ".join(one(sum(run[form][figure] for run in of) / len(of)) for of in (none, ranges))
                for form in ("gfzsl", "eszsl", "ridge-to-prototype")
                for figure in ("validation_H", "H")
            ]
            lines.append((data, title, *cells, seeds))
    forms = ("GFZSL", "ESZSL", "ridge to prototype")
    return rows(("", "attributes", *(f"{form}{of}" for form in forms for of in ("", ", test")), "seeds"), lines)


def network() -> str:
    """The network alone, by whom it is run; with the ratios within rounds, once `make bench-cpu` has left its file."""
    if not (figure_tables.RESULTS / IN_TURNS).is_file():
        return network_one_after_the_other()
    found = read(IN_TURNS)["networks"]
    headings = ["pictures a second, batches of 8"]
    for backbone in found:
        headings += [BACKBONES[backbone], "times the best peer"]
    lines = []
    for title, run in RUNS.items():
        if any(run in of["contenders"] for of in found.values()):
            lines.append((title, *(cell for of in found.values() for cell in pair(of["contenders"].get(run)))))
    return rows(headings, lines)


def pair(found: dict[str, Any] | None) -> tuple[str, str]:
    """Pictures a second of a contender, and how many times as fast as the best peer it is: median and quartiles."""
    if found is None:
        return "-", "-"
    peer = found.get("best_peer")
    ratio = "{median:.2f} ({low:.2f} to {high:.2f})".format(**peer["times_as_fast"]) if peer else "-"
    return one(found["pictures_per_second"]), ratio


def network_one_after_the_other() -> str:
    """As it was measured before contenders ran in turns."""
    figures = read(SPEED)["figures"]
    lines = []
    for title, run in RUNS.items():
        if "bf16" in run:
            continue  # that machine had none
        cells = []
        for backbone in BACKBONES:
            name = f"bench_engine.py::bench_engine[{backbone}-{run}]"
            found = figures.get(name) or figures[f"{name} (another run)"]
            cells.append(one(found["pictures_per_second"]))
        lines.append((title, *cells))
    return rows(("pictures a second, batches of 8", *BACKBONES.values()), lines)


def pixels() -> str:
    """Resizing and cropping, by whom it is done."""
    runs = {
        "ours, AVX-512, one thread": "bench_resize_and_crop[native-avx512",
        "ours, AVX2, one thread": "bench_resize_and_crop[native-avx2",
        "ours, plain C++, one thread": "bench_resize_and_crop[native-scalar",
        "ours, AVX-512, two threads": "bench_resize_and_crop[native-threads",
        "torch's antialiased resize": "bench_resize_and_crop[torch",
        "Pillow and NumPy": "bench_resize_and_crop[pillow",
        "NumPy, the definition": "bench_resize_and_crop[numpy",
    }
    # In files from before they ran in turns, others than ours had a benchmark of their own.
    figures = {name.replace("_by_others", ""): of for name, of in read(SPEED)["figures"].items()}
    lines = []
    for title, run in runs.items():
        found = [figures[f"bench_pixels.py::{run}-{size}]"]["pictures_per_second"] for size in ("224 of 256", "260")]
        lines.append((title, *(f"{value:,.0f}" for value in found)))
    return rows(("pictures of 500 x 375 a second", "224 of 256 px", "260 px"), lines)


def end_to_end() -> str:
    """From the files to the labels, and the parts of it one by one."""
    lines = []
    for title in ("EfficientNet-Lite2", "ResNet-101"):
        found = read(SPEED)["figures"][f"bench_end_to_end.py::bench_end_to_end ({title}, 800 photographs of cub20)"]
        parts = [f"{found[f'{part}_alone_s']:.2f} s" for part in ("decode", "pixels", "engine", "head", "output")]
        share = f"{100 * found['share_of_bound']:.0f} %"
        lines.append((title, *parts, f"{found['end_to_end_s']:.1f} s", one(found["pictures_per_second"]), share))
    headings = ("", "decode", "resize and crop", "network", "best classes", "output", "all of it")
    return rows((*headings, "photographs a second", "of what the sum allows"), lines)


def card_network() -> str:
    """Networks on a card: with torch, where the pictures lie there; and from memory to memory, with ours and torch."""
    batches = (1, 8, 64, 256)
    figures = read(CARD)["figures"]
    lines = []
    for backbone, title in BACKBONES.items():
        for precision in ("fp32", "fp16"):
            name = f"{backbone} {precision}{' channels last' if precision == 'fp16' else ''}"
            found = [figures["backbones by torch"][f"{name}, batch {batch}"] for batch in batches]
            for how, key in (("torch, eager", "eager"), ("torch, CUDA graph", "graph")):
                cells = [f"{one[f'{key}_pictures_per_second']:,.0f}" for one in found]
                lines.append((title, precision, how, *cells))
            if backbone == "resnet101":
                whole = figures["latency, ResNet-101, ready pictures to scores"]
                for how, run in (
                    ("from memory: ours, `ort-cuda`", "ort-cuda"),
                    ("from memory: torch, eager", "torch eager"),
                ):
                    calls = [whole[f"{run} {precision}"].get(str(batch)) for batch in batches]
                    key = "one_after_the_other_per_second"
                    lines.append((title, precision, how, *(f"{one[key]:,.0f}" if one else "-" for one in calls)))
    return rows(("pictures a second, by the batch", "", "", *map(str, batches)), lines)


def card_pixels() -> str:
    """Resizing and cropping on a card, by how many pictures a call takes."""
    batches = (1, 8, 64, 256)
    found = read(CARD)["figures"]
    size, there = "224 of 256", "the card, pictures that lie there"
    now = found["pixels, pictures of 500 x 375"][size]
    before = found["pixels before pictures of one size shared their coefficients"][size]
    runs = {
        "the kernels alone": (now, there, "kernels_pictures_per_second"),
        "a call, pictures on the card": (now, there, "pictures_per_second"),
        "the same before sizes shared coefficients": (before, there, "pictures_per_second"),
        "a call, from memory and back": (
            now,
            "the card, pictures from host memory, squares back to it",
            "pictures_per_second",
        ),
    }
    lines = [
        (title, *(f"{of[f'{way}, batch {batch}'][key]:,.0f}" for batch in batches))
        for title, (of, way, key) in runs.items()
    ]
    cpu = now["the CPU, 16 threads"]["pictures_per_second"]
    lines.append(("the machine's CPU, 16 threads", "-", "-", "-", f"{cpu:,.0f}"))
    return rows(("pictures of 500 x 375 a second, to 224 of 256 px", *map(str, batches)), lines)


def adding() -> str:
    """How long adding and teaching take, by the number of classes there and of those that come."""
    figures = {name.partition("::")[2]: found["p50_ms"] for name, found in read("adding.json")["figures"].items()}
    lines = []
    for there in (200, 10000):
        for new in (1, 10, 10000):
            times = [figures[f"bench_add_{how}[{there} classes-{new}]"] for how in ("in_process", "as_a_command")]
            lines.append((f"{there:,}", f"{new:,} added", *map(seconds, times)))
        lines.append((f"{there:,}", "1 taught", seconds(figures[f"bench_teach_in_process[{there} classes]"]), "-"))
    return rows(("classes there", "", "in process", "as a command"), lines)


def seconds(milliseconds: float) -> str:
    """A time with two digits that count."""
    return f"{milliseconds / 1000:.3f} s" if milliseconds < 100 else f"{milliseconds / 1000:.2f} s"


def engines() -> str:
    """How long TensorRT-RTX builds an engine, and how large it is."""
    lines = []
    for found in read("engines.json")["methods"]:
        cells = [
            f"{one(engine['build_seconds'])} s, {engine['plan_bytes'] / 1e6:.0f} MB" for engine in found["engines"]
        ]
        lines.append((METHODS[found["method"]], *cells))
    return rows(("", "fp32", "fp16", "int8"), lines)


def precision() -> str:
    """What lower precisions cost, run by run."""
    variants = {"fp16": "fp16", "int8-cpu": "int8 for CPUs", "int8-trt": "int8 for TensorRT"}
    lines = []
    for run, found in read("precision.json")["runs"].items():
        exact = found["accuracy"]["precisions"]["fp32"]
        title = run.replace("default-", "20 species, seed ")
        megabytes = {variant: one(found["bytes"][variant] / 1e6) for variant in ("fp32", *variants)}
        for variant, name in variants.items():
            figures = found["accuracy"]["precisions"][variant]
            changes = [f"{figures[figure] - exact[figure]:+.1f}" for figure in ("T1", "U", "S", "H")]
            same = f"{100 * figures['agreement']:.1f} %"
            lines.append((title, name, *changes, same, f"{megabytes[variant]} ({megabytes['fp32']})"))
    return rows(("", "", "T1", "U", "S", "H", "labels as fp32", "MB (of fp32)"), lines)


TABLES: dict[str, Callable[[], str]] = {
    "methods": methods,
    "newcomers": newcomers,
    "cub20": lambda: scores("cub20.json"),
    "cub_fc1000": lambda: scores("cub_fc1000.json"),
    "field_guide": lambda: scores("field_guide.json"),
    "scalings": scalings,
    "units": units,
    "network": network,
    "pixels": pixels,
    "end_to_end": end_to_end,
    "card_network": card_network,
    "card_pixels": card_pixels,
    "adding": adding,
    "engines": engines,
    "precision": precision,
    **figures_of_distance.TABLES,
    **figures_of_drafts.TABLES,
    **figures_of_explaining.TABLES,
    **figures_of_attention.TABLES,
    **figures_of_reliability.TABLES,
}


def written(text: str) -> str:
    """The page with every table made anew; KeyError for a mark of no table."""
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found['name']]()}{found[3]}", text)


def main() -> int:
    """Write the tables, or look whether they are as the results say."""
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    changed = {page: written(text) for page, text in texts.items() if written(text) != text}
    if "--check" in sys.argv[1:]:
        return 1 if changed else 0
    for page, text in changed.items():
        page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
