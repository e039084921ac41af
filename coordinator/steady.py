"""The rule of every loop that runs for as long as its program: what one thing does wrong does not end it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import anyio
import structlog

from coordinator.policy import backoff
from coordinator.printable import trace

__all__ = ["IN_A_ROW", "Steady", "keep_on"]

log = structlog.get_logger()

IN_A_ROW = 3
"""So many errors of a kind, one after the other, are no accident any more."""
LEAST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Steady:
    """Remembers how a loop fares.

    An error that nobody expected is logged with its traceback and counted, and the loop goes on after a pause. That the store does
    not answer is no such error: a loop looks after that itself.

    Args:
        loop: its name, for people.
        count: told of each error.

    Attributes:
        trouble: the kind of error that came `IN_A_ROW` times in a row; '' while it goes well.
    """

    def __init__(self, loop: str, count: Callable[[], object] = lambda: None) -> None:
        self.loop, self._count = loop, count
        self._kind, self._times = "", 0
        self.trouble = ""

    def failed(self, error: Exception, **about: object) -> float:
        """A step failed; seconds to wait before the next. ``about``: what it was about, for the log."""
        self._count()
        kind = type(error).__name__
        self._times = self._times + 1 if kind == self._kind else 1
        self._kind = kind
        if self._times >= IN_A_ROW:
            self.trouble = kind
        log.error("loop_failed", loop=self.loop, kind=kind, times=self._times, **about, exception=trace(error))
        return backoff(self._times - 1, random.random(), LEAST_PAUSE, LONGEST_PAUSE)  # noqa: S311 - jitter

    def well(self) -> None:
        """A step went well."""
        if self.trouble:
            log.warning("loop_goes_on", loop=self.loop)
        self._kind, self._times, self.trouble = "", 0, ""


async def keep_on(steady: Steady, run: Callable[[], Awaitable[None]], *ends: type[Exception]) -> None:
    """Runs a loop until it returns; an error begins it anew after a pause, but for those that are to end it.

    Args:
        run: the loop; safe to begin anew.
        ends: errors that are not this loop's to deal with.
    """
    while True:
        try:
            await run()
        except ends:
            raise
        except Exception as error:  # noqa: BLE001 - this is the rule
            await anyio.sleep(steady.failed(error))
        else:
            return
