"""One of redis-py's connections, to a server or to a Sentinel, for an event loop or for a thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio as aredis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordinator.forked import in_a_child, let_go_of
from coordinator.store.address import Address
from coordinator.store.url import StoreUrl

__all__ = ["connection_options", "dial", "dial_in_a_thread", "hang_up", "leave_to_parent"]

CLIENT_NAME = "recovery-coordinator"


def connection_options(
    url: StoreUrl, address: Address, timeout: float, retry: Any, *, sentinel: bool = False
) -> dict[str, Any]:
    """The options of one of redis-py's connections, to a server or to a Sentinel."""
    where = {"path": address.path} if address.path else {"host": address.host, "port": address.port}
    tcp = {} if address.path else {"socket_connect_timeout": timeout, "socket_keepalive": True}
    return {
        **where,
        **tcp,
        **url.connection_options(sentinel=sentinel),
        "socket_timeout": timeout,
        "protocol": 2,
        "decode_responses": False,
        "retry": retry,
        "client_name": None if sentinel else CLIENT_NAME,
        "health_check_interval": 0,
        "driver_info": None,
    }


async def dial(url: StoreUrl, address: Address, timeout: float, *, sentinel: bool = False) -> Any:
    """A connection that is up and logged in; a forked child leaves it to its parent.

    Raises:
        redis.RedisError, OSError, or another error of redis-py's connections: it could not be made.
    """
    kind: Any = aredis.Connection
    if address.path:
        kind = aredis.UnixDomainSocketConnection
    elif url.tls:
        kind = aredis.SSLConnection
    retry = aredis.retry.Retry(NoBackoff(), 0)
    connection = kind(**connection_options(url, address, timeout, retry, sentinel=sentinel))
    in_a_child(connection, leave_to_parent)
    try:
        await connection.connect()
    except BaseException:  # nothing stays open when that fails, or is cancelled half way
        await hang_up(connection)
        raise
    return connection


def dial_in_a_thread(
    url: StoreUrl,
    address: Address,
    timeout: float,
    greet: Callable[[Any], None] | None = None,
    *,
    sentinel: bool = False,
) -> Any:
    """As `dial`, for a thread.

    Args:
        greet: logs in, in place of redis-py.
    """
    kind: Any = redis.Connection
    if address.path:
        kind = redis.UnixDomainSocketConnection
    elif url.tls:
        kind = redis.SSLConnection
    options = connection_options(url, address, timeout, Retry(NoBackoff(), 0), sentinel=sentinel)
    connection = kind(**options, redis_connect_func=greet)
    in_a_child(connection, _leave_socket_to_parent)
    connection.connect()
    return connection


async def hang_up(connection: Any) -> None:
    """Closes a connection; raises nothing, and is safe to repeat."""
    with contextlib.suppress(Exception):  # a closed connection cannot fail any more
        await connection.disconnect(nowait=True)


def leave_to_parent(connection: Any) -> None:
    """Leaves an asyncio connection of redis-py's to the parent, in a forked child."""
    if connection._writer is not None:
        let_go_of(connection._writer.transport.get_extra_info("socket"))


def _leave_socket_to_parent(connection: Any) -> None:
    let_go_of(connection._sock)
