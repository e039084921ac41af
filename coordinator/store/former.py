"""Servers that Sentinels took for primaries when they last looked, which may be ten seconds ago: each is asked itself."""

from __future__ import annotations

import asyncio

from coordinator import clock
from coordinator.store.address import Address
from coordinator.store.dial import dial, hang_up
from coordinator.store.url_source import UrlSource

__all__ = ["FormerPrimaries"]

ASK_SECONDS = 1.0
"""Between two questions to one server."""
TIMEOUT_SECONDS = 0.25


class FormerPrimaries:
    """Of one process. A server that does not say what it is stays what the Sentinels say.

    Args:
        source: the store's URL.
    """

    def __init__(self, source: UrlSource) -> None:
        self._source = source
        self._asked: dict[Address, tuple[float, asyncio.Task[bool]]] = {}

    async def still(self) -> tuple[Address, ...]:
        """Those that take themselves for the primary beside the one that the Sentinels name. Safe to call side by side."""
        others, now = self._source.lookout.others, clock.now()
        self._asked = {one: asked for one, asked in self._asked.items() if one in others}
        for one in others:
            if one not in self._asked or now - self._asked[one][0] > ASK_SECONDS:
                self._asked[one] = now, asyncio.create_task(self._is_replica(one))
        questions = [self._asked[one][1] for one in others]
        replica = await asyncio.gather(*map(asyncio.shield, questions))
        return tuple(one for one, is_one in zip(others, replica, strict=True) if not is_one)

    async def _is_replica(self, address: Address) -> bool:
        """Whether it says so itself."""
        try:
            connection = await dial(self._source.now(), address, TIMEOUT_SECONDS)
            try:
                await connection.send_command("INFO", "replication")
                told = await connection.read_response()
            finally:
                await hang_up(connection)
        except Exception:  # noqa: BLE001 - whatever it is, nothing was said
            return False
        return isinstance(told, bytes) and b"role:slave" in told.split()

    async def aclose(self) -> None:
        """Asks no more. Safe to repeat."""
        for _, question in self._asked.values():
            question.cancel()
        self._asked = {}
