"""zsl-eval: how accurate a bundle is on labelled photographs."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from zsl_runtime.cli.command import Command
from zsl_runtime.cli.examples import EVALUATE
from zsl_runtime.cli.options import (
    BACKEND,
    BATCH_SIZE,
    DEVICE,
    PRECISION,
    REQUIRE_SIGNATURE,
    THREADS,
    TRUST_ENGINE,
    batch_told,
    of_engine,
    together,
)
from zsl_runtime.errors import InputError, UsageError, run_command
from zsl_runtime.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.labelling.evaluation import Evaluation
    from zsl_runtime.labelling.how_far import Looks
    from zsl_runtime.labelling.report import Protocol
    from zsl_runtime.labelling.truth import Truth

ROLES = ("train", "val", "test")
DEFAULT_ROLE = "test"


@click.command("zsl-eval", cls=Command, examples=EVALUATE)
@click.argument("words", nargs=-1, metavar="BUNDLE TRUTH")
@click.option(
    "--engine",
    metavar="BUNDLE_OR_PLAN",
    help="The bundle, or a TensorRT engine inside it, in place of BUNDLE.",
)
@click.option(
    "--split", metavar="FILE", help="RUN/split.csv of the training: only photographs that have a role there count."
)
@click.option("--role", type=click.Choice(ROLES), help=f"With --split: which one [default: {DEFAULT_ROLE}].")
@click.option(
    "--known-only", is_flag=True, help="Leave out photographs of classes that the bundle does not have, and say so."
)
@click.option(
    "--unknown",
    multiple=True,
    metavar="PATH",
    help="Photographs of what is no class of the bundle, or a folder of such: is it told from the rest?",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="A report for people; a row for each class; or everything.",
)
@click.option("--output", metavar="FILE", help="Write here instead of stdout, the whole file or none.")
@click.option("--confusion", metavar="FILE.csv", help="Write how many photographs of each class were called what.")
@together(DEVICE, BACKEND, PRECISION, TRUST_ENGINE, REQUIRE_SIGNATURE, THREADS, BATCH_SIZE)
def command(
    *,
    words: tuple[str, ...],
    engine: str | None,
    split: str | None,
    role: str | None,
    known_only: bool,
    unknown: tuple[str, ...],
    form: str,
    output: str | None,
    confusion: str | None,
    device: str,
    backend: str,
    precision: str | None,
    trust_engine: bool,
    threads: int | None,
    batch_size: int | None,
) -> int:
    """Say how accurate a bundle is on photographs whose class is known.

    TRUTH is a folder with one folder of photographs for each class, called as the class is; or a CSV with the columns
    path and class, paths being absolute or relative to the CSV's folder; or a folder of training data (images and
    classes.csv). For a model of feature vectors the files are .npy (N, V), or .mat with `features` (V, N), and a CSV
    may name single rows, FILE#ROW.

    Figures are means over classes. With --split RUN/split.csv they are on the training's test photographs, and the same
    as in its scores.json; without it, photographs that the model was trained on may be among those of seen classes.

    With --unknown the report says how many of other photographs are said to be unlike anything known, and how well
    distance and probability tell them from those of TRUTH; no other figure depends on them.

    Exit code 6 says that some photographs could not be read; the others were looked at all the same.
    """
    place, truth_path = _places(words, engine)
    _check(split, role, output, confusion)
    role = role or DEFAULT_ROLE
    import warnings

    from zsl_runtime.machine.threads import limit_blas, readers, usable_cpus

    limit_blas(threads)

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.cli.infer_steps import find_inputs
    from zsl_runtime.cli.progress import Progress
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.labelling.evaluation import Labels, compare
    from zsl_runtime.labelling.how_far import look_at
    from zsl_runtime.labelling.profiling import NO_PROFILE
    from zsl_runtime.labelling.reading import read_ahead, reader_of
    from zsl_runtime.labelling.report import encode_confusion
    from zsl_runtime.labelling.results import open_output
    from zsl_runtime.labelling.truth import find_truth
    from zsl_runtime.machine.stop import Stop

    # What Pillow has to say about odd metadata is no concern of whoever measures a model.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    threads = threads or usable_cpus()
    bundle = Bundle.open(place, verify=False)
    backend, precision = of_engine(place, backend, precision)
    with ExitStack() as stack, Stop() as stop:
        with bundle.verifying(threads):  # hashing goes on while photographs are found and the first ones are read
            reader, table = reader_of(bundle), bundle.current().table
            batch_size = batch_told(batch_size, reader)
            truth = _find(find_truth(truth_path, reader), table, split, role, known_only=known_only)
            strangers = None
            if unknown:
                strangers = find_inputs(
                    bundle, unknown, null=False, threads=threads, batch_size=batch_size, stop=stop, profile=NO_PROFILE
                )
            out = stack.enter_context(open_output(output))
            matrix = stack.enter_context(open_output(confusion, "--confusion")) if confusion else None
            labels = Labels()
            rows = stack.enter_context(
                read_ahead(
                    reader, labels.noted(truth.pairs()), workers=readers(threads), batch_size=batch_size, stop=stop
                )
            )
            stack.callback(stop.request)
        classifier = stack.enter_context(
            Classifier.open(bundle, backend, device, threads, precision=precision, trust_engine=trust_engine)
        )
        unit = "photographs" if reader.pixels else "rows"
        more = 0 if strangers is None else strangers.total
        progress = Progress(None if more is None else truth.count + more, unit, sys.stderr)

        def told(error: InputError) -> None:
            progress.line(f"error: {error}")

        def look() -> tuple[Looks, list[tuple[str, InputError]]]:
            assert strangers is not None
            with read_ahead(
                reader, strangers.items, workers=readers(threads), batch_size=batch_size, stop=stop
            ) as strange:
                return look_at(
                    classifier,
                    classifier.snapshot(),
                    strange,
                    batch_size=batch_size,
                    advance=progress.advance,
                    tell=told,
                )

        try:
            found = compare(
                classifier,
                classifier.snapshot(),
                rows,
                labels,
                batch_size=batch_size,
                advance=progress.advance,
                tell=told,
                unknown=None if strangers is None else look,
            )
        finally:
            progress.clear()
        setting = _protocol(place, classifier, truth, split, role)
        out.write(_encoded(found, setting, form))
        out.flush()
        if matrix is not None:
            matrix.write(encode_confusion(found))
        progress.line(
            f"looked at {progress.done - len(found.unreadable)} of {progress.done} {unit}, {progress.rate:.1f} "
            f"{unit}/s, backend {setting.backend} ({setting.library}) on {setting.device}, {setting.precision}, "
            f"generation {setting.generation}"
        )
    return InputError.exit_code if found.unreadable else 0


def _places(words: Sequence[str], engine: str | None) -> tuple[str, str]:
    """Bundle and truth; UsageError E-EVAL-WORDS for another number of words."""
    wanted = 2 if engine is None else 1
    if len(words) == wanted:
        return (words[0] if engine is None else engine), words[-1]
    given = " ".join(words) or "nothing"
    if engine is not None and len(words) == 2:
        raise UsageError(
            "E-EVAL-WORDS", f"the bundle was given twice, as {words[0]!r} and with --engine {engine!r}; give it once"
        )
    raise UsageError("E-EVAL-WORDS", f"got {given!r}; expected zsl-eval BUNDLE TRUTH, or TRUTH and --engine BUNDLE")


def _check(split: str | None, role: str | None, output: str | None, confusion: str | None) -> None:
    """UsageError for options that do not go together."""
    if role is not None and split is None:
        raise UsageError("E-SPLIT-ROLE", f"--role {role} is of a split; give --split RUN/split.csv, too")
    if output is not None and confusion is not None and os.path.realpath(output) == os.path.realpath(confusion):
        raise UsageError("E-OUTPUT", f"--output and --confusion are both {output!r}; give two files")


def _find(truth: Truth, table: ClassTable, split: str | None, role: str, *, known_only: bool) -> Truth:
    """Those of the photographs that count; what is left out is told, and what may flatter the model."""
    from zsl_runtime.labelling.truth import check_classes, with_role

    if split is not None:
        truth = with_role(truth, split, role)
    truth = check_classes(truth, table.names, known_only=known_only)
    for line in truth.notes:
        click.echo(one_line(line), err=True)
    seen = sum(truth.counts.get(name, 0) for name, own in zip(table.names, table.seen, strict=True) if own)
    if seen and split is None:
        click.echo(
            f"note: {seen} photographs are of seen classes; those that the model was trained on flatter S, and with it "
            "H and accuracy. To leave them out: --split RUN/split.csv",
            err=True,
        )
    return truth


def _protocol(place: str, classifier: Classifier, truth: Truth, split: str | None, role: str) -> Protocol:
    """How the figures came about."""
    from zsl_runtime.labelling.report import Protocol

    backend = classifier.backend
    return Protocol(
        bundle=place,
        generation=classifier.generation,
        method=str(classifier.manifest["method"]),
        backend=backend.name,
        library=backend.library,
        device=backend.device,
        precision=backend.precision,
        truth=truth.path,
        truth_kind=truth.kind,
        split=split,
        role=None if split is None else role,
        notes=truth.notes,
    )


def _encoded(found: Evaluation, setting: Protocol, form: str) -> bytes:
    from zsl_runtime.labelling.report import encode_classes, encode_json, encode_report

    if form == "csv":
        return encode_classes(found)
    return encode_json(found, setting) if form == "json" else encode_report(found, setting)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `zsl-eval`; returns the exit code."""
    return run_command(command, argv)
