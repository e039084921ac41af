"""An heir prepares before it adopts, and takes no more calls than it can begin with."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
import redis
import structlog

from coordinator import InvalidValueError, Offer, Session, Worker
from coordinator.states import SessionState
from coordinator.store.keys import Keys
from tests import inside
from tests.coordinating import coordinating
from tests.store.harness import Bench
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


class Heir:
    """What an heir's program saw, in order."""

    def __init__(self) -> None:
        self.saw: list[str] = []
        self.prepared: dict[str, object] = {}
        self.sessions: dict[str, Session] = {}

    async def handler(self, session: Session) -> None:
        self.saw.append(f"serves {session.id}")
        self.prepared[session.id], self.sessions[session.id] = session.prepared, session
        try:
            await anyio.sleep_forever()
        finally:
            self.saw.append(f"served {session.id}")

    @asynccontextmanager
    async def room(self, offer: Offer) -> AsyncIterator[str]:
        """Joins something that must be left by the task that joined it."""
        async with anyio.create_task_group():
            self.saw.append(f"joins {offer.session_id}")
            try:
                yield f"room of {offer.session_id}"
            finally:
                self.saw.append(f"leaves {offer.session_id}")


@asynccontextmanager
async def serving(worker: Worker, handler: Any, **options: Any) -> AsyncIterator[None]:
    """The worker serves in the background."""
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await worker.serve(handler, **options)

        tasks.start_soon(run)
        yield
        tasks.cancel_scope.cancel()


async def dies_with(url: str, *calls: str) -> str:
    """A worker that dies with these calls; returns its id."""
    with pytest.raises(ZeroDivisionError):
        async with Worker(url, name="a") as dying:
            for call in calls:
                await dying.open(call, {"call": call})
            raise ZeroDivisionError
    return dying.id


async def test_what_is_prepared_is_there_before_the_call(url: str) -> None:
    """An async function: it gets the offer with its data before the adoption, and the handler gets what it returned."""
    heir = Heir()

    async def prepare(offer: Offer) -> str:
        heir.saw.append(f"prepares {offer.session_id} {offer.recovery_data}")
        assert offer.session_id not in {session.id for session in worker.sessions}
        return "warm"

    async with coordinating(url), Worker(url, name="b") as worker, serving(worker, heir.handler, prepare=prepare):
        await dies_with(url, "call-1")
        await eventually(lambda: heir.prepared == {"call-1": "warm"})
        assert heir.saw == ["prepares call-1 {'call': 'call-1'}", "serves call-1"]


async def test_what_was_entered_is_left_when_the_call_is_over(url: str) -> None:
    """A context manager is entered before the adoption and left after the handler, by the task that entered it."""
    heir = Heir()
    async with coordinating(url), Worker(url, name="b") as worker, serving(worker, heir.handler, prepare=heir.room):
        await dies_with(url, "call-1")
        await eventually(lambda: heir.prepared == {"call-1": "room of call-1"})
        await heir.sessions["call-1"].close()
        await eventually(lambda: len(heir.saw) == 4)
        assert heir.saw == ["joins call-1", "serves call-1", "served call-1", "leaves call-1"]


async def test_a_handover_waits_for_the_heir_that_prepares(url: str) -> None:
    """Make before break: while the heir prepares the owner holds the call and serves it."""
    heir, may_go_on = Heir(), anyio.Event()

    async def prepare(offer: Offer) -> None:
        assert offer.planned
        heir.saw.append("prepares")
        await may_go_on.wait()

    async with Worker(url, name="a") as owner, Worker(url, name="b") as worker:
        owned = await owner.open("call-1")
        async with serving(worker, heir.handler, prepare=prepare), anyio.create_task_group() as tasks:
            tasks.start_soon(owner.drain)
            await eventually(lambda: heir.saw == ["prepares"])
            assert owned.held
            may_go_on.set()
            await eventually(lambda: "call-1" in heir.sessions)
            assert heir.sessions["call-1"].planned
            assert owned.lost.is_set()


async def test_an_offer_that_is_not_prepared_in_time_goes_on(url: str, redis_client: redis.Redis) -> None:
    """After the time-out another worker gets it, as its second attempt, and what was begun is undone."""
    slow, quick = Heir(), Heir()

    @asynccontextmanager
    async def prepare(offer: Offer) -> AsyncIterator[None]:
        try:
            await anyio.sleep_forever()
            yield
        finally:
            slow.saw.append("undone")

    with structlog.testing.capture_logs() as logs:
        late = {"prepare": prepare, "prepare_timeout": 0.2}
        async with coordinating(url), Worker(url, name="b") as b, serving(b, slow.handler, **late):
            await dies_with(url, "call-1")
            await eventually(lambda: slow.saw[:1] == ["undone"])
            async with Worker(url, name="c") as c, serving(c, quick.handler):
                await eventually(lambda: "call-1" in quick.sessions)
                assert quick.sessions["call-1"].attempt >= 2
    assert not slow.sessions
    assert "preparation_took_too_long" in [entry["event"] for entry in logs]


async def test_a_preparation_that_fails_counts_as_an_attempt(url: str, redis_client: redis.Redis) -> None:
    """A call for which no worker can prepare becomes a dead letter, with its data."""
    heir = Heir()

    async def prepare(offer: Offer) -> None:
        raise RuntimeError("no such room")

    with structlog.testing.capture_logs() as logs:
        async with (
            coordinating(url, max_offers=2),
            Worker(url, name="b", max_offers=2) as worker,
            serving(worker, heir.handler, prepare=prepare),
        ):
            await dies_with(url, "call-1")
            await eventually(lambda: Bench(redis_client).record("call-1")["state"] == SessionState.DEAD_LETTERED, 30)
            assert worker.sessions == ()
    failed = [entry for entry in logs if entry["event"] == "preparation_failed"]
    assert len(failed) == 2
    assert "no such room" in failed[0]["exception"]


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_preparation_that_ends_by_a_foreign_cancellation(url: str, where: str) -> None:
    """What it waited for was cancelled, as it began or as it is undone: that is its failure alone, and the live calls go on."""
    heir = Heir()

    @asynccontextmanager
    async def prepare(offer: Offer) -> AsyncIterator[None]:
        if where == "before" and offer.attempt == 1:
            raise asyncio.CancelledError
        yield
        raise asyncio.CancelledError

    with structlog.testing.capture_logs() as logs:
        async with coordinating(url), Worker(url, name="b") as worker, serving(worker, heir.handler, prepare=prepare):
            own = await worker.open("own")
            await dies_with(url, "call-1")
            await eventually(lambda: "call-1" in heir.sessions, 20)
            await heir.sessions["call-1"].close()
            said = "preparation_failed" if where == "before" else "preparation_not_undone"
            await eventually(lambda: said in [entry["event"] for entry in logs])
            assert own.held
            assert "served own" not in heir.saw


async def test_a_preparation_that_does_not_stop_is_too_late_all_the_same(url: str) -> None:
    """It goes on after its time-out, and returns something: the offer goes to other workers as one that was not prepared."""
    heir, calls = Heir(), [0]

    async def prepare(offer: Offer) -> str:
        calls[0] += 1
        if calls[0] == 1:
            with suppress(asyncio.CancelledError):
                await anyio.sleep_forever()
            return "too late"
        return "in time"

    late = {"prepare": prepare, "prepare_timeout": 0.2}
    with structlog.testing.capture_logs() as logs:
        async with coordinating(url), Worker(url, name="b") as worker, serving(worker, heir.handler, **late):
            await dies_with(url, "call-1")
            await eventually(lambda: heir.prepared == {"call-1": "in time"}, 20)
    assert "preparation_took_too_long" in [entry["event"] for entry in logs]


@pytest.mark.parametrize("how", ["drains", "is cancelled"])
async def test_a_worker_that_stops_gives_back_what_it_prepares(url: str, how: str) -> None:
    """Another worker gets the offer at once, as its first attempt."""
    slow, quick = Heir(), Heir()

    async def prepare(offer: Offer) -> None:
        slow.saw.append("prepares")
        await anyio.sleep_forever()

    async with coordinating(url), Worker(url, name="b") as b, anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def serve() -> None:
            with scope:
                await b.serve(slow.handler, prepare=prepare, prepare_timeout=60)

        tasks.start_soon(serve)
        await dies_with(url, "call-1")
        await eventually(lambda: slow.saw == ["prepares"])
        async with Worker(url, name="c") as c, serving(c, quick.handler):
            if how == "drains":
                await b.drain()
            else:
                scope.cancel()
            await eventually(lambda: "call-1" in quick.sessions)
            assert quick.sessions["call-1"].attempt == 1
            tasks.cancel_scope.cancel()


async def test_a_call_is_prepared_once_at_a_time(url: str) -> None:
    """In a handover a preparation ends when the owner is about to offer the call again, whatever its time-out is."""
    heir, inside_room, most = Heir(), [0], [0]

    @asynccontextmanager
    async def prepare(offer: Offer) -> AsyncIterator[None]:
        inside_room[0] += 1
        most.append(inside_room[0])
        try:
            if len(most) < 4:  # the third one is quick
                await anyio.sleep_forever()
            yield
        finally:
            inside_room[0] -= 1

    async with Worker(url, name="a", lease="300ms") as owner, Worker(url, name="b", lease="300ms") as worker:
        await owner.open("call-1")
        async with (
            serving(worker, heir.handler, prepare=prepare, prepare_timeout=60),
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(owner.drain)
            await eventually(lambda: "call-1" in heir.sessions, 20)
    assert max(most) == 1


async def test_what_is_neither_async_nor_a_context_is_said(url: str) -> None:
    """A plain function as ``prepare`` is the program's mistake, and costs an attempt, not the worker."""
    heir = Heir()
    with structlog.testing.capture_logs() as logs:
        async with (
            coordinating(url),
            Worker(url, name="b") as worker,
            serving(worker, heir.handler, prepare=lambda offer: 7),
        ):
            await dies_with(url, "call-1")
            await eventually(lambda: [e for e in logs if e["event"] == "preparation_failed"])
    [first, *_] = [entry["error"] for entry in logs if entry["event"] == "preparation_failed"]
    assert "prepare returned int" in first


async def test_a_worker_takes_what_it_can_begin_with(url: str) -> None:
    """Of five calls it has as many in hand at a time as are ready, and none while none is."""
    heir, ready, preparing, most = Heir(), [0], [0], [0]

    async def prepare(offer: Offer) -> None:
        preparing[0] += 1
        most[0] = max(most)
        most.append(preparing[0])
        await anyio.sleep(0.05)
        preparing[0] -= 1

    calls = [f"call-{n}" for n in range(5)]
    options = {"prepare": prepare, "ready": lambda: ready[0]}
    async with coordinating(url), Worker(url, name="b") as worker, serving(worker, heir.handler, **options):
        await dies_with(url, *calls)
        await anyio.sleep(0.5)  # nothing is taken meanwhile
        assert not heir.sessions
        assert most == [0]
        ready[0] = 2
        await eventually(lambda: heir.sessions.keys() == set(calls), 30)
    assert max(most) <= 2


async def test_what_is_accepted_counts_before_its_handler_begins(url: str) -> None:
    """A program can begin with three calls: while those that it adopted have no handler yet, it takes no more of ten."""
    heir = Heir()
    async with coordinating(url), Worker(url, name="b") as worker, serving(worker, heir.handler, ready=3):
        await eventually(lambda: inside.serving_of(worker) is not None)
        running = inside.serving_of(worker)
        assert running is not None
        async with inside.turn_of(running):
            await dies_with(url, *(f"call-{n}" for n in range(10)))
            await eventually(lambda: len(worker.sessions) == 3, 20)
            await anyio.sleep(0.5)  # no more come
            assert len(worker.sessions) == 3
            assert not heir.sessions
        await eventually(lambda: len(heir.sessions) == 10, 20)


async def test_no_limit_is_a_limit_too(url: str) -> None:
    """``ready`` may say that there is no limit."""
    heir = Heir()
    endless = {"ready": lambda: math.inf}
    async with coordinating(url), Worker(url, name="b") as worker, serving(worker, heir.handler, **endless):
        await dies_with(url, "call-1")
        await eventually(lambda: "call-1" in heir.sessions)


@pytest.mark.parametrize("ready", [-1, True, 1.5])
async def test_an_invalid_number_is_said_at_once(url: str, ready: Any) -> None:
    """``ready`` is a whole number from 0, or a function."""
    async with Worker(url, name="b") as worker:
        with within(5), pytest.raises(InvalidValueError, match="ready"):
            await worker.serve(Heir().handler, ready=ready)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("handler", {"handler": None}),
        ("prepare", {"prepare": "x"}),
        ("drain_on", {"drain_on": signal.SIGTERM}),
        ("drain_on", {"drain_on": [signal.SIGKILL]}),
        ("drain_on", {"drain_on": ["TERM"]}),
    ],
)
async def test_what_cannot_work_is_refused_before_a_call_is_taken(url: str, name: str, given: dict[str, Any]) -> None:
    """A mistake in the program costs no call: nothing is begun, and the error names the argument."""
    async with Worker(url, name="b") as worker:
        session = await worker.open("own")
        with within(5), pytest.raises(InvalidValueError, match=name):
            await worker.serve(**{"handler": Heir().handler, **given})
        assert session.held


async def test_a_function_that_fails_takes_no_calls_and_ends_none(url: str) -> None:
    """``ready`` raises for a while: what is served goes on, the log says so once, and afterwards offers are taken."""
    heir, broken = Heir(), [True]

    def ready() -> int:
        if broken[0]:
            raise ZeroDivisionError
        return 3

    with structlog.testing.capture_logs() as logs:
        async with coordinating(url), Worker(url, name="b") as worker, serving(worker, heir.handler, ready=ready):
            own = await worker.open("own")
            await dies_with(url, "call-1")
            await eventually(lambda: [entry for entry in logs if entry["event"] == "ready_failed"])
            assert own.held
            broken[0] = False
            await eventually(lambda: heir.sessions.keys() == {"own", "call-1"})
    assert [entry["event"] for entry in logs].count("ready_failed") == 1


@pytest.mark.parametrize("planned", [False, True], ids=["orphan", "handover"])
@pytest.mark.parametrize("keys", ["", "k1:" + "A" * 43 + "="], ids=["plain", "sealed"])
async def test_large_data_is_there_to_prepare_with(url: str, planned: bool, keys: str) -> None:
    """Recovery data that is too large to travel with the offer is read before the program prepares."""
    data: dict[str, Any] = {"text": "x" * 50_000}
    sealing: dict[str, Any] = {"encryption_keys": keys} if keys else {}
    saw: list[object] = []

    async def prepare(offer: Offer) -> None:
        saw.append(offer.recovery_data)

    heir = Heir()
    async with coordinating(url), Worker(url, name="a", **sealing) as first:
        session = await first.open("call-1", data)
        async with Worker(url, name="b", **sealing) as worker, serving(worker, heir.handler, prepare=prepare):
            await (first.drain() if planned else session.release("for others"))
            await eventually(lambda: heir.sessions)
            assert saw == [data]
