"""A Go program with omnivoice-core v0.15.0 and this package share one Redis."""

from __future__ import annotations

import json
import signal

import pytest
import redis
from hypothesis import HealthCheck, given, settings

from coordinator.sessions import (
    CallProgress,
    KeyRing,
    LatencyTotals,
    RedisStore,
    SessionConflictError,
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
)
from coordinator.sessions.wire import encode
from tests.redis_server import RedisServer
from tests.sessions.go_program import GoWorker
from tests.sessions.golden_files import FOLDER, golden, names
from tests.sessions.test_wire import STATES


def test_the_golden_files_are_what_go_writes(go: GoWorker) -> None:
    """The golden files of Go are those that this Go and this omnivoice-core write."""
    lines = go.run("golden").splitlines()
    written = {name.decode(): document for name, _, document in (line.partition(b"\t") for line in lines)}
    assert written == {name: golden("go", name) for name in names("go")}
    assert FOLDER.is_dir()


@pytest.mark.parametrize("name", names("python"))
def test_go_keeps_every_byte_of_a_session_of_this_package(go: GoWorker, name: str) -> None:
    """What this package writes, Go reads and writes again without a byte of difference."""
    assert go.remarshal([golden("python", name)]) == [golden("python", name)]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STATES)
def test_go_reads_whatever_this_package_writes(go: GoWorker, state: SessionState) -> None:
    """Go reads any state, progress and latencies included, and writes what it knows of it as this package does."""
    state.extra, state.metrics.extra, state.recovery_data = {}, {}, {}
    for turn in state.history:
        turn.extra = {}
    [written] = go.remarshal([encode(state)])
    state.progress, state.metrics.latencies = CallProgress(), LatencyTotals()  # it reads past them
    utc = (b'+00:00"', b'Z"')  # the same moment; its text is kept here, not there; and other texts may end so too
    assert written.replace(*utc) == encode(state).replace(*utc)


async def test_python_reads_what_go_saved(go: GoWorker, redis_store: RedisStore, db: redis.Redis) -> None:
    """A session of Go is listed and loaded, and saving it changes nothing but updated_at."""
    go.do("save", "g1")
    assert await redis_store.list_active() == ["g1"]
    state = await redis_store.load("g1")
    assert [turn.duration_ms for turn in state.history] == [1500, 2200, 1800]
    assert state.created_at.text.endswith("+05:30")
    assert state.recovery_data == {"call_sid": "CA123456", "stream_sid": "MZ789012", "sequence": 42}
    before = _without_time(db.get("voicesession:g1"))
    await redis_store.save(state)
    assert _without_time(db.get("voicesession:g1")) == before


def _without_time(raw: object) -> str:
    assert isinstance(raw, bytes)
    document = json.loads(raw)
    return raw.decode().replace(document["updated_at"], "")


async def test_go_reads_what_python_saved(go: GoWorker, redis_store: RedisStore, db: redis.Redis) -> None:
    """A session of this package is listed, loaded, kept alive, ended and deleted by Go."""
    state = SessionState("p1", provider="twilio", recovery_data={"sequence": 42, "ratio": 0.1}, status="active")
    state.add_turn("user", "Grüße <&> \u2028", 1500)
    await redis_store.save(state)
    assert json.loads(go.do("list")) == ["p1"]
    assert go.do("load", "p1") == db.get("voicesession:p1")
    go.do("heartbeat", "p1")
    await redis_store.save(state)  # a heartbeat of Go is no conflict
    go.do("end", "p1")
    assert await redis_store.list_active() == []
    with pytest.raises(SessionEndedError):
        await redis_store.update_heartbeat("p1")
    with pytest.raises(SessionConflictError):
        await redis_store.save(state)
    go.do("delete", "p1")
    with pytest.raises(SessionNotFoundError):
        await redis_store.load("p1")


async def test_a_heartbeat_leaves_every_other_byte_of_go(
    go: GoWorker, redis_store: RedisStore, db: redis.Redis
) -> None:
    """Of a session of Go a heartbeat of this package changes updated_at only, and Go reads it."""
    go.do("save", "g1")
    before = _without_time(db.get("voicesession:g1"))
    await redis_store.update_heartbeat("g1")
    assert _without_time(db.get("voicesession:g1")) == before
    assert go.do("load", "g1") == db.get("voicesession:g1")


async def test_a_killed_go_workers_call_comes_back_whole(go: GoWorker, redis_store: RedisStore) -> None:
    """The call of a Go worker that was killed is loaded with its whole history, and goes on here."""
    with go.serve("g1") as worker:
        worker.send_signal(signal.SIGKILL)
    [session_id] = await redis_store.list_active()
    state = await redis_store.load(session_id)
    assert [turn.role for turn in state.history] == ["user", "agent", "user"]
    state.add_turn("agent", "I am back", 900)
    await redis_store.save(state)
    assert json.loads(go.do("load", "g1"))["metrics"]["turn_count"] == 4


async def test_go_refuses_a_sealed_session_and_does_not_harm_it(
    go: GoWorker, redis_server: RedisServer, db: redis.Redis, ring: KeyRing
) -> None:
    """Go lists and deletes a sealed session; it cannot read it, so its heartbeat does not erase what is sealed."""
    async with RedisStore(redis_server.url, keys=ring) as store:
        state = SessionState("p1", recovery_data={"a": 1})
        await store.save(state)
        stored = db.get("voicesession:p1")
        assert b"cannot unmarshal string" in go.do("load", "p1", fails=True)
        assert b"cannot unmarshal string" in go.do("heartbeat", "p1", fails=True)
        assert db.get("voicesession:p1") == stored
        assert json.loads(go.do("list")) == ["p1"]
        go.do("delete", "p1")
        assert await store.list_active() == []
