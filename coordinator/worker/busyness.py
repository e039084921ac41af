"""A program is in the middle of something that a planned handover should not cut."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import anyio

from coordinator import clock

__all__ = ["Busyness"]

QUIET_SECONDS = 0.25
"""Pause between two looks at whether it may still be waited for."""


class Busyness:
    """How often the program is inside `busy` now."""

    def __init__(self) -> None:
        self._busy = 0
        self._idle = anyio.Event()

    def __bool__(self) -> bool:
        return self._busy > 0

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """The program is busy inside this block."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()
                self._idle = anyio.Event()

    async def over(self, until: Callable[[], float]) -> None:
        """Waits until the program is not busy.

        Args:
            until: returns when waiting ends in any case, in seconds of `coordinator.clock`; it is asked again and again.
        """
        while self._busy and (left := until() - clock.now()) > 0:
            with anyio.move_on_after(min(left, QUIET_SECONDS)):
                await self._idle.wait()
