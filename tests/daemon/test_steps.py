"""The coordinator's loops, one step at a time, on a real Redis."""

from __future__ import annotations

import threading
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
import redis
from structlog.testing import capture_logs

from coordinator import ConfigurationError, StoreUnavailableError, Worker
from coordinator.daemon.partition_loop import PartitionLoop
from coordinator.store import calls
from tests import inside
from tests.coordinating import coordinating, partition_loop, stepped
from tests.redis_server import RedisServer
from tests.store.harness import DEAD_AFTER_MS, Bench
from tests.waiting import eventually


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """A partition with two instances; the first owns three sessions."""
    made = Bench(redis_client)
    made.init()
    for instance in ("a~1", "b~1"):
        made.join(instance)
    for n in range(3):
        made.open(f"s{n}", "a~1", b"data")
    return made


def value(loop: PartitionLoop, name: str, **labels: str) -> float | None:
    """A sample as it would be scraped."""
    return loop.metrics.registry.get_sample_value(f"recovery_{name}", labels)


async def after_the_hold(loop: PartitionLoop, bench: Bench) -> None:
    """The first look of a deployment holds; it is over."""
    await loop.look()
    bench.end_hold()
    await loop.look()


def last_beat(bench: Bench, instance: str, seconds_ago: float) -> None:
    """Its last heartbeat was then."""
    seconds, _ = bench.client.time()
    bench.client.zadd(bench.keys.instances, {instance: (seconds - seconds_ago) * 1000 + DEAD_AFTER_MS})


def silence(bench: Bench, instance: str) -> None:
    """Its deadline passed, and no beat comes any more."""
    bench.client.zadd(bench.keys.instances, {instance: 5})


async def test_the_first_look_holds_and_says_so(url: str, bench: Bench) -> None:
    """Nobody is declared dead before somebody has looked for one dead_after."""
    silence(bench, "a~1")
    async with partition_loop(url) as loop:
        found = await loop.look()
        assert (found.reason, found.buried) == ("start", ())
        await loop.slow_step()
        await loop.events.step()
        assert value(loop, "hold_active", partition="0", reason="start") == 1
        assert value(loop, "holds_total", reason="start") == 1
        bench.end_hold()
        await loop.look()
        await loop.slow_step()
        assert value(loop, "hold_active", partition="0", reason="start") is None


async def test_silence_is_declared_by_both_clocks(url: str, bench: Bench) -> None:
    """A deadline that passed long ago on the server's clock alone is no death; watched for long enough it is."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        silence(bench, "a~1")
        assert (await loop.look()).buried == ()
        loop.detector.seen = {
            name: type(seen)(seen.deadline_ms, seen.since - 1.1) for name, seen in loop.detector.seen.items()
        }
        assert (await loop.look()).buried == ("a~1",)
        assert (await loop.look()).buried == ()


async def test_workers_with_another_dead_after(url: str, redis_client: redis.Redis) -> None:
    """While DEAD_AFTER is rolled out: who beats in time is no suspect, opens no breaker, and who is silent dies by its own setting."""
    bench = Bench(redis_client)
    async with coordinating(url, dead_after=8) as loop, AsyncExitStack() as workers:
        for n in range(4):
            await workers.enter_async_context(Worker(url, name=f"voice-{n}", dead_after=2))
        bench.join("silent~1", dead_after_ms=2000)
        bench.open("call-1", "silent~1")
        await eventually(lambda: len(loop.detector.dead_after) == 5)  # long before the hold of a start would end
        bench.end_hold()
        await eventually(lambda: bench.record("call-1")["state"] == "offered", 6)
        events: Any = redis_client.xrange(bench.keys.events)
        assert b"breaker" not in [fields.get(b"reason") for _, fields in events]


async def test_who_is_given_longer_is_watched_from_the_first_missed_beat(url: str, bench: Bench) -> None:
    """It is a suspect shortly before its deadline only; the watch by the own clock has gone on for half of its time by then."""
    bench.join("near~1", dead_after_ms=2000)
    bench.join("hosted~1", dead_after_ms=20_000)
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        silence(bench, "hosted~1")
        await loop.slow_step()
        assert "hosted~1" not in loop.detector.seen

        def for_so_long(seconds: float) -> None:
            loop.detector.watched = {
                name: type(known)(known.deadline_ms, known.since - seconds)
                for name, known in loop.detector.watched.items()
            }

        for_so_long(5)
        await loop.slow_step()
        assert (await loop.look()).buried == ()
        for_so_long(5)
        assert (await loop.look()).buried == ("hosted~1",)


async def test_nothing_is_remembered_of_the_time_before_the_store_was_away(url: str, bench: Bench) -> None:
    """Neither of suspects nor of the others: nobody was watched in between."""
    async with partition_loop(url, max_scan_gap=30, dead_after=60) as loop:
        await after_the_hold(loop, bench)
        silence(bench, "a~1")
        await loop.slow_step()
        await loop.look()
        assert (set(loop.detector.seen), set(loop.detector.watched)) == ({"a~1"}, {"a~1", "b~1"})
        inside.store_is_away(loop)
        assert (dict(loop.detector.seen), dict(loop.detector.watched)) == ({}, {})


async def test_a_slow_judge_declares_nobody(url: str, bench: Bench) -> None:
    """A coordinator whose own loop lags withholds the declaration; without the lag it declares."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        silence(bench, "a~1")
        await loop.look()
        loop.detector.seen = {
            name: type(seen)(seen.deadline_ms, seen.since - 5) for name, seen in loop.detector.seen.items()
        }
        loop.detector.loop_lag = lambda: 0.5
        assert (await loop.look()).buried == ()
        loop.detector.loop_lag = lambda: 0.0
        assert (await loop.look()).buried == ("a~1",)


async def test_a_grave_is_emptied_and_ends(url: str, bench: Bench) -> None:
    """What the dead owned is offered, and the grave is gone; a second coordinator finds nothing to do."""
    async with partition_loop(url) as one, partition_loop(url) as two:
        await after_the_hold(one, bench)
        bench.certify("a~1")
        await stepped(one)
        assert bench.members(bench.keys.graves) == set()
        assert bench.members(bench.keys.orphans) == {"s0", "s1", "s2"}
        epochs = [bench.record(f"s{n}")["epoch"] for n in range(3)]
        await stepped(two)
        assert [bench.record(f"s{n}")["epoch"] for n in range(3)] == epochs


async def test_what_the_dead_had_read_is_offered_again_at_once(url: str, bench: Bench) -> None:
    """A reader that died gives its offers back, with no attempt counted against its successor's lease."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        bench.certify("a~1")
        await stepped(loop)
        first = dict(bench.read_offers("b~1"))
        assert set(first) == {"s0", "s1", "s2"}
        bench.certify("b~1")
        await stepped(loop)
        bench.join("c~1")
        second = dict(bench.read_offers("c~1"))
        assert set(second) == set(first)
        assert all(second[s] > first[s] for s in first)


async def test_pools_are_kept_apart(url: str, redis_client: redis.Redis) -> None:
    """Sessions of another pool than their dead owner's are offered in their own."""
    bench = Bench(redis_client)
    bench.init()
    bench.join("a~1")
    bench.open("mine", "a~1")
    bench.open("theirs", "a~1", pool="video")
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        bench.certify("a~1")
        await stepped(loop)
    assert [s for s, _ in bench.read_offers("b~1")] == ["mine"]
    assert [s for s, _ in bench.read_offers("b~1", "video")] == ["theirs"]


async def test_waiting_behind_a_reader_that_lives_is_no_attempt(url: str, bench: Bench) -> None:
    """An offer that was read and not adopted comes again, as often as it takes, and is never a dead letter for that."""
    async with partition_loop(url, max_offers=2) as loop:
        await after_the_hold(loop, bench)
        bench.certify("a~1")
        await stepped(loop)
        epochs = {int(bench.record("s0")["epoch"])}
        for _ in range(5):
            assert len(bench.read_offers("b~1")) == 3
            for n in range(3):
                bench.end_lease(f"s{n}")
            await stepped(loop)
            epochs.add(int(bench.record("s0")["epoch"]))
        assert [bench.record(f"s{n}")["offers"] for n in range(3)] == ["1"] * 3
        assert len(epochs) == 6, "each time under a higher epoch: the reader that comes too late is refused"


async def test_a_reader_that_dies_with_an_offer_counts(url: str, bench: Bench) -> None:
    """What its readers died with comes again as another attempt, and ends as a dead letter with its data."""
    async with partition_loop(url, max_offers=2) as loop:
        await after_the_hold(loop, bench)
        for n in (1, 2):
            epoch = int(bench.record(f"s{n}")["epoch"])
            bench.close(f"s{n}", "a~1", epoch)
        bench.certify("a~1")
        await stepped(loop)
        for reader, attempts in (("b~1", "2"), ("c~1", "2")):
            bench.join(reader)
            bench.read_offers(reader)
            bench.certify(reader)
            await stepped(loop)
            assert bench.record("s0")["offers"] == attempts
        record = bench.record("s0")
        assert (record["state"], record["reason"], record["data"]) == ("dead_lettered", "max_offers", "data")
        await loop.events.step()
        await loop.slow_step()
        assert value(loop, "dead_letters_total", reason="max_offers") == 1
        assert value(loop, "sessions", partition="0", state="dead_lettered") == 1


async def test_the_sweep_finds_what_the_indexes_lost(url: str, bench: Bench) -> None:
    """A session that its owner's index lost, a grave and a lease that vanished: all are found by the walk."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        bench.client.delete(bench.keys.owned("a~1"))
        while not await loop.sweeper.step():
            pass
        await loop.sweeper.step()
        assert bench.owned("a~1") == {"s0", "s1", "s2"}
        bench.certify("a~1")
        bench.client.zrem(bench.keys.graves, "a~1")
        await eventually(lambda: _swept(loop, bench, bench.keys.graves))
        await stepped(loop)
        bench.client.delete(bench.keys.leases, bench.keys.orphans)
        await eventually(lambda: _swept(loop, bench, bench.keys.orphans, 3))
        assert bench.members(bench.keys.leases) == {"s0", "s1", "s2"}


async def _swept(loop: PartitionLoop, bench: Bench, key: str, count: int = 1) -> bool:
    await loop.sweeper.step()
    return len(bench.members(key)) >= count


async def test_events_are_counted_once_however_many_coordinators_run(url: str, bench: Bench) -> None:
    """Two coordinators read the same events; together they count each once."""
    async with partition_loop(url) as one, partition_loop(url) as two:
        await after_the_hold(one, bench)
        bench.certify("a~1")
        await stepped(one)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.events.step)
            tasks.start_soon(two.events.step)
        counts = [value(loop, "instance_deaths_total", cause="exited") or 0 for loop in (one, two)]
        assert sum(counts) == 1
        assert sum(value(loop, "orphans_total", cause="exited") or 0 for loop in (one, two)) == 3
        assert await one.events.step() == 0


async def test_gauges_tell_what_is_there_and_vanish_with_the_store(bench: Bench, url: str) -> None:
    """Sessions, orphans, instances and slots as stored; dropped when the store cannot be seen."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        await loop.slow_step()
        assert value(loop, "sessions", partition="0", state="active") == 3
        assert value(loop, "instances", state="alive") == 2
        assert value(loop, "free_slots", pool="default") == 17
        assert value(loop, "fullest_instance_sessions") == 3
        assert value(loop, "oldest_orphan_timestamp_seconds", partition="0") is None
        bench.certify("a~1")
        await loop.slow_step()
        assert value(loop, "orphaned_sessions", partition="0") == 3, "sessions of graves are orphans"
        assert (value(loop, "oldest_orphan_timestamp_seconds", partition="0") or 0) > 1e9
        loop.gauges.drop()
        for name, labels in (
            ("sessions", {"partition": "0", "state": "active"}),
            ("orphaned_sessions", {"partition": "0"}),
            ("fullest_instance_sessions", {}),
            ("in_doubt_sessions", {}),
            ("drain_sessions_remaining", {}),
            ("drain_deadline_timestamp_seconds", {}),
        ):
            assert value(loop, name, **labels) is None


async def test_a_store_that_is_away_is_said_once_and_declares_nobody() -> None:
    """While the store is away nothing is remembered of suspects; when it is back the loop goes on by itself."""
    server = RedisServer()
    try:
        async with partition_loop(server.url) as loop, anyio.create_task_group() as tasks:
            tasks.start_soon(loop.run)
            await eventually(lambda: loop.up)
            server.kill()
            await eventually(lambda: not loop.up)
            await eventually(lambda: (value(loop, "store_errors_total", kind="connection") or 0) >= 2)
            assert loop.detector.seen == {}
            server.start()
            await eventually(lambda: loop.up)
            tasks.cancel_scope.cancel()
    finally:
        server.close()


async def test_another_number_of_partitions_stops_the_loop(url: str, bench: Bench) -> None:
    """A store that was made for another number is a configuration error, not something to try again."""
    async with partition_loop(url, partitions=2) as loop:
        with pytest.raises(ConfigurationError, match="partitions: 2 is set, but this store was made with 1"):
            await loop.run()


async def test_deaths_are_stated_again_to_another_server(url: str, bench: Bench) -> None:
    """What a coordinator knows dead is stated again when the server is another one, before anything is claimed."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        bench.certify("a~1")
        await loop.look()
        await loop.events.step()
        assert list(loop.events.deaths) == ["a~1"]
        keys: Any = bench.keys
        bench.client.hset(keys.instance("a~1"), "state", "alive")  # as a replica that lagged would have it
        inside.forget_data(loop, "another", "lineage-1")
        await loop.look()
        assert bench.client.hget(keys.instance("a~1"), "state") == b"dead"


async def test_a_coordinator_remembers_what_a_wiped_partition_does_not(url: str, bench: Bench) -> None:
    """A stranger made it anew: the first look holds it, states the deaths again, and lifts the floor to the highest epoch."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        bench.certify("a~1")
        await loop.events.step()
        floor = int(bench.client.hget(bench.keys.meta, "epoch_floor"))
        bench.client.hset(bench.keys.meta, "epoch_floor", floor + 10**13)  # as after a server whose clock was ahead
        highest = bench.open("far", "b~1").int("epoch")
        await loop.look()
        bench.wipe()
        bench.join("c~1")

        found = await loop.look()

        assert found.transfers_held
        assert bench.join("a~1").word == "FENCED"
        bench.end_hold()
        assert bench.open("far", "c~1").int("epoch") > highest > 10**13
        assert not (await loop.look()).transfers_held, "the same change is not held twice"


async def test_a_coordinator_that_makes_a_wiped_partition_holds_it(url: str, bench: Bench) -> None:
    """It says that there was one before: transfers are held before anybody else comes."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        bench.client.flushdb()
        assert not (await loop.look()).known
        assert bench.client.hget(bench.keys.detector, "hold_reason") == b"lost_writes"
        bench.join("c~1")
        assert bench.open("s", "c~1").word == "HELD"


async def test_a_hold_after_lost_writes_keeps_transfers(url: str, bench: Bench) -> None:
    """During it nothing is claimed; afterwards the same grave is."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        bench.certify("a~1")
        bench.client.hset(bench.keys.meta, "server", "the server before")
        found = await loop.look()
        assert found.transfers_held
        await stepped(loop)
        assert bench.members(bench.keys.graves) == {"a~1"}
        assert (
            bench.run(calls.ask(bench.keys, session="s0", instance="b~1", owner="a~1", request="r", lease=0.001)).word
            == "HELD"
        )
        bench.end_hold()
        await stepped(loop)
        assert bench.members(bench.keys.orphans) == {"s0", "s1", "s2"}


async def test_an_unreachable_store_raises_for_a_step(redis_server: RedisServer) -> None:
    """A step against nothing is the one error that means: nothing is known."""
    async with partition_loop(f"unix://{redis_server.directory}/nobody.sock") as loop:
        with pytest.raises(StoreUnavailableError):
            await stepped(loop)


def watched(loop: PartitionLoop) -> None:
    """As if this coordinator had watched every suspect for a long time."""
    loop.detector.seen = {n: type(seen)(seen.deadline_ms, seen.since - 10) for n, seen in loop.detector.seen.items()}


def present(bench: Bench, instance: str, age_ms: int) -> None:
    """Its last beat, ``age_ms`` old, said that its presence connection is up; nobody listens there now."""
    seconds, micros = bench.client.time()
    bench.client.hset(bench.keys.instance(instance), mapping={"presence": "1", "dead_after_ms": "2000"})
    bench.client.zadd(bench.keys.instances, {instance: seconds * 1000 + micros // 1000 - age_ms + 2000})


async def test_a_lost_connection_is_declared_before_the_deadline(url: str, bench: Bench) -> None:
    """Beats are missing and nobody listens on the presence channel: dead by that cause, a second before the deadline."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        present(bench, "a~1", 1100)
        await loop.look()
        watched(loop)
        assert (await loop.look()).buried == ("a~1",)
        assert bench.client.hget(bench.keys.instance("a~1"), "cause") == b"lost_connection"


async def test_without_the_right_to_ask_silence_tells(url: str, bench: Bench) -> None:
    """An ACL that forbids PUBSUB is said once, and lost connections do not count any more."""
    bench.client.execute_command("ACL", "SETUSER", "default", "-pubsub")
    try:
        async with partition_loop(url) as loop:
            await after_the_hold(loop, bench)
            assert loop.detector.lost_after == 1.0
            present(bench, "a~1", 1100)
            await loop.look()
            watched(loop)
            assert (await loop.look()).buried == ()
            assert loop.detector.lost_after == 0.0
            silence(bench, "a~1")
            await loop.look()
            watched(loop)
            assert (await loop.look()).buried == ("a~1",)
    finally:
        bench.client.execute_command("ACL", "SETUSER", "default", "+pubsub")


async def test_the_breaker_confirms_and_then_releases_as_there_is_room(url: str, redis_client: redis.Redis) -> None:
    """Many silent at once: nobody for one dead_after, then those for whose sessions the survivor has room."""
    bench = Bench(redis_client)
    bench.init()
    for n in range(4):
        bench.join(f"w{n}~1", dead_after_ms=2000)
        for k in range(6):
            bench.open(f"s{n}-{k}", f"w{n}~1")
    bench.join("alive~1")
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        for n in range(4):
            silence(bench, f"w{n}~1")
        await loop.look()
        watched(loop)
        assert (await loop.look()).buried == ()
        await loop.slow_step()
        assert value(loop, "breaker_open", partition="0") == 1
        await loop.events.step()
        assert value(loop, "holds_total", reason="breaker") == 1
        since = int(bench.client.hget(bench.keys.detector, "breaker_since_ms"))
        bench.client.hset(bench.keys.detector, "breaker_since_ms", since - 2500)
        found = await loop.look()
        assert len(found.buried) == 1, "the survivor has room for ten"
        for grave in found.buried:
            await loop.burial.step(grave)
        found = await loop.look()
        assert len(found.buried) == 1, "six are on offer, four more fit: one larger than the room goes alone"
        for grave in found.buried:
            await loop.burial.step(grave)
        assert (await loop.look()).buried == (), "there is no room left"
        bench.client.hset(bench.keys.detector, "breaker_since_ms", since - 31_000)
        assert len((await loop.look()).buried) == 2, "never stuck for ever"
        await loop.look()
        await loop.slow_step()
        assert value(loop, "breaker_open", partition="0") == 0


async def test_a_judge_that_is_slow_for_ever_judges_in_the_end(url: str, bench: Bench) -> None:
    """Withholding is bounded: after five times dead_after it declares in spite of its lag, and its gauge says why."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        silence(bench, "a~1")
        await loop.look()
        watched(loop)
        loop.detector.loop_lag = lambda: 0.5
        assert (await loop.look()).buried == ()
        assert value(loop, "hold_active", partition="0", reason="slow_judge") == 1
        assert value(loop, "holds_total", reason="slow_judge") == 1
        inside.longer_unfit(loop.detector, 11)
        assert (await loop.look()).buried == ("a~1",)


async def test_another_primary_withholds_deaths_by_silence_for_a_bounded_time(url: str, bench: Bench) -> None:
    """As long as Sentinels see one; when they see it for too long, the dead are declared in spite of it; both are said once."""
    others: tuple[str, ...] = ("10.0.0.1:6379",)

    async def seen() -> tuple[str, ...]:
        return others

    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        loop.detector.other_primaries = seen
        with capture_logs() as logs:
            for _ in range(3):
                assert (await loop.look()).reason == "another_primary"
            inside.longer_ago(loop.detector, 31)
            bench.end_hold()
            for _ in range(3):
                assert (await loop.look()).reason == ""
            others = ()
            await loop.look()
            others = ("10.0.0.2:6379",)
            assert (await loop.look()).reason == "another_primary"
        told = [line["event"] for line in logs if line["event"] in ("another_primary", "declaration_in_spite_of")]
        assert told == ["another_primary", "declaration_in_spite_of", "another_primary"]


async def test_a_clock_that_disagrees_is_told(url: str, bench: Bench) -> None:
    """The server's clock alone says that somebody is silent: nobody is declared, and that is counted once."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        silence(bench, "a~1")
        for _ in range(3):
            assert (await loop.look()).buried == ()
        assert value(loop, "holds_total", reason="two_clocks") == 1


async def test_a_death_is_claimed_when_its_event_is_read(url: str, bench: Bench) -> None:
    """A certificate wakes the coordinator: its sessions are offered without another look."""
    async with coordinating(url) as loop:
        await eventually(lambda: loop.up)
        bench.end_hold()
        looks = 0

        async def counted() -> Any:
            nonlocal looks
            looks += 1
            await anyio.sleep_forever()

        loop.look = counted  # type: ignore[method-assign]
        await eventually(lambda: looks == 1)
        bench.certify("a~1")
        await eventually(lambda: bench.members(bench.keys.orphans) == {"s0", "s1", "s2"}, 4)
        assert looks == 1


async def test_a_drain_has_its_gauges(url: str, bench: Bench) -> None:
    """How many sessions are left, and when the time is over."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        bench.run(calls.drain(bench.keys, instance="a~1", by="test", reason="rollout", timeout=45))
        await loop.slow_step()
        assert value(loop, "drain_sessions_remaining") == 3
        until = value(loop, "drain_deadline_timestamp_seconds") or 0
        assert 40 < until - bench.client.time()[0] < 46
        assert value(loop, "instances", state="draining") == 1


async def test_a_call_that_is_handed_over_is_counted_once(url: str, bench: Bench) -> None:
    """The states of `sessions` add up: one that its owner puts on offer is handing_over, and not active too."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        epoch = int(bench.record("s0")["epoch"])
        bench.run(calls.hand_over(bench.keys, session="s0", instance="a~1", epoch=epoch, pool="default", lease=60))
        await loop.slow_step()
        assert value(loop, "sessions", partition="0", state="handing_over") == 1
        assert value(loop, "sessions", partition="0", state="active") == 2


async def test_of_several_drains_the_first_to_end_has_the_deadline(url: str, bench: Bench) -> None:
    """A drain that is over soon is not hidden by one that has time, nor by one that has nothing left."""
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        bench.join("c~1")
        bench.open("s9", "b~1", b"data")
        for instance, timeout_ms in (("a~1", 600_000), ("b~1", 30_000), ("c~1", 1_000)):
            bench.run(calls.drain(bench.keys, instance=instance, by="t", reason="rollout", timeout=timeout_ms / 1000))
        await loop.slow_step()
        until = value(loop, "drain_deadline_timestamp_seconds") or 0
        assert 20 < until - bench.client.time()[0] < 31


async def test_the_time_without_an_owner_is_counted_from_its_last_heartbeat(url: str, bench: Bench) -> None:
    """Adopted or given up on: the clock began with the owner's last heartbeat, not when somebody noticed."""
    last_beat(bench, "a~1", 20)
    bench.certify("a~1")
    async with partition_loop(url, max_recoveries=0) as loop:
        await after_the_hold(loop, bench)
        await stepped(loop)
        await loop.events.step()
        assert value(loop, "dead_letters_total", reason="max_recoveries") == 3
        assert 59 < (value(loop, "orphaned_session_seconds_total") or 0) < 90
    async with partition_loop(url) as loop:
        await after_the_hold(loop, bench)
        bench.open("s9", "b~1", b"data")
        last_beat(bench, "b~1", 30)
        bench.certify("b~1")
        await stepped(loop)
        bench.join("d~1")
        assert bench.adopt("s9", "d~1", None).word == "OK"
        await loop.events.step()
        assert 29 < (value(loop, "orphaned_session_seconds_total") or 0) < 50


async def test_a_server_that_stood_still_is_no_step_of_its_clock() -> None:
    """The look that waited in its socket comes late by both clocks: a gap, and what waited meanwhile has aged."""
    server = RedisServer()
    try:
        client: Any = server.client()
        async with coordinating(server.url) as loop:
            await eventually(lambda: loop.up)
            server.pause()
            threading.Event().wait(2.5)
            server.resume()
            before = client.xlen(loop.part.keys.events)
            await eventually(lambda: client.xlen(loop.part.keys.events) > before)
            await eventually(lambda: client.hget(loop.part.keys.detector, "hold_reason") == b"")
            reasons = {fields.get(b"reason") for _, fields in client.xrange(loop.part.keys.events)}
            assert b"gap" in reasons
            assert b"clock" not in reasons
            assert client.hget(loop.part.keys.detector, "stepped_at_ms") is None
    finally:
        server.close()
