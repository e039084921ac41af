"""One connection that listens: what the server has confirmed on it counts, as long as the server answers.

A device in between (address translation, a load balancer) may forget a quiet connection without telling either end. So the server
is asked for a sign of life regularly, and when there is a doubt. Only time in which this process turned over counts against it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import anyio
import redis

from coordinator import clock
from coordinator.store.pace import allowance

__all__ = ["SilentSubscriptionError", "Subscription"]

TURN_SECONDS = 0.25
"""Time for which it waits for a message; then it looks at the time."""
PING_SECONDS = 1.0
"""Pause between two requests for a sign of life."""
BATCH = 100
"""Most channels in one command."""


class SilentSubscriptionError(redis.ConnectionError):
    """The server, or a device in between, no longer answers on this connection."""


class Subscription:
    """One connection of `Notifications`; it ends by an error, and another one replaces it.

    Args:
        box: the connection, from `Connector.listener`.
        limit: seconds after which an answer is overdue.
        take: is called with the channel and the text of each message.
        confirmed: is called with each channel when its listening is confirmed.
        doubted: is called when a doubt begins and when it ends.
    """

    def __init__(
        self,
        box: Any,
        limit: float,
        *,
        take: Callable[[str, str], None],
        confirmed: Callable[[str], None],
        doubted: Callable[[], None],
    ) -> None:
        self._box, self._limit = box, limit
        self._take, self._tell_confirmed, self._tell_doubted = take, confirmed, doubted
        self._confirmed: set[str] = set()
        self._subscribing: dict[str, int] = {}
        self._pings = self._answered = 0
        self._wanted = 0
        self._quiet = 0.0
        self._pinged_at = float("-inf")

    @property
    def _sure(self) -> bool:
        return self._answered >= self._wanted

    def counts(self, channel: str) -> bool:
        """Whether the server has confirmed that this connection listens there, without a doubt since."""
        return self._sure and channel in self._confirmed

    @property
    def is_whole(self) -> bool:
        """Whether all subscriptions that were asked for are confirmed."""
        return not self._subscribing

    def doubt(self) -> None:
        """Something happened that may have changed the connection: nothing counts until the server answers.

        Safe to repeat.
        """
        if self._sure:
            self._wanted, self._pinged_at = self._pings + 1, float("-inf")
            self._tell_doubted()

    async def listen_to(self, channels: Collection[str]) -> None:
        """Listens to these channels and no others, each once the server has confirmed it. Not to be called twice at once.

        Raises:
            redis.RedisError, OSError: the connection is over.
        """
        asked, wanted = self._confirmed | self._subscribing.keys(), {*channels}
        for some in _batches([*asked - wanted]):
            self._confirmed.difference_update(some)
            for channel in some:
                self._subscribing.pop(channel, None)
            await self._send(self._box.unsubscribe, *some)
        for some in _batches([channel for channel in channels if channel not in asked]):
            self._subscribing.update((channel, len(channel)) for channel in some)
            await self._send(self._box.subscribe, *some)

    async def _send(self, command: Any, *arguments: str) -> None:
        with anyio.fail_after(max(1.0, 3 * self._limit)):  # else a line that takes nothing keeps us for ever
            await command(*arguments)

    async def run(self) -> None:
        """Listens until cancelled.

        Raises:
            SilentSubscriptionError: the connection is open, and there was no answer in time.
            redis.RedisError, OSError: the connection is over.
        """
        looked = clock.now()
        while True:
            message = await self._box.get_message(timeout=TURN_SECONDS)
            now = clock.now()
            passed, looked = now - looked, now
            if message is not None:
                self._quiet = 0.0
                self._arrived(message)
            if passed > TURN_SECONDS + self._limit:  # this process stood still, or its event loop did
                self.doubt()
            elif message is None and self._awaits:
                self._quiet += min(passed, 2 * TURN_SECONDS)
                if self._quiet > self._limit + allowance(sum(self._subscribing.values())):
                    raise SilentSubscriptionError(f"no answer within {self._quiet:.2g} s")
            if now - self._pinged_at >= PING_SECONDS:
                self._pinged_at = now
                self._pings += 1
                await self._send(self._box.ping, str(self._pings))

    @property
    def _awaits(self) -> bool:
        return self._answered < self._pings or bool(self._subscribing)

    def _arrived(self, message: dict[str, Any]) -> None:
        kind, data = message["type"], message["data"]
        if kind == "pong":
            before, self._answered = self._sure, int(data) if data.isdigit() else self._answered
            if self._sure and not before:
                self._tell_doubted()
            return
        channel = message["channel"].decode("utf-8", "replace")
        if kind == "message":
            self._take(channel, data.decode("utf-8", "replace"))
        elif kind == "subscribe" and self._subscribing.pop(channel, None) is not None:
            self._confirmed.add(channel)
            self._tell_confirmed(channel)


def _batches(channels: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(channels), BATCH):
        yield channels[first : first + BATCH]
