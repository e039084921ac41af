"""Waiting is not failing: offers behind a slow program, a program that does not answer, handlers that begin with work."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import redis

from coordinator import Offer, Session, Worker, clock
from coordinator.store.keys import Keys
from tests import inside
from tests.coordinating import coordinating
from tests.inside import instance_of, member_of, members_of, serving_of
from tests.store.harness import Bench
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


def orphans(client: redis.Redis, count: int, *, pool: str = "default") -> Bench:
    """So many calls of a dead worker, which a coordinator will offer."""
    bench = Bench(client)
    bench.init()
    bench.end_hold()
    bench.join("dead~1", pool=pool)
    for n in range(count):
        bench.open(f"call-{n}", "dead~1", b"data", pool=pool)
    bench.certify("dead~1")
    return bench


def attempts(bench: Bench, count: int) -> set[str]:
    """With which attempts the calls were adopted."""
    return {bench.record(f"call-{n}").get("attempt", "") for n in range(count)}


def work() -> None:
    """For the processor: the event loop stands still meanwhile."""
    time.sleep(0.03)


async def test_a_slow_program_loses_nothing(url: str, redis_client: redis.Redis) -> None:
    """Forty calls, one after the other, in a time of several leases: all adopted at the first attempt, none a dead letter."""
    bench = orphans(redis_client, 40)
    async with coordinating(url, lease=0.3, max_offers=2), Worker(url, name="a", lease=0.3, max_offers=2) as worker:
        with within(60):
            async for offer in worker.offers():
                assert await offer.adopt() is not None
                await anyio.sleep(0.03)  # its media
                if len(worker.sessions) == 40:
                    break
        assert attempts(bench, 40) == {"1"}


async def test_few_offers_are_in_hand(url: str, redis_client: redis.Redis) -> None:
    """A worker with room for hundreds reads only some of many offers while its program answers none."""
    bench = orphans(redis_client, 100)
    async with coordinating(url), Worker(url, name="a", capacity=500) as worker:
        kept: list[Offer] = []

        async def keep() -> None:
            async for offer in worker.offers():
                kept.append(offer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep)
            await eventually(lambda: kept)
            await eventually(lambda: not bench.members(bench.keys.graves))
            pending: Any = redis_client.xpending(KEYS.offers("default"), "workers")
            assert 0 < pending["pending"] <= 16
            tasks.cancel_scope.cancel()


async def test_what_waits_behind_a_program_that_does_not_answer_goes_on(url: str, redis_client: redis.Redis) -> None:
    """The offer that it sits on is a failed attempt after one lease; those behind it are not, and others serve all."""
    bench = orphans(redis_client, 4)
    async with (
        coordinating(url, lease=0.4),
        Worker(url, name="stuck", lease=0.4) as stuck,
        anyio.create_task_group() as tasks,
    ):
        sat_on: list[Offer] = []

        async def sit() -> None:
            async for offer in stuck.offers():
                sat_on.append(offer)
                await anyio.sleep_forever()

        tasks.start_soon(sit)
        await eventually(lambda: sat_on)
        async with Worker(url, name="well", lease=0.4) as well:

            async def adopt() -> None:
                async for offer in well.offers():
                    await offer.adopt()

            tasks.start_soon(adopt)
            await eventually(lambda: len(well.sessions) == 4, 20)
            tasks.cancel_scope.cancel()
            waited = {f"call-{n}" for n in range(4)} - {sat_on[0].session_id}
            assert {bench.record(call)["attempt"] for call in waited} == {"1"}
            assert bench.record(sat_on[0].session_id)["attempt"] == "2"
            assert await sat_on[0].adopt() is None, "its answer comes too late"


async def test_an_offer_in_hand_is_kept(url: str, redis_client: redis.Redis) -> None:
    """While the program works through it the lease of an offer begins anew, again and again."""
    bench = orphans(redis_client, 2)
    async with coordinating(url, lease=0.6), Worker(url, name="a", lease=0.6) as worker:
        instance_of(worker).begin_reading()
        reader = member_of(worker).reader
        await eventually(lambda: reader.in_hand() > 0)
        [first, *_] = inside.known_offers(reader).values()

        def ends_after(before: int) -> bool:
            return int(bench.record(first.session_id)["lease_until"]) > before

        for _ in range(3):
            before = int(bench.record(first.session_id)["lease_until"])
            first.given()
            reader.offers_in_hand.progress = clock.now()  # as though it had answered another
            await eventually(partial(ends_after, before))
        assert first.in_hand


async def test_a_worker_with_room_is_asked_again(url: str, redis_client: redis.Redis) -> None:
    """A program that did not get to its offers is given new ones as soon as it asks for them."""
    orphans(redis_client, 3)
    async with coordinating(url, lease=0.3), Worker(url, name="a", lease=0.3) as worker:
        offers = worker.offers()
        first = await anext(offers)
        hand = instance_of(worker).offers_in_hand
        await eventually(lambda: inside.is_stalled(hand))
        await first.decline("too late", counts=False)
        taken = 0
        with within(20):
            async for offer in offers:
                taken += (await offer.adopt()) is not None
                if taken == 3:
                    break


async def test_handlers_begin_one_after_the_other(url: str, redis_client: redis.Redis) -> None:
    """Calls whose handlers begin with work for the processor: a live call has its turn between any two of them."""
    orphans(redis_client, 20)
    told: list[str] = []

    async def handler(session: Session) -> None:
        if session.id == "live":
            while True:
                told.append("live")
                await anyio.sleep(0.005)
        told.append("start")
        work()
        await anyio.sleep_forever()

    async with Worker(url, name="a", capacity=100) as worker, anyio.create_task_group() as tasks:
        await worker.open("live")
        tasks.start_soon(worker.serve, handler)
        await eventually(lambda: "live" in told)
        async with coordinating(url):
            await eventually(lambda: told.count("start") == 20, 30)
        tasks.cancel_scope.cancel()
    runs = "".join("s" if one == "start" else "." for one in told)
    assert "ss" not in runs, "two handlers began their work without a turn of the live call in between"


async def test_many_light_handlers_begin_together(url: str, redis_client: redis.Redis) -> None:
    """Where nothing holds the loop up the pace does not either: several start in one go."""
    bench = orphans(redis_client, 60)
    together: list[int] = []

    async def handler(session: Session) -> None:
        await anyio.sleep_forever()

    async with Worker(url, name="a", capacity=100) as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve, handler)
        async with coordinating(url):
            await eventually(lambda: serving_of(worker) is not None)

            def all_are_served() -> bool:
                serving = serving_of(worker)
                assert serving is not None
                together.append(inside.started_together(serving))
                return len(worker.sessions) == 60

            await eventually(all_are_served, 30)
        tasks.cancel_scope.cancel()
    assert max(together) > 1
    assert attempts(bench, 60) == {"1"}


@pytest.mark.usefixtures("leaves_at_once")
@pytest.mark.parametrize(("rooms", "most"), [((100, 100), 30), ((20, 100), 18)])
async def test_calls_of_one_death_are_spread_by_room(
    url: str, redis_client: redis.Redis, rooms: tuple[int, int], most: int
) -> None:
    """Forty calls of one death: two workers share them as they share the room, whoever reads first."""
    bench = orphans(redis_client, 40)
    async with (
        Worker(url, name="a", capacity=rooms[0]) as a,
        Worker(url, name="b", capacity=rooms[1]) as b,
        anyio.create_task_group() as tasks,
    ):

        async def adopt(worker: Worker) -> None:
            async for offer in worker.offers():
                await offer.adopt()

        for member in [*members_of(a), *members_of(b)]:
            member.reader.spread_seconds = 3.0  # a busy machine is slow, and what they share is no matter of speed
        tasks.start_soon(adopt, a)
        tasks.start_soon(adopt, b)
        async with coordinating(url):
            await eventually(lambda: len(a.sessions) + len(b.sessions) == 40, 20)
        assert 5 <= len(a.sessions) <= most
        assert attempts(bench, 40) == {"1"}
        tasks.cancel_scope.cancel()


async def test_no_two_handlers_begin_in_one_turn(url: str, redis_client: redis.Redis) -> None:
    """Twenty that were opened before and twenty that are adopted: the event loop turns over between any two beginnings."""
    orphans(redis_client, 20)
    turns, begun = 0, []

    async def handler(session: Session) -> None:
        begun.append(turns)
        await anyio.sleep_forever()

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with coordinating(url), Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        for n in range(20):
            await worker.open(f"own-{n}")
        tasks.start_soon(turn)
        tasks.start_soon(worker.serve, handler)
        await eventually(lambda: len(begun) == 40)
        tasks.cancel_scope.cancel()
    assert len(set(begun)) == 40


async def test_a_pause_is_no_failed_attempt(url: str, redis_client: redis.Redis) -> None:
    """An offer is older than a lease since the whole process stood still: the program has its lease from then on."""
    orphans(redis_client, 1)
    async with coordinating(url), Worker(url, name="a") as worker:
        async for offer in worker.offers():
            [member] = members_of(worker)
            now = clock.now()
            offer.given_at = member.reader.offers_in_hand.progress = now - 60.0
            member.ledger.trust_window.stalled = now
            await inside.give_back_overdue(member.reader)
            assert offer.in_hand
            assert not offer.answering
            member.ledger.trust_window.stalled = now - 30.0
            await inside.give_back_overdue(member.reader)
            assert not offer.in_hand
            break


async def test_who_is_nearly_full_leaves_them_to_who_has_room(url: str, redis_client: redis.Redis) -> None:
    """A worker with one free place beside one with a hundred: all five calls of a death go to the latter."""
    served: list[str] = []

    def handler(who: str) -> Any:
        async def serve(_: Session) -> None:
            served.append(who)
            await anyio.sleep_forever()

        return serve

    async with (
        coordinating(url),
        Worker(url, name="full", capacity=1) as full,
        Worker(url, name="roomy") as roomy,
        Worker(url, name="owner") as owner,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(full.serve, handler("full"))
        tasks.start_soon(roomy.serve, handler("roomy"))
        for n in range(5):
            await owner.open(f"call-{n}", b"x")
        await eventually(lambda: redis_client.hget(KEYS.detector, "last_scan_ms") is not None)
        await instance_of(owner).end("exited", "it was killed")
        await eventually(lambda: len(served) == 5, 20)
        assert served == ["roomy"] * 5
        for worker in (full, roomy):
            instance_of(worker).abandon()
        tasks.cancel_scope.cancel()
    redis_client.flushall()
