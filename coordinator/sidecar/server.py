"""Listening sockets of the sidecar, and a protocol that bounds the time of a request (Uvicorn has no such limit)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from coordinator.daemon.http import HttpServer
from coordinator.errors import ConfigurationError

__all__ = ["bounded_server", "listen_on_path", "when_closed"]

_CALL = "recovery.when_closed"
_GONE = "recovery.gone"
REQUEST_SECONDS = 10.0
"""For a request to come as a whole, head and body, and for a new connection to begin one."""
IDLE_SECONDS = 75
HEAD_BYTES = 16 * 1024
CONNECTIONS = 4096
BACKLOG = 1024


def when_closed(scope: Mapping[str, Any], call: Callable[[], None]) -> None:
    """Has ``call`` called when the connection of this request ends; at once when it has."""
    scope["state"][_CALL] = call
    if scope["state"].get(_GONE):
        call()


def listen_on_path(path: str) -> socket.socket:
    """A listening unix socket, mode 0660; what a program that is gone left behind is replaced.

    Raises:
        ConfigurationError: the path cannot be taken.
    """
    where = Path(path)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(where.lstat().st_mode):
                raise ConfigurationError(f"http_socket: {path} is there and is no socket")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == 0:
                    raise ConfigurationError(f"http_socket: another program listens on {path}")
            where.unlink()
        before = os.umask(0o117)
        try:
            found.bind(path)
        finally:
            os.umask(before)
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        raise ConfigurationError(f"http_socket: {path} cannot be taken: {error.strerror or error}") from error
    except ConfigurationError:
        found.close()
        raise
    return found


class BoundedProtocol(H11Protocol):
    """Closes what does not come to its end in time, knows the process behind a unix socket, tells when it is closed."""

    _slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        found = transport.get_extra_info("socket")
        if found is not None and found.family == socket.AF_UNIX:
            raw = found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            self.client = ("unix", struct.unpack("3i", raw)[0])
        self._slow = self.loop.call_later(REQUEST_SECONDS, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self._slow is None:
            self._slow = self.loop.call_later(REQUEST_SECONDS, self._too_slow)
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._in_time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            return  # answered before the body was there: the clock goes on
        if self._slow is not None and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._in_time()

    def _in_time(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        self._slow = None
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)
        self.tell_closed()

    def tell_closed(self) -> None:
        """Whoever waits for somebody at the other end need not."""
        if self.scope is not None:
            state = self.scope["state"]
            state[_GONE] = True
            if (call := state.get(_CALL)) is not None:
                call()


def bounded_server(app: Any, sockets: Sequence[socket.socket]) -> HttpServer:
    """Serves an ASGI application within these bounds."""
    return HttpServer(
        app,
        sockets,
        interface="asgi3",
        http=BoundedProtocol,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=CONNECTIONS,
        backlog=BACKLOG,
    )
