"""`zsl-classes`: see and change the classes of a bundle. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from zsl_runtime.errors import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zsl_runtime.generations import Change, ClassRow, Fit
    from zsl_runtime.head import Advance

ENGINE = click.option("--engine", required=True, metavar="BUNDLE", help="The bundle, or a file in it.")
SEED = click.option("--seed", type=int, help="Of synthesis and fit. Default: the seed of the export.")
# What adding and fitting read. The model's graph is not among them: it need not be hashed for a change of classes.
# The replay is checked where it is read.
FITTING = ("synthesizer", "lift", "rows")
COMPUTED = "rows of this model are computed from attributes, not fitted"


@click.group("zsl-classes", no_args_is_help=False)
def cli() -> None:
    """See and change the classes of a bundle: no photograph, no training, every change can be undone."""


@cli.command("list")
@ENGINE
@click.option("--format", "form", type=click.Choice(["table", "csv", "jsonl"]), default="table", show_default=True)
def list_command(engine: str, form: str) -> None:
    """Print the classes: name, split (seen or unseen) and row (its column in scores)."""
    from zsl_runtime.bundle import Bundle
    from zsl_runtime.generations import list_classes

    _print_classes(list_classes(Bundle.open(engine)), form)


@cli.command("add")
@ENGINE
@click.option(
    "--attributes",
    required=True,
    metavar="FILE.csv",
    help="A column `name` and one column per attribute of the model, in any order; one row per class.",
)
@click.option(
    "--fit",
    type=click.Choice(["new", "full"]),
    default="new",
    show_default=True,
    help="Fit only the rows of the new classes, or the whole head. Where rows are computed from attributes, neither.",
)
@SEED
def add_command(engine: str, attributes: str, fit: Fit, seed: int | None) -> None:
    """Add classes described by their attributes."""
    from zsl_runtime.bundle import Bundle
    from zsl_runtime.class_table import read_class_csv
    from zsl_runtime.generations import add_classes, add_steps

    bundle = Bundle.open(engine, verify=FITTING)
    table = read_class_csv(attributes, attributes=bundle.attributes, need_split=False)
    fitted = bundle.head_rule == "fit"
    how = f"{fit} fit" if fitted else f"{COMPUTED}: --fit new and full are the same, --seed changes nothing"
    click.echo(f"adding {_classes(len(table))} to {bundle.path} ({how}) ...", err=True)
    with _bar(add_steps(bundle, len(table), fit)) as advance:
        change = add_classes(bundle, table, fit=fit, seed=seed, advance=advance)
    _report(change, [f"added {name}: {_measure(change, name)}" for name in change.names])


@cli.command("remove")
@ENGINE
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove_command(engine: str, names: tuple[str, ...]) -> None:
    """Take classes out. A name that begins with a dash goes after `--`."""
    from zsl_runtime.bundle import Bundle
    from zsl_runtime.class_table import check_class_name
    from zsl_runtime.generations import remove_classes

    change = remove_classes(Bundle.open(engine), [check_class_name(name) for name in names])
    _report(change, [f"removed {name}" for name in change.names])


@cli.command("undo")
@ENGINE
def undo_command(engine: str) -> None:
    """Go back to the classes and the head before the last change. Again: one change further back."""
    from zsl_runtime.bundle import Bundle
    from zsl_runtime.generations import undo

    change = undo(Bundle.open(engine))
    known = set(change.generation.table.names)
    _report(change, [f"{'back' if name in known else 'gone'}: {name}" for name in change.names])


@cli.command("refit")
@ENGINE
@SEED
def refit_command(engine: str, seed: int | None) -> None:
    """Fit the whole head again for the classes in force, or compute its rows again."""
    from zsl_runtime.bundle import Bundle
    from zsl_runtime.generations import fit_epochs, refit

    bundle = Bundle.open(engine, verify=FITTING)
    if bundle.head_rule == "rows":
        click.echo(f"{COMPUTED}: --seed changes nothing", err=True)
    with _bar(fit_epochs(bundle)) as advance:
        change = refit(bundle, seed=seed, advance=advance)
    _report(change, [])


@cli.command("prune")
@ENGINE
@click.option(
    "--keep", required=True, type=int, metavar="N", help="How many states to keep, the one in force included."
)
def prune_command(engine: str, keep: int) -> None:
    """Delete old generations. The exported one always stays: the probe's expected answers belong to it."""
    from zsl_runtime.bundle import Bundle
    from zsl_runtime.generations import prune

    dropped = prune(Bundle.open(engine), keep)
    _say(f"deleted {len(dropped)}: generation {', '.join(map(str, dropped))}" if dropped else "nothing to delete")


def main(argv: Sequence[str] | None = None) -> int:
    """Run zsl-classes; returns the exit code."""
    return run_command(cli, argv)


@contextmanager
def _bar(steps: int) -> Iterator[Advance]:
    """A bar over the steps of a fit, on a terminal only."""
    from zsl_runtime.progress import Progress

    progress = Progress(steps, "steps", sys.stderr)
    try:
        yield progress.advance
    finally:
        progress.clear()


def _print_classes(rows: Sequence[ClassRow], form: str) -> None:
    """The three formats of `list`; csv and jsonl are for programs."""
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["name", "split", "row"])
        writer.writerows((item.name, item.split, item.row) for item in rows)
    elif form == "jsonl":
        for item in rows:
            _say(json.dumps(item._asdict(), ensure_ascii=False))
    else:
        _say(" row  split   name")
        for item in rows:
            _say(f"{item.row:4d}  {item.split:<6}  {item.name}")


def _measure(change: Change, name: str) -> str:
    """How well an added class fits, where that can be known."""
    if name in change.fits:
        return f"{change.fits[name]:.1%} of its synthesized features are taken for it"
    return "its row was computed from its attributes"


def _report(change: Change, lines: Sequence[str]) -> None:
    """What happened to single classes, then the state that is now in force."""
    for line in lines:
        _say(line)
    count = len(change.generation.table)
    _say(f"generation {change.generation.number}: {_classes(count)}, {change.seconds:.1f} s")


def _classes(count: int) -> str:
    return f"{count} class" if count == 1 else f"{count} classes"


def _say(line: str) -> None:
    print(line)  # noqa: T201  # stdout carries the results
