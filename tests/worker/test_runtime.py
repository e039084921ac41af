"""What the workers of one process share."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import redis

from coordinator import Worker
from coordinator.errors import ConfigurationError
from coordinator.settings import load
from coordinator.store.keys import Keys
from coordinator.worker.heart import Heart
from coordinator.worker.instance import Instance
from coordinator.worker.offer import Offer
from coordinator.worker.runtime import WorkerRuntime
from coordinator.worker.session import Session
from tests import inside
from tests.coordinating import coordinating
from tests.store.harness import Bench
from tests.waiting import eventually

KEYS = Keys("recovery", 0)


class Silent:
    """A host that keeps what it is offered."""

    def __init__(self) -> None:
        self.offers: list[Offer] = []

    def offered(self, offer: Offer) -> None:
        self.offers.append(offer)

    def session_lost(self, session: Session) -> None:
        """Not of interest."""

    def session_renewed(self, session: Session) -> None:
        """Not of interest."""

    def joined_again(self, instance: str) -> None:
        """Not of interest."""

    def draining(self, timeout: float) -> None:
        """Not of interest."""

    async def before_letting_go(self, session: Session, heir: str) -> None:
        """At once."""


def hosted(url: str, name: str, runtime: WorkerRuntime, host: Silent) -> Instance:
    """A worker of a sidecar."""
    return Instance(load(redis_url=url, name=name), observer=host, runtime=runtime)


def is_reading(client: Any) -> bool:
    """Whether somebody is blocked in a read of offers."""
    return any(one["cmd"] == "xreadgroup" and "b" in one["flags"] for one in client.client_list())


async def test_the_dead_are_not_given_their_own_calls(url: str, redis_client: redis.Redis) -> None:
    """A blocked read for a worker ends before its death is stated: its calls are offered to others, at the first attempt."""
    bench, host = Bench(redis_client), Silent()
    runtime = WorkerRuntime(load(redis_url=url))
    async with coordinating(url), anyio.create_task_group() as tasks:
        tasks.start_soon(runtime.run)
        async with hosted(url, "dies", runtime, host) as dies:
            await dies.open("call-1", b"data")
            bench.end_hold()
            dies.take_offers(10)
            await eventually(lambda: is_reading(redis_client))
            await dies.end("exited", "it was killed")
            await eventually(lambda: bench.record("call-1")["state"] == "offered")
            await eventually(lambda: not bench.members(bench.keys.graves))
            assert bench.record("call-1")["offers"] == "1"
            assert host.offers == []
        tasks.cancel_scope.cancel()
    await runtime.aclose()


async def test_a_drainer_is_not_given_its_own_calls(url: str, redis_client: redis.Redis) -> None:
    """The blocked read of a worker ends when it drains: its handovers go to others without a detour."""
    async with Worker(url, name="old", lease=0.5) as old, anyio.create_task_group() as tasks:

        async def read() -> None:
            async for offer in old.offers():
                await offer.decline("not expected")

        tasks.start_soon(read)
        await old.open("call-1", b"data")
        await eventually(lambda: is_reading(redis_client))
        await old.drain(timeout=1.8)
        events: Any = redis_client.xrange(KEYS.events)
        assert [fields for _, fields in events if fields[b"type"] == b"declined"] == []
        tasks.cancel_scope.cancel()


async def test_offers_go_to_all_in_turn(url: str, redis_client: redis.Redis) -> None:
    """Several workers behind one reader: each is offered something, and none more than it has room for."""
    bench, hosts = Bench(redis_client), [Silent(), Silent(), Silent()]
    bench.init(hold_ms=1)
    bench.join("gives~1")
    runtime = WorkerRuntime(load(redis_url=url))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runtime.run)
        async with (
            hosted(url, "a", runtime, hosts[0]) as a,
            hosted(url, "b", runtime, hosts[1]) as b,
            hosted(url, "c", runtime, hosts[2]) as c,
        ):
            for worker in (a, b, c):
                worker.take_offers(2)
            for n in range(8):
                epoch = bench.open(f"call-{n}", "gives~1").int("epoch")
                bench.release(f"call-{n}", "gives~1", epoch)
            await eventually(lambda: [len(host.offers) for host in hosts] == [2, 2, 2])
            assert len({offer.session_id for host in hosts for offer in host.offers}) == 6
        tasks.cancel_scope.cancel()
    await runtime.aclose()


async def test_one_that_is_refused_does_not_silence_the_others(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is no outage ends the worker that it belongs to, loudly; the thread beats on for the others."""
    runtime = WorkerRuntime(load(redis_url=url))
    beats: list[str] = []
    plain = getattr(*inside.beat_call_spot())

    def call(heart: Heart, roll: Any) -> Any:
        beats.append(roll.instance.partition("~")[0])
        return plain(heart, roll)

    take = getattr(*inside.beat_taken_spot())

    def refused(heart: Heart, one: Any, roll: Any, sent: float, answer: Any) -> Any:
        if roll.instance.startswith("bad~"):
            answer = ConfigurationError("it was made for another program")
        return take(heart, one, roll, sent, answer)

    monkeypatch.setattr(*inside.beat_call_spot(), call)
    monkeypatch.setattr(*inside.beat_taken_spot(), refused)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runtime.run)
        async with hosted(url, "good", runtime, Silent()) as good:
            with pytest.raises(ConfigurationError):
                async with hosted(url, "bad", runtime, Silent()):
                    await anyio.sleep_forever()
            before = beats.count("good")
            await eventually(lambda: beats.count("good") > before + 2)
            assert good.trust_left > 0
        tasks.cancel_scope.cancel()
    await runtime.aclose()


async def test_a_broken_heart_is_heard(url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the thread that beats ends the worker with that error; it does not fall silent unnoticed."""

    def broken(heart: Heart) -> None:
        raise RuntimeError("a bug")

    with pytest.RaisesGroup(
        pytest.RaisesExc(RuntimeError, match="a bug"), flatten_subgroups=True, allow_unwrapped=True
    ):
        async with Worker(url, name="one"):
            monkeypatch.setattr(*inside.tick_spot(), broken)
            await anyio.sleep_forever()
