"""Runs one task for each session with something to do, and never two for the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio
import structlog

from coordinator.printable import trace
from coordinator.worker.bell import Bell

__all__ = ["OneEach"]

log = structlog.get_logger()

T = TypeVar("T")


class OneEach(Generic[T]):
    """No session waits for another one's task. It is made on the event loop on which it runs.

    Args:
        do: does all that is to be done for one, also what comes meanwhile.
    """

    def __init__(self, do: Callable[[T], Awaitable[object]]) -> None:
        self._do = do
        self._bell = Bell()
        self._waiting: deque[T] = deque()
        self._under_way: set[T] = set()

    def put(self, one: T) -> None:
        """There is something to do for this session; from any thread. Safe to repeat."""
        self._waiting.append(one)
        self._bell.ring()

    async def run(self) -> None:
        """Runs the tasks until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._bell.rung()
                while self._waiting:
                    one = self._waiting.popleft()
                    if one not in self._under_way:
                        tasks.start_soon(self._do_one, one)
                        self._under_way.add(one)

    async def _do_one(self, one: T) -> None:
        try:
            await self._do(one)
        except Exception as error:  # noqa: BLE001 - the other sessions' tasks go on
            log.error("not_done", of=repr(one), exception=trace(error))
        finally:
            self._under_way.discard(one)
