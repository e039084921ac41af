"""One connection to the server of one partition, for the event loop and for a thread.

A link learns the run id of its server when it connects, and puts it in the place of `SERVER` as it sends. Retries are
off: redis-py's own repeat commands that were applied (issue 3554); what is safe to repeat is repeated further up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis
import redis.asyncio as aredis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordinator.errors import StoreUnavailableError
from coordinator.store.address import Address, StoreUrl, UrlSource, slot_owner
from coordinator.store.faults import moves_the_server, store_error
from coordinator.store.scripts import SERVER, Argument

__all__ = ["Link", "ThreadLink", "run_id_of"]

CLIENT_NAME = "recovery-coordinator"
WAIT_SLICE_SECONDS = 0.05
CONNECT_TIMEOUTS = 3
"""Times the limit of one exchange that connecting may take: it needs that many round trips."""


def run_id_of(info: Any) -> bytes:
    """The run id in the answer of INFO server; empty when the server would not say."""
    for line in info.split(b"\r\n") if isinstance(info, bytes) else ():
        if line.startswith(b"run_id:"):
            return bytes(line[7:])
    return b""


def pack(commands: Sequence[Sequence[Argument]], server: bytes) -> bytes:
    """Commands as bytes for the wire, with the server's run id filled in."""
    packed: Any = hiredis.pack_command
    return b"".join(packed(tuple(server if a is SERVER else a for a in c)) for c in commands)


def _options(url: StoreUrl, address: Address, timeout: float, retry: Any) -> dict[str, Any]:
    where = {"path": address.path} if address.path else {"host": address.host, "port": address.port}
    tcp = {} if address.path else {"socket_connect_timeout": timeout, "socket_keepalive": True}
    return {
        **where,
        **tcp,
        **url.connection_options(),
        "socket_timeout": timeout,
        "protocol": 2,
        "decode_responses": False,
        "retry": retry,
        "client_name": CLIENT_NAME,
        "health_check_interval": 0,
        "driver_info": None,
    }


class Link:
    """An asyncio connection that is made when first used, and anew after an error.

    Args:
        source: the store's URL.
        key: any key of the partition; in a cluster it decides the server.
        timeout: seconds for connecting and for one exchange.
    """

    def __init__(self, source: UrlSource, key: str, timeout: float) -> None:
        self._source, self._key, self._timeout = source, key, timeout
        self._url = source.now()
        self._connection: Any = None
        self.server = b""
        self.address: Address | None = None

    async def exchange(self, commands: Sequence[Sequence[Argument]], timeout: float | None = None) -> list[Any]:
        """Sends commands at once and reads their answers; an answer that is an error stands in the list as an exception.

        Raises:
            StoreUnavailableError: the connection could not be made or broke; what was sent may have been applied.
        """
        try:
            connection = self._connection
            if connection is None:  # several round trips, so a time limit of their own
                async with asyncio.timeout(CONNECT_TIMEOUTS * self._timeout):
                    connection = await self._connect()
            async with asyncio.timeout(timeout or self._timeout):
                await connection.send_packed_command(pack(commands, self.server), check_health=False)
                answers = [await self._read(connection) for _ in commands]
        except TimeoutError as error:
            await self.aclose()
            raise StoreUnavailableError("timeout", f"no answer within {timeout or self._timeout:g} s") from error
        except (redis.RedisError, OSError) as error:
            await self.aclose()
            raise store_error(error) from error
        except BaseException:  # cancelled in the middle: the next answer would be somebody else's
            await self.aclose()
            raise
        for answer in answers:
            if isinstance(answer, Exception):
                fault = store_error(answer)
                if isinstance(fault, StoreUnavailableError) and moves_the_server(fault):
                    await self.aclose()
                    break
        return answers

    @staticmethod
    async def _read(connection: Any) -> Any:
        try:
            return await connection.read_response(disconnect_on_error=False)
        except redis.ResponseError as error:
            return error

    async def _open(self, address: Address, timeout: float | None = None) -> Any:
        kind: Any = aredis.Connection
        if address.path:
            kind = aredis.UnixDomainSocketConnection
        elif self._url.tls:
            kind = aredis.SSLConnection
        limit = 60.0 if timeout is None else timeout
        connection = kind(**_options(self._url, address, limit, aredis.retry.Retry(NoBackoff(), 0)))
        await connection.connect()
        return connection

    async def _connect(self) -> Any:
        self.address = await self.find()
        connection = await self._open(self.address)
        try:
            await connection.send_command("INFO", "server", check_health=False)
            self.server = run_id_of(await self._read(connection))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._connection = connection
        return connection

    async def find(self) -> Address:
        """The server's address now.

        Raises:
            StoreUnavailableError: no sentinel or node could tell.
        """
        self._url = self._source.now()
        if self._url.kind == "standalone":
            return self._url.addresses[0]
        asked: list[str] = []
        for address in self._url.addresses:
            try:
                found = await self._ask(address)
            except (redis.RedisError, OSError) as error:
                asked.append(f"{address}: {store_error(error)}")
                continue
            if found:
                return found
            asked.append(f"{address} does not know")
        raise StoreUnavailableError("cluster_down", "; ".join(asked))

    async def _ask(self, address: Address) -> Address | None:
        if self._url.kind == "sentinel":
            plain = aredis.Connection(
                host=address.host, port=address.port, socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout, protocol=2, retry=aredis.retry.Retry(NoBackoff(), 0), driver_info=None,
            )  # fmt: skip
            await plain.connect()
            command: tuple[Any, ...] = ("SENTINEL", "get-master-addr-by-name", self._url.service)
        else:
            plain = await self._open(address, self._timeout)
            command = ("CLUSTER", "SLOTS")
        try:
            await plain.send_command(*command, check_health=False)
            answer = await plain.read_response()
        finally:
            await plain.disconnect(nowait=True)
        if self._url.kind == "sentinel":
            return Address(answer[0].decode(), int(answer[1])) if answer else None
        return slot_owner(answer, self._key, address)

    async def aclose(self) -> None:
        """Closes the connection; the next exchange makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                await connection.disconnect(nowait=True)


class ThreadLink:
    """The same for a thread: blocking, but never longer than a slice without calling ``on_wait``."""

    def __init__(self, source: UrlSource, key: str, timeout: float, on_wait: Callable[[], None] = lambda: None) -> None:
        self._source, self._key, self._timeout = source, key, timeout
        self._url = source.now()
        self._connection: Any = None
        self.on_wait = on_wait
        self.server = b""

    def exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Sends commands and reads their answers within the time limit; connecting, where needed, has its own.

        Raises:
            StoreUnavailableError: the connection could not be made or broke.
        """
        try:
            connection = self._connection or self._connect()
            deadline = time.monotonic() + self._timeout
            connection.send_packed_command([pack(commands, self.server)], check_health=False)
            return [self._read(connection, deadline) for _ in commands]
        except StoreUnavailableError:
            self.close()
            raise
        except (redis.RedisError, OSError) as error:
            self.close()
            raise store_error(error) from error

    def _read(self, connection: Any, deadline: float) -> Any:
        self.on_wait()
        while not connection.can_read(timeout=WAIT_SLICE_SECONDS):
            self.on_wait()
            if time.monotonic() > deadline:
                raise StoreUnavailableError("timeout", f"no answer within {self._timeout:g} s")
        try:
            return connection.read_response(disconnect_on_error=False)
        except redis.ResponseError as error:
            fault = store_error(error)
            if isinstance(fault, StoreUnavailableError) and moves_the_server(fault):
                self.close()
            return error

    def _open(self, address: Address) -> Any:
        kind: Any = redis.Connection
        if address.path:
            kind = redis.UnixDomainSocketConnection
        elif self._url.tls:
            kind = redis.SSLConnection
        connection = kind(**_options(self._url, address, self._timeout, Retry(NoBackoff(), 0)))
        connection.connect()
        return connection

    def _connect(self) -> Any:
        connection = self._open(self._find())
        connection.send_command("INFO", "server", check_health=False)
        try:
            info = connection.read_response(disconnect_on_error=False)
        except redis.ResponseError:
            info = None
        self.server = run_id_of(info)
        self._connection = connection
        return connection

    def _find(self) -> Address:
        self._url = self._source.now()
        if self._url.kind == "standalone":
            return self._url.addresses[0]
        asked: list[str] = []
        for address in self._url.addresses:
            self.on_wait()
            try:
                found = self._ask(address)
            except (redis.RedisError, OSError) as error:
                asked.append(f"{address}: {store_error(error)}")
                continue
            if found:
                return found
        raise StoreUnavailableError("cluster_down", "; ".join(asked))

    def _ask(self, address: Address) -> Address | None:
        if self._url.kind == "sentinel":
            plain: Any = redis.Connection(
                host=address.host, port=address.port, socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout, protocol=2, retry=Retry(NoBackoff(), 0), driver_info=None,
            )  # fmt: skip
            plain.connect()
            command: tuple[Any, ...] = ("SENTINEL", "get-master-addr-by-name", self._url.service)
        else:
            plain = self._open(address)
            command = ("CLUSTER", "SLOTS")
        try:
            plain.send_command(*command, check_health=False)
            answer = plain.read_response()
        finally:
            plain.disconnect()
        if self._url.kind == "sentinel":
            return Address(answer[0].decode(), int(answer[1])) if answer else None
        return slot_owner(answer, self._key, address)

    def close(self) -> None:
        """Closes the connection; the next exchange makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                connection.disconnect()
