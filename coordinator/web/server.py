"""Serves an ASGI application (Uvicorn) within bounds of its own for each listener."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import uvicorn

from coordinator.errors import ConfigurationError
from coordinator.web.accepting import Acceptor
from coordinator.web.bounds import HEALTH, REQUESTS, Bounds
from coordinator.web.connections import BoundedProtocol, Connections, label
from coordinator.web.gate import Gate, KindOf, Scope
from coordinator.web.seldom import quieten

__all__ = ["BACKLOG", "HEALTH_PATHS", "HttpServer", "health_or_not", "listen"]

HEAD_BYTES = 16 * 1024
BODY_BYTES = 64 * 1024
BACKLOG = 4096
HEALTH_PATHS = (b"/healthz", b"/readyz")


def health_or_not(scope: Scope) -> str:
    """The kind of a request, on a listener where only health has room of its own."""
    return HEALTH if scope["raw_path"] in HEALTH_PATHS else REQUESTS


def listen(host: str, port: int, setting: str = "http_port") -> socket.socket:
    """A listening socket; port 0 takes any free one. ``setting``: the setting that names the port.

    Raises:
        ConfigurationError: the address cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With a named protocol asyncio sends the second half of an answer before the first is acknowledged.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        raise ConfigurationError(
            f"{setting}: {host}:{port} cannot be taken: {error.strerror} (0 takes any free port)"
        ) from error
    return found


class _Server(uvicorn.Server):
    """Accepts by acceptors of ours, and leaves signals to the program."""

    acceptors: Sequence[Acceptor] = ()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        for acceptor in self.acceptors:
            acceptor.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for acceptor in self.acceptors:
            acceptor.stop()
        await super().shutdown(sockets=[])


class HttpServer:
    """Serves an ASGI application on sockets until `stop`.

    Args:
        bounds: of each of the sockets.
        kind_of: the kind of a request, by which it has room within the bounds.
        most_body: bytes of a body that is read before the application is asked.
        protocol: of connections.
        listeners: the number of listeners that share this process's files; default those of this server.

    Attributes:
        connections, acceptors: of each socket, while it runs.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        sockets: Sequence[socket.socket],
        *,
        bounds: Bounds | None = None,
        kind_of: KindOf = health_or_not,
        most_body: int = BODY_BYTES,
        protocol: type[BoundedProtocol] = BoundedProtocol,
        listeners: int = 0,
    ) -> None:
        self._sockets, self._protocol = list(sockets), protocol
        self.connections: list[Connections] = []
        self.acceptors: list[Acceptor] = []
        self._bounds = (bounds or Bounds()).fitting(listeners or len(self._sockets))
        self._server = _Server(
            uvicorn.Config(
                Gate(app, kind_of, most_body),
                interface="asgi3",
                http="h11",
                log_config=None,
                log_level="error",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
                timeout_keep_alive=round(self._bounds.idle_seconds),
                h11_max_incomplete_event_size=HEAD_BYTES,
                ws="none",
                server_header=False,
                proxy_headers=False,
            )
        )
        quieten("uvicorn.error", "asyncio")

    async def run(self) -> None:
        """Serves, and returns after `stop`. In any case nothing listens afterwards."""
        for listener in self._sockets:
            listener.setblocking(False)
            self.connections.append(Connections(label(listener), self._bounds))
            self.acceptors.append(Acceptor(listener, self.connections[-1], self._connection))
        for connections in self.connections:
            connections.start()
        self._server.acceptors = self.acceptors
        try:
            await self._server.serve(sockets=[])
        finally:
            for acceptor in self.acceptors:
                acceptor.stop()
            for connections in self.connections:
                connections.stop()

    def _connection(self) -> Any:
        return self._protocol(config=self._server.config, server_state=self._server.server_state, app_state={})

    def stop(self) -> None:
        """Ends `run` soon. Safe to repeat."""
        self._server.should_exit = True
