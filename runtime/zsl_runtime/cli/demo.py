"""`zsl-demo`: a page to try a bundle on. The page's address goes to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from zsl_runtime.cli.command import Command
from zsl_runtime.cli.examples import DEMO
from zsl_runtime.cli.options import (
    BACKEND,
    DEVICE,
    PRECISION,
    REQUIRE_SIGNATURE,
    SIGN,
    SIGN_CERTIFICATE,
    THREADS,
    TRUST_ENGINE,
    of_engine,
    signer_of,
)
from zsl_runtime.errors import run_command
from zsl_runtime.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from socket import socket

    from zsl_runtime.web.app import Page
    from zsl_runtime.web.desk import Desk

PORT = 8765


@click.command("zsl-demo", cls=Command, examples=DEMO)
@click.option("--engine", required=True, metavar="BUNDLE", help="The bundle, or a file in it.")
@REQUIRE_SIGNATURE
@click.option(
    "--try",
    "trial",
    is_flag=True,
    help="Work on a copy in the folder for temporary files, which is removed in the end: the bundle stays as it is.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in your browser.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Of the page; 0 takes a free one."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where the page listens; by default this machine alone can reach it.",
)
@DEVICE
@BACKEND
@PRECISION
@THREADS
@TRUST_ENGINE
@SIGN
@SIGN_CERTIFICATE
def command(
    *,
    engine: str,
    trial: bool,
    show: bool,
    port: int,
    host: str,
    device: str,
    backend: str,
    precision: str | None,
    threads: int | None,
    trust_engine: bool,
    sign: str | None,
    sign_certificate: str | None,
) -> None:
    """Try a bundle on a page in your browser: drop photographs, see labels and why, add classes, undo.

    Prints the address of the page, which holds a key: open it as it is. Ctrl-C ends it. Needs the extra `web`. Nothing
    leaves this machine, photographs are not kept, and the page loads nothing from elsewhere.

    Classes that are added, taught or removed on the page are changed in the bundle, for everybody who uses it, as by
    zsl-classes, and can be undone there and here. With --try they are changed in a copy that is removed in the end.
    """
    from zsl_runtime.machine.threads import limit_blas

    limit_blas(threads)
    import secrets

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.labelling.classifier import Classifier
    from zsl_runtime.web.app import Page
    from zsl_runtime.web.desk import Desk
    from zsl_runtime.web.listening import address, listen, warning
    from zsl_runtime.web.trying import copied

    signer = signer_of(sign, sign_certificate)
    with contextlib.ExitStack() as held:
        listening = held.enter_context(contextlib.closing(listen(host, port)))
        if warning(host):
            click.echo(one_line(f"warning: {warning(host)}"), err=True)
        given = Bundle.open(engine, verify=False)
        backend, precision = of_engine(engine, backend, precision)
        place = held.enter_context(copied(given.path)) if trial else given.path
        bundle = Bundle.open(place, signer=signer)
        click.echo(one_line(f"opening {given.path} ..."), err=True)
        classifier = held.enter_context(
            Classifier.open(bundle, backend, device, threads, precision, trust_engine=trust_engine)
        )
        desk = Desk(classifier, str(given.path) if trial else "")
        key = secrets.token_urlsafe(16)
        page = held.enter_context(contextlib.closing(Page(desk, key, host)))
        _serve(desk, page, listening, address(listening, host, key), show=show)


def _serve(desk: Desk, page: Page, listening: socket, where: str, *, show: bool) -> None:
    """Answer the page at the address `where` until somebody asks for the end."""
    from zsl_runtime.machine.stop import Stop, stopping
    from zsl_runtime.web.listening import serving, wait

    stop = Stop()
    with stopping(stop), serving(page.app, listening) as thread:
        print(where, flush=True)  # noqa: T201  # stdout carries the results
        bundle = desk.classifier.bundle
        if bundle.signer is None and bundle.is_signed() and not desk.origin and not desk.closed():
            click.echo("note: this bundle is signed, and changes made on the page will not be: see --sign", err=True)
        click.echo(one_line(f"open this address as it is, key included; {_changes(desk)}; Ctrl-C ends it"), err=True)
        if show:
            import webbrowser

            if not webbrowser.open(where):
                click.echo("note: there is no browser to open here; open the address yourself", err=True)
        wait(thread, stop)
    page.close()
    if desk.origin:
        click.echo(one_line(f"the copy is removed; {desk.origin} is as it was"), err=True)
    stop.check()


def _changes(desk: Desk) -> str:
    """Where changes go that are made on the page."""
    if desk.origin:
        return f"changes are made in a copy, {desk.origin} stays as it is"
    closed = desk.closed()
    return f"classes cannot be changed: {closed}" if closed else f"changes are made in {desk.classifier.bundle.path}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run zsl-demo; returns the exit code."""
    return run_command(command, argv)
