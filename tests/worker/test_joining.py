"""An instance comes into the world: nothing stands between its registration and its first beat, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Any

import anyio
import pytest
import redis

from coordinator import NameInUseError, Worker, clock
from coordinator.store import calls, reads
from coordinator.store.keys import Keys
from coordinator.worker.registration import Registration
from tests import inside
from tests.inside import instance_of, member_of
from tests.store.harness import Bench
from tests.waiting import eventually

FIRST = Keys("recovery", 0)


def deadline(client: redis.Redis) -> int:
    """The only instance's in the first partition; 0 for none."""
    found: Any = client.zrange(FIRST.instances, 0, -1, withscores=True)
    return int(found[0][1]) if found else 0


def later(client: redis.Redis, before: int) -> bool:
    """Whether it beat since then."""
    return deadline(client) > before


def stopped_at(monkeypatch: pytest.MonkeyPatch, method: str, partition: int) -> anyio.Event:
    """There a starting worker does not get on before the event is set."""
    original: Callable[..., Awaitable[Any]] = getattr(Registration, method)
    go_on = anyio.Event()

    @wraps(original)
    async def waits(member: Registration, *arguments: Any, **named: Any) -> Any:
        if inside.partition_of(member) == partition:
            await go_on.wait()
        return await original(member, *arguments, **named)

    monkeypatch.setattr(Registration, method, waits)
    return go_on


@pytest.mark.parametrize(("method", "partition"), [("check_store", 1), ("join", 1), ("take_up", 0)])
async def test_it_beats_while_the_rest_of_it_starts(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, method: str, partition: int
) -> None:
    """Registered in one partition, it beats there, however long the other one or the taking up takes."""
    go_on = stopped_at(monkeypatch, method, partition)
    async with anyio.create_task_group() as tasks:

        async def start() -> None:
            worker = Worker(url, name="a", partitions=2)
            instance_of(worker).instances = {0: "a-0", 1: "a-1"} if method == "take_up" else {}
            async with worker:
                pass

        tasks.start_soon(start)
        await eventually(lambda: deadline(redis_client) > 0)
        for _ in range(2):
            before = deadline(redis_client)
            await eventually(partial(later, redis_client, before))
        go_on.set()


async def test_one_that_could_not_start_leaves_its_place(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused in one partition it says good-bye in the others: nobody has to find out by its silence."""
    join = Registration.join

    async def refused(member: Registration, patience: float | None = None) -> None:
        if inside.partition_of(member) == 1:
            raise NameInUseError("a", "a-other")
        await join(member, patience)

    monkeypatch.setattr(Registration, "join", refused)
    with pytest.raises(NameInUseError):
        async with Worker(url, name="a", partitions=2):
            raise AssertionError("it must not start")
    instance: Any = redis_client.hget(FIRST.names, "a")
    assert redis_client.hmget(FIRST.instance(instance.decode()), "state", "cause") == [b"dead", b"left"]
    assert deadline(redis_client) == 0


OWNED = [f"call-{n}" for n in range(6)]


@pytest.fixture
def left_behind(redis_client: redis.Redis) -> Bench:
    """An instance that lives and has six calls, and whose process is another one now."""
    bench = Bench(redis_client)
    bench.init()
    bench.join("w~1", dead_after_ms=60_000)
    for call in OWNED:
        bench.open(call, "w~1")
    return bench


@asynccontextmanager
async def taking_up(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Worker, anyio.Event]]:
    """A worker that goes on with it, and stops after two of its calls until the event is set; entered when the block ends."""
    record, found, go_on = reads.record, 0, anyio.Event()

    async def waits(part: Any, session_id: str) -> Any:
        nonlocal found
        if found == 2:
            await go_on.wait()
        found += 1
        return await record(part, session_id)

    monkeypatch.setattr(reads, "record", waits)
    worker, entered, over = Worker(url, name="w"), anyio.Event(), anyio.Event()
    instance_of(worker).instances = {0: "w~1"}

    async def live() -> None:
        async with worker:
            entered.set()
            await over.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        await eventually(lambda: found == 2)
        yield worker, go_on
        go_on.set()
        await entered.wait()
        over.set()


async def beats(client: redis.Redis, times: int) -> None:
    """The instance beats so often."""
    for _ in range(times):
        await eventually(partial(later, client, deadline(client)))


async def test_what_is_not_taken_up_yet_is_not_given_away(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, left_behind: Bench
) -> None:
    """Redis loses writes meanwhile, and the hold for that ends: the store and this process agree when all is taken up, not before."""
    async with taking_up(url, monkeypatch) as (worker, go_on):
        redis_client.hset(FIRST.meta, "lineage", "another")
        await beats(redis_client, 2)
        left_behind.end_hold()
        await beats(redis_client, 4)
        assert {left_behind.record(call)["state"] for call in OWNED} == {"active"}
        go_on.set()
        await eventually(lambda: len(worker.sessions) == 6 and all(session.held for session in worker.sessions))
        assert {left_behind.record(call)["owner"] for call in OWNED} == {"w~1"}
        for session in worker.sessions:
            await session.close()


async def test_it_is_trusted_meanwhile(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, left_behind: Bench
) -> None:
    """Taking up lasts longer than a trust window: beats renew it, though not all that the store counts is here yet."""
    async with taking_up(url, monkeypatch) as (worker, go_on):
        began = clock.now()
        await eventually(lambda: clock.now() - began > 2 * worker.settings.trust_window)
        await beats(redis_client, 1)
        assert member_of(worker).ledger.trust_window.held(clock.now())
        go_on.set()
        await eventually(lambda: len(worker.sessions) == 6)
        for session in worker.sessions:
            await session.close()


async def test_a_drain_meanwhile_is_of_all(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, left_behind: Bench
) -> None:
    """It is told to drain before all is taken up: then every call is handed over, not only what it had by then."""

    async def takes(heir: Worker) -> None:
        async for offer in heir.offers():
            await offer.adopt()

    async with Worker(url, name="heir") as heir, anyio.create_task_group() as tasks:
        tasks.start_soon(takes, heir)
        async with taking_up(url, monkeypatch) as (_, go_on):
            left_behind.run(calls.drain(left_behind.keys, instance="w~1", reason="a rollout", by="test"))
            await beats(redis_client, 2)
            go_on.set()
            await eventually(lambda: len(heir.sessions) == 6)
            assert all(session.planned for session in heir.sessions), "each was served until its heir had it"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("turns", [1, 3, 10, 30, 100])
async def test_a_cancelled_start_leaves_nobody_alive(url: str, redis_client: redis.Redis, turns: int) -> None:
    """Cancelled at some moment of it, with four partitions: no instance is left to be found by its silence."""

    async def start() -> None:
        async with Worker(url, name="a", partitions=4):
            await anyio.sleep_forever()

    task = asyncio.create_task(start())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [redis_client.zcard(Keys("recovery", n).instances) for n in range(4)] == [0] * 4
