"""Servers that Sentinels took for primaries when they last looked, which may be ten seconds ago: each is asked itself.

A server at which no instance beats withholds nothing: an instance that is silent here is silent there too. It is so within
seconds, since all go to the primary that is named, and at once when a server comes back that was away.
"""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator import clock
from coordinator.store.address import Address
from coordinator.store.dial import dial, hang_up
from coordinator.store.shapes import score
from coordinator.store.url_source import UrlSource

__all__ = ["FormerPrimaries"]

ASK_SECONDS = 0.5
"""Between two questions to one server: less than the shortest time for which a beat counts."""
TIMEOUT_SECONDS = 0.25


class FormerPrimaries:
    """The former primaries that one process knows. A server that does not tell its role has the one that the Sentinels say.

    Args:
        source: the store's URL.
    """

    def __init__(self, source: UrlSource) -> None:
        self._source = source
        self._asked: dict[tuple[Address, str], tuple[float, asyncio.Task[bool]]] = {}

    async def heard_from(self, instances: str) -> tuple[Address, ...]:
        """Servers, beside the one that the Sentinels name, that take themselves for the primary and at which an instance beats.

        Args:
            instances: key of the partition's index of heartbeats.

        Safe to call side by side.
        """
        others, now = self._source.lookout.others, clock.now()
        self._asked = {key: asked for key, asked in self._asked.items() if key[0] in others}
        for one in others:
            if (one, instances) not in self._asked or now - self._asked[one, instances][0] > ASK_SECONDS:
                self._asked[one, instances] = now, asyncio.create_task(self._matters(one, instances))
        questions = [self._asked[one, instances][1] for one in others]
        matter = await asyncio.gather(*map(asyncio.shield, questions))
        return tuple(one for one, matters in zip(others, matter, strict=True) if matters)

    async def _matters(self, address: Address, instances: str) -> bool:
        """Whether it is a primary at which an instance's deadline has not passed; True when it does not answer."""
        try:
            connection = await dial(self._source.now(), address, TIMEOUT_SECONDS)
            try:
                told: list[Any] = []
                # HELLO tells the role to a user without the right to INFO, too
                for command in (("HELLO", "2"), ("TIME",), ("ZRANGE", instances, "-1", "-1", "WITHSCORES")):
                    await connection.send_command(*command)
                    told.append(await connection.read_response())
            finally:
                await hang_up(connection)
            hello, (seconds, micros), latest = told
            if hello[hello.index(b"role") + 1] != b"master":
                return False
            now_ms = int(seconds) * 1000 + int(micros) // 1000
            return bool(latest) and not 0 < score(latest[1]) <= now_ms  # an invalid time hides those before it
        except Exception:  # noqa: BLE001 - after any error the server has not told
            return True

    async def aclose(self) -> None:
        """Ends all questions. Safe to repeat."""
        for _, question in self._asked.values():
            question.cancel()
        self._asked = {}
