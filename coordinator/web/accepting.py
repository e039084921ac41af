"""Takes new connections of one listener: a few a turn, so that a flood of them leaves time for the others."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from coordinator.web.connections import BoundedProtocol, Connections

__all__ = ["Acceptor"]

A_TURN = 128
"""Connections a turn, about ten milliseconds: with fewer, a process with little processor time falls behind a flood."""
TURNS_TO_ASK = 8
"""Seconds in which the first bytes of a new connection are read, before newer ones take its place."""
MAKES_ROOM_FOR = 32
PAUSE_SECONDS = 0.1
"""Before it is tried again, after the listener could not accept."""
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Accepts from `start` to `stop`.

    Args:
        make: the protocol of a new connection.
        pause: seconds before a listener that could not accept is asked again.
    """

    def __init__(
        self,
        listener: socket.socket,
        connections: Connections,
        make: Callable[[], BoundedProtocol],
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._listener, self._connections, self._make, self._pause_seconds = listener, connections, make, pause
        self._loop = asyncio.get_running_loop()
        self._a_turn = max(1, min(A_TURN, connections.bounds.asking // TURNS_TO_ASK))
        self._pause: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins, or goes on."""
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Accepts no more, and ends the listening. Safe to repeat."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()

    def _accept(self) -> None:
        for _ in range(self._a_turn):
            try:
                found, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            protocol = self._make()
            if not self._connections.add(protocol, peer):
                found.close()
                continue
            task = self._loop.create_task(self._connect(found, protocol))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _rest(self, error: OSError) -> None:
        """A listener that cannot accept stays readable: without a pause this would be a loop that does nothing else."""
        self._connections.say("cannot_accept", error=error.strerror or str(error))
        if error.errno in NO_ROOM:
            self._connections.make_room(MAKES_ROOM_FOR)
        self._loop.remove_reader(self._listener.fileno())
        self._pause = self._loop.call_later(self._pause_seconds, self.start)

    async def _connect(self, found: socket.socket, protocol: BoundedProtocol) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, found)
        except BaseException as error:
            self._connections.remove(protocol)
            found.close()
            if not isinstance(error, OSError):
                raise
            self._connections.say("cannot_accept", error=str(error))  # the connection is gone already
