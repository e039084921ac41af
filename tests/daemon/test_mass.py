"""Many at once: who is silent, which graves wait, and whose room counts while the mass breaker is open."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import redis

from coordinator.daemon.claimer import Claimer
from coordinator.daemon.detector import Look
from coordinator.daemon.partition_loop import MOST_BURIALS, PartitionLoop
from coordinator.policy import Candidate, Suspect, released
from coordinator.store import calls
from tests import inside
from tests.coordinating import partition_loop
from tests.store.harness import LEASE, Bench
from tests.waiting import eventually, within

FAST: dict[str, Any] = {
    "heartbeat_interval": 0.05, "dead_after": 0.4, "max_scan_gap": 0.2, "lost_connection_after": 0, "safety_margin": 0.05,
}  # fmt: skip


def now_ms(bench: Bench) -> int:
    """By the server's clock."""
    seconds, micros = bench.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def until_declared(loop: PartitionLoop, bench: Bench, count: int) -> list[int]:
    """Looks until so many are dead; how many were declared in each look that declared any."""
    declared: list[int] = []
    with within(30):
        while bench.client.zcard(bench.keys.graves) < count:
            found = await loop.look()
            if found.buried:
                declared.append(len(found.buried))
            await anyio.sleep(0.02)
    return declared


@pytest.mark.parametrize("most", [1000, 300])
async def test_all_that_fall_silent_at_once_are_declared_at_once(
    url: str, redis_client: redis.Redis, most: int
) -> None:
    """1,100 silent instances, more than one look names: read page by page, watched, and declared together."""
    bench = Bench(redis_client)
    bench.init(hold_ms=2000)
    pipe = bench.client.pipeline(transaction=False)
    for n in range(1100):
        pipe.zadd(bench.keys.instances, {f"i{n}~1": now_ms(bench) + 10})
        pipe.hset(bench.keys.instance(f"i{n}~1"), mapping={"state": "alive", "name": f"i{n}", "pool": "default",
                  "capacity": 5, "dead_after_ms": 2000, "trust_ms": 1750, "started_at": 1, "labels": "{}"})  # fmt: skip
    pipe.execute()
    async with partition_loop(url, lost_connection_after=0) as loop:
        loop.detector.page = most
        await loop.look()
        bench.end_hold()
        declared = await until_declared(loop, bench, 1100)
    assert sum(declared) == 1100
    assert declared[0] > 100
    assert len(declared) <= 4, "on a busy machine a look may last longer than a gap between looks is allowed to"


async def test_a_look_compares_nobody_with_everybody(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 400 silent instances that are not declared yet, one look compares each with a few at most."""
    bench = Bench(redis_client)
    bench.init(hold_ms=400)
    pipe = bench.client.pipeline(transaction=False)
    for n in range(400):
        pipe.zadd(bench.keys.instances, {f"i{n}~1": now_ms(bench) - 10})
        pipe.hset(bench.keys.instance(f"i{n}~1"), mapping={"state": "alive", "dead_after_ms": 400, "trust_ms": 350})
    pipe.execute()
    compared, plain = 0, Suspect.__eq__

    def counts(one: Suspect, other: object) -> bool:
        nonlocal compared
        compared += 1
        return plain(one, other)

    async with partition_loop(url, **FAST) as loop:
        await loop.look()
        await anyio.sleep(0.3)  # each is watched for half of its time
        monkeypatch.setattr(Suspect, "__eq__", counts)
        assert (await loop.look()).buried == ()
    assert len(loop.detector.seen) == 400
    assert compared < 10 * 400


async def test_a_queue_of_another_pool_takes_nobodys_room(url: str, redis_client: redis.Redis) -> None:
    """While the breaker is open: offers that wait in another pool do not keep this pool's silent from being declared."""
    bench = Bench(redis_client)
    bench.init(hold_ms=400)
    bench.join("gone~1", pool="other")
    for n in range(30):
        bench.open(f"other-{n}", "gone~1", pool="other")
    bench.certify("gone~1")
    bench.end_hold()
    bench.claim("gone~1", [f"other-{n}" for n in range(30)], pool="other")
    bench.join("living~1", pool="other", dead_after_ms=60_000)
    for n in range(6):
        bench.join(f"v{n}~1", pool="voice", dead_after_ms=60_000 if n > 2 else 400)
        bench.open(f"call-{n}", f"v{n}~1", pool="voice")
    async with partition_loop(url, **FAST) as loop:
        loop.detector.breaker_patience = 1_000_000  # an open breaker lets no instance go for its age alone
        await loop.look()
        bench.end_hold()
        for _ in range(3):
            await loop.slow_step()
        await until_declared(loop, bench, 4)  # the one of the other pool is a grave too
        assert {m.split("~")[0] for m in bench.members(bench.keys.graves)} == {"gone", "v0", "v1", "v2"}


async def test_a_caller_at_a_living_door_is_room(url: str, redis_client: redis.Redis) -> None:
    """Nobody has room, and heirs wait for calls of the silent: those are declared, the others wait for room."""
    bench = Bench(redis_client)
    bench.init(hold_ms=400)
    for n in range(4):
        bench.join(f"v{n}~1", dead_after_ms=400)
        bench.open(f"call-{n}", f"v{n}~1")
    bench.run(
        calls.join(
            bench.keys, instance="door~1", name="door", pool="default", capacity=0, labels="{}", address="",
            dead_after=60, trust=0.75,
        )
    )  # fmt: skip
    for n in (1, 3):
        ask = calls.ask(
            bench.keys, session=f"call-{n}", instance="door~1", owner=f"v{n}~1", request=f"r{n}", lease=LEASE
        )
        assert bench.run(ask).word == "OK"
    async with partition_loop(url, **FAST) as loop:
        loop.detector.breaker_patience = 1_000_000  # an open breaker lets no instance go for its age alone
        await loop.look()
        bench.end_hold()
        await until_declared(loop, bench, 2)
        assert bench.members(bench.keys.graves) == {"v1~1", "v3~1"}
        for _ in range(5):
            await loop.look()
        assert bench.members(bench.keys.graves) == {"v1~1", "v3~1"}


def _silent(name: str, owned: int, awaited: int = 0, pool: str = "voice") -> Candidate:
    return Candidate(Suspect(name, 1), pool, owned, awaited)


@pytest.mark.parametrize(
    ("candidates", "room", "gone"),
    [
        ([_silent("a", 5), _silent("b", 5)], {"voice": 5}, ["a"]),
        ([_silent("a", 5)], {"voice": 0, "other": 50}, []),
        ([_silent("a", 5, awaited=1)], {"voice": 0}, ["a"]),
        ([_silent("a", 5, awaited=5), _silent("b", 5)], {"voice": 5}, ["a", "b"]),
        ([_silent("a", 5, awaited=5), _silent("b", 5)], {}, ["a"]),
    ],
)
def test_whom_the_breaker_releases(candidates: list[Candidate], room: dict[str, int], gone: list[str]) -> None:
    """As many as their own pool has room for; whoever is waited for at a door goes, and takes no room for that."""
    assert [suspect.instance for suspect in released(candidates, room)] == gone


async def test_graves_wait_for_their_turn_and_not_for_a_look(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many graves some are emptied side by side, and the others as soon as one of these is empty."""
    emptied: list[str] = []
    under_way = most = 0
    async with partition_loop(url) as loop, anyio.create_task_group() as tasks:

        async def step(_: Claimer, grave: str) -> bool:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await anyio.sleep(0.002)
            under_way -= 1
            emptied.append(grave)
            return True

        monkeypatch.setattr(Claimer, "step", step)
        graves = tuple(f"g{n}~1" for n in range(100))
        inside.start_burials(loop, tasks, Look(1, 0, buried=graves))
        again = Look(1, 0, graves=graves)  # found again meanwhile: nobody is emptied twice at a time
        inside.start_burials(loop, tasks, again)
        await eventually(lambda: set(emptied) == set(graves) and not inside.burying(loop))
    assert most == MOST_BURIALS


async def test_who_never_lived_opens_no_breaker(url: str, redis_client: redis.Redis) -> None:
    """Members without a record, and a count of deaths that cannot be: one that is silent is declared without being confirmed."""
    bench = Bench(redis_client)
    bench.init(hold_ms=400)
    for n in range(10):
        bench.join(f"v{n}~1", dead_after_ms=400 if n == 0 else 3_600_000)
    async with partition_loop(url, dead_after=3600, max_scan_gap=60, lost_connection_after=0) as loop:
        await loop.look()
        bench.end_hold()
        for _ in range(3):
            await loop.slow_step()  # it learns how long each is given
        for n in range(8):
            bench.client.zadd(bench.keys.instances, {f"ghost{n}~1": now_ms(bench) - 500})
        absurd = {"silent_now": "9999999999999999", "silent_since_ms": str(now_ms(bench))}
        bench.client.hset(bench.keys.detector, mapping=absurd)
        await until_declared(loop, bench, 1)
    assert bench.members(bench.keys.graves) == {"v0~1"}
