"""However a worker's block is left, or is not left: belief ends before the right does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

from coordinator import Session, Worker
from coordinator.settings import load
from coordinator.store.executor import Executor, SyncExecutor
from coordinator.store.keys import Keys
from coordinator.store.scripts import ScriptCall
from coordinator.worker.instance import Instance
from coordinator.worker.runtime import WorkerRuntime
from tests import inside
from tests.inside import instance_of
from tests.store.harness import Bench
from tests.waiting import eventually, wait_until, within
from tests.worker.program import Program
from tests.worker.test_runtime import Silent

KEYS = Keys("recovery", 0)
PROGRAM = Path(__file__).with_name("leaving_process.py")
GIVES_AWAY = ("certify", "release", "let_go", "close")


def how_it_ended(client: Any, instance: str) -> str:
    """The cause of an instance's death, '' while it lives."""
    return (client.hget(KEYS.instance(instance), "cause") or b"").decode()


# -- any task ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [True, False], ids=["which-has-ended", "which-goes-on"])
async def test_another_task_may_leave(url: str, redis_client: redis.Redis, ended: bool) -> None:
    """One task enters, as a fixture or a server's start does, and another one leaves: it has left, and nobody is cancelled."""
    worker, entered, may_end = Worker(url, name="a"), asyncio.Event(), asyncio.Event()

    async def enters() -> None:
        await worker.__aenter__()
        entered.set()
        if not ended:
            await may_end.wait()

    async def leaves() -> None:
        await worker.__aexit__(None, None, None)

    first = asyncio.create_task(enters())
    await entered.wait()
    session = await worker.open("call-1")
    assert session.held
    instance = worker.id
    await asyncio.create_task(leaves())
    assert not session.held
    assert how_it_ended(redis_client, instance) == "left"
    may_end.set()
    await first


async def test_an_error_of_its_own_cancels_whoever_entered(url: str, redis_client: redis.Redis) -> None:
    """A task of the worker's fails: the block ends by that error, and the program's task is not cancelled any more."""
    with pytest.raises(ZeroDivisionError):
        async with Worker(url, name="a") as worker:
            instance_of(worker).start(_divides)
            await anyio.sleep_forever()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)
    assert how_it_ended(redis_client, worker.id) == "left"


async def test_an_error_of_its_own_is_raised_where_another_task_leaves(url: str) -> None:
    """The task that entered has ended: whoever leaves gets the error."""
    worker = Worker(url, name="a")
    await asyncio.create_task(worker.__aenter__())
    instance_of(worker).start(_divides)
    await eventually(lambda: (task := instance_of(worker).task) is not None and inside.error_of(task))
    with pytest.raises(ZeroDivisionError):
        await worker.__aexit__(None, None, None)


async def test_an_error_while_the_block_ends_by_itself(url: str) -> None:
    """The worker's task fails in the moment in which the program leaves without waiting for anything more."""
    with pytest.raises(ZeroDivisionError):
        async with Worker(url, name="a") as worker:
            instance_of(worker).start(_divides)
            await eventually(lambda: (task := instance_of(worker).task) is not None and inside.has_interrupted(task))
    await asyncio.sleep(0)


async def test_a_cancellation_from_outside_wins(url: str) -> None:
    """The program is cancelled while an error of the worker's ends its block: it is cancelled, and nothing else is raised."""

    async def program() -> None:
        async with Worker(url, name="a") as worker:
            instance_of(worker).start(_divides)
            try:
                await anyio.sleep_forever()
            finally:
                task.cancel()

    task = asyncio.create_task(program())
    with pytest.raises(asyncio.CancelledError):
        await task


async def _divides() -> None:
    raise ZeroDivisionError


# -- never left --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "cause"), [("cleaned-up", "left"), ("closed", "exited"), ("thread", "exited"), ("exit", "exited")]
)
def test_a_block_that_is_never_left(url: str, redis_client: redis.Redis, mode: str, cause: str) -> None:
    """Nothing is held any more, then the exit is stated: by the clean-up of the event loop, else by the thread that beats."""
    made = Program(PROGRAM, url, mode)
    try:
        instance = made.hears("ready")["id"]
        said = made.hears("certify", "release")
        assert (said["held"], said["may_speak"]) == (False, False)
        if said["who"] == "release":
            said = made.hears("certify")
        assert (said["held"], said["may_speak"], said["cause"]) == (False, False, cause)
        assert said["lost"] or mode == "cleaned-up"
        wait_until(lambda: how_it_ended(redis_client, instance) == cause)
        if mode != "exit":
            made.go_on()
            assert not made.hears("asked")["held"]
    finally:
        made.close()


# -- every way out -----------------------------------------------------------------------------------------------------


class Record:
    """What each session believed in the moments in which something was sent that gives it away.

    Attributes:
        loop_stands: the event loop turns over no more: what it would be told cannot be waited for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sessions: list[Session] = []
        self.sent: list[str] = []
        self.wrong: list[str] = []
        self.loop_stands = False
        submit, exchange = getattr(*inside.submit_spot()), SyncExecutor.run_many

        def from_the_loop(executor: Executor, what: Any) -> Any:
            self._look(what)
            return submit(executor, what)

        def from_the_thread(executor: SyncExecutor, what: Any) -> Any:
            self._look(what)
            return exchange(executor, what)

        monkeypatch.setattr(*inside.submit_spot(), from_the_loop)
        monkeypatch.setattr(SyncExecutor, "run_many", from_the_thread)

    def _look(self, what: Any) -> None:
        for call in what:
            if not isinstance(call, ScriptCall) or call.script.name not in GIVES_AWAY:
                continue
            self.sent.append(call.script.name)
            for session in self.sessions:
                self._compare(session, call)

    def _compare(self, session: Session, call: ScriptCall[Any]) -> None:
        is_exit = call.script.name == "certify"
        ends = KEYS.instance(session.instance) if is_exit else KEYS.session(session.id)
        is_told = session.lost.is_set() or session.closed.is_set() or not is_exit or self.loop_stands
        believes = session.held or session.may_speak or (is_exit and not inside.trust_window_of(session).over)
        if ends in call.keys and (believes or not is_told):
            self.wrong.append(f"{call.script.name}: {session.held=} {session.may_speak=} {session.lost.is_set()=}")


Way = Callable[[str, Record], Awaitable[None]]


@contextlib.asynccontextmanager
async def worker_with_a_call(url: str, record: Record, **settings: Any) -> AsyncIterator[tuple[Worker, Session]]:
    """In its block, with one call."""
    async with Worker(url, name="leaves", **settings) as worker:
        session = await worker.open("call-1", b"data")
        record.sessions.append(session)
        assert session.held
        yield worker, session


async def normally(url: str, record: Record) -> None:
    async with worker_with_a_call(url, record):
        pass


async def to_an_heir(url: str, record: Record) -> None:
    async with Worker(url, name="heir") as heir, anyio.create_task_group() as tasks:
        tasks.start_soon(heir.serve, lambda session: anyio.sleep_forever())
        async with worker_with_a_call(url, record) as (_, session):
            pass
        assert session.heir
        tasks.cancel_scope.cancel()


async def by_an_exception(url: str, record: Record) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with worker_with_a_call(url, record):
            raise ZeroDivisionError


async def by_a_cancellation(url: str, record: Record) -> None:
    await _cancelled(url, record, 1)


async def by_two_cancellations(url: str, record: Record) -> None:
    await _cancelled(url, record, 2)


async def _cancelled(url: str, record: Record, times: int) -> None:
    async def program() -> None:
        async with worker_with_a_call(url, record):
            entered.set()
            await anyio.sleep_forever()

    entered = asyncio.Event()
    task = asyncio.create_task(program())
    await entered.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def in_a_cancelled_scope(url: str, record: Record) -> None:
    with anyio.CancelScope() as scope:
        async with worker_with_a_call(url, record):
            scope.cancel()
            await anyio.sleep_forever()


async def in_another_task(url: str, record: Record) -> None:
    block = worker_with_a_call(url, record)
    await asyncio.create_task(block.__aenter__())
    await asyncio.create_task(block.__aexit__(None, None, None))


async def by_an_error_of_its_own(url: str, record: Record) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with worker_with_a_call(url, record) as (worker, _):
            instance_of(worker).start(_divides)
            await anyio.sleep_forever()


async def by_the_end_of_its_loop(url: str, record: Record) -> None:
    async def program() -> None:
        worker = await Worker(url, name="leaves").__aenter__()
        record.sessions.append(await worker.open("call-1", b"data"))

    await anyio.to_thread.run_sync(asyncio.run, program())


async def wedged(url: str, record: Record) -> None:
    async with worker_with_a_call(url, record, wedged_after="1s", dead_after="60s") as (_, session):
        record.loop_stands = True
        until = time.monotonic() + 30
        while "certify" not in record.sent and time.monotonic() < until:
            time.sleep(0.01)  # noqa: ASYNC251 - that is the point
        assert not session.held
        record.loop_stands = False
        await session.lost.wait()


async def fenced(url: str, record: Record) -> None:
    async with worker_with_a_call(url, record) as (worker, session), Worker(url, name="other") as other:
        record.sessions.remove(session)
        await other.certify(worker.id)
        await session.lost.wait()
        assert not session.held
        record.sessions += [session, await worker.open("call-2", b"data")]


async def by_a_drain(url: str, record: Record) -> None:
    async with worker_with_a_call(url, record) as (worker, _):
        await worker.drain(timeout=0.1)


async def released(url: str, record: Record) -> None:
    async with worker_with_a_call(url, record) as (_, session):
        await session.release("enough")


async def handed_back(url: str, record: Record) -> None:
    async with worker_with_a_call(url, record) as (_, session):
        await session.hand_back("enough")


async def not_to_be_served(url: str, record: Record) -> None:
    async with worker_with_a_call(url, record) as (_, session):
        await session.cannot_serve("no key")


async def closed(url: str, record: Record) -> None:
    async with worker_with_a_call(url, record) as (_, session):
        await session.close()


async def behind_a_sidecar(url: str, record: Record) -> None:
    settings = load(redis_url=url, name="leaves")
    runtime = WorkerRuntime(settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runtime.run)
        async with Instance(settings, observer=Silent(), runtime=runtime) as worker:
            record.sessions.append(await worker.open("call-1", b"data"))
            await worker.end("exited", "its process ended")
        tasks.cancel_scope.cancel()
    await runtime.aclose()


WAYS: list[Way] = [
    normally, to_an_heir, by_an_exception, by_a_cancellation, by_two_cancellations, in_a_cancelled_scope, in_another_task,
    by_an_error_of_its_own, by_the_end_of_its_loop, wedged, fenced, by_a_drain, released, handed_back, not_to_be_served, closed,
    behind_a_sidecar,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_belief_ends_before_the_right(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    """Nothing is held and nobody may speak when a call is given away, and `lost` is set when the exit is stated."""
    Bench(redis_client).init(hold_ms=1)
    record = Record(monkeypatch)
    with within(60):
        await way(url, record)
    assert record.sent
    assert "certify" in record.sent
    assert record.wrong == []
