"""A program that adopts calls by itself, and its code that fails: whose failure gives the call to others, and whose does not."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import redis

from coordinator import Offer, Session, Worker
from coordinator.store import calls
from coordinator.store.fence import Fence
from coordinator.store.keys import Keys
from coordinator.store.scripts import ScriptCall
from coordinator.worker import ending
from coordinator.worker.ending import Endings
from tests import inside
from tests.inside import member_of
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
LEASE = 0.6


class Program:
    """What a program has: its worker, its tasks, the sessions that it adopted."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.tasks: set[asyncio.Task[Any]] = set()
        self.sessions: list[Session] = []

    def spawn(self, what: Awaitable[Any]) -> asyncio.Task[Any]:
        """A task that is not waited for."""
        task = asyncio.ensure_future(what)
        self.tasks.add(task)
        return task

    async def adopt(self, offer: Offer) -> Session:
        """Adopts it in the present task."""
        return self.got(await offer.adopt())

    def got(self, session: Session | None) -> Session:
        """It was adopted."""
        assert session is not None
        self.sessions.append(session)
        return session


async def _raises(session: Session) -> None:
    session.stage({"n": 1})
    raise RuntimeError("a bug")


async def adopts_and_raises(program: Program, offer: Offer) -> None:
    """One task does all."""
    await _raises(await program.adopt(offer))


async def adopts_in_time(program: Program, offer: Offer) -> None:
    """`asyncio.wait_for` made a task of its own for it until Python 3.12."""
    program.got(await asyncio.wait_for(offer.adopt(), 5))
    raise RuntimeError("a bug")


async def adopts_in_a_helper(program: Program, offer: Offer) -> None:
    """The task that adopts ends well, and the one that got the session from it fails."""
    await _raises(await asyncio.create_task(program.adopt(offer)))


async def starts_a_task_that_raises(program: Program, offer: Offer) -> None:
    """The task that adopts ends well, and the one that serves fails."""
    program.spawn(_raises(await program.adopt(offer)))


async def adopts_by_id(program: Program, offer: Offer) -> None:
    """At the door, not by the offer."""
    program.got(await program.worker.adopt(offer.session_id))
    raise RuntimeError("a bug")


async def has_a_sibling_that_fails(program: Program, offer: Offer) -> None:
    """The group of its tasks is cancelled."""
    async with anyio.create_task_group() as tasks:
        session = await program.adopt(offer)

        async def serve() -> None:
            await session.checkpoint(b"2")
            await anyio.sleep_forever()

        async def watch() -> None:
            await anyio.sleep(0.1)
            raise RuntimeError("a bug")

        tasks.start_soon(serve)
        tasks.start_soon(watch)


async def is_cancelled_by_what_it_waits_for(program: Program, offer: Offer) -> None:
    """A task of a provider was cancelled."""
    await program.adopt(offer)
    other = asyncio.create_task(asyncio.sleep(3600))
    asyncio.get_running_loop().call_later(0.1, other.cancel)
    await other


async def is_cancelled(program: Program, offer: Offer) -> None:
    """From outside."""
    await program.adopt(offer)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(0.1, task.cancel)
    await asyncio.sleep(3600)


async def first_one_then_the_other(program: Program, offer: Offer) -> None:
    """The adopter fails while another task serves, and later that one fails too."""
    session = await program.adopt(offer)

    async def serve() -> None:
        await session.checkpoint(b"2")
        await asyncio.sleep(0.2)
        raise RuntimeError("a bug")

    program.spawn(serve())
    await asyncio.sleep(0.1)
    raise RuntimeError("another bug")


FAILURES = [
    adopts_and_raises, adopts_in_time, adopts_in_a_helper, starts_a_task_that_raises, adopts_by_id, has_a_sibling_that_fails,
    is_cancelled_by_what_it_waits_for, is_cancelled, first_one_then_the_other,
]  # fmt: skip


def resumed(session: Session, fence: Fence) -> ScriptCall[Any]:
    """A write that asks for the owner's right."""
    return calls.resumed(fence.keys, session=session.id, instance=fence.instance, epoch=fence.epoch)


async def takes(program: Program, code: Callable[[Program, Offer], Awaitable[None]]) -> None:
    """The loop over offers, each in a task of its own."""
    async for offer in program.worker.offers():
        program.spawn(code(program, offer))


@pytest.mark.parametrize("code", FAILURES)
async def test_whose_failure_gives_the_call_to_others(
    url: str, redis_client: redis.Redis, code: Callable[[Program, Offer], Awaitable[None]]
) -> None:
    """However the code of a call came to its end without ending the call: nobody serves it here, so others are offered it."""
    async with Worker(url, name="a") as a, Worker(url, name="b", lease=LEASE) as b:
        await (await a.open("call-1", b"data")).hand_back("for others")
        program = Program(b)
        loop = asyncio.create_task(takes(program, code))
        await eventually(lambda: bool(program.sessions) and program.sessions[0].is_over)
        loop.cancel()
        await asyncio.gather(loop, *program.tasks, return_exceptions=True)


async def adopted(url_of: Worker, program: Program) -> Session:
    """A call of another worker's, adopted by a task that ends well."""
    await (await url_of.open("call-1", b"data")).hand_back("for others")
    async for offer in program.worker.offers():
        return await asyncio.create_task(program.adopt(offer))
    raise AssertionError("no offer came")


async def test_a_call_that_is_cancelled_and_then_closed(url: str, redis_client: redis.Redis) -> None:
    """Its task is cancelled as the caller hangs up, and closing takes a moment: a call that ends is offered to nobody."""
    async with Worker(url, name="a") as a, Worker(url, name="b", lease=LEASE) as b:
        program = Program(b)
        await (await a.open("call-1", b"data")).hand_back("for others")
        loop = asyncio.create_task(takes(program, is_cancelled))
        await eventually(lambda: bool(program.sessions) and all(task.done() for task in program.tasks))
        await asyncio.sleep(LEASE / 3)
        await program.sessions[0].close()
        assert redis_client.hget(KEYS.session("call-1"), "state") == b"closed"
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


async def test_a_use_meanwhile_only_puts_it_off(url: str) -> None:
    """The task that served failed, and a helper uses the session once more: it is given up when nobody has for a lease."""
    async with Worker(url, name="a") as a, Worker(url, name="b", lease=LEASE) as b:
        program = Program(b)
        session = await adopted(a, program)
        await asyncio.gather(program.spawn(_raises(session)), return_exceptions=True)
        await asyncio.sleep(LEASE / 2)
        await program.spawn(session.checkpoint(b"an event"))
        await eventually(lambda: session.is_over)


async def test_what_is_over_is_kept_by_no_task(url: str) -> None:
    """A task that lives as long as the program has used a call: when that is over nothing of it is left there."""
    async with Worker(url, name="a") as a, Worker(url, name="b", lease=LEASE) as b:
        program = Program(b)
        session = await adopted(a, program)
        session.stage({"n": 1})
        here = asyncio.current_task()
        assert here in inside.users_followed(session)
        await session.close()
        assert here is not None
        assert here.remove_done_callback(inside.users_followed(session)[here]) == 0


async def test_who_only_saves_through_a_session_store_uses_the_call(url: str) -> None:
    """The task that adopted fails while another one serves, and writes nothing but its conversation: the call goes on here."""
    async with Worker(url, name="a") as a, Worker(url, name="b", lease=LEASE) as b:
        program = Program(b)
        saved = anyio.Event()

        async def adopts_and_fails(offer: Offer) -> None:
            session = await program.adopt(offer)

            async def serve() -> None:
                await session.fenced(lambda fence: resumed(session, fence), member_of(b).part.executor)
                saved.set()
                await anyio.sleep_forever()

            program.spawn(serve())
            await saved.wait()
            raise RuntimeError("a bug")

        await (await a.open("call-1", b"data")).hand_back("for others")
        async for offer in b.offers():
            await asyncio.gather(program.spawn(adopts_and_fails(offer)), return_exceptions=True)
            break
        [session] = program.sessions
        await asyncio.sleep(2 * LEASE)
        assert session.held
        for task in program.tasks:
            task.cancel()


async def test_what_is_over_is_freed_without_a_collection(url: str) -> None:
    """A call's data is as large as it may be: no cycle keeps it until the collector comes, which some programs switch off."""
    gc.collect()
    gc.disable()
    try:
        async with Worker(url, name="a") as worker:
            session = await worker.open("call-1", b"x" * 1000)
            await session.checkpoint(b"y" * 1000)
            kept = weakref.ref(session)
            await session.close()
            del session
            await eventually(lambda: kept() is None)
    finally:
        gc.enable()


async def test_the_error_of_a_helper_says_nothing(url: str) -> None:
    """An adopter that went well and left the call to something that is no task: a short task of a later event fails, and it stays.

    Whether anybody has seen that error is for asyncio to tell.
    """
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["message"])))
    async with Worker(url, name="a") as a, Worker(url, name="b", lease=LEASE) as b:
        await (await a.open("call-1", b"data")).hand_back("for others")
        program = Program(b)
        async for offer in b.offers():
            session = await asyncio.create_task(program.adopt(offer))
            break
        await program.spawn(session.checkpoint(b"an event"))
        helper = program.spawn(_raises(session))
        await eventually(helper.done)
        epoch = session.epoch
        await anyio.sleep(2 * LEASE)
        assert session.held
        assert session.epoch == epoch
        program.tasks.clear()
        del helper
        gc.collect()
        assert told == ["Task exception was never retrieved"]


async def test_a_pause_is_no_time_without_a_user(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease in which nobody used the call is counted in time in which this process turned over."""
    slept = []

    async def sleeps(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(ending, "sleep_awake", sleeps)
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1")
        endings = Endings(LEASE)
        endings.give_up_unless_used(session)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(endings.run)
            await eventually(lambda: slept)
            tasks.cancel_scope.cancel()
    assert slept == [LEASE]
