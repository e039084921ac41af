"""The rule of every loop that runs as long as its program: an error of one step does not end it."""

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
"""So many errors of a kind, one after the other, are no accident."""
LEAST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Steady:
    """Remembers how a loop fares.

    An unexpected error is logged with its traceback and counted, and the loop goes on after a pause. A store that does not
    answer is an expected error: the loop deals with that itself.

    Args:
        loop: its name, for people.
        count: is called with each error.

    Attributes:
        trouble: the kind of error that came `IN_A_ROW` times in a row; '' while it goes well.
    """

    def __init__(self, loop: str, count: Callable[[], object] = lambda: None) -> None:
        self.loop, self._count = loop, count
        self._kind, self._times = "", 0
        self.trouble = ""

    def failed(self, error: Exception, **about: object) -> float:
        """A step failed. Returns seconds to wait before the next. ``about``: more fields for the log."""
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
    """Runs a loop until it returns; after an error it begins anew with a pause, except for those that end it.

    Args:
        run: the loop; safe to begin anew.
        ends: errors that end the loop.
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
