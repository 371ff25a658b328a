"""zsl-infer: label pictures, or rows of features, with a bundle."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import click

from zsl_runtime.cli.command import Command
from zsl_runtime.cli.examples import INFER
from zsl_runtime.cli.infer_formats import FORMATS, LOCAL_FILES, MADE, check_format, written_as
from zsl_runtime.cli.infer_steps import (
    begin_output,
    begin_progress,
    begin_to_explain,
    begin_to_read,
    begin_to_sort,
    cascade_answers,
    explained,
    find_inputs,
    scored_ahead,
    tell_the_end,
    write_answers,
)
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
    from collections.abc import Callable, Sequence

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.inputs.share import Share
    from zsl_runtime.labelling.classifier import Classifier

# What changes no answer; all other options must be the same for --resume. Which pictures they were is checked by name.
NO_MATTER = frozenset(
    {
        "paths",
        "engine",
        "output",
        "resume",
        "null",
        "threads",
        "batch_size",
        "profile",
        "quiet",
        "confident",
        "rebuild",
        "trust_engine",
        "merge",
        "explain",
        "label_studio_prefix",
        "label_studio_root",
    }
)
# What building an engine cures: there is none, it is for another card or version, or it is damaged.
REBUILT = frozenset({"E-ENGINE-MISSING", "E-ENGINE-MISMATCH", "E-ENGINE-HASH", "E-ENGINE-LOAD"})


@click.command("zsl-infer", cls=Command, examples=INFER)
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--engine",
    metavar="BUNDLE_OR_PLAN",
    help="The folder that zsl-export wrote; or a TensorRT engine inside it, which then runs the model.  [required]",
)
@click.option("--topk", type=click.IntRange(min=1), default=5, show_default=True, help="Classes per picture.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="csv",
    show_default=True,
    help="csv-safe, for spreadsheet programs: an apostrophe before what they would take for a formula. label-studio: "
    "tasks with the best class as pre-annotation.",
)
@click.option("--output", metavar="FILE", help="Write here instead of stdout; it is FILE.partial until it is complete.")
@click.option("--resume", is_flag=True, help="With --output: go on with FILE.partial where a run was interrupted.")
@click.option(
    "--shard",
    metavar="I/N",
    help="Label only the share of task I, of N tasks counted from 0; --merge puts their outputs together.",
)
@click.option(
    "--merge", is_flag=True, help="PATHS are the outputs of all shares of a run: put them together into --output."
)
@click.option(
    "--sort-into",
    metavar="DIR",
    help="Also copy each picture into DIR/CLASS, and what is less probable than --min-probability into DIR/unsure.",
)
@click.option(
    "--link",
    type=click.Choice(["hard", "symbolic"]),
    help="With --sort-into: links in place of copies, which take no room.",
)
@click.option(
    "--label-studio-prefix",
    metavar="URL",
    help=f"What Label Studio gets a picture by, before its path [default: {LOCAL_FILES}].",
)
@click.option(
    "--label-studio-root",
    metavar="DIR",
    help="The folder that these paths are relative to, LOCAL_FILES_DOCUMENT_ROOT there [default: /].",
)
@click.option(
    "--explain",
    metavar="FOLDER",
    help="Also write why: a sheet for each picture, and one page of all, FOLDER/index.html. FOLDER must be new or "
    "empty. On a CPU a picture takes about a tenth of a second more.",
)
@click.option(
    "--null", "-0", is_flag=True, help="Paths of a list on stdin end with NUL (find -print0), not with a line."
)
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
@together(DEVICE, BACKEND, PRECISION)
@click.option(
    "--rebuild",
    is_flag=True,
    help="With TensorRT: build the engine when there is none that fits this card and version.",
)
@together(TRUST_ENGINE, REQUIRE_SIGNATURE, THREADS, BATCH_SIZE)
@click.option("--profile", is_flag=True, help="At the end, print to stderr where the time went.")
@click.option("--quiet", "-q", is_flag=True, help="At the end, leave out what was found in counts; errors stay.")
def command(
    *,
    paths: tuple[str, ...],
    engine: str | None,
    topk: int,
    format_: str,
    output: str | None,
    resume: bool,
    shard: str | None,
    merge: bool,
    sort_into: str | None,
    link: str | None,
    label_studio_prefix: str | None,
    label_studio_root: str | None,
    explain: str | None,
    null: bool,
    classes: str,
    min_probability: float,
    cascade: bool,
    confident: float | None,
    device: str,
    backend: str,
    precision: str | None,
    rebuild: bool,
    trust_engine: bool,
    threads: int | None,
    batch_size: int | None,
    profile: bool,
    quiet: bool,
) -> int:
    """Label pictures: PATHS are files, folders (searched to any depth), quoted patterns, or - for a list on stdin.

    Results go to stdout as CSV with the columns path, rank, class, split, probability, distance, far; probabilities of
    a picture sum to 1 over all classes that compete. distance counts the standard deviations to the nearest class, and
    far is true for what is unlike anything known: farther than 99 % of the photographs that training held out. A model
    of feature vectors takes .npy files (N, V), and .mat files with `features` (V, N), in place of pictures; their rows
    are called FILE#ROW.

    A list has one path a line (with --null: paths that end with NUL), each a file or a folder. Zip and tar files (.zip,
    .tar, .tar.gz, .tgz) are read where they are named or match a pattern, not where they merely lie in a folder;
    nothing is extracted, and a picture in one is called FILE/MEMBER.

    Ctrl-C ends after the pictures that are in the model: what is finished is written. With --output FILE it is in
    FILE.partial, and the same command with --resume goes on there. Where there is none, --resume begins at the first
    picture, or, if FILE is there, leaves it as it is: it is complete.

    With --cascade a picture's label depends on which others are labelled with it. JSON lines say so of each picture
    (`transductive`, and `pass`: confident or relabelled); CSV has no place for it, so prefer --format jsonl. Features
    lie in $TMPDIR meanwhile: 4 bytes a number, some 10 to 30 kB a picture. Such a run cannot be resumed.

    Thumbnails of a NAS (@eaDir), recycle bins, snapshots and the like are left out of folders, patterns and archives,
    and counted; one that is named itself is read. Pictures of kinds that are not read, such as HEIC, are counted, too.

    With --shard I/N only the share of task I is labelled, 0/N being the first: for Slurm --shard
    $SLURM_ARRAY_TASK_ID/8 with --array=0-7, for Kubernetes $JOB_COMPLETION_INDEX/8. Whose a picture is follows from its
    name alone, so give all tasks the same PATHS, and each an --output of its own. Then: zsl-infer --merge PART...
    --output FILE, which is what one run over everything writes (docs/scale.md).

    --format parquet and label-studio are made when all is labelled: until then FILE.partial holds JSON lines. With
    --sort-into nothing that is there is replaced, and a second run does nothing for pictures that it finds there; what
    is unlike anything known has a folder of its own (docs/how-to/outputs.md).

    PATHS and FILE may lie in object stores: s3://bucket/folder, with the packages of zsl-deploy[cloud].

    Exit code 6 says that some pictures could not be read, or that a folder could not be looked into; the others were
    labelled all the same.
    """
    if merge:
        from zsl_runtime.cli.infer_merge import merge_outputs

        return merge_outputs(paths, output, format_, quiet=quiet, prefix=label_studio_prefix, root=label_studio_root)
    if engine is None:
        raise click.UsageError("Missing option '--engine'.", click.get_current_context())
    _check(min_probability, confident, cascade=cascade, output=output, resume=resume)
    if link is not None and sort_into is None:
        raise UsageError("E-SORT-INTO", f"--link {link} is for --sort-into; give a folder, too, or leave it out")
    if explain is not None:
        _check_explain(cascade=cascade, resume=resume)
    check_format(format_, output, paths, prefix=label_studio_prefix, root=label_studio_root)
    share = _share(shard, cascade=cascade)
    if null and "-" not in paths:
        raise UsageError("E-LIST", "--null is for a list of paths on stdin; give - as a path, too")
    if resume and _nothing_to_resume(output, None if format_ in MADE else share):
        click.echo(one_line(f"{output} is complete: nothing to resume; leave --resume out to label again"), err=True)
        return 0
    import warnings

    from zsl_runtime.machine.threads import limit_blas, usable_cpus

    limit_blas(threads)

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.cli.infer_counts import Counts
    from zsl_runtime.cli.progress import Progress
    from zsl_runtime.labelling.classifier import CONFIDENT, Classifier
    from zsl_runtime.labelling.profiling import NO_PROFILE, Profile
    from zsl_runtime.labelling.reading import reader_of
    from zsl_runtime.labelling.scoring import label
    from zsl_runtime.machine.stop import Stop, stopping

    # What Pillow has to say about odd metadata is no concern of whoever labels a folder.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    threads = threads or usable_cpus()
    options = {name: value for name, value in click.get_current_context().params.items() if name not in NO_MATTER}
    options.pop("shard")
    if share is not None:
        options["shard"] = str(share)
    notes = Profile() if profile else NO_PROFILE
    bundle = Bundle.open(engine, verify=False)
    backend, precision = of_engine(engine, backend, precision)
    if rebuild and backend != "tensorrt":
        raise UsageError(
            "E-REBUILD", "--rebuild builds TensorRT engines; give --backend tensorrt, too, or leave it out"
        )
    batch_size = batch_told(batch_size, reader_of(bundle))
    with ExitStack() as stack, Stop() as stop:
        sheets = begin_to_explain(bundle, stack, explain, threads)
        with bundle.verifying(threads):  # hashing goes on while inputs are counted and the first ones are read
            job = find_inputs(
                bundle,
                paths,
                null=null,
                threads=threads,
                batch_size=batch_size,
                stop=stop,
                profile=notes,
                share=share,
                without=[folder for folder in (sort_into, explain) if folder is not None],
            )
            if not cascade:
                stack.enter_context(stopping(stop))
            written = written_as(
                format_,
                bundle,
                job.reader,
                min_probability=min_probability,
                prefix=label_studio_prefix,
                root=label_studio_root,
            )
            out = begin_output(
                bundle, output, options, stack, resume=resume, whole=cascade, share=share, make=written.make
            )
            sorter = begin_to_sort(job, stack, sort_into, link=link, least=min_probability, cascade=cascade)
            rows = begin_to_read(job, out, stack, sorter)
        opener = partial(
            Classifier.open, bundle, backend, device, threads, precision=precision, trust_engine=trust_engine
        )
        opened = opener() if not rebuild else _rebuilding(opener, bundle, device, precision, batch_size)
        classifier = stack.enter_context(opened)
        snapshot = classifier.snapshot(classes)
        if sorter is not None:
            sorter.know(snapshot.table.names)
        progress = begin_progress(job, out, snapshot, bundle)
        if cascade:
            two = stack.enter_context(classifier.open_cascade(snapshot, CONFIDENT if confident is None else confident))
        labelled = out.done - (out.partial.state.unreadable if out.partial else 0)
        batches = scored_ahead(
            job,
            classifier,
            snapshot,
            rows,
            stack,
            topk=None if cascade else topk,
            before=labelled,
            keep=sheets is not None,
        )
        if cascade:
            answers = cascade_answers(two, batches, Progress(job.total, job.unit, sys.stderr), topk=topk)
        else:
            scored = batches if sheets is None else explained(job, classifier, snapshot, batches, sheets)
            answers = label(classifier, snapshot, scored, topk=topk, profile=notes)
        counts = Counts()
        if out.partial is not None:
            out.partial.backend = f"{classifier.backend.name} {classifier.backend.precision}"
        unreadable = write_answers(
            job, out, answers, progress, written.encode, header=written.header, counts=counts, sorter=sorter
        )
        whole = tell_the_end(
            job, classifier, snapshot, progress, unreadable=unreadable, counts=None if quiet else counts
        )
        if sheets is not None and sheets.count:
            unit = job.unit.removesuffix("s") if sheets.count == 1 else job.unit
            progress.line(f"explained {sheets.count} {unit}: {sheets.page}")
        for line in notes.end(
            progress.done - progress.before, job.unit, first=rows.first, starved=rows.starved, blocked=batches.blocked
        ):
            progress.line(line)
        return InputError.exit_code if unreadable or not whole else 0


def _check_explain(*, cascade: bool, resume: bool) -> None:
    """UsageError E-EXPLAIN for options that do not go with --explain."""
    if cascade:
        raise UsageError(
            "E-EXPLAIN",
            "labels of a cascade follow from all pictures together and are not explained one by one; "
            "leave --cascade or --explain out",
        )
    if resume:
        raise UsageError(
            "E-EXPLAIN", "a run that goes on has no sheets of the pictures before; leave --resume or --explain out"
        )


def _nothing_to_resume(output: str | None, share: Share | None) -> bool:
    from zsl_runtime.labelling.results import check_complete, is_complete

    complete = output is not None and is_complete(output)
    if complete and output is not None and share is not None:
        check_complete(output, share)
    return complete


def _share(shard: str | None, *, cascade: bool) -> Share | None:
    """The share that --shard asks for; UsageError E-SHARE."""
    if shard is None:
        return None
    from zsl_runtime.inputs.share import parse_share

    if cascade:
        raise UsageError("E-SHARE", "a cascade labels all pictures together and has no shares; leave --shard out")
    return parse_share(shard)


def _rebuilding(
    opener: Callable[[], Classifier], bundle: Bundle, device: str, precision: str | None, batch_size: int
) -> Classifier:
    """Open; where no engine fits, build one, tell on stderr, and open again."""
    from zsl_runtime.errors import ArtefactError

    try:
        return opener()
    except ArtefactError as error:
        if error.code not in REBUILT:
            raise
        print(f"{error.code}: {error.message}; building an engine now", file=sys.stderr, flush=True)  # noqa: T201
    from zsl_runtime.backends.tensorrt import rebuild

    rebuild(bundle, device, precision, batch_size, sys.stderr)
    return opener()


def _check(min_probability: float, confident: float | None, *, cascade: bool, output: str | None, resume: bool) -> None:
    """UsageError for options that do not go together, and for numbers that are none: NaN is in every range."""
    if math.isnan(min_probability):
        raise UsageError("E-MIN-PROBABILITY", "--min-probability is nan; give a number from 0 to 1")
    if confident is not None and not cascade:
        raise UsageError("E-CONFIDENT", "--confident is for a cascade; give --cascade too or leave it out")
    if confident is not None and math.isnan(confident):
        raise UsageError("E-CONFIDENT", "--confident is nan; give a number from 0 to 1")
    if resume and output is None:
        raise UsageError("E-RESUME", "--resume goes on with a file; give the --output of the interrupted run, too")
    if resume and cascade:
        raise UsageError("E-RESUME", "a cascade labels all pictures together and cannot be resumed; leave --resume out")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `zsl-infer`; returns the exit code."""
    return run_command(command, argv)
