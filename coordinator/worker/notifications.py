"""The connection on which all instances of a process receive messages, in one partition; it is their presence too."""

from __future__ import annotations

import contextlib
import random
from typing import Any, Protocol

import anyio
import anyio.abc
import redis
import structlog

from coordinator.errors import StoreUnavailableError
from coordinator.policy import backoff
from coordinator.store.connect import Connector
from coordinator.store.faults import connection_error
from coordinator.store.link import CONNECT_TIMEOUTS
from coordinator.worker.bell import Bell
from coordinator.worker.subscription import SilentSubscriptionError, Subscription

__all__ = ["Notifications"]

log = structlog.get_logger()


class _MissingError(redis.ConnectionError):
    """The server that gets the beats does not know the connection."""


class Subscriber(Protocol):
    """Receives what comes on a channel."""

    def listening(self, yes: bool) -> None:
        """The listening on the channel began or ended."""

    def take(self, text: str) -> None:
        """A message."""


class Notifications:
    """Listens to the channels of mailboxes; the beat or a repeated request makes up for a lost message.

    Args:
        key: any key of the partition.
    """

    def __init__(self, connector: Connector, key: str) -> None:
        self._connector, self._key = connector, key
        self._listeners: dict[str, Subscriber] = {}
        self._line: Subscription | None = None
        self._listening: anyio.CancelScope | None = None
        self._before: Any = None
        self._failures = 0
        self._told = False
        self._some = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._changed = Bell()
        self._changing = anyio.CancelScope()

    def add(self, channel: str, listener: Subscriber) -> None:
        """Listens to another channel too."""
        self._listeners[channel] = listener
        self._some.set()
        self._changed.ring()

    def remove(self, channel: str) -> None:
        """Ends the listening to a channel."""
        listener = self._listeners.pop(channel, None)
        if listener is not None:
            listener.listening(False)
        if self._listening is not None and not self._listeners:
            self._listening.cancel()
        else:
            self._changed.ring()

    async def _change_for_ever(self) -> None:
        """Keeps the present connection listening to the present channels."""
        while True:
            await self._changed.rung()
            if self._line is None:
                continue
            with anyio.CancelScope() as self._changing:
                with contextlib.suppress(
                    redis.RedisError, OSError
                ):  # the listening task finds that out too, and begins again
                    await self._line.listen_to(list(self._listeners))

    def doubt(self) -> None:
        """Something happened: no instance counts as present by this connection until the server answers on it."""
        if self._line is not None:
            self._line.doubt()

    def missing(self, channel: str) -> None:
        """The server that gets the beats knows no listener there: if we believe that we listen, the connection is made anew."""
        if self._line is not None and self._listening is not None and self._line.counts(channel):
            self._listening.cancel()

    async def run(self) -> None:
        """Listens until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._change_for_ever)
            try:
                while True:
                    try:
                        await self._listen()
                    except (redis.RedisError, OSError, StoreUnavailableError) as error:
                        self._say_once(error)
                        await anyio.sleep(backoff(self._failures, random.random()))  # noqa: S311 - jitter
                        self._failures += 1
            finally:
                await self._close(self._before)

    def _say_once(self, error: Exception) -> None:
        """Logs a missing right once: it seldom comes back by itself, and everything else does."""
        if connection_error(error).kind == "permission" and not self._told:
            self._told = True
            log.warning(
                "mailbox_refused",
                reason=str(error),
                consequence="heartbeats find later what a message would tell at once",
            )

    async def _listen(self) -> None:
        while not self._listeners:
            await self._some.wait()
            self._some = anyio.Event()
        client: Any = await self._connector.listener(self._key)
        try:
            box = client.pubsub()
            with anyio.fail_after(CONNECT_TIMEOUTS * self._connector.timeout):
                await box.connect()
            await self._listen_on(box)
        except SilentSubscriptionError:
            # The server may hear us all the same, and know us by this connection until it knows us by the next.
            before, self._before, client = self._before, client, None
            await self._close(before)
            raise
        finally:
            await self._close(client)

    async def _listen_on(self, box: Any) -> None:
        assert self._tasks is not None  # noqa: S101 - it runs
        limit = self._connector.timeout
        line = Subscription(box, limit, take=self._take, confirmed=self._confirmed, doubted=self._look)
        self._line = line
        self._changed.ring()
        try:
            with anyio.CancelScope() as self._listening:
                await line.run()
        finally:
            self._line = self._listening = None
            self._changing.cancel()
            self._look()
        if self._listeners:
            raise _MissingError("the server knows nothing of this connection")

    def _look(self) -> None:
        """The channels that count may have changed."""
        for channel, listener in list(self._listeners.items()):
            listener.listening(self._line is not None and self._line.counts(channel))

    def _confirmed(self, channel: str) -> None:
        self._failures = 0
        if self._line is None or self._tasks is None:
            return
        if self._line.counts(channel) and (listener := self._listeners.get(channel)) is not None:
            listener.listening(True)
        if self._before is not None and self._line.is_whole:
            self._tasks.start_soon(self._close, self._before)
            self._before = None

    def _take(self, channel: str, text: str) -> None:
        if (listener := self._listeners.get(channel)) is not None:
            listener.take(text)

    async def _close(self, client: Any) -> None:
        if client is None:
            return
        with anyio.CancelScope(shield=True), contextlib.suppress(redis.RedisError, OSError):
            await self._connector.close_listener(client)
