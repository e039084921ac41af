"""Fixtures for every test: one real redis-server a test process, empty for each test, and a look for leaked keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from coordinator.store.keys import PERMANENT, PERMANENT_WHILE, kind_of
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """redis-py's asynchronous client runs on asyncio only."""
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests of this process; a test that stops or ends servers makes its own."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client on the empty server; afterwards every key must have an expiry or be allowed to stay."""
    client = redis_server.client()
    client.flushall()
    yield client
    assert not leaked_keys(client)
    client.close()


@pytest.fixture
def url(redis_server: RedisServer, redis_client: redis.Redis) -> str:
    """URL of the empty server."""
    return redis_server.url


def leaked_keys(client: Any) -> list[str]:
    """Keys without an expiry that nothing allows to stay."""
    leaked = []
    for raw in client.scan_iter(count=1000):
        key = raw.decode()
        kind = kind_of(key)
        if kind in PERMANENT or client.pttl(key) != -1:
            continue
        state = (client.hget(key, "state") or b"").decode()
        if state not in PERMANENT_WHILE.get(kind, ()):
            leaked.append(f"{key} ({state})")
        elif kind == "instance" and state == "dead":
            grave = key.split(":instance:", 1)
            if client.zscore(f"{grave[0]}:graves", grave[1]) is None:
                leaked.append(f"{key} (dead, and no grave)")
    return leaked
