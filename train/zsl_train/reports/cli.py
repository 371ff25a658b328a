"""zsl-report: the page of a run, runs side by side, and how long things take; each one file that loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zsl_runtime.cli.command import Group
from zsl_runtime.errors import run_command
from zsl_runtime.streams import reporting

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = (
    ("the page of a run of an older version, or of one that is not finished yet", "zsl-report run run"),
    ("runs side by side, in a file of that name", "zsl-report compare run run-sc-egg --out comparison.html"),
    ("percentiles of what pytest-benchmark measured", "zsl-report latency bench.json"),
)
OF_RUN = (
    ("anew, in the run's folder", "zsl-report run run"),
    ("somewhere else", "zsl-report run run --out birds.html"),
)
OF_RUNS = (
    ("two trainings side by side", "zsl-report compare run run-sc-egg"),
    ("in a file of another name", "zsl-report compare run run-sc-egg --out methods.html"),
)
OF_TIMES = (
    ("what pytest --benchmark-json=bench.json measured", "zsl-report latency bench.json"),
    ("in a file of another name", "zsl-report latency bench.json --out times.html"),
)
PATH = click.Path(path_type=Path)


@click.group("zsl-report", cls=Group, examples=EXAMPLES, context_settings={"max_content_width": 120})
def cli() -> None:
    """Show what was trained or measured, as a page that any browser opens without a network.

    zsl-train writes the page of a run, RUN/report.html, at its end.
    """


@cli.command("run", examples=OF_RUN, short_help="Write the page of a run.")
@click.argument("folder", metavar="RUN", type=PATH)
@click.option("--out", type=PATH, metavar="FILE", help="File to write.  [default: RUN/report.html, which is replaced]")
@click.option("--force", is_flag=True, help="Replace FILE.")
def of_run(folder: Path, out: Path | None, force: bool) -> None:
    """Write the page of a run: scores in words, classes, mix-ups, curve, losses, features, photographs.

    Runs of older versions kept less: their page says what it lacks. An unfinished run has its losses so far.
    """
    from zsl_train.reports.run_files import read_run
    from zsl_train.reports.run_page import run_page
    from zsl_train.training.run_info import PAGE

    if out is not None:
        check_free(out, force=force)
    run = read_run(folder)
    write(out or folder / PAGE, run_page(run))


@cli.command("compare", examples=OF_RUNS, short_help="Put finished runs side by side.")
@click.argument("folders", metavar="RUN...", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, default="comparison.html", show_default=True, metavar="FILE", help="File to write.")
@click.option("--force", is_flag=True, help="Replace FILE.")
def of_runs(folders: tuple[Path, ...], out: Path, force: bool) -> None:
    """Put finished runs side by side: figures, differences with their standard errors, curves, classes, settings.

    Whether they can be compared at all stands at the top: data, split, features and selection have to be the same.
    """
    from zsl_train.reports.compare import compare_page
    from zsl_train.reports.run_files import read_run

    check_free(out, force=force)
    write(out, compare_page([read_run(folder) for folder in folders]))


@cli.command("latency", examples=OF_TIMES, short_help="Show how long things take.")
@click.argument("files", metavar="FILE.json...", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, default="latency.html", show_default=True, metavar="FILE", help="File to write.")
@click.option("--force", is_flag=True, help="Replace FILE.")
def of_benchmarks(files: tuple[Path, ...], out: Path, force: bool) -> None:
    """Show how long things take: percentiles, the split into stages, and peers, of files of pytest-benchmark.

    Any file of pytest-benchmark will do; those of `make bench` say more, about stages and about whom they ran beside.
    """
    from zsl_train.reports.latency import latency_page
    from zsl_train.reports.measurements import read_measured

    check_free(out, force=force)
    names = [file.name for file in files]
    called = [one if names.count(one) == 1 else str(file) for one, file in zip(names, files, strict=True)]
    write(out, latency_page([read_measured(file, one) for file, one in zip(files, called, strict=True)]))


def check_free(out: Path, *, force: bool) -> None:
    """Refuse to replace a file that nobody said to replace, before any work.

    Raises:
        UsageError: E-REPORT-EXISTS.

    """
    from zsl_runtime.errors import UsageError

    if out.is_dir():
        raise UsageError("E-REPORT-EXISTS", f"{out} is a folder; give --out a file")
    if out.exists() and not force:
        raise UsageError("E-REPORT-EXISTS", f"{out} is there already; add --force to replace it, or give another --out")


def write(path: Path, page: bytes) -> None:
    """Write the page whole, and say where it is.

    Raises:
        SystemProblem: E-SYSTEM when it cannot be written; an old file is untouched.

    """
    import os

    from zsl_runtime.errors import from_os_error
    from zsl_runtime.machine.storage import write_whole

    try:
        write_whole(path, page)
    except OSError as error:
        raise from_os_error(error, f"write {path}") from error
    with reporting(f"{path} is written"):
        click.echo(os.fsencode(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of zsl-report."""
    return run_command(cli, argv)
