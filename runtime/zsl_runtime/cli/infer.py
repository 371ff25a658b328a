"""zsl-infer: label pictures, or rows of features, with a bundle."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from zsl_runtime.backends.table import BACKENDS
from zsl_runtime.errors import InputError, UsageError, listed, run_command
from zsl_runtime.graphs.precisions import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.cli.progress import Progress
    from zsl_runtime.inputs.files import Found
    from zsl_runtime.inputs.item import Item, Tally
    from zsl_runtime.labelling.cascade import Cascade, Refit
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.labelling.profiling import NoProfile
    from zsl_runtime.labelling.reading import Reader
    from zsl_runtime.labelling.results import PartialFile, Sink
    from zsl_runtime.labelling.snapshot import Labelled, Scored, Snapshot
    from zsl_runtime.machine.stop import Stop

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
        "confident",
        "rebuild",
        "trust_engine",
    }
)
# What building an engine cures: there is none, it is for another card or version, or it is damaged.
REBUILT = frozenset({"E-ENGINE-MISSING", "E-ENGINE-MISMATCH", "E-ENGINE-HASH", "E-ENGINE-LOAD"})
ENGINE_SUFFIX = ".engine"


@click.command("zsl-infer", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--engine",
    required=True,
    metavar="BUNDLE_OR_PLAN",
    help="The folder that zsl-export wrote; or a TensorRT engine inside it, which then runs the model.",
)
@click.option("--topk", type=click.IntRange(min=1), default=5, show_default=True, help="Classes per picture.")
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--output", metavar="FILE", help="Write here instead of stdout; it is FILE.partial until it is complete.")
@click.option("--resume", is_flag=True, help="With --output: go on with FILE.partial where a run was interrupted.")
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
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda:N",
    help="Where the model runs; a card that is named is used or is an error (exit code 4).",
)
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
@click.option(
    "--rebuild",
    is_flag=True,
    help="With TensorRT: build the engine when there is none that fits this card and version.",
)
@click.option(
    "--trust-engine",
    is_flag=True,
    help="Load a TensorRT engine that you did not build on this machine; loading one runs its code.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: all that this process may use].")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures in the model at once [default: 8].")
@click.option("--profile", is_flag=True, help="At the end, print to stderr where the time went.")
def command(
    *,
    paths: tuple[str, ...],
    engine: str,
    topk: int,
    format_: str,
    output: str | None,
    resume: bool,
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
) -> int:
    """Label pictures: PATHS are files, folders (searched to any depth), quoted patterns, or - for a list on stdin.

    Results go to stdout as CSV with the columns path, rank, class, split, probability; probabilities of a picture sum
    to 1 over all classes that compete. A model of feature vectors takes .npy files (N, V), and .mat files with
    `features` (V, N), in place of pictures; their rows are called FILE#ROW.

    A list has one path a line (with --null: paths that end with NUL), each a file or a folder. Zip and tar files (.zip,
    .tar, .tar.gz, .tgz) are read where they are named or match a pattern, not where they merely lie in a folder;
    nothing is extracted, and a picture in one is called FILE/MEMBER.

    Ctrl-C ends after the pictures that are in the model: what is finished is written. With --output FILE it is in
    FILE.partial, and the same command with --resume goes on there; without one, --resume begins at the first picture.

    With --cascade a picture's label depends on which others are labelled with it. JSON lines say so of each picture
    (`transductive`, and `pass`: confident or relabelled); CSV has no place for it, so prefer --format jsonl. Features
    lie in $TMPDIR meanwhile: 4 bytes a number, some 10 to 30 kB a picture. Such a run cannot be resumed.

    Exit code 6 says that some pictures could not be read; the others were labelled all the same.
    """
    _check(min_probability, confident, cascade=cascade, output=output, resume=resume)
    if null and "-" not in paths:
        raise UsageError("E-LIST", "--null is for a list of paths on stdin; give - as a path, too")
    import warnings

    from zsl_runtime.machine.threads import limit_blas, usable_cpus

    limit_blas(threads)

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.labelling.classifier import CONFIDENT, Classifier
    from zsl_runtime.labelling.profiling import NO_PROFILE, Profile
    from zsl_runtime.labelling.reading import BATCH_SIZE
    from zsl_runtime.machine.stop import Stop, stopping

    # What Pillow has to say about odd metadata is no concern of whoever labels a folder.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    threads = threads or usable_cpus()
    options = {name: value for name, value in click.get_current_context().params.items() if name not in NO_MATTER}
    notes = Profile() if profile else NO_PROFILE
    bundle = Bundle.open(engine, verify=False)
    if engine.endswith(ENGINE_SUFFIX) and backend in {"auto", "tensorrt"}:
        backend, precision = "tensorrt", precision or _precision_of(engine)
    if rebuild and backend != "tensorrt":
        raise UsageError(
            "E-REBUILD", "--rebuild builds TensorRT engines; give --backend tensorrt, too, or leave it out"
        )
    with ExitStack() as stack, Stop() as stop:
        run = _Run(bundle, stack, stop, notes, threads=threads, batch_size=batch_size or BATCH_SIZE)
        with bundle.verifying(threads):  # hashing goes on while inputs are counted and the first ones are read
            run.find(paths, null=null)
            if not cascade:
                stack.enter_context(stopping(stop))
            run.open_output(output, options, resume=resume, whole=cascade)
            run.begin_to_read()
        opener = partial(
            Classifier.open, bundle, backend, device, threads, precision=precision, trust_engine=trust_engine
        )
        opened = opener() if not rebuild else _rebuilding(opener, bundle, device, precision, batch_size or BATCH_SIZE)
        classifier = stack.enter_context(opened)
        snapshot = classifier.snapshot(classes)
        run.begin(classifier, snapshot)
        if cascade:
            answers = run.cascade(CONFIDENT if confident is None else confident, topk=topk)
        else:
            answers = run.label(topk=topk)
        return run.write(answers, format_=format_, min_probability=min_probability)


def _precision_of(plan: str) -> str:
    """What an engine that is named was built in; ArtefactError E-ENGINE-SIDECAR, SystemProblem."""
    from pathlib import Path

    from zsl_runtime.trt.store import read_sidecar

    return read_sidecar(Path(plan).with_suffix(".json")).facts.precision


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


def _release(version: str) -> str:
    """The release that a build is, or that it led up to: 0.1.0 of 0.1.0.dev7+g1a2b3c4 and of 0.1.dev7."""
    release = version.partition("+")[0].partition(".dev")[0]
    return release if release.count(".") > 1 else f"{release}.0"


class _Run:
    """One run of the command, step by step in the order of the methods; `stack` closes what it opens."""

    def __init__(
        self, bundle: Bundle, stack: ExitStack, stop: Stop, profile: NoProfile, *, threads: int, batch_size: int
    ) -> None:
        from zsl_runtime.inputs.item import Tally
        from zsl_runtime.labelling.reading import reader_of

        self._bundle, self._stack, self._stop, self._profile = bundle, stack, stop, profile
        self._threads, self._batch_size = threads, batch_size
        self._reader = reader_of(bundle)
        self._unit = "pictures" if self._reader.pixels else "rows"
        self._tally = Tally()
        self._partial: PartialFile | None = None

    def find(self, paths: Sequence[str], *, null: bool) -> None:
        """Find out what the paths stand for, and how many things to label that is."""
        suffixes, others, takes = _kinds(self._reader)
        entries = None
        if "-" in paths:
            from zsl_runtime.inputs.files import list_entries

            handle = _stdin(paths)
            entries = list_entries(handle, suffixes, null=null, stop=self._stop, tally=self._tally)
        self._found = _only(paths, suffixes, others, entries, takes=takes)
        self._items, self._total = _items(self._found, self._reader, self._tally)

    def open_output(self, path: str | None, options: dict[str, Any], *, resume: bool, whole: bool) -> None:
        """Open stdout or a file; `whole` is for answers that all come at the end, so that there is no part to keep."""
        import os

        from zsl_runtime import __version__
        from zsl_runtime.labelling.results import Sink, open_output, open_partial, undone

        self._sink: Sink
        if not resume and (whole or path is None or (os.path.exists(path) and not os.path.isfile(path))):  # noqa: PTH110, PTH113
            self._sink = Sink(self._stack.enter_context(open_output(path)))
            return
        assert path is not None
        self._generation = self._bundle.pointer()[0]
        known = {f"--{name.strip('_').replace('_', '-')}": value for name, value in options.items()}
        known |= {"bundle": self._bundle.manifest_sha256, "generation": self._generation}
        known |= {"zsl-deploy": _release(__version__)}
        self._partial = self._stack.enter_context(open_partial(path, known, resume=resume, build=__version__))
        self._sink = self._partial
        self._items = undone(self._items, self._partial.state)

    def begin_to_read(self) -> None:
        """Begin to list, decode and resize, in threads, before the graph is there."""
        from zsl_runtime.labelling.reading import read_ahead
        from zsl_runtime.machine.threads import readers

        rows = read_ahead(
            self._reader,
            self._items,
            workers=readers(self._threads),
            batch_size=self._batch_size,
            stop=self._stop,
            profile=self._profile,
        )
        self._rows = self._stack.enter_context(rows)
        self._stack.callback(self._stop.request)  # before `rows` is closed: whoever waits for a list looks at this

    def begin(self, classifier: Classifier, snapshot: Snapshot) -> None:
        """The graph is there; from now on the time counts."""
        from zsl_runtime.cli.progress import Progress

        number = snapshot.generation.number
        if self._partial is not None and number != self._generation:
            raise UsageError("E-RESUME", f"the classes of {self._bundle.path} were changed just now; run it again")
        self._classifier, self._snapshot = classifier, snapshot
        done = self._partial.state.items if self._partial else 0
        self._progress = Progress(self._total, self._unit, sys.stderr, done)
        if self._found.skipped:
            archives = f" ({self._found.shards} zip or tar: name them to read them)" if self._found.shards else ""
            self._progress.line(f"files of other kinds skipped: {self._found.skipped}{archives}")
        if done:
            self._progress.line(f"going on after {done} {self._unit}{self._begun_elsewhere()}")
        self._profile.begin()

    def _begun_elsewhere(self) -> str:
        """Which build of this release labelled the beginning, if it was another one."""
        from zsl_runtime import __version__

        begun_by = self._partial.begun_by if self._partial else __version__
        return "" if begun_by == __version__ else f"; zsl-deploy {begun_by} labelled the first, this is {__version__}"

    def _scored(self) -> Generator[Scored]:
        from zsl_runtime.labelling.scoring import score

        return score(
            self._classifier,
            self._snapshot,
            self._rows,
            batch_size=self._batch_size,
            stop=self._stop,
            profile=self._profile,
        )

    def _ranked(self, topk: int) -> Generator[Scored]:
        """As `_scored`; on a card several batches are under way, and only what is best comes back from there."""
        from zsl_runtime.labelling.scoring import score_ahead

        if self._classifier.in_flight == 1:
            return self._scored()
        return score_ahead(
            self._classifier,
            self._snapshot,
            self._rows,
            batch_size=self._batch_size,
            topk=topk,
            stop=self._stop,
            profile=self._profile,
        )

    def label(self, *, topk: int) -> Generator[list[Labelled]]:
        """Answers in batches; the engine runs in a thread, so that it does not wait while answers are written."""
        from zsl_runtime.labelling.ahead import Ahead
        from zsl_runtime.labelling.scoring import label

        self._batches: Ahead[Scored] = self._stack.enter_context(Ahead(self._ranked(topk), depth=1))
        self._stack.callback(self._stop.request)
        return label(self._snapshot, self._batches, topk=topk, profile=self._profile)

    def cascade(self, confident: float, *, topk: int) -> Generator[list[Labelled]]:
        """Answers of a cascade: none before all pictures went through the engine."""
        from zsl_runtime.cli.progress import Progress
        from zsl_runtime.labelling.ahead import Ahead

        two = self._stack.enter_context(self._classifier.open_cascade(self._snapshot, confident))
        self._batches = self._stack.enter_context(Ahead(self._scored(), depth=1))
        self._stack.callback(self._stop.request)
        return _cascade(two, self._batches, Progress(self._total, self._unit, sys.stderr), topk=topk)

    def write(self, answers: Generator[list[Labelled]], *, format_: str, min_probability: float) -> int:
        """Write all answers, say on stderr what could not be read and how it went, and return the exit code."""
        from zsl_runtime.labelling.profiling import OUTPUT
        from zsl_runtime.labelling.results import csv_header, encode_csv, encode_jsonl

        encode = encode_csv if format_ == "csv" else encode_jsonl
        before = self._partial.state if self._partial else None
        unreadable = before.unreadable if before else 0
        try:
            with closing(answers):
                if format_ == "csv" and not (before and before.items):
                    self._sink.write(csv_header(), [])
                for batch in answers:
                    with self._profile.stage(OUTPUT):
                        errors = [result for _, result in batch if isinstance(result, InputError)]
                        for error in errors:
                            self._progress.line(f"error: {error}")
                        self._sink.write(encode(batch, min_probability), batch)
                    unreadable += len(errors)
                    self._progress.advance(len(batch))
            self._stop.check()
        except BaseException as error:
            self._tell_what_is_kept(error)
            raise
        finally:
            self._progress.clear()
        if self._partial is not None:
            self._partial.complete = True
        self._tell_the_end(unreadable)
        return InputError.exit_code if unreadable else 0

    def _tell_what_is_kept(self, error: BaseException) -> None:
        """After an interruption or an error in the middle."""
        if self._partial is not None and self._partial.state.items:
            self._progress.line(
                f"the results of {self._partial.state.items} {self._unit} are in {self._partial.path!r}; the same "
                "command with --resume goes on"
            )
        elif isinstance(error, KeyboardInterrupt) and self._stop.requested and self._progress.done:
            self._progress.line(f"stopped after {self._progress.done} {self._unit}, whose results are written")

    def _tell_the_end(self, unreadable: int) -> None:
        progress, backend = self._progress, self._classifier.backend
        if self._tally.skipped:
            progress.line(f"files of other kinds skipped in lists and shards: {self._tally.skipped}")
        progress.line(
            f"labelled {progress.done - unreadable} of {progress.done} {self._unit}, {progress.rate:.1f} "
            f"{self._unit}/s, backend {backend.name} ({backend.library}) on {backend.device}, {backend.precision}, "
            f"generation {self._snapshot.generation.number}"
        )
        for line in self._profile.end(
            progress.done - progress.before,
            self._unit,
            first=self._rows.first,
            starved=self._rows.starved,
            blocked=self._batches.blocked,
        ):
            progress.line(line)


def _cascade(
    cascade: Cascade, batches: Iterable[Scored], progress: Progress, *, topk: int
) -> Generator[list[Labelled]]:
    """Both passes: nothing comes before the first is over. What was decided is said on stderr."""
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


# --- inputs ---------------------------------------------------------------------------------------------------------


def _kinds(reader: Reader) -> tuple[Sequence[str], Sequence[str], str]:
    """Suffixes of the files that a model takes, those of files that only other models take, and both in words."""
    from zsl_runtime.inputs.feature_rows import ROW_SUFFIXES
    from zsl_runtime.inputs.item import SHARD_SUFFIXES
    from zsl_runtime.pixels import pixels

    if reader.pixels is not None:
        return pixels.SUFFIXES, ROW_SUFFIXES, "pictures, not files of features"
    shape, like = reader.shape, f" as in {reader.like}" if reader.like else ""
    width = f"(N, {shape[1]})" if shape[0] == 1 else f"(N, {shape[0]}, {shape[1]})"
    takes = f"rows of features {width}{like} in {' or '.join(ROW_SUFFIXES)} files, not pictures"
    return ROW_SUFFIXES, (*pixels.SUFFIXES, *SHARD_SUFFIXES), takes


def _stdin(paths: Sequence[str]) -> int:
    """The handle of stdin; UsageError E-LIST when it is closed or wanted twice."""
    if list(paths).count("-") > 1:
        raise UsageError("E-LIST", "- stands for the list on stdin and was given twice; give it once")
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        raise UsageError("E-LIST", "- stands for a list of paths on stdin, which is closed; pipe a list in") from None


def _only(
    paths: Sequence[str],
    suffixes: Sequence[str],
    others: Sequence[str],
    entries: Callable[[], Iterator[str]] | None,
    *,
    takes: str,
) -> Found:
    """The files with `suffixes`; UsageError E-INPUT-KIND when some with `others`, of another model, are named."""
    from zsl_runtime.inputs.files import find_files
    from zsl_runtime.inputs.item import SHARD_SUFFIXES
    from zsl_runtime.pixels import pixels

    archives = SHARD_SUFFIXES if suffixes == pixels.SUFFIXES else ()
    try:
        found = find_files(paths, suffixes, archives, entries)
    except UsageError as error:
        if error.code == "E-NO-IMAGES":
            raise UsageError(error.code, f"{error.message}; this model takes {takes}") from None
        raise
    wrong = [name for name in found.named if name.lower().endswith(tuple(others))]
    if wrong:
        raise UsageError(
            "E-INPUT-KIND", f"{listed(wrong)}: this model takes {takes}; give those, or a bundle trained on such files"
        )
    return found


def _items(found: Found, reader: Reader, tally: Tally) -> tuple[Generator[Item], int | None]:
    """What to label, one after the other, and how many that is, where it can be known."""
    from zsl_runtime.inputs.feature_rows import RowFiles
    from zsl_runtime.inputs.files import pictures
    from zsl_runtime.pixels.pixels import SUFFIXES

    if reader.pixels is None:
        files = RowFiles(reader.shape, reader.like)
        return files.items(found), None if found.count is None else files.count(found)
    total = found.count
    for path in found.archives:
        from zsl_runtime.inputs.shards import count_members

        members = count_members(path, SUFFIXES)
        total = None if total is None or members is None else total - 1 + members
    if total == 0:
        raise UsageError(
            "E-NO-IMAGES", f"there are no pictures in {listed(found.archives)}; expected {' '.join(SUFFIXES)}"
        )
    return pictures(found, SUFFIXES, tally), total


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `zsl-infer`; returns the exit code."""
    return run_command(command, argv)
