"""Who lost a call writes no more of its conversation."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio as aredis
from prometheus_client import CollectorRegistry

from coordinator import ConfigurationError, FencedError, Session, StoreUnavailableError, Worker
from coordinator.sessions import (
    InvalidStateError,
    MemoryStore,
    RedisStore,
    RetryRule,
    SessionConflictError,
    SessionEndedError,
    SessionManager,
    SessionNotFoundError,
    SessionState,
    SessionStore,
    StoreClosedError,
    StoreMetrics,
    TenantError,
)
from coordinator.store.keys import Keys
from tests.deployments import cluster, sentinel
from tests.inside import member_of, set_right_patience
from tests.redis_server import RedisServer
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)
QUICK: Any = {
    "heartbeat_interval": "60ms", "dead_after": "600ms", "lost_connection_after": "500ms", "max_scan_gap": "300ms",
    "safety_margin": "150ms",
}  # fmt: skip
"""Settings with which a hold is over soon."""


@pytest.fixture
async def worker(redis_server: RedisServer, shared: redis.Redis) -> AsyncIterator[Worker]:
    """A worker whose holds are short."""
    async with Worker(redis_server.url, name="a", **QUICK) as worker:
        yield worker


@pytest.fixture
async def store(redis_server: RedisServer, shared: redis.Redis) -> AsyncIterator[RedisStore]:
    """A store with omnivoice-core's prefix."""
    async with RedisStore(redis_server.url) as store:
        yield store


def steal(client: redis.Redis, session: Session) -> None:
    """Another owner has it, and the old one has not heard of it."""
    client.hset(KEYS.session(session.id), mapping={"owner": "b~1", "epoch": session.epoch + 1})


def writes(store: SessionStore, state: SessionState) -> dict[str, Callable[[], Awaitable[object]]]:
    """Everything that changes a session."""
    return {
        "save": lambda: store.save(state),
        "force": lambda: store.save(state, force=True),
        "create": lambda: store.create(SessionState(state.id)),
        "replace": lambda: store.replace(state, SessionState(state.id)),
        "heartbeat": lambda: store.update_heartbeat(state.id),
        "delete": lambda: store.delete(state.id),
    }


@pytest.mark.parametrize("prefix", ["voicesession:", "{recovery:0}:voice:"])
@pytest.mark.parametrize("tenant", ["", "acme"])
async def test_the_owner_writes(
    redis_server: RedisServer, shared: redis.Redis, worker: Worker, prefix: str, tenant: str
) -> None:
    """A store that is bound to a session does for its owner what it does for anybody."""
    async with RedisStore(redis_server.url, prefix=prefix, tenant=tenant) as store:
        session = await worker.open("call-1", tenant=tenant)
        bound = store.fenced(session)
        state = SessionState("call-1", provider="twilio")
        await bound.create(state, limit=1)
        state.add_turn("user", "hello", 10)
        await bound.save(state)
        await bound.update_heartbeat("call-1")
        assert (await bound.load("call-1")).history == state.history
        assert await bound.replace(state, SessionState("call-1"), limit=1) == "changed"
        other = await store.load("call-1")
        other.provider = "other"
        await store.save(other)
        with pytest.raises(SessionConflictError):
            await bound.save(state)
        await bound.delete("call-1")
        assert await store.list_active() == []


@pytest.mark.parametrize("what", ["save", "force", "create", "replace", "heartbeat", "delete"])
@pytest.mark.parametrize("how", ["taken over", "declared dead"])
async def test_who_lost_it_writes_nothing(
    redis_server: RedisServer, shared: redis.Redis, store: RedisStore, worker: Worker, what: str, how: str
) -> None:
    """Every write of a worker that lost the session is refused for good, and not a byte under omnivoice-core's key changes."""
    session = await worker.open("call-1")
    bound = store.fenced(session)
    state = SessionState("call-1")
    await bound.save(state)
    stored = shared.get("voicesession:call-1")
    if how == "taken over":
        steal(shared, session)
    else:
        shared.hset(KEYS.instance(worker.id), "state", "dead")
    with pytest.raises(FencedError):
        await writes(bound, state)[what]()
    assert session.lost.is_set()
    assert shared.get("voicesession:call-1") == stored
    assert shared.smembers("voicesession:active") == {b"call-1"}
    events: Any = shared.xrange(KEYS.events)
    operations = [fields[b"operation"] for _, fields in events if fields[b"type"] == b"fenced"]
    assert operations == [{"force": b"session_save", "replace": b"session_save"}.get(what, b"session_" + what.encode())]
    with pytest.raises(FencedError):
        await writes(bound, state)[what]()


@pytest.mark.parametrize("field", ["owner", "epoch", "state"])
async def test_each_part_of_the_record_counts(
    shared: redis.Redis, store: RedisStore, worker: Worker, field: str
) -> None:
    """Another owner alone, a newer epoch of the same owner alone, and a closed record alone are each enough to refuse."""
    session = await worker.open("call-1")
    values = {"owner": "b~1", "epoch": str(session.epoch + 1), "state": "closed"}
    shared.hset(KEYS.session("call-1"), field, values[field])
    with within(10), pytest.raises(FencedError):
        await store.fenced(session).save(SessionState("call-1"))
    assert shared.exists("voicesession:call-1") == 0
    assert session.lost.is_set()


async def test_a_heartbeat_revives_nothing(shared: redis.Redis, store: RedisStore, worker: Worker) -> None:
    """The owner's heartbeat revives neither an ended nor a deleted session."""
    bound = store.fenced(await worker.open("call-1"))
    state = SessionState("call-1", status="ended")
    await bound.save(state)
    with pytest.raises(SessionEndedError):
        await bound.update_heartbeat("call-1")
    await bound.delete("call-1")
    with pytest.raises(SessionNotFoundError):
        await bound.update_heartbeat("call-1")
    assert shared.exists("voicesession:call-1") == 0


@pytest.mark.parametrize("harm", ["record", "instance", "everything", "epoch", "server"])
async def test_after_lost_writes_saves_go_on(shared: redis.Redis, store: RedisStore, worker: Worker, harm: str) -> None:
    """Whatever the store forgot: a save waits until the owner has stated again what it held, and goes on under the new epoch."""
    session = await worker.open("call-1")
    before = session.epoch
    manager = SessionManager(store).fenced(session)
    state = SessionState("call-1")
    await manager.save(state)
    match harm:
        case "record":
            shared.delete(KEYS.session("call-1"))
        case "instance":
            shared.delete(KEYS.instance(worker.id), KEYS.owned(worker.id))
        case "everything":
            shared.flushall()
        case "epoch":
            shared.hset(KEYS.session("call-1"), "epoch", before - 1000)
        case "server":
            shared.hset(KEYS.meta, "server", "a server before this one")
    state.add_turn("user", "still here", 10)
    with within(20):
        await manager.save(state, force=True)
    assert not session.lost.is_set()
    await eventually(lambda: session.epoch > before)
    state.add_turn("agent", "so am I", 10)
    await manager.save(state)
    assert len((await store.load("call-1")).history) == 2


async def test_a_hold_outlasts_an_older_owner(shared: redis.Redis, store: RedisStore, worker: Worker) -> None:
    """A failover forgot an adoption: the old owner is not believed in the hold, and refused once the newer has stated its epoch."""
    session = await worker.open("call-1")
    bound = store.fenced(session)
    shared.hset(KEYS.meta, "server", "a server before this one")
    refused: list[Exception] = []

    async def save() -> None:
        try:
            await bound.save(SessionState("call-1"))
        except FencedError as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(save)
        await eventually(lambda: shared.hget(KEYS.meta, "server") != b"a server before this one")
        steal(shared, session)
    assert refused
    assert shared.exists("voicesession:call-1") == 0


async def test_a_store_that_stays_in_doubt_is_told_as_such(
    shared: redis.Redis, store: RedisStore, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no re-assertion comes through, the error is one to be tried again, and the session is not lost."""
    session = await worker.open("call-1")
    set_right_patience(worker, -1.2)
    monkeypatch.setattr(member_of(worker).resync, "want", lambda *_: None)
    shared.hset(KEYS.session("call-1"), "anew", "1")
    with pytest.raises(StoreUnavailableError, match="RESYNC"):
        await store.fenced(session).save(SessionState("call-1"))
    assert not session.lost.is_set()


async def test_a_store_in_another_redis_is_refused(
    shared: redis.Redis, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is not in the store's Redis: the error says so, nothing is written, and the worker is not disturbed."""
    set_right_patience(worker, 0.2)
    other = RedisServer()
    try:
        async with RedisStore(other.url) as store:
            session = await worker.open("call-1")
            with pytest.raises(ConfigurationError, match="not in the Redis of this store"):
                await store.fenced(session).save(SessionState("call-1"))
            assert session.held
            assert other.client().dbsize() == 0
    finally:
        other.close()


async def test_what_cannot_be_bound(
    redis_server: RedisServer, shared: redis.Redis, store: RedisStore, worker: Worker
) -> None:
    """A store of a client, a prefix where the coordinator's keys are, another tenant, another id: a clear error, at once."""
    session = await worker.open("call-1", tenant="acme")
    async with aredis.Redis(unix_socket_path=redis_server.path) as client:
        with pytest.raises(ConfigurationError, match="give the store the URL"):
            RedisStore(client).fenced(session)
    for prefix in ("{recovery:0}:", "{recovery:0}:session:", "{recovery:0}:me", "{recovery:0}:owned:x:"):
        async with RedisStore(redis_server.url, prefix=prefix) as bad:
            with pytest.raises(ConfigurationError, match="own keys are"):
                bad.fenced(session)
    for other in (RedisStore(redis_server.url, tenant="other"), MemoryStore(tenant="other")):
        with pytest.raises(TenantError):
            other.fenced(session)
        await other.close()
    for kind in (store.fenced(session), MemoryStore().fenced(session)):
        with pytest.raises(InvalidStateError, match="bound to session 'call-1'"):
            await kind.save(SessionState("call-2"))


async def test_a_view_closes_alone(store: RedisStore, worker: Worker) -> None:
    """Closing what is bound leaves the store open; a closed store is closed for what is bound to it too."""
    session = await worker.open("call-1")
    async with store.fenced(session) as bound:
        await bound.save(SessionState("call-1"))
    with pytest.raises(StoreClosedError):
        await bound.load("call-1")
    again = bound.fenced(session)
    assert (await again.load("call-1")).id == "call-1"
    await store.close()
    with pytest.raises(StoreClosedError):
        await again.load("call-1")


async def test_the_last_save_comes_before_the_close(store: RedisStore, worker: Worker) -> None:
    """A session that was closed or given up here is not written any more."""
    for end in ("close", "release"):
        session = await worker.open(f"call-{end}")
        bound = store.fenced(session)
        await bound.save(SessionState(session.id))
        await getattr(session, end)()
        with pytest.raises(FencedError, match="given up"):
            await bound.update_heartbeat(session.id)


async def test_a_child_process_writes_for_its_parent(
    redis_server: RedisServer, shared: redis.Redis, store: RedisStore, worker: Worker
) -> None:
    """What is attached to a session is fenced like its owner, and told to try again after lost writes."""
    session = await worker.open("call-1", tenant="acme")
    child = await worker.attach("call-1", session.epoch)
    assert child.tenant == "acme"
    bound = store.fenced(child)
    state = SessionState("call-1")
    await bound.save(state)
    shared.hset(KEYS.session("call-1"), "anew", "1")
    with pytest.raises(StoreUnavailableError, match="RESYNC"):
        await bound.save(state)
    shared.hset(KEYS.session("call-1"), "anew", "0")
    await bound.save(state)
    steal(shared, session)
    for _ in range(2):
        with pytest.raises(FencedError):
            await bound.save(state)
    assert child.lost.is_set()


async def test_a_store_in_memory_asks_the_session(shared: redis.Redis, worker: Worker) -> None:
    """A store in this process's memory takes writes while the session is held, waits in doubt, and refuses once it is lost."""
    async with MemoryStore() as store:
        session = await worker.open("call-1")
        bound = store.fenced(session)
        state = SessionState("call-1")
        for name in ("save", "heartbeat", "delete", "create"):
            await writes(bound, state)[name]()
        session.unsure = True
        for write in writes(bound, state).values():
            with pytest.raises((StoreUnavailableError, InvalidStateError)):
                await write()
        session.unsure = False
        state = await bound.load("call-1")
        session.lose("test")
        for write in writes(bound, state).values():
            with pytest.raises(FencedError):
                await write()
        await bound.close()
        assert (await store.load("call-1")).id == "call-1"


async def test_refusals_are_counted(shared: redis.Redis, store: RedisStore, worker: Worker) -> None:
    """A refused save is counted under its kind, not repeated, and does not open the circuit of others."""
    registry = CollectorRegistry()
    manager = SessionManager(store, retry=RetryRule(initial=3600), metrics=StoreMetrics(registry))
    session = await worker.open("call-1")
    bound = manager.fenced(session)
    steal(shared, session)
    with within(10), pytest.raises(FencedError):
        await bound.save(SessionState("call-1"))
    labels = {"operation": "save", "kind": "fenced"}
    assert registry.get_sample_value("recovery_session_store_errors_total", labels) == 1


async def test_on_a_cluster_the_prefix_needs_the_partitions_hash_tag() -> None:
    """On a Cluster only a prefix with the hash tag of the session's partition can be bound; with it saves are fenced."""
    with cluster() as (url, nodes):
        async with Worker(url, name="a", partitions=2, **QUICK) as worker:
            sessions = {m.fence.keys.partition: m for m in [await worker.open(f"call-{n}") for n in range(8)]}
            for prefix in ("{voice}:", "{recovery:0}:voice:"):
                async with RedisStore(url, prefix=prefix) as store:
                    with pytest.raises(ConfigurationError, match=r"as in the prefix '\{recovery:1\}:voice:'"):
                        store.fenced(sessions[1])
            async with RedisStore(url, prefix="{recovery:1}:voice:") as store:
                session, state = sessions[1], SessionState(sessions[1].id)
                bound = store.fenced(session)
                await bound.save(state)
                record = session.fence.keys.session(session.id)
                async with aredis.RedisCluster(host="127.0.0.1", port=nodes[0].port) as client:
                    await client.execute_command("HSET", record, "epoch", session.epoch + 1, "owner", "b~1")
                with pytest.raises(FencedError):
                    await bound.save(state)


@pytest.mark.timeout(100)
async def test_saves_go_on_after_a_failover() -> None:
    """Under Sentinel the primary is lost: the owner's saves go on at the replica, under a new epoch, and are fenced there."""
    with sentinel() as (url, primary, replica):
        async with Worker(url, name="a", **QUICK) as worker, RedisStore(url) as store:
            session = await worker.open("call-1")
            before = session.epoch
            bound, state = store.fenced(session), SessionState("call-1")
            await bound.save(state)
            await eventually(lambda: replica.client.exists("voicesession:call-1"))
            primary.close()
            state.add_turn("user", "still here?", 300)

            async def saved() -> bool:
                with contextlib.suppress(StoreUnavailableError):
                    await bound.save(state)
                    return True
                return False

            await eventually(saved, 40, "a save after the failover")
            assert not session.lost.is_set()
            assert session.epoch > before
            steal(replica.client, session)
            with pytest.raises(FencedError):
                await bound.save(state)
