"""Lost connections, wedged loops and the mass breaker, script by script."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from coordinator.store import calls
from coordinator.store.past import Past
from tests.store.harness import DEAD_AFTER, DEAD_AFTER_MS, TRUST_MS, Bench
from tests.waiting import wait_until


@pytest.fixture
def silent(bench: Bench) -> Bench:
    """A partition with one instance, in no hold."""
    bench.init()
    bench.join("a~1")
    bench.end_hold()
    return bench


# -- lost connection ---------------------------------------------------------------------------------------------------


def _declare_lost(
    bench: Bench, age_ms: int, *, presence: bool = True, lost_after_ms: int = 1000, stands: bool = False
) -> str:
    """What a declaration by lost connection is answered when the last beat is ``age_ms`` old, and it was present then."""
    with listening(bench):
        _beat(bench, presence=presence)
        if stands:
            return _declare(bench, age_ms, lost_after_ms)
    return _declare(bench, age_ms, lost_after_ms)


def _declare(bench: Bench, age_ms: int, lost_after_ms: int) -> str:
    deadline = now_ms(bench) - age_ms + DEAD_AFTER_MS
    bench.client.zadd(bench.keys.instances, {"a~1": deadline})
    _scanned(bench)
    return bench.run(
        calls.declare(
            bench.keys, instance="a~1", deadline_ms=deadline, max_scan_gap=60, cause="lost_connection",
            lost_after=lost_after_ms / 1000,
        )
    ).word  # fmt: skip


def _beat(bench: Bench, *, presence: bool) -> str:
    """A beat; as what the store takes its presence."""
    return bench.run(
        calls.beat(
            bench.keys, instance="a~1", dead_after=DEAD_AFTER, seen_server=bench.server_id, past=Past("lineage-1"),
            roll="0 0", loop_lag=0, presence=presence,
        )
    ).text("presence")  # fmt: skip


@contextmanager
def listening(bench: Bench) -> Iterator[None]:
    """While somebody listens on the channel of the instance; at the end the server knows that nobody does any more."""
    channel = bench.keys.mailbox("a~1")
    box = bench.client.pubsub()
    box.subscribe(channel)
    assert box.get_message(timeout=5)
    yield
    box.close()
    wait_until(lambda: bench.client.pubsub_numsub(channel)[0][1] == 0)


def now_ms(bench: Bench) -> int:
    """The server's time."""
    seconds, micros = bench.client.time()
    return int(seconds * 1000 + micros // 1000)


def _scanned(bench: Bench) -> None:
    bench.client.hset(bench.keys.detector, mapping={"last_scan_ms": now_ms(bench), "hold_until_ms": 0})


def test_a_lost_connection_counts_with_missed_beats(silent: Bench) -> None:
    """Nobody listens and the last beat is old enough: dead long before the deadline, by that cause."""
    assert _declare_lost(silent, 1100) == "OK"
    assert silent.client.hget(silent.keys.instance("a~1"), "cause") == b"lost_connection"


def test_a_lost_connection_alone_does_not_count(silent: Bench) -> None:
    """While beats come nobody is dead, however many connections were lost."""
    assert _declare_lost(silent, 900) == "ALIVE"


def test_a_connection_that_stands_saves(silent: Bench) -> None:
    """Somebody listens: the process lives, whatever its beats do."""
    assert _declare_lost(silent, 1100, stands=True) == "ALIVE"


def test_an_instance_without_presence_is_found_by_silence_only(silent: Bench) -> None:
    """Whoever never had a presence connection cannot lose it."""
    assert _declare_lost(silent, 1100, presence=False) == "ALIVE"


def test_a_presence_that_the_server_does_not_know_is_none(silent: Bench) -> None:
    """A beat may say what it likes: nobody loses a connection that this server had lost before the beat."""
    assert _beat(silent, presence=True) == "0"
    with listening(silent):
        assert _beat(silent, presence=True) == "1"
        assert _beat(silent, presence=False) == "0"
        assert _beat(silent, presence=True) == "1"
    assert _beat(silent, presence=True) == "0"
    assert silent.client.hget(silent.keys.instance("a~1"), "presence") == b"0"


def test_without_a_run_id_nobody_is_present(silent: Bench) -> None:
    """A record that was replicated says who was present at another server: where that cannot be told, silence decides."""
    silent.server_id = ""
    with listening(silent):
        assert _beat(silent, presence=True) == "0"
    assert _declare_lost(silent, 1100) == "ALIVE"


def test_who_may_not_ask_who_listens_is_believed(silent: Bench) -> None:
    """Without the right to `PUBSUB` a beat is answered as ever, and what it says of its presence stands."""
    silent.client.acl_setuser(
        "deaf", enabled=True, nopass=True, commands=["+@all", "-pubsub"], keys=["*"], channels=["*"]
    )
    try:
        options = silent.client.get_connection_kwargs()
        with redis.Redis(unix_socket_path=options["path"], protocol=2, username="deaf", password="x") as deaf:
            assert _beat(Bench(deaf), presence=True) == "1"
    finally:
        silent.client.acl_deluser("deaf")


def test_the_trust_window_of_the_instance_counts(silent: Bench) -> None:
    """A coordinator with a shorter setting than the worker's trust window kills nobody who may still trust itself."""
    assert TRUST_MS == 750
    assert _declare_lost(silent, 700, lost_after_ms=100) == "ALIVE"
    assert _declare_lost(silent, 800, lost_after_ms=100) == "OK"


# -- wedged ------------------------------------------------------------------------------------------------------------


def test_a_wedged_instance_is_asked_to_fence_itself(silent: Bench) -> None:
    """A loop that stands still for too long: the beat says so, and does not move the deadline."""
    before = now_ms(silent) + 1000
    silent.client.zadd(silent.keys.instances, {"a~1": before})

    def beat(lag_ms: int) -> str:
        return silent.run(
            calls.beat(
                silent.keys, instance="a~1", dead_after=DEAD_AFTER, seen_server=silent.server_id,
                past=Past("lineage-1"), roll="0 0", loop_lag=lag_ms / 1000, wedged_after=5,
            )
        ).word  # fmt: skip

    assert beat(5000) == "WEDGED"
    assert silent.client.zscore(silent.keys.instances, "a~1") == before
    assert beat(4900) == "OK"
    assert silent.client.zscore(silent.keys.instances, "a~1") > before


# -- mass breaker ------------------------------------------------------------------------------------------------------


def _mass(bench: Bench, alive: int, silent: int, *, ended: bool = True) -> None:
    """A partition with so many living and silent instances."""
    bench.init()
    bench.end_hold()
    at = now_ms(bench)
    for n in range(alive + silent):
        bench.join(f"w{n}~1", dead_after_ms=2000)
        bench.client.zadd(
            bench.keys.instances, {f"w{n}~1": at + 60_000 if n < alive else at - 1 if ended else at + 900}
        )
    _scanned(bench)


def _scan(bench: Bench) -> Any:
    return bench.run(calls.scan(bench.keys, max_scan_gap=60, hold=0.001, horizon=1.5, breaker_min=3, breaker_share=0.3))


@pytest.mark.parametrize(
    ("alive", "silent", "opens"),
    [
        (0, 1, False),
        (1, 2, False),
        (0, 3, True),
        (7, 3, True),
        (8, 3, False),
        (7, 4, True),
        (71, 29, False),
        (70, 30, True),
    ],
)
def test_the_breaker_opens_when_many_fall_silent(bench: Bench, alive: int, silent: int, opens: bool) -> None:
    """At max(3, 30 %) of the instances, and not below."""
    _mass(bench, alive, silent)
    assert (_scan(bench).int("breaker_since_ms") > 0) == opens


def test_the_breaker_stays_shut_while_nobody_could_be_declared(bench: Bench) -> None:
    """Many late beats alone, all short of their deadline, are no reason."""
    _mass(bench, 0, 10, ended=False)
    assert _scan(bench).int("breaker_since_ms") == 0


def test_an_open_breaker_confirms_for_one_dead_after(bench: Bench) -> None:
    """Silence is held for one dead_after; a certificate is not."""
    _mass(bench, 0, 4)
    since = _scan(bench).int("breaker_since_ms")
    deadline = int(bench.client.zscore(bench.keys.instances, "w0~1"))

    def declare() -> Any:
        return bench.run(calls.declare(bench.keys, instance="w0~1", deadline_ms=deadline, max_scan_gap=60))

    refused = declare()
    assert (refused.word, refused.text("reason")) == ("HELD", "breaker")
    assert bench.certify("w1~1").word == "OK"
    bench.client.hset(bench.keys.detector, "breaker_since_ms", since - 2001)
    assert declare().word == "OK"


def test_who_is_given_longer_is_confirmed_no_longer(bench: Bench) -> None:
    """The breaker confirms for the deployment's dead_after, not for that of an instance that was given ten times as long."""
    _mass(bench, 0, 4)
    bench.join("w0~1", dead_after_ms=20_000, trust_ms=19_750)
    deadline = now_ms(bench) - 1
    bench.client.zadd(bench.keys.instances, {"w0~1": deadline})
    since = _scan(bench).int("breaker_since_ms")

    def declare() -> Any:
        return bench.run(calls.declare(bench.keys, instance="w0~1", deadline_ms=deadline, max_scan_gap=60))

    assert declare().text("reason") == "breaker"
    bench.client.hset(bench.keys.detector, "breaker_since_ms", since - 2001)
    assert declare().word == "OK"


def test_deaths_just_now_count_with_those_who_are_about_to_die(bench: Bench) -> None:
    """Deaths that trickle in one by one open the breaker too."""
    _mass(bench, 6, 3)
    bench.client.hset(bench.keys.detector, "breaker_since_ms", 0)
    for n in (6, 7):
        deadline = int(bench.client.zscore(bench.keys.instances, f"w{n}~1"))
        assert bench.run(
            calls.declare(bench.keys, instance=f"w{n}~1", deadline_ms=deadline, max_scan_gap=60)
        ).word == "OK"  # fmt: skip
    assert _scan(bench).int("breaker_since_ms") > 0


def test_the_breaker_shuts_when_nobody_is_silent_any_more(bench: Bench) -> None:
    """All beat again, or are buried: it is shut, and the next one alone is declared at once."""
    _mass(bench, 0, 4)
    assert _scan(bench).int("breaker_since_ms") > 0
    for n in range(4):
        bench.client.zadd(bench.keys.instances, {f"w{n}~1": now_ms(bench) + 60_000})
    assert _scan(bench).int("breaker_since_ms") == 0
