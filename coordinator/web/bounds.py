"""How much clients may take of one listener, in connections, bytes and seconds."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = ["HEALTH", "REQUESTS", "Bounds", "allow_many_files"]

HEALTH, REQUESTS = "health", "requests"
"""Kinds of requests that every listener has."""
MIB = 1024 * 1024
OWN_FILES = 128
"""Open files that do not belong to clients: connections to the store, logs, watched processes."""
LEAST = 8
"""Room of each kind at least, however few files there are."""
OPEN_FILES = 65536


@dataclass(frozen=True)
class Bounds:
    """What a listener grants. Each kind has room of its own, so that none takes another's.

    Attributes:
        asking: connections that have not sent a whole request, new ones included; the longest goes first.
        kept: connections between two requests; the longest goes first.
        unread: connections whose answer waits for its client to read it; the longest goes first.
        rooms: whole requests that are being answered at once, by kind; above it the answer is 503 with Retry-After.
        held_bytes: of requests that are not whole; as much of answers that are not read.
        ahead_bytes: that a client may send before the answer to its last request.
        request_seconds: for a request to come as a whole, and for a new connection to begin one.
        idle_seconds: between two requests.
        unread_seconds: without any byte of an answer being read.
    """

    asking: int = 1024
    kept: int = 1024
    unread: int = 256
    rooms: Mapping[str, int] = field(default_factory=lambda: {REQUESTS: 256, HEALTH: 64})
    held_bytes: int = 16 * MIB
    ahead_bytes: int = 64 * 1024
    request_seconds: float = 10.0
    idle_seconds: float = 75.0
    unread_seconds: float = 30.0

    @property
    def connections(self) -> int:
        """The most connections that can be open."""
        return self.asking + self.kept + self.unread + sum(self.rooms.values())

    @property
    def of_one_address(self) -> int:
        """The most connections that one address of another machine may have open."""
        return max(LEAST, self.connections // 4)

    def fitting(self, listeners: int) -> Bounds:
        """The same bounds, smaller in proportion where this process may not have so many files open.

        Args:
            listeners: the number of listeners that share the files.
        """
        files = max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_FILES) // max(1, listeners)
        if files >= self.connections:
            return self

        def less(count: int) -> int:
            return max(min(LEAST, count), count * files // self.connections)

        rooms = {kind: less(count) for kind, count in self.rooms.items()}
        return replace(self, asking=less(self.asking), kept=less(self.kept), unread=less(self.unread), rooms=rooms)


def allow_many_files() -> None:
    """Raises this process's limit of open files as far as it may, since each client is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
