"""The steps of `zsl-infer`, in the order in which its command takes them."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from zsl_runtime.errors import InputError, UsageError, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.cli.infer_counts import Counts
    from zsl_runtime.cli.progress import Progress
    from zsl_runtime.explaining.folder import SheetFolder
    from zsl_runtime.inputs.files import Found, Without
    from zsl_runtime.inputs.item import Item, Place, Tally
    from zsl_runtime.inputs.share import Share
    from zsl_runtime.labelling.ahead import Ahead
    from zsl_runtime.labelling.cascade import Cascade, Refit
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.labelling.made import Maker
    from zsl_runtime.labelling.profiling import NoProfile
    from zsl_runtime.labelling.reading import Reader, ReadItem
    from zsl_runtime.labelling.results import PartialFile, Sink
    from zsl_runtime.labelling.snapshot import Labelled, Scored, Snapshot
    from zsl_runtime.labelling.sorting import Sorter
    from zsl_runtime.machine.stop import Stop

    Make = Callable[[IO[bytes], int], Maker]  # of what answers are written to, and the generation


def _release(version: str) -> str:
    """The release that a build is, or that it led up to: 0.1.0 of 0.1.0.dev7+g1a2b3c4 and of 0.1.dev7."""
    release = version.partition("+")[0].partition(".dev")[0]
    return release if release.count(".") > 1 else f"{release}.0"


@dataclass(frozen=True)
class Job:
    """What is to be labelled, and with what means.

    Attributes:
        reader: of the model.
        found: what the paths stand for.
        items: what to label, one after the other.
        total: how many that is; None where it cannot be known.
        tally: counts what lists and shards leave out.
        threads: for the graph, and as many that decode.
        batch_size: of the graph.
        stop: asked for by Ctrl-C or SIGTERM.
        profile: takes notes.
        share: of the items, where others label the rest; `total` is then of all.

    """

    reader: Reader
    found: Found
    items: Generator[Item]
    total: int | None
    tally: Tally
    threads: int
    batch_size: int
    stop: Stop
    profile: NoProfile
    share: Share | None = None

    @property
    def unit(self) -> str:
        """What things to label are called."""
        return "pictures" if self.reader.pixels else "rows"


class Output(NamedTuple):
    """Where answers go; `partial` only where a run can be resumed, or is a share.

    The bundle's `generation` there, too, and where the output tells it: 0 elsewhere.

    What is interrupted is lost where it goes to a store: `kept` is false.
    """

    sink: Sink
    partial: PartialFile | None = None
    generation: int = 0
    kept: bool = True

    @property
    def done(self) -> int:
        """How many things the partial file has labels of: before anything is written, those of an earlier run."""
        return self.partial.state.items if self.partial else 0


def find_inputs(
    bundle: Bundle,
    paths: Sequence[str],
    *,
    null: bool,
    threads: int,
    batch_size: int,
    stop: Stop,
    profile: NoProfile,
    share: Share | None = None,
    without: Sequence[str] = (),
) -> Job:
    """Find out what the paths stand for, and how many things to label that is; folders of `without` are passed over."""
    from zsl_runtime.inputs.files import NOTHING
    from zsl_runtime.inputs.item import Tally
    from zsl_runtime.labelling.reading import reader_of

    reader, tally = reader_of(bundle), Tally()
    suffixes, others, takes = _kinds(reader)
    entries, passed_over = None, NOTHING
    for folder in filter(os.path.isdir, without):
        status = os.stat(folder)  # noqa: PTH116
        passed_over |= {(status.st_dev, status.st_ino)}
    if "-" in paths:
        from zsl_runtime.inputs.files import list_entries

        entries = list_entries(_stdin(paths), suffixes, null=null, stop=stop, tally=tally, without=passed_over)
    found = _only(paths, suffixes, others, entries, takes=takes, without=passed_over)
    items, total = _items(found, reader, tally, share)
    return Job(reader, found, items, total, tally, threads, batch_size, stop, profile, share)


def begin_output(
    bundle: Bundle,
    path: str | None,
    options: dict[str, Any],
    stack: ExitStack,
    *,
    resume: bool,
    whole: bool,
    share: Share | None = None,
    make: Make | None = None,
) -> Output:
    """Open stdout or a file; `whole` is for answers that all come at the end, so that there is no part to keep.

    With `make`, JSON lines are written, and the output is what is made of them.
    """
    from zsl_runtime import __version__
    from zsl_runtime.inputs.item import in_store
    from zsl_runtime.labelling.results import Sink, is_stream, open_output, open_partial

    there = in_store(path)
    generation = bundle.pointer()[0]

    def at_once() -> Output:
        stream = stack.enter_context(open_output(path))
        if make is None:
            return Output(Sink(stream))
        from zsl_runtime.labelling.made import MadeSink

        return Output(MadeSink(stream, make(stream, generation)), generation=generation)

    if there and resume:
        raise UsageError("E-RESUME", f"{path!r} is in a store, where nothing is before all is; give a file on the disk")
    if there and (share is None or make is not None):
        return at_once()
    if not resume and (whole or path is None or is_stream(path) or os.path.isdir(path)):  # noqa: PTH112
        return at_once()
    assert path is not None
    if there:
        from zsl_runtime.inputs.stores import uploading

        path = stack.enter_context(uploading(path))
    convert = None
    if make is not None:
        from zsl_runtime.labelling.made import making

        convert, share = making(lambda stream: make(stream, generation)), None  # nothing merges such files
    known = {f"--{name.strip('_').replace('_', '-')}": value for name, value in options.items()}
    known |= {"bundle": bundle.manifest_sha256, "generation": generation, "zsl-deploy": _release(__version__)}
    partial = stack.enter_context(
        open_partial(path, known, resume=resume, build=__version__, share=share, convert=convert)
    )
    return Output(partial, partial, generation, kept=not there)


def begin_to_read(job: Job, out: Output, stack: ExitStack, sorter: Sorter | None = None) -> Ahead[ReadItem]:
    """Begin to list, decode and resize, in threads, before the graph is there."""
    from zsl_runtime.labelling.reading import read_ahead
    from zsl_runtime.labelling.results import undone
    from zsl_runtime.machine.threads import readers

    items = job.items if out.partial is None else undone(job.items, out.partial.state)
    rows = read_ahead(
        job.reader,
        items if sorter is None else sorter.noting(items),
        workers=readers(job.threads),
        batch_size=job.batch_size,
        stop=job.stop,
        profile=job.profile,
    )
    stack.enter_context(rows)
    stack.callback(job.stop.request)  # before `rows` is closed: whoever waits for a list looks at this
    return rows


def begin_to_sort(
    job: Job, stack: ExitStack, folder: str | None, *, link: str | None, least: float, cascade: bool
) -> Sorter | None:
    """What sorts pictures into a folder, if one is given; UsageError E-SORT-INTO for a model that takes no pictures."""
    if folder is None:
        return None
    from zsl_runtime.labelling.sorting import open_sorter

    if job.reader.pixels is None:
        raise UsageError("E-SORT-INTO", "this model takes rows of features: there are no pictures to sort")
    return stack.enter_context(open_sorter(folder, link=link, least=least, keep_bytes=not cascade))


def begin_progress(job: Job, out: Output, snapshot: Snapshot, bundle: Bundle) -> Progress:
    """The graph is there; from now on the time counts."""
    from zsl_runtime.cli.progress import Progress

    if out.generation and snapshot.generation.number != out.generation:
        raise UsageError("E-RESUME", f"the classes of {bundle.path} were changed just now; run it again")
    progress = Progress(job.total if job.share is None else None, job.unit, sys.stderr, out.done)
    if job.found.skipped:
        archives = f" ({job.found.shards} zip or tar: name them to read them)" if job.found.shards else ""
        progress.line(f"files of other kinds skipped: {job.found.skipped}{archives}")
    if out.done:
        progress.line(f"going on after {out.done} {job.unit}{_begun_elsewhere(out)}")
    job.profile.begin()
    return progress


def _begun_elsewhere(out: Output) -> str:
    """Which build of this release labelled the beginning, if it was another one."""
    from zsl_runtime import __version__

    begun_by = out.partial.begun_by if out.partial else __version__
    return "" if begun_by == __version__ else f"; zsl-deploy {begun_by} labelled the first, this is {__version__}"


def scored_ahead(
    job: Job,
    classifier: Classifier,
    snapshot: Snapshot,
    rows: Ahead[ReadItem],
    stack: ExitStack,
    *,
    topk: int | None,
    before: int = 0,
    keep: bool = False,
) -> Ahead[Scored]:
    """Scored batches, by a thread of its own, so that the model does not wait while answers are written.

    On a card several batches are under way, and where only the `topk` best classes are wanted, only these come back.
    `before` is how many an earlier sitting has labelled: where none is a number, the model is at fault. With `keep`
    what the model was given comes, too.
    """
    from zsl_runtime.labelling.ahead import Ahead
    from zsl_runtime.labelling.numbers import Judge
    from zsl_runtime.labelling.scoring import score, score_ahead

    judge, size = Judge(before=before), job.batch_size
    if topk is None or keep or classifier.in_flight == 1:
        scored = score(
            classifier, snapshot, rows, batch_size=size, stop=job.stop, profile=job.profile, judge=judge, keep=keep
        )
    else:
        scored = score_ahead(
            classifier, snapshot, rows, batch_size=size, topk=topk, stop=job.stop, profile=job.profile, judge=judge
        )
    batches = stack.enter_context(Ahead(scored, depth=1))
    stack.callback(job.stop.request)
    return batches


def begin_to_explain(bundle: Bundle, stack: ExitStack, folder: str | None, threads: int) -> SheetFolder | None:
    """Where sheets go, if a folder is given; UsageError E-EXPLAIN, E-EXPLAIN-FOLDER."""
    if folder is None:
        return None
    from zsl_runtime.explaining.folder import SheetFolder
    from zsl_runtime.inputs.item import in_store

    bundle.check_explains()
    if in_store(folder):
        raise UsageError("E-EXPLAIN-FOLDER", f"{folder!r} is in a store; give --explain a folder on the disk")
    return stack.enter_context(SheetFolder(folder, threads))


def explained(
    job: Job, classifier: Classifier, snapshot: Snapshot, batches: Iterable[Scored], sheets: SheetFolder
) -> Generator[Scored]:
    """The batches; the sheets of each are written before it is passed on."""
    from pathlib import Path

    from zsl_runtime.explaining.folder import Told
    from zsl_runtime.explaining.page import About
    from zsl_runtime.labelling.profiling import OUTPUT

    readable = classifier.explainer.readout.readable
    sheets.about = About(
        Path(classifier.bundle.path).name, snapshot.generation.number, (int(readable.sum()), len(readable))
    )
    for batch in batches:
        names = [name for name, error in batch.entries if error is None]
        sheets.unread += len(batch.entries) - len(names)
        if names and batch.inputs is not None:
            with job.profile.stage(OUTPUT):
                found = classifier.explained(snapshot, names, batch.inputs, (batch.scores, batch.features))
                pictures = [None] * len(names) if job.reader.pixels is None else batch.inputs
                notes = _notes(classifier, snapshot, batch)
                sheets.add([Told(*one) for one in zip(found, pictures, notes, strict=True)])
        yield batch
    if sheets.count and not job.stop.requested:
        sheets.finish()


def _notes(classifier: Classifier, snapshot: Snapshot, batch: Scored) -> list[str]:
    """What else there is to know of each picture: that it is unlike anything known."""
    found = classifier.measure(snapshot, batch.features)
    if found is None or found.far is None:
        return [""] * len(batch.scores)
    return [
        f"Unlike anything known: {distance:.1f} standard deviations from the nearest class." if far else ""
        for distance, far in zip(found.distances, found.far, strict=True)
    ]


def write_answers(
    job: Job,
    out: Output,
    answers: Generator[list[Labelled]],
    progress: Progress,
    encode: Callable[[list[Labelled]], bytes],
    *,
    header: bytes,
    counts: Counts,
    sorter: Sorter | None = None,
) -> int:
    """Write all answers, say on stderr what could not be read; how many that is, an earlier run's among them."""
    from zsl_runtime.labelling.profiling import OUTPUT

    unreadable = out.partial.state.unreadable if out.partial else 0
    try:
        with closing(answers):
            if header and not out.done:
                out.sink.write(header, [])
            for batch in answers:
                with job.profile.stage(OUTPUT):
                    if sorter is not None:  # before the answers: of what is written, no run that goes on comes by again
                        sorter.sort(batch)
                    errors = [result for _, result in batch if isinstance(result, InputError)]
                    for error in errors:
                        progress.line(f"error: {error}")
                    if job.share is None or out.partial is None:
                        out.sink.write(encode(batch), batch)
                    else:
                        out.partial.write_each([encode([one]) for one in batch], batch)
                    counts.add(batch)
                unreadable += len(errors)
                progress.advance(len(batch))
        job.stop.check()
        out.sink.finish()
    except BaseException as error:
        _tell_what_is_kept(job, out, progress, error)
        raise
    finally:
        progress.clear()
        for line in () if sorter is None else sorter.lines():
            progress.line(line)
    if out.partial is not None:
        out.partial.complete = True
    return unreadable


def _tell_what_is_kept(job: Job, out: Output, progress: Progress, error: BaseException) -> None:
    """After an interruption or an error in the middle."""
    if not out.kept:
        progress.line("nothing was written: what goes to a store is put there when all is done")
    elif out.partial is not None and out.done:
        progress.line(
            f"the results of {out.done} {job.unit} are in {out.partial.path!r}; the same command with --resume goes on"
        )
    elif isinstance(error, KeyboardInterrupt) and job.stop.requested and progress.done:
        progress.line(f"stopped after {progress.done} {job.unit}, whose results are written")


def tell_the_end(
    job: Job,
    classifier: Classifier,
    snapshot: Snapshot,
    progress: Progress,
    *,
    unreadable: int,
    counts: Counts | None,
) -> bool:
    """The last lines on stderr: how many were labelled, how fast and by what; then what was found, in counts.

    Returns:
        Whether every picture that was counted in the beginning was still there when its turn came.

    """
    from zsl_runtime.inputs.item import Tally
    from zsl_runtime.inputs.left_out import told, untold

    backend = classifier.backend
    left_out = Tally()
    left_out.add(job.found.left_out)
    left_out.add(job.tally)
    for line in told(left_out, job.unit):
        progress.line(line)
    came = progress.done if job.share is None else job.share.seen
    lost = 0 if job.total is None else max(job.total - came, 0)
    if lost:
        progress.line(
            f"error: E-FOLDER: {lost} of {job.total} {job.unit} that were counted in the beginning were gone when "
            "their turn came; see that nobody moves them and that the disk is there, and label them again"
        )
    if job.tally.skipped:
        progress.line(f"files of other kinds skipped in lists and shards: {job.tally.skipped}")
    shared = "" if job.share is None else f" of share {job.share}"
    progress.line(
        f"labelled {progress.done - unreadable} of {progress.done} {job.unit}{shared}, {progress.rate:.1f} "
        f"{job.unit}/s, backend {backend.name} ({backend.library}) on {backend.device}, {backend.precision}, "
        f"generation {snapshot.generation.number}"
    )
    if counts is not None:
        for line in counts.lines(job.unit, untold(left_out.kinds, job.unit), after=progress.before):
            progress.line(line)
    return not lost


def cascade_answers(
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
    entries: Callable[[], Iterator[Place]] | None,
    *,
    takes: str,
    without: Without,
) -> Found:
    """The files with `suffixes`; UsageError E-INPUT-KIND when some with `others`, of another model, are named."""
    from zsl_runtime.inputs.files import find_files
    from zsl_runtime.inputs.item import SHARD_SUFFIXES
    from zsl_runtime.pixels import pixels

    archives = SHARD_SUFFIXES if suffixes == pixels.SUFFIXES else ()
    try:
        found = find_files(paths, suffixes, archives, entries, without)
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


def _items(found: Found, reader: Reader, tally: Tally, share: Share | None) -> tuple[Generator[Item], int | None]:
    """What to label, one after the other, and how many that is, where it can be known; of a share, what all have."""
    from zsl_runtime.inputs.feature_rows import RowFiles
    from zsl_runtime.inputs.files import pictures
    from zsl_runtime.inputs.item import Tally, in_store
    from zsl_runtime.inputs.left_out import told
    from zsl_runtime.pixels.pixels import SUFFIXES

    if reader.pixels is None:
        files = RowFiles(reader.shape, reader.like)
        rows = files.items(found)
        # Of a store every file would have to be fetched twice.
        unknown = found.count is None or any(in_store(place) for place in found)
        return rows if share is None else share.each(rows), None if unknown else files.count(found)
    total, others = found.count, Tally()
    for path in found.archives:
        from zsl_runtime.inputs.shards import count_members

        members = count_members(path, SUFFIXES, others)
        total = None if total is None or members is None else total - 1 + members
    if total == 0:
        more = "".join(f"; {line}" for line in told(others))
        raise UsageError(
            "E-NO-IMAGES", f"there are no pictures in {listed(found.archives)}; expected {' '.join(SUFFIXES)}{more}"
        )
    if share is None:
        return pictures(found, SUFFIXES, tally), total
    from zsl_runtime.inputs.share import pictures_of

    return pictures_of(share, found, SUFFIXES, tally), total
