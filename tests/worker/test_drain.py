"""Draining: make before break."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import redis

from coordinator import Session, Worker, clock
from coordinator.errors import FencedError
from coordinator.store import calls
from coordinator.store.keys import Keys
from coordinator.worker.drain import Progress
from tests.coordinating import coordinating
from tests.inside import member_of
from tests.store.harness import Bench
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


async def adopting(worker: Worker, taken: dict[str, Session]) -> None:
    """Adopts all that is offered."""
    async for offer in worker.offers():
        session = await offer.adopt()
        if session is not None:
            taken[session.id] = session


async def test_each_call_is_handed_over_while_it_is_served(url: str, redis_client: redis.Redis) -> None:
    """The owner holds each call until its heir has accepted, and the heir gets the data of that moment."""
    taken: dict[str, Session] = {}
    async with Worker(url, name="old") as old, Worker(url, name="new") as new, anyio.create_task_group() as tasks:
        tasks.start_soon(adopting, new, taken)
        sessions = [await old.open(f"call-{n}", b"0") for n in range(20)]
        both: list[str] = []

        async def watch() -> None:
            number = 0
            while True:
                number += 1
                for session in sessions:
                    if session.held:
                        session.stage(b"%d" % number)
                    heir = taken.get(session.id)
                    if heir is not None and heir.held and (session.held or session.may_speak):
                        both.append(session.id)
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(watch)
        report = await old.drain(timeout=20)
        await eventually(lambda: len(taken) == 20)
        assert set(report.handed_over) == {s.id for s in sessions}
        assert not report.released
        assert not report.failed
        assert all(s.lost.is_set() and not s.held for s in sessions)
        assert all(s.planned and s.held and s.gap < 1 for s in taken.values())
        assert {s.id: s.raw_data for s in taken.values()} == {s.id: s.raw_data for s in sessions}
        assert both == []
        tasks.cancel_scope.cancel()


async def test_a_drain_with_nowhere_to_go_keeps_its_calls_until_the_end(url: str, redis_client: redis.Redis) -> None:
    """Nobody has room: the owner serves on, and at the deadline the calls are offered as orphans at once."""
    async with (
        coordinating(url),
        Worker(url, name="old", lease=0.5) as old,
        Worker(url, name="full", capacity=0) as full,
    ):
        session = await old.open("call-1", b"data")
        held: list[bool] = []

        async def watch() -> None:
            while not session.closed.is_set():
                held.append(session.held)
                with contextlib.suppress(FencedError):  # the last may stand in line behind the release
                    await session.checkpoint(b"more") if session.held else None
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            report = await old.drain(timeout=3)
            tasks.cancel_scope.cancel()
        assert report.released == ("call-1",)
        assert sum(held) > 20
        record: Any = redis_client.hgetall(KEYS.session("call-1"))
        assert (record[b"state"], record[b"data"]) == (b"offered", b"more")
        assert not full.sessions


async def test_an_heir_that_dies_after_accepting_changes_nothing(url: str, redis_client: redis.Redis) -> None:
    """It accepted and was never heard of again: the owner goes on, and another heir gets the call."""
    bench, taken = Bench(redis_client), dict[str, Session]()
    async with coordinating(url), Worker(url, name="old", lease=0.6) as old, Worker(url, name="new") as new:
        session = await old.open("call-1", b"data")
        bench.join("dies~1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(old.drain, 20)
            await eventually(lambda: bool(bench.read_offers("dies~1")))
            asked = calls.ask(KEYS, session="call-1", instance="dies~1", owner=old.id, request="r", lease=0.6)
            with session.busy():  # else it lets go at once
                assert bench.run(asked).word == "OK"
                bench.certify("dies~1")
                await eventually(lambda: bench.record("call-1")["state"] == "active")
                assert session.held
            tasks.start_soon(adopting, new, taken)
            await eventually(lambda: "call-1" in taken, 15)
            await eventually(old.drained.is_set)
            tasks.cancel_scope.cancel()
        assert session.heir == new.id


async def test_a_call_that_is_busy_moves_later(url: str, redis_client: redis.Redis) -> None:
    """Inside ``busy`` a call stays where it is; after it, it moves."""
    taken: dict[str, Session] = {}
    async with Worker(url, name="old") as old, Worker(url, name="new") as new, anyio.create_task_group() as tasks:
        tasks.start_soon(adopting, new, taken)
        busy, free = await old.open("busy"), await old.open("free")
        with busy.busy():
            tasks.start_soon(old.drain, 20)
            await eventually(lambda: "free" in taken)
            assert free.lost.is_set()
            assert busy.held
            assert "busy" not in taken
        await eventually(lambda: "busy" in taken)
        tasks.cancel_scope.cancel()


async def test_whoever_is_told_drains(url: str, redis_client: redis.Redis) -> None:
    """Somebody else says that an instance is to drain: it hands over, and says when it is done."""
    taken: dict[str, Session] = {}
    async with Worker(url, name="old") as old, Worker(url, name="new") as new, anyio.create_task_group() as tasks:
        tasks.start_soon(adopting, new, taken)
        await old.open("call-1")
        await member_of(new).part.executor.run(calls.drain(KEYS, instance=old.id, by="test", reason="rollout"))
        with within(15):
            await old.drained.wait()
        await eventually(lambda: set(taken) == {"call-1"})
        tasks.cancel_scope.cancel()


async def test_a_restarted_instance_with_the_right_labels_is_preferred(url: str, redis_client: redis.Redis) -> None:
    """Of those that could take a call, the one that was restarted in this rollout and has its labels gets it."""
    zone_a: Any = {"labels": {"zone": "a"}, "lease": 0.5}
    async with (
        Worker(url, name="older", **zone_a) as older,
        Worker(url, name="drains", **zone_a) as drains,
        Worker(url, name="other", labels={"zone": "b"}, lease=0.5) as other,
        Worker(url, name="first", **zone_a) as first,
    ):
        await first.drain(timeout=1)
        async with Worker(url, name="restarted", **zone_a) as restarted, anyio.create_task_group() as tasks:
            taken: dict[str, dict[str, Session]] = {w.name: {} for w in (older, other, restarted)}
            for worker in (older, other, restarted):
                tasks.start_soon(adopting, worker, taken[worker.name])
            for n in range(10):
                await drains.open(f"call-{n}", requires=["zone=a"])
            await drains.drain(timeout=30)
            await eventually(lambda: sum(map(len, taken.values())) == 10)
            assert len(taken["restarted"]) >= 8, {name: len(found) for name, found in taken.items()}
            tasks.cancel_scope.cancel()


async def test_calls_that_move_often_on_purpose_are_no_killers(url: str, redis_client: redis.Redis) -> None:
    """Handovers and releases of instances that leave do not count as recoveries."""
    async with Worker(url, name="keeps", max_recoveries=1, lease=0.5) as keeps:
        session = await keeps.open("call-1", b"data")
        for n in range(4):
            async with Worker(url, name=f"w{n}", max_recoveries=1, lease=0.5) as worker:
                mover = await worker.adopt("call-1", wait=5)
                assert mover is not None
            found = await keeps.adopt("call-1", wait=5)
            assert found is not None
            session = found
        assert session.held


async def test_all_drain_at_once(url: str, redis_client: redis.Redis) -> None:
    """Nobody is left to take anything: each serves to its deadline, then the calls wait, and a new worker gets them all."""
    reports = []
    async with coordinating(url):
        async with Worker(url, name="a", lease=0.5) as a, Worker(url, name="b", lease=0.5) as b:
            for n in range(4):
                await (a, b)[n % 2].open(f"call-{n}", b"data")

            async def drains(worker: Worker) -> None:
                reports.append(await worker.drain(timeout=2.5))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(drains, a)
                tasks.start_soon(drains, b)
            assert sorted(call for report in reports for call in report.released) == [f"call-{n}" for n in range(4)]
            assert not any(report.handed_over or report.failed for report in reports)
        taken: dict[str, Session] = {}
        async with Worker(url, name="c") as c, anyio.create_task_group() as tasks:
            tasks.start_soon(adopting, c, taken)
            await eventually(lambda: len(taken) == 4)
            assert all(session.raw_data == b"data" for session in taken.values())
            tasks.cancel_scope.cancel()


async def test_drains_do_not_add_up(url: str, redis_client: redis.Redis) -> None:
    """A second call of drain waits for the first, and both tell the same."""
    reports = []
    async with Worker(url, name="old") as old, Worker(url, name="new") as new, anyio.create_task_group() as tasks:
        tasks.start_soon(adopting, new, dict[str, Session]())
        await old.open("call-1", b"data")

        async def drains() -> None:
            reports.append(await old.drain(timeout=20))

        async with anyio.create_task_group() as both:
            both.start_soon(drains)
            both.start_soon(drains)
        assert [report.handed_over for report in reports] == [{"call-1": new.id}] * 2
        tasks.cancel_scope.cancel()


async def test_nobody_waits_for_labels_that_nobody_has(url: str, redis_client: redis.Redis) -> None:
    """A call asks for a label that no living instance has: the first that has room takes it at the first offer."""
    async with Worker(url, name="old", lease=0.5) as old, Worker(url, name="new", lease=0.5) as new:
        await old.open("call-1", b"data", requires=["zone=mars"])
        taken: dict[str, Session] = {}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(adopting, new, taken)
            report = await old.drain(timeout=20)
            await eventually(lambda: "call-1" in taken)
            tasks.cancel_scope.cancel()
        assert report.handed_over == {"call-1": new.id}
        assert redis_client.xlen(KEYS.offers("default")) <= 1
        events: Any = redis_client.xrange(KEYS.events)
        assert not [fields for _, fields in events if fields[b"type"] == b"declined"]


def test_patience_begins_anew_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """No heir was found while everything stood still; the deadline stays where it is, as whoever ends the process has one too."""
    now, continued = 1000.0, float("-inf")
    monkeypatch.setattr(clock, "now", lambda: now)
    progress = Progress(1045.0, 3.0, lambda now: continued)
    now += 10.0
    assert progress.left() == 0.0
    continued = now
    assert progress.left() == 3.0
    now += 34.0
    continued = now
    assert progress.left() == 1.0
