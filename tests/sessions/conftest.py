"""Fixtures of the session store's tests: stores of every kind, and the Go program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coordinator.sessions import KeyRing, MemoryStore, RedisStore, SessionStore
from tests.redis_server import RedisServer
from tests.sessions.go_program import GoWorker, build

PERMANENT = ("active",)


@pytest.fixture
def db(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client on the empty server; afterwards every key must have an expiry, but for sets of active sessions."""
    client = redis_server.client()
    client.flushall()
    yield client
    leaked = [k for k in client.scan_iter() if client.pttl(k) == -1 and k.rsplit(b":", 1)[-1].decode() not in PERMANENT]
    assert leaked == []
    client.close()


@pytest.fixture
def shared(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The same for a server on which workers are too: what is the coordinator's own is looked at by its own tests."""
    client = redis_server.client()
    client.flushall()
    yield client
    stays = [k for k in client.scan_iter() if client.pttl(k) == -1 and not k.startswith(b"{recovery:")]
    assert [k for k in stays if k.rsplit(b":", 1)[-1].decode() not in PERMANENT] == []
    client.close()


@pytest.fixture
def ring() -> KeyRing:
    """A key ring of one key."""
    return KeyRing.parse(KeyRing.generate("k1"))


@pytest.fixture
async def redis_store(redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[RedisStore]:
    """A store on the empty server."""
    async with RedisStore(redis_server.url) as store:
        yield store


MakeStore = Callable[..., SessionStore]


@pytest.fixture(params=["memory", "redis", "memory sealed", "redis sealed"])
async def make_store(
    request: pytest.FixtureRequest, redis_server: RedisServer, ring: KeyRing
) -> AsyncIterator[MakeStore]:
    """Makes stores of each kind, in plain text and sealed; those of Redis share one server."""
    kind, _, sealed = request.param.partition(" ")
    made: list[SessionStore] = []
    if kind == "redis":
        request.getfixturevalue("db")

    def make(**options: Any) -> SessionStore:
        options = {"keys": ring if sealed else None, **options}
        store = MemoryStore(**options) if kind == "memory" else RedisStore(redis_server.url, **options)
        made.append(store)
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
def store(make_store: MakeStore) -> SessionStore:
    """A store of each kind."""
    return make_store()


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program, built."""
    return build(tmp_path_factory.mktemp("goworker"))


@pytest.fixture
def go(go_program: Path, redis_server: RedisServer, db: redis.Redis) -> GoWorker:
    """The Go program, on the empty server: go-redis takes the path of a unix socket for an address."""
    return GoWorker(go_program, redis_server.path)
