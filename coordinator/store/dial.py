"""One of redis-py's asyncio connections, to a server or to a Sentinel."""

from __future__ import annotations

import contextlib
from typing import Any

import redis.asyncio as aredis
from redis.backoff import NoBackoff

from coordinator.forked import in_a_child, let_go_of
from coordinator.store.address import Address
from coordinator.store.url import StoreUrl

__all__ = ["connection_options", "dial", "hang_up", "leave_to_parent"]

CLIENT_NAME = "recovery-coordinator"


def connection_options(
    url: StoreUrl, address: Address, timeout: float, retry: Any, *, sentinel: bool = False
) -> dict[str, Any]:
    """What one of redis-py's connections is made with: one to a server, or to a Sentinel."""
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
    """A connection that is up, and logged in; a child that forks leaves it to its parent.

    Raises:
        redis.RedisError, OSError, or whatever else redis-py's connections raise: there is none.
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


async def hang_up(connection: Any, *, at_once: bool = False) -> None:
    """Closes it; at once, where nobody waits for what TLS has to say at the end."""
    if at_once and connection._writer is not None:
        connection._writer.transport.abort()
    with contextlib.suppress(Exception):  # what is closed cannot fail any more
        await connection.disconnect(nowait=True)


def leave_to_parent(connection: Any) -> None:
    """In a forked child: an asyncio connection of redis-py's stays the parent's."""
    if connection._writer is not None:
        let_go_of(connection._writer.transport.get_extra_info("socket"))
