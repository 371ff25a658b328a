"""Options that several commands have: where and how the model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zsl_runtime.backends.table import BACKENDS
from zsl_runtime.cli.command import DEMANDED
from zsl_runtime.cli.completion import devices
from zsl_runtime.graphs.precisions import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from zsl_runtime.bundle.signing import Signer
    from zsl_runtime.labelling.reading import Reader

    Command = Callable[..., Any]

DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda:N",
    shell_complete=devices,
    help="Where the model runs; a card that is named is used or is an error (exit code 4).",
)
BACKEND = click.option(
    "--backend",
    type=click.Choice(["auto", *BACKENDS]),
    default="auto",
    show_default=True,
    help="What runs it; auto: the fastest here, measured once.",
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Of the model, if the bundle holds it; bf16 runs fp32's file with openvino [default: the bundle's].",
)
TRUST_ENGINE = click.option(
    "--trust-engine",
    is_flag=True,
    help="Load a TensorRT engine that you did not build on this machine; loading one runs its code.",
)


def _demand(context: click.Context, _parameter: click.Parameter, keys: str | None) -> None:
    """Note it for `Command.invoke`, which says it to whatever opens a bundle while the command runs."""
    if keys is None:
        return
    from zsl_runtime.errors import UsageError

    if not keys:
        raise UsageError("E-KEY", "--require-signature '': expected a file or folder of public keys")
    context.meta[DEMANDED] = keys


def demanded_by_option() -> bool:
    """Whether this command line says --require-signature, and not the site alone."""
    return DEMANDED in click.get_current_context().meta


REQUIRE_SIGNATURE = click.option(
    "--require-signature",
    metavar="FILE|DIR",
    expose_value=False,
    callback=_demand,
    help="Public keys or certificates (PEM), by one of which the bundle must be signed "
    "[default: those of $ZSL_REQUIRE_SIGNATURE].",
)
SIGN = click.option("--sign", metavar="FILE.pem", help="Sign what is made with this private key (elliptic curve).")
SIGN_CERTIFICATE = click.option(
    "--sign-certificate",
    metavar="FILE.pem",
    help="With --sign: the key's certificate, and those that lead to whoever is trusted.",
)


def signer_of(sign: str | None, certificate: str | None) -> Signer | None:
    """Who signs, by the options; None where nobody does.

    Raises:
        UsageError: E-KEY.
        BackendError: E-PACKAGE.

    """
    if sign is None:
        if certificate is not None:
            raise click.UsageError("--sign-certificate: is of a private key; give --sign, too.")
        return None
    for option, given in (("--sign", sign), ("--sign-certificate", certificate)):
        if given == "":
            raise click.UsageError(f"{option} is empty; give a PEM file, or leave it out.")
    from zsl_runtime.bundle.signing import open_signer

    return open_signer(sign, certificate)


def _cut(_: click.Context, __: click.Parameter, value: int | None) -> int | None:
    """As many threads as the machine has CPUs, where more are asked for; that is told."""
    if value is None:
        return None
    from zsl_runtime.errors import shown
    from zsl_runtime.machine.threads import checked_threads, cpus

    threads = checked_threads(value)
    if threads < value:
        click.echo(f"note: --threads {shown(value)}: this machine has {cpus(threads)}, so it is {threads}", err=True)
    return threads


THREADS = click.option(
    "--threads",
    type=click.IntRange(min=1),
    callback=_cut,
    help="CPU threads, at most as many as the machine has CPUs [default: all that this process may use].",
)
BATCH_SIZE = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Pictures in the model at once, as far as memory goes [default: 8].",
)


ENGINE_SUFFIX = ".engine"


def of_engine(place: str, backend: str, precision: str | None) -> tuple[str, str | None]:
    """Backend and precision, which follow from an engine where one is named in place of a bundle.

    Args:
        place: of the bundle, or a TensorRT engine in it.
        backend: asked for.
        precision: asked for; None for what the engine was built in, or the bundle's default.

    Raises:
        ArtefactError: E-ENGINE-SIDECAR.
        SystemProblem: what was written beside the engine cannot be read.

    """
    if not place.endswith(ENGINE_SUFFIX) or backend not in {"auto", "tensorrt"}:
        return backend, precision
    from pathlib import Path

    from zsl_runtime.trt.store import read_sidecar

    return "tensorrt", precision or read_sidecar(Path(place).with_suffix(".json")).facts.precision


def batch_told(batch_size: int | None, reader: Reader) -> int:
    """The batch size to use; where memory is not enough for what was asked for, that is told."""
    from zsl_runtime.errors import shown
    from zsl_runtime.labelling.reading import batch_of

    size = batch_of(batch_size, reader)
    if batch_size is not None and size < batch_size:
        click.echo(
            f"note: --batch-size {shown(batch_size)}: that is more than there may be memory for, so it is {size}",
            err=True,
        )
    return size


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator of several options, in that order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
