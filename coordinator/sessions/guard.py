"""Requests to the store: retried, behind a circuit breaker, measured and traced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import stamina
from opentelemetry import trace

from coordinator import clock
from coordinator.errors import StoreUnavailableError
from coordinator.sessions.breaker import CircuitBreaker
from coordinator.sessions.errors import CircuitOpenError
from coordinator.sessions.metrics import StoreMetrics, kind_of_error
from coordinator.version import VERSION

__all__ = ["Guard", "RetryRule"]

T = TypeVar("T")
_FINAL = ("auth", "permission", "unsupported")


@dataclass(frozen=True, slots=True)
class RetryRule:
    """How often, and with what waits, a store that did not answer is asked again.

    Attributes:
        attempts: the first included.
        timeout: seconds after which no further attempt begins.
        initial, most, jitter: seconds of the first wait, of the longest, and of what chance adds; the wait doubles.
    """

    attempts: int = 4
    timeout: float = 10.0
    initial: float = 0.1
    most: float = 2.0
    jitter: float = 0.1


def _worth_another(error: Exception) -> bool:
    unavailable = isinstance(error, StoreUnavailableError) and error.kind not in _FINAL
    return unavailable and not isinstance(error, CircuitOpenError)


class Guard:
    """Asks the store; an error that stays is raised, never turned into an answer.

    Spans go to the OpenTelemetry API: without an SDK in the program they cost next to nothing and go nowhere.

    Args:
        retry: see `RetryRule`.
        breaker: its circuit; None for none.
        metrics: counted there; None for nowhere.
    """

    def __init__(self, retry: RetryRule, breaker: CircuitBreaker | None, metrics: StoreMetrics | None) -> None:
        self._retry, self._breaker, self._metrics = retry, breaker, metrics
        self._tracer = trace.get_tracer("coordinator.sessions", VERSION)

    async def run(self, operation: str, ask: Callable[[], Awaitable[T]]) -> T:
        """What ``ask`` returns, which must be safe to repeat; ``operation`` is a word of a closed list.

        Raises:
            StoreUnavailableError: no attempt was answered.
        """
        began = clock.now()
        try:
            with self._tracer.start_as_current_span(f"session_store.{operation}", record_exception=False) as span:
                async for attempt in stamina.retry_context(
                    on=_worth_another,
                    attempts=self._retry.attempts,
                    timeout=self._retry.timeout,
                    wait_initial=self._retry.initial,
                    wait_max=self._retry.most,
                    wait_jitter=self._retry.jitter,
                ):
                    with attempt:
                        span.set_attribute("attempt", attempt.num)
                        return await (ask() if self._breaker is None else self._breaker.run(ask))
            raise AssertionError("a retry ends with an answer or an error")
        except Exception as error:
            if self._metrics is not None and (kind := kind_of_error(error)):
                self._metrics.errors.labels(operation, kind).inc()
            raise
        finally:
            if self._metrics is not None:
                self._metrics.requests.labels(operation).observe(clock.now() - began)
                if self._breaker is not None:
                    self._metrics.circuit_open.set(self._breaker.state != "closed")
