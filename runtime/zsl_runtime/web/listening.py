"""The port of the page: opened before the model is, served from a thread, closed by Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from zsl_runtime.errors import UsageError
from zsl_runtime.machine.stop import POLL
from zsl_runtime.web.guard import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

    from zsl_runtime.machine.stop import Stop

BACKLOG = 64
MOST_AT_ONCE = 64  # connections that are answered; a browser opens six
LAST_ANSWERS = 3  # seconds for requests at work when the end comes


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: an address of this machine, or a name of it.
        port: 0 for a free one.

    Raises:
        UsageError: E-HOST, E-PORT.

    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UsageError("E-HOST", f"--host {host!r} is not known here; give 127.0.0.1 or an address of it") from None
    found = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # of a page that has just ended; elsewhere it would take a port that is in use
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        raise UsageError(
            "E-PORT",
            f"--host {host} --port {port} cannot be listened on: {error.strerror}; --port 0 takes a free one",
        ) from None
    return found


def address(listening: socket.socket, host: str, key: str) -> str:
    """What to open in a browser; what stands behind the number sign never leaves it."""
    shown = "127.0.0.1" if host in {"0.0.0.0", ""} else f"[{host}]" if ":" in host else host  # noqa: S104  # not bound
    return f"http://{shown}:{listening.getsockname()[1]}/#{key}"


def warning(host: str) -> str:
    """What to say of a host that others can reach; '' for this machine alone."""
    if is_loopback(host):
        return ""
    return (
        f"--host {host}: others on your network can reach this page, unencrypted; whoever has its whole address can "
        "label with the bundle and change its classes"
    )


@contextlib.contextmanager
def serving(app: ASGIApp, listening: socket.socket) -> Iterator[threading.Thread]:
    """Answer requests in a thread until the block ends; those at work are answered then."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=MOST_AT_ONCE,
            timeout_graceful_shutdown=LAST_ANSWERS,
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="zsl-page", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join(2 * LAST_ANSWERS)
        listening.close()


def wait(thread: threading.Thread, stop: Stop) -> None:
    """Until somebody asks for the end, or the thread ended by itself."""
    while not stop.requested and thread.is_alive():
        thread.join(POLL)
