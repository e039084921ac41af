"""scan, declare, certify and join: what makes an instance dead, and what must not."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from coordinator.store import calls
from tests.store.answers import Answer
from tests.store.harness import TRUST_MS, Bench

ME = "w1~1"
GAP_MS, HOLD_MS = 60_000, 2_000
HOLD = HOLD_MS / 1000
GAP = GAP_MS / 1000


def _scan(bench: Bench, horizon_ms: int = 0) -> Answer:
    return bench.run(calls.scan(bench.keys, max_scan_gap=GAP, hold=HOLD, horizon=horizon_ms / 1000))


def _declare(bench: Bench, deadline_ms: int, instance: str = ME) -> Answer:
    return bench.run(calls.declare(bench.keys, instance=instance, deadline_ms=deadline_ms, max_scan_gap=GAP, by="test"))


@pytest.fixture
def silent(bench: Bench) -> Bench:
    """A partition that is scanned regularly, in which w1's deadline passed long ago."""
    bench.init()
    bench.join(ME)
    _scan(bench)
    bench.end_hold()
    bench.client.zadd(bench.keys.instances, {ME: 1000})
    return bench


def test_silence_is_declared_once(silent: Bench) -> None:
    """A passed deadline makes a grave, and the second call finds the first."""
    assert _scan(silent).items("suspects") == [f"{ME} 1000"]
    assert _declare(silent, 1000).word == "OK"
    assert _declare(silent, 1000).word == "ALREADY"
    assert silent.members(silent.keys.graves) == {ME}
    assert silent.members(silent.keys.instances) == set()
    record = silent.client.hgetall(silent.keys.instance(ME))
    assert (record[b"state"], record[b"cause"]) == (b"dead", b"silence")


def test_a_beat_in_between_saves(silent: Bench) -> None:
    """A deadline that moved since the coordinator saw it refutes the suspicion."""
    silent.beat(ME)
    assert _declare(silent, 1000).word == "ALIVE"
    assert silent.beat(ME).word == "OK"


def test_a_deadline_ahead_is_not_silence(silent: Bench) -> None:
    """A deadline that has not passed cannot be declared, even when the caller names it."""
    silent.beat(ME)
    deadline = int(silent.client.zscore(silent.keys.instances, ME))
    assert _declare(silent, deadline).word == "ALIVE"


@pytest.mark.parametrize(
    ("last_scan", "reason"),
    [(None, "start"), (lambda now: now - GAP_MS - 1, "gap"), (lambda now: now + 9_000, "clock")],
)
def test_the_tick_guard_holds(silent: Bench, last_scan: object, reason: str) -> None:
    """A last scan that is missing, too long ago or in the future means hold, and nobody is declared."""
    now = _scan(silent).int("now_ms")
    if last_scan is None:
        silent.client.hdel(silent.keys.detector, "last_scan_ms")
    else:
        silent.client.hset(silent.keys.detector, "last_scan_ms", last_scan(now))  # type: ignore[operator]
    assert _declare(silent, 1000).word == "HELD", "declare looks at the guard itself"

    answer = _scan(silent)

    assert (answer.word, answer.text("reason")) == ("HELD", reason)
    assert 0 < answer.int("hold_until_ms") - answer.int("now_ms") <= HOLD_MS
    assert _declare(silent, 1000).word == "HELD"
    silent.end_hold()
    assert _scan(silent).word == "OK"
    assert _declare(silent, 1000).word == "OK"


def test_while_another_server_takes_itself_for_the_primary_nobody_is_declared(silent: Bench) -> None:
    """The hold goes on with each look that says so, one event tells of it, and what changes hands is not held."""
    events = silent.client.xlen(silent.keys.events)
    for _ in range(3):
        found = silent.run(calls.scan(silent.keys, max_scan_gap=GAP, hold=HOLD, horizon=0, another_primary=True))
        assert (found.word, found.text("reason"), found.int("transfers_held")) == ("HELD", "another_primary", 0)
        assert found.int("hold_until_ms") == found.int("now_ms") + HOLD_MS
        assert _declare(silent, 1000).word == "HELD"
    assert silent.client.xlen(silent.keys.events) == events + 1
    silent.end_hold()
    assert _scan(silent).word == "OK"
    assert _declare(silent, 1000).word == "OK"


def test_a_hold_after_lost_writes_keeps_its_reason_beside_another_primary(silent: Bench) -> None:
    """It is the stronger one: what changes hands stays held."""
    silent.run(calls.scan(silent.keys, max_scan_gap=GAP, hold=HOLD, horizon=0))
    silent.client.hset(silent.keys.meta, "server", "another")
    found = silent.run(calls.scan(silent.keys, max_scan_gap=GAP, hold=HOLD, horizon=0, another_primary=True))
    assert (found.text("reason"), found.int("transfers_held")) == ("lost_writes", 1)


def test_a_clock_that_stepped_back_clamps_what_it_left_ahead(silent: Bench) -> None:
    """Deadlines of the old clock do not keep the dead alive for the length of the step."""
    now = _scan(silent).int("now_ms")
    silent.client.zadd(silent.keys.instances, {ME: now + 3_600_000})
    silent.client.hset(silent.keys.detector, "last_scan_ms", now + 3_600_000)
    _scan(silent)
    assert silent.client.zscore(silent.keys.instances, ME) <= now + HOLD_MS + 1_000


def test_a_hold_leaves_leases_alone(silent: Bench) -> None:
    """After a pause nobody could have adopted in time: no attempt is counted for it."""
    silent.client.zadd(silent.keys.leases, {"s": 1})
    assert _scan(silent).items("leases") == ["s"]
    silent.client.hdel(silent.keys.detector, "last_scan_ms")
    assert _scan(silent).items("leases") == []


def test_the_age_of_an_orphan_stands_still_during_a_hold(silent: Bench) -> None:
    """An orphan that is older than the limit only by the time of a hold is not given up on."""
    silent.join("w2~1")
    epoch = silent.open("s", "w2~1").int("epoch")
    silent.release("s", "w2~1", epoch)
    now = _scan(silent).int("now_ms")
    silent.client.hset(silent.keys.session("s"), "orphaned_at", now - 10_000)
    silent.client.hset(silent.keys.detector, "held_total_ms", 9_000)
    silent.end_lease("s")
    assert silent.expire("s", give_up_after_ms=5_000).word == "EXTENDED"
    silent.client.hset(silent.keys.detector, "held_total_ms", 0)
    silent.end_lease("s")
    assert silent.expire("s", give_up_after_ms=5_000).text("reason") == "expired"


def test_detection_freezes_when_memory_is_full(silent: Bench) -> None:
    """With no memory left the scan itself is refused, as the beats are, and changes nothing."""
    before = silent.client.hgetall(silent.keys.detector)
    silent.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError, match="used memory"):
            _scan(silent)
        with pytest.raises(redis.ResponseError, match="used memory"):
            _declare(silent, 1000)
    finally:
        silent.client.config_set("maxmemory", 0)
    assert silent.client.hgetall(silent.keys.detector) == before
    assert silent.client.hget(silent.keys.instance(ME), "state") == b"alive"


def test_a_name_in_use_waits_for_the_trust_window(bench: Bench) -> None:
    """A newcomer of the same name buries its predecessor only when that one's trust window is over."""
    bench.init()
    bench.join(ME)
    answer = bench.join("w1~2")
    assert (answer.word, answer.text("instance")) == ("NAME_IN_USE", ME)
    assert 0 < answer.int("retry_ms") <= TRUST_MS + 1
    deadline = bench.client.zscore(bench.keys.instances, ME)
    bench.client.zadd(bench.keys.instances, {ME: deadline - TRUST_MS - 2})

    assert bench.join("w1~2").word == "OK"
    assert bench.beat(ME).word == "FENCED"
    assert bench.client.hget(bench.keys.instance(ME), "cause") == b"succession"
    assert bench.members(bench.keys.graves) == {ME}
    assert bench.join("w1~2").word == "OK", "a second call of the same newcomer"


def test_whoever_stands_for_an_instance_now_sets_its_times(bench: Bench) -> None:
    """It joins again under its id, as by a sidecar with other settings: its times and how it is watched are the newcomer's."""
    bench.init()
    bench.join(ME, hosting="before")
    bench.join(ME, dead_after_ms=20_000, trust_ms=19_750, hosting="now")
    fields = ("dead_after_ms", "trust_ms", "hosting", "state")
    assert bench.client.hmget(bench.keys.instance(ME), *fields) == [b"20000", b"19750", b"now", b"alive"]
    bench.join(ME)
    assert bench.client.hget(bench.keys.instance(ME), "hosting") == b"now"


def test_two_live_processes_of_one_name_do_not_bury_each_other(bench: Bench) -> None:
    """As long as the first one beats, the second one is refused."""
    bench.init()
    bench.join(ME)
    for _ in range(5):
        bench.beat(ME)
        assert bench.join("w1~2").word == "NAME_IN_USE"
    assert bench.beat(ME).word == "OK"


def test_succession_waits_for_the_end_of_a_hold(bench: Bench) -> None:
    """While Redis may have kept beats away, a predecessor that looks silent is not buried by its successor."""
    bench.init()
    bench.join(ME)
    _scan(bench)
    bench.client.zadd(bench.keys.instances, {ME: 1000})
    assert bench.join("w1~2").word == "NAME_IN_USE"
    bench.end_hold()
    assert bench.join("w1~2").word == "OK"


def test_a_certificate_is_written_once(bench: Bench) -> None:
    """Who said first that an instance ended, and why, stays."""
    bench.init()
    bench.join(ME)
    assert bench.certify(ME, "exited").word == "OK"
    assert bench.certify(ME, "operator").text("cause") == "exited"
    assert bench.certify("nobody~1").word == "UNKNOWN"


def test_another_partition_count_is_named(bench: Bench) -> None:
    """A program that believes in another number of partitions is told the stored one."""
    bench.init()
    answer = bench.run(calls.init(bench.keys, partitions=2, protocol=1, lineage="x", hold=2))
    assert (answer.word, answer.int("partitions")) == ("PARTITIONS", 1)


def test_who_may_not_make_a_partition_makes_nothing(bench: Bench) -> None:
    """Partition 0 says first whether the number is right; until then the others are looked at and not made."""
    asked = calls.init(bench.keys, partitions=6, protocol=1, lineage="", hold=2)
    assert bench.run(asked).word == "UNMADE"
    assert not bench.client.exists(bench.keys.meta)
    bench.init()
    assert bench.run(asked).word == "PARTITIONS"


def test_a_protocol_two_versions_away_is_refused(bench: Bench) -> None:
    """A program works with its own version of the protocol and the neighbours, and with no other."""
    bench.init()
    init: Any = {"partitions": 1, "lineage": "x", "hold": 2}
    assert bench.run(calls.init(bench.keys, protocol=2, **init)).word == "OK"
    assert bench.run(calls.init(bench.keys, protocol=3, **init)).word == "PROTOCOL"


@pytest.mark.parametrize(
    ("instance", "again", "word"),
    [("a~2", True, "OK"), ("a~2", False, "NAME_IN_USE"), ("a~0", True, "NAME_IN_USE")],
    ids=["has succeeded it before", "is new", "is older"],
)
def test_who_has_succeeded_the_older_one_before_waits_for_nobody(
    bench: Bench, instance: str, again: bool, word: str
) -> None:
    """After a restore the store knows the predecessor as alive again: its successor registers at once, within the hold."""
    bench.init()
    bench.join("a~1")
    joined = bench.run(
        calls.join(
            bench.keys, instance=instance, name="a", pool="default", capacity=1, labels="{}", address="", dead_after=60,
            trust=0.75, predecessor="a~1", again=again,
        )
    )  # fmt: skip
    assert joined.word == word
    assert bench.client.hget(bench.keys.instance("a~1"), "state") == (b"dead" if word == "OK" else b"alive")
