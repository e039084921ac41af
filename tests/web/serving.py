"""A server in the test's own process, with bounds as small as the test wants, and raw connections to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coordinator.web.bounds import HEALTH, REQUESTS, Bounds
from coordinator.web.connections import Connections
from coordinator.web.gate import Scope
from coordinator.web.server import HttpServer, listen
from tests.waiting import eventually

WAITS = "waits"
ROOMS = {REQUESTS: 4, HEALTH: 2, WAITS: 2}
LARGE = "x" * (8 * 1024 * 1024)


class Served:
    """The server.

    Attributes:
        go: set, what waits is answered.
        waiting: requests that wait.
    """

    def __init__(self, server: HttpServer, port: int, go: anyio.Event) -> None:
        self.server, self.port, self.go = server, port, go
        self.waiting = 0
        self._links: list[Link] = []

    @property
    def connections(self) -> Connections:
        [found] = self.server.connections
        return found

    async def link(self, text: bytes = b"") -> Link:
        """A connection on which this much was said."""
        found = Link(await anyio.connect_tcp("127.0.0.1", self.port))
        self._links.append(found)
        if text:
            await found.say(text)
        return found

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and all of the answer, on a connection of its own."""
        link = await self.link(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        text = await link.rest()
        return int(text.split()[1]), text

    async def aclose(self) -> None:
        for link in self._links:
            await link.aclose()


class Link:
    """A connection."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream

    async def say(self, text: bytes) -> None:
        await self._stream.send(text)

    async def ask(self, path: str = "/") -> int:
        """A request of which the connection is kept; the status."""
        await self.say(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return int((await self._stream.receive()).split()[1])

    async def rest(self) -> bytes:
        """All that comes until it is closed."""
        found = b""
        try:
            while True:
                found += await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return found

    async def is_closed(self) -> bool:
        """Whether the other side closed it; it must have nothing to say."""
        with anyio.move_on_after(0.01):
            return await self.rest() == b""
        return False

    async def aclose(self) -> None:
        await anyio.aclose_forcefully(self._stream)


def kind_of(scope: Scope) -> str:
    return {b"/healthz": HEALTH, b"/wait": WAITS}.get(scope["raw_path"], REQUESTS)


@asynccontextmanager
async def serving(bounds: Bounds, **options: Any) -> AsyncIterator[Served]:
    """A server with a page that answers, one that waits, one that is large, and one that reads a body."""
    go = anyio.Event()

    async def wait(_: Request) -> Response:
        served.waiting += 1
        await go.wait()
        return PlainTextResponse("done")

    async def echo(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    def page(text: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(_: Request) -> Response:
            return PlainTextResponse(text)

        return answer

    pages = {"/": page("ok"), "/healthz": page("ok"), "/large": page(LARGE), "/wait": wait, "/echo": echo}
    app = Starlette(routes=[Route(path, handler, methods=["GET", "POST"]) for path, handler in pages.items()])
    with listen("127.0.0.1", 0) as where:
        server = HttpServer(app, [where], bounds=bounds, kind_of=kind_of, **options)
        served = Served(server, where.getsockname()[1], go)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            await eventually(lambda: server.acceptors)
            try:
                yield served
            finally:
                go.set()
                await served.aclose()
                server.stop()
                tasks.cancel_scope.cancel()
