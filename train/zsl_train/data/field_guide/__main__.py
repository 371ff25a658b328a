"""python -m zsl_train.data.field_guide OUT [--seed N] [--per-class N]."""

from __future__ import annotations

import sys

import click

from zsl_runtime.errors import run_command
from zsl_runtime.streams import reporting


@click.command("python -m zsl_train.data.field_guide")
@click.argument("out", type=click.Path(readable=False))
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the pictures; the species stay the same.")
@click.option("--per-class", type=int, default=24, show_default=True, help="Pictures of each species.")
def draw(out: str, seed: int, per_class: int) -> None:
    """Draw the field guide, a data set of invented birds, into the new folder OUT; print the folder."""
    from zsl_train.data.field_guide.folder import draw_field_guide

    shown = _show if sys.stderr.isatty() else None
    folder = draw_field_guide(out, seed=seed, per_class=per_class, progress=shown)
    with reporting(f"the field guide is in {folder}"):
        click.echo(folder)


def _show(done: int, total: int) -> None:
    """One line on the terminal that counts up."""
    print(f"\rdrawing {done} of {total} pictures", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_command(draw))
