"""The open connections of one listener: what each waits for since when, and which one goes first when there is no room."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from coordinator.web.bounds import REQUESTS, Bounds
from coordinator.web.seldom import Seldom

__all__ = ["LISTENER", "BoundedProtocol", "Connections", "address_of", "label"]

log = structlog.get_logger()

LISTENER = "recovery.listener"
"""Key in the state of a request's scope: the `Connections` that it came by."""
SWEEP_SECONDS = 1.0
KEPT_TOO_LONG = "kept_too_long"
READS_FROM_SOCKET = (h11.IDLE, h11.SEND_BODY)


def address_of(peer: Any) -> str:
    """The address that tells clients of other machines apart: IPv4, or the first half of IPv6; '' for this machine.

    Programs of this machine share an address, so that a bound on it would let one of them lock the others out.
    """
    return _address(peer[0]) if isinstance(peer, tuple) else ""  # over a unix socket it is text, or bytes


@functools.lru_cache(1024)
def _address(host: str) -> str:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return "" if found.is_loopback else str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
        found = found.ipv4_mapped
    return "" if found.is_loopback else str(found)


class BoundedProtocol(H11Protocol):
    """Uvicorn's protocol; each connection is in one of its listener's queues unless it is being served.

    Attributes:
        listener: where the connection came in.
        address: the client's; '' for this machine.
        queue: where the connection waits; None while a whole request is being answered.
        since: when it came into the queue, by the listener's clock.
        size: bytes that it holds there.
    """

    listener: Connections
    address = ""
    queue: Queue | None = None
    since = 0.0
    size = 0
    _given_up = False

    def connection_made(self, transport: Any) -> None:
        """Asyncio's: the connection is there, or was given up before."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, LISTENER: self.listener}
        if self._given_up:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Asyncio's: bytes came. Those of a request that is not whole yet take up room."""
        self.listener.begins(self, len(data))
        if self.transport.is_closing():
            return
        super().data_received(data)
        self.settle()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's: the bytes that came are not HTTP."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.give_up()  # an answer is under way, or was given: another has no place
            return
        if self.cycle is not None:  # the application was asked for the head alone, and this answer replaces its own
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Uvicorn's: the answer is written."""
        super().on_response_complete()
        self.settle()

    def pause_writing(self) -> None:
        """Asyncio's: the client does not read what is written."""
        super().pause_writing()
        self.settle()

    def resume_writing(self) -> None:
        """Asyncio's: the client reads again."""
        super().resume_writing()
        self.settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's: the connection is closed."""
        self.listener.remove(self)
        super().connection_lost(exc)

    @property
    def unread(self) -> int:
        """Bytes of answers that the client has not taken."""
        return int(self.transport.get_write_buffer_size()) if self.transport is not None else 0

    @property
    def _answered_early(self) -> bool:
        """Whether the bytes belong to a request that was answered before it was whole; they are dropped."""
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def settle(self) -> None:
        """Moves the connection into the queue of what it waits for now."""
        bounds, listener = self.listener.bounds, self.listener
        served, closing = self._is_being_served, self.transport.is_closing()
        if self.flow.write_paused or (self.unread and (closing or not served)):
            listener.unread.put(self, self.unread)
        elif closing:
            listener.leave(self)
        elif served:
            listener.leave(self)
            if len(self.conn.trailing_data[0]) > bounds.ahead_bytes:
                listener.drop(self, "sent_ahead")
        elif self._answered_early:
            listener.asking.put(self, 0)
        elif self.conn.their_state is h11.IDLE and self.cycle is not None and not self.conn.trailing_data[0]:
            listener.kept.put(self, 0)
        else:
            listener.asking.put(self, self.size if self.queue is listener.asking else len(self.conn.trailing_data[0]))

    @property
    def _is_being_served(self) -> bool:
        return self.conn.their_state not in READS_FROM_SOCKET and not (
            self.cycle is not None and self.cycle.response_complete
        )

    def give_up(self) -> None:
        """Closes the connection. The client does not get what it has not read by now."""
        self._given_up = True
        if self.transport is None:
            return
        if self.unread:
            self.transport.abort()
        else:
            self.transport.close()


class Queue:
    """Connections that wait for the same thing, the longest first.

    Attributes:
        name: for logs.
        bytes: held by all.
    """

    def __init__(self, name: str, most: int, most_bytes: int, seconds: float) -> None:
        self.name, self.most, self.most_bytes, self.seconds = name, most, most_bytes, seconds
        self.bytes = 0
        self.members: OrderedDict[BoundedProtocol, None] = OrderedDict()

    def put(self, one: BoundedProtocol, size: int) -> None:
        """Adds a connection; one that is there already keeps its place."""
        listener = one.listener
        if one.queue is not self:
            listener.leave(one)
            one.queue, one.since = self, listener.now()
            self.members[one] = None
        self.bytes += size - one.size
        one.size = size
        while len(self.members) > self.most:
            listener.drop(next(iter(self.members)), f"{self.name}_full")
        while self.bytes > self.most_bytes and self.members:
            listener.drop(next(iter(self.members)), f"{self.name}_bytes")

    def again(self, one: BoundedProtocol) -> None:
        """Begins a connection's time anew."""
        one.since = one.listener.now()
        self.members.move_to_end(one)


class Connections:
    """The connections of one listener.

    Attributes:
        name: where it listens, for logs.
        served: whole requests that are being answered, by kind.
    """

    def __init__(self, name: str, bounds: Bounds) -> None:
        self.name, self.bounds = name, bounds
        self.asking = Queue("asking", bounds.asking, bounds.held_bytes, bounds.request_seconds)
        self.kept = Queue("kept", bounds.kept, bounds.held_bytes, bounds.idle_seconds)
        self.unread = Queue("unread", bounds.unread, bounds.held_bytes, bounds.unread_seconds)
        self.served: Counter[str] = Counter()
        self._of_one: Counter[tuple[str, str]] = Counter()
        self._open: dict[BoundedProtocol, None] = {}
        self._addresses: Counter[str] = Counter()
        self._seldom = Seldom()
        self._loop = asyncio.get_running_loop()
        self._stood_still = 0.0
        self._sweeping: asyncio.TimerHandle | None = None
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def now(self) -> float:
        """Seconds in which this process could have read what clients sent: time in which they wait for it does not count."""
        return self._loop.time() - self._stood_still

    # -- coming and going ----------------------------------------------------------------------------------------------

    def add(self, one: BoundedProtocol, peer: Any) -> bool:
        """Adds a connection. Without room the one that waits longest goes; False when none can go."""
        one.listener, one.address = self, address_of(peer)
        if one.address and self._addresses[one.address] >= self.bounds.of_one_address:
            longest = self._longest(one.address)
            if longest is None:
                self.say("address_full", address=one.address)
                return False
            self.drop(longest, "address_full")
        self._open[one] = None
        self._addresses[one.address] += 1
        self.asking.put(one, 0)
        return True

    def remove(self, one: BoundedProtocol) -> None:
        """Takes out a connection that is closed. Safe to repeat."""
        self.leave(one)
        if one in self._open:
            del self._open[one]
            self._addresses[one.address] -= 1
            if not self._addresses[one.address]:
                del self._addresses[one.address]

    def leave(self, one: BoundedProtocol) -> None:
        """Takes a connection that waits no more out of its queue."""
        if one.queue is not None:
            one.queue.bytes -= one.size
            del one.queue.members[one]
            one.queue, one.size = None, 0

    def begins(self, one: BoundedProtocol, size: int) -> None:
        """Bytes came: they belong to a request that is not whole, until it is."""
        if one.queue is self.kept or one.queue is self.asking:
            self.asking.put(one, one.size + size)

    def drop(self, one: BoundedProtocol, why: str) -> None:
        """Closes a connection, for want of room or of patience."""
        if one.queue is self.unread and not one.unread:
            self.leave(one)  # it was read meanwhile, without a call that said so
            one.settle()
            return
        self.leave(one)
        if why != KEPT_TOO_LONG:  # that is the usual end of a connection
            self.say(why)
        one.give_up()

    def make_room(self, count: int) -> None:
        """Closes so many of the connections that wait longest: this process has no more files."""
        for _ in range(count):
            longest = self._longest()
            if longest is None:
                return
            self.drop(longest, "no_files")

    def _longest(self, address: str = "") -> BoundedProtocol | None:
        for queue in (self.asking, self.unread, self.kept):
            found = next((one for one in queue.members if not address or one.address == address), None)
            if found is not None:
                return found
        return None

    def say(self, why: str, **more: object) -> None:
        """Logs one line, if there was none of its kind lately."""
        count = self._seldom.count(why)
        if count:
            log.warning("clients_bounded", listener=self.name, why=why, times=count, open=len(self), **more)

    # -- being served --------------------------------------------------------------------------------------------------

    def enter(self, kind: str) -> bool:
        """Whether there is room for a request of a kind to be answered now; then `finish` must follow."""
        if self.served[kind] >= self._room(kind):
            self.say(f"{kind}_full")
            return False
        self.served[kind] += 1
        return True

    def finish(self, kind: str) -> None:
        """A request was answered."""
        self.served[kind] -= 1

    @contextmanager
    def counted(self, kind: str, client: str) -> Iterator[bool]:
        """Counts a request of a client that is known by now. Tells whether the client has at most half of the room of that kind."""
        one = kind, client
        self._of_one[one] += 1
        try:
            yield 2 * self._of_one[one] <= self._room(kind)
        finally:
            self._of_one[one] -= 1
            if not self._of_one[one]:
                del self._of_one[one]

    def _room(self, kind: str) -> int:
        return self.bounds.rooms.get(kind, self.bounds.rooms[REQUESTS])

    # -- time-outs -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Looks once a second for connections whose time is over, until `stop`."""
        self._next_sweep = self._loop.time() + SWEEP_SECONDS
        self._sweeping = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def stop(self) -> None:
        """Ends the looking."""
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _sweep(self) -> None:
        self._stood_still += max(0.0, self._loop.time() - self._next_sweep)
        self.start()
        for queue in (self.asking, self.kept, self.unread):
            while queue.members:
                one = next(iter(queue.members))
                if self.now() - one.since < queue.seconds:
                    break
                if queue is self.unread and 0 < one.unread < one.size:
                    queue.bytes += one.unread - one.size
                    one.size = one.unread
                    queue.again(one)
                    continue
                self.drop(one, f"{queue.name}_too_long")


def label(listener: socket.socket) -> str:
    """The address of a listener, for logs."""
    where = listener.getsockname()
    return where if isinstance(where, str) else f"{where[0]}:{where[1]}"
