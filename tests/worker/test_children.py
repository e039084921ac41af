"""A child process that writes for the owner: one count of checkpoints, and never a longer belief."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import redis

from coordinator import FencedError, StoreUnavailableError, Worker
from coordinator.store import calls
from coordinator.store.keys import Keys
from coordinator.store.scripts import ScriptCall
from tests import inside
from tests.coordinating import coordinating
from tests.inside import member_of
from tests.outcomes.faulty import FaultyExecutor
from tests.store.harness import Bench
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


def stored(client: redis.Redis, session: str = "call-1", field: str = "data") -> str:
    """A field of the record, '' without one."""
    found: Any = client.hget(KEYS.session(session), field)
    return (found or b"").decode()


async def test_what_is_acknowledged_is_stored_whoever_writes(url: str, redis_client: redis.Redis) -> None:
    """Owner and children write in turns: after each acknowledgement the record has what was acknowledged."""
    async with Worker(url, name="a") as owner, Worker(url, name="child") as process:
        session = await owner.open("call-1", b"0")
        first, second = [await process.attach("call-1", session.epoch) for _ in range(2)]
        writers: list[Any] = [first, session, first, second, first, session, session, second, session, first]
        for n, writer in enumerate(writers):
            await writer.checkpoint(b"%d" % n)
            assert stored(redis_client) == str(n)


async def test_a_child_s_newer_data_survives_what_its_owner_gives_along(url: str, redis_client: redis.Redis) -> None:
    """The owner releases after its child has written: the adopter gets what the child wrote, not the owner's older data."""
    async with Worker(url, name="a") as owner, Worker(url, name="child") as process:
        session = await owner.open("call-1", b"opened")
        child = await process.attach("call-1", session.epoch)
        await session.checkpoint(b"the owner's")
        await child.checkpoint(b"the child's")
        await session.release()
        assert stored(redis_client) == "the child's"


async def test_what_the_owner_has_staged_is_newer_than_what_its_child_wrote(
    url: str, redis_client: redis.Redis
) -> None:
    """Staged last and not written yet: it goes along when the call is given away."""
    async with Worker(url, name="a") as owner, Worker(url, name="child") as process:
        session = await owner.open("call-1", b"opened")
        child = await process.attach("call-1", session.epoch)
        for n in range(3):
            await child.checkpoint(b"%d" % n)
        inside.set_staged(session, b"staged")
        session.sequence = int(stored(redis_client, field="checkpoint"))
        await session.release()
        assert stored(redis_client) == "staged"


async def test_children_of_one_process_write_in_order(url: str, redis_client: redis.Redis) -> None:
    """Many at once from one handle: the last that was asked for is what is stored."""
    async with Worker(url, name="a") as owner, Worker(url, name="child") as process:
        session = await owner.open("call-1", b"opened")
        child = await process.attach("call-1", session.epoch)
        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(child.checkpoint, b"%d" % n)
        assert stored(redis_client) == "19"


async def _hand_over(owner: Worker, heir: Worker, session: Any) -> Any:
    return await heir.adopt(session.id, wait=8)


async def _release(owner: Worker, heir: Worker, session: Any) -> Any:
    await session.release()
    return await heir.adopt(session.id, wait=8)


async def _end(owner: Worker, heir: Worker, session: Any) -> Any:
    await session.close()
    return await heir.open(session.id, b"the caller calls again")


async def _die(owner: Worker, heir: Worker, session: Any) -> Any:
    assert await heir.certify(owner.id, "its process ended")
    return await heir.adopt(session.id, wait=8)


@pytest.mark.usefixtures("leaves_at_once")
@pytest.mark.parametrize("way", [_hand_over, _release, _end, _die])
async def test_a_child_never_believes_beside_the_next_owner(
    url: str, way: Callable[[Worker, Worker, Any], Awaitable[Any]]
) -> None:
    """However the owner's right ends, its child has stopped before anybody else holds the call."""
    believed = False
    async with (
        coordinating(url),
        Worker(url, name="a") as owner,
        Worker(url, name="child") as process,
        Worker(url, name="heir") as heir,
        anyio.create_task_group() as tasks,
    ):
        session = await owner.open("call-1", b"data")
        child = await process.attach("call-1", session.epoch)
        assert child.held

        async def watch() -> None:
            nonlocal believed
            while True:
                believed = believed or (child.held and any(s.held for s in heir.sessions))
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(watch)
        taken = await way(owner, heir, session)
        await eventually(lambda: taken.held)
        assert not believed
        with within(10):
            await child.lost.wait()
        with pytest.raises(FencedError):
            await child.checkpoint(b"late")
        tasks.cancel_scope.cancel()


async def test_what_the_owner_never_had_acknowledged_is_older_than_what_its_child_had(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of the owner was lost, then its child wrote: a release sends nothing over what was acknowledged."""
    async with inside.impatient(Worker(url, name="a"), 0.1) as owner, Worker(url, name="child") as process:
        session = await owner.open("call-1", b"opened")
        child = await process.attach("call-1", session.epoch)
        member = member_of(owner)
        store = FaultyExecutor.before(member.part.executor, lambda: None)
        store.arm("checkpoint", "lost")
        with pytest.raises(StoreUnavailableError):
            await session.checkpoint(b"lost")
        store.mend()
        await child.checkpoint(b"the child's")
        await session.release()
        assert stored(redis_client) == "the child's"


@pytest.mark.parametrize("late", ["child", "owner"])
async def test_what_was_given_up_on_never_comes_over_what_was_acknowledged(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """One writer's checkpoints are cancelled on their way, the other's is acknowledged, and then the late ones arrive."""
    async with Worker(url, name="a") as owner, Worker(url, name="child") as process:
        session = await owner.open("call-1", b"opened")
        child = await process.attach("call-1", session.epoch)
        writers: dict[str, Any] = {"owner": session, "child": child}
        member = member_of({"owner": owner, "child": process}[late])
        run, away = member.part.executor.run, True
        kept: list[ScriptCall[Any]] = []

        async def on_its_way(call: ScriptCall[Any]) -> Any:
            if away and call.script.name == "checkpoint":
                kept.append(call)
                await anyio.sleep_forever()
            return await run(call)

        monkeypatch.setattr(member.part.executor, "run", on_its_way)
        for n in range(3):
            with anyio.move_on_after(0.02):
                await writers[late].checkpoint(b"late %d" % n)
        other = "owner" if late == "child" else "child"
        await writers[other].checkpoint(b"acknowledged")
        for call in kept:
            assert (await run(call)).word == "OLD"
        assert stored(redis_client) == "acknowledged"
        away = False
        await writers[late].checkpoint(b"newer")
        assert stored(redis_client) == "newer"


async def test_the_last_of_several_tries_is_what_is_stored(url: str, redis_client: redis.Redis) -> None:
    """Two tries of one number, of which the first was applied: the second replaces it, and the first changes nothing again."""
    bench = Bench(redis_client)
    async with Worker(url, name="a") as owner:
        session = await owner.open("call-1", b"opened")
        tries = [
            calls.checkpoint(
                KEYS,
                session="call-1",
                instance=owner.id,
                epoch=session.epoch,
                sequence=1,
                data=b"try %d" % n,
                attempt=n,
            )
            for n in range(2)
        ]
        for call in (tries[0], tries[1], tries[0]):
            assert bench.run(call).word == "OK"
        assert stored(redis_client) == "try 1"


async def test_a_child_stops_at_once_whatever_answer_is_under_way(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told to stop while the answer to its look is on its way: that answer permits nothing any more."""
    async with Worker(url, name="a") as owner, Worker(url, name="child", heartbeat_interval="300ms") as process:
        session = await owner.open("call-1", b"opened")
        child = await process.attach("call-1", session.epoch)
        executor = inside.executor_of_child(child)
        run = executor.run

        async def told_meanwhile(call: Any) -> Any:
            answer = await run(call)
            if call.script.name == "trust":
                child.stop()
            return answer

        monkeypatch.setattr(executor, "run", told_meanwhile)
        await child.look()
        assert not child.held


async def test_a_child_whose_worker_has_left_believes_nothing(url: str) -> None:
    """Nobody could tell it to stop any more."""
    async with Worker(url, name="a") as owner:
        session = await owner.open("call-1", b"opened")
        async with Worker(url, name="child") as process:
            child = await process.attach("call-1", session.epoch)
            assert child.held
        assert not child.held


@pytest.mark.parametrize("how", ["release", "hand_back"])
async def test_what_is_staged_goes_along_after_a_child_has_written(
    url: str, redis_client: redis.Redis, how: str
) -> None:
    """The owner does not know how far its child has counted; what it staged is the newest all the same."""
    async with Worker(url, name="parent") as parent, Worker(url, name="child", capacity=0) as child:
        session = await parent.open("call", b"opened")
        attached = await child.attach("call", session.epoch)
        for n in range(5):
            await attached.checkpoint(b"child %d" % n)
        session.stage(b"newest")
        await getattr(session, how)("somebody else is to have it")
        assert redis_client.hget(Keys("recovery", 0).session("call"), "data") == b"newest"
        redis_client.flushall()
