"""What only Redis can do to a store: ghosts, wrong types, corrupt values, expiry, clusters, clients."""

from __future__ import annotations

import pytest
import redis
import redis.asyncio as aredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordinator.errors import ConfigurationError, StoreUnavailableError
from coordinator.sessions import (
    Alias,
    CorruptSessionError,
    InvalidStateError,
    RedisStore,
    SessionConflictError,
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
)
from tests.redis_server import RedisServer

DAY_MS = 24 * 3600 * 1000


async def test_keys_and_expiry_are_omnivoice_cores(redis_store: RedisStore, db: redis.Redis) -> None:
    """A session is a string that expires after a day, its id stands in the set of active ones, and nothing else is there."""
    await redis_store.save(SessionState("s1"))
    assert set(db.keys()) == {b"voicesession:s1", b"voicesession:active"}
    assert DAY_MS - 10_000 < db.pttl("voicesession:s1") <= DAY_MS
    assert db.pttl("voicesession:active") == -1
    assert db.smembers("voicesession:active") == {b"s1"}


async def test_a_heartbeat_and_a_save_renew_the_expiry(redis_store: RedisStore, db: redis.Redis) -> None:
    """A session lives on while somebody shows that it does."""
    state = SessionState("s1")
    await redis_store.save(state)
    for renew in (redis_store.update_heartbeat("s1"), redis_store.save(state)):
        db.pexpire("voicesession:s1", 60_000)
        await renew
        assert db.pttl("voicesession:s1") > DAY_MS - 10_000


async def test_prefix_and_ttl(redis_server: RedisServer, db: redis.Redis) -> None:
    """Prefix and expiry can be chosen; an expiry of zero is none."""
    async with RedisStore(redis_server.url, prefix="voicecall:", ttl=0.5) as store:
        await store.save(SessionState("s1"))
        assert 0 < db.pttl("voicecall:s1") <= 500
    async with RedisStore(redis_server.url, prefix="voicecall:", ttl=0) as store:
        await store.save(SessionState("s1"))
        assert db.pttl("voicecall:s1") == -1
        await store.update_heartbeat("s1")
        assert db.pttl("voicecall:s1") == -1
        await store.delete("s1")


async def test_a_prefix_is_no_pattern(redis_server: RedisServer, db: redis.Redis) -> None:
    """Signs that a search would read as a pattern stand for themselves in a prefix."""
    async with (
        RedisStore(redis_server.url, prefix="v[12]*?:") as store,
        RedisStore(redis_server.url, prefix="v1x?:") as other,
    ):
        await store.save(SessionState("s1"))
        await other.save(SessionState("s1"))
        await other.save(SessionState("s2"))
        assert (await store.count(), await other.count()) == (1, 2)


async def test_ghosts_are_not_listed_and_cleaned_up(redis_store: RedisStore, db: redis.Redis) -> None:
    """An id whose key is gone is not listed, and leaves the set; one that never was a session can be deleted."""
    await redis_store.save(SessionState("s1"))
    db.sadd("voicesession:active", "ghost", "ghost2", *(f"g{n}" for n in range(500)))
    await redis_store.delete("ghost")
    assert await redis_store.list_active() == ["s1"]
    assert db.smembers("voicesession:active") == {b"s1"}
    with pytest.raises(SessionNotFoundError):
        await redis_store.delete("ghost2")


async def test_ghosts_take_no_place(redis_store: RedisStore, db: redis.Redis) -> None:
    """Expired sessions do not count against the limit."""
    db.sadd("voicesession:active", "ghost1", "ghost2")
    await redis_store.create(SessionState("s1"), limit=1)
    assert db.smembers("voicesession:active") == {b"s1"}


async def test_ended_ones_that_another_program_left_in_the_set(redis_store: RedisStore, db: redis.Redis) -> None:
    """A session that has failed is over, though omnivoice-core leaves it among the active ones."""
    await redis_store.save(SessionState("s1", status="failed", provider="x" * 5000))
    db.sadd("voicesession:active", "s1")
    assert await redis_store.list_active() == []
    db.sadd("voicesession:active", "s1")
    with pytest.raises(SessionEndedError):
        await redis_store.update_heartbeat("s1")
    assert db.scard("voicesession:active") == 0


async def test_a_session_named_active_is_refused(redis_store: RedisStore, db: redis.Redis) -> None:
    """The id that would overwrite the index is refused with the reason."""
    await redis_store.save(SessionState("s1"))
    with pytest.raises(InvalidStateError, match="destroy it"):
        await redis_store.save(SessionState("active"))
    assert db.type("voicesession:active") == b"set"


async def test_an_index_that_another_program_destroyed(redis_store: RedisStore, db: redis.Redis) -> None:
    """Where the active set is a string, nothing is written, and the error says what to do; deleting it heals."""
    state = SessionState("s1")
    await redis_store.save(state)
    db.set("voicesession:active", "{}", ex=60)
    for call in (
        redis_store.save(state), redis_store.create(SessionState("s2")), redis_store.list_active(),
        redis_store.update_heartbeat("s1"),
    ):  # fmt: skip
        with pytest.raises(CorruptSessionError, match="Delete the key"):
            await call
    assert db.exists("voicesession:s2") == 0
    assert (await redis_store.load("s1")).id == "s1"
    db.delete("voicesession:active")
    await redis_store.update_heartbeat("s1")
    assert await redis_store.list_active() == ["s1"]


async def test_a_key_of_another_type(redis_store: RedisStore, db: redis.Redis) -> None:
    """A session's key that is no string is neither read nor overwritten; it can be deleted."""
    db.rpush("voicesession:s1", "x")
    db.expire("voicesession:s1", 60)
    db.sadd("voicesession:active", "s1")
    for call in (
        redis_store.load("s1"), redis_store.save(SessionState("s1")), redis_store.create(SessionState("s1")),
        redis_store.update_heartbeat("s1"),
    ):  # fmt: skip
        with pytest.raises(CorruptSessionError, match="another type"):
            await call
    assert await redis_store.list_active() == ["s1"]
    await redis_store.delete("s1")
    assert db.keys() == []


async def test_corrupt_json(redis_store: RedisStore, db: redis.Redis) -> None:
    """What is no session is refused by load and heartbeat, stays as it is, and can be overwritten or deleted."""
    for value in (b"", b"{not json", b"\xff\xfe", b'{"id":"s1","status":'):
        db.set("voicesession:s1", value, ex=60)
        for call in (redis_store.load("s1"), redis_store.update_heartbeat("s1")):
            with pytest.raises(CorruptSessionError, match="not JSON"):
                await call
        assert db.get("voicesession:s1") == value
    await redis_store.save(SessionState("s1"))
    assert (await redis_store.load("s1")).id == "s1"


async def test_a_session_in_another_order(redis_store: RedisStore, db: redis.Redis) -> None:
    """JSON that neither program writes is kept alive, refused when ended, and compared like any other."""
    db.set("voicesession:s1", b'{ "history": [], "status": "active", "id": "s1" }', ex=60)
    db.sadd("voicesession:active", "s1")
    state = await redis_store.load("s1")
    await redis_store.update_heartbeat("s1")
    assert (await redis_store.load("s1")).updated_at > state.updated_at
    state.provider = "changed"
    with pytest.raises(SessionConflictError):
        await redis_store.save(state)
    db.set("voicesession:s1", b'{ "history": [], "status": "ended", "id": "s1" }', ex=60)
    with pytest.raises(SessionEndedError):
        await redis_store.update_heartbeat("s1")
    found = await redis_store.load("s1")
    assert await redis_store.replace(found, SessionState("s1")) == "written"


async def test_an_unchanged_byte_outside_updated_at(redis_store: RedisStore, db: redis.Redis) -> None:
    """A heartbeat keeps unknown fields, odd spacing after the header, and numbers of any size as they are."""
    head, tail = (
        b'{"id":"s1","updated_at":"',
        b'","status":"active","x":[1.0, 1e999, 12345678901234567890123],\n"history":null}',
    )
    db.set("voicesession:s1", head + b"2020-01-01T00:00:00Z" + tail, ex=60)
    await redis_store.update_heartbeat("s1")
    stored = db.get("voicesession:s1")
    assert isinstance(stored, bytes)
    assert stored.startswith(head)
    assert stored.endswith(tail)
    assert b"2020" not in stored


async def test_a_client_of_the_program(redis_server: RedisServer, db: redis.Redis) -> None:
    """A store works over a client that the program has, and leaves it open."""
    client = aredis.Redis(unix_socket_path=redis_server.path)
    db.script_flush()
    async with RedisStore(client) as store:
        await store.create(SessionState("s1"))
        await store.update_heartbeat("s1")
        assert await store.list_active() == ["s1"]
        assert await store.count() == 1
        await store.ping()
    assert await client.ping()
    await client.aclose()


async def test_a_client_that_decodes_is_refused(redis_server: RedisServer) -> None:
    """Text in the place of bytes would break sessions, so such a client is refused at once."""
    client = aredis.Redis(unix_socket_path=redis_server.path, decode_responses=True)
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisStore(client)
    await client.aclose()


@pytest.mark.parametrize("prefix", ["", "sessionindex:", "tenant:x:"])
def test_prefixes_that_would_mix_keys(prefix: str) -> None:
    """A prefix under which sessions could take the keys of others is refused."""
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisStore("redis://localhost", prefix=prefix)


def test_a_cluster_needs_one_slot() -> None:
    """In a cluster a session and the active set must lie in one slot, so the prefix needs a hash tag."""
    with pytest.raises(ConfigurationError, match="hash tag"):
        RedisStore("redis+cluster://localhost:7000")
    RedisStore("redis+cluster://localhost:7000", prefix="{voice}:")


async def test_a_store_that_does_not_answer(db: redis.Redis) -> None:
    """A server that is away is told as such by every call, and never as a missing session."""
    server = RedisServer()
    async with RedisStore(server.url, store_timeout=0.2) as store:
        await store.save(SessionState("s1"))
        server.kill()
        for call in (
            store.load("s1"),
            store.save(SessionState("s1")),
            store.list_active(),
            store.ping(),
            store.count(),
        ):
            with pytest.raises(StoreUnavailableError):
                await call
    client = aredis.Redis(unix_socket_path=server.path, retry=Retry(NoBackoff(), 0))
    for call in (RedisStore(client).load("s1"), RedisStore(client).update_heartbeat("s1")):
        with pytest.raises(StoreUnavailableError):
            await call
    await client.aclose()
    server.close()


async def test_aliases_are_the_projects_own_keys(redis_store: RedisStore, db: redis.Redis) -> None:
    """An alias does not lie among omnivoice-core's keys, and expires."""
    await redis_store.bind(Alias.phone("+1 555 1234567"), "s1")
    [key] = db.scan_iter()
    assert key.startswith(b"sessionindex:voicesession:alias:phone:")
    assert 0 < db.pttl(key) <= DAY_MS
