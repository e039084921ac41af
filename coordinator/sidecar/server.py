"""Listening sockets of the sidecar, the process at the other end of a connection, and the requests with room of their own."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from coordinator.errors import ConfigurationError
from coordinator.sidecar.proof import ProcessWatch
from coordinator.web.bounds import HEALTH, REQUESTS, Bounds
from coordinator.web.connections import BoundedProtocol
from coordinator.web.gate import Scope
from coordinator.web.server import BACKLOG, HEALTH_PATHS, HttpServer

__all__ = [
    "PEER",
    "PEER_UID",
    "SidecarProtocol",
    "api_server",
    "closed_by_peer",
    "hook_server",
    "kind_of",
    "listen_on_path",
    "peer_of",
    "peer_process",
    "peer_uid",
    "when_closed",
]

_CALL = "recovery.when_closed"
_GONE = "recovery.gone"
_BY_PEER = "recovery.closed_by_peer"
PEER = "recovery.peer"
PEER_UID = "recovery.peer_uid"
UCRED = struct.Struct("iII")
"""unix(7): process, user and group at the other end, as they were when it connected."""
SO_PEERPIDFD = 77
"""unix(7), Linux 6.5: the process that connected, also from another namespace of process numbers."""
ALIVE, STREAMS, LINES, WAITS, DRAINS = "alive", "streams", "lines", "waits", "drains"
ROOMS = {HEALTH: 64, ALIVE: 256, STREAMS: 4096, LINES: 1024, WAITS: 2048, DRAINS: 64, REQUESTS: 1024}
BOUNDS = Bounds(rooms=ROOMS)


def when_closed(scope: Mapping[str, Any], call: Callable[[], None]) -> None:
    """Has ``call`` called when the connection of this request ends; at once when it has."""
    scope["state"][_CALL] = call
    if scope["state"].get(_GONE):
        call()


def closed_by_peer(scope: Mapping[str, Any]) -> bool:
    """Whether the client, or the end of its process, closed the connection of this request; False while it is open."""
    return bool(scope["state"].get(_BY_PEER))


def peer_process(scope: Mapping[str, Any]) -> ProcessWatch | None:
    """The process that made the connection of this request, over a unix socket; None when it cannot be seen.

    The caller closes it.
    """
    call: Callable[[], ProcessWatch | None] | None = scope["state"].get(PEER)
    return call() if call is not None else None


def peer_uid(scope: Mapping[str, Any]) -> int | None:
    """The user that made the connection of this request over a unix socket, by the kernel's word; None for any other."""
    uid: int | None = scope["state"].get(PEER_UID)
    return uid


def peer_of(connection: Any, pid: int) -> ProcessWatch | None:
    """The process at the other end of a unix socket, by its file where the kernel has it, else by its number; None without both."""
    with contextlib.suppress(OSError):
        return ProcessWatch(pid, connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
    if pid:
        with contextlib.suppress(ConfigurationError):
            return ProcessWatch(pid)
    return None


def listen_on_path(path: str, *, shared: bool = False) -> socket.socket:
    """A listening unix socket, mode 0660; a socket that an ended program left behind is replaced.

    Args:
        shared: mode 0666.

    Raises:
        ConfigurationError: the path cannot be taken.
    """
    where = Path(path)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(where.lstat().st_mode):
                raise ConfigurationError(f"http_socket: {path} exists and is not a socket")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == 0:
                    raise ConfigurationError(f"http_socket: another program listens on {path}")
            where.unlink()
        before = os.umask(0o111 if shared else 0o117)
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


class SidecarProtocol(BoundedProtocol):
    """Knows the process behind a unix socket, and tells when the connection is closed."""

    def connection_made(self, transport: Any) -> None:
        """Asyncio's: the connection is there."""
        super().connection_made(transport)
        found = transport.get_extra_info("socket")
        if found is not None and found.family == socket.AF_UNIX:
            raw = found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
            pid, uid, _ = UCRED.unpack(raw)
            self.client = ("unix", pid)
            self.app_state = {**self.app_state, PEER: partial(peer_of, found, pid), PEER_UID: uid}

    closed_by_peer = False

    def eof_received(self) -> None:
        """Asyncio's: the client sends nothing more, as when its process has ended."""
        self.closed_by_peer = True
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's: the connection is closed."""
        super().connection_lost(exc)
        self.closed_by_peer |= isinstance(exc, ConnectionResetError | BrokenPipeError)
        self.tell_closed()

    def tell_closed(self) -> None:
        """Ends all waiting for the client at the other end."""
        if self.scope is not None:
            state = self.scope["state"]
            state[_GONE], state[_BY_PEER] = True, self.closed_by_peer
            if (call := state.get(_CALL)) is not None:
                call()


def kind_of(scope: Scope) -> str:
    """The kind of a request, which has room of its own: what many workers do at once takes none from what keeps a worker alive."""
    path: bytes = scope["raw_path"]
    if path in HEALTH_PATHS:
        return HEALTH
    if path.startswith(b"/v1/workers/"):
        last = path.rpartition(b"/")[2]
        if last in (b"alive", b"events"):
            return ALIVE if last == b"alive" else STREAMS
    if path == b"/v1/watched/line":
        return LINES
    if path == b"/v1/drain":
        return DRAINS
    query = urllib.parse.unquote_to_bytes(scope["query_string"]).lower()  # names may be written in many ways
    return WAITS if b"wait" in query else REQUESTS


def api_server(app: Any, sockets: Sequence[socket.socket], most_body: int, listeners: int) -> HttpServer:
    """Serves the interface.

    Args:
        listeners: the number of listeners that this process has in all.
    """
    return HttpServer(
        app, sockets, bounds=BOUNDS, kind_of=kind_of, most_body=most_body, protocol=SidecarProtocol, listeners=listeners
    )


def hook_server(app: Any, sockets: Sequence[socket.socket], listeners: int) -> HttpServer:
    """Serves the hook, and nothing else: no other client takes its room."""
    return HttpServer(app, sockets, listeners=listeners)
