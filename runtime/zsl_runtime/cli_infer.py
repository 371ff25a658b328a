"""zsl-infer: label pictures, or rows of features, with a bundle."""

from __future__ import annotations

import math
import sys
from typing import IO, TYPE_CHECKING

import click

from zsl_runtime.backends import BACKENDS, PRECISIONS
from zsl_runtime.errors import InputError, UsageError, listed, run_command

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from zsl_runtime.cascade import Cascade, Refit
    from zsl_runtime.classifier import Classifier
    from zsl_runtime.pipeline import Found, Item, Labelled, Progress, Scored


@click.command("zsl-infer", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, required=True)
@click.option("--engine", required=True, metavar="BUNDLE", help="The folder that zsl-export wrote.")
@click.option("--topk", type=click.IntRange(min=1), default=5, show_default=True, help="Classes per picture.")
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--output", metavar="FILE", help="Write here instead of stdout; appears when complete.")
@click.option(
    "--classes",
    type=click.Choice(["all", "seen", "unseen"]),
    default="all",
    show_default=True,
    help="Only these compete for a picture.",
)
@click.option(
    "--min-probability", type=click.FloatRange(0, 1), default=0.0, metavar="P", help="Leave out what is less probable."
)
@click.option(
    "--cascade",
    is_flag=True,
    help="Label all pictures twice: the confident ones teach a head of their own for the rest (transductive).",
)
@click.option(
    "--confident",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="With --cascade: how many of the pictures are confident, those of lowest entropy [default: 0.5].",
)
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu", help="Where the model runs.")
@click.option(
    "--backend",
    type=click.Choice(["auto", *BACKENDS]),
    default="auto",
    show_default=True,
    help="What runs it; auto: the fastest here, measured once.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Of the model, if the bundle holds it; bf16 runs fp32's file with openvino [default: the bundle's].",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: all that this process may use].")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures in the model at once [default: 8].")
def command(
    *,
    paths: tuple[str, ...],
    engine: str,
    topk: int,
    format_: str,
    output: str | None,
    classes: str,
    min_probability: float,
    cascade: bool,
    confident: float | None,
    device: str,
    backend: str,
    precision: str | None,
    threads: int | None,
    batch_size: int | None,
) -> int:
    """Label pictures: PATHS are files, folders (searched to any depth) or quoted patterns.

    Results go to stdout as CSV with the columns path, rank, class, split, probability; probabilities of a picture sum
    to 1 over all classes that compete. A model of feature vectors takes .npy files (N, V), and .mat files with
    `features` (V, N), in place of pictures; their rows are called FILE#ROW.

    With --cascade a picture's label depends on which others are labelled with it. JSON lines say so of each picture
    (`transductive`, and `pass`: confident or relabelled); CSV has no place for it, so prefer --format jsonl. Features
    lie in $TMPDIR meanwhile: 4 bytes a number, some 10 to 30 kB a picture.

    Exit code 6 says that some pictures could not be read; the others were labelled all the same.
    """
    import warnings
    from contextlib import ExitStack, closing

    from zsl_runtime import pipeline
    from zsl_runtime.classifier import BATCH_SIZE, CONFIDENT, Classifier
    from zsl_runtime.threads import usable_cpus

    if math.isnan(min_probability):  # it is in every range
        raise UsageError("E-MIN-PROBABILITY", "--min-probability is nan; give a number from 0 to 1")
    if confident is not None and not cascade:
        raise UsageError("E-CONFIDENT", "--confident is for a cascade; give --cascade too or leave it out")
    confident = CONFIDENT if confident is None else confident
    if math.isnan(confident):
        raise UsageError("E-CONFIDENT", "--confident is nan; give a number from 0 to 1")
    # What Pillow has to say about odd metadata is no concern of whoever labels a folder.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    threads = threads or usable_cpus()
    with Classifier.open(engine, backend=backend, device=device, threads=threads, precision=precision) as classifier:
        snapshot = classifier.snapshot(classes)
        items, total, skipped = _find(paths, classifier)
        unit = "pictures" if classifier.pixels else "rows"
        progress = pipeline.Progress(total, unit, sys.stderr)
        if skipped:
            progress.line(f"files of other kinds skipped: {skipped}")
        batch_size = batch_size or BATCH_SIZE
        labelling = {"batch_size": batch_size, "workers": threads}
        with ExitStack() as stack:
            if cascade:
                two = stack.enter_context(classifier.open_cascade(snapshot, confident))
                scored = pipeline.score(classifier, snapshot, items, **labelling)
                answers = _cascade(two, scored, pipeline.Progress(total, unit, sys.stderr), topk=topk)
            else:
                answers = pipeline.label(classifier, snapshot, items, topk=topk, **labelling)
            stream = stack.enter_context(pipeline.open_output(output))
            stack.enter_context(closing(answers))
            unreadable = _write(answers, stream, progress, format_=format_, min_probability=min_probability)
        progress.line(
            f"labelled {total - unreadable} of {total} {unit}, {progress.rate:.1f} {unit}/s, "
            f"backend {classifier.backend.name} ({classifier.backend.library}), {classifier.backend.precision}, "
            f"generation {snapshot.generation.number}"
        )
    return InputError.exit_code if unreadable else 0


def _write(
    answers: Iterable[list[Labelled]], stream: IO[bytes], progress: Progress, *, format_: str, min_probability: float
) -> int:
    """Write all answers, say on stderr what could not be read, and return how many that were."""
    from zsl_runtime.pipeline import csv_header, encode_csv, encode_jsonl

    encode = encode_csv if format_ == "csv" else encode_jsonl
    if format_ == "csv":
        stream.write(csv_header())
    unreadable = 0
    try:
        for batch in answers:
            for error in (result for _, result in batch if isinstance(result, InputError)):
                unreadable += 1
                progress.line(f"error: {error}")
            stream.write(encode(batch, min_probability))
            stream.flush()
            progress.advance(len(batch))
    finally:
        progress.clear()
    return unreadable


def _cascade(
    cascade: Cascade, batches: Generator[Scored], progress: Progress, *, topk: int
) -> Generator[list[Labelled]]:
    """Both passes: nothing comes before the first is over. What was decided is said on stderr."""
    from contextlib import closing

    with closing(batches):
        try:
            for batch in batches:
                cascade.add(batch)
                progress.advance(len(batch.entries))
        finally:
            progress.clear()
        done = cascade.refit()
        progress.line(_told(done))
        yield from cascade.answers(topk)


def _told(done: Refit) -> str:
    """What a cascade did, for the user."""
    text = f"cascade: {done.confident} of {done.total} are confident"
    if done.confident:
        text += f" (entropy up to {done.threshold:.3g} nats)"
    if done.fitted:
        text += f", the rest is relabelled by a head fitted on {done.fitted} rows"
    else:
        text += ", so there is nothing to relabel" if done.confident else ", so all labels are those of the first pass"
    return f"{text}; transductive: labels depend on what else is labelled in this run"


def _find(paths: Sequence[str], classifier: Classifier) -> tuple[Iterator[Item], int, int]:
    """Items to label, how many, and how many files were left out."""
    from zsl_runtime.pipeline import ROW_SUFFIXES, Item, row_items
    from zsl_runtime.pixels import SUFFIXES

    if classifier.pixels is None:
        shape, like = classifier.input_port.shape, classifier.feature_file
        width = f"(N, {shape[1]})" if shape[0] == 1 else f"(N, {shape[0]}, {shape[1]})"
        taken = f"rows of features {width}{f' as in {like}' if like else ''} in {' or '.join(ROW_SUFFIXES)} files"
        found = _only(paths, ROW_SUFFIXES, SUFFIXES, takes=f"{taken}, not pictures")
        items, total = row_items(found.files, shape, like)
        return items, total, found.skipped
    found = _only(paths, SUFFIXES, ROW_SUFFIXES, takes="pictures, not files of features")
    return (Item(path, path) for path in found.files), len(found.files), found.skipped


def _only(paths: Sequence[str], suffixes: Sequence[str], others: Sequence[str], *, takes: str) -> Found:
    """The files with `suffixes`; UsageError E-INPUT-KIND when some with `others`, of another model, are named."""
    from zsl_runtime.pipeline import find_files

    try:
        found = find_files(paths, suffixes)
    except UsageError as error:
        if error.code == "E-NO-IMAGES":
            raise UsageError(error.code, f"{error.message}; this model takes {takes}") from None
        raise
    wrong = [name for name in found.files if name.lower().endswith(tuple(others))]
    if wrong:
        raise UsageError(
            "E-INPUT-KIND", f"{listed(wrong)}: this model takes {takes}; give those, or a bundle trained on such files"
        )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `zsl-infer`; returns the exit code."""
    return run_command(command, argv)
