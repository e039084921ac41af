"""The line of a worker that beats for itself: a request that it keeps open, which the kernel ends with the worker's process."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from coordinator.sidecar.server import closed_by_peer, when_closed

__all__ = ["HeldLine"]


class HeldLine:
    """A request that a process keeps open for as long as it lives.

    Only an end by the other side says that the process has ended. One that this side makes, as for want of room or at its own end,
    says nothing.

    Args:
        scope: of the request, which came over a unix socket.

    Attributes:
        pid: the process that connected; 0 where its number cannot be seen.
    """

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.pid: int = scope["client"][1]
        self._scope = scope
        self._over = anyio.Event()
        when_closed(scope, self._over.set)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, by either side."""
        return self._over.is_set()

    @property
    def has_ended(self) -> bool:
        """Whether the other side has ended it."""
        return self._over.is_set() and closed_by_peer(self._scope)

    async def ended(self) -> None:
        """Returns when it is over, whichever side ended it."""
        await self._over.wait()

    def close(self) -> None:
        """Nothing is to be closed: the connection is the listener's."""

    async def answer(self, send: Callable[[Mapping[str, Any]], Awaitable[None]], by: str) -> None:
        """Writes one document, and returns when the line is over.

        Args:
            by: what tells of the end: ``process`` or ``line``.
        """
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        said = json.dumps({"event": "watched", "by": by}, separators=(",", ":")) + "\n"
        await send({"type": "http.response.body", "body": said.encode(), "more_body": True})
        await self._over.wait()
