"""Wakes a task that waits for something to do."""

from __future__ import annotations

import asyncio

__all__ = ["Bell"]


class Bell:
    """Any thread rings it, and one task hears it. It begins nothing by itself, so that ringing cannot fail and is never lost.

    Made on the event loop on which it is heard.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        """There is something to do. Safe to repeat."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:  # a thread without an event loop
            here = False
        if here:
            self._event.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def rung(self) -> None:
        """Waits until the bell has been rung since the last time."""
        await self._event.wait()
        self._event.clear()
