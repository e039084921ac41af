"""Restoring, aliases, ends and cleaning up, over both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
import redis
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from coordinator.errors import ConfigurationError, InvalidValueError, StoreUnavailableError
from coordinator.sessions import (
    Alias,
    CorruptSessionError,
    InvalidStateError,
    KeyRing,
    KeyUnknownError,
    MemoryStore,
    RedisStore,
    RetryRule,
    SessionConflictError,
    SessionExistsError,
    SessionLimitError,
    SessionManager,
    SessionNotFoundError,
    SessionState,
    SessionStore,
    StoreMetrics,
    Timestamp,
)
from tests.redis_server import RedisServer

FAST = RetryRule(attempts=2, initial=0.001, most=0.002, jitter=0.0)
SECOND = 1_000_000_000


class Clock:
    """A wall clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = Timestamp("2026-07-19T12:00:00Z")

    def __call__(self) -> Timestamp:
        return self.at

    def move(self, seconds: float) -> None:
        self.at = Timestamp.from_ns(self.at.ns + round(seconds * SECOND))


class Bench:
    """A manager of a store with a clock of its own, and its metrics."""

    def __init__(self, store: SessionStore, clock: Clock) -> None:
        self.store, self.clock, self.registry = store, clock, CollectorRegistry()
        self._metrics = StoreMetrics(self.registry)

    def manager(self, **options: Any) -> SessionManager:
        return SessionManager(self.store, retry=FAST, metrics=self._metrics, now=self.clock, **options)

    def restores(self, outcome: str) -> float | None:
        return self.registry.get_sample_value("recovery_session_store_restores_total", {"outcome": outcome})


@pytest.fixture(params=["memory", "redis"])
async def bench(request: pytest.FixtureRequest, redis_server: RedisServer) -> AsyncIterator[Bench]:
    """A manager over each kind of store."""
    clock = Clock()
    if request.param == "redis":
        request.getfixturevalue("db")
        store: SessionStore = RedisStore(redis_server.url, now=clock)
    else:
        store = MemoryStore(now=clock)
    async with store:
        yield Bench(store, clock)


async def test_a_missing_session_is_created_and_then_restored(bench: Bench) -> None:
    """The first asks and gets a new session, the next gets the same with its history; both are counted."""
    manager = bench.manager()
    first = await manager.restore_or_create("s1", lambda session_id: SessionState(session_id, provider="twilio"))
    assert (first.restored, first.state.provider) == (False, "twilio")
    first.state.add_turn("user", "hello", 5)
    await manager.save(first.state)
    bench.clock.move(3)
    again = await manager.restore_or_create("s1")
    assert again.restored
    assert again.age == pytest.approx(3)
    assert [turn.content for turn in again.state.history] == ["hello"]
    assert (bench.restores("miss"), bench.restores("hit")) == (1, 1)


async def test_many_that_ask_at_once_get_one_session(bench: Bench) -> None:
    """Of many that restore or create the same id, one creates it."""
    done = []

    async def ask() -> None:
        done.append((await bench.manager().restore_or_create("s1")).restored)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(ask)
    assert sorted(done) == [False] + [True] * 7


async def test_a_store_that_is_away_is_no_missing_session() -> None:
    """When the store does not answer, the error is raised and no new session is made, however often it is asked."""
    server = RedisServer()
    async with RedisStore(server.url, store_timeout=0.2) as store:
        manager = SessionManager(store, retry=FAST)
        await manager.create(SessionState("s1"))
        server.kill()
        made: list[str] = []

        def new(session_id: str) -> SessionState:
            made.append(session_id)
            return SessionState(session_id)

        for key in ("s1", Alias.phone("+15551234567")):
            with pytest.raises(StoreUnavailableError):
                await manager.restore_or_create(key, new)
        assert made == []
    server.close()


async def test_what_cannot_be_read_is_no_missing_session(
    redis_server: RedisServer, db: redis.Redis, ring: KeyRing
) -> None:
    """A session of an unknown key, or a corrupt one, is raised and stays."""
    async with RedisStore(redis_server.url, keys=ring) as sealed, RedisStore(redis_server.url) as plain:
        await sealed.save(SessionState("s1"))
        stored = db.get("voicesession:s1")
        with pytest.raises(KeyUnknownError, match="cannot be served here"):
            await SessionManager(plain).restore_or_create("s1")
        assert db.get("voicesession:s1") == stored
        db.set("voicesession:s2", "{", ex=60)
        with pytest.raises(CorruptSessionError):
            await SessionManager(plain).restore_or_create("s2")


async def test_a_stale_session_is_started_anew(bench: Bench) -> None:
    """A session without a sign of life for longer than wanted is replaced by a new one."""
    manager = bench.manager(max_age=60)
    await manager.create(SessionState("s1", created_at=bench.clock(), updated_at=bench.clock(), provider="old"))
    bench.clock.move(60)
    assert (await manager.restore_or_create("s1")).restored
    bench.clock.move(0.001)
    done = await manager.restore_or_create("s1")
    assert (done.restored, done.stale, done.age > 60) == (False, True, True)
    assert (await manager.load("s1")).provider == ""
    assert bench.restores("stale") == 1


async def test_a_stale_session_is_restored_with_a_warning(bench: Bench) -> None:
    """Where a warning is wanted, a stale session comes back and the log says how old it is."""
    manager = bench.manager(max_age=60, stale="warn")
    await manager.create(SessionState("s1", updated_at=bench.clock(), provider="old"))
    bench.clock.move(100)
    with capture_logs() as logs:
        done = await manager.restore_or_create("s1")
    assert (done.restored, done.stale, done.state.provider) == (True, True, "old")
    assert [(entry["event"], entry["age_seconds"]) for entry in logs] == [("stale_session_restored", 100)]
    assert not (await manager.restore_or_create("s1", max_age=60, stale="new")).restored


async def test_a_session_that_has_ended_is_not_restored(bench: Bench) -> None:
    """Under the id of a call that is over a new one begins."""
    manager = bench.manager()
    done = await manager.restore_or_create("s1")
    await manager.finish(done.state, "failed")
    again = await manager.restore_or_create("s1")
    assert (again.restored, again.stale, again.state.status) == (False, False, "pending")
    assert bench.restores("ended") == 1
    assert await bench.store.list_active() == ["s1"]


async def test_aliases_find_a_session(bench: Bench) -> None:
    """A caller's number, however written, and a user with a call id lead to the session they were bound to."""
    manager = bench.manager()
    done = await manager.restore_or_create(Alias.phone("+1 (555) 123-4567"))
    assert not done.restored
    assert await manager.resolve(Alias.phone("+15551234567")) == done.state.id
    again = await manager.restore_or_create(Alias.phone("+1-555-1234567"))
    assert (again.restored, again.state.id) == (True, done.state.id)
    await manager.bind(Alias.user_call("u1", "CA1"), done.state.id)
    assert await manager.resolve(Alias.user_call("u1", "CA1")) == done.state.id
    assert await manager.resolve(Alias.user_call("u1C", "A1")) is None
    assert await manager.resolve(Alias.phone("15551234567")) is None
    await bench.store.unbind(Alias.phone("+15551234567"))
    assert await manager.resolve(Alias.phone("+15551234567")) is None


async def test_an_alias_lives_as_long_as_its_session(redis_server: RedisServer, db: redis.Redis) -> None:
    """An alias that is used expires no sooner than a session that is kept alive."""
    async with RedisStore(redis_server.url) as store:
        manager = SessionManager(store)
        await manager.restore_or_create(Alias.phone("+15551234567"))
        [key] = db.scan_iter("sessionindex:*")
        db.pexpire(key, 60_000)
        assert (await manager.restore_or_create(Alias.phone("+15551234567"))).restored
        assert db.pttl(key) > 80_000_000


async def test_an_alias_of_a_session_that_is_gone(bench: Bench) -> None:
    """An alias whose session was deleted leads to a new session."""
    manager = bench.manager()
    done = await manager.restore_or_create(Alias.phone("+15551234567"))
    await manager.delete(done.state.id)
    await manager.delete(done.state.id)
    again = await manager.restore_or_create(Alias.phone("+15551234567"))
    assert not again.restored
    assert await manager.resolve(Alias.phone("+15551234567")) == again.state.id


@pytest.mark.parametrize(
    "make", [lambda: Alias.phone("x"), lambda: Alias.user_call("", "c"), lambda: Alias.user_call("u", "")]
)
def test_empty_aliases(make: Any) -> None:
    """An alias that says nothing is refused."""
    with pytest.raises(InvalidStateError):
        make()


async def test_the_final_save_and_its_retention(bench: Bench) -> None:
    """A finished session is kept with its last state as long as wanted, or not at all."""
    manager = bench.manager(retention=0)
    state = SessionState("s1")
    await manager.create(state)
    state.add_turn("user", "bye", 5)
    await manager.finish(state, retention=60)
    assert [turn.content for turn in (await manager.load("s1")).history] == ["bye"]
    await manager.finish(state)
    with pytest.raises(SessionNotFoundError):
        await manager.load("s1")


async def test_retention_is_an_expiry(redis_server: RedisServer, db: redis.Redis) -> None:
    """A finished session expires after its retention."""
    async with RedisStore(redis_server.url) as store:
        manager = SessionManager(store)
        state = SessionState("s1")
        await manager.create(state)
        await manager.finish(state, retention=60)
        assert 50_000 < db.pttl("voicesession:s1") <= 60_000


async def test_the_final_save_does_not_overwrite_a_stranger(bench: Bench) -> None:
    """A finish of a state that somebody else changed is a conflict, and deletes nothing."""
    manager = bench.manager(retention=0)
    state = SessionState("s1")
    await manager.create(state)
    other = await manager.load("s1")
    other.provider = "other"
    await manager.save(other)
    with pytest.raises(SessionConflictError):
        await manager.finish(state)
    assert (await manager.load("s1")).provider == "other"


async def test_cleanup_of_idle_sessions(bench: Bench) -> None:
    """Sessions without a sign of life are ended, counted, and end with that sign; a heartbeat saves the others."""
    manager = bench.manager()
    start = bench.clock()
    for number in range(4):
        await manager.create(SessionState(f"s{number}", created_at=start, updated_at=start))
    bench.clock.move(61)
    await manager.heartbeat("s0")
    assert await manager.cleanup_idle(61) == 0
    bench.clock.move(0.5)
    assert await manager.cleanup_idle(61) == 3
    assert await bench.store.list_active() == ["s0"]
    ended = await manager.load("s1")
    assert (ended.status, ended.updated_at, ended.duration.total_seconds()) == ("ended", start, 0)
    assert await manager.cleanup_idle(61) == 0


async def test_cleanup_leaves_what_it_cannot_read(redis_server: RedisServer, db: redis.Redis) -> None:
    """A corrupt session is neither ended nor counted, and does not stop the others."""
    async with RedisStore(redis_server.url, now=Clock()) as store:
        await store.save(SessionState("s1"))
        db.set("voicesession:s2", "{", ex=60)
        db.sadd("voicesession:active", "s2")
        with capture_logs() as logs:
            assert await SessionManager(store).cleanup_idle(60) == 1
        assert [(entry["event"], entry["session"]) for entry in logs] == [("session_not_cleaned_up", "s2")]
        assert db.get("voicesession:s2") == b"{"


async def test_two_that_clean_up_count_each_session_once(bench: Bench) -> None:
    """Two programs that clean up at the same time end each session once."""
    for number in range(20):
        await bench.manager().create(SessionState(f"s{number}", updated_at=bench.clock()))
    bench.clock.move(100)
    counts = []

    async def clean() -> None:
        counts.append(await bench.manager().cleanup_idle(60))

    async with anyio.create_task_group() as group:
        group.start_soon(clean)
        group.start_soon(clean)
    assert sum(counts) == 20


async def test_the_bound_on_sessions(bench: Bench) -> None:
    """No more sessions than allowed are created, and an id only once."""
    manager = bench.manager(max_sessions=2)
    await manager.create(SessionState("s1"))
    with pytest.raises(SessionExistsError):
        await manager.create(SessionState("s1", provider="other"))
    await manager.restore_or_create("s2")
    for ask in (manager.create(SessionState("s3")), manager.restore_or_create("s3")):
        with pytest.raises(SessionLimitError):
            await ask
    assert (await manager.restore_or_create("s2")).restored


@pytest.mark.parametrize("status", ["ended", "active"])
async def test_what_is_started_anew_keeps_to_the_limit(bench: Bench, status: str) -> None:
    """A new session in the place of an ended one counts against max_sessions; in the place of a stale one under way it does not."""
    manager = bench.manager(max_sessions=1, max_age=60)
    old = SessionState("s1", updated_at=bench.clock(), status=status)
    await bench.store.save(old)
    bench.clock.move(100)
    if status == "active":
        assert not (await manager.restore_or_create("s1")).restored
        return
    await manager.create(SessionState("s2", updated_at=bench.clock()))
    with pytest.raises(SessionLimitError):
        await manager.restore_or_create("s1")
    assert (await manager.load("s1")).ended
    await manager.delete("s2")
    assert not (await manager.restore_or_create("s1")).restored
    assert await bench.store.list_active() == ["s1"]


@pytest.mark.parametrize(
    ("kind", "given", "named"),
    [
        ("memory", {"ttl": "1h"}, "ttl: '1h' is not a number of seconds"),
        ("memory", {"ttl": float("nan")}, "ttl: nan is not"),
        ("memory", {"ttl": -1}, "ttl: -1 is not"),
        ("redis", {"ttl": None}, "ttl: None is not"),
        ("redis", {"prefix": 5}, "a prefix of sessions .* not 5"),
        ("redis", {"tenant": 5}, "a tenant's name .* not 5"),
        ("manager", {"max_age": "5"}, "max_age: '5' is not"),
        ("manager", {"retention": -1}, "retention: -1 is not"),
        ("manager", {"stale": "old"}, "stale: 'old' is not one of new, warn"),
        ("manager", {"max_sessions": -1}, "max_sessions: -1 is not"),
    ],
)
def test_what_breaks_its_rule_is_refused(kind: str, given: dict[str, Any], named: str) -> None:
    """Numbers and words of a store and of a manager: one sentence that names the value and the rule."""
    with pytest.raises((InvalidValueError, ConfigurationError), match=named):
        match kind:
            case "memory":
                MemoryStore(**given)
            case "redis":
                RedisStore("redis://localhost:1", **given)
            case _:
                SessionManager(MemoryStore(), **given)


async def test_a_session_is_not_finished_for_a_time_that_is_none() -> None:
    """Nothing is written, and the session is under way."""
    store = MemoryStore()
    manager = SessionManager(store)
    state = SessionState(id="call")
    await manager.create(state)
    with pytest.raises(InvalidValueError, match="retention: 'soon' is not a number of seconds"):
        await manager.finish(state, retention="soon")  # type: ignore[arg-type]
    assert (await manager.load("call")).status != "ended"
