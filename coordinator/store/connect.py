"""From a Redis URL to the connections that a process needs, each for one purpose."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import redis.asyncio as aredis
from redis.backoff import NoBackoff

from coordinator.store.durability import NOT_ASKED_FOR, Durability
from coordinator.store.executor import Executor, SyncExecutor
from coordinator.store.faults import store_error
from coordinator.store.former import FormerPrimaries
from coordinator.store.link import Link
from coordinator.store.listener import Listener
from coordinator.store.scripts import Argument
from coordinator.store.thread_link import ThreadLink
from coordinator.store.url import StoreUrl
from coordinator.store.url_source import UrlSource, say_in_the_log

__all__ = ["Blocking", "Connector"]

MAX_BLOCK_SECONDS = 2.0


class Blocking:
    """A connection for reads that block for a limited time; one read at a time."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def command(self, *args: Argument) -> Any:
        """Runs a command that may block for at most `MAX_BLOCK_SECONDS`.

        A cancelled read closes the connection: what it was about to deliver stays pending for its consumer.

        Raises:
            StoreUnavailableError: the store did not answer, or refused.
        """
        answer = (await self._link.exchange([args], MAX_BLOCK_SECONDS))[0]
        if isinstance(answer, Exception):
            raise store_error(answer)
        return answer

    async def aclose(self) -> None:
        """Closes the connection."""
        self._link.close()


class Connector:
    """Makes the connections of one process to one Redis deployment.

    Args:
        url: see `coordinator.store.url.parse_url`; or a function that returns it, called for each connection.
        store_timeout: seconds for which nothing may move while an answer is awaited.
        observe: called with each request of an executor: its operation and its seconds on the wire.
        durability: which replicas are waited for after a change of hands.
        warn: called with a URL that leaves certificates unverified.

    Attributes:
        timeout: as given.

    Raises:
        ConfigurationError: the URL's form is unknown, or it names files that cannot be used.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        store_timeout: float = 0.5,
        observe: Callable[[str, float], None] | None = None,
        durability: Durability = NOT_ASKED_FOR,
        warn: Callable[[StoreUrl], None] = say_in_the_log,
    ) -> None:
        self._source = UrlSource(url, warn)
        self.timeout, self._observe, self._durability = store_timeout, observe, durability
        self._open: list[Any] = []
        self._former = FormerPrimaries(self._source)

    def describe(self) -> str:
        """The URL without user, password and options."""
        return self._source.now().shown

    def unverified(self) -> str:
        """What is wrong with the check of servers' certificates, '' when nothing is."""
        return self._source.now().unverified

    async def other_primaries(self, instances: str) -> tuple[str, ...]:
        """Servers, beside the one that the Sentinels name, that take themselves for the primary and at which an instance beats.

        Args:
            instances: key of the partition's index of heartbeats.
        """
        return tuple(map(str, await self._former.heard_from(instances)))

    def executor(self, key: str) -> Executor:
        """An executor of scripts and commands for the partition that ``key`` is in."""
        link = Link(self._source, key, self.timeout)
        executor = Executor(link, self._observe, self._durability, self.timeout)
        self._open.append(executor)
        return executor

    def blocking(self, key: str) -> Blocking:
        """A connection for reads that block, to the partition that ``key`` is in."""
        blocking = Blocking(Link(self._source, key, self.timeout))
        self._open.append(blocking)
        return blocking

    def heart(self, key: str, on_wait: Callable[[], None] = lambda: None, longest: float | None = None) -> SyncExecutor:
        """A connection for the thread that beats in the partition that ``key`` is in; that thread closes it.

        Args:
            on_wait: called in that thread, at least every slice while it waits.
            longest: seconds that one exchange may take in all; see `ThreadLink`.
        """
        link = ThreadLink(self._source, key, self.timeout, on_wait, longest)
        return SyncExecutor(link, self._durability, self.timeout)

    async def listener(self, key: str) -> aredis.Redis:
        """A client for pub/sub, for the server that holds ``key``; it raises only `redis.RedisError` and `OSError`.

        Raises:
            StoreUnavailableError: no Sentinel or node could tell which server that is.
        """
        address = await Link(self._source, key, self.timeout).find()
        tcp = {"host": address.host, "port": address.port, "socket_keepalive": True}
        where: dict[str, Any] = {"unix_socket_path": address.path} if address.path else tcp
        url = self._source.now()
        options = url.connection_options()
        if url.tls:
            options |= {"ssl": True}
        client = Listener(
            **where,
            **options,
            protocol=2,
            retry=aredis.retry.Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self.timeout,
            client_name="recovery-coordinator",
            driver_info=None,
        )
        self._open.append(client)
        return client

    async def close_listener(self, client: aredis.Redis) -> None:
        """Closes what `listener` made."""
        if client in self._open:
            self._open.remove(client)
        with contextlib.suppress(Exception):  # a closed connection cannot fail any more
            await client.aclose()

    async def aclose(self) -> None:
        """Closes every connection that was made here. Safe to repeat."""
        while self._open:
            await self._open.pop().aclose()
        await self._former.aclose()
        self._source.lookout.close()
