"""A circuit breaker: after so many failures in a row the store is left alone for a while, then asked once.

Of the libraries, purgatory 3.0.1 lets every caller through when half open, pybreaker 1.4.1 does not know asyncio, and aiobreaker
1.2.0 had its last release in 2021; so it stands here. Only the outcome of the one probe closes or opens a half-open circuit: calls
from before it opened that come back late do not count.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from coordinator import clock
from coordinator.errors import StoreUnavailableError
from coordinator.sessions.errors import CircuitOpenError

__all__ = ["CircuitBreaker"]

T = TypeVar("T")


class CircuitBreaker:
    """Counts answers of the store that did not come.

    Args:
        threshold: failures in a row that open the circuit.
        reset: seconds until the probe.
        now: a clock in seconds.
    """

    def __init__(self, threshold: int = 5, reset: float = 30.0, now: Callable[[], float] = clock.now) -> None:
        self._threshold, self._reset, self._now = threshold, reset, now
        self._failures = 0
        self._era = 0  # changes whenever the circuit opens or closes
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._now() >= self._opened_at + self._reset else "open"

    async def run(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What ``ask`` returns. Any error but `StoreUnavailableError` is an answer of the store; a cancelled call is none.

        Raises:
            CircuitOpenError: the store was not asked.
        """
        probe, era = self._admit()
        answered = failed = False
        try:
            answer = await ask()
            answered = True
            return answer
        except StoreUnavailableError:
            failed = True
            raise
        except Exception:
            answered = True
            raise
        finally:
            if probe:
                self._probing = False
            if era == self._era:
                if failed:
                    self._fail(probe)
                elif answered:
                    self._succeed(probe)

    def _admit(self) -> tuple[bool, int]:
        state = self.state
        if state == "closed":
            return False, self._era
        if state == "open" or self._probing:
            left = 0.0 if self._opened_at is None else self._opened_at + self._reset - self._now()
            raise CircuitOpenError(max(left, 0.0))
        self._probing = True
        return True, self._era

    def _fail(self, probe: bool) -> None:
        self._failures += 1
        if probe or self._failures >= self._threshold:
            self._opened_at = self._now()
            self._era += 1

    def _succeed(self, probe: bool) -> None:
        self._failures = 0
        if probe:
            self._opened_at = None
            self._era += 1
