"""A value that parses and cannot be, in the store while a death is pending: it costs its own record at most, and nobody else waits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
import redis
import structlog

from coordinator import Session, Worker
from coordinator.store.keys import Keys
from tests.coordinating import coordinating
from tests.inside import instance_of
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
OFFERS = KEYS.offers("default")
LAST = "18446744073709551615"
"""The largest number that an entry's id may have."""
CALLS = 4

Injected = Callable[[Any, str], object]
"""Gets a client and the instance that is about to die."""


def field(name: str, value: str) -> Injected:
    """Of the record of one of its calls."""
    return lambda client, dead: client.hset(KEYS.session("call-0"), name, value)


def of_instance(name: str, value: str) -> Injected:
    """Of its own record."""
    return lambda client, dead: client.hset(KEYS.instance(dead), name, value)


def group_ahead(client: Any, dead: str) -> None:
    """The readers of offers have passed all that will ever be written."""
    with contextlib.suppress(redis.ResponseError):  # somebody has read already
        client.xgroup_create(OFFERS, "workers", 0, mkstream=True)
    client.xgroup_setid(OFFERS, "workers", "9999999999999-0")


LAST_EPOCH = "the last epoch"
INJECTED: dict[str, Injected] = {
    "an entry that is no id of Redis": field("offer_id", "99999999999999999999-0"),
    "an entry of sixteen digits": field("offer_id", "9999999999999999-9999999999999999"),
    "an epoch far ahead": field("epoch", "89999999999990"),
    LAST_EPOCH: field("epoch", "99999999999999"),
    "a silence of ages": of_instance("dead_after_ms", "9999999999999999"),
    "a trust of ages": of_instance("trust_ms", "999999999999"),
    "the last entry of the offers": lambda client, dead: client.xadd(OFFERS, {"x": "y"}, id=f"{LAST}-{LAST}"),
    "an entry of offers far ahead": lambda client, dead: client.xadd(OFFERS, {"x": "y"}, id=f"{LAST}-0"),
    "readers that have passed all offers": group_ahead,
    "the last entry of the events": lambda client, dead: client.xadd(KEYS.events, {"x": "y"}, id=f"{LAST}-{LAST}"),
    "an entry of events far ahead": lambda client, dead: client.xadd(KEYS.events, {"x": "y"}, id=f"{LAST}-0"),
    "holds of ages": lambda client, dead: client.hset(KEYS.detector, "held_total_ms", "9999999999999999"),
}


@pytest.mark.parametrize("what", INJECTED)
async def test_the_calls_of_the_dead_are_adopted(url: str, redis_client: Any, what: str) -> None:
    """All of them, by the heir that has room, none as a dead letter; and then those of the heir, by the next.

    Above the last epoch there is none: that call alone is given up on.
    """
    served: dict[str, str] = {}

    def handler(name: str) -> Callable[[Session], Any]:
        async def serve(session: Session) -> None:
            served[session.id] = name
            await session.lost.wait()

        return serve

    opened = {f"call-{n}" for n in range(CALLS)}
    calls = opened - ({"call-0"} if what == LAST_EPOCH else set())
    async with coordinating(url), anyio.create_task_group() as tasks, Worker(url, name="next") as following:
        async with Worker(url, name="heir") as heir:
            async with Worker(url, name="owner") as owner:
                tasks.start_soon(heir.serve, handler("heir"))
                for call in sorted(opened):
                    await owner.open(call, call.encode())
                INJECTED[what](redis_client, owner.id)
                await instance_of(owner).end("exited", "it was killed")
            await eventually(lambda: served.keys() >= calls, 20)
            assert redis_client.zcard(KEYS.dead_letters) == len(opened) - len(calls)
            served.clear()
            tasks.start_soon(following.serve, handler("next"))
            await instance_of(heir).end("exited", "it was killed too")
        await eventually(lambda: served == dict.fromkeys(calls, "next"), 20)
        assert redis_client.zcard(KEYS.dead_letters) == len(opened) - len(calls)
        tasks.cancel_scope.cancel()
    redis_client.flushall()


async def test_events_go_on_after_an_entry_far_ahead(url: str, redis_client: Any) -> None:
    """They are written again."""
    async with coordinating(url), Worker(url, name="a") as worker:
        redis_client.xadd(KEYS.events, {"x": "y"}, id=f"{LAST}-{LAST}")
        await (await worker.open("call")).release()
        await eventually(lambda: any(row[b"type"] == b"released" for _, row in redis_client.xrange(KEYS.events)))


async def test_an_epoch_near_the_largest_never_falls(url: str, redis_client: Any) -> None:
    """It rises from owner to owner, also where it lifts no other any more, and so does that of a call beside it: no two share one."""
    epochs: dict[str, list[int]] = {"odd": [], "sound": []}

    async def serve(session: Session) -> None:
        epochs[session.id].append(session.epoch)
        await session.lost.wait()

    async with coordinating(url, max_recoveries=100), anyio.create_task_group() as tasks:
        first = Worker(url, name="w0")
        async with first:
            for call in epochs:
                epochs[call].append((await first.open(call)).epoch)
            redis_client.hset(KEYS.session("odd"), "epoch", "89999999999997")
            previous = first
            for n in range(1, 5):
                following = Worker(url, name=f"w{n}")
                await tasks.start(_serving, following, serve)
                await instance_of(previous).end("exited", "it was killed")
                await eventually(partial(_all_have, epochs, n + 1), 20)
                previous = following
        tasks.cancel_scope.cancel()
    for found in epochs.values():
        assert sorted(set(found)) == found
    redis_client.flushall()


def _all_have(epochs: dict[str, list[int]], count: int) -> bool:
    return all(len(found) == count for found in epochs.values())


async def _serving(worker: Worker, handler: Any, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    async with worker:
        task_status.started()
        await worker.serve(handler)


@pytest.mark.parametrize("ahead_ms", [3_600_000, 300_000_000_000])
async def test_a_beat_from_the_future_keeps_nobody_alive(url: str, redis_client: Any, ahead_ms: int) -> None:
    """A dead worker whose last beat is dated ahead is found all the same; a living one is not touched."""
    with structlog.testing.capture_logs() as logs:
        async with coordinating(url) as loop, Worker(url, name="living") as living:
            session = await living.open("living")
            redis_client.hset(
                KEYS.instance("dead~1"),
                mapping={
                    "state": "alive",
                    "name": "dead",
                    "pool": "default",
                    "dead_after_ms": "500",
                    "trust_ms": "250",
                },
            )
            seconds, micros = redis_client.time()
            now_ms = seconds * 1000 + micros // 1000
            redis_client.zadd(KEYS.instances, {"dead~1": now_ms + ahead_ms, living.id: now_ms + ahead_ms})
            await eventually(lambda: redis_client.hget(KEYS.instance("dead~1"), "state") == b"dead", 30)
            assert session.held
            assert loop.up
    assert "time_repaired" in {line["event"] for line in logs}
    redis_client.flushall()
