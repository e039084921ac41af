"""Liveness of single sessions: a call whose own process or task stands still is given to other workers, and no other call with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Protocol

import anyio
import structlog

from coordinator import clock
from coordinator.bounds import fitted
from coordinator.errors import FencedError, StoreUnavailableError

__all__ = ["LOOKS", "Silences", "Speaks", "give_up", "watch"]

log = structlog.get_logger()

LOOKS = 10
"""How often a session is looked at within the time after which it is silent for too long."""


class Speaks(Protocol):
    """A session, as far as its own liveness is concerned.

    Attributes:
        id: the session's id.
        signs: how often its program has said that it lives; 0 when it never did, and is not watched.
        speaker: what serves it, as the program said.
    """

    id: str
    signs: int
    speaker: str

    async def release(self, reason: str) -> None:
        """Gives the session to other workers."""


class Silences:
    """For how long each session has said nothing. Pure.

    Only time in which this process ran counts: a session cannot speak while its process stands still.

    Args:
        limit: seconds of silence that are too long.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._silent: dict[Speaks, tuple[int, float]] = {}

    def look(self, sessions: Iterable[Speaks], passed: float) -> list[Speaks]:
        """Looks once at all that are owned.

        Args:
            passed: seconds since the last look.

        Returns:
            Those that are silent for too long; the next look begins anew with them.
        """
        counted, before, found = min(passed, 2 * self._limit / LOOKS), self._silent, []
        self._silent = {}
        for session in sessions:
            if not session.signs:
                continue
            signs, silent = before.get(session, (0, 0.0))
            silent = silent + counted if signs == session.signs else 0.0
            if silent > self._limit:
                found.append(session)
                silent = 0.0
            self._silent[session] = session.signs, silent
        return found


async def watch(sessions: Callable[[], Iterable[Speaks]], limit: float, too_silent: Callable[[Speaks], None]) -> None:
    """Looks until cancelled, and tells of each session that is silent for too long."""
    silences, before = Silences(limit), clock.now()
    while True:
        await anyio.sleep(limit / LOOKS)
        now = clock.now()
        for session in silences.look(sessions(), now - before):
            too_silent(session)
        before = now


async def give_up(session: Speaks, limit: float) -> None:
    """Gives a session to other workers, as what serves it has not said that it is alive for so many seconds."""
    reason = fitted(f"{session.speaker} did not say that it is alive for {limit:g} s")
    log.warning("session_silent", session=session.id, reason=reason)
    with contextlib.suppress(FencedError, StoreUnavailableError):  # told, and carried out later
        await session.release(reason)
