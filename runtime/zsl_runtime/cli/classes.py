"""`zsl-classes`: see and change the classes of a bundle. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zsl_runtime.cli import examples
from zsl_runtime.cli.command import Group
from zsl_runtime.cli.completion import class_names
from zsl_runtime.cli.options import (
    BACKEND,
    DEVICE,
    REQUIRE_SIGNATURE,
    SIGN,
    SIGN_CERTIFICATE,
    THREADS,
    signer_of,
    together,
)
from zsl_runtime.errors import InputError, UsageError, listed, run_command
from zsl_runtime.graphs.parts import SMALL_PARTS
from zsl_runtime.machine.threads import limit_blas
from zsl_runtime.streams import one_line, printable, reporting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from zsl_runtime.arrays import Advance
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.classes.changes import Change, ClassRow
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.gaussian import Evidence
    from zsl_runtime.labelling.photographs import ClassFolders

    Command = Callable[..., Any]

MOST_WARNINGS = 20  # of one change; beyond that the table as a whole is odd
ENGINE = together(
    click.option("--engine", required=True, metavar="BUNDLE", help="The bundle, or a file in it."), REQUIRE_SIGNATURE
)
SIGNING = together(SIGN, SIGN_CERTIFICATE)
ATTRIBUTES = click.option(
    "--attributes",
    required=True,
    metavar="FILE",
    help="A .csv or .xlsx file: a column `name` and one per attribute of the model, in any order; a row per class.",
)
SEED = click.option(
    "--seed", type=int, help="Of what is random where a head is fitted [default: the export's]; others only note it."
)
RUNNING = together(DEVICE, BACKEND, THREADS)  # how photographs are looked at


@click.group("zsl-classes", cls=Group, examples=examples.CLASSES, no_args_is_help=False)
def cli() -> None:
    """See and change the classes of a bundle: no training, no photograph needed, every change can be undone."""


@cli.command("list", examples=examples.LIST)
@ENGINE
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "jsonl", "label-studio"]),
    default="table",
    show_default=True,
    help="label-studio: the labelling configuration for the tasks that zsl-infer writes.",
)
def list_command(engine: str, form: str) -> None:
    """Print the classes: name, split (seen or unseen), row (its column in scores) and how many photographs it rests on.

    Photographs are counted where classes can be taught, those of training included.
    """
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.classes.changes import list_classes

    rows = list_classes(Bundle.open(engine))
    if form == "label-studio":
        from zsl_runtime.labelling.label_studio import configuration

        click.echo(configuration([row.name for row in rows]), nl=False)
        return
    _print_classes(rows, form)


@cli.command("template", examples=examples.TEMPLATE)
@ENGINE
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--like",
    metavar="CLASS",
    shell_complete=class_names,
    help="Fill the rows with the values of this class of the model, for editing.",
)
@click.option("--output", metavar="FILE.csv|FILE.xlsx", help="Where to write the table [default: stdout, as CSV].")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def template_command(engine: str, names: tuple[str, ...], like: str | None, output: str | None, force: bool) -> None:
    """Print the table to fill in for new classes called NAME: the model's attributes and a row for each class.

    Rows above them, whose name begins with a number sign, tell the smallest and largest value of each attribute in
    training, and the values of some classes of the model; `add` passes over them. A workbook (.xlsx) needs openpyxl.
    """
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.classes.template import class_template
    from zsl_runtime.head.workbook import is_workbook
    from zsl_runtime.labelling.results import open_output

    _check_table_output(output, force=force)
    template = class_template(Bundle.open(engine, verify=False), names, like)
    book = output is not None and is_workbook(output)
    data = template.workbook() if book else template.csv(mark=output is not None)
    with open_output(output) as stream:
        stream.write(data)
    _warn(template.notes)
    if template.formulas and not book:
        odd = listed(template.formulas)
        click.echo(
            f"note: {odd} would be taken for formulas by spreadsheet programs, so an apostrophe stands before them; "
            "add reads them without it",
            err=True,
        )
    if output is not None:
        click.echo(
            one_line(f"wrote {output}: fill it in, then zsl-classes similar or add --attributes {output}"), err=True
        )


@cli.command("draft", examples=examples.DRAFT)
@ENGINE
@click.argument("name", metavar="NAME")
@click.option("--from-text", required=True, metavar="FILE", help="A description, as of a field guide: plain text.")
@click.option("--output", metavar="FILE.csv|FILE.xlsx", help="Where to write the table [default: stdout, as CSV].")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--without-names", is_flag=True, help="Take nothing from classes with like names: needs no encoder.")
def draft_command(
    *, engine: str, name: str, from_text: str, output: str | None, force: bool, without_names: bool
) -> None:
    """Propose a row of attributes for a new class called NAME from a description, for you to correct.

    Nothing is added. The table is that of `template`, filled in; rows above tell what each value rests on: the text,
    what it does not say where it speaks of the like, or a guess; and which sentence. The text must be in the language
    of the attributes' names. Needs the extra `draft`, whose sentence encoder runs here and asks nobody.
    """
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.cli.draft import lines, summary
    from zsl_runtime.drafting.encoder import Encoder
    from zsl_runtime.drafting.proposal import propose
    from zsl_runtime.drafting.text import read_description
    from zsl_runtime.head.workbook import is_workbook
    from zsl_runtime.labelling.results import open_output

    _check_table_output(output, force=force)
    bundle = Bundle.open(engine, verify=False)
    text = read_description(from_text)
    draft, template = propose(bundle, name, text, None if without_names else Encoder.when_needed())
    data = template.workbook() if output is not None and is_workbook(output) else template.csv(mark=output is not None)
    with open_output(output) as stream:
        stream.write(data)
    _warn(template.notes)
    if output is not None:
        with reporting(f"wrote {output}"):
            for line in lines(draft, template, bundle.current().table, text):
                _say(one_line(line))
    for line in summary(draft):
        click.echo(one_line(line), err=True)
    if output is not None:
        click.echo(
            one_line(
                f"wrote {output}: correct it, then zsl-classes similar or add --attributes {output}; nothing was added"
            ),
            err=True,
        )


@cli.command("similar", examples=examples.SIMILAR)
@ENGINE
@ATTRIBUTES
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def similar_command(engine: str, attributes: str, form: str) -> None:
    """Tell what new classes would be mixed up with, before they are added; the bundle is not changed.

    For each class three others, old or new: how many standard deviations away, and the shares of photographs that the
    new class is expected to lose to it and to take from it. The last line says whether to add the classes as they are.
    """
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.classes.similar import similar_classes
    from zsl_runtime.cli.similar import print_similar
    from zsl_runtime.head.class_file import read_class_csv

    bundle = Bundle.open(engine, verify=SMALL_PARTS)
    table = read_class_csv(attributes, attributes=bundle.attributes, need_split=False)
    found = similar_classes(bundle, table)
    print_similar(found, form)
    _warn(found.notes)


@cli.command("explain", examples=examples.EXPLAIN)
@ENGINE
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=class_names)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain_command(engine: str, names: tuple[str, ...], form: str) -> None:
    """Tell what is known of classes: what they are near, what sets them apart, what they rest on, how they came.

    For each class the nearest others and the shares of photographs that the two are expected to take from each other;
    the attributes in which the table sets it apart from them; its photographs, how far they have moved it from where
    its attributes put it, how much is left uncertain, and of which attributes they say something else than the table;
    and its part of the history. No model is loaded. A name that begins with a dash goes after `--`.
    """
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.classes.account import accounts
    from zsl_runtime.cli.explain import print_accounts

    bundle = Bundle.open(engine, verify=False)
    readout = bundle.readout() if bundle.explains and bundle.head_rule == "gaussian" else None
    print_accounts(accounts(bundle, names, readout), form)


@cli.command("add", examples=examples.ADD)
@ENGINE
@ATTRIBUTES
@click.option(
    "--photos",
    metavar="DIR",
    help="DIR/CLASS/... holds photographs of some of the new classes: one of each already helps.",
)
@SEED
@RUNNING
@SIGNING
def add_command(
    *,
    engine: str,
    attributes: str,
    photos: str | None,
    seed: int | None,
    device: str,
    backend: str,
    threads: int | None,
    sign: str | None,
    sign_certificate: str | None,
) -> int:
    """Add classes described by their attributes, and by photographs where there are some.

    Of each class one line says which other class it will be mixed up with most, as far as that can be told beforehand.

    Exit code 6 says that some photographs could not be read; the classes were added all the same.
    """
    limit_blas(threads)
    from zsl_runtime.classes.changes import add_classes, check_addable, check_teachable, fit_epochs
    from zsl_runtime.head.class_file import read_class_csv

    bundle = _to_change(engine, sign, sign_certificate, verify=SMALL_PARTS)
    if photos is not None:
        check_teachable(bundle)
    table = read_class_csv(attributes, attributes=bundle.attributes, need_split=False)
    evidence, skipped, notes = None, 0, list[str]()
    if photos is not None:
        found = _find(bundle, photos)
        check_addable(bundle, table, found.pictures)
        evidence, skipped, notes = _gather(bundle, found, table, device=device, backend=backend, threads=threads)
    click.echo(one_line(f"adding {_classes(len(table))} to {bundle.path} ..."), err=True)
    with _bar(fit_epochs(bundle), "steps") as advance:
        change = add_classes(bundle, table, photographs=evidence, seed=seed, advance=advance)
    change = replace(change, notes=(*change.notes, *notes))
    _report(change, _added(change))
    return _exit_code(skipped)


@cli.command("teach", examples=examples.TEACH)
@ENGINE
@click.option(
    "--photos", required=True, metavar="DIR", help="DIR/CLASS/... holds photographs of classes that are there."
)
@RUNNING
@SIGNING
def teach_command(
    *,
    engine: str,
    photos: str,
    device: str,
    backend: str,
    threads: int | None,
    sign: str | None,
    sign_certificate: str | None,
) -> int:
    """Show the model photographs of classes that it has, seen or not; the rows of all others stay as they are.

    Photographs may come in portions; nothing is kept of them but their number and one sum for each class.

    Exit code 6 says that some photographs could not be read; the others were learnt all the same.
    """
    limit_blas(threads)
    from zsl_runtime.classes.changes import check_taught, check_teachable, teach_classes

    bundle = _to_change(engine, sign, sign_certificate, verify=SMALL_PARTS)
    check_teachable(bundle)
    found = _find(bundle, photos)
    check_taught(bundle, found.pictures)
    evidence, skipped, notes = _gather(bundle, found, None, device=device, backend=backend, threads=threads)
    change = teach_classes(bundle, evidence)
    change = replace(change, notes=(*change.notes, *notes))
    _report(change, _taught(change, evidence))
    return _exit_code(skipped)


@cli.command("remove", examples=examples.REMOVE)
@ENGINE
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=class_names)
@SIGNING
def remove_command(engine: str, names: tuple[str, ...], sign: str | None, sign_certificate: str | None) -> None:
    """Take classes out. A name that begins with a dash goes after `--`."""
    from zsl_runtime.classes.changes import remove_classes

    bundle = _to_change(engine, sign, sign_certificate)
    change = remove_classes(bundle, names)
    _report(change, [f"removed {name}" for name in change.names])


@cli.command("undo", examples=examples.UNDO)
@ENGINE
@SIGNING
def undo_command(engine: str, sign: str | None, sign_certificate: str | None) -> None:
    """Go back to the classes and the head before the last change. Again: one change further back."""
    from zsl_runtime.classes.changes import undo

    bundle = _to_change(engine, sign, sign_certificate)
    change = undo(bundle)
    _report(change, _undone(change))


@cli.command("refit", examples=examples.REFIT)
@ENGINE
@SEED
@SIGNING
def refit_command(engine: str, seed: int | None, sign: str | None, sign_certificate: str | None) -> None:
    """Fit the whole head again for the classes in force, or compute its rows again."""
    from zsl_runtime.classes.changes import fit_epochs, refit

    bundle = _to_change(engine, sign, sign_certificate, verify=SMALL_PARTS)
    if seed is not None and bundle.head_rule != "fit":
        click.echo("the head of this model is computed, not fitted: --seed changes nothing", err=True)
    with _bar(fit_epochs(bundle), "steps") as advance:
        change = refit(bundle, seed=seed, advance=advance)
    _report(change, [])


@cli.command("sign", examples=examples.SIGN)
@ENGINE
@click.option("--sign", required=True, metavar="FILE.pem", help="Your private key (elliptic curve).")
@SIGN_CERTIFICATE
def sign_command(engine: str, sign: str, sign_certificate: str | None) -> None:
    """Vouch for the classes in force, and for what undo can go back to, whoever made them: sign their generations.

    What the export fixed is not signed by this: zsl-export BUNDLE --sign signs all of it. Where signatures are
    demanded, that of the fixed part is checked before.
    """
    from zsl_runtime.bundle.signing import open_signer
    from zsl_runtime.bundle.vouching import open_to_vouch, sign_bundle

    signer = open_signer(sign, sign_certificate)
    bundle = open_to_vouch(engine, signer, fixed=False)
    made = sign_bundle(bundle, signer, fixed=False)
    numbers = ", ".join(map(str, made))
    told = f"signed generation {numbers} of {bundle.path} by {signer.told}" if made else "all of them are signed"
    with reporting(told):
        _say(told)


@cli.command("prune", examples=examples.PRUNE)
@ENGINE
@click.option(
    "--keep", required=True, type=int, metavar="N", help="How many states to keep, the one in force included."
)
def prune_command(engine: str, keep: int) -> None:
    """Delete old states of the classes (generations). The exported one stays: zsl-doctor compares answers with it."""
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.classes.changes import prune

    dropped = prune(Bundle.open(engine), keep)
    told = f"deleted {len(dropped)}: generation {', '.join(map(str, dropped))}" if dropped else "nothing to delete"
    with reporting(told):
        _say(told)


def main(argv: Sequence[str] | None = None) -> int:
    """Run zsl-classes; returns the exit code."""
    return run_command(cli, argv)


def _check_table_output(path: str | None, *, force: bool) -> None:
    """Refuse another kind of file than a table, and one that is there: it may hold somebody's work."""
    if path is None:
        return
    if not path.lower().endswith((".csv", ".xlsx")):
        raise UsageError("E-OUTPUT", f"--output {path!r}: expected a name that ends in .csv or .xlsx")
    if Path(path).is_file() and not force:
        raise UsageError(
            "E-OUTPUT-EXISTS", f"{path!r} is there, and may be filled in; give --force to replace it, or another name"
        )


def _to_change(
    engine: str, sign: str | None, certificate: str | None, *, verify: bool | Iterable[str] = True
) -> Bundle:
    """The bundle to make a generation of, which `sign` signs; where signatures are demanded, somebody must."""
    from zsl_runtime.bundle.bundle import Bundle

    bundle = Bundle.open(engine, verify=verify, signer=signer_of(sign, certificate))
    bundle.check_signable()
    if bundle.signer is None and bundle.is_signed():
        click.echo(
            "note: this bundle is signed, and the state of its classes that this makes will not be: who demands "
            "signatures refuses it until zsl-classes sign is run; --sign KEY signs it at once",
            err=True,
        )
    return bundle


@contextmanager
def _bar(total: int, unit: str) -> Iterator[Advance]:
    """A bar, on a terminal only; over the steps of a fit, or over photographs."""
    from zsl_runtime.cli.progress import Progress

    progress = Progress(total, unit, sys.stderr)
    try:
        yield progress.advance
    finally:
        progress.clear()


def _find(bundle: Bundle, photos: str) -> ClassFolders:
    """The photographs in the folders of DIR."""
    from zsl_runtime.labelling.photographs import class_folders
    from zsl_runtime.labelling.reading import reader_of

    found = class_folders(photos, reader_of(bundle))
    for note in found.notes:
        click.echo(one_line(note), err=True)
    return found


def _gather(
    bundle: Bundle, found: ClassFolders, new: ClassTable | None, *, device: str, backend: str, threads: int | None
) -> tuple[dict[str, Evidence], int, list[str]]:
    """What the photographs say, how many could not be read, which are told, and notes on what is unlike anything known.

    `new` are the classes that are to be added, known by their attributes.
    """
    import warnings

    from zsl_runtime.classes.changes import distances_with
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.labelling.photographs import Lookout, gather

    # What Pillow has to say about odd metadata is no concern of whoever teaches a class.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    click.echo(f"looking at {_photographs(found.count)} of {_classes(len(found.pictures))} ...", err=True)
    bundle.verify(threads)
    with (
        Classifier.open(bundle, backend, device, threads) as classifier,
        _bar(found.count, "photographs") as advance,
    ):
        lookout = Lookout(classifier.snapshot().distances if new is None else distances_with(bundle, new))
        evidence, skipped = gather(classifier, found.pictures, advance=advance, lookout=lookout)
    for _, error in skipped:
        click.echo(f"error: {error}", err=True)
    if skipped:
        click.echo(f"left out, because they cannot be read: {_photographs(len(skipped))}", err=True)
    return evidence, len(skipped), lookout.notes()


def _exit_code(skipped: int) -> int:
    return InputError.exit_code if skipped else 0


def _print_classes(rows: Sequence[ClassRow], form: str) -> None:
    """The three formats of `list`; csv and jsonl are for programs."""
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["name", "split", "row", "photographs"])
        writer.writerows((item.name, item.split, item.row, item.photographs) for item in rows)
    elif form == "jsonl":
        for item in rows:
            _say(json.dumps(item._asdict(), ensure_ascii=False))
    else:
        counted = any(item.photographs is not None for item in rows)
        _say(f" row  split   {'photographs  ' if counted else ''}name")
        for item in rows:
            count = f"{item.photographs:11d}  " if counted else ""
            _say(printable(f"{item.row:4d}  {item.split:<6}  {count}{item.name}"))


def _added(change: Change) -> Iterator[str]:
    """A line for each new class whose mix-ups are known, and one for the rest; or one for each."""
    if change.generation.means is None:
        yield from (f"added {name}" for name in change.names)
        return
    for name in change.names[: _told(change)]:
        count = change.photographs.get(name, 0)
        yield f"added {name}: from its attributes{f' and {_photographs(count)}' if count else ''}{_like(change, name)}"
    yield from _rest(change, "added")


def _taught(change: Change, evidence: dict[str, Evidence]) -> Iterator[str]:
    for name in change.names[: _told(change)]:
        count = _photographs(evidence[name].count)
        yield f"taught {name}: {count}, {change.photographs[name]} in all{_like(change, name)}"
    yield from _rest(change, "taught")


def _undone(change: Change) -> Iterator[str]:
    known = set(change.generation.table.names)
    for name in change.names:
        if name in change.photographs:
            yield f"back to {_photographs(change.photographs[name])}: {name}"
        else:
            yield f"{'back' if name in known else 'gone'}: {name}"


def _told(change: Change) -> int:
    """How many classes get a line: those whose neighbours were worked out, or all where there are none."""
    return len(change.neighbours) or len(change.names)


def _rest(change: Change, done: str) -> Iterator[str]:
    rest = len(change.names) - _told(change)
    if rest:
        yield f"{done} {rest} more: likely mix-ups are worked out for the first {_told(change)} alone"


def _like(change: Change, name: str) -> str:
    """Which class this one will be mixed up with most, in the middle of a line."""
    if not change.neighbours.get(name):
        return ""
    worst = change.neighbours[name][0]
    return (
        f"; most like {worst.name}, {worst.distance:.1f} standard deviations away: expected to lose {worst.lost:.0%} "
        f"of its photographs to it and to take {worst.taken:.0%} of its"
    )


def _report(change: Change, lines: Iterable[str]) -> None:
    """What is odd, on stderr; what happened to single classes, then the state that is now in force."""
    number, count = change.generation.number, len(change.generation.table)
    _warn(change.notes)
    with reporting(f"the change was made: generation {number} is in force, with {_classes(count)}"):
        for line in lines:
            _say(line)
        _say(f"generation {number}: {_classes(count)}, {change.seconds:.1f} s")
    if change.notes:
        click.echo(f"{_warned(len(change.notes))} above; zsl-classes undo takes the change back", err=True)


def _warned(count: int) -> str:
    return "1 warning" if count == 1 else f"{count} warnings"


def _warn(notes: Sequence[str]) -> None:
    for note in notes[:MOST_WARNINGS]:
        click.echo(one_line(f"warning: {note}"), err=True)
    if len(notes) > MOST_WARNINGS:
        click.echo(f"warning: and {len(notes) - MOST_WARNINGS} more of the kind", err=True)


def _photographs(count: int) -> str:
    return f"{count} photograph" if count == 1 else f"{count} photographs"


def _classes(count: int) -> str:
    return f"{count} class" if count == 1 else f"{count} classes"


def _say(line: str) -> None:
    print(line)  # noqa: T201  # stdout carries the results
