"""An omnivoice deployment that a coordinator watches: its workers in Go register and bind their sessions, and save them as before."""

from __future__ import annotations

import json
import signal
from typing import Any

import anyio
import pytest
import redis

from coordinator import Session, Worker
from coordinator.sessions import Recovered, RedisStore, SessionConflictError, SessionManager, recover
from coordinator.store.keys import Keys
from tests.redis_server import RedisServer
from tests.sessions.go_program import GoWorker
from tests.sidecar.conftest import Sidecar
from tests.waiting import eventually

KEYS = Keys("recovery", 0)

pytestmark = pytest.mark.timeout(100)


async def adopted(worker: Worker, store: RedisStore) -> Recovered[Session]:
    """The next call that is offered, with its conversation."""
    with anyio.fail_after(30):
        async for offer in worker.offers():
            call = await recover(offer, SessionManager(store))
            assert call is not None
            return call
    raise AssertionError("no more offers")


def turns(client: redis.Redis, session_id: str) -> list[str]:
    """What was said, as it is stored now."""
    stored: Any = client.get(f"voicesession:{session_id}")
    return [turn["content"] for turn in json.loads(stored)["history"]]


async def test_a_killed_go_workers_call_goes_on_in_python(
    watched_go: GoWorker, sidecar: Sidecar, redis_server: RedisServer, shared: redis.Redis
) -> None:
    """SIGKILL of a worker in Go, which saves with omnivoice-core only: its call is adopted by a worker in Python with its whole
    history, and what that one saves Go reads.
    """
    async with Worker(redis_server.url, name="heir") as worker, RedisStore(redis_server.url) as store:
        with watched_go.watched("g1", sidecar.path) as go:
            await eventually(lambda: len(turns(shared, "g1")) > 20)
            go.send_signal(signal.SIGKILL)
            go.wait()
        said = turns(shared, "g1")
        call = await adopted(worker, store)
        assert call.state is not None
        assert [turn.content for turn in call.state.history] == said
        assert call.state.recovery_data["call_sid"] == "CA123456"
        assert (call.session.cause, call.session.recovery_data) == ("exited", {})
        call.state.add_turn("agent", "I am back", 900)
        await call.manager.save(call.state)
        assert json.loads(watched_go.do("load", "g1"))["history"][-1]["content"] == "I am back"
        await call.session.close()


async def test_a_late_save_of_go_is_a_conflict(
    watched_go: GoWorker, sidecar: Sidecar, redis_server: RedisServer, shared: redis.Redis
) -> None:
    """A Go worker stood still, its call was adopted, and it saves once more: Go asks nobody, so that save overwrites the heir's;
    the heir's next save is a conflict, and with force it puts its own in its place, still fenced.
    """
    async with Worker(redis_server.url, name="heir") as worker, RedisStore(redis_server.url) as store:
        with watched_go.watched("g1", sidecar.path, "--late") as go:
            go.send_signal(signal.SIGSTOP)
            call = await adopted(worker, store)
            assert call.state is not None
            assert call.session.cause == "wedged"
            call.state.add_turn("agent", "I am back", 900)
            await call.manager.save(call.state)
            go.send_signal(signal.SIGCONT)
            await eventually(lambda: turns(shared, "g1")[-1] != "I am back")
            call.state.add_turn("user", "good", 300)
            with pytest.raises(SessionConflictError):
                await call.manager.save(call.state)
            go.kill()
            go.wait()
            await call.manager.save(call.state, force=True)
            assert turns(shared, "g1")[-2:] == ["I am back", "good"]
            call.state.add_turn("agent", "where were we?", 300)
            await call.manager.save(call.state)
        await call.session.close()


async def test_a_go_worker_that_hears_of_it_saves_no_more(
    watched_go: GoWorker, sidecar: Sidecar, redis_server: RedisServer, shared: redis.Redis
) -> None:
    """A Go worker that stood still is told as soon as it goes on that its calls are somebody else's, and ends."""
    async with Worker(redis_server.url, name="heir") as worker, RedisStore(redis_server.url) as store:
        with watched_go.watched("g1", sidecar.path) as go:
            go.send_signal(signal.SIGSTOP)
            call = await adopted(worker, store)
            go.send_signal(signal.SIGCONT)
            assert go.wait(timeout=20) == 1
            assert go.stderr is not None
            assert go.stderr.read().startswith(b"over: ")
        await call.session.close()


async def test_a_call_that_ends_in_go_is_offered_to_nobody(
    watched_go: GoWorker, sidecar: Sidecar, redis_server: RedisServer, shared: redis.Redis
) -> None:
    """A Go worker says that its call ended, and exits: the record is closed, and nobody is offered it."""
    with watched_go.watched("g1", sidecar.path) as go:
        out, errors = go.communicate(b"\n", timeout=20)
    assert (out, errors) == (b"ended\n", b"")
    assert shared.hget(KEYS.session("g1"), "state") == b"closed"
    await eventually(lambda: shared.zcard(KEYS.instances) == 0)
    assert shared.zcard(KEYS.orphans) == 0


async def test_what_nobody_bound_is_left_alone(
    watched_go: GoWorker, sidecar: Sidecar, redis_server: RedisServer, shared: redis.Redis
) -> None:
    """Ids in the active set that have no session, and sessions that nobody kept alive for long, are evidence of nothing."""
    shared.sadd("voicesession:active", "ghost")
    watched_go.do("save", "silent")
    stored: Any = shared.get("voicesession:silent")
    old = stored.replace(json.loads(stored)["updated_at"].encode(), b"2020-01-01T00:00:00Z")
    shared.set("voicesession:silent", old, ex=60)
    async with Worker(redis_server.url, name="heir") as worker, RedisStore(redis_server.url) as store:
        with watched_go.watched("g1", sidecar.path) as go:
            go.kill()
            go.wait()
        call = await adopted(worker, store)
        assert call.session.id == "g1"
        await call.session.close()
    assert shared.get("voicesession:silent") == old
    assert shared.smembers("voicesession:active") == {b"ghost", b"silent", b"g1"}
    assert list(shared.scan_iter("{recovery:0}:session:*")) == [b"{recovery:0}:session:g1"]
