"""A worker and a store that disagree: what each of them does until they agree again."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import redis

from coordinator import Worker
from coordinator.store import calls
from coordinator.store.keys import Keys
from coordinator.store.past import Past
from coordinator.store.scripts import SCRIPTS, ScriptCall
from tests import inside
from tests.inside import member_of
from tests.proxy import Proxy
from tests.records import state
from tests.redis_server import RedisServer
from tests.store.harness import Bench
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


async def test_a_session_that_only_the_store_lists_is_offered_to_others(
    url: str, redis_client: redis.Redis, redis_server: RedisServer
) -> None:
    """An adoption whose answer was lost for good: the roll call finds it, and others get the call."""
    proxy = Proxy(redis_server.path)
    try:
        async with Worker(url, name="a") as a, Worker(proxy.url, name="b") as b:
            await (await a.open("call-1", b"data")).release()
            async for offer in b.offers():
                inside.set_time_limit(member_of(b).part.executor, 0.3)
                proxy.lose_reply_to(SCRIPTS["adopt"].sha.encode())
                with anyio.move_on_after(0.02):  # the program gives up before the answer and its repetition
                    await offer.adopt()
                break
            taken = None
            with within(15):
                while taken is None:
                    taken = await a.adopt("call-1", wait=1)
            assert taken.recovery_data == b"data"
    finally:
        proxy.close()


async def test_a_session_that_was_closed_is_closed_again(url: str, redis_client: redis.Redis) -> None:
    """A failover forgot the end of a call: the roll call ends it again, and nobody is offered it."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"data")
        before: Any = redis_client.hgetall(KEYS.session("call-1"))
        await session.close()
        redis_client.hset(KEYS.session("call-1"), mapping=before)
        redis_client.persist(KEYS.session("call-1"))
        redis_client.sadd(KEYS.owned(worker.id), "call-1")
        await eventually(lambda: state(redis_client, "call-1") == "closed")


async def test_a_session_that_the_store_forgot_is_stated_again(url: str, redis_client: redis.Redis) -> None:
    """Its record and index are gone: the owner states them again, under a higher epoch, and goes on."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"data")
        before = session.epoch
        redis_client.delete(KEYS.session("call-1"), KEYS.owned(worker.id))
        await eventually(lambda: session.epoch > before and session.held)
        await session.checkpoint(b"more")
        assert redis_client.hget(KEYS.session("call-1"), "data") == b"more"


def forgetful(monkeypatch: pytest.MonkeyPatch, *scripts: str) -> None:
    """What is sent with these scripts says nothing of a past."""
    for script in scripts:
        plain = getattr(calls, script)

        def silent(
            *args: Any, plain: Any = plain, script: str = script, past: Past | None = None, **kwargs: Any
        ) -> ScriptCall[Any]:
            lineage = past.lineage if past and script == "beat" else ""  # by which it is known to agree
            made: ScriptCall[Any] = plain(*args, past=Past(lineage), **kwargs)
            return made

        monkeypatch.setattr(calls, script, silent)


@pytest.mark.usefixtures("leaves_at_once")
@pytest.mark.parametrize("silent", [(), ("beat",), ("join",)], ids=["both", "joining", "beating"])
async def test_a_wipe_found_first_by_a_stranger_is_held_and_its_epochs_rise(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, silent: tuple[str, ...]
) -> None:
    """Beats and joining tell the new partition of the past, each alone: one hold, and epochs above the highest."""
    bench = Bench(redis_client)
    async with Worker(url, name="a") as worker:
        redis_client.hset(KEYS.meta, "epoch_floor", 10**13)  # as after a server whose clock was ahead
        session = await worker.open("call-1", b"data")
        closed = await worker.open("call-2", b"data")
        await closed.close()
        before, highest = session.epoch, max(session.epoch, closed.epoch)
        forgetful(monkeypatch, *silent)
        bench.wipe()
        bench.join("stranger~1")
        await eventually(lambda: redis_client.hget(KEYS.detector, "hold_reason") == b"lost_writes")
        assert bench.open("call-2", "stranger~1").word == "HELD"
        await eventually(lambda: session.held and session.epoch > before)
        assert bench.open("call-2", "stranger~1").int("epoch") > highest > 10**13
        assert member_of(worker).ledger.past.epoch >= session.epoch, "the renewed one is remembered too"
        events: Any = redis_client.xrange(KEYS.events)
        holds = [fields for _, fields in events if fields[b"type"] == b"hold"]
        assert len(holds) == 1


async def test_who_makes_a_wiped_partition_and_remembers_holds_it(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stranger came: the worker itself makes it anew, and says that there was one before."""
    forgetful(monkeypatch, "join", "beat")
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"data")
        before = session.epoch
        redis_client.flushdb()
        await eventually(lambda: redis_client.hget(KEYS.detector, "hold_reason") == b"lost_writes")
        await eventually(lambda: session.held and session.epoch > before)


async def test_what_was_taken_up_is_remembered(url: str, redis_client: redis.Redis) -> None:
    """The epoch of a session counts as seen however it became ours, as when another process stood for its owner before."""
    async with Worker(url, name="a") as worker:
        session, member = await worker.open("call-1", b"data"), member_of(worker)
        member.ledger.past.epoch = 0
        await member.take_up()
        assert member.ledger.past.epoch == session.epoch


async def test_an_empty_store_is_filled_again(url: str, redis_client: redis.Redis) -> None:
    """Everything is wiped: instance, sessions and data are back under higher epochs, and nothing was lost."""
    async with Worker(url, name="a") as worker:
        sessions = [await worker.open(f"call-{n}", b"%d" % n) for n in range(20)]
        before = [s.epoch for s in sessions]
        redis_client.flushall()
        await eventually(lambda: all(s.held and s.epoch > e for s, e in zip(sessions, before, strict=True)), 20)
        assert not any(s.lost.is_set() for s in sessions)
        assert [redis_client.hget(KEYS.session(f"call-{n}"), "data") for n in range(20)] == [
            b"%d" % n for n in range(20)
        ]


async def test_of_two_who_believe_the_higher_epoch_wins(url: str, redis_client: redis.Redis) -> None:
    """After a wipe somebody else stated the session with a higher epoch: ours is lost, and said so."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"data")
        redis_client.flushall()
        bench = Bench(redis_client)
        bench.init(hold_ms=60_000)
        bench.join("b~1")
        bench.reassert("call-1", "b~1", session.epoch + 1_000_000, 0, b"newer")
        with within(10):
            await session.lost.wait()
        assert not session.held
        assert bench.record("call-1")["owner"] == "b~1"


async def test_a_rolled_back_epoch_is_answered_by_stating_it_again(url: str, redis_client: redis.Redis) -> None:
    """A write above the stored epoch is no fencing: the owner states what it holds, and the write succeeds."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"data")
        epoch = session.epoch
        redis_client.hset(KEYS.session("call-1"), "epoch", epoch - 1000)
        await session.checkpoint(b"more")
        assert not session.lost.is_set()
        assert session.epoch > epoch
        assert redis_client.hget(KEYS.session("call-1"), "data") == b"more"


async def test_a_session_that_came_during_a_resync_is_held_after_it(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes are found lost again while a resync ends: what was opened in between is stated again too."""
    async with Worker(url, name="a") as worker:
        resync = member_of(worker).resync
        spot = inside.comparison_spot(resync)
        compare, reached, go = getattr(*spot), anyio.Event(), anyio.Event()

        async def slow_compare() -> None:
            reached.set()
            await go.wait()
            await compare()

        monkeypatch.setattr(*spot, slow_compare)
        resync.want("lost_writes", "first")
        await reached.wait()
        session = await worker.open("call-1")
        resync.want("lost_writes", "second")
        assert not session.held
        go.set()
        await eventually(lambda: session.held)


async def test_a_write_under_way_while_its_session_is_renewed(url: str, redis_client: redis.Redis) -> None:
    """The store has the new epoch, this worker learns it a moment later: the write is no former owner's, and succeeds."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"data")
        epoch = session.epoch + 5
        redis_client.hset(KEYS.session("call-1"), mapping={"epoch": epoch, "checkpoint": 0})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.checkpoint, b"more")
            await anyio.wait_all_tasks_blocked()
            session.epoch, session.sequence = epoch, 0
        assert not session.lost.is_set()
        assert redis_client.hget(KEYS.session("call-1"), "data") == b"more"


async def test_after_too_long_a_silence_an_instance_starts_over(url: str, redis_client: redis.Redis) -> None:
    """Forgotten by the store and silent for more than half of fenced_ttl: a new id, and what it held is lost."""
    async with Worker(url, name="a", fenced_ttl=1.0) as worker:
        session, before = await worker.open("call-1", b"data"), worker.id
        member_of(worker).ledger.trust_window.sent -= 10
        member_of(worker).stop_beating()  # no beat in between
        member_of(worker).resync.want("unknown", "the store does not know this instance")
        with within(10):
            await session.lost.wait()
        await eventually(lambda: worker.id != before)
