"""The page's addresses: each takes bytes or JSON and gives JSON, and every failure is one line."""

from __future__ import annotations

import asyncio
import re
import sys
import traceback
from functools import wraps
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from zsl_runtime.errors import ZslError, from_os_error
from zsl_runtime.streams import printable
from zsl_runtime.web import asked
from zsl_runtime.web.guard import MOST_PICTURE, Answer, Guard, line, refusal
from zsl_runtime.web.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from zsl_runtime.web.desk import Desk

    Endpoint = Callable[[Request], Awaitable[Response]]

# Files of the page, each with its type; nothing else is handed out, and none has an address outside of this machine.
FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    **{name: (name, "text/javascript; charset=utf-8") for name in ("page.js", "ask.js", "parts.js", "photographs.js")},
    **{name: (name, "text/javascript; charset=utf-8") for name in ("newcomer.js", "classes.js", "why.js")},
}
MOST_WAITING = 64  # requests for the model
LONGEST_NAME = 255  # letters of a file's name


class Page:
    """The page of a desk.

    Args:
        desk: what is asked.
        key: that requests must name.
        host: that is listened on.

    Attributes:
        app: to be run by a server.

    """

    def __init__(self, desk: Desk, key: str, host: str) -> None:
        self._desk = desk
        self._model = Worker("zsl-model", MOST_WAITING)
        self._classes = Worker("zsl-classes", MOST_WAITING)
        asking = (self._photograph, self._explain, self._labels, self._table, self._row, self._rehearse)
        changing = (self._add, self._teach, self._remove, self._undo)
        routes = [
            *(Route(f"/{name}", _file(*found)) for name, found in FILES.items()),
            *(Route(f"/api/{call.__name__[1:]}", _told(call)) for call in (self._about, self._state)),
            *(Route(f"/api/{call.__name__[1:]}", _told(call), methods=["POST"]) for call in (*asking, *changing)),
        ]
        inner = Starlette(routes=routes, exception_handlers={HTTPException: _not_there})
        self.app: ASGIApp = Guard(inner, key, host)

    def close(self) -> None:
        """Let both threads finish what they are at."""
        self._model.close()
        self._classes.close()

    # --- what is there ----------------------------------------------------------------------------------------------

    async def _about(self, _request: Request) -> Any:
        return {**await asyncio.to_thread(self._desk.about), "most_bytes": MOST_PICTURE}

    async def _state(self, request: Request) -> Any:
        known = request.query_params.get("known", "")
        return await asyncio.to_thread(self._desk.state, int(known) if re.fullmatch("[0-9]{1,15}", known) else 0)

    async def _row(self, request: Request) -> Any:
        given = asked.object_in(await request.body())
        (name,) = asked.names([given.get("name")])
        return {"values": self._desk.row(name)}

    async def _table(self, request: Request) -> Any:
        return await self._classes.do(self._desk.table, await request.body(), _called(request, "the pasted table"))

    # --- photographs ------------------------------------------------------------------------------------------------

    async def _photograph(self, request: Request) -> Any:
        return await self._model.do(self._desk.look_at, await request.body())

    async def _explain(self, request: Request) -> Any:
        return await self._model.do(self._desk.explain, await request.body(), _called(request, "the photograph"))

    async def _labels(self, request: Request) -> Any:
        given = asked.object_in(await request.body())
        return await asyncio.to_thread(self._desk.labels, asked.digests(given.get("photographs")))

    # --- changes ----------------------------------------------------------------------------------------------------

    async def _rehearse(self, request: Request) -> Any:
        given = asked.object_in(await request.body())
        table = asked.class_table(given.get("classes"), self._desk.classifier.bundle.attributes)
        photographs, on_page = asked.by_class(given.get("photographs")), asked.digests(given.get("on_page"))
        return await self._classes.do(self._desk.rehearse, table, photographs, on_page)

    async def _add(self, request: Request) -> Any:
        given = asked.object_in(await request.body())
        table = asked.class_table(given.get("classes"), self._desk.classifier.bundle.attributes)
        return await self._classes.do(self._desk.add, table, asked.by_class(given.get("photographs")))

    async def _teach(self, request: Request) -> Any:
        given = asked.object_in(await request.body())
        return await self._classes.do(self._desk.teach, asked.by_class(given.get("photographs")))

    async def _remove(self, request: Request) -> Any:
        given = asked.object_in(await request.body())
        return await self._classes.do(self._desk.remove, asked.names(given.get("names")))

    async def _undo(self, request: Request) -> Any:
        given = asked.object_in(await request.body())
        generation, count = (
            asked.count(given.get("generation"), "a generation"),
            asked.count(given.get("count"), "steps"),
        )
        return await self._classes.do(self._desk.undo, generation, count)


def _told(call: Callable[[Request], Awaitable[Any]]) -> Endpoint:
    """An address that answers with what a call gives, or with why it failed; never with a traceback."""

    @wraps(call)
    async def answer(request: Request) -> Response:
        try:
            return Answer(await call(request))
        except ZslError as error:
            return refusal(error)
        except ClientDisconnect:  # nobody is there to be told
            return Response(status_code=499)
        except OSError as error:
            return refusal(from_os_error(error, "do this"))
        except Exception:
            print(printable(traceback.format_exc()), file=sys.stderr)  # noqa: T201  # for the report; the page has a line
            return line("E-BUG", "this is a bug in zsl-deploy; please report what the terminal says of it", 500)

    return answer


def _file(name: str, kind: str) -> Endpoint:
    """An address that answers with a file of the page."""
    data = (resources.files("zsl_runtime.web") / "page" / name).read_bytes()

    async def answer(_request: Request) -> Response:
        return Response(data, media_type=kind)

    return answer


def _called(request: Request, otherwise: str) -> str:
    """What a file is called where it came from, for messages."""
    name = unquote(request.headers.get("x-zsl-name", ""), errors="replace")
    return name[:LONGEST_NAME] or otherwise


async def _not_there(_request: Request, error: Exception) -> Response:
    """For addresses and methods that the page does not have."""
    assert isinstance(error, HTTPException)
    return line("E-PAGE-REQUEST", f"the page has no such address ({error.detail})", error.status_code)
