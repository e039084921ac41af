"""An omnivoice deployment that a coordinator watches: its workers in Go register and bind their sessions, and save them as before."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coordinator import Session, Worker
from coordinator.sessions import Recovered, RedisStore, SessionConflictError, SessionManager, recover
from coordinator.store.keys import Keys
from tests.redis_server import RedisServer
from tests.sessions.go_program import GoWorker
from tests.sidecar.conftest import Sidecar
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)

pytestmark = pytest.mark.timeout(100)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """The Redis of this file's tests: each has a session of its own."""
    made = RedisServer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def go(go_program: Path, server: RedisServer) -> GoWorker:
    """The Go program, on that server."""
    return GoWorker(go_program, server.path)


@pytest.fixture(scope="module")
def sidecar(go: GoWorker, server: RedisServer) -> Iterator[Sidecar]:
    """A sidecar that coordinates too; a worker that stands still is wedged after a second."""
    made = Sidecar(server, "--coordinate", "--breaker-min", "1000", "--wedged-after", "1s", "--drain-port", "0")
    yield made
    made.close()


@pytest.fixture
def db(server: RedisServer) -> Iterator[redis.Redis]:
    """A client."""
    with server.client() as client:
        yield client


async def adopted(worker: Worker, store: RedisStore) -> Recovered[Session]:
    """The next call that is offered, with its conversation."""
    with within(30):
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
    go: GoWorker, sidecar: Sidecar, server: RedisServer, db: redis.Redis
) -> None:
    """SIGKILL of a Go worker that saves with omnivoice-core: a Python worker adopts its call with all its history, and Go reads on."""
    async with Worker(server.url, name="heir") as worker, RedisStore(server.url) as store:
        with go.watched("killed", sidecar.path) as process:
            await eventually(lambda: len(turns(db, "killed")) > 20)
            process.send_signal(signal.SIGKILL)
            process.wait()
        said = turns(db, "killed")
        call = await adopted(worker, store)
        assert call.state is not None
        assert [turn.content for turn in call.state.history] == said
        assert call.state.recovery_data["call_sid"] == "CA123456"
        assert (call.session.cause, call.session.recovery_data) == ("exited", {})
        call.state.add_turn("agent", "I am back", 900)
        await call.manager.save(call.state)
        assert json.loads(go.do("load", "killed"))["history"][-1]["content"] == "I am back"
        await call.session.close()


async def test_a_late_save_of_go_is_a_conflict(
    go: GoWorker, sidecar: Sidecar, server: RedisServer, db: redis.Redis
) -> None:
    """A late save of a Go worker that stood still overwrites; the heir's next save is a conflict, and its forced one is accepted."""
    async with Worker(server.url, name="heir") as worker, RedisStore(server.url) as store:
        with go.watched("late", sidecar.path, "--late") as process:
            process.send_signal(signal.SIGSTOP)
            call = await adopted(worker, store)
            assert call.state is not None
            assert call.session.cause == "wedged"
            call.state.add_turn("agent", "I am back", 900)
            await call.manager.save(call.state)
            process.send_signal(signal.SIGCONT)
            await eventually(lambda: turns(db, "late")[-1] != "I am back")
            call.state.add_turn("user", "good", 300)
            with pytest.raises(SessionConflictError):
                await call.manager.save(call.state)
            process.kill()
            process.wait()
            await call.manager.save(call.state, force=True)
            assert turns(db, "late")[-2:] == ["I am back", "good"]
            call.state.add_turn("agent", "where were we?", 300)
            await call.manager.save(call.state)
        await call.session.close()


async def test_a_go_worker_that_hears_of_it_saves_no_more(
    go: GoWorker, sidecar: Sidecar, server: RedisServer, db: redis.Redis
) -> None:
    """A Go worker that stood still is told as soon as it goes on that its calls are somebody else's, and ends."""
    async with Worker(server.url, name="heir") as worker, RedisStore(server.url) as store:
        with go.watched("heard", sidecar.path) as process:
            process.send_signal(signal.SIGSTOP)
            call = await adopted(worker, store)
            process.send_signal(signal.SIGCONT)
            assert process.wait(timeout=20) == 1
            assert process.stderr is not None
            assert process.stderr.read().startswith(b"over: ")
        await call.session.close()


async def test_a_call_that_ends_in_go_is_offered_to_nobody(
    go: GoWorker, sidecar: Sidecar, server: RedisServer, db: redis.Redis
) -> None:
    """A Go worker says that its call ended, and exits: the record is closed, and nobody is offered it."""
    with go.watched("ended", sidecar.path) as process:
        out, errors = process.communicate(b"\n", timeout=120)
    assert (out, errors) == (b"ended\n", b"")
    assert db.hget(KEYS.session("ended"), "state") == b"closed"
    await eventually(lambda: not db.zcard(KEYS.instances))
    assert db.zscore(KEYS.orphans, "ended") is None


async def test_what_nobody_bound_is_left_alone(
    go: GoWorker, sidecar: Sidecar, server: RedisServer, db: redis.Redis
) -> None:
    """Ids in the active set that have no session, and sessions that nobody kept alive for long, are evidence of nothing."""
    db.sadd("voicesession:active", "ghost")
    go.do("save", "silent")
    stored: Any = db.get("voicesession:silent")
    old = stored.replace(json.loads(stored)["updated_at"].encode(), b"2020-01-01T00:00:00Z")
    db.set("voicesession:silent", old, ex=60)
    async with Worker(server.url, name="heir") as worker, RedisStore(server.url) as store:
        with go.watched("left", sidecar.path) as process:
            process.kill()
            process.wait()
        call = await adopted(worker, store)
        assert call.session.id == "left"
        await call.session.close()
    assert db.get("voicesession:silent") == old
    assert {b"ghost", b"silent"} <= set(db.smembers("voicesession:active"))
    assert db.exists(KEYS.session("silent"), KEYS.session("ghost")) == 0
