"""What a program asks for while something else of the same call, or of the worker, is on its way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import redis

from coordinator import FencedError, Session, Worker
from coordinator.store.keys import Keys
from coordinator.store.scripts import ScriptCall
from tests import inside
from tests.inside import instance_of, member_of, serving_of
from tests.proxy import Proxy
from tests.records import state
from tests.redis_server import RedisServer
from tests.store.harness import Bench
from tests.waiting import eventually

KEYS = Keys("recovery", 0)


def gate(
    worker: Worker, script: str, monkeypatch: pytest.MonkeyPatch, *, answer: bool = False
) -> tuple[anyio.Event, anyio.Event]:
    """The next request of a script, or its answer, waits on its way: the first event says that it does, the second lets it go."""
    executor = member_of(worker).part.executor
    run, waits, go = executor.run, anyio.Event(), anyio.Event()

    async def held_up(call: ScriptCall[Any]) -> Any:
        mine = call.script.name == script and not waits.is_set()
        told = await run(call) if answer or not mine else None
        if mine:
            waits.set()
            await go.wait()
        return told or await run(call)

    monkeypatch.setattr(executor, "run", held_up)
    return waits, go


async def test_a_close_beside_a_release_that_was_sent_says_so(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release came first: others have the call, and whoever closes it is told."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"data")
        waits, go = gate(worker, "release", monkeypatch)
        released = asyncio.create_task(session.release())
        await waits.wait()
        closed = asyncio.create_task(session.close())
        await anyio.wait_all_tasks_blocked()
        go.set()
        await released
        with pytest.raises(FencedError):
            await closed
        assert state(redis_client, "call-1") == "offered"


@pytest.mark.usefixtures("leaves_at_once")
async def test_a_close_beside_a_handover_that_was_sent_says_so(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heir has the call, which goes on there; whoever closes it here is told."""
    async with Worker(url, name="a") as worker, Worker(url, name="heir") as heir:
        session = await worker.open("call-1", b"data")
        waits, go = gate(worker, "let_go", monkeypatch)
        taken = asyncio.create_task(heir.adopt("call-1", wait=8))
        await waits.wait()
        closed = asyncio.create_task(session.close())
        await anyio.wait_all_tasks_blocked()
        go.set()
        with pytest.raises(FencedError):
            await closed
        assert await taken is not None


@pytest.mark.parametrize("how", ["open", "adopt"])
async def test_a_drain_takes_what_was_on_its_way_as_it_began(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The call that was being opened or adopted is handed over with the others."""
    async with Worker(url, name="a") as worker, Worker(url, name="heir") as heir, anyio.create_task_group() as tasks:
        if how == "adopt":
            await (await heir.open("call-1", b"data")).hand_back("for others")
        waits, go = gate(worker, how, monkeypatch, answer=True)
        taken = asyncio.create_task(worker.open("call-1") if how == "open" else worker.adopt("call-1"))
        await waits.wait()
        drained = asyncio.create_task(worker.drain(timeout=8))
        await eventually(lambda: member_of(worker).ledger.draining)
        tasks.start_soon(heir.serve, _forever)
        go.set()
        await taken
        await drained
        assert not worker.sessions
        await eventually(lambda: [s.id for s in heir.sessions] == ["call-1"])
        tasks.cancel_scope.cancel()


async def _forever(_: Session) -> None:
    await anyio.sleep_forever()


async def test_what_comes_as_the_worker_leaves_is_lost(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An opening that is answered after the exit was stated: its session is lost from the beginning."""
    async with Worker(url, name="a") as worker:
        answered, go = gate(worker, "open", monkeypatch, answer=True)
        opened = asyncio.create_task(worker.open("call-1"))
        await answered.wait()
        await instance_of(worker).end("exited", "it ends")
        go.set()
        session = await opened
        assert session.lost.is_set()
        assert not session.held


async def test_serve_begins_anew_while_the_one_before_ends(url: str) -> None:
    """The one before ends after the next has begun: what is opened from then on has its handler."""
    served: list[str] = []

    async def handler(session: Session) -> None:
        served.append(session.id)
        await anyio.sleep_forever()

    async with Worker(url, name="a") as worker:
        first = asyncio.create_task(worker.serve(handler))
        await eventually(lambda: serving_of(worker) is not None)
        serving = serving_of(worker)
        second = asyncio.create_task(worker.serve(handler))
        await eventually(lambda: serving_of(worker) is not serving)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await worker.open("call-1")
        await eventually(lambda: served == ["call-1"])
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)


async def test_a_child_that_is_told_to_stop_while_it_attaches(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word comes before the answer to its first look: it does not begin to believe."""
    async with Worker(url, name="a") as owner, Worker(url, name="child") as process:
        session = await owner.open("call-1")
        member = member_of(process)
        run = member.part.executor.run

        async def told_meanwhile(call: ScriptCall[Any]) -> Any:
            answer = await run(call)
            if call.script.name == "trust":
                member.children.stop("call-1")
            return answer

        monkeypatch.setattr(member.part.executor, "run", told_meanwhile)
        child = await process.attach("call-1", session.epoch)
        assert not child.held


async def test_a_child_believes_no_longer_than_is_waited_for(url: str) -> None:
    """However rare heartbeats are: two seconds at most."""
    times: dict[str, Any] = {"heartbeat_interval": "1500ms", "dead_after": "12s", "lost_connection_after": "8s"}
    async with Worker(url, name="a", **times) as owner, Worker(url, name="child", **times) as process:
        session = await owner.open("call-1")
        child = await process.attach("call-1", session.epoch)
        assert child.held
        assert inside.trusted_until(child) - asyncio.get_running_loop().time() < 2.5


async def test_a_fork_of_a_child_believes_nothing(url: str) -> None:
    """Whoever forks the process that is attached has no right for the copy."""
    async with Worker(url, name="a") as owner, Worker(url, name="child") as process:
        session = await owner.open("call-1")
        child = await process.attach("call-1", session.epoch)
        assert child.held
        reads, writes = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(writes, b"held" if child.held else b"not ")
            os._exit(0)
        assert await anyio.to_thread.run_sync(os.read, reads, 4) == b"not "
        await anyio.to_thread.run_sync(os.waitpid, pid, 0)
        assert child.held
        os.close(reads)
        os.close(writes)


async def test_a_slow_line_states_many_again_before_the_hold_ends(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """An old snapshot comes back while 150 calls are 20 ms away: their owner keeps them all, with what was acknowledged."""
    proxy = Proxy(redis_server.path, delay=0.01)
    try:
        async with Worker(redis_server.url, name="before") as before, Worker(proxy.url, name="a") as worker:
            calls = [f"call-{n}" for n in range(150)]
            for call in calls:
                await (await before.open(call, b"old")).hand_back("for others")
            snapshot: dict[Any, Any] = {key: redis_client.dump(key) for key in redis_client.keys("*")}
            limit = anyio.CapacityLimiter(50)
            taken: list[Session] = []

            async def take(call: str) -> None:
                async with limit:
                    session = await worker.adopt(call)
                    assert session is not None
                    await session.checkpoint(b"new")
                    taken.append(session)

            async with anyio.create_task_group() as tasks:
                for call in calls:
                    tasks.start_soon(take, call)
            pipe = redis_client.pipeline()
            pipe.flushdb()
            for key, dump in snapshot.items():
                pipe.restore(key, 0, dump)
            pipe.hset(KEYS.meta, "server", "another")
            pipe.execute()
            await eventually(lambda: all(s.held and s.epoch > s.first_epoch for s in taken), 20)
            assert {redis_client.hget(KEYS.session(call), "data") for call in calls} == {b"new"}
            for one in (before, worker):
                instance_of(one).abandon()
    finally:
        proxy.close()


def test_a_clock_that_steps_back_makes_nobody_wait_longer(redis_client: redis.Redis) -> None:
    """Leave that lies too far ahead by the new clock is drawn in, and the children are told all the same."""
    bench: Any = Bench(redis_client)
    bench.init()
    bench.end_hold()
    bench.join("a~1")
    epoch = bench.open("s", "a~1").int("epoch")
    redis_client.hset(KEYS.session("s"), mapping={"child_until": 10**14, "children": "somewhere"})
    give_away: Callable[[str, str, int], Any] = bench.release
    first = give_away("s", "a~1", epoch)
    assert (first.word, first.int("left_ms")) == ("CHILDREN", 2000)
    assert give_away("s", "a~1", epoch).int("left_ms") <= 2000
    assert int(bench.record("s")["child_until"]) < 10**14


async def test_a_call_that_is_served_here_is_not_adopted_anew(url: str, redis_client: redis.Redis) -> None:
    """Its caller comes back as writes were lost, and the store has renewed its epoch: the handle stays, and is not lost."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"data")
        key, renewed = KEYS.session("call-1"), session.epoch + 1
        redis_client.hset(key, mapping={"epoch": renewed, "renewed_from": session.epoch})
        assert await worker.adopt("call-1", wait=0) is session
        redis_client.hdel(KEYS.instance(worker.id), "roll")
        await eventually(lambda: session.epoch == renewed, 20)
        await session.checkpoint(b"newer")
        assert not session.lost.is_set()
        assert redis_client.hget(key, "data") == b"newer"


@pytest.mark.parametrize("ended", [True, False], ids=["closed", "released"])
async def test_a_ghost_that_was_stated_again_is_given_up(url: str, redis_client: redis.Redis, ended: bool) -> None:
    """Its renewal was lost in a second failover after its call had ended here: it ends, and keeps no other call in doubt."""
    async with Worker(url, name="a") as worker:
        other = await worker.open("other", b"data")
        if ended:
            ghost = await worker.open("ghost", b"data")
            epoch = ghost.epoch
            await ghost.close()
        else:
            epoch = other.epoch
        Bench(redis_client).open("ghost", worker.id, b"data")
        redis_client.persist(KEYS.session("ghost"))
        fields: dict[Any, Any] = {
            "state": "active",
            "owner": worker.id,
            "epoch": epoch,
            "anew": "1",
            "pool": "default",
            "data": "data",
        }
        redis_client.hset(KEYS.session("ghost"), mapping=fields)
        redis_client.sadd(KEYS.owned(worker.id), "ghost")
        redis_client.hdel(KEYS.instance(worker.id), "roll")
        await eventually(lambda: state(redis_client, "ghost") in ("closed", "offered"), 20)
        await eventually(lambda: other.held, 20)
        assert state(redis_client, "ghost") == ("closed" if ended else "offered")
        redis_client.delete(KEYS.session("ghost"), KEYS.orphans, KEYS.leases, KEYS.offers("default"))
