"""One connection that is made already: requests go out, answers come in, and it ends when nothing moves any more.

Only movement counts: bytes that leave this machine or arrive here. A large request on a slow line may take long, but a line on
which nothing moves is given up after the time limit, however little is on its way.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import hiredis
import redis

from coordinator.errors import StoreUnavailableError
from coordinator.forked import in_a_child, let_go_of
from coordinator.store.faults import connection_error, moves_the_server, store_error
from coordinator.store.pace import LARGE, Pace
from coordinator.store.packing import Packed

if sys.platform == "linux":
    import fcntl
    import termios

__all__ = ["MORE", "Asked", "Wire", "answers", "in_the_kernel"]

LOOKS = 8
"""How often it looks for movement within the time limit."""
MOST_AWAY = 200
"""Requests that may be on their way at the same time."""
MORE = object()
"""What a reader of answers returns when the next one is not whole yet."""


def answers() -> Any:
    """A reader of answers; it returns an error answer as a `redis.ResponseError`, and does not raise it."""
    return hiredis.Reader(protocolError=redis.InvalidResponse, replyError=redis.ResponseError, notEnoughData=MORE)


def in_the_kernel(sock: Any) -> int:
    """Bytes that were sent and that the other machine has not confirmed; 0 where the system does not tell."""
    if sock is None or sys.platform != "linux":
        return 0
    told = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, told)
    except (OSError, ValueError):
        return 0
    return int(struct.unpack("i", told)[0])


class Asked(Protocol):
    """A request, as a wire sees it."""

    packed: Packed

    def answered(self, answer: Any, seconds: float) -> None:
        """Takes the server's answer, which may be a `redis.ResponseError`; or a `StoreUnavailableError` without one."""

    def unsent(self, error: StoreUnavailableError) -> None:
        """Called when the connection ended and nothing of the request was sent."""


@dataclass(slots=True)
class _Away:
    request: Asked
    size: int
    ahead: int
    sent: float
    wait: float


class Wire(asyncio.Protocol):
    """Takes over the transport of a stream.

    Args:
        writer: of the connection.
        timeout: seconds for which nothing may move while an answer is awaited.
        pace: what the line has shown.
        free: called when answers came, or the connection ended: there may be room for more.

    Attributes:
        bytes_away: bytes of requests that have no answer yet.
        held: bytes of requests that were put and not sent.
    """

    def __init__(
        self, writer: asyncio.StreamWriter, timeout: float, pace: Pace, free: Callable[[], None] = lambda: None
    ) -> None:
        self._writer = writer  # a stream that is thrown away closes its transport
        self._transport: Any = writer.transport
        self._timeout, self._pace, self._free = timeout, pace, free
        self._loop = asyncio.get_running_loop()
        self._answers = answers()
        self._away: deque[_Away] = deque()
        self.bytes_away = self.held = 0
        self._large_away = 0
        self._outgoing: list[bytes] = []
        self._written = self._gone = 0
        self._partial = self._retired = self._over = False
        self._quiet = self._looked = 0.0
        self._look: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)
        in_a_child(self, Wire._forked)

    # -- sending -------------------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether requests may be put on it."""
        return not self._over and not self._retired and not self._transport.is_closing()

    @property
    def room(self) -> int:
        """Bytes that may still be sent; may be negative."""
        return self._pace.window - self.bytes_away

    @property
    def large_away(self) -> bool:
        """Whether a large request is on its way."""
        return self._large_away > 0

    @property
    def full(self) -> bool:
        """Whether no more requests may be put on their way."""
        return len(self._away) >= MOST_AWAY

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._away)

    def put(self, request: Asked, server: bytes, wait: float = 0.0) -> None:
        """Puts a request on its way; `flush` sends what was put.

        Args:
            server: run id of the server.
            wait: seconds for which the server may keep the answer to itself.
        """
        now = self._loop.time()
        if not self._away:
            self._quiet, self._looked = 0.0, now
        data = request.packed.to(server)
        size = len(data)
        self._away.append(_Away(request, size, self.bytes_away, now, wait))
        self.bytes_away += size
        self._large_away += size > LARGE
        self._outgoing.append(data)
        self.held += size

    def flush(self) -> None:
        """Sends what was put."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        self.held = 0
        self._written += len(data)
        try:
            self._transport.write(data)
        except Exception as error:  # noqa: BLE001 - event loops raise various errors for a connection that ended
            self.end(connection_error(error))
            return
        if self._look is None:
            self._look_later()

    # -- answers -------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Takes bytes of answers."""
        self._quiet, self._partial = 0.0, True
        now = self._loop.time()
        try:
            self._answers.feed(data)
            while not self._over and (answer := self._answers.gets()) is not MORE:
                if not self._away:
                    raise redis.InvalidResponse("the server answered without a question")
                self._take(answer, now)
                self._partial = False
            self._partial = self._partial or bool(self._answers.has_data())
        except Exception as error:  # noqa: BLE001 - after an unreadable answer the connection is of no use
            self.end(connection_error(error))
            return
        if self._retired and not self._away:
            self.end(StoreUnavailableError("connection", "the connection was closed"))
        self._free()

    def _take(self, answer: Any, now: float) -> None:
        away = self._away.popleft()
        self.bytes_away -= away.size
        self._large_away -= away.size > LARGE
        if not away.wait:
            self._pace.answered(now, away.sent, away.size, away.ahead)
        if isinstance(answer, redis.ResponseError):
            fault = store_error(answer)
            if isinstance(fault, StoreUnavailableError) and moves_the_server(fault):
                self._retired = True  # requests on their way are answered here; later ones go to the new server
        away.request.answered(answer, now - away.sent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Takes the end of the connection by the other side, or by a machine on the way."""
        self.end(connection_error(exc or redis.ConnectionError("the connection was closed by the server")))

    # -- movement ------------------------------------------------------------------------------------------------------

    def _look_later(self) -> None:
        self._look = self._loop.call_later(self._timeout / LOOKS, self._look_now)

    def _look_now(self) -> None:
        self._look = None
        if not self._away or self._over:
            return  # looking begins again with the next request
        now, every = self._loop.time(), self._timeout / LOOKS
        gone = self._written - self._unsent() - in_the_kernel(self._transport.get_extra_info("socket"))
        if gone > self._gone:
            self._quiet = 0.0
        else:  # a loop that stood still saw nothing meanwhile
            self._quiet += min(now - self._looked, 2 * every)
        self._gone, self._looked = gone, now
        first = self._away[0]
        limit = self._timeout + self._pace.allowance(first.size, part_of_answer=self._partial)
        if self._quiet < limit + (0.0 if self._partial else first.wait):
            self._look_later()
        else:
            self.end(StoreUnavailableError("timeout", f"nothing moved for {self._quiet:.2g} s"))

    def _unsent(self) -> int:
        """Bytes that wait in this process; with TLS they cannot be told apart by request."""
        try:
            return int(self._transport.get_write_buffer_size())
        except Exception:  # noqa: BLE001 - of a connection that ended
            return 0

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, error: StoreUnavailableError) -> None:
        """Ends the connection at once; requests without an answer get the error. Safe to repeat."""
        if self._over:
            return
        self._over = True
        if self._look is not None:
            self._look.cancel()
        unsent = self._unsent() if self._transport.get_extra_info("ssl_object") is None else 0
        unsent += sum(map(len, self._outgoing))
        away, self._away = self._away, deque()
        self.bytes_away = self._large_away = 0
        self._let_go(at_once=bool(away))
        back = []
        while away and away[-1].size <= unsent:
            last = away.pop()
            unsent -= last.size
            back.append(last.request)
        if away:
            self._pace.failed()
        for one in away:
            one.request.answered(StoreUnavailableError(error.kind, error.detail), self._loop.time() - one.sent)
        for request in reversed(back):
            request.unsent(error)
        self._free()

    def _forked(self) -> None:
        self._over = True
        let_go_of(self._transport.get_extra_info("socket"))

    def _let_go(self, *, at_once: bool) -> None:
        """Closes the socket. ``at_once``: the kernel throws away what it still has to send, which would burden the line."""
        try:
            sock = self._transport.get_extra_info("socket")
            if at_once and sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        except Exception:  # noqa: BLE001, S110 - it ended already
            pass
