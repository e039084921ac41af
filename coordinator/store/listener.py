"""A client for pub/sub that raises only what redis-py documents: any other error of a connection becomes a connection error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import redis
import redis.asyncio as aredis
from redis.asyncio.client import PubSub

from coordinator.forked import in_a_child
from coordinator.masking import mask_error
from coordinator.store.dial import leave_to_parent

__all__ = ["Listener"]


@contextlib.contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        mask_error(error)
        raise
    except Exception as error:
        mask_error(error)
        raise redis.ConnectionError(f"{type(error).__name__}: {error}") from error


class _PubSub(PubSub):
    """A pub/sub connection that is never replaced by another; everything that it sends and reads goes through these methods."""

    async def connect(self) -> None:
        self._check()
        with _connection_errors():
            await super().connect()

    async def execute_command(self, *args: Any) -> None:
        self._check()
        with _connection_errors():
            await super().execute_command(*args)

    async def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        self._check()
        with _connection_errors():
            return await super().parse_response(block, timeout)

    async def _reconnect(self, conn: Any, *_: Any, **__: Any) -> None:
        """Keeps redis-py from connecting again by itself after an error: an answer could be of either connection."""
        await conn.disconnect(nowait=True)

    def _check(self) -> None:
        if self.connection is not None and not self.connection.is_connected:
            raise redis.ConnectionError("the connection was closed")

    async def aclose(self) -> None:
        with _connection_errors():
            await super().aclose()


class Listener(aredis.Redis):
    """A client of which only ``pubsub`` is used."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        in_a_child(self, Listener._forked)

    def _forked(self) -> None:
        pool = self.connection_pool
        for connection in (*pool._in_use_connections, *pool._available_connections):
            leave_to_parent(connection)

    def pubsub(self, **kwargs: Any) -> PubSub:
        """As redis-py's; raises only `redis.RedisError` and `OSError`."""
        return _PubSub(self.connection_pool, **kwargs)
