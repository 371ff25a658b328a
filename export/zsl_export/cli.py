"""`zsl-export`: turn a run into a bundle. The bundle's path goes to stdout, everything else to stderr."""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import TYPE_CHECKING

import click

from zsl_runtime.errors import BackendError, run_command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zsl_train.run_folder import Run


@click.command(name="zsl-export")
@click.argument("run", metavar="RUN")
@click.option("--out", required=True, metavar="BUNDLE", help="The folder to make.")
@click.option("--no-probe-images", is_flag=True, help="Leave the probe's inputs out of the bundle.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
def cli(run: str, out: str, *, no_probe_images: bool, force: bool) -> None:
    """Export RUN, the folder that zsl-train wrote, as a bundle that labels pictures without torch.

    The exported graphs are compared with the trained model on the pictures that the run keeps; if they differ, no
    bundle is written (exit code 3).
    """
    try:
        _export(run, out, probe_images=not no_probe_images, force=force)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("zsl_"):
            raise
        raise BackendError(
            "E-BACKEND-MISSING",
            f'zsl-export needs {error.name}, which is not installed; install it with: pip install "zsl-deploy[train]"',
        ) from error


def _export(folder: str, out: str, *, probe_images: bool, force: bool) -> None:
    """The command, once its arguments are known."""
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
    bundle = export_run(run, out, probe_images=probe_images, force=force, threads=threads, tell=_tell)
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
