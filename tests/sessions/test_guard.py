"""Retries, the circuit breaker, metrics and spans around the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from prometheus_client import CollectorRegistry

from coordinator.errors import ConfigurationError, FencedError, StoreUnavailableError
from coordinator.sessions import (
    CircuitBreaker,
    CircuitOpenError,
    RetryRule,
    SessionConflictError,
    SessionNotFoundError,
    StoreMetrics,
)
from coordinator.sessions import errors as e
from coordinator.sessions.guard import Guard
from coordinator.sessions.metrics import kind_of_error
from tests.waiting import eventually, within

FAST = RetryRule(attempts=3, initial=0.001, most=0.002, jitter=0.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def failing(times: int, error: Exception | None = None) -> tuple[Callable[[], Awaitable[str]], list[int]]:
    """What fails so many times and then answers; and a list of its calls."""
    calls: list[int] = []

    async def ask() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error or StoreUnavailableError("timeout")
        return "answer"

    return ask, calls


async def test_a_store_that_answers_later() -> None:
    """What fails twice and then answers is an answer, after three calls."""
    ask, calls = failing(2)
    assert await Guard(FAST, None, None).run("load", ask) == "answer"
    assert len(calls) == 3


async def test_a_store_that_does_not_answer() -> None:
    """After the last attempt the store's error is raised as it is."""
    ask, calls = failing(99)
    with pytest.raises(StoreUnavailableError, match="timeout"):
        await Guard(FAST, None, None).run("load", ask)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "error", [SessionNotFoundError("s1"), SessionConflictError("s1", gone=False), StoreUnavailableError("permission")]
)
async def test_answers_are_not_asked_for_again(error: Exception) -> None:
    """What the store said, and what time does not heal, is raised at once."""
    ask, calls = failing(1, error)
    with pytest.raises(type(error)):
        await Guard(FAST, None, None).run("load", ask)
    assert len(calls) == 1


async def test_the_circuit_opens_and_closes() -> None:
    """After the threshold the store is not asked; after the reset one call is let through, and its answer closes the circuit."""
    clock = Clock()
    breaker = CircuitBreaker(threshold=3, reset=30, now=clock)
    ask, calls = failing(3)
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await breaker.run(ask)
    assert breaker.state == "open"
    with pytest.raises(CircuitOpenError, match=r"next attempt is in 30.0 s"):
        await breaker.run(ask)
    assert len(calls) == 3
    clock.now = 30
    assert breaker.state == "half_open"
    assert await breaker.run(ask) == "answer"
    assert breaker.state == "closed"


async def test_a_half_open_circuit_lets_one_probe_through() -> None:
    """Of many callers of a half-open circuit one asks the store; when it fails, the circuit is open for another while."""
    clock = Clock()
    breaker = CircuitBreaker(threshold=1, reset=30, now=clock)
    with pytest.raises(StoreUnavailableError):
        await breaker.run(failing(1)[0])
    clock.now = 30
    arrived, go_on = anyio.Event(), anyio.Event()
    refused: list[Exception] = []
    asked: list[int] = []

    async def probe() -> str:
        asked.append(1)
        arrived.set()
        await go_on.wait()
        raise StoreUnavailableError("timeout")

    async def caller() -> None:
        try:
            await breaker.run(probe)
        except StoreUnavailableError as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(caller)
        await arrived.wait()
        await eventually(lambda: len(refused) == 19, description="all others were refused")
        go_on.set()
    assert len(asked) == 1
    assert sum(isinstance(error, CircuitOpenError) for error in refused) == 19
    assert breaker.state == "open"
    clock.now = 59
    assert breaker.state == "open"


async def test_a_cancelled_probe_makes_room_for_another() -> None:
    """A probe that was cancelled says nothing about the store: the next caller is the probe."""
    clock = Clock()
    breaker = CircuitBreaker(threshold=1, reset=1, now=clock)
    with pytest.raises(StoreUnavailableError):
        await breaker.run(failing(1)[0])
    clock.now = 1
    with anyio.move_on_after(0.01):
        await breaker.run(anyio.sleep_forever)
    assert breaker.state == "half_open"
    assert await breaker.run(failing(0)[0]) == "answer"
    assert breaker.state == "closed"


async def test_late_answers_do_not_close_an_open_circuit() -> None:
    """A call from before the circuit opened, that comes back after it, neither closes it nor takes the probe's place."""
    clock = Clock()
    breaker = CircuitBreaker(threshold=1, reset=30, now=clock)
    waiting, go_on = anyio.Event(), anyio.Event()

    async def slow() -> None:
        waiting.set()
        await go_on.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(breaker.run, slow)
        await waiting.wait()
        with pytest.raises(StoreUnavailableError):
            await breaker.run(failing(1)[0])
        go_on.set()
    assert breaker.state == "open"


async def test_late_failures_do_not_keep_the_circuit_open() -> None:
    """A call from before the circuit opened, that fails after it, does not put off the probe."""
    clock = Clock()
    breaker = CircuitBreaker(threshold=1, reset=30, now=clock)
    waiting, go_on = anyio.Event(), anyio.Event()

    async def slow() -> None:
        waiting.set()
        await go_on.wait()
        raise StoreUnavailableError("timeout")

    async def caller() -> None:
        with pytest.raises(StoreUnavailableError):
            await breaker.run(slow)

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await waiting.wait()
        with pytest.raises(StoreUnavailableError):
            await breaker.run(failing(1)[0])
        clock.now = 20
        go_on.set()
    clock.now = 30
    assert breaker.state == "half_open"


async def test_a_missing_session_is_an_answer_to_the_breaker() -> None:
    """Errors that the store answers with do not open the circuit, and end a row of failures."""
    breaker = CircuitBreaker(threshold=2)
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await breaker.run(failing(1)[0])
        with pytest.raises(SessionNotFoundError):
            await breaker.run(failing(1, SessionNotFoundError("s1"))[0])
    assert breaker.state == "closed"


async def test_an_open_circuit_is_not_retried() -> None:
    """An open circuit is told at once, without waiting for further attempts."""
    breaker = CircuitBreaker(threshold=1)
    ask, calls = failing(99)
    with pytest.raises(StoreUnavailableError):
        await breaker.run(ask)
    with within(10), pytest.raises(CircuitOpenError):
        await Guard(RetryRule(initial=3600, most=3600, timeout=7200), breaker, None).run("load", ask)
    assert len(calls) == 1


async def test_latency_and_errors_are_counted() -> None:
    """Each operation is observed once, whatever its retries; an error that stays is counted by its kind."""
    registry = CollectorRegistry()
    guard = Guard(FAST, CircuitBreaker(threshold=4), StoreMetrics(registry))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"recovery_session_store_{name}", labels)

    await guard.run("load", failing(2)[0])
    assert value("errors_total", operation="load", kind="timeout") is None
    assert value("request_duration_seconds_count", operation="load") == 1
    with pytest.raises(StoreUnavailableError):
        await guard.run("save", failing(99)[0])
    assert value("errors_total", operation="save", kind="timeout") == 1
    assert value("circuit_open") == 0
    with pytest.raises(CircuitOpenError):
        await guard.run("save", failing(99)[0])
    assert value("errors_total", operation="save", kind="circuit_open") == 1
    assert value("circuit_open") == 1


def test_every_error_has_a_kind() -> None:
    """Every error of the package is counted under a word of its own, but for what is an answer."""
    made: list[Exception] = [
        e.CircuitOpenError(1), e.SessionConflictError("s", gone=True), e.SessionExistsError("s"), e.SessionLimitError(1),
        e.SealBrokenError("s", ""), e.CorruptSessionError("s", ""), e.KeyUnknownError("s", "k"), e.PlaintextRefusedError("s"),
        e.TenantError("s"), e.InvalidStateError(""), e.StoreClosedError(), FencedError("s"), ConfigurationError(""),
    ]  # fmt: skip
    kinds = [kind_of_error(error) for error in made]
    assert "" not in kinds
    assert len(set(kinds)) == len(kinds)
    assert [kind_of_error(e.SessionNotFoundError("s")), kind_of_error(e.SessionEndedError("s", "ended"))] == ["", ""]


async def test_spans_go_to_the_opentelemetry_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operation is a span with the number of its last attempt; without an SDK nothing is needed for it."""
    spans: list[tuple[str, dict[str, Any]]] = []

    class Tracer(trace.NoOpTracer):
        def start_as_current_span(self, name: str, *args: Any, **options: Any) -> Any:
            attributes: dict[str, Any] = {}
            spans.append((name, attributes))

            class Span(trace.NonRecordingSpan):
                def set_attribute(self, key: str, value: Any) -> None:
                    attributes[key] = value

            return trace.use_span(Span(trace.INVALID_SPAN_CONTEXT))

    monkeypatch.setattr(trace, "get_tracer", lambda *_: Tracer())
    await Guard(FAST, None, None).run("load", failing(1)[0])
    assert spans == [("session_store.load", {"attempt": 2})]
