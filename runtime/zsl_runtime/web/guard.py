"""What stands between the port and the page: who may ask, how much, and what a browser may do with the answers.

Any page of the web can let a browser send requests to 127.0.0.1, and with a name of its own that leads there (DNS
rebinding) read the answers. So the name that a browser asked for must be this machine's, a request must come from this
page, and whoever asks for anything but the empty page must know the key, which only the terminal tells.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from zsl_runtime.errors import InputError, UsageError, ZslError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEY = b"x-zsl-key"
API = "/api/"
MOST_PICTURE, MOST_TEXT = 32 * 2**20, 8 * 2**20  # bytes of one photograph, and of anything else
PICTURES = ("/api/photograph", "/api/explain")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
]
STATUS = {
    "E-PAGE-KEY": 403,
    "E-PAGE-HOST": 421,
    "E-PAGE-ORIGIN": 403,
    "E-PAGE-SIZE": 413,
    "E-PAGE-BUSY": 503,
    "E-PAGE-FORGOTTEN": 409,
    "E-PAGE-CHANGED": 409,
    "E-PAGE-LOCKED": 423,
    "E-PAGE-CLOSED": 403,
}


class Answer(JSONResponse):
    """JSON; the halves of surrogate pairs that a path has which is not UTF-8 are escaped, for UTF-8 has none."""

    def render(self, content: Any) -> bytes:
        """The body."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def refusal(error: ZslError) -> JSONResponse:
    """An error as an answer."""
    usual = 400 if isinstance(error, UsageError) else 422 if isinstance(error, InputError) else 500
    return line(error.code, error.message, STATUS.get(error.code, usual))


def line(code: str, message: str, status: int) -> JSONResponse:
    """What went wrong, as an answer."""
    return Answer({"error": {"code": code, "message": message}}, status)


class Guard:
    """Passes on to `app` what may be asked.

    Args:
        app: the page.
        key: that requests must name.
        host: that is listened on: by its address, or a name.

    """

    def __init__(self, app: ASGIApp, key: str, host: str) -> None:
        self._app, self._key = app, key.encode("ascii")
        self._names = {"localhost", host.lower()}
        self._loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # nothing of ours opens a WebSocket
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        most = MOST_PICTURE if scope["path"] in PICTURES else MOST_TEXT

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        try:
            self._check_host(headers)
            if scope["path"].startswith(API):
                self._check_sender(headers)
            _check_length(headers, most)
        except ZslError as error:
            await _drain(receive, headers, most)
            await refusal(error)(scope, receive, with_headers)
            return
        await self._app(scope, _counted(receive, most), with_headers)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        """UsageError E-PAGE-HOST where a browser asked for another machine's name."""
        given = headers.get(b"host", b"").decode("latin-1")
        name = _without_port(given).lower()
        if name in self._names or (is_loopback(name) if self._loopback else _is_address(name)):
            return
        raise UsageError(
            "E-PAGE-HOST",
            f"this page was asked for by the name {given[:80]!r}; expected the address that zsl-demo prints",
        )

    def _check_sender(self, headers: dict[bytes, bytes]) -> None:
        """UsageError E-PAGE-ORIGIN, E-PAGE-KEY where it is not this page that asks."""
        origin, host = headers.get(b"origin"), headers.get(b"host", b"")
        site = headers.get(b"sec-fetch-site", b"same-origin")
        if (origin is not None and origin != b"http://" + host) or site != b"same-origin":
            raise UsageError("E-PAGE-ORIGIN", "another page asked for this; open the address that zsl-demo prints")
        if not hmac.compare_digest(headers.get(KEY, b""), self._key):
            raise UsageError(
                "E-PAGE-KEY", "this page was opened without its key; open the whole address that zsl-demo prints"
            )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    """Whether a host is told by its numbers, which no name server can turn to another machine."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else host


def _length(headers: dict[bytes, bytes]) -> int:
    given = headers.get(b"content-length", b"0")
    return int(given) if given.isdigit() and len(given) < 20 else 0


def _check_length(headers: dict[bytes, bytes], most: int) -> None:
    if _length(headers) > most:
        raise _too_large(most)


def _too_large(most: int) -> UsageError:
    return UsageError(
        "E-PAGE-SIZE", f"this is larger than the {most // 2**20} MiB that are taken; make it smaller first"
    )


async def _drain(receive: Receive, headers: dict[bytes, bytes], most: int) -> None:
    """Read what is refused, if it is not much: a browser that is still sending would not hear why."""
    left = 4 * most if _length(headers) <= 4 * most else 0
    while left > 0:
        message: Any = await receive()
        left -= len(message.get("body", b"")) + 1
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def _counted(receive: Receive, most: int) -> Receive:
    """`receive`, which raises UsageError E-PAGE-SIZE where more comes than a length announced, or without one."""
    left = most

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_large(most)
        return message

    return counted
