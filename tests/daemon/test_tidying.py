"""What ended is taken out of Redis, however much of it there is, and whatever else is broken."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from coordinator import clock
from coordinator.daemon.partition_loop import PartitionLoop
from coordinator.store import calls
from coordinator.store.pruning import prune
from tests import inside
from tests.coordinating import coordinating, partition_loop
from tests.store.harness import Bench
from tests.waiting import eventually, within

QUICK = {
    "dead_after": "400ms", "heartbeat_interval": "50ms", "max_scan_gap": "200ms", "safety_margin": "50ms",
    "lost_connection_after": "300ms",
}  # fmt: skip


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


async def sweep(loop: PartitionLoop) -> None:
    """One walk over all keys, and a step of tidying after each of its steps."""
    while True:
        await loop.sweeper.step()
        await loop.sweeper.tidy()
        if loop.sweeper.cursor == b"0":
            return


def hold_over(bench: Bench) -> None:
    """The hold at the start is over."""
    bench.end_hold()


async def test_names_of_instances_that_are_gone_are_forgotten(url: str, bench: Bench) -> None:
    """Thousands of them, between those that live: all go in some steps, and the living keep theirs."""
    client: Any = bench.client
    for n in range(300):
        bench.join(f"live-{n}~1")
    client.hset(bench.keys.names, mapping={f"gone-{n}": f"gone-{n}~1" for n in range(3000)})
    async with partition_loop(url) as loop:
        for _ in range(20):
            await loop.sweeper.tidy()
        left = {name.decode() for name in client.hkeys(bench.keys.names)}
    assert left == {"a", "b", *(f"live-{n}" for n in range(300))}


def test_a_name_that_was_taken_meanwhile_is_kept(bench: Bench) -> None:
    """Between the look and the forgetting somebody registers under that name: it stands for the newcomer."""
    bench.client.hset(bench.keys.names, "c", "c~1")
    bench.join("c~2")
    answer = bench.run(calls.forget(bench.keys, names=["c", "a"], instances=["c~1", "a~1"]))
    assert answer.int("forgotten") == 0
    assert bench.client.hget(bench.keys.names, "c") == b"c~2"


@pytest.mark.parametrize("index", ["dead_letters", "orphans", "instances"])
async def test_what_no_record_stands_behind_leaves_the_index(url: str, bench: Bench, index: str) -> None:
    """Hundreds of members whose records ended, also behind such that stay."""
    key = getattr(bench.keys, index)
    bench.certify("a~1")
    bench.claim("a~1", ["s0", "s1", "s2"])
    if index == "dead_letters":
        for n in range(3):
            bench.decline(f"s{n}", "b~1", int(bench.record(f"s{n}")["epoch"]), max_offers=1)
    rightful = bench.members(key)
    assert rightful
    bench.client.zadd(key, {f"gone-{n}": 1e15 + n for n in range(300)})
    bench.client.zadd(key, {f"before-{n}": n for n in range(150)})
    async with partition_loop(url) as loop:
        for _ in range(5):
            await loop.sweeper.tidy()
    assert bench.members(key) == rightful


async def test_a_dead_letter_whose_id_was_opened_again_stays(url: str, bench: Bench) -> None:
    """It is kept under its epoch, and so is its entry in the index; when its record ended, the entry goes."""
    bench.certify("a~1")
    bench.claim("a~1", ["s0"])
    bench.decline("s0", "b~1", int(bench.record("s0")["epoch"]), max_offers=1)
    assert bench.open("s0", "b~1", letter_epoch=bench.record("s0")["epoch"]).word == "OK"
    [member] = bench.members(bench.keys.dead_letters)
    async with partition_loop(url) as loop:
        await loop.sweeper.tidy()
        assert bench.members(bench.keys.dead_letters) == {member}
        bench.client.delete(bench.keys.dead_letter(member))
        await loop.sweeper.tidy()
        assert bench.members(bench.keys.dead_letters) == set()


async def test_what_stays_does_not_hide_what_goes(url: str, bench: Bench) -> None:
    """Hundreds of dead letters that stay, and behind them some that ended: the next steps come by them."""
    client: Any = bench.client
    for n in range(350):
        client.hset(bench.keys.session(f"stays-{n}"), "state", "dead_lettered")
        client.pexpire(bench.keys.session(f"stays-{n}"), 60_000)
    client.zadd(bench.keys.dead_letters, {f"stays-{n}": n for n in range(350)})
    client.zadd(bench.keys.dead_letters, {f"gone-{n}": 1000 + n for n in range(50)})
    async with partition_loop(url) as loop:
        for _ in range(5):
            await loop.sweeper.tidy()
    assert bench.members(bench.keys.dead_letters) == {f"stays-{n}" for n in range(350)}


async def test_an_orphan_that_was_offered_again_meanwhile_stays(bench: Bench) -> None:
    """The record is looked at in the moment of taking out, not before."""
    bench.certify("a~1")
    bench.claim("a~1", ["s0"])
    answer = bench.run(prune(bench.keys, index="orphans", members=["s0", "s1"]))
    assert answer.int("pruned") == 0
    assert bench.members(bench.keys.orphans) == {"s0"}


async def test_starts_of_coordinators_leave_no_consumers(url: str, bench: Bench) -> None:
    """However often coordinators start, side by side too: one name reads the events."""
    for _ in range(3):
        async with coordinating(url) as one, coordinating(url) as two:
            bench.checkpoint("s0", "a~1", 1, 1, b"refused")
            await eventually(lambda: one.up and two.up)
            await eventually(lambda: _consumers(bench, bench.keys.events, "coordinators"))
    assert _consumers(bench, bench.keys.events, "coordinators") == {"coordinator"}


def _consumers(bench: Bench, stream: str, group: str) -> set[str]:
    try:
        return {row["name"].decode() for row in bench.client.xinfo_consumers(stream, group)}
    except redis.ResponseError:
        return set()


async def test_consumers_of_earlier_coordinators_go(url: str, bench: Bench) -> None:
    """Each start of an earlier version left one under its own name; one that still reads stays."""
    async with partition_loop(url) as loop:
        await loop.events.step()
        for n in range(5):
            bench.client.xgroup_createconsumer(bench.keys.events, "coordinators", f"coordinator~{n}")
        await sweep(loop)
        assert len(_consumers(bench, bench.keys.events, "coordinators")) == 6, "they read just now"
        inside.set_idle_readers(loop.sweeper, -0.001)
        await sweep(loop)
    assert _consumers(bench, bench.keys.events, "coordinators") == {"coordinator"}


async def test_readers_that_are_gone_leave_the_group(url: str, bench: Bench) -> None:
    """An instance without a record or a grave; one that lives stays, and so does one whose deliveries are not settled."""
    bench.read_offers("b~1")
    bench.client.xgroup_createconsumer(bench.keys.offers("default"), "workers", "b~1")
    bench.certify("a~1")
    bench.claim("a~1", ["s0"])
    bench.read_offers("gone~1")
    for n in range(2, 150):
        bench.client.xgroup_createconsumer(bench.keys.offers("default"), "workers", f"gone~{n}")
    async with partition_loop(url) as loop:
        for _ in range(3):
            await sweep(loop)
    assert _consumers(bench, bench.keys.offers("default"), "workers") == {"b~1", "gone~1"}


async def test_entries_that_no_record_names_are_taken_out(url: str, bench: Bench) -> None:
    """An offer whose owner stated the session again, and some of records that are gone; the offers that count stay."""
    epoch = int(bench.record("s0")["epoch"])
    bench.certify("a~1")
    bench.claim("a~1", ["s0", "s1", "s2"])
    bench.server_id = "another"
    bench.beat("b~1")
    assert bench.reassert("s0", "b~1", epoch + 2 * 10**12, rival="a~1").word == "OK"
    stream = bench.keys.offers("default")
    for n in range(60):
        bench.client.xadd(stream, {"session": f"gone-{n}", "data": "x" * 100})
    async with partition_loop(url) as loop:
        for _ in range(6):
            await sweep(loop)
    named = [fields[b"session"] for _, fields in bench.client.xrange(stream)]
    assert named == [b"s1", b"s2"]


async def test_streams_of_pools_that_nobody_uses_go(url: str, bench: Bench) -> None:
    """No entry and no reader: the key goes; one with a living reader stays, and one with an offer that waits."""
    bench.join("c~1", pool="read")
    bench.read_offers("c~1", "read")
    bench.read_offers("gone~1", "left")
    bench.client.xgroup_createconsumer(bench.keys.offers("left"), "workers", "gone~1")
    bench.client.xgroup_create(bench.keys.offers("never"), "workers", id="0", mkstream=True)
    bench.client.xdel(bench.keys.offers("bare"), bench.client.xadd(bench.keys.offers("bare"), {"a": "b"}))
    bench.open("waits", "a~1", pool="waiting")
    bench.certify("a~1")
    bench.claim("a~1", ["waits"], pool="waiting")
    async with partition_loop(url) as loop:
        for _ in range(6):
            await sweep(loop)
    prefix = bench.keys.offers("")
    assert {key.decode().removeprefix(prefix) for key in bench.client.scan_iter(f"{prefix}*")} == {"read", "waiting"}


async def test_a_stream_that_is_gone_meanwhile_is_no_error(url: str, bench: Bench) -> None:
    """It was there when the walk came by, and somebody deleted it before it was looked at."""
    async with partition_loop(url) as loop:
        stream = bench.keys.offers("left")
        bench.client.xgroup_create(stream, "workers", id="0", mkstream=True)
        while not inside.pools_to_tidy(loop.sweeper):
            await loop.sweeper.step()
        bench.client.delete(stream)
        await loop.sweeper.tidy()
        assert not inside.complaints_of_tidying(loop.sweeper)


async def test_an_instance_that_no_index_names_is_found(url: str, bench: Bench) -> None:
    """Its record says that it lives, and nobody waits for its heartbeats: it gets a deadline, and is declared dead by it."""
    bench.join("lost~1")
    bench.client.zrem(bench.keys.instances, "lost~1")
    async with partition_loop(url, **QUICK) as loop:

        async def swept() -> bool:
            await sweep(loop)
            return "lost~1" in bench.members(bench.keys.instances)

        await eventually(swept)


async def test_what_the_walk_remembers_is_forgotten_with_its_cause(url: str, bench: Bench) -> None:
    """Owners that nobody knew: when their sessions are gone, so is the memory of them."""
    for n in range(20):
        bench.join(f"owner-{n}~1")
        bench.open(f"call-{n}", f"owner-{n}~1")
        bench.client.delete(bench.keys.instance(f"owner-{n}~1"))
    async with partition_loop(url) as loop:
        await sweep(loop)
        assert len(loop.sweeper.unknown_since) == 20
        for n in range(20):
            bench.client.delete(bench.keys.session(f"call-{n}"))
        await sweep(loop)
        await sweep(loop)
        assert loop.sweeper.unknown_since == {}


async def test_a_key_of_another_type_stops_nobody(url: str, bench: Bench) -> None:
    """Records, an index and a stream that are something else: the walk goes on, and repairs and tidies all the rest."""
    client: Any = bench.client
    client.set(bench.keys.session("broken"), "text", px=60_000)
    client.set(bench.keys.instance("broken~1"), "text", px=60_000)
    client.set(bench.keys.offers("broken"), "text", px=60_000)
    client.set(b"{recovery:0}:session:\xff\xfe", "text", px=60_000)
    client.delete(bench.keys.names)
    client.set(bench.keys.names, "text")
    client.zadd(bench.keys.orphans, {"broken": 1, "gone": 2})
    client.srem(bench.keys.owned("a~1"), "s1")
    try:
        async with partition_loop(url) as loop:
            hold_over(bench)
            for _ in range(3):
                await sweep(loop)
        assert bench.owned("a~1") == {"s0", "s1", "s2"}
        assert bench.members(bench.keys.orphans) == set()
        kept = {member.decode() for member in client.zrange(bench.keys.quarantine, 0, -1)}
        assert {"session:broken", "instance:broken~1"} <= kept
        assert client.get(bench.keys.set_aside_key("session:broken")) == b"text"
    finally:
        client.delete(bench.keys.names, b"{recovery:0}:session:\xff\xfe")


async def test_a_pause_gives_nobody_less_time_to_register_again(
    url: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner is unknown since lost writes, and everything stood still for a minute: its sessions are not taken from it yet."""
    bench.join("owner~1")
    bench.open("call-1", "owner~1")
    bench.client.delete(bench.keys.instance("owner~1"))
    plain, pause = clock.now, 0.0
    monkeypatch.setattr(clock, "now", lambda: plain() + pause)
    async with partition_loop(url, **QUICK) as loop:
        await sweep(loop)
        pause = 60.0
        await sweep(loop)
        assert bench.record("call-1")["state"] == "active"
        assert "owner~1" not in bench.members(bench.keys.graves)

        async def swept() -> bool:
            await sweep(loop)
            return "owner~1" in bench.members(bench.keys.graves)

        await eventually(swept)


@pytest.mark.parametrize(
    ("key", "field"), [("meta", "epoch_floor"), ("meta", "hold_ms"), ("detector", "hold_until_ms")]
)
async def test_a_broken_number_of_the_partition_is_set_aside(url: str, bench: Bench, key: str, field: str) -> None:
    """Scripts fall back on something else meanwhile; the walk takes it out, kept as it was, and the partition goes on."""
    where = getattr(bench.keys, key)
    async with partition_loop(url) as loop:
        await loop.look()
        bench.client.hset(where, field, b"\xff none")
        await sweep(loop)
        assert (await loop.look()).known
    assert bench.client.hget(bench.keys.set_aside(key), f"raw:{field}") == b"\xff none"
    assert bench.client.hget(where, field) != b"\xff none"


@pytest.mark.parametrize("score", ["inf", "9e15"])
async def test_what_would_never_be_due_is(url: str, bench: Bench, score: str) -> None:
    """A lease, a grave and a silent instance whose time somebody set to never are dealt with; a living one beats on."""
    client, k = bench.client, bench.keys
    bench.release("s0", "a~1", int(bench.record("s0")["epoch"]))
    bench.join("silent~1", dead_after_ms=300)
    bench.join("dead~1")
    bench.certify("dead~1")
    before = bench.record("s0")["epoch"]
    for key, member in ((k.leases, "s0"), (k.graves, "dead~1"), (k.instances, "silent~1"), (k.instances, "b~1")):
        client.zadd(key, {member: float(score)}, xx=True)
    now = client.time()[0] * 1000
    async with partition_loop(url) as loop:
        await loop.sweeper.tidy()
    assert client.zscore(k.leases, "s0") <= now + 2000
    assert client.zscore(k.instances, "silent~1") <= now + 2300
    assert client.zscore(k.instances, "b~1") <= now + 62_000
    assert (client.zscore(k.graves, "dead~1") or 0) <= now + 2000
    assert bench.record("s0")["epoch"] == before, "it is due, and nothing is done yet"


async def test_a_grave_with_what_is_no_id_ends(url: str, bench: Bench) -> None:
    """A claimer sets the member aside and empties the grave; it would find the member again and again."""
    bench.end_hold()
    bench.certify("a~1")
    bench.client.sadd(bench.keys.owned("a~1"), b"\xff")
    async with partition_loop(url) as loop:
        with within(20):
            assert await loop.burial.step("a~1")
    assert not bench.client.exists(bench.keys.owned("a~1"))
    assert any(b"owned:a~1" in member for member in bench.client.zrange(bench.keys.quarantine, 0, -1))
