"""Turns and the call's progress in the session store: recorded by one call, and known to the heir."""

from __future__ import annotations

import signal
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import redis
from opentelemetry import trace
from prometheus_client import CollectorRegistry

from coordinator import Worker
from coordinator.sessions import (
    CallProgress,
    CallState,
    PartTotal,
    RedisStore,
    SessionManager,
    SessionState,
    SessionStore,
    StoreMetrics,
    TurnLatencies,
    TurnMeter,
    VoiceMetrics,
    recover,
)
from tests.acceptance.processes import Process
from tests.coordinating import coordinating
from tests.redis_server import RedisServer
from tests.waiting import within

ALL = TurnLatencies(stt=0.1, agent=0.3, tts=0.2, e2e=0.65)


def counted(registry: CollectorRegistry, part: str) -> float | None:
    return registry.get_sample_value("recovery_voice_turn_latency_seconds_count", {"part": part})


async def test_one_call_records_a_turn(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn is in the history, its latencies in a span, in histograms and, once it is saved, in the stored totals."""
    spans: list[dict[str, Any]] = []

    class Tracer(trace.NoOpTracer):
        def start_span(self, name: str, *args: Any, **options: Any) -> trace.Span:
            if name.startswith("voice."):
                spans.append({"name": name, **options["attributes"]})
            return trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)

    monkeypatch.setattr(trace, "get_tracer", lambda *_: Tracer())
    registry = CollectorRegistry()
    manager = SessionManager(store, metrics=StoreMetrics(registry))
    state = SessionState("s1")
    await manager.create(state)
    manager.record_turn(state, "user", "Hello", 1500)
    turn = manager.record_turn(state, "agent", "Hi", 900, ALL, attributes={"tenant": "acme"})
    manager.record_latencies(state, TurnLatencies(stt=0.3))
    assert (turn, state.metrics.turn_count, state.metrics.agent_speech_duration_ms) == (state.history[1], 2, 900)
    assert spans == [
        {
            "name": "voice.turn", "tenant": "acme", "voice.stt_latency_ms": 100, "voice.agent_latency_ms": 300,
            "voice.tts_latency_ms": 200, "voice.e2e_latency_ms": 650,
        },
        {"name": "voice.turn", "voice.stt_latency_ms": 300},
    ]  # fmt: skip
    assert [counted(registry, part) for part in ("stt", "agent", "tts", "e2e")] == [2, 1, 1, 1]
    await manager.save(state)
    totals = (await manager.load("s1")).metrics.latencies
    assert (totals.stt, totals.e2e) == (PartTotal(2, 400, 300), PartTotal(1, 650, 650))
    assert totals.stt.average_ms == 200


async def test_an_adapter_and_the_store_share_a_registry(store: SessionStore) -> None:
    """What records turns beside the session store counts in the same histograms."""
    registry = CollectorRegistry()
    voice = VoiceMetrics(registry)
    TurnMeter(voice).record(ALL)
    manager = SessionManager(store, metrics=StoreMetrics(registry, voice))
    manager.record_turn(SessionState("s1"), "agent", "Hi", 900, ALL)
    assert counted(registry, "e2e") == 2


async def test_turns_are_recorded_without_metrics(store: SessionStore) -> None:
    """A manager that counts nowhere keeps the totals all the same, and so does a state alone."""
    state = SessionState("s1")
    SessionManager(store).record_turn(state, "agent", "Hi", 900, ALL)
    state.add_turn("agent", "Hi", 900, ALL)
    assert state.metrics.latencies.e2e.count == 2


@pytest.mark.parametrize(
    ("moves", "state", "interrupted"),
    [
        ([], "connected", None),
        (["listening"], "connected", "listening"),
        (["responding", "reconnecting"], "connected", "responding"),
        (["listening", "disconnected"], "connected", None),
    ],
)
async def test_a_caller_who_comes_back(
    store: SessionStore, moves: list[str], state: str, interrupted: str | None
) -> None:
    """A restored session is connected, whatever its call was doing, and says what was cut off."""
    manager = SessionManager(store)
    old = SessionState("s1", status="active")
    for move in moves:
        old.progress.move_to(move)
    await manager.create(old)
    done = await manager.restore_or_create("s1")
    assert done.restored
    assert (done.state.progress.state, done.state.progress.interrupted) == (state, interrupted)
    assert (await manager.load("s1")).progress == old.progress


async def test_the_end_of_a_session_is_the_end_of_its_call(store: SessionStore) -> None:
    """A finished session is disconnected; one that was only idle keeps what it was doing."""
    manager = SessionManager(store)
    for session_id in ("s1", "s2"):
        state = SessionState(session_id, status="active")
        state.progress.move_to("responding")
        await manager.create(state)
        if session_id == "s1":
            await manager.finish(state)
    assert (await manager.load("s1")).progress == CallProgress(CallState.DISCONNECTED)
    with within(20):
        while not await manager.cleanup_idle(0):  # the clock goes on
            await anyio.lowlevel.checkpoint()
    idle = await manager.load("s2")
    assert (idle.ended, idle.progress.state) == (True, "responding")


@pytest.mark.parametrize("doing", ["listening", "processing", "responding"])
async def test_the_heir_knows_who_was_speaking(redis_server: RedisServer, shared: redis.Redis, doing: str) -> None:
    """A worker that is killed in the middle of a call: its heir begins by reconnecting, knows what was cut off, and counts on."""
    url = redis_server.url
    old = Process("tests.sessions.talking_process", url, "old", "call-1", doing)
    try:
        old.wait_for("ready")
        async with Worker(url, name="heir") as heir, RedisStore(url) as store, coordinating(url):
            old.send(signal.SIGKILL)
            manager = SessionManager(store)
            with within(30):
                async for offer in heir.offers():
                    call = await recover(offer, manager)
                    break
            assert call is not None
            assert call.state is not None
            progress = call.state.progress
            assert (progress.state, progress.interrupted) == ("reconnecting", doing)
            progress.move_to("connected")
            call.manager.record_turn(call.state, "agent", "I am back", 500, TurnLatencies(e2e=0.35))
            await call.manager.save(call.state)
            stored = await manager.load("call-1")
            assert stored.progress == CallProgress(CallState.CONNECTED, CallState(doing))
            assert stored.metrics.latencies.e2e == PartTotal(2, 1000, 650)
            await call.manager.finish(call.state)
            await call.session.close()
    finally:
        old.close()
