"""What is written of an evaluation: a report for people, a table of classes for a spreadsheet, everything as JSON."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zsl_runtime.head.distance import FAR
from zsl_runtime.streams import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from zsl_runtime.accuracy import ClassAccuracy
    from zsl_runtime.labelling.evaluation import Calibration, Evaluation, Figure
    from zsl_runtime.labelling.how_far import HowFar

CLASS_COLUMNS = ("class", "split", "photographs", "right", "accuracy", "mistaken_for", "mistaken")
WORST = 10  # mix-ups in a report
WIDTH = 100  # of the lines of its one long sentence


@dataclass(frozen=True)
class Protocol:
    """How an evaluation came about.

    Attributes:
        bundle: as it was given.
        generation: of its classes.
        method: that the model was trained by.
        backend: that ran it; `library` with its version, `device` and `precision` likewise.
        library: behind the backend.
        device: where it ran.
        precision: of the model.
        truth: where the photographs were found.
        truth_kind: class folders, table or training data.
        split: the file whose roles chose among them; None for all of them.
        role: the one that counts; None without a split.
        notes: what was left out.

    """

    bundle: str
    generation: int
    method: str
    backend: str
    library: str
    device: str
    precision: str
    truth: str
    truth_kind: str
    split: str | None
    role: str | None
    notes: tuple[str, ...]


def encode_report(evaluation: Evaluation, protocol: Protocol) -> bytes:
    """For people: what was looked at, the figures with what they mean, calibration, every class, the worst mix-ups."""
    blocks = (
        _heading(evaluation, protocol),
        _figures(evaluation, protocol),
        _calibration(evaluation.calibration, evaluation.photographs),
        *([] if evaluation.distances is None else [_distances(evaluation.distances)]),
        _classes(evaluation.classes),
        _mixups(evaluation),
    )
    text = "\n".join("".join(f"{line}\n" for line in block) for block in blocks)
    return printable(text).encode("utf-8", errors="surrogateescape")


def encode_classes(evaluation: Evaluation) -> bytes:
    """CSV with the columns of CLASS_COLUMNS and a row for each class that has photographs; accuracy in percent."""
    return _csv(
        CLASS_COLUMNS,
        (
            (
                one.name,
                _split(one),
                one.pictures,
                one.right,
                float(f"{_accuracy(one):.6g}"),
                one.mistaken_for,
                one.mistaken,
            )
            for one in evaluation.classes
        ),
    )


def encode_confusion(evaluation: Evaluation) -> bytes:
    """CSV: a row for each class, with how many of its photographs were given the column's."""
    rows = zip(evaluation.names, evaluation.counts.tolist(), strict=True)
    return _csv(("class", *evaluation.names), ((name, *counts) for name, counts in rows))


def encode_json(evaluation: Evaluation, protocol: Protocol) -> bytes:
    """One JSON object, a line for each of its keys."""
    read, unreadable = evaluation.photographs, len(evaluation.unreadable)
    content: dict[str, Any] = {
        "protocol": {**asdict(protocol), "photographs": read, "unreadable": unreadable},
        **evaluation.to_dict(),
    }
    lines = ",\n".join(f"{json.dumps(key)}: {_json(value)}" for key, value in content.items())
    return f"{{\n{lines}\n}}\n".encode()


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a path with bytes that are no UTF-8
        return json.dumps(value)
    return text


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


# --- the report -----------------------------------------------------------------------------------------------------


def _heading(evaluation: Evaluation, protocol: Protocol) -> Iterator[str]:
    which = f", role {protocol.role} of {protocol.split}" if protocol.split else ""
    left = f"; {len(evaluation.unreadable)} could not be read" if evaluation.unreadable else ""
    if left and evaluation.distances is not None and evaluation.distances.unknown is not None:
        left = f"{left}, of these or of the unknown ones"
    yield (
        f"bundle  {protocol.bundle}, generation {protocol.generation}, method {protocol.method}; {protocol.precision} "
        f"by {protocol.backend} on {protocol.device}"
    )
    yield (
        f"truth   {protocol.truth} ({protocol.truth_kind}{which}): {_photographs(evaluation.photographs)} of "
        f"{_count(len(evaluation.classes), 'class', 'classes')}{left}"
    )


def _figures(evaluation: Evaluation, protocol: Protocol) -> Iterator[str]:
    found = evaluation.figures
    yield "               %      ±  chance"
    for letter, said in _meanings(found, flattered=protocol.split is None):
        numbers = "".join(_number(one, width) for one, width in zip(found[letter][:3], (8, 7, 8), strict=True))
        yield f"{letter:<8}{numbers}  {said}"
    yield "±: standard error, from how many photographs each class has; chance: what guessing would give"


def _meanings(found: dict[str, Figure], *, flattered: bool) -> Iterator[tuple[str, str]]:
    """A letter and what it stands for, in words."""
    total, seen, unseen, alone = (found[letter] for letter in ("accuracy", "S", "U", "T1"))
    compete = f"all {total.competing} classes compete"
    classes = _count(total.classes, "class", "classes")
    yield "accuracy", f"a class's share of right answers, mean over {classes}; {compete}"
    if seen.classes:
        trained = "; some may be of its training" if flattered else ""
        yield "S", f"the same over {_of('seen', seen)}; {compete}{trained}"
    else:
        yield "S", "there are no photographs of seen classes (those that it was trained on photographs of)"
    none = "there are no photographs of unseen classes (those that it was not trained on photographs of)"
    yield "U", f"the same over {_of('unseen', unseen)}; {compete}" if unseen.classes else none
    both = "" if found["H"].value is not None else "; needs photographs of seen and of unseen classes"
    yield "H", f"2US / (U + S): high only where both are{both}"
    only = _count(alone.competing, "unseen class competes", "unseen classes compete")
    yield "T1", f"as U, but only the {only}" if alone.classes else none
    if found["top5"].value is not None:
        yield "top5", f"as accuracy, but the class is among the first five answers; {compete}"


def _of(split: str, figure: Figure) -> str:
    classes = _count(figure.classes, f"{split} class", f"{split} classes")
    return f"{classes} ({_photographs(figure.photographs)})"


def _calibration(found: Calibration, photographs: int) -> list[str]:
    """What the bins say, in one sentence: the one of most photographs, and all of them."""
    fullest = max(found.bins, key=lambda one: one.pictures)
    says, right = round(found.confidence), round(found.right)
    kind = "over-confident" if says > right else "under-confident"
    verdict = (
        f"{kind} by {_count(abs(says - right), 'point', 'points')}" if says != right else "just as sure as it may be"
    )
    sentence = (
        f"calibration: where it says {fullest.confidence:.0f}% it is right in {fullest.right:.0f}% (the fullest bin, "
        f"{fullest.pictures} of {_photographs(photographs)}); over all it says {says}% and is right in {right}%: "
        f"{verdict} (expected calibration error {found.error:.1f} points)"
    )
    return textwrap.wrap(sentence, WIDTH)


def _distances(found: HowFar) -> Iterator[str]:
    """How far each kind of photograph is, and what is said of strangers."""
    groups = {"seen": found.seen, "unseen": found.unseen, "unknown": found.unknown}
    told = {name: one for name, one in groups.items() if one is not None}
    if told:
        yield "distance   median  unlike anything known"
    for name, one in told.items():
        share = "" if one.far is None else f"{one.far} of {one.photographs} ({100 * one.far / one.photographs:.1f}%)"
        yield f"{name:<8}{one.median:9.2f}  {share or f'not known of the {one.photographs} in this bundle'}"
    if told:
        beyond = ""
        if found.beyond is not None:
            beyond = (
                f"; unlike anything known: beyond {found.beyond:.2f}, where {100 - FAR}% of the photographs were that "
                "training held out"
            )
        yield from textwrap.wrap(f"distance: in standard deviations, to the nearest class{beyond}", WIDTH)
    if found.by_probability is not None:
        by_distance = "" if found.by_distance is None else f"{found.by_distance:.3f} by distance, "
        yield (
            f"unknown ones told from the others (AUROC; 0.5 is chance): {by_distance}{found.by_probability:.3f} by the "
            "probability of the best class"
        )


def _classes(classes: Sequence[ClassAccuracy]) -> Iterator[str]:
    """Every class, the worst first."""
    shares = [f"{one.right} of {one.pictures}" for one in classes]
    width, share_width = max(len(one.name) for one in classes), max(5, *map(len, shares))
    yield f"       %  {'right':>{share_width}}  split   {'class':<{width}}  mostly taken for"
    for share, one in sorted(zip(shares, classes, strict=True), key=lambda pair: _badness(pair[1])):
        taken = f"  {one.mistaken_for} ({one.mistaken})" if one.mistaken else ""
        yield f"{_accuracy(one):8.1f}  {share:>{share_width}}  {_split(one):<6}  {one.name:<{width}}{taken}".rstrip()


def _badness(one: ClassAccuracy) -> tuple[float, int]:
    return one.right / one.pictures, -one.pictures


def _mixups(evaluation: Evaluation) -> Iterator[str]:
    if not evaluation.mixups:
        yield "no mix-ups: every photograph was named rightly"
        return
    yield "the worst mix-ups"
    totals = {one.name: one.pictures for one in evaluation.classes}
    for one in evaluation.mixups[:WORST]:
        yield (
            f"{100 * one.share:8.1f}%  {one.pictures} of {_photographs(totals[one.of])} of {one.of} called {one.given}"
        )


def _accuracy(one: ClassAccuracy) -> float:
    return 100 * one.right / one.pictures


def _split(one: ClassAccuracy) -> str:
    return "seen" if one.seen else "unseen"


def _number(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.1f}':>{width}}"


def _photographs(count: int) -> str:
    return _count(count, "photograph", "photographs")


def _count(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
