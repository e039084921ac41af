"""From a Redis URL to the connections that a process needs, each for one purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio as aredis
from redis.backoff import NoBackoff

from coordinator.errors import StoreUnavailableError
from coordinator.store.address import UrlSource
from coordinator.store.executor import Executor, SyncExecutor
from coordinator.store.faults import store_error
from coordinator.store.link import Link, ThreadLink
from coordinator.store.scripts import Argument

__all__ = ["Blocking", "Connector"]

MAX_BLOCK_SECONDS = 2.0


class Blocking:
    """A connection for reads that block: finite, and shorter than the time-out of its socket."""

    def __init__(self, link: Link, timeout: float) -> None:
        self._link, self._timeout = link, timeout

    async def command(self, *args: Argument) -> Any:
        """Runs a command that may block for at most `MAX_BLOCK_SECONDS`.

        A cancelled read closes the connection: what it was about to deliver stays pending for its consumer.

        Raises:
            StoreUnavailableError: the store did not answer, or refused.
        """
        answer = (await self._link.exchange([args], MAX_BLOCK_SECONDS + self._timeout))[0]
        if isinstance(answer, Exception):
            raise store_error(answer)
        return answer

    async def aclose(self) -> None:
        """Closes the connection."""
        await self._link.aclose()


class Connector:
    """Makes the connections of one process to one Redis deployment.

    Args:
        url: see `coordinator.store.address.parse_url`; or what returns it, asked again for each connection.
        store_timeout: seconds that one exchange may take.
        observe: told of each request of an executor: its operation and its seconds on the wire.

    Raises:
        ConfigurationError: the URL is of no known form.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        store_timeout: float = 0.5,
        observe: Callable[[str, float], None] | None = None,
    ) -> None:
        self._source = UrlSource(url)
        self._timeout, self._observe = store_timeout, observe
        self._open: list[Any] = []

    def describe(self) -> str:
        """The URL without its password."""
        return self._source.now().shown

    def executor(self, key: str) -> Executor:
        """Scripts and commands of the partition that ``key`` is in."""
        executor = Executor(Link(self._source, key, self._timeout), self._observe)
        self._open.append(executor)
        return executor

    def blocking(self, key: str) -> Blocking:
        """Reads that block, of the partition that ``key`` is in."""
        blocking = Blocking(Link(self._source, key, self._timeout), self._timeout)
        self._open.append(blocking)
        return blocking

    def heart(self, key: str, on_wait: Callable[[], None] = lambda: None) -> SyncExecutor:
        """A connection for the thread that beats in the partition that ``key`` is in; that thread closes it."""
        return SyncExecutor(ThreadLink(self._source, key, self._timeout, on_wait))

    async def listener(self, key: str) -> aredis.Redis:
        """A client for pub/sub, connected to the server that holds ``key``.

        Raises:
            StoreUnavailableError: no sentinel or node could tell which server that is.
        """
        try:
            address = await Link(self._source, key, self._timeout).find()
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailableError("connection", str(store_error(error))) from error
        where: dict[str, Any] = (
            {"unix_socket_path": address.path} if address.path else {"host": address.host, "port": address.port}
        )
        url = self._source.now()
        options = url.connection_options()
        if url.tls:
            options |= {"ssl": True}
        client = aredis.Redis(
            **where,
            **options,
            protocol=2,
            retry=aredis.retry.Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self._timeout,
            client_name="recovery-coordinator",
        )
        self._open.append(client)
        return client

    async def close_listener(self, client: aredis.Redis) -> None:
        """Closes what `listener` made."""
        if client in self._open:
            self._open.remove(client)
        await client.aclose()

    async def aclose(self) -> None:
        """Closes every connection that was made here."""
        while self._open:
            await self._open.pop().aclose()
