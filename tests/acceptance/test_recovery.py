"""Real processes, a real Redis and real signals: the main job."""

from __future__ import annotations

import signal
from base64 import b64decode
from contextlib import ExitStack

import pytest
import redis

from coordinator import failpoints
from tests.acceptance.processes import Process, coordinator, worker
from tests.acceptance.worker_process import data_of
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.waiting import wait_until

CALLS = [f"call-{n}" for n in range(200)]


def _adopted_once_each(calls: list[str], epochs: dict[str, int], survivors: list[Process]) -> None:
    """Every call was adopted, none twice, byte for byte, under a higher epoch."""
    wait_until(lambda: sum(len(s.told("adopted")) for s in survivors) >= len(calls), 30, "every call is adopted")
    adopted = [line for s in survivors for line in s.told("adopted")]
    assert sorted(line["session"] for line in adopted) == sorted(calls)
    for line in adopted:
        assert b64decode(line["data"]) == data_of(line["session"])
        assert line["epoch"] > epochs[line["session"]]


def test_a_killed_worker_with_200_calls(url: str) -> None:
    """All 200 calls are adopted by two survivors, none twice, data byte for byte, each epoch higher."""
    with coordinator(url), worker(url, "dies", *CALLS) as dies, worker(url, "b") as b, worker(url, "c") as c:
        epochs = {line["session"]: line["epoch"] for line in dies.wait_for("opened", len(CALLS))}
        dies.send(signal.SIGKILL)
        _adopted_once_each(CALLS, epochs, [b, c])


@pytest.mark.parametrize("point", failpoints.NAMES)
def test_a_coordinator_killed_at_any_point_changes_nothing_but_time(url: str, point: str) -> None:
    """Wherever in a death the coordinator is killed, another finishes: every call adopted once, with its data."""
    calls = CALLS[:150] if point in ("after_first_claim", "after_claim", "before_claim") else CALLS[:20]
    with ExitStack() as stack:
        dies = stack.enter_context(worker(url, "dies", *calls))
        reader = stack.enter_context(worker(url, "reader", mode="attempts" if "expire" in point else "serve"))
        epochs = {line["session"]: line["epoch"] for line in dies.wait_for("opened", len(calls))}
        dies.send(signal.SIGKILL)
        doomed = stack.enter_context(coordinator(url, fail_point=point))
        if "expire" in point:  # offers that were read and not adopted: their reader dies too
            reader.wait_for("read")
            reader.send(signal.SIGKILL)
        wait_until(lambda: not doomed.alive, 30, f"the coordinator is killed at {point}")
        stack.enter_context(coordinator(url))
        survivor = reader if "expire" not in point else stack.enter_context(worker(url, "survivor"))
        _adopted_once_each(calls, epochs, [survivor])


def test_a_frozen_worker_that_continues_may_do_nothing(url: str, redis_client: redis.Redis) -> None:
    """Stopped past its deadline and continued: not held, may not speak, and every attempt is a FencedError."""
    with ExitStack() as stack:
        stack.enter_context(coordinator(url))
        gives = stack.enter_context(worker(url, "gives", "given", mode="attempts"))
        frozen = stack.enter_context(worker(url, "frozen", "mine", mode="attempts"))
        gives.send(signal.SIGKILL)
        frozen.wait_for("read")
        frozen.send(signal.SIGSTOP)
        survivor = stack.enter_context(worker(url, "survivor"))
        survivor.wait_for("adopted", 2)
        frozen.send(signal.SIGCONT)

        (continued,) = frozen.wait_for("continued")
        assert continued["held"] == [False]
        assert continued["may_speak"] == [False]
        (told,) = frozen.wait_for("attempts")
        assert set(told["outcomes"].values()) == {"FencedError"}, told["outcomes"]
        assert told["lost"] == [True]


def test_eight_coordinators_make_one_offer_a_session(url: str, redis_client: redis.Redis) -> None:
    """Eight coordinators hammering one dead instance of 5,000 calls give exactly 5,000 offers."""
    from tests.store.harness import Bench

    bench = Bench(redis_client)
    bench.init()
    bench.join("dead~1", dead_after_ms=1000)
    for n in range(5000):
        bench.open(f"s{n}", "dead~1")
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(coordinator(url))
        offers = bench.keys.offers("default")
        wait_until(lambda: redis_client.xlen(offers) >= 5000, 60, "every session is offered")
        wait_until(lambda: not redis_client.zcard(bench.keys.graves), 30, "the grave ended")
        entries = bench.client.xrange(offers)
    assert len(entries) == 5000
    assert len({fields[b"session"] for _, fields in entries}) == 5000


def test_a_worker_without_redis_is_in_doubt_and_then_holds_again() -> None:
    """While Redis does not answer a worker is in doubt but may speak; when it answers again, it holds again."""
    server = RedisServer()
    try:
        with coordinator(server.url), worker(server.url, "w", "call", mode="watch") as w:
            wait_until(lambda: w.told("standing")[-1:] and w.told("standing")[-1]["held"], description="held")
            server.pause()
            wait_until(lambda: not w.told("standing")[-1]["held"], description="in doubt")
            doubt = w.told("standing")[-1]
            assert (doubt["may_speak"], doubt["lost"]) == (True, False)
            server.resume()
            wait_until(lambda: w.told("standing")[-1]["held"], description="held again")
            assert not any(line["lost"] for line in w.told("standing"))
            owned = server.client().keys("*:owned:w~*")
            assert len(owned) == 1
    finally:
        server.close()


def test_a_worker_that_is_cut_off_is_in_doubt_before_anybody_adopts(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """Cut off but running: not held before another adopts, speaking until it hears it, and lost at the first answer."""
    proxy = Proxy(redis_server.path)
    url = redis_server.url
    try:
        with coordinator(url), worker(url, "survivor") as survivor, worker(proxy.url, "cut", "call", mode="watch") as w:
            wait_until(lambda: w.told("standing")[-1:] and w.told("standing")[-1]["held"], description="held")
            proxy.cut()
            (adopted,) = survivor.wait_for("adopted")
            doubt = [line for line in w.told("standing") if not line["held"]][-1]
            assert doubt["at"] < adopted["at"], "it was held when another adopted it"
            assert (doubt["may_speak"], doubt["lost"]) == (True, False)
            assert not any(line["lost"] for line in w.told("standing")), "nobody can have told it"
            proxy.mend()
            wait_until(lambda: w.told("standing")[-1]["lost"], description="lost")
            after = [line for line in w.told("standing") if line["at"] > doubt["at"]]
            assert not any(line["held"] for line in after), "it never believes again"
            assert after[-1]["may_speak"] is False
    finally:
        proxy.close()


@pytest.mark.parametrize("persistence", ["no", "yes"])
def test_a_redis_that_restarts_loses_no_call(persistence: str) -> None:
    """Restarted empty or with its data, the worker states its call again and holds it, and nobody is declared dead."""
    server = RedisServer("--appendonly", persistence, "--appendfsync", "always")
    try:
        with coordinator(server.url), worker(server.url, "w", "call", mode="watch") as w:
            epoch = w.wait_for("opened")[0]["epoch"]
            wait_until(lambda: w.told("standing")[-1:] and w.told("standing")[-1]["held"], description="held")
            server.restart()
            wait_until(lambda: not w.told("standing")[-1]["held"], description="in doubt")
            wait_until(lambda: w.told("standing")[-1]["held"], 20, description="held again")
            client = server.client()
            record = client.hgetall("{recovery:0}:session:call")
            assert record[b"data"] == data_of("call")
            assert int(record[b"epoch"]) > epoch
            assert not any(line["lost"] for line in w.told("standing"))
            assert client.zcard("{recovery:0}:graves") == 0
    finally:
        server.close()
