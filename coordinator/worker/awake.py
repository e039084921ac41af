"""Time-outs that count only while this process turned over: a pause of the process may stop the awaited program too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from coordinator import clock

__all__ = ["Pauses", "move_on_after_awake", "sleep_awake", "watch_for_pauses"]

SLICES = 10


async def sleep_awake(seconds: float) -> None:
    """Sleeps for so many seconds in which the event loop turned over.

    After a pause of more than half of that the time begins anew: what is awaited needs all of it.
    """
    left = seconds
    while left > 0:
        began, part = clock.now(), min(left, seconds / SLICES)
        await anyio.sleep(part)
        left = seconds if clock.now() - began - part > seconds / 2 else left - part


class Pauses:
    """The longest time for which the event loop did not turn over while it was watched."""

    def __init__(self) -> None:
        self._turned, self._longest = clock.now(), 0.0

    def turn(self) -> None:
        """The loop turns over."""
        now = clock.now()
        self._turned, self._longest = now, max(self._longest, now - self._turned)

    @property
    def longest(self) -> float:
        """Seconds; a pause that goes on just now counts too."""
        return max(self._longest, clock.now() - self._turned)


@asynccontextmanager
async def watch_for_pauses(seconds: float) -> AsyncIterator[Pauses]:
    """Measures pauses inside the block that are much longer than so many seconds."""
    pauses = Pauses()
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while True:
                await anyio.sleep(seconds)
                pauses.turn()

        tasks.start_soon(watch)
        try:
            yield pauses
        finally:
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def move_on_after_awake(seconds: float) -> AsyncIterator[anyio.CancelScope]:
    """As `anyio.move_on_after`, in time in which the event loop turned over."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def end() -> None:
                await sleep_awake(seconds)
                scope.cancel()

            tasks.start_soon(end)
            try:
                yield scope
            finally:
                tasks.cancel_scope.cancel()
