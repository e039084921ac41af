"""Awaits what a program wants to do before a call is given away: the last checkpoint."""

from __future__ import annotations

import asyncio
import math

import anyio
import structlog

from coordinator.printable import told, trace
from coordinator.worker.cancellation import as_failure
from coordinator.worker.session import Session

__all__ = ["LAST_WORDS_SECONDS", "last_words"]

log = structlog.get_logger()

LAST_WORDS_SECONDS = 0.5
"""Time where no heir waits for the call, which is offered as an orphan."""


async def last_words(session: Session, most: float = math.inf) -> None:
    """Awaits `Session.letting_go`, for half a lease, or ``most`` seconds, at most. Raises nothing of its own."""
    if session.letting_go is None or session.is_over or session.ending is not None:
        return
    limit, failure = min(most, session.lease / 2), None
    try:
        with anyio.move_on_after(limit) as scope:
            await session.letting_go()
    except Exception as error:  # noqa: BLE001 - the program's own code; the call goes on elsewhere
        failure = error
    except asyncio.CancelledError as error:
        failure = as_failure(error)
    if failure is not None:
        log.error("letting_go_failed", session=session.id, error=told(failure), exception=trace(failure))
    elif scope.cancel_called:
        log.warning("letting_go_took_too_long", session=session.id, seconds=limit)
