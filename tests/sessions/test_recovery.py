"""A call comes to its new owner with its conversation."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
import redis

from coordinator import ConfigurationError, FencedError, Offer, Session, StoreUnavailableError, Worker
from coordinator.sessions import (
    CorruptSessionError,
    KeyRing,
    KeyUnknownError,
    RedisStore,
    RetryRule,
    SessionExistsError,
    SessionManager,
    SessionState,
    TenantError,
    recover,
    restore,
)
from coordinator.store.keys import Keys
from tests.coordinating import coordinating
from tests.inside import loading_spot, member_of
from tests.redis_server import RedisServer
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)
FAST = RetryRule(attempts=2, initial=0.001, most=0.002, jitter=0.0)


@contextlib.asynccontextmanager
async def program(url: str, name: str, **options: Any) -> AsyncIterator[tuple[Worker, SessionManager]]:
    """A worker and its manager of sessions."""
    async with Worker(url, name=name) as worker, RedisStore(url, **options) as store:
        yield worker, SessionManager(store, retry=FAST)


async def talk(worker: Worker, manager: SessionManager, session_id: str) -> tuple[Session, SessionState]:
    """A call with a conversation of two turns."""
    session = await worker.open(session_id, {"sequence": 42})
    state = SessionState(session_id, status="active", recovery_data={"call_sid": "CA1"})
    state.add_turn("user", "hello", 500)
    state.add_turn("agent", "how can I help?", 700)
    await manager.fenced(session).save(state)
    return session, state


async def first(worker: Worker) -> Offer:
    """The next offer."""
    with within(20):
        async for offer in worker.offers():
            return offer
    raise AssertionError("no more offers")


def declines(shared: redis.Redis) -> int:
    events: Any = shared.xrange(KEYS.events)
    return len([fields for _, fields in events if fields[b"type"] == b"declined"])


def attempts(client: redis.Redis, session_id: str) -> list[bytes]:
    """How often it was offered, and when it lost its owners."""
    found: Any = client.hmget(KEYS.session(session_id), "offers", "orphanings")
    return [value or b"" for value in found]


async def test_an_adopted_call_comes_with_its_conversation(redis_server: RedisServer, shared: redis.Redis) -> None:
    """What the dead owner last saved is in the hands of the adopter, who saves it on; the old one's late save is refused."""
    url = redis_server.url
    async with program(url, "old") as (old, theirs), program(url, "new") as (new, ours), coordinating(url):
        session, state = await talk(old, theirs, "call-1")
        late = theirs.fenced(session)
        await new.certify(old.id)
        call = await recover(await first(new), ours)
        assert call is not None
        assert call.state is not None
        assert [turn.content for turn in call.state.history] == ["hello", "how can I help?"]
        assert (call.session.recovery_data, call.state.recovery_data) == ({"sequence": 42}, {"call_sid": "CA1"})
        call.state.add_turn("agent", "I am back", 300)
        await call.manager.save(call.state)
        with pytest.raises(FencedError):
            await late.save(state, force=True)
        assert len((await ours.load("call-1")).history) == 3
        await call.session.close()


async def test_a_handover_brings_the_newest_state(redis_server: RedisServer, shared: redis.Redis) -> None:
    """A planned handover: what the owner saves after its heir has looked, and before it lets go, comes along."""
    url = redis_server.url
    async with program(url, "old") as (old, theirs), program(url, "new") as (new, ours):
        session, state = await talk(old, theirs, "call-1")
        look = ours.store.load

        async def look_then_let_them_save(session_id: str) -> SessionState:
            found = await look(session_id)
            state.add_turn("user", "one more thing", 400)
            await theirs.fenced(session).save(state)
            return found

        ours.store.load = look_then_let_them_save  # type: ignore[method-assign]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(old.drain)
            offer = await first(new)
            assert offer.planned
            call = await recover(offer, ours)
        assert call is not None
        assert call.state is not None
        assert len(call.state.history) == 3
        await call.session.close()


async def test_without_a_conversation_the_call_goes_on(redis_server: RedisServer, shared: redis.Redis) -> None:
    """A call whose conversation was never saved is adopted with its recovery data only, and a new one can be stored."""
    url = redis_server.url
    async with program(url, "a") as (old, _), program(url, "b") as (new, ours):
        await (await old.open("call-1", b"data")).release()
        call = await recover(await first(new), ours)
        assert call is not None
        assert (call.state, call.fault, call.session.recovery_data) == (None, None, b"data")
        await call.manager.create(SessionState("call-1"))
        await call.session.close()


async def test_what_cannot_be_read_by_anybody_does_not_keep_a_call_waiting(
    redis_server: RedisServer, shared: redis.Redis
) -> None:
    """A broken conversation: the call is adopted, told what is wrong, and what is stored is not overwritten by creating anew."""
    url = redis_server.url
    async with program(url, "a") as (old, _), program(url, "b") as (new, ours):
        shared.set("voicesession:call-1", b"no session", ex=60)
        await (await old.open("call-1", b"data")).release()
        call = await recover(await first(new), ours)
        assert call is not None
        assert isinstance(call.fault, CorruptSessionError)
        assert call.state is None
        with pytest.raises(SessionExistsError):
            await call.manager.create(SessionState("call-1"))
        await call.session.close()


async def test_a_session_store_that_is_away_does_not_keep_a_call_waiting(
    redis_server: RedisServer, shared: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversation cannot be asked for: the call is adopted all the same, and told why it has none."""
    url = redis_server.url
    async with program(url, "a") as (old, theirs), program(url, "b") as (new, ours):
        session, _ = await talk(old, theirs, "call-1")
        await session.release()

        async def away(*_: object) -> bytes:
            raise StoreUnavailableError("timeout")

        monkeypatch.setattr(*loading_spot(), away)
        call = await recover(await first(new), ours)
        assert call is not None
        assert isinstance(call.fault, StoreUnavailableError)
        monkeypatch.undo()
        assert len((await call.manager.load("call-1")).history) == 2
        await call.session.close()


async def test_a_worker_without_the_key_leaves_it_to_one_with_it(
    redis_server: RedisServer, shared: redis.Redis, ring: KeyRing
) -> None:
    """Sealed with a key that one worker lacks: it gives the offer back, another one serves the call, no attempt is counted."""
    url, other = redis_server.url, KeyRing.parse(KeyRing.generate("k2"))
    async with (
        program(url, "old", keys=ring) as (old, theirs),
        program(url, "blind", keys=other) as (blind, no_key),
        program(url, "able", keys=ring) as (able, key),
    ):
        session, _ = await talk(old, theirs, "call-1")
        await session.release("test")
        assert await recover(await first(blind), no_key) is None
        before = attempts(shared, "call-1")
        assert before[0] == b"1"
        looked: list[Offer] = []

        async def look() -> None:
            async for offer in blind.offers():
                looked.append(offer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            await eventually(
                lambda: declines(shared) > 2
            )  # it gives it back unseen, again and again, with growing pauses
            offer = await first(able)
            tasks.cancel_scope.cancel()
        assert looked == []
        assert offer.attempt == 1
        assert attempts(shared, "call-1") == before
        call = await recover(offer, key)
        assert call is not None
        assert call.state is not None
        assert declines(shared) < 8
        await call.session.close()


async def test_a_handover_passes_a_worker_without_the_key(
    redis_server: RedisServer, shared: redis.Redis, ring: KeyRing
) -> None:
    """A drain: a worker without the key passes the offer on, one with it takes the call, and its owner served it all the time."""
    url = redis_server.url
    async with (
        program(url, "old", keys=ring) as (old, theirs),
        program(url, "blind") as (blind, no_key),
        program(url, "able", keys=ring) as (able, key),
    ):
        session, _ = await talk(old, theirs, "call-1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(old.drain)
            assert await recover(await first(blind), no_key) is None
            assert session.held
            call = await recover(await first(able), key)
        assert call is not None
        assert call.state is not None
        assert call.session.planned
        await call.session.close()


async def test_where_nobody_has_the_key_a_call_is_given_up_on_in_the_end(
    redis_server: RedisServer, shared: redis.Redis, ring: KeyRing
) -> None:
    """Workers that all lack the key give a call back until it is too old: then it is a dead letter, with its data."""
    url = redis_server.url
    quick: dict[str, Any] = {"lease": "800ms", "give_up_after": "1s"}
    async with (
        program(url, "old", keys=ring) as (old, theirs),
        Worker(url, name="b", **quick) as b,
        Worker(url, name="c", **quick) as c,
        RedisStore(url) as store,
    ):
        session, _ = await talk(old, theirs, "call-1")
        async with anyio.create_task_group() as tasks:

            async def look(worker: Worker) -> None:
                async for offer in worker.offers():
                    assert await recover(offer, SessionManager(store)) is None

            for worker in (b, c):
                tasks.start_soon(look, worker)
            await session.release("test")
            await eventually(lambda: shared.hget(KEYS.session("call-1"), "state") == b"dead_lettered")
            tasks.cancel_scope.cancel()
        found: Any = shared.hmget(KEYS.session("call-1"), "reason", "data")
        assert found == [b"expired", b'{"sequence":42}']


async def test_a_worker_that_gets_the_key_serves_it_in_the_end(
    redis_server: RedisServer, shared: redis.Redis, ring: KeyRing
) -> None:
    """A worker looks again after a while: its ring may have been changed, and then it serves the call."""
    url, rings = redis_server.url, [KeyRing.parse(KeyRing.generate("k2"))]
    async with (
        program(url, "old", keys=ring) as (old, theirs),
        program(url, "blind", keys=lambda: rings[-1]) as (blind, ours),
    ):
        member_of(blind).reluctance.unable_seconds = 0.3
        session, _ = await talk(old, theirs, "call-1")
        await session.release("test")
        assert await recover(await first(blind), ours) is None
        rings.append(ring)
        call = await recover(await first(blind), ours)
        assert call is not None
        assert call.state is not None
        await call.session.close()


async def test_a_key_that_is_missed_after_the_adoption(
    redis_server: RedisServer, shared: redis.Redis, ring: KeyRing
) -> None:
    """A worker that misses the key after the adoption gives the session back; nothing is counted, and its age goes on."""
    url = redis_server.url
    async with (
        program(url, "old", keys=ring) as (old, theirs),
        program(url, "blind") as (blind, no_key),
        program(url, "able", keys=ring) as (able, key),
    ):
        session, _ = await talk(old, theirs, "call-1")
        await session.release("test")
        since, before = shared.hget(KEYS.session("call-1"), "orphaned_at"), attempts(shared, "call-1")
        adopted = await blind.adopt("call-1")
        assert adopted is not None
        with pytest.raises(KeyUnknownError):
            await restore(adopted, no_key)
        assert adopted.closed.is_set()
        assert attempts(shared, "call-1") == before
        assert shared.hget(KEYS.session("call-1"), "orphaned_at") == since
        assert shared.zscore(KEYS.orphans, "call-1") == float(since or 0)
        call = await recover(await first(able), key)
        assert call is not None
        assert call.state is not None
        await call.session.close()


async def test_a_session_that_was_served_for_long_begins_its_age_anew(
    redis_server: RedisServer, shared: redis.Redis
) -> None:
    """Given back long after it was adopted, the caller was served meanwhile: the orphan is young."""
    url = redis_server.url
    async with Worker(url, name="a") as a, Worker(url, name="b") as b:
        await (await a.open("call-1")).release()
        session = await b.adopt("call-1")
        assert session is not None
        shared.hset(KEYS.session("call-1"), mapping={"adopted_at": 1000, "orphaned_at": 900})
        await session.cannot_serve()
        assert float(shared.hget(KEYS.session("call-1"), "orphaned_at") or 0) > 1000
        again = await a.adopt("call-1")
        assert again is not None
        await again.close()


async def test_a_store_that_does_not_fit_gives_the_call_to_others(
    redis_server: RedisServer, shared: redis.Redis
) -> None:
    """Another tenant's session, or a store elsewhere: the error is raised, and the call is offered to others."""
    url = redis_server.url
    async with program(url, "a") as (old, _), program(url, "b", tenant="other") as (new, ours):
        await (await old.open("call-1", tenant="acme")).release()
        with pytest.raises((TenantError, ConfigurationError)):
            await recover(await first(new), ours)
        assert shared.hget(KEYS.session("call-1"), "state") == b"offered"
        again = await old.adopt("call-1")
        assert again is not None
        await again.close()


async def test_another_is_quicker(redis_server: RedisServer, shared: redis.Redis) -> None:
    """When another adopted it first there is no call, and nothing is raised."""
    url = redis_server.url
    async with program(url, "a") as (old, theirs), program(url, "b") as (new, ours):
        session, _ = await talk(old, theirs, "call-1")
        await session.release()
        offer = await first(new)
        again = await old.adopt("call-1")
        assert again is not None
        assert await recover(offer, ours) is None
        await again.close()


async def test_in_a_handler(redis_server: RedisServer, shared: redis.Redis) -> None:
    """A handler of `serve` restores the conversation of whatever session it is given, and one without the key gives it back."""
    url, ring = redis_server.url, KeyRing.parse(KeyRing.generate("k1"))
    heard: list[int] = []
    async with (
        program(url, "old", keys=ring) as (old, theirs),
        program(url, "blind") as (blind, no_key),
        program(url, "able", keys=ring) as (able, key),
    ):

        async def without(session: Session) -> None:
            await restore(session, no_key)

        async def handler(session: Session) -> None:
            call = await restore(session, key)
            assert call.state is not None
            heard.append(len(call.state.history))

        session, _ = await talk(old, theirs, "call-1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(blind.serve, without)
            await session.release("test")
            await eventually(lambda: member_of(blind).reluctance.is_unable("call-1"))
            tasks.start_soon(able.serve, handler)
            await eventually(lambda: heard == [2])
            await eventually(lambda: shared.hget(KEYS.session("call-1"), "state") == b"closed")
            tasks.cancel_scope.cancel()
