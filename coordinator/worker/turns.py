"""One at a time for each session id: a task that opens, adopts or gives up a session waits for the task that does so already."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio

__all__ = ["Turns"]


class Turns:
    """One per membership; turns at different ids know nothing of each other."""

    def __init__(self) -> None:
        self._locks: dict[str, anyio.Lock] = {}

    def is_taken(self, session_id: str) -> bool:
        """Whether a task has the turn at this id."""
        return session_id in self._locks

    @contextlib.asynccontextmanager
    async def of(self, session_id: str) -> AsyncIterator[None]:
        """Holds the turn inside the block; first come, first served."""
        lock = self._locks.setdefault(session_id, anyio.Lock())
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._tidy, session_id, lock)
            await stack.enter_async_context(lock)
            yield

    def _tidy(self, session_id: str, lock: anyio.Lock) -> None:
        found = lock.statistics()
        if not found.locked and not found.tasks_waiting and self._locks.get(session_id) is lock:
            del self._locks[session_id]
