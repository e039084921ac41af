"""A comparison with the store acts on what it sees in the moment of acting, and under the epoch that it saw."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from coordinator import StoreUnavailableError, Worker
from coordinator.store.keys import Keys
from tests import inside
from tests.inside import member_of
from tests.outcomes.faulty import FaultyExecutor
from tests.records import state
from tests.store.harness import Bench
from tests.waiting import eventually

KEYS = Keys("recovery", 0)


def faulty(worker: Worker) -> FaultyExecutor:
    """A way to the store that loses what it is told to."""
    member = member_of(worker)
    return FaultyExecutor.before(member.part.executor, lambda: None)


def compare(worker: Worker) -> None:
    member_of(worker).resync.want("roll_call", "told to look")


async def test_what_came_meanwhile_is_not_given_up(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two calls that only the store names one is opened while the other is given up: it stays."""
    async with Worker(url, name="a", heartbeat_interval="300ms", dead_after="30s") as worker:
        bench, member = Bench(redis_client), member_of(worker)
        spot = inside.giving_up_spot(member.resync)
        plain = getattr(*spot)
        epochs: list[int] = []

        async def give_up(session_id: str, stored: Any) -> None:
            if session_id == "call-1":
                epochs.append((await worker.open("call-2", b"data")).epoch)
            await plain(session_id, stored)

        monkeypatch.setattr(*spot, give_up)
        for call in ("call-1", "call-2"):
            bench.open(call, worker.id, b"data")
        compare(worker)
        await eventually(lambda: state(redis_client, "call-1") == "offered")
        await eventually(lambda: redis_client.hget(KEYS.instance(worker.id), "roll") == b"%d" % member.ledger.digest)
        assert state(redis_client, "call-2") == "active"
        [session] = worker.sessions
        assert session.held
        assert [session.epoch] == epochs, "nor is it stated again"


async def test_what_is_being_taken_is_left_alone(url: str, redis_client: redis.Redis) -> None:
    """Somebody has the turn at a call that only the store names: it is given up when nobody has."""
    async with Worker(url, name="a") as worker:
        member = member_of(worker)
        Bench(redis_client).open("call-1", worker.id, b"data")
        async with member.turns.of("call-1"):
            await inside.compare(member)
            assert state(redis_client, "call-1") == "active"
        compare(worker)
        await eventually(lambda: state(redis_client, "call-1") == "offered")


async def test_a_give_up_under_an_epoch_that_moved_is_refused_and_no_more(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its epoch moved after it was read: the store refuses, and the instance lives on under its id."""
    async with Worker(url, name="a") as worker:
        bench, member, instance = Bench(redis_client), member_of(worker), worker.id
        bench.open("call-1", worker.id, b"data")
        spot = inside.giving_up_spot(member.resync)
        plain = getattr(*spot)
        told: list[int] = []

        async def give_up(session_id: str, stored: Any) -> None:
            if not told:
                bench.open("call-1", worker.id, b"data")  # taken again, and lost sight of again
            told.append(stored.epoch)
            await plain(session_id, stored)

        monkeypatch.setattr(*spot, give_up)
        compare(worker)
        await eventually(lambda: state(redis_client, "call-1") == "offered")
        assert len(set(told)) == 2
        assert worker.id == instance


async def test_an_unknown_outcome_is_looked_at_without_a_roll_call(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An opening had no answer, and no heartbeat says a word: the instance asks by itself what became of it."""
    async with inside.impatient(Worker(url, name="a"), 0.1) as worker:
        store = faulty(worker)
        inside.hear_no_beats(monkeypatch, member_of(worker))
        store.arm("open", "unanswered")
        with pytest.raises(StoreUnavailableError):
            await worker.open("call-1", b"data")
        assert state(redis_client, "call-1") == "active"
        store.mend()
        await eventually(lambda: state(redis_client, "call-1") == "offered")


async def test_who_opens_an_id_whose_end_is_under_way_gets_another_call(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close has no answer yet: the opening waits for it, and what it returns is not what was closed."""
    async with inside.impatient(Worker(url, name="a"), 0.2) as worker:
        store = faulty(worker)
        first = await worker.open("call-1", b"data")
        store.arm("close", "lost")
        with pytest.raises(StoreUnavailableError):
            await first.close()
        with pytest.raises(StoreUnavailableError):
            await worker.open("call-1", b"another")
        store.mend()
        second: list[Any] = []

        async def opened() -> bool:
            second[:] = [await worker.open("call-1", b"another")]
            return True

        await eventually(opened)
        assert second[0] is not first
        assert second[0].epoch > first.epoch
        assert first.closed.is_set()
        assert second[0].held


async def test_an_index_entry_without_a_record_heals(url: str, redis_client: redis.Redis) -> None:
    """The index of a worker names a session that nobody knows: it is taken out, and the others are held all the while or again."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"data")
        redis_client.sadd(KEYS.owned(worker.id), "ghost")
        await eventually(lambda: not redis_client.sismember(KEYS.owned(worker.id), "ghost"))
        await eventually(lambda: session.held)
        assert state(redis_client, "call-1") == "active"
