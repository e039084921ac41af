"""Operations x faults: afterwards the store, the handles and the handlers say the same, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Coroutine
from typing import Any

import pytest
import redis

from coordinator import CoordinatorError, Offer, Session, Worker
from coordinator.worker.attached import AttachedSession
from tests.inside import member_of
from tests.outcomes.cancelling import Moment, cancelled_at
from tests.outcomes.faulty import Fault
from tests.outcomes.operations import OPERATIONS, READS, Operation
from tests.outcomes.world import World, world

FAULTS: tuple[Fault, ...] = ("lost", "unanswered", "late")
MOMENTS: tuple[Moment, ...] = ("unsent", "sent", "answered")
MOST_AWAITS = 12
STAYING = [name for name, operation in OPERATIONS.items() if not operation.ends]
OF_ONE_CALL = [
    name
    for name, operation in OPERATIONS.items()
    if operation.prepare.__name__ == "opened" and not operation.ends and name != "let go"
]


async def tried(what: Coroutine[Any, Any, Any]) -> Any:
    """Runs an operation; that it is refused, or has no answer, is right. What it returned."""
    try:
        return await asyncio.wait_for(what, 20)
    except (CoordinatorError, asyncio.CancelledError):
        return None


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_request_without_an_answer(url: str, redis_client: redis.Redis, name: str) -> None:
    """Lost, unanswered, or late: in the end nothing is lost, doubled or unserved."""
    operation = OPERATIONS[name]
    if operation.again:
        async with world(url, redis_client) as w:
            for fault in FAULTS:
                await _with(w, operation, fault)
        return
    for fault in FAULTS:
        redis_client.flushall()
        async with world(url, redis_client, serving=operation.serving) as w:
            await _with(w, operation, fault)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_request_of_a_process_that_stood_still(url: str, redis_client: redis.Redis, name: str) -> None:
    """It arrives when its sender is dead for all others: refused, and what the sender believed is over."""
    operation = OPERATIONS[name]
    async with world(url, redis_client, serving=operation.serving) as w:
        await _with(w, operation, "stopped")


async def _with(w: World, operation: Operation, fault: Fault) -> None:
    call = f"call-{fault}"
    subject = await operation.prepare(w, call)
    w.store.arm(operation.script, fault)
    await tried(operation.run(w, call, subject))
    assert w.store.hit, "the fault met nothing"
    await w.settle()


@pytest.mark.parametrize("name", STAYING)
async def test_an_operation_that_is_cancelled(url: str, redis_client: redis.Redis, name: str) -> None:
    """At each await in turn, before it is sent, on its way, or with the answer there: the same holds."""
    operation = OPERATIONS[name]
    async with world(url, redis_client, serving=operation.serving) as w:
        ended: set[Moment] = set()
        for number, moment in itertools.product(range(1, MOST_AWAITS), MOMENTS):
            if moment in ended:
                continue
            call = f"call-{number}-{moment}"
            subject = await operation.prepare(w, call)
            if not await cancelled_at(operation.run(w, call, subject), number, moment):
                ended.add(moment)
        await w.settle()


@pytest.mark.parametrize("name", [name for name in OPERATIONS if OPERATIONS[name].ends])
async def test_an_end_that_is_cancelled(url: str, redis_client: redis.Redis, name: str) -> None:
    """A drain, a certificate or a farewell that is cancelled at its second await: whoever is left serves."""
    operation = OPERATIONS[name]
    async with world(url, redis_client) as w:
        subject = await operation.prepare(w, "call-1")
        await cancelled_at(operation.run(w, "call-1", subject), 2, "sent")
        await w.settle()


@pytest.mark.parametrize("name", STAYING)
async def test_twice_at_once(url: str, redis_client: redis.Redis, name: str) -> None:
    """The same operation twice at the same moment: one handle and one handler, as after one."""
    operation = OPERATIONS[name]
    async with world(url, redis_client, serving=operation.serving) as w:
        for number in range(3):
            call = f"call-{number}"
            subject = await operation.prepare(w, call)
            got = await asyncio.gather(*(tried(operation.run(w, call, subject)) for _ in range(2)))
            handles = {one for one in got if isinstance(one, Session)}
            assert len(handles) <= 1
            assert not any(one.lost.is_set() for one in handles)
        await w.settle()
        if operation.of in ("Worker.open", "Worker.adopt"):
            assert set(w.begun["actor"].values()) == {1}


@pytest.mark.parametrize("name", ["open", "adopt by id"])
async def test_at_two_workers_at_once(url: str, redis_client: redis.Redis, name: str) -> None:
    """Two workers open or adopt the same call at the same moment: one of them has it."""
    async with world(url, redis_client) as w:
        for number in range(5):
            call = f"call-{number}"
            await OPERATIONS[name].prepare(w, call)
            there = w.heir.open(call, b"opened") if name == "open" else w.heir.adopt(call, wait=2)
            await asyncio.gather(tried(OPERATIONS[name].run(w, call, None)), tried(there))
        await w.settle()


@pytest.mark.parametrize("first", OF_ONE_CALL)
async def test_beside_another_operation_of_the_same_call(url: str, redis_client: redis.Redis, first: str) -> None:
    """Each other operation of an owner at the same moment, and an heir that takes the call: no two have it."""
    async with world(url, redis_client) as w:
        for second in (*OF_ONE_CALL, "open", "let go", "give up"):
            call = f"call-{second.replace(' ', '-')}"
            session = await OPERATIONS["checkpoint"].prepare(w, call)
            one, two = OPERATIONS[first], OPERATIONS[second]
            await asyncio.gather(tried(one.run(w, call, session)), tried(_beside(w, two, call, session)))
        await w.settle()


@pytest.mark.parametrize("second", ["adopt by id", "open", "give up"])
async def test_beside_an_adoption_of_the_same_call(url: str, redis_client: redis.Redis, second: str) -> None:
    """A call that is taken by id while it is opened, adopted or compared here: it is served once, and nothing gives it up."""
    async with world(url, redis_client) as w:
        for number in range(5):
            call = f"call-{number}"
            await OPERATIONS["adopt by id"].prepare(w, call)
            one, two = OPERATIONS["adopt by id"], OPERATIONS[second]
            await asyncio.gather(tried(one.run(w, call, None)), tried(_beside(w, two, call, None)))
            assert w.record(call).get(b"recoveries", b"0") == b"0"
        await w.settle()


async def _beside(w: World, operation: Operation, call: str, session: Any) -> None:
    if operation.of == "Resync":
        member_of(w.actor).resync.want("roll_call", "told to look")
    else:
        await operation.run(w, call, session)


def test_no_operation_is_left_out() -> None:
    """Each public coroutine of what a program has in hand has a row, or is said to change nothing."""
    rows = {operation.of for operation in OPERATIONS.values()} | set(READS)
    for kind in (Worker, Session, Offer, AttachedSession):
        for name, member in inspect.getmembers(kind):
            waits = inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member) or name == "adopt"
            if waits and not name.startswith("_"):
                assert f"{kind.__name__}.{name}" in rows
