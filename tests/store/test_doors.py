"""What programs ask the store beside scripts: values and units, and what is missing or broken."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from coordinator.policy import Suspect
from coordinator.store import event_stream, graves, offer_stream, suspects, tidying, walk
from coordinator.store.connect import Connector
from coordinator.store.executor import StorePartition
from tests.store.harness import Bench

pytestmark = pytest.mark.anyio

HOUR = 3600.0
HOUR_MS = 3_600_000


@pytest.fixture
async def part(url: str, two: Bench) -> AsyncIterator[StorePartition]:
    """The partition of `two`, asked as programs do."""
    connector = Connector(url)
    yield StorePartition(two.keys, connector.executor(two.keys.tag))
    await connector.aclose()
    two.client.flushall()  # records here are made up, and would be leaks


def now_ms(bench: Bench) -> int:
    """By the server's clock."""
    seconds, micros = bench.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


# -- graves ------------------------------------------------------------------------------------------------------------


async def test_the_death_and_those_who_died_before(part: StorePartition, two: Bench) -> None:
    """Times are the record's, probation is in seconds, and a member that is no id is left out."""
    record = {"ended_at": 9000, "served_until": 8000, "cause": "wedged"}
    two.client.hset(two.keys.instance("a~1"), mapping=record)
    two.client.hset(two.keys.session("s1"), mapping={"orphanings": "100 200", "probation_ms": 1500})
    two.client.zadd(two.keys.blamed("a~1"), {"s1": 7000, b"\xff": 1})
    death, sessions = await graves.who_died_before(part, "a~1")
    assert death == graves.Death(ended_at_ms=9000, served_until_ms=8000, cause="wedged")
    assert sessions == [graves.DiedBefore("s1", got_at_ms=7000, orphanings_ms=(100, 200), probation=1.5)]
    two.client.hdel(two.keys.instance("a~1"), "served_until")
    assert (await graves.who_died_before(part, "a~1"))[0].served_until_ms == 9000


async def test_what_is_no_id_is_told_apart(part: StorePartition, two: Bench) -> None:
    """A claimer sets it aside; an empty grave has neither."""
    assert await graves.some_owned(part, "a~1") == ([], [])
    two.client.sadd(two.keys.owned("a~1"), "s1", b"\xff")
    assert await graves.some_owned(part, "a~1") == (["s1"], [b"\xff"])


# -- suspects ----------------------------------------------------------------------------------------------------------


async def test_all_later_pages_are_read(part: StorePartition, two: Bench) -> None:
    """Every suspect after the first page, however many pages there are, and none whose deadline is later."""
    two.client.delete(two.keys.instances)
    two.client.zadd(two.keys.instances, {f"i{n}~1": n for n in range(9)} | {"late~1": 100})
    assert await suspects.later_suspects(part, 50, 2) == [Suspect(f"i{n}~1", n) for n in range(2, 9)]


async def test_only_sessions_with_an_heir_are_awaited(part: StorePartition, two: Bench) -> None:
    """A lease alone says nothing."""
    for session, fields in {"s1": {"owner": "a~1", "heir": "b~1"}, "s2": {"owner": "a~1"}}.items():
        two.client.hset(two.keys.session(session), mapping=fields)
        two.client.zadd(two.keys.leases, {session: 5})
    assert await suspects.awaited_of(part, 10) == {"a~1": 1}


# -- the walk ----------------------------------------------------------------------------------------------------------


async def test_an_index_of_either_kind_lists_an_instance(part: StorePartition, two: Bench) -> None:
    """One that beats, one that is buried, and one that no index has."""
    two.client.zrem(two.keys.instances, "b~1")
    assert [found.listed for found in await walk.instances_indexed(part, ["a~1", "b~1"])] == [True, False]
    two.client.zadd(two.keys.graves, {"b~1": 5})
    assert [found.listed for found in await walk.instances_indexed(part, ["a~1", "b~1"])] == [True, True]


async def test_a_deadline_is_given_once_and_in_seconds(part: StorePartition, two: Bench) -> None:
    """An instance without one gets so long to beat; one that has it keeps it."""
    two.client.zrem(two.keys.instances, "a~1")
    before = now_ms(two)
    assert await walk.give_deadline(part, "a~1", HOUR)
    given = two.client.zscore(two.keys.instances, "a~1")
    assert before + HOUR_MS <= given <= now_ms(two) + HOUR_MS
    assert not await walk.give_deadline(part, "a~1", 2 * HOUR)
    assert two.client.zscore(two.keys.instances, "a~1") == given


# -- tidying -----------------------------------------------------------------------------------------------------------


async def test_what_is_never_due_gets_the_time_of_its_record(part: StorePartition, two: Bench) -> None:
    """As long as the instance asked for, a minute where it does not say or cannot be read; a grave is due now."""
    far = now_ms(two) + 100 * HOUR_MS
    two.client.hset(two.keys.instance("a~1"), "dead_after_ms", 5000)
    two.client.set(two.keys.instance("broken~1"), "no hash")
    two.client.zadd(two.keys.instances, {"a~1": far, "broken~1": far, "unsaid~1": far})
    two.client.zadd(two.keys.graves, {"a~1": far})
    before = now_ms(two)
    late = {one.member: one.due_ms for one in await tidying.beyond(part, "instances", HOUR, 60.0, 100)}
    [grave] = await tidying.beyond(part, "graves", HOUR, 60.0, 100)
    after = now_ms(two)
    assert before + 5000 <= late.pop(b"a~1") <= after + 5000
    assert late.keys() == {b"broken~1", b"unsaid~1"}
    assert all(before + 60_000 <= due <= after + 60_000 for due in late.values())
    assert before <= grave.due_ms <= after


async def test_a_deadline_may_lie_a_little_ahead(part: StorePartition, two: Bench) -> None:
    """An instance that beat a moment ago, by a clock that is set, is not late; one beyond the slack is."""
    two.client.hset(two.keys.instance("a~1"), "dead_after_ms", 40_000)
    two.client.hset(two.keys.instance("b~1"), "dead_after_ms", 40_000)
    two.client.zadd(two.keys.instances, {"a~1": now_ms(two) + 40_000 + 30_000, "b~1": now_ms(two) + 40_000 + 90_000})
    assert [one.member for one in await tidying.not_due_for_too_long(part, 60.0, 60.0, 100)] == [b"b~1"]


async def test_a_time_is_only_brought_forward(part: StorePartition, two: Bench) -> None:
    """A member that has an earlier time by now keeps it, and one that has left does not come back."""
    two.client.zadd(two.keys.leases, {"s1": 100})
    await tidying.bring_forward(part, "leases", tidying.Late(b"s1", 200))
    await tidying.bring_forward(part, "leases", tidying.Late(b"s2", 200))
    assert two.client.zrange(two.keys.leases, 0, -1, withscores=True) == [(b"s1", 100.0)]
    await tidying.bring_forward(part, "leases", tidying.Late(b"s1", 50))
    assert two.client.zscore(two.keys.leases, "s1") == 50


async def test_the_newest_of_the_quarantine_is_kept(part: StorePartition, two: Bench) -> None:
    """Beyond the bound the oldest go with what was kept of them, and so does one that has ended."""
    k = two.keys
    for n in range(4):
        two.client.hset(k.set_aside(f"session:s{n}"), "fault", "broken")
        two.client.zadd(k.quarantine, {f"session:s{n}": n})
    two.client.zadd(k.quarantine, {"session:ended": 10})
    await tidying.forget_ended_quarantine(part, 3, 100)
    assert two.client.zrange(k.quarantine, 0, -1) == [b"session:s2", b"session:s3"]
    assert [two.client.exists(k.set_aside(f"session:s{n}")) for n in range(4)] == [0, 0, 1, 1]


async def test_a_reader_with_a_grave_is_not_gone(part: StorePartition, two: Bench) -> None:
    """Whoever empties the grave still gives back what it had read."""
    stream = two.keys.offers("default")
    two.client.xgroup_create(stream, "workers", id="0", mkstream=True)
    for reader in ("a~1", "buried~1", "gone~1"):
        two.client.xgroup_createconsumer(stream, "workers", reader)
    two.client.zadd(two.keys.graves, {"buried~1": 5})
    assert await tidying.readers_that_are_gone(part, "default", 100) == ["gone~1"]


# -- streams -----------------------------------------------------------------------------------------------------------


async def test_a_held_offer_says_whether_its_entry_stands(part: StorePartition, two: Bench) -> None:
    """Of an entry that was trimmed away nothing is known but that it was given to the reader."""
    stream = two.keys.offers("default")
    two.client.xgroup_create(stream, "workers", id="0", mkstream=True)
    first = two.client.xadd(stream, {"session": "s1", "attempt": 2})
    second = two.client.xadd(stream, {"session": "s2"})
    assert await offer_stream.held_by(part.executor, stream, "a~1") == []
    two.client.xreadgroup("workers", "a~1", {stream: ">"})
    two.client.xdel(stream, second)
    assert await offer_stream.held_by(part.executor, stream, "a~1") == [
        offer_stream.HeldOffer(first, "s1", 2, stands=True),
        offer_stream.HeldOffer(second, "", 1, stands=False),
    ]


async def test_a_reader_of_events_is_idle_after_seconds(part: StorePartition, two: Bench) -> None:
    """One that was made a moment ago is not idle for an hour; without any patience all but the common name are."""
    two.client.xgroup_create(two.keys.events, event_stream.GROUP, id="0", mkstream=True)
    for reader in (event_stream.READER, "coordinator~1"):
        two.client.xgroup_createconsumer(two.keys.events, event_stream.GROUP, reader)
    while two.client.xinfo_consumers(two.keys.events, event_stream.GROUP)[1]["idle"] <= HOUR / 60:
        pass  # more ms than the seconds below: the units differ by that
    assert await event_stream.idle_readers(part, HOUR / 60) == []
    assert await event_stream.idle_readers(part, -0.001) == ["coordinator~1"]
