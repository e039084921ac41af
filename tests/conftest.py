"""Fixtures for every test: one real redis-server a test process, empty for each test, and a look for leaked keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.leaks import leaked_keys
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
