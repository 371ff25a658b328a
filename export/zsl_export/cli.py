"""`zsl-export`: turn a run into a bundle. The bundle's path goes to stdout, everything else to stderr."""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from zsl_export.precisions import LARGEST_DROP, parse_precisions
from zsl_runtime.errors import BackendError, run_command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zsl_train.run_folder import Run


def _precisions(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        return parse_precisions(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def _points(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Refuse what click's own range would let through: NaN."""
    if value is not None and not 0 <= value <= LARGEST_DROP:
        raise click.BadParameter(f"{value} is not a number of points from 0 to {LARGEST_DROP:g}.")
    return value


@click.command(name="zsl-export")
@click.argument("run", metavar="RUN")
@click.option("--out", required=True, metavar="BUNDLE", help="The folder to make.")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    callback=_precisions,
    metavar="LIST",
    help="Comma list of fp32, fp16 and int8; the first is what the bundle runs in by default.",
)
@click.option("--data", metavar="DIR", help="The data the run was trained on, if it has moved.")
@click.option(
    "--max-drop",
    type=float,
    callback=_points,
    metavar="POINTS",
    help="Points of H (or T1) that a lower precision may cost.  [default: 0.5 for fp16, 1 for int8]",
)
@click.option("--no-probe-images", is_flag=True, help="Leave the probe's inputs out of the bundle.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
def cli(
    run: str,
    out: str,
    *,
    precision: tuple[str, ...],
    data: str | None,
    max_drop: float | None,
    no_probe_images: bool,
    force: bool,
) -> None:
    """Export RUN, the folder that zsl-train wrote, as a bundle that labels pictures without torch.

    The exported graphs are compared with the trained model on the pictures that the run keeps; if they differ, no
    bundle is written (exit code 3).

    Lower precisions are measured against fp32 on the run's test photographs; one that costs more than --max-drop points
    stops the export (exit code 3). int8 is calibrated on training photographs. Both are read again from where the run
    found them, or from --data DIR.
    """
    if precision == ("fp32",):
        given = [flag for flag, value in (("--data", data), ("--max-drop", max_drop)) if value is not None]
        if given:
            raise click.UsageError(f"{' and '.join(given)}: only for fp16 and int8; add --precision fp32,fp16,int8.")
    try:
        _export(
            run,
            out,
            precisions=precision,
            data=data,
            max_drop=max_drop,
            probe_images=not no_probe_images,
            force=force,
        )
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("zsl_"):
            raise
        raise BackendError(
            "E-BACKEND-MISSING",
            f'zsl-export needs {error.name}, which is not installed; install it with: pip install "zsl-deploy[train]"',
        ) from error


def _export(folder: str, out: str, *, probe_images: bool, force: bool, **lower: Any) -> None:
    """The command, once its arguments are known; `lower` is what `export_run` takes of precisions."""
    from pathlib import Path

    import torch

    from zsl_export.bundle_of_run import export_run
    from zsl_runtime.bundle import check_dest
    from zsl_runtime.threads import usable_cpus
    from zsl_train.run_folder import load_run

    started = time.perf_counter()
    check_dest(Path(out).resolve(), force=force)
    threads = usable_cpus()
    torch.set_num_threads(threads)
    run = load_run(Path(folder))
    _tell(f"read {folder}: {run.method} on {run.backbone.name}, {len(run.generation.table)} classes")
    bundle = export_run(run, out, probe_images=probe_images, force=force, threads=threads, tell=_tell, **lower)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    _tell(f"wrote {bundle} ({size / 1e6:.1f} MB) in {time.perf_counter() - started:.1f} s")
    _tell(_whose_data(run, probe_images=probe_images))
    _tell(_next_commands(bundle, "PHOTOS" if run.backbone.pixels is not None else "FEATURES.npy"))
    # As bytes: a path need not be text in the encoding of the terminal.
    click.echo(os.fsencode(bundle))


def _whose_data(run: Run, *, probe_images: bool) -> str:
    """What of the user's photographs, or feature rows, is in the bundle."""
    unit = "pictures" if run.backbone.pixels is not None else "feature rows"
    pictures = (
        f"and {run.probe_count} of the {unit} themselves (--no-probe-images leaves those out)"
        if probe_images
        else f"but none of the {unit} themselves"
    )
    if run.trained.head_rule == "rows":
        if not probe_images:
            return "The bundle holds features of the probe's pictures, and no picture of yours."
        return (
            f"The bundle holds {run.probe_count} of your pictures (--no-probe-images leaves them out). "
            "Pass it on only to whom you would give those."
        )
    return (
        f"The bundle holds data of yours: features of {len(run.replay.features)} training {unit} {pictures}. "
        "Pass it on only to whom you would give those."
    )


def _next_commands(bundle: Path, inputs: str) -> str:
    """Commands to copy; `inputs` is what is labelled."""
    place = shlex.quote(str(bundle))
    return (
        "Next:\n"
        f"  zsl-infer {inputs} --engine {place}\n"
        f"  zsl-classes add --engine {place} --attributes NEW_CLASSES.csv\n"
        f"  zsl-doctor {place}"
    )


def _tell(line: str) -> None:
    click.echo(line, err=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `zsl-export`; returns the exit code."""
    return run_command(cli, argv)


if __name__ == "__main__":
    sys.exit(main())
