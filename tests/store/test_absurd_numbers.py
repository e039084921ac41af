"""A number that parses and cannot be: it costs the record that it stands in, and lifts no other."""

from __future__ import annotations

import contextlib

import pytest
import redis

from coordinator.store import calls
from coordinator.store.past import Past
from tests.store.harness import Bench
from tests.store.test_epochs_only_rise import now_ms

ABSURD = ["9999999999999999", "9007199254740992", "90000000000000", "inf", "-inf", "nan", "1e300"]


def epoch_of(bench: Bench, session: str) -> int:
    return int(bench.record(session)["epoch"])


def is_of_this_clock(bench: Bench, epoch: int) -> bool:
    return now_ms(bench) - 60_000 < epoch < now_ms(bench) + 60_000


@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("field", ["epoch_floor", "epoch_highest", "hold_ms"])
def test_a_partitions_absurd_number_lifts_no_epoch(bench: Bench, field: str, value: str) -> None:
    """Calls are opened, orphaned and adopted under epochs of the clock, each above the one before."""
    bench.init()
    bench.join("a~1")
    bench.join("b~1")
    bench.client.hset(bench.keys.meta, field, value)
    bench.server_id = "another"
    bench.beat("a~1")
    bench.client.delete(bench.keys.detector)
    seen = []
    for n in range(3):
        assert bench.open(f"s{n}", "a~1").word == "OK"
        seen.append(epoch_of(bench, f"s{n}"))
    bench.certify("a~1")
    assert bench.claim("a~1", ["s0", "s1", "s2"]).word == "OK"
    offered = [epoch_of(bench, f"s{n}") for n in range(3)]
    adopted = [bench.adopt(f"s{n}", "b~1", offered[n]).int("epoch") for n in range(3)]
    for before, between, after in zip(seen, offered, adopted, strict=True):
        assert before < between < after
        assert all(is_of_this_clock(bench, one) for one in (before, between, after))


@pytest.mark.parametrize("value", ABSURD[:3])
def test_an_absurd_epoch_of_one_call_lifts_no_other(bench: Bench, value: str) -> None:
    """It ends, its owner dies, or somebody tells of it with a heartbeat: the next calls have epochs of the clock."""
    bench.init()
    bench.join("a~1")
    for name in ("closed", "orphaned"):
        bench.open(name, "a~1")
        bench.client.hset(bench.keys.session(name), "epoch", value)
    with contextlib.suppress(redis.ResponseError):  # BROKEN: whoever runs it sets that aside
        bench.run(
            calls.close(
                bench.keys, session="closed", instance="a~1", epoch=int(value), pool="default", closed_ttl=0.001
            )
        )
    bench.beat("a~1", past=Past("lineage-1", 0, int(value)))
    bench.join("b~1")
    assert bench.run(
        calls.open(
            bench.keys, session="next", instance="b~1", request="r", floor=int(value), pool="default", tenant="",
            requires="[]", data=b"x",
        )
    ).word == "OK"  # fmt: skip
    assert is_of_this_clock(bench, epoch_of(bench, "next"))


def test_a_verdict_without_its_time_stops_no_claim(bench: Bench) -> None:
    """`apart` stands in the record of the dead, and `blamed_from_ms` does not: all calls are offered."""
    bench.init()
    bench.join("a~1")
    for name in ("old", "new"):
        bench.open(name, "a~1")
    bench.client.zadd(bench.keys.blamed("a~1"), {"old": 1})
    bench.client.hset(bench.keys.instance("a~1"), "apart", "1")
    bench.certify("a~1")
    assert bench.claim("a~1", ["new", "old"]).int("offered") == 2
    assert {bench.record(name)["state"] for name in ("old", "new")} == {"offered"}
