"""Ages, holds and a clock that steps."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from coordinator.store import calls
from tests.store.harness import Bench

GAP_MS, HOLD_MS, MINUTE_MS = 1000, 500, 60_000
HOLD = HOLD_MS / 1000
GIVE_UP_MS = 5 * MINUTE_MS


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """An orphan, of which somebody looks regularly."""
    made = Bench(redis_client)
    made.init(hold_ms=HOLD_MS)
    scan(made)
    made.end_hold()
    made.join("dead~1")
    made.join("living~1")
    made.open("call", "dead~1")
    made.certify("dead~1")
    made.claim("dead~1", ["call"])
    scan(made)
    return made


def scan(bench: Bench, gap_ms: int = GAP_MS, **seen: Any) -> Any:
    """A look; ``seen_ms`` and ``stepped`` as its coordinator tells them."""
    return bench.run(calls.scan(bench.keys, max_scan_gap=gap_ms / 1000, hold=HOLD, horizon=0.001, **seen))


def time_passed(bench: Bench, ms: int) -> None:
    """All that the server remembers is so much older from one moment to the next."""
    bench.client.hincrby(bench.keys.detector, "last_scan_ms", -ms)
    bench.client.hincrby(bench.keys.session("call"), "orphaned_at", -ms)


def expire(bench: Bench) -> str:
    """The orphan's lease ends; what becomes of it."""
    bench.end_hold()
    bench.end_lease("call")
    return bench.expire("call", give_up_after_ms=GIVE_UP_MS).word


def now_ms(bench: Bench) -> int:
    """By the server's clock."""
    seconds, micros = bench.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def stepped(bench: Bench, ms: int) -> dict[str, Any]:
    """What a coordinator tells that looked just before the clock stepped."""
    return {"seen_ms": now_ms(bench) - ms, "stepped": (ms - 100) / 1000}


def test_a_step_forward_ages_nobody(bench: Bench) -> None:
    """Ten minutes on the server's clock, and none on the coordinator's own: the caller has not waited."""
    time_passed(bench, 10 * MINUTE_MS)
    assert scan(bench).text("reason") == "gap", "its coordinator does not know better yet"
    found = scan(bench, **stepped(bench, 10 * MINUTE_MS))
    assert (found.word, found.text("reason")) == ("HELD", "clock")
    assert expire(bench) != "DEAD_LETTERED"
    time_passed(bench, GIVE_UP_MS + MINUTE_MS)  # and these it did wait, by both clocks
    scan(bench)
    assert expire(bench) == "DEAD_LETTERED"


def test_a_pause_of_the_coordinators_ages(bench: Bench) -> None:
    """Ten minutes by both clocks: the caller has hung up."""
    time_passed(bench, 10 * MINUTE_MS)
    assert scan(bench).text("reason") == "gap"
    assert expire(bench) == "DEAD_LETTERED"


def test_a_step_counts_once(bench: Bench) -> None:
    """Two coordinators see the same step: ages leave it out once."""
    time_passed(bench, 10 * MINUTE_MS)
    seen = stepped(bench, 10 * MINUTE_MS)
    scan(bench)
    scan(bench, **seen)
    total = int(bench.client.hget(bench.keys.detector, "held_total_ms"))
    scan(bench, **seen)
    assert int(bench.client.hget(bench.keys.detector, "held_total_ms")) - total < MINUTE_MS


def test_what_nobody_has_looked_at_does_not_age_yet(bench: Bench) -> None:
    """Between a step and the next look a worker gives an offer back: the call is not given up on for that."""
    time_passed(bench, 10 * MINUTE_MS)
    epoch = int(bench.record("call")["epoch"])
    assert bench.decline("call", "living~1", epoch, give_up_after_ms=GIVE_UP_MS).word == "OK"


def test_a_hold_does_not_begin_again_for_ever(bench: Bench) -> None:
    """Every look comes late: after some holds that is how it is, and the last hold ends by itself."""
    held = []
    for _ in range(12):
        bench.client.hincrby(bench.keys.detector, "last_scan_ms", -2 * GAP_MS)
        bench.end_hold()
        held.append(scan(bench).word)
    assert held[0] == "HELD"
    assert held[-1] == "OK"
    assert held == sorted(held), "once it is over it stays over"


def test_looks_that_are_late_only_when_there_is_work(bench: Bench) -> None:
    """During a hold looks are quick and in time, the first one after it lasts too long: holds end for good all the same."""
    held = []
    for _ in range(12):
        bench.client.hincrby(bench.keys.detector, "last_scan_ms", -2 * GAP_MS)
        held.append(scan(bench).word)
        for _ in range(5 if held[-1] == "HELD" else 0):
            assert scan(bench).word == "HELD", "it is in time"
        bench.end_hold()
        assert scan(bench).word == "OK", "so is this one, after which there is work"
    assert held[0] == "HELD"
    assert held[-1] == "OK"
    assert held == sorted(held), "once it is over it stays over"


def test_looks_in_time_arm_the_guard_again(bench: Bench) -> None:
    """After looks that came late a few come in time: the next gap is a hold as before."""
    for _ in range(12):
        bench.client.hincrby(bench.keys.detector, "last_scan_ms", -2 * MINUTE_MS)
        bench.end_hold()
        scan(bench, MINUTE_MS)
    bench.end_hold()
    for _ in range(3):
        assert scan(bench, MINUTE_MS).word == "OK"
    bench.client.hincrby(bench.keys.detector, "last_scan_ms", -2 * MINUTE_MS)
    assert scan(bench, MINUTE_MS).word == "HELD"


def test_a_tiny_step_back_is_no_hold(bench: Bench) -> None:
    """A clock that is corrected by some milliseconds, again and again, holds nobody up."""
    for _ in range(3):
        bench.client.hset(bench.keys.detector, "last_scan_ms", now_ms(bench) + 50)
        assert scan(bench).word == "OK"
    bench.client.hset(bench.keys.detector, "last_scan_ms", now_ms(bench) + 5000)
    assert scan(bench).text("reason") == "clock"
